// Victim: illegal instruction.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
#if defined(__x86_64__)
  asm volatile("ud2");
#else
  asm volatile("udf #0");
#endif
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
