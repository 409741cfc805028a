// The short documents of the Binance dialect, by wire's Json.

#include <fmt/core.h>

#include <utility>

#include "defib/venue/binance_parse.h"
#include "defib/venue/rest.h"
#include "defib/wire/json.h"

namespace defib::venue {
namespace {

Result<std::string> member(const wire::Json& json, std::string_view name, std::string_view what) {
  return text_member(json, name, what);
}
Result<Decimal> amount(const wire::Json& json, std::string_view name, std::string_view what) {
  return amount_member(json, name, what);
}
Result<wire::Json> parse_document(std::string_view body, std::string_view what) {
  return parse_answer(body, what);
}

Result<SymbolRules> read_rules(const wire::Json& json) {
  SymbolRules rules;
  DEFIB_TRY_ASSIGN(rules.symbol, member(json, "symbol", "a symbol"));
  DEFIB_TRY_ASSIGN(rules.base_asset, member(json, "baseAsset", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.quote_asset, member(json, "quoteAsset", rules.symbol));
  DEFIB_TRY_ASSIGN(const std::string status, member(json, "status", rules.symbol));
  rules.trading = status == "TRADING";
  for (const wire::Json& filter : json["filters"].items()) {
    const std::string_view type = filter["filterType"].as_string();
    if (type == "PRICE_FILTER") {
      DEFIB_TRY_ASSIGN(rules.tick, amount(filter, "tickSize", rules.symbol));
    } else if (type == "LOT_SIZE") {
      DEFIB_TRY_ASSIGN(rules.lot, amount(filter, "stepSize", rules.symbol));
    } else if (type == "NOTIONAL" || type == "MIN_NOTIONAL") {
      const std::string_view name = filter.has("notional") ? "notional" : "minNotional";
      DEFIB_TRY_ASSIGN(rules.min_notional, amount(filter, name, rules.symbol));
    }
  }
  if (rules.tick <= Decimal()) {
    return bad_answer(fmt::format("{} has no PRICE_FILTER with a tickSize", rules.symbol));
  }
  if (rules.lot <= Decimal()) {
    return bad_answer(fmt::format("{} has no LOT_SIZE with a stepSize", rules.symbol));
  }
  return rules;
}

Result<Quote> read_quote(const wire::Json& json) {
  Quote quote;
  DEFIB_TRY_ASSIGN(quote.symbol, member(json, "symbol", "a quote"));
  DEFIB_TRY_ASSIGN(quote.bid, amount(json, "bidPrice", quote.symbol));
  DEFIB_TRY_ASSIGN(quote.bid_quantity, amount(json, "bidQty", quote.symbol));
  DEFIB_TRY_ASSIGN(quote.ask, amount(json, "askPrice", quote.symbol));
  DEFIB_TRY_ASSIGN(quote.ask_quantity, amount(json, "askQty", quote.symbol));
  return quote;
}

}  // namespace

Result<std::vector<SymbolRules>> parse_binance_rules(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "exchange information"));
  if (!json["symbols"].is_array()) return bad_answer("`symbols` is missing or not a list");
  std::vector<SymbolRules> all;
  for (const wire::Json& item : json["symbols"].items()) {
    DEFIB_TRY_ASSIGN(SymbolRules rules, read_rules(item));
    all.push_back(std::move(rules));
  }
  return all;
}

Result<Quote> parse_binance_quote(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "a quote"));
  return read_quote(json);
}

Result<std::vector<Quote>> parse_binance_quotes(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "a list of quotes"));
  if (!json.is_array()) return bad_answer("the answer is not a list of quotes");
  std::vector<Quote> quotes;
  for (const wire::Json& item : json.items()) {
    DEFIB_TRY_ASSIGN(Quote quote, read_quote(item));
    quotes.push_back(std::move(quote));
  }
  return quotes;
}

