// The dialect's signed endpoints: orders, account and trades.

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "defib/base/assert.h"
#include "defib/paper/binance.h"
#include "defib/paper/binance_call.h"

namespace defib::paper {
namespace {

constexpr std::int64_t kDefaultLimit = 500;
constexpr std::int64_t kMaxLimit = 1000;
constexpr std::int64_t kMaxHistoryMs = 86'400'000;

constexpr Micros millis(Micros time_us) {
  return time_us / 1000;
}
// Eight digits after the point, as the venue prints all amounts.
std::string fixed(Decimal value) {
  return value.to_string(8);
}

Binance::Refused invalid(int code, std::string_view message) {
  return {400, code, std::string(message)};
}

// The conditional types; the others are the core's own.
struct Conditional {
  std::string_view name;
  OrderType type;
  bool stop;
};
constexpr std::array<Conditional, 4> kConditional = {{
    {"STOP_LOSS", OrderType::kMarket, true},
    {"STOP_LOSS_LIMIT", OrderType::kLimit, true},
    {"TAKE_PROFIT", OrderType::kMarket, false},
    {"TAKE_PROFIT_LIMIT", OrderType::kLimit, false},
}};

std::string_view type_name(const Order& order) {
  for (const Conditional& one : kConditional) {
    if (order.trigger && one.type == order.type && one.stop == order.is_stop()) return one.name;
  }
  return to_string(order.type);
}

Decimal stop_price(const Order& order) {
  return order.trigger ? order.trigger->price : Decimal();
}

// Since when it can trade, in milliseconds; -1: not yet.
std::int64_t working_time(const Order& order) {
  return order.waits ? -1 : millis(order.working_us);
}

// The members that all renderings of an order's state share.
void append_state(std::string& out, const Order& order) {
  fmt::format_to(
      std::back_inserter(out),
      R"("price":"{}","origQty":"{}","executedQty":"{}","origQuoteOrderQty":"{}",)"
      R"("cummulativeQuoteQty":"{}","status":"{}","timeInForce":"{}","type":"{}","side":"{}",)",
      fixed(order.price), fixed(order.quantity), fixed(order.executed), fixed(order.quote_quantity),
      fixed(order.executed_quote), to_string(order.status), to_string(order.time_in_force),
      type_name(order), to_string(order.side));
}

}  // namespace

Binance::Refused Binance::refusal_of(Reject reject) {
  switch (reject) {
    case Reject::kMarketClosed:
      return invalid(-2010, "Market is closed.");
    case Reject::kPriceFilter:
      return invalid(-1013, "Filter failure: PRICE_FILTER");
    case Reject::kLotSize:
      return invalid(-1013, "Filter failure: LOT_SIZE");
    case Reject::kNotional:
      return invalid(-1013, "Filter failure: NOTIONAL");
    case Reject::kMaxPosition:
      return invalid(-1013, "Filter failure: MAX_POSITION");
    case Reject::kTooManyOrders:
      return invalid(-1013, "Filter failure: MAX_NUM_ORDERS");
    case Reject::kDuplicate:
      return invalid(-2010, "Duplicate order sent.");
    case Reject::kInsufficientBalance:
      return invalid(-2010, "Account has insufficient balance for requested action.");
    case Reject::kWouldTake:
      return invalid(-2010, "Order would immediately match and take.");
  }
  DEFIB_UNREACHABLE("a refusal without a text");
}

// ---- Placing.

void Binance::read_type(Call& call, NewOrder& order) {
  const Refused unknown = invalid(-1116, "Invalid orderType.");
  const std::string_view name = call.text("type");
  const auto conditional = std::ranges::find(kConditional, name, &Conditional::name);
  if (conditional == kConditional.end()) {
    const std::optional<OrderType> plain = from_string<OrderType>(name);
    if (!plain) call.fail(unknown);
    order.type = plain.value_or(OrderType::kLimit);
    call.forbid("stopPrice");
    return;
  }
  order.type = conditional->type;
  call.forbid("quoteOrderQty");
  order.trigger =
      Trigger{call.decimal("stopPrice"), conditional->stop == (order.side == Side::kBuy), false};
}

std::expected<NewOrder, Binance::Refused> Binance::read_new_order(Call& call) const {
  NewOrder order;
  order.symbol = *call.symbol();
  order.side = call.choice<Side>("side", invalid(-1117, "Invalid side."));
  read_type(call, order);
  const Refused bad_time_in_force = invalid(-1115, "Invalid timeInForce.");
  if (order.type == OrderType::kMarket) {
    call.forbid("price");
    if (call.has("timeInForce")) {
      call.fail(invalid(-1114, "TimeInForce parameter sent when not required."));
    }
    if (call.has("quantity") && call.has("quoteOrderQty")) {
      call.fail(invalid(-1128, "Combination of optional parameters invalid."));
    }
    if (call.has("quoteOrderQty")) {
      order.quote_quantity = call.decimal("quoteOrderQty");
    } else {
      order.quantity = call.decimal("quantity");
    }
  } else {
    if (order.type == OrderType::kLimit) {
      order.time_in_force = call.choice<TimeInForce>("timeInForce", bad_time_in_force);
    } else {
      call.forbid("timeInForce");
    }
    call.forbid("quoteOrderQty");
    order.quantity = call.decimal("quantity");
    order.price = call.decimal("price");
  }
  order.client_id = call.client_id("newClientOrderId");
  if (order.client_id.empty()) order.client_id = fmt::format("paper{}", core_.orders().size() + 1);
  if (const auto mode = call.optional_text("selfTradePreventionMode"); mode && *mode != "NONE") {
    call.fail(invalid(-1130, "Data sent for parameter 'selfTradePreventionMode' is not valid."));
  }
  const std::string_view response =
      call.optional_text("newOrderRespType").value_or(std::string_view("FULL"));
  if (response != "ACK" && response != "RESULT" && response != "FULL") {
    call.fail(Call::illegal("newOrderRespType", "ACK, RESULT, FULL"));
  }
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  // A market order by money of zero would be read as one without an amount.
  if (order.type == OrderType::kMarket && order.quantity.is_zero() &&
      order.quote_quantity.is_zero()) {
    return std::unexpected(refusal_of(Reject::kLotSize));
  }
  if (core_.would_trigger(order)) {
    return std::unexpected(invalid(-2010, "Stop price would trigger immediately."));
  }
  order.fault = call.fault();
  order.visible_after_us = call.visible_after_us();
  return order;
}

Binance::Answer Binance::new_order(Call& call) {
  std::expected<NewOrder, Refused> order = read_new_order(call);
  if (!order) return std::unexpected(std::move(order.error()));
  const std::string response_type(
      call.optional_text("newOrderRespType").value_or(std::string_view()));
  const bool brief = order->type == OrderType::kLimitMaker || order->trigger.has_value();
  const std::expected<Core::Placed, Reject> placed = core_.place(*std::move(order));
  if (!placed) return std::unexpected(refusal_of(placed.error()));
  const std::string_view usual = brief ? "ACK" : "FULL";
  return placed_body(*placed, response_type.empty() ? usual : std::string_view(response_type));
}

std::string Binance::placed_body(const Core::Placed& placed, std::string_view response_type) const {
  const Order& order = *core_.find_order(placed.order_id);
  std::string out = fmt::format(
      R"({{"symbol":"{}","orderId":{},"orderListId":-1,"clientOrderId":"{}","transactTime":{})",
      core_.symbols()[order.symbol].name, order.id, order.client_id, millis(order.created_us));
  if (response_type == "ACK") return out + "}";
  out += ',';
  append_state(out, order);
  if (order.trigger) {
    fmt::format_to(std::back_inserter(out), R"("stopPrice":"{}",)", fixed(stop_price(order)));
  }
  fmt::format_to(std::back_inserter(out), R"("workingTime":{},"selfTradePreventionMode":"NONE")",
                 working_time(order));
  if (response_type == "RESULT") return out + "}";
  out += R"(,"fills":[)";
  const std::vector<Trade>& trades = core_.trades(order.symbol);
  const auto first = std::ranges::lower_bound(trades, placed.first_trade_id, {}, &Trade::id);
  bool separate = false;
  for (auto trade = first; trade != trades.end(); ++trade) {
    if (trade->order_id != order.id) continue;
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"price":"{}","qty":"{}","commission":"{}","commissionAsset":"{}","tradeId":{}}})",
        separate ? "," : "", fixed(trade->price), fixed(trade->quantity), fixed(trade->commission),
        trade->commission_asset, trade->id);
    separate = true;
  }
  return out + "]}";
}

