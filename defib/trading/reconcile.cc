// The pure part: comparing. Reading the venue and applying stand in venue_snapshot.cc and
// reconcile_apply.cc.

#include "defib/trading/reconcile.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"

namespace defib::trading {
namespace {

constexpr std::array<std::string_view, kDiscrepancyKinds> kKindNames = {
    "duplicate_order",
    "order_unknown_at_ledger",
    "order_missing_at_venue",
    "intent_found",
    "intent_unresolved",
    "order_side_differs",
    "order_quantity_differs",
    "order_price_differs",
    "order_filled_differs",
    "order_status_differs",
    "order_id_differs",
    "extra_fill",
    "fill_of_unknown_order",
    "fill_at_ledger_only",
    "fill_differs",
    "order_overfilled",
    "balance_differs",
    "locked_differs",
    "position_differs",
    "instrument_differs",
    "position_unknown_at_ledger",
    "position_missing_at_venue",
    "position_side_differs",
    "balance_negative"};

constexpr std::size_t kIdDigits = 12;
// The venue's time is read behind its lists.
constexpr std::int64_t kReadingMs = 1'000;

bool same_trade(const venue::Fill& a, const venue::Fill& b) {
  return a.venue_order_id == b.venue_order_id && a.side == b.side && a.quantity == b.quantity &&
         a.price == b.price && a.fee == b.fee && a.fee_asset == b.fee_asset;
}

std::string describe(const venue::Fill& fill) {
  return fmt::format("{} {} at {} (order {})", venue::to_string(fill.side),
                     fill.quantity.to_string(), fill.price.to_string(), fill.venue_order_id);
}

std::string describe(const venue::Order& order) {
  return fmt::format("{} {} at {}, {}, {} filled", venue::to_string(order.side),
                     order.quantity.to_string(), order.price.to_string(),
                     venue::to_string(order.status), order.filled.to_string());
}

// An order of the venue's list under its key: the client's id, or "#" and the venue's. The first
// sixteen bytes of the key stand beside it as numbers, which order as the text does, so that a
// comparison seldom has to fetch the text. A million of these are 40 MB.
struct Listed {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  std::string_view key;
  const venue::Order* order = nullptr;
};

Listed list_entry(std::string_view key, const venue::Order* order = nullptr) {
  const auto number = [&](std::size_t from) {
    std::uint64_t bytes = 0;
    if (from < key.size()) {
      std::memcpy(&bytes, key.data() + from, std::min(sizeof bytes, key.size() - from));
    }
    return std::endian::native == std::endian::little ? std::byteswap(bytes) : bytes;
  };
  return {number(0), number(sizeof(std::uint64_t)), key, order};
}

bool before(const Listed& a, const Listed& b) {
  if (a.first != b.first) return a.first < b.first;
  if (a.second != b.second) return a.second < b.second;
  return a.key < b.key;
}
bool same_key(const Listed& a, const Listed& b) {
  return a.first == b.first && a.second == b.second && a.key == b.key;
}

// One comparison: what is known, indexed, and what was found. Orders are merged: both sides are in
// the order of their keys, and each order is looked at once.
class Comparison {
 public:
  Comparison(const LedgerView& believed, const VenueSnapshot& snapshot, const Tolerance& tolerance)
      : believed_(believed), snapshot_(snapshot), tolerance_(tolerance) {}

  std::vector<Discrepancy> run() {
    index();
    compare_instruments();
    find_duplicates();
    compare_orders();
    compare_intents();
    compare_fills();
    compare_balances();
    compare_locked();
    compare_positions();
    if (tolerance_.strict) trust_nothing();
    std::sort(found_.begin(), found_.end(), [](const Discrepancy& a, const Discrepancy& b) {
      return std::tie(a.kind, a.subject, a.id) < std::tie(b.kind, b.subject, b.id);
    });
    return std::move(found_);
  }

 private:
  struct Difference {
    std::string believed;
    std::string venue;
    bool explained = false;
    std::string explanation;
    std::string correction;
    std::string same_while = {};  // what the id is made of; empty: of both sides
  };

