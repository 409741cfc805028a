#include "defib/alert/event.h"

#include <algorithm>
#include <array>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"

namespace defib::alert {
namespace {

constexpr std::array<std::string_view, 3> kSeverities = {"info", "warning", "critical"};
constexpr std::array<std::string_view, 4> kTypes = {"firing", "resolved", "acknowledged", "test"};
// Longer messages are cut: the incident has all of it.
constexpr std::size_t kMaxText = 2000;
constexpr std::size_t kAlertIdDigits = 12;

std::string_view cut(std::string_view text) {
  return text.substr(0, kMaxText);
}

}  // namespace

std::string_view to_string(Severity severity) {
  return kSeverities[static_cast<std::size_t>(severity)];
}

bool parse_severity(std::string_view word, Severity& out) {
  const auto found = std::ranges::find(kSeverities, word);
  if (found == kSeverities.end()) return false;
  out = static_cast<Severity>(found - kSeverities.begin());
  return true;
}

wire::Json Event::to_json() const {
  wire::Json json = wire::Json::object({{"type", kTypes[static_cast<std::size_t>(type)]},
                                        {"id", id},
                                        {"service", service},
                                        {"cause", cause},
                                        {"severity", to_string(severity)},
                                        {"message", cut(message)},
                                        {"at", os::format_time(wall_ns)},
                                        {"count", count}});
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) json.set(key, cut(value));
  };
  add("incident", incident);
  add("head", head);
  add("outcome", outcome);
  add("alert", alert);
  add("by", by);
  add("receiver", receiver);
  if (notice) json.set("notice", true);
  return json;
}

Result<Event> Event::from_json(const wire::Json& json) {
  Event event;
  DEFIB_TRY_ASSIGN(const std::string type, json.require_string("type"));
  const auto found = std::ranges::find(kTypes, type);
  if (found == kTypes.end() || !parse_severity(json["severity"].as_string(), event.severity)) {
    return Error(Code::kJsonWrongShape, "an event of an unknown type or severity");
  }
  event.type = static_cast<EventType>(found - kTypes.begin());
  DEFIB_TRY_ASSIGN(event.id, json.require_string("id"));
  DEFIB_TRY_ASSIGN(event.service, json.require_string("service"));
  DEFIB_TRY_ASSIGN(event.cause, json.require_string("cause"));
  event.message = json["message"].as_string();
  event.wall_ns = std::max<std::int64_t>(0, os::parse_time(json["at"].as_string()));
  event.count = std::max<std::uint64_t>(1, json["count"].as_uint(1));
  event.incident = json["incident"].as_string();
  event.head = json["head"].as_string();
  event.outcome = json["outcome"].as_string();
  event.alert = json["alert"].as_string();
  event.by = json["by"].as_string();
  event.receiver = json["receiver"].as_string();
  event.notice = json["notice"].as_bool();
  return event;
}

std::string alert_id_of(const Event& event) {
  return sha256_hex(event.key() + "\n" + event.id).substr(0, kAlertIdDigits);
}

}  // namespace defib::alert
