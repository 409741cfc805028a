// The durable half of the core: events applied to the state, and the proofs about that state.

#include <fmt/core.h>

#include <algorithm>
#include <iterator>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/paper/core.h"

namespace defib::paper {
namespace {

// The cheapest asset's largest deposit; what live venues accept is never more.
constexpr std::int64_t kMaxDeposit = 20'000'000'000;

}  // namespace

Balance& Core::balance(std::string_view asset) {
  const auto found = balances_.find(asset);
  DEFIB_ASSERT(found != balances_.end());
  return found->second;
}

Decimal Core::locked_money(const Order& order) {
  if (order.type == OrderType::kMarket || !is_open(order.status)) return Decimal();
  return order.price * order.remaining();
}

// What an open order holds back: money and its fees for a limit buy, the asset for a limit sell,
// also while they wait for a trigger. Market orders are over within the call that brings them to
// the market and hold nothing. Products are cut off, never rounded up, so that the parts of an
// order never need more than the whole has held.
Decimal Core::locked_amount(const Order& order) {
  if (order.type == OrderType::kMarket || !is_open(order.status)) return Decimal();
  if (order.side == Side::kSell) return order.remaining();
  const Decimal money = locked_money(order);
  return money + money * order.fee_reserve;
}

Result<> Core::replay(const Event& event) {
  DEFIB_ASSERT_MESSAGE(!started_, "replay() comes before start()");
  if (const std::string why = contradiction(event); !why.empty()) {
    return Error(Code::kCorrupted,
                 fmt::format("event {} of the ledger contradicts those before it: {}", event.seq,
                             why))
        .with("seq", static_cast<std::int64_t>(event.seq));
  }
  now_us_ = event.at_us;
  apply(event);
  return {};
}

std::string Core::contradiction(const Event& event) const {
  if (event.seq != next_seq_) return fmt::format("expected number {}", next_seq_);
  if (event.at_us < now_us_) return "time runs backwards";
  const auto unknown_symbol = [this](std::uint32_t symbol) { return symbol >= markets_.size(); };
  if (const auto* started = std::get_if<Started>(&event.body)) {
    if (started->seed != options_.seed) return fmt::format("it has seed {}", started->seed);
    if (started->step_us <= 0) return "the market step is not positive";
  } else if (const auto* accepted = std::get_if<OrderAccepted>(&event.body)) {
    const Order& order = accepted->order;
    if (order.id != orders_.size() + 1) return fmt::format("order id {} is out of turn", order.id);
    if (unknown_symbol(order.symbol)) return "unknown symbol";
    if (open_by_client_id_.contains(order.client_id)) return "the client id is open already";
    const Symbol& symbol = symbols()[order.symbol];
    if (order.quantity < Decimal() || order.quantity > symbol.max_quantity ||
        order.price < Decimal() || order.price > symbol.max_price) {
      return "the order is out of its symbol's bounds";
    }
    const Decimal whole = Decimal::from_integer(1);
    if (order.fee_reserve < Decimal() || order.fee_reserve > whole) return "the fee is no part";
    if (order.trigger &&
        (order.trigger->price <= Decimal() || order.trigger->price > symbol.max_price)) {
      return "the trigger is out of its symbol's bounds";
    }
    const std::string& asset = order.side == Side::kBuy ? symbol.quote : symbol.base;
    if (balances_.find(asset)->second.free < locked_amount(order)) return "the balance is too low";
  } else if (const auto* filled = std::get_if<Filled>(&event.body)) {
    const Trade& trade = filled->trade;
    const Order* order = find_order(trade.order_id);
    if (order == nullptr || !is_open(order->status)) return "the order is not open";
    if (order->waits) return "the order still waits for its trigger";
    if (trade.id != next_trade_id_) return fmt::format("trade id {} is out of turn", trade.id);
    if (trade.symbol != order->symbol || trade.side != order->side) return "not the order's side";
    if (trade.quantity <= Decimal() || trade.quantity > order->remaining()) {
      return "the quantity exceeds what remains of the order";
    }
    if (trade.price <= Decimal() || trade.price > symbols()[trade.symbol].max_price ||
        trade.quote != trade.price * trade.quantity) {
      return "the price and the money do not fit";
    }
    if (trade.commission < Decimal() || trade.commission > std::max(trade.quantity, trade.quote)) {
      return "the commission is out of its bounds";
    }
    if (order->type != OrderType::kMarket && !crosses(order->side, order->price, trade.price)) {
      return "the price is worse than the order's limit";
    }
  } else if (const auto* triggered = std::get_if<Triggered>(&event.body)) {
    const Order* order = find_order(triggered->order_id);
    if (order == nullptr || !is_open(order->status)) return "the order is not open";
    if (!order->waits) return "the order waits for no trigger";
  } else if (const auto* closed = std::get_if<OrderClosed>(&event.body)) {
    const Order* order = find_order(closed->order_id);
    if (order == nullptr || !is_open(order->status)) return "the order is not open";
    if (is_open(closed->status)) return "the status is not an end";
  } else if (const auto* deposited = std::get_if<Deposited>(&event.body)) {
    if (!balances_.contains(deposited->asset)) return "unknown asset";
    if (deposited->amount <= Decimal() || deposited->amount > Decimal::from_integer(kMaxDeposit)) {
      return "the amount is out of its bounds";
    }
  } else if (const auto* changed = std::get_if<StatusChanged>(&event.body)) {
    if (unknown_symbol(changed->symbol)) return "unknown symbol";
  } else if (const auto* anchored = std::get_if<PriceAnchored>(&event.body)) {
    if (unknown_symbol(anchored->symbol)) return "unknown symbol";
    if (anchored->price <= Decimal() || anchored->price > symbols()[anchored->symbol].max_price) {
      return "the price is out of its bounds";
    }
  }
  return {};
}

void Core::apply(const Event& event) {
  DEFIB_ASSERT(event.seq == next_seq_);
  ++next_seq_;
  std::visit([&](const auto& body) { apply_body(event, body); }, event.body);
}

void Core::apply_body(const Event& event, const Started& started) {
  const std::uint64_t step = step_at(event.at_us);
  forward(step);
  epoch_us_ = event.at_us;
  step_us_ = started.step_us;
  base_step_ = step;
}

void Core::apply_body(const Event& event, const OrderAccepted& accepted) {
  const Order& order = accepted.order;
  DEFIB_ASSERT(order.id == orders_.size() + 1);
  orders_.push_back(order);
  orders_.back().waits = order.trigger.has_value();
  orders_.back().working_us = order.trigger ? 0 : event.at_us;
  orders_.back().priority = event.seq;
  open_by_client_id_[order.client_id] = order.id;
  last_by_client_id_[order.client_id] = order.id;
  Market& market = markets_[order.symbol];
  market.open.insert(market.open.end(), order.id);
  if (order.trigger) market.waiting.insert(market.waiting.end(), order.id);
  market.history.push_back(order.id);
  const Symbol& symbol = symbols()[order.symbol];
  Balance& spent = balance(order.side == Side::kBuy ? symbol.quote : symbol.base);
  const Decimal amount = locked_amount(order);
  spent.free -= amount;
  spent.locked += amount;
}

void Core::apply_body(const Event&, const OrderRefused&) {}
void Core::apply_body(const Event&, const FaultFired&) {}

void Core::apply_body(const Event& event, const Filled& filled) {
  const Trade& trade = filled.trade;
  Order& order = orders_[trade.order_id - 1];
  const Symbol& symbol = symbols()[order.symbol];
  const bool buys = order.side == Side::kBuy;
  const Decimal locked_before = locked_amount(order);
  order.executed += trade.quantity;
  order.executed_quote += trade.quote;
  order.updated_us = event.at_us;
  order.status = order.remaining().is_zero() ? OrderStatus::kFilled : OrderStatus::kPartiallyFilled;
  const Decimal released = locked_before - locked_amount(order);
  // A fill better than the limit returns the difference to what is free.
  Balance& spent = balance(buys ? symbol.quote : symbol.base);
  spent.locked -= released;
  spent.free += released - (buys ? trade.quote : trade.quantity);
  balance(buys ? symbol.base : symbol.quote).free += buys ? trade.quantity : trade.quote;
  balance(trade.commission_asset).free -= trade.commission;
  order.fees += trade.commission;
  fees_[trade.commission_asset] += trade.commission;
  market_[symbol.base] += buys ? -trade.quantity : trade.quantity;
  market_[symbol.quote] += buys ? trade.quote : -trade.quote;
  Market& market = markets_[order.symbol];
  market.trades.push_back(trade);
  next_trade_id_ = trade.id + 1;
  if (order.status != OrderStatus::kFilled) return;
  market.open.erase(order.id);
  open_by_client_id_.erase(order.client_id);
}

void Core::apply_body(const Event& event, const Triggered& triggered) {
  Order& order = orders_[triggered.order_id - 1];
  order.waits = false;
  order.working_us = order.updated_us = event.at_us;
  order.priority = event.seq;
  markets_[order.symbol].waiting.erase(order.id);
}

void Core::apply_body(const Event& event, const OrderClosed& closed) {
  Order& order = orders_[closed.order_id - 1];
  const Symbol& symbol = symbols()[order.symbol];
  Balance& spent = balance(order.side == Side::kBuy ? symbol.quote : symbol.base);
  const Decimal amount = locked_amount(order);
  spent.locked -= amount;
  spent.free += amount;
  order.status = closed.status;
  order.updated_us = event.at_us;
  markets_[order.symbol].open.erase(order.id);
  markets_[order.symbol].waiting.erase(order.id);
  open_by_client_id_.erase(order.client_id);
}

void Core::apply_body(const Event&, const Deposited& deposited) {
  balance(deposited.asset).free += deposited.amount;
  deposits_[deposited.asset] += deposited.amount;
}

void Core::apply_body(const Event&, const StatusChanged& changed) {
  markets_[changed.symbol].status = changed.status;
}

void Core::apply_body(const Event&, const PriceAnchored& anchored) {
  markets_[anchored.symbol].price = anchored.price;
  markets_[anchored.symbol].step = anchored.step;
}

std::string Core::digest() const {
  std::string text;
  auto out = std::back_inserter(text);
  for (const Order& order : orders_) {
    fmt::format_to(out, "order {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}\n", order.id,
                   order.client_id, order.symbol, to_string(order.side), to_string(order.type),
                   to_string(order.time_in_force), to_string(order.status), to_string(order.origin),
                   order.price.units(), order.quantity.units(), order.quote_quantity.units(),
                   order.executed.units(), order.executed_quote.units(), order.created_us,
                   order.updated_us, order.visible_us, locked_amount(order).units());
    fmt::format_to(out, "state {} {} {} {} {}\n", order.waits, order.working_us, order.priority,
                   order.fee_reserve.units(), order.fees.units());
    if (!order.trigger) continue;
    fmt::format_to(out, "trigger {} {} {}\n", order.trigger->price.units(), order.trigger->up,
                   order.trigger->by_mark);
  }
  for (const Market& market : markets_) {
    fmt::format_to(out, "market {} {}\n", to_string(market.status), market.open.size());
    for (const Trade& trade : market.trades) {
      fmt::format_to(out, "trade {} {} {} {} {} {} {} {} {}\n", trade.id, trade.order_id,
                     to_string(trade.side), trade.maker, trade.price.units(),
                     trade.quantity.units(), trade.commission.units(), trade.commission_asset,
                     trade.time_us);
    }
  }
  for (const auto& [asset, amounts] : balances_) {
    fmt::format_to(out, "balance {} {} {} {} {} {}\n", asset, amounts.free.units(),
                   amounts.locked.units(), deposits_.at(asset).units(), market_.at(asset).units(),
                   fees_.at(asset).units());
  }
  return sha256_hex(text);
}

std::string Core::check_invariants() const {
  std::map<std::string, Decimal, std::less<>> locked;
  for (std::uint32_t index = 0; index < markets_.size(); ++index) {
    const Market& market = markets_[index];
    const std::string& name = symbols()[index].name;
    const auto bid = market.book.best(Side::kBuy);
    const auto ask = market.book.best(Side::kSell);
    if (bid && ask && *bid >= *ask) return fmt::format("the book of {} is crossed", name);
    for (const std::uint64_t id : market.open) {
      const Order& order = orders_[id - 1];
      if (!is_open(order.status)) return fmt::format("ended order {} is listed as open", id);
      if (order.waits != market.waiting.contains(id)) {
        return fmt::format("order {} and the list of waiting orders differ", id);
      }
      const Symbol& symbol = symbols()[index];
      locked[order.side == Side::kBuy ? symbol.quote : symbol.base] += locked_amount(order);
    }
  }
  for (const Order& order : orders_) {
    if (order.executed > order.quantity) return fmt::format("order {} is overfilled", order.id);
    if (is_open(order.status) != markets_[order.symbol].open.contains(order.id)) {
      return fmt::format("order {} and the list of open orders differ", order.id);
    }
  }
  for (const auto& [asset, amounts] : balances_) {
    if (amounts.free < Decimal() || amounts.locked < Decimal()) {
      return fmt::format("the balance of {} is negative", asset);
    }
    if (amounts.locked != locked[asset]) {
      return fmt::format("{} of {} is locked, but open orders need {}", amounts.locked.to_string(),
                         asset, locked[asset].to_string());
    }
    if (amounts.free + amounts.locked + market_.at(asset) + fees_.at(asset) !=
        deposits_.at(asset)) {
      return fmt::format("{} was created or lost", asset);
    }
  }
  return {};
}

}  // namespace defib::paper
