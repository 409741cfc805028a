// Applying: the ledger follows the snapshot, in one transaction, and every correction leaves a line
// in the journal that says why.

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

#include "defib/trading/amounts.h"
#include "defib/trading/reconcile.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

class Application {
 public:
  Application(Ledger& ledger, const VenueSnapshot& snapshot,
              const std::vector<Discrepancy>& discrepancies, const ApplyOptions& options,
              std::int64_t wall_ns)
      : ledger_(ledger),
        snapshot_(snapshot),
        discrepancies_(discrepancies),
        options_(options),
        wall_ns_(wall_ns),
        update_(ledger) {}

  Result<int> run() {
    // Orders first, so that the trades find their owners.
    for (const Discrepancy& item : discrepancies_) DEFIB_TRY(apply_order(item));
    DEFIB_TRY(book_fills());
    for (const Discrepancy& item : discrepancies_) DEFIB_TRY(apply_rest(item));
    for (const Discrepancy& item : discrepancies_) note(item);
    DEFIB_TRY(update_.commit(wall_ns_, store::Durability::kPower));
    return corrections_;
  }

 private:
  std::optional<venue::Order> shown(const std::string& key) const {
    for (const venue::Order& order : snapshot_.open_orders) {
      TrackedOrder tracked;
      tracked.order = order;
      if (tracked.key() == key) return order;
    }
    const auto found = snapshot_.by_id.find(key);
    return found == snapshot_.by_id.end() ? std::nullopt : found->second;
  }

  bool allowed(const Discrepancy& item) const { return item.explained || options_.unexplained; }

  Result<> apply_order(const Discrepancy& item) {
    switch (item.kind) {
      case DiscrepancyKind::kOrderMissingAtVenue:
      case DiscrepancyKind::kIntentFound:
      case DiscrepancyKind::kOrderFilledDiffers:
      case DiscrepancyKind::kOrderStatusDiffers:
      case DiscrepancyKind::kOrderQuantityDiffers:
      case DiscrepancyKind::kOrderPriceDiffers:
      case DiscrepancyKind::kOrderSideDiffers:
        if (!allowed(item)) return {};
        return follow_order(item);
      case DiscrepancyKind::kOrderUnknownAtLedger:
        // Taken over in any case: an order that rests at the venue is exposure, whoever placed it.
        return follow_order(item);
      default:
        return {};
    }
  }

  Result<> follow_order(const Discrepancy& item) {
    if (const std::optional<venue::Order> order = shown(item.subject)) {
      done(item);
      if (!followed_.insert(item.subject).second) return {};
      const auto before = ledger_.orders().find(item.subject);
      const bool external = item.kind == DiscrepancyKind::kOrderUnknownAtLedger ||
                            (before != ledger_.orders().end() && before->second.external);
      return update_.set_order(*order, options_.reason, external);
    }
    // One that may only be hidden stays as it is.
    if (item.kind != DiscrepancyKind::kOrderMissingAtVenue || item.correction.empty()) return {};
    if (item.correction == "forget it") forgotten_.insert(item.subject);
    done(item);
    return {};
  }

  // Trades at the venue are settled facts and are always booked.
  Result<> book_fills() {
    std::map<std::string, std::vector<venue::Fill>> by_symbol;
    for (const venue::Fill& fill : snapshot_.new_fills) {
      DEFIB_TRY_ASSIGN([[maybe_unused]] const bool was_new, update_.apply_fill(fill));
      by_symbol[fill.symbol].push_back(fill);
    }
    for (const auto& [symbol, fills] : by_symbol) {
      const std::string settled = settled_trade(fills, snapshot_.visibility_lag_ms);
      if (!settled.empty()) update_.set_cursor(symbol, settled);
    }
    for (const std::string& symbol : snapshot_.symbols) {
      if (snapshot_.settled_ms > 0) update_.settle_before(symbol, snapshot_.settled_ms);
    }
    for (const std::string& key : forgotten_) DEFIB_TRY(forget(key));
    return {};
  }

  // The venue knows nothing of an order that was believed open; its intent ends with what is
  // booked.
  Result<> forget(const std::string& key) {
    update_.forget_order(key);
    const Intent* intent = ledger_.intents().find(key);
    if (!intent) return {};
    DEFIB_TRY_ASSIGN(Intent next, ledger_.intents().advanced(key, IntentEvent::kExpired,
                                                             options_.reason, wall_ns_));
    update_.set_intent(std::move(next));
    return {};
  }

