// [http] of defib.toml, and the program defib-http that serves it beside the daemon.
//
// The daemon links no HTTP: it starts the helper, and starts it again, with back-off, where it
// ends. The helper dies with the daemon, so that the next one finds the port free. Thread rule: the
// loop's thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/daemon/helper_process.h"
#include "defib/os/event_loop.h"
#include "defib/recovery/policy.h"

namespace defib::daemon {

struct HttpSettings {
  std::string listen = "127.0.0.1:9464";
  std::string token;          // a reference to a secret; empty: nothing can be changed over HTTP
  bool allow_remote = false;  // an address that others reach; needs a token
  friend bool operator==(const HttpSettings&, const HttpSettings&) = default;
};

struct ListenAddress {
  std::string host;
  std::uint16_t port = 0;
  bool loopback = false;
};
// "127.0.0.1:9464", "[::1]:9464", "localhost:9464". InvalidArgument says what is wrong.
Result<ListenAddress> parse_listen(const std::string& text);
// Refuses what would be open to others without a token.
Result<ListenAddress> check_http(const HttpSettings& settings);

// [http]; mistakes are kept by the document. Nothing where there is no such table.
std::optional<HttpSettings> read_http(conf::Section section);

class HttpHelper {
 public:
  HttpHelper(os::EventLoop& loop, std::string state_dir);
  ~HttpHelper();
  HttpHelper(const HttpHelper&) = delete;
  HttpHelper& operator=(const HttpHelper&) = delete;
  // From now on this is served; nothing: nothing is.
  void serve(const std::optional<HttpSettings>& settings);
  // At once: the port is free when it returns, for the program that takes this one's place.
  void end();
  pid_t pid() const { return process_.pid(); }

 private:
  void start();
  os::EventLoop& loop_;
  std::string state_dir_;
  std::optional<HttpSettings> settings_;
  HelperProcess process_;
  recovery::Backoff backoff_;
  std::int64_t started_mono_ns_ = 0;
  os::EventLoop::TimerId timer_ = 0;
};

}  // namespace defib::daemon
