// Probe: one health check. What it checks (heartbeat, HTTP, TCP, exec, SQL, resource limit) is the
// module's that offers it; how results become health is here and the same for all.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::recovery {

struct ProbeResult {
  bool healthy = false;
  std::string detail = {};          // "HTTP 200 in 3 ms"
  std::optional<Error> error = {};  // set when not healthy
};

class Probe {
 public:
  virtual ~Probe() = default;
  virtual std::string name() const = 0;
  // Blocks at most `timeout`; called from a worker thread.
  virtual ProbeResult check(os::Duration timeout) = 0;
};

struct ProbePolicy {
  os::Duration interval = std::chrono::seconds(30);
  os::Duration timeout = std::chrono::seconds(5);
  int failures_to_unhealthy = 3;  // in a row
  int successes_to_healthy = 1;   // in a row
  os::Duration start_grace{0};    // failures within it after the start do not count
  friend bool operator==(const ProbePolicy&, const ProbePolicy&) = default;
};

enum class Health { kUnknown, kHealthy, kUnhealthy };

// Turns single results into health, with hysteresis. Pure; time is an argument.
class HealthTracker {
 public:
  HealthTracker(ProbePolicy policy, std::int64_t started_mono_ns)
      : policy_(policy), started_(started_mono_ns) {}
  // True when the health changed.
  bool add(const ProbeResult& result, std::int64_t mono_ns);
  Health health() const { return health_; }
  int failures_in_row() const { return failures_; }
  const std::optional<Error>& last_error() const { return last_error_; }

 private:
  ProbePolicy policy_;
  std::int64_t started_;
  Health health_ = Health::kUnknown;
  int failures_ = 0;
  int successes_ = 0;
  std::optional<Error> last_error_;
};

// Opens a TCP connection to host:port.
std::unique_ptr<Probe> tcp_probe(std::string host, std::uint16_t port);
// Runs a command; exit code 0 is healthy.
std::unique_ptr<Probe> exec_probe(std::vector<std::string> argv);

}  // namespace defib::recovery