Binance::Answer Binance::test_order(Call& call) {
  const std::expected<NewOrder, Refused> order = read_new_order(call);
  if (!order) return std::unexpected(order.error());
  if (const auto reject = core_.check(*order)) return std::unexpected(refusal_of(*reject));
  return "{}";
}

// ---- Queries and cancels of single orders.

// Reads symbol, orderId and origClientOrderId; nullptr where there is no such order.
std::expected<const Order*, Binance::Refused> Binance::find_order(Call& call,
                                                                  bool visible_only) const {
  const std::uint32_t symbol = *call.symbol();
  const std::optional<std::int64_t> id = call.integer("orderId");
  const std::optional<std::string_view> client_id = call.optional_text("origClientOrderId");
  if (!id && !client_id) {
    call.fail(invalid(-1102,
                      "Param 'origClientOrderId' or 'orderId' must be sent, but both were "
                      "empty/null!"));
  }
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  const Order* order =
      id ? core_.find_order(static_cast<std::uint64_t>(*id)) : core_.find_order(*client_id);
  if (order == nullptr || order->symbol != symbol) return nullptr;
  if (id && client_id && order->client_id != *client_id) return nullptr;
  if (visible_only && !visible(*order)) return nullptr;
  return order;
}

Binance::Answer Binance::query_order(Call& call) {
  const std::expected<const Order*, Refused> order = find_order(call, true);
  if (!order) return std::unexpected(order.error());
  if (*order == nullptr) return std::unexpected(invalid(-2013, "Order does not exist."));
  std::string out;
  append_order(out, **order);
  return out;
}

