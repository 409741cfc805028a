// The dialect's common path: endpoints, limits, key, signature, time rule, faults and replies.

#include "defib/paper/binance.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "defib/paper/binance_call.h"
#include "defib/paper/dialect.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

constexpr Micros kFutureAllowanceUs = 1'000'000;
constexpr std::int64_t kDefaultRecvWindowMs = 5000;
constexpr std::int64_t kMaxRecvWindowMs = 60'000;
// Timestamps from here on are microseconds.
constexpr std::int64_t kFirstMicrosTimestamp = 100'000'000'000'000;
constexpr std::size_t kMaxRecordedId = 64;
constexpr std::string_view kIntegerRange = "^[0-9]{1,20}$";
constexpr std::string_view kDecimalRange = "^([0-9]{1,20})(\\.[0-9]{1,20})?$";
constexpr std::string_view kRecvWindowRange = "^([0-9]{1,5})(\\.[0-9]{1,3})?$";
constexpr std::string_view kClientIdRange = "^[a-zA-Z0-9-_]{1,36}$";
constexpr std::string_view kTimeoutMessage =
    "Timeout waiting for response from backend server. Send status unknown; execution status "
    "unknown.";
constexpr std::string_view kOverloadedMessage =
    "Server is currently overloaded with other requests. Please try again in a few minutes.";
constexpr std::string_view kUnknownErrorMessage =
    "An unknown error occurred while processing the request.";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view header_of(const wire::HttpRequest& request, std::string_view name) {
  const auto lower = [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  };
  for (const auto& [key, value] : request.headers) {
    if (std::ranges::equal(key, name, {}, lower, lower)) return value;
  }
  return {};
}

std::string error_body(int code, std::string_view message) {
  return wire::Json::object({{"code", code}, {"msg", message}}).dump();
}

// "5000" or "5000.125" milliseconds as microseconds.
std::optional<Micros> parse_window(std::string_view text) {
  const std::size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view fraction = text.substr(std::min(point + 1, text.size()));
  if (whole.empty() || whole.size() > 5 || !std::ranges::all_of(whole, is_digit)) return {};
  if (point < text.size() && (fraction.empty() || fraction.size() > 3)) return {};
  if (!std::ranges::all_of(fraction, is_digit)) return {};
  Micros result = 0;
  for (const char c : whole) result = result * 10 + (c - '0');
  for (std::size_t i = 0; i < 3; ++i) {
    result = result * 10 + (i < fraction.size() ? fraction[i] - '0' : 0);
  }
  return result;
}

std::string fault_names(const std::vector<FaultRule>& faults) {
  std::string names;
  for (const FaultRule& rule : faults) {
    if (!names.empty()) names += ',';
    names += to_string(rule.kind);
  }
  return names;
}

}  // namespace

// ---- Reading parameters.

std::optional<std::int64_t> Binance::Call::integer(std::string_view name) {
  const std::optional<std::string_view> value = parameters_.take(name);
  if (!value) return std::nullopt;
  if (value->empty() || value->size() > 18 || !std::ranges::all_of(*value, is_digit)) {
    fail(illegal(name, kIntegerRange));
    return std::nullopt;
  }
  std::int64_t number = 0;
  std::from_chars(value->data(), value->data() + value->size(), number);
  return number;
}

Decimal Binance::Call::decimal(std::string_view name) {
  const std::string_view value = text(name);
  if (value.empty()) return {};
  const std::size_t point = std::min(value.find('.'), value.size());
  const std::string_view fraction = value.substr(std::min(point + 1, value.size()));
  const bool legal = point > 0 && point <= 20 && fraction.size() <= 20 &&
                     (point == value.size() || !fraction.empty()) &&
                     std::ranges::all_of(value.substr(0, point), is_digit) &&
                     std::ranges::all_of(fraction, is_digit);
  if (!legal) {
    fail(illegal(name, kDecimalRange));
    return {};
  }
  const Result<Decimal> parsed = Decimal::parse(value);
  if (parsed) return *parsed;
  const bool too_fine = fraction.find_last_not_of('0') != std::string_view::npos &&
                        fraction.find_last_not_of('0') >= 8;
  if (too_fine) {
    fail({400, -1111, fmt::format("Parameter '{}' has too much precision.", name)});
  } else {
    fail(refusal_of(name == "price" ? Reject::kPriceFilter : Reject::kLotSize));
  }
  return {};
}

