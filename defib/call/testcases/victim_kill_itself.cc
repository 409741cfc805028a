// Victim: kill itself.

#include <signal.h>
#include <unistd.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  kill(getpid(), SIGKILL);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
