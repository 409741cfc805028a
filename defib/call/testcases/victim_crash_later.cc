// Victim: crash later, when the call has returned.

#include <unistd.h>

#include <thread>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  std::thread([] {
    usleep(50'000);
    *static_cast<volatile int*>(nullptr) = 1;
  }).detach();
  return argument;
}

}  // namespace

DEFIB_VICTIM(break_it)
