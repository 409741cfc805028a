// Victim: descriptor eater.

#include <fcntl.h>

#include <stdexcept>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  for (;;) {
    if (open("/dev/null", O_RDONLY) < 0) throw std::runtime_error("no descriptor is left");
  }
}

}  // namespace

DEFIB_VICTIM(break_it)
