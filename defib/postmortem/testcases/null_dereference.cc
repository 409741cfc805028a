#include "defib/postmortem/testcases/victim.h"

namespace {

struct Order {
  long id;
  long quantity;
};

VICTIM_FUNCTION void fill_order(Order* order) {
  order->quantity = 7;  // fault
}

}  // namespace

int main() {
  victim::start();
  fill_order(victim::opaque<Order*>(nullptr));
  return 0;
}
