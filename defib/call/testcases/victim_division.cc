// Victim: division.

#include <signal.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  volatile int zero = argument - argument;
#if defined(__x86_64__)
  return argument / zero;
#else
  raise(SIGFPE);  // AArch64 divides by zero without a fault.
  return zero;
#endif
}

}  // namespace

DEFIB_VICTIM(break_it)
