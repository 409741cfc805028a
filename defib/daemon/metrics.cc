#include "defib/daemon/metrics.h"

#include <algorithm>

#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

// Room for a hundred services with a dozen numbers each; disk space, not memory, until it is used.
constexpr obs::Registry::Options kBounds{.max_metrics = 1024, .max_slots = 4096};
constexpr obs::Registry::Options kBoundsInMemory{.max_metrics = 128, .max_slots = 2048};

std::string_view reason_of(const process::ExitReport& report) {
  switch (report.reason) {
    case process::StopReason::kRequested:
      return "requested";
    case process::StopReason::kHung:
      return "hung";
    case process::StopReason::kUnhealthy:
      return "unhealthy";
    case process::StopReason::kLimit:
      return "limit";
    case process::StopReason::kNotReady:
      return "not_ready";
    default:
      break;
  }
  if (!report.status.known) return "unknown";
  if (!report.status.exited) return "signal";
  return report.status.code == 0 ? "clean" : "exit_code";
}

}  // namespace

Metrics::Metrics(const std::string& path) {
  auto opened = obs::Registry::open(path, kBounds);
  if (!opened) {
    obs::log(obs::Level::kWarning, "daemon", "counters are kept in memory only",
             {{"path", path}, {"error", opened.error()}});
  }
  registry_ = opened ? std::move(*opened) : obs::Registry::in_memory(kBoundsInMemory);
  detection_.emplace(registry_->histogram(
      "defib_crash_detection_seconds",
      "From the crash handler's first instruction, or the death, to its notice by the shim",
      obs::Unit::kNanoseconds));
  hang_detection_.emplace(registry_->histogram("defib_hang_detection_seconds",
                                               "From a heartbeat's deadline to its notice",
                                               obs::Unit::kNanoseconds));
  restart_.emplace(registry_->histogram("defib_restart_seconds",
                                        "From a failure to the start of the replacement",
                                        obs::Unit::kNanoseconds));
  // A file of an earlier run has it counted already: this is one start more.
  registry_->counter("defib_supervisor_starts_total", "Starts of the supervising process").add();
  for (const char* severity : {"info", "warning", "critical"}) {
    registry_->counter("defib_alert_events_total", "Events that alerts were made of",
                       {{"severity", severity}});
  }
  registry_->counter("defib_alert_events_dropped_total", "Events that found no place in the queue");
}

Metrics::~Metrics() = default;

obs::Counter Metrics::of(const char* name, const char* help, const std::string& service) {
  return registry_->counter(name, help, {{"service", service}});
}

obs::Counter Metrics::of(const char* name, const char* help, const std::string& service,
                         const char* label, std::string_view value) {
  return registry_->counter(name, help, {{"service", service}, {label, std::string(value)}});
}

void Metrics::started(const process::StartInfo& info) {
  of("defib_service_starts_total", "Starts of a service's process", info.service).add();
  const auto down = down_.find(info.service);
  if (down == down_.end()) return;
  const std::int64_t lost = info.mono_ns - down->second.mono_ns;
  if (info.automatic) {
    of("defib_service_restarts_total", "Automatic restarts, by the cause of the failure",
       info.service, "cause", down->second.cause)
        .add();
    if (lost > 0) restart_->record(os::Duration(lost));
  }
  if (lost > 0) {
    registry_
        ->counter("defib_service_lost_seconds_total",
                  "Time from failures to the starts of replacements", {{"service", info.service}},
                  obs::Unit::kNanoseconds)
        .add(static_cast<std::uint64_t>(lost));
  }
  down_.erase(down);
}

void Metrics::start_failed(const std::string& service) {
  of("defib_service_start_failures_total", "Starts that failed", service).add();
}

void Metrics::exited(const process::ExitReport& report, std::string_view cause) {
  of("defib_service_exits_total", "Ends of a service's process, by reason", report.service,
     "reason", reason_of(report))
      .add();
  if (report.reason == process::StopReason::kRequested) return;
  const bool crashed = report.crashed_mono_ns != 0 && !report.while_away;
  if (crashed && report.noticed_mono_ns >= report.crashed_mono_ns) {
    detection_->record(os::Duration(report.noticed_mono_ns - report.crashed_mono_ns));
  }
  down_[report.service] = {crashed ? report.crashed_mono_ns : report.noticed_mono_ns,
                           std::string(cause)};
}

void Metrics::hung(const process::HangReport& report) {
  of("defib_service_hangs_total", "Lost heartbeats", report.service).add();
  if (report.silent_for > report.deadline) {
    hang_detection_->record(report.silent_for - report.deadline);
  }
}

void Metrics::limit_exceeded(const process::LimitReport& report) {
  of("defib_service_limits_exceeded_total", "Times that a limit was exceeded", report.service,
     "resource", report.what)
      .add();
}

void Metrics::unhealthy(const std::string& service) {
  of("defib_service_unhealthy_total", "Times that health checks found it unhealthy", service).add();
}

void Metrics::log_matched(const std::string& service) {
  of("defib_service_log_matches_total", "Lines of output that matched the pattern", service).add();
}

void Metrics::crash_loop(const std::string& service) {
  of("defib_service_crash_loops_total", "Times that the restarts were used up", service).add();
}

void Metrics::adopted(const std::string& service) {
  of("defib_service_adoptions_total", "Times that a running process was taken over", service).add();
}

void Metrics::shim_replaced(const std::string& service) {
  of("defib_service_shim_replacements_total", "Shims that died and were replaced", service).add();
}

void Metrics::incident_opened(const std::string& service) {
  of("defib_incidents_opened_total", "Incidents that were opened", service).add();
}

void Metrics::incident_closed(const std::string& service, std::string_view outcome) {
  of("defib_incidents_closed_total", "Incidents that were closed, by outcome", service, "outcome",
     outcome)
      .add();
}

void Metrics::alert_told(std::string_view severity) {
  registry_
      ->counter("defib_alert_events_total", "Events that alerts were made of",
                {{"severity", std::string(severity)}})
      .add();
}

void Metrics::alert_dropped(std::uint64_t count) {
  registry_->counter("defib_alert_events_dropped_total", "Events that found no place in the queue")
      .add(count);
}

}  // namespace defib::daemon
