#include "defib/trading/gates.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "defib/trading/amounts.h"

namespace defib::trading {
namespace {

using recovery::Evidence;
using recovery::Finding;
using recovery::Rule;
using recovery::Verdict;

constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::string_view kApprove = "approve the plan with `defib approve PLAN --by NAME`";
constexpr std::string_view kByHand =
    "walk the manual procedure with `defib checklist --manual INCIDENT --by NAME`";

Decimal amount(const Evidence& evidence, std::string_view name) {
  const Result<Decimal> value = Decimal::parse(evidence[name].as_string());
  return value ? *value : Decimal::from_units(INT64_MAX);  // unreadable: beyond every limit
}

std::string duration(std::int64_t ns) {
  return os::format_duration(os::Duration(ns));
}

// What a comparison found: whether the gate is open, and the input and threshold for a person.
struct Look {
  bool holds = false;
  std::string input;
  std::string threshold;
};

// One row of the decision tree.
struct Gate {
  std::string_view name;
  Verdict otherwise;  // when the comparison does not hold
  std::array<std::string_view, 3> facts;
  Look (*look)(const Evidence&, const GateThresholds&);
  std::string_view flips;
};

Look none_of(const Evidence& evidence, std::string_view fact, std::string_view what) {
  const std::int64_t count = evidence[fact].as_int(1);
  return {count == 0, fmt::format("{} {}", count, what), "none"};
}

Look affirmed(const Evidence& evidence, std::string_view fact, std::string_view yes,
              std::string_view no, std::string_view threshold) {
  const bool holds = evidence[fact].as_bool();
  return {holds, std::string(holds ? yes : no), std::string(threshold)};
}

Look clock_skew(const Evidence& evidence, const GateThresholds& thresholds) {
  const std::int64_t max = thresholds.max_clock_skew.count() / kNsPerMs;
  const std::int64_t skew = evidence["clock_skew_ms"].as_int(INT64_MAX);
  return {skew <= max && skew >= -max, fmt::format("{} ms", skew),
          fmt::format("at most {} ms", max)};
}

Look kill_switch(const Evidence& evidence, const GateThresholds&) {
  const std::string_view scope = evidence["kill_switch"].as_string();
  return {scope.empty(), scope.empty() ? "none" : fmt::format("engaged for {}", scope), "none"};
}

Look state_damage(const Evidence& evidence, const GateThresholds&) {
  const std::string_view damage = evidence["damage"].as_string();
  const bool done = evidence["manual_done"].as_bool();
  const std::string what = damage.empty() ? std::string("no damage") : std::string(damage);
  return {damage.empty() || done, done && !damage.empty() ? what + ", dealt with by hand" : what,
          "undamaged, or the manual procedure was completed"};
}

Look heap_corruption(const Evidence& evidence, const GateThresholds&) {
  const std::string_view cause = evidence["crash_cause"].as_string();
  const bool corrupted = cause == "heap_corruption";
  const bool done = evidence["manual_done"].as_bool();
  return {!corrupted || done,
          corrupted && done ? "heap_corruption, dealt with by hand" : std::string(cause),
          "another cause, or the manual procedure was completed"};
}

Look checkpoint_verdict(const Evidence& evidence, const GateThresholds&) {
  const bool usable = evidence["checkpoint_usable"].as_bool();
  const bool rebuilt = evidence["state_source"].as_string() == to_string(StateSource::kVenue);
  return {usable || rebuilt,
          usable ? std::string("usable")
                 : fmt::format("failed {}, state from {}", evidence["checkpoint_rule"].as_string(),
                               evidence["state_source"].as_string()),
          "usable, or the state taken from the venue"};
}

Look repeated_crashes(const Evidence& evidence, const GateThresholds& thresholds) {
  const std::int64_t crashes = evidence["crashes"].as_int(INT64_MAX);
  return {crashes <= thresholds.max_crashes, fmt::format("{} crashes", crashes),
          fmt::format("at most {} in {}", thresholds.max_crashes,
                      os::format_duration(thresholds.crash_window))};
}

Look unknown_cause(const Evidence& evidence, const GateThresholds& thresholds) {
  const std::string_view cause = evidence["crash_cause"].as_string();
  const bool known = cause != "unknown" && !cause.empty();
  return {known || !thresholds.require_cause, std::string(cause),
          thresholds.require_cause ? "a known cause, or no crash" : "not asked for"};
}

Look exposure(const Evidence& evidence, const GateThresholds& thresholds) {
  const wire::Json& unpriced = evidence["unpriced"];
  const std::string_view currency = evidence["currency"].as_string();
  const std::string limit = fmt::format("at most {}{}{}", thresholds.max_exposure.to_string(),
                                        currency.empty() ? "" : " ", currency);
  if (unpriced.size() != 0) {
    return {false,
            currency.empty() ? fmt::format("no price of {}", unpriced.dump())
                             : fmt::format("no rate into {} for {}", currency, unpriced.dump()),
            limit};
  }
  const Decimal total = amount(evidence, "exposure");
  return {total <= thresholds.max_exposure, total.to_string(), limit};
}

Look volatility(const Evidence& evidence, const GateThresholds& thresholds) {
  const Decimal value = amount(evidence, "volatility");
  return {value <= thresholds.max_volatility,
          fmt::format("{} {}", value.to_string(), evidence["volatility_symbol"].as_string()),
          fmt::format("at most {}", thresholds.max_volatility.to_string())};
}

Look stale_prices(const Evidence& evidence, const GateThresholds& thresholds) {
  const std::int64_t age = evidence["price_age_ns"].as_int(-1);
  const std::string limit = "at most " + os::format_duration(thresholds.max_price_age);
  if (age < 0) {
    return {false, fmt::format("no price of {}", evidence["stale_symbol"].as_string()), limit};
  }
  return {age <= thresholds.max_price_age.count(), duration(age), limit};
}

Look approval(const Evidence&, const GateThresholds& thresholds) {
  return {!thresholds.approval_always,
          thresholds.approval_always ? "every recovery needs a person"
                                     : "only where another rule asks for it",
          "no approval is required as a matter of course"};
}

Look start_mode(const Evidence& evidence, const GateThresholds&) {
  const std::string mode(evidence["start_mode"].as_string());
  return {mode == "normal", "started in " + mode, "a normal start"};
}

Look venue_status(const Evidence& evidence, const GateThresholds&) {
  const std::string_view status = evidence["venue_status"].as_string();
  return {status == "online", std::string(status), "online"};
}

Look market_state(const Evidence& evidence, const GateThresholds&) {
  const wire::Json& halted = evidence["halted_symbols"];
  return {halted.size() == 0, halted.size() == 0 ? "all trade" : "halted: " + halted.dump(),
          "every symbol trades"};
}

Look checkpoint_age(const Evidence& evidence, const GateThresholds& thresholds) {
  const std::int64_t age = evidence["checkpoint_age_ns"].as_int();
  return {age <= thresholds.max_checkpoint_age.count(), duration(age),
          "at most " + os::format_duration(thresholds.max_checkpoint_age)};
}

// The tree. The strictest verdict wins, and the first in this order among equals.
constexpr std::array<Gate, kGates> kTable = {{
    {"state_damage", Verdict::kRefuse, {"damage", "manual_done"}, state_damage, kByHand},
    {"duplicate_orders",
     Verdict::kRefuse,
     {"duplicate_orders"},
     [](const Evidence& e, const GateThresholds&) {
       return none_of(e, "duplicate_orders", "intents with two orders");
     },
     "call the venue, cancel both orders, and recover again"},
    {"limits_loaded",
     Verdict::kRefuse,
     {"limits_loaded"},
     [](const Evidence& e, const GateThresholds&) {
       return affirmed(e, "limits_loaded", "loaded", "absent", "limits must be loaded");
     },
     "add [trading.limits] to the configuration"},
    {"permissions",
     Verdict::kRefuse,
     {"permissions_verified"},
     [](const Evidence& e, const GateThresholds&) {
       return affirmed(e, "permissions_verified", "accepted", "not accepted",
                       "the venue accepts a test order");
     },
     "cure the error of the test order in the report"},
    {"clock_skew",
     Verdict::kRefuse,
     {"clock_skew_ms"},
     clock_skew,
     "synchronize this machine's clock"},
    {"kill_switch",
     Verdict::kRefuse,
     {"kill_switch"},
     kill_switch,
     "release it with `defib kill --release SCOPE --by NAME --reason TEXT`"},
    {"heap_corruption", Verdict::kRefuse, {"crash_cause", "manual_done"}, heap_corruption, kByHand},
    {"unexplained",
     Verdict::kNeedApproval,
     {"unexplained"},
     [](const Evidence& e, const GateThresholds&) {
       return none_of(e, "unexplained", "unexplained differences");
     },
     kApprove},
    {"checkpoint_verdict",
     Verdict::kNeedApproval,
     {"checkpoint_usable", "state_source", "checkpoint_rule"},
     checkpoint_verdict,
     kApprove},
    {"repeated_crashes",
     Verdict::kNeedApproval,
     {"crashes"},
     repeated_crashes,
     "wait until fewer lie within the window, or approve the plan with `defib approve PLAN --by "
     "NAME`"},
    {"unknown_cause",
     Verdict::kNeedApproval,
     {"crash_cause"},
     unknown_cause,
     "wait for the incident's classification, or approve the plan with `defib approve PLAN --by "
     "NAME`"},
    {"exposure",
     Verdict::kNeedApproval,
     {"exposure", "unpriced"},
     exposure,
     "reduce the position, add the missing [trading.rates], or approve the plan with `defib "
     "approve PLAN --by NAME`"},
    {"volatility",
     Verdict::kNeedApproval,
     {"volatility", "volatility_symbol"},
     volatility,
     "wait for a calmer market, or approve the plan with `defib approve PLAN --by NAME`"},
    {"stale_prices",
     Verdict::kNeedApproval,
     {"price_age_ns", "stale_symbol"},
     stale_prices,
     "wait for fresh prices, or approve the plan with `defib approve PLAN --by NAME`"},
    {"approval", Verdict::kNeedApproval, {}, approval, kApprove},
    {"start_mode",
     Verdict::kNeedApproval,
     {"start_mode"},
     start_mode,
     "approve the plan with `defib approve PLAN --by NAME`, or restart the service by hand once "
     "its `start_in` and `monitoring_after` allow a normal start"},
    {"venue_status",
     Verdict::kMonitorOnly,
     {"venue_status"},
     venue_status,
     "wait for the venue to take orders again"},
    {"market_state",
     Verdict::kMonitorOnly,
     {"halted_symbols"},
     market_state,
     "wait for the venue to open the market"},
    {"checkpoint_age",
     Verdict::kWarn,
     {"checkpoint_age_ns"},
     checkpoint_age,
     "nothing is to be done; the ledger was compared with the venue"},
}};

const Gate* find_gate(std::string_view name) {
  const auto found = std::find_if(kTable.begin(), kTable.end(),
                                  [&](const Gate& gate) { return gate.name == name; });
  return found == kTable.end() ? nullptr : &*found;
}

Verdict verdict_of(const Gate& gate, const GateThresholds& thresholds) {
  const auto own = thresholds.verdicts.find(std::string(gate.name));
  return own == thresholds.verdicts.end() ? gate.otherwise : own->second;
}

Rule make_rule(const Gate& gate, const std::shared_ptr<const GateThresholds>& thresholds) {
  Rule rule{std::string(gate.name), {}, {}};
  for (const std::string_view fact : gate.facts) {
    if (!fact.empty()) rule.needs.emplace_back(fact);
  }
  rule.decide = [&gate, thresholds](const Evidence& evidence) {
    Look look = gate.look(evidence, *thresholds);
    Finding finding;
    finding.rule = gate.name;
    finding.verdict = look.holds ? Verdict::kAllow : verdict_of(gate, *thresholds);
    finding.input = std::move(look.input);
    finding.threshold = std::move(look.threshold);
    if (!look.holds) finding.flips = gate.flips;
    return finding;
  };
  return rule;
}

wire::Json list_of(const std::vector<std::string>& items) {
  wire::Json list = wire::Json::array();
  for (const std::string& item : items) list.push(item);
  return list;
}

}  // namespace

wire::Json GateThresholds::to_json() const {
  wire::Json own = wire::Json::object();
  for (const auto& [gate, verdict] : verdicts) own.set(gate, recovery::to_string(verdict));
  return wire::Json::object({{"max_crashes", max_crashes},
                             {"crash_window_ns", crash_window.count()},
                             {"max_checkpoint_age_ns", max_checkpoint_age.count()},
                             {"max_exposure", max_exposure.to_string()},
                             {"max_volatility", max_volatility.to_string()},
                             {"volatility_window_ns", volatility_window.count()},
                             {"max_price_age_ns", max_price_age.count()},
                             {"max_clock_skew_ns", max_clock_skew.count()},
                             {"approval_always", approval_always},
                             {"require_cause", require_cause},
                             {"verdicts", std::move(own)}});
}

Result<GateThresholds> GateThresholds::from_json(const wire::Json& json) {
  GateThresholds read;
  DEFIB_TRY_ASSIGN(const std::int64_t crashes, json.require_int("max_crashes"));
  read.max_crashes = static_cast<int>(crashes);
  const auto time = [&](std::string_view name, os::Duration& to) -> Result<> {
    DEFIB_TRY_ASSIGN(const std::int64_t ns, json.require_int(name));
    to = os::Duration(ns);
    return {};
  };
  DEFIB_TRY(time("crash_window_ns", read.crash_window));
  DEFIB_TRY(time("max_checkpoint_age_ns", read.max_checkpoint_age));
  DEFIB_TRY(time("volatility_window_ns", read.volatility_window));
  DEFIB_TRY(time("max_price_age_ns", read.max_price_age));
  DEFIB_TRY(time("max_clock_skew_ns", read.max_clock_skew));
  DEFIB_TRY_ASSIGN(const std::string max_exposure, json.require_string("max_exposure"));
  DEFIB_TRY_ASSIGN(read.max_exposure, Decimal::parse(max_exposure));
  DEFIB_TRY_ASSIGN(const std::string max_volatility, json.require_string("max_volatility"));
  DEFIB_TRY_ASSIGN(read.max_volatility, Decimal::parse(max_volatility));
  read.approval_always = json["approval_always"].as_bool();
  read.require_cause = json["require_cause"].as_bool(true);
  for (const auto& [gate, value] : json["verdicts"].members()) {
    const auto verdict = recovery::verdict_from_string(value.as_string());
    if (!verdict) return Error(Code::kMalformed, fmt::format("the verdict of {} is none", gate));
    DEFIB_TRY(check_gate_verdict(gate, *verdict));
    read.verdicts[gate] = *verdict;
  }
  return read;
}

recovery::Evidence GateEvidence::to_evidence(const GateThresholds& thresholds) const {
  Evidence evidence;
  evidence.set("limits_loaded", limits_loaded)
      .set("permissions_verified", permissions_verified)
      .set("crashes", crashes)
      .set("crash_cause", crash_cause)
      .set("damage", damage)
      .set("manual_done", manual_done)
      .set("kill_switch", kill_switch)
      .set("checkpoint_usable", checkpoint_usable)
      .set("checkpoint_rule", checkpoint_rule)
      .set("state_source", to_string(state_source))
      .set("checkpoint_age_ns", checkpoint_age_ns)
      .set("discrepancies", discrepancies)
      .set("unexplained", unexplained)
      .set("duplicate_orders", duplicate_orders)
      .set("exposure", exposure.total().to_string())
      .set("exposure_parts", exposure.to_json())
      .set("currency", currency)
      .set("unpriced", list_of(unpriced))
      .set("unknown_intents", unknown_intents)
      .set("volatility", volatility.to_string())
      .set("volatility_symbol", volatility_symbol)
      .set("venue_status", venue_status)
      .set("halted_symbols", list_of(halted_symbols))
      .set("price_age_ns", price_age_ns)
      .set("stale_symbol", stale_symbol)
      .set("clock_skew_ms", clock_skew_ms)
      .set("start_mode", start_in_monitoring ? "monitoring" : "normal")
      .set("thresholds", thresholds.to_json());
  return evidence;
}

std::vector<recovery::Rule> gate_rules(const GateThresholds& thresholds) {
  const auto shared = std::make_shared<const GateThresholds>(thresholds);
  std::vector<Rule> rules;
  rules.reserve(kTable.size());
  for (const Gate& gate : kTable) rules.push_back(make_rule(gate, shared));
  return rules;
}

wire::Json describe_gates(const GateThresholds& thresholds) {
  wire::Json list = wire::Json::array();
  const Evidence nothing;
  for (const Gate& gate : kTable) {
    wire::Json facts = wire::Json::array();
    for (const std::string_view fact : gate.facts) {
      if (!fact.empty()) facts.push(fact);
    }
    list.push(wire::Json::object({{"gate", gate.name},
                                  {"verdict", recovery::to_string(verdict_of(gate, thresholds))},
                                  {"facts", std::move(facts)},
                                  {"threshold", gate.look(nothing, thresholds).threshold},
                                  {"flips", gate.flips}}));
  }
  return list;
}

Result<> check_gate_verdict(std::string_view name, recovery::Verdict verdict) {
  const Gate* gate = find_gate(name);
  if (gate == nullptr) {
    return Error(Code::kInvalidArgument, fmt::format("no gate is named {}", name));
  }
  if (gate->otherwise == Verdict::kRefuse && verdict != Verdict::kRefuse) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the gate {} refuses, and cannot be made milder", name));
  }
  return {};
}

