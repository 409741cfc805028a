#include "defib/trading/gateway.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "defib/base/assert.h"
#include "defib/trading/amounts.h"
#include "defib/trading/stop_pace.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::int64_t kNsPerSecond = 1'000'000'000;
// What slips through after all is cancelled by the venue itself within this time.
constexpr os::Duration kEmergencySwitch = std::chrono::seconds(60);
constexpr std::int64_t kMaxFenceWaitMs = 60'000;
constexpr int kMaxEmergencyRounds = 1'000;
constexpr std::size_t kMaxEmergencyErrors = 50;

Error breached(std::string_view limit, std::string input, std::string threshold) {
  return Error(Code::kLimitBreached,
               fmt::format("the order breaks {}: {}, allowed {}", limit, input, threshold))
      .with("limit", limit)
      .with("input", input)
      .with("threshold", threshold);
}

// What a failed placing proves about the order.
IntentEvent event_of_failure(const Error& error) {
  if (error.field("nothing_sent") == "true") return IntentEvent::kNothingSent;
  switch (error.code()) {
    case Code::kVenueRejected:
    case Code::kVenueRateLimited:
    case Code::kVenueAuthFailed:
    case Code::kVenueClockSkew:
    case Code::kVenueNonceRefused:
    case Code::kOrderNotFound:
      return IntentEvent::kRefused;
    case Code::kVenueUnreachable:
    case Code::kVenueBridgeFailed:
    case Code::kInvalidArgument:
      return IntentEvent::kNothingSent;
    default:
      return IntentEvent::kOutcomeLost;
  }
}

bool is_multiple_of(Decimal value, Decimal step) {
  return step.is_zero() || value.units() % step.units() == 0;
}

}  // namespace

OrderGateway::OrderGateway(Parts parts) : parts_(std::move(parts)) {
  DEFIB_ASSERT(parts_.venue && parts_.ledger && parts_.ids && parts_.clock);
}

void OrderGateway::at(std::string_view point) const {
  if (parts_.failure_points) parts_.failure_points(point);
}

Result<std::int64_t> OrderGateway::sync_clock() {
  const std::int64_t wall = parts_.clock->wall_ns();
  const std::int64_t started = parts_.clock->mono_ns();
  DEFIB_TRY_ASSIGN(const std::int64_t venue_ms, parts_.venue->server_time_ms());
  venue_read_ms_ = venue_ms;
  const std::int64_t middle = wall + (parts_.clock->mono_ns() - started) / 2;
  clock_offset_ms_ = venue_ms - middle / kNsPerMs;
  return clock_offset_ms_;
}

std::int64_t OrderGateway::venue_now_ms() const {
  return parts_.clock->wall_ns() / kNsPerMs + clock_offset_ms_;
}

Exposure OrderGateway::exposure() const {
  return exposure_of(parts_.ledger->positions(), parts_.ledger->orders(),
                     parts_.ledger->intents().open_intents(), marks_, parts_.ledger->instruments(),
                     parts_.valuation);
}

Result<> OrderGateway::check_permit(const OrderDraft& draft) const {
  if (!parts_.limits) {
    return Error(Code::kLimitsNotLoaded, "no limits are loaded, so no order may leave");
  }
  if (!permit_.open) {
    return Error(Code::kTradingHalted, fmt::format("trading is halted: {}", permit_.reason))
        .with("reason", permit_.reason);
  }
  if (draft.risk > permit_.max_risk) {
    return Error(Code::kTradingHalted,
                 fmt::format("only strategies of up to {} risk may trade now; this one is {}",
                             to_string(permit_.max_risk), to_string(draft.risk)))
        .with("reason", permit_.reason);
  }
  return {};
}

