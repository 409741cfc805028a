#include "defib/venue/coinbase.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "defib/os/random.h"
#include "defib/venue/coinbase_parse.h"
#include "defib/venue/rest.h"

namespace defib::venue {
namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;

constexpr std::string_view kPrefix = "/api/v3/brokerage";
constexpr std::size_t kMaxBody = 256 << 20;
constexpr std::size_t kBodyShown = 200;
constexpr std::size_t kCancelChunk = 100;
constexpr int kFillsPerPage = 100;
constexpr int kMaxPages = 20'000;
constexpr std::size_t kMaxKnownIds = 200'000;
constexpr std::int64_t kMinWindowMs = 2'000;
constexpr std::int64_t kMaxWindowMs = 60'000;
constexpr std::int64_t kReadTokenSeconds = 120;
constexpr std::int64_t kNsPerSecond = 1'000'000'000;

std::string host_of(std::string_view url) {
  const std::size_t scheme = url.find("://");
  if (scheme != std::string_view::npos) url.remove_prefix(scheme + 3);
  return std::string(url.substr(0, url.find('/')));
}

std::string query_of(const Parameters& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    if (value.empty()) continue;
    text += (text.empty() ? "?" : "&") + name + "=" + wire::url_encode(value);
  }
  return text;
}

wire::Json configuration_of(const OrderRequest& request) {
  wire::Json terms = wire::Json::object({{"base_size", request.quantity.to_string()}});
  if (request.type == OrderType::kMarket) {
    return wire::Json::object({{"market_market_ioc", std::move(terms)}});
  }
  terms.set("limit_price", request.price.to_string());
  if (request.time_in_force == TimeInForce::kIoc) {
    return wire::Json::object({{"sor_limit_ioc", std::move(terms)}});
  }
  terms.set("post_only", false);
  return wire::Json::object({{"limit_limit_gtc", std::move(terms)}});
}

}  // namespace

Result<std::string> coinbase_token(std::string_view key, std::string_view pem,
                                   std::string_view method, std::string_view host,
                                   std::string_view path, std::int64_t not_before,
                                   std::int64_t expires, std::string_view nonce) {
  std::string algorithm;
  // Only the kind of the key is asked for here; the message is signed below.
  DEFIB_TRY(sign_with_key(pem, "", algorithm));
  const wire::Json header =
      wire::Json::object({{"alg", algorithm}, {"typ", "JWT"}, {"kid", key}, {"nonce", nonce}});
  const wire::Json claims =
      wire::Json::object({{"iss", "cdp"},
                          {"sub", key},
                          {"nbf", not_before},
                          {"exp", expires},
                          {"uri", fmt::format("{} {}{}", method, host, path)}});
  const std::string message =
      base64url_encode(header.dump()) + "." + base64url_encode(claims.dump());
  DEFIB_TRY_ASSIGN(const std::string signature, sign_with_key(pem, message, algorithm));
  return message + "." + base64url_encode(signature);
}

struct CoinbaseVenue::Impl {
  struct Call {
    std::string what;
    std::string method = "GET";
    std::string path;  // after the prefix
    Parameters parameters = {};
    std::string body = {};
    bool is_private = true;
    Effect effect = Effect::kNone;
    bool is_new_order = false;
    std::int64_t expires_s = 0;  // of the token; 0: the usual
  };

  explicit Impl(CoinbaseOptions given)
      : options(std::move(given)),
        host(options.token_host.empty() ? host_of(options.base_url) : options.token_host),
        clock(options.clock ? *options.clock : os::real_clock()),
        http({.connect_timeout = std::chrono::seconds(2),
              .timeout = options.timeout,
              .max_body = kMaxBody}),
        budget({.capacity = options.requests_per_second, .window = std::chrono::seconds(1)}, clock,
               options.rate_file) {}

  Result<wire::Json> send(const Call& call);
  Result<wire::HttpResponse> exchange_for(const Call& call);
  // By `parse`, which gives nullopt for what is no such answer.
  template <typename T>
  Result<T> send_and(const Call& call, Result<std::optional<T>> (*parse)(std::string& body));
  Result<wire::HttpRequest> build(const Call& call) const;
  Result<wire::Json> judge(const Call& call, const wire::HttpResponse& response);
  Error refused(const Call& call, int status, const wire::Json& json);
  Result<Order> by_venue_id(const std::string& id);
  // Calls `each` for every order of a list until it returns false.
  Result<> walk(Parameters filter, const std::string& what,
                const std::function<Result<bool>(Order order)>& each);
  Result<std::string> venue_id_of(const std::string& symbol, const std::string& client_id);
  void learn(const Order& order);
  Result<> cancel_ids(const std::vector<std::string>& ids, const std::string& what);
  std::int64_t now_s() const { return clock.wall_ns() / kNsPerSecond + offset_s; }

