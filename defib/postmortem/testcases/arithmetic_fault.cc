#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION int average(int sum, int count) {
  return sum / count;  // fault
}

}  // namespace

int main() {
  victim::start();
  return average(victim::opaque(12), victim::opaque(0));
}
