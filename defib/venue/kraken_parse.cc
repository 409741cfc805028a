#include "defib/venue/kraken_parse.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

std::optional<Side> side_of(std::string_view text) {
  if (text == "buy") return Side::kBuy;
  if (text == "sell") return Side::kSell;
  return std::nullopt;
}

// A step of 10^-digits.
std::optional<Decimal> step_of(std::int64_t digits) {
  constexpr std::int64_t kDigits = 8;
  if (digits < 0) return std::nullopt;
  std::int64_t units = Decimal::kScale;
  for (std::int64_t i = 0; i < std::min(digits, kDigits); ++i) units /= 10;
  return Decimal::from_units(units);
}

Result<std::int64_t> time_member(const wire::Json& json, std::string_view name,
                                 std::string_view what) {
  const std::int64_t ms = seconds_to_ms(number_text(json[name]));
  if (ms < 0) return bad_answer(fmt::format("`{}` of {} is missing or no time", name, what));
  return ms;
}

Result<SymbolRules> read_pair(const std::string& id, const wire::Json& json) {
  SymbolRules rules;
  DEFIB_TRY_ASSIGN(rules.symbol, text_member(json, "altname", "pair " + id));
  DEFIB_TRY_ASSIGN(rules.base_asset, text_member(json, "base", "pair " + id));
  DEFIB_TRY_ASSIGN(rules.quote_asset, text_member(json, "quote", "pair " + id));
  const std::optional<Decimal> lot = step_of(json["lot_decimals"].as_int(-1));
  if (!lot) return bad_answer(fmt::format("`lot_decimals` of pair {} is missing", id));
  rules.lot = *lot;
  if (json.has("tick_size")) {
    DEFIB_TRY_ASSIGN(rules.tick, amount_member(json, "tick_size", "pair " + id));
  } else {
    const std::optional<Decimal> tick = step_of(json["pair_decimals"].as_int(-1));
    if (!tick) return bad_answer(fmt::format("`pair_decimals` of pair {} is missing", id));
    rules.tick = *tick;
  }
  if (rules.tick <= Decimal()) return bad_answer(fmt::format("pair {} has no tick", id));
  if (json.has("costmin")) {
    DEFIB_TRY_ASSIGN(rules.min_notional, amount_member(json, "costmin", "pair " + id));
  }
  const std::string_view status = json["status"].as_string();
  rules.trading = status.empty() || status == "online" || status == "limit_only";
  return rules;
}

// "a":["price","whole lots","lots"].
Result<std::pair<Decimal, Decimal>> read_side(const wire::Json& json, std::string_view name,
                                              std::string_view what) {
  const auto& items = json[name].items();
  if (items.size() < 3 || !items[0].is_string() || !items[2].is_string()) {
    return bad_answer(fmt::format("`{}` of {} is missing or no quote", name, what));
  }
  DEFIB_TRY_ASSIGN(const Decimal price, parse_amount(items[0].as_string(), true));
  DEFIB_TRY_ASSIGN(const Decimal quantity, parse_amount(items[2].as_string(), true));
  return std::pair(price, quantity);
}

}  // namespace

Result<std::string> KrakenPairs::altname(std::string_view id_or_altname) const {
  const auto found = altnames.find(id_or_altname);
  if (found != altnames.end()) return found->second;
  return bad_answer(fmt::format("the venue's table has no pair {}", id_or_altname));
}

const SymbolRules* KrakenPairs::find(std::string_view altname) const {
  const auto found = std::find_if(rules.begin(), rules.end(),
                                  [&](const SymbolRules& item) { return item.symbol == altname; });
  return found == rules.end() ? nullptr : &*found;
}

Result<KrakenPairs> parse_kraken_pairs(const wire::Json& result) {
  if (!result.is_object()) return bad_answer("the table of pairs is not an object");
  KrakenPairs pairs;
  for (const auto& [id, json] : result.members()) {
    DEFIB_TRY_ASSIGN(SymbolRules rules, read_pair(id, json));
    pairs.altnames[id] = rules.symbol;
    pairs.altnames[rules.symbol] = rules.symbol;
    if (const std::string_view wsname = json["wsname"].as_string(); !wsname.empty()) {
      pairs.altnames[std::string(wsname)] = rules.symbol;
    }
    pairs.rules.push_back(std::move(rules));
  }
  return pairs;
}

