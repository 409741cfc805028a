#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void spin(volatile bool* go_on) {
  while (*go_on) {  // fault
  }
}

}  // namespace

int main() {
  victim::start();
  volatile bool go_on = true;
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
  spin(&go_on);
  return 0;
}
