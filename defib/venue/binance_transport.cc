#include "defib/venue/binance_transport.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <utility>

namespace defib::venue {
namespace {

// Reading is harmless at any time; a generous window keeps it working beside a slow network.
constexpr std::int64_t kReadRecvWindowMs = 5'000;
constexpr std::size_t kMaxBody = 256 << 20;  // 500,000 open orders
constexpr std::int64_t kDefaultBackOffSeconds = 60;
constexpr std::int64_t kDefaultBanSeconds = 120;
constexpr std::size_t kBodyShown = 200;
constexpr int kMaxFillPages = 10'000;

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

std::string encode_parameters(const BinanceParameters& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    if (!text.empty()) text += '&';
    text += name + "=" + wire::url_encode(value);
  }
  return text;
}

Result<BinanceParameters> binance_order_parameters(const OrderRequest& request,
                                                   std::string_view response_type) {
  const std::int64_t window = request.expires_ms - request.timestamp_ms;
  if (window < 1 || window > kMaxBinanceWindowMs) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the fence lies {} ms after the time stamp; 1 to {} are possible",
                             window, kMaxBinanceWindowMs));
  }
  BinanceParameters parameters = {{"symbol", request.symbol},
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
  parameters.emplace_back("newOrderRespType", std::string(response_type));
  parameters.emplace_back("recvWindow", std::to_string(window));
  parameters.emplace_back("timestamp", std::to_string(request.timestamp_ms));
  return parameters;
}

std::int64_t to_integer(std::string_view text, std::int64_t fallback) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() ? value : fallback;
}

BinanceTransport::BinanceTransport(BinanceOptions given, BinancePaths where)
    : paths(std::move(where)),
      options(std::move(given)),
      clock(options.clock ? *options.clock : os::real_clock()),
      http({.connect_timeout = options.connect_timeout,
            .timeout = options.timeout,
            .max_body = kMaxBody}),
      budget({.capacity = options.weight_per_minute, .window = std::chrono::minutes(1)}, clock,
             options.rate_file) {}

