// Gates: the rules between a recovered state and trading again, as recovery::Rules over evidence.
//
// Evidence is collected by the steps; the rules read no clock and ask nobody, so that a verdict can
// be reproduced from the decision's own evidence (`defib explain`). Unresolved intents do not hold
// the gate by themselves: they count as exposure.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/recovery/decision.h"
#include "defib/store/store.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/reconcile.h"

namespace defib::trading {

struct GateThresholds {
  int max_crashes = 3;  // more: approval
  os::Duration crash_window = std::chrono::minutes(5);
  // Older: a warning, since the state is compared with the venue in any case.
  os::Duration max_checkpoint_age = std::chrono::seconds(5);
  Decimal max_exposure = Decimal::from_integer(1'000'000);  // in the configured currency
  Decimal max_volatility = Decimal::from_units(5'000'000);  // 0.05
  // Marks older than this say nothing about volatility.
  os::Duration volatility_window = std::chrono::minutes(15);
  os::Duration max_price_age = std::chrono::seconds(10);
  os::Duration max_clock_skew = std::chrono::seconds(1);
  bool approval_always = false;  // every recovery needs a person
  bool require_cause = true;     // false: a crash that nothing explains holds nothing
  // How a gate speaks instead of by its default; a refusal cannot be made milder.
  std::map<std::string, recovery::Verdict> verdicts;
  // All of it, as it stands in a decision's evidence, and back.
  wire::Json to_json() const;
  static Result<GateThresholds> from_json(const wire::Json& json);
};

// What the rules read. to_evidence() is the one place where names are given.
struct GateEvidence {
  bool limits_loaded = false;
  bool permissions_verified = false;  // a test order was accepted by the venue
  int crashes = 0;                    // within thresholds.crash_window
  // Of the boot before: "none" where it ended cleanly or nobody watched it, "unknown" where it
  // crashed and nothing tells why, else a word of the incident's vocabulary (docs/cli.md).
  std::string crash_cause = "none";
  std::string damage;        // what is damaged in ledger or intent log; empty: nothing
  bool manual_done = false;  // the manual procedure was walked to its end for this crash
  std::string kill_switch;   // the scope that is engaged here; empty: none
  bool checkpoint_usable = false;
  std::string checkpoint_rule;  // the first critical finding
  StateSource state_source = StateSource::kLedger;
  std::int64_t checkpoint_age_ns = 0;
  std::size_t discrepancies = 0;
  std::size_t unexplained = 0;  // that were not applied
  std::size_t duplicate_orders = 0;
  Exposure exposure;
  std::string currency;               // of the exposure
  std::vector<std::string> unpriced;  // assets of which no rate into the currency is known
  std::size_t unknown_intents = 0;
  Decimal volatility;
  std::string volatility_symbol;
  std::string venue_status = "online";
  std::vector<std::string> halted_symbols;
  std::int64_t price_age_ns = -1;  // the oldest quote; negative: a symbol has none
  std::string stale_symbol;
  std::int64_t clock_skew_ms = 0;
  bool start_in_monitoring = false;  // the supervisor asked for it (DEFIB_START_MODE)
  // The thresholds go into the evidence too, so that a verdict can be reproduced from it alone.
  recovery::Evidence to_evidence(const GateThresholds& thresholds) const;
};

// The decision tree is a table (gates.cc): name, verdict, facts, comparison, what would flip it. In
// the order in which they are asked; damage comes first, because where it stands there was nothing
// from which the others could have been found out:
//   state_damage         ledger or intent log, not dealt with      -> refuse (manual procedure)
//   duplicate_orders     any                                       -> refuse
//   limits_loaded        no                                        -> refuse
//   permissions          a test order was not accepted             -> refuse
//   clock_skew           beyond max_clock_skew                     -> refuse
//   kill_switch          engaged                                   -> refuse
//   heap_corruption      as the cause, not dealt with              -> refuse (manual procedure)
//   unexplained          any discrepancy that nothing explains     -> need approval
//   checkpoint_verdict   not usable, state not taken from the venue-> need approval
//   repeated_crashes     more than max_crashes in crash_window     -> need approval
//   unknown_cause        it crashed, and nothing tells why         -> need approval
//   exposure             beyond max_exposure, or not computable    -> need approval
//   volatility           beyond max_volatility                     -> need approval
//   stale_prices         older than max_price_age, or none         -> need approval
//   approval             approval_always                           -> need approval
//   start_mode           started in monitoring                     -> need approval
//   venue_status         not online                                -> monitor only
//   market_state         a symbol is halted                        -> monitor only
//   checkpoint_age       beyond max_checkpoint_age                 -> warn
inline constexpr int kGates = 19;
std::vector<recovery::Rule> gate_rules(const GateThresholds& thresholds);
// The table for people and programs: [{"gate","verdict","facts","threshold","flips"}].
wire::Json describe_gates(const GateThresholds& thresholds);
// InvalidArgument where no gate has this name, or the verdict would make a refusal milder.
Result<> check_gate_verdict(std::string_view gate, recovery::Verdict verdict);
// The decision that follows from a saved decision's own evidence, thresholds included.
// VerdictNotReproduced where it is another one: then one of them was changed.
Result<recovery::Decision> reproduce(const recovery::Decision& saved);

// Volatility of a symbol: |now / before - 1| between the mark recorded last before the recovery and
// the middle of the market now; zero where the old mark is older than the window or missing.
// The greatest over all symbols decides.
struct Volatility {
  Decimal value;
  std::string symbol;
};
Volatility volatility_of(const std::map<std::string, Decimal>& before, std::int64_t before_age_ns,
                         const std::map<std::string, Decimal>& now, os::Duration window);

// Keeps a decision for `defib explain`, and the newest 200 of them.
Result<> record_decision(store::Store& store, const recovery::Decision& decision,
                         std::int64_t wall_ns, store::Durability durability);
// All that are kept, oldest first.
Result<std::vector<recovery::Decision>> read_decisions(const store::Snapshot& snapshot);
// The newest decision whose id begins with `id`, or whose deciding rule is `id`, or "latest".
Result<recovery::Decision> find_decision(const store::Snapshot& snapshot, std::string_view id);

// What a verdict means for trading.
enum class GateOutcome { kOpen, kMonitorOnly, kNeedsApproval, kRefused };
std::string_view to_string(GateOutcome outcome);
GateOutcome outcome_of(const recovery::Decision& decision);
// GateClosed, ApprovalRequired, LimitsNotLoaded, DuplicateOrder or TradingHalted, by the rule that
// decided; none where the gate is open.
std::optional<Error> gate_error(const recovery::Decision& decision);

}  // namespace defib::trading
