// The fault lies in a signal handler, which interrupted another function.

#include "defib/postmortem/testcases/victim.h"

namespace {

struct Book {
  long orders;
  long trades;
};
Book* book = nullptr;

VICTIM_FUNCTION void count_trade(int) {
  victim::opaque(book)->trades = 1;  // fault
}

VICTIM_FUNCTION void match_orders() {
  raise(SIGUSR1);
}

}  // namespace

int main() {
  victim::start();
  signal(SIGUSR1, count_trade);
  match_orders();
  return 0;
}