Binance::Answer Binance::cancel_order(Call& call) {
  std::string cancel_id = call.client_id("newClientOrderId");
  // The matching engine knows the order even where queries do not show it yet.
  const std::expected<const Order*, Refused> order = find_order(call, false);
  if (!order) return std::unexpected(order.error());
  if (*order == nullptr || !is_open((*order)->status)) {
    return std::unexpected(invalid(-2011, "Unknown order sent."));
  }
  const std::uint64_t id = (*order)->id;
  if (cancel_id.empty()) cancel_id = fmt::format("cancel{}", core_.last_seq() + 1);
  core_.cancel(id, cancel_id);
  std::string out;
  append_cancelled(out, *core_.find_order(id), cancel_id);
  return out;
}

void Binance::append_order(std::string& out, const Order& order) const {
  fmt::format_to(std::back_inserter(out),
                 R"({{"symbol":"{}","orderId":{},"orderListId":-1,"clientOrderId":"{}",)",
                 core_.symbols()[order.symbol].name, order.id, order.client_id);
  append_state(out, order);
  fmt::format_to(std::back_inserter(out),
                 R"("stopPrice":"{}","icebergQty":"0.00000000","time":{},"updateTime":{},)"
                 R"("isWorking":{},"workingTime":{},"selfTradePreventionMode":"NONE"}})",
                 fixed(stop_price(order)), millis(order.created_us), millis(order.updated_us),
                 !order.waits, working_time(order));
}

