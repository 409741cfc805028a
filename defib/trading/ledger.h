// Ledger: what the engine believes: positions, balances, open orders, and how far it has read the
// venue's fills. All of it stands in store tables; memory holds a copy of the small parts.
//
// Invariants:
//   - a fill is applied exactly once: its record, the cursor of its symbol, the position, the
//     balances, its order and its intent change in one transaction;
//   - position.quantity is the sum of the applied fills (fees in the base asset included) since
//     the baseline; base-asset holding at the venue = baseline + quantity (spot);
//   - a cursor stands behind fills that are older than the venue's visibility lag, and reading
//     starts there: a fill that becomes visible out of order is not skipped;
//   - memory changes only after the transaction has been committed.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/store/store.h"
#include "defib/trading/ids.h"
#include "defib/trading/intents.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::trading {

// What the ledger must know of a symbol to book a fill.
struct Instrument {
  std::string symbol;
  std::string base_asset;
  std::string quote_asset;
  Decimal tick;
  Decimal lot;
  friend bool operator==(const Instrument&, const Instrument&) = default;
};

struct Position {
  std::string symbol;
  Decimal quantity;             // signed
  Decimal cost;                 // of what is held, at average price, in quote; signed like quantity
  Decimal realized;             // profit of what was closed, before fees in other assets
  Decimal baseline;             // base-asset holding that was there before the ledger began
  std::int64_t updated_ms = 0;  // venue's clock, of the last fill
  // Zero where flat.
  Decimal average_price() const;
  friend bool operator==(const Position&, const Position&) = default;
};

// An order that is open at the venue as far as the ledger knows. Keyed by its client id.
struct TrackedOrder {
  venue::Order order;     // `filled` is the greater of what the venue said and what was booked
  bool external = false;  // placed by somebody else: no intent of ours stands behind it
  std::string strategy;
  Decimal booked;           // sum of its fills that were applied
  std::string key() const;  // the client id, or "#" + venue id where there is none
};

// What is known of a venue's order id, also when the order has ended.
struct VenueOrderRecord {
  std::string client_id;  // empty: nobody here knows whose order it is
  Decimal booked;         // sum of its applied fills
};

// The position after `fill`, by average cost; pure. nullopt where an amount leaves the range.
std::optional<Position> position_after(Position position, const venue::Fill& fill,
                                       const Instrument& instrument);
// The totals by asset after `fill`; pure. False, and nothing changed, where an amount leaves the
// range.
bool apply_to_balances(std::map<std::string, Decimal>& totals, const venue::Fill& fill,
                       const Instrument& instrument);
// A key that sorts trade ids by their number.
std::string fill_key(std::string_view symbol, std::string_view trade_id);
// Venues number their orders by symbol.
std::string order_reference(std::string_view symbol, std::string_view venue_order_id);
// a < b by number where both are numbers, else by text.
bool trade_id_less(std::string_view a, std::string_view b);

// Everything, as a copy: for reading beside the engine.
struct LedgerState {
  bool initialized = false;  // a baseline was taken from the venue
  std::map<std::string, Instrument> instruments;
  std::map<std::string, Position> positions;
  std::map<std::string, Decimal> balances;          // totals by asset
  std::map<std::string, TrackedOrder> orders;       // open ones, by key
  std::map<std::string, std::string> cursors;       // symbol -> trade id; all up to it is settled
  std::map<std::string, venue::Fill> recent_fills;  // booked behind the cursors, by fill_key
  std::map<std::string, Intent> intents;            // not terminal, by id
  // All fills older than this are booked, or of before the baseline; venue's clock, ms.
  std::map<std::string, std::int64_t> since;
};
// Everything, where it lies: for reconciliation, gates and checkpoints. Good until the ledger
// changes.
struct LedgerView {
  LedgerView(const LedgerState& state)  // NOLINT(google-explicit-constructor): it is one
      : LedgerView{state.initialized,  state.instruments, state.positions,
                   state.balances,     state.orders,      state.cursors,
                   state.recent_fills, state.intents,     state.since} {}
  LedgerView(bool is_initialized, const std::map<std::string, Instrument>& its_instruments,
             const std::map<std::string, Position>& its_positions,
             const std::map<std::string, Decimal>& its_balances,
             const std::map<std::string, TrackedOrder>& its_orders,
             const std::map<std::string, std::string>& its_cursors,
             const std::map<std::string, venue::Fill>& its_recent_fills,
             const std::map<std::string, Intent>& its_intents,
             const std::map<std::string, std::int64_t>& its_since)
      : initialized(is_initialized),
        instruments(its_instruments),
        positions(its_positions),
        balances(its_balances),
        orders(its_orders),
        cursors(its_cursors),
        recent_fills(its_recent_fills),
        intents(its_intents),
        since(its_since) {}

