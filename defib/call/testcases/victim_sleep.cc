// Victim: sleep.

#include <unistd.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  for (;;) pause();
}

}  // namespace

DEFIB_VICTIM(break_it)
