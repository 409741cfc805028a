// Prints "ready" when both threads hold one mutex and go for the other's.

#include <pthread.h>

#include <barrier>

#include "defib/postmortem/testcases/victim.h"

namespace {

std::mutex accounts;
std::mutex orders;
std::barrier both_hold_one(2);

VICTIM_FUNCTION void book_order() {
  const std::lock_guard first(orders);
  both_hold_one.arrive_and_wait();
  const std::lock_guard second(accounts);  // fault
}

VICTIM_FUNCTION void transfer() {
  const std::lock_guard first(accounts);
  both_hold_one.arrive_and_wait();
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) _exit(1);
  const std::lock_guard second(orders);  // fault
}

}  // namespace

int main() {
  victim::start(false);
  std::thread booking([] {
    pthread_setname_np(pthread_self(), "booking");
    book_order();
  });
  transfer();
  booking.join();
  return 0;
}