// The order in itself: its form, and the price that it is counted at.
Result<Decimal> OrderGateway::check_order(const OrderDraft& draft) const {
  const auto instrument = parts_.ledger->instruments().find(draft.symbol);
  if (instrument == parts_.ledger->instruments().end()) {
    return Error(Code::kNotFound, fmt::format("{} is not a configured symbol", draft.symbol));
  }
  const bool limit = draft.type == venue::OrderType::kLimit;
  if (draft.quantity <= Decimal() || (limit && draft.price <= Decimal())) {
    return Error(Code::kInvalidArgument, "an order needs a positive quantity and price");
  }
  if (!is_multiple_of(draft.quantity, instrument->second.lot)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the quantity {} is no multiple of the lot {}",
                             draft.quantity.to_string(), instrument->second.lot.to_string()));
  }
  if (limit && !is_multiple_of(draft.price, instrument->second.tick)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the price {} is no multiple of the tick {}", draft.price.to_string(),
                             instrument->second.tick.to_string()));
  }
  const auto mark = marks_.find(draft.symbol);
  const bool has_mark = mark != marks_.end() && mark->second > Decimal();
  const Decimal collar = parts_.limits->price_collar;
  if (!has_mark && (!limit || !collar.is_zero())) {
    return breached("price_collar", fmt::format("no mark is known for {}", draft.symbol), "a mark");
  }
  if (limit && !collar.is_zero()) {
    const Decimal distance = saturating_sum(draft.price, -mark->second).abs();
    const Decimal allowed = saturating_product(mark->second, collar);
    if (distance > allowed) {
      return breached("price_collar",
                      fmt::format("{} lies {} from the mark {}", draft.price.to_string(),
                                  distance.to_string(), mark->second.to_string()),
                      allowed.to_string());
    }
  }
  return limit ? draft.price : mark->second;
}

Result<> OrderGateway::check_limits(const OrderDraft& draft, Decimal reference) const {
  const Limits& limits = *parts_.limits;
  const Ledger& ledger = *parts_.ledger;
  const auto scaled = [&](Decimal limit) { return percent_of(limit, permit_.percent); };
  const Decimal notional = saturating_product(draft.quantity, reference);
  if (notional > scaled(limits.max_order_notional)) {
    return breached("max_order_notional", notional.to_string(),
                    scaled(limits.max_order_notional).to_string());
  }
  const std::size_t unknown = ledger.intents().unresolved().size();
  if (unknown >= static_cast<std::size_t>(limits.max_unknown_intents)) {
    return breached("max_unknown_intents", fmt::format("{} intents are unresolved", unknown),
                    fmt::format("fewer than {}", limits.max_unknown_intents));
  }
  const std::size_t open = ledger.orders().size() + unknown;
  if (open >= static_cast<std::size_t>(limits.max_open_orders)) {
    return breached("max_open_orders", fmt::format("{} orders are open", open),
                    fmt::format("fewer than {}", limits.max_open_orders));
  }
  const std::int64_t now = parts_.clock->mono_ns();
  const auto in_last_second = std::count_if(
      recent_.begin(), recent_.end(), [&](std::int64_t at) { return now - at < kNsPerSecond; });
  if (in_last_second >= limits.max_orders_per_second) {
    return breached("max_orders_per_second", fmt::format("{} in the last second", in_last_second),
                    std::to_string(limits.max_orders_per_second));
  }
  // The position if everything on this side were filled.
  const Decimal sign = Decimal::from_integer(draft.side == venue::Side::kBuy ? 1 : -1);
  const auto held = ledger.positions().find(draft.symbol);
  const Decimal position = held == ledger.positions().end() ? Decimal() : held->second.quantity;
  Decimal same_side = draft.quantity;
  for (const auto& [key, tracked] : ledger.orders()) {
    const venue::Order& order = tracked.order;
    if (order.symbol != draft.symbol || order.side != draft.side) continue;
    same_side = saturating_sum(same_side, saturating_sum(order.quantity, -order.filled));
  }
  for (const auto& [id, intent] : ledger.intents().open_intents()) {
    if (!is_unresolved(intent.state) || intent.symbol != draft.symbol ||
        intent.side != draft.side || ledger.orders().contains(id)) {
      continue;
    }
    same_side = saturating_sum(same_side, intent.quantity);
  }
  const Decimal projected = saturating_sum(position, saturating_product(sign, same_side));
  const bool reduces = (position > Decimal()) != (sign > Decimal()) &&
                       same_side <= position.abs() && !position.is_zero();
  if (reduces) return {};
  const Decimal projected_notional = saturating_product(projected.abs(), reference);
  if (projected_notional > scaled(limits.max_position_notional)) {
    return breached("max_position_notional", projected_notional.to_string(),
                    scaled(limits.max_position_notional).to_string());
  }
  const Decimal total = saturating_sum(exposure().total(), notional);
  if (total > scaled(limits.max_exposure)) {
    return breached("max_exposure", total.to_string(), scaled(limits.max_exposure).to_string());
  }
  return {};
}

