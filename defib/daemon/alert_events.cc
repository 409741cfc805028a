#include "defib/daemon/alert_events.h"

#include <fmt/core.h>

namespace defib::daemon {
namespace {

using alert::Event;
using alert::EventType;
using alert::Severity;

Event notice(const std::string& service, std::string cause, std::string message) {
  Event event;
  event.service = service;
  event.cause = std::move(cause);
  event.severity = Severity::kWarning;
  event.message = std::move(message);
  event.notice = true;
  return event;
}

}  // namespace

std::optional<Event> event_of(const IncidentNews& news) {
  using What = IncidentNews::What;
  Event event;
  event.id = news.id;
  event.service = news.service;
  event.cause = news.cause;
  event.message = news.message;
  event.incident = news.incident;
  event.head = news.head;
  event.outcome = news.outcome;
  switch (news.what) {
    case What::kFailed:
      event.severity = news.down ? Severity::kCritical : Severity::kWarning;
      break;
    case What::kCrashLoop:
    case What::kSlowLane:
    case What::kApprovalNeeded:
      event.severity = Severity::kCritical;
      break;
    case What::kUnrecorded:
      event.severity = Severity::kCritical;
      event.notice = true;
      event.incident.clear();
      break;
    case What::kClosed:
      // The service is still down: that ends when somebody starts it.
      if (news.outcome == "failed") return std::nullopt;
      [[fallthrough]];
    case What::kRunsAgain:
      event.type = EventType::kResolved;
      event.cause = "resolved";
      if (event.outcome.empty()) event.outcome = "restarted";
      break;
  }
  return event;
}

bool is_more_of(const Event& one, const Event& other) {
  const bool ends_another = one.type == EventType::kResolved && one.incident != other.incident;
  return one.type == other.type && one.cause == other.cause && !ends_another;
}

Event shim_lost_event(const std::string& service, const std::string& detail) {
  return notice(service, "shim_lost",
                fmt::format("the shim of {} died and was replaced; the service went on ({})",
                            service, detail));
}

Event standby_lost_event(const std::string& service, const Error& error) {
  return notice(service, "standby_lost",
                fmt::format("{}; {}", error.to_line(), error.suggested_action()));
}

Event removed_event(const std::string& service) {
  Event event;
  event.type = EventType::kResolved;
  event.service = service;
  event.cause = "resolved";
  event.outcome = "removed";
  event.message = fmt::format("{} was taken out of the configuration", service);
  return event;
}

}  // namespace defib::daemon
