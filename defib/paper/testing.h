// What the paper venue's tests share: building orders and running random but reproducible load.

#pragma once

#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/os/random.h"
#include "defib/paper/core.h"

namespace defib::paper::testing {

constexpr Micros kStart = 1'700'000'000'000'000;

inline Decimal dec(std::string_view text) {
  const Result<Decimal> value = Decimal::parse(text);
  DEFIB_ASSERT_MESSAGE(value.has_value(), "a test's literal is not a decimal");
  return *value;
}

inline NewOrder limit(std::string_view id, Side side, std::string_view price,
                      std::string_view quantity, std::uint32_t symbol = 0) {
  NewOrder order;
  order.client_id = id;
  order.symbol = symbol;
  order.side = side;
  order.price = dec(price);
  order.quantity = dec(quantity);
  return order;
}

inline NewOrder market(std::string_view id, Side side, std::string_view quantity,
                       std::uint32_t symbol = 0) {
  NewOrder order;
  order.client_id = id;
  order.symbol = symbol;
  order.side = side;
  order.type = OrderType::kMarket;
  order.quantity = dec(quantity);
  return order;
}

inline Core make_core(std::uint64_t seed = 1, bool fees_in_quote = false) {
  Core::Options options;
  options.seed = seed;
  options.fees_in_quote = fees_in_quote;
  if (fees_in_quote) {
    options.maker_fee = dec("0.0025");
    options.taker_fee = dec("0.004");
  }
  Core core(options);
  core.start(kStart);
  for (const auto& [asset, amount] :
       {std::pair{"USDT", "1000000"}, {"BTC", "10"}, {"ETH", "100"}, {"SOL", "5000"}}) {
    const Result<> done = core.deposit(asset, dec(amount));
    DEFIB_ASSERT(done.has_value());
  }
  return core;
}

// The order, waiting for a trigger.
inline NewOrder stop(NewOrder order, std::string_view price, bool up, bool by_mark = false) {
  order.trigger = Trigger{dec(price), up, by_mark};
  return order;
}

// One random call of the kind that clients and administrators make. Ids repeat now and then.
inline void random_operation(Core& core, os::Random& random, Micros& now) {
  now += static_cast<Micros>(random.below(50'000));
  core.advance(now);
  const auto symbol = static_cast<std::uint32_t>(random.below(core.symbols().size()));
  const Symbol& rules = core.symbols()[symbol];
  const std::uint64_t choice = random.below(100);
  if (choice < 20) {
    core.cancel(random.below(core.orders().size() + 2), "c");
  } else if (choice < 21) {
    core.set_status(symbol, random.below(3) == 0 ? SymbolStatus::kHalt : SymbolStatus::kTrading);
  } else if (choice < 22) {
    const Decimal price =
        Decimal::from_units(rules.start_price.units() * 9 / 10 +
                            static_cast<std::int64_t>(random.below(
                                static_cast<std::uint64_t>(rules.start_price.units() / 5))))
            .round_down_to(rules.tick);
    static_cast<void>(core.set_price(symbol, price));
  } else {
    NewOrder order;
    order.client_id = "id" + std::to_string(random.below(2000));
    order.symbol = symbol;
    order.side = random.below(2) == 0 ? Side::kBuy : Side::kSell;
    order.type = static_cast<OrderType>(random.below(3));
    if (order.type == OrderType::kLimit) {
      order.time_in_force = static_cast<TimeInForce>(random.below(3));
    }
    const auto steps = static_cast<std::int64_t>(random.below(30'000));
    order.quantity = Decimal::from_units(rules.step.units() * steps);
    if (order.type == OrderType::kMarket) {
      if (random.below(4) == 0) {
        order.quantity = {};
        order.quote_quantity = Decimal::from_integer(static_cast<std::int64_t>(random.below(9000)));
      }
    } else {
      const auto ticks = static_cast<std::int64_t>(random.below(2001)) - 1000;
      order.price = core.reference_price(symbol) + Decimal::from_units(rules.tick.units() * ticks);
    }
    if (order.type != OrderType::kLimitMaker && order.quote_quantity.is_zero() &&
        random.below(5) == 0) {
      const auto ticks = static_cast<std::int64_t>(random.below(1001)) - 500;
      order.trigger =
          Trigger{core.reference_price(symbol) + Decimal::from_units(rules.tick.units() * ticks),
                  random.below(2) == 0, random.below(3) == 0};
    }
    static_cast<void>(core.place(order));
  }
}

}  // namespace defib::paper::testing
