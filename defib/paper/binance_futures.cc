#include "defib/paper/binance_futures.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>

#include "defib/base/assert.h"
#include "defib/paper/crypto.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

constexpr Micros kFutureAllowanceUs = 1'000'000;
constexpr std::int64_t kDefaultWindowMs = 5'000;
constexpr std::size_t kMaxTrades = 1'000;

Dialect::Reply reply_of(int status, std::string body) {
  Dialect::Reply reply;
  reply.response.status = status;
  reply.response.headers = {{"Content-Type", "application/json"}};
  reply.response.body = std::move(body);
  return reply;
}
Dialect::Reply refusal(int status, int code, std::string_view text) {
  return reply_of(status, wire::Json::object({{"code", code}, {"msg", text}}).dump());
}
Dialect::Reply missing(std::string_view name) {
  return refusal(
      400, -1102,
      fmt::format("Mandatory parameter '{}' was not sent, was empty/null, or malformed.", name));
}

std::int64_t integer(std::optional<std::string_view> text, std::int64_t otherwise) {
  if (!text) return otherwise;
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text->data(), text->data() + text->size(), value);
  return problem == std::errc() && end == text->data() + text->size() ? value : otherwise;
}

struct Conditional {
  std::string_view name;
  OrderType type;
  bool stop;
};
constexpr std::array<Conditional, 4> kConditional = {{
    {"STOP_MARKET", OrderType::kMarket, true},
    {"STOP", OrderType::kLimit, true},
    {"TAKE_PROFIT_MARKET", OrderType::kMarket, false},
    {"TAKE_PROFIT", OrderType::kLimit, false},
}};

std::string_view algo_status(const Order& order) {
  if (order.waits) return is_open(order.status) ? "NEW" : "CANCELED";
  return is_open(order.status) ? "TRIGGERED" : "FINISHED";
}

int code_of(Reject reject) {
  switch (reject) {
    case Reject::kPriceFilter:
    case Reject::kLotSize:
      return -1111;
    case Reject::kNotional:
      return -4164;
    case Reject::kDuplicate:
      return -4116;
    case Reject::kInsufficientBalance:
      return -2019;
    default:
      return -2010;
  }
}

}  // namespace

BinanceFutures::BinanceFutures(Core& core, FaultPlan& faults, Options options)
    : FaultedDialect(core, faults), options_(std::move(options)) {}

void BinanceFutures::recognize(Pending& pending) const {
  const bool conditional = pending.path == "/fapi/v1/algoOrder";
  if (pending.request.method != "POST" || (!conditional && pending.path != "/fapi/v1/order"))
    return;
  pending.places = true;
  Parameters parameters(pending.query, pending.request.body);
  const std::string_view name = conditional ? "clientAlgoId" : "newClientOrderId";
  pending.client_id = parameters.take(name).value_or("").substr(0, 64);
}

void BinanceFutures::tick(Micros now) {
  now_ = now;
  for (auto at = cancel_at_us_.begin(); at != cancel_at_us_.end();) {
    if (now < at->second) {
      ++at;
      continue;
    }
    for (const std::uint64_t id : open_ids(at->first, false)) {
      core_.cancel(id, fmt::format("cancel{}", core_.last_seq() + 1));
    }
    at = cancel_at_us_.erase(at);
  }
}

std::string BinanceFutures::text_of(Reject reject) const {
  switch (reject) {
    case Reject::kMarketClosed:
      return "Market is closed.";
    case Reject::kPriceFilter:
    case Reject::kLotSize:
      return "Precision is over the maximum defined for this asset.";
    case Reject::kNotional:
      return "Order's notional must be no smaller than the minimum.";
    case Reject::kMaxPosition:
    case Reject::kTooManyOrders:
      return "Reach max open order limit.";
    case Reject::kDuplicate:
      return "ClientOrderId is duplicated.";
    case Reject::kInsufficientBalance:
      return "Margin is insufficient.";
    case Reject::kWouldTake:
      return "Due to the order could not be executed as maker, the Post Only order will be "
             "rejected.";
  }
  DEFIB_UNREACHABLE("a refusal without a text");
}

