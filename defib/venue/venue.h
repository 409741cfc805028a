// Venue: one exchange account behind one interface. Adapters translate; they decide nothing.
//
// Amounts are exact (Decimal). What became of an order is never guessed: a request whose outcome
// the venue did not tell is VenueOutcomeUnknown, and only VenueRejected means "not accepted".
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/venue/rate_budget.h"

namespace defib::venue {

enum class Side { kBuy, kSell };
enum class OrderType { kLimit, kMarket };
enum class TimeInForce { kGtc, kIoc };
enum class OrderStatus {
  kNew,
  kPartiallyFilled,
  kFilled,
  kCancelled,
  kRejected,
  kExpired,
  kUnknown
};
std::string_view to_string(Side side);
std::string_view to_string(OrderStatus status);
inline bool is_terminal(OrderStatus status) {
  return status == OrderStatus::kFilled || status == OrderStatus::kCancelled ||
         status == OrderStatus::kRejected || status == OrderStatus::kExpired;
}

struct OrderRequest {
  std::string client_id;  // [A-Za-z0-9]{1,18}
  std::string symbol;     // the venue's own: "BTCUSDT"
  Side side = Side::kBuy;
  OrderType type = OrderType::kLimit;
  TimeInForce time_in_force = TimeInForce::kGtc;
  Decimal quantity;
  Decimal price;  // kLimit only
  // The fence: the venue refuses the request when it arrives later (venue's clock, ms since 1970).
  std::int64_t timestamp_ms = 0;
  std::int64_t expires_ms = 0;
};

struct Order {
  std::string client_id;
  std::string venue_id;
  std::string symbol;
  Side side = Side::kBuy;
  OrderStatus status = OrderStatus::kUnknown;
  // Waits for a trigger, and has no limit: `price` is the trigger. Whether a venue holds money for
  // it is the venue's affair.
  bool market_at_trigger = false;
  Decimal quantity;
  Decimal price;
  Decimal filled;
  Decimal filled_quote;  // money exchanged so far
  std::int64_t created_ms = 0;
  std::int64_t updated_ms = 0;
};

struct Fill {
  std::string trade_id;
  std::string venue_order_id;
  std::string symbol;
  Side side = Side::kBuy;
  Decimal quantity;
  Decimal price;
  Decimal fee;
  std::string fee_asset;
  std::int64_t time_ms = 0;
};

struct Balance {
  std::string asset;
  Decimal free;
  Decimal locked;
  Decimal total() const { return free + locked; }
};

// A margin or futures position as the venue states it. Signed: negative is short.
struct PositionReport {
  std::string symbol;
  std::string position_side;  // "BOTH" in one-way mode; "LONG" or "SHORT" rows in hedge mode
  Decimal quantity;
  Decimal entry_price;
};

// What the venue says of itself; what a symbol says stands in its rules.
enum class VenueStatus { kOnline, kPostOnly, kCancelOnly, kMaintenance };
std::string_view to_string(VenueStatus status);

// How reading everything again is paid for, for a prediction of its time. Costs are in the venue's
// own unit (weight, counter points, requests).
struct RebuildModel {
  RateLimit limit;
  std::int64_t fixed = 0;  // rules, account and time, together
  std::int64_t fixed_requests = 3;
  std::int64_t orders_page = 0;  // open orders a page; 0: all in one answer
  std::int64_t orders_cost = 0;  // of one page
  std::int64_t fills_page = 1'000;
  std::int64_t fills_cost = 0;  // of one page
  // False: whoever reads one symbol's fills or open orders reads those of all.
  bool filtered = true;
};

struct SymbolRules {
  std::string symbol;
  std::string base_asset;
  std::string quote_asset;
  Decimal tick;
  Decimal lot;
  Decimal min_notional;
  bool trading = false;  // false: halted or in a break
};

struct Quote {
  std::string symbol;
  Decimal bid, bid_quantity, ask, ask_quantity;
  Decimal mid() const { return Decimal::from_units((bid.units() + ask.units()) / 2); }
};

// Where a reading of fills begins.
struct FillsFrom {
  std::string after;  // behind this trade; empty: all
  // What is older, by the venue's clock, is not wanted: nobody needs to walk back further in a
  // history of all symbols. Who lists a symbol's trades oldest first may tell of older ones too.
  std::int64_t since_ms = 0;
};

class Venue {
 public:
  virtual ~Venue() = default;
  virtual std::string name() const = 0;  // "binance"
  virtual Result<std::int64_t> server_time_ms() = 0;
  virtual Result<std::vector<SymbolRules>> rules() = 0;
  virtual Result<Quote> quote(const std::string& symbol) = 0;
  virtual Result<std::vector<Quote>> quotes() = 0;
  // VenueRejected, VenueOutcomeUnknown, VenueUnreachable (nothing was sent), VenueRateLimited
  // (refused before acceptance), VenueAuthFailed, VenueClockSkew.
  virtual Result<Order> place(const OrderRequest& request) = 0;
  // The order after the cancel; OrderNotFound where the venue does not know it or it has ended.
  virtual Result<Order> cancel(const std::string& symbol, const std::string& client_id) = 0;
  virtual Result<> cancel_all(const std::string& symbol) = 0;
  // The same of several symbols, at once where that is cheaper. One that fails holds up none of the
  // others; the first failure.
  virtual Result<> cancel_all_of(const std::vector<std::string>& symbols);
  // OrderNotFound where the venue does not know it now.
  virtual Result<Order> order(const std::string& symbol, const std::string& client_id) = 0;
  // All pages; empty symbol: all symbols.
  virtual Result<std::vector<Order>> open_orders(const std::string& symbol = {}) = 0;
  virtual Result<std::vector<Balance>> balances() = 0;
  // Fills with trade id greater than `after` (empty: from the first), oldest first, all pages.
  virtual Result<std::vector<Fill>> fills(const std::string& symbol, const std::string& after) = 0;
  // The same of several symbols, each from where it names; one reading where one tells of all.
  virtual Result<std::vector<Fill>> fills_of(const std::map<std::string, FillsFrom>& from);
  // Open orders of these symbols: one after the other, or all at once where that is cheaper.
  Result<std::vector<Order>> open_orders_of(const std::vector<std::string>& symbols);
  // Checks an order without placing it: authentication, clock, filters.
  virtual Result<> test_order(const OrderRequest& request) = 0;
  // Margin or futures positions; empty at a venue that has only balances, where has_positions() is
  // false and a position is what its base asset's balance says.
  virtual bool has_positions() const { return false; }
  virtual Result<std::vector<PositionReport>> positions();
  virtual Result<VenueStatus> status();
  // The venue cancels everything of ours by itself unless this is called again within `timeout`;
  // zero disarms. NotFound where the venue has no such switch: has_dead_mans_switch() is false.
  virtual bool has_dead_mans_switch() const { return false; }
  virtual Result<> arm_dead_mans_switch(os::Duration timeout);
  virtual RebuildModel rebuild_model() const { return {}; }
  // Reading may wait so long for the venue's rate budget; beyond, VenueRateLimited with
  // `nothing_sent`. An engine's loop keeps it short, a program that only recovers may wait.
  virtual void set_patience(os::Duration) {}
  // How long the request that the fence bounds may live, and how late its order may become visible.
  virtual std::int64_t recv_window_ms() const = 0;
  virtual std::int64_t visibility_lag_ms() const = 0;
};

}  // namespace defib::venue
