// The ten steps. What follows them, driven by the engine's loop, stands in resume.cc.

#include "defib/trading/recovery_steps.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "defib/base/assert.h"
#include "defib/trading/checklist.h"
#include "defib/trading/recovery_state.h"

namespace defib::trading {
namespace {

using namespace std::chrono_literals;
using recovery::StageContext;

constexpr std::size_t kBootsRead = 64;
constexpr int kTestOrderTries = 3;
// More than so many are counted, but not each told to the incident.
constexpr std::size_t kMaxDiscrepancyEvents = 200;

ApplyOptions how_to_apply(ReconcileMode mode) {
  if (mode == ReconcileMode::kApply) {
    return {.reason = "recovery after a restart; [trading.reconcile] mode = apply: the venue wins",
            .by = "configuration",
            .unexplained = true};
  }
  return {.reason = "recovery after a restart", .by = "recovery", .unexplained = false};
}

}  // namespace

TradingRecovery::State::State(Parts given)
    : parts(std::move(given)),
      procedure("trading-recovery"),
      ramp(parts.config.ramp),
      resolver(*parts.ledger, *parts.venue, *parts.clock, {}),
      desk(*parts.files, *parts.clock, parts.state_dir) {
  build_procedure();
}

void TradingRecovery::State::emit(std::string event, wire::Json fields, bool sync) const {
  if (parts.events) parts.events(std::move(event), std::move(fields), sync);
}

void TradingRecovery::State::enter(std::string_view state) {
  if (state == entered) return;
  entered = state;
  if (parts.states) parts.states(entered);
}

Result<> TradingRecovery::State::analyze(StageContext& context) {
  enter("recovering");
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored, parts.store->snapshot());
  DEFIB_TRY_ASSIGN(const std::vector<BootRecord> boots, read_boots(*stored, kBootsRead));
  evidence.crashes = crashes_within(boots, *parts.clock, parts.config.gates.crash_window);
  evidence.start_in_monitoring = parts.start_in_monitoring;
  evidence.damage = parts.damage ? parts.damage->what : std::string();
  const bool was_clean = boots.size() < 2 || boots[boots.size() - 2].clean;
  crashed = !was_clean;
  ask_crash_cause();
  emit("trading_recovery_started",
       wire::Json::object({{"venue", parts.venue->name()},
                           {"owner", parts.ids->owner()},
                           {"epoch", parts.ids->epoch()},
                           {"crashes_in_window", evidence.crashes},
                           {"previous_end", was_clean ? "clean" : "crash"},
                           {"crash_cause", evidence.crash_cause},
                           {"crash_incident", incident},
                           {"start_mode", parts.start_in_monitoring ? "monitoring" : "normal"},
                           {"open_orders", parts.ledger->orders().size()},
                           {"unresolved_intents", parts.intents->unresolved().size()},
                           {"dry_run", parts.dry_run}}),
       true);
  if (!parts.dry_run) {
    DEFIB_TRY_ASSIGN([[maybe_unused]] const int marked,
                     parts.intents->mark_unknown_after_restart(parts.clock->wall_ns()));
  }
  const std::vector<Intent> unresolved = parts.intents->unresolved();
  for (const Intent& intent : unresolved) emit("intent_unknown", intent.to_json(), false);
  context.metric("crashes_in_window", std::to_string(evidence.crashes));
  context.metric("unresolved_intents", std::to_string(unresolved.size()));
  return {};
}

void TradingRecovery::State::ask_crash_cause() {
  std::string dir = parts.state_dir;
  if (!crashed || !parts.crash_cause) {
    evidence.crash_cause = "none";
  } else {
    const CrashCause found = parts.crash_cause();
    evidence.crash_cause = found.cause;
    incident = found.incident;
    if (!found.state_dir.empty()) dir = found.state_dir;
  }
  // Where both stand, both procedures must have been walked.
  const bool corrupted = evidence.crash_cause == "heap_corruption";
  const bool crash_done = !incident.empty() && manual_procedure_done(*parts.files, dir, incident);
  evidence.manual_done =
      parts.damage ? is_dealt_with(*parts.files, *parts.damage) && (!corrupted || crash_done)
                   : crash_done;
}

