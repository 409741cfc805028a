#include <cstdlib>

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void give_up() {
  std::abort();  // fault
}

}  // namespace

int main() {
  victim::start();
  give_up();
  return 0;
}
