// Victim: long jump.

#include <setjmp.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  static jmp_buf place;
  if (setjmp(place) == 0) longjmp(place, 1);
  *static_cast<volatile int*>(nullptr) = 1;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
