#include "defib/paper/coinbase.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>

#include "defib/base/assert.h"
#include "defib/os/clock.h"
#include "defib/paper/crypto.h"

namespace defib::paper {
namespace {

using wire::Json;

constexpr std::string_view kPrefix = "/api/v3/brokerage";
constexpr std::size_t kDefaultPage = 100;
constexpr std::size_t kMaxPage = 250;
constexpr Micros kSecondUs = 1'000'000;
// A token may be a little ahead of the venue's clock.
constexpr std::int64_t kFutureSeconds = 5;
constexpr std::int64_t kMaxTokenSeconds = 125;

Dialect::Reply reply_of(int status, std::string body) {
  Dialect::Reply reply;
  reply.response.status = status;
  reply.response.headers = {{"Content-Type", "application/json; charset=utf-8"}};
  reply.response.body = std::move(body);
  return reply;
}
Dialect::Reply error_reply(int status, std::string_view code, std::string_view text) {
  return reply_of(
      status, Json::object({{"error", code}, {"error_details", text}, {"message", text}}).dump());
}
Dialect::Reply unauthorized() {
  Dialect::Reply reply = reply_of(401, "Unauthorized\n");
  reply.response.headers = {{"Content-Type", "text/plain"}};
  return reply;
}

std::string time_of(Micros us) {
  return os::format_time(us * 1'000);
}

std::vector<std::string> all_of(const std::vector<std::pair<std::string, std::string>>& query,
                                std::string_view name) {
  std::vector<std::string> values;
  for (const auto& [key, value] : query) {
    if (key == name && !value.empty()) values.push_back(value);
  }
  return values;
}
std::string first_of(const std::vector<std::pair<std::string, std::string>>& query,
                     std::string_view name) {
  const std::vector<std::string> values = all_of(query, name);
  return values.empty() ? std::string() : values.front();
}
std::uint64_t number_of(const std::string& text, std::uint64_t otherwise) {
  std::uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() && !text.empty() ? value
                                                                                     : otherwise;
}

bool holds(const std::vector<std::string>& list, std::string_view value) {
  return list.empty() || std::ranges::find(list, value) != list.end();
}

Symbol make_symbol(std::string base, std::string_view tick, std::string_view price) {
  const auto amount = [](std::string_view text) { return Decimal::parse(text).value(); };
  Symbol symbol;
  symbol.name = base + "-USD";
  symbol.base = std::move(base);
  symbol.quote = "USD";
  symbol.tick = amount(tick);
  symbol.step = amount("0.00000001");
  symbol.min_quantity = amount("0.00000001");
  symbol.max_quantity = amount("100000");
  symbol.max_price = amount("1000000");
  symbol.min_notional = amount("1");
  symbol.start_price = amount(price);
  return symbol;
}

std::string_view status_of(OrderStatus status) {
  switch (status) {
    case OrderStatus::kNew:
    case OrderStatus::kPartiallyFilled:
      return "OPEN";
    case OrderStatus::kFilled:
      return "FILLED";
    case OrderStatus::kCancelled:
      return "CANCELLED";
    case OrderStatus::kExpired:
      return "EXPIRED";
  }
  DEFIB_UNREACHABLE("a status without a name");
}

}  // namespace

std::vector<Symbol> coinbase_symbols() {
  return {make_symbol("BTC", "0.01", "50000"), make_symbol("ETH", "0.01", "3000"),
          make_symbol("SOL", "0.01", "150")};
}

std::string coinbase_id(std::uint64_t number) {
  return fmt::format("c0ffee00-0000-4000-8000-{:012x}", number);
}

std::optional<std::uint64_t> coinbase_number(std::string_view id) {
  constexpr std::string_view kHead = "c0ffee00-0000-4000-8000-";
  if (!id.starts_with(kHead) || id.size() != kHead.size() + 12) return std::nullopt;
  std::uint64_t value = 0;
  const char* last = id.data() + id.size();
  const auto [end, problem] = std::from_chars(id.data() + kHead.size(), last, value, 16);
  if (problem != std::errc() || end != last) return std::nullopt;
  return value;
}

Coinbase::Coinbase(Core& core, FaultPlan& faults, Options options)
    : FaultedDialect(core, faults), options_(std::move(options)) {}

void Coinbase::recognize(Pending& pending) const {
  if (pending.request.method != "POST" || pending.path != std::string(kPrefix) + "/orders") return;
  pending.places = true;
  const Result<Json> body = Json::parse(pending.request.body);
  if (body) pending.client_id = (*body)["client_order_id"].as_string().substr(0, 64);
}

std::string Coinbase::text_of(Reject reject) const {
  switch (reject) {
    case Reject::kMarketClosed:
      return "TRADING_DISABLED";
    case Reject::kPriceFilter:
      return "INVALID_PRICE_PRECISION";
    case Reject::kLotSize:
      return "INVALID_SIZE_PRECISION";
    case Reject::kNotional:
      return "ORDER_ENTRY_DISABLED_MIN_SIZE";
    case Reject::kMaxPosition:
    case Reject::kTooManyOrders:
      return "EXCEEDS_LIMIT";
    case Reject::kDuplicate:
      return "DUPLICATE_CLIENT_ORDER_ID";
    case Reject::kInsufficientBalance:
      return "INSUFFICIENT_FUND";
    case Reject::kWouldTake:
      return "INVALID_LIMIT_PRICE_POST_ONLY";
  }
  DEFIB_UNREACHABLE("a refusal without a text");
}

// ---- Who asks.

std::optional<Coinbase::Token> Coinbase::check_token(const Pending& pending, Micros now) const {
  std::string_view token = pending.request.header("Authorization");
  if (!token.starts_with("Bearer ")) return std::nullopt;
  token.remove_prefix(7);
  const std::size_t first = token.find('.');
  const std::size_t second = token.find('.', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) return std::nullopt;
  std::string header, claims, signature;
  if (!from_base64(token.substr(0, first), true, header) ||
      !from_base64(token.substr(first + 1, second - first - 1), true, claims) ||
      !from_base64(token.substr(second + 1), true, signature) ||
      !verify_signature(options_.public_key, token.substr(0, second), signature)) {
    return std::nullopt;
  }
  const Result<Json> head = Json::parse(header);
  const Result<Json> body = Json::parse(claims);
  if (!head || !body) return std::nullopt;
  if ((*head)["kid"].as_string() != options_.api_key ||
      (*body)["sub"].as_string() != options_.api_key) {
    return std::nullopt;
  }
  const std::int64_t at = server_now(now) / kSecondUs;
  const std::int64_t expires = (*body)["exp"].as_int();
  const std::int64_t from = (*body)["nbf"].as_int();
  if (from > at + kFutureSeconds || expires <= at || expires > at + kMaxTokenSeconds) {
    return std::nullopt;
  }
  std::string uri((*body)["uri"].as_string());
  if (uri.empty() && (*body)["uris"].size() == 1) {
    uri = (*body)["uris"].items().front().as_string();
  }
  const std::size_t space = uri.find(' ');
  const std::size_t slash = uri.find('/');
  if (space == std::string::npos || slash == std::string::npos || slash < space) {
    return std::nullopt;
  }
  const std::string host = uri.substr(space + 1, slash - space - 1);
  if (uri.substr(0, space) != pending.request.method || uri.substr(slash) != pending.path ||
      (!options_.host.empty() && host != options_.host)) {
    return std::nullopt;
  }
  return Token{expires};
}

std::optional<Dialect::Reply> Coinbase::admit(Pending& pending, Micros now) {
  now_ = now;
  const std::string_view path = pending.path;
  if (!path.starts_with(kPrefix)) return error_reply(404, "NOT_FOUND", "no such path");
  if (options_.requests_per_second > 0) {
    if (now / kSecondUs != second_) in_second_ = 0;
    second_ = now / kSecondUs;
    if (++in_second_ > options_.requests_per_second) {
      Reply reply = error_reply(429, "rate_limit_exceeded", "Too many requests");
      reply.response.headers.emplace_back("x-ratelimit-remaining", "0");
      return reply;
    }
  }
  const bool is_public =
      path.substr(kPrefix.size()).starts_with("/market/") || path.ends_with("/time");
  if (!is_public && !check_token(pending, now)) return unauthorized();
  return std::nullopt;
}

Dialect::Reply Coinbase::fault_reply(const FaultRule& rule) const {
  switch (rule.kind) {
    case FaultKind::kRateLimit:
    case FaultKind::kBan:
      return error_reply(429, "rate_limit_exceeded", "Too many requests");
    case FaultKind::kTimeout:
      return reply_of(rule.status == 0 ? 504 : rule.status, "upstream request timeout");
    default:
      return reply_of(rule.status == 0 ? 503 : rule.status, "service unavailable");
  }
}

Dialect::Reply Coinbase::execute(Pending& pending, Micros now) {
  now_ = now;
  // The token is looked at again just before matching.
  if (pending.places && !check_token(pending, now)) {
    refuse(pending, Refusal::kRejected, "the token has expired");
    return unauthorized();
  }
  Query query = wire::parse_query(pending.query);
  return route(pending, query);
}

Dialect::Reply Coinbase::route(Pending& pending, const Query& query) {
  const std::string_view path = std::string_view(pending.path).substr(kPrefix.size());
  constexpr std::string_view kHistorical = "/orders/historical/";
  if (pending.request.method == "POST") {
    if (path == "/orders") return new_order(pending);
    if (path == "/orders/preview") return preview(pending);
    if (path == "/orders/batch_cancel") return cancel(pending);
  } else {
    if (path == "/time") {
      const Micros at = server_now(now_);
      return reply_of(200, fmt::format(R"({{"iso":"{}","epochSeconds":"{}","epochMillis":"{}"}})",
                                       time_of(at), at / kSecondUs, at / 1'000));
    }
    if (path == "/market/products" || path == "/products") return products(query);
    if (path == "/transaction_summary") {
      return reply_of(200, fmt::format(R"({{"total_volume":0,"total_fees":0,"fee_tier":)"
                                       R"({{"maker_fee_rate":"{}","taker_fee_rate":"{}"}}}})",
                                       core_.options().maker_fee.to_string(),
                                       core_.options().taker_fee.to_string()));
    }
    if (path == "/market/product_book") return book(query);
    if (path == "/best_bid_ask") return best(query);
    if (path == "/accounts") return accounts();
    if (path == "/orders/historical/batch") return list_orders(query);
    if (path == "/orders/historical/fills") return list_fills(query);
    if (path.starts_with(kHistorical)) return get_order(path.substr(kHistorical.size()));
  }
  return error_reply(404, "NOT_FOUND", "no such path");
}

// ---- Market.

Dialect::Reply Coinbase::products(const Query& query) const {
  const std::string type = first_of(query, "product_type");
  if (!type.empty() && type != "SPOT") return reply_of(200, R"({"products":[],"num_products":0})");
  std::string out = R"({"products":[)";
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    const Symbol& symbol = core_.symbols()[i];
    const bool open = core_.status(i) == SymbolStatus::kTrading;
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"product_id":"{}","price":"{}","base_increment":"{}","quote_increment":"{}",)"
        R"("price_increment":"{}","quote_min_size":"{}","base_min_size":"{}",)"
        R"("base_currency_id":"{}","quote_currency_id":"{}","status":"online",)"
        R"("cancel_only":{},"limit_only":false,"post_only":false,"trading_disabled":{},)"
        R"("is_disabled":false,"product_type":"SPOT"}})",
        i == 0 ? "" : ",", symbol.name, core_.reference_price(i).to_string(),
        symbol.step.to_string(), symbol.tick.to_string(), symbol.tick.to_string(),
        symbol.min_notional.to_string(), symbol.min_quantity.to_string(), symbol.base, symbol.quote,
        !open, !open);
  }
  return reply_of(200, out + fmt::format(R"(],"num_products":{}}})", core_.symbols().size()));
}

std::string Coinbase::book_json(std::uint32_t symbol) const {
  const Book& levels = core_.book(symbol);
  const auto side = [&](Side which) {
    const auto price = levels.best(which);
    return price ? fmt::format(R"([{{"price":"{}","size":"1"}}])", price->to_string())
                 : std::string("[]");
  };
  return fmt::format(R"({{"product_id":"{}","bids":{},"asks":{},"time":"{}"}})",
                     core_.symbols()[symbol].name, side(Side::kBuy), side(Side::kSell),
                     time_of(now_));
}

Dialect::Reply Coinbase::book(const Query& query) const {
  const auto symbol = core_.find_symbol(first_of(query, "product_id"));
  if (!symbol) return error_reply(400, "INVALID_ARGUMENT", "unknown product");
  return reply_of(200, fmt::format(R"({{"pricebook":{}}})", book_json(*symbol)));
}

Dialect::Reply Coinbase::best(const Query& query) const {
  const std::vector<std::string> wanted = all_of(query, "product_ids");
  std::string out;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    if (!holds(wanted, core_.symbols()[i].name)) continue;
    out += (out.empty() ? "" : ",") + book_json(i);
  }
  return reply_of(200, fmt::format(R"({{"pricebooks":[{}]}})", out));
}

