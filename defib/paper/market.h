// The simulated market: a random walk of the reference price, quotes around it, and takers.
//
// Everything at one step is a pure function of (seed, symbol, step, price before), so the walk can
// be run again from any anchor without the trading that went with it, and two venues of one seed
// show the same market whatever their clients do. Whole numbers only.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "defib/paper/types.h"

namespace defib::paper {

constexpr Micros kMarketStepUs = 100'000;  // at speed 1

struct MarketQuote {
  Side side;
  Decimal price;
  Decimal quantity;
};
struct MarketTaker {
  Side side;
  Decimal quantity;
};
struct MarketMove {
  Decimal price;                     // the reference price from this step on
  std::vector<MarketQuote> quotes;   // replace those of the step before; never cross each other
  std::optional<MarketTaker> taker;  // trades after the quotes are in the book
};

// The reference price alone (cheap), and the whole move; both see the same walk.
Decimal walk(const Symbol& symbol, std::uint32_t index, std::uint64_t seed, std::uint64_t step,
             Decimal price);
MarketMove move_market(const Symbol& symbol, std::uint32_t index, std::uint64_t seed,
                       std::uint64_t step, Decimal price);

}  // namespace defib::paper
