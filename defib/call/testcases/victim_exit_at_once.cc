// Victim: exit at once.

#include <unistd.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  _exit(9);
}

}  // namespace

DEFIB_VICTIM(break_it)
