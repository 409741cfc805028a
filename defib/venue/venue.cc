#include "defib/venue/venue.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

namespace defib::venue {
namespace {

// Beyond so many symbols one request for all of them is cheaper (6 each against 80 at Binance).
constexpr std::size_t kListAllBeyond = 13;

}  // namespace

std::string_view to_string(Side side) {
  return side == Side::kBuy ? "buy" : "sell";
}

std::string_view to_string(OrderStatus status) {
  constexpr std::array<std::string_view, 7> kNames = {
      "new", "partially_filled", "filled", "cancelled", "rejected", "expired", "unknown"};
  return kNames[static_cast<std::size_t>(status)];
}

std::string_view to_string(VenueStatus status) {
  constexpr std::array<std::string_view, 4> kNames = {"online", "post_only", "cancel_only",
                                                      "maintenance"};
  return kNames[static_cast<std::size_t>(status)];
}

Result<std::vector<Fill>> Venue::fills_of(const std::map<std::string, FillsFrom>& from) {
  std::vector<Fill> all;
  for (const auto& [symbol, first] : from) {
    DEFIB_TRY_ASSIGN(std::vector<Fill> found, fills(symbol, first.after));
    std::move(found.begin(), found.end(), std::back_inserter(all));
  }
  return all;
}

Result<> Venue::cancel_all_of(const std::vector<std::string>& symbols) {
  std::optional<Error> failure;
  for (const std::string& symbol : symbols) {
    if (const Result<> done = cancel_all(symbol); !done && !failure) failure = done.error();
  }
  if (failure) return *failure;
  return {};
}

Result<std::vector<Order>> Venue::open_orders_of(const std::vector<std::string>& symbols) {
  if (symbols.size() == 1) return open_orders(symbols.front());
  std::vector<Order> all;
  if (symbols.size() > kListAllBeyond || !rebuild_model().filtered) {
    DEFIB_TRY_ASSIGN(all, open_orders());
    std::erase_if(all, [&](const Order& order) {
      return std::find(symbols.begin(), symbols.end(), order.symbol) == symbols.end();
    });
    return all;
  }
  for (const std::string& symbol : symbols) {
    DEFIB_TRY_ASSIGN(std::vector<Order> orders, open_orders(symbol));
    std::move(orders.begin(), orders.end(), std::back_inserter(all));
  }
  return all;
}

Result<std::vector<PositionReport>> Venue::positions() {
  return std::vector<PositionReport>();
}
Result<VenueStatus> Venue::status() {
  return VenueStatus::kOnline;
}
Result<> Venue::arm_dead_mans_switch(os::Duration) {
  return Error(Code::kNotFound, name() + " has no dead-man's switch")
      .suggest("nothing cancels orders there while the engine is dead; see `defib kill`");
}

}  // namespace defib::venue
