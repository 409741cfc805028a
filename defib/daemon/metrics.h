// Metrics: what a supervising process counts, in a mapped file that outlives it: STATE/counters, or
// STATE/counters.NAME for `defib run`. docs/metrics.md lists them.
//
// A service's numbers are made when there is something to count, so that a hundred quiet services
// cost no memory. Whoever shows them (the HTTP helper) fills in the zeros.
// Thread rule: the loop's thread; any process reads the file.

#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "defib/obs/counters.h"
#include "defib/process/supervisor.h"

namespace defib::daemon {

inline constexpr std::string_view kCountersFile = "counters";

class Metrics {
 public:
  // Counts in memory alone where the file cannot be had, and says so in the log.
  explicit Metrics(const std::string& path);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void started(const process::StartInfo& info);
  void start_failed(const std::string& service);
  void exited(const process::ExitReport& report, std::string_view cause);
  void hung(const process::HangReport& report);
  void limit_exceeded(const process::LimitReport& report);
  void unhealthy(const std::string& service);
  void log_matched(const std::string& service);
  void crash_loop(const std::string& service);
  void slow_lane(const std::string& service);
  void promoted(const process::PromotionReport& report);
  void adopted(const std::string& service);
  void shim_replaced(const std::string& service);
  void incident_opened(const std::string& service);
  void incident_closed(const std::string& service, std::string_view outcome);
  void alert_told(std::string_view severity);
  void alert_dropped(std::uint64_t count);

 private:
  // A failure whose replacement is awaited.
  struct Down {
    std::int64_t mono_ns = 0;
    std::string cause;
    std::string_view kind;  // of the restart, as far as its delay tells
  };
  struct Begin {
    std::uint64_t generation = 0;  // 0: none was seen
    std::int64_t mono_ns = 0;
    bool automatic = false;
    std::string_view kind;  // empty: that of the failure
  };
  struct Life {
    Begin newest;
    std::optional<Down> down;
  };
  void begun(const std::string& service, const Begin& begin);
  void count_replacement(const std::string& service, Life& life);
  obs::Counter of(const char* name, const char* help, const std::string& service);
  obs::Counter of(const char* name, const char* help, const std::string& service, const char* label,
                  std::string_view value);
  std::unique_ptr<obs::Registry> registry_;
  std::optional<obs::Histogram> detection_, hang_detection_, restart_;
  std::map<std::string, Life> lives_;  // of services that were started or failed since we began
};

}  // namespace defib::daemon