  void add(DiscrepancyKind kind, std::string subject, Difference difference) {
    Discrepancy discrepancy;
    const std::string sides = difference.believed + "\n" + difference.venue;
    const std::string content =
        fmt::format("{}\n{}\n{}", to_string(kind), subject,
                    difference.same_while.empty() ? sides : difference.same_while);
    discrepancy.id = "D-" + sha256_hex(content).substr(0, kIdDigits);
    discrepancy.kind = kind;
    discrepancy.subject = std::move(subject);
    discrepancy.believed = std::move(difference.believed);
    discrepancy.venue = std::move(difference.venue);
    discrepancy.explained = difference.explained;
    discrepancy.explanation = std::move(difference.explanation);
    discrepancy.correction = std::move(difference.correction);
    found_.push_back(std::move(discrepancy));
  }

  static std::string key_of(const venue::Order& order) {
    TrackedOrder tracked;
    tracked.order = order;
    return tracked.key();
  }

  bool covers(const std::string& symbol) {
    if (covered_ != nullptr && *covered_ == symbol) return true;  // as the order before
    const auto found = std::ranges::find(snapshot_.symbols, symbol);
    if (found == snapshot_.symbols.end()) return false;
    covered_ = &*found;
    return true;
  }

  bool is_booked(const venue::Fill& fill) const {
    if (believed_.recent_fills.contains(fill_key(fill.symbol, fill.trade_id))) return true;
    const auto cursor = believed_.cursors.find(fill.symbol);
    return cursor != believed_.cursors.end() && !trade_id_less(cursor->second, fill.trade_id);
  }

  void index() {
    open_.reserve(snapshot_.open_orders.size());
    for (const venue::Order& order : snapshot_.open_orders) {
      const bool keyless = order.client_id.empty();
      open_.push_back(
          list_entry(keyless ? made_keys_.emplace_back(key_of(order)) : order.client_id, &order));
    }
    // Those of one key stay in the venue's order, which is that of their addresses.
    const auto in_order = [](const Listed& a, const Listed& b) {
      return same_key(a, b) ? std::less<>()(a.order, b.order) : before(a, b);
    };
    // Venues list by time, as our ids grow: mostly there is nothing to sort.
    if (!std::ranges::is_sorted(open_, in_order)) std::ranges::sort(open_, in_order);
    for (const venue::Fill& fill : snapshot_.new_fills) {
      if (is_booked(fill)) continue;
      if (!unbooked_.emplace(fill_key(fill.symbol, fill.trade_id), fill).second) continue;
      const std::string reference = order_reference(fill.symbol, fill.venue_order_id);
      new_by_order_[reference] = saturating_sum(new_by_order_[reference], fill.quantity);
    }
    if (!unbooked_.empty()) index_owners();
  }

  // Whose a trade is; asked for only where there are trades.
  void index_owners() {
    for (const venue::Order& order : snapshot_.open_orders) {
      owners_[order_reference(order.symbol, order.venue_id)] = key_of(order);
    }
    for (const auto& [id, order] : snapshot_.by_id) {
      if (order) owners_[order_reference(order->symbol, order->venue_id)] = id;
    }
    for (const auto& [key, tracked] : believed_.orders) {
      owners_[order_reference(tracked.order.symbol, tracked.order.venue_id)] = key;
    }
    for (const auto& [reference, owner] : snapshot_.fill_owners) {
      if (!owner.empty()) owners_.emplace(reference, owner);
    }
  }

  using Place = std::vector<Listed>::const_iterator;
  const venue::Order* listed(std::string_view key) const {
    const Listed wanted = list_entry(key);
    const Place found = std::ranges::lower_bound(open_, wanted, before);
    return found == open_.end() || !same_key(*found, wanted) ? nullptr : found->order;
  }
  // The next order of another key; what stands between is told as a duplicate.
  Place behind(Place place) const {
    return std::find_if(place, open_.end(),
                        [&](const Listed& item) { return !same_key(item, *place); });
  }

  // The instrument as the ledger knows it, else as the venue describes it.
  std::optional<Instrument> instrument(const std::string& symbol) const {
    if (const auto known = believed_.instruments.find(symbol);
        known != believed_.instruments.end()) {
      return known->second;
    }
    for (const venue::SymbolRules& rules : snapshot_.rules) {
      if (rules.symbol != symbol) continue;
      return Instrument{symbol, rules.base_asset, rules.quote_asset, rules.tick, rules.lot};
    }
    return std::nullopt;
  }

  // Strict: what only its fence can tell stays explained, since no person could say more.
  void trust_nothing() {
    for (Discrepancy& item : found_) {
      if (item.kind == DiscrepancyKind::kIntentUnresolved) continue;
      item.explained = false;
      item.explanation = "strict: " + item.explanation;
    }
  }

