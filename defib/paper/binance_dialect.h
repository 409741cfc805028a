// Binance spot as a Dialect.

#pragma once

#include <memory>
#include <string>
#include <utility>

#include "defib/paper/binance.h"
#include "defib/paper/dialect.h"

namespace defib::paper {

class BinanceDialect final : public Dialect {
 public:
  BinanceDialect(Core& core, FaultPlan& faults, Binance::Options options)
      : binance_(core, faults, std::move(options)) {}
  std::unique_ptr<Dialect::Pending> receive(const wire::HttpRequest& request, Micros now) override {
    auto pending = std::make_unique<Held>();
    pending->inner = binance_.receive(request, now);
    pending->delay_ms = pending->inner.delay_ms;
    pending->reply_delay_ms = pending->inner.reply_delay_ms;
    return pending;
  }
  Reply finish(std::unique_ptr<Dialect::Pending> pending, Micros now) override {
    return binance_.finish(std::move(static_cast<Held&>(*pending).inner), now);
  }
  void set_skew_ms(std::int64_t skew_ms) override { binance_.set_skew_ms(skew_ms); }
  std::int64_t skew_ms() const override { return binance_.skew_ms(); }
  int used_weight() const override { return binance_.limits().used_weight(); }
  std::expected<Core::Placed, Reject> place_external(NewOrder order) override {
    return binance_.place_external(std::move(order));
  }
  std::string text_of(Reject reject) const override { return Binance::refusal_of(reject).message; }

 private:
  struct Held : Dialect::Pending {
    Binance::Pending inner;
  };
  Binance binance_;
};

}  // namespace defib::paper
