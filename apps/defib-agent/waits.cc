// The program's own waiting calls, wrapped: its main thread beats from them, and never from a
// thread of ours. Only where DEFIB_PRELOAD_HEARTBEAT=MS says so.
//
// The stage "waits" is armed by the first such call of the main thread. It rests while the call
// waits and beats when it returns, so it is silent while the program computes, or is stuck, between
// two of them. Other threads' calls pass straight through.
//
// These functions may be called in signal handlers (poll and select are async-signal-safe): stores
// and a look at the clock, nothing that locks or allocates; the real functions are looked up before
// main(). They keep errno.

// The wrappers have the names that the fortified headers define themselves.
#undef _FORTIFY_SOURCE

#include "waits.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>

#include "defib/process/agent_core.h"

namespace {

namespace agent_core = defib::process::agent_core;
using defib::process::HeartbeatStage;

struct Real {
  int (*epoll_wait)(int, epoll_event*, int, int);
  int (*epoll_pwait)(int, epoll_event*, int, int, const sigset_t*);
  int (*epoll_pwait2)(int, epoll_event*, int, const timespec*, const sigset_t*);
  int (*poll)(pollfd*, nfds_t, int);
  int (*ppoll)(pollfd*, nfds_t, const timespec*, const sigset_t*);
  int (*poll_chk)(pollfd*, nfds_t, int, size_t);
  int (*ppoll_chk)(pollfd*, nfds_t, const timespec*, const sigset_t*, size_t);
  int (*select)(int, fd_set*, fd_set*, fd_set*, timeval*);
  int (*pselect)(int, fd_set*, fd_set*, fd_set*, const timespec*, const sigset_t*);
  int (*accept)(int, sockaddr*, socklen_t*);
  int (*accept4)(int, sockaddr*, socklen_t*, int);
};
Real real;

// Written before main(), by the main thread.
bool beats_from_waits = false;
uint32_t deadline_ms = 0;
pthread_t main_thread;
// Of the main thread alone.
HeartbeatStage* stage = nullptr;
volatile sig_atomic_t depth = 0;  // a signal handler may wait within a wait

template <typename Function>
void look_up(Function& function, const char* name) {
  // A program may run before this library's constructor: then at its first call.
  if (function == nullptr) function = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// The main thread's rest while a call waits.
class Wait {
 public:
  Wait() {
    if (!beats_from_waits || !pthread_equal(pthread_self(), main_thread)) return;
    // Not in a forked child, whose page is gone.
    if (agent_core::page() == nullptr) return;
    depth = depth + 1;
    ours_ = true;
    if (depth != 1) return;
    if (stage == nullptr) arm();
    if (stage != nullptr) agent_core::rest(*stage);
  }
  ~Wait() {
    if (!ours_) return;
    depth = depth - 1;
    if (depth != 0 || stage == nullptr) return;
    const int saved_errno = errno;
    agent_core::resume(*stage);
    errno = saved_errno;
  }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

 private:
  static void arm() {
    constexpr char kName[] = "waits";
    stage = agent_core::claim_stage(kName, sizeof kName - 1, deadline_ms,
                                    defib::process::kStageFromWaits);
    if (stage == nullptr) {
      beats_from_waits = false;  // All slots are taken.
      return;
    }
    const int saved_errno = errno;
    agent_core::first_beat(*stage, true);
    errno = saved_errno;
  }
  bool ours_ = false;
};

}  // namespace

namespace defib::agent {

void look_up_waiting_calls() {
  look_up(real.epoll_wait, "epoll_wait");
  look_up(real.epoll_pwait, "epoll_pwait");
  look_up(real.epoll_pwait2, "epoll_pwait2");
  look_up(real.poll, "poll");
  look_up(real.ppoll, "ppoll");
  look_up(real.poll_chk, "__poll_chk");
  look_up(real.ppoll_chk, "__ppoll_chk");
  look_up(real.select, "select");
  look_up(real.pselect, "pselect");
  look_up(real.accept, "accept");
  look_up(real.accept4, "accept4");
}

void beat_from_waits() {
  const char* text = getenv("DEFIB_PRELOAD_HEARTBEAT");
  if (text == nullptr) return;
  char* end = nullptr;
  const unsigned long value = strtoul(text, &end, 10);
  if (end == text || *end != '\0' || value == 0 || value > UINT32_MAX) return;
  deadline_ms = static_cast<uint32_t>(value);
  main_thread = pthread_self();
  beats_from_waits = true;
}

}  // namespace defib::agent

#define DEFIB_WAITING_CALL extern "C" __attribute__((visibility("default"))) int

// The C library's own headers say nonnull and noexcept of some of these; the definitions need not.
DEFIB_WAITING_CALL epoll_wait(int fd, epoll_event* events, int count, int timeout) {
  look_up(real.epoll_wait, "epoll_wait");
  const Wait wait;
  return real.epoll_wait(fd, events, count, timeout);
}

DEFIB_WAITING_CALL epoll_pwait(int fd, epoll_event* events, int count, int timeout,
                               const sigset_t* mask) {
  look_up(real.epoll_pwait, "epoll_pwait");
  const Wait wait;
  return real.epoll_pwait(fd, events, count, timeout, mask);
}

DEFIB_WAITING_CALL epoll_pwait2(int fd, epoll_event* events, int count, const timespec* timeout,
                                const sigset_t* mask) {
  look_up(real.epoll_pwait2, "epoll_pwait2");
  if (real.epoll_pwait2 == nullptr) {
    errno = ENOSYS;
    return -1;
  }
  const Wait wait;
  return real.epoll_pwait2(fd, events, count, timeout, mask);
}

DEFIB_WAITING_CALL poll(pollfd* fds, nfds_t count, int timeout) {
  look_up(real.poll, "poll");
  const Wait wait;
  return real.poll(fds, count, timeout);
}

DEFIB_WAITING_CALL ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  look_up(real.ppoll, "ppoll");
  const Wait wait;
  return real.ppoll(fds, count, timeout, mask);
}

// What poll() and ppoll() become in programs that were built with _FORTIFY_SOURCE.
// NOLINTBEGIN(bugprone-reserved-identifier): the C library's own names.
DEFIB_WAITING_CALL __poll_chk(pollfd* fds, nfds_t count, int timeout, size_t size) {
  look_up(real.poll_chk, "__poll_chk");
  const Wait wait;
  return real.poll_chk(fds, count, timeout, size);
}

DEFIB_WAITING_CALL __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout,
                               const sigset_t* mask, size_t size) {
  look_up(real.ppoll_chk, "__ppoll_chk");
  const Wait wait;
  return real.ppoll_chk(fds, count, timeout, mask, size);
}
// NOLINTEND(bugprone-reserved-identifier)

DEFIB_WAITING_CALL select(int count, fd_set* in, fd_set* out, fd_set* exceptional,
                          timeval* timeout) {
  look_up(real.select, "select");
  const Wait wait;
  return real.select(count, in, out, exceptional, timeout);
}

DEFIB_WAITING_CALL pselect(int count, fd_set* in, fd_set* out, fd_set* exceptional,
                           const timespec* timeout, const sigset_t* mask) {
  look_up(real.pselect, "pselect");
  const Wait wait;
  return real.pselect(count, in, out, exceptional, timeout, mask);
}

DEFIB_WAITING_CALL accept(int fd, sockaddr* address, socklen_t* size) {
  look_up(real.accept, "accept");
  const Wait wait;
  return real.accept(fd, address, size);
}

DEFIB_WAITING_CALL accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  look_up(real.accept4, "accept4");
  const Wait wait;
  return real.accept4(fd, address, size, flags);
}
