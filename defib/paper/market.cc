#include "defib/paper/market.h"

#include <algorithm>

#include "defib/os/random.h"

namespace defib::paper {
namespace {

// One step moves the price by at most 1/4000 (2.5 basis points); ten steps a second make about
// 0.05 % a second, enough that orders near the touch fill within seconds.
constexpr std::int64_t kLargestMoveDivisor = 4000;
// The walk stays within a tenth and ten times the start price.
constexpr std::int64_t kRangeFactor = 10;
constexpr std::int64_t kHalfSpreadDivisor = 20'000;  // 0.5 basis points
constexpr std::int64_t kLevelGapDivisor = 10'000;    // 1 basis point between levels
constexpr int kLevels = 10;
// The money behind one level, and behind one taker.
constexpr std::int64_t kLevelQuoteMin = 5'000;
constexpr std::int64_t kLevelQuoteSpan = 45'000;
constexpr std::int64_t kTakerQuoteMin = 100;
constexpr std::int64_t kTakerQuoteSpan = 4'900;
constexpr std::uint64_t kTakerPercent = 40;

os::Random random_of(std::uint32_t index, std::uint64_t seed, std::uint64_t step) {
  // The generator spreads its seed itself; the multipliers only keep the triples apart.
  return os::Random(seed * 0x9e3779b97f4a7c15ULL ^ (step * 0xbf58476d1ce4e5b9ULL + index + 1));
}

// The largest multiple of the tick that is at most `units` / `divisor`, at least one tick.
Decimal fraction_of(Decimal price, std::int64_t divisor, Decimal tick) {
  return std::max(Decimal::from_units(price.units() / divisor).round_down_to(tick), tick);
}

Decimal next_price(const Symbol& symbol, os::Random& random, Decimal price) {
  const Decimal largest = fraction_of(price, kLargestMoveDivisor, symbol.tick);
  const std::int64_t ticks = largest.units() / symbol.tick.units();
  const std::int64_t moved =
      static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(2 * ticks + 1))) - ticks;
  const Decimal low = Decimal::from_units(symbol.start_price.units() / kRangeFactor);
  const Decimal high =
      std::min(Decimal::from_units(symbol.start_price.units() * kRangeFactor), symbol.max_price);
  const Decimal next = price + Decimal::from_units(moved * symbol.tick.units());
  return std::clamp(next, low, high).round_down_to(symbol.tick);
}

Decimal random_quantity(const Symbol& symbol, os::Random& random, std::int64_t quote_min,
                        std::int64_t quote_span, Decimal price) {
  const std::int64_t money =
      quote_min + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(quote_span)));
  const Decimal quantity = (Decimal::from_integer(money) / price).round_down_to(symbol.step);
  return std::clamp(quantity, symbol.min_quantity, symbol.max_quantity);
}

}  // namespace

Decimal walk(const Symbol& symbol, std::uint32_t index, std::uint64_t seed, std::uint64_t step,
             Decimal price) {
  os::Random random = random_of(index, seed, step);
  return next_price(symbol, random, price);
}

MarketMove move_market(const Symbol& symbol, std::uint32_t index, std::uint64_t seed,
                       std::uint64_t step, Decimal price) {
  os::Random random = random_of(index, seed, step);
  MarketMove move;
  move.price = next_price(symbol, random, price);
  Decimal distance = fraction_of(move.price, kHalfSpreadDivisor, symbol.tick);
  const Decimal gap = fraction_of(move.price, kLevelGapDivisor, symbol.tick);
  for (int level = 0; level < kLevels; ++level) {
    for (const Side side : {Side::kBuy, Side::kSell}) {
      const Decimal at = side == Side::kBuy ? move.price - distance : move.price + distance;
      if (at < symbol.tick) continue;
      move.quotes.push_back(
          {side, at, random_quantity(symbol, random, kLevelQuoteMin, kLevelQuoteSpan, at)});
    }
    distance += gap;
  }
  if (random.below(100) < kTakerPercent) {
    const Side side = random.below(2) == 0 ? Side::kBuy : Side::kSell;
    move.taker = MarketTaker{
        side, random_quantity(symbol, random, kTakerQuoteMin, kTakerQuoteSpan, move.price)};
  }
  return move;
}

}  // namespace defib::paper
