// Victim: null call.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  using F = int (*)();
  volatile F function = nullptr;
  return function();
}

}  // namespace

DEFIB_VICTIM(break_it)
