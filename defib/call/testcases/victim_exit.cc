// Victim: exit.

#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  exit(7);
}

}  // namespace

DEFIB_VICTIM(break_it)
