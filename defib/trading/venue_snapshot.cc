// Reading the venue so that fills, orders and balances belong together.

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "defib/trading/codec.h"
#include "defib/trading/reconcile.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

class Reading {
 public:
  Reading(venue::Venue& venue, const LedgerView& believed, const SnapshotOptions& options,
          VenueSnapshot& snapshot)
      : venue_(venue), believed_(believed), options_(options), snapshot_(snapshot) {}

  // True where no trade came in while the rest was read.
  Result<bool> once() {
    DEFIB_TRY_ASSIGN([[maybe_unused]] const bool before, read_fills());
    snapshot_.open_orders = {};  // before the new ones, not beside them
    DEFIB_TRY_ASSIGN(snapshot_.open_orders, venue_.open_orders_of(options_.symbols));
    DEFIB_TRY(read_by_id());
    DEFIB_TRY_ASSIGN(snapshot_.balances, venue_.balances());
    if (venue_.has_positions()) {
      DEFIB_TRY_ASSIGN(snapshot_.positions, venue_.positions());
    }
    DEFIB_TRY_ASSIGN(const bool moved, read_fills());
    return !moved;
  }

 private:
  // Everything behind the ledger's cursor each time, since trades may become visible late and out
  // of order. True where there were new ones.
  Result<bool> read_fills() {
    DEFIB_TRY_ASSIGN(std::vector<venue::Fill> all,
                     venue_.fills_of(believed_.fills_from(options_.symbols)));
    const bool moved = all.size() != snapshot_.new_fills.size();
    snapshot_.new_fills = std::move(all);
    return moved;
  }

  // By id: what is believed open and not listed, what is unresolved, and what is listed under an id
  // of our own form without being believed.
  Result<> read_by_id() {
    snapshot_.by_id.clear();
    std::map<std::string, std::string> wanted;  // id -> symbol
    std::vector<std::string_view> listed;
    listed.reserve(snapshot_.open_orders.size());
    for (const venue::Order& order : snapshot_.open_orders) {
      listed.push_back(order.client_id);
      const bool known =
          believed_.orders.contains(order.client_id) || believed_.intents.contains(order.client_id);
      if (!known && parse_client_id(order.client_id)) wanted[order.client_id] = order.symbol;
    }
    std::ranges::sort(listed);
    for (const auto& [key, tracked] : believed_.orders) {
      const std::string& id = tracked.order.client_id;
      if (!id.empty() && !std::ranges::binary_search(listed, id)) wanted[id] = tracked.order.symbol;
    }
    for (const auto& [id, intent] : believed_.intents) {
      if (is_unresolved(intent.state)) wanted[id] = intent.symbol;
    }
    for (const auto& [id, symbol] : wanted) {
      Result<venue::Order> order = venue_.order(symbol, id);
      if (order) {
        snapshot_.by_id[id] = std::move(*order);
      } else if (order.error().code() == Code::kOrderNotFound) {
        snapshot_.by_id[id] = std::nullopt;
      } else {
        return order.error();
      }
    }
    return {};
  }

  venue::Venue& venue_;
  const LedgerView believed_;
  const SnapshotOptions& options_;
  VenueSnapshot& snapshot_;
};

}  // namespace

Result<VenueSnapshot> read_venue(venue::Venue& venue, const LedgerView& believed,
                                 const store::Snapshot& ledger, const SnapshotOptions& options) {
  VenueSnapshot snapshot;
  snapshot.symbols = options.symbols;
  snapshot.visibility_lag_ms = venue.visibility_lag_ms();
  DEFIB_TRY_ASSIGN(snapshot.rules, venue.rules());
  // Before the lists: what was shown by then is settled once it is booked.
  if (!venue.rebuild_model().filtered) {
    DEFIB_TRY_ASSIGN(const std::int64_t venue_ms, venue.server_time_ms());
    snapshot.settled_ms = shown_before(venue, venue_ms);
  }
  Reading reading(venue, believed, options, snapshot);
  while (snapshot.readings < options.max_readings && !snapshot.stable) {
    ++snapshot.readings;
    DEFIB_TRY_ASSIGN(snapshot.stable, reading.once());
  }
  DEFIB_TRY_ASSIGN(snapshot.server_ms, venue.server_time_ms());
  for (const venue::Fill& fill : snapshot.new_fills) {
    const std::string reference = order_reference(fill.symbol, fill.venue_order_id);
    DEFIB_TRY_ASSIGN(const std::optional<std::string> record, ledger.get(kVenueIdTable, reference));
    if (!record) continue;
    DEFIB_TRY_ASSIGN(VenueOrderRecord order, decode_venue_order(reference, *record));
    snapshot.fill_owners[reference] = std::move(order.client_id);
  }
  return snapshot;
}

}  // namespace defib::trading