Result<> OrderGateway::check(const OrderDraft& draft) const {
  DEFIB_TRY(check_permit(draft));
  DEFIB_TRY_ASSIGN(const Decimal reference, check_order(draft));
  return check_limits(draft, reference);
}

Result<> OrderGateway::check_kill_switch(const OrderDraft& draft) {
  if (parts_.kill_switch == nullptr) return {};
  const std::optional<KillRecord> record =
      parts_.kill_switch->stops(parts_.venue->name(), draft.strategy);
  if (!record) return {};
  return Error(Code::kKillSwitchEngaged, fmt::format("the kill switch {} was engaged by {}: {}",
                                                     record->scope, record->by, record->reason))
      .with("scope", record->scope)
      .with("by", record->by);
}

// Once after a start, and only where a strategy uses parents at all.
Result<> OrderGateway::load_parents() {
  std::map<std::string, ParentCount> counts;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   parts_.ledger->store().snapshot());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, stored->scan(kIntentTable));
  for (bool found = cursor->first(); found; found = cursor->next()) {
    DEFIB_TRY_ASSIGN(const Intent intent, decode_intent(cursor->key(), cursor->value()));
    if (intent.parent.empty()) continue;
    ParentCount& count = counts[intent.parent];
    ++count.orders;
    // What has ended can be filled no further.
    count.quantity =
        saturating_sum(count.quantity, is_terminal(intent.state) ? intent.filled : intent.quantity);
  }
  parents_ = std::move(counts);
  return {};
}

Result<ParentCount> OrderGateway::sent_for(const std::string& parent) {
  if (!parents_) DEFIB_TRY(load_parents());
  const auto found = parents_->find(parent);
  return found == parents_->end() ? ParentCount() : found->second;
}

Result<> OrderGateway::check_parent(const OrderDraft& draft) {
  if (draft.parent.empty()) return {};
  DEFIB_TRY_ASSIGN(ParentCount count, sent_for(draft.parent));
  if (draft.parent_quantity > Decimal() &&
      saturating_sum(count.quantity, draft.quantity) > draft.parent_quantity) {
    // Orders may have ended unfilled since they were counted: what is durable decides.
    DEFIB_TRY(load_parents());
    DEFIB_TRY_ASSIGN(count, sent_for(draft.parent));
  }
  const auto runaway = [&](std::string input, std::string threshold) {
    return Error(Code::kRunawaySender,
                 fmt::format("for parent {} {}, allowed {}", draft.parent, input, threshold))
        .with("parent", draft.parent)
        .with("strategy", draft.strategy)
        .with("input", input)
        .with("threshold", threshold);
  };
  const int most = parts_.limits->max_orders_per_parent;
  if (most > 0 && count.orders >= most) {
    return runaway(fmt::format("{} orders were sent", count.orders), std::to_string(most));
  }
  const Decimal wanted = draft.parent_quantity;
  const Decimal total = saturating_sum(count.quantity, draft.quantity);
  if (wanted > Decimal() && total > wanted) {
    return runaway(fmt::format("{} would have been sent", total.to_string()), wanted.to_string());
  }
  return {};
}

// What an order that has ended did not fill may be sent again for the same parent.
void OrderGateway::count_outcome(const Intent& intent, const Submitted& submitted) {
  if (intent.parent.empty() || !parents_ || !is_terminal(submitted.state)) return;
  const Decimal filled =
      submitted.state == IntentState::kFilled ? intent.quantity : submitted.order.filled;
  ParentCount& count = (*parents_)[intent.parent];
  count.quantity = saturating_sum(count.quantity, saturating_sum(filled, -intent.quantity));
}

Result<Submitted> OrderGateway::submit(const OrderDraft& draft) {
  if (hard_stop_) return *hard_stop_;
  return noted(send(draft));
}

