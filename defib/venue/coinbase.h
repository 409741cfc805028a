// CoinbaseVenue: Coinbase Advanced Trade over REST (https://docs.cdp.coinbase.com/advanced-trade).
//
// - A symbol is a product ("BTC-USD"). Filters are repeated arrays (`product_ids`): the singular
//   form is silently ignored by the venue.
// - Each request carries a token (ES256 or EdDSA, by the kind of the key) for its own method and
//   path. The fence of an order is the token's `exp`, in whole seconds; the window is at least 2 s.
// - The venue returns the order that exists where a client id is sent again; a mode that refuses
//   with DUPLICATE_CLIENT_ORDER_ID is handled as well. There is no look-up by client id: an order
//   is found by its venue id where that is known, else by reading the lists to their end. Nothing
//   is ever posted as a query.
// - Orders made in the simple user interface are listed apart; both lists are read.
// - A trade's id here is its time and the venue's id, so that ids sort by time.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/venue/venue.h"

namespace defib::venue {

struct CoinbaseOptions {
  std::string name = "coinbase";
  std::string base_url = "https://api.coinbase.com";  // no final slash
  // What the token names as host; empty: that of base_url.
  std::string token_host;
  std::string api_key;                  // "organizations/{org}/apiKeys/{id}"
  std::string api_secret;               // the private key, PEM
  std::int64_t recv_window_ms = 2'000;  // 2,000 to 60,000
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  os::Duration patience = std::chrono::seconds(2);
  std::int64_t requests_per_second = 30;  // 0: no limit
  int orders_per_page = 250;
  std::vector<std::string> symbols;
  const os::Clock* clock = nullptr;      // null: the real clock
  std::string rate_file;                 // see RateBudget; empty: none
  std::function<void()> after_exchange;  // the failure point "request_sent"; may be empty
};

class CoinbaseVenue : public Venue {
 public:
  // InvalidArgument where the secret is no private key.
  static Result<std::unique_ptr<CoinbaseVenue>> create(CoinbaseOptions options);
  ~CoinbaseVenue() override;

  std::string name() const override;
  Result<std::int64_t> server_time_ms() override;
  Result<std::vector<SymbolRules>> rules() override;
  Result<Quote> quote(const std::string& symbol) override;
  Result<std::vector<Quote>> quotes() override;
  Result<Order> place(const OrderRequest& request) override;
  Result<Order> cancel(const std::string& symbol, const std::string& client_id) override;
  Result<> cancel_all(const std::string& symbol) override;
  Result<Order> order(const std::string& symbol, const std::string& client_id) override;
  Result<std::vector<Order>> open_orders(const std::string& symbol) override;
  Result<std::vector<Balance>> balances() override;
  Result<std::vector<Fill>> fills(const std::string& symbol, const std::string& after) override;
  Result<> test_order(const OrderRequest& request) override;
  RebuildModel rebuild_model() const override;
  void set_patience(os::Duration patience) override;
  std::int64_t recv_window_ms() const override;
  std::int64_t visibility_lag_ms() const override;

 private:
  struct Impl;
  explicit CoinbaseVenue(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The token for one request; times in seconds since 1970, `nonce` in hexadecimal.
Result<std::string> coinbase_token(std::string_view key, std::string_view pem,
                                   std::string_view method, std::string_view host,
                                   std::string_view path, std::int64_t not_before,
                                   std::int64_t expires, std::string_view nonce);

}  // namespace defib::venue