  Result<> apply_rest(const Discrepancy& item) {
    if (item.kind == DiscrepancyKind::kInstrumentDiffers) {
      for (const venue::SymbolRules& rules : snapshot_.rules) {
        if (rules.symbol != item.subject) continue;
        update_.set_instrument(
            {rules.symbol, rules.base_asset, rules.quote_asset, rules.tick, rules.lot});
        done(item);
      }
      return {};
    }
    if (item.kind == DiscrepancyKind::kBalanceDiffers && item.explained && snapshot_.positions) {
      update_.set_balance(item.subject, venue_total(item.subject));
      done(item);
      return {};
    }
    if (item.kind == DiscrepancyKind::kExtraFill ||
        item.kind == DiscrepancyKind::kFillOfUnknownOrder ||
        (item.explained && (item.kind == DiscrepancyKind::kBalanceDiffers ||
                            item.kind == DiscrepancyKind::kPositionDiffers))) {
      done(item);  // by booking the trades
      return {};
    }
    if (!options_.unexplained) return {};
    if (item.kind == DiscrepancyKind::kBalanceDiffers) {
      update_.set_balance(item.subject, venue_total(item.subject));
      done(item);
    } else if (item.kind == DiscrepancyKind::kPositionDiffers) {
      DEFIB_TRY(move_baseline(item.subject));
      done(item);
    }
    return {};
  }

  Decimal venue_total(const std::string& asset) const {
    for (const venue::Balance& balance : snapshot_.balances) {
      if (balance.asset == asset) return balance.total();
    }
    return {};
  }

  // What no trade explains came from outside (a deposit, another program): it is holding, and no
  // position of this engine.
  Result<> move_baseline(const std::string& symbol) {
    const auto known = ledger_.instruments().find(symbol);
    if (known == ledger_.instruments().end()) return {};
    Position position = update_.position(symbol);
    position.baseline = saturating_sum(venue_total(known->second.base_asset), -position.quantity);
    update_.set_position(std::move(position));
    return {};
  }

  void done(const Discrepancy& item) { done_.insert(item.id); }

  void note(const Discrepancy& item) {
    if (!done_.contains(item.id)) return;
    ++corrections_;
    wire::Json line = item.to_json();
    line.set("at", os::format_time(wall_ns_));
    line.set("reason", options_.reason);
    line.set("by", options_.by);
    // Corrected without an explanation and without a person: the gate stays held by it.
    if (!item.explained && !options_.unexplained) update_.open_finding(item.id, line);
    update_.journal(std::move(line));
  }

  Ledger& ledger_;
  const VenueSnapshot& snapshot_;
  const std::vector<Discrepancy>& discrepancies_;
  const ApplyOptions& options_;
  std::int64_t wall_ns_;
  LedgerUpdate update_;
  std::set<std::string> done_;
  std::set<std::string> followed_;
  std::set<std::string> forgotten_;
  int corrections_ = 0;
};

}  // namespace

Result<int> apply_reconciliation(Ledger& ledger, const VenueSnapshot& snapshot,
                                 const std::vector<Discrepancy>& discrepancies,
                                 const ApplyOptions& options, std::int64_t wall_ns) {
  if (options.reason.empty() || options.by.empty()) {
    return Error(Code::kInvalidArgument, "a correction needs a reason and somebody who makes it");
  }
  for (const Discrepancy& item : discrepancies) {
    if (item.kind != DiscrepancyKind::kDuplicateOrder &&
        item.kind != DiscrepancyKind::kOrderIdDiffers) {
      continue;
    }
    return Error(Code::kDuplicateOrder, fmt::format("nothing is corrected: {} has {} at the venue",
                                                    item.subject, item.venue))
        .with("client_id", item.subject)
        .with("discrepancy", item.id);
  }
  return Application(ledger, snapshot, discrepancies, options, wall_ns).run();
}

Result<std::vector<wire::Json>> read_journal(const store::Snapshot& snapshot, std::size_t limit) {
  std::vector<wire::Json> lines;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kJournalTable));
  for (bool found = cursor->last(); found && lines.size() < limit; found = cursor->prev()) {
    DEFIB_TRY_ASSIGN(wire::Json line, wire::Json::parse(cursor->value()));
    lines.push_back(std::move(line));
  }
  std::reverse(lines.begin(), lines.end());
  return lines;
}

}  // namespace defib::trading
