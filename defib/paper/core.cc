#include "defib/paper/core.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/base/assert.h"

namespace defib::paper {
namespace {

// Balances stay below this, so that sums of money never leave Decimal's range.
constexpr std::int64_t kMaxBalance = 40'000'000'000;
// One deposit is worth at most this at its asset's highest price.
constexpr std::int64_t kMaxDepositValue = 20'000'000'000;
// A venue that stood still (a suspended machine) catches up by at most so many full steps, and by
// at most so many steps of the bare walk; time beyond that did not happen on its market.
constexpr std::uint64_t kMaxLiveSteps = 10'000;
constexpr std::uint64_t kMaxForwardSteps = 1'000'000;
// How often the walk's position goes into the ledger, so that a restart need not walk far.
constexpr std::uint64_t kAnchorSteps = 6'000;

bool is_multiple(Decimal value, Decimal step) {
  return value.units() % step.units() == 0;
}

}  // namespace

Core::Core(Options options) : options_(std::move(options)) {
  DEFIB_ASSERT(options_.market_step_us > 0 && !options_.symbols.empty());
  for (const Symbol& symbol : options_.symbols) {
    Market market;
    market.price = symbol.start_price;
    markets_.push_back(std::move(market));
    for (const std::string& asset : {symbol.base, symbol.quote}) {
      balances_[asset];
      deposits_[asset];
      market_[asset];
      fees_[asset];
    }
  }
}

template <typename Body>
void Core::commit(Body body) {
  Event event{next_seq_, now_us_, std::move(body)};
  apply(event);
  events_.push_back(std::move(event));
}

std::vector<Event> Core::take_events() {
  return std::exchange(events_, {});
}

void Core::start(Micros now) {
  DEFIB_ASSERT(!started_);
  now_us_ = std::max(now, now_us_);
  // Orders rest again in the order in which they came to the market.
  for (Market& market : markets_) {
    std::map<std::uint64_t, const Order*> resting;
    for (const std::uint64_t id : market.open) {
      const Order& order = orders_[id - 1];
      if (!order.waits) resting.emplace(order.priority, &order);
    }
    for (const auto& [priority, order] : resting) {
      market.book.rest(order->side, order->price, order->id, order->remaining());
    }
  }
  started_ = true;
  commit(Started{options_.seed, options_.market_step_us});
  anchor_prices();
  advance(now_us_);
}

// ---- Market time.

std::uint64_t Core::step_at(Micros time) const {
  if (step_us_ == 0 || time < epoch_us_) return base_step_;
  return base_step_ + 1 + static_cast<std::uint64_t>((time - epoch_us_) / step_us_);
}

void Core::forward(std::uint64_t step) {
  for (std::uint32_t index = 0; index < markets_.size(); ++index) {
    Market& market = markets_[index];
    if (step <= market.step) continue;
    if (step - market.step > kMaxForwardSteps) market.step = step;
    while (market.step < step) {
      ++market.step;
      market.price = walk(symbols()[index], index, options_.seed, market.step, market.price);
    }
  }
  step_ = step;
}

void Core::advance(Micros now) {
  DEFIB_ASSERT(started_);
  const Micros target_us = std::max(now, now_us_);
  const std::uint64_t target = step_at(target_us);
  if (target > step_ + kMaxLiveSteps) forward(target - 1);
  while (step_ < target) {
    ++step_;
    now_us_ = std::max(now_us_, epoch_us_ + static_cast<Micros>(step_ - base_step_ - 1) * step_us_);
    run_step();
    if (step_ % kAnchorSteps == 0) anchor_prices();
  }
  now_us_ = target_us;
}

void Core::run_step() {
  for (std::uint32_t index = 0; index < markets_.size(); ++index) {
    Market& market = markets_[index];
    MarketMove move = move_market(symbols()[index], index, options_.seed, step_, market.price);
    market.price = move.price;
    market.step = step_;
    if (market.status != SymbolStatus::kTrading) continue;
    market.book.remove_market_orders();
    for (const MarketQuote& quote : move.quotes) {
      const Decimal rest = execute(index, {kMarketOrder, quote.side, quote.price, quote.quantity});
      if (!rest.is_zero()) market.book.rest(quote.side, quote.price, kMarketOrder, rest);
    }
    if (move.taker) {
      execute(index, {kMarketOrder, move.taker->side, std::nullopt, move.taker->quantity});
    }
    run_triggers(index);
  }
}

void Core::anchor_prices() {
  for (std::uint32_t index = 0; index < markets_.size(); ++index) {
    commit(PriceAnchored{index, markets_[index].step, markets_[index].price});
  }
}

// ---- Orders.

std::optional<Reject> Core::check_filters(const NewOrder& order, const Symbol& symbol) const {
  if (order.trigger &&
      (order.trigger->price < symbol.tick || order.trigger->price > symbol.max_price ||
       !is_multiple(order.trigger->price, symbol.tick))) {
    return Reject::kPriceFilter;
  }
  if (order.type == OrderType::kMarket) {
    if (!order.quote_quantity.is_zero()) {
      const bool fits = order.quote_quantity >= symbol.min_notional &&
                        order.quote_quantity <= Decimal::from_integer(kMaxBalance);
      return fits ? std::nullopt : std::optional(Reject::kNotional);
    }
  } else if (order.price < symbol.tick || order.price > symbol.max_price ||
             !is_multiple(order.price, symbol.tick)) {
    return Reject::kPriceFilter;
  }
  if (order.quantity < symbol.min_quantity || order.quantity > symbol.max_quantity ||
      !is_multiple(order.quantity, symbol.step)) {
    return Reject::kLotSize;
  }
  const Decimal price = order.type != OrderType::kMarket ? order.price
                        : order.trigger                  ? order.trigger->price
                                                         : markets_[order.symbol].price;
  if (price * order.quantity < symbol.min_notional) return Reject::kNotional;
  return std::nullopt;
}

Decimal Core::market_quantity(const NewOrder& order) const {
  if (order.quote_quantity.is_zero()) return order.quantity;
  return markets_[order.symbol].book.affordable(order.side, order.quote_quantity,
                                                symbols()[order.symbol].step,
                                                symbols()[order.symbol].max_quantity);
}

std::optional<Reject> Core::check_balance(const NewOrder& order, const Symbol& symbol) const {
  const Decimal quantity = market_quantity(order);
  Decimal money = order.price * quantity;
  if (order.type == OrderType::kMarket) {
    money = markets_[order.symbol].book.sweep(order.side, std::nullopt, quantity).quote;
  }
  if (order.side == Side::kBuy && options_.fees_in_quote) {
    money += money * std::max(options_.maker_fee, options_.taker_fee);
  }
  const Balance& base = balances_.find(symbol.base)->second;
  const Balance& quote = balances_.find(symbol.quote)->second;
  const bool buys = order.side == Side::kBuy;
  if (buys ? quote.free < money : base.free < quantity) return Reject::kInsufficientBalance;
  const Decimal after =
      buys ? base.free + base.locked + quantity : quote.free + quote.locked + money;
  if (after > Decimal::from_integer(kMaxBalance)) return Reject::kMaxPosition;
  return std::nullopt;
}

std::optional<Reject> Core::check(const NewOrder& order) const {
  DEFIB_ASSERT(order.symbol < markets_.size());
  const Market& market = markets_[order.symbol];
  const Symbol& symbol = symbols()[order.symbol];
  if (market.status != SymbolStatus::kTrading) return Reject::kMarketClosed;
  if (const auto reject = check_filters(order, symbol)) return reject;
  if (open_by_client_id_.contains(order.client_id)) return Reject::kDuplicate;
  if (market.open.size() >= kMaxOpenOrders) return Reject::kTooManyOrders;
  if (order.type == OrderType::kLimitMaker) {
    const std::optional<Decimal> best = market.book.best(opposite(order.side));
    if (best && crosses(order.side, order.price, *best)) return Reject::kWouldTake;
  }
  // What a market order needs is known when it comes to the market.
  if (order.trigger && order.type == OrderType::kMarket) return std::nullopt;
  return check_balance(order, symbol);
}

std::expected<Core::Placed, Reject> Core::place(const NewOrder& request) {
  DEFIB_ASSERT(started_ && !request.client_id.empty());
  if (const auto reject = check(request)) return std::unexpected(*reject);
  Order order;
  order.id = orders_.size() + 1;
  order.client_id = request.client_id;
  order.symbol = request.symbol;
  order.side = request.side;
  order.type = request.type;
  order.time_in_force = request.time_in_force;
  order.origin = request.origin;
  order.price = request.price;
  order.quantity = market_quantity(request);
  order.quote_quantity = request.quote_quantity;
  order.created_us = order.updated_us = now_us_;
  order.visible_us = now_us_ + request.visible_after_us;
  order.trigger = request.trigger;
  order.waits = request.trigger.has_value();
  if (options_.fees_in_quote && order.side == Side::kBuy) {
    order.fee_reserve = std::max(options_.maker_fee, options_.taker_fee);
  }
  const Placed placed{order.id, next_trade_id_};
  const bool waits = order.waits;
  commit(OrderAccepted{std::move(order), request.fault});
  if (!waits) enter_market(placed.order_id);
  run_triggers(request.symbol);
  return placed;
}

void Core::enter_market(std::uint64_t order_id) {
  const Order& order = orders_[order_id - 1];
  const bool market_order = order.type == OrderType::kMarket;
  const std::optional<Decimal> limit =
      market_order ? std::nullopt : std::optional<Decimal>(order.price);
  const Taker taker{order.id, order.side, limit, order.quantity};
  Book& book = markets_[order.symbol].book;
  const bool killed = order.time_in_force == TimeInForce::kFok &&
                      book.sweep(taker.side, limit, taker.quantity).quantity < taker.quantity;
  const Decimal rest =
      killed || taker.quantity.is_zero() ? taker.quantity : execute(order.symbol, taker);
  if (!is_open(order.status)) return;
  if (market_order || order.time_in_force != TimeInForce::kGtc) {
    close(order, OrderStatus::kExpired, {});
  } else {
    book.rest(order.side, order.price, order.id, rest);
  }
}

// ---- Conditional orders.

Decimal Core::last_price(std::uint32_t symbol) const {
  const Market& market = markets_[symbol];
  return market.last.is_zero() ? market.price : market.last;
}

bool Core::is_reached(const Trigger& trigger, std::uint32_t symbol) const {
  const Decimal price = trigger.by_mark ? markets_[symbol].price : last_price(symbol);
  return trigger.up ? price >= trigger.price : price <= trigger.price;
}

bool Core::would_trigger(const NewOrder& order) const {
  return order.trigger && is_reached(*order.trigger, order.symbol);
}

void Core::run_triggers(std::uint32_t symbol) {
  const Market& market = markets_[symbol];
  if (market.status != SymbolStatus::kTrading) return;
  for (;;) {
    const auto reached = std::ranges::find_if(market.waiting, [&](std::uint64_t id) {
      return is_reached(*orders_[id - 1].trigger, symbol);
    });
    if (reached == market.waiting.end()) return;
    trigger(*reached);
  }
}

void Core::trigger(std::uint64_t order_id) {
  const Order& order = orders_[order_id - 1];
  const bool by_mark = order.trigger->by_mark;
  commit(Triggered{order_id, by_mark ? reference_price(order.symbol) : last_price(order.symbol)});
  NewOrder now;
  now.symbol = order.symbol;
  now.side = order.side;
  now.type = order.type;
  now.quantity = order.quantity;
  // A limit order has held what it needs since it was placed.
  if (order.type == OrderType::kMarket && check_balance(now, symbols()[order.symbol])) {
    close(order, OrderStatus::kExpired, {});
    return;
  }
  enter_market(order_id);
}

bool Core::cancel(std::uint64_t order_id, std::string_view cancel_id) {
  const Order* order = find_order(order_id);
  if (order == nullptr || !is_open(order->status)) return false;
  close(*order, OrderStatus::kCancelled, cancel_id);
  return true;
}

void Core::close(const Order& order, OrderStatus status, std::string_view cancel_id) {
  markets_[order.symbol].book.remove(order.id);
  commit(OrderClosed{order.id, status, std::string(cancel_id)});
}

Decimal Core::execute(std::uint32_t symbol, const Taker& taker) {
  Book& book = markets_[symbol].book;
  const Side resting = opposite(taker.side);
  Decimal remaining = taker.quantity;
  while (!remaining.is_zero()) {
    const std::optional<Decimal> price = book.best(resting);
    if (!price || !crosses(taker.side, taker.limit, *price)) break;
    const Book::Entry maker = book.front(resting);
    const Decimal quantity = std::min(remaining, maker.remaining);
    book.take_front(resting, quantity);
    if (maker.order_id != kMarketOrder) fill(maker.order_id, true, *price, quantity);
    if (taker.order_id != kMarketOrder) fill(taker.order_id, false, *price, quantity);
    markets_[symbol].last = *price;
    remaining -= quantity;
  }
  return remaining;
}

void Core::fill(std::uint64_t order_id, bool maker, Decimal price, Decimal quantity) {
  const Order& order = orders_[order_id - 1];
  const Symbol& symbol = symbols()[order.symbol];
  const bool buys = order.side == Side::kBuy;
  Trade trade;
  trade.id = next_trade_id_;
  trade.order_id = order_id;
  trade.symbol = order.symbol;
  trade.side = order.side;
  trade.maker = maker;
  trade.price = price;
  trade.quantity = quantity;
  trade.quote = price * quantity;
  const bool in_base = buys && !options_.fees_in_quote;
  trade.commission =
      (in_base ? quantity : trade.quote) * (maker ? options_.maker_fee : options_.taker_fee);
  trade.commission_asset = in_base ? symbol.base : symbol.quote;
  trade.time_us = now_us_;
  commit(Filled{std::move(trade)});
}

// ---- Administration.

Result<> Core::deposit(std::string_view asset, Decimal amount) {
  const auto found = balances_.find(asset);
  if (found == balances_.end()) {
    return Error(Code::kNotFound, fmt::format("the venue has no asset '{}'", asset));
  }
  Decimal highest = Decimal::from_integer(1);
  for (const Symbol& symbol : symbols()) {
    if (symbol.base == asset) highest = std::max(highest, symbol.max_price);
  }
  const Decimal most = Decimal::from_integer(kMaxDepositValue) / highest;
  if (amount <= Decimal() || deposits_.find(asset)->second + amount > most) {
    return Error(Code::kInvalidArgument,
                 fmt::format("deposits of {} must be above 0 and at most {} in all, not {}", asset,
                             most.to_string(), amount.to_string()));
  }
  commit(Deposited{std::string(asset), amount});
  return {};
}

Result<> Core::set_price(std::uint32_t symbol, Decimal price) {
  DEFIB_ASSERT(symbol < markets_.size());
  const Symbol& rules = symbols()[symbol];
  if (price < rules.tick || price > rules.max_price || !is_multiple(price, rules.tick)) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("a price of {} must be a multiple of {} up to {}, not {}", rules.name,
                    rules.tick.to_string(), rules.max_price.to_string(), price.to_string()));
  }
  markets_[symbol].book.remove_market_orders();
  commit(PriceAnchored{symbol, step_, price});
  run_triggers(symbol);
  return {};
}

