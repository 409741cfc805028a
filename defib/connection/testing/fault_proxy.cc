#include "defib/connection/testing/fault_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace defib::connection::testing {
namespace {

using namespace std::chrono_literals;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

Result<os::Fd> listen_on(std::uint16_t port) {
  os::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in address = loopback(port);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), 512) != 0) {
    return os::system_error("listen");
  }
  return fd;
}

void send_at_once(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void reset_on_close(int fd) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
}

// False when the other side has ended.
bool read_some(int fd, std::string& out) {
  char buffer[65536];
  const ssize_t got = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (got > 0) {
    out.append(buffer, static_cast<std::size_t>(got));
    return true;
  }
  return got < 0 && (errno == EAGAIN || errno == EINTR);
}

bool write_some(int fd, std::string& from) {
  if (from.empty()) return true;
  const ssize_t sent = ::send(fd, from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent > 0) {
    from.erase(0, static_cast<std::size_t>(sent));
    return true;
  }
  return sent < 0 && (errno == EAGAIN || errno == EINTR);
}

}  // namespace

Result<std::unique_ptr<FaultProxy>> FaultProxy::start(std::uint16_t upstream_port) {
  std::unique_ptr<FaultProxy> proxy(new FaultProxy);
  proxy->upstream_ = upstream_port;
  DEFIB_TRY_ASSIGN(proxy->listener_, listen_on(0));
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(proxy->listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
  proxy->port_ = ntohs(address.sin_port);
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC) != 0) return os::system_error("pipe2");
  proxy->wake_read_ = os::Fd(pipe_ends[0]);
  proxy->wake_write_ = os::Fd(pipe_ends[1]);
  proxy->thread_ = std::thread([raw = proxy.get()] { raw->run(); });
  return proxy;
}

FaultProxy::~FaultProxy() {
  stopping_ = true;
  (void)!::write(wake_write_.get(), "x", 1);
  if (thread_.joinable()) thread_.join();
}

Result<> FaultProxy::set_mode(Mode mode) {
  const std::lock_guard lock(mutex_);
  if (mode == Mode::kRefuse) {
    listener_ = os::Fd();
  } else if (!listener_.valid()) {
    DEFIB_TRY_ASSIGN(listener_, listen_on(port_));
  }
  mode_ = mode;
  (void)!::write(wake_write_.get(), "x", 1);
  return {};
}

void FaultProxy::cut_commits(Cut cut, int count) {
  const std::lock_guard lock(mutex_);
  cut_ = cut;
  cuts_left_ = cut == Cut::kNone ? 0 : count;
}

void FaultProxy::reset_all() {
  order_ = 1;
  (void)!::write(wake_write_.get(), "x", 1);
  while (order_ != 0) os::real_clock().sleep_for(100us);
}
void FaultProxy::close_all() {
  order_ = 2;
  (void)!::write(wake_write_.get(), "x", 1);
  while (order_ != 0) os::real_clock().sleep_for(100us);
}
void FaultProxy::half_open_all() {
  order_ = 3;
  (void)!::write(wake_write_.get(), "x", 1);
  while (order_ != 0) os::real_clock().sleep_for(100us);
}

// COMMIT as a word: AUTOCOMMIT and the name of a table are none.
bool FaultProxy::is_cut_commit(std::string_view bytes) {
  constexpr std::string_view kCommit = "COMMIT";
  const auto is_word = [&](std::size_t at) {
    return at < bytes.size() &&
           (std::isalnum(static_cast<unsigned char>(bytes[at])) != 0 || bytes[at] == '_');
  };
  for (std::size_t at = 0; at + kCommit.size() <= bytes.size(); ++at) {
    const bool same = std::ranges::equal(
        bytes.substr(at, kCommit.size()), kCommit,
        [](char a, char b) { return std::toupper(static_cast<unsigned char>(a)) == b; });
    if (same && (at == 0 || !is_word(at - 1)) && !is_word(at + kCommit.size())) return true;
  }
  return false;
}

bool FaultProxy::take_from_client(Pair& pair) {
  std::string bytes;
  const bool open = read_some(pair.client.get(), bytes);
  const Mode mode = mode_.load();
  const bool dropped = mode == Mode::kBlackHole || mode == Mode::kBlackHoleUp ||
                       mode == Mode::kSilent || pair.swallow || pair.half_open;
  if (!bytes.empty() && !dropped) {
    const std::lock_guard lock(mutex_);
    if (cuts_left_ > 0 && is_cut_commit(bytes)) {
      --cuts_left_;
      ++cuts_done_;
      if (cut_ == Cut::kRequest) {
        reset_on_close(pair.client.get());
        reset_on_close(pair.server.get());
        return false;
      }
      pair.cut_reply = cut_ == Cut::kReply;
      pair.swallow = false;
      if (cut_ == Cut::kReplyBlackHole) pair.swallow = true;
    }
    pair.to_server += bytes;
    pair.held_until_ns = os::real_clock().mono_ns() + delay_ns_.load();
  }
  return open;
}