  CoinbaseOptions options;
  std::string host;
  const os::Clock& clock;
  wire::HttpClient http;
  RateBudget budget;
  std::map<std::string, std::string> known;  // client id -> venue id
  std::int64_t offset_s = 0;                 // venue minus this machine
  std::int64_t blocked_until = 0;
};

Result<wire::HttpRequest> CoinbaseVenue::Impl::build(const Call& call) const {
  wire::HttpRequest request;
  request.method = call.method;
  const std::string path = std::string(kPrefix) + call.path;
  request.url = options.base_url + path + query_of(call.parameters);
  request.body = call.body;
  if (!call.body.empty()) request.headers.emplace_back("Content-Type", "application/json");
  if (!call.is_private) return request;
  const std::int64_t now = now_s();
  const std::int64_t expires = call.expires_s == 0 ? now + kReadTokenSeconds : call.expires_s;
  DEFIB_TRY_ASSIGN(const std::string token,
                   coinbase_token(options.api_key, options.api_secret, call.method, host, path,
                                  now - 1, expires, os::random_hex(16)));
  request.headers.emplace_back("Authorization", "Bearer " + token);
  return request;
}

Result<wire::Json> CoinbaseVenue::Impl::send(const Call& call) {
  DEFIB_TRY_ASSIGN(const wire::HttpResponse response, exchange_for(call));
  return judge(call, response);
}

template <typename T>
Result<T> CoinbaseVenue::Impl::send_and(const Call& call,
                                        Result<std::optional<T>> (*parse)(std::string& body)) {
  DEFIB_TRY_ASSIGN(wire::HttpResponse response, exchange_for(call));
  if (response.status >= 200 && response.status < 300) {
    DEFIB_TRY_ASSIGN(std::optional<T> parsed, parse(response.body));
    if (parsed) return std::move(*parsed);
  }
  DEFIB_TRY(judge(call, response));
  return bad_answer(fmt::format("the answer to {} does not hold what was asked for", call.what));
}

