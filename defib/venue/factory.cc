#include "defib/venue/factory.h"

#include <fmt/core.h>

#include <utility>

#include "defib/venue/binance.h"
#include "defib/venue/binance_futures.h"
#include "defib/venue/coinbase.h"
#include "defib/venue/exec.h"
#include "defib/venue/kraken.h"

namespace defib::venue {
namespace {

constexpr std::int64_t kFuturesWeight = 2'400;  // a minute

std::unique_ptr<Venue> make_binance(AccountOptions options, bool futures) {
  BinanceOptions binance;
  if (futures) {
    binance.base_url = "https://fapi.binance.com";
    binance.name = "binance_futures";
    binance.weight_per_minute = kFuturesWeight;
  }
  if (!options.url.empty()) binance.base_url = std::move(options.url);
  if (!options.name.empty()) binance.name = std::move(options.name);
  binance.api_key = std::move(options.api_key);
  binance.api_secret = std::move(options.api_secret);
  binance.recv_window_ms = options.recv_window_ms;
  binance.visibility_lag_ms = options.visibility_lag_ms;
  binance.timeout = options.timeout;
  binance.patience = options.patience;
  if (options.rate_capacity >= 0) binance.weight_per_minute = options.rate_capacity;
  binance.clock = options.clock;
  binance.rate_file = std::move(options.rate_file);
  binance.after_exchange = std::move(options.after_exchange);
  if (futures) {
    return std::make_unique<BinanceFuturesVenue>(std::move(binance), std::move(options.symbols));
  }
  return std::make_unique<BinanceVenue>(std::move(binance));
}

Result<std::unique_ptr<Venue>> make_kraken(AccountOptions options) {
  KrakenOptions kraken;
  if (!options.url.empty()) kraken.base_url = std::move(options.url);
  if (!options.name.empty()) kraken.name = std::move(options.name);
  kraken.api_key = std::move(options.api_key);
  kraken.api_secret = std::move(options.api_secret);
  kraken.recv_window_ms = options.recv_window_ms;
  kraken.visibility_lag_ms = options.visibility_lag_ms;
  kraken.timeout = options.timeout;
  kraken.patience = options.patience;
  if (options.rate_capacity >= 0) kraken.counter_max = options.rate_capacity;
  kraken.margin = options.margin;
  kraken.symbols = std::move(options.symbols);
  kraken.nonce_file = std::move(options.nonce_file);
  kraken.clock = options.clock;
  kraken.rate_file = std::move(options.rate_file);
  kraken.after_exchange = std::move(options.after_exchange);
  DEFIB_TRY_ASSIGN(std::unique_ptr<KrakenVenue> venue, KrakenVenue::create(std::move(kraken)));
  return std::unique_ptr<Venue>(std::move(venue));
}

Result<std::unique_ptr<Venue>> make_coinbase(AccountOptions options) {
  CoinbaseOptions coinbase;
  if (!options.url.empty()) coinbase.base_url = std::move(options.url);
  if (!options.name.empty()) coinbase.name = std::move(options.name);
  coinbase.token_host = std::move(options.token_host);
  coinbase.api_key = std::move(options.api_key);
  coinbase.api_secret = std::move(options.api_secret);
  coinbase.recv_window_ms = options.recv_window_ms;
  coinbase.visibility_lag_ms = options.visibility_lag_ms;
  coinbase.timeout = options.timeout;
  coinbase.patience = options.patience;
  if (options.rate_capacity >= 0) coinbase.requests_per_second = options.rate_capacity;
  coinbase.symbols = std::move(options.symbols);
  coinbase.clock = options.clock;
  coinbase.rate_file = std::move(options.rate_file);
  coinbase.after_exchange = std::move(options.after_exchange);
  DEFIB_TRY_ASSIGN(std::unique_ptr<CoinbaseVenue> venue,
                   CoinbaseVenue::create(std::move(coinbase)));
  return std::unique_ptr<Venue>(std::move(venue));
}

std::unique_ptr<Venue> make_exec(AccountOptions options) {
  ExecOptions exec;
  if (!options.name.empty()) exec.name = std::move(options.name);
  exec.command = std::move(options.command);
  exec.recv_window_ms = options.recv_window_ms;
  exec.visibility_lag_ms = options.visibility_lag_ms;
  exec.timeout = options.timeout;
  exec.positions = options.margin;
  exec.after_exchange = std::move(options.after_exchange);
  return std::make_unique<ExecVenue>(std::move(exec));
}

}  // namespace

Result<std::unique_ptr<Venue>> make_venue(AccountOptions options) {
  if (options.kind == "binance" || options.kind == "binance_futures") {
    const bool futures = options.kind == "binance_futures";
    return make_binance(std::move(options), futures);
  }
  if (options.kind == "kraken") return make_kraken(std::move(options));
  if (options.kind == "coinbase") return make_coinbase(std::move(options));
  if (options.kind == "exec") return make_exec(std::move(options));
  return Error(Code::kInvalidArgument, fmt::format("no venue is of the kind {}", options.kind));
}

}  // namespace defib::venue
