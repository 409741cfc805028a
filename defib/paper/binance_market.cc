// The dialect's public endpoints: time, rules and market data.

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "defib/paper/binance.h"
#include "defib/paper/binance_call.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

constexpr std::int64_t kDefaultDepth = 100;
constexpr std::int64_t kMaxDepth = 5000;

std::string fixed(Decimal value) {
  return value.to_string(8);
}

void append_levels(std::string& out, const std::vector<Book::Level>& levels) {
  for (std::size_t i = 0; i < levels.size(); ++i) {
    fmt::format_to(std::back_inserter(out), R"({}["{}","{}"])", i == 0 ? "" : ",",
                   fixed(levels[i].price), fixed(levels[i].quantity));
  }
}

}  // namespace

// The symbols that `symbol` or `symbols` (a JSON array) name, or all; and whether it was the array
// form or none, which are answered by an array.
std::vector<std::uint32_t> Binance::Call::symbols(bool& as_array) {
  as_array = !has("symbol");
  if (!as_array) {
    if (has("symbols")) fail({400, -1128, "Combination of optional parameters invalid."});
    return {*symbol()};
  }
  std::vector<std::uint32_t> result;
  const std::optional<std::string_view> list = optional_text("symbols");
  if (!list) {
    for (std::uint32_t index = 0; index < core_.symbols().size(); ++index) result.push_back(index);
    return result;
  }
  const Result<wire::Json> json = wire::Json::parse(*list);
  if (!json || !json->is_array()) {
    fail(illegal("symbols", "[\"SYMBOL\",...]"));
    return result;
  }
  for (const wire::Json& item : json->items()) {
    const std::optional<std::uint32_t> found = core_.find_symbol(item.as_string());
    if (!found) {
      fail({400, -1121, "Invalid symbol."});
    } else if (std::ranges::find(result, *found) == result.end()) {
      result.push_back(*found);
    }
  }
  return result;
}

Binance::Answer Binance::ping(Call& call) {
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  return "{}";
}

Binance::Answer Binance::time(Call& call) {
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  return fmt::format(R"({{"serverTime":{}}})", (core_.now() + skew_us_) / 1000);
}

Binance::Answer Binance::exchange_info(Call& call) {
  bool as_array = false;
  const std::vector<std::uint32_t> symbols = call.symbols(as_array);
  // Filters of the answer that say nothing here: every symbol trades spot.
  call.optional_text("permissions");
  call.optional_text("showPermissionSets");
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  std::string out = fmt::format(R"({{"timezone":"UTC","serverTime":{},"rateLimits":[)",
                                (core_.now() + skew_us_) / 1000);
  bool separate = false;
  const auto limit = [&](std::string_view type, std::string_view interval, int number, int most) {
    if (most == 0) return;
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"rateLimitType":"{}","interval":"{}","intervalNum":{},"limit":{}}})",
                   separate ? "," : "", type, interval, number, most);
    separate = true;
  };
  limit("REQUEST_WEIGHT", "MINUTE", 1, options_.limits.weight_per_minute);
  limit("ORDERS", "SECOND", 10, options_.limits.orders_per_10s);
  out += R"(],"exchangeFilters":[],"symbols":[)";
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (i > 0) out += ',';
    append_symbol_info(out, symbols[i]);
  }
  return out + "]}";
}

