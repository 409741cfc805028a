// Victim: abort.

#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  abort();
}

}  // namespace

DEFIB_VICTIM(break_it)