// ---- First half.

std::optional<Dialect::Reply> BinanceFutures::check_time(const Pending& pending, Micros now) const {
  Parameters parameters(pending.query, pending.request.body);
  const std::int64_t timestamp = integer(parameters.take("timestamp"), -1) * 1'000;
  const std::int64_t window = integer(parameters.take("recvWindow"), kDefaultWindowMs) * 1'000;
  if (timestamp < 0) return missing("timestamp");
  const Micros server = server_now(now);
  if (timestamp >= server + kFutureAllowanceUs) {
    return refusal(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.");
  }
  if (server - timestamp > window) {
    return refusal(400, -1021, "Timestamp for this request is outside of the recvWindow.");
  }
  return std::nullopt;
}

std::optional<Dialect::Reply> BinanceFutures::admit(Pending& pending, Micros now) {
  const bool is_public = pending.path == "/fapi/v1/time" ||
                         pending.path == "/fapi/v1/exchangeInfo" ||
                         pending.path.starts_with("/fapi/v1/ticker/");
  if (is_public) return std::nullopt;
  if (pending.request.header("X-MBX-APIKEY") != options_.api_key) {
    return refusal(401, -2015, "Invalid API-key, IP, or permissions for action.");
  }
  Parameters parameters(pending.query, pending.request.body);
  const std::string_view sent = parameters.take("signature").value_or("");
  const auto payload = Parameters::signed_payload(pending.query, pending.request.body);
  if (!payload || !same_signature(hmac_sha256_hex(options_.api_secret, *payload), sent)) {
    return refusal(400, -1022, "Signature for this request is not valid.");
  }
  return check_time(pending, now);
}

Dialect::Reply BinanceFutures::fault_reply(const FaultRule& rule) const {
  switch (rule.kind) {
    case FaultKind::kRateLimit:
    case FaultKind::kBan: {
      Reply reply = refusal(rule.kind == FaultKind::kBan ? 418 : 429, -1003, "Too many requests.");
      reply.response.headers.emplace_back("Retry-After", std::to_string(rule.retry_after_s));
      return reply;
    }
    case FaultKind::kTimeout:
      return refusal(rule.status == 0 ? 504 : rule.status, -1007,
                     "Timeout waiting for response from backend server. Send status unknown; "
                     "execution status unknown.");
    default:
      return refusal(rule.status == 0 ? 503 : rule.status, -1000,
                     "An unknown error occurred while processing the request.");
  }
}

// ---- Second half.

Dialect::Reply BinanceFutures::execute(Pending& pending, Micros now) {
  now_ = now;
  const std::string_view path = pending.path;
  const std::string& method = pending.request.method;
  Parameters parameters(pending.query, pending.request.body);
  if (pending.places) {
    if (auto late = check_time(pending, now)) {
      refuse(pending, Refusal::kRejected, "outside of the recvWindow");
      return *late;
    }
    return path == "/fapi/v1/algoOrder" ? new_conditional(parameters, pending)
                                        : new_order(parameters, pending, false);
  }
  if (path == "/fapi/v1/time") {
    return reply_of(200, fmt::format(R"({{"serverTime":{}}})", server_now(now) / 1'000));
  }
  if (path == "/fapi/v1/exchangeInfo") return exchange_info();
  if (path == "/fapi/v1/ticker/bookTicker") return tickers(parameters);
  if (path == "/fapi/v1/order/test") return new_order(parameters, pending, true);
  if (path == "/fapi/v1/algoOrder") return one_conditional(parameters, method == "DELETE");
  if (path == "/fapi/v1/order") return one_order(parameters, method == "DELETE");
  if (path == "/fapi/v1/openOrders") return open_orders(parameters);
  if (path == "/fapi/v1/openAlgoOrders") return conditional_orders(parameters);
  if (path == "/fapi/v1/allOpenOrders" && method == "DELETE") return cancel_all(parameters, false);
  if (path == "/fapi/v1/algoOpenOrders" && method == "DELETE") return cancel_all(parameters, true);
  if (path == "/fapi/v3/balance") return balances();
  if (path == "/fapi/v3/account") return account();
  if (path == "/fapi/v3/positionRisk") return positions();
  if (path == "/fapi/v1/leverageBracket") return leverage_brackets();
  if (path == "/fapi/v1/userTrades") return trades(parameters);
  if (path == "/fapi/v1/countdownCancelAll" && method == "POST") return arm(parameters);
  return refusal(404, -5000, "Path is invalid.");
}

std::optional<std::uint32_t> BinanceFutures::symbol_of(Parameters& parameters) const {
  const auto name = parameters.take("symbol");
  return name ? core_.find_symbol(*name) : std::nullopt;
}

Dialect::Reply BinanceFutures::exchange_info() const {
  std::string out;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    const Symbol& symbol = core_.symbols()[i];
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"symbol":"{}","pair":"{}","contractType":"PERPETUAL","status":"{}",)"
        R"("baseAsset":"{}","quoteAsset":"{}","marginAsset":"{}",)"
        R"("orderTypes":["LIMIT","MARKET","STOP","STOP_MARKET","TAKE_PROFIT",)"
        R"("TAKE_PROFIT_MARKET"],"timeInForce":["GTC","IOC","FOK","GTX","GTD"],"filters":[)"
        R"({{"filterType":"PRICE_FILTER","tickSize":"{}"}},)"
        R"({{"filterType":"LOT_SIZE","stepSize":"{}","minQty":"{}"}},)"
        R"({{"filterType":"MIN_NOTIONAL","notional":"{}"}}]}})",
        i == 0 ? "" : ",", symbol.name, symbol.name,
        core_.status(i) == SymbolStatus::kTrading ? "TRADING" : "SETTLING", symbol.base,
        symbol.quote, symbol.quote, symbol.tick.to_string(), symbol.step.to_string(),
        symbol.min_quantity.to_string(), symbol.min_notional.to_string());
  }
  return reply_of(200, fmt::format(R"({{"timezone":"UTC","serverTime":{},"symbols":[{}]}})",
                                   now_ / 1'000, out));
}

Dialect::Reply BinanceFutures::tickers(Parameters& parameters) const {
  const bool one = parameters.has("symbol");
  const auto wanted = symbol_of(parameters);
  if (one && !wanted) return refusal(400, -1121, "Invalid symbol.");
  std::string out;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    if (wanted && *wanted != i) continue;
    const Book& book = core_.book(i);
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"symbol":"{}","bidPrice":"{}","bidQty":"1","askPrice":"{}",)"
                   R"("askQty":"1","time":{}}})",
                   out.empty() ? "" : ",", core_.symbols()[i].name,
                   book.best(Side::kBuy).value_or(Decimal()).to_string(),
                   book.best(Side::kSell).value_or(Decimal()).to_string(), now_ / 1'000);
  }
  return reply_of(200, one ? out : "[" + out + "]");
}

