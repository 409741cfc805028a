// Coinbase: the Coinbase Advanced Trade dialect over the core.
//
// As at the real venue: a token (ES256 or EdDSA) for each request's own method and path, valid
// until its `exp`, which is checked again just before matching; pages by cursor; filters as
// repeated arrays, of which the singular form is silently ignored; failures inside of HTTP 200;
// orders of the simple user interface ("web_...") are listed under RETAIL_SIMPLE alone. A client
// order id that was ever used is answered with its order, or, in the other mode, refused.
//
// Sources: https://docs.cdp.coinbase.com/advanced-trade. Fees are zero in this dialect.
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
#include "defib/wire/json.h"

namespace defib::paper {

// BTC-USD, ETH-USD, SOL-USD.
std::vector<Symbol> coinbase_symbols();

class Coinbase final : public FaultedDialect {
 public:
  struct Options {
    std::string api_key;
    std::string public_key;        // PEM, of the client's private key
    std::string host;              // that tokens must name; empty: any
    int requests_per_second = 30;  // 0: no limit
    bool refuse_used_ids = false;  // DUPLICATE_CLIENT_ORDER_ID instead of the order itself
  };
  Coinbase(Core& core, FaultPlan& faults, Options options);

  void tick(Micros now) override { now_ = now; }
  std::string text_of(Reject reject) const override;
  int used_weight() const override { return in_second_; }

 protected:
  std::optional<Reply> admit(Pending& pending, Micros now) override;
  Reply execute(Pending& pending, Micros now) override;
  Reply fault_reply(const FaultRule& rule) const override;
  void recognize(Pending& pending) const override;

 private:
  using Query = std::vector<std::pair<std::string, std::string>>;
  struct Token {
    std::int64_t expires_s = 0;
  };
  std::optional<Token> check_token(const Pending& pending, Micros now) const;
  Reply route(Pending& pending, const Query& query);
  Reply products(const Query& query) const;
  Reply book(const Query& query) const;
  Reply best(const Query& query) const;
  Reply accounts() const;
  Reply list_orders(const Query& query) const;
  Reply list_fills(const Query& query) const;
  Reply get_order(std::string_view id) const;
  Reply new_order(Pending& pending);
  Reply preview(const Pending& pending);
  Reply cancel(const Pending& pending);
  std::string read_stop(const wire::Json& terms, NewOrder& order) const;
  std::expected<NewOrder, std::string> read_order(const wire::Json& body,
                                                  const Pending& pending) const;
  Reply placed(const Order& order) const;
  std::string order_json(const Order& order) const;
  std::string book_json(std::uint32_t symbol) const;

  Options options_;
  Micros now_ = 0;
  std::int64_t second_ = 0;
  int in_second_ = 0;
};

// The UUID of an order's number, and back.
std::string coinbase_id(std::uint64_t number);
std::optional<std::uint64_t> coinbase_number(std::string_view id);

}  // namespace defib::paper
