// Does nothing until a signal ends it; with any argument, without further threads.

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void idle() {
  while (true) pause();  // fault
}

}  // namespace

int main(int argc, char**) {
  victim::start(argc == 1);
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
  idle();
  return 0;
}