  // Where the reading of their fills goes on.
  std::map<std::string, venue::FillsFrom> fills_from(const std::vector<std::string>& symbols) const;

  bool initialized;
  const std::map<std::string, Instrument>& instruments;
  const std::map<std::string, Position>& positions;
  const std::map<std::string, Decimal>& balances;
  const std::map<std::string, TrackedOrder>& orders;
  const std::map<std::string, std::string>& cursors;
  const std::map<std::string, venue::Fill>& recent_fills;
  const std::map<std::string, Intent>& intents;
  const std::map<std::string, std::int64_t>& since;
};
Result<LedgerState> read_ledger_state(const store::Snapshot& snapshot);
// The findings that no person has accepted yet, by id.
Result<std::map<std::string, wire::Json>> read_open_findings(const store::Snapshot& snapshot);

class Ledger;

// One atomic change of ledger and intents. Collects in memory; commit() writes one transaction.
class LedgerUpdate {
 public:
  explicit LedgerUpdate(Ledger& ledger) : ledger_(&ledger) {}

  // Books the fill unless it was booked before (false then). NotFound where the symbol has no
  // instrument; VenueBadAnswer where its amounts are impossible.
  Result<bool> apply_fill(const venue::Fill& fill);
  // Moves the cursor forward, never back: all trades up to this one are settled.
  void set_cursor(const std::string& symbol, const std::string& trade_id);
  // A reading told all fills of the symbol that are older than this: none of them is asked for
  // again. Written once a minute only.
  void settle_before(const std::string& symbol, std::int64_t venue_ms);
  // An order as the venue shows it: kept while open, forgotten when terminal. Moves its intent.
  // A reading that is older than what is known never brings an ended order back. DuplicateOrder
  // where another venue order carries the same client id.
  Result<> set_order(const venue::Order& order, std::string_view why, bool external = false);
  void forget_order(const std::string& key);
  void set_intent(Intent intent);
  void set_instrument(Instrument instrument);
  void set_position(Position position);
  void set_balance(const std::string& asset, Decimal total);
  void mark_initialized() { initialize_ = true; }
  // A line of the journal of corrections, written with the change that it explains.
  void journal(wire::Json line);
  // Something that nothing explains was corrected all the same, because not counting it would be
  // worse: it stays open, and holds the gate, until a person has accepted it.
  void open_finding(const std::string& id, wire::Json finding);
  void close_finding(const std::string& id);

  bool empty() const;
  // As it will be after the commit.
  Position position(const std::string& symbol) const;
  // Nothing of it is there after an error.
  Result<> commit(std::int64_t wall_ns);
  Result<> commit(std::int64_t wall_ns, store::Durability durability);

 private:
  friend class Ledger;
  std::optional<TrackedOrder> tracked(const std::string& key) const;
  Result<std::optional<Intent>> intent(const std::string& id) const;
  Result<VenueOrderRecord> venue_order(const std::string& reference) const;
  void set_since(const std::string& symbol, std::int64_t venue_ms) { since_[symbol] = venue_ms; }
  Result<> write(store::Transaction& transaction) const;
  Result<> book_against_order(const venue::Fill& fill, const VenueOrderRecord& record);
  Result<> move_intent(Intent intent, const venue::Order& order, std::string_view why);

  Ledger* ledger_;
  std::map<std::string, venue::Fill> fills_;  // by fill_key
  std::map<std::string, std::string> cursors_;
  std::map<std::string, std::int64_t> since_;
  std::map<std::string, std::optional<TrackedOrder>> orders_;
  std::map<std::string, VenueOrderRecord> venue_orders_;  // by order_reference
  std::map<std::string, Intent> intents_;
  std::map<std::string, Instrument> instruments_;
  std::map<std::string, Position> positions_;
  std::map<std::string, Decimal> balances_;
  std::map<std::string, std::optional<wire::Json>> findings_;
  std::vector<wire::Json> journal_;
  std::string checkpoint_;  // the first; empty: none
  bool initialize_ = false;
};

class Ledger {
 public:
  static Result<std::unique_ptr<Ledger>> open(store::Store& store, IntentLog& intents);

