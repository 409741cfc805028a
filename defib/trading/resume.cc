// What follows the ten steps: the engine's loop calls poll(), which does what is due and never
// waits: settling unresolved intents, taking an approval, asking the gate again, ramping up.

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "defib/trading/amounts.h"
#include "defib/trading/recovery_state.h"

namespace defib::trading {
namespace {

using namespace std::chrono_literals;

constexpr os::Duration kApprovalPoll = 250ms;
constexpr os::Duration kGatePoll = 5s;
constexpr os::Duration kRetry = 1s;
// A venue that says "slower" for so long is one that cannot be watched; where its budget is small,
// after so many pauses.
constexpr os::Duration kLongestSilence = 1min;
constexpr int kLongestSilencePauses = 3;
// A reconciliation that was refused for longer than so many of its turns holds the ramp.
constexpr int kTurnsUnanswered = 3;
// Between tries to finish a stop that could not be verified.
constexpr os::Duration kFirstStopPause = 1s;
constexpr os::Duration kLongestStopPause = 30s;
constexpr os::Duration kLongestNamedPause = 15min;

// A person walks the manual procedure, or a clock is set, while the engine watches.
constexpr std::array<std::string_view, 3> kRefusalsThatMayEnd = {"state_damage", "heap_corruption",
                                                                 "clock_skew"};

bool earlier(std::int64_t& due, std::int64_t other) {
  if (other == 0 || (due != 0 && due <= other)) return false;
  due = other;
  return true;
}

// How long a reading of the whole account is saved up for, where readings in turn use half of what
// the venue's budget gives back. Tried at once, it uses up what little there is, and never has
// enough.
os::Duration pause_for_reading(const venue::RebuildModel& model) {
  constexpr std::int64_t kShare = 2;
  const std::int64_t cost = model.fixed + 2 * model.fills_cost + model.orders_cost;
  return std::max(kRetry, model.limit.per_unit() * kShare * cost);
}

bool only_monitoring(const recovery::Decision& decision) {
  return std::any_of(decision.findings.begin(), decision.findings.end(), [](const auto& finding) {
    return finding.verdict == recovery::Verdict::kMonitorOnly;
  });
}

}  // namespace

std::int64_t TradingRecovery::State::next_poll() const {
  std::int64_t due = 0;
  earlier(due, resolver_next);
  earlier(due, approval_next);
  earlier(due, gate_next);
  earlier(due, stop_next);
  if (ramp.next_ns() != 0) earlier(due, std::max(ramp.next_ns(), health_next));
  if (checkpoint_mono_ns != 0) {
    earlier(due, checkpoint_mono_ns + parts.config.checkpoint_every.count());
  }
  return due;
}

Result<> TradingRecovery::State::poll() {
  const std::int64_t now = parts.clock->mono_ns();
  // Before anything that may fail: orders may be open that nobody watches.
  if (stop_next != 0 && now >= stop_next) finish_stop();
  // New UNKNOWN intents come up while trading; the resolver has nothing to ask when there are none.
  const bool unresolved = !parts.intents->unresolved().empty();
  if (unresolved && (resolver_next == 0 || now >= resolver_next)) {
    resolver_next = now + kRetry.count();  // should the venue not answer
    DEFIB_TRY(settle_intents());
  } else if (!unresolved) {
    resolver_next = 0;
  }
  if (approval_next != 0 && now >= approval_next) {
    approval_next = now + kApprovalPoll.count();
    // The classification follows the restart by a moment; then the gate is asked again at once.
    if (evidence.crash_cause == "unknown") {
      ask_crash_cause();
      if (evidence.crash_cause != "unknown") gate_next = now;
    }
    DEFIB_TRY(poll_approval());
  }
  if (gate_next != 0 && now >= gate_next) {
    gate_next = now + kGatePoll.count();
    DEFIB_TRY(ask_gate_again());
  }
  DEFIB_TRY(poll_ramp());
  if (checkpoint_mono_ns != 0 && ramp.phase() != RampPhase::kEmergency &&
      now - checkpoint_mono_ns >= parts.config.checkpoint_every.count()) {
    DEFIB_TRY(save_checkpoint());
  }
  return {};
}

// The decision stands; makes it so.
Result<> TradingRecovery::State::act_on_gate() {
  approval_next = 0;
  gate_next = 0;
  const std::int64_t now = parts.clock->mono_ns();
  if (!parts.resume && outcome != GateOutcome::kNeedsApproval) return {};
  switch (outcome) {
    case GateOutcome::kOpen:
      return begin_ramp();
    case GateOutcome::kMonitorOnly:
      enter("monitoring");
      gate_next = now + kGatePoll.count();
      return {};
    case GateOutcome::kNeedsApproval:
      return ask_for_approval();
    case GateOutcome::kRefused:
      if (std::ranges::find(kRefusalsThatMayEnd, decision->rule) != kRefusalsThatMayEnd.end()) {
        enter("monitoring");
        gate_next = now + kGatePoll.count();
        return {};
      }
      enter("stopped");
      return {};
  }
  return {};
}

Result<> TradingRecovery::State::begin_ramp() {
  plan.reset();
  reconcile_answered = parts.clock->mono_ns();  // the recovery's own
  reconcile_refused = false;
  return on_ramp_change(ramp.begin(parts.clock->mono_ns()));
}

Plan TradingRecovery::State::make_plan() const {
  Plan made;
  made.venue = parts.venue->name();
  made.owner = parts.ids->owner();
  made.symbols = parts.config.venue.symbols;
  made.strategies = parts.config.strategies;
  for (const recovery::Finding& finding : decision->findings) {
    if (finding.verdict == recovery::Verdict::kNeedApproval) {
      made.asked_because.push_back(finding.rule);
    }
  }
  made.discrepancies.assign(open_discrepancies.begin(), open_discrepancies.end());
  made.exposure_limit = parts.config.gates.max_exposure;
  made.exposure_at_most = round_exposure_up(evidence.exposure.total(), made.exposure_limit);
  made.crashes = evidence.crashes;
  for (const RampStep& step : parts.config.ramp.steps) {
    made.ramp.push_back(fmt::format("{}% {}", step.percent, to_string(step.max_risk)));
  }
  return made;
}

Result<> TradingRecovery::State::ask_for_approval() {
  const Plan wanted = make_plan();
  const std::int64_t now = parts.clock->mono_ns();
  const bool changed = !plan || plan->hash() != wanted.hash();
  plan = wanted;
  if (changed) {
    DEFIB_TRY_ASSIGN(const std::string hash, desk.publish(wanted));
    emit("approval_required", wire::Json::object({{"plan", hash}, {"content", wanted.to_json()}}),
         true);
    told_invalid.clear();
  }
  if (!parts.resume) return {};
  if (changed) entered.clear();  // The state may be the same, but another plan is shown with it.
  enter(parts.start_in_monitoring ? "monitoring" : "awaiting_approval");
  gate_next = now + kGatePoll.count();
  approval_next = now + kApprovalPoll.count();
  return poll_approval();  // it may lie there already
}

Result<> TradingRecovery::State::poll_approval() {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored, parts.store->snapshot());
  const Result<Approval> given = desk.check(*stored, plan->hash());
  if (!given) {
    if (given.error().code() == Code::kApprovalRequired) return {};
    if (given.error().code() != Code::kApprovalInvalid) return given.error();
    const std::string reason(given.error().field("reason"));
    if (reason != told_invalid) emit("approval_invalid", wire::to_json(given.error()), true);
    told_invalid = reason;
    return {};
  }
  const std::int64_t now = parts.clock->mono_ns();
  if (now < approval_not_before) return {};
  const Result<> resumed = resume_approved(*given);
  if (!resumed && resumed.error().code() == Code::kVenueRateLimited) {
    approval_not_before = now + pause_for_reading(parts.venue->rebuild_model()).count();
  }
  return resumed;
}

