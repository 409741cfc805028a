// Ramp: back to full trading in steps, as a pure state machine over time and health results.
//
//   held --begin--> proving --check--> settling(step) --settle--> watching(step) --watch-->
//   settling(step+1) ... full proving: nothing trades; after `check_after` one comprehensive check
//   must pass any step, any failing check --> emergency (final: only a new recovery leaves it)
//
// A step is left only after a whole watch period of passing checks, and a missing check result is
// not a passing one: each check period must have brought one. In full the checks go on.
// Times are monotonic nanoseconds, given by the caller.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/os/clock.h"
#include "defib/trading/gateway.h"
#include "defib/trading/intents.h"
#include "defib/wire/json.h"

namespace defib::trading {

struct RampStep {
  int percent = 100;
  RiskLevel max_risk = RiskLevel::kHigh;
};

struct RampOptions {
  // Before the first order: how long after recovery the comprehensive check without trading comes;
  // zero: the ramp begins at once.
  os::Duration check_after = std::chrono::seconds(5);
  os::Duration settle = std::chrono::seconds(30);
  os::Duration watch = std::chrono::seconds(60);
  os::Duration check_every = std::chrono::seconds(5);
  std::vector<RampStep> steps = {
      {50, RiskLevel::kLow}, {75, RiskLevel::kMedium}, {100, RiskLevel::kHigh}};
};

struct HealthResult {
  bool healthy = false;
  std::string check;  // the one that failed
  std::string detail;
};

enum class RampPhase { kHeld, kProving, kSettling, kWatching, kFull, kEmergency };
std::string_view to_string(RampPhase phase);

// What changed by a call; the caller acts on it.
enum class RampChange { kNone, kProofStarted, kStepStarted, kWatchStarted, kCompleted, kEmergency };

class Ramp {
 public:
  explicit Ramp(RampOptions options);
  RampChange begin(std::int64_t now_ns);
  // `health`: a result obtained since the last call, if any.
  RampChange advance(std::int64_t now_ns, const std::optional<HealthResult>& health);

  RampPhase phase() const { return phase_; }
  int step() const { return step_; }  // from 0
  const RampOptions& options() const { return options_; }
  // When a health check is due; 0: none is (held, emergency).
  std::int64_t check_due_ns() const;
  // When advance() should be called at latest; 0: no need.
  std::int64_t next_ns() const;
  // What the gateway may do now.
  TradingPermit permit() const;
  const std::optional<HealthResult>& failure() const { return failure_; }
  wire::Json to_json() const;

 private:
  RampChange start_step(int step, std::int64_t now_ns);

  RampOptions options_;
  RampPhase phase_ = RampPhase::kHeld;
  int step_ = 0;
  std::int64_t phase_since_ = 0;
  std::int64_t last_check_ = 0;
  std::optional<HealthResult> failure_;
};

}  // namespace defib::trading