  // Takes instruments, balances and baselines from the venue where the ledger is new, writes its
  // first checkpoint (a kill before another would leave a ledger that nothing confirms), and moves
  // the fill cursors to the venue's present, so that only what happens from now on is booked; open
  // orders are taken over as external. Fills and balances are read until two readings agree
  // (Unavailable where they never do). Symbols that were added since get their baseline the same
  // way; otherwise there is no effect.
  Result<> initialize(venue::Venue& venue, const std::vector<std::string>& symbols,
                      std::int64_t wall_ns);
  // Reads and books the fills of these symbols behind their cursors; how many were new. Where one
  // history tells of all symbols, those of all are booked, and what is older than `venue_ms`, a
  // time of the venue's clock that was read before (0: none is known), is settled.
  Result<int> sync_fills(venue::Venue& venue, const std::vector<std::string>& symbols,
                         std::int64_t wall_ns, std::int64_t venue_ms = 0);
  Result<int> sync_fills(venue::Venue& venue, const std::string& symbol, std::int64_t wall_ns,
                         std::int64_t venue_ms = 0);

  LedgerState state() const;
  LedgerView view() const;
  bool initialized() const { return initialized_; }
  const std::map<std::string, Position>& positions() const { return positions_; }
  const std::map<std::string, Decimal>& balances() const { return balances_; }
  const std::map<std::string, TrackedOrder>& orders() const { return orders_; }
  const std::map<std::string, Instrument>& instruments() const { return instruments_; }
  // Empty where no trade is settled yet.
  std::string cursor(const std::string& symbol) const;
  // Was this trade booked, or is it older than the ledger?
  bool has_fill(const std::string& symbol, const std::string& trade_id) const;
  // Empty where nothing is known of it.
  Result<VenueOrderRecord> venue_order(const std::string& reference) const;
  // Booked trades, newest last, of orders that nobody here knows; the last few hundred at most.
  const std::deque<venue::Fill>& fills_of_unknown_orders() const { return unknown_fills_; }
  // The client id behind a venue's order id, also of orders that have ended; empty if unknown.
  Result<std::string> client_id_of(const std::string& symbol,
                                   const std::string& venue_order_id) const;
  IntentLog& intents() const { return *intents_; }
  store::Store& store() const { return *store_; }

 private:
  friend class LedgerUpdate;
  // All of one symbol, oldest first.
  Result<int> book(const std::string& symbol, const std::vector<venue::Fill>& fills,
                   std::int64_t lag_ms, std::int64_t wall_ns);
  Result<> load_unknown_fills(const store::Snapshot& snapshot);
  void remember_fills(const LedgerUpdate& update);
  Ledger(store::Store& store, IntentLog& intents) : store_(&store), intents_(&intents) {}
  store::Store* store_;
  IntentLog* intents_;
  bool initialized_ = false;
  std::uint64_t journal_next_ = 1;
  std::map<std::string, Instrument> instruments_;
  std::map<std::string, Position> positions_;
  std::map<std::string, Decimal> balances_;
  std::map<std::string, TrackedOrder> orders_;
  std::map<std::string, std::string> cursors_;
  std::map<std::string, std::int64_t> since_;
  std::map<std::string, venue::Fill> recent_fills_;
  std::deque<venue::Fill> unknown_fills_;
};

// A reading that begins when the venue's clock tells `venue_ms` shows all fills older than this.
std::int64_t shown_before(const venue::Venue& venue, std::int64_t venue_ms);
// The last trade of the leading part of `fills` (of one symbol, oldest first) that is older than
// the newest by more than `lag_ms`; empty where there is none.
std::string settled_trade(const std::vector<venue::Fill>& fills, std::int64_t lag_ms);

// Amounts in several quote currencies as one. A rate is the price of one unit of the asset in
// `currency`; the currency itself is 1. Without a currency the amounts are added as they are.
struct Valuation {
  std::string currency;
  std::map<std::string, Decimal> rates;
  // nullopt: no rate is known.
  std::optional<Decimal> rate(const std::string& asset) const;
};

// Exposure: |position x mark| + open remainders + unresolved intents in full.
struct Exposure {
  Decimal positions;
  Decimal open_orders;
  Decimal unknown;
  // Quote assets of which no rate is known: their amounts count as they are, and the gate asks.
  // Also symbols with an open order that has neither a price nor a mark.
  std::set<std::string> unpriced;
  Decimal total() const;  // saturates
  wire::Json to_json() const;
};
// A position without a mark counts at its average price. An intent whose order is tracked counts
// once, as the order.
Exposure exposure_of(const LedgerView& state, const std::map<std::string, Decimal>& marks,
                     const Valuation& valuation = {});
Exposure exposure_of(const std::map<std::string, Position>& positions,
                     const std::map<std::string, TrackedOrder>& orders,
                     const std::map<std::string, Intent>& intents,
                     const std::map<std::string, Decimal>& marks,
                     const std::map<std::string, Instrument>& instruments = {},
                     const Valuation& valuation = {});

}  // namespace defib::trading
