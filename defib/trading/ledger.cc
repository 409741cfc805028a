#include "defib/trading/ledger.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/codec.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr std::size_t kTradeIdDigits = 20;
constexpr int kInitialReadings = 5;
constexpr std::int64_t kTimePrecisionMs = 2'000;  // of a venue that tells whole seconds
constexpr std::int64_t kSettleEveryMs = 60'000;   // of symbols that do not trade
constexpr std::size_t kFillsPerCommit = 500;
constexpr std::size_t kUnknownFillsKept = 500;

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= kTradeIdDigits &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Error impossible_amount(const venue::Fill& fill) {
  return Error(Code::kVenueBadAnswer,
               fmt::format("trade {} of {} has an impossible amount: {} at {}", fill.trade_id,
                           fill.symbol, fill.quantity.to_string(), fill.price.to_string()))
      .with("trade_id", fill.trade_id)
      .with("symbol", fill.symbol);
}

// Every record of a table through `decode` into `to`.
template <typename Map, typename Decode>
Result<> read_table(const store::Snapshot& snapshot, std::string_view table, Map& to,
                    Decode decode) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(table));
  for (bool found = cursor->first(); found; found = cursor->next()) {
    DEFIB_TRY_ASSIGN(auto value, decode(cursor->key(), cursor->value()));
    to.emplace_hint(to.end(), std::string(cursor->key()), std::move(value));
  }
  return {};
}

// The booked fills behind each symbol's cursor.
Result<> read_recent_fills(const store::Snapshot& snapshot, LedgerState& state) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kFillTable));
  for (const auto& [symbol, instrument] : state.instruments) {
    const std::string settled = state.cursors.contains(symbol) ? state.cursors[symbol] : "";
    const std::string start = fill_key(symbol, settled);
    const std::string prefix = fill_key(symbol, {});
    for (bool found = cursor->seek(start); found && cursor->key().starts_with(prefix);
         found = cursor->next()) {
      if (!settled.empty() && cursor->key() == start) continue;
      DEFIB_TRY_ASSIGN(venue::Fill fill, decode_fill(cursor->key(), cursor->value()));
      state.recent_fills.emplace(std::string(cursor->key()), std::move(fill));
    }
  }
  return {};
}

// All but the intents.
Result<LedgerState> read_books(const store::Snapshot& snapshot) {
  LedgerState state;
  DEFIB_TRY_ASSIGN(const std::optional<std::string> initialized,
                   snapshot.get(kMetaTable, kInitializedKey));
  state.initialized = initialized.has_value();
  DEFIB_TRY(read_table(snapshot, kInstrumentTable, state.instruments, decode_instrument));
  DEFIB_TRY(read_table(snapshot, kPositionTable, state.positions, decode_position));
  DEFIB_TRY(read_table(snapshot, kBalanceTable, state.balances,
                       [](std::string_view key, std::string_view record) {
                         return decode_amount("balance", key, record);
                       }));
  DEFIB_TRY(read_table(snapshot, kOrderTable, state.orders, decode_order));
  DEFIB_TRY(read_table(snapshot, kCursorTable, state.cursors,
                       [](std::string_view, std::string_view record) -> Result<std::string> {
                         return std::string(record);
                       }));
  DEFIB_TRY(read_table(snapshot, kSinceTable, state.since,
                       [](std::string_view key, std::string_view record) {
                         return decode_time("first time", key, record);
                       }));
  DEFIB_TRY(read_recent_fills(snapshot, state));
  return state;
}

}  // namespace

Decimal Position::average_price() const {
  if (quantity.is_zero()) return {};
  return saturate(Wide{cost.units()} * Decimal::kScale / quantity.units());
}

std::string TrackedOrder::key() const {
  if (!order.client_id.empty()) return order.client_id;
  return "#" + order_reference(order.symbol, order.venue_id);
}

