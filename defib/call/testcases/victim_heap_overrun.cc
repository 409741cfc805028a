// Victim: heap overrun.

#include <stdlib.h>
#include <string.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  auto* volatile first = static_cast<char*>(malloc(3000));
  void* volatile second = malloc(3000);
  memset(first, 0x41, 4000);
  free(second);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
