#include "defib/connection/socket.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "defib/os/random.h"

namespace defib::connection {
namespace {

std::atomic<int> running_resolvers{0};

// Inodes of the sockets that sessions of this process use. Never destroyed: sessions may outlive
// the end of main().
struct Claims {
  std::mutex mutex;
  std::set<std::uint64_t> inodes;  // guarded by mutex
  std::timed_mutex turn;
};
Claims& claims() {
  static Claims& all = *new Claims;
  return all;
}

std::uint16_t port_of(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return 0;
}

// What the socket was given to send, whether the other side has acknowledged it or not.
std::uint64_t bytes_sent(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  int queued = 0;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  if (::ioctl(fd, SIOCOUTQ, &queued) != 0) return 0;
  return info.tcpi_bytes_acked + static_cast<std::uint64_t>(queued);
}

// To any port where it is 0.
template <typename Visit>
void each_socket_to(std::uint16_t port, Visit&& visit) {
  DIR* dir = ::opendir("/proc/self/fd");
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir)) {
    char* end = nullptr;
    const long number = ::strtol(entry->d_name, &end, 10);
    if (*end != '\0' || end == entry->d_name) continue;
    const int fd = static_cast<int>(number);
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) continue;
    if (port_of(peer) == 0 || (port != 0 && port_of(peer) != port)) continue;
    struct stat status{};
    if (::fstat(fd, &status) != 0) continue;
    visit(fd, static_cast<std::uint64_t>(status.st_ino));
  }
  ::closedir(dir);
}

Result<std::vector<std::string>> ask_resolver(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failed != 0) {
    return Error(Code::kHostUnreachable,
                 fmt::format("the name of the host '{}' cannot be resolved: {}", host,
                             ::gai_strerror(failed)))
        .with("class", "NC")
        .with("phase", "connect")
        .with("transient", "yes");
  }
  std::vector<std::string> addresses;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    char text[NI_MAXHOST];
    if (::getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) ==
        0) {
      addresses.emplace_back(text);
    }
  }
  ::freeaddrinfo(found);
  return addresses;
}

bool is_numeric(const std::string& host) {
  unsigned char buffer[16];
  return ::inet_pton(AF_INET, host.c_str(), buffer) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

}  // namespace

Liveness look_at_socket(int fd) {
  pollfd poll{.fd = fd, .events = POLLIN | POLLRDHUP, .revents = 0};
  const int ready = ::poll(&poll, 1, 0);
  if (ready == 0) return Liveness::kAlive;
  if (ready < 0) return errno == EINTR ? Liveness::kSuspicious : Liveness::kDead;
  if ((poll.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0) return Liveness::kDead;
  return Liveness::kSuspicious;
}

bool wait_for_socket(int fd, bool read, bool write, Deadline deadline) {
  short events = 0;
  if (read) events |= POLLIN;
  if (write) events |= POLLOUT;
  while (true) {
    pollfd poll{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&poll, 1, deadline.poll_ms());
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // the driver meets the error itself
    if (deadline.passed()) return false;
  }
}

os::Fd duplicate(int fd) {
  return os::Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

void shut_down(int fd) {
  ::shutdown(fd, SHUT_RDWR);
}

void bound_partition(int fd) {
  const int on = 1, idle = 30, interval = 10, count = 3, user_timeout_ms = 60'000;
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

int resolvers_running() {
  return running_resolvers.load();
}

Result<std::vector<std::string>> resolve(const std::string& host, Deadline deadline) {
  if (is_numeric(host)) return std::vector<std::string>{host};
  struct Shared {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<std::vector<std::string>>> result;  // guarded by mutex
  };
  const auto overrun = [&](std::string_view why) {
    return Error(Code::kDeadlineExceeded,
                 fmt::format("the name of the host '{}' was not resolved: {}", host, why))
        .with("class", "NC")
        .with("phase", "connect")
        .with("transient", "yes");
  };
  if (running_resolvers.fetch_add(1) >= kMaxResolvers) {
    running_resolvers.fetch_sub(1);
    return overrun(fmt::format("{} resolutions hang already", kMaxResolvers));
  }
  auto shared = std::make_shared<Shared>();
  std::thread([shared, host] {
    auto result = ask_resolver(host);
    {
      const std::lock_guard lock(shared->mutex);
      shared->result = std::move(result);
    }
    shared->done.notify_one();
    running_resolvers.fetch_sub(1);
  }).detach();
  std::unique_lock lock(shared->mutex);
  const auto is_done = [&] { return shared->result.has_value(); };
  if (!shared->done.wait_for(lock, std::max(os::Duration(0), deadline.remaining()), is_done)) {
    return overrun("no answer by the deadline");
  }
  return std::move(*shared->result);
}

HostPort address_of(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  const void* number = nullptr;
  if (address.ss_family == AF_INET) {
    number = &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
  } else if (address.ss_family == AF_INET6) {
    number = &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  }
  if (number == nullptr) return {};
  ::inet_ntop(address.ss_family, number, text, sizeof text);
  return {text, port_of(address)};
}

HostPort peer_of(int fd) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return {};
  return address_of(peer);
}

SocketFinder::SocketFinder() {
  each_socket_to(0, [&](int, std::uint64_t inode) { before_.insert(inode); });
}

SocketFinder::Turn::Turn() : has_it_(claims().turn.try_lock_for(std::chrono::seconds(1))) {}

SocketFinder::Turn::~Turn() {
  if (has_it_) claims().turn.unlock();
}

std::string SocketFinder::padding() {
  os::Random random(os::random_seed());
  std::string out;
  while (out.size() < kPadding) out += fmt::format("{:016x}", random.next());
  return out;
}

bool SocketFinder::has_sent(const Candidate& candidate) {
  struct stat status{};
  const bool same = ::fstat(candidate.fd, &status) == 0 && status.st_ino == candidate.inode;
  return same && bytes_sent(candidate.fd) >= candidate.sent + kHeard;
}

void SocketFinder::list_candidates(std::uint16_t port) {
  std::set<std::uint64_t> seen;
  const std::lock_guard lock(claims().mutex);
  each_socket_to(port, [&](int fd, std::uint64_t inode) {
    if (before_.contains(inode) || claims().inodes.contains(inode)) return;
    if (seen.insert(inode).second) candidates_.push_back({fd, inode, bytes_sent(fd)});
  });
}

void SocketFinder::keep_those_that_sent() {
  std::erase_if(candidates_, [](const Candidate& candidate) { return !has_sent(candidate); });
  for (Candidate& candidate : candidates_) candidate.sent = bytes_sent(candidate.fd);
}

int SocketFinder::claim(const Candidate& candidate) {
  const std::lock_guard lock(claims().mutex);
  if (!claims().inodes.insert(candidate.inode).second) return -1;
  claimed_inode_ = candidate.inode;
  return candidate.fd;
}

void SocketFinder::release(std::uint64_t inode) {
  const std::lock_guard lock(claims().mutex);
  claims().inodes.erase(inode);
}

}  // namespace defib::connection
