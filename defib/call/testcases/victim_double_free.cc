// Victim: double free.

#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  void* volatile memory = malloc(2000);
  void* volatile fence = malloc(16);
  free(memory);
  free(memory);
  free(fence);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
