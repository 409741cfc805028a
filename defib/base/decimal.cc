#include "defib/base/decimal.h"

#include <fmt/core.h>

#include <limits>

#include "defib/base/assert.h"

namespace defib {
namespace {

__extension__ using Wide = __int128;

std::int64_t narrow(Wide value) {
  DEFIB_ASSERT_MESSAGE(value <= std::numeric_limits<std::int64_t>::max() &&
                           value >= std::numeric_limits<std::int64_t>::min(),
                       "Decimal overflow");
  return static_cast<std::int64_t>(value);
}

Error malformed(std::string_view text, std::string_view why) {
  return Error(Code::kMalformed, fmt::format("'{}' is not a decimal number: {}", text, why));
}

}  // namespace

Result<Decimal> Decimal::parse(std::string_view text) {
  std::string_view rest = text;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  Wide units = 0;
  int digits = 0;
  int fraction_digits = -1;  // -1: before the point.
  for (const char c : rest) {
    if (c == '.') {
      if (fraction_digits >= 0) return malformed(text, "two points");
      fraction_digits = 0;
      continue;
    }
    if (c < '0' || c > '9') return malformed(text, "only digits and a point are allowed");
    ++digits;
    if (fraction_digits >= 8) {
      if (c != '0') return malformed(text, "more than eight digits after the point");
      continue;
    }
    if (fraction_digits >= 0) ++fraction_digits;
    units = units * 10 + (c - '0');
    if (units > std::numeric_limits<std::int64_t>::max()) return malformed(text, "too large");
  }
  if (digits == 0) return malformed(text, "no digits");
  for (int i = fraction_digits < 0 ? 0 : fraction_digits; i < 8; ++i) units *= 10;
  if (units > std::numeric_limits<std::int64_t>::max()) return malformed(text, "too large");
  return Decimal(static_cast<std::int64_t>(negative ? -units : units));
}

std::string Decimal::to_string() const {
  return to_string(0);
}

std::string Decimal::to_string(int digits) const {
  const std::uint64_t magnitude =
      units_ < 0 ? 0 - static_cast<std::uint64_t>(units_) : static_cast<std::uint64_t>(units_);
  std::string fraction = fmt::format("{:08}", magnitude % kScale);
  while (static_cast<int>(fraction.size()) > digits && fraction.ends_with('0')) fraction.pop_back();
  return fmt::format("{}{}{}{}", units_ < 0 ? "-" : "", magnitude / kScale,
                     fraction.empty() ? "" : ".", fraction);
}

Decimal Decimal::round_down_to(Decimal step) const {
  DEFIB_ASSERT(step.units_ > 0);
  return Decimal(units_ - units_ % step.units_);
}

Decimal operator+(Decimal a, Decimal b) {
  return Decimal(narrow(Wide{a.units_} + b.units_));
}
Decimal operator-(Decimal a, Decimal b) {
  return Decimal(narrow(Wide{a.units_} - b.units_));
}
Decimal operator-(Decimal a) {
  return Decimal(narrow(-Wide{a.units_}));
}
Decimal operator*(Decimal a, Decimal b) {
  return Decimal(narrow(Wide{a.units_} * b.units_ / Decimal::kScale));
}
Decimal operator/(Decimal a, Decimal b) {
  DEFIB_ASSERT_MESSAGE(!b.is_zero(), "Decimal division by zero");
  return Decimal(narrow(Wide{a.units_} * Decimal::kScale / b.units_));
}

}  // namespace defib