Result<Submitted> OrderGateway::send(const OrderDraft& draft) {
  DEFIB_TRY(check_permit(draft));
  DEFIB_TRY(check_kill_switch(draft));
  DEFIB_TRY(check_parent(draft));
  DEFIB_TRY_ASSIGN(const Decimal reference, check_order(draft));
  DEFIB_TRY(check_limits(draft, reference));
  at("before_intent");

  Intent intent;
  intent.id = parts_.ids->next();
  intent.venue = parts_.venue->name();
  intent.symbol = draft.symbol;
  intent.side = draft.side;
  intent.type = draft.type;
  intent.time_in_force = draft.time_in_force;
  intent.quantity = draft.quantity;
  intent.price = draft.type == venue::OrderType::kLimit ? draft.price : Decimal();
  intent.reference_price = reference;
  intent.timestamp_ms = venue_now_ms();
  intent.fence_ms = intent.timestamp_ms + parts_.venue->recv_window_ms();
  intent.strategy = draft.strategy;
  intent.risk = draft.risk;
  intent.parent = draft.parent;
  intent.updated_wall_ns = parts_.clock->wall_ns();
  const venue::OrderRequest request = intent.request();
  if (parts_.payload) intent.payload = parts_.payload(request);

  IntentLog& log = parts_.ledger->intents();
  DEFIB_TRY(log.append(intent));
  at("intent_durable");
  DEFIB_TRY(log.mark_sent(intent.id));
  recent_.push_back(parts_.clock->mono_ns());
  while (recent_.size() > static_cast<std::size_t>(parts_.limits->max_orders_per_second)) {
    recent_.pop_front();
  }
  ++sent_;
  if (!intent.parent.empty() && parents_) {
    ParentCount& count = (*parents_)[intent.parent];
    ++count.orders;
    count.quantity = saturating_sum(count.quantity, intent.quantity);
  }
  const Result<venue::Order> reply = parts_.venue->place(request);
  replied_ms_ = venue_now_ms();
  at("reply_seen");
  Result<Submitted> submitted = record(intent, reply);
  if (submitted) count_outcome(intent, *submitted);
  at("outcome_recorded");
  return submitted;
}

Result<Submitted> OrderGateway::record(const Intent& intent, const Result<venue::Order>& reply) {
  if (reply) return record_order(intent, *reply, std::nullopt);
  const Error& error = reply.error();
  const bool duplicate = error.field("duplicate") == "true";
  if (duplicate) {
    // The venue holds an order with this id, so it is read; it was sent once, hence it is ours.
    const Result<venue::Order> held = parts_.venue->order(intent.symbol, intent.id);
    if (held) return record_order(intent, *held, error);
    note(held.error());
  }
  const IntentEvent event = duplicate ? IntentEvent::kOutcomeLost : event_of_failure(error);
  DEFIB_TRY_ASSIGN(Intent next, parts_.ledger->intents().advanced(intent.id, event, error.to_line(),
                                                                  parts_.clock->wall_ns()));
  Submitted submitted{.client_id = intent.id, .state = next.state, .order = {}, .error = error};
  LedgerUpdate update(*parts_.ledger);
  update.set_intent(std::move(next));
  DEFIB_TRY(update.commit(parts_.clock->wall_ns()));
  return submitted;
}

Result<Submitted> OrderGateway::record_order(const Intent& intent, const venue::Order& order,
                                             std::optional<Error> error) {
  LedgerUpdate update(*parts_.ledger);
  DEFIB_TRY(update.set_order(order, "the venue's reply"));
  DEFIB_TRY(update.commit(parts_.clock->wall_ns()));
  Submitted submitted{
      .client_id = intent.id, .state = {}, .order = order, .error = std::move(error)};
  if (const Intent* open = parts_.ledger->intents().find(intent.id)) {
    submitted.state = open->state;
  } else {
    DEFIB_TRY_ASSIGN(const std::optional<Intent> ended, parts_.ledger->intents().load(intent.id));
    DEFIB_ASSERT(ended.has_value());
    submitted.state = ended->state;
  }
  return submitted;
}

Result<venue::Order> OrderGateway::cancel(const std::string& client_id) {
  return noted(cancel_and_read(client_id));
}