// ---- Account.

Dialect::Reply Coinbase::accounts() const {
  std::string out;
  std::uint64_t number = 0;
  for (const auto& [asset, balance] : core_.balances()) {
    ++number;
    const Decimal reserve = core_.fees_held(asset);
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"uuid":"{}","name":"{} Wallet","currency":"{}","available_balance":)"
        R"({{"value":"{}","currency":"{}"}},"default":true,"active":true,"created_at":"{}",)"
        R"("updated_at":"{}","deleted_at":null,"type":"ACCOUNT_TYPE_CRYPTO","ready":true,)"
        R"("hold":{{"value":"{}","currency":"{}"}},"retail_portfolio_id":"x"}})",
        out.empty() ? "" : ",", coinbase_id(number), asset, asset,
        (balance.free + reserve).to_string(), asset, time_of(0), time_of(now_),
        (balance.locked - reserve).to_string(), asset);
  }
  return reply_of(200, fmt::format(R"({{"accounts":[{}],"has_next":false,"cursor":"","size":{}}})",
                                   out, core_.balances().size()));
}

std::string Coinbase::order_json(const Order& order) const {
  const std::string& product = core_.symbols()[order.symbol].name;
  std::string terms;
  if (order.trigger) {
    terms = fmt::format(
        R"("stop_limit_stop_limit_gtc":{{"base_size":"{}","limit_price":"{}","stop_price":"{}",)"
        R"("stop_direction":"STOP_DIRECTION_STOP_{}"}})",
        order.quantity.to_string(), order.price.to_string(), order.trigger->price.to_string(),
        order.trigger->up ? "UP" : "DOWN");
  } else if (order.type == OrderType::kMarket) {
    terms = fmt::format(R"("market_market_ioc":{{"base_size":"{}"}})", order.quantity.to_string());
  } else {
    const bool at_once = order.time_in_force == TimeInForce::kIoc;
    terms = fmt::format(R"("{}":{{"base_size":"{}","limit_price":"{}"{}}})",
                        at_once ? "sor_limit_ioc" : "limit_limit_gtc", order.quantity.to_string(),
                        order.price.to_string(),
                        at_once                                ? ""
                        : order.type == OrderType::kLimitMaker ? R"(,"post_only":true)"
                                                               : R"(,"post_only":false)");
  }
  const Decimal average =
      order.executed.is_zero() ? Decimal() : order.executed_quote / order.executed;
  return fmt::format(
      R"({{"order_id":"{}","product_id":"{}","user_id":"u","order_configuration":{{{}}},)"
      R"("side":"{}","client_order_id":"{}","status":"{}","time_in_force":"GOOD_UNTIL_CANCELLED",)"
      R"("created_time":"{}","completion_percentage":"0","filled_size":"{}",)"
      R"("average_filled_price":"{}","fee":"","number_of_fills":"0","filled_value":"{}",)"
      R"("pending_cancel":false,"size_in_quote":false,"total_fees":"{}","order_type":"{}",)"
      R"("trigger_status":"{}",)"
      R"("reject_reason":"REJECT_REASON_UNSPECIFIED","settled":{},"product_type":"SPOT",)"
      R"("order_placement_source":"{}","last_fill_time":{}}})",
      coinbase_id(order.id), product, terms, to_string(order.side), order.client_id,
      status_of(order.status), time_of(order.created_us), order.executed.to_string(),
      average.to_string(), order.executed_quote.to_string(), order.fees.to_string(),
      order.trigger ? std::string_view("STOP_LIMIT") : to_string(order.type),
      !order.trigger ? "INVALID_ORDER_TYPE"
      : order.waits  ? "STOP_PENDING"
                     : "STOP_TRIGGERED",
      !is_open(order.status),
      order.origin == Origin::kExternal ? "RETAIL_SIMPLE" : "RETAIL_ADVANCED",
      order.executed.is_zero() ? "null" : fmt::format(R"("{}")", time_of(order.updated_us)));
}

