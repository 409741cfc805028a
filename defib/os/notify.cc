#include "defib/os/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "defib/os/pass_fds.h"

namespace defib::os::notify {
namespace {

constexpr std::size_t kMaxKey = 32;
constexpr std::size_t kMaxFdName = 255;
constexpr long kPidfsMagic = 0x50494446;
constexpr std::size_t kDropField = 64;  // "\nX_DEFIB_DROPPED=<20 digits>"

std::atomic<std::uint64_t> dropped{0};
std::atomic<std::uint64_t> reported{0};  // how many drops the supervisor was told of

std::int64_t now_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// The socket's address from the environment; 0 where there is none. "@name" is abstract.
socklen_t notify_address(sockaddr_un& address) {
  const char* path = getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@') || path[1] == '\0') return 0;
  const std::size_t size = strlen(path);
  if (size >= sizeof address.sun_path) return 0;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path, size);
  if (path[0] == '@') address.sun_path[0] = '\0';
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size + (path[0] == '/' ? 1 : 0));
}

// Retries a full queue until the patience is over. A UNIX datagram socket does not reliably report
// room by POLLOUT, so the waits between attempts are short naps. `passed_fd` goes along; -1: none.
bool send_patiently(int fd, const char* text, std::size_t size, int passed_fd, int patience_ms) {
  iovec part = {const_cast<char*>(text), size};
  FdRoom<1> room;
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (passed_fd >= 0) attach_fds(message, room, &passed_fd, 1);
  const std::int64_t deadline = now_ms() + patience_ms;
  while (true) {
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(size)) {
      return true;
    }
    const bool full = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS;
    if (!full && errno != EINTR) return false;
    if (now_ms() >= deadline) return false;
    const timespec nap = {0, 500'000};
    nanosleep(&nap, nullptr);
  }
}

bool send_message(const sockaddr_un& address, socklen_t address_size, const char* text,
                  std::size_t size, int passed_fd = -1, int patience_ms = kPatienceMs) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool sent = connect(fd, reinterpret_cast<const sockaddr*>(&address), address_size) == 0 &&
                    send_patiently(fd, text, size, passed_fd, patience_ms);
  close(fd);
  return sent;
}

// A short message that is composed already, counted as send_field() counts.
bool send_text(const char* text, int passed_fd = -1) {
  sockaddr_un address;
  const socklen_t address_size = notify_address(address);
  if (address_size == 0) return false;
  const int saved_errno = errno;
  const bool sent = send_message(address, address_size, text, strlen(text), passed_fd);
  if (!sent) dropped.fetch_add(1, std::memory_order_relaxed);
  errno = saved_errno;
  return sent;
}

bool is_fd_name(const char* name, std::size_t size) {
  if (size == 0 || size > kMaxFdName) return false;
  for (std::size_t i = 0; i < size; ++i) {
    if (name[i] < 0x20 || name[i] > 0x7e || name[i] == ':') return false;
  }
  return true;
}

// A decimal number from the environment, or `missing`; also where it is malformed.
std::uint64_t number_from_environment(const char* key, std::uint64_t missing) {
  const char* text = getenv(key);
  if (text == nullptr || *text < '0' || *text > '9') return missing;
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  return errno == 0 && *end == '\0' ? value : missing;
}

// "KEY=value", and the number of drops where the supervisor does not know it yet.
std::size_t compose(char* to, const char* key, const char* value, std::size_t value_size,
                    std::uint64_t drops_to_report) {
  std::size_t size = strlen(key);
  memcpy(to, key, size);  // NOLINT(bugprone-not-null-terminated-result): more follows
  to[size++] = '=';
  for (std::size_t i = 0; i < value_size; ++i) {
    const bool breaks = value[i] == '\n' || value[i] == '\r' || value[i] == '\0';
    to[size++] = breaks ? ' ' : value[i];
  }
  if (drops_to_report != 0) {
    size += static_cast<std::size_t>(
        snprintf(to + size, kDropField, "\nX_DEFIB_DROPPED=%" PRIu64, drops_to_report));
  }
  return size;
}

}  // namespace

