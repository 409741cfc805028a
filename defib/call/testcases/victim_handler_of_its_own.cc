// Victim: handler of its own.

#include <signal.h>
#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  signal(SIGSEGV, [](int) { _Exit(11); });
  *static_cast<volatile int*>(nullptr) = 1;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
