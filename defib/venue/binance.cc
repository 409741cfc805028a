#include "defib/venue/binance.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "defib/base/assert.h"
#include "defib/venue/binance_parse.h"
#include "defib/wire/http.h"

namespace defib::venue {
namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;

constexpr std::int64_t kMaxRecvWindowMs = 60'000;
// Reading is harmless at any time; a generous window keeps it working beside a slow network.
constexpr std::int64_t kReadRecvWindowMs = 5'000;
constexpr int kFillsPerPage = 1'000;
constexpr int kMaxFillPages = 10'000;
constexpr std::size_t kMaxBody = 256 << 20;  // 500,000 open orders
constexpr std::int64_t kDefaultBackOffSeconds = 60;
constexpr std::int64_t kDefaultBanSeconds = 120;
constexpr std::size_t kBodyShown = 200;

// What the request may have done when its answer is lost.
enum class Effect { kNone, kOrders };

std::string encode_parameters(const Parameters& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    if (!text.empty()) text += '&';
    text += name + "=" + wire::url_encode(value);
  }
  return text;
}

Result<Parameters> order_parameters(const OrderRequest& request) {
  const std::int64_t window = request.expires_ms - request.timestamp_ms;
  if (window < 1 || window > kMaxRecvWindowMs) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the fence lies {} ms after the time stamp; 1 to {} are possible",
                             window, kMaxRecvWindowMs));
  }
  Parameters parameters = {{"symbol", request.symbol},
                           {"side", request.side == Side::kBuy ? "BUY" : "SELL"}};
  if (request.type == OrderType::kLimit) {
    parameters.emplace_back("type", "LIMIT");
    parameters.emplace_back("timeInForce",
                            request.time_in_force == TimeInForce::kGtc ? "GTC" : "IOC");
    parameters.emplace_back("quantity", request.quantity.to_string());
    parameters.emplace_back("price", request.price.to_string());
  } else {
    parameters.emplace_back("type", "MARKET");
    parameters.emplace_back("quantity", request.quantity.to_string());
  }
  parameters.emplace_back("newClientOrderId", request.client_id);
  parameters.emplace_back("newOrderRespType", "FULL");
  parameters.emplace_back("recvWindow", std::to_string(window));
  parameters.emplace_back("timestamp", std::to_string(request.timestamp_ms));
  return parameters;
}

std::int64_t to_integer(std::string_view text, std::int64_t fallback) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() ? value : fallback;
}

Error outcome_unknown(std::string_view what, std::string problem) {
  return Error(Code::kVenueOutcomeUnknown,
               fmt::format("binance did not tell what became of {}: {}", what, problem));
}
Error unreadable(std::string_view what, std::string problem) {
  return Error(Code::kVenueUnreachable,
               fmt::format("binance gave no answer to {}: {}", what, problem));
}

// The venue's own codes, by what they mean for the request.
enum class Meaning { kUnknownOutcome, kClock, kAuth, kRate, kNoSuchOrder, kRejected };
Meaning meaning_of(std::int64_t code) {
  switch (code) {
    case -1000:  // "an unknown error occured while processing the request"
    case -1001:  // "internal error; unable to process your request"
    case -1006:  // "an unexpected response was received from the message bus"
    case -1007:  // "timeout waiting for response from backend server"
      return Meaning::kUnknownOutcome;
    case -1021:
      return Meaning::kClock;
    case -1002:
    case -1022:
    case -2014:
    case -2015:
      return Meaning::kAuth;
    case -1003:
    case -1015:
      return Meaning::kRate;
    case -2011:
    case -2013:
    case -2026:
      return Meaning::kNoSuchOrder;
    default:
      return Meaning::kRejected;
  }
}

}  // namespace

struct BinanceVenue::Impl {
  // One request, before signing.
  struct Call {
    std::string what;  // for messages: "order dfb000..."
    std::string method = "GET";
    std::string path = {};
    Parameters parameters = {};
    bool is_signed = true;
    Effect effect = Effect::kNone;
    bool is_new_order = false;
    // 0: stamped here, when it is sent; else the parameters carry time stamp and window already.
    std::int64_t window_ms = 0;
  };

  explicit Impl(BinanceOptions given)
      : options(std::move(given)),
        clock(options.clock ? *options.clock : os::real_clock()),
        http({.connect_timeout = options.connect_timeout,
              .timeout = options.timeout,
              .max_body = kMaxBody}) {}

  std::int64_t now_ms() const { return clock.wall_ns() / 1'000'000 + clock_offset_ms; }
  Result<std::string> send(Call call);
  wire::HttpRequest build(const Call& call) const;
  Result<> check_blocked() const;
  void note_usage(const wire::HttpResponse& response);
  Result<std::string> judge(const Call& call, wire::HttpResponse response, std::int64_t elapsed_ms);
  Error rate_limited(const wire::HttpResponse& response);
  Error refused(const Call& call, const wire::HttpResponse& response, const BinanceError& error,
                std::int64_t elapsed_ms);