std::optional<Position> position_after(Position position, const venue::Fill& fill,
                                       const Instrument& instrument) {
  const Decimal delta = fill.side == venue::Side::kBuy ? fill.quantity : -fill.quantity;
  const std::optional<Decimal> value = checked_product(delta, fill.price);
  const std::optional<Decimal> quantity = checked_sum(position.quantity, delta);
  if (!value || !quantity) return std::nullopt;
  const bool was_long = position.quantity > Decimal();
  const bool same_side = position.quantity.is_zero() || was_long == (delta > Decimal());
  std::optional<Decimal> cost, realized = position.realized;
  if (same_side) {
    cost = checked_sum(position.cost, *value);
  } else {
    const Decimal closing = std::min(delta.abs(), position.quantity.abs());
    const Decimal removed = share_of(position.cost, closing, position.quantity.abs());
    const Decimal closed_value = share_of(value->abs(), closing, delta.abs());
    const Wide profit = Wide{was_long ? closed_value.units() : -closed_value.units()} -
                        removed.units() + position.realized.units();
    realized = fit(profit);
    cost = delta.abs() > position.quantity.abs() ? checked_product(*quantity, fill.price)
                                                 : checked_sum(position.cost, -removed);
  }
  const Decimal base_fee = fill.fee_asset == instrument.base_asset ? fill.fee : Decimal();
  const std::optional<Decimal> net = checked_sum(*quantity, -base_fee);
  if (!cost || !realized || !net) return std::nullopt;
  const bool fee_turns =
      !net->is_zero() && (quantity->is_zero() || (*quantity > Decimal()) != (*net > Decimal()));
  if (fee_turns) {
    // The fee took more than there was: what is owed now was given away at this price, for nothing.
    cost = checked_product(*net, fill.price);
    if (cost) realized = checked_sum(*realized, -cost->abs());
    if (!cost || !realized) return std::nullopt;
  }
  position.quantity = *net;
  position.cost = net->is_zero() ? Decimal() : *cost;
  position.realized = *realized;
  position.updated_ms = std::max(position.updated_ms, fill.time_ms);
  return position;
}

bool apply_to_balances(std::map<std::string, Decimal>& totals, const venue::Fill& fill,
                       const Instrument& instrument) {
  const std::optional<Decimal> value = checked_product(fill.quantity, fill.price);
  if (!value) return false;
  const bool buy = fill.side == venue::Side::kBuy;
  std::map<std::string, Decimal> next;
  const auto add = [&](const std::string& asset, Decimal amount) {
    const Decimal before = next.contains(asset)     ? next[asset]
                           : totals.contains(asset) ? totals[asset]
                                                    : Decimal();
    const std::optional<Decimal> sum = checked_sum(before, amount);
    if (sum) next[asset] = *sum;
    return sum.has_value();
  };
  if (!add(instrument.base_asset, buy ? fill.quantity : -fill.quantity)) return false;
  if (!add(instrument.quote_asset, buy ? -*value : *value)) return false;
  if (!fill.fee.is_zero() && !add(fill.fee_asset, -fill.fee)) return false;
  for (const auto& [asset, total] : next) totals[asset] = total;
  return true;
}

std::string fill_key(std::string_view symbol, std::string_view trade_id) {
  std::string key(symbol);
  key += '\0';
  if (is_number(trade_id)) key.append(kTradeIdDigits - trade_id.size(), '0');
  key += trade_id;
  return key;
}

std::string settled_trade(const std::vector<venue::Fill>& fills, std::int64_t lag_ms) {
  std::int64_t newest = 0;
  for (const venue::Fill& fill : fills) newest = std::max(newest, fill.time_ms);
  std::string settled;
  for (const venue::Fill& fill : fills) {
    if (fill.time_ms >= newest - lag_ms) break;
    settled = fill.trade_id;
  }
  return settled;
}

std::int64_t shown_before(const venue::Venue& venue, std::int64_t venue_ms) {
  return venue_ms - venue.visibility_lag_ms() - kTimePrecisionMs;
}

std::string order_reference(std::string_view symbol, std::string_view venue_order_id) {
  return fmt::format("{}:{}", symbol, venue_order_id);
}

bool trade_id_less(std::string_view a, std::string_view b) {
  if (is_number(a) && is_number(b) && a.size() != b.size()) {
    return fill_key({}, a) < fill_key({}, b);
  }
  return a < b;
}

std::map<std::string, venue::FillsFrom> LedgerView::fills_from(
    const std::vector<std::string>& symbols) const {
  std::map<std::string, venue::FillsFrom> from;
  for (const std::string& symbol : symbols) {
    venue::FillsFrom& first = from[symbol];
    if (const auto cursor = cursors.find(symbol); cursor != cursors.end()) {
      first.after = cursor->second;
    }
    if (const auto known = since.find(symbol); known != since.end()) {
      first.since_ms = known->second;
    }
  }
  // A booked trade behind the cursor is compared with what the venue lists, so it is asked for.
  for (const auto& [key, fill] : recent_fills) {
    const auto first = from.find(fill.symbol);
    if (first == from.end()) continue;
    first->second.since_ms = std::min(first->second.since_ms, fill.time_ms);
  }
  return from;
}

