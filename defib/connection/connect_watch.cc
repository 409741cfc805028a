#include "defib/connection/connect_watch.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <thread>

#include "defib/connection/socket.h"
#include "defib/os/fd.h"

namespace defib::connection {
namespace {

constexpr int kLookMs = 50;

// Of the calling thread alone, and for ever: the thread is there for one call. -1 where the system
// does not allow it.
int listen_to_own_connects() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(filter)), filter};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

bool is_stream(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

// One connect(2), whose thread stands still until it is answered.
bool serve_one(int listener, const ConnectJudge& judge) {
  seccomp_notif asked{};
  if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) return errno == EINTR;
  const int fd = static_cast<int>(asked.data.args[0]);
  sockaddr_storage address{};
  const auto size = std::min<std::uint64_t>(asked.data.args[2], sizeof address);
  // The address of the call's argument, in this process.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  std::memcpy(&address, reinterpret_cast<const void*>(asked.data.args[1]), size);
  const HostPort to = address_of(address);
  seccomp_notif_resp answer{};
  answer.id = asked.id;
  if (to.host.empty() || !is_stream(fd) || judge(fd, to)) {
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  } else {
    answer.error = -ECONNABORTED;
  }
  return ::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0 || errno == ENOENT;
}

}  // namespace

void watch_connects(const std::function<void(bool watched)>& work, const ConnectJudge& judge) {
  std::promise<int> listening;
  std::atomic<bool> done{false};
  std::thread worker([&] {
    const int listener = listen_to_own_connects();
    listening.set_value(listener);
    work(listener >= 0);
    done = true;
  });
  os::Fd listener(listening.get_future().get());
  // The end of the thread is a hang-up, on systems that tell it.
  while (listener.valid() && !done) {
    pollfd poll{.fd = listener.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&poll, 1, kLookMs);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    if ((poll.revents & POLLIN) == 0 || !serve_one(listener.get(), judge)) break;
  }
  listener.reset();  // lets go of a connect that nobody answers any more
  worker.join();
}

}  // namespace defib::connection
