// Built with -O2: the fault lies in a function that is inlined twice over.

#include "defib/postmortem/testcases/victim.h"

namespace {

struct Level {
  long price;
  long quantity;
};

[[gnu::always_inline]] inline void set_quantity(Level* level, long quantity) {
  level->quantity = quantity;  // fault
}

[[gnu::always_inline]] inline void clear_level(Level* level) {
  set_quantity(level, 0);  // first call
}

VICTIM_FUNCTION void remove_order(Level* level) {
  clear_level(level);  // second call
}

}  // namespace

int main() {
  victim::start();
  remove_order(victim::opaque<Level*>(nullptr));
  return 0;
}