Result<LedgerState> read_ledger_state(const store::Snapshot& snapshot) {
  DEFIB_TRY_ASSIGN(LedgerState state, read_books(snapshot));
  DEFIB_TRY_ASSIGN(state.intents, read_open_intents(snapshot));
  return state;
}

Result<std::map<std::string, wire::Json>> read_open_findings(const store::Snapshot& snapshot) {
  std::map<std::string, wire::Json> findings;
  DEFIB_TRY(read_table(
      snapshot, kFindingTable, findings,
      [](std::string_view, std::string_view record) { return wire::Json::parse(record); }));
  return findings;
}

// --- LedgerUpdate
// ---------------------------------------------------------------------------------

Position LedgerUpdate::position(const std::string& symbol) const {
  if (const auto found = positions_.find(symbol); found != positions_.end()) return found->second;
  if (const auto found = ledger_->positions_.find(symbol); found != ledger_->positions_.end()) {
    return found->second;
  }
  Position position;
  position.symbol = symbol;
  return position;
}

std::optional<TrackedOrder> LedgerUpdate::tracked(const std::string& key) const {
  if (const auto found = orders_.find(key); found != orders_.end()) return found->second;
  if (const auto found = ledger_->orders_.find(key); found != ledger_->orders_.end()) {
    return found->second;
  }
  return std::nullopt;
}

Result<std::optional<Intent>> LedgerUpdate::intent(const std::string& id) const {
  if (const auto found = intents_.find(id); found != intents_.end()) {
    return std::optional<Intent>(found->second);
  }
  if (const Intent* open = ledger_->intents_->find(id)) return std::optional<Intent>(*open);
  if (!parse_client_id(id)) return std::optional<Intent>();
  return ledger_->intents_->load(id);
}

Result<VenueOrderRecord> LedgerUpdate::venue_order(const std::string& reference) const {
  if (const auto found = venue_orders_.find(reference); found != venue_orders_.end()) {
    return found->second;
  }
  return ledger_->venue_order(reference);
}

Result<bool> LedgerUpdate::apply_fill(const venue::Fill& fill) {
  const std::string key = fill_key(fill.symbol, fill.trade_id);
  if (fills_.contains(key)) return false;
  if (ledger_->has_fill(fill.symbol, fill.trade_id)) return false;
  const auto overlay = instruments_.find(fill.symbol);
  const auto known = ledger_->instruments_.find(fill.symbol);
  if (overlay == instruments_.end() && known == ledger_->instruments_.end()) {
    return Error(Code::kNotFound, fmt::format("the ledger has no instrument {}", fill.symbol))
        .with("symbol", fill.symbol)
        .suggest("add the symbol to [venue] symbols");
  }
  const Instrument& instrument = overlay != instruments_.end() ? overlay->second : known->second;
  if (fill.quantity <= Decimal()) return impossible_amount(fill);
  std::optional<Position> after = position_after(position(fill.symbol), fill, instrument);
  std::map<std::string, Decimal> totals = ledger_->balances_;
  for (const auto& [asset, total] : balances_) totals[asset] = total;
  if (!after || !apply_to_balances(totals, fill, instrument)) return impossible_amount(fill);

  const std::string reference = order_reference(fill.symbol, fill.venue_order_id);
  DEFIB_TRY_ASSIGN(VenueOrderRecord record, venue_order(reference));
  const std::optional<Decimal> sum = checked_sum(record.booked, fill.quantity);
  if (!sum) return impossible_amount(fill);
  record.booked = *sum;
  venue_orders_[reference] = record;
  DEFIB_TRY(book_against_order(fill, record));

  positions_[fill.symbol] = std::move(*after);
  for (const std::string& asset : {instrument.base_asset, instrument.quote_asset, fill.fee_asset}) {
    if (const auto total = totals.find(asset); total != totals.end()) {
      balances_[asset] = total->second;
    }
  }
  fills_.emplace(key, fill);
  return true;
}

// Raises the order and the intent that the fill belongs to, whether they are open or have ended.
Result<> LedgerUpdate::book_against_order(const venue::Fill& fill, const VenueOrderRecord& record) {
  const std::string key = record.client_id.empty()
                              ? "#" + order_reference(fill.symbol, fill.venue_order_id)
                              : record.client_id;
  if (std::optional<TrackedOrder> order = tracked(key)) {
    venue::Order next = order->order;
    next.updated_ms = std::max(next.updated_ms, fill.time_ms);
    next.filled_quote =
        saturating_sum(next.filled_quote, saturating_product(fill.quantity, fill.price));
    return set_order(next, fmt::format("trade {}", fill.trade_id), order->external);
  }
  if (record.client_id.empty()) return {};
  DEFIB_TRY_ASSIGN(const std::optional<Intent> ended, intent(record.client_id));
  if (!ended) return {};
  venue::Order order;
  order.client_id = ended->id;
  order.venue_id = fill.venue_order_id;
  order.symbol = fill.symbol;
  order.quantity = ended->quantity;
  order.filled = std::max(ended->filled, record.booked);
  order.status = order.filled >= order.quantity ? venue::OrderStatus::kFilled
                                                : venue::OrderStatus::kPartiallyFilled;
  return move_intent(*ended, order, fmt::format("trade {}", fill.trade_id));
}