Result<> TradingRecovery::State::safety_checks(StageContext& context) {
  evidence.limits_loaded = parts.config.limits.has_value();
  const std::int64_t asked = parts.clock->mono_ns();
  DEFIB_TRY_ASSIGN(evidence.clock_skew_ms, parts.gateway->sync_clock());
  round_trip = os::Duration(parts.clock->mono_ns() - asked);
  DEFIB_TRY_ASSIGN(rules, parts.venue->rules());
  for (const std::string& symbol : parts.config.venue.symbols) {
    const bool known = std::any_of(rules.begin(), rules.end(),
                                   [&](const auto& item) { return item.symbol == symbol; });
    if (known) continue;
    return Error(Code::kNotFound, fmt::format("the venue has no symbol {}", symbol))
        .with("symbol", symbol)
        .suggest("correct [venue] symbols");
  }
  // Signed: a wrong key or secret ends the recovery here.
  DEFIB_TRY_ASSIGN(const std::vector<venue::Balance> balances, parts.venue->balances());
  context.metric("clock_skew_ms", std::to_string(evidence.clock_skew_ms));
  context.metric("assets", std::to_string(balances.size()));
  context.metric("limits", evidence.limits_loaded ? "loaded" : "absent");
  return {};
}

Result<> TradingRecovery::State::load_state(StageContext& context) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored, parts.store->snapshot());
  DEFIB_TRY_ASSIGN(const std::optional<std::string> text, read_checkpoint_text(*stored));
  const LedgerView ledger = parts.ledger->view();
  const std::int64_t now = parts.clock->wall_ns();
  // Once without trades, to learn whether it can be read at all; then with those booked since.
  verdict = validate_checkpoint(text, ledger, {}, parts.config.checkpoint, now);
  std::vector<venue::Fill> booked;
  if (verdict.checkpoint) {
    DEFIB_TRY_ASSIGN(booked, fills_since(*stored, *verdict.checkpoint));
    verdict = validate_checkpoint(text, ledger, booked, parts.config.checkpoint, now);
  }
  source = choose_source(verdict, ledger,
                         estimate_rebuild(parts.venue->rebuild_model(),
                                          {.symbols = parts.config.venue.symbols.size(),
                                           .open_orders = ledger.orders.size(),
                                           .fills = booked.size()},
                                          round_trip));
  emit("checkpoint_verdict", verdict.to_json(), false);
  emit("state_source", source.to_json(), true);
  evidence.checkpoint_usable = verdict.usable() || !ledger.initialized;
  evidence.state_source = source.source;
  if (const auto error = verdict.error()) evidence.checkpoint_rule = error->field("rule");
  if (verdict.checkpoint) evidence.checkpoint_age_ns = now - verdict.checkpoint->wall_ns;
  context.metric("source", std::string(to_string(source.source)));
  context.metric("trades_since_checkpoint", std::to_string(booked.size()));
  if (parts.dry_run) return {};
  DEFIB_TRY(parts.ledger->initialize(*parts.venue, parts.config.venue.symbols, now));
  if (source.source == StateSource::kCheckpoint) return adopt_checkpoint(booked);
  return {};
}

// The ledger's positions contradict what they were booked from: they are booked anew.
Result<> TradingRecovery::State::adopt_checkpoint(const std::vector<venue::Fill>& booked) {
  LedgerUpdate update(*parts.ledger);
  const auto derived = derive_positions(*verdict.checkpoint, parts.ledger->instruments(), booked);
  for (const auto& [symbol, position] : derived) {
    const Position before = update.position(symbol);
    if (before.quantity == position.quantity) continue;
    update.set_position(position);
    update.journal(wire::Json::object({{"kind", "position_derived"},
                                       {"subject", symbol},
                                       {"believed", before.quantity.to_string()},
                                       {"derived", position.quantity.to_string()},
                                       {"at", os::format_time(parts.clock->wall_ns())},
                                       {"reason", source.reason},
                                       {"by", "recovery"}}));
  }
  return update.commit(parts.clock->wall_ns(), store::Durability::kPower);
}

Result<> TradingRecovery::State::reconcile_positions(StageContext& context) {
  DEFIB_TRY(reconcile_once());
  std::size_t told = 0;
  for (const Discrepancy& item : discrepancies) {
    if (++told > kMaxDiscrepancyEvents) break;
    emit("discrepancy", item.to_json(), false);
  }
  const ReconcileSummary found = summarize(discrepancies);
  int corrections = 0;
  if (found.duplicates == 0 && !parts.dry_run) {
    DEFIB_TRY_ASSIGN(corrections, apply_reconciliation(*parts.ledger, snapshot, discrepancies,
                                                       how_to_apply(parts.config.reconcile_mode),
                                                       parts.clock->wall_ns()));
    // The venue won, with the reason in the journal; nothing of it is left for a person.
    if (parts.config.reconcile_mode == ReconcileMode::kApply) {
      std::erase_if(discrepancies, [](const Discrepancy& item) {
        return !item.explained && !item.correction.empty();
      });
    }
  }
  DEFIB_TRY(count_open_discrepancies());
  emit("reconciled",
       wire::Json::object({{"discrepancies", found.total},
                           {"unexplained", evidence.unexplained},
                           {"duplicates", found.duplicates},
                           {"unresolved_intents", found.unresolved_intents},
                           {"corrections", corrections},
                           {"mode", to_string(parts.config.reconcile_mode)},
                           {"told", std::min(told, kMaxDiscrepancyEvents)},
                           {"readings", snapshot.readings},
                           {"stable", snapshot.stable}}),
       true);
  context.metric("discrepancies", std::to_string(found.total));
  context.metric("unexplained", std::to_string(evidence.unexplained));
  context.metric("corrections", std::to_string(corrections));
  return {};
}

