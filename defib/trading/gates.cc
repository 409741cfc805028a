#include "defib/trading/gates.h"

#include <fmt/core.h>

#include <array>
#include <functional>
#include <utility>

#include "defib/trading/amounts.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

using recovery::Evidence;
using recovery::Finding;
using recovery::Rule;
using recovery::Verdict;

constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::size_t kDecisionsKept = 200;

Decimal amount(const Evidence& evidence, std::string_view name) {
  const Result<Decimal> value = Decimal::parse(evidence[name].as_string());
  return value ? *value : Decimal::from_units(INT64_MAX);  // unreadable: beyond every limit
}

std::string duration(std::int64_t ns) {
  return os::format_duration(os::Duration(ns));
}

// A rule that speaks `otherwise` when `holds` is false.
Rule make_rule(std::string name, std::vector<std::string> needs, Verdict otherwise,
               std::string threshold, std::string flips,
               std::function<std::pair<bool, std::string>(const Evidence&)> check) {
  Rule rule{std::move(name), std::move(needs), {}};
  rule.decide = [name = rule.name, otherwise, threshold = std::move(threshold),
                 flips = std::move(flips), check = std::move(check)](const Evidence& evidence) {
    const auto [holds, input] = check(evidence);
    Finding finding;
    finding.rule = name;
    finding.verdict = holds ? Verdict::kAllow : otherwise;
    finding.input = input;
    finding.threshold = threshold;
    finding.flips = holds ? std::string() : flips;
    return finding;
  };
  return rule;
}

constexpr std::string_view kApprove = "approve the plan with `defib approve PLAN --by NAME`";

// What no approval can allow.
void add_refusals(std::vector<Rule>& rules, const GateThresholds& thresholds) {
  rules.push_back(make_rule(
      "duplicate_orders", {"duplicate_orders"}, Verdict::kRefuse, "none",
      "call the venue, cancel both orders, and recover again", [](const Evidence& evidence) {
        const std::int64_t count = evidence["duplicate_orders"].as_int(1);
        return std::pair(count == 0, fmt::format("{} intents with two orders", count));
      }));
  rules.push_back(make_rule("limits_loaded", {"limits_loaded"}, Verdict::kRefuse,
                            "limits must be loaded", "add [trading.limits] to the configuration",
                            [](const Evidence& evidence) {
                              const bool loaded = evidence["limits_loaded"].as_bool();
                              return std::pair(loaded, std::string(loaded ? "loaded" : "absent"));
                            }));
  rules.push_back(make_rule(
      "permissions", {"permissions_verified"}, Verdict::kRefuse, "the venue accepts a test order",
      "cure the error of the test order in the report", [](const Evidence& evidence) {
        const bool verified = evidence["permissions_verified"].as_bool();
        return std::pair(verified, std::string(verified ? "accepted" : "not accepted"));
      }));
  const std::int64_t max_skew_ms = thresholds.max_clock_skew.count() / kNsPerMs;
  rules.push_back(make_rule(
      "clock_skew", {"clock_skew_ms"}, Verdict::kRefuse, fmt::format("at most {} ms", max_skew_ms),
      "synchronize this machine's clock", [=](const Evidence& evidence) {
        const std::int64_t skew = evidence["clock_skew_ms"].as_int(INT64_MAX);
        return std::pair(skew <= max_skew_ms && skew >= -max_skew_ms, fmt::format("{} ms", skew));
      }));
}

