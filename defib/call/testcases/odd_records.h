// Records that are not what their structure tells, or tell none, and values that are checked.

#pragma once

#include <array>
#include <cstdint>

#include "defib/call/api.h"

namespace defib::call::testcases {

struct Padded {
  std::uint8_t flag;
  double ratio;
  std::array<std::int16_t, 3> some;
  std::uint8_t last;
};

// Its structure alone would be 8 bytes.
struct alignas(16) Aligned {
  std::int64_t number;
};

// A class that the codec cannot look into.
class Opaque {
 public:
  Opaque() = default;
  explicit Opaque(std::uint16_t value) : value_(value) {}

 private:
  std::uint16_t value_ = 0;
};

enum class Side : std::uint8_t { kBuy = 1, kSell = 2 };
struct Order {
  std::int64_t number = 0;
  Side side = Side::kBuy;
};

}  // namespace defib::call::testcases

template <>
struct defib::call::WireForm<defib::call::testcases::Side>
    : defib::call::OneOf<defib::call::testcases::Side::kBuy, defib::call::testcases::Side::kSell> {
};

template <>
inline constexpr bool defib::call::kAnyBitsAreAValue<defib::call::testcases::Opaque> = true;

namespace defib::call::testcases {

struct OddApi {
  static constexpr std::string_view kName = "odd";
  static constexpr std::uint32_t kVersion = 1;
  struct PaddedOnes : Stream<"padded", Padded(int count)> {};
  struct AlignedOnes : Stream<"aligned", Aligned(int count)> {};
  struct OpaqueOnes : Stream<"opaque", Opaque(int count)> {};
  // The third is on no side that there is.
  struct Orders : Stream<"orders", Order(int count)> {};
  struct Place : Method<"place", std::string(Side, Utf8 note)> {};
  using Methods = call::Methods<PaddedOnes, AlignedOnes, OpaqueOnes, Orders, Place>;
};

}  // namespace defib::call::testcases
