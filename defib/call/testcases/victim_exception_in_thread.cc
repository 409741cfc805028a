// Victim: exception in thread.

#include <stdexcept>
#include <thread>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  std::thread([] { throw std::runtime_error("no such symbol"); }).join();
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
