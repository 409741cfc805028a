#include <cstdlib>

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void release_twice(void* block) {
  std::free(block);
  std::free(victim::opaque(block));  // fault
}

}  // namespace

int main() {
  victim::start();
  release_twice(std::malloc(5000));
  return 0;
}
