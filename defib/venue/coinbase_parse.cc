#include "defib/venue/coinbase_parse.h"

#include <fmt/core.h>

#include <array>
#include <optional>
#include <utility>

#include "defib/os/clock.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

constexpr std::int64_t kNsPerUs = 1'000;
constexpr std::int64_t kNsPerMs = 1'000'000;

Result<Side> side_member(const wire::Json& json, std::string_view what) {
  const std::string_view side = json["side"].as_string();
  if (side == "BUY") return Side::kBuy;
  if (side == "SELL") return Side::kSell;
  return bad_answer(fmt::format("`side` of {} is missing or unknown", what));
}

Result<std::int64_t> time_member(const wire::Json& json, std::string_view name,
                                 std::string_view what) {
  const std::int64_t ns = os::parse_time(json[name].as_string());
  if (ns < 0) return bad_answer(fmt::format("`{}` of {} is missing or no time", name, what));
  return ns;
}

// An amount that may be absent or an empty text: nothing yet.
Result<Decimal> optional_amount(const wire::Json& json, std::string_view name,
                                std::string_view what) {
  if (json[name].is_null() || json[name].as_string().empty()) return Decimal();
  return amount_member(json, name, what, true);
}

}  // namespace

Result<SymbolRules> parse_coinbase_product(const wire::Json& json) {
  SymbolRules rules;
  DEFIB_TRY_ASSIGN(rules.symbol, text_member(json, "product_id", "a product"));
  DEFIB_TRY_ASSIGN(rules.base_asset, text_member(json, "base_currency_id", rules.symbol));
  DEFIB_TRY_ASSIGN(rules.quote_asset, text_member(json, "quote_currency_id", rules.symbol));
  const std::string_view tick = json.has("price_increment") ? "price_increment" : "quote_increment";
  DEFIB_TRY_ASSIGN(rules.tick, amount_member(json, tick, rules.symbol));
  DEFIB_TRY_ASSIGN(rules.lot, amount_member(json, "base_increment", rules.symbol));
  if (rules.tick <= Decimal() || rules.lot <= Decimal()) {
    return bad_answer(fmt::format("{} has no increments", rules.symbol));
  }
  DEFIB_TRY_ASSIGN(rules.min_notional, optional_amount(json, "quote_min_size", rules.symbol));
  const std::string_view status = json["status"].as_string();
  rules.trading = (status.empty() || status == "online") && !json["trading_disabled"].as_bool() &&
                  !json["is_disabled"].as_bool() && !json["cancel_only"].as_bool();
  return rules;
}

Result<Quote> parse_coinbase_book(const wire::Json& json) {
  Quote quote;
  DEFIB_TRY_ASSIGN(quote.symbol, text_member(json, "product_id", "a book"));
  const auto best = [&](std::string_view side, Decimal& price, Decimal& size) -> Result<> {
    const auto& levels = json[side].items();
    if (levels.empty()) return {};  // nobody quotes
    DEFIB_TRY_ASSIGN(price, amount_member(levels.front(), "price", quote.symbol));
    DEFIB_TRY_ASSIGN(size, amount_member(levels.front(), "size", quote.symbol, true));
    return {};
  };
  DEFIB_TRY(best("bids", quote.bid, quote.bid_quantity));
  DEFIB_TRY(best("asks", quote.ask, quote.ask_quantity));
  return quote;
}

Result<Fill> parse_coinbase_fill(const wire::Json& json) {
  Fill fill;
  DEFIB_TRY_ASSIGN(const std::string id, text_member(json, "trade_id", "a fill"));
  const std::string what = "fill " + id;
  DEFIB_TRY_ASSIGN(fill.venue_order_id, text_member(json, "order_id", what));
  DEFIB_TRY_ASSIGN(fill.symbol, text_member(json, "product_id", what));
  DEFIB_TRY_ASSIGN(fill.side, side_member(json, what));
  DEFIB_TRY_ASSIGN(fill.price, amount_member(json, "price", what));
  DEFIB_TRY_ASSIGN(fill.quantity, amount_member(json, "size", what));
  if (json["size_in_quote"].as_bool()) {
    if (fill.price <= Decimal()) return bad_answer(fmt::format("{} has no price", what));
    fill.quantity = fill.quantity / fill.price;
  }
  DEFIB_TRY_ASSIGN(fill.fee, optional_amount(json, "commission", what));
  fill.fee_asset = fill.symbol.substr(fill.symbol.find('-') + 1);
  DEFIB_TRY_ASSIGN(const std::int64_t at, time_member(json, "trade_time", what));
  fill.time_ms = at / kNsPerMs;
  fill.trade_id = fmt::format("{:017}-{}", at / kNsPerUs, id);
  return fill;
}

Result<Balance> parse_coinbase_account(const wire::Json& json) {
  Balance balance;
  DEFIB_TRY_ASSIGN(balance.asset, text_member(json, "currency", "an account"));
  DEFIB_TRY_ASSIGN(balance.free, amount_member(json["available_balance"], "value",
                                               "the balance of " + balance.asset, true));
  if (json["hold"].has("value")) {
    DEFIB_TRY_ASSIGN(balance.locked,
                     amount_member(json["hold"], "value", "the hold of " + balance.asset, true));
  }
  return balance;
}

}  // namespace defib::venue