Result<> TradingRecovery::State::reconcile_once() {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> ledger, parts.store->snapshot());
  const LedgerView believed = parts.ledger->view();
  DEFIB_TRY_ASSIGN(snapshot, read_venue(*parts.venue, believed, *ledger,
                                        {.symbols = parts.config.venue.symbols}));
  Tolerance tolerance = parts.config.tolerance;
  tolerance.strict = parts.config.reconcile_mode == ReconcileMode::kStrict;
  discrepancies = reconcile(believed, snapshot, tolerance);
  evidence.discrepancies = discrepancies.size();
  evidence.duplicate_orders = summarize(discrepancies).duplicates + (duplicate ? 1 : 0);
  return {};
}

// What no person has accepted: differences that were left, and findings that stand open.
Result<> TradingRecovery::State::count_open_discrepancies() {
  open_discrepancies.clear();
  for (const Discrepancy& item : discrepancies) {
    if (!item.explained) open_discrepancies.insert(item.id);
  }
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> ledger, parts.store->snapshot());
  DEFIB_TRY_ASSIGN(const auto findings, read_open_findings(*ledger));
  for (const auto& [id, finding] : findings) open_discrepancies.insert(id);
  evidence.unexplained = open_discrepancies.size();
  return {};
}

Result<> TradingRecovery::State::recover_open_orders(StageContext& context) {
  if (!parts.dry_run) DEFIB_TRY(settle_intents());
  const std::vector<Intent> unresolved = parts.intents->unresolved();
  evidence.unknown_intents = unresolved.size();
  context.metric("open_orders", std::to_string(parts.ledger->orders().size()));
  context.metric("unknown_intents", std::to_string(unresolved.size()));
  return {};
}

// Does what is due; DuplicateOrder becomes evidence that refuses, and is no failure of the step.
Result<> TradingRecovery::State::settle_intents() {
  const Result<ResolveProgress> progress = resolver.poll();
  if (!progress) {
    parts.gateway->note(progress.error());
    if (progress.error().code() != Code::kDuplicateOrder) return progress.error();
    ++evidence.duplicate_orders;
    duplicate = progress.error();
    emit("intent_settled", wire::Json::object({{"error", wire::to_json(progress.error())}}), true);
    return {};
  }
  for (const Settled& settled : progress->settled) {
    emit("intent_settled",
         wire::Json::object({{"id", settled.intent_id},
                             {"state", to_string(settled.state)},
                             {"explanation", settled.explanation}}),
         true);
  }
  for (const Settled& blocked : progress->blocked) {
    emit("intent_unknown",
         wire::Json::object({{"id", blocked.intent_id},
                             {"state", "unknown"},
                             {"explanation", blocked.explanation}}),
         false);
  }
  resolver_next = progress->next_mono_ns;
  evidence.unknown_intents = static_cast<std::size_t>(progress->remaining);
  return {};
}

Result<> TradingRecovery::State::health_without_trading(StageContext& context) {
  DEFIB_TRY(try_test_order());
  context.metric("test_order", test_order_error          ? test_order_error->to_line()
                               : test_order_note.empty() ? "accepted"
                                                         : test_order_note);
  return {};
}

