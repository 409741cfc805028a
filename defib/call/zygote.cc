// The zygote's side of a Host: forks, kills and reaps.

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>

#include "defib/call/host.h"
#include "defib/call/zygote_protocol.h"

namespace defib::call {
namespace {

constexpr int kNoSocket = 121;
// With so many messages that the host has not taken, no more orders are taken.
constexpr std::size_t kMostUntold = 1 << 16;
using WorkerMain = int (*)(int channel_fd, int event_fd);

struct Zygote {
  int socket;
  int signals;
  WorkerMain worker;
  sigset_t mask_before;
  std::map<std::uint64_t, pid_t> pids;
  std::deque<FromZygote> untold;  // while the host's queue is full
};

void tell_untold(Zygote& zygote) {
  while (!zygote.untold.empty()) {
    const FromZygote& message = zygote.untold.front();
    const ssize_t sent =
        ::send(zygote.socket, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    zygote.untold.pop_front();  // where it failed the host is gone
  }
}

// Never waits: the host may wait until its own orders are taken before it takes a message.
void tell(Zygote& zygote, const FromZygote& message) {
  zygote.untold.push_back(message);
  tell_untold(zygote);
}

void fork_one(Zygote& zygote, std::uint64_t number, const int* fds) {
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) _exit(kNoSocket);
    close(zygote.socket);
    close(zygote.signals);
    sigprocmask(SIG_SETMASK, &zygote.mask_before, nullptr);
    _exit(zygote.worker(fds[0], fds[1]));
  }
  FromZygote message = {};
  message.number = number;
  message.kind = pid < 0 ? FromZygote::kFailed : FromZygote::kForked;
  message.pid = pid;
  message.status = pid < 0 ? errno : 0;
  if (pid > 0) zygote.pids[number] = pid;
  tell(zygote, message);
}

// False: the host is gone.
bool take_message(Zygote& zygote) {
  ToZygote message = {};
  iovec part = {&message, sizeof message};
  os::FdRoom<2> room;
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = room.bytes;
  header.msg_controllen = sizeof room.bytes;
  const ssize_t size = recvmsg(zygote.socket, &header, MSG_CMSG_CLOEXEC);
  if (size < 0) return errno == EINTR || errno == EAGAIN;
  if (size == 0) return false;
  int fds[2] = {-1, -1};
  const cmsghdr* attached = CMSG_FIRSTHDR(&header);
  if (attached != nullptr && attached->cmsg_type == SCM_RIGHTS) {
    std::memcpy(fds, CMSG_DATA(attached), sizeof fds);
  }
  if (message.kind == ToZygote::kFork && fds[1] >= 0) fork_one(zygote, message.number, fds);
  if (message.kind == ToZygote::kKill) {
    const auto found = zygote.pids.find(message.number);
    // It is our child and not reaped: the pid is its own.
    if (found != zygote.pids.end()) kill(found->second, SIGKILL);
  }
  for (const int fd : fds) {
    if (fd >= 0) close(fd);
  }
  return true;
}

void reap(Zygote& zygote) {
  for (;;) {
    int status = 0;
    rusage usage = {};
    const pid_t pid = wait4(-1, &status, WNOHANG, &usage);
    if (pid <= 0) return;
    for (auto it = zygote.pids.begin(); it != zygote.pids.end(); ++it) {
      if (it->second != pid) continue;
      FromZygote message = {};
      message.kind = FromZygote::kEnded;
      message.number = it->first;
      message.pid = pid;
      message.status = status;
      message.max_rss_kb = usage.ru_maxrss;
      zygote.pids.erase(it);
      tell(zygote, message);
      break;
    }
  }
}

}  // namespace

void zygote_main(int socket, WorkerMain worker) {
  prctl(PR_SET_NAME, "defib-zygote", 0, 0, 0);
  Zygote zygote = {socket, -1, worker, {}, {}, {}};
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, &zygote.mask_before);
  zygote.signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (zygote.signals < 0) _exit(kNoSocket);
  for (;;) {
    const std::size_t untold = zygote.untold.size();
    const int wanted = (untold < kMostUntold ? POLLIN : 0) | (untold > 0 ? POLLOUT : 0);
    pollfd waits[] = {{socket, static_cast<short>(wanted), 0}, {zygote.signals, POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) _exit(kNoSocket);
    if ((waits[1].revents & POLLIN) != 0) {
      signalfd_siginfo info = {};
      while (read(zygote.signals, &info, sizeof info) == sizeof info) {
      }
      reap(zygote);
    }
    if ((waits[0].revents & POLLOUT) != 0) tell_untold(zygote);
    if ((waits[0].revents & ~POLLOUT) != 0 && !take_message(zygote)) _exit(0);
  }
}

}  // namespace defib::call