Result<venue::Order> OrderGateway::cancel_and_read(const std::string& client_id) {
  const auto found = parts_.ledger->orders().find(client_id);
  if (found == parts_.ledger->orders().end()) {
    return Error(Code::kOrderNotFound, fmt::format("order {} is not open here", client_id));
  }
  const std::string symbol = found->second.order.symbol;
  const bool external = found->second.external;
  Result<venue::Order> order = parts_.venue->cancel(symbol, client_id);
  std::optional<Error> lost;
  if (!order) {
    const Code code = order.error().code();
    if (code != Code::kOrderNotFound && code != Code::kVenueOutcomeUnknown) return order;
    if (code == Code::kVenueOutcomeUnknown) lost = order.error();
    order = parts_.venue->order(symbol, client_id);
    if (!order) note(order.error());
    if (!order) return lost ? Result<venue::Order>(*lost) : order;
  }
  LedgerUpdate update(*parts_.ledger);
  DEFIB_TRY(update.set_order(*order, "after a cancel", external));
  DEFIB_TRY(update.commit(parts_.clock->wall_ns()));
  if (lost && !venue::is_terminal(order->status)) return *lost;
  return order;
}

Result<int> OrderGateway::sync_orders(const std::string& symbol) {
  return noted(read_orders(symbol));
}

Result<int> OrderGateway::read_orders(const std::string& symbol) {
  Ledger& ledger = *parts_.ledger;
  DEFIB_TRY_ASSIGN(
      [[maybe_unused]] const int booked,
      ledger.sync_fills(*parts_.venue, symbol, parts_.clock->wall_ns(), venue_read_ms_));
  DEFIB_TRY_ASSIGN(const std::vector<venue::Order> open, parts_.venue->open_orders(symbol));
  LedgerUpdate update(ledger);
  int changed = 0;
  std::set<std::string> listed;
  for (const venue::Order& order : open) {
    TrackedOrder shown;
    shown.order = order;
    listed.insert(shown.key());
    const auto known = ledger.orders().find(shown.key());
    if (known != ledger.orders().end() && known->second.order.filled == order.filled &&
        known->second.order.venue_id == order.venue_id) {
      continue;
    }
    DEFIB_TRY(update.set_order(order, "in the open list", known == ledger.orders().end()));
    ++changed;
  }
  for (const auto& [key, tracked] : ledger.orders()) {
    if (tracked.order.symbol != symbol || listed.contains(key)) continue;
    if (tracked.order.client_id.empty()) {
      update.forget_order(key);  // only the list could show it, and it is not in there any more
      ++changed;
      continue;
    }
    const Result<venue::Order> order = parts_.venue->order(symbol, tracked.order.client_id);
    if (!order && order.error().code() == Code::kOrderNotFound) continue;  // may only lag
    if (!order) return order.error();
    DEFIB_TRY(update.set_order(*order, "left the open list", tracked.external));
    ++changed;
  }
  DEFIB_TRY(update.commit(parts_.clock->wall_ns()));
  return changed;
}

wire::Json EmergencyReport::to_json() const {
  wire::Json open = wire::Json::array();
  for (const venue::Order& order : still_open) open.push(order.client_id);
  wire::Json problems = wire::Json::array();
  for (const Error& error : errors) problems.push(wire::to_json(error));
  return wire::Json::object({{"verified", verified},
                             {"rounds", rounds},
                             {"still_open", std::move(open)},
                             {"dead_mans_switch", dead_mans_switch},
                             {"errors", std::move(problems)}});
}

namespace {

// One stop, round by round.
class EmergencyStop {
 public:
  EmergencyStop(OrderGateway& gateway, venue::Venue& venue, const os::Clock& clock,
                const std::vector<std::string>& symbols, const EmergencyOptions& options)
      : gateway_(gateway),
        venue_(venue),
        symbols_(symbols),
        options_(options),
        quiet_ms_(gateway.hidden_until_ms(symbols)),
        pace_(clock, options.at_most.count() == 0 ? os::Duration(0) : options.at_most + fence(),
              os::Duration(0)) {
    pace_.owe_reading(options.owes_reading);
  }

  EmergencyReport run() {
    while (report_.rounds < kMaxEmergencyRounds) {
      if (report_.rounds > 0 && !armed_ && options_.arm_switch) arm();
      ++report_.rounds;
      round();
      if (report_.verified || !pace_.wait()) break;
    }
    report_.next = report_.verified ? os::Duration(0) : pace_.next();
    report_.owes_reading = !report_.verified && pace_.owes_reading();
    if (!armed_ && (options_.arm_switch || report_.verified)) arm();
    if (report_.verified || options_.at_most.count() > 0) sync();
    return std::move(report_);
  }

