#include "defib/venue/exec_parse.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

Result<Side> read_side(const wire::Json& json, std::string_view what) {
  const std::string_view text = json["side"].as_string();
  if (text == "buy") return Side::kBuy;
  if (text == "sell") return Side::kSell;
  return bad_answer(fmt::format("`side` of {} is neither buy nor sell", what));
}

Result<OrderStatus> read_status(const wire::Json& json, std::string_view what) {
  constexpr std::array kAll = {OrderStatus::kNew,      OrderStatus::kPartiallyFilled,
                               OrderStatus::kFilled,   OrderStatus::kCancelled,
                               OrderStatus::kRejected, OrderStatus::kExpired};
  for (const OrderStatus status : kAll) {
    if (to_string(status) == json["status"].as_string()) return status;
  }
  return bad_answer(fmt::format("`status` of {} is missing or unknown", what));
}

}  // namespace

Result<Order> parse_exec_order(const wire::Json& json) {
  Order order;
  DEFIB_TRY_ASSIGN(order.venue_id, text_member(json, "venue_id", "an order"));
  const std::string what = "order " + order.venue_id;
  order.client_id = json["client_id"].as_string();
  DEFIB_TRY_ASSIGN(order.symbol, text_member(json, "symbol", what));
  DEFIB_TRY_ASSIGN(order.side, read_side(json, what));
  DEFIB_TRY_ASSIGN(order.status, read_status(json, what));
  DEFIB_TRY_ASSIGN(order.quantity, amount_member(json, "quantity", what));
  DEFIB_TRY_ASSIGN(order.price, amount_member(json, "price", what));
  DEFIB_TRY_ASSIGN(order.filled, amount_member(json, "filled", what));
  if (json.has("filled_quote")) {
    DEFIB_TRY_ASSIGN(order.filled_quote, amount_member(json, "filled_quote", what));
  }
  order.created_ms = json["created_ms"].as_int();
  order.updated_ms = json["updated_ms"].as_int(order.created_ms);
  return order;
}

Result<Fill> parse_exec_fill(const wire::Json& json) {
  Fill fill;
  DEFIB_TRY_ASSIGN(fill.trade_id, text_member(json, "trade_id", "a fill"));
  const std::string what = "fill " + fill.trade_id;
  DEFIB_TRY_ASSIGN(fill.venue_order_id, text_member(json, "venue_order_id", what));
  DEFIB_TRY_ASSIGN(fill.symbol, text_member(json, "symbol", what));
  DEFIB_TRY_ASSIGN(fill.side, read_side(json, what));
  DEFIB_TRY_ASSIGN(fill.quantity, amount_member(json, "quantity", what));
  DEFIB_TRY_ASSIGN(fill.price, amount_member(json, "price", what));
  if (json.has("fee")) {
    DEFIB_TRY_ASSIGN(fill.fee, amount_member(json, "fee", what));
    DEFIB_TRY_ASSIGN(fill.fee_asset, text_member(json, "fee_asset", what));
  }
  if (!json["time_ms"].is_whole()) {
    return bad_answer(fmt::format("`time_ms` of {} is missing or no whole number", what));
  }
  fill.time_ms = json["time_ms"].as_int();
  return fill;
}

Result<Balance> parse_exec_balance(const wire::Json& json) {
  Balance balance;
  DEFIB_TRY_ASSIGN(balance.asset, text_member(json, "asset", "a balance"));
  DEFIB_TRY_ASSIGN(balance.free, amount_member(json, "free", balance.asset));
  DEFIB_TRY_ASSIGN(balance.locked, amount_member(json, "locked", balance.asset));
  return balance;
}

Result<SymbolRules> parse_exec_rules(const wire::Json& json) {
  SymbolRules rules;
  DEFIB_TRY_ASSIGN(rules.symbol, text_member(json, "symbol", "a symbol"));
  DEFIB_TRY_ASSIGN(rules.base_asset, text_member(json, "base_asset", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.quote_asset, text_member(json, "quote_asset", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.tick, amount_member(json, "tick", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.lot, amount_member(json, "lot", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.min_notional, amount_member(json, "min_notional", rules.symbol));
  if (rules.tick <= Decimal() || rules.lot <= Decimal()) {
    return bad_answer(fmt::format("{} has no tick or no lot", rules.symbol));
  }
  rules.trading = json["trading"].as_bool();
  return rules;
}

Result<Quote> parse_exec_quote(const wire::Json& json) {
  Quote quote;
  DEFIB_TRY_ASSIGN(quote.symbol, text_member(json, "symbol", "a quote"));
  DEFIB_TRY_ASSIGN(quote.bid, amount_member(json, "bid", quote.symbol));
  DEFIB_TRY_ASSIGN(quote.ask, amount_member(json, "ask", quote.symbol));
  return quote;
}

Result<PositionReport> parse_exec_position(const wire::Json& json) {
  PositionReport report;
  DEFIB_TRY_ASSIGN(report.symbol, text_member(json, "symbol", "a position"));
  report.position_side = json.has("position_side") ? json["position_side"].as_string() : "BOTH";
  DEFIB_TRY_ASSIGN(report.quantity, amount_member(json, "quantity", report.symbol));
  return report;
}

}  // namespace defib::venue
