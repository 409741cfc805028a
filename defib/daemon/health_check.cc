#include "defib/daemon/health_check.h"

#include <fmt/core.h>
#include <netdb.h>
#include <sys/epoll.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace defib::daemon {
namespace {

constexpr std::size_t kMaxStatusLine = 1024;

Error bad_url(std::string_view url, std::string_view why) {
  return Error(Code::kInvalidArgument, fmt::format("'{}' is no health check address: {}", url, why))
      .with("key", "health_url")
      .suggest("write http://HOST[:PORT][/PATH]");
}

// The status of "HTTP/1.1 200 OK"; 0 where it is something else.
int status_of(std::string_view line) {
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ') return 0;
  int status = 0;
  const auto [end, failed] = std::from_chars(line.data() + 9, line.data() + 12, status);
  return failed == std::errc{} && end == line.data() + 12 ? status : 0;
}

}  // namespace

Result<HttpTarget> HttpTarget::parse(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (url.starts_with("https://")) {
    return bad_url(url, "https is not supported; check a local plain address");
  }
  if (!url.starts_with(kScheme)) return bad_url(url, "it does not begin with http://");
  std::string_view rest = url.substr(kScheme.size());
  for (const char c : rest) {
    if (c <= ' ' || c == '\x7f') return bad_url(url, "it holds a space or a control character");
  }
  HttpTarget target;
  if (const std::size_t slash = rest.find('/'); slash != std::string_view::npos) {
    target.path = rest.substr(slash);
    rest = rest.substr(0, slash);
  }
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return bad_url(url, "'[' is not closed");
    target.host = rest.substr(1, end - 1);
    rest = rest.substr(end + 1);
  } else {
    const std::size_t colon = rest.find(':');
    target.host = rest.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon);
  }
  if (target.host.empty()) return bad_url(url, "it has no host");
  if (!rest.empty()) {
    unsigned port = 0;
    const auto [end, failed] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), port);
    const bool whole = failed == std::errc{} && end == rest.data() + rest.size();
    if (rest[0] != ':' || !whole || port == 0 || port > 65535) {
      return bad_url(url, "its port is not a number from 1 to 65535");
    }
    target.port = rest.substr(1);
  }
  return target;
}

Result<std::unique_ptr<HealthChecker>> HealthChecker::start(os::EventLoop& loop, HealthCheck check,
                                                            OnChange on_change) {
  DEFIB_TRY_ASSIGN(HttpTarget target, HttpTarget::parse(check.url));
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found);
  if (failed != 0) {
    return Error(Code::kUnavailable, fmt::format("the health check's host '{}' has no address: {}",
                                                 target.host, gai_strerror(failed)))
        .with("key", "health_url");
  }
  std::unique_ptr<HealthChecker> checker(
      new HealthChecker(loop, std::move(check), std::move(on_change)));
  checker->target_ = std::move(target);
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    Address& address = checker->addresses_.emplace_back();
    address.size = one->ai_addrlen;
    std::memcpy(&address.bytes, one->ai_addr, one->ai_addrlen);
  }
  freeaddrinfo(found);
  checker->restart();
  return checker;
}

HealthChecker::~HealthChecker() {
  pause();
}

void HealthChecker::restart() {
  pause();
  const recovery::ProbePolicy policy = {.interval = check_.interval,
                                        .timeout = check_.timeout,
                                        .failures_to_unhealthy = check_.failures};
  tracker_ = std::make_unique<recovery::HealthTracker>(policy, loop_.clock().mono_ns());
  schedule();
}

void HealthChecker::pause() {
  if (next_ != 0) loop_.cancel(next_);
  next_ = 0;
  close();
}

void HealthChecker::schedule() {
  next_ = loop_.run_after(check_.interval, [this] {
    next_ = 0;
    begin();
  });
}

void HealthChecker::begin() {
  begun_mono_ns_ = loop_.clock().mono_ns();
  next_address_ = 0;
  deadline_ = loop_.run_after(check_.timeout, [this] {
    deadline_ = 0;
    finish(false, fmt::format("no answer within {}", os::format_duration(check_.timeout)));
  });
  connect_next();
}

// "localhost" is two addresses, and a server may listen on one of them only.
void HealthChecker::connect_next() {
  close_socket();
  received_.clear();
  sent_ = 0;
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

void HealthChecker::connect_failed(int error_number) {
  if (next_address_ < addresses_.size()) return connect_next();
  finish(false, os::system_error("connect", check_.url, error_number).message());
}

// Sends what is left of the request, then reads until the status line is whole.
void HealthChecker::advance(std::uint32_t events) {
  const std::string request = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: defib\r\nConnection: close\r\n\r\n",
      target_.path, target_.host, target_.port);
  if (sent_ < request.size()) {
    int failed = 0;
    socklen_t size = sizeof failed;
    getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed != 0) return connect_failed(failed);
    const ssize_t written =
        send(socket_.get(), request.data() + sent_, request.size() - sent_, MSG_NOSIGNAL);
    if (written < 0 && errno != EAGAIN) {
      return finish(false, os::system_error("send", check_.url).message());
    }
    sent_ += written > 0 ? static_cast<std::size_t>(written) : 0;
    if (sent_ == request.size()) {
      if (const auto changed = loop_.modify(socket_.get(), EPOLLIN); !changed) {
        finish(false, changed.error().message());
      }
    }
    return;
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  char buffer[kMaxStatusLine];
  const ssize_t got = recv(socket_.get(), buffer, sizeof buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) received_.append(buffer, static_cast<std::size_t>(got));
  const std::size_t end = received_.find("\r\n");
  if (end == std::string::npos && got > 0 && received_.size() < kMaxStatusLine) return;
  const int status = status_of(received_);
  if (status == 0) {
    return finish(false, got < 0 ? os::system_error("recv", check_.url).message()
                                 : std::string("the answer is not HTTP"));
  }
  const os::Duration took(loop_.clock().mono_ns() - begun_mono_ns_);
  finish(status >= 200 && status < 400,
         fmt::format("HTTP {} in {}", status, os::format_duration(took)));
}

void HealthChecker::finish(bool healthy, std::string detail) {
  close();
  schedule();
  recovery::ProbeResult result;
  result.healthy = healthy;
  result.detail = detail;
  if (!healthy) {
    result.error = Error(Code::kProbeFailed,
                         fmt::format("the health check {} failed: {}", check_.url, detail));
  }
  // Last: the observer may restart, pause or destroy this checker.
  if (tracker_->add(result, loop_.clock().mono_ns())) on_change_(tracker_->health(), detail);
}

void HealthChecker::close() {
  if (deadline_ != 0) loop_.cancel(deadline_);
  deadline_ = 0;
  close_socket();
}

void HealthChecker::close_socket() {
  if (socket_.valid()) {
    loop_.unwatch(socket_.get());
    socket_.reset();
  }
}

}  // namespace defib::daemon