Dialect::Reply Coinbase::list_orders(const Query& query) const {
  const std::vector<std::string> products = all_of(query, "product_ids");
  const std::vector<std::string> statuses = all_of(query, "order_status");
  if (statuses.size() > 1 && holds(statuses, "OPEN")) {
    return error_reply(400, "INVALID_ARGUMENT", "cannot pair OPEN orders with other order types");
  }
  const std::string source = first_of(query, "order_placement_source");
  const bool simple = source == "RETAIL_SIMPLE";
  const std::size_t limit = std::clamp<std::size_t>(
      static_cast<std::size_t>(number_of(first_of(query, "limit"), kDefaultPage)), 1, kMaxPage);
  // Newest first; the cursor is the last order that was shown.
  std::uint64_t below = number_of(first_of(query, "cursor"), UINT64_MAX);
  std::string out;
  std::size_t count = 0;
  std::uint64_t last = 0;
  bool has_next = false;
  const std::vector<Order>& orders = core_.orders();
  for (auto order = orders.rbegin(); order != orders.rend(); ++order) {
    const bool wanted = order->id < below && visible(*order) &&
                        (order->origin == Origin::kExternal) == simple &&
                        holds(products, core_.symbols()[order->symbol].name) &&
                        holds(statuses, status_of(order->status));
    if (!wanted) continue;
    if (count == limit) {
      has_next = true;
      break;
    }
    out += (count++ == 0 ? "" : ",") + order_json(*order);
    last = order->id;
  }
  return reply_of(
      200, fmt::format(R"({{"orders":[{}],"sequence":"0","has_next":{},"cursor":"{}"}})", out,
                       has_next, has_next ? std::to_string(last) : ""));
}

