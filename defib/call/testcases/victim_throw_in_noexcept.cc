// Victim: throw in noexcept.

#include <stdexcept>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  const auto quiet = []() noexcept { throw std::logic_error("out of order"); };
  quiet();
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