  // A difference of one tolerance is one, a smaller one is none; without tolerance every unit is.
  Decimal quantity_tolerance(const std::string& symbol) const {
    if (const auto cached = tolerances_.find(symbol); cached != tolerances_.end()) {
      return cached->second;
    }
    const std::optional<Instrument> known = instrument(symbol);
    const Decimal tolerance = std::max(tolerance_.for_lot(known ? known->lot : Decimal(), symbol),
                                       Decimal::from_units(1));
    tolerances_.emplace(symbol, tolerance);
    return tolerance;
  }

  Decimal asset_tolerance(const std::string& asset) const {
    Decimal lot;
    std::string coarsest;
    for (const auto& [symbol, item] : believed_.instruments) {
      if (item.base_asset != asset || item.lot < lot) continue;
      lot = item.lot;
      coarsest = symbol;
    }
    return tolerance_.for_lot(lot, coarsest);
  }

  void compare_instruments() {
    if (snapshot_.rules.empty()) return;
    for (const auto& [symbol, mine] : believed_.instruments) {
      const auto theirs =
          std::find_if(snapshot_.rules.begin(), snapshot_.rules.end(),
                       [&, &name = symbol](const auto& rules) { return rules.symbol == name; });
      const std::string before =
          fmt::format("tick {}, lot {}", mine.tick.to_string(), mine.lot.to_string());
      if (theirs == snapshot_.rules.end()) {
        add(DiscrepancyKind::kInstrumentDiffers, symbol,
            {before, "unknown", false, "the venue does not list the symbol any more", ""});
      } else if (theirs->tick != mine.tick || theirs->lot != mine.lot) {
        add(DiscrepancyKind::kInstrumentDiffers, symbol,
            {before,
             fmt::format("tick {}, lot {}", theirs->tick.to_string(), theirs->lot.to_string()),
             true, "the venue changed its rules", "take the venue's"});
      }
    }
  }

  // Two orders at the venue for one client id: in the list, or one in the list and another by id.
  void find_duplicates() {
    std::map<std::string, std::set<std::string>> orders_of;
    for (std::size_t at = 1; at < open_.size(); ++at) {
      if (!same_key(open_[at - 1], open_[at]) || open_[at].order->client_id.empty()) continue;
      orders_of[open_[at].order->client_id].insert(
          {open_[at - 1].order->venue_id, open_[at].order->venue_id});
    }
    for (const auto& [id, order] : snapshot_.by_id) {
      if (!order) continue;
      orders_of[id].insert(order->venue_id);
      const venue::Order* there = listed(id);
      if (there != nullptr && !id.starts_with('#')) orders_of[id].insert(there->venue_id);
    }
    Place theirs = open_.begin();
    for (const auto& [id, intent] : believed_.intents) {
      const Listed mine = list_entry(id);
      while (theirs != open_.end() && before(*theirs, mine)) ++theirs;
      if (intent.venue_order_id.empty()) continue;
      const bool is_listed = theirs != open_.end() && same_key(*theirs, mine);
      const bool agrees = is_listed && theirs->order->venue_id == intent.venue_order_id;
      if (agrees && !orders_of.contains(id)) continue;  // nearly all
      orders_of[id].insert(intent.venue_order_id);
      if (is_listed) orders_of[id].insert(theirs->order->venue_id);
    }
    for (const auto& [id, venue_ids] : orders_of) {
      if (venue_ids.size() < 2) continue;
      std::string list;
      for (const std::string& venue_id : venue_ids) list += (list.empty() ? "" : ", ") + venue_id;
      duplicates_.insert(id);
      add(DiscrepancyKind::kDuplicateOrder, id,
          {"one order", "orders " + list, false, "the id was accepted more than once", ""});
    }
  }

  // The order as the venue shows it now, by list or by id.
  const venue::Order* shown(const std::string& key) const {
    const venue::Order* order = listed(key);
    return order != nullptr ? order : told_by_id(key);
  }
  const venue::Order* told_by_id(const std::string& key) const {
    const auto found = snapshot_.by_id.find(key);
    return found == snapshot_.by_id.end() || !found->second ? nullptr : &*found->second;
  }

  void compare_orders() {
    Place theirs = open_.begin();
    for (const auto& [key, tracked] : believed_.orders) {
      const Listed mine = list_entry(key);
      while (theirs != open_.end() && before(*theirs, mine)) theirs = unknown_order(theirs);
      const venue::Order* there = nullptr;
      if (theirs != open_.end() && same_key(*theirs, mine)) {
        there = theirs->order;
        theirs = behind(theirs);
      } else {
        there = told_by_id(key);
      }
      if (covers(tracked.order.symbol)) compare_order(key, tracked, there);
    }
    while (theirs != open_.end()) theirs = unknown_order(theirs);
  }