std::string BinanceFutures::order_json(const Order& order) const {
  const Decimal average =
      order.executed.is_zero() ? Decimal() : order.executed_quote / order.executed;
  return fmt::format(
      R"({{"orderId":{},"symbol":"{}","status":"{}","clientOrderId":"{}","price":"{}",)"
      R"("avgPrice":"{}","origQty":"{}","executedQty":"{}","cumQuote":"{}","timeInForce":"{}",)"
      R"("type":"{}","reduceOnly":false,"closePosition":false,"side":"{}","positionSide":"BOTH",)"
      R"("stopPrice":"{}","workingType":"CONTRACT_PRICE","priceProtect":false,"origType":"{}",)"
      R"("selfTradePreventionMode":"NONE","goodTillDate":0,"time":{},"updateTime":{}}})",
      order.id, core_.symbols()[order.symbol].name, to_string(order.status), order.client_id,
      order.price.to_string(), average.to_string(), order.quantity.to_string(),
      order.executed.to_string(), order.executed_quote.to_string(), to_string(order.time_in_force),
      to_string(order.type), to_string(order.side),
      (order.trigger ? order.trigger->price : Decimal()).to_string(), to_string(order.type),
      order.created_us / 1'000, order.updated_us / 1'000);
}

Dialect::Reply BinanceFutures::new_order(Parameters& parameters, const Pending& pending,
                                         bool only_test) {
  const auto fail = [&](int code, std::string_view text, Refusal kind = Refusal::kRejected) {
    if (!only_test) refuse(pending, kind, text);
    return refusal(400, code, text);
  };
  NewOrder order;
  const auto symbol = symbol_of(parameters);
  if (!symbol) return fail(-1121, "Invalid symbol.");
  order.symbol = *symbol;
  const auto side = from_string<Side>(parameters.take("side").value_or(""));
  if (!side) return fail(-1117, "Invalid side.");
  order.side = *side;
  const std::string_view name = parameters.take("type").value_or("");
  if (std::ranges::find(kConditional, name, &Conditional::name) != kConditional.end()) {
    return fail(-4120,
                "Order type not supported for this endpoint. Please use the Algo Order API "
                "endpoints instead.");
  }
  const auto type = from_string<OrderType>(name);
  if (!type || *type == OrderType::kLimitMaker) return fail(-1116, "Invalid orderType.");
  order.type = *type;
  const auto quantity = Decimal::parse(parameters.take("quantity").value_or(""));
  if (!quantity || *quantity <= Decimal())
    return fail(-4003, "Quantity less than or equal to zero.");
  order.quantity = *quantity;
  if (order.type == OrderType::kLimit) {
    const auto price = Decimal::parse(parameters.take("price").value_or(""));
    const auto in_force = from_string<TimeInForce>(parameters.take("timeInForce").value_or(""));
    if (!price || *price <= Decimal()) return fail(-4006, "Price less than or equal to zero.");
    if (!in_force) return fail(-1115, "Invalid timeInForce.");
    order.price = *price;
    order.time_in_force = *in_force;
  }
  order.client_id = parameters.take("newClientOrderId").value_or("");
  if (order.client_id.size() > 36)
    return fail(-4015, "Client order id length should be less than 36.");
  if (order.client_id.empty()) order.client_id = fmt::format("paper{}", core_.orders().size() + 1);
  order.fault = pending.fault_names;
  order.visible_after_us = pending.lag_ms * 1'000;
  if (only_test) {
    if (const auto reject = core_.check(order)) return fail(code_of(*reject), text_of(*reject));
    return reply_of(200, "{}");
  }
  const auto placed = core_.place(order);
  if (placed) return reply_of(200, order_json(*core_.find_order(placed->order_id)));
  const bool duplicate = placed.error() == Reject::kDuplicate;
  return fail(code_of(placed.error()), text_of(placed.error()),
              duplicate ? Refusal::kDuplicate : Refusal::kRejected);
}

