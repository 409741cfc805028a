// Victim: a constructor of the library crashes while it is being loaded.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  return argument;
}

__attribute__((noinline)) int crash() {
  return *static_cast<volatile int*>(nullptr);
}
const volatile int at_load = crash();

}  // namespace

DEFIB_VICTIM(break_it)
