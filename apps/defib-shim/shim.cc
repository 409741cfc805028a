// Set-up and the loop; the service's life is in service.cc, the supervisor's side in control.cc.

#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {

int Shim::take_lock() {
  lock_ = open(kShimLockName, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return -errno;
  // A child that the killed shim was just starting holds the lock until it executes its program:
  // some milliseconds at most.
  constexpr int kAttempts = 500;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    struct flock whole = {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (fcntl(lock_, F_OFD_SETLK, &whole) == 0) return 0;
    if (errno != EAGAIN && errno != EACCES) return -errno;
    usleep(2000);
  }
  return -EBUSY;
}

void Shim::watch(int fd, uint32_t events, uint32_t source) {
  epoll_event event = {};
  event.events = events;
  event.data.u32 = source;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) complain("epoll_ctl", errno);
}

void Shim::unwatch(int fd) {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
}

int Shim::open_notify(const char* abstract_name) {
  notify_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (notify_ < 0) return -errno;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  socklen_t size = sizeof address;
  if (abstract_name != nullptr) {
    append_text(address.sun_path + 1, sizeof address.sun_path - 1, abstract_name);
    size =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1));
  } else {
    append_text(address.sun_path, sizeof address.sun_path, kNotifyName);
    unlink(kNotifyName);
  }
  if (bind(notify_, reinterpret_cast<const sockaddr*>(&address), size) != 0) return -errno;
  const int on = 1;
  setsockopt(notify_, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  return 0;
}

int Shim::open_sockets(const ShimOptions& options) {
  listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener_ < 0) return -errno;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  append_text(address.sun_path, sizeof address.sun_path, kSocketName);
  unlink(kSocketName);  // Ours by the lock; whoever listened there is dead.
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, 4) != 0) {
    return -errno;
  }
  watch(listener_, EPOLLIN, kListener);
  if (options.notify_fd >= 0) {
    notify_ = options.notify_fd;
  } else {
    const int failed = open_notify(options.notify_address);
    if (failed != 0) return failed;
  }
  watch(notify_, EPOLLIN, kNotifySocket);
  return 0;
}

int Shim::open_all(const ShimOptions& options) {
  // The numbers that the service's descriptors will have are taken, so that no other gets them.
  null_ = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_ < 0) return -errno;
  for (const int reserved : {kAgentPageFd, kAgentWakeFd}) {
    if (dup3(null_, reserved, O_CLOEXEC) < 0) return -errno;
  }
  int failed = take_lock();
  if (failed != 0) return failed;
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return -errno;

  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  signals_ = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) return -errno;
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);
  watch(signals_, EPOLLIN, kSignals);

  failed = status_.open_file();
  if (failed == 0) failed = logs_.open_all();
  if (failed != 0) return failed;
  if (mkfifo(kWakeName, 0600) != 0 && errno != EEXIST) return -errno;
  wake_ = open(kWakeName, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (wake_ < 0) return -errno;
  watch(wake_, EPOLLIN, kWake);
  for (int stream = 0; stream < 2; ++stream) {
    watch(logs_.fifo(stream), EPOLLIN, stream == 0 ? kStdout : kStderr);
    fifo_watched_[stream] = true;
  }
  failed = open_sockets(options);
  if (failed != 0) return failed;
  resume(options);
  if (options.connection_fd >= 0) take_connection(options.connection_fd);
  return 0;
}

void Shim::dispatch(uint32_t source) {
  switch (static_cast<Source>(source & ((1u << kSourceBits) - 1))) {
    case kListener:
      return accept_connection();
    case kConnection:
      return on_message();
    case kServicePidfd:
      return ended(instances_[source >> kSourceBits]);
    case kWake:
      return on_wake();
    case kStdout:
      return on_output(0);
    case kStderr:
      return on_output(1);
    case kOut:
      return on_terminal(0);
    case kErr:
      return on_terminal(1);
    case kNotifySocket:
      on_notify();
      return;
    case kSignals:
      return on_signals();
    case kMemory:
      return on_memory(instances_[source >> kSourceBits]);
  }
}

void Shim::run() {
  // One of each source, so that none starves.
  constexpr int kMaxEvents = 12 + 2 * kMaxInstances;
  const auto is_death = [](const epoll_event& event) {
    return (event.data.u32 & ((1u << kSourceBits) - 1)) == kServicePidfd;
  };
  while (!ending_ || any() || hooks_.any_running() || cleanup_wanted_ ||
         (kill_leftovers() > 0 && cleanup_until_ != 0)) {
    epoll_event events[kMaxEvents];
    const int count = epoll_wait(epoll_, events, kMaxEvents, wait_timeout_ms(mono_ns()));
    // The death of the service goes before everything else, except what the supervisor said before
    // it: a ticket that has arrived counts.
    for (int i = 0; i < count; ++i) {
      if (!is_death(events[i])) continue;
      if (connection_ >= 0) on_message();
      dispatch(events[i].data.u32);
    }
    for (int i = 0; i < count; ++i) {
      if (!is_death(events[i])) dispatch(events[i].data.u32);
    }
    on_timers(mono_ns());
    flush_journal();
  }
  remove_groups();
  unlink(kSocketName);
  unlink(kNotifyName);
}

int Shim::wait_timeout_ms(int64_t now) const {
  int64_t next = INT64_MAX;
  const auto consider = [&next](int64_t at) {
    if (at != 0 && at < next) next = at;
  };
  for (const Instance& one : instances_) {
    consider(one.kill_at);
    consider(one.look_at);
    consider(one.memory_look_at);
    consider(one.watch_again_at);
  }
  consider(hooks_.next_deadline());
  consider(start_at_);
  consider(cleanup_until_);
  consider(sweep_at_);
  consider(logs_.retry_at());
  if (idle_since_ != 0) consider(idle_since_ + kIdleLimitNs);
  for (const Capture& capture : captures_) consider(capture.deadline);
  if (next == INT64_MAX) return -1;
  if (next <= now) return 0;
  const int64_t ms = (next - now + 999'999) / 1'000'000;
  return ms > 3'600'000 ? 3'600'000 : static_cast<int>(ms);
}

// Where the terminal is slow, the FIFO rests until it is ready again.
void Shim::on_terminal(int stream) {
  const bool waits = logs_.waiting(stream) && logs_.flush(stream);
  if (waits != terminal_watched_[stream]) {
    if (waits) {
      watch(logs_.out(stream), EPOLLOUT, stream == 0 ? kOut : kErr);
    } else if (logs_.out(stream) >= 0) {
      unwatch(logs_.out(stream));
    }
    terminal_watched_[stream] = waits;
  }
  if (logs_.broken(stream)) logs_.close_out(stream);
  if (waits == fifo_watched_[stream]) {
    if (waits) {
      unwatch(logs_.fifo(stream));
    } else {
      watch(logs_.fifo(stream), EPOLLIN, stream == 0 ? kStdout : kStderr);
    }
    fifo_watched_[stream] = !waits;
  }
}

}  // namespace defib::process::shim
