// Victim: null write.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  *static_cast<volatile int*>(nullptr) = 1;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
