// Victim: terminated.

#include <signal.h>
#include <unistd.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  kill(getpid(), SIGTERM);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
