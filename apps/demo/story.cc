#include "story.h"

#include <fmt/core.h>

#include "defib/os/clock.h"
#include "defib/recovery/incident.h"

namespace defib::demo {

using wire::Json;

namespace {

std::string duration_of(const Json& line, const char* key = "duration_ns") {
  return os::format_duration(os::Duration(line[key].as_int()));
}

std::string text(const Json& value) {
  return value.is_string() ? std::string(value.as_string()) : value.dump();
}

std::string stage_sentence(const Json& line) {
  const std::string outcome = text(line["outcome"]);
  std::string more;
  for (const auto& [key, value] : line["metrics"].members()) {
    more += fmt::format("{}{} {}", more.empty() ? " (" : ", ", key, text(value));
  }
  if (!more.empty()) more += ')';
  const std::string error =
      line["error"].is_object() ? fmt::format(": {}", text(line["error"]["message"])) : "";
  return fmt::format("{:22} {} in {}{}{}", text(line["stage"]), outcome, duration_of(line), more,
                     error);
}

// The innermost frame of the crashed thread that has a source line.
std::string crash_site(const Json& line) {
  for (const Json& thread : line["threads"].items()) {
    if (!thread["crashed"].as_bool()) continue;
    for (const Json& frame : thread["frames"].items()) {
      if (frame["file"].as_string().empty()) continue;
      const std::string_view file = frame["file"].as_string();
      return fmt::format("{} at {}:{}", frame["function"].as_string(),
                         file.substr(file.rfind('/') + 1), frame["line"].as_int());
    }
  }
  return {};
}

}  // namespace

std::optional<std::string> sentence(const Json& line) {
  const std::string_view event = line["event"].as_string();
  if (event == "detected") {
    const std::string_view what = line["what"].as_string();
    if (what == "hang") {
      return fmt::format("detected: the heartbeat '{}' stood still for {}", text(line["stage"]),
                         duration_of(line, "silent_ns"));
    }
    if (what == "exit")
      return fmt::format("detected: the process ended with {}", text(line["status"]));
    return fmt::format("detected: {}", what);
  }
  if (event == "captured") {
    // The event comes with the report; the process was let go long before.
    if (line["captured_in_ns"].as_int() <= 0) return "reported what the crash page tells";
    return fmt::format("reported; registers, stacks and maps were copied {} after the fault",
                       duration_of(line, "captured_in_ns"));
  }
  if (event == "classified") {
    const std::string site = crash_site(line);
    return fmt::format("classified: {}{}{}", text(line["cause"]), site.empty() ? "" : " in ", site);
  }
  if (event == "restarted")
    return fmt::format("replacement runs as process {}", line["pid"].as_int());
  if (event == "store_recovered") return fmt::format("store recovered in {}", duration_of(line));
  if (event == "stage_finished") return stage_sentence(line);
  if (event == "intent_unknown") {
    return fmt::format("intent {} is UNKNOWN: it counts as exposure until proved",
                       text(line["id"]));
  }
  if (event == "discrepancy") {
    return fmt::format("differs: {} {}: ledger {}, venue {} ({})", text(line["kind"]),
                       text(line["subject"]), text(line["believed"]), text(line["venue"]),
                       text(line["explanation"]));
  }
  if (event == "intent_settled") {
    return fmt::format("intent {} settled: {} ({})", text(line["id"]), text(line["state"]),
                       text(line["explanation"]));
  }
  if (event == "decision") {
    const Json& decision = line.has("decision") ? line["decision"] : line;
    return fmt::format("gate: {} by rule {}", text(decision["verdict"]), text(decision["rule"]));
  }
  if (event == "approval_required") return "a person must approve; nothing trades until then";
  if (event == "approval_used") return fmt::format("approved by {}", text(line["by"]));
  if (event == "ramp_step") {
    return fmt::format("ramp: {} % of the limits, strategies up to {} risk",
                       line["percent"].as_int(), text(line["max_risk"]));
  }
  if (event == "ramp_completed") return "ramp: complete";
  if (event == "first_order") return fmt::format("first order again: {}", text(line["client_id"]));
  if (event == "emergency_stop") return "emergency stop: all orders cancelled";
  if (event == "closed") return fmt::format("closed: {}", text(line["outcome"]));
  return std::nullopt;
}

void Timeline::mark(const std::string& milestone, std::int64_t mono_ns) {
  marks_.emplace(milestone, mono_ns);
}

void Timeline::add(const Json& line) {
  const std::string_view event = line["event"].as_string();
  const std::int64_t now = line["mono_ns"].as_int();
  if (event == "detected") {
    const std::int64_t crashed = line["crashed_mono_ns"].as_int();
    if (crashed > 0 && !marks_.contains("detected")) zero_ = crashed;
    const std::int64_t noticed = line["noticed_mono_ns"].as_int();
    mark("detected", noticed > 0 ? noticed : now);
  }
  if (event == "captured") {
    // The process was let go then; the report came later.
    const std::int64_t released = line["released_mono_ns"].as_int();
    mark("captured", released > 0 ? released : now);
  }
  if (event == "restarted") {
    const std::int64_t started = line["started_mono_ns"].as_int();
    mark("restarted", started > 0 ? started : now);
  }
  if (event == "classified") {
    mark("classified", now);
  }
  if (recovery::is_verdict(line)) {
    cause_ = line["cause"].as_string();
    where_ = crash_site(line);
  }
  if (event == "store_recovered") mark("store", now);
  if (event == "stage_finished") {
    const std::string_view stage = line["stage"].as_string();
    if (stage == "reconcile_positions") mark("reconciled", now);
    if (stage == "recover_open_orders") mark("orders", now);
  }
  if (event == "decision") mark("gates", now);
  if (event == "first_order") mark("order_1", line["sent_mono_ns"].as_int(now));
  if (event == "ramp_step") mark(fmt::format("ramp_{}", line["percent"].as_int()), now);
  if (event == "approval_required") awaiting_ = true;
  if (event == "approval_used") awaiting_ = false;
  if (event == "closed") {
    mark("closed", now);
    outcome_ = line["outcome"].as_string();
  }
}

std::optional<double> Timeline::at(const std::string& milestone) const {
  const auto found = marks_.find(milestone);
  if (found == marks_.end()) return std::nullopt;
  return since_crash_ms(found->second);
}

double Timeline::since_crash_ms(std::int64_t mono_ns) const {
  return static_cast<double>(mono_ns - zero_) / 1e6;
}

Json Timeline::to_json() const {
  Json marks = Json::object();
  for (const char* name : kMilestones) {
    const auto when = at(name);
    marks.set(name, when ? Json(*when) : Json());
  }
  return Json::object({{"cause", cause_},
                       {"where", where_},
                       {"outcome", outcome_},
                       {"milliseconds_after_crash", std::move(marks)}});
}

}  // namespace defib::demo