Result<wire::HttpResponse> CoinbaseVenue::Impl::exchange_for(const Call& call) {
  const std::int64_t left = blocked_until - clock.mono_ns();
  if (blocked_until != 0 && left > 0) {
    return Error(Code::kVenueRateLimited,
                 fmt::format("{} asked to be left alone for another {}", options.name,
                             os::format_duration(os::Duration(left))))
        .with("retry_after_ms", (left + 999'999) / 1'000'000)
        .with("nothing_sent", "true");
  }
  DEFIB_TRY(budget.take(1, call.effect == Effect::kOrders, options.patience, options.name));
  DEFIB_TRY_ASSIGN(const wire::HttpRequest request, build(call));
  return exchange(http, request, call.effect, options.name, call.what,
                  call.is_new_order ? options.after_exchange : nullptr);
}

// The table stands in docs/venue.md.
Result<wire::Json> CoinbaseVenue::Impl::judge(const Call& call,
                                              const wire::HttpResponse& response) {
  Result<wire::Json> json = wire::Json::parse(response.body);
  if (response.status >= 200 && response.status < 300) {
    if (json && json->is_object()) return json;
    if (call.effect == Effect::kOrders) {
      return no_outcome(call.effect, options.name, call.what, "its answer is unreadable");
    }
    return bad_answer(fmt::format("the answer to {} is not an object", call.what));
  }
  if (response.status == 401) {
    return Error(Code::kVenueAuthFailed,
                 fmt::format("{} refused {}: unauthorized", options.name, call.what))
        .with("http_status", response.status);
  }
  if (response.status == 429) {
    blocked_until = clock.mono_ns() + kNsPerSecond;
    return Error(Code::kVenueRateLimited, options.name + " asks to slow down")
        .with("http_status", response.status)
        .with("retry_after_ms", 1'000);
  }
  const bool has_code = json && json->is_object() && (json->has("error") || json->has("errors"));
  if (response.status >= 400 && response.status < 500 && has_code) {
    return refused(call, response.status, *json);
  }
  return no_outcome(call.effect, options.name, call.what,
                    fmt::format("HTTP status {}", response.status))
      .with("http_status", response.status)
      .with("body", std::string_view(response.body).substr(0, kBodyShown));
}

Error CoinbaseVenue::Impl::refused(const Call& call, int status, const wire::Json& json) {
  std::string code(json["error"].as_string());
  std::string text(json["message"].as_string());
  if (const auto& list = json["errors"].items(); !list.empty()) {
    code = list.front()["id"].as_string();
    text = list.front()["message"].as_string();
  }
  Code meaning = Code::kVenueRejected;
  if (status == 404 || code == "NOT_FOUND") meaning = Code::kOrderNotFound;
  if (status == 403 || code == "PERMISSION_DENIED") meaning = Code::kVenueAuthFailed;
  return Error(meaning, fmt::format("{} refused {}: {} {}", options.name, call.what, code, text))
      .with("venue_code", code)
      .with("venue_text", text)
      .with("http_status", status);
}

void CoinbaseVenue::Impl::learn(const Order& order) {
  if (order.client_id.empty()) return;
  if (known.size() >= kMaxKnownIds) known.erase(known.begin());
  known[order.client_id] = order.venue_id;
}

Result<> CoinbaseVenue::Impl::walk(Parameters filter, const std::string& what,
                                   const std::function<Result<bool>(Order order)>& each) {
  filter.emplace_back("limit", std::to_string(options.orders_per_page));
  std::string cursor;
  std::set<std::string> seen;  // the list moves while it is read
  for (int page = 0; page < kMaxPages; ++page) {
    Parameters parameters = filter;
    parameters.emplace_back("cursor", cursor);
    DEFIB_TRY_ASSIGN(
        CoinbasePage list,
        send_and<CoinbasePage>(
            {.what = what, .path = "/orders/historical/batch", .parameters = std::move(parameters)},
            parse_coinbase_orders));
    for (Order& order : list.orders) {
      learn(order);
      if (!seen.insert(order.venue_id).second) continue;
      DEFIB_TRY_ASSIGN(const bool go_on, each(std::move(order)));
      if (!go_on) return {};
    }
    if (!list.has_next) return {};
    if (list.cursor.empty() || list.cursor == cursor) {
      return bad_answer("there is a next page of orders, and no way to it");
    }
    cursor = std::move(list.cursor);
  }
  return Error(Code::kLimitExceeded, fmt::format("{} has too many pages of orders", options.name));
}

Result<Order> CoinbaseVenue::Impl::by_venue_id(const std::string& id) {
  return send_and<Order>({.what = "order " + id, .path = "/orders/historical/" + id},
                         parse_coinbase_order);
}

// To the end of the lists where it has to be; OrderNotFound where it is in none.
Result<std::string> CoinbaseVenue::Impl::venue_id_of(const std::string& symbol,
                                                     const std::string& client_id) {
  if (const auto found = known.find(client_id); found != known.end()) return found->second;
  std::set<std::string> ids;
  DEFIB_TRY(walk({{"product_ids", symbol}}, "all orders", [&](const Order& order) -> Result<bool> {
    if (order.client_id == client_id) ids.insert(order.venue_id);
    return true;
  }));
  if (ids.empty()) {
    return Error(Code::kOrderNotFound,
                 fmt::format("{} has no order {} in its lists", options.name, client_id));
  }
  if (ids.size() > 1) {
    return Error(Code::kDuplicateOrder,
                 fmt::format("{} has {} orders for the id {}", options.name, ids.size(), client_id))
        .with("client_id", client_id)
        .with("first", *ids.begin())
        .with("second", *std::next(ids.begin()));
  }
  return *ids.begin();
}

CoinbaseVenue::CoinbaseVenue(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoinbaseVenue::~CoinbaseVenue() = default;

Result<std::unique_ptr<CoinbaseVenue>> CoinbaseVenue::create(CoinbaseOptions options) {
  std::string algorithm;
  DEFIB_TRY(sign_with_key(options.api_secret, "", algorithm));
  options.recv_window_ms = std::clamp(options.recv_window_ms, kMinWindowMs, kMaxWindowMs);
  return std::unique_ptr<CoinbaseVenue>(
      new CoinbaseVenue(std::make_unique<Impl>(std::move(options))));
}

std::string CoinbaseVenue::name() const {
  return impl_->options.name;
}

Result<std::int64_t> CoinbaseVenue::server_time_ms() {
  DEFIB_TRY_ASSIGN(const wire::Json json,
                   impl_->send({.what = "the time", .path = "/time", .is_private = false}));
  const std::string text = number_text(json["epochMillis"]);
  std::int64_t ms = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), ms);
  if (problem != std::errc() || end != text.data() + text.size()) {
    return bad_answer("`epochMillis` is missing or not a number");
  }
  impl_->offset_s = (ms - impl_->clock.wall_ns() / 1'000'000) / 1'000;
  return ms;
}

Result<std::vector<SymbolRules>> CoinbaseVenue::rules() {
  DEFIB_TRY_ASSIGN(
      const wire::Json json,
      impl_->send({.what = "the products", .path = "/market/products", .is_private = false}));
  if (!json["products"].is_array()) return bad_answer("`products` is missing or not a list");
  std::vector<SymbolRules> all;
  for (const wire::Json& item : json["products"].items()) {
    DEFIB_TRY_ASSIGN(SymbolRules rules, parse_coinbase_product(item));
    all.push_back(std::move(rules));
  }
  return all;
}

Result<Quote> CoinbaseVenue::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const wire::Json json,
                   impl_->send({.what = "the book of " + symbol,
                                .path = "/market/product_book",
                                .parameters = {{"product_id", symbol}, {"limit", "1"}},
                                .is_private = false}));
  return parse_coinbase_book(json["pricebook"]);
}

