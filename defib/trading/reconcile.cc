// The pure part: comparing. Reading the venue and applying stand in venue_snapshot.cc and
// reconcile_apply.cc.

#include "defib/trading/reconcile.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"

namespace defib::trading {
namespace {

constexpr std::array<std::string_view, kDiscrepancyKinds> kKindNames = {
    "duplicate_order",        "order_unknown_at_ledger", "order_missing_at_venue",
    "intent_found",           "intent_unresolved",       "order_side_differs",
    "order_quantity_differs", "order_price_differs",     "order_filled_differs",
    "order_status_differs",   "order_id_differs",        "extra_fill",
    "fill_of_unknown_order",  "fill_at_ledger_only",     "fill_differs",
    "order_overfilled",       "balance_differs",         "locked_differs",
    "position_differs",       "instrument_differs"};

constexpr std::size_t kIdDigits = 12;

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

// One comparison: what is known, indexed, and what was found.
class Comparison {
 public:
  Comparison(const LedgerState& believed, const VenueSnapshot& snapshot, const Tolerance& tolerance)
      : believed_(believed), snapshot_(snapshot), tolerance_(tolerance) {}

  std::vector<Discrepancy> run() {
    index();
    compare_instruments();
    find_duplicates();
    compare_orders();
    compare_intents();
    find_unknown_orders();
    compare_fills();
    compare_balances();
    compare_locked();
    compare_positions();
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
  };

