// BinanceFutures: the Binance USD-M futures dialect over the core, in one-way or hedge rows.
//
// Signing, time rule and refusals are those of spot; what differs is as at the real venue: other
// names of members, positions stated by the venue (here: the net of the account's trades),
// conditional orders in the algo list alone until they are triggered, -4116 for a client id that is
// open, and a dead-man's switch for each symbol. An algo order has the id of the order that it
// becomes.
//
// Source: https://developers.binance.com/docs/derivatives/usds-margined-futures.
// Invariant: shares no signing, parsing or id code with any client of the venue.
// Thread rule: one thread at a time. Never reads a clock.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/paper/core.h"
#include "defib/paper/dialect.h"
#include "defib/paper/parameters.h"

namespace defib::paper {

class BinanceFutures final : public FaultedDialect {
 public:
  struct Options {
    std::string api_key;
    std::string api_secret;
    bool hedge_mode = false;  // LONG and SHORT rows
  };
  BinanceFutures(Core& core, FaultPlan& faults, Options options);

  void tick(Micros now) override;
  std::string text_of(Reject reject) const override;

 protected:
  std::optional<Reply> admit(Pending& pending, Micros now) override;
  Reply execute(Pending& pending, Micros now) override;
  Reply fault_reply(const FaultRule& rule) const override;
  void recognize(Pending& pending) const override;

 private:
  std::optional<Reply> check_time(const Pending& pending, Micros now) const;
  Reply exchange_info() const;
  Reply tickers(Parameters& parameters) const;
  Reply new_order(Parameters& parameters, const Pending& pending, bool only_test);
  Reply new_conditional(Parameters& parameters, const Pending& pending);
  Reply one_conditional(Parameters& parameters, bool cancel);
  Reply one_order(Parameters& parameters, bool cancel);
  Reply open_orders(Parameters& parameters) const;
  Reply conditional_orders(Parameters& parameters) const;
  Reply cancel_all(Parameters& parameters, bool conditional);
  Reply balances() const;
  Reply account() const;
  Reply positions() const;
  Reply leverage_brackets() const;
  Reply trades(Parameters& parameters) const;
  Reply arm(Parameters& parameters);
  std::string order_json(const Order& order) const;
  std::string conditional_json(const Order& order) const;
  // Open orders that wait for their trigger, or those that do not.
  std::vector<std::uint64_t> open_ids(std::uint32_t symbol, bool waiting) const;
  std::optional<std::uint32_t> symbol_of(Parameters& parameters) const;

  Options options_;
  Micros now_ = 0;
  std::map<std::uint32_t, Micros> cancel_at_us_;  // the dead-man's switches
};

}  // namespace defib::paper
