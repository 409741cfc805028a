// Order intents: what the engine is about to ask of a venue, durable before a byte goes out.
//
// Invariants:
//   - no request leaves before its intent is durable (by the configured durability);
//   - an intent without terminal evidence is never forgotten and never sent a second time;
//   - only the table in intents.cc changes a state; an impossible pair is LedgerDamaged;
//   - after a restart, `durable` and `sent` are one and the same: UNKNOWN.
//
// The states:
//   durable ---sending---> sent --+--> accepted --+--> filled | cancelled | expired
//      |                          +--> rejected   |
//      |                          +--> not_sent   |   (no byte left this machine)
//      +--------restart-----------+--> UNKNOWN ---+--> never_accepted (proved by the fence)
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/store/store.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::trading {

enum class RiskLevel : std::uint8_t { kLow = 0, kMedium = 1, kHigh = 2 };
std::string_view to_string(RiskLevel level);
// "low", "medium", "high".
std::optional<RiskLevel> parse_risk_level(std::string_view text);

enum class IntentState : std::uint8_t {
  kDurable = 0,
  kSent = 1,
  kAccepted = 2,
  kUnknown = 3,
  // Terminal from here on.
  kRejected = 4,
  kNotSent = 5,
  kFilled = 6,
  kCancelled = 7,
  kExpired = 8,
  kNeverAccepted = 9,
};
inline constexpr int kIntentStates = 10;
std::string_view to_string(IntentState state);

enum class IntentEvent : std::uint8_t {
  kSending = 0,       // the request is about to leave
  kAcknowledged = 1,  // the venue holds the order
  kRefused = 2,       // the venue said that it accepted nothing
  kNothingSent = 3,   // no byte left this machine
  kOutcomeLost = 4,   // the venue did not say
  kRestarted = 5,     // the process died since
  kFilled = 6,
  kCancelled = 7,
  kExpired = 8,
  kProvedAbsent = 9,  // past the fence, absent in two reads
};
inline constexpr int kIntentEvents = 10;
std::string_view to_string(IntentEvent event);

// nullopt: the pair is impossible.
std::optional<IntentState> next_state(IntentState state, IntentEvent event);
bool is_terminal(IntentState state);
// Its fate is not known: durable, sent or UNKNOWN. It counts as exposure in full.
bool is_unresolved(IntentState state);
// The event that a venue's order status stands for.
IntentEvent event_of(venue::OrderStatus status);

struct Intent {
  std::string id;     // the client order id
  std::string venue;  // "binance"
  std::string symbol;
  venue::Side side = venue::Side::kBuy;
  venue::OrderType type = venue::OrderType::kLimit;
  venue::TimeInForce time_in_force = venue::TimeInForce::kGtc;
  Decimal quantity;
  Decimal price;                  // zero for a market order
  Decimal reference_price;        // what its notional is counted at: the price, or the mark
  std::string payload;            // what is sent, without key and signature
  std::int64_t timestamp_ms = 0;  // venue's clock
  std::int64_t fence_ms = 0;      // venue's clock: accepted by then, or never
  std::string strategy;
  RiskLevel risk = RiskLevel::kLow;
  std::string parent;  // the decision or order that it belongs to; may be empty
  IntentState state = IntentState::kDurable;
  std::string venue_order_id;  // known once acknowledged
  Decimal filled;
  std::string detail;  // the venue's words, or the reason of the last change
  std::int64_t updated_wall_ns = 0;

  Decimal notional() const;  // saturates
  venue::OrderRequest request() const;
  wire::Json to_json() const;
};

// Could this trade, of an order that nobody here knows, have come from the intent?
bool could_be_of(const venue::Fill& fill, const Intent& intent);

std::string encode_intent(const Intent& intent);
// LedgerDamaged names the id where the record cannot be read.
Result<Intent> decode_intent(std::string_view id, std::string_view record);

class IntentLog {
 public:
  // Loads every intent that is not terminal; their number is bounded by the open orders.
  static Result<std::unique_ptr<IntentLog>> open(store::Store& store, store::Durability durability);

  // Makes a new intent durable. AlreadyExists where the id was ever used.
  Result<> append(const Intent& intent);
  // In memory only: after a crash, `durable` and `sent` mean the same.
  Result<> mark_sent(const std::string& id);
  // The intent after `event`, checked against the table; changes nothing.
  Result<Intent> advanced(const std::string& id, IntentEvent event, std::string detail,
                          std::int64_t wall_ns) const;
  // Writes an intent into a transaction; call remember() once that has been committed.
  static Result<> write(store::Transaction& transaction, const Intent& intent);
  void remember(const Intent& intent);

  // Every durable or sent intent becomes UNKNOWN; how many there were. Once after a restart.
  Result<int> mark_unknown_after_restart(std::int64_t wall_ns);

  // Among those that are not terminal; nullptr otherwise.
  const Intent* find(const std::string& id) const;
  // Any that ever was.
  Result<std::optional<Intent>> load(const std::string& id) const;
  const std::map<std::string, Intent>& open_intents() const { return open_; }
  std::vector<Intent> unresolved() const;
  store::Durability durability() const { return durability_; }
  store::Store& store() const { return *store_; }

 private:
  IntentLog(store::Store& store, store::Durability durability)
      : store_(&store), durability_(durability) {}
  store::Store* store_;
  store::Durability durability_;
  std::map<std::string, Intent> open_;
  // Of all that were ever used: ids grow, so a greater one is new, without a look into the store.
  // Unset where the table cannot be read to its end.
  std::optional<std::string> greatest_id_;
};

// One line for every intent that was ever logged, in the order of their ids, for an auditor:
// "CLIENT_ID accepted|rejected|never_accepted|unknown SYMBOL buy|sell QUANTITY PRICE FILLED".
Result<std::string> export_intents(const store::Snapshot& snapshot);
// The intents that are not terminal, by id, read without the store's lock.
Result<std::map<std::string, Intent>> read_open_intents(const store::Snapshot& snapshot);

}  // namespace defib::trading
