// Event: what a supervising process has to tell the people outside; one record of the alert queue.
//
// An event says that something fails ("firing"), that it is over ("resolved"), that a human has
// taken notice ("acknowledged"), or asks for a test message. What becomes of it, to whom it goes
// and when, is the Book's business (book.h). Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::alert {

enum class Severity : std::uint8_t { kInfo, kWarning, kCritical };
std::string_view to_string(Severity severity);  // "info" "warning" "critical"
bool parse_severity(std::string_view word, Severity& out);

enum class EventType : std::uint8_t { kFiring, kResolved, kAcknowledged, kTest };

struct Event {
  EventType type = EventType::kFiring;
  // Told a second time (its writer was killed in between), an event has the same id.
  std::string id;
  std::string service;
  // What is wrong, in one word: a cause of docs/cli.md, or crash_loop, disk_full, shim_lost,
  // standby_lost, approval_needed. One service and one cause are one alert.
  std::string cause;
  Severity severity = Severity::kWarning;
  std::string message;
  std::int64_t wall_ns = 0;
  std::uint64_t count = 1;  // of occurrences, where several became one record
  std::string incident;     // its id; empty: none
  std::string head;         // the incident's head hash at that moment
  std::string outcome;      // resolved: how the incident ended
  std::string alert;        // acknowledged: the alert's or the incident's id
  std::string by;           // acknowledged: who says so
  std::string receiver;     // test: for this one alone
  bool notice = false;      // firing: nothing that lasts, so that no end will be told

  std::string key() const { return service + "/" + cause; }
  wire::Json to_json() const;
  // JsonWrongShape where a field is missing.
  static Result<Event> from_json(const wire::Json& json);
};

// The id of the alert that begins with this event: 12 hexadecimal digits.
std::string alert_id_of(const Event& event);

}  // namespace defib::alert
