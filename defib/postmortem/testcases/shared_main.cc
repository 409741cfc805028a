// Runs another victim, which was built as a shared library.

int victim_main();

int main() {
  return victim_main();
}