// Places nothing; proves key, signature, clock and permission.
Result<> TradingRecovery::State::try_test_order() {
  test_order_error.reset();
  test_order_note.clear();
  const auto symbol = std::find_if(rules.begin(), rules.end(), [&](const auto& item) {
    return item.trading &&
           std::find(parts.config.venue.symbols.begin(), parts.config.venue.symbols.end(),
                     item.symbol) != parts.config.venue.symbols.end();
  });
  if (symbol == rules.end()) {
    // Everything is halted: nothing can be tested, and nothing will trade.
    evidence.permissions_verified = true;
    test_order_note = "skipped: no symbol trades";
    return {};
  }
  DEFIB_TRY_ASSIGN(const venue::Quote quote, parts.venue->quote(symbol->symbol));
  const Decimal price = quote.bid.round_down_to(symbol->tick);
  venue::OrderRequest request;
  request.client_id = parts.ids->next();
  request.symbol = symbol->symbol;
  request.price = price > Decimal() ? price : symbol->tick;
  // Twice the smallest notional, so that rounding down to a lot stays above it.
  const Decimal wanted = (symbol->min_notional + symbol->min_notional) / request.price;
  request.quantity = std::max(wanted.round_down_to(symbol->lot), symbol->lot);
  Result<> tested;
  for (int i = 0; i < kTestOrderTries; ++i) {
    request.timestamp_ms = parts.gateway->venue_now_ms();
    request.expires_ms = request.timestamp_ms + parts.venue->recv_window_ms();
    tested = parts.venue->test_order(request);
    // A lost answer says nothing of the permission.
    if (tested || tested.error().code() != Code::kVenueUnreachable) break;
  }
  // A filter's or the purse's refusal still proves key, signature and permission.
  evidence.permissions_verified =
      tested.has_value() || tested.error().code() == Code::kVenueRejected;
  if (!tested) test_order_note = tested.error().to_line();
  if (!tested && !evidence.permissions_verified) test_order_error = tested.error();
  return {};
}

Result<> TradingRecovery::State::risk_checks(StageContext& context) {
  DEFIB_TRY(read_marks());
  assess_risk();
  context.metric("exposure", evidence.exposure.total().to_string());
  context.metric("volatility", evidence.volatility.to_string());
  return {};
}

Result<> TradingRecovery::State::read_marks() {
  marks.clear();
  stale_symbol.clear();
  for (const std::string& symbol : parts.config.venue.symbols) {
    const Result<venue::Quote> quote = parts.venue->quote(symbol);
    if (!quote && quote.error().code() != Code::kVenueBadAnswer &&
        quote.error().code() != Code::kVenueRejected) {
      return quote.error();
    }
    const bool sound = quote && quote->bid > Decimal() && quote->ask >= quote->bid;
    if (!sound) {
      stale_symbol = symbol;
      continue;
    }
    marks[symbol] = quote->mid();
    parts.gateway->set_mark(symbol, quote->mid());
  }
  marks_mono_ns = parts.clock->mono_ns();
  return {};
}

void TradingRecovery::State::assess_risk() {
  evidence.exposure = exposure_of(parts.ledger->view(), marks, parts.config.valuation);
  evidence.currency = parts.config.valuation.currency;
  evidence.unpriced.assign(evidence.exposure.unpriced.begin(), evidence.exposure.unpriced.end());
  evidence.unknown_intents = parts.intents->unresolved().size();
  if (!verdict.checkpoint) return;
  const std::int64_t age = parts.clock->wall_ns() - verdict.checkpoint->wall_ns;
  const Volatility volatility =
      volatility_of(verdict.checkpoint->marks, age, marks, parts.config.gates.volatility_window);
  evidence.volatility = volatility.value;
  evidence.volatility_symbol = volatility.symbol;
}

Result<> TradingRecovery::State::market_check(StageContext& context) {
  DEFIB_TRY(decide_gate());
  context.metric("verdict", std::string(to_string(decision->verdict)));
  context.metric("rule", decision->rule);
  return {};
}

Result<> TradingRecovery::State::decide_gate() {
  evidence.halted_symbols.clear();
  for (const venue::SymbolRules& item : rules) {
    const auto& mine = parts.config.venue.symbols;
    if (!item.trading && std::find(mine.begin(), mine.end(), item.symbol) != mine.end()) {
      evidence.halted_symbols.push_back(item.symbol);
    }
  }
  evidence.kill_switch.clear();
  if (parts.kill_switch != nullptr) {
    if (const auto engaged = parts.kill_switch->stops(parts.venue->name(), {})) {
      evidence.kill_switch = engaged->scope;
    }
  }
  const Result<venue::VenueStatus> status = parts.venue->status();
  evidence.venue_status = status ? venue::to_string(*status) : "unreachable";
  evidence.stale_symbol = stale_symbol;
  evidence.price_age_ns = stale_symbol.empty() ? parts.clock->mono_ns() - marks_mono_ns : -1;
  const std::string before = decision ? decision->rule : std::string();
  const bool first = !decision.has_value();
  decision =
      recovery::decide(gate_rules(parts.config.gates), evidence.to_evidence(parts.config.gates));
  outcome = outcome_of(*decision);
  if (!first && decision->rule == before) return {};
  emit("decision", decision->to_json(), true);
  if (parts.dry_run) return {};
  return record_decision(*parts.store, *decision, parts.clock->wall_ns(),
                         parts.config.intent_durability);
}

