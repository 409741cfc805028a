#include "defib/venue/binance.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "defib/base/assert.h"
#include "defib/venue/binance_transport.h"

namespace defib::venue {
namespace {

constexpr std::int64_t kOpenOrdersWeight = 6;
constexpr std::int64_t kAllOpenOrdersWeight = 80;
constexpr int kFillsPerPage = 1'000;
constexpr int kMaxFillPages = 10'000;

}  // namespace

struct BinanceVenue::Impl : BinanceTransport {
  using BinanceTransport::BinanceTransport;
};

BinanceVenue::BinanceVenue(BinanceOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  DEFIB_ASSERT(impl_->options.recv_window_ms >= 1 &&
               impl_->options.recv_window_ms <= kMaxBinanceWindowMs);
}
BinanceVenue::~BinanceVenue() = default;

std::string BinanceVenue::name() const {
  return impl_->options.name;
}

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
      impl_->send(
          {.what = "the rules", .path = "/api/v3/exchangeInfo", .is_signed = false, .weight = 20}));
  return parse_binance_rules(body);
}

Result<Quote> BinanceVenue::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const std::string body, impl_->send({.what = "the quote of " + symbol,
                                                        .path = "/api/v3/ticker/bookTicker",
                                                        .parameters = {{"symbol", symbol}},
                                                        .is_signed = false,
                                                        .weight = 2}));
  return parse_binance_quote(body);
}

Result<std::vector<Quote>> BinanceVenue::quotes() {
  DEFIB_TRY_ASSIGN(const std::string body, impl_->send({.what = "the quotes",
                                                        .path = "/api/v3/ticker/bookTicker",
                                                        .is_signed = false,
                                                        .weight = 4}));
  return parse_binance_quotes(body);
}

Result<Order> BinanceVenue::place(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(BinanceParameters parameters, binance_order_parameters(request, "FULL"));
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
  if (!order)
    return no_outcome(Effect::kOrders, name(), what, "its answer is unreadable")
        .because(order.error());
  if (order->client_id != request.client_id || order->symbol != request.symbol) {
    return no_outcome(
        Effect::kOrders, name(), what,
        fmt::format("the answer is about order {} of {}", order->client_id, order->symbol));
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
  if (!order)
    return no_outcome(Effect::kOrders, name(), what, "its answer is unreadable")
        .because(order.error());
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
                   .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}},
                   .weight = 4}));
  DEFIB_TRY_ASSIGN(Order order,
                   parse_binance_order(std::move(body), ClientIdMember::kClientOrderId));
  if (order.client_id != client_id) {
    return Error(Code::kVenueBadAnswer,
                 fmt::format("asked for order {}, got order {}", client_id, order.client_id));
  }
  return order;
}

Result<std::vector<Order>> BinanceVenue::open_orders(const std::string& symbol) {
  BinanceParameters parameters;
  if (!symbol.empty()) parameters.emplace_back("symbol", symbol);
  DEFIB_TRY_ASSIGN(std::string body, impl_->send({.what = "the open orders",
                                                  .path = "/api/v3/openOrders",
                                                  .parameters = std::move(parameters),
                                                  .weight = symbol.empty() ? kAllOpenOrdersWeight
                                                                           : kOpenOrdersWeight}));
  return parse_binance_orders(std::move(body));
}

Result<std::vector<Balance>> BinanceVenue::balances() {
  DEFIB_TRY_ASSIGN(std::string body, impl_->send({.what = "the account",
                                                  .path = "/api/v3/account",
                                                  .parameters = {{"omitZeroBalances", "true"}},
                                                  .weight = 20}));
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
                                                 {"limit", std::to_string(kFillsPerPage)}},
                                  .weight = 20}));
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
  DEFIB_TRY_ASSIGN(BinanceParameters parameters, binance_order_parameters(request, "FULL"));
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
// The venue has no status of its own on the public side: a dead one does not answer, and what is
// halted stands in the rules.
Result<VenueStatus> BinanceVenue::status() {
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::int64_t time, server_time_ms());
  return VenueStatus::kOnline;
}
RebuildModel BinanceVenue::rebuild_model() const {
  RebuildModel model;
  model.limit = {.capacity = impl_->options.weight_per_minute, .window = std::chrono::minutes(1)};
  model.fixed = 41;  // rules 20, account 20, time 1
  model.orders_cost = kAllOpenOrdersWeight;
  model.fills_page = kFillsPerPage;
  model.fills_cost = 20;
  return model;
}
void BinanceVenue::set_patience(os::Duration patience) {
  impl_->options.patience = patience;
}
BinanceUsage BinanceVenue::usage() const {
  return impl_->usage;
}

std::string binance_order_payload(const OrderRequest& request) {
  const Result<BinanceParameters> parameters = binance_order_parameters(request, "FULL");
  return parameters ? encode_parameters(*parameters) : std::string();
}

}  // namespace defib::venue
