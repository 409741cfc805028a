// Victim: wild read.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  return *reinterpret_cast<volatile int*>(0x5a5a5a5a5000);
}

}  // namespace

DEFIB_VICTIM(break_it)
