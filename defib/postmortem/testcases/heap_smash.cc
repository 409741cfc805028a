#include <cstdlib>
#include <cstring>

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void overrun(char* block, std::size_t size) {
  std::memset(block, 'A', victim::opaque(size + 64));
  std::free(victim::opaque(block));  // fault
}

}  // namespace

int main() {
  victim::start();
  auto* block = static_cast<char*>(std::malloc(2000));
  void* neighbour = std::malloc(2000);
  overrun(victim::opaque(block), 2000);
  std::free(neighbour);
  return 0;
}
