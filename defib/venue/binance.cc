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

}  // namespace

struct BinanceVenue::Impl : BinanceTransport {
  explicit Impl(BinanceOptions given)
      : BinanceTransport(std::move(given), {.time = "/api/v3/time",
                                            .rules = "/api/v3/exchangeInfo",
                                            .ticker = "/api/v3/ticker/bookTicker",
                                            .order = "/api/v3/order",
                                            .test_order = "/api/v3/order/test",
                                            .trades = "/api/v3/myTrades",
                                            .rules_weight = 20,
                                            .quotes_weight = 4,
                                            .order_weight = 4,
                                            .trades_weight = 20,
                                            .response_type = "FULL",
                                            .futures = false}) {}
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
  return impl_->server_time_ms();
}

Result<std::vector<SymbolRules>> BinanceVenue::rules() {
  return impl_->rules();
}

Result<Quote> BinanceVenue::quote(const std::string& symbol) {
  return impl_->quote(symbol);
}

Result<std::vector<Quote>> BinanceVenue::quotes() {
  return impl_->quotes();
}

Result<Order> BinanceVenue::place(const OrderRequest& request) {
  return impl_->place(request);
}

Result<Order> BinanceVenue::cancel(const std::string& symbol, const std::string& client_id) {
  return impl_->cancel(symbol, client_id);
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
  return impl_->order(symbol, client_id);
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
  return impl_->fills(symbol, after);
}

Result<> BinanceVenue::test_order(const OrderRequest& request) {
  return impl_->test_order(request);
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
  model.fills_page = kBinanceFillsPerPage;
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