Dialect::Reply Coinbase::list_fills(const Query& query) const {
  const std::vector<std::string> products = all_of(query, "product_ids");
  const std::vector<std::string> orders = all_of(query, "order_ids");
  const std::string start = first_of(query, "start_sequence_timestamp");
  if (!orders.empty() && (!products.empty() || !start.empty())) {
    return error_reply(400, "INVALID_ARGUMENT", "cannot pass order_ids with other filters");
  }
  const std::int64_t from = start.empty() ? 0 : os::parse_time(start) / 1'000;
  const std::size_t limit = std::clamp<std::size_t>(
      static_cast<std::size_t>(number_of(first_of(query, "limit"), kDefaultPage)), 1, kMaxPage);
  const std::uint64_t below = number_of(first_of(query, "cursor"), UINT64_MAX);
  std::vector<const Trade*> found;
  for (std::uint32_t i = 0; i < core_.symbols().size(); ++i) {
    if (!holds(products, core_.symbols()[i].name)) continue;
    for (const Trade& trade : core_.trades(i)) {
      if (trade.id < below && trade.time_us >= from && holds(orders, coinbase_id(trade.order_id))) {
        found.push_back(&trade);
      }
    }
  }
  std::ranges::sort(found, [](const Trade* a, const Trade* b) { return a->id > b->id; });
  std::string out;
  for (std::size_t i = 0; i < std::min(limit, found.size()); ++i) {
    const Trade& trade = *found[i];
    fmt::format_to(
        std::back_inserter(out),
        R"({}{{"entry_id":"e{}","trade_id":"t{:012}","order_id":"{}","trade_time":"{}",)"
        R"("trade_type":"FILL","price":"{}","size":"{}","commission":"{}","product_id":"{}",)"
        R"("sequence_timestamp":"{}","liquidity_indicator":"{}","size_in_quote":false,)"
        R"("user_id":"u","side":"{}"}})",
        i == 0 ? "" : ",", trade.id, trade.id, coinbase_id(trade.order_id), time_of(trade.time_us),
        trade.price.to_string(), trade.quantity.to_string(), trade.commission.to_string(),
        core_.symbols()[trade.symbol].name, time_of(trade.time_us), trade.maker ? "MAKER" : "TAKER",
        to_string(trade.side));
  }
  const std::string cursor = found.size() > limit ? std::to_string(found[limit - 1]->id) : "";
  return reply_of(200, fmt::format(R"({{"fills":[{}],"cursor":"{}"}})", out, cursor));
}

