// What the detectors find while a service lives: limits, probes, patterns, core files.

#include <fmt/core.h>

#include "defib/daemon/incident_track.h"
#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

using process::StopReason;
using recovery::Durability;

constexpr std::string_view kComponent = "incident";
constexpr std::int64_t kMaxMatchEvents = 20;  // of one incident's matching lines
constexpr std::size_t kMaxWaitingCores = 8;

std::string amount(const process::LimitReport& report, double value) {
  if (report.what == "memory") return fmt::format("{:.1f} MB", value / (1 << 20));
  if (report.what == "cpu") return fmt::format("{:.1f} %", value);
  return fmt::format("{:.0f}", value);
}

wire::Json limit_fields(const process::LimitReport& report) {
  wire::Json fields = wire::Json::object({{"what", "limit"},
                                          {"resource", report.what},
                                          {"value", amount(report, report.value)},
                                          {"limit", amount(report, report.limit)},
                                          {"amount", report.value},
                                          {"limit_amount", report.limit},
                                          {"source", report.source},
                                          {"generation", report.generation},
                                          {"pid", report.pid},
                                          {"processes", report.processes},
                                          {"restarts", report.kills}});
  if (report.over.count() > 0) {
    fields.set("over_ns", report.over.count());
    fields.set("processors", report.processors);
  }
  return fields;
}

Finding finding_of(const process::LimitReport& report) {
  Finding finding;
  Classification classification =
      classify_exit({.reason = StopReason::kLimit, .limit = report.what});
  finding.cause = classification.cause;
  finding.fields = limit_fields(report);
  std::string sentence =
      fmt::format("it used {} ({}), the limit is {}", amount(report, report.value), report.source,
                  amount(report, report.limit));
  if (report.over.count() > 0) {
    sentence += fmt::format(", on average over {} on {} processors",
                            os::format_duration(report.over), report.processors);
  }
  finding.evidence = {std::move(sentence)};
  finding.source = "limit";
  finding.detail = report.what;
  finding.message = "the service is over a limit";
  finding.ends_service = report.kills;
  return finding;
}

}  // namespace

void IncidentRecorder::limit_exceeded(const process::LimitReport& report) {
  track(report.service).limit = report.what;
  found(report.service, finding_of(report));
}

void IncidentRecorder::limit_cleared(const process::LimitReport& report) {
  wire::Json fields = limit_fields(report);
  note(report.service, "limit_cleared", fields);
}

void IncidentRecorder::out_of_memory(const std::string& service, std::uint64_t kills) {
  Track& own = track(service);
  own.oom_kills = kills;
  own.oom_mono_ns = loop_.clock().mono_ns();
  note(service, "out_of_memory", wire::Json::object({{"kills", kills}}));
  obs::log(obs::Level::kWarning, kComponent, "the kernel killed for lack of memory",
           {{"service", service}, {"kills", kills}});
}

void IncidentRecorder::found(const std::string& service, Finding finding) {
  Track& own = track(service);
  const bool opens = !own.incident;
  if (!open(own, wire::Json::object({{"cause", finding.cause}}))) return;
  if (finding.closes_when_quiet) {
    ++own.matched_lines;
    close_when_quiet(own);
    // A flood of matches is one event, and a number in the end.
    if (own.matched_lines > kMaxMatchEvents) return;
  }
  postmortem::Redactor redactor = redactor_of(own);
  finding.fields = redactor.json(finding.fields);
  for (std::string& sentence : finding.evidence) sentence = redactor.text(sentence);
  append(own, "detected", finding.fields, Durability::kSoon);
  obs::log(obs::Level::kWarning, kComponent, finding.message,
           {{"service", own.service},
            {"cause", finding.cause},
            {"evidence", finding.evidence.empty() ? std::string() : finding.evidence.back()},
            {"incident", own.last_id}});
  std::string message = fmt::format("{}: {}", own.service, finding.message);
  if (!finding.evidence.empty()) message += fmt::format(": {}", finding.evidence.back());
  IncidentNews news = failure_news(own, finding.cause, std::move(message), opens);
  news.detected = true;
  tell(own, std::move(news));
  // A process that failed has its own verdict, which may still be on its way.
  if (own.classified || own.failed.generation != 0 || finding.ends_service) return;
  own.failed.end_words = finding.detail;
  Classification classification;
  classification.cause = std::move(finding.cause);
  classification.evidence = std::move(finding.evidence);
  classification.confidence = 1;
  write_classification(own, own.failed, classification.to_json(), wire::Json::array(),
                       finding.source);
}

void IncidentRecorder::close_when_quiet(Track& own) {
  cancel(own.quiet_timer);
  if (own.process_failed) return;
  own.quiet_timer = loop_.run_after(kPatternQuietTime, [this, &own] {
    own.quiet_timer = 0;
    if (own.process_failed || !own.incident) return;
    append(own, "quiet", wire::Json::object({{"matched_lines", own.matched_lines}}),
           Durability::kSoon);
    close(own, "recovered");
  });
}

void IncidentRecorder::note(const std::string& service, std::string_view event,
                            const wire::Json& fields) {
  append(track(service), event, fields, Durability::kSoon);
}

// The kernel writes the core before the end is told; the end opens the incident.
void IncidentRecorder::core_dumped(const std::string& service, const wire::Json& fields) {
  Track& own = track(service);
  if (own.incident) return append(own, "core_dumped", fields, Durability::kSoon);
  own.cores.push_back(fields);
  if (own.cores.size() > kMaxWaitingCores) own.cores.erase(own.cores.begin());
}

}  // namespace defib::daemon