Result<> LedgerUpdate::move_intent(Intent intent, const venue::Order& order, std::string_view why) {
  const IntentEvent event = event_of(order.status);
  const std::optional<IntentState> next = next_state(intent.state, event);
  if (!next) {
    return Error(
               Code::kLedgerDamaged,
               fmt::format("intent {} is {}, but the venue shows its order {} as {}", intent.id,
                           to_string(intent.state), order.venue_id, venue::to_string(order.status)))
        .with("id", intent.id)
        .with("venue_order_id", order.venue_id);
  }
  intent.state = *next;
  intent.filled = std::max(intent.filled, order.filled);
  intent.venue_order_id = order.venue_id;
  intent.detail = why;
  set_intent(std::move(intent));
  return {};
}

void LedgerUpdate::set_cursor(const std::string& symbol, const std::string& trade_id) {
  const auto pending = cursors_.find(symbol);
  const std::string now = pending != cursors_.end() ? pending->second : ledger_->cursor(symbol);
  if (now.empty() || trade_id_less(now, trade_id)) cursors_[symbol] = trade_id;
}

void LedgerUpdate::settle_before(const std::string& symbol, std::int64_t venue_ms) {
  const auto known = ledger_->since_.find(symbol);
  const std::int64_t last = known == ledger_->since_.end() ? 0 : known->second;
  if (venue_ms <= last + kSettleEveryMs) return;
  set_since(symbol, venue_ms);
  std::map<std::string_view, const venue::Fill*> recent;
  for (const auto* fills : {&ledger_->recent_fills_, &fills_}) {
    for (const auto& [key, fill] : *fills) {
      if (fill.symbol == symbol) recent.emplace(key, &fill);
    }
  }
  for (const auto& [key, fill] : recent) {
    if (fill->time_ms >= venue_ms) break;
    set_cursor(symbol, fill->trade_id);
  }
}

Result<> LedgerUpdate::set_order(const venue::Order& shown, std::string_view why, bool external) {
  TrackedOrder next;
  next.order = shown;
  const std::string key = next.key();
  const std::string reference = order_reference(shown.symbol, shown.venue_id);
  const std::optional<TrackedOrder> before = tracked(key);
  DEFIB_TRY_ASSIGN(const std::optional<Intent> intent, this->intent(shown.client_id));
  const std::string known_id = before   ? before->order.venue_id
                               : intent ? intent->venue_order_id
                                        : std::string();
  if (!known_id.empty() && known_id != shown.venue_id) {
    return Error(Code::kDuplicateOrder,
                 fmt::format("the venue has two orders, {} and {}, for the id {}", known_id,
                             shown.venue_id, key))
        .with("client_id", key)
        .with("first", known_id)
        .with("second", shown.venue_id);
  }
  DEFIB_TRY_ASSIGN(VenueOrderRecord record, venue_order(reference));
  if (record.client_id != shown.client_id) {
    record.client_id = shown.client_id;
    venue_orders_[reference] = record;
  }
  next.booked = record.booked;
  next.order.filled =
      std::max({shown.filled, record.booked, before ? before->order.filled : Decimal()});
  if (!is_terminal(shown.status)) {
    next.order.status = next.order.filled >= next.order.quantity ? venue::OrderStatus::kFilled
                        : next.order.filled > Decimal() ? venue::OrderStatus::kPartiallyFilled
                                                        : venue::OrderStatus::kNew;
  }
  bool ended = is_terminal(next.order.status);
  if (intent) {
    next.strategy = intent->strategy;
    DEFIB_TRY(move_intent(*intent, next.order, why));
    ended = is_terminal(intents_.at(intent->id).state);
  } else {
    next.external = external || !before || before->external;
  }
  if (ended) {
    orders_[key] = std::nullopt;
  } else {
    orders_[key] = std::move(next);
  }
  return {};
}

