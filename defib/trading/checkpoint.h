// The trading checkpoint: a self-contained statement of positions, balances and fill cursors at one
// moment, from which, with the fills booked since, the ledger must follow exactly.
//
// Validation is a list of named rules, each a finding of its own; from the findings and the known
// rate limits comes the decision where the state is loaded from. Pure but for read and write.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/store/store.h"
#include "defib/trading/ledger.h"
#include "defib/wire/json.h"

namespace defib::trading {

// 2: `venue` was added; a checkpoint of version 1 is migrated as it is read.
inline constexpr int kCheckpointVersion = 2;

struct Checkpoint {
  int version = kCheckpointVersion;
  std::string venue;  // whose; empty: written before version 2, or not said
  std::uint64_t epoch = 0;
  std::int64_t wall_ns = 0;
  std::map<std::string, Position> positions;
  std::map<std::string, Decimal> balances;
  std::map<std::string, std::string> cursors;
  std::vector<std::string> recent;       // booked trades behind the cursors, as hex of fill_key
  std::map<std::string, Decimal> marks;  // middle of the market at that moment
  int open_orders = 0;
  wire::Json to_json() const;  // with "checksum", SHA-256 over the rest
  static Result<Checkpoint> from_json(const wire::Json& json);  // does not check the checksum
};

Checkpoint make_checkpoint(const LedgerView& state, std::map<std::string, Decimal> marks,
                           std::uint64_t epoch, std::int64_t wall_ns, std::string venue = {});
Result<> write_checkpoint(store::Store& store, const Checkpoint& checkpoint,
                          store::Durability durability);
// The text as stored; nullopt where there is none.
Result<std::optional<std::string>> read_checkpoint_text(const store::Snapshot& snapshot);
// The fills that were booked after the checkpoint, by symbol and trade.
Result<std::vector<venue::Fill>> fills_since(const store::Snapshot& snapshot,
                                             const Checkpoint& checkpoint);

enum class Severity { kInfo, kWarning, kCritical };
std::string_view to_string(Severity severity);
std::optional<Severity> parse_severity(std::string_view text);

// The rules, in the order in which they are asked. The severity of the last eleven is configurable;
// what cannot be read at all stays critical.
//   exists            there is one                        info at the first start, else warning
//   checksum          its content is what was written     critical
//   version           known, or one that is migrated      critical; info where migrated
//   venue             of this venue                       critical
//   timestamp_future  not ahead of the clock              critical
//   age               not older than max_age              warning
//   quantity          per instrument                      critical
//   notional          at the mark, else the average price critical
//   price             positive where it must be           critical
//   balance           not negative where it must not be   critical; warning on margin
//   cursor_regressed  the ledger is not older             critical
//   ledger_follows    checkpoint + trades = ledger        critical
inline constexpr std::array<std::string_view, 12> kCheckpointRules = {
    "exists",   "checksum", "version", "venue",   "timestamp_future", "age",
    "quantity", "notional", "price",   "balance", "cursor_regressed", "ledger_follows"};

struct CheckpointFinding {
  std::string rule;
  Severity severity = Severity::kInfo;
  std::string subject;  // symbol or asset; may be empty
  std::string input;
  std::string threshold;
  std::string detail;
  wire::Json to_json() const;
};

struct CheckpointRules {
  os::Duration future_allowance = std::chrono::seconds(1);
  os::Duration max_age = std::chrono::hours(1);             // a warning beyond
  Decimal max_quantity = Decimal::from_integer(1'000'000);  // where a symbol has no own cap
  std::map<std::string, Decimal> max_quantity_by_symbol;
  Decimal max_notional = Decimal::from_integer(1'000'000'000);
  bool margin_account = false;                // negative balances are legal then (a warning)
  bool prices_may_be_negative = false;        // spreads and some futures
  std::set<std::string> negative_prices_for;  // ... of these symbols only
  std::string venue;                          // whose checkpoint it must be; empty: anybody's
  // By rule; absent: as kCheckpointRules says. Not for "checksum" and "version".
  std::map<std::string, Severity> severity;
};
// Whether the severity of a rule may be configured.
bool severity_is_configurable(std::string_view rule);

struct CheckpointVerdict {
  std::optional<Checkpoint> checkpoint;     // none: absent or unreadable
  std::vector<CheckpointFinding> findings;  // in the order of the rules
  Severity worst = Severity::kInfo;
  bool usable() const { return checkpoint.has_value() && worst != Severity::kCritical; }
  // CheckpointInvalid naming the first critical rule; none where usable.
  std::optional<Error> error() const;
  wire::Json to_json() const;
};

// `text`: as stored, none where there is no checkpoint. `state` and `fills`: for ledger_follows.
CheckpointVerdict validate_checkpoint(const std::optional<std::string>& text,
                                      const LedgerView& state,
                                      const std::vector<venue::Fill>& fills_since_checkpoint,
                                      const CheckpointRules& rules, std::int64_t now_wall_ns);

// Positions that follow from a checkpoint and the fills after it. Quantities are exact; costs may
// differ from the booked ones where trades became visible out of order.
std::map<std::string, Position> derive_positions(
    const Checkpoint& checkpoint, const std::map<std::string, Instrument>& instruments,
    const std::vector<venue::Fill>& fills);

enum class StateSource { kLedger, kCheckpoint, kVenue };
std::string_view to_string(StateSource source);

struct RebuildCost {
  std::int64_t requests = 0;
  std::int64_t weight = 0;    // in the venue's own unit
  std::int64_t capacity = 0;  // of the venue's budget; 0: nothing limits
  os::Duration estimate{0};
};
struct RebuildSize {
  std::size_t symbols = 0;
  std::uint64_t open_orders = 0;
  std::uint64_t fills = 0;
};
// What reading everything costs by the venue's own prices, and how long it takes within its limits
// when one request takes `round_trip`.
RebuildCost estimate_rebuild(const venue::RebuildModel& model, const RebuildSize& size,
                             os::Duration round_trip);

struct SourceDecision {
  StateSource source = StateSource::kLedger;
  std::string reason;
  RebuildCost rebuild;  // what asking the venue for everything would cost
  wire::Json to_json() const;
};
SourceDecision choose_source(const CheckpointVerdict& verdict, const LedgerView& state,
                             const RebuildCost& rebuild);

}  // namespace defib::trading