Result<std::int64_t> parse_binance_time(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "the server's time"));
  Result<std::int64_t> time = json.require_int("serverTime");
  if (!time) return bad_answer("`serverTime` is missing or not a number").because(time.error());
  return time;
}

Result<std::vector<Order>> parse_binance_algo_orders(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "a list of conditional orders"));
  const wire::Json& list = json.is_array() ? json : json["orders"];
  if (!list.is_array()) return bad_answer("the answer is not a list of conditional orders");
  std::vector<Order> orders;
  for (const wire::Json& item : list.items()) {
    Order order;
    if (!item["algoId"].is_whole()) return bad_answer("`algoId` of an order is missing");
    order.venue_id = "algo" + number_text(item["algoId"]);
    DEFIB_TRY_ASSIGN(order.symbol, member(item, "symbol", order.venue_id));
    order.client_id = item["clientAlgoId"].as_string();
    const std::string_view side = item["side"].as_string();
    if (side != "BUY" && side != "SELL") {
      return bad_answer(fmt::format("`side` of {} is missing or unknown", order.venue_id));
    }
    order.side = side == "SELL" ? Side::kSell : Side::kBuy;
    DEFIB_TRY_ASSIGN(order.quantity, amount(item, "quantity", order.venue_id));
    const std::string_view price = item["price"].as_string();
    const bool limit = !price.empty() && price.find_first_not_of("0.") != std::string_view::npos;
    DEFIB_TRY_ASSIGN(order.price, amount(item, limit ? "price" : "triggerPrice", order.venue_id));
    order.market_at_trigger = !limit;
    order.status = OrderStatus::kNew;
    order.created_ms = item["createTime"].as_int();
    order.updated_ms = order.created_ms;
    orders.push_back(std::move(order));
  }
  return orders;
}

Result<std::vector<Balance>> parse_binance_futures_balances(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "a list of balances"));
  if (!json.is_array()) return bad_answer("the answer is not a list of balances");
  std::vector<Balance> balances;
  for (const wire::Json& item : json.items()) {
    Balance balance;
    DEFIB_TRY_ASSIGN(balance.asset, member(item, "asset", "a balance"));
    DEFIB_TRY_ASSIGN(const Decimal wallet, amount(item, "balance", balance.asset));
    DEFIB_TRY_ASSIGN(balance.free, amount(item, "availableBalance", balance.asset));
    // What serves as margin is held, and is still in the wallet.
    balance.locked = wallet - balance.free;
    balances.push_back(std::move(balance));
  }
  return balances;
}

Result<std::vector<PositionReport>> parse_binance_positions(std::string_view body) {
  DEFIB_TRY_ASSIGN(const wire::Json json, parse_document(body, "a list of positions"));
  if (!json.is_array()) return bad_answer("the answer is not a list of positions");
  std::vector<PositionReport> reports;
  for (const wire::Json& item : json.items()) {
    PositionReport report;
    DEFIB_TRY_ASSIGN(report.symbol, member(item, "symbol", "a position"));
    DEFIB_TRY_ASSIGN(report.position_side, member(item, "positionSide", report.symbol));
    DEFIB_TRY_ASSIGN(report.quantity, amount(item, "positionAmt", report.symbol));
    DEFIB_TRY_ASSIGN(const std::string entry, member(item, "entryPrice", report.symbol));
    DEFIB_TRY_ASSIGN(report.entry_price, parse_amount(entry, true));
    // In hedge mode a short row may come without its sign.
    if (report.position_side == "SHORT" && report.quantity > Decimal()) {
      report.quantity = -report.quantity;
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

std::optional<BinanceError> parse_binance_error(std::string_view body) {
  const Result<wire::Json> json = wire::Json::parse(body);
  if (!json || !json->is_object() || !(*json)["code"].is_number()) return std::nullopt;
  BinanceError error{(*json)["code"].as_int(), std::string((*json)["msg"].as_string())};
  if (error.code >= 0) return std::nullopt;
  return error;
}

}  // namespace defib::venue
