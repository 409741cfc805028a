#include "defib/engine/strategy.h"

#include <fmt/core.h>

#include <algorithm>

namespace defib::engine {
namespace {

using trading::Instrument;
using trading::OrderDraft;
using trading::RiskLevel;
using trading::TrackedOrder;
using venue::Quote;
using venue::Side;

OrderDraft limit_draft(const Strategy& strategy, const Quote& quote, Side side, Decimal quantity,
                       Decimal price, venue::TimeInForce time_in_force) {
  OrderDraft draft;
  draft.symbol = quote.symbol;
  draft.side = side;
  draft.type = venue::OrderType::kLimit;
  draft.time_in_force = time_in_force;
  draft.quantity = quantity;
  draft.price = price;
  draft.strategy = strategy.name();
  draft.risk = strategy.risk();
  return draft;
}

// Moves by 1/2^shift of the way; integer arithmetic, so that every run agrees.
Decimal follow(Decimal average, Decimal price, int shift) {
  if (average.is_zero()) return price;
  return Decimal::from_units(average.units() + (price.units() - average.units()) / (1 << shift));
}

class Maker final : public Strategy {
 public:
  explicit Maker(StrategyOptions options) : options_(options), random_(options.seed) {}
  std::string name() const override { return "maker"; }
  RiskLevel risk() const override { return RiskLevel::kLow; }

  Wish on_tick(const MarketView& market, const std::vector<const TrackedOrder*>& own) override {
    Wish wish;
    for (const TrackedOrder* tracked : own) {
      const auto quote = market.quotes->find(tracked->order.symbol);
      if (quote == market.quotes->end()) continue;
      const Decimal distance = (tracked->order.price - quote->second.mid()).abs();
      const bool far = distance * Decimal::from_integer(50) > quote->second.mid();  // 2 %
      const bool old = market.now_ms - tracked->order.created_ms > options_.max_age_ms;
      if ((far || old) && static_cast<int>(wish.cancel.size()) < options_.orders_per_tick) {
        wish.cancel.push_back(tracked->order.client_id);
      }
    }
    const int room = options_.resting_orders - static_cast<int>(own.size());
    for (int i = 0; i < std::min(room, options_.orders_per_tick); ++i) add_order(market, wish);
    return wish;
  }

 private:
  void add_order(const MarketView& market, Wish& wish) {
    if (market.quotes->empty()) return;
    auto quote = market.quotes->begin();
    std::advance(quote, turn_++ % market.quotes->size());
    const auto instrument = market.instruments->find(quote->first);
    if (instrument == market.instruments->end()) return;
    const Side side = random_.below(2) == 0 ? Side::kBuy : Side::kSell;
    // Between one tick and 0.5 % away from the touch.
    const Decimal touch = side == Side::kBuy ? quote->second.bid : quote->second.ask;
    const std::int64_t reach = std::max<std::int64_t>(touch.units() / 200, 1);
    const auto away = Decimal::from_units(
        static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(reach))));
    const Decimal tick = instrument->second.tick;
    const Decimal price = side == Side::kBuy ? (touch - away).round_down_to(tick)
                                             : (touch + away).round_down_to(tick) + tick;
    const Decimal quantity = quantity_for(options_.order_notional, price, instrument->second.lot);
    if (quantity.is_zero() || price <= Decimal()) return;
    wish.place.push_back(
        limit_draft(*this, quote->second, side, quantity, price, venue::TimeInForce::kGtc));
  }

  StrategyOptions options_;
  os::Random random_;
  std::size_t turn_ = 0;
};

// One average fast, one slow; each crossing is one immediate order toward the new direction.
class Trend final : public Strategy {
 public:
  explicit Trend(StrategyOptions options) : options_(options) {}
  std::string name() const override { return "trend"; }
  RiskLevel risk() const override { return RiskLevel::kMedium; }

