// Victim: crash in destructor.

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  struct Bad {
    ~Bad() { *static_cast<volatile int*>(nullptr) = 1; }
  };
  const Bad bad;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
