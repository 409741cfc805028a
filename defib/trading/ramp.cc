#include "defib/trading/ramp.h"

#include <fmt/core.h>

#include <array>
#include <utility>

#include "defib/base/assert.h"

namespace defib::trading {

std::string_view to_string(RampPhase phase) {
  constexpr std::array<std::string_view, 6> kNames = {"held",     "proving", "settling",
                                                      "watching", "full",    "emergency"};
  return kNames[static_cast<std::size_t>(phase)];
}

Ramp::Ramp(RampOptions options) : options_(std::move(options)) {
  DEFIB_ASSERT(!options_.steps.empty() && options_.check_every.count() > 0);
}

RampChange Ramp::begin(std::int64_t now_ns) {
  if (phase_ != RampPhase::kHeld) return RampChange::kNone;
  if (options_.check_after.count() == 0) return start_step(0, now_ns);
  phase_ = RampPhase::kProving;
  phase_since_ = now_ns;
  return RampChange::kProofStarted;
}

RampChange Ramp::start_step(int step, std::int64_t now_ns) {
  step_ = step;
  phase_ = RampPhase::kSettling;
  phase_since_ = now_ns;
  last_check_ = now_ns;
  return RampChange::kStepStarted;
}

RampChange Ramp::advance(std::int64_t now_ns, const std::optional<HealthResult>& health) {
  if (phase_ == RampPhase::kHeld || phase_ == RampPhase::kEmergency) return RampChange::kNone;
  if (health && !health->healthy) {
    failure_ = health;
    phase_ = RampPhase::kEmergency;
    return RampChange::kEmergency;
  }
  if (phase_ == RampPhase::kProving) {
    if (!health || now_ns - phase_since_ < options_.check_after.count()) return RampChange::kNone;
    return start_step(0, now_ns);
  }
  // A gap between results starts the period anew: silence is not health.
  const bool gap = now_ns - last_check_ > 2 * options_.check_every.count();
  if (health) last_check_ = now_ns;
  if (phase_ == RampPhase::kSettling && now_ns - phase_since_ >= options_.settle.count()) {
    phase_ = RampPhase::kWatching;
    phase_since_ = now_ns;
    return RampChange::kWatchStarted;
  }
  if (phase_ != RampPhase::kWatching) return RampChange::kNone;
  if (gap) {
    phase_since_ = now_ns;
    return RampChange::kNone;
  }
  // The period ends with a passing check, not merely with time.
  if (!health || now_ns - phase_since_ < options_.watch.count()) return RampChange::kNone;
  if (step_ + 1 < static_cast<int>(options_.steps.size())) return start_step(step_ + 1, now_ns);
  phase_ = RampPhase::kFull;
  phase_since_ = now_ns;
  return RampChange::kCompleted;
}

std::int64_t Ramp::check_due_ns() const {
  if (phase_ == RampPhase::kHeld || phase_ == RampPhase::kEmergency) return 0;
  if (phase_ == RampPhase::kProving) return phase_since_ + options_.check_after.count();
  return last_check_ + options_.check_every.count();
}

std::int64_t Ramp::next_ns() const {
  const std::int64_t check = check_due_ns();
  if (phase_ != RampPhase::kSettling) return check;
  return std::min(check, phase_since_ + options_.settle.count());
}

TradingPermit Ramp::permit() const {
  TradingPermit permit;
  switch (phase_) {
    case RampPhase::kHeld:
      return permit;
    case RampPhase::kProving:
      permit.reason = "the comprehensive check without trading has not passed yet";
      return permit;
    case RampPhase::kEmergency:
      permit.reason = failure_
                          ? fmt::format("emergency stop: {}: {}", failure_->check, failure_->detail)
                          : "emergency stop";
      return permit;
    case RampPhase::kSettling:
    case RampPhase::kWatching:
    case RampPhase::kFull:
      break;
  }
  const RampStep& step = options_.steps[static_cast<std::size_t>(step_)];
  permit.open = true;
  permit.percent = step.percent;
  permit.max_risk = step.max_risk;
  permit.reason = phase_ == RampPhase::kFull
                      ? "running"
                      : fmt::format("ramp step {} of {}", step_ + 1, options_.steps.size());
  return permit;
}

wire::Json Ramp::to_json() const {
  const RampStep& step = options_.steps[static_cast<std::size_t>(step_)];
  wire::Json json = wire::Json::object({{"phase", to_string(phase_)},
                                        {"step", step_ + 1},
                                        {"steps", options_.steps.size()},
                                        {"percent", permit().percent},
                                        {"max_risk", to_string(step.max_risk)}});
  if (failure_) {
    json.set("failed_check", failure_->check);
    json.set("detail", failure_->detail);
  }
  return json;
}

}  // namespace defib::trading