Dialect::Reply Coinbase::get_order(std::string_view id) const {
  const auto number = coinbase_number(id);
  const Order* order = number ? core_.find_order(*number) : nullptr;
  if (order == nullptr || !visible(*order)) {
    return error_reply(404, "NOT_FOUND", "order with this orderID was not found");
  }
  return reply_of(200, fmt::format(R"({{"order":{}}})", order_json(*order)));
}

// ---- Orders.

// What is wrong with the terms of a stop, or nothing.
std::string Coinbase::read_stop(const Json& terms, NewOrder& order) const {
  const Result<Decimal> limit = Decimal::parse(terms["limit_price"].as_string());
  const Result<Decimal> stop = Decimal::parse(terms["stop_price"].as_string());
  if (!limit || *limit <= Decimal()) return "INVALID_LIMIT_PRICE";
  if (!stop || *stop <= Decimal()) return "INVALID_STOP_PRICE";
  const bool buy = order.side == Side::kBuy;
  const std::string_view direction = terms["stop_direction"].as_string();
  const std::string_view usual = buy ? "STOP_DIRECTION_STOP_UP" : "STOP_DIRECTION_STOP_DOWN";
  const bool up = (direction.empty() ? usual : direction) == "STOP_DIRECTION_STOP_UP";
  if (!up && !direction.empty() && direction != "STOP_DIRECTION_STOP_DOWN") {
    return "INVALID_REQUEST";
  }
  order.price = *limit;
  order.trigger = Trigger{*stop, up, false};
  if (!core_.would_trigger(order)) return {};
  return up ? "STOP_PRICE_BELOW_LAST_TRADE_PRICE" : "STOP_PRICE_ABOVE_LAST_TRADE_PRICE";
}

