// What TradingRecovery keeps between its steps and the engine's polls. Private to this module.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "defib/recovery/decision.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/recovery_steps.h"

namespace defib::trading {

struct TradingRecovery::State {
  explicit State(Parts parts);

  // The ten steps and the user's own between them, in recovery_procedure.cc.
  void build_procedure();

  // The steps, in recovery_steps.cc.
  Result<> analyze(recovery::StageContext& context);
  Result<> safety_checks(recovery::StageContext& context);
  Result<> load_state(recovery::StageContext& context);
  Result<> reconcile_positions(recovery::StageContext& context);
  Result<> recover_open_orders(recovery::StageContext& context);
  Result<> health_without_trading(recovery::StageContext& context);
  Result<> risk_checks(recovery::StageContext& context);
  Result<> market_check(recovery::StageContext& context);
  Result<> gradual_resume(recovery::StageContext& context);
  Result<> report_and_notify(recovery::StageContext& context);

  Result<> adopt_checkpoint(const std::vector<venue::Fill>& booked);
  Result<> reconcile_once();
  Result<> count_open_discrepancies();
  Result<> settle_intents();
  Result<> read_marks();
  void assess_risk();
  Result<> decide_gate();
  Result<> save_checkpoint();
  wire::Json make_report() const;
  void emit(std::string event, wire::Json fields, bool sync) const;
  void enter(std::string_view state);

  // What follows them, in resume.cc.
  Result<> poll();
  std::int64_t next_poll() const;
  Result<> act_on_gate();
  Result<> begin_ramp();
  Plan make_plan() const;
  Result<> ask_for_approval();
  Result<> poll_approval();
  Result<> resume_approved(const Approval& approval);
  Result<> ask_gate_again();
  Result<> poll_ramp();
  std::optional<HealthResult> check_health();
  std::optional<HealthResult> check_without_trading();
  std::optional<HealthResult> unanswered(std::string check, const Error& error);
  Result<> try_test_order();
  Result<HealthResult> reconcile_while_ramping();
  void ask_crash_cause();
  Result<> on_ramp_change(RampChange change);
  std::optional<HealthResult> hard_stop() const;
  bool reconciliation_is_owed(std::int64_t now) const;
  Result<> stop_everything(const HealthResult& failure);
  void stop_once(const EmergencyOptions& options);
  void finish_stop();

  Parts parts;
  recovery::Procedure procedure;
  Ramp ramp;
  FenceResolver resolver;
  ApprovalDesk desk;
  std::string entered;

  GateEvidence evidence;
  std::vector<venue::SymbolRules> rules;
  CheckpointVerdict verdict;
  SourceDecision source;
  VenueSnapshot snapshot;
  std::vector<Discrepancy> discrepancies;
  std::set<std::string> open_discrepancies;  // ids that no person has accepted
  std::map<std::string, Decimal> marks;
  std::int64_t marks_mono_ns = 0;
  std::string stale_symbol;
  std::optional<Error> duplicate;
  std::optional<Error> test_order_error;
  std::string test_order_note;  // why it was skipped or refused; empty: accepted

  std::optional<recovery::Decision> decision;
  GateOutcome outcome = GateOutcome::kRefused;
  std::optional<Plan> plan;
  bool approved = false;  // a person has accepted `plan`
  Decimal approved_exposure;
  std::string told_invalid;        // the last reason that was told as approval_invalid
  std::int64_t resolver_next = 0;  // monotonic times; 0: nothing is due
  std::int64_t approval_next = 0;
  std::int64_t approval_not_before = 0;  // the budget for the reading that goes before it
  std::int64_t gate_next = 0;
  std::int64_t checkpoint_mono_ns = 0;
  bool crashed = false;        // the boot before this one
  std::string incident;        // of that crash
  os::Duration round_trip{0};  // of one request, as measured
  std::int64_t reconcile_next = 0;
  std::int64_t reconcile_answered = 0;  // the last, monotonic
  bool reconcile_refused = false;       // the one after it, by the venue's budget
  std::int64_t unanswered_since = 0;    // the venue's "slower" is the answer to health checks
  std::int64_t health_next = 0;         // the next of them then
  // Unexplained while ramping, since when (monotonic); it fails the check when it stays.
  std::map<std::string, std::int64_t> suspected;

  // An emergency stop, and what is left of it.
  HealthResult stopped_for;
  std::int64_t stop_next = 0;  // monotonic; 0: verified, or there was none
  os::Duration stop_pause{0};
  bool switch_armed = false;
  bool stop_owes_reading = false;
  std::string told_stop;  // the outcome that was told last
};

}  // namespace defib::trading
