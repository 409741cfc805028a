// The page /metrics: what the supervising processes and the sender counted (in their mapped files),
// and how the services are now. Text format 0.0.4. docs/metrics.md lists all.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/obs/counters.h"
#include "defib/wire/json.h"

namespace defib::endpoint {

// How one service is, as far as the page tells it.
struct ServiceNow {
  std::string name;
  std::string state;
  std::int64_t pid = 0;  // 0: it does not run
  bool supervised = false;
  std::int64_t restarts_in_window = 0, restart_limit = 0;
  std::int64_t started_wall_ns = 0;
  std::int64_t memory_bytes = 0;
  double cpu_percent = 0;
  std::int64_t heartbeat_age_ns = -1;  // -1: it never beat
  bool slow_lane = false;              // it failed too often, and waits for its next slow start
  // Bytes of output that were not kept, lines that journald did not take, events of the shim.
  std::int64_t log_dropped_by_rate = 0, log_dropped_by_disk = 0;
  std::int64_t journal_dropped = 0, events_dropped = 0;
};
// One of "services" of defib.status/1, and of the daemon's shorter answer to {"op":"metrics"}.
ServiceNow service_from_status(const wire::Json& service);
ServiceNow service_from_metrics(const wire::Json& row);

struct Page {
  std::vector<obs::MetricSample> counters;  // merged
  std::vector<ServiceNow> services;
  bool supervised = false;  // the daemon answered
  std::int64_t queue_bytes = 0;
  std::string version;
};
// Counters that a service has not begun are shown as zero.
std::string render(const Page& page);

// The samples of all counters files of a state directory, merged. A file that cannot be read is
// left out.
std::vector<obs::MetricSample> read_counters(const std::string& state_dir);
std::int64_t queue_bytes(const std::string& state_dir);
// Series of one name and labels become one: counters and histograms are summed, of gauges one
// stays. Sorted by name.
void merge(std::vector<obs::MetricSample>& samples);

}  // namespace defib::endpoint
