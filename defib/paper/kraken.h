// Kraken: the Kraken spot dialect over the core, with one margin account where it is switched on.
//
// As at the real venue: every private call is a POST with a nonce that must grow for ever; HTTP 200
// with {"error":[...],"result":{...}}; open orders carry a pair's altname, trades and positions its
// id; ended orders and trades come newest first in pages of 50; `deadline` is checked when the
// request arrives and again just before matching; a client order id is unique among open orders
// only; CancelAllOrdersAfter is a dead-man's switch of the whole account.
//
// Sources: https://docs.kraken.com/api. The text of a duplicate cl_ord_id is not documented there.
// Fees are zero in this dialect (the core takes them from what is received, Kraken in quote).
// Invariant: shares no signing, parsing or id code with any client of the venue.
// Thread rule: one thread at a time. Never reads a clock.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/paper/core.h"
#include "defib/paper/dialect.h"
#include "defib/paper/parameters.h"
#include "defib/wire/json.h"

namespace defib::paper {

// XBTUSD, ETHUSD, SOLUSD with the assets XXBT, XETH, SOL and ZUSD.
std::vector<Symbol> kraken_symbols();

class Kraken final : public FaultedDialect {
 public:
  struct Options {
    std::string api_key;
    std::string api_secret;              // base64
    std::int64_t counter_max = 15;       // 0: no limit
    std::int64_t decay_per_1000s = 330;  // thousandths of a point a second
    bool margin = false;                 // positions are the account's net trades
  };
  Kraken(Core& core, FaultPlan& faults, Options options);

  void tick(Micros now) override;
  std::string text_of(Reject reject) const override;
  int used_weight() const override { return static_cast<int>(counter_milli_ / 1'000); }

 protected:
  std::optional<Reply> admit(Pending& pending, Micros now) override;
  Reply execute(Pending& pending, Micros now) override;
  Reply fault_reply(const FaultRule& rule) const override;
  void recognize(Pending& pending) const override;

 private:
  struct Endpoint;
  // The result's JSON text, or an error's text.
  using Answer = std::expected<std::string, std::string>;
  static const Endpoint* find_endpoint(std::string_view path);
  Answer time(Parameters& parameters, Pending& pending);
  Answer system_status(Parameters& parameters, Pending& pending);
  Answer assets(Parameters& parameters, Pending& pending);
  Answer asset_pairs(Parameters& parameters, Pending& pending);
  Answer ticker(Parameters& parameters, Pending& pending);
  Answer open_orders(Parameters& parameters, Pending& pending);
  Answer closed_orders(Parameters& parameters, Pending& pending);
  Answer query_orders(Parameters& parameters, Pending& pending);
  Answer balances(Parameters& parameters, Pending& pending);
  Answer positions(Parameters& parameters, Pending& pending);
  Answer trades(Parameters& parameters, Pending& pending);
  Answer add_order(Parameters& parameters, Pending& pending);
  Answer cancel_order(Parameters& parameters, Pending& pending);
  Answer cancel_all(Parameters& parameters, Pending& pending);
  Answer cancel_after(Parameters& parameters, Pending& pending);

  std::expected<NewOrder, std::string> read_order(Parameters& parameters, const Pending& pending);
  std::optional<std::uint32_t> find_pair(std::string_view name) const;
  std::string order_json(const Order& order) const;
  int cancel_everything();

  Options options_;
  std::string secret_;
  std::uint64_t last_nonce_ = 0;
  std::int64_t counter_milli_ = 0;
  Micros counter_at_ = 0;
  Micros cancel_at_us_ = 0;  // the dead-man's switch; 0: not armed
  Micros now_ = 0;
};

// "OABCDE-FGHIJ-KLMNOP" of an order's or, with another first letter, a trade's number, and back.
std::string kraken_id(char kind, std::uint64_t number);
std::optional<std::uint64_t> kraken_number(char kind, std::string_view id);

}  // namespace defib::paper
