// HealthChecker: makes one probe's checks again and again, and turns their results into health.
//
// recovery::HealthTracker decides: thresholds in a row, start-up grace. A check that gives no
// answer within its timeout is a failed one. A probe that readiness waits for is tried at once and
// often until it first passes; failures before that do not count, since the service has its
// ready_timeout. Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <memory>
#include <string>

#include "defib/base/error.h"
#include "defib/daemon/probe_attempt.h"
#include "defib/daemon/sensor_config.h"
#include "defib/os/event_loop.h"
#include "defib/recovery/probe.h"

namespace defib::daemon {

// A change of a probe's health, with what led to it.
struct HealthChange {
  recovery::Health health = recovery::Health::kUnknown;
  std::string detail;  // of the last check: "HTTP 503 in 2 ms"
  int failures = 0;    // in a row
};

class HealthChecker {
 public:
  struct Observer {
    std::function<void(const HealthChange&)> on_change;
    std::function<void()> on_first_pass;  // empty: readiness does not wait for this probe
  };
  // Resolves a name (may block); `service` is told to commands. Checks only between restart() and
  // pause().
  static Result<std::unique_ptr<HealthChecker>> create(os::EventLoop& loop, ProbeConfig config,
                                                       const std::string& service,
                                                       Observer observer);
  ~HealthChecker();
  HealthChecker(const HealthChecker&) = delete;
  HealthChecker& operator=(const HealthChecker&) = delete;

  // The service was (re)started: forget what was. The first check comes after one interval, or at
  // once where readiness waits for it (`awaited`, and the observer has on_first_pass).
  void restart(bool awaited);
  // The service does not run: do not check.
  void pause();
  const ProbeConfig& config() const { return config_; }
  recovery::Health health() const;

 private:
  HealthChecker(os::EventLoop& loop, ProbeConfig config, Observer observer)
      : loop_(loop), config_(std::move(config)), observer_(std::move(observer)) {}
  void schedule(os::Duration delay);
  void begin();
  void finish(bool healthy, std::string detail);
  os::Duration next_delay();

  os::EventLoop& loop_;
  ProbeConfig config_;
  Observer observer_;
  std::unique_ptr<ProbeAttempt> attempt_;
  std::unique_ptr<recovery::HealthTracker> tracker_;
  os::EventLoop::TimerId next_ = 0, deadline_ = 0;
  bool awaited_ = false;  // readiness waits for the first pass
  os::Duration awaiting_delay_{0};
};

}  // namespace defib::daemon