  BinanceOptions options;
  const os::Clock& clock;
  wire::HttpClient http;
  BinanceUsage usage;
  std::int64_t clock_offset_ms = 0;  // venue minus this machine
};

wire::HttpRequest BinanceVenue::Impl::build(const Call& call) const {
  std::string payload = encode_parameters(call.parameters);
  wire::HttpRequest request;
  request.method = call.method;
  request.url = options.base_url + call.path;
  if (call.is_signed) {
    payload += "&signature=" + hmac_sha256_hex(options.api_secret, payload);
    request.headers.emplace_back("X-MBX-APIKEY", options.api_key);
  }
  if (call.method == "POST") {
    request.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    request.body = std::move(payload);
  } else if (!payload.empty()) {
    request.url += "?" + payload;
  }
  return request;
}

Result<> BinanceVenue::Impl::check_blocked() const {
  const std::int64_t left = usage.blocked_until_mono_ns - clock.mono_ns();
  if (usage.blocked_until_mono_ns == 0 || left <= 0) return {};
  return Error(Code::kVenueRateLimited, fmt::format("binance asked to be left alone for another {}",
                                                    os::format_duration(os::Duration(left))))
      .with("retry_after_ms", (left + 999'999) / 1'000'000)
      .with("nothing_sent", "true");
}

void BinanceVenue::Impl::note_usage(const wire::HttpResponse& response) {
  ++usage.requests;
  usage.used_weight_1m = to_integer(response.header("X-MBX-USED-WEIGHT-1M"), usage.used_weight_1m);
  usage.order_count_10s =
      to_integer(response.header("X-MBX-ORDER-COUNT-10S"), usage.order_count_10s);
}

Result<std::string> BinanceVenue::Impl::send(Call call) {
  DEFIB_TRY(check_blocked());
  if (call.is_signed && call.window_ms == 0) {
    call.window_ms = call.effect == Effect::kOrders ? options.recv_window_ms : kReadRecvWindowMs;
    call.parameters.emplace_back("recvWindow", std::to_string(call.window_ms));
    call.parameters.emplace_back("timestamp", std::to_string(now_ms()));
  }
  const std::int64_t started = clock.mono_ns();
  Result<wire::HttpResponse> response = http.send(build(call));
  if (call.is_new_order && options.after_exchange) options.after_exchange();
  if (response) {
    return judge(call, std::move(*response), (clock.mono_ns() - started) / 1'000'000);
  }
  const Error& cause = response.error();
  if (cause.code() == Code::kHttpConnectFailed) {
    return Error(Code::kVenueUnreachable, "binance cannot be reached, nothing was sent")
        .with("nothing_sent", "true")
        .because(cause);
  }
  if (cause.code() == Code::kInvalidArgument) return cause;
  if (call.effect == Effect::kOrders) {
    return outcome_unknown(call.what, "no complete answer came back").because(cause);
  }
  return unreadable(call.what, "no complete answer came back").because(cause);
}

// Decides what an answer means; the table stands in docs/venue.md.
Result<std::string> BinanceVenue::Impl::judge(const Call& call, wire::HttpResponse response,
                                              std::int64_t elapsed_ms) {
  note_usage(response);
  if (response.status >= 200 && response.status < 300) return std::move(response.body);
  if (response.status == 429 || response.status == 418) return rate_limited(response);
  const std::optional<BinanceError> error = parse_binance_error(response.body);
  const bool is_refusal = response.status >= 400 && response.status < 500 && error;
  if (is_refusal) return refused(call, response, *error, elapsed_ms);
  std::string problem = fmt::format("HTTP status {}", response.status);
  if (error) problem += fmt::format(", code {} \"{}\"", error->code, error->text);
  Error failure = call.effect == Effect::kOrders ? outcome_unknown(call.what, problem)
                                                 : unreadable(call.what, problem);
  return std::move(failure)
      .with("http_status", response.status)
      .with("body", std::string_view(response.body).substr(0, kBodyShown));
}

Error BinanceVenue::Impl::rate_limited(const wire::HttpResponse& response) {
  const bool banned = response.status == 418;
  const std::int64_t seconds =
      std::max<std::int64_t>(1, to_integer(response.header("Retry-After"),
                                           banned ? kDefaultBanSeconds : kDefaultBackOffSeconds));
  const std::int64_t until = clock.mono_ns() + seconds * 1'000'000'000;
  usage.blocked_until_mono_ns = std::max(usage.blocked_until_mono_ns, until);
  return Error(Code::kVenueRateLimited,
               fmt::format("binance {} for {} s", banned ? "banned this address" : "asks to wait",
                           seconds))
      .with("retry_after_ms", seconds * 1'000)
      .with("http_status", response.status)
      .with("used_weight_1m", usage.used_weight_1m);
}

Error BinanceVenue::Impl::refused(const Call& call, const wire::HttpResponse& response,
                                  const BinanceError& error, std::int64_t elapsed_ms) {
  const auto make = [&](Code code, std::string message) {
    return Error(code, std::move(message))
        .with("venue_code", error.code)
        .with("venue_text", error.text)
        .with("http_status", response.status);
  };
  const std::string said = fmt::format("{} \"{}\"", error.code, error.text);
  switch (meaning_of(error.code)) {
    case Meaning::kUnknownOutcome: {
      Error failure = call.effect == Effect::kOrders ? outcome_unknown(call.what, said)
                                                     : unreadable(call.what, said);
      return std::move(failure).with("venue_code", error.code).with("venue_text", error.text);
    }
    case Meaning::kClock:
      // A request that was under way for longer than its window was late, not wrong.
      if (elapsed_ms >= call.window_ms) {
        return make(Code::kVenueRejected,
                    fmt::format("{} arrived after its fence: {}", call.what, said));
      }
      return make(Code::kVenueClockSkew, fmt::format("binance refused {}: {}", call.what, said));
    case Meaning::kAuth:
      return make(Code::kVenueAuthFailed, fmt::format("binance refused {}: {}", call.what, said));
    case Meaning::kRate:
      return make(Code::kVenueRateLimited, fmt::format("binance refused {}: {}", call.what, said));
    case Meaning::kNoSuchOrder:
      return make(Code::kOrderNotFound,
                  fmt::format("binance does not know {}: {}", call.what, said));
    case Meaning::kRejected:
      break;
  }
  Error rejected =
      make(Code::kVenueRejected, fmt::format("binance refused {}: {}", call.what, said));
  if (error.code == -2010 && error.text == "Duplicate order sent.") {
    return std::move(rejected)
        .with("duplicate", "true")
        .suggest("an order with this id is open; read it instead of sending again");
  }
  return rejected;
}

BinanceVenue::BinanceVenue(BinanceOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  DEFIB_ASSERT(impl_->options.recv_window_ms >= 1 &&
               impl_->options.recv_window_ms <= kMaxRecvWindowMs);
}
BinanceVenue::~BinanceVenue() = default;

Result<std::int64_t> BinanceVenue::server_time_ms() {
  const std::int64_t before = impl_->clock.wall_ns();
  const std::int64_t started = impl_->clock.mono_ns();
  DEFIB_TRY_ASSIGN(const std::string body,
                   impl_->send({.what = "the time", .path = "/api/v3/time", .is_signed = false}));
  DEFIB_TRY_ASSIGN(const std::int64_t time, parse_binance_time(body));
  // The answer was made about half-way between sending and receiving.
  const std::int64_t middle = before + (impl_->clock.mono_ns() - started) / 2;
  impl_->clock_offset_ms = time - middle / 1'000'000;
  return time;
}

Result<std::vector<SymbolRules>> BinanceVenue::rules() {
  DEFIB_TRY_ASSIGN(
      const std::string body,
      impl_->send({.what = "the rules", .path = "/api/v3/exchangeInfo", .is_signed = false}));
  return parse_binance_rules(body);
}

Result<Quote> BinanceVenue::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const std::string body, impl_->send({.what = "the quote of " + symbol,
                                                        .path = "/api/v3/ticker/bookTicker",
                                                        .parameters = {{"symbol", symbol}},
                                                        .is_signed = false}));
  return parse_binance_quote(body);
}

Result<std::vector<Quote>> BinanceVenue::quotes() {
  DEFIB_TRY_ASSIGN(
      const std::string body,
      impl_->send({.what = "the quotes", .path = "/api/v3/ticker/bookTicker", .is_signed = false}));
  return parse_binance_quotes(body);
}

Result<Order> BinanceVenue::place(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(Parameters parameters, order_parameters(request));
  const std::string what = "order " + request.client_id;
  DEFIB_TRY_ASSIGN(std::string body,
                   impl_->send({.what = what,
                                .method = "POST",
                                .path = "/api/v3/order",
                                .parameters = std::move(parameters),
                                .effect = Effect::kOrders,
                                .is_new_order = true,
                                .window_ms = request.expires_ms - request.timestamp_ms}));
  Result<Order> order = parse_binance_order(std::move(body), ClientIdMember::kClientOrderId);
  // The venue said yes, but not to what: the order is looked up, never assumed.
  if (!order) return outcome_unknown(what, "its answer is unreadable").because(order.error());
  if (order->client_id != request.client_id || order->symbol != request.symbol) {
    return outcome_unknown(
        what, fmt::format("the answer is about order {} of {}", order->client_id, order->symbol));
  }
  // A new order's answer has `transactTime` only, which is when it was made.
  if (order->created_ms == 0) order->created_ms = order->updated_ms;
  return order;
}

Result<Order> BinanceVenue::cancel(const std::string& symbol, const std::string& client_id) {
  const std::string what = "the cancel of order " + client_id;
  DEFIB_TRY_ASSIGN(
      std::string body,
      impl_->send({.what = what,
                   .method = "DELETE",
                   .path = "/api/v3/order",
                   .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}},
                   .effect = Effect::kOrders}));
  Result<Order> order = parse_binance_order(std::move(body), ClientIdMember::kOrigClientOrderId);
  if (!order) return outcome_unknown(what, "its answer is unreadable").because(order.error());
  return order;
}