  void add(DiscrepancyKind kind, std::string subject, Difference difference) {
    Discrepancy discrepancy;
    const std::string content = fmt::format("{}\n{}\n{}\n{}", to_string(kind), subject,
                                            difference.believed, difference.venue);
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

  bool covers(const std::string& symbol) const {
    return std::find(snapshot_.symbols.begin(), snapshot_.symbols.end(), symbol) !=
           snapshot_.symbols.end();
  }

  bool is_booked(const venue::Fill& fill) const {
    if (believed_.recent_fills.contains(fill_key(fill.symbol, fill.trade_id))) return true;
    const auto cursor = believed_.cursors.find(fill.symbol);
    return cursor != believed_.cursors.end() && !trade_id_less(cursor->second, fill.trade_id);
  }

  void index() {
    for (const venue::Order& order : snapshot_.open_orders) {
      open_.emplace(key_of(order), order);
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
    for (const venue::Fill& fill : snapshot_.new_fills) {
      if (is_booked(fill)) continue;
      if (!unbooked_.emplace(fill_key(fill.symbol, fill.trade_id), fill).second) continue;
      const std::string reference = order_reference(fill.symbol, fill.venue_order_id);
      new_by_order_[reference] = saturating_sum(new_by_order_[reference], fill.quantity);
    }
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

  Decimal quantity_tolerance(const std::string& symbol) const {
    const std::optional<Instrument> known = instrument(symbol);
    return tolerance_.for_lot(known ? known->lot : Decimal());
  }

  Decimal asset_tolerance(const std::string& asset) const {
    Decimal lot;
    for (const auto& [symbol, item] : believed_.instruments) {
      if (item.base_asset == asset) lot = std::max(lot, item.lot);
    }
    return tolerance_.for_lot(lot);
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
    for (const venue::Order& order : snapshot_.open_orders) {
      if (!order.client_id.empty()) orders_of[order.client_id].insert(order.venue_id);
    }
    for (const auto& [id, order] : snapshot_.by_id) {
      if (order) orders_of[id].insert(order->venue_id);
    }
    for (const auto& [id, intent] : believed_.intents) {
      if (!intent.venue_order_id.empty()) orders_of[id].insert(intent.venue_order_id);
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
  std::optional<venue::Order> shown(const std::string& key) const {
    if (const auto found = open_.find(key); found != open_.end()) return found->second;
    if (const auto found = snapshot_.by_id.find(key); found != snapshot_.by_id.end()) {
      return found->second;
    }
    return std::nullopt;
  }

  void compare_orders() {
    for (const auto& [key, tracked] : believed_.orders) {
      if (!covers(tracked.order.symbol)) continue;
      const std::optional<venue::Order> there = shown(key);
      if (!there) {
        missing_order(key, tracked);
        continue;
      }
      const venue::Order& here = tracked.order;
      if (there->venue_id != here.venue_id) {
        add(DiscrepancyKind::kOrderIdDiffers, key,
            {here.venue_id, there->venue_id, false, "another order carries this id", ""});
        continue;
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
  }

  void missing_order(const std::string& key, const TrackedOrder& tracked) {
    const venue::Order& here = tracked.order;
    const std::string reference = order_reference(here.symbol, here.venue_id);
    const Decimal filled = saturating_sum(tracked.booked, new_of(reference));
    const bool complete = filled >= here.quantity;
    add(DiscrepancyKind::kOrderMissingAtVenue, key,
        {describe(here), "not known", complete || key.starts_with('#'),
         complete               ? "its trades fill it"
         : key.starts_with('#') ? "an order of somebody else, which ended"
                                : "the venue neither lists it nor knows its id",
         complete ? "book its trades" : "forget it"});
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
    if (quantity_off >= quantity_tolerance(here.symbol)) {
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
        saturating_sum(tracked.booked, new_of(order_reference(here.symbol, here.venue_id)));
    const bool explained = by_trades == there.filled;
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
      const std::optional<venue::Order> there = shown(id);
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

  void find_unknown_orders() {
    for (const auto& [key, order] : open_) {
      if (believed_.orders.contains(key) || believed_.intents.contains(order.client_id)) continue;
      // The list may lag behind an end that the venue itself tells by id.
      const auto by_id = snapshot_.by_id.find(order.client_id);
      if (by_id != snapshot_.by_id.end() && by_id->second &&
          venue::is_terminal(by_id->second->status)) {
        continue;
      }
      add(DiscrepancyKind::kOrderUnknownAtLedger, key,
          {"unknown", describe(order), false, "no intent of this ledger placed it",
           "take it over as an order of somebody else"});
    }
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
    for (const std::string& asset : assets) {
      const Decimal tolerance = asset_tolerance(asset);
      const Decimal mine = value_of(believed_.balances, asset);
      const Decimal theirs = value_of(actual, asset);
      const Decimal wanted = value_of(expected, asset);
      const Decimal off = saturating_sum(theirs, -wanted);
      if (off.abs() > tolerance) {
        add(DiscrepancyKind::kBalanceDiffers, asset,
            {mine.to_string(), theirs.to_string(), false,
             fmt::format("{} more than all known trades explain", off.to_string()),
             "take the venue's"});
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

  // Adds what an order of these terms locks; false where its symbol is not known.
  bool add_lock(Amounts& locks, const std::string& symbol, venue::Side side, Decimal quantity,
                Decimal price) const {
    const std::optional<Instrument> known = instrument(symbol);
    if (!known) return false;
    const bool buy = side == venue::Side::kBuy;
    Decimal& locked = locks[buy ? known->quote_asset : known->base_asset];
    locked = saturating_sum(locked, buy ? saturating_product(quantity, price) : quantity);
    return true;
  }

  // What is locked against what the open orders lock; more means that orders are hidden.
  void compare_locked() {
    Amounts wanted;
    const auto add_order = [&](const venue::Order& order) {
      const Decimal left = saturating_sum(order.quantity, -order.filled);
      return add_lock(wanted, order.symbol, order.side, left, order.price);
    };
    for (const venue::Order& order : snapshot_.open_orders) {
      if (!add_order(order)) return;  // of a symbol that is not ours: nothing can be said
    }
    for (const auto& [id, order] : snapshot_.by_id) {
      if (order && !venue::is_terminal(order->status) && !open_.contains(id)) add_order(*order);
    }
    Amounts possible;  // by intents that may be open and not visible yet
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
    if (more) explanation = "an unresolved intent may be open and not visible yet";
    if (hidden) {
      explanation = "an open order may be hidden from the list (conditional, or another symbol's)";
    }
    add(DiscrepancyKind::kLockedDiffers, balance.asset,
        {listed.to_string(), balance.locked.to_string(), !hidden, std::move(explanation), ""});
  }

  void compare_positions() {
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
    Position wanted = mine;
    for (const auto& [key, fill] : unbooked_) {
      if (fill.symbol != mine.symbol) continue;
      if (std::optional<Position> after = position_after(wanted, fill, known)) wanted = *after;
    }
    const Decimal tolerance = tolerance_.for_lot(known.lot);
    const Decimal off = saturating_sum(theirs, -wanted.quantity);
    if (off.abs() > tolerance) {
      add(DiscrepancyKind::kPositionDiffers, mine.symbol,
          {mine.quantity.to_string(), theirs.to_string(), false,
           fmt::format("{} more than all known trades explain", off.to_string()),
           "count the difference as holding that is not ours"});
    } else if (saturating_sum(theirs, -mine.quantity).abs() > tolerance) {
      add(DiscrepancyKind::kPositionDiffers, mine.symbol,
          {mine.quantity.to_string(), theirs.to_string(), true, "its trades add up to it",
           "book the trades"});
    }
  }

  const LedgerState& believed_;
  const VenueSnapshot& snapshot_;
  const Tolerance& tolerance_;
  std::map<std::string, venue::Order> open_;     // by key
  std::map<std::string, std::string> owners_;    // order reference -> key
  std::map<std::string, venue::Fill> unbooked_;  // by fill_key
  std::map<std::string, Decimal> new_by_order_;  // order reference -> unbooked quantity
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

std::vector<Discrepancy> reconcile(const LedgerState& believed, const VenueSnapshot& snapshot,
                                   const Tolerance& tolerance) {
  return Comparison(believed, snapshot, tolerance).run();
}

ReconcileSummary summarize(const std::vector<Discrepancy>& discrepancies) {
  ReconcileSummary summary;
  summary.total = discrepancies.size();
  for (const Discrepancy& item : discrepancies) {
    const bool duplicate = item.kind == DiscrepancyKind::kDuplicateOrder ||
                           item.kind == DiscrepancyKind::kOrderIdDiffers;
    summary.duplicates += duplicate ? 1 : 0;
    summary.unexplained += !item.explained && !duplicate ? 1 : 0;
    summary.unresolved_intents += item.kind == DiscrepancyKind::kIntentUnresolved ? 1 : 0;
  }
  return summary;
}

}  // namespace defib::trading