// The account and the gate are looked at again, since orders may have been filled while the person
// read: only if the plan covers what is true now is the approval used up.
Result<> TradingRecovery::State::resume_approved(const Approval& approval) {
  DEFIB_TRY(reconcile_once());
  rules = snapshot.rules;
  DEFIB_TRY(count_open_discrepancies());
  DEFIB_TRY(read_marks());
  assess_risk();
  DEFIB_TRY(decide_gate());
  if (outcome != GateOutcome::kNeedsApproval) return act_on_gate();
  const std::string approved_hash = plan->hash();
  if (const Plan wanted = make_plan(); !plan->covers(wanted)) {
    emit("approval_invalid",
         wire::Json::object(
             {{"reason", "plan_mismatch"}, {"approved", approved_hash}, {"wanted", wanted.hash()}}),
         true);
    for (const Discrepancy& item : discrepancies) {
      if (!item.explained) emit("discrepancy", item.to_json(), false);
    }
    return ask_for_approval();
  }
  const Result<Approval> used = desk.consume(*parts.store, *plan);
  if (!used) return used.error();
  emit("approval_used", used->to_json(), true);
  const bool has_differences = std::any_of(discrepancies.begin(), discrepancies.end(),
                                           [](const Discrepancy& item) { return !item.explained; });
  if (has_differences) {
    DEFIB_TRY_ASSIGN(const int corrections,
                     apply_reconciliation(*parts.ledger, snapshot, discrepancies,
                                          {.reason = "plan " + approved_hash.substr(0, 12),
                                           .by = approval.by,
                                           .unexplained = true},
                                          parts.clock->wall_ns()));
    emit("reconciled", wire::Json::object({{"corrections", corrections}, {"by", approval.by}}),
         true);
    discrepancies.clear();
  }
  DEFIB_TRY(count_open_discrepancies());
  approved = true;
  approved_exposure = plan->exposure_at_most;
  approval_next = 0;
  gate_next = 0;
  if (only_monitoring(*decision)) {
    enter("monitoring");
    gate_next = parts.clock->mono_ns() + kGatePoll.count();
    return {};
  }
  outcome = GateOutcome::kOpen;
  return begin_ramp();
}

