#include "defib/postmortem/testcases/victim.h"

int main() {
  constexpr char kText[] = "loading\ncannot read the configuration\n";
  if (write(STDERR_FILENO, kText, sizeof kText - 1) < 0) return 1;
  return 3;
}
