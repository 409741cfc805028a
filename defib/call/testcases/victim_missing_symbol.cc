// Victim: it needs a function that no library has.

#include "defib/call/testcases/victim.h"

extern "C" int a_function_that_no_library_has(int argument);

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  return a_function_that_no_library_has(argument);
}

}  // namespace

DEFIB_VICTIM(break_it)
