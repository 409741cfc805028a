// Reconciler: what the ledger believes against what the venue shows.
//
// reconcile() is pure: no time, no threads, no I/O; equal inputs give equal discrepancies with
// equal ids in equal order. Each discrepancy says whether known fills and intents explain it; what
// is not explained needs a human. Applying is a separate, journaled step with a reason, and after
// it a second reconcile() of the same snapshot finds only what cannot be corrected from here
// (duplicate orders, intents before their fence).
//
// The venue is the source of truth for settled facts: fills and balances. Its open list may lag;
// that is why an order missing from it is judged by its own by-id answer and by its fills.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/store/store.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::trading {

struct VenueSnapshot {
  std::int64_t server_ms = 0;
  bool stable = false;  // two readings of fills and balances agreed
  std::vector<venue::SymbolRules> rules;
  std::vector<venue::Order> open_orders;
  // The venue's by-id answer for every believed order that is not in the open list, and for every
  // unresolved intent; none: it does not know the id.
  std::map<std::string, std::optional<venue::Order>> by_id;
  // Whose the trades below are, by order_reference, as far as the ledger ever knew.
  std::map<std::string, std::string> fill_owners;
  std::vector<std::string> symbols;  // that were read; nothing is said about others
  std::int64_t visibility_lag_ms = 0;
  // Where one history tells of all symbols: all fills older than this were shown; else 0.
  std::int64_t settled_ms = 0;
  std::vector<venue::Fill> new_fills;  // behind the ledger's cursors, oldest first
  std::vector<venue::Balance> balances;
  // As the venue states them, where it has positions at all (margin, futures); then they count, and
  // not the balances of the base asset.
  std::optional<std::vector<venue::PositionReport>> positions;
  int readings = 0;
};

struct SnapshotOptions {
  std::vector<std::string> symbols;
  int max_readings = 5;  // of fills and balances, until two agree
};
// Reads fills, open orders, balances, and fills again, until nothing moved in between.
// `ledger`: for the owners of trades.
Result<VenueSnapshot> read_venue(venue::Venue& venue, const LedgerView& believed,
                                 const store::Snapshot& ledger, const SnapshotOptions& options);

enum class DiscrepancyKind : std::uint8_t {
  kDuplicateOrder,        // two venue orders for one intent
  kOrderUnknownAtLedger,  // open at the venue, no order or intent here
  kOrderMissingAtVenue,   // believed open, not in the open list
  kIntentFound,           // an UNKNOWN intent has an order at the venue
  kIntentUnresolved,      // an UNKNOWN intent is absent: only the fence can tell
  kOrderSideDiffers,
  kOrderQuantityDiffers,
  kOrderPriceDiffers,
  kOrderFilledDiffers,
  kOrderStatusDiffers,
  kOrderIdDiffers,      // the same client id, another venue order
  kExtraFill,           // the venue has a fill that the ledger has not booked
  kFillOfUnknownOrder,  // ... and nobody here knows its order
  kFillAtLedgerOnly,    // a booked fill that the venue does not list
  kFillDiffers,         // one trade id, two contents
  kOrderOverfilled,     // more filled than ordered
  kBalanceDiffers,
  kLockedDiffers,  // what open orders should lock against what is locked
  kPositionDiffers,
  kInstrumentDiffers,        // tick or lot changed, or the symbol is gone
  kPositionUnknownAtLedger,  // the venue states one in a symbol that nobody here trades
  kPositionMissingAtVenue,   // believed, and the venue states none
  kPositionSideDiffers,      // long here, short there
  kBalanceNegative,          // the venue shows a debt
};
inline constexpr int kDiscrepancyKinds = 24;
std::string_view to_string(DiscrepancyKind kind);

struct Discrepancy {
  // "D-" + 12 digits over kind, subject and both sides; where an amount differs by more than all
  // trades explain, over that difference instead: it stays the same one while the account trades.
  std::string id;
  DiscrepancyKind kind{};
  std::string subject;  // client id, "#venue id", trade, asset or symbol
  std::string believed;
  std::string venue;
  bool explained = false;
  std::string explanation;  // by what, or what is missing
  std::string correction;   // what applying will do; empty: nothing can be done from here
  wire::Json to_json() const;
};

struct Tolerance {
  Decimal configured = Decimal::from_units(10'000);  // 0.0001
  // max(lot, configured); for an asset the coarsest lot of the symbols that trade it as base.
  std::map<std::string, Decimal> by_symbol;  // instead of `configured`
  bool strict = false;  // none at all, and nothing counts as explained but what a fence must tell
  Decimal for_lot(Decimal lot, const std::string& symbol = {}) const {
    if (strict) return {};
    const auto own = by_symbol.find(symbol);
    const Decimal wanted = own == by_symbol.end() ? configured : own->second;
    return lot > wanted ? lot : wanted;
  }
};

// Sorted by kind, then subject.
std::vector<Discrepancy> reconcile(const LedgerView& believed, const VenueSnapshot& snapshot,
                                   const Tolerance& tolerance);

// Beside a running engine the account moves on between the reading of its ledger and that of the
// venue. What nothing explains in `found`, and the reading before did not show in the same subject,
// is explained as such a movement; what is true stands in both.
void explain_movements(std::vector<Discrepancy>& found, const std::vector<Discrepancy>& before);

// One of several accounts.
struct AccountFinding {
  std::string account;
  Discrepancy discrepancy;
};
// By account, as reconcile() found them. In the order of the names; the ids of two accounts' equal
// differences are different.
std::vector<AccountFinding> reconcile_accounts(
    const std::map<std::string, std::vector<Discrepancy>>& found);

struct ReconcileSummary {
  std::size_t total = 0;
  std::size_t unexplained = 0;
  std::size_t duplicates = 0;
  std::size_t unresolved_intents = 0;
};
ReconcileSummary summarize(const std::vector<Discrepancy>& discrepancies);

struct ApplyOptions {
  std::string reason;        // goes into the journal; must not be empty
  std::string by;            // "recovery", or a person
  bool unexplained = false;  // also what nothing explains: a human's decision
};
// Makes the ledger follow the snapshot, and journals each correction with the reason, in one
// transaction. DuplicateOrder where the snapshot shows one: then nothing is applied.
// How many corrections were made.
Result<int> apply_reconciliation(Ledger& ledger, const VenueSnapshot& snapshot,
                                 const std::vector<Discrepancy>& discrepancies,
                                 const ApplyOptions& options, std::int64_t wall_ns);

// The journal of corrections, oldest first, at most `limit` of the newest.
Result<std::vector<wire::Json>> read_journal(const store::Snapshot& snapshot, std::size_t limit);

}  // namespace defib::trading
