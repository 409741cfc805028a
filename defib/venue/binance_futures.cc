#include "defib/venue/binance_futures.h"

#include <fmt/core.h>

#include <chrono>
#include <iterator>
#include <optional>
#include <utility>

#include "defib/venue/binance_transport.h"

namespace defib::venue {
namespace {

constexpr std::int64_t kAllOpenOrdersWeight = 40;

}  // namespace

struct BinanceFuturesVenue::Impl : BinanceTransport {
  Impl(BinanceOptions given, std::vector<std::string> all)
      : BinanceTransport(std::move(given), {.time = "/fapi/v1/time",
                                            .rules = "/fapi/v1/exchangeInfo",
                                            .ticker = "/fapi/v1/ticker/bookTicker",
                                            .order = "/fapi/v1/order",
                                            .test_order = "/fapi/v1/order/test",
                                            .trades = "/fapi/v1/userTrades",
                                            .rules_weight = 1,
                                            .quotes_weight = 5,
                                            .order_weight = 1,
                                            .trades_weight = 5,
                                            .response_type = "RESULT",
                                            .futures = true}),
        symbols(std::move(all)) {}
  std::vector<std::string> symbols;
};

BinanceFuturesVenue::BinanceFuturesVenue(BinanceOptions options, std::vector<std::string> symbols)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(symbols))) {}
BinanceFuturesVenue::~BinanceFuturesVenue() = default;

std::string BinanceFuturesVenue::name() const {
  return impl_->options.name;
}

Result<std::int64_t> BinanceFuturesVenue::server_time_ms() {
  return impl_->server_time_ms();
}

Result<std::vector<SymbolRules>> BinanceFuturesVenue::rules() {
  return impl_->rules();
}

Result<Quote> BinanceFuturesVenue::quote(const std::string& symbol) {
  return impl_->quote(symbol);
}

Result<std::vector<Quote>> BinanceFuturesVenue::quotes() {
  return impl_->quotes();
}

Result<Order> BinanceFuturesVenue::place(const OrderRequest& request) {
  return impl_->place(request);
}

Result<Order> BinanceFuturesVenue::cancel(const std::string& symbol, const std::string& client_id) {
  return impl_->cancel(symbol, client_id);
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
  return impl_->order(symbol, client_id);
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
  return impl_->fills(symbol, after);
}

Result<> BinanceFuturesVenue::test_order(const OrderRequest& request) {
  return impl_->test_order(request);
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
  model.fills_page = kBinanceFillsPerPage;
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
