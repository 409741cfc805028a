// The short documents of the Binance dialect, by wire's Json.

#include <fmt/core.h>

#include <utility>

#include "defib/venue/binance_parse.h"
#include "defib/wire/json.h"

namespace defib::venue {
namespace {

Error bad_answer(std::string problem) {
  return Error(Code::kVenueBadAnswer, std::move(problem));
}

Result<wire::Json> parse_document(std::string_view body, std::string_view what) {
  Result<wire::Json> json = wire::Json::parse(body);
  if (!json) {
    return bad_answer(fmt::format("the answer is not {}", what)).because(json.error());
  }
  return json;
}

Result<std::string> member(const wire::Json& json, std::string_view name, std::string_view what) {
  if (!json[name].is_string()) {
    return bad_answer(fmt::format("`{}` of {} is missing or not a string", name, what));
  }
  return std::string(json[name].as_string());
}

Result<Decimal> amount(const wire::Json& json, std::string_view name, std::string_view what) {
  DEFIB_TRY_ASSIGN(const std::string text, member(json, name, what));
  Result<Decimal> value = Decimal::parse(text);
  if (!value) {
    return bad_answer(fmt::format("`{}` of {} is not an amount", name, what))
        .because(value.error());
  }
  return value;
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
      DEFIB_TRY_ASSIGN(rules.min_notional, amount(filter, "minNotional", rules.symbol));
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

std::optional<BinanceError> parse_binance_error(std::string_view body) {
  const Result<wire::Json> json = wire::Json::parse(body);
  if (!json || !json->is_object() || !(*json)["code"].is_number()) return std::nullopt;
  BinanceError error{(*json)["code"].as_int(), std::string((*json)["msg"].as_string())};
  if (error.code >= 0) return std::nullopt;
  return error;
}

}  // namespace defib::venue