std::expected<NewOrder, std::string> Coinbase::read_order(const Json& body,
                                                          const Pending& pending) const {
  NewOrder order;
  const auto symbol = core_.find_symbol(body["product_id"].as_string());
  if (!symbol) return std::unexpected("INVALID_PRODUCT_ID");
  order.symbol = *symbol;
  const std::optional<Side> side = from_string<Side>(body["side"].as_string());
  if (!side) return std::unexpected("INVALID_SIDE");
  order.side = *side;
  const Json& configuration = body["order_configuration"];
  if (configuration.members().size() != 1)
    return std::unexpected("UNSUPPORTED_ORDER_CONFIGURATION");
  const auto& [kind, terms] = configuration.members().front();
  if (kind == "market_market_ioc") {
    order.type = OrderType::kMarket;
  } else if (kind == "limit_limit_gtc" || kind == "sor_limit_ioc") {
    if (kind == "sor_limit_ioc") order.time_in_force = TimeInForce::kIoc;
    if (terms["post_only"].as_bool()) order.type = OrderType::kLimitMaker;
    const Result<Decimal> price = Decimal::parse(terms["limit_price"].as_string());
    if (!price || *price <= Decimal()) return std::unexpected("INVALID_LIMIT_PRICE");
    order.price = *price;
  } else if (kind == "stop_limit_stop_limit_gtc") {
    if (const std::string problem = read_stop(terms, order); !problem.empty()) {
      return std::unexpected(problem);
    }
  } else {
    return std::unexpected("UNSUPPORTED_ORDER_CONFIGURATION");
  }
  const bool by_money = order.type == OrderType::kMarket && terms.has("quote_size");
  const Result<Decimal> size =
      Decimal::parse(terms[by_money ? "quote_size" : "base_size"].as_string());
  if (!size || *size <= Decimal()) return std::unexpected("INVALID_SIZE");
  (by_money ? order.quote_quantity : order.quantity) = *size;
  order.client_id = body["client_order_id"].as_string();
  order.fault = pending.fault_names;
  order.visible_after_us = pending.lag_ms * 1'000;
  return order;
}