// What the state itself asks a person for.
void add_state_rules(std::vector<Rule>& rules, const GateThresholds& thresholds) {
  rules.push_back(make_rule("unexplained", {"unexplained"}, Verdict::kNeedApproval, "none",
                            std::string(kApprove), [](const Evidence& evidence) {
                              const std::int64_t count = evidence["unexplained"].as_int(1);
                              return std::pair(count == 0,
                                               fmt::format("{} unexplained differences", count));
                            }));
  rules.push_back(make_rule(
      "checkpoint_verdict", {"checkpoint_usable", "state_source", "checkpoint_rule"},
      Verdict::kNeedApproval, "usable, or the state taken from the venue", std::string(kApprove),
      [](const Evidence& evidence) {
        const bool usable = evidence["checkpoint_usable"].as_bool();
        const bool rebuilt = evidence["state_source"].as_string() == to_string(StateSource::kVenue);
        return std::pair(usable || rebuilt,
                         usable ? std::string("usable")
                                : fmt::format("failed {}, state from {}",
                                              evidence["checkpoint_rule"].as_string(),
                                              evidence["state_source"].as_string()));
      }));
  rules.push_back(make_rule("repeated_crashes", {"crashes"}, Verdict::kNeedApproval,
                            fmt::format("at most {} in {}", thresholds.max_crashes,
                                        os::format_duration(thresholds.crash_window)),
                            fmt::format("wait until fewer lie within {}, or {}",
                                        os::format_duration(thresholds.crash_window), kApprove),
                            [max = thresholds.max_crashes](const Evidence& evidence) {
                              const std::int64_t crashes = evidence["crashes"].as_int(INT64_MAX);
                              return std::pair(crashes <= max, fmt::format("{} crashes", crashes));
                            }));
}

// What the market and the exposure ask a person for.
void add_market_rules(std::vector<Rule>& rules, const GateThresholds& thresholds) {
  rules.push_back(make_rule("exposure", {"exposure"}, Verdict::kNeedApproval,
                            fmt::format("at most {}", thresholds.max_exposure.to_string()),
                            fmt::format("reduce the position, or {}", kApprove),
                            [max = thresholds.max_exposure](const Evidence& evidence) {
                              const Decimal exposure = amount(evidence, "exposure");
                              return std::pair(exposure <= max, exposure.to_string());
                            }));
  rules.push_back(make_rule(
      "volatility", {"volatility", "volatility_symbol"}, Verdict::kNeedApproval,
      fmt::format("at most {}", thresholds.max_volatility.to_string()),
      fmt::format("wait for a calmer market, or {}", kApprove),
      [max = thresholds.max_volatility](const Evidence& evidence) {
        const Decimal volatility = amount(evidence, "volatility");
        return std::pair(volatility <= max, fmt::format("{} {}", volatility.to_string(),
                                                        evidence["volatility_symbol"].as_string()));
      }));
  rules.push_back(
      make_rule("stale_prices", {"price_age_ns", "stale_symbol"}, Verdict::kNeedApproval,
                fmt::format("at most {}", os::format_duration(thresholds.max_price_age)),
                fmt::format("wait for fresh prices, or {}", kApprove),
                [max = thresholds.max_price_age.count()](const Evidence& evidence) {
                  const std::int64_t age = evidence["price_age_ns"].as_int(-1);
                  if (age < 0) {
                    return std::pair(
                        false, fmt::format("no price of {}", evidence["stale_symbol"].as_string()));
                  }
                  return std::pair(age <= max, duration(age));
                }));
}

}  // namespace

recovery::Evidence GateEvidence::to_evidence() const {
  wire::Json halted = wire::Json::array();
  for (const std::string& symbol : halted_symbols) halted.push(symbol);
  Evidence evidence;
  evidence.set("limits_loaded", limits_loaded)
      .set("permissions_verified", permissions_verified)
      .set("crashes", crashes)
      .set("checkpoint_usable", checkpoint_usable)
      .set("checkpoint_rule", checkpoint_rule)
      .set("state_source", to_string(state_source))
      .set("checkpoint_age_ns", checkpoint_age_ns)
      .set("discrepancies", discrepancies)
      .set("unexplained", unexplained)
      .set("duplicate_orders", duplicate_orders)
      .set("exposure", exposure.total().to_string())
      .set("exposure_parts", exposure.to_json())
      .set("unknown_intents", unknown_intents)
      .set("volatility", volatility.to_string())
      .set("volatility_symbol", volatility_symbol)
      .set("halted_symbols", std::move(halted))
      .set("price_age_ns", price_age_ns)
      .set("stale_symbol", stale_symbol)
      .set("clock_skew_ms", clock_skew_ms)
      .set("start_mode", start_in_monitoring ? "monitoring" : "normal");
  return evidence;
}

