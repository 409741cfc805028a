// BinanceVenue: Binance spot over REST (https://developers.binance.com/docs/binance-spot-api-docs).
//
// The mapping of answers is strict (docs/venue.md has the table): of a placed or cancelled order
// only a 4XX answer with an error code means "not accepted"; a 5XX, a time-out, a reset, a cut or
// unreadable body, -1006 and -1007 are VenueOutcomeUnknown. "Duplicate order sent." is
// VenueRejected with the field `duplicate` = "true": an order with this id is open.
// Unknown JSON members are tolerated, missing ones are refused by name.
// After 429 or 418 no request leaves before Retry-After has passed: VenueRateLimited until then.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "defib/os/clock.h"
#include "defib/venue/venue.h"

namespace defib::venue {

struct BinanceOptions {
  std::string name = "binance";
  std::string base_url = "https://api.binance.com";  // no final slash
  std::string api_key;
  std::string api_secret;
  std::int64_t recv_window_ms = 1'000;     // at most 60,000
  std::int64_t visibility_lag_ms = 1'000;  // "Memory => Database"
  os::Duration connect_timeout = std::chrono::seconds(2);
  os::Duration timeout = std::chrono::seconds(5);
  std::int64_t weight_per_minute = 6'000;           // 0: the venue does not limit
  os::Duration patience = std::chrono::seconds(2);  // see Venue::set_patience()
  const os::Clock* clock = nullptr;                 // null: the real clock
  std::string rate_file;                            // see RateBudget; empty: none
  // Called when the exchange of a new order with the venue is over and its reply has not been
  // looked at: the failure point "request_sent". May be empty.
  std::function<void()> after_exchange;
};

struct BinanceUsage {
  std::uint64_t requests = 0;
  std::int64_t used_weight_1m = 0;  // as the venue's header said last
  std::int64_t order_count_10s = 0;
  std::int64_t blocked_until_mono_ns = 0;  // 0: not blocked
};

class BinanceVenue : public Venue {
 public:
  explicit BinanceVenue(BinanceOptions options);
  ~BinanceVenue() override;

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
  std::int64_t recv_window_ms() const override;
  std::int64_t visibility_lag_ms() const override;

  Result<VenueStatus> status() override;
  RebuildModel rebuild_model() const override;
  void set_patience(os::Duration patience) override;

  BinanceUsage usage() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The payload of a new order before key and signature, as it goes into the intent.
std::string binance_order_payload(const OrderRequest& request);
// hex(HMAC-SHA256(secret, payload)).
std::string hmac_sha256_hex(std::string_view secret, std::string_view payload);

}  // namespace defib::venue
