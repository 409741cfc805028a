// Victim: assertion.

#undef NDEBUG
#include <assert.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  assert(argument == 12345 && "the book is sorted");
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