Dialect::Reply BinanceFutures::new_conditional(Parameters& parameters, const Pending& pending) {
  const auto fail = [&](int code, std::string_view text, Refusal kind = Refusal::kRejected) {
    refuse(pending, kind, text);
    return refusal(400, code, text);
  };
  NewOrder order;
  const auto symbol = symbol_of(parameters);
  if (!symbol) return fail(-1121, "Invalid symbol.");
  order.symbol = *symbol;
  if (parameters.take("algoType").value_or("CONDITIONAL") != "CONDITIONAL") {
    return fail(-4500, "Invalid algoType.");
  }
  const auto side = from_string<Side>(parameters.take("side").value_or(""));
  if (!side) return fail(-1117, "Invalid side.");
  order.side = *side;
  const std::string_view name = parameters.take("type").value_or("STOP_MARKET");
  const auto type = std::ranges::find(kConditional, name, &Conditional::name);
  if (type == kConditional.end()) return fail(-1116, "Invalid orderType.");
  order.type = type->type;
  const auto quantity = Decimal::parse(parameters.take("quantity").value_or(""));
  const auto trigger = Decimal::parse(parameters.take("triggerPrice").value_or(""));
  if (!quantity || *quantity <= Decimal()) {
    return fail(-4003, "Quantity less than or equal to zero.");
  }
  if (!trigger || *trigger <= Decimal()) {
    return fail(-4007, "Trigger price less than or equal to zero.");
  }
  order.quantity = *quantity;
  if (order.type == OrderType::kLimit) {
    const auto price = Decimal::parse(parameters.take("price").value_or(""));
    const auto in_force = from_string<TimeInForce>(parameters.take("timeInForce").value_or("GTC"));
    if (!price || *price <= Decimal()) return fail(-4006, "Price less than or equal to zero.");
    if (!in_force) return fail(-1115, "Invalid timeInForce.");
    order.price = *price;
    order.time_in_force = *in_force;
  }
  const std::string_view by = parameters.take("workingType").value_or("CONTRACT_PRICE");
  if (by != "CONTRACT_PRICE" && by != "MARK_PRICE") return fail(-1128, "Invalid workingType.");
  order.trigger = Trigger{*trigger, type->stop == (order.side == Side::kBuy), by == "MARK_PRICE"};
  order.client_id = pending.client_id;
  if (order.client_id.empty()) order.client_id = fmt::format("paper{}", core_.orders().size() + 1);
  order.fault = pending.fault_names;
  order.visible_after_us = pending.lag_ms * 1'000;
  if (core_.would_trigger(order)) return fail(-2021, "Order would immediately trigger.");
  const auto placed = core_.place(order);
  if (placed) return reply_of(200, conditional_json(*core_.find_order(placed->order_id)));
  const bool duplicate = placed.error() == Reject::kDuplicate;
  return fail(code_of(placed.error()), text_of(placed.error()),
              duplicate ? Refusal::kDuplicate : Refusal::kRejected);
}