// While a person or the market is waited for: the world may have changed by itself.
Result<> TradingRecovery::State::ask_gate_again() {
  if (ramp.phase() != RampPhase::kHeld) return {};
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored, parts.store->snapshot());
  DEFIB_TRY_ASSIGN(const std::vector<BootRecord> boots, read_boots(*stored, 64));
  evidence.crashes = crashes_within(boots, *parts.clock, parts.config.gates.crash_window);
  ask_crash_cause();
  DEFIB_TRY_ASSIGN(evidence.clock_skew_ms, parts.gateway->sync_clock());
  DEFIB_TRY_ASSIGN(rules, parts.venue->rules());
  DEFIB_TRY(read_marks());
  assess_risk();
  DEFIB_TRY(decide_gate());
  if (approved && outcome == GateOutcome::kNeedsApproval) {
    approved = plan->covers(make_plan());
    if (approved && only_monitoring(*decision)) return {};
    if (approved) outcome = GateOutcome::kOpen;
  }
  return act_on_gate();
}

Result<> TradingRecovery::State::poll_ramp() {
  const std::int64_t now = parts.clock->mono_ns();
  if (ramp.next_ns() == 0) return {};
  if (const std::optional<HealthResult> failure = hard_stop()) {
    return on_ramp_change(ramp.advance(now, failure));
  }
  if (now < ramp.next_ns() || now < health_next) return {};
  std::optional<HealthResult> health;
  const bool proving = ramp.phase() == RampPhase::kProving;
  const bool asked = proving || now >= ramp.check_due_ns();
  if (asked) health = proving ? check_without_trading() : check_health();
  if (health) unanswered_since = 0;
  health_next = 0;
  if (asked && !health) {
    // The comprehensive check reads everything. The quick one is for what is known here, too.
    const bool costly = proving && unanswered_since != 0;
    const os::Duration pause = costly ? pause_for_reading(parts.venue->rebuild_model()) : kRetry;
    health_next = now + pause.count();
  }
  return on_ramp_change(ramp.advance(parts.clock->mono_ns(), health));
}

// Whoever met them: the resolver, the gateway's own readings, or a reply.
std::optional<HealthResult> TradingRecovery::State::hard_stop() const {
  const std::optional<Error>& met = duplicate ? duplicate : parts.gateway->hard_stop();
  if (!met) return std::nullopt;
  const bool doubled = met->code() == Code::kDuplicateOrder;
  return HealthResult{false, doubled ? "duplicate_orders" : "ledger_damaged", met->to_line()};
}

// A budget of requests that is used up says nothing about the state, and by itself stops nothing:
// there is no result, and no step of the ramp passes without one.
std::optional<HealthResult> TradingRecovery::State::unanswered(std::string check,
                                                               const Error& error) {
  if (error.code() == Code::kVenueRateLimited) {
    const std::int64_t now = parts.clock->mono_ns();
    if (unanswered_since == 0) unanswered_since = now;
    const os::Duration patience = std::max(
        kLongestSilence, kLongestSilencePauses * pause_for_reading(parts.venue->rebuild_model()));
    if (now - unanswered_since < patience.count()) return std::nullopt;
  }
  return HealthResult{false, std::move(check), error.to_line()};
}