Result<> BinanceVenue::cancel_all(const std::string& symbol) {
  const Result<std::string> body = impl_->send({.what = "the cancel of all orders of " + symbol,
                                                .method = "DELETE",
                                                .path = "/api/v3/openOrders",
                                                .parameters = {{"symbol", symbol}},
                                                .effect = Effect::kOrders});
  if (body || body.error().code() == Code::kOrderNotFound) return {};  // nothing was open
  return body.error();
}

Result<Order> BinanceVenue::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(
      std::string body,
      impl_->send({.what = "order " + client_id,
                   .path = "/api/v3/order",
                   .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}}}));
  DEFIB_TRY_ASSIGN(Order order,
                   parse_binance_order(std::move(body), ClientIdMember::kClientOrderId));
  if (order.client_id != client_id) {
    return Error(Code::kVenueBadAnswer,
                 fmt::format("asked for order {}, got order {}", client_id, order.client_id));
  }
  return order;
}

Result<std::vector<Order>> BinanceVenue::open_orders(const std::string& symbol) {
  Parameters parameters;
  if (!symbol.empty()) parameters.emplace_back("symbol", symbol);
  DEFIB_TRY_ASSIGN(std::string body, impl_->send({.what = "the open orders",
                                                  .path = "/api/v3/openOrders",
                                                  .parameters = std::move(parameters)}));
  return parse_binance_orders(std::move(body));
}

