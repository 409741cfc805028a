// ProbeAttempt: how one kind of check is made, on the event loop and without a thread. When a check
// is made and what its results mean is health_check.h's.
//
// An attempt that hangs holds a socket or a process until it is abandoned, and nothing else.
// Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"

namespace defib::daemon {

// "http://HOST[:PORT][/PATH]" or "HOST:PORT" taken apart.
struct ProbeTarget {
  std::string host;  // without the brackets of an IPv6 address
  std::string port = "80";
  std::string path = "/";  // of HTTP
  // InvalidArgument says what is wrong; https is told apart, since it is not supported.
  static Result<ProbeTarget> parse_url(std::string_view url);
  static Result<ProbeTarget> parse_address(std::string_view address);
};

class ProbeAttempt {
 public:
  using Done = std::function<void(bool healthy, std::string detail)>;
  virtual ~ProbeAttempt() = default;
  // `done` is called once, unless the attempt is abandoned before; it may destroy the attempt.
  virtual void begin(Done done) = 0;
  // Ends what is under way without a result. No effect where nothing is.
  virtual void abandon() = 0;
};

// GET; 2xx and 3xx are healthy. Resolves the name, which may block: made when a service is
// described.
Result<std::unique_ptr<ProbeAttempt>> make_http_attempt(os::EventLoop& loop, std::string_view url);
// A connection that is established is healthy.
Result<std::unique_ptr<ProbeAttempt>> make_tcp_attempt(os::EventLoop& loop,
                                                       std::string_view address);

// A command; exit code 0 is healthy. It runs in a session of its own; at its end, and when it is
// abandoned, what is left of its process group and of its descendants is killed and reaped.
struct ExecCommand {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env;  // added to the supervisor's own
  std::string working_directory;
};
std::unique_ptr<ProbeAttempt> make_exec_attempt(os::EventLoop& loop, ExecCommand command);

}  // namespace defib::daemon
