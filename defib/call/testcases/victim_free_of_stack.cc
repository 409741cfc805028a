// Victim: free of stack.

#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  alignas(16) char local[64] = {};
  void* volatile inside = local + 16;
  free(inside);
  return local[0];
}

}  // namespace

DEFIB_VICTIM(break_it)
