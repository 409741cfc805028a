#include "apps/defib-store/interrupt.h"

#include <signal.h>
#include <unistd.h>

namespace defib::store_program {
namespace {

constexpr int kInterrupted = 4;
constexpr char kText[] = "\ninterrupted; the store is unharmed\n";

sigset_t interrupts() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t set = interrupts();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::jthread([this](const std::stop_token& done) { wait(done); });
}

Interrupt::~Interrupt() {
  thread_.request_stop();
  // It waits for this signal by sigwait(), and ends by returning.
  // NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread)
  ::pthread_kill(thread_.native_handle(), SIGTERM);
}

void Interrupt::wait(const std::stop_token& done) {
  const sigset_t set = interrupts();
  for (int signal = 0;;) {
    if (::sigwait(&set, &signal) != 0) continue;
    if (done.stop_requested()) return;
    if (at_once_ || source_.stop_requested()) {
      if (::write(STDERR_FILENO, kText, sizeof kText - 1) < 0) ::_exit(kInterrupted);
      ::_exit(kInterrupted);
    }
    source_.request_stop();
  }
}

}  // namespace defib::store_program
