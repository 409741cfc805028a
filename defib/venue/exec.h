// ExecVenue: any script or bridge as a venue: one program run for each request.
//
//   PROGRAM ARGUMENTS... VERB JSON      for example: mt5-bridge open_orders {"symbol":"EURUSD"}
//
// The program prints one JSON document as the last line of its output:
//   {"ok":true,"result":...}   or
//   {"ok":false,"error":{"kind":"rejected","message":"...","nothing_sent":true}}
// with kind = rejected unknown unreachable rate_limited auth clock not_found. docs/venue.md lists
// the verbs and the form of each result; amounts are texts. Of `place`, `cancel` and `cancel_all`
// anything but such a document, whatever the exit code says, is VenueOutcomeUnknown; a program that
// could not be started sent nothing. A bridge that only exports answers what it cannot do with kind
// `rejected`. Orders carry `timestamp_ms` and `expires_ms`: the bridge must not send later.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::venue {

struct ExecOptions {
  std::string name = "exec";
  std::vector<std::string> command;
  std::int64_t recv_window_ms = 2'000;
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  bool positions = false;                // it states positions (verb `positions`)
  std::function<void()> after_exchange;  // the failure point "request_sent"; may be empty
};

class ExecVenue : public Venue {
 public:
  explicit ExecVenue(ExecOptions options) : options_(std::move(options)) {}

  std::string name() const override { return options_.name; }
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
  bool has_positions() const override { return options_.positions; }
  Result<std::vector<PositionReport>> positions() override;
  std::int64_t recv_window_ms() const override { return options_.recv_window_ms; }
  std::int64_t visibility_lag_ms() const override { return options_.visibility_lag_ms; }

 private:
  Result<wire::Json> ask(std::string_view verb, const wire::Json& request, bool changes);
  ExecOptions options_;
};

}  // namespace defib::venue
