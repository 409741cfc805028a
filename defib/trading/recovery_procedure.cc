// How the ten steps and a user's own become one Procedure.

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "defib/trading/recovery_state.h"

namespace defib::trading {

using namespace std::chrono_literals;
using recovery::StageContext;

// Waiting for a venue that does not answer is bounded by the adapter's own time-outs. Each step
// needs the last critical one before it; the order of adding does the rest.
void TradingRecovery::State::build_procedure() {
  using Step = Result<> (State::*)(StageContext&);
  struct Builtin {
    Step run;
    os::Duration timeout;
    bool critical = true;
  };
  // A closed gate is a result and no failure of the procedure: gradual_resume is not critical.
  const std::array<Builtin, kRecoverySteps.size()> builtins = {
      {{&State::analyze, 30s},
       {&State::safety_checks, 30s},
       {&State::load_state, 5min},
       {&State::reconcile_positions, 10min},
       {&State::recover_open_orders, 2min},
       {&State::health_without_trading, 30s},
       {&State::risk_checks, 30s},
       {&State::market_check, 30s},
       {&State::gradual_resume, 30s, false},
       {&State::report_and_notify, 30s}}};
  std::string needs;
  const auto add = [&](const std::string& name, bool critical, os::Duration timeout,
                       std::function<Result<>(StageContext&)> run) {
    recovery::Procedure::Builder stage = procedure.add(name);
    if (!needs.empty()) stage.after(needs);
    stage.critical(critical).timeout(timeout).run(std::move(run));
    if (critical) needs = name;
    return stage;
  };
  const auto add_own = [&](std::string_view builtin, bool before) {
    for (const ExecStep& step : parts.config.runbook.steps) {
      if ((before ? step.before : step.after) != builtin || parts.dry_run) continue;
      // Its own limit ends the program; the stage's is a little longer, so that the error is the
      // program's.
      auto stage = add(step.name, step.stop_on_failure, step.timeout + 5s,
                       [this, &step](StageContext& context) {
                         return run_exec_step(step, *parts.clock, context);
                       });
      if (!step.rollback.empty()) {
        stage.rollback([&step] { return roll_back_exec_step(step); }, step.manual_undo);
      }
    }
  };
  for (std::size_t i = 0; i < kRecoverySteps.size(); ++i) {
    const std::string name(kRecoverySteps[i]);
    add_own(name, true);
    StepLimits limits{.name = name};
    for (const StepLimits& own : parts.config.runbook.builtin) {
      if (own.name == name) limits = own;
    }
    const os::Duration timeout = limits.timeout.count() > 0 ? limits.timeout : builtins[i].timeout;
    const Step run = builtins[i].run;
    add(name, builtins[i].critical, timeout, [this, run, limits](StageContext& context) {
      return run_with_retries(limits, *parts.clock, context,
                              [this, run](StageContext& same) { return (this->*run)(same); });
    });
    add_own(name, false);
  }
}

}  // namespace defib::trading