void LedgerUpdate::forget_order(const std::string& key) {
  orders_[key] = std::nullopt;
}
void LedgerUpdate::set_intent(Intent intent) {
  intents_.insert_or_assign(intent.id, std::move(intent));
}
void LedgerUpdate::set_instrument(Instrument instrument) {
  instruments_.insert_or_assign(instrument.symbol, std::move(instrument));
}
void LedgerUpdate::set_position(Position position) {
  positions_.insert_or_assign(position.symbol, std::move(position));
}
void LedgerUpdate::set_balance(const std::string& asset, Decimal total) {
  balances_[asset] = total;
}
void LedgerUpdate::journal(wire::Json line) {
  journal_.push_back(std::move(line));
}
void LedgerUpdate::open_finding(const std::string& id, wire::Json finding) {
  findings_[id] = std::move(finding);
}
void LedgerUpdate::close_finding(const std::string& id) {
  findings_[id] = std::nullopt;
}

bool LedgerUpdate::empty() const {
  return fills_.empty() && cursors_.empty() && since_.empty() && orders_.empty() &&
         venue_orders_.empty() && intents_.empty() && instruments_.empty() && positions_.empty() &&
         balances_.empty() && findings_.empty() && journal_.empty() && !initialize_;
}

Result<> LedgerUpdate::write(store::Transaction& transaction) const {
  for (const auto& [key, fill] : fills_) {
    DEFIB_TRY(transaction.put(kFillTable, key, encode_fill(fill)));
  }
  for (const auto& [symbol, cursor] : cursors_) {
    DEFIB_TRY(transaction.put(kCursorTable, symbol, cursor));
  }
  for (const auto& [symbol, time_ms] : since_) {
    DEFIB_TRY(transaction.put(kSinceTable, symbol, encode_time(time_ms)));
  }
  for (const auto& [key, order] : orders_) {
    DEFIB_TRY(order ? transaction.put(kOrderTable, key, encode_order(*order))
                    : transaction.erase(kOrderTable, key));
  }
  for (const auto& [reference, record] : venue_orders_) {
    DEFIB_TRY(transaction.put(kVenueIdTable, reference, encode_venue_order(record)));
  }
  for (const auto& [id, intent] : intents_) DEFIB_TRY(IntentLog::write(transaction, intent));
  for (const auto& [symbol, instrument] : instruments_) {
    DEFIB_TRY(transaction.put(kInstrumentTable, symbol, encode_instrument(instrument)));
  }
  for (const auto& [symbol, position] : positions_) {
    DEFIB_TRY(transaction.put(kPositionTable, symbol, encode_position(position)));
  }
  for (const auto& [asset, total] : balances_) {
    DEFIB_TRY(transaction.put(kBalanceTable, asset, encode_amount(total)));
  }
  for (const auto& [id, finding] : findings_) {
    DEFIB_TRY(finding ? transaction.put(kFindingTable, id, finding->dump())
                      : transaction.erase(kFindingTable, id));
  }
  std::uint64_t number = ledger_->journal_next_;
  for (const wire::Json& line : journal_) {
    DEFIB_TRY(transaction.put(kJournalTable, fmt::format("{:020}", number++), line.dump()));
  }
  if (!checkpoint_.empty()) {
    DEFIB_TRY(transaction.put(kCheckpointTable, kLatestKey, checkpoint_));
  }
  if (initialize_) DEFIB_TRY(transaction.put(kMetaTable, kInitializedKey, "1"));
  return {};
}

Result<> LedgerUpdate::commit(std::int64_t wall_ns) {
  return commit(wall_ns, ledger_->intents_->durability());
}

Result<> LedgerUpdate::commit(std::int64_t wall_ns, store::Durability durability) {
  if (empty()) return {};
  for (auto& [id, intent] : intents_) intent.updated_wall_ns = wall_ns;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, ledger_->store_->begin());
  DEFIB_TRY(write(*transaction));
  DEFIB_TRY(transaction->commit(durability));
  ledger_->remember_fills(*this);
  for (auto& [symbol, cursor] : cursors_) {
    std::erase_if(ledger_->recent_fills_, [&](const auto& item) {
      return item.second.symbol == symbol && !trade_id_less(cursor, item.second.trade_id);
    });
    ledger_->cursors_[symbol] = std::move(cursor);
  }
  for (auto& [key, order] : orders_) {
    if (order) {
      ledger_->orders_.insert_or_assign(key, std::move(*order));
    } else {
      ledger_->orders_.erase(key);
    }
  }
  for (const auto& [id, intent] : intents_) ledger_->intents_->remember(intent);
  for (const auto& [symbol, time_ms] : since_) ledger_->since_[symbol] = time_ms;
  for (auto& [symbol, item] : instruments_) ledger_->instruments_[symbol] = std::move(item);
  for (auto& [symbol, item] : positions_) ledger_->positions_[symbol] = std::move(item);
  for (const auto& [asset, total] : balances_) ledger_->balances_[asset] = total;
  ledger_->journal_next_ += journal_.size();
  ledger_->initialized_ = ledger_->initialized_ || initialize_;
  *this = LedgerUpdate(*ledger_);
  return {};
}