Result<std::vector<Quote>> CoinbaseVenue::quotes() {
  Parameters parameters;
  for (const std::string& symbol : impl_->options.symbols) {
    parameters.emplace_back("product_ids", symbol);
  }
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->send({.what = "the quotes",
                                                       .path = "/best_bid_ask",
                                                       .parameters = std::move(parameters)}));
  std::vector<Quote> quotes;
  for (const wire::Json& item : json["pricebooks"].items()) {
    DEFIB_TRY_ASSIGN(Quote quote, parse_coinbase_book(item));
    quotes.push_back(std::move(quote));
  }
  return quotes;
}

Result<Order> CoinbaseVenue::place(const OrderRequest& request) {
  const std::int64_t window = request.expires_ms - request.timestamp_ms;
  if (window < kMinWindowMs || window > kMaxWindowMs) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the fence lies {} ms after the time stamp; {} to {} are possible",
                             window, kMinWindowMs, kMaxWindowMs));
  }
  const std::string what = "order " + request.client_id;
  const wire::Json body = wire::Json::object({{"client_order_id", request.client_id},
                                              {"product_id", request.symbol},
                                              {"side", request.side == Side::kBuy ? "BUY" : "SELL"},
                                              {"order_configuration", configuration_of(request)}});
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->send({.what = what,
                                                       .method = "POST",
                                                       .path = "/orders",
                                                       .body = body.dump(),
                                                       .effect = Effect::kOrders,
                                                       .is_new_order = true,
                                                       // Whole seconds, and never later.
                                                       .expires_s = request.expires_ms / 1'000}));
  if (!json["success"].as_bool()) {
    const wire::Json& said = json["error_response"];
    const std::string code(said["error"].as_string());
    if (code.empty() || code.starts_with("UNKNOWN") || code.starts_with("INTERNAL")) {
      return no_outcome(Effect::kOrders, name(), what, "it failed for an unknown reason " + code);
    }
    Error rejected = Error(Code::kVenueRejected, fmt::format("{} refused {}: {} {}", name(), what,
                                                             code, said["message"].as_string()))
                         .with("venue_code", code);
    if (code == "DUPLICATE_CLIENT_ORDER_ID") return std::move(rejected).with("duplicate", "true");
    return rejected;
  }
  const wire::Json& placed = json["success_response"];
  Order order;
  order.client_id = request.client_id;
  order.venue_id = placed["order_id"].as_string();
  if (order.venue_id.empty()) {
    return no_outcome(Effect::kOrders, name(), what, "its answer names no order");
  }
  // An id that was used before is answered with the order that has it: it must be this one.
  const std::string_view side = placed["side"].as_string();
  const std::string_view id = placed["client_order_id"].as_string();
  const std::string_view product = placed["product_id"].as_string();
  if ((!id.empty() && id != request.client_id) || (!product.empty() && product != request.symbol) ||
      (!side.empty() && side != (request.side == Side::kBuy ? "BUY" : "SELL"))) {
    return no_outcome(Effect::kOrders, name(), what,
                      fmt::format("the answer is about order {} of {}", id, product));
  }
  order.symbol = request.symbol;
  order.side = request.side;
  order.status = OrderStatus::kNew;
  order.quantity = request.quantity;
  order.price = request.price;
  order.created_ms = request.timestamp_ms;
  order.updated_ms = request.timestamp_ms;
  impl_->learn(order);
  return order;
}

Result<> CoinbaseVenue::Impl::cancel_ids(const std::vector<std::string>& ids,
                                         const std::string& what) {
  std::optional<Error> failure;
  for (std::size_t from = 0; from < ids.size(); from += kCancelChunk) {
    wire::Json list = wire::Json::array();
    for (std::size_t i = from; i < std::min(ids.size(), from + kCancelChunk); ++i)
      list.push(ids[i]);
    const wire::Json body = wire::Json::object({{"order_ids", std::move(list)}});
    Result<wire::Json> json = send({.what = what,
                                    .method = "POST",
                                    .path = "/orders/batch_cancel",
                                    .body = body.dump(),
                                    .effect = Effect::kOrders});
    if (!json) {
      if (!failure) failure = json.error();
      continue;
    }
    // A failure hides inside of a success.
    for (const wire::Json& item : (*json)["results"].items()) {
      if (item["success"].as_bool() || failure) continue;
      const std::string reason(item["failure_reason"].as_string());
      const bool unknown = reason == "UNKNOWN_CANCEL_ORDER" || reason == "ORDER_NOT_FOUND" ||
                           reason == "INVALID_CANCEL_REQUEST";
      failure = Error(unknown ? Code::kOrderNotFound : Code::kVenueRejected,
                      fmt::format("{} did not cancel {}: {}", options.name,
                                  item["order_id"].as_string(), reason))
                    .with("venue_code", reason);
    }
  }
  if (failure) return *failure;
  return {};
}

Result<Order> CoinbaseVenue::cancel(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(const std::string id, impl_->venue_id_of(symbol, client_id));
  const std::string what = "the cancel of order " + client_id;
  DEFIB_TRY(impl_->cancel_ids({id}, what));
  Result<Order> ended = impl_->by_venue_id(id);
  if (ended) return ended;
  return no_outcome(Effect::kOrders, name(), what, "it was cancelled, and cannot be read")
      .because(ended.error());
}

Result<> CoinbaseVenue::cancel_all(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const std::vector<Order> open, open_orders(symbol));
  std::vector<std::string> ids;
  ids.reserve(open.size());
  for (const Order& order : open) ids.push_back(order.venue_id);
  if (ids.empty()) return {};
  Result<> done = impl_->cancel_ids(ids, "the cancel of all orders of " + symbol);
  // One that has ended meanwhile is no failure; the reading tells.
  if (!done && done.error().code() != Code::kOrderNotFound) return done;
  return {};
}

