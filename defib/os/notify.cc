#include "defib/os/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace defib::os::notify {
namespace {

constexpr std::size_t kMaxKey = 32;
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
// room by POLLOUT, so the waits between attempts are short naps.
bool send_patiently(int fd, const char* text, std::size_t size) {
  const std::int64_t deadline = now_ms() + kPatienceMs;
  while (true) {
    if (send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(size)) {
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
                  std::size_t size) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool sent = connect(fd, reinterpret_cast<const sockaddr*>(&address), address_size) == 0 &&
                    send_patiently(fd, text, size);
  close(fd);
  return sent;
}

// "KEY=value", and the number of drops where the supervisor does not know it yet.
std::size_t compose(char* to, const char* key, const char* value, std::size_t value_size,
                    std::uint64_t drops_to_report) {
  std::size_t size = strlen(key);
  memcpy(to, key, size);
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

bool send_field(const char* key, const char* value, std::size_t value_size) {
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
      sent = send_message(address, address_size, text, size);
      free(text);
    }
  }
  if (!sent) dropped.fetch_add(1, std::memory_order_relaxed);
  if (sent && tell) reported.store(lost, std::memory_order_relaxed);
  errno = saved_errno;
  return sent;
}

std::uint64_t drops() {
  return dropped.load(std::memory_order_relaxed);
}

}  // namespace defib::os::notify