Result<> TradingRecovery::State::gradual_resume(StageContext& context) {
  context.metric("gate", std::string(to_string(outcome)));
  if (parts.dry_run) return {};
  DEFIB_TRY(act_on_gate());
  context.metric("ramp", std::string(to_string(ramp.phase())));
  if (outcome == GateOutcome::kRefused) {
    Error error = gate_error(*decision).value();
    if (duplicate) return std::move(error).because(*duplicate);
    if (test_order_error) return std::move(error).because(*test_order_error);
    return error;
  }
  return {};
}

Result<> TradingRecovery::State::report_and_notify(StageContext& context) {
  // While the gate is shut the old checkpoint stays: it holds the marks from before the crash.
  if (ramp.phase() != RampPhase::kHeld) DEFIB_TRY(save_checkpoint());
  const wire::Json report = make_report();
  context.metric("outcome", std::string(to_string(outcome)));
  emit("trading_report", report, true);
  return {};
}

Result<> TradingRecovery::State::save_checkpoint() {
  checkpoint_mono_ns = parts.clock->mono_ns();
  const std::map<std::string, Decimal>& known =
      parts.gateway->marks().empty() ? marks : parts.gateway->marks();
  return write_checkpoint(*parts.store,
                          make_checkpoint(parts.ledger->view(), known, parts.ids->epoch(),
                                          parts.clock->wall_ns(), parts.config.venue.name),
                          parts.config.intent_durability);
}

wire::Json TradingRecovery::State::make_report() const {
  wire::Json found = wire::Json::array();
  for (const Discrepancy& item : discrepancies) {
    if (found.size() >= kMaxDiscrepancyEvents) break;
    found.push(item.to_json());
  }
  wire::Json unresolved = wire::Json::array();
  for (const Intent& intent : parts.intents->unresolved()) unresolved.push(intent.to_json());
  wire::Json report = wire::Json::object(
      {{"schema", "defib.trading_report/1"},
       {"venue", parts.venue->name()},
       {"owner", parts.ids->owner()},
       {"epoch", parts.ids->epoch()},
       {"at", os::format_time(parts.clock->wall_ns())},
       {"dry_run", parts.dry_run},
       {"start_mode", parts.start_in_monitoring ? "monitoring" : "normal"},
       {"outcome", to_string(outcome)},
       {"crashes_in_window", evidence.crashes},
       {"checkpoint", verdict.to_json()},
       {"source", source.to_json()},
       {"discrepancies_total", discrepancies.size()},
       {"discrepancies", std::move(found)},
       {"unexplained", evidence.unexplained},
       {"unresolved_intents", std::move(unresolved)},
       {"exposure", evidence.exposure.to_json()},
       {"dead_mans_switch",
        parts.venue->has_dead_mans_switch() ? "armed by an emergency stop" : "none on this venue"},
       {"reconcile_mode", to_string(parts.config.reconcile_mode)},
       {"crash_cause", evidence.crash_cause},
       {"ramp", ramp.to_json()}});
  if (decision) report.set("decision", decision->to_json());
  if (plan) report.set("plan", plan->hash());
  return report;
}

TradingRecovery::TradingRecovery(Parts parts) {
  DEFIB_ASSERT(parts.store && parts.venue && parts.clock && parts.files && parts.intents &&
               parts.ledger && parts.ids && parts.gateway);
  state_ = std::make_unique<State>(std::move(parts));
}
TradingRecovery::~TradingRecovery() = default;

recovery::Procedure& TradingRecovery::procedure() {
  return state_->procedure;
}
Result<> TradingRecovery::poll() {
  return state_->poll();
}
std::int64_t TradingRecovery::next_poll_mono_ns() const {
  return state_->next_poll();
}
GateOutcome TradingRecovery::outcome() const {
  return state_->outcome;
}
const std::optional<recovery::Decision>& TradingRecovery::decision() const {
  return state_->decision;
}
const std::optional<Plan>& TradingRecovery::plan() const {
  return state_->plan;
}
const std::vector<Discrepancy>& TradingRecovery::discrepancies() const {
  return state_->discrepancies;
}
const Ramp& TradingRecovery::ramp() const {
  return state_->ramp;
}
wire::Json TradingRecovery::report() const {
  return state_->make_report();
}

}  // namespace defib::trading
