#include "defib/venue/binance_futures.h"

#include <fmt/core.h>

#include <chrono>
#include <iterator>
#include <optional>
#include <utility>

#include "defib/venue/binance_transport.h"

namespace defib::venue {
namespace {

constexpr int kFillsPerPage = 1'000;
constexpr int kMaxFillPages = 10'000;
constexpr std::int64_t kAllOpenOrdersWeight = 40;

}  // namespace

struct BinanceFuturesVenue::Impl : BinanceTransport {
  Impl(BinanceOptions given, std::vector<std::string> all)
      : BinanceTransport(std::move(given)), symbols(std::move(all)) {}
  std::vector<std::string> symbols;
};

BinanceFuturesVenue::BinanceFuturesVenue(BinanceOptions options, std::vector<std::string> symbols)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(symbols))) {}
BinanceFuturesVenue::~BinanceFuturesVenue() = default;

std::string BinanceFuturesVenue::name() const {
  return impl_->options.name;
}

Result<std::int64_t> BinanceFuturesVenue::server_time_ms() {
  const std::int64_t before = impl_->clock.wall_ns();
  const std::int64_t started = impl_->clock.mono_ns();
  DEFIB_TRY_ASSIGN(const std::string body,
                   impl_->send({.what = "the time", .path = "/fapi/v1/time", .is_signed = false}));
  DEFIB_TRY_ASSIGN(const std::int64_t time, parse_binance_time(body));
  const std::int64_t middle = before + (impl_->clock.mono_ns() - started) / 2;
  impl_->clock_offset_ms = time - middle / 1'000'000;
  return time;
}

Result<std::vector<SymbolRules>> BinanceFuturesVenue::rules() {
  DEFIB_TRY_ASSIGN(
      const std::string body,
      impl_->send({.what = "the rules", .path = "/fapi/v1/exchangeInfo", .is_signed = false}));
  return parse_binance_rules(body);
}

Result<Quote> BinanceFuturesVenue::quote(const std::string& symbol) {
  DEFIB_TRY_ASSIGN(const std::string body, impl_->send({.what = "the quote of " + symbol,
                                                        .path = "/fapi/v1/ticker/bookTicker",
                                                        .parameters = {{"symbol", symbol}},
                                                        .is_signed = false,
                                                        .weight = 2}));
  return parse_binance_quote(body);
}

Result<std::vector<Quote>> BinanceFuturesVenue::quotes() {
  DEFIB_TRY_ASSIGN(const std::string body, impl_->send({.what = "the quotes",
                                                        .path = "/fapi/v1/ticker/bookTicker",
                                                        .is_signed = false,
                                                        .weight = 5}));
  return parse_binance_quotes(body);
}

Result<Order> BinanceFuturesVenue::place(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(BinanceParameters parameters, binance_order_parameters(request, "RESULT"));
  const std::string what = "order " + request.client_id;
  DEFIB_TRY_ASSIGN(std::string body,
                   impl_->send({.what = what,
                                .method = "POST",
                                .path = "/fapi/v1/order",
                                .parameters = std::move(parameters),
                                .effect = Effect::kOrders,
                                .is_new_order = true,
                                .window_ms = request.expires_ms - request.timestamp_ms}));
  Result<Order> order = parse_binance_order(std::move(body), ClientIdMember::kFutures);
  if (!order) {
    return no_outcome(Effect::kOrders, name(), what, "its answer is unreadable")
        .because(order.error());
  }
  if (order->client_id != request.client_id || order->symbol != request.symbol) {
    return no_outcome(
        Effect::kOrders, name(), what,
        fmt::format("the answer is about order {} of {}", order->client_id, order->symbol));
  }
  if (order->created_ms == 0) order->created_ms = order->updated_ms;
  return order;
}

Result<Order> BinanceFuturesVenue::cancel(const std::string& symbol, const std::string& client_id) {
  const std::string what = "the cancel of order " + client_id;
  DEFIB_TRY_ASSIGN(
      std::string body,
      impl_->send({.what = what,
                   .method = "DELETE",
                   .path = "/fapi/v1/order",
                   .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}},
                   .effect = Effect::kOrders}));
  Result<Order> order = parse_binance_order(std::move(body), ClientIdMember::kFutures);
  if (order) return order;
  return no_outcome(Effect::kOrders, name(), what, "its answer is unreadable")
      .because(order.error());
}

// Both kinds, whatever becomes of the first.
Result<> BinanceFuturesVenue::cancel_all(const std::string& symbol) {
  std::optional<Error> failure;
  for (const char* path : {"/fapi/v1/allOpenOrders", "/fapi/v1/algoOpenOrders"}) {
    const auto body = impl_->send({.what = "the cancel of all orders of " + symbol,
                                   .method = "DELETE",
                                   .path = path,
                                   .parameters = {{"symbol", symbol}},
                                   .effect = Effect::kOrders});
    if (!body && body.error().code() != Code::kOrderNotFound && !failure) failure = body.error();
  }
  if (failure) return *failure;
  return {};
}

Result<Order> BinanceFuturesVenue::order(const std::string& symbol, const std::string& client_id) {
  DEFIB_TRY_ASSIGN(
      std::string body,
      impl_->send({.what = "order " + client_id,
                   .path = "/fapi/v1/order",
                   .parameters = {{"symbol", symbol}, {"origClientOrderId", client_id}}}));
  DEFIB_TRY_ASSIGN(Order order, parse_binance_order(std::move(body), ClientIdMember::kFutures));
  if (order.client_id == client_id) return order;
  return bad_answer(fmt::format("asked for order {}, got order {}", client_id, order.client_id));
}