Result<recovery::Decision> reproduce(const recovery::Decision& saved) {
  const auto failed = [&](std::string why) {
    return Error(
               Code::kVerdictNotReproduced,
               fmt::format("the decision {} does not follow from its evidence: {}", saved.id, why))
        .with("decision", saved.id);
  };
  const Result<GateThresholds> thresholds = GateThresholds::from_json(saved.evidence["thresholds"]);
  if (!thresholds) {
    return failed("its thresholds are not in it, or unreadable").because(thresholds.error());
  }
  recovery::Decision again = recovery::decide(gate_rules(*thresholds), saved.evidence);
  if (again.to_json().dump() == saved.to_json().dump()) return again;
  return failed(fmt::format("saved {} by {}, reproduced {} by {}",
                            recovery::to_string(saved.verdict), saved.rule,
                            recovery::to_string(again.verdict), again.rule));
}

Volatility volatility_of(const std::map<std::string, Decimal>& before, std::int64_t before_age_ns,
                         const std::map<std::string, Decimal>& now, os::Duration window) {
  Volatility result;
  if (before_age_ns < 0 || before_age_ns > window.count()) return result;
  for (const auto& [symbol, mark] : now) {
    const auto old = before.find(symbol);
    if (old == before.end() || old->second <= Decimal()) continue;
    const Decimal change =
        saturate(Wide{mark.units() - old->second.units()} * Decimal::kScale / old->second.units())
            .abs();
    if (change > result.value) result = {change, symbol};
  }
  return result;
}