// --- Ledger
// ---------------------------------------------------------------------------------------

Result<std::unique_ptr<Ledger>> Ledger::open(store::Store& store, IntentLog& intents) {
  std::unique_ptr<Ledger> ledger(new Ledger(store, intents));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> snapshot, store.snapshot());
  DEFIB_TRY_ASSIGN(LedgerState state, read_books(*snapshot));
  ledger->initialized_ = state.initialized;
  ledger->instruments_ = std::move(state.instruments);
  ledger->positions_ = std::move(state.positions);
  ledger->balances_ = std::move(state.balances);
  ledger->orders_ = std::move(state.orders);
  ledger->cursors_ = std::move(state.cursors);
  ledger->since_ = std::move(state.since);
  ledger->recent_fills_ = std::move(state.recent_fills);
  DEFIB_TRY(ledger->load_unknown_fills(*snapshot));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> journal, snapshot->scan(kJournalTable));
  if (journal->last()) {
    std::uint64_t last = 0;
    for (const char c : journal->key()) last = last * 10 + static_cast<std::uint64_t>(c - '0');
    ledger->journal_next_ = last + 1;
  }
  return ledger;
}

Result<> Ledger::initialize(venue::Venue& venue, const std::vector<std::string>& symbols,
                            std::int64_t wall_ns) {
  std::vector<std::string> fresh;
  for (const std::string& symbol : symbols) {
    if (!instruments_.contains(symbol)) fresh.push_back(symbol);
  }
  if (fresh.empty() && initialized_) return {};
  LedgerUpdate update(*this);
  DEFIB_TRY_ASSIGN(const std::vector<venue::SymbolRules> rules, venue.rules());
  std::map<std::string, Instrument> added;
  for (const venue::SymbolRules& rule : rules) {
    added[rule.symbol] = {rule.symbol, rule.base_asset, rule.quote_asset, rule.tick, rule.lot};
  }
  DEFIB_TRY_ASSIGN(const std::int64_t venue_ms, venue.server_time_ms());
  const std::int64_t settled_ms = shown_before(venue, venue_ms);
  std::map<std::string, venue::FillsFrom> from;
  for (const std::string& symbol : fresh) {
    if (!added.contains(symbol)) {
      return Error(Code::kNotFound, fmt::format("the venue has no symbol {}", symbol))
          .with("symbol", symbol);
    }
    from[symbol].since_ms = settled_ms;
  }
  std::vector<venue::Balance> balances;
  bool stable = false;
  for (int reading = 0; reading < kInitialReadings && !stable; ++reading) {
    stable = reading > 0;
    DEFIB_TRY_ASSIGN(const std::vector<venue::Fill> fills, venue.fills_of(from));
    for (const venue::Fill& fill : fills) from[fill.symbol].after = fill.trade_id;
    if (!fills.empty()) stable = false;
    if (stable) break;
    DEFIB_TRY_ASSIGN(balances, venue.balances());
  }
  if (!stable) {
    return Error(Code::kUnavailable, "the account keeps trading while its baseline is read")
        .suggest("stop whatever else trades on this account, and start again");
  }
  std::map<std::string, Decimal> totals;
  for (const venue::Balance& balance : balances) totals[balance.asset] = balance.total();
  for (const std::string& symbol : fresh) {
    const Instrument& instrument = added[symbol];
    update.set_instrument(instrument);
    Position position;
    position.symbol = symbol;
    position.baseline = totals[instrument.base_asset];
    update.set_position(position);
    if (const std::string& last = from[symbol].after; !last.empty()) {
      update.set_cursor(symbol, last);
    }
    update.set_since(symbol, settled_ms);
  }
  DEFIB_TRY_ASSIGN(const std::vector<venue::Order> open, venue.open_orders_of(fresh));
  for (const venue::Order& order : open) {
    DEFIB_TRY(update.set_order(order, "open before the ledger began", true));
  }
  for (const auto& [asset, total] : totals) {
    if (!balances_.contains(asset)) update.set_balance(asset, total);
  }
  if (!initialized_) {
    LedgerState base;
    base.positions = update.positions_;
    base.balances = update.balances_;
    base.cursors = update.cursors_;
    update.checkpoint_ = make_checkpoint(base, {}, 0, wall_ns).to_json().dump();
  }
  update.mark_initialized();
  return update.commit(wall_ns, store::Durability::kPower);
}