  Wish on_tick(const MarketView& market, const std::vector<const TrackedOrder*>& own) override {
    Wish wish;
    for (const TrackedOrder* tracked : own) wish.cancel.push_back(tracked->order.client_id);
    for (const auto& [symbol, quote] : *market.quotes) {
      State& state = states_[symbol];
      state.fast = follow(state.fast, quote.mid(), 2);
      state.slow = follow(state.slow, quote.mid(), 5);
      const int direction = state.fast > state.slow ? 1 : state.fast < state.slow ? -1 : 0;
      const int before =
          std::exchange(state.direction, direction != 0 ? direction : state.direction);
      if (direction == 0 || before == 0 || direction == before) continue;
      const auto instrument = market.instruments->find(symbol);
      if (instrument == market.instruments->end()) continue;
      const Side side = direction > 0 ? Side::kBuy : Side::kSell;
      const Decimal price = side == Side::kBuy ? quote.ask : quote.bid;
      const Decimal quantity = quantity_for(options_.order_notional, price, instrument->second.lot);
      if (quantity.is_zero()) continue;
      wish.place.push_back(
          limit_draft(*this, quote, side, quantity, price, venue::TimeInForce::kIoc));
    }
    return wish;
  }

 private:
  struct State {
    Decimal fast, slow;
    int direction = 0;
  };
  StrategyOptions options_;
  std::map<std::string, State> states_;
};

class Reversion final : public Strategy {
 public:
  explicit Reversion(StrategyOptions options) : options_(options) {}
  std::string name() const override { return "reversion"; }
  RiskLevel risk() const override { return RiskLevel::kHigh; }

  Wish on_tick(const MarketView& market, const std::vector<const TrackedOrder*>& own) override {
    Wish wish;
    std::map<std::string, int> open;
    for (const TrackedOrder* tracked : own) {
      ++open[tracked->order.symbol];
      if (market.now_ms - tracked->order.created_ms > kMaxAgeMs) {
        wish.cancel.push_back(tracked->order.client_id);
      }
    }
    for (const auto& [symbol, quote] : *market.quotes) {
      Decimal& average = averages_[symbol];
      average = follow(average, quote.mid(), 6);
      const Decimal away = quote.mid() - average;
      // 0.02 % away from the average.
      if (away.abs() * Decimal::from_integer(5000) < average || open[symbol] >= kMaxOpen) continue;
      const auto instrument = market.instruments->find(symbol);
      if (instrument == market.instruments->end()) continue;
      const Side side = away > Decimal() ? Side::kSell : Side::kBuy;
      const Decimal price = side == Side::kBuy ? quote.bid : quote.ask;
      const Decimal quantity = quantity_for(options_.order_notional, price, instrument->second.lot);
      if (quantity.is_zero()) continue;
      wish.place.push_back(
          limit_draft(*this, quote, side, quantity, price, venue::TimeInForce::kGtc));
    }
    return wish;
  }

 private:
  static constexpr std::int64_t kMaxAgeMs = 3'000;
  static constexpr int kMaxOpen = 2;  // a symbol
  StrategyOptions options_;
  std::map<std::string, Decimal> averages_;
};

}  // namespace

Result<std::unique_ptr<Strategy>> make_strategy(const std::string& name,
                                                const StrategyOptions& options) {
  std::unique_ptr<Strategy> strategy;
  if (name == "maker") strategy = std::make_unique<Maker>(options);
  if (name == "trend") strategy = std::make_unique<Trend>(options);
  if (name == "reversion") strategy = std::make_unique<Reversion>(options);
  if (!strategy) {
    return Error(Code::kNotFound, fmt::format("there is no strategy '{}'", name))
        .suggest("choose among: maker, trend, reversion");
  }
  return strategy;
}

Decimal quantity_for(Decimal notional, Decimal price, Decimal lot) {
  if (price <= Decimal() || lot <= Decimal()) return {};
  const Decimal quantity = (notional / price).round_down_to(lot);
  return quantity < lot ? Decimal() : quantity;
}

}  // namespace defib::engine