std::string BinanceFutures::conditional_json(const Order& order) const {
  const auto type = std::ranges::find_if(kConditional, [&](const Conditional& one) {
    return one.type == order.type && one.stop == order.is_stop();
  });
  return fmt::format(
      R"({{"algoId":{},"clientAlgoId":"{}","algoType":"CONDITIONAL","orderType":"{}",)"
      R"("symbol":"{}","side":"{}","positionSide":"BOTH","timeInForce":"{}","quantity":"{}",)"
      R"("algoStatus":"{}","actualOrderId":"{}","triggerPrice":"{}","price":"{}",)"
      R"("workingType":"{}","createTime":{},"updateTime":{},"triggerTime":{}}})",
      order.id, order.client_id, type->name, core_.symbols()[order.symbol].name,
      to_string(order.side), to_string(order.time_in_force), order.quantity.to_string(),
      algo_status(order), order.working_us == 0 ? "" : std::to_string(order.id),
      order.trigger->price.to_string(), order.price.to_string(),
      order.trigger->by_mark ? "MARK_PRICE" : "CONTRACT_PRICE", order.created_us / 1'000,
      order.updated_us / 1'000, order.working_us / 1'000);
}

Dialect::Reply BinanceFutures::one_conditional(Parameters& parameters, bool cancel) {
  const auto client_id = parameters.take("clientAlgoId");
  const Order* order =
      client_id
          ? core_.find_order(*client_id)
          : core_.find_order(static_cast<std::uint64_t>(integer(parameters.take("algoId"), 0)));
  const bool found = order != nullptr && order->trigger;
  if (!cancel) {
    if (!found || !visible(*order)) return refusal(400, -2013, "Order does not exist.");
    return reply_of(200, conditional_json(*order));
  }
  if (!found || !order->waits || !is_open(order->status)) {
    return refusal(400, -2011, "Unknown order sent.");
  }
  const std::uint64_t id = order->id;
  core_.cancel(id, fmt::format("cancel{}", core_.last_seq() + 1));
  return reply_of(
      200, fmt::format(R"({{"algoId":{},"clientAlgoId":"{}","code":"200","msg":"success"}})", id,
                       core_.find_order(id)->client_id));
}

std::vector<std::uint64_t> BinanceFutures::open_ids(std::uint32_t symbol, bool waiting) const {
  std::vector<std::uint64_t> ids;
  for (const std::uint64_t id : core_.open_orders(symbol)) {
    if (core_.find_order(id)->waits == waiting) ids.push_back(id);
  }
  return ids;
}