void Binance::append_cancelled(std::string& out, const Order& order,
                               std::string_view cancel_id) const {
  fmt::format_to(std::back_inserter(out),
                 R"({{"symbol":"{}","origClientOrderId":"{}","orderId":{},"orderListId":-1,)"
                 R"("clientOrderId":"{}","transactTime":{},)",
                 core_.symbols()[order.symbol].name, order.client_id, order.id, cancel_id,
                 millis(order.updated_us));
  append_state(out, order);
  out += R"("selfTradePreventionMode":"NONE"})";
}

// ---- Lists.

Binance::Answer Binance::open_orders(Call& call) {
  const std::optional<std::uint32_t> symbol = call.symbol(false);
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  std::string out = "[";
  for (std::uint32_t index = 0; index < core_.symbols().size(); ++index) {
    if (symbol && *symbol != index) continue;
    for (const std::uint64_t id : core_.open_orders(index)) {
      const Order& order = *core_.find_order(id);
      if (!visible(order)) continue;
      if (out.size() > 1) out += ',';
      append_order(out, order);
    }
  }
  return out + "]";
}

Binance::Answer Binance::cancel_open_orders(Call& call) {
  const std::uint32_t symbol = *call.symbol();
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  const std::vector<std::uint64_t> ids(core_.open_orders(symbol).begin(),
                                       core_.open_orders(symbol).end());
  if (ids.empty()) return std::unexpected(invalid(-2011, "Unknown order sent."));
  std::string out = "[";
  for (const std::uint64_t id : ids) {
    const std::string cancel_id = fmt::format("cancel{}", core_.last_seq() + 1);
    core_.cancel(id, cancel_id);
    if (out.size() > 1) out += ',';
    append_cancelled(out, *core_.find_order(id), cancel_id);
  }
  return out + "]";
}

Binance::Answer Binance::all_orders(Call& call) {
  const std::uint32_t symbol = *call.symbol();
  const std::optional<std::int64_t> from_id = call.integer("orderId");
  const std::optional<std::int64_t> start_ms = call.integer("startTime");
  const std::optional<std::int64_t> end_ms = call.integer("endTime");
  const std::size_t limit = call.limit(kDefaultLimit, kMaxLimit);
  if (start_ms && end_ms && (*end_ms < *start_ms || *end_ms - *start_ms > kMaxHistoryMs)) {
    call.fail(invalid(-1127, "More than 24 hours between startTime and endTime."));
  }
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  const auto wanted = [&](const Order& order) {
    const std::int64_t created_ms = millis(order.created_us);
    return visible(order) && (!from_id || order.id >= static_cast<std::uint64_t>(*from_id)) &&
           (!start_ms || created_ms >= *start_ms) && (!end_ms || created_ms <= *end_ms);
  };
  // From an id or a start upward; without either, the latest.
  std::vector<const Order*> found;
  const std::vector<std::uint64_t>& history = core_.order_history(symbol);
  if (from_id || start_ms) {
    auto id = std::ranges::lower_bound(history, static_cast<std::uint64_t>(from_id.value_or(0)));
    for (; id != history.end() && found.size() < limit; ++id) {
      if (const Order& order = *core_.find_order(*id); wanted(order)) found.push_back(&order);
    }
  } else {
    for (auto id = history.rbegin(); id != history.rend() && found.size() < limit; ++id) {
      if (const Order& order = *core_.find_order(*id); wanted(order)) found.push_back(&order);
    }
    std::ranges::reverse(found);
  }
  std::string out = "[";
  for (const Order* order : found) {
    if (out.size() > 1) out += ',';
    append_order(out, *order);
  }
  return out + "]";
}