std::string Binance::Call::client_id(std::string_view name) {
  const std::optional<std::string_view> value = optional_text(name);
  if (!value) return {};
  const bool legal = value->size() <= 36 && std::ranges::all_of(*value, [](char c) {
                       return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                              c == '-' || c == '_';
                     });
  if (!legal) fail(illegal(name, kClientIdRange));
  return std::string(*value);
}

std::size_t Binance::Call::limit(std::int64_t otherwise, std::int64_t most) {
  const std::int64_t value = integer("limit").value_or(otherwise);
  if (value < 1) fail({400, -1130, "Data sent for parameter 'limit' is not valid."});
  return static_cast<std::size_t>(std::clamp<std::int64_t>(value, 1, most));
}

std::optional<Binance::Refused> Binance::Call::done() {
  if (problem_) return problem_;
  const std::size_t read = parameters_.read();
  if (read == parameters_.sent()) return std::nullopt;
  return Refused{400, -1104,
                 fmt::format("Not all sent parameters were read; read '{}' parameter(s) but was "
                             "sent '{}'.",
                             read, parameters_.sent())};
}

// ---- Endpoints.

Binance::Binance(Core& core, FaultPlan& faults, Options options)
    : core_(core), faults_(faults), options_(std::move(options)), limits_(options_.limits) {}

const Binance::Endpoint* Binance::find_endpoint(std::string_view method, std::string_view path) {
  static constexpr std::array<Endpoint, 15> kEndpoints{{
      {"GET", "/api/v3/ping", 1, false, &Binance::ping},
      {"GET", "/api/v3/time", 1, false, &Binance::time},
      {"GET", "/api/v3/exchangeInfo", 20, false, &Binance::exchange_info},
      {"GET", "/api/v3/ticker/bookTicker", 2, false, &Binance::book_ticker},
      {"GET", "/api/v3/ticker/price", 2, false, &Binance::price_ticker},
      {"GET", "/api/v3/depth", 5, false, &Binance::depth},
      {"POST", "/api/v3/order", 1, true, &Binance::new_order},
      {"POST", "/api/v3/order/test", 1, true, &Binance::test_order},
      {"GET", "/api/v3/order", 4, true, &Binance::query_order},
      {"DELETE", "/api/v3/order", 1, true, &Binance::cancel_order},
      {"GET", "/api/v3/openOrders", 6, true, &Binance::open_orders},
      {"DELETE", "/api/v3/openOrders", 1, true, &Binance::cancel_open_orders},
      {"GET", "/api/v3/allOrders", 20, true, &Binance::all_orders},
      {"GET", "/api/v3/account", 20, true, &Binance::account},
      {"GET", "/api/v3/myTrades", 20, true, &Binance::my_trades},
  }};
  for (const Endpoint& endpoint : kEndpoints) {
    if (endpoint.method == method && endpoint.path == path) return &endpoint;
  }
  return nullptr;
}

bool Binance::is_order_placement(const Pending& pending) {
  return pending.endpoint != nullptr && pending.endpoint->handler == &Binance::new_order;
}

// ---- First half.