Dialect::Reply BinanceFutures::one_order(Parameters& parameters, bool cancel) {
  const auto symbol = symbol_of(parameters);
  if (!symbol) return refusal(400, -1121, "Invalid symbol.");
  const auto client_id = parameters.take("origClientOrderId");
  const Order* order =
      client_id
          ? core_.find_order(*client_id)
          : core_.find_order(static_cast<std::uint64_t>(integer(parameters.take("orderId"), 0)));
  const bool found = order != nullptr && order->symbol == *symbol && !order->waits;
  if (!cancel) {
    if (!found || !visible(*order)) return refusal(400, -2013, "Order does not exist.");
    return reply_of(200, order_json(*order));
  }
  if (!found || !is_open(order->status)) return refusal(400, -2011, "Unknown order sent.");
  const std::uint64_t id = order->id;
  core_.cancel(id, fmt::format("cancel{}", core_.last_seq() + 1));
  return reply_of(200, order_json(*core_.find_order(id)));
}

Dialect::Reply BinanceFutures::open_orders(Parameters& parameters) const {
  const bool one = parameters.has("symbol");
  const auto wanted = symbol_of(parameters);
  if (one && !wanted) return refusal(400, -1121, "Invalid symbol.");
  std::string out = "[";
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    if (wanted && *wanted != i) continue;
    for (const std::uint64_t id : open_ids(i, false)) {
      const Order& order = *core_.find_order(id);
      if (visible(order)) out += (out.size() > 1 ? "," : "") + order_json(order);
    }
  }
  return reply_of(200, out + "]");
}

Dialect::Reply BinanceFutures::conditional_orders(Parameters& parameters) const {
  const auto wanted = symbol_of(parameters);
  std::string out = "[";
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    if (wanted && *wanted != i) continue;
    for (const std::uint64_t id : open_ids(i, true)) {
      const Order& order = *core_.find_order(id);
      if (visible(order)) out += (out.size() > 1 ? "," : "") + conditional_json(order);
    }
  }
  return reply_of(200, out + "]");
}

Dialect::Reply BinanceFutures::cancel_all(Parameters& parameters, bool conditional) {
  const auto symbol = symbol_of(parameters);
  if (!symbol) return refusal(400, -1121, "Invalid symbol.");
  for (const std::uint64_t id : open_ids(*symbol, conditional)) {
    core_.cancel(id, fmt::format("cancel{}", core_.last_seq() + 1));
  }
  return reply_of(200, R"({"code":200,"msg":"The operation of cancel all open order is done."})");
}

Dialect::Reply BinanceFutures::balances() const {
  std::string out = "[";
  for (const auto& [asset, balance] : core_.balances()) {
    const Decimal total = balance.free + balance.locked;
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"accountAlias":"x","asset":"{}","balance":"{}","crossWalletBalance":"{}",)"
        R"("crossUnPnl":"0","availableBalance":"{}","maxWithdrawAmount":"{}",)"
        R"("marginAvailable":true,"updateTime":{}}})",
        out.size() > 1 ? "," : "", asset, total.to_string(), total.to_string(),
        balance.free.to_string(), balance.free.to_string(), now_ / 1'000);
  }
  return reply_of(200, out + "]");
}

Dialect::Reply BinanceFutures::account() const {
  std::string out;
  for (const auto& [asset, balance] : core_.balances()) {
    const std::string total = (balance.free + balance.locked).to_string();
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"asset":"{}","walletBalance":"{}","unrealizedProfit":"0","marginBalance":"{}",)"
        R"("maintMargin":"0","initialMargin":"0","positionInitialMargin":"0",)"
        R"("openOrderInitialMargin":"0","crossWalletBalance":"{}","crossUnPnl":"0",)"
        R"("availableBalance":"{}","maxWithdrawAmount":"{}","updateTime":{}}})",
        out.empty() ? "" : ",", asset, total, total, total, balance.free.to_string(),
        balance.free.to_string(), now_ / 1'000);
  }
  return reply_of(200, fmt::format(R"({{"assets":[{}],"positions":[]}})", out));
}