Binance::Answer Binance::account(Call& call) {
  const std::string_view omit = call.optional_text("omitZeroBalances").value_or("false");
  if (omit != "true" && omit != "false") {
    call.fail(Call::illegal("omitZeroBalances", "true, false"));
  }
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  const Decimal maker = core_.options().maker_fee;
  const Decimal taker = core_.options().taker_fee;
  constexpr std::int64_t kBasisPoint = Decimal::kScale / 10'000;
  std::string out = fmt::format(
      R"({{"makerCommission":{},"takerCommission":{},"buyerCommission":0,"sellerCommission":0,)"
      R"("commissionRates":{{"maker":"{}","taker":"{}","buyer":"0.00000000",)"
      R"("seller":"0.00000000"}},"canTrade":true,"canWithdraw":false,"canDeposit":false,)"
      R"("brokered":false,"requireSelfTradePrevention":false,"preventSor":false,)"
      R"("updateTime":{},"accountType":"SPOT","balances":[)",
      maker.units() / kBasisPoint, taker.units() / kBasisPoint, fixed(maker), fixed(taker),
      millis(core_.now()));
  bool separate = false;
  for (const auto& [asset, balance] : core_.balances()) {
    if (omit == "true" && balance == Balance{}) continue;
    fmt::format_to(std::back_inserter(out), R"({}{{"asset":"{}","free":"{}","locked":"{}"}})",
                   separate ? "," : "", asset, fixed(balance.free), fixed(balance.locked));
    separate = true;
  }
  return out + R"(],"permissions":["SPOT"],"uid":1})";
}

Binance::Answer Binance::my_trades(Call& call) {
  const std::uint32_t symbol = *call.symbol();
  const std::optional<std::int64_t> order_id = call.integer("orderId");
  const std::optional<std::int64_t> from_id = call.integer("fromId");
  const std::optional<std::int64_t> start_ms = call.integer("startTime");
  const std::optional<std::int64_t> end_ms = call.integer("endTime");
  const std::size_t limit = call.limit(kDefaultLimit, kMaxLimit);
  if (from_id && (start_ms || end_ms)) {
    call.fail(invalid(-1128, "Combination of optional parameters invalid."));
  }
  if (start_ms && end_ms && (*end_ms < *start_ms || *end_ms - *start_ms > kMaxHistoryMs)) {
    call.fail(invalid(-1127, "More than 24 hours between startTime and endTime."));
  }
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  const auto wanted = [&](const Trade& trade) {
    const std::int64_t at_ms = millis(trade.time_us);
    return (!order_id || trade.order_id == static_cast<std::uint64_t>(*order_id)) &&
           (!start_ms || at_ms >= *start_ms) && (!end_ms || at_ms <= *end_ms);
  };
  // From an id or a start upward; without either, the latest.
  std::vector<const Trade*> found;
  const std::vector<Trade>& trades = core_.trades(symbol);
  if (from_id || start_ms) {
    auto trade = std::ranges::lower_bound(trades, static_cast<std::uint64_t>(from_id.value_or(0)),
                                          {}, &Trade::id);
    for (; trade != trades.end() && found.size() < limit; ++trade) {
      if (wanted(*trade)) found.push_back(&*trade);
    }
  } else {
    for (auto trade = trades.rbegin(); trade != trades.rend() && found.size() < limit; ++trade) {
      if (wanted(*trade)) found.push_back(&*trade);
    }
    std::ranges::reverse(found);
  }
  std::string out = "[";
  for (const Trade* trade : found) {
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"symbol":"{}","id":{},"orderId":{},"orderListId":-1,"price":"{}","qty":"{}",)"
        R"("quoteQty":"{}","commission":"{}","commissionAsset":"{}","time":{},"isBuyer":{},)"
        R"("isMaker":{},"isBestMatch":true}})",
        out.size() > 1 ? "," : "", core_.symbols()[symbol].name, trade->id, trade->order_id,
        fixed(trade->price), fixed(trade->quantity), fixed(trade->quote), fixed(trade->commission),
        trade->commission_asset, millis(trade->time_us), trade->side == Side::kBuy, trade->maker);
  }
  return out + "]";
}

}  // namespace defib::paper