Result<Order> CoinbaseVenue::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(const std::string id, impl_->venue_id_of(symbol, client_id));
  DEFIB_TRY_ASSIGN(Order found, impl_->by_venue_id(id));
  if (found.client_id != client_id) {
    return bad_answer(fmt::format("asked for order {}, got order {}", client_id, found.client_id));
  }
  return found;
}

// An order that waits to be accepted, changed or cancelled is live too. The venue refuses to list
// those together with the open ones; they come first, so that one that opens meanwhile is in the
// second list.
Result<std::vector<Order>> CoinbaseVenue::open_orders(const std::string& symbol) {
  const auto list = [&](const Parameters& statuses,
                        const std::function<void(Order)>& take) -> Result<> {
    for (const char* source : {"RETAIL_ADVANCED", "RETAIL_SIMPLE"}) {
      Parameters filter = statuses;
      filter.emplace_back("product_ids", symbol);
      filter.emplace_back("order_placement_source", source);
      DEFIB_TRY(impl_->walk(std::move(filter), "the open orders", [&](Order order) -> Result<bool> {
        // A filter that is ignored is applied here as well.
        if (symbol.empty() || order.symbol == symbol) take(std::move(order));
        return true;
      }));
    }
    return {};
  };
  std::map<std::string, Order> waiting;  // by venue id
  DEFIB_TRY(list({{"order_status", "PENDING"},
                  {"order_status", "QUEUED"},
                  {"order_status", "CANCEL_QUEUED"},
                  {"order_status", "EDIT_QUEUED"}},
                 [&](Order order) {
                   if (is_terminal(order.status)) return;
                   std::string id = order.venue_id;
                   waiting.insert_or_assign(std::move(id), std::move(order));
                 }));
  std::vector<Order> all;
  DEFIB_TRY(list({{"order_status", "OPEN"}}, [&](Order order) {
    waiting.erase(order.venue_id);  // the later reading counts
    all.push_back(std::move(order));
  }));
  for (auto& [id, order] : waiting) all.push_back(std::move(order));
  return all;
}