std::vector<recovery::Rule> gate_rules(const GateThresholds& thresholds) {
  std::vector<Rule> rules;
  add_refusals(rules, thresholds);
  add_state_rules(rules, thresholds);
  add_market_rules(rules, thresholds);
  rules.push_back(make_rule(
      "approval", {}, Verdict::kNeedApproval, "no approval is required as a matter of course",
      std::string(kApprove), [always = thresholds.approval_always](const Evidence&) {
        return std::pair(!always, std::string(always ? "every recovery needs a person"
                                                     : "only where another rule asks for it"));
      }));
  rules.push_back(make_rule("start_mode", {"start_mode"}, Verdict::kNeedApproval, "a normal start",
                            fmt::format("{}, or restart the service by hand once its `start_in` "
                                        "and `monitoring_after` allow a normal start",
                                        kApprove),
                            [](const Evidence& evidence) {
                              const std::string mode(evidence["start_mode"].as_string());
                              return std::pair(mode == "normal", "started in " + mode);
                            }));
  rules.push_back(make_rule(
      "market_state", {"halted_symbols"}, Verdict::kMonitorOnly, "every symbol trades",
      "wait for the venue to open the market", [](const Evidence& evidence) {
        const wire::Json& halted = evidence["halted_symbols"];
        return std::pair(halted.size() == 0, halted.size() == 0 ? std::string("all trade")
                                                                : "halted: " + halted.dump());
      }));
  rules.push_back(
      make_rule("checkpoint_age", {"checkpoint_age_ns"}, Verdict::kWarn,
                fmt::format("at most {}", os::format_duration(thresholds.max_checkpoint_age)),
                "nothing is to be done; the ledger was compared with the venue",
                [max = thresholds.max_checkpoint_age.count()](const Evidence& evidence) {
                  const std::int64_t age = evidence["checkpoint_age_ns"].as_int();
                  return std::pair(age <= max, duration(age));
                }));
  return rules;
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

Result<> record_decision(store::Store& store, const recovery::Decision& decision,
                         std::int64_t wall_ns, store::Durability durability) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  const std::string key = fmt::format("{:020}:{}", wall_ns, decision.id);
  DEFIB_TRY(transaction->put(kDecisionTable, key, decision.to_json().dump()));
  std::vector<std::string> old;
  {
    DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor,
                     transaction->scan(kDecisionTable));
    std::size_t kept = 0;
    for (bool found = cursor->last(); found; found = cursor->prev()) {
      if (++kept > kDecisionsKept) old.emplace_back(cursor->key());
    }
  }
  for (const std::string& gone : old) DEFIB_TRY(transaction->erase(kDecisionTable, gone));
  const Result<std::uint64_t> committed = transaction->commit(durability);
  if (!committed) return committed.error();
  return {};
}

Result<recovery::Decision> find_decision(const store::Snapshot& snapshot, std::string_view id) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kDecisionTable));
  for (bool found = cursor->last(); found; found = cursor->prev()) {
    DEFIB_TRY_ASSIGN(const wire::Json json, wire::Json::parse(cursor->value()));
    DEFIB_TRY_ASSIGN(recovery::Decision decision, recovery::Decision::from_json(json));
    if (id == "latest" || decision.id.starts_with(id) || decision.rule == id) return decision;
  }
  return Error(Code::kNotFound, fmt::format("no decision {} was ever made here", id))
      .suggest("give a decision's id, the name of the rule that decided, or latest");
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
