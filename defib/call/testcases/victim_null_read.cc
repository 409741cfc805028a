// Victim: null read.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  return *static_cast<volatile int*>(nullptr);
}

}  // namespace

DEFIB_VICTIM(break_it)
