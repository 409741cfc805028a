// What the paper venue's parts speak of: symbols, orders, trades, and the events of its ledger.
//
// Events are the only thing that changes the venue's durable state (core.h applies them), so a
// ledger of events rebuilds exactly the state that wrote it.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"

namespace defib::paper {

// Microseconds since 1970-01-01 UTC: the venue's only unit of time inside.
using Micros = std::int64_t;

enum class Side : std::uint8_t { kBuy, kSell };
enum class OrderType : std::uint8_t { kLimit, kLimitMaker, kMarket };
enum class TimeInForce : std::uint8_t { kGtc, kIoc, kFok };
enum class OrderStatus : std::uint8_t { kNew, kPartiallyFilled, kFilled, kCancelled, kExpired };
enum class SymbolStatus : std::uint8_t { kTrading, kHalt, kBreak };
// kExternal: placed by the account's owner elsewhere, for example in the venue's own user
// interface.
enum class Origin : std::uint8_t { kApi, kExternal };

// The names that the dialect and the ledger use: "BUY", "LIMIT_MAKER", "GTC", "CANCELED", "HALT".
std::string_view to_string(Side side);
std::string_view to_string(OrderType type);
std::string_view to_string(TimeInForce time_in_force);
std::string_view to_string(OrderStatus status);
std::string_view to_string(SymbolStatus status);
std::string_view to_string(Origin origin);
// nullopt where `name` is none of them.
template <typename Enum>
std::optional<Enum> from_string(std::string_view name);
template <>
std::optional<Side> from_string<Side>(std::string_view name);
template <>
std::optional<OrderType> from_string<OrderType>(std::string_view name);
template <>
std::optional<TimeInForce> from_string<TimeInForce>(std::string_view name);
template <>
std::optional<OrderStatus> from_string<OrderStatus>(std::string_view name);
template <>
std::optional<SymbolStatus> from_string<SymbolStatus>(std::string_view name);
template <>
std::optional<Origin> from_string<Origin>(std::string_view name);

inline bool is_open(OrderStatus status) {
  return status == OrderStatus::kNew || status == OrderStatus::kPartiallyFilled;
}

// A market and its filters. The bounds keep every product of price and quantity inside Decimal.
struct Symbol {
  std::string name;
  std::string base;
  std::string quote;
  Decimal tick;          // prices are multiples of it
  Decimal step;          // quantities are multiples of it
  Decimal min_quantity;  //
  Decimal max_quantity;  //
  Decimal max_price;     //
  Decimal min_notional;  // smallest price times quantity
  Decimal start_price;   // the reference price of the first step
};
// BTCUSDT, ETHUSDT, SOLUSDT.
std::vector<Symbol> default_symbols();

// What a conditional order waits for: that the price comes to `price` from below (`up`) or above.
struct Trigger {
  Decimal price;
  bool up = false;
  bool by_mark = false;  // the reference price, in place of the last trade's
};

struct Order {
  std::uint64_t id = 0;  // 1, 2, 3 ... over all symbols; also the time priority
  std::string client_id;
  std::uint32_t symbol = 0;  // index into the venue's symbols
  Side side = Side::kBuy;
  OrderType type = OrderType::kLimit;
  TimeInForce time_in_force = TimeInForce::kGtc;
  OrderStatus status = OrderStatus::kNew;
  Origin origin = Origin::kApi;
  Decimal price;           // zero for market orders
  Decimal quantity;        // of the base asset; a market order by money gets what it bought
  Decimal quote_quantity;  // market orders by money, else zero
  Decimal executed;
  Decimal executed_quote;
  Micros created_us = 0;
  Micros updated_us = 0;
  Micros visible_us = 0;  // queries do not show the order before this time
  std::optional<Trigger> trigger;
  bool waits = false;          // for its trigger: until then it stands in no book
  Micros working_us = 0;       // since when it does not wait; 0: it does
  std::uint64_t priority = 0;  // number of the event by which it came to the market
  Decimal fee_reserve;         // a buy that pays fees in money holds back this part of it besides
  Decimal fees;                // of its trades
  Decimal remaining() const { return quantity - executed; }
  // A stop limits a loss; else the trigger takes a profit.
  bool is_stop() const { return trigger && trigger->up == (side == Side::kBuy); }
};

// One side of an execution: a trade of the client with the market, or with itself (two Trades).
struct Trade {
  std::uint64_t id = 0;  // 1, 2, 3 ... over all symbols
  std::uint64_t order_id = 0;
  std::uint32_t symbol = 0;
  Side side = Side::kBuy;
  bool maker = false;
  Decimal price;
  Decimal quantity;
  Decimal quote;
  Decimal commission;
  std::string commission_asset;
  Micros time_us = 0;
};

struct Balance {
  Decimal free;
  Decimal locked;
  friend bool operator==(const Balance&, const Balance&) = default;
};

// What became of an order request that was not accepted.
enum class Refusal : std::uint8_t {
  kRejected,   // the client was told so (or the answer was lost by a fault)
  kDuplicate,  // rejected, because an open order has the same client id
  kDropped,    // lost by a fault before acceptance; the client was told nothing reliable
};
std::string_view to_string(Refusal refusal);
template <>
std::optional<Refusal> from_string<Refusal>(std::string_view name);

// The venue's process started; market time goes on from here.
struct Started {
  std::uint64_t seed = 0;
  Micros step_us = 0;
};
struct OrderAccepted {
  Order order;
  std::string fault;  // the kind of fault that spoilt the reply, if any
};
struct OrderRefused {
  std::string client_id;  // empty where the request had none
  Refusal refusal = Refusal::kRejected;
  int code = 0;  // the dialect's code, 0 where nothing was answered
  std::string message;
  std::string fault;
};
struct Filled {
  Trade trade;
};
// A conditional order's price was reached; it came to the market.
struct Triggered {
  std::uint64_t order_id = 0;
  Decimal price;  // that reached it
};
// Cancelled by request, or expired because an order that may not rest found no more to trade with.
struct OrderClosed {
  std::uint64_t order_id = 0;
  OrderStatus status = OrderStatus::kCancelled;
  std::string cancel_id;
};
struct Deposited {
  std::string asset;
  Decimal amount;
};
struct StatusChanged {
  std::uint32_t symbol = 0;
  SymbolStatus status = SymbolStatus::kTrading;
};
// The reference price at a market step; the walk goes on from the last one.
struct PriceAnchored {
  std::uint32_t symbol = 0;
  std::uint64_t step = 0;
  Decimal price;
};
struct FaultFired {
  std::string rule;
  std::string kind;
  std::string method;
  std::string path;
};

struct Event {
  std::uint64_t seq = 0;
  Micros at_us = 0;
  std::variant<Started, OrderAccepted, OrderRefused, Filled, Triggered, OrderClosed, Deposited,
               StatusChanged, PriceAnchored, FaultFired>
      body;
};

}  // namespace defib::paper
