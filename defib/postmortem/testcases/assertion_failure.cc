#undef NDEBUG
#include <cassert>

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION void settle(int balance) {
  assert(balance >= 0 && "the balance is negative");  // fault
}

}  // namespace

int main() {
  victim::start();
  settle(victim::opaque(-1));
  return 0;
}
