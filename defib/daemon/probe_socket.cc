#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "defib/daemon/probe_attempt.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::daemon {
namespace {

constexpr std::size_t kMaxStatusLine = 1024;

Error bad_target(std::string_view what, std::string_view text, std::string_view why) {
  const bool http = what == "health_url";
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' is no health check address: {}", text, why))
      .with("key", what)
      .suggest(http ? "write http://HOST[:PORT][/PATH]" : "write HOST:PORT, as 127.0.0.1:8080");
}

// The status of "HTTP/1.1 200 OK"; 0 where it is something else.
int status_of(std::string_view line) {
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ') return 0;
  int status = 0;
  const auto [end, failed] = std::from_chars(line.data() + 9, line.data() + 12, status);
  return failed == std::errc{} && end == line.data() + 12 ? status : 0;
}

// "HOST", "HOST:PORT", "[V6]:PORT" into the target.
Result<> take_apart(std::string_view what, std::string_view text, std::string_view rest,
                    ProbeTarget& target) {
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return bad_target(what, text, "'[' is not closed");
    target.host = rest.substr(1, end - 1);
    rest = rest.substr(end + 1);
  } else {
    const std::size_t colon = rest.find(':');
    target.host = rest.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon);
  }
  if (target.host.empty()) return bad_target(what, text, "it has no host");
  if (rest.empty()) return {};
  unsigned port = 0;
  const auto [end, failed] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), port);
  const bool whole = failed == std::errc{} && end == rest.data() + rest.size();
  if (rest[0] != ':' || !whole || port == 0 || port > 65535) {
    return bad_target(what, text, "its port is not a number from 1 to 65535");
  }
  target.port = rest.substr(1);
  return {};
}

bool has_control_character(std::string_view text) {
  for (const char c : text) {
    if (c <= ' ' || c == '\x7f') return true;
  }
  return false;
}

struct Address {
  sockaddr_storage bytes = {};
  socklen_t size = 0;
};

Result<std::vector<Address>> resolve(const ProbeTarget& target) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found);
  if (failed != 0) {
    return Error(Code::kUnavailable, fmt::format("the health check's host '{}' has no address: {}",
                                                 target.host, gai_strerror(failed)))
        .with("key", "health_url");
  }
  std::vector<Address> addresses;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    Address& address = addresses.emplace_back();
    address.size = one->ai_addrlen;
    std::memcpy(&address.bytes, one->ai_addr, one->ai_addrlen);
  }
  freeaddrinfo(found);
  return addresses;
}

class SocketAttempt final : public ProbeAttempt {
 public:
  SocketAttempt(os::EventLoop& loop, std::string name, ProbeTarget target,
                std::vector<Address> addresses, bool http)
      : loop_(loop), name_(std::move(name)), addresses_(std::move(addresses)), http_(http) {
    if (http_) {
      request_ = fmt::format(
          "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: defib\r\nConnection: close\r\n\r\n",
          target.path, target.host, target.port);
    }
  }
  ~SocketAttempt() override { abandon(); }

  void begin(Done done) override {
    abandon();
    done_ = std::move(done);
    begun_mono_ns_ = loop_.clock().mono_ns();
    next_address_ = 0;
    connect_next();
  }

  void abandon() override {
    done_ = nullptr;
    close_socket();
  }

 private:
  // "localhost" is two addresses, and a server may listen on one of them only.
  void connect_next();
  void connect_failed(int error_number);
  void advance(std::uint32_t events);
  bool send_request();
  void finish(bool healthy, std::string detail);
  void close_socket();
  std::string took() const {
    return os::format_duration(os::Duration(loop_.clock().mono_ns() - begun_mono_ns_));
  }

  os::EventLoop& loop_;
  std::string name_;
  std::vector<Address> addresses_;
  bool http_;
  std::string request_;
  Done done_;
  std::size_t next_address_ = 0;
  os::Fd socket_;
  bool connected_ = false;
  std::string received_;
  std::size_t sent_ = 0;
  std::int64_t begun_mono_ns_ = 0;
};

void SocketAttempt::connect_next() {
  close_socket();
  received_.clear();
  sent_ = 0;
  connected_ = false;
  const Address& address = addresses_[next_address_++];
  socket_ = os::Fd(socket(address.bytes.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket_.valid()) return finish(false, os::system_error("socket").message());
  const int result =
      connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.size);
  if (result != 0 && errno != EINPROGRESS) return connect_failed(errno);
  const auto watched =
      loop_.watch(socket_.get(), EPOLLOUT, [this](std::uint32_t events) { advance(events); });
  if (!watched) finish(false, watched.error().message());
}

