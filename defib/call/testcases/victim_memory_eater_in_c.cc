// Victim: memory eater in c.

#include <stdlib.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  for (;;) {
    auto* memory = static_cast<volatile char*>(malloc(1 << 20));
    for (int i = 0; i < 1 << 20; i += 4096) memory[i] = 1;
  }
}

}  // namespace

DEFIB_VICTIM(break_it)
