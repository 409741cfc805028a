// Dialect: one exchange's language over the core, in two halves as at a real venue: receive() takes
// the request in and checks who asks; finish() checks the time again just before matching, executes
// and answers. What a fault plan delays lies between the two.
//
// FaultedDialect does for every dialect what faults mean: which are answered instead of the venue,
// which change the venue, which spoil the answer. Thread rule: one thread at a time; no clock is
// read.

#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/paper/core.h"
#include "defib/paper/faults.h"
#include "defib/wire/http.h"

namespace defib::paper {

class Dialect {
 public:
  using Reply = wire::HttpServer::Reply;
  struct Pending {
    virtual ~Pending() = default;
    std::int64_t delay_ms = 0;        // to wait before finish()
    std::int64_t reply_delay_ms = 0;  // to wait before the answer leaves
  };
  virtual ~Dialect() = default;
  virtual std::unique_ptr<Pending> receive(const wire::HttpRequest& request, Micros now) = 0;
  virtual Reply finish(std::unique_ptr<Pending> pending, Micros now) = 0;
  // What the venue does by itself, after the core was advanced.
  virtual void tick(Micros) {}
  // The venue's clock differs by this from the true one.
  virtual void set_skew_ms(std::int64_t skew_ms) = 0;
  virtual std::int64_t skew_ms() const = 0;
  virtual int used_weight() const { return 0; }
  // An order that the account's owner places elsewhere; its client id starts with "web_".
  virtual std::expected<Core::Placed, Reject> place_external(NewOrder order) = 0;
  // For people: why the core refused.
  virtual std::string text_of(Reject reject) const = 0;

  Reply handle(const wire::HttpRequest& request, Micros now) {
    return finish(receive(request, now), now);
  }
};

class FaultedDialect : public Dialect {
 public:
  FaultedDialect(Core& core, FaultPlan& faults) : core_(core), faults_(faults) {}
  std::unique_ptr<Dialect::Pending> receive(const wire::HttpRequest& request, Micros now) final;
  Reply finish(std::unique_ptr<Dialect::Pending> pending, Micros now) final;
  void set_skew_ms(std::int64_t skew_ms) final { skew_us_ = skew_ms * 1000; }
  std::int64_t skew_ms() const final { return skew_us_ / 1000; }
  std::expected<Core::Placed, Reject> place_external(NewOrder order) final;

 protected:
  struct Pending : Dialect::Pending {
    wire::HttpRequest request;
    std::string path;  // without the query
    std::string query;
    std::vector<FaultRule> faults;
    std::optional<Reply> early;  // the answer, where it is known already
    std::int64_t lag_ms = 0;     // a new order is hidden for so long
    std::string fault_names;     // for the ledger
    std::string client_id;       // of a new order, once known
    bool places = false;         // it is a new order
  };
  // First half: limits, key, signature, time. An answer refuses.
  virtual std::optional<Reply> admit(Pending& pending, Micros now) = 0;
  // Second half.
  virtual Reply execute(Pending& pending, Micros now) = 0;
  // What a fault of these kinds looks like here: rate_limit, ban, server_error, timeout.
  virtual Reply fault_reply(const FaultRule& rule) const = 0;
  // Whether it places an order, and its client id; also of a request that is never executed.
  virtual void recognize(Pending& pending) const = 0;

  void refuse(const Pending& pending, Refusal kind, std::string_view message);
  bool visible(const Order& order) const { return order.visible_us <= core_.now(); }
  Micros server_now(Micros now) const { return now + skew_us_; }

  Core& core_;

 private:
  bool answer_by_fault(Pending& pending);

  FaultPlan& faults_;
  Micros skew_us_ = 0;
};

// An order that the account's owner places elsewhere; its client id starts with "web_".
std::expected<Core::Placed, Reject> place_by_owner(Core& core, NewOrder order);

// The faults that change the venue rather than one exchange with it.
void apply_standing_faults(Core& core, std::span<const FaultRule> faults, Micros& skew_us);

// The faults that spoil an answer which the venue has made: lost, cut, garbage in its place, fields
// that nobody knows, or `fault_reply` although the venue has accepted.
void spoil_reply(std::span<const FaultRule> faults, std::string_view garbage,
                 const std::function<Dialect::Reply(const FaultRule&)>& fault_reply,
                 Dialect::Reply& reply);

// Adds members that no document mentions to every object of a JSON text.
std::string with_unknown_fields(std::string_view json);

}  // namespace defib::paper
