#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void unreachable_state() {
  __builtin_trap();  // fault
}

}  // namespace

int main() {
  victim::start();
  unreachable_state();
  return 0;
}
