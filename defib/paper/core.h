// Core: the venue's matching engine and account, without any dialect.
//
// Deterministic: the state is a function of the seed and of the calls with their times. All durable
// state (orders, trades, balances, symbol states, price anchors) changes only through events, each
// applied by the one function apply(); replaying the same events rebuilds the same state, and
// digest() proves it. The simulated market's own quotes are not durable: they are renewed at every
// market step.
//
// Invariants (check_invariants() verifies them): no balance is negative; what is locked is exactly
// what open orders can still spend; per asset, client + market + fees = deposits; no book is
// crossed; orders trade in price-time priority.
//
// Thread rule: one thread at a time. Never reads a clock: every call carries the time.

#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/paper/book.h"
#include "defib/paper/market.h"
#include "defib/paper/types.h"

namespace defib::paper {

// Open orders of one symbol at most.
constexpr std::size_t kMaxOpenOrders = 200'000;

struct NewOrder {
  std::string client_id;
  std::uint32_t symbol = 0;
  Side side = Side::kBuy;
  OrderType type = OrderType::kLimit;
  TimeInForce time_in_force = TimeInForce::kGtc;
  Decimal quantity;        // zero where quote_quantity says how much
  Decimal quote_quantity;  // market orders only
  Decimal price;           // limit orders only
  std::optional<Trigger> trigger;
  Origin origin = Origin::kApi;
  Micros visible_after_us = 0;  // how long queries do not show it
  std::string fault;            // goes into the ledger
};

enum class Reject : std::uint8_t {
  kMarketClosed,
  kPriceFilter,
  kLotSize,
  kNotional,
  kMaxPosition,
  kTooManyOrders,
  kDuplicate,
  kInsufficientBalance,
  kWouldTake,  // a LIMIT_MAKER order that would trade at once
};

class Core {
 public:
  struct Options {
    std::uint64_t seed = 1;
    std::vector<Symbol> symbols = default_symbols();
    Decimal maker_fee = Decimal::from_units(100'000);  // 0.001 = 10 basis points
    Decimal taker_fee = Decimal::from_units(100'000);
    // Fees are paid in the quote asset; else in what is received.
    bool fees_in_quote = false;
    Micros market_step_us = kMarketStepUs;
  };
  explicit Core(Options options);

  // Rebuilding: every event of the ledger in order, before start(). Corrupted names what
  // contradicts the state.
  Result<> replay(const Event& event);
  // Begins to trade. Market time goes on from where the ledger ended.
  void start(Micros now);

  // Runs the market steps that are due. Every other call expects this to have been called for its
  // time; times that run backwards count as the last one.
  void advance(Micros now);

  std::optional<Reject> check(const NewOrder& order) const;
  struct Placed {
    std::uint64_t order_id;
    std::uint64_t first_trade_id;  // its immediate trades are those from here on
  };
  std::expected<Placed, Reject> place(const NewOrder& order);
  // Whether the price that its trigger asks for is reached already.
  bool would_trigger(const NewOrder& order) const;
  // False where the order is not open.
  bool cancel(std::uint64_t order_id, std::string_view cancel_id);

  // Administration. InvalidArgument where a value is out of its bounds.
  Result<> deposit(std::string_view asset, Decimal amount);
  Result<> set_price(std::uint32_t symbol, Decimal price);
  void set_status(std::uint32_t symbol, SymbolStatus status);
  // Into the ledger, without effect on the state.
  void record(OrderRefused refused);
  void record(FaultFired fired);

  // The events since the last call, in order; they must reach the ledger before any answer that
  // follows from them leaves.
  std::vector<Event> take_events();

  Micros now() const { return now_us_; }
  const Options& options() const { return options_; }
  const std::vector<Symbol>& symbols() const { return options_.symbols; }
  std::optional<std::uint32_t> find_symbol(std::string_view name) const;
  SymbolStatus status(std::uint32_t symbol) const { return markets_[symbol].status; }
  Decimal reference_price(std::uint32_t symbol) const { return markets_[symbol].price; }
  // Of the last trade, also of others; the reference price before the first one.
  Decimal last_price(std::uint32_t symbol) const;
  const Book& book(std::uint32_t symbol) const { return markets_[symbol].book; }
  // nullptr where there is none. An open order goes before ended ones of the same client id.
  const Order* find_order(std::uint64_t order_id) const;
  const Order* find_order(std::string_view client_id) const;
  const std::vector<Order>& orders() const { return orders_; }  // orders()[id - 1]
  // Ids of open orders, ascending.
  const std::set<std::uint64_t>& open_orders(std::uint32_t symbol) const {
    return markets_[symbol].open;
  }
  // Of one symbol: ids of all orders, and all trades, ascending.
  const std::vector<std::uint64_t>& order_history(std::uint32_t symbol) const {
    return markets_[symbol].history;
  }
  const std::vector<Trade>& trades(std::uint32_t symbol) const { return markets_[symbol].trades; }
  std::uint64_t trade_count() const { return next_trade_id_ - 1; }
  const std::map<std::string, Balance, std::less<>>& balances() const { return balances_; }
  // The part of what is locked that open orders hold back for their fees.
  Decimal fees_held(std::string_view asset) const;
  std::uint64_t last_seq() const { return next_seq_ - 1; }

  // SHA-256 over all durable state of the account, in hexadecimal.
  std::string digest() const;
  // Empty, or the first invariant that does not hold.
  std::string check_invariants() const;

 private:
  struct Market {
    SymbolStatus status = SymbolStatus::kTrading;
    Decimal price;  // after `step`
    Decimal last;   // of the last trade; zero: there was none since the start
    std::uint64_t step = 0;
    Book book;
    std::set<std::uint64_t> open;
    std::set<std::uint64_t> waiting;  // those of them that wait for their trigger
    std::vector<std::uint64_t> history;
    std::vector<Trade> trades;
  };
  // Someone who trades at once: the client's order, or kMarketOrder.
  struct Taker {
    std::uint64_t order_id;
    Side side;
    std::optional<Decimal> limit;
    Decimal quantity;
  };

  template <typename Body>
  void commit(Body body);
  void apply(const Event& event);
  void apply_body(const Event& event, const Started& started);
  void apply_body(const Event& event, const OrderAccepted& accepted);
  void apply_body(const Event& event, const OrderRefused& refused);
  void apply_body(const Event& event, const Filled& filled);
  void apply_body(const Event& event, const Triggered& triggered);
  void apply_body(const Event& event, const OrderClosed& closed);
  void apply_body(const Event& event, const Deposited& deposited);
  void apply_body(const Event& event, const StatusChanged& changed);
  void apply_body(const Event& event, const PriceAnchored& anchored);
  void apply_body(const Event& event, const FaultFired& fired);
  // For replay: why the event cannot follow the state, or empty.
  std::string contradiction(const Event& event) const;

  std::optional<Reject> check_filters(const NewOrder& order, const Symbol& symbol) const;
  std::optional<Reject> check_balance(const NewOrder& order, const Symbol& symbol) const;
  Decimal market_quantity(const NewOrder& order) const;
  // Trades with what is there, and rests or ends.
  void enter_market(std::uint64_t order_id);
  bool is_reached(const Trigger& trigger, std::uint32_t symbol) const;
  // Brings to the market whatever is reached; each order once, so this ends.
  void run_triggers(std::uint32_t symbol);
  void trigger(std::uint64_t order_id);
  // Trades until nothing crosses; returns what remains.
  Decimal execute(std::uint32_t symbol, const Taker& taker);
  void fill(std::uint64_t order_id, bool maker, Decimal price, Decimal quantity);
  void close(const Order& order, OrderStatus status, std::string_view cancel_id);
  std::uint64_t step_at(Micros time) const;
  void forward(std::uint64_t step);
  void run_step();
  void anchor_prices();
  Balance& balance(std::string_view asset);
  static Decimal locked_amount(const Order& order);
  static Decimal locked_money(const Order& order);  // of a buy, without what is held for fees

  Options options_;
  Micros now_us_ = 0;
  std::uint64_t next_seq_ = 1;
  std::uint64_t next_trade_id_ = 1;
  std::vector<Event> events_;

  std::vector<Order> orders_;
  std::unordered_map<std::string, std::uint64_t> open_by_client_id_;
  std::unordered_map<std::string, std::uint64_t> last_by_client_id_;
  std::map<std::string, Balance, std::less<>> balances_;
  std::vector<Market> markets_;
  // The other side of the account's sums, per asset.
  std::map<std::string, Decimal, std::less<>> deposits_, market_, fees_;

  // Market time: `base_step_` had been run at `epoch_us_`, where the next one is due.
  bool started_ = false;
  Micros epoch_us_ = 0;
  Micros step_us_ = 0;
  std::uint64_t base_step_ = 0;
  std::uint64_t step_ = 0;
};

}  // namespace defib::paper