bool FaultProxy::take_from_server(Pair& pair) {
  std::string bytes;
  const bool open = read_some(pair.server.get(), bytes);
  const Mode mode = mode_.load();
  if (!bytes.empty() && pair.cut_reply) {
    reset_on_close(pair.client.get());
    reset_on_close(pair.server.get());
    return false;
  }
  if (mode != Mode::kBlackHole && mode != Mode::kBlackHoleDown && !pair.swallow) {
    pair.to_client += bytes;
  }
  // In a black hole an end does not come through either.
  return open || mode == Mode::kBlackHole || mode == Mode::kBlackHoleDown || pair.swallow;
}

void FaultProxy::accept_one() {
  int fd = -1;
  {
    const std::lock_guard lock(mutex_);
    if (!listener_.valid()) return;
    fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }
  if (fd < 0) return;
  ++accepted_;
  Pair pair;
  pair.client = os::Fd(fd);
  send_at_once(fd);
  if (mode_ != Mode::kSilent) {
    pair.server = os::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    send_at_once(pair.server.get());
    const sockaddr_in address = loopback(upstream_);
    if (::connect(pair.server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
        0) {
      reset_on_close(fd);
      return;
    }
  }
  pairs_.push_back(std::move(pair));
  ++connections_;
}

void FaultProxy::apply_orders() {
  const int order = order_.load();
  if (order == 1 || order == 2) {
    for (Pair& pair : pairs_) {
      if (order == 1) {
        reset_on_close(pair.client.get());
        if (pair.server.valid()) reset_on_close(pair.server.get());
      }
    }
    pairs_.clear();
    connections_ = 0;
  }
  if (order == 3) {
    for (Pair& pair : pairs_) {
      pair.half_open = true;
      pair.server = os::Fd();
    }
  }
  order_ = 0;
}

bool FaultProxy::pump(Pair& pair) {
  const bool due = delay_ns_.load() == 0 || os::real_clock().mono_ns() >= pair.held_until_ns;
  if (pair.server.valid() && due && !write_some(pair.server.get(), pair.to_server)) return false;
  return write_some(pair.client.get(), pair.to_client);
}

void FaultProxy::run() {
  while (!stopping_) {
    std::vector<pollfd> polls;
    int listener = -1;
    {
      const std::lock_guard lock(mutex_);
      listener = listener_.get();
    }
    polls.push_back({.fd = wake_read_.get(), .events = POLLIN, .revents = 0});
    polls.push_back({.fd = listener, .events = POLLIN, .revents = 0});
    bool waiting = false;
    for (Pair& pair : pairs_) {
      const auto events = [](const std::string& out) -> short {
        return out.empty() ? POLLIN : POLLIN | POLLOUT;
      };
      const bool held = delay_ns_.load() != 0 && !pair.to_server.empty();
      waiting |= held;
      polls.push_back({.fd = pair.client.get(), .events = events(pair.to_client), .revents = 0});
      polls.push_back({.fd = pair.server.get(),
                       .events = held ? short{POLLIN} : events(pair.to_server),
                       .revents = 0});
    }
    ::poll(polls.data(), polls.size(), waiting ? 1 : 1000);
    char drained[64];
    while (::read(wake_read_.get(), drained, sizeof drained) > 0) {
    }
    std::size_t i = 2;
    for (auto pair = pairs_.begin(); pair != pairs_.end(); i += 2) {
      bool alive = true;
      if (polls[i].revents != 0) alive = take_from_client(*pair);
      if (alive && pair->server.valid() && polls[i + 1].revents != 0)
        alive = take_from_server(*pair);
      (void)(alive && (alive = pump(*pair)));
      if (!alive) {
        // What came with the end is passed on before it.
        if (pair->server.valid()) (void)pump(*pair);
        pair = pairs_.erase(pair);
        --connections_;
      } else {
        ++pair;
      }
    }
    apply_orders();
    if ((polls[1].revents & POLLIN) != 0) accept_one();
  }
}

}  // namespace defib::connection::testing
