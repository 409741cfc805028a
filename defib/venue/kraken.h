// KrakenVenue: Kraken spot and margin over REST (https://docs.kraken.com/api).
//
// - A symbol here is the pair's altname ("XBTUSD"). Open orders carry the altname, trades and
//   positions the pair's id ("XXBTZUSD"): both are translated by the venue's own table of pairs,
//   never by cutting letters.
// - The fence travels as `deadline`, which the matching engine enforces. The venue's clock is told
//   in whole seconds; what several answers say of it together is known to half a second and better,
//   so half a second is taken off the deadline and added to the visibility lag; the window must be
//   at least 3.5 s.
// - The nonce grows with the wall clock in nanoseconds and never goes down: a mark kept ahead in
//   `nonce_file` survives a clock that steps back. Give defib a key of its own.
// - A new order's reply does not echo the client's id; it is known from the request.
// - Of a placed or cancelled order only an answer with an error that is known to refuse it means
//   "not accepted": `EService:Unavailable`, `EService:Busy`, internal errors, errors of parts that
//   are not known here, and every HTTP error are VenueOutcomeUnknown.
// - cancel_all(SYMBOL) cancels that symbol's orders alone; CancelAll is used where the account has
//   no others open.
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
#include "defib/os/files.h"
#include "defib/venue/venue.h"

namespace defib::venue {

struct KrakenOptions {
  std::string name = "kraken";
  std::string base_url = "https://api.kraken.com";  // no final slash
  std::string api_key;
  std::string api_secret;               // base64, as the venue gives it out
  std::int64_t recv_window_ms = 5'000;  // 3,500 to 60,000
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  os::Duration patience = std::chrono::seconds(2);
  std::int64_t counter_max = 15;         // Starter 15, Intermediate and Pro 20; 0: no limit
  std::int64_t decay_per_1000s = 330;    // thousandths of a point a second: 330, 500, 1000
  bool margin = false;                   // orders with leverage, positions from OpenPositions
  std::string leverage = "2:1";          // of orders, where `margin`
  std::vector<std::string> symbols;      // for quotes()
  std::string nonce_file;                // empty: the clock alone
  os::Files* files = nullptr;            // null: the real ones
  std::string rate_file;                 // see RateBudget; empty: none
  const os::Clock* clock = nullptr;      // null: the real clock
  std::function<void()> after_exchange;  // the failure point "request_sent"; may be empty
};

class KrakenVenue : public Venue {
 public:
  static Result<std::unique_ptr<KrakenVenue>> create(KrakenOptions options);
  ~KrakenVenue() override;

  std::string name() const override;
  Result<std::int64_t> server_time_ms() override;
  Result<std::vector<SymbolRules>> rules() override;
  Result<Quote> quote(const std::string& symbol) override;
  Result<std::vector<Quote>> quotes() override;
  Result<Order> place(const OrderRequest& request) override;
  Result<Order> cancel(const std::string& symbol, const std::string& client_id) override;
  Result<> cancel_all(const std::string& symbol) override;
  Result<> cancel_all_of(const std::vector<std::string>& symbols) override;
  Result<Order> order(const std::string& symbol, const std::string& client_id) override;
  Result<std::vector<Order>> open_orders(const std::string& symbol) override;
  Result<std::vector<Balance>> balances() override;
  // `after`: the pair's own trade number. The history comes newest first and in pages of 50, so
  // reading goes back as far as that trade, or as the time that none of the symbol is older than.
  Result<std::vector<Fill>> fills(const std::string& symbol, const std::string& after) override;
  Result<std::vector<Fill>> fills_of(const std::map<std::string, FillsFrom>& from) override;
  Result<> test_order(const OrderRequest& request) override;
  bool has_positions() const override;
  Result<std::vector<PositionReport>> positions() override;
  Result<VenueStatus> status() override;
  bool has_dead_mans_switch() const override { return true; }
  // Account-wide, in whole seconds.
  Result<> arm_dead_mans_switch(os::Duration timeout) override;
  RebuildModel rebuild_model() const override;
  void set_patience(os::Duration patience) override;
  std::int64_t recv_window_ms() const override;
  std::int64_t visibility_lag_ms() const override;

 private:
  struct Impl;
  explicit KrakenVenue(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// base64(HMAC-SHA512(secret, path ++ SHA256(nonce ++ body))); `secret` as bytes.
std::string kraken_signature(std::string_view secret, std::string_view path, std::string_view nonce,
                             std::string_view body);

}  // namespace defib::venue
