// Threads of a library inside a foreign service: no signal of the service comes to them, so that
// sigwait(2), signalfd(2) and handlers of the service go on meaning its own threads.

#pragma once

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace defib::process {

// Starts Thread (std::thread, std::jthread) with all signals blocked but those of a crash. Throws
// what its constructor throws.
template <typename Thread, typename Function>
Thread start_quiet_thread(Function&& function) {
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&blocked, crash);
  }
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  struct Restore {
    const sigset_t& mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } restore{before};
  return Thread(std::forward<Function>(function));
}

}  // namespace defib::process