Dialect::Reply Coinbase::placed(const Order& order) const {
  return reply_of(
      200, fmt::format(R"({{"success":true,"success_response":{{"order_id":"{}","product_id":"{}",)"
                       R"("side":"{}","client_order_id":"{}"}},"order_configuration":{{}}}})",
                       coinbase_id(order.id), core_.symbols()[order.symbol].name,
                       to_string(order.side), order.client_id));
}

Dialect::Reply Coinbase::new_order(Pending& pending) {
  const auto fail = [&](std::string_view code, Refusal kind) {
    refuse(pending, kind, code);
    return reply_of(200, fmt::format(R"({{"success":false,"error_response":{{"error":"{}",)"
                                     R"("message":"{}","error_details":"",)"
                                     R"("preview_failure_reason":"UNKNOWN"}}}})",
                                     code, code));
  };
  const Result<Json> body = Json::parse(pending.request.body);
  if (!body || (*body)["client_order_id"].as_string().empty()) {
    refuse(pending, Refusal::kRejected, "malformed");
    return error_reply(400, "INVALID_ARGUMENT", "client_order_id is required");
  }
  // The order that corresponds with an id that is not unique is returned instead.
  if (const Order* known = core_.find_order((*body)["client_order_id"].as_string())) {
    if (options_.refuse_used_ids) return fail("DUPLICATE_CLIENT_ORDER_ID", Refusal::kDuplicate);
    return placed(*known);
  }
  const auto order = read_order(*body, pending);
  if (!order) return fail(order.error(), Refusal::kRejected);
  const auto done = core_.place(*order);
  if (!done) return fail(text_of(done.error()), Refusal::kRejected);
  return placed(*core_.find_order(done->order_id));
}

Dialect::Reply Coinbase::preview(const Pending& pending) {
  const Result<Json> body = Json::parse(pending.request.body);
  if (!body) return error_reply(400, "INVALID_ARGUMENT", "malformed");
  auto order = read_order(*body, pending);
  std::string problem;
  if (!order) {
    problem = order.error();
  } else {
    order->client_id = fmt::format("preview{}", core_.orders().size() + 1);
    if (const auto reject = core_.check(*order)) problem = text_of(*reject);
  }
  return reply_of(200, fmt::format(R"({{"order_total":"0","errs":[{}],"warning":[]}})",
                                   problem.empty() ? "" : fmt::format(R"("{}")", problem)));
}

Dialect::Reply Coinbase::cancel(const Pending& pending) {
  const Result<Json> body = Json::parse(pending.request.body);
  if (!body || !(*body)["order_ids"].is_array()) {
    return error_reply(400, "INVALID_ARGUMENT", "order_ids is required");
  }
  std::string out;
  for (const Json& item : (*body)["order_ids"].items()) {
    const auto number = coinbase_number(item.as_string());
    const bool done =
        number && core_.cancel(*number, fmt::format("cancel{}", core_.last_seq() + 1));
    fmt::format_to(
        std::back_inserter(out), R"({}{{"success":{},"failure_reason":"{}","order_id":"{}"}})",
        out.empty() ? "" : ",", done,
        done ? "UNKNOWN_CANCEL_FAILURE_REASON" : "UNKNOWN_CANCEL_ORDER", item.as_string());
  }
  return reply_of(200, fmt::format(R"({{"results":[{}]}})", out));
}

}  // namespace defib::paper