// The comprehensive check before the first order: everything that the ten steps asked, once more,
// after the world had time to move.
std::optional<HealthResult> TradingRecovery::State::check_without_trading() {
  std::optional<HealthResult> quick = check_health();
  if (!quick || !quick->healthy) return quick;
  const Result<venue::VenueStatus> status = parts.venue->status();
  if (!status) return unanswered("venue_status", status.error());
  if (*status != venue::VenueStatus::kOnline) {
    return HealthResult{false, "venue_status", std::string(venue::to_string(*status))};
  }
  if (const Result<> tested = try_test_order(); !tested) {
    return unanswered("test_order", tested.error());
  }
  if (!evidence.permissions_verified) {
    if (test_order_error) return unanswered("test_order", *test_order_error);
    return HealthResult{false, "test_order", "not accepted"};
  }
  const Result<HealthResult> reconciled = reconcile_while_ramping();
  if (!reconciled) return unanswered("reconciliation", reconciled.error());
  return *reconciled;
}

// What known trades and orders explain is followed. What nothing explains fails the check when it
// stays for longer than a request may be under way and its order hidden: until then it may be the
// market between two requests.
Result<HealthResult> TradingRecovery::State::reconcile_while_ramping() {
  DEFIB_TRY(reconcile_once());
  reconcile_answered = parts.clock->mono_ns();
  reconcile_refused = false;
  if (const std::size_t doubled = summarize(discrepancies).duplicates; doubled > 0) {
    return HealthResult{false, "duplicate_orders", fmt::format("{} intents", doubled)};
  }
  const std::int64_t now = parts.clock->mono_ns();
  const std::int64_t patience =
      2 * (parts.venue->recv_window_ms() + parts.venue->visibility_lag_ms()) * 1'000'000;
  std::map<std::string, std::int64_t> still;
  for (const Discrepancy& item : discrepancies) {
    if (item.explained || open_discrepancies.contains(item.id)) continue;
    const auto before = suspected.find(item.id);
    const std::int64_t since = before == suspected.end() ? now : before->second;
    still.emplace(item.id, since);
    if (now - since < patience || before == suspected.end()) continue;
    emit("discrepancy", item.to_json(), true);
    return HealthResult{false, "reconciliation",
                        fmt::format("{} {}: {} here, {} at the venue", to_string(item.kind),
                                    item.subject, item.believed, item.venue)};
  }
  suspected = std::move(still);
  std::vector<Discrepancy> known = discrepancies;
  std::erase_if(known, [](const Discrepancy& item) { return !item.explained; });
  if (known.empty() && snapshot.new_fills.empty()) return HealthResult{true, {}, {}};
  DEFIB_TRY(apply_reconciliation(
      *parts.ledger, snapshot, known,
      {.reason = "while ramping", .by = "recovery", .unexplained = false}, parts.clock->wall_ns()));
  return HealthResult{true, {}, {}};
}

std::optional<HealthResult> TradingRecovery::State::check_health() {
  const auto failed = [](std::string check, std::string detail) {
    return HealthResult{false, std::move(check), std::move(detail)};
  };
  // First what is known here, whatever the venue answers.
  if (parts.kill_switch != nullptr) {
    if (const auto engaged = parts.kill_switch->stops(parts.venue->name(), {})) {
      return failed("kill_switch",
                    fmt::format("{} by {}: {}", engaged->scope, engaged->by, engaged->reason));
    }
  }
  const Limits& limits = *parts.config.limits;
  const std::size_t unknown = parts.intents->unresolved().size();
  if (unknown > static_cast<std::size_t>(limits.max_unknown_intents)) {
    return failed("unknown_intents", fmt::format("{} are unresolved", unknown));
  }
  const Exposure exposure = parts.gateway->exposure();
  const Decimal allowed = std::max(limits.max_exposure, approved_exposure);
  if (exposure.total() > allowed) {
    return failed("exposure",
                  fmt::format("{}, allowed {}", exposure.total().to_string(), allowed.to_string()));
  }
  for (const HealthCheck& check : parts.health_checks) {
    HealthResult result = check();
    if (!result.healthy) return result;
  }
  const Result<std::int64_t> offset = parts.gateway->sync_clock();
  if (!offset) return unanswered("venue", offset.error());
  const std::int64_t max_skew = parts.config.gates.max_clock_skew.count() / 1'000'000;
  if (*offset > max_skew || *offset < -max_skew) {
    return failed("clock_skew", fmt::format("{} ms", *offset));
  }
  const std::int64_t now = parts.clock->mono_ns();
  const bool ramping = ramp.phase() == RampPhase::kSettling || ramp.phase() == RampPhase::kWatching;
  if (ramping && parts.config.reconcile_every.count() > 0 && now >= reconcile_next) {
    reconcile_next = now + parts.config.reconcile_every.count();
    const Result<HealthResult> reconciled = reconcile_while_ramping();
    // Asking at once would only use up the budget again: it has its turn.
    const bool limited = !reconciled && reconciled.error().code() == Code::kVenueRateLimited;
    if (!reconciled && !limited) return failed("reconciliation", reconciled.error().to_line());
    reconcile_refused = limited;
    // A suspicion is looked at again at the next check, unless the venue has no time for it.
    if (!suspected.empty() && !limited) reconcile_next = 0;
    if (reconciled) return *reconciled;
  }
  if (ramping && reconciliation_is_owed(now)) {
    unanswered_since = 0;  // what was asked for the check itself was answered
    return std::nullopt;
  }
  return HealthResult{true, {}, {}};
}