void Binance::append_symbol_info(std::string& out, std::uint32_t index) const {
  const Symbol& symbol = core_.symbols()[index];
  const auto to = std::back_inserter(out);
  fmt::format_to(
      to,
      R"({{"symbol":"{}","status":"{}","baseAsset":"{}","baseAssetPrecision":8,)"
      R"("quoteAsset":"{}","quotePrecision":8,"quoteAssetPrecision":8,)"
      R"("baseCommissionPrecision":8,"quoteCommissionPrecision":8,)"
      R"("orderTypes":["LIMIT","LIMIT_MAKER","MARKET","STOP_LOSS","STOP_LOSS_LIMIT",)"
      R"("TAKE_PROFIT","TAKE_PROFIT_LIMIT"],"icebergAllowed":false,)"
      R"("ocoAllowed":false,"otoAllowed":false,"quoteOrderQtyMarketAllowed":true,)"
      R"("allowTrailingStop":false,"cancelReplaceAllowed":false,"isSpotTradingAllowed":true,)"
      R"("isMarginTradingAllowed":false,"filters":[)",
      symbol.name, to_string(core_.status(index)), symbol.base, symbol.quote);
  fmt::format_to(
      to,
      R"({{"filterType":"PRICE_FILTER","minPrice":"{}","maxPrice":"{}","tickSize":"{}"}},)"
      R"({{"filterType":"LOT_SIZE","minQty":"{}","maxQty":"{}","stepSize":"{}"}},)"
      R"({{"filterType":"NOTIONAL","minNotional":"{}","applyMinToMarket":true,)"
      R"("maxNotional":"{}","applyMaxToMarket":false,"avgPriceMins":0}},)"
      R"({{"filterType":"MAX_NUM_ORDERS","maxNumOrders":{}}}],)",
      fixed(symbol.tick), fixed(symbol.max_price), fixed(symbol.tick), fixed(symbol.min_quantity),
      fixed(symbol.max_quantity), fixed(symbol.step), fixed(symbol.min_notional),
      fixed(symbol.max_price * symbol.max_quantity), kMaxOpenOrders);
  out += R"("permissions":[],"permissionSets":[["SPOT"]],"defaultSelfTradePreventionMode":"NONE",)"
         R"("allowedSelfTradePreventionModes":["NONE"]})";
}

Binance::Answer Binance::book_ticker(Call& call) {
  bool as_array = false;
  const std::vector<std::uint32_t> symbols = call.symbols(as_array);
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  std::string out;
  for (const std::uint32_t symbol : symbols) {
    if (!out.empty()) out += ',';
    append_book_ticker(out, symbol);
  }
  return as_array ? "[" + out + "]" : out;
}

void Binance::append_book_ticker(std::string& out, std::uint32_t symbol) const {
  const auto best = [&](Side side) {
    const std::vector<Book::Level> levels = core_.book(symbol).depth(side, 1);
    return levels.empty() ? Book::Level{} : levels.front();
  };
  const Book::Level bid = best(Side::kBuy);
  const Book::Level ask = best(Side::kSell);
  fmt::format_to(std::back_inserter(out),
                 R"({{"symbol":"{}","bidPrice":"{}","bidQty":"{}","askPrice":"{}","askQty":"{}"}})",
                 core_.symbols()[symbol].name, fixed(bid.price), fixed(bid.quantity),
                 fixed(ask.price), fixed(ask.quantity));
}

Binance::Answer Binance::price_ticker(Call& call) {
  bool as_array = false;
  const std::vector<std::uint32_t> symbols = call.symbols(as_array);
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  std::string out;
  for (const std::uint32_t symbol : symbols) {
    fmt::format_to(std::back_inserter(out), R"({}{{"symbol":"{}","price":"{}"}})",
                   out.empty() ? "" : ",", core_.symbols()[symbol].name,
                   fixed(core_.reference_price(symbol)));
  }
  return as_array ? "[" + out + "]" : out;
}

Binance::Answer Binance::depth(Call& call) {
  const std::uint32_t symbol = *call.symbol();
  const std::size_t limit = call.limit(kDefaultDepth, kMaxDepth);
  if (auto refused = call.done()) return std::unexpected(std::move(*refused));
  std::string out = fmt::format(R"({{"lastUpdateId":{},"bids":[)", core_.last_seq());
  append_levels(out, core_.book(symbol).depth(Side::kBuy, limit));
  out += R"(],"asks":[)";
  append_levels(out, core_.book(symbol).depth(Side::kSell, limit));
  return out + "]}";
}

}  // namespace defib::paper
