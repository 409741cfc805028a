// BinanceFuturesVenue: Binance USD-M futures over REST
// (https://developers.binance.com/docs/derivatives/usds-margined-futures).
//
// Speaks as spot does (binance.h has the rules of answers and of the fence), with these
// differences:
// - conditional orders are not in the list of open orders: the algo list is read as well, and their
//   venue ids begin with "algo"; cancel_all() cancels both kinds;
// - positions are stated by the venue, signed, in one-way and in hedge mode;
// - a client id that is open is refused with -4116;
// - the dead-man's switch is armed for each symbol of `symbols`.
// Thread rule: one thread at a time.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "defib/venue/binance.h"
#include "defib/venue/venue.h"

namespace defib::venue {

class BinanceFuturesVenue : public Venue {
 public:
  // `options.base_url` as "https://fapi.binance.com"; `symbols`: for the dead-man's switch.
  BinanceFuturesVenue(BinanceOptions options, std::vector<std::string> symbols);
  ~BinanceFuturesVenue() override;

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
  bool has_positions() const override { return true; }
  Result<std::vector<PositionReport>> positions() override;
  bool has_dead_mans_switch() const override { return true; }
  Result<> arm_dead_mans_switch(os::Duration timeout) override;
  RebuildModel rebuild_model() const override;
  void set_patience(os::Duration patience) override;
  std::int64_t recv_window_ms() const override;
  std::int64_t visibility_lag_ms() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace defib::venue
