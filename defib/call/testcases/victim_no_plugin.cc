// Victim: a library that is no plugin.

extern "C" int just_a_function() {
  return 1;
}