bool send_field(const char* key, const char* value, std::size_t value_size, int patience_ms) {
  sockaddr_un address;
  const socklen_t address_size = notify_address(address);
  if (address_size == 0) return false;
  const int saved_errno = errno;
  const std::uint64_t lost = dropped.load(std::memory_order_relaxed);
  const bool tell = lost != reported.load(std::memory_order_relaxed);
  bool sent = false;
  if (strlen(key) <= kMaxKey && value_size <= kMaxValue) {
    char* text = static_cast<char*>(malloc(kMaxKey + 1 + value_size + kDropField));
    if (text != nullptr) {
      const std::size_t size = compose(text, key, value, value_size, tell ? lost : 0);
      sent = send_message(address, address_size, text, size, -1, patience_ms);
      free(text);
    }
  }
  if (!sent) dropped.fetch_add(1, std::memory_order_relaxed);
  if (sent && tell) reported.store(lost, std::memory_order_relaxed);
  errno = saved_errno;
  return sent;
}

bool send_reloading() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  char text[64];
  snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
           static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
               static_cast<std::uint64_t>(now.tv_nsec) / 1000);
  return send_text(text);
}

bool send_main_pid(int pid) {
  const int saved_errno = errno;
  char text[96];
  int size = snprintf(text, sizeof text, "MAINPID=%d", pid);
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  struct stat status;
  struct statfs system;
  // Older kernels give all pidfds one inode, of the anonymous file system.
  if (pidfd >= 0 && fstatfs(pidfd, &system) == 0 && system.f_type == kPidfsMagic &&
      fstat(pidfd, &status) == 0) {
    snprintf(text + size, sizeof text - static_cast<std::size_t>(size), "\nMAINPIDFDID=%" PRIu64,
             static_cast<std::uint64_t>(status.st_ino));
  }
  if (pidfd >= 0) close(pidfd);
  errno = saved_errno;
  return send_text(text);
}

std::uint64_t watchdog_usec() {
  const int saved_errno = errno;
  const std::uint64_t usec = number_from_environment("WATCHDOG_USEC", 0);
  const auto own = static_cast<std::uint64_t>(getpid());
  const bool ours =
      getenv("WATCHDOG_PID") == nullptr || number_from_environment("WATCHDOG_PID", 0) == own;
  errno = saved_errno;
  return ours ? usec : 0;
}

bool barrier(std::int64_t timeout_ms) {
  int ends[2];
  const int saved_errno = errno;
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  bool taken = send_text("BARRIER=1", ends[1]);
  close(ends[1]);
  // The reader closes the end that it got: then, and not before, ours hangs up.
  const std::int64_t deadline = now_ms() + timeout_ms;
  while (taken) {
    const std::int64_t left = deadline - now_ms();
    pollfd waiting = {ends[0], POLLHUP, 0};
    const int ready = poll(&waiting, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready > 0) break;
    taken = ready < 0 && errno == EINTR && left > 0;
  }
  close(ends[0]);
  errno = saved_errno;
  return taken;
}

bool store_fd(const char* name, std::size_t name_size, int fd, bool poll) {
  if (fd < 0 || !is_fd_name(name, name_size)) return false;
  char text[kMaxFdName + 64];
  snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%.*s%s", static_cast<int>(name_size), name,
           poll ? "" : "\nFDPOLL=0");
  return send_text(text, fd);
}

bool remove_stored_fd(const char* name, std::size_t name_size) {
  if (!is_fd_name(name, name_size)) return false;
  char text[kMaxFdName + 64];
  snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=%.*s", static_cast<int>(name_size), name);
  return send_text(text);
}

std::uint64_t drops() {
  return dropped.load(std::memory_order_relaxed);
}

}  // namespace defib::os::notify