 private:
  // How long what is under way, or accepted and hidden, is waited for.
  os::Duration fence() const {
    const std::int64_t left = quiet_ms_ - gateway_.venue_now_ms() + 1;
    return std::chrono::milliseconds(std::clamp<std::int64_t>(left, 0, kMaxFenceWaitMs));
  }

  void failed(const Error& error) {
    pace_.failed(error);
    if (report_.errors.size() < kMaxEmergencyErrors) report_.errors.push_back(error);
  }

  void round() {
    // Only a reading that begins after that time shows all.
    const os::Duration left = fence();
    report_.still_open.clear();
    if (pace_.cancels()) {
      const Result<> done = venue_.cancel_all_of(symbols_);
      if (!done) {
        failed(done.error());
      } else {
        pace_.cancelled();
      }
    }
    bool read_all = true;
    if (venue_.rebuild_model().filtered) {
      for (const std::string& symbol : symbols_) read_all = read({symbol}) && read_all;
    } else {
      read_all = read(symbols_);  // one answer tells of all
    }
    if (!report_.still_open.empty()) return pace_.still_open();
    report_.verified = read_all && left.count() == 0;
    if (read_all) pace_.only_wait(std::max(fence(), os::Duration(std::chrono::milliseconds(1))));
  }

  bool read(const std::vector<std::string>& symbols) {
    const Result<std::vector<venue::Order>> open = venue_.open_orders_of(symbols);
    if (!open) {
      pace_.reading_failed(open.error());
      if (report_.errors.size() < kMaxEmergencyErrors) report_.errors.push_back(open.error());
      return false;
    }
    report_.still_open.insert(report_.still_open.end(), open->begin(), open->end());
    return true;
  }

  void arm() {
    if (!venue_.has_dead_mans_switch()) return;
    const Result<> armed = venue_.arm_dead_mans_switch(kEmergencySwitch);
    armed_ = armed.has_value();
    report_.dead_mans_switch = armed ? "armed" : armed.error().to_line();
    if (!armed && report_.errors.size() < kMaxEmergencyErrors) {
      report_.errors.push_back(armed.error());
    }
  }

  void sync() {
    for (const std::string& symbol : symbols_) {
      if (const Result<int> synced = gateway_.sync_orders(symbol); !synced) {
        if (report_.errors.size() < kMaxEmergencyErrors) report_.errors.push_back(synced.error());
      }
    }
  }

  OrderGateway& gateway_;
  venue::Venue& venue_;
  const std::vector<std::string>& symbols_;
  const EmergencyOptions& options_;
  std::int64_t quiet_ms_;
  StopPace pace_;
  bool armed_ = false;
  EmergencyReport report_;
};

}  // namespace

EmergencyReport emergency_stop(OrderGateway& gateway, venue::Venue& venue, const os::Clock& clock,
                               const std::vector<std::string>& symbols, std::string reason,
                               const EmergencyOptions& options) {
  gateway.set_permit(
      {.open = false, .percent = 0, .max_risk = RiskLevel::kLow, .reason = std::move(reason)});
  return EmergencyStop(gateway, venue, clock, symbols, options).run();
}

std::int64_t OrderGateway::hidden_until_ms(const std::vector<std::string>& symbols) const {
  const std::int64_t lag = parts_.venue->visibility_lag_ms();
  std::int64_t until = 0;
  for (const Intent& intent : parts_.ledger->intents().unresolved()) {
    until = std::max(until, intent.fence_ms + lag);
  }
  // An order that was acknowledged may be missing in the list for a lag, and rest all the same.
  for (const auto& [key, tracked] : parts_.ledger->orders()) {
    const venue::Order& order = tracked.order;
    if (tracked.external || std::ranges::find(symbols, order.symbol) == symbols.end()) continue;
    until = std::max(until, std::max({order.created_ms, order.updated_ms, replied_ms_}) + lag);
  }
  return until;
}

void OrderGateway::note(const Error& error) {
  if (hard_stop_) return;
  if (error.code() == Code::kDuplicateOrder || error.code() == Code::kLedgerDamaged) {
    hard_stop_ = error;
  }
}

}  // namespace defib::trading