void Core::set_status(std::uint32_t symbol, SymbolStatus status) {
  DEFIB_ASSERT(symbol < markets_.size());
  if (markets_[symbol].status == status) return;
  markets_[symbol].book.remove_market_orders();
  commit(StatusChanged{symbol, status});
}

void Core::record(OrderRefused refused) {
  commit(std::move(refused));
}
void Core::record(FaultFired fired) {
  commit(std::move(fired));
}

// ---- Queries.

Decimal Core::fees_held(std::string_view asset) const {
  Decimal held;
  for (std::uint32_t index = 0; index < markets_.size(); ++index) {
    if (symbols()[index].quote != asset) continue;
    for (const std::uint64_t id : markets_[index].open) {
      const Order& order = orders_[id - 1];
      if (order.fee_reserve.is_zero()) continue;
      held += locked_amount(order) - locked_money(order);
    }
  }
  return held;
}

std::optional<std::uint32_t> Core::find_symbol(std::string_view name) const {
  for (std::uint32_t index = 0; index < symbols().size(); ++index) {
    if (symbols()[index].name == name) return index;
  }
  return std::nullopt;
}

const Order* Core::find_order(std::uint64_t order_id) const {
  return order_id == 0 || order_id > orders_.size() ? nullptr : &orders_[order_id - 1];
}

const Order* Core::find_order(std::string_view client_id) const {
  const std::string key(client_id);
  if (const auto found = open_by_client_id_.find(key); found != open_by_client_id_.end()) {
    return &orders_[found->second - 1];
  }
  const auto found = last_by_client_id_.find(key);
  return found == last_by_client_id_.end() ? nullptr : &orders_[found->second - 1];
}

}  // namespace defib::paper