void SocketAttempt::connect_failed(int error_number) {
  if (next_address_ < addresses_.size()) return connect_next();
  finish(false, os::system_error("connect", name_, error_number).message());
}

// Whether the attempt goes on.
bool SocketAttempt::send_request() {
  const ssize_t written =
      send(socket_.get(), request_.data() + sent_, request_.size() - sent_, MSG_NOSIGNAL);
  if (written < 0 && errno != EAGAIN && errno != EINTR) {
    finish(false, os::system_error("send", name_).message());
    return false;
  }
  sent_ += written > 0 ? static_cast<std::size_t>(written) : 0;
  if (sent_ < request_.size()) return true;
  if (const auto changed = loop_.modify(socket_.get(), EPOLLIN); !changed) {
    finish(false, changed.error().message());
    return false;
  }
  return true;
}

// Sends what is left of the request, then reads until the status line is whole.
void SocketAttempt::advance(std::uint32_t events) {
  if (!connected_) {
    int failed = 0;
    socklen_t size = sizeof failed;
    getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed != 0) return connect_failed(failed);
    connected_ = true;
    if (!http_) return finish(true, fmt::format("connected in {}", took()));
  }
  if (sent_ < request_.size()) {
    static_cast<void>(send_request());
    return;
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  char buffer[kMaxStatusLine];
  const ssize_t got = recv(socket_.get(), buffer, sizeof buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const int receive_error = errno;
  if (got > 0) received_.append(buffer, static_cast<std::size_t>(got));
  const std::size_t end = received_.find("\r\n");
  if (end == std::string::npos && got > 0 && received_.size() < kMaxStatusLine) return;
  const int status = status_of(received_);
  if (status == 0) {
    return finish(false, got < 0 ? os::system_error("recv", name_, receive_error).message()
                                 : std::string("the answer is not HTTP"));
  }
  finish(status >= 200 && status < 400, fmt::format("HTTP {} in {}", status, took()));
}

void SocketAttempt::finish(bool healthy, std::string detail) {
  close_socket();
  // Last: the receiver may destroy this attempt.
  if (Done done = std::exchange(done_, nullptr)) done(healthy, std::move(detail));
}

void SocketAttempt::close_socket() {
  if (!socket_.valid()) return;
  loop_.unwatch(socket_.get());
  socket_.reset();
}

Result<std::unique_ptr<ProbeAttempt>> make_socket_attempt(os::EventLoop& loop,
                                                          std::string_view name, ProbeTarget target,
                                                          bool http) {
  DEFIB_TRY_ASSIGN(std::vector<Address> addresses, resolve(target));
  return std::unique_ptr<ProbeAttempt>(
      new SocketAttempt(loop, std::string(name), std::move(target), std::move(addresses), http));
}

}  // namespace

Result<ProbeTarget> ProbeTarget::parse_url(std::string_view url) {
  constexpr std::string_view kWhat = "health_url";
  constexpr std::string_view kScheme = "http://";
  if (url.starts_with("https://")) {
    return bad_target(kWhat, url, "https is not supported; check a local plain address");
  }
  if (!url.starts_with(kScheme)) return bad_target(kWhat, url, "it does not begin with http://");
  std::string_view rest = url.substr(kScheme.size());
  if (has_control_character(rest)) {
    return bad_target(kWhat, url, "it holds a space or a control character");
  }
  ProbeTarget target;
  if (const std::size_t slash = rest.find('/'); slash != std::string_view::npos) {
    target.path = rest.substr(slash);
    rest = rest.substr(0, slash);
  }
  DEFIB_TRY(take_apart(kWhat, url, rest, target));
  return target;
}

Result<ProbeTarget> ProbeTarget::parse_address(std::string_view address) {
  ProbeTarget target;
  target.port.clear();
  if (has_control_character(address)) {
    return bad_target("address", address, "it holds a space or a control character");
  }
  DEFIB_TRY(take_apart("address", address, address, target));
  if (target.port.empty()) return bad_target("address", address, "it has no port");
  return target;
}

Result<std::unique_ptr<ProbeAttempt>> make_http_attempt(os::EventLoop& loop, std::string_view url) {
  DEFIB_TRY_ASSIGN(ProbeTarget target, ProbeTarget::parse_url(url));
  return make_socket_attempt(loop, url, std::move(target), true);
}

Result<std::unique_ptr<ProbeAttempt>> make_tcp_attempt(os::EventLoop& loop,
                                                       std::string_view address) {
  DEFIB_TRY_ASSIGN(ProbeTarget target, ProbeTarget::parse_address(address));
  return make_socket_attempt(loop, address, std::move(target), false);
}

}  // namespace defib::daemon
