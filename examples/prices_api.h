// What the plugin of the examples offers: the same declaration for the plugin and its users.

#pragma once

#include <cstdint>
#include <string>

#include "defib/call/api.h"

namespace examples {

// Travels as it lies in memory.
struct Tick {
  std::int64_t number;  // from 0, without a gap
  std::int64_t price;   // in 1e-9
};

struct PricesApi {
  static constexpr std::string_view kName = "prices";
  static constexpr std::uint32_t kVersion = 1;
  // The price of a symbol in so many days. Crashes for a symbol that the library does not know.
  struct Price : defib::call::Method<"price", double(std::string symbol, int days)> {};
  // `count` ticks, or, with 0, without an end.
  struct Ticks : defib::call::Stream<"ticks", Tick(std::string symbol, std::int64_t count)> {};
  using Methods = defib::call::Methods<Price, Ticks>;
};

}  // namespace examples