Binance::Pending Binance::receive(const wire::HttpRequest& request, Micros now) {
  core_.advance(now);
  const std::string_view url = request.url;
  const std::size_t question = std::min(url.find('?'), url.size());
  const std::string_view query = url.substr(std::min(question + 1, url.size()));
  Pending pending;
  pending.path = url.substr(0, question);
  pending.endpoint = find_endpoint(request.method, pending.path);
  pending.parameters = Parameters(query, request.body);
  pending.faults = faults_.match(request.method, pending.path);
  for (const FaultRule& rule : pending.faults) {
    core_.record(
        FaultFired{rule.name, std::string(to_string(rule.kind)), request.method, pending.path});
  }
  apply_standing_faults(core_, pending.faults, skew_us_);
  if (answer_by_fault(pending)) return pending;
  Reply limited;
  if (const auto refused = check_limits(pending, now, limited)) {
    refuse(pending, *refused, Refusal::kRejected);
    for (auto& header : limited.response.headers) {
      pending.early->response.headers.push_back(std::move(header));
    }
    return pending;
  }
  std::optional<Refused> refused;
  if (pending.endpoint == nullptr) {
    refused = Refused{404, -1000, std::string(kUnknownErrorMessage)};
  } else if (pending.parameters.problem() == Parameters::Problem::kMalformedEscape) {
    refused = Refused{400, -1100, "Illegal characters found in a parameter."};
  } else if (pending.parameters.problem() == Parameters::Problem::kTooMany) {
    refused = Refused{400, -1101, "Too many parameters sent for this endpoint."};
  } else if (pending.parameters.problem() == Parameters::Problem::kRepeated) {
    refused = Refused{400, -1101, "Duplicate values for a parameter detected."};
  } else if (pending.endpoint->is_signed) {
    refused = check_signature(pending, request, query);
    if (!refused) refused = read_timing(pending);
    if (!refused) refused = check_time(pending, now);
  }
  if (refused) refuse(pending, *refused, Refusal::kRejected);
  return pending;
}

std::optional<Binance::Refused> Binance::check_limits(const Pending& pending, Micros now,
                                                      Reply& reply) {
  int weight = pending.endpoint == nullptr ? 1 : pending.endpoint->weight;
  if (pending.endpoint != nullptr) {
    const bool by_symbol = pending.parameters.has("symbol");
    if (pending.endpoint->handler == &Binance::open_orders && !by_symbol) weight = 80;
    if (pending.endpoint->handler == &Binance::my_trades && pending.parameters.has("orderId")) {
      weight = 5;
    }
    if ((pending.endpoint->handler == &Binance::book_ticker ||
         pending.endpoint->handler == &Binance::price_ticker) &&
        !by_symbol) {
      weight = 4;
    }
  }
  const RateLimits::Answer answer = limits_.request(weight, now);
  if (answer.verdict == RateLimits::Verdict::kAllowed) return std::nullopt;
  reply.response.headers.emplace_back("Retry-After", std::to_string(answer.retry_after_s));
  if (answer.verdict == RateLimits::Verdict::kBanned) {
    return Refused{418, -1003,
                   fmt::format("Way too much request weight used; IP banned until {}. Please use "
                               "WebSocket Streams for live updates to avoid bans.",
                               answer.banned_until_us / 1000)};
  }
  return Refused{429, -1003,
                 fmt::format("Too much request weight used; current limit is {} request weight per "
                             "1 MINUTE. Please use WebSocket Streams for live updates to avoid "
                             "polling the API.",
                             options_.limits.weight_per_minute)};
}

std::optional<Binance::Refused> Binance::check_signature(Pending& pending,
                                                         const wire::HttpRequest& request,
                                                         std::string_view query) {
  const std::string_view key = header_of(request, "X-MBX-APIKEY");
  const auto is_alphanumeric = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0;
  };
  if (key.empty() || !std::ranges::all_of(key, is_alphanumeric)) {
    return Refused{401, -2014, "API-key format invalid."};
  }
  if (key != options_.api_key) {
    return Refused{401, -2015, "Invalid API-key, IP, or permissions for action."};
  }
  const std::string_view sent = pending.parameters.take("signature").value_or(std::string_view());
  if (sent.empty()) return Call::missing("signature");
  const std::optional<std::string> payload = Parameters::signed_payload(query, request.body);
  if (!payload || !same_signature(hmac_sha256_hex(options_.api_secret, *payload), sent)) {
    return Refused{400, -1022, "Signature for this request is not valid."};
  }
  return std::nullopt;
}

