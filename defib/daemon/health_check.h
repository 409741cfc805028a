// HTTP health checks on the event loop: one GET over a non-blocking socket, no HTTP library.
//
// 2xx and 3xx within the timeout is healthy. Only the status line is read; the connection is closed
// after it. Names are resolved when the service is described, so that no lookup blocks the loop.
// Thread rule: the loop's thread.

#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/service_config.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"
#include "defib/recovery/probe.h"

namespace defib::daemon {

// "http://HOST[:PORT][/PATH]" taken apart.
struct HttpTarget {
  std::string host;  // without the brackets of an IPv6 address
  std::string port = "80";
  std::string path = "/";
  // InvalidArgument says what is wrong; https is told apart, since it is not supported.
  static Result<HttpTarget> parse(std::string_view url);
};

class HealthChecker {
 public:
  using OnChange = std::function<void(recovery::Health health, const std::string& detail)>;
  // Resolves the name (may block) and checks from now on, first after one interval.
  static Result<std::unique_ptr<HealthChecker>> start(os::EventLoop& loop, HealthCheck check,
                                                      OnChange on_change);
  ~HealthChecker();
  HealthChecker(const HealthChecker&) = delete;
  HealthChecker& operator=(const HealthChecker&) = delete;

  // The service was (re)started: forget what was, and give it one interval.
  void restart();
  // The service does not run: do not check.
  void pause();

 private:
  HealthChecker(os::EventLoop& loop, HealthCheck check, OnChange on_change)
      : loop_(loop), check_(std::move(check)), on_change_(std::move(on_change)) {}
  void schedule();
  void begin();
  void connect_next();
  void connect_failed(int error_number);
  void advance(std::uint32_t events);
  void finish(bool healthy, std::string detail);
  void close();
  void close_socket();

  os::EventLoop& loop_;
  HealthCheck check_;
  OnChange on_change_;
  HttpTarget target_;
  struct Address {
    sockaddr_storage bytes = {};
    socklen_t size = 0;
  };
  std::vector<Address> addresses_;
  std::size_t next_address_ = 0;
  std::unique_ptr<recovery::HealthTracker> tracker_;
  os::EventLoop::TimerId next_ = 0, deadline_ = 0;
  os::Fd socket_;
  std::string received_;
  std::size_t sent_ = 0;
  std::int64_t begun_mono_ns_ = 0;
};

}  // namespace defib::daemon