  // `there`: as the venue shows it, nullptr where it does not.
  void compare_order(const std::string& key, const TrackedOrder& tracked,
                     const venue::Order* there) {
    if (there == nullptr) return missing_order(key, tracked);
    const venue::Order& here = tracked.order;
    if (there->venue_id != here.venue_id) {
      add(DiscrepancyKind::kOrderIdDiffers, key,
          {here.venue_id, there->venue_id, false, "another order carries this id", ""});
      return;
    }
    if (venue::is_terminal(there->status)) {
      add(DiscrepancyKind::kOrderMissingAtVenue, key,
          {describe(here), describe(*there), true,
           fmt::format("the venue says that it is {}", venue::to_string(there->status)),
           "take the venue's"});
    }
    compare_terms(key, here, *there);
    compare_filled(key, tracked, *there);
  }

  void missing_order(const std::string& key, const TrackedOrder& tracked) {
    const venue::Order& here = tracked.order;
    const std::string reference = order_reference(here.symbol, here.venue_id);
    const Decimal filled = saturating_sum(tracked.booked, new_of(reference));
    const bool complete = filled >= here.quantity;
    if (!complete && may_be_hidden(here)) {
      hidden_.push_back(&here);
      add(DiscrepancyKind::kOrderMissingAtVenue, key,
          {describe(here), "not known", true,
           fmt::format("sent {} ms ago; the venue may not show it yet",
                       snapshot_.server_ms - sent_ms(here)),
           ""});
      return;
    }
    add(DiscrepancyKind::kOrderMissingAtVenue, key,
        {describe(here), "not known", complete || key.starts_with('#'),
         complete               ? "its trades fill it"
         : key.starts_with('#') ? "an order of somebody else, which ended"
                                : "the venue neither lists it nor knows its id",
         complete ? "book its trades" : "forget it"});
  }

  // Not every venue tells in its reply when an order was made.
  static std::int64_t sent_ms(const venue::Order& order) {
    return order.created_ms > 0 ? order.created_ms : order.updated_ms;
  }
  // Accepted so short a time ago that a reading need not show it.
  bool may_be_hidden(const venue::Order& order) const {
    return sent_ms(order) > 0 && !order.client_id.empty() &&
           snapshot_.server_ms - sent_ms(order) <= snapshot_.visibility_lag_ms + kReadingMs;
  }

  Decimal new_of(const std::string& reference) const {
    const auto found = new_by_order_.find(reference);
    return found == new_by_order_.end() ? Decimal() : found->second;
  }

  void compare_terms(const std::string& key, const venue::Order& here, const venue::Order& there) {
    if (here.side != there.side) {
      add(DiscrepancyKind::kOrderSideDiffers, key,
          {std::string(venue::to_string(here.side)), std::string(venue::to_string(there.side)),
           false, "an order cannot change its side", "take the venue's"});
    }
    const Decimal quantity_off = saturating_sum(there.quantity, -here.quantity).abs();
    if (!quantity_off.is_zero() && quantity_off >= quantity_tolerance(here.symbol)) {
      add(DiscrepancyKind::kOrderQuantityDiffers, key,
          {here.quantity.to_string(), there.quantity.to_string(), false, "nothing here changed it",
           "take the venue's"});
    }
    // A market order has no price here, and its average there.
    if (!here.price.is_zero() && here.price != there.price) {
      add(DiscrepancyKind::kOrderPriceDiffers, key,
          {here.price.to_string(), there.price.to_string(), false, "nothing here changed it",
           "take the venue's"});
    }
  }

