// Victim: endless loop.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  volatile int i = 0;
  for (;;) i = i + 1;
}

}  // namespace

DEFIB_VICTIM(break_it)
