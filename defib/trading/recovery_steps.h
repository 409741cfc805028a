// TradingRecovery: from a crash to trading again, as one Procedure of ten steps:
//
//   analyze                what was durable when the engine died: boots, intents, checkpoint
//   safety_checks          limits present, credentials accepted, the venue's clock, its rules
//   load_state             checkpoint validated, source chosen (ledger, checkpoint or venue)
//   reconcile_positions    fills, balances, positions against the venue
//   recover_open_orders    open orders adopted, unresolved intents judged by the fence
//   health_without_trading a test order that places nothing, read-back of the account
//   risk_checks            exposure and volatility from fresh marks
//   market_check           halted symbols, stale prices; the gate decides
//   gradual_resume         gate open: the ramp begins; approval needed: the plan is published
//   report_and_notify      the whole as one event
//
// The first eight take seconds and only read the venue. gradual_resume does not wait: it starts the
// ramp, and the engine's loop then drives it by poll(), which costs nothing while nothing is due.
// The same poll() settles unresolved intents past their fence, takes an approval when it arrives
// (the gate is asked again first), re-checks a halted market, and on a failing check stops all.
// UNKNOWN intents do not hold the gate; they count as exposure.
//
// Killed at any instruction and run again, it converges: every write is one transaction, and every
// step starts from what is durable.
//
// Thread rule: procedure().execute() and poll() on the engine's thread.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/procedure.h"
#include "defib/store/store.h"
#include "defib/trading/approval.h"
#include "defib/trading/config.h"
#include "defib/trading/damage.h"
#include "defib/trading/fence.h"
#include "defib/trading/gates.h"
#include "defib/trading/gateway.h"
#include "defib/trading/ids.h"
#include "defib/trading/ledger.h"
#include "defib/trading/ramp.h"
#include "defib/trading/reconcile.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::trading {

// Events for the incident, by name (fields in docs/trading.md): trading_recovery_started,
// intent_unknown, checkpoint_verdict, state_source, discrepancy, reconciled, intent_settled,
// ramp_proof, decision, approval_required, approval_used, approval_invalid, ramp_step, ramp_watch,
// ramp_completed, emergency_stop, trading_report. `sync`: must be on disk before the engine goes
// on.
using EventSink = std::function<void(std::string event, wire::Json fields, bool sync)>;
// "recovering", "monitoring", "awaiting_approval", "ramping", "running", "stopped".
using StateSink = std::function<void(std::string state)>;
// Why the boot before this one ended, as far as the supervisor's incident tells.
struct CrashCause {
  std::string cause = "unknown";  // the vocabulary of docs/cli.md
  std::string incident;           // its id; empty: none
  std::string state_dir;          // where its manual procedure lies; empty: Parts.state_dir
};
using CrashCauseSource = std::function<CrashCause()>;
// A check of the engine's own, asked at each check period of the ramp.
using HealthCheck = std::function<HealthResult()>;

class TradingRecovery {
 public:
  struct Parts {
    // Asked after a crash, and again while the cause is unknown. Empty: nobody watches the engine.
    CrashCauseSource crash_cause;
    // The record of damage that stands beside the store (damage.h), if there is one.
    std::optional<Damage> damage;
    KillSwitch* kill_switch = nullptr;
    store::Store* store = nullptr;
    venue::Venue* venue = nullptr;
    const os::Clock* clock = nullptr;
    os::Files* files = nullptr;
    std::string state_dir;  // plans/ and approvals/ lie in it
    TradingConfig config;
    IntentLog* intents = nullptr;
    Ledger* ledger = nullptr;
    IdSource* ids = nullptr;
    OrderGateway* gateway = nullptr;
    EventSink events;  // may be empty
    StateSink states;  // may be empty
    std::vector<HealthCheck> health_checks;
    // The supervisor asked for it: no order leaves before a person has approved the plan, and the
    // state is "monitoring" until then (the gate's rule start_mode).
    bool start_in_monitoring = false;
    // Only look: nothing is written, corrected, consumed or resumed (`defib checklist`).
    bool dry_run = false;
    // False: the state is recovered and a plan published, but nothing is consumed or resumed; the
    // engine does that when it starts (`defib recover`).
    bool resume = true;
  };
  explicit TradingRecovery(Parts parts);
  ~TradingRecovery();

  // The ten steps. Execute once; a new TradingRecovery for another run.
  recovery::Procedure& procedure();

  // From the engine's loop, after execute(). Never waits; does at most what is due.
  Result<> poll();
  // When poll() has something to do; 0: never by itself.
  std::int64_t next_poll_mono_ns() const;

  GateOutcome outcome() const;
  const std::optional<recovery::Decision>& decision() const;
  const std::optional<Plan>& plan() const;  // where an approval is needed
  const std::vector<Discrepancy>& discrepancies() const;
  const Ramp& ramp() const;
  // The report of step ten, complete after execute().
  wire::Json report() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace defib::trading