Result<std::vector<Order>> BinanceFuturesVenue::open_orders(const std::string& symbol) {
  BinanceParameters parameters;
  if (!symbol.empty()) parameters.emplace_back("symbol", symbol);
  const std::int64_t weight = symbol.empty() ? kAllOpenOrdersWeight : 1;
  DEFIB_TRY_ASSIGN(std::string body, impl_->send({.what = "the open orders",
                                                  .path = "/fapi/v1/openOrders",
                                                  .parameters = parameters,
                                                  .weight = weight}));
  DEFIB_TRY_ASSIGN(std::vector<Order> orders,
                   parse_binance_orders(std::move(body), ClientIdMember::kFutures));
  DEFIB_TRY_ASSIGN(const std::string algo, impl_->send({.what = "the conditional orders",
                                                        .path = "/fapi/v1/openAlgoOrders",
                                                        .parameters = std::move(parameters),
                                                        .weight = weight}));
  DEFIB_TRY_ASSIGN(std::vector<Order> conditional, parse_binance_algo_orders(algo));
  std::move(conditional.begin(), conditional.end(), std::back_inserter(orders));
  return orders;
}

Result<std::vector<Balance>> BinanceFuturesVenue::balances() {
  DEFIB_TRY_ASSIGN(const std::string body,
                   impl_->send({.what = "the balances", .path = "/fapi/v3/balance", .weight = 5}));
  return parse_binance_futures_balances(body);
}

Result<std::vector<PositionReport>> BinanceFuturesVenue::positions() {
  DEFIB_TRY_ASSIGN(
      const std::string body,
      impl_->send({.what = "the positions", .path = "/fapi/v3/positionRisk", .weight = 5}));
  return parse_binance_positions(body);
}

Result<std::vector<Fill>> BinanceFuturesVenue::fills(const std::string& symbol,
                                                     const std::string& after) {
  std::int64_t from = after.empty() ? 0 : to_integer(after, -1) + 1;
  if (from < 0 || (from == 0 && !after.empty())) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is no trade id of binance", after));
  }
  std::vector<Fill> all;
  for (int page = 0; page < kMaxFillPages; ++page) {
    DEFIB_TRY_ASSIGN(std::string body,
                     impl_->send({.what = "the trades of " + symbol,
                                  .path = "/fapi/v1/userTrades",
                                  .parameters = {{"symbol", symbol},
                                                 {"fromId", std::to_string(from)},
                                                 {"limit", std::to_string(kFillsPerPage)}},
                                  .weight = 5}));
    DEFIB_TRY_ASSIGN(std::vector<Fill> fills, parse_binance_fills(std::move(body), true));
    for (Fill& fill : fills) {
      const std::int64_t id = to_integer(fill.trade_id, -1);
      if (id < from) {
        return bad_answer(fmt::format("trade {} of {} is out of order", fill.trade_id, symbol));
      }
      from = id + 1;
      all.push_back(std::move(fill));
    }
    if (fills.size() < kFillsPerPage) return all;
  }
  return Error(Code::kLimitExceeded, fmt::format("{} has too many pages of trades", symbol));
}

Result<> BinanceFuturesVenue::test_order(const OrderRequest& request) {
  DEFIB_TRY_ASSIGN(BinanceParameters parameters, binance_order_parameters(request, "ACK"));
  DEFIB_TRY(impl_->send({.what = "the test order",
                         .method = "POST",
                         .path = "/fapi/v1/order/test",
                         .parameters = std::move(parameters),
                         .window_ms = request.expires_ms - request.timestamp_ms}));
  return {};
}

Result<> BinanceFuturesVenue::arm_dead_mans_switch(os::Duration timeout) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  std::optional<Error> failure;
  for (const std::string& symbol : impl_->symbols) {
    const auto armed =
        impl_->send({.what = "the dead-man's switch of " + symbol,
                     .method = "POST",
                     .path = "/fapi/v1/countdownCancelAll",
                     .parameters = {{"symbol", symbol}, {"countdownTime", std::to_string(ms)}},
                     .effect = Effect::kOrders,
                     .weight = 10});
    if (!armed && !failure) failure = armed.error();
  }
  if (failure) return *failure;
  return {};
}

RebuildModel BinanceFuturesVenue::rebuild_model() const {
  RebuildModel model;
  model.limit = {.capacity = impl_->options.weight_per_minute, .window = std::chrono::minutes(1)};
  model.fixed = 12;  // rules 1, time 1, balances 5, positions 5
  model.fixed_requests = 4;
  model.orders_cost = 2 * kAllOpenOrdersWeight;  // both lists
  model.fills_page = kFillsPerPage;
  model.fills_cost = 5;
  return model;
}

void BinanceFuturesVenue::set_patience(os::Duration patience) {
  impl_->options.patience = patience;
}
std::int64_t BinanceFuturesVenue::recv_window_ms() const {
  return impl_->options.recv_window_ms;
}
std::int64_t BinanceFuturesVenue::visibility_lag_ms() const {
  return impl_->options.visibility_lag_ms;
}

}  // namespace defib::venue