  void compare_filled(const std::string& key, const TrackedOrder& tracked,
                      const venue::Order& there) {
    const venue::Order& here = tracked.order;
    const Decimal by_trades =
        new_by_order_.empty()
            ? tracked.booked
            : saturating_sum(tracked.booked, new_of(order_reference(here.symbol, here.venue_id)));
    const bool explained = by_trades == there.filled;
    if (explained && here.filled == there.filled && here.status == there.status &&
        there.filled <= there.quantity) {
      return;  // nearly all are as they should be
    }
    const std::string explanation =
        explained ? "its trades add up to it"
                  : fmt::format("its trades add up to {}", by_trades.to_string());
    if (here.filled != there.filled || !explained) {
      add(DiscrepancyKind::kOrderFilledDiffers, key,
          {here.filled.to_string(), there.filled.to_string(), explained, explanation,
           "take the venue's"});
    }
    if (here.status != there.status && !venue::is_terminal(there.status)) {
      add(DiscrepancyKind::kOrderStatusDiffers, key,
          {std::string(venue::to_string(here.status)), std::string(venue::to_string(there.status)),
           explained, explanation, "take the venue's"});
    }
    if (there.filled > there.quantity || by_trades > there.quantity) {
      add(DiscrepancyKind::kOrderOverfilled, key,
          {there.quantity.to_string(), std::max(there.filled, by_trades).to_string(), false,
           "more was filled than was ordered", ""});
    }
  }

  void compare_intents() {
    for (const auto& [id, intent] : believed_.intents) {
      if (!is_unresolved(intent.state) || believed_.orders.contains(id)) continue;
      const venue::Order* there = shown(id);
      if (there) {
        add(DiscrepancyKind::kIntentFound, id,
            {std::string(to_string(intent.state)), describe(*there), true,
             "the venue accepted it, and its reply was lost", "adopt the order"});
      } else {
        add(DiscrepancyKind::kIntentUnresolved, id,
            {std::string(to_string(intent.state)), "absent", true,
             fmt::format("only its fence can tell, at {} ms of the venue's clock; it counts as "
                         "exposure until then",
                         intent.fence_ms),
             ""});
      }
    }
  }

  // Open there, and not among the believed orders. The next place.
  Place unknown_order(Place place) {
    const venue::Order& order = *place->order;
    // The list may lag behind an end that the venue itself tells by id.
    const venue::Order* by_id = told_by_id(order.client_id);
    const bool has_ended = by_id != nullptr && venue::is_terminal(by_id->status);
    if (!has_ended && !believed_.intents.contains(order.client_id)) {
      add(DiscrepancyKind::kOrderUnknownAtLedger, std::string(place->key),
          {"unknown", describe(order), false, "no intent of this ledger placed it",
           "take it over as an order of somebody else"});
    }
    return behind(place);
  }

  const Intent* unresolved_behind(const venue::Fill& fill) const {
    for (const auto& [id, intent] : believed_.intents) {
      if (is_unresolved(intent.state) && could_be_of(fill, intent)) return &intent;
    }
    return nullptr;
  }

  void compare_fills() {
    std::map<std::string, venue::Fill> there;
    for (const venue::Fill& fill : snapshot_.new_fills) {
      there.emplace(fill_key(fill.symbol, fill.trade_id), fill);
    }
    for (const auto& [key, fill] : unbooked_) {
      const std::string subject = fmt::format("{} trade {}", fill.symbol, fill.trade_id);
      const auto owner = owners_.find(order_reference(fill.symbol, fill.venue_order_id));
      if (owner != owners_.end()) {
        add(DiscrepancyKind::kExtraFill, subject,
            {"not booked", describe(fill), true, "a trade of order " + owner->second, "book it"});
      } else if (const Intent* intent = unresolved_behind(fill)) {
        // Its order may not be visible yet. Until it is, the intent cannot be proved absent.
        add(DiscrepancyKind::kFillOfUnknownOrder, subject,
            {"not booked", describe(fill), true,
             fmt::format("it can be of intent {}, which is not resolved yet", intent->id),
             "book it"});
      } else {
        add(DiscrepancyKind::kFillOfUnknownOrder, subject,
            {"not booked", describe(fill), false, "nobody here knows its order", "book it"});
      }
    }
    for (const auto& [key, mine] : believed_.recent_fills) {
      if (!covers(mine.symbol)) continue;
      const std::string subject = fmt::format("{} trade {}", mine.symbol, mine.trade_id);
      const auto found = there.find(key);
      if (found == there.end()) {
        add(DiscrepancyKind::kFillAtLedgerOnly, subject,
            {describe(mine), "not listed", false, "the venue does not list a trade that was booked",
             ""});
      } else if (!same_trade(mine, found->second)) {
        add(DiscrepancyKind::kFillDiffers, subject,
            {describe(mine), describe(found->second), false, "one trade id, two contents", ""});
      }
    }
  }

