// Endpoint: what is answered over HTTP (docs/http.md).
//
//   GET  /metrics                        Prometheus' text format
//   GET  /health[/NAME]  /ready[/NAME]   200 or 503
//   GET  /status                         as `defib status --json`
//   POST /services/NAME/{start,stop,restart,reset}   with the token
//
// It holds nothing: every answer comes from the control socket and the counters files. One look at
// the control socket serves all requests of the next quarter of a second, so that scraping does not
// wake the daemon more often. Thread rule: handle() from many threads at once.

#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"

namespace defib::endpoint {

// Resident memory of processes that nobody samples. Their files stay open between two pages, so
// that one reading costs one system call. Thread rule: one thread at a time.
class MemoryReader {
 public:
  // 0 where it cannot be read.
  std::int64_t bytes(const std::string& service, std::int64_t pid, std::int64_t started_wall_ns);
  void forget_others(const std::set<std::string>& services);

 private:
  struct Open {
    std::int64_t pid = 0, started_wall_ns = 0;
    os::Fd statm;
  };
  std::map<std::string, Open> open_;
};

class Endpoint {
 public:
  struct Options {
    std::string state_dir;
    std::string version;
    conf::Secret token;    // empty: nothing can be changed over HTTP
    bool loopback = true;  // else everything but /health and /ready needs the token
    os::Duration status_age = std::chrono::milliseconds(250);
  };
  explicit Endpoint(Options options) : options_(std::move(options)) {}
  wire::HttpResponse handle(const wire::HttpRequest& request);

 private:
  struct Status {
    wire::Json json;
    bool supervised = false;  // the daemon answered
  };
  Status status();
  wire::HttpResponse metrics();
  std::string make_page();
  wire::HttpResponse health(std::string_view service);
  wire::HttpResponse ready(std::string_view service);
  wire::HttpResponse change(const std::string& service, const std::string& op);
  // 200 where the request may go on.
  int authorize(const wire::HttpRequest& request) const;

  Options options_;
  std::mutex mutex_;  // guards the two below, and that one thread at a time asks the daemon
  Status status_;
  std::int64_t asked_mono_ns_ = INT64_MIN;
  std::mutex page_mutex_;  // guards the two below, as above
  std::string page_;
  std::int64_t page_mono_ns_ = INT64_MIN;
  MemoryReader memory_;  // under page_mutex_
};

// What a path asks for.
struct Route {
  enum class What { kNone, kMetrics, kHealth, kReady, kStatus, kChange };
  What what = What::kNone;
  std::string service;  // empty: all
  std::string op;       // kChange
};
// `target` is path and query as the client wrote it. kNone for anything else, also for a name that
// no service can have.
Route parse_route(std::string_view target);
// Takes the same time wherever the texts differ.
bool equal_in_constant_time(std::string_view a, std::string_view b);
// A name by which this machine is meant on its loopback address: guards against pages of a browser
// that reach us under a name of their own.
bool is_local_host(std::string_view host_header);

}  // namespace defib::endpoint
