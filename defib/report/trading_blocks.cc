// What a report says of a trading service: the steps back, exposure and limits over time, and where
// a regulator finds what. Every number is taken from an event, whose sequence number stands beside
// it.

#include "defib/report/trading_blocks.h"

#include <fmt/core.h>

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "defib/base/decimal.h"
#include "defib/base/visible_text.h"
#include "defib/os/clock.h"

namespace defib::report {
namespace {

using wire::Json;

constexpr std::size_t kMaxRows = 200;

std::string text_of(const Json& value) {
  return value.is_string() ? visible_text(value.as_string()) : visible_text(value.dump());
}

std::string number_of(const Json& event) {
  return fmt::format("event {}", event["seq"].as_int());
}

// For a drawing only: the table beside it has the exact text.
std::optional<double> amount_of(const Json& value) {
  const Result<Decimal> amount = Decimal::parse(value.as_string());
  if (!amount) return std::nullopt;
  return amount->to_double();
}

struct Event {
  std::string_view name;
  std::string (*text)(const Json& event);
};

std::string recovery_text(const Json& event) {
  return fmt::format(
      "recovery began after a {}; cause {}; {} crashes in the window; {} unresolved "
      "intents, {} open orders",
      text_of(event["previous_end"]), text_of(event["crash_cause"]),
      event["crashes_in_window"].as_int(), event["unresolved_intents"].as_int(),
      event["open_orders"].as_int());
}
std::string source_text(const Json& event) {
  return fmt::format("state from {}: {}; asking the venue for everything would take {}",
                     text_of(event["source"]), text_of(event["reason"]),
                     text_of(event["rebuild_estimate"]));
}
std::string reconciled_text(const Json& event) {
  return fmt::format("{} differences, {} unexplained, {} corrections, mode {}",
                     event["discrepancies"].as_int(), event["unexplained"].as_int(),
                     event["corrections"].as_int(), text_of(event["mode"]));
}
std::string decision_text(const Json& event) {
  return fmt::format("{}: {} by the gate {}", text_of(event["id"]), text_of(event["verdict"]),
                     text_of(event["rule"]));
}
std::string approval_text(const Json& event) {
  return fmt::format("plan {} approved by {}", text_of(event["plan"]), text_of(event["by"]));
}
std::string ramp_text(const Json& event) {
  return fmt::format("step {} of {}: {} % of the limits, up to {} risk; exposure {} of {}",
                     event["step"].as_int(), event["steps"].as_int(), event["percent"].as_int(),
                     text_of(event["max_risk"]), text_of(event["exposure"]),
                     text_of(event["exposure_limit"]));
}
std::string settled_text(const Json& event) {
  return fmt::format("intent {}: {} ({})", text_of(event["id"]), text_of(event["state"]),
                     text_of(event["explanation"]));
}
std::string stop_text(const Json& event) {
  return fmt::format("{}: {}; {} after {} readings; dead-man's switch: {}", text_of(event["check"]),
                     text_of(event["detail"]),
                     event["verified"].as_bool() ? "verified that nothing is open" : "NOT verified",
                     event["rounds"].as_int(), text_of(event["dead_mans_switch"]));
}
std::string kill_text(const Json& event) {
  return fmt::format("kill switch {} by {}", text_of(event["scope"]), text_of(event["by"]));
}

constexpr std::array<Event, 11> kEvents = {{{"trading_recovery_started", recovery_text},
                                            {"state_source", source_text},
                                            {"reconciled", reconciled_text},
                                            {"decision", decision_text},
                                            {"approval_used", approval_text},
                                            {"ramp_step", ramp_text},
                                            {"ramp_watch", ramp_text},
                                            {"ramp_completed", ramp_text},
                                            {"intent_settled", settled_text},
                                            {"emergency_stop", stop_text},
                                            {"kill_switch", kill_text}}};

// Which duty is answered where; the texts of the laws are the reader's to check.
constexpr std::array<std::array<std::string_view, 3>, 9> kDuties = {{
    {"RTS 6 (EU 2017/589) Art. 12", "kill functionality",
     "events kill_switch, emergency_stop; incidents of the service \"kill\""},
    {"RTS 6 Art. 15(1)", "pre-trade limits", "[trading.limits] in the plan; errors -175, -176"},
    {"RTS 6 Art. 15(3)", "repeated-execution throttle, re-enabled by a person",
     "gate repeated_crashes; approval_required and approval_used; error -252"},
    {"RTS 6 Art. 16(5)", "alerts within five seconds", "the alerts of the incident"},
    {"RTS 6 Art. 17(3)", "reconciliation with venues", "events reconciled and discrepancy"},
    {"SEC 15c3-5(c)(1)", "erroneous and duplicative orders blocked",
     "events intent_settled; gate duplicate_orders; gate limits_loaded"},
    {"who approved", "the named person and the plan's hash", "events approval_used"},
    {"why it resumed", "rule, input, threshold, evidence",
     "events decision; `defib explain VERDICT --from FILE` reproduces them"},
    {"that nothing was changed", "hash chain, head hash of the alert",
     "`defib verify ID --head HASH`"},
}};

Block section_map() {
  Block table;
  table.kind = BlockKind::kTable;
  table.titled = true;
  table.folded = true;
  table.text = "Where a regulator finds what";
  table.rows.push_back({"duty", "what it asks", "where it is answered"});
  for (const auto& duty : kDuties) {
    table.rows.push_back({std::string(duty[0]), std::string(duty[1]), std::string(duty[2])});
  }
  return table;
}

}  // namespace

std::vector<Block> trading_blocks(const Json& timeline, std::int64_t failed_wall_ns) {
  Block table;
  table.kind = BlockKind::kTable;
  table.titled = true;
  table.rows.push_back({"event", "at", "what"});
  Chart exposure{"Exposure", "", {}};
  Chart limit{"Exposure limit of the ramp", "", {}};
  for (const Json& event : timeline.items()) {
    const std::string_view name = event["event"].as_string();
    for (const Event& known : kEvents) {
      if (known.name != name || table.rows.size() > kMaxRows) continue;
      table.rows.push_back({fmt::format("{} ({})", name, number_of(event)),
                            visible_text(event["at"].as_string()), known.text(event)});
    }
    const std::optional<double> amount = amount_of(event["exposure"]);
    const std::optional<double> allowed = amount_of(event["exposure_limit"]);
    const std::int64_t at = os::parse_time(event["at"].as_string());
    if (at < 0) continue;
    const double seconds = static_cast<double>(at - failed_wall_ns) / 1e9;
    if (amount) exposure.points.push_back({seconds, *amount});
    if (allowed) limit.points.push_back({seconds, *allowed});
  }
  std::vector<Block> blocks;
  if (table.rows.size() == 1) return blocks;
  Block heading;
  heading.kind = BlockKind::kHeading;
  heading.text = "Trading";
  blocks.push_back(std::move(heading));
  blocks.push_back(std::move(table));
  Block charts;
  charts.kind = BlockKind::kCharts;
  for (Chart* chart : {&exposure, &limit}) {
    if (chart->points.size() >= 2) charts.charts.push_back(std::move(*chart));
  }
  if (!charts.charts.empty()) blocks.push_back(std::move(charts));
  blocks.push_back(section_map());
  return blocks;
}

}  // namespace defib::report