  // What the totals should be once the unbooked trades are booked.
  std::map<std::string, Decimal> expected_balances() const {
    std::map<std::string, Decimal> totals = believed_.balances;
    for (const auto& [key, fill] : unbooked_) {
      const std::optional<Instrument> known = instrument(fill.symbol);
      if (known) static_cast<void>(apply_to_balances(totals, fill, *known));
    }
    return totals;
  }

  void compare_balances() {
    const std::map<std::string, Decimal> expected = expected_balances();
    std::map<std::string, Decimal> actual;
    for (const venue::Balance& balance : snapshot_.balances)
      actual[balance.asset] = balance.total();
    std::set<std::string> assets;
    for (const auto& [asset, total] : believed_.balances) assets.insert(asset);
    for (const auto& [asset, total] : actual) assets.insert(asset);
    for (const auto& [asset, total] : expected) assets.insert(asset);
    for (const auto& [asset, total] : actual) {
      const Decimal before = value_of(believed_.balances, asset);
      if (total >= Decimal() || before < Decimal()) continue;
      add(DiscrepancyKind::kBalanceNegative, asset,
          {before.to_string(), total.to_string(), false, "the account owes, and did not before",
           ""});
    }
    for (const std::string& asset : assets) {
      const Decimal tolerance = asset_tolerance(asset);
      const Decimal mine = value_of(believed_.balances, asset);
      const Decimal theirs = value_of(actual, asset);
      const Decimal wanted = value_of(expected, asset);
      const Decimal off = saturating_sum(theirs, -wanted);
      if (off.abs() > tolerance) {
        // Where positions are stated, money moves by profit, fees and funding, which no trade
        // tells.
        const bool margin = snapshot_.positions.has_value();
        add(DiscrepancyKind::kBalanceDiffers, asset,
            {mine.to_string(), theirs.to_string(), margin,
             margin ? std::string("profit, fees and funding of positions that are compared")
                    : fmt::format("{} more than all known trades explain", off.to_string()),
             "take the venue's", margin ? std::string() : off.to_string()});
      } else if (saturating_sum(theirs, -mine).abs() > tolerance) {
        add(DiscrepancyKind::kBalanceDiffers, asset,
            {mine.to_string(), theirs.to_string(), true, "its trades add up to it",
             "book the trades"});
      }
    }
  }

  static Decimal value_of(const std::map<std::string, Decimal>& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? Decimal() : found->second;
  }

  using Amounts = std::map<std::string, Decimal>;

  // What the open orders of one symbol lock.
  struct SymbolLock {
    Decimal quote;
    Decimal base;
  };

  // Adds what an order of these terms would lock, where its symbol is known.
  void add_lock(Amounts& locks, const std::string& symbol, venue::Side side, Decimal quantity,
                Decimal price) const {
    const std::optional<Instrument> known = instrument(symbol);
    if (!known) return;
    const bool buy = side == venue::Side::kBuy;
    Decimal& locked = locks[buy ? known->quote_asset : known->base_asset];
    locked = saturating_sum(locked, buy ? saturating_product(quantity, price) : quantity);
  }

  // What is locked against what the open orders lock; more means that orders are hidden.
  void compare_locked() {
    if (snapshot_.positions) return;  // what is held there is margin, by the venue's own formula
    std::map<std::string, SymbolLock> by_symbol;
    auto at = by_symbol.end();
    Amounts possible;  // what the venue may hold, or not
    const auto add_order = [&](const venue::Order& order) {
      if (at == by_symbol.end() || at->first != order.symbol) {
        at = by_symbol.try_emplace(order.symbol).first;
      }
      const Decimal left = saturating_sum(order.quantity, -order.filled);
      const bool buy = order.side == venue::Side::kBuy;
      if (buy && order.market_at_trigger) {
        return add_lock(possible, order.symbol, order.side, left, order.price);
      }
      Decimal& locked = buy ? at->second.quote : at->second.base;
      locked = saturating_sum(locked, buy ? saturating_product(left, order.price) : left);
    };
    for (const venue::Order& order : snapshot_.open_orders) add_order(order);
    for (const auto& [id, order] : snapshot_.by_id) {
      if (order && !venue::is_terminal(order->status) && listed(id) == nullptr) add_order(*order);
    }
    Amounts wanted;
    for (const auto& [symbol, lock] : by_symbol) {
      const std::optional<Instrument> known = instrument(symbol);
      if (!known) return;  // a symbol that is not ours: nothing can be said
      for (const auto& [asset, amount] :
           {std::pair(known->quote_asset, lock.quote), std::pair(known->base_asset, lock.base)}) {
        wanted[asset] = saturating_sum(wanted[asset], amount);
      }
    }
    for (const venue::Order* order : hidden_) {
      add_lock(possible, order->symbol, order->side,
               saturating_sum(order->quantity, -order->filled), order->price);
    }
    // By intents that may be open and not visible yet.
    for (const auto& [id, intent] : believed_.intents) {
      if (!is_unresolved(intent.state) || shown(id)) continue;
      add_lock(possible, intent.symbol, intent.side, intent.quantity, intent.reference_price);
    }
    for (const venue::Balance& balance : snapshot_.balances) {
      const Decimal listed = value_of(wanted, balance.asset);
      const Decimal off = saturating_sum(balance.locked, -listed);
      const Decimal tolerance = asset_tolerance(balance.asset);
      if (off.abs() <= tolerance) continue;
      add_locked_difference(balance, listed, off,
                            saturating_sum(value_of(possible, balance.asset), tolerance));
    }
  }

