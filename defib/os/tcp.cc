#include "defib/os/tcp.h"

#include <fmt/core.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace defib::os {
namespace {

// Waits until the connection stands or `deadline` (monotonic) passes. 0, or an errno.
int finish_connecting(int fd, std::int64_t deadline) {
  for (;;) {
    const std::int64_t left = deadline - real_clock().mono_ns();
    if (left <= 0) return ETIMEDOUT;
    pollfd poll_fd = {fd, POLLOUT, 0};
    const auto wait_ms = static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 60'000));
    const int ready = ::poll(&poll_fd, 1, wait_ms);
    if (ready < 0 && errno != EINTR) return errno;
    if (ready <= 0) continue;
    int failed = 0;
    socklen_t size = sizeof failed;
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) != 0) return errno;
    return failed;
  }
}

}  // namespace

Result<Fd> connect_tcp(const std::string& host, std::uint16_t port, Duration timeout) {
  const std::int64_t deadline = real_clock().mono_ns() + timeout.count();
  const std::string where = fmt::format("{}:{}", host, port);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      failed != 0) {
    return Error(Code::kUnavailable,
                 fmt::format("the name '{}' has no address: {}", host, ::gai_strerror(failed)))
        .with("host", host);
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, ::freeaddrinfo);
  int failed = ECONNREFUSED;
  for (const addrinfo* next = addresses.get(); next != nullptr; next = next->ai_next) {
    Fd fd(::socket(next->ai_family, next->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return system_error("socket");
    failed = 0;
    if (::connect(fd.get(), next->ai_addr, next->ai_addrlen) != 0) {
      failed = errno == EINPROGRESS ? finish_connecting(fd.get(), deadline) : errno;
    }
    if (failed == 0) return fd;
  }
  const Code code = failed == ETIMEDOUT ? Code::kTimeout : Code::kUnavailable;
  Error cause = system_error("connect", where, failed);
  return Error(code, fmt::format("no connection to {}", where))
      .with("address", where)
      .because(std::move(cause));
}

}  // namespace defib::os