// One for any notional: the venue lends without a limit.
Dialect::Reply BinanceFutures::leverage_brackets() const {
  std::string out;
  for (const Symbol& symbol : core_.symbols()) {
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"symbol":"{}","brackets":[{{"bracket":1,"initialLeverage":20,)"
                   R"("notionalCap":9223372036854775807,"notionalFloor":0,)"
                   R"("maintMarginRatio":0.004,"cum":0.0}}]}})",
                   out.empty() ? "" : ",", symbol.name);
  }
  return reply_of(200, fmt::format("[{}]", out));
}

Dialect::Reply BinanceFutures::positions() const {
  std::string out = "[";
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    Decimal net, cost;
    for (const Trade& trade : core_.trades(i)) {
      const bool buy = trade.side == Side::kBuy;
      net += buy ? trade.quantity : -trade.quantity;
      cost += buy ? trade.quote : -trade.quote;
    }
    if (net.is_zero() && core_.open_orders(i).empty()) continue;
    const Decimal entry = net.is_zero() ? Decimal() : cost / net;
    const std::string_view side = !options_.hedge_mode ? "BOTH"
                                  : net < Decimal()    ? "SHORT"
                                                       : "LONG";
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"symbol":"{}","positionSide":"{}","positionAmt":"{}","entryPrice":"{}",)"
                   R"("breakEvenPrice":"0","markPrice":"{}","unRealizedProfit":"0",)"
                   R"("liquidationPrice":"0","isolatedMargin":"0","notional":"{}",)"
                   R"("marginAsset":"USDT","isolatedWallet":"0","initialMargin":"0",)"
                   R"("maintMargin":"0","adl":0,"bidNotional":"0","askNotional":"0",)"
                   R"("updateTime":{}}})",
                   out.size() > 1 ? "," : "", core_.symbols()[i].name, side, net.to_string(),
                   entry.to_string(), core_.reference_price(i).to_string(),
                   (net * core_.reference_price(i)).to_string(), now_ / 1'000);
  }
  return reply_of(200, out + "]");
}

Dialect::Reply BinanceFutures::trades(Parameters& parameters) const {
  const auto symbol = symbol_of(parameters);
  if (!symbol) return refusal(400, -1121, "Invalid symbol.");
  const std::int64_t from = integer(parameters.take("fromId"), 0);
  const auto limit = static_cast<std::size_t>(
      std::clamp<std::int64_t>(integer(parameters.take("limit"), 500), 1, kMaxTrades));
  std::string out = "[";
  std::size_t count = 0;
  for (const Trade& trade : core_.trades(*symbol)) {
    if (trade.id < static_cast<std::uint64_t>(std::max<std::int64_t>(0, from))) continue;
    if (count++ == limit) break;
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"buyer":{},"commission":"{}","commissionAsset":"{}","id":{},"maker":{},)"
                   R"("orderId":{},"price":"{}","qty":"{}","quoteQty":"{}","realizedPnl":"0",)"
                   R"("side":"{}","positionSide":"BOTH","symbol":"{}","time":{}}})",
                   out.size() > 1 ? "," : "", trade.side == Side::kBuy,
                   trade.commission.to_string(), core_.symbols()[*symbol].quote, trade.id,
                   trade.maker, trade.order_id, trade.price.to_string(), trade.quantity.to_string(),
                   trade.quote.to_string(), to_string(trade.side), core_.symbols()[*symbol].name,
                   trade.time_us / 1'000);
  }
  return reply_of(200, out + "]");
}

Dialect::Reply BinanceFutures::arm(Parameters& parameters) {
  const auto symbol = symbol_of(parameters);
  const std::int64_t ms = integer(parameters.take("countdownTime"), -1);
  if (!symbol || ms < 0) return missing("countdownTime");
  if (ms == 0) {
    cancel_at_us_.erase(*symbol);
  } else {
    cancel_at_us_[*symbol] = now_ + ms * 1'000;
  }
  return reply_of(200, fmt::format(R"({{"symbol":"{}","countdownTime":"{}"}})",
                                   core_.symbols()[*symbol].name, ms));
}

}  // namespace defib::paper