std::optional<Binance::Refused> Binance::read_timing(Pending& pending) {
  const std::string_view text = pending.parameters.take("timestamp").value_or(std::string_view());
  if (text.empty()) return Call::missing("timestamp");
  if (text.size() > 18 || !std::ranges::all_of(text, is_digit)) {
    return Call::illegal("timestamp", kIntegerRange);
  }
  std::int64_t timestamp = 0;
  std::from_chars(text.data(), text.data() + text.size(), timestamp);
  pending.timestamp_us = timestamp >= kFirstMicrosTimestamp ? timestamp : timestamp * 1000;
  pending.recv_window_us = kDefaultRecvWindowMs * 1000;
  if (const auto window = pending.parameters.take("recvWindow")) {
    const std::optional<Micros> parsed = parse_window(*window);
    if (!parsed) return Call::illegal("recvWindow", kRecvWindowRange);
    if (*parsed > kMaxRecvWindowMs * 1000) {
      return Refused{400, -1131, "recvWindow must be less than 60000."};
    }
    pending.recv_window_us = *parsed;
  }
  return std::nullopt;
}

// The venue's rule: timestamp < serverTime + 1000 and serverTime - timestamp <= recvWindow.
std::optional<Binance::Refused> Binance::check_time(const Pending& pending, Micros now) const {
  if (!pending.timestamp_us) return std::nullopt;
  const Micros server = now + skew_us_;
  if (*pending.timestamp_us >= server + kFutureAllowanceUs) {
    return Refused{400, -1021, "Timestamp for this request was 1000ms ahead of the server's time."};
  }
  if (server - *pending.timestamp_us > pending.recv_window_us) {
    return Refused{400, -1021, "Timestamp for this request is outside of the recvWindow."};
  }
  return std::nullopt;
}

// ---- Second half.

Binance::Reply Binance::finish(Pending pending, Micros now) {
  core_.advance(now);
  if (!pending.early) {
    if (const auto late = check_time(pending, now)) {
      refuse(pending, *late, Refusal::kRejected);
    } else if (is_order_placement(pending) && !limits_.order(now)) {
      refuse(pending,
             {429, -1015,
              fmt::format("Too many new orders; current limit is {} orders per 10 SECOND.",
                          options_.limits.orders_per_10s)},
             Refusal::kRejected);
      pending.early->response.headers.emplace_back("Retry-After", "10");
    }
  }
  Reply reply;
  if (pending.early) {
    reply = std::move(*pending.early);
  } else {
    Call call(core_, pending.parameters);
    std::string faults = fault_names(pending.faults);
    std::int64_t lag_ms = 0;
    for (const FaultRule& rule : pending.faults) {
      if (rule.kind == FaultKind::kVisibilityLag) lag_ms += rule.lag_ms;
    }
    call.set_fault(std::move(faults), lag_ms);
    const Answer answer = (this->*pending.endpoint->handler)(call);
    if (answer) {
      reply = make_reply(200, *answer);
    } else {
      const bool duplicate = answer.error().message == refusal_of(Reject::kDuplicate).message;
      record_refusal(pending, answer.error(), duplicate ? Refusal::kDuplicate : Refusal::kRejected);
      reply = make_reply(answer.error());
    }
  }
  if (is_order_placement(pending)) {
    reply.response.headers.emplace_back("X-MBX-ORDER-COUNT-10S",
                                        std::to_string(limits_.orders_10s()));
    reply.response.headers.emplace_back("X-MBX-ORDER-COUNT-1D",
                                        std::to_string(limits_.orders_1d()));
  }
  constexpr std::string_view kGarbage = "<html><head><title>Welcome</title></head>{\"orderId\":";
  const auto fault_reply = [this](const FaultRule& rule) {
    return make_reply(fault_refusal(rule));
  };
  spoil_reply(pending.faults, kGarbage, fault_reply, reply);
  return reply;
}