Result<int> Ledger::sync_fills(venue::Venue& venue, const std::string& symbol, std::int64_t wall_ns,
                               std::int64_t venue_ms) {
  return sync_fills(venue, std::vector{symbol}, wall_ns, venue_ms);
}

Result<int> Ledger::sync_fills(venue::Venue& venue, const std::vector<std::string>& wanted,
                               std::int64_t wall_ns, std::int64_t venue_ms) {
  // Where one history tells of all symbols, the same walk serves all of them.
  const bool one_history = !venue.rebuild_model().filtered;
  std::vector<std::string> symbols = wanted;
  if (one_history) {
    for (const auto& [symbol, instrument] : instruments_) symbols.push_back(symbol);
  }
  DEFIB_TRY_ASSIGN(const std::vector<venue::Fill> fills,
                   venue.fills_of(view().fills_from(symbols)));
  std::map<std::string, std::vector<venue::Fill>> by_symbol;
  for (const venue::Fill& fill : fills) by_symbol[fill.symbol].push_back(fill);
  int booked = 0;
  for (const auto& [symbol, its_fills] : by_symbol) {
    DEFIB_TRY_ASSIGN(const int of_symbol,
                     book(symbol, its_fills, venue.visibility_lag_ms(), wall_ns));
    booked += of_symbol;
  }
  // It settles those too that do not trade: up to what was known of the venue's time before the
  // reading, or up to the newest trade in it.
  if (one_history) {
    std::int64_t settled_ms = shown_before(venue, venue_ms);
    for (const venue::Fill& fill : fills) {
      settled_ms = std::max(settled_ms, fill.time_ms - venue.visibility_lag_ms());
    }
    LedgerUpdate update(*this);
    for (const std::string& symbol : symbols) update.settle_before(symbol, settled_ms);
    DEFIB_TRY(update.commit(wall_ns));
  }
  return booked;
}

Result<int> Ledger::book(const std::string& symbol, const std::vector<venue::Fill>& fills,
                         std::int64_t lag_ms, std::int64_t wall_ns) {
  int booked = 0;
  const std::string settled = settled_trade(fills, lag_ms);
  for (std::size_t from = 0; from < fills.size(); from += kFillsPerCommit) {
    LedgerUpdate update(*this);
    const std::size_t end = std::min(fills.size(), from + kFillsPerCommit);
    for (std::size_t i = from; i < end; ++i) {
      DEFIB_TRY_ASSIGN(const bool was_new, update.apply_fill(fills[i]));
      booked += was_new ? 1 : 0;
    }
    if (end == fills.size() && !settled.empty()) update.set_cursor(symbol, settled);
    DEFIB_TRY(update.commit(wall_ns));
  }
  return booked;
}

LedgerView Ledger::view() const {
  return {initialized_, instruments_, positions_,    balances_,
          orders_,      cursors_,     recent_fills_, intents_->open_intents(),
          since_};
}

LedgerState Ledger::state() const {
  return {initialized_, instruments_, positions_,    balances_,
          orders_,      cursors_,     recent_fills_, intents_->open_intents(),
          since_};
}

std::string Ledger::cursor(const std::string& symbol) const {
  const auto found = cursors_.find(symbol);
  return found == cursors_.end() ? std::string() : found->second;
}

Result<> Ledger::load_unknown_fills(const store::Snapshot& snapshot) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kFillTable));
  for (const auto& [symbol, instrument] : instruments_) {
    const std::string prefix = fill_key(symbol, {});
    std::size_t seen = 0;
    for (bool found = cursor->seek_for_prev(prefix + "\xff");
         found && cursor->key().starts_with(prefix) && seen < kUnknownFillsKept;
         found = cursor->prev(), ++seen) {
      DEFIB_TRY_ASSIGN(venue::Fill fill, decode_fill(cursor->key(), cursor->value()));
      const std::string reference = order_reference(symbol, fill.venue_order_id);
      DEFIB_TRY_ASSIGN(const std::optional<std::string> record,
                       snapshot.get(kVenueIdTable, reference));
      if (!record) continue;
      DEFIB_TRY_ASSIGN(const VenueOrderRecord order, decode_venue_order(reference, *record));
      if (order.client_id.empty()) unknown_fills_.push_front(std::move(fill));
    }
  }
  return {};
}

