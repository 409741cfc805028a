// Does nothing until a signal ends it.

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void idle() {
  while (true) pause();  // fault
}

}  // namespace

int main() {
  victim::start();
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
  idle();
  return 0;
}