Result<std::vector<Balance>> CoinbaseVenue::balances() {
  std::vector<Balance> all;
  std::string cursor;
  for (int page = 0; page < kMaxPages; ++page) {
    DEFIB_TRY_ASSIGN(const wire::Json json,
                     impl_->send({.what = "the accounts",
                                  .path = "/accounts",
                                  .parameters = {{"limit", "250"}, {"cursor", cursor}}}));
    if (!json["accounts"].is_array()) return bad_answer("`accounts` is missing or not a list");
    for (const wire::Json& item : json["accounts"].items()) {
      DEFIB_TRY_ASSIGN(Balance balance, parse_coinbase_account(item));
      all.push_back(std::move(balance));
    }
    cursor = json["cursor"].as_string();
    if (!json["has_next"].as_bool()) return all;
    if (cursor.empty()) return bad_answer("there is a next page of accounts, and no way to it");
  }
  return Error(Code::kLimitExceeded, fmt::format("{} has too many accounts", name()));
}

Result<std::vector<Fill>> CoinbaseVenue::fills(const std::string& symbol,
                                               const std::string& after) {
  Parameters filter = {{"product_ids", symbol}, {"limit", std::to_string(kFillsPerPage)}};
  if (!after.empty()) {
    std::int64_t us = 0;
    const auto [end, problem] = std::from_chars(after.data(), after.data() + after.size(), us);
    if (problem != std::errc() || *end != '-') {
      return Error(Code::kInvalidArgument, fmt::format("'{}' is no trade id of coinbase", after));
    }
    filter.emplace_back("start_sequence_timestamp", os::format_time(us * 1'000));
  }
  std::map<std::string, Fill> sorted;
  std::string cursor;
  for (int page = 0; page < kMaxPages; ++page) {
    Parameters parameters = filter;
    parameters.emplace_back("cursor", cursor);
    DEFIB_TRY_ASSIGN(const wire::Json json, impl_->send({.what = "the fills of " + symbol,
                                                         .path = "/orders/historical/fills",
                                                         .parameters = std::move(parameters)}));
    if (!json["fills"].is_array()) return bad_answer("`fills` is missing or not a list");
    for (const wire::Json& item : json["fills"].items()) {
      DEFIB_TRY_ASSIGN(Fill fill, parse_coinbase_fill(item));
      if (fill.symbol == symbol && fill.trade_id > after) {
        std::string id = fill.trade_id;
        sorted.emplace(std::move(id), std::move(fill));
      }
    }
    const std::string next(json["cursor"].as_string());
    if (next.empty() || next == cursor) {
      std::vector<Fill> all;
      all.reserve(sorted.size());
      for (auto& [id, fill] : sorted) all.push_back(std::move(fill));
      return all;
    }
    cursor = next;
  }
  return Error(Code::kLimitExceeded, fmt::format("{} has too many pages of fills", name()));
}

Result<> CoinbaseVenue::test_order(const OrderRequest& request) {
  const wire::Json body = wire::Json::object({{"product_id", request.symbol},
                                              {"side", request.side == Side::kBuy ? "BUY" : "SELL"},
                                              {"order_configuration", configuration_of(request)}});
  DEFIB_TRY_ASSIGN(const wire::Json json, impl_->send({.what = "the test order",
                                                       .method = "POST",
                                                       .path = "/orders/preview",
                                                       .body = body.dump()}));
  if (json["errs"].size() == 0) return {};
  return Error(Code::kVenueRejected,
               fmt::format("{} refused the test order: {}", name(), json["errs"].dump()));
}

RebuildModel CoinbaseVenue::rebuild_model() const {
  RebuildModel model;
  model.limit = {.capacity = impl_->options.requests_per_second, .window = std::chrono::seconds(1)};
  model.fixed = 4;
  model.fixed_requests = 4;
  model.orders_page = impl_->options.orders_per_page;
  model.orders_cost = 1;
  model.fills_page = kFillsPerPage;
  model.fills_cost = 1;
  return model;
}

void CoinbaseVenue::set_patience(os::Duration patience) {
  impl_->options.patience = patience;
}
std::int64_t CoinbaseVenue::recv_window_ms() const {
  return impl_->options.recv_window_ms;
}
std::int64_t CoinbaseVenue::visibility_lag_ms() const {
  return impl_->options.visibility_lag_ms;
}

}  // namespace defib::venue