wire::HttpRequest BinanceTransport::build(const Call& call) const {
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

Result<> BinanceTransport::check_blocked() const {
  const std::int64_t left = usage.blocked_until_mono_ns - clock.mono_ns();
  if (usage.blocked_until_mono_ns == 0 || left <= 0) return {};
  return Error(Code::kVenueRateLimited,
               fmt::format("{} asked to be left alone for another {}", options.name,
                           os::format_duration(os::Duration(left))))
      .with("retry_after_ms", (left + 999'999) / 1'000'000)
      .with("nothing_sent", "true");
}

void BinanceTransport::note_usage(const wire::HttpResponse& response) {
  ++usage.requests;
  usage.used_weight_1m = to_integer(response.header("X-MBX-USED-WEIGHT-1M"), usage.used_weight_1m);
  budget.learn_used(usage.used_weight_1m);
  usage.order_count_10s =
      to_integer(response.header("X-MBX-ORDER-COUNT-10S"), usage.order_count_10s);
}

Result<std::string> BinanceTransport::send(Call call) {
  DEFIB_TRY(check_blocked());
  DEFIB_TRY(
      budget.take(call.weight, call.effect == Effect::kOrders, options.patience, options.name));
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
    return Error(Code::kVenueUnreachable, options.name + " cannot be reached, nothing was sent")
        .with("nothing_sent", "true")
        .because(cause);
  }
  if (cause.code() == Code::kInvalidArgument) return cause;
  if (call.effect == Effect::kOrders) {
    return no_outcome(call.effect, options.name, call.what, "no complete answer came back")
        .because(cause);
  }
  return no_outcome(call.effect, options.name, call.what, "no complete answer came back")
      .because(cause);
}

// Decides what an answer means; the table stands in docs/venue.md.
Result<std::string> BinanceTransport::judge(const Call& call, wire::HttpResponse response,
                                            std::int64_t elapsed_ms) {
  note_usage(response);
  if (response.status >= 200 && response.status < 300) return std::move(response.body);
  if (response.status == 429 || response.status == 418) return rate_limited(response);
  const std::optional<BinanceError> error = parse_binance_error(response.body);
  const bool is_refusal = response.status >= 400 && response.status < 500 && error;
  if (is_refusal) return refused(call, response, *error, elapsed_ms);
  std::string problem = fmt::format("HTTP status {}", response.status);
  if (error) problem += fmt::format(", code {} \"{}\"", error->code, error->text);
  Error failure = no_outcome(call.effect, options.name, call.what, problem);
  return std::move(failure)
      .with("http_status", response.status)
      .with("body", std::string_view(response.body).substr(0, kBodyShown));
}

Error BinanceTransport::rate_limited(const wire::HttpResponse& response) {
  const bool banned = response.status == 418;
  const std::int64_t seconds =
      std::max<std::int64_t>(1, to_integer(response.header("Retry-After"),
                                           banned ? kDefaultBanSeconds : kDefaultBackOffSeconds));
  const std::int64_t until = clock.mono_ns() + seconds * 1'000'000'000;
  usage.blocked_until_mono_ns = std::max(usage.blocked_until_mono_ns, until);
  return Error(Code::kVenueRateLimited,
               fmt::format("{} {} for {} s", options.name,
                           banned ? "banned this address" : "asks to wait", seconds))
      .with("retry_after_ms", seconds * 1'000)
      .with("http_status", response.status)
      .with("used_weight_1m", usage.used_weight_1m);
}

Error BinanceTransport::refused(const Call& call, const wire::HttpResponse& response,
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
      Error failure = no_outcome(call.effect, options.name, call.what, said);
      return std::move(failure).with("venue_code", error.code).with("venue_text", error.text);
    }
    case Meaning::kClock:
      // A request that was under way for longer than its window was late, not wrong.
      if (elapsed_ms >= call.window_ms) {
        return make(Code::kVenueRejected,
                    fmt::format("{} arrived after its fence: {}", call.what, said));
      }
      return make(Code::kVenueClockSkew,
                  fmt::format("{} refused {}: {}", options.name, call.what, said));
    case Meaning::kAuth:
      return make(Code::kVenueAuthFailed,
                  fmt::format("{} refused {}: {}", options.name, call.what, said));
    case Meaning::kRate:
      return make(Code::kVenueRateLimited,
                  fmt::format("{} refused {}: {}", options.name, call.what, said));
    case Meaning::kNoSuchOrder:
      return make(Code::kOrderNotFound,
                  fmt::format("{} does not know {}: {}", options.name, call.what, said));
    case Meaning::kRejected:
      break;
  }
  Error rejected =
      make(Code::kVenueRejected, fmt::format("{} refused {}: {}", options.name, call.what, said));
  const bool duplicate = (error.code == -2010 && error.text == "Duplicate order sent.") ||
                         error.code == -4116;  // futures: "ClientOrderId is duplicated."
  if (duplicate) {
    return std::move(rejected)
        .with("duplicate", "true")
        .suggest("an order with this id is open; read it instead of sending again");
  }
  return rejected;
}

// --- What both are asked
// ------------------------------------------------------------------------------

Result<std::int64_t> BinanceTransport::server_time_ms() {
  const std::int64_t before = clock.wall_ns();
  const std::int64_t started = clock.mono_ns();
  DEFIB_TRY_ASSIGN(const std::string body,
                   send({.what = "the time", .path = paths.time, .is_signed = false}));
  DEFIB_TRY_ASSIGN(const std::int64_t time, parse_binance_time(body));
  // The answer was made about half-way between sending and receiving.
  const std::int64_t middle = before + (clock.mono_ns() - started) / 2;
  clock_offset_ms = time - middle / 1'000'000;
  return time;
}

Result<std::vector<SymbolRules>> BinanceTransport::rules() {
  DEFIB_TRY_ASSIGN(const std::string body, send({.what = "the rules",
                                                 .path = paths.rules,
                                                 .is_signed = false,
                                                 .weight = paths.rules_weight}));
  return parse_binance_rules(body);
}

Result<Quote> BinanceTransport::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const std::string body, send({.what = "the quote of " + symbol,
                                                 .path = paths.ticker,
                                                 .parameters = {{"symbol", symbol}},
                                                 .is_signed = false,
                                                 .weight = 2}));
  return parse_binance_quote(body);
}

Result<std::vector<Quote>> BinanceTransport::quotes() {
  DEFIB_TRY_ASSIGN(const std::string body, send({.what = "the quotes",
                                                 .path = paths.ticker,
                                                 .is_signed = false,
                                                 .weight = paths.quotes_weight}));
  return parse_binance_quotes(body);
}