Binance::Reply Binance::handle(const wire::HttpRequest& request, Micros now) {
  return finish(receive(request, now), now);
}

void Binance::refuse(Pending& pending, const Refused& refused, Refusal kind) {
  record_refusal(pending, refused, kind);
  pending.early = make_reply(refused);
}

void Binance::record_refusal(const Pending& pending, const Refused& refused, Refusal kind) {
  if (!is_order_placement(pending)) return;
  Parameters parameters = pending.parameters;
  const std::string_view id =
      parameters.take("newClientOrderId").value_or(std::string_view()).substr(0, kMaxRecordedId);
  core_.record(OrderRefused{std::string(id), kind, refused.code, refused.message,
                            fault_names(pending.faults)});
}

Binance::Reply Binance::make_reply(int status, std::string body) const {
  Reply reply;
  reply.response.status = status;
  reply.response.headers = {{"Content-Type", "application/json;charset=UTF-8"},
                            {"X-MBX-USED-WEIGHT", std::to_string(limits_.used_weight())},
                            {"X-MBX-USED-WEIGHT-1M", std::to_string(limits_.used_weight())}};
  reply.response.body = std::move(body);
  return reply;
}

Binance::Reply Binance::make_reply(const Refused& refused) const {
  return make_reply(refused.http_status, error_body(refused.code, refused.message));
}

// ---- Faults.

std::expected<Core::Placed, Reject> Binance::place_external(NewOrder order) {
  return place_by_owner(core_, std::move(order));
}

// Faults that answer (or do not answer) in place of the venue. Delays are noted on the way.
bool Binance::answer_by_fault(Pending& pending) {
  for (const FaultRule& rule : pending.faults) {
    switch (rule.kind) {
      case FaultKind::kDropRequest:
        refuse(pending, {503, 0, "the request was dropped"}, Refusal::kDropped);
        pending.early->delivery = wire::HttpServer::Delivery::kDropConnection;
        return true;
      case FaultKind::kRateLimit:
      case FaultKind::kBan: {
        const int status = rule.kind == FaultKind::kBan ? 418 : 429;
        refuse(pending, {status, -1003, "Too many requests queued."}, Refusal::kRejected);
        pending.early->response.headers.emplace_back("Retry-After",
                                                     std::to_string(rule.retry_after_s));
        return true;
      }
      case FaultKind::kServerError:
      case FaultKind::kTimeout: {
        if (rule.accepted) break;
        // -1008 says that nothing was done; the others say nothing.
        const Refused refused = fault_refusal(rule);
        refuse(pending, refused, refused.code == -1008 ? Refusal::kRejected : Refusal::kDropped);
        return true;
      }
      case FaultKind::kDelayRequest:
        pending.delay_ms += rule.delay_ms;
        break;
      case FaultKind::kDelayReply:
        pending.reply_delay_ms += rule.delay_ms;
        break;
      default:
        break;
    }
  }
  return false;
}

Binance::Refused Binance::fault_refusal(const FaultRule& rule) {
  if (rule.kind == FaultKind::kTimeout) {
    return {rule.status == 0 ? 504 : rule.status, -1007, std::string(kTimeoutMessage)};
  }
  const int code = rule.code != 0 ? rule.code : rule.accepted ? -1000 : -1008;
  return {rule.status == 0 ? 503 : rule.status, code,
          std::string(code == -1008   ? kOverloadedMessage
                      : code == -1007 ? kTimeoutMessage
                                      : kUnknownErrorMessage)};
}

}  // namespace defib::paper
