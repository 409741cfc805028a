// Engine: the reference trading engine. Small, but a real one: market data from the venue, three
// strategies of different risk levels, every order through an intent, a ledger in the store, a
// heartbeat, and the ten recovery steps before the first order of every start.
//
// Its life: open the store (which recovers itself), make a new epoch durable, run the ten steps,
// then one loop: heartbeat, quotes, recovery's poll (fences, approvals, ramp), strategies within
// what the ramp permits, fills and orders read back, checkpoints. While the venue cannot be reached
// the engine stays up, trades nothing, and tries the ten steps again with back-off: a trading rule
// or a dead venue never stops the process. Nor does a damaged ledger: then the engine opens
// nothing, shows the state "monitoring", says what is damaged and what to do, and waits to be
// restarted (trading/damage.h).
//
// Thread rule: create() and run() on one thread.

#pragma once

#include <memory>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/engine/faults.h"
#include "defib/engine/strategy.h"
#include "defib/os/clock.h"
#include "defib/process/agent.h"
#include "defib/trading/config.h"
#include "defib/trading/recovery_steps.h"
#include "defib/wire/json.h"

namespace defib::engine {

struct EngineConfig {
  trading::TradingConfig trading;
  StrategyOptions strategies;
  std::string state_dir;  // trading/ (the store), plans/, approvals/ lie in it
  os::Duration tick = std::chrono::milliseconds(100);     // quotes and strategies
  os::Duration sync_every = std::chrono::seconds(1);      // fills and orders of one symbol, in turn
  os::Duration retry_recovery = std::chrono::seconds(1);  // base of the back-off
  os::Duration heartbeat{0};                              // deadline; zero: the supervisor's
  os::Duration max_order_age = std::chrono::seconds(20);  // the maker replaces older ones
  // Written by a drill while the engine runs, in the form of parse_fault(); the engine removes it
  // and fails as told. Empty: not looked for.
  std::string fault_file;
  std::optional<FaultPlan> fault;
  // All is recovered and watched, and no order leaves before a person has approved the plan.
  bool start_in_monitoring = false;
  // Asks the supervisor's incident why the engine crashed; empty: nobody watches it.
  trading::CrashCauseSource crash_cause;
  // Where the incident of a damaged ledger is opened: the supervisor's state directory, and the
  // engine's own where it is empty.
  std::string incident_dir;
};

// How far apart readings in turn lie: as wished, and so far that they use no more than half of what
// the venue's budget gives back. Health checks, recovery and cancels need the rest.
os::Duration sync_interval(os::Duration wished, const venue::RebuildModel& model);

// For `defib status`: where orders go, since several accounts may be configured.
std::string trading_text(const trading::TradingConfig& config);

// [engine] of the file, beside [venue] and [trading]; the Config* errors name line and column.
Result<EngineConfig> load_engine_config(const std::string& path);

class Engine {
 public:
  // Opens the store, makes the epoch durable, loads intents and ledger. Damage of these is no
  // error: run() then trades nothing.
  static Result<std::unique_ptr<Engine>> create(EngineConfig config, process::Agent& agent,
                                                const os::Clock& clock);
  ~Engine();
  // Until a shutdown is requested; leaves everything durable and the store cleanly closed.
  Result<> run(const process::Shutdown& shutdown);
  // `--no-trading`: the ten steps as a dry run, which correct, consume and resume nothing; their
  // report. The error of the step that failed, the gate's, or what is damaged.
  Result<wire::Json> check_only();

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace defib::engine
