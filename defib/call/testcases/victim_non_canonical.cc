// Victim: non canonical.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  return *reinterpret_cast<volatile int*>(0xdead00000000beef);
}

}  // namespace

DEFIB_VICTIM(break_it)
