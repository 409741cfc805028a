// Arithmetic on amounts that came from outside: it never overflows into a crash. Exposure
// saturates, since more than the range is beyond every limit anyway; bookkeeping refuses instead.

#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "defib/base/assert.h"
#include "defib/base/decimal.h"

namespace defib::trading {

__extension__ using Wide = __int128;

inline std::optional<Decimal> fit(Wide units) {
  if (units > std::numeric_limits<std::int64_t>::max() ||
      units < -std::numeric_limits<std::int64_t>::max()) {
    return std::nullopt;
  }
  return Decimal::from_units(static_cast<std::int64_t>(units));
}

inline Decimal saturate(Wide units) {
  constexpr Wide kMax = std::numeric_limits<std::int64_t>::max();
  return Decimal::from_units(static_cast<std::int64_t>(units > kMax    ? kMax
                                                       : units < -kMax ? -kMax
                                                                       : units));
}

// Rounded toward zero.
inline Decimal saturating_product(Decimal a, Decimal b) {
  return saturate(Wide{a.units()} * b.units() / Decimal::kScale);
}
inline Decimal saturating_sum(Decimal a, Decimal b) {
  return saturate(Wide{a.units()} + b.units());
}
inline std::optional<Decimal> checked_product(Decimal a, Decimal b) {
  return fit(Wide{a.units()} * b.units() / Decimal::kScale);
}
inline std::optional<Decimal> checked_sum(Decimal a, Decimal b) {
  return fit(Wide{a.units()} + b.units());
}
// value * numerator / denominator, rounded toward zero. |numerator| <= |denominator|, not zero.
inline Decimal share_of(Decimal value, Decimal numerator, Decimal denominator) {
  DEFIB_ASSERT(!denominator.is_zero() && numerator.abs() <= denominator.abs());
  return saturate(Wide{value.units()} * numerator.units() / denominator.units());
}
inline Decimal percent_of(Decimal value, int percent) {
  return saturate(Wide{value.units()} * percent / 100);
}

}  // namespace defib::trading