// What memory keeps of the fills of a committed update.
void Ledger::remember_fills(const LedgerUpdate& update) {
  for (const auto& [key, fill] : update.fills_) {
    recent_fills_.emplace(key, fill);
    unknown_fills_.push_back(fill);
  }
  std::erase_if(unknown_fills_, [&](const venue::Fill& fill) {
    const auto record =
        update.venue_orders_.find(order_reference(fill.symbol, fill.venue_order_id));
    return record != update.venue_orders_.end() && !record->second.client_id.empty();
  });
  while (unknown_fills_.size() > kUnknownFillsKept) unknown_fills_.pop_front();
}

bool Ledger::has_fill(const std::string& symbol, const std::string& trade_id) const {
  if (recent_fills_.contains(fill_key(symbol, trade_id))) return true;
  const std::string settled = cursor(symbol);
  return !settled.empty() && !trade_id_less(settled, trade_id);
}

Result<VenueOrderRecord> Ledger::venue_order(const std::string& reference) const {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> snapshot, store_->snapshot());
  DEFIB_TRY_ASSIGN(const std::optional<std::string> record,
                   snapshot->get(kVenueIdTable, reference));
  if (!record) return VenueOrderRecord();
  return decode_venue_order(reference, *record);
}

Result<std::string> Ledger::client_id_of(const std::string& symbol,
                                         const std::string& venue_order_id) const {
  DEFIB_TRY_ASSIGN(VenueOrderRecord record, venue_order(order_reference(symbol, venue_order_id)));
  return std::move(record.client_id);
}

// --- Exposure
// -------------------------------------------------------------------------------------

wire::Json Exposure::to_json() const {
  return wire::Json::object({{"positions", positions.to_string()},
                             {"open_orders", open_orders.to_string()},
                             {"unknown", unknown.to_string()},
                             {"total", total().to_string()}});
}

Decimal Exposure::total() const {
  return saturating_sum(saturating_sum(positions, open_orders), unknown);
}

std::optional<Decimal> Valuation::rate(const std::string& asset) const {
  if (currency.empty() || asset == currency) return Decimal::from_integer(1);
  const auto found = rates.find(asset);
  return found == rates.end() ? std::nullopt : std::optional(found->second);
}

Exposure exposure_of(const LedgerView& state, const std::map<std::string, Decimal>& marks,
                     const Valuation& valuation) {
  return exposure_of(state.positions, state.orders, state.intents, marks, state.instruments,
                     valuation);
}

Exposure exposure_of(const std::map<std::string, Position>& positions,
                     const std::map<std::string, TrackedOrder>& orders,
                     const std::map<std::string, Intent>& intents,
                     const std::map<std::string, Decimal>& marks,
                     const std::map<std::string, Instrument>& instruments,
                     const Valuation& valuation) {
  Exposure exposure;
  const auto mark_of = [&](const std::string& symbol) {
    const auto found = marks.find(symbol);
    return found == marks.end() ? Decimal() : found->second;
  };
  const auto add = [&](Decimal& to, const std::string& symbol, Decimal amount) {
    if (!valuation.currency.empty() && !amount.is_zero()) {
      const auto known = instruments.find(symbol);
      const std::string quote = known == instruments.end() ? symbol : known->second.quote_asset;
      const std::optional<Decimal> rate = valuation.rate(quote);
      if (rate) {
        amount = saturating_product(amount, *rate);
      } else {
        exposure.unpriced.insert(quote);
      }
    }
    to = saturating_sum(to, amount.abs());
  };
  for (const auto& [symbol, position] : positions) {
    const Decimal mark = mark_of(symbol);
    const Decimal price = mark.is_zero() ? position.average_price() : mark;
    add(exposure.positions, symbol, saturating_product(position.quantity, price));
  }
  for (const auto& [key, tracked] : orders) {
    const venue::Order& order = tracked.order;
    const Decimal price = order.price.is_zero() ? mark_of(order.symbol) : order.price;
    const Decimal left = saturating_sum(order.quantity, -order.filled);
    if (price.is_zero() && !left.is_zero()) exposure.unpriced.insert(order.symbol);
    add(exposure.open_orders, order.symbol, saturating_product(left, price));
  }
  for (const auto& [id, intent] : intents) {
    if (!is_unresolved(intent.state) || orders.contains(id)) continue;
    add(exposure.unknown, intent.symbol, intent.notional());
  }
  return exposure;
}

}  // namespace defib::trading