Result<std::vector<Balance>> BinanceVenue::balances() {
  DEFIB_TRY_ASSIGN(std::string body, impl_->send({.what = "the account",
                                                  .path = "/api/v3/account",
                                                  .parameters = {{"omitZeroBalances", "true"}}}));
  return parse_binance_account(std::move(body));
}

Result<std::vector<Fill>> BinanceVenue::fills(const std::string& symbol, const std::string& after) {
  std::int64_t from = after.empty() ? 0 : to_integer(after, -1) + 1;
  if (from < 0 || (from == 0 && !after.empty())) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is no trade id of binance", after));
  }
  std::vector<Fill> all;
  for (int page = 0; page < kMaxFillPages; ++page) {
    DEFIB_TRY_ASSIGN(std::string body,
                     impl_->send({.what = "the trades of " + symbol,
                                  .path = "/api/v3/myTrades",
                                  .parameters = {{"symbol", symbol},
                                                 {"fromId", std::to_string(from)},
                                                 {"limit", std::to_string(kFillsPerPage)}}}));
    DEFIB_TRY_ASSIGN(std::vector<Fill> fills, parse_binance_fills(std::move(body)));
    for (Fill& fill : fills) {
      const std::int64_t id = to_integer(fill.trade_id, -1);
      if (id < from) {
        return Error(Code::kVenueBadAnswer,
                     fmt::format("trade {} of {} is out of order", fill.trade_id, symbol));
      }
      from = id + 1;
      all.push_back(std::move(fill));
    }
    if (fills.size() < kFillsPerPage) return all;
  }
  return Error(Code::kLimitExceeded,
               fmt::format("{} has more than {} pages of trades", symbol, kMaxFillPages));
}

Result<> BinanceVenue::test_order(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(Parameters parameters, order_parameters(request));
  const Result<std::string> body =
      impl_->send({.what = "the test order",
                   .method = "POST",
                   .path = "/api/v3/order/test",
                   .parameters = std::move(parameters),
                   .window_ms = request.expires_ms - request.timestamp_ms});
  if (!body) return body.error();
  return {};
}

std::int64_t BinanceVenue::recv_window_ms() const {
  return impl_->options.recv_window_ms;
}
std::int64_t BinanceVenue::visibility_lag_ms() const {
  return impl_->options.visibility_lag_ms;
}
BinanceUsage BinanceVenue::usage() const {
  return impl_->usage;
}

std::string binance_order_payload(const OrderRequest& request) {
  const Result<Parameters> parameters = order_parameters(request);
  return parameters ? encode_parameters(*parameters) : std::string();
}

}  // namespace defib::venue