  void add_locked_difference(const venue::Balance& balance, Decimal listed, Decimal off,
                             Decimal possible) {
    std::string explanation = "the list and the account were read at different moments";
    const bool more = off > Decimal() && snapshot_.stable;
    const bool hidden = more && off > possible;
    if (more) {
      explanation =
          "an unresolved intent may be open and not visible yet, or a stop order holds money";
    }
    if (hidden) {
      explanation = "an open order may be hidden from the list (conditional, or another symbol's)";
    }
    add(DiscrepancyKind::kLockedDiffers, balance.asset,
        {listed.to_string(), balance.locked.to_string(), !hidden, std::move(explanation), ""});
  }

  // The venue states positions itself: they are compared, and balances are only money there.
  void compare_stated_positions() {
    std::map<std::string, Decimal> stated;
    for (const venue::PositionReport& report : *snapshot_.positions) {
      stated[report.symbol] = saturating_sum(stated[report.symbol], report.quantity);
    }
    for (const auto& [symbol, quantity] : stated) {
      if (believed_.instruments.contains(symbol) || quantity.is_zero()) continue;
      add(DiscrepancyKind::kPositionUnknownAtLedger, symbol,
          {"unknown", quantity.to_string(), false, "nobody here trades this symbol", ""});
    }
    for (const auto& [symbol, position] : believed_.positions) {
      const auto known = believed_.instruments.find(symbol);
      if (known == believed_.instruments.end() || !covers(symbol)) continue;
      compare_stated_position(position, known->second, value_of(stated, symbol),
                              stated.contains(symbol));
    }
  }

  void compare_stated_position(const Position& mine, const Instrument& known, Decimal theirs,
                               bool is_stated) {
    const Decimal wanted = quantity_after_trades(mine, known);
    if (wanted.abs() > tolerance_.for_lot(known.lot, mine.symbol) && !is_stated) {
      add(DiscrepancyKind::kPositionMissingAtVenue, mine.symbol,
          {mine.quantity.to_string(), "none", false, "the venue states no position", ""});
      return;
    }
    const bool opposite =
        (wanted > Decimal() && theirs < Decimal()) || (wanted < Decimal() && theirs > Decimal());
    if (opposite) {
      add(DiscrepancyKind::kPositionSideDiffers, mine.symbol,
          {mine.quantity.to_string(), theirs.to_string(), false,
           "long here and short there, or "
           "the other way round",
           ""});
      return;
    }
    compare_position(mine, known, theirs);
  }

  Decimal quantity_after_trades(const Position& mine, const Instrument& known) const {
    Position wanted = mine;
    for (const auto& [key, fill] : unbooked_) {
      if (fill.symbol != mine.symbol) continue;
      if (std::optional<Position> after = position_after(wanted, fill, known)) wanted = *after;
    }
    return wanted.quantity;
  }

  void compare_positions() {
    if (snapshot_.positions) return compare_stated_positions();
    std::map<std::string, int> base_users;
    std::set<std::string> quotes;
    for (const auto& [symbol, item] : believed_.instruments) {
      ++base_users[item.base_asset];
      quotes.insert(item.quote_asset);
    }
    std::map<std::string, Decimal> actual;
    for (const venue::Balance& balance : snapshot_.balances)
      actual[balance.asset] = balance.total();
    for (const auto& [symbol, position] : believed_.positions) {
      const auto known = believed_.instruments.find(symbol);
      if (known == believed_.instruments.end()) continue;
      const std::string& base = known->second.base_asset;
      // A shared asset says nothing about one symbol; its balance is compared as a whole.
      if (base_users[base] > 1 || quotes.contains(base)) continue;
      compare_position(position, known->second,
                       saturating_sum(value_of(actual, base), -position.baseline));
    }
  }