Result<Order> BinanceTransport::place(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(BinanceParameters parameters,
                   binance_order_parameters(request, paths.response_type));
  const std::string what = "order " + request.client_id;
  DEFIB_TRY_ASSIGN(std::string body,
                   send({.what = what,
                         .method = "POST",
                         .path = paths.order,
                         .parameters = std::move(parameters),
                         .effect = Effect::kOrders,
                         .is_new_order = true,
                         .window_ms = request.expires_ms - request.timestamp_ms}));
  Result<Order> placed = parse_binance_order(
      std::move(body), paths.futures ? ClientIdMember::kFutures : ClientIdMember::kClientOrderId);
  // The venue said yes, but not to what: the order is looked up, never assumed.
  if (!placed) {
    return no_outcome(Effect::kOrders, options.name, what, "its answer is unreadable")
        .because(placed.error());
  }
  if (placed->client_id != request.client_id || placed->symbol != request.symbol) {
    return no_outcome(
        Effect::kOrders, options.name, what,
        fmt::format("the answer is about order {} of {}", placed->client_id, placed->symbol));
  }
  // A new order's answer has `transactTime` only, which is when it was made.
  if (placed->created_ms == 0) placed->created_ms = placed->updated_ms;
  return placed;
}

Result<> BinanceTransport::test_order(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(BinanceParameters parameters,
                   binance_order_parameters(request, paths.response_type));
  DEFIB_TRY(send({.what = "the test order",
                  .method = "POST",
                  .path = paths.test_order,
                  .parameters = std::move(parameters),
                  .window_ms = request.expires_ms - request.timestamp_ms}));
  return {};
}

Result<Order> BinanceTransport::cancel(const std::string& symbol, const std::string& client_id) {
  const std::string what = "the cancel of order " + client_id;
  DEFIB_TRY_ASSIGN(std::string body,
                   send({.what = what,
                         .method = "DELETE",
                         .path = paths.order,
                         .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}},
                         .effect = Effect::kOrders}));
  Result<Order> cancelled =
      parse_binance_order(std::move(body), paths.futures ? ClientIdMember::kFutures
                                                         : ClientIdMember::kOrigClientOrderId);
  if (cancelled) return cancelled;
  return no_outcome(Effect::kOrders, options.name, what, "its answer is unreadable")
      .because(cancelled.error());
}

Result<Order> BinanceTransport::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(std::string body,
                   send({.what = "order " + client_id,
                         .path = paths.order,
                         .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}},
                         .weight = paths.order_weight}));
  DEFIB_TRY_ASSIGN(
      Order found,
      parse_binance_order(std::move(body), paths.futures ? ClientIdMember::kFutures
                                                         : ClientIdMember::kClientOrderId));
  if (found.client_id == client_id) return found;
  return bad_answer(fmt::format("asked for order {}, got order {}", client_id, found.client_id));
}

Result<std::vector<Fill>> BinanceTransport::fills(const std::string& symbol,
                                                  const std::string& after) {
  std::int64_t from = after.empty() ? 0 : to_integer(after, -1) + 1;
  if (from < 0 || (from == 0 && !after.empty())) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is no trade id of binance", after));
  }
  std::vector<Fill> all;
  for (int page = 0; page < kMaxFillPages; ++page) {
    DEFIB_TRY_ASSIGN(std::string body,
                     send({.what = "the trades of " + symbol,
                           .path = paths.trades,
                           .parameters = {{"symbol", symbol},
                                          {"fromId", std::to_string(from)},
                                          {"limit", std::to_string(kBinanceFillsPerPage)}},
                           .weight = paths.trades_weight}));
    DEFIB_TRY_ASSIGN(std::vector<Fill> fills, parse_binance_fills(std::move(body), paths.futures));
    for (Fill& fill : fills) {
      const std::int64_t id = to_integer(fill.trade_id, -1);
      if (id < from) {
        return bad_answer(fmt::format("trade {} of {} is out of order", fill.trade_id, symbol));
      }
      from = id + 1;
      all.push_back(std::move(fill));
    }
    if (fills.size() < kBinanceFillsPerPage) return all;
  }
  return Error(Code::kLimitExceeded,
               fmt::format("{} has more than {} pages of trades", symbol, kMaxFillPages));
}

}  // namespace defib::venue
