#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION int read_level(const int* levels) {
  return levels[2];  // fault
}

}  // namespace

int main() {
  victim::start();
  return read_level(victim::opaque(reinterpret_cast<const int*>(0x123456789000)));
}