  void compare_position(const Position& mine, const Instrument& known, Decimal theirs) {
    const Decimal tolerance = tolerance_.for_lot(known.lot, mine.symbol);
    const Decimal off = saturating_sum(theirs, -quantity_after_trades(mine, known));
    if (off.abs() > tolerance) {
      add(DiscrepancyKind::kPositionDiffers, mine.symbol,
          {mine.quantity.to_string(), theirs.to_string(), false,
           fmt::format("{} more than all known trades explain", off.to_string()),
           "count the difference as holding that is not ours", off.to_string()});
    } else if (saturating_sum(theirs, -mine.quantity).abs() > tolerance) {
      add(DiscrepancyKind::kPositionDiffers, mine.symbol,
          {mine.quantity.to_string(), theirs.to_string(), true, "its trades add up to it",
           "book the trades"});
    }
  }

  const LedgerView believed_;
  const VenueSnapshot& snapshot_;
  const Tolerance& tolerance_;
  std::vector<Listed> open_;              // sorted by key
  std::deque<std::string> made_keys_;     // of orders without a client id; they stay where they are
  const std::string* covered_ = nullptr;  // the symbol that was covered last
  mutable std::map<std::string, Decimal, std::less<>> tolerances_;  // by symbol
  std::map<std::string, std::string> owners_;                       // order reference -> key
  std::map<std::string, venue::Fill> unbooked_;                     // by fill_key
  std::map<std::string, Decimal> new_by_order_;  // order reference -> unbooked quantity
  std::vector<const venue::Order*> hidden_;
  std::set<std::string> duplicates_;
  std::vector<Discrepancy> found_;
};

}  // namespace

std::string_view to_string(DiscrepancyKind kind) {
  return kKindNames[static_cast<std::size_t>(kind)];
}

wire::Json Discrepancy::to_json() const {
  return wire::Json::object({{"id", id},
                             {"kind", to_string(kind)},
                             {"subject", subject},
                             {"believed", believed},
                             {"venue", venue},
                             {"explained", explained},
                             {"explanation", explanation},
                             {"correction", correction}});
}

std::vector<Discrepancy> reconcile(const LedgerView& believed, const VenueSnapshot& snapshot,
                                   const Tolerance& tolerance) {
  return Comparison(believed, snapshot, tolerance).run();
}

namespace {

// Two venue orders for one intent: no movement brings that about.
bool is_duplicate(const Discrepancy& item) {
  return item.kind == DiscrepancyKind::kDuplicateOrder ||
         item.kind == DiscrepancyKind::kOrderIdDiffers;
}

}  // namespace

void explain_movements(std::vector<Discrepancy>& found, const std::vector<Discrepancy>& before) {
  std::set<std::pair<DiscrepancyKind, std::string_view>> stood;
  for (const Discrepancy& item : before) {
    if (!item.explained) stood.emplace(item.kind, item.subject);
  }
  for (Discrepancy& item : found) {
    if (item.explained || is_duplicate(item)) continue;
    if (stood.contains({item.kind, item.subject})) continue;
    item.explained = true;
    item.explanation = "in one of two readings only: the account moved while it was read";
  }
}

std::vector<AccountFinding> reconcile_accounts(
    const std::map<std::string, std::vector<Discrepancy>>& found) {
  std::vector<AccountFinding> all;
  for (const auto& [account, discrepancies] : found) {
    for (Discrepancy item : discrepancies) {
      item.id = "D-" + sha256_hex(account + "\n" + item.id).substr(0, kIdDigits);
      all.push_back({account, std::move(item)});
    }
  }
  return all;
}

ReconcileSummary summarize(const std::vector<Discrepancy>& discrepancies) {
  ReconcileSummary summary;
  summary.total = discrepancies.size();
  for (const Discrepancy& item : discrepancies) {
    const bool duplicate = is_duplicate(item);
    summary.duplicates += duplicate ? 1 : 0;
    summary.unexplained += !item.explained && !duplicate ? 1 : 0;
    summary.unresolved_intents += item.kind == DiscrepancyKind::kIntentUnresolved ? 1 : 0;
  }
  return summary;
}

}  // namespace defib::trading
