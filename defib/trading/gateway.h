// OrderGateway: the only way to a venue. Permit and limits are checked, the intent is made durable,
// the request leaves, the outcome is recorded; in this order, with named failure points between.
//
// Invariants: without limits nothing leaves; without a permit nothing leaves; nothing is ever sent
// twice. An outcome that the venue did not tell leaves the intent UNKNOWN, which is not an error of
// submit(): the engine goes on, and the FenceResolver settles it.
//
// Thread rule: one thread at a time.

#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/trading/ids.h"
#include "defib/trading/intents.h"
#include "defib/trading/kill_switch.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"

namespace defib::trading {

// Called by name as each point is passed; a test or a drill lets the process die there.
//   before_intent     checks passed, nothing durable
//   intent_durable    durable, nothing sent
//   request_sent      the exchange with the venue is over, its reply not yet looked at; the venue
//                     adapter calls it (BinanceOptions::after_exchange)
//   reply_seen        the reply is understood, nothing recorded
//   outcome_recorded  done
using FailurePoints = std::function<void(std::string_view point)>;

// Amounts in quote currency. A ramp step scales all but the counts.
struct Limits {
  Decimal max_order_notional = Decimal::from_integer(50'000);
  Decimal max_position_notional = Decimal::from_integer(500'000);  // per symbol
  Decimal max_exposure = Decimal::from_integer(1'000'000);         // of everything
  int max_open_orders = 1'000;                                     // open and unresolved
  int max_orders_per_second = 100;
  int max_unknown_intents = 16;  // more: nothing new until they are settled
  // How far a limit price may lie from the mark, as a part of it; zero: no collar.
  Decimal price_collar = Decimal::from_units(10'000'000);  // 0.1
  // Orders for one parent; more is a sender that repeats itself. 0: not counted.
  int max_orders_per_parent = 1'000;
};

// What the ramp allows at this moment.
struct TradingPermit {
  bool open = false;
  int percent = 0;  // of the limits
  RiskLevel max_risk = RiskLevel::kLow;
  std::string reason = "recovery has not allowed trading yet";
};

struct OrderDraft {
  std::string symbol;
  venue::Side side = venue::Side::kBuy;
  venue::OrderType type = venue::OrderType::kLimit;
  venue::TimeInForce time_in_force = venue::TimeInForce::kGtc;
  Decimal quantity;
  Decimal price;  // kLimit
  std::string strategy;
  RiskLevel risk = RiskLevel::kLow;
  std::string parent;
  // What the parent wants in all; zero: not said. What was sent for it may not exceed that.
  Decimal parent_quantity;
};

// What has been sent for one parent order, over all starts of the engine.
struct ParentCount {
  std::int64_t orders = 0;
  Decimal quantity;  // that may have been or may still be filled
};

struct Submitted {
  std::string client_id;
  IntentState state =
      IntentState::kUnknown;   // accepted filled cancelled expired rejected not_sent unknown
  venue::Order order;          // where the venue told it
  std::optional<Error> error;  // why it is rejected, not_sent or unknown
};

class OrderGateway {
 public:
  struct Parts {
    venue::Venue* venue = nullptr;
    Ledger* ledger = nullptr;
    IdSource* ids = nullptr;
    const os::Clock* clock = nullptr;
    std::optional<Limits> limits;       // none: LimitsNotLoaded for every order
    KillSwitch* kill_switch = nullptr;  // none: nobody can stop it from outside
    Valuation valuation;
    FailurePoints failure_points;  // may be empty
    // The bytes that the adapter will send, kept in the intent; may be empty.
    std::function<std::string(const venue::OrderRequest&)> payload;
  };
  explicit OrderGateway(Parts parts);

  void set_permit(TradingPermit permit) { permit_ = std::move(permit); }
  const TradingPermit& permit() const { return permit_; }
  // The last known middle of the market; orders are measured and collared by it.
  void set_mark(const std::string& symbol, Decimal mark) { marks_[symbol] = mark; }
  const std::map<std::string, Decimal>& marks() const { return marks_; }
  // Learns the venue's clock, so that fences lie on it; the offset to this machine's, ms.
  Result<std::int64_t> sync_clock();
  std::int64_t venue_now_ms() const;

  // LimitsNotLoaded, TradingHalted, KillSwitchEngaged, RunawaySender, LimitBreached, what
  // hard_stop() holds, or the store's error: nothing was sent then.
  Result<Submitted> submit(const OrderDraft& draft);
  // What became of the order. OrderNotFound and lost outcomes are settled by reading it back;
  // VenueOutcomeUnknown where that fails as well: it is then still open as far as we know.
  Result<venue::Order> cancel(const std::string& client_id);
  // Refreshes the believed orders of a symbol: fills first, then the open list; an order that left
  // the list is read by its id. How many orders changed.
  Result<int> sync_orders(const std::string& symbol);

  // Would this order be let through? Pure but for the rate; the first breach as LimitBreached.
  Result<> check(const OrderDraft& draft) const;
  Exposure exposure() const;
  // The venue's time at which every unresolved request, and every open order that we know of these
  // symbols, has become visible or never will; 0 where there is none.
  std::int64_t hidden_until_ms(const std::vector<std::string>& symbols) const;
  // The first DuplicateOrder or LedgerDamaged that was met here. From then on nothing leaves: what
  // is believed can no longer be told apart from what is not.
  const std::optional<Error>& hard_stop() const { return hard_stop_; }
  // Keeps it where the error is one of these two.
  void note(const Error& error);
  std::uint64_t sent() const { return sent_; }
  // Counted from the intents on first use.
  Result<ParentCount> sent_for(const std::string& parent);

 private:
  Result<> check_permit(const OrderDraft& draft) const;
  Result<> check_limits(const OrderDraft& draft, Decimal reference) const;
  Result<Decimal> check_order(const OrderDraft& draft) const;
  Result<Submitted> send(const OrderDraft& draft);
  Result<venue::Order> cancel_and_read(const std::string& client_id);
  Result<int> read_orders(const std::string& symbol);
  template <typename T>
  Result<T> noted(Result<T> result) {
    if (!result) note(result.error());
    return result;
  }
  Result<Submitted> record(const Intent& intent, const Result<venue::Order>& reply);
  Result<Submitted> record_order(const Intent& intent, const venue::Order& order,
                                 std::optional<Error> error);
  void at(std::string_view point) const;
  Result<> check_kill_switch(const OrderDraft& draft);
  Result<> check_parent(const OrderDraft& draft);
  Result<> load_parents();
  void count_outcome(const Intent& intent, const Submitted& submitted);

  Parts parts_;
  TradingPermit permit_;
  std::map<std::string, Decimal> marks_;
  std::int64_t clock_offset_ms_ = 0;
  std::int64_t venue_read_ms_ = 0;   // the venue's clock as it was last read; 0: never
  std::deque<std::int64_t> recent_;  // mono_ns of orders in the last second, bounded by the limit
  std::uint64_t sent_ = 0;
  std::int64_t replied_ms_ = 0;  // the venue's time of the last reply to an order
  std::optional<Error> hard_stop_;
  std::optional<std::map<std::string, ParentCount>> parents_;
};

struct EmergencyReport {
  // Nothing was open at a reading that began after everything of ours must have been visible.
  bool verified = false;
  int rounds = 0;
  os::Duration next{0};  // when another stop makes sense; where it is not verified
  // The cancel went through, and the venue had no room for the reading behind it.
  bool owes_reading = false;
  std::vector<venue::Order> still_open;
  std::vector<Error> errors;
  // The venue's dead-man's switch: "armed", "none" where it has none, or why it could not be armed.
  std::string dead_mans_switch = "none";
  wire::Json to_json() const;
};
struct EmergencyOptions {
  // How long rounds may follow each other, beyond the last fence and lag; zero: one round. Less
  // than the time after which a supervisor takes an engine for hung.
  os::Duration at_most = std::chrono::seconds(7);
  // False: the venue's dead-man's switch runs already, and is armed anew only by a verified stop.
  bool arm_switch = true;
  // The stop before this one owes it: the first round only reads.
  bool owes_reading = false;
};
// Closes the permit, cancels everything of `symbols`, and reads back until nothing is open, waiting
// where the venue says so; then arms the venue's dead-man's switch (where a round has failed,
// before the next: it needs no reading). A cancel that timed out is UNKNOWN too: only the reading
// counts.
EmergencyReport emergency_stop(OrderGateway& gateway, venue::Venue& venue, const os::Clock& clock,
                               const std::vector<std::string>& symbols, std::string reason,
                               const EmergencyOptions& options = {});

}  // namespace defib::trading
