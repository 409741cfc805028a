// Victim: trap.

#include <signal.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  raise(SIGTRAP);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
