// Decimal: an exact fixed-point number for money and quantities: a signed 64-bit count of 1e-8.
//
// Range about +-92 billion with eight digits after the point, which is the finest step of the
// venues' dialects. Sums check for overflow (an assertion: amounts are limited long before);
// parsing never rounds, it refuses. Products are computed in 128 bits.

#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/error.h"

namespace defib {

class Decimal {
 public:
  static constexpr std::int64_t kScale = 100'000'000;

  constexpr Decimal() = default;
  static constexpr Decimal from_units(std::int64_t units) { return Decimal(units); }
  static constexpr Decimal from_integer(std::int64_t whole) { return Decimal(whole * kScale); }
  // "-12.5", "0.00000001", "1e-7" is refused; trailing zeros beyond eight digits are accepted.
  static Result<Decimal> parse(std::string_view text);

  // The count of 1e-8.
  constexpr std::int64_t units() const { return units_; }
  constexpr bool is_zero() const { return units_ == 0; }
  constexpr Decimal abs() const { return Decimal(units_ < 0 ? -units_ : units_); }
  // For charts and ratios only, never for money.
  double to_double() const { return static_cast<double>(units_) / static_cast<double>(kScale); }
  // Shortest exact form: "12.5", "0.00000001", "-3".
  std::string to_string() const;
  // At least `digits` digits after the point: "12.50".
  std::string to_string(int digits) const;

  // Largest multiple of `step` whose magnitude does not exceed this one's. step > 0.
  Decimal round_down_to(Decimal step) const;

  friend constexpr auto operator<=>(Decimal, Decimal) = default;
  friend Decimal operator+(Decimal a, Decimal b);
  friend Decimal operator-(Decimal a, Decimal b);
  friend Decimal operator-(Decimal a);
  // Rounded toward zero to 1e-8.
  friend Decimal operator*(Decimal a, Decimal b);
  // Rounded toward zero to 1e-8; b is not zero.
  friend Decimal operator/(Decimal a, Decimal b);
  Decimal& operator+=(Decimal other) { return *this = *this + other; }
  Decimal& operator-=(Decimal other) { return *this = *this - other; }

 private:
  explicit constexpr Decimal(std::int64_t units) : units_(units) {}
  std::int64_t units_ = 0;
};

}  // namespace defib
