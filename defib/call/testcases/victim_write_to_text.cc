// Victim: write to text.

#include "defib/call/testcases/victim.h"

namespace {

__attribute__((used, noinline)) void some_code() {}

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  *reinterpret_cast<volatile char*>(reinterpret_cast<std::uintptr_t>(&some_code)) = 0;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
