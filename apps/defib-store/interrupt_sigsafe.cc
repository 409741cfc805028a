#include "apps/defib-store/interrupt_sigsafe.h"

#include <signal.h>
#include <unistd.h>

namespace defib::store_program {
namespace {

constexpr int kInterrupted = 4;
constexpr char kText[] =
    "\ninterrupted; the store is unharmed, and the next recovery goes on where this one was\n";

void on_signal(int) {
  if (::write(STDERR_FILENO, kText, sizeof kText - 1) < 0) ::_exit(kInterrupted);
  ::_exit(kInterrupted);
}

}  // namespace

void end_on_interrupt() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

}  // namespace defib::store_program
