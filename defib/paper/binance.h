// Binance: the Binance spot dialect over the core, as pure functions of requests and times.
//
// A request passes in two halves, as at the real venue: receive() checks limits, key, signature and
// time; finish() checks the time again just before matching, executes and answers. What a fault
// plan delays lies between the two, so a delay beyond recvWindow is refused with -1021 and the
// order never exists.
//
// Sources: https://developers.binance.com/docs/binance-spot-api-docs (rest-api, errors, filters).
// Invariant: shares no signing, parsing or id code with any client of the venue.
// Thread rule: one thread at a time. Never reads a clock.

#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/paper/core.h"
#include "defib/paper/dialect.h"
#include "defib/paper/faults.h"
#include "defib/paper/parameters.h"
#include "defib/paper/rate_limits.h"
#include "defib/wire/http.h"

namespace defib::paper {

class Binance {
 public:
  struct Options {
    std::string api_key;
    std::string api_secret;
    RateLimits::Options limits;
  };
  using Reply = wire::HttpServer::Reply;

  // A refusal in the dialect's terms.
  struct Refused {
    int http_status = 400;
    int code = 0;
    std::string message;
  };
  using Answer = std::expected<std::string, Refused>;  // the body of a 200

  struct Endpoint;
  // A request between its two halves.
  struct Pending {
    const Endpoint* endpoint = nullptr;  // nullptr: unknown path
    std::string path;
    Parameters parameters;
    std::optional<Micros> timestamp_us;  // of signed requests
    Micros recv_window_us = 0;
    std::vector<FaultRule> faults;
    std::optional<Reply> early;       // the answer, where it is known already
    std::int64_t delay_ms = 0;        // to wait before finish()
    std::int64_t reply_delay_ms = 0;  // to wait before the answer leaves
  };

  Binance(Core& core, FaultPlan& faults, Options options);
  Pending receive(const wire::HttpRequest& request, Micros now);
  Reply finish(Pending pending, Micros now);
  // Both at once, for requests that nothing delays.
  Reply handle(const wire::HttpRequest& request, Micros now);

  // The venue's clock differs by this from the true one: what /api/v3/time says and what the time
  // rule compares with.
  void set_skew_ms(std::int64_t skew_ms) { skew_us_ = skew_ms * 1000; }
  std::int64_t skew_ms() const { return skew_us_ / 1000; }
  const RateLimits& limits() const { return limits_; }
  // An order that the account's owner places elsewhere; its client id starts with "web_".
  std::expected<Core::Placed, Reject> place_external(NewOrder order);

  // The code and text of a core's refusal.
  static Refused refusal_of(Reject reject);

 private:
  class Call;
  Answer ping(Call& call);
  Answer time(Call& call);
  Answer exchange_info(Call& call);
  Answer book_ticker(Call& call);
  Answer price_ticker(Call& call);
  Answer depth(Call& call);
  Answer new_order(Call& call);
  Answer test_order(Call& call);
  Answer query_order(Call& call);
  Answer cancel_order(Call& call);
  Answer open_orders(Call& call);
  Answer cancel_open_orders(Call& call);
  Answer all_orders(Call& call);
  Answer account(Call& call);
  Answer my_trades(Call& call);

  static const Endpoint* find_endpoint(std::string_view method, std::string_view path);
  std::optional<Refused> check_limits(const Pending& pending, Micros now, Reply& reply);
  std::optional<Refused> check_signature(Pending& pending, const wire::HttpRequest& request,
                                         std::string_view query);
  std::optional<Refused> read_timing(Pending& pending);
  std::optional<Refused> check_time(const Pending& pending, Micros now) const;
  bool answer_by_fault(Pending& pending);
  static Refused fault_refusal(const FaultRule& rule);
  void refuse(Pending& pending, const Refused& refused, Refusal kind);
  void record_refusal(const Pending& pending, const Refused& refused, Refusal kind);
  Reply make_reply(int status, std::string body) const;
  Reply make_reply(const Refused& refused) const;
  static bool is_order_placement(const Pending& pending);

  std::expected<NewOrder, Refused> read_new_order(Call& call) const;
  static void read_type(Call& call, NewOrder& order);
  std::expected<const Order*, Refused> find_order(Call& call, bool visible_only) const;
  void append_order(std::string& out, const Order& order) const;
  void append_cancelled(std::string& out, const Order& order, std::string_view cancel_id) const;
  void append_book_ticker(std::string& out, std::uint32_t symbol) const;
  void append_symbol_info(std::string& out, std::uint32_t symbol) const;
  std::string placed_body(const Core::Placed& placed, std::string_view response_type) const;
  bool visible(const Order& order) const { return order.visible_us <= core_.now(); }

  Core& core_;
  FaultPlan& faults_;
  Options options_;
  RateLimits limits_;
  Micros skew_us_ = 0;
};

}  // namespace defib::paper