std::string_view to_string(GateOutcome outcome) {
  constexpr std::array<std::string_view, 4> kNames = {"open", "monitor_only", "needs_approval",
                                                      "refused"};
  return kNames[static_cast<std::size_t>(outcome)];
}

GateOutcome outcome_of(const recovery::Decision& decision) {
  switch (decision.verdict) {
    case Verdict::kAllow:
    case Verdict::kWarn:
      return GateOutcome::kOpen;
    case Verdict::kMonitorOnly:
      return GateOutcome::kMonitorOnly;
    case Verdict::kNeedApproval:
      return GateOutcome::kNeedsApproval;
    case Verdict::kRefuse:
      break;
  }
  return GateOutcome::kRefused;
}

std::optional<Error> gate_error(const recovery::Decision& decision) {
  const GateOutcome outcome = outcome_of(decision);
  if (outcome == GateOutcome::kOpen) return std::nullopt;
  Code code = Code::kGateClosed;
  if (decision.rule == "limits_loaded") code = Code::kLimitsNotLoaded;
  if (decision.rule == "duplicate_orders") code = Code::kDuplicateOrder;
  if (decision.rule == "kill_switch") code = Code::kKillSwitchEngaged;
  if (outcome == GateOutcome::kNeedsApproval) code = Code::kApprovalRequired;
  if (outcome == GateOutcome::kMonitorOnly) code = Code::kTradingHalted;
  std::string input, threshold, flips;
  for (const Finding& finding : decision.findings) {
    if (finding.rule != decision.rule) continue;
    input = finding.input;
    threshold = finding.threshold;
    flips = finding.flips;
  }
  Error error = Error(code, fmt::format("the rule {} holds trading back: {}, allowed: {}",
                                        decision.rule, input, threshold))
                    .with("rule", decision.rule)
                    .with("decision", decision.id);
  return flips.empty() ? error : std::move(error).suggest(flips);
}

}  // namespace defib::trading