Result<std::vector<Quote>> parse_kraken_ticker(const wire::Json& result, const KrakenPairs& pairs) {
  if (!result.is_object()) return bad_answer("the ticker is not an object");
  std::vector<Quote> quotes;
  for (const auto& [id, json] : result.members()) {
    Quote quote;
    DEFIB_TRY_ASSIGN(quote.symbol, pairs.altname(id));
    DEFIB_TRY_ASSIGN(const auto ask, read_side(json, "a", quote.symbol));
    DEFIB_TRY_ASSIGN(const auto bid, read_side(json, "b", quote.symbol));
    std::tie(quote.ask, quote.ask_quantity) = ask;
    std::tie(quote.bid, quote.bid_quantity) = bid;
    quotes.push_back(std::move(quote));
  }
  return quotes;
}

Result<std::vector<KrakenTrade>> parse_kraken_trades(const wire::Json& map,
                                                     const KrakenPairs& pairs) {
  if (!map.is_object()) return bad_answer("the trades are not an object");
  std::vector<KrakenTrade> trades;
  for (const auto& [key, json] : map.members()) {
    const std::string what = "trade " + key;
    KrakenTrade trade;
    trade.key = key;
    Fill& fill = trade.fill;
    if (!json["trade_id"].is_whole()) {
      return bad_answer(fmt::format("`trade_id` of {} is missing or no number", what));
    }
    fill.trade_id = number_text(json["trade_id"]);
    DEFIB_TRY_ASSIGN(fill.venue_order_id, text_member(json, "ordertxid", what));
    DEFIB_TRY_ASSIGN(const std::string pair, text_member(json, "pair", what));
    DEFIB_TRY_ASSIGN(fill.symbol, pairs.altname(pair));
    const std::optional<Side> side = side_of(json["type"].as_string());
    if (!side) return bad_answer(fmt::format("`type` of {} is neither buy nor sell", what));
    fill.side = *side;
    DEFIB_TRY_ASSIGN(fill.quantity, amount_member(json, "vol", what));
    DEFIB_TRY_ASSIGN(fill.price, amount_member(json, "price", what));
    DEFIB_TRY_ASSIGN(fill.fee, amount_member(json, "fee", what, true));
    const SymbolRules* rules = pairs.find(fill.symbol);
    if (rules != nullptr) fill.fee_asset = rules->quote_asset;
    DEFIB_TRY_ASSIGN(fill.time_ms, time_member(json, "time", what));
    trades.push_back(std::move(trade));
  }
  return trades;
}

Result<std::vector<Balance>> parse_kraken_balances(const wire::Json& result) {
  if (!result.is_object()) return bad_answer("the balances are not an object");
  std::vector<Balance> balances;
  for (const auto& [asset, json] : result.members()) {
    Balance balance;
    balance.asset = asset;
    DEFIB_TRY_ASSIGN(const Decimal total, amount_member(json, "balance", asset, true));
    if (json.has("hold_trade")) {
      DEFIB_TRY_ASSIGN(balance.locked, amount_member(json, "hold_trade", asset, true));
    }
    // `balance` includes what is held.
    balance.free = total - balance.locked;
    balances.push_back(std::move(balance));
  }
  return balances;
}

Result<std::vector<PositionReport>> parse_kraken_positions(const wire::Json& result,
                                                           const KrakenPairs& pairs) {
  std::vector<const wire::Json*> rows;
  if (result.is_array()) {
    for (const wire::Json& row : result.items()) rows.push_back(&row);
  } else if (result.is_object()) {
    for (const auto& [id, row] : result.members()) rows.push_back(&row);
  } else {
    return bad_answer("the positions are neither a list nor an object");
  }
  std::map<std::string, PositionReport> by_symbol;
  for (const wire::Json* row : rows) {
    DEFIB_TRY_ASSIGN(const std::string pair, text_member(*row, "pair", "a position"));
    DEFIB_TRY_ASSIGN(const std::string symbol, pairs.altname(pair));
    const std::optional<Side> side = side_of((*row)["type"].as_string());
    if (!side) return bad_answer(fmt::format("`type` of a position in {} is unknown", symbol));
    DEFIB_TRY_ASSIGN(Decimal open, amount_member(*row, "vol", "a position in " + symbol));
    if (row->has("vol_closed")) {
      DEFIB_TRY_ASSIGN(const Decimal closed,
                       amount_member(*row, "vol_closed", "a position in " + symbol));
      open = open - closed;
    }
    PositionReport& report = by_symbol[symbol];
    report.symbol = symbol;
    report.position_side = "BOTH";
    report.quantity += *side == Side::kBuy ? open : -open;
  }
  std::vector<PositionReport> reports;
  reports.reserve(by_symbol.size());
  for (auto& [symbol, report] : by_symbol) reports.push_back(std::move(report));
  return reports;
}

}  // namespace defib::venue
