#include "defib/venue/venue.h"

#include <array>

namespace defib::venue {

std::string_view to_string(Side side) {
  return side == Side::kBuy ? "buy" : "sell";
}

std::string_view to_string(OrderStatus status) {
  constexpr std::array<std::string_view, 7> kNames = {
      "new", "partially_filled", "filled", "cancelled", "rejected", "expired", "unknown"};
  return kNames[static_cast<std::size_t>(status)];
}

}  // namespace defib::venue