// No step passes on a reconciliation that was never answered: where something is suspected, and
// where the last answer is old. That is no failure: a small budget is not the state's fault.
bool TradingRecovery::State::reconciliation_is_owed(std::int64_t now) const {
  if (!reconcile_refused) return false;
  const std::int64_t patience = kTurnsUnanswered * parts.config.reconcile_every.count();
  return !suspected.empty() || now - reconcile_answered > patience;
}

Result<> TradingRecovery::State::on_ramp_change(RampChange change) {
  if (change == RampChange::kNone) return {};
  if (change == RampChange::kEmergency) return stop_everything(*ramp.failure());
  parts.gateway->set_permit(ramp.permit());
  wire::Json told = ramp.to_json();
  if (parts.config.limits) {
    told.set("exposure", parts.gateway->exposure().total().to_string());
    told.set("exposure_limit",
             percent_of(parts.config.limits->max_exposure, ramp.permit().percent).to_string());
  }
  switch (change) {
    case RampChange::kProofStarted:
      enter("recovering");
      emit("ramp_proof", std::move(told), true);
      break;
    case RampChange::kStepStarted:
      enter("ramping");
      emit("ramp_step", std::move(told), true);
      if (checkpoint_mono_ns == 0) checkpoint_mono_ns = parts.clock->mono_ns();
      break;
    case RampChange::kWatchStarted:
      emit("ramp_watch", std::move(told), false);
      break;
    case RampChange::kCompleted:
      if (parts.damage) {
        DEFIB_TRY(close_damage(*parts.files, *parts.clock, *parts.damage));
        parts.damage.reset();
      }
      // The state closes the incident; what belongs to it is told before.
      emit("ramp_completed", std::move(told), true);
      enter("running");
      break;
    case RampChange::kNone:
    case RampChange::kEmergency:
      break;
  }
  return {};
}

Result<> TradingRecovery::State::stop_everything(const HealthResult& failure) {
  enter("stopped");
  outcome = GateOutcome::kRefused;
  stopped_for = failure;
  stop_pause = kFirstStopPause;
  told_stop.clear();
  stop_once({});
  return {};
}

// One round, since the engine's loop waits for it.
void TradingRecovery::State::finish_stop() {
  stop_once(
      {.at_most = os::Duration(0), .arm_switch = !switch_armed, .owes_reading = stop_owes_reading});
}

// What could not be verified is tried again until it is; told once, and whenever it changes.
void TradingRecovery::State::stop_once(const EmergencyOptions& options) {
  const EmergencyReport report = emergency_stop(
      *parts.gateway, *parts.venue, *parts.clock, parts.config.venue.symbols,
      fmt::format("emergency stop: {}: {}", stopped_for.check, stopped_for.detail), options);
  switch_armed = switch_armed || report.dead_mans_switch == "armed";
  stop_owes_reading = report.owes_reading;
  stop_next = 0;
  if (!report.verified) {
    const os::Duration wait = std::clamp(report.next, stop_pause, kLongestNamedPause);
    stop_next = parts.clock->mono_ns() + wait.count();
    stop_pause = std::min(stop_pause * 2, kLongestStopPause);
  }
  const std::string told = fmt::format("{} {}", report.verified, report.still_open.size());
  if (told == told_stop) return;
  told_stop = told;
  wire::Json fields = report.to_json();
  fields.set("check", stopped_for.check).set("detail", stopped_for.detail);
  emit("emergency_stop", std::move(fields), true);
}

}  // namespace defib::trading
