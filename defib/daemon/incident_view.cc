#include "defib/daemon/incident_view.h"

#include "defib/base/assert.h"
#include "defib/daemon/exit_cause.h"
#include "defib/recovery/incident.h"

namespace defib::daemon {
namespace {

// A member in the order of the contract, null where the report lacks it.
wire::Json classification_of(const wire::Json& line) {
  wire::Json classification = wire::Json::object();
  for (const char* key : {"cause", "subtype", "signal", "fault_address"}) {
    classification.set(key, line[key]);
  }
  classification.set("evidence",
                     line["evidence"].is_array() ? line["evidence"] : wire::Json::array());
  classification.set("confidence",
                     line["confidence"].is_number() ? line["confidence"] : wire::Json(0.0));
  for (const auto& [key, value] : line.members()) {
    const bool of_line = key == "seq" || key == "at" || key == "mono_ns" || key == "boot_id" ||
                         key == "event" || key == "prev" || key == "hash" || key == "threads";
    if (!of_line && !classification.has(key)) classification.set(key, value);
  }
  return classification;
}

wire::Json timeline_entry(const wire::Json& line) {
  wire::Json entry = wire::Json::object();
  for (const auto& [key, value] : line.members()) {
    if (key != "threads" && key != "prev") entry.set(key, value);
  }
  return entry;
}

}  // namespace

wire::Json incident_document(const std::vector<wire::Json>& lines) {
  DEFIB_ASSERT(!lines.empty());
  wire::Json classification = Classification().to_json();
  wire::Json threads = wire::Json::array();
  wire::Json timeline = wire::Json::array();
  std::string cause(lines.front()["cause"].as_string());
  bool waits = false;
  for (const wire::Json& line : lines) {
    waits = recovery::waits_for_human(line, waits);
    if (line["event"].as_string() == "classified") {
      classification = classification_of(line);
      cause = line["cause"].as_string();
      if (line["threads"].is_array()) threads = line["threads"];
    }
    timeline.push(timeline_entry(line));
  }
  const wire::Json& last = lines.back();
  const bool closed = last["event"].as_string() == "closed";
  return wire::Json::object({{"schema", "defib.incident/1"},
                             {"id", lines.front()["incident"]},
                             {"service", lines.front()["service"]},
                             {"opened_at", lines.front()["at"]},
                             {"closed_at", closed ? last["at"] : wire::Json()},
                             {"cause", cause.empty() ? "unknown" : cause},
                             {"outcome", closed  ? last["outcome"]
                                         : waits ? wire::Json("awaiting_approval")
                                                 : wire::Json("open")},
                             {"head_hash", last["hash"]},
                             {"classification", std::move(classification)},
                             {"threads", std::move(threads)},
                             {"timeline", std::move(timeline)}});
}

}  // namespace defib::daemon
