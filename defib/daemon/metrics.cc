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
  begun(info.service, {info.generation, info.mono_ns, info.automatic, {}});
}

void Metrics::promoted(const process::PromotionReport& report) {
  begun(report.service, {report.generation, report.mono_ns, true, "promotion"});
}

void Metrics::begun(const std::string& service, const Begin& begin) {
  Life& life = lives_[service];
  life.newest = begin;
  if (life.down) count_replacement(service, life);
}

// Once both the end and the start that follows it are known, whichever was first.
void Metrics::count_replacement(const std::string& service, Life& life) {
  const Begin& begin = life.newest;
  const std::int64_t lost = begin.mono_ns - life.down->mono_ns;
  if (begin.automatic) {
    const std::string_view kind = begin.kind.empty() ? life.down->kind : begin.kind;
    registry_
        ->counter("defib_service_restarts_total", "Automatic restarts, by cause and kind",
                  {{"service", service}, {"cause", life.down->cause}, {"kind", std::string(kind)}})
        .add();
    if (lost > 0) restart_->record(os::Duration(lost));
  }
  if (lost > 0) {
    registry_
        ->counter("defib_service_lost_seconds_total",
                  "Time from failures to the starts of replacements", {{"service", service}},
                  obs::Unit::kNanoseconds)
        .add(static_cast<std::uint64_t>(lost));
  }
  life.down.reset();
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
  Life& life = lives_[report.service];
  life.down = Down{crashed ? report.crashed_mono_ns : report.noticed_mono_ns, std::string(cause),
                   report.restart_delay.count() > 0 ? "delayed" : "at_once"};
  // A replacement may begin before the old process is gone.
  if (life.newest.generation > report.generation) count_replacement(report.service, life);
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

void Metrics::slow_lane(const std::string& service) {
  of("defib_service_slow_lanes_total", "Times that it came into the slow lane", service).add();
  if (Life& life = lives_[service]; life.down) life.down->kind = "slow_lane";
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
