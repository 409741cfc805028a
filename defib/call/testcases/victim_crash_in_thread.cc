// Victim: crash in thread.

#include <unistd.h>

#include <thread>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  std::thread([] { *static_cast<volatile int*>(nullptr) = 1; }).detach();
  for (;;) pause();
}

}  // namespace

DEFIB_VICTIM(break_it)
