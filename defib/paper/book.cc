#include "defib/paper/book.h"

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::paper {

void Book::rest(Side side, Decimal price, std::uint64_t order_id, Decimal quantity) {
  DEFIB_ASSERT(quantity > Decimal());
  Queue& queue = levels(side)[price];
  queue.push_back({order_id, quantity});
  if (order_id == kMarketOrder) {
    market_places_.emplace_back(side, price);
    return;
  }
  const bool added = places_.emplace(order_id, Place{side, price, std::prev(queue.end())}).second;
  DEFIB_ASSERT_MESSAGE(added, "an order rests twice");
}

void Book::remove(std::uint64_t order_id) {
  const auto found = places_.find(order_id);
  if (found == places_.end()) return;
  const Place place = found->second;
  Levels& side_levels = levels(place.side);
  const auto level = side_levels.find(place.price);
  DEFIB_ASSERT(level != side_levels.end());
  level->second.erase(place.entry);
  if (level->second.empty()) side_levels.erase(level);
  places_.erase(found);
}

void Book::remove_market_orders() {
  for (const auto& [side, price] : market_places_) {
    Levels& side_levels = levels(side);
    const auto level = side_levels.find(price);
    if (level == side_levels.end()) continue;
    level->second.remove_if([](const Entry& entry) { return entry.order_id == kMarketOrder; });
    if (level->second.empty()) side_levels.erase(level);
  }
  market_places_.clear();
}

std::optional<Decimal> Book::best(Side side) const {
  const Levels& side_levels = levels(side);
  if (side_levels.empty()) return std::nullopt;
  return side_levels.begin()->first;
}

const Book::Entry& Book::front(Side side) const {
  DEFIB_ASSERT(!levels(side).empty());
  return levels(side).begin()->second.front();
}

void Book::take_front(Side side, Decimal quantity) {
  Levels& side_levels = levels(side);
  DEFIB_ASSERT(!side_levels.empty());
  Queue& queue = side_levels.begin()->second;
  Entry& entry = queue.front();
  DEFIB_ASSERT(quantity > Decimal() && quantity <= entry.remaining);
  entry.remaining -= quantity;
  if (!entry.remaining.is_zero()) return;
  if (entry.order_id != kMarketOrder) places_.erase(entry.order_id);
  queue.pop_front();
  if (queue.empty()) side_levels.erase(side_levels.begin());
}

Book::Sweep Book::sweep(Side taker, std::optional<Decimal> limit, Decimal wanted) const {
  Sweep result;
  for (const auto& [price, queue] : levels(opposite(taker))) {
    if (!crosses(taker, limit, price)) break;
    for (const Entry& entry : queue) {
      const Decimal take = std::min(entry.remaining, wanted - result.quantity);
      result.quantity += take;
      result.quote += take * price;
      if (result.quantity == wanted) return result;
    }
  }
  return result;
}

Decimal Book::affordable(Side taker, Decimal money, Decimal step, Decimal most) const {
  Decimal result;
  for (const auto& [price, queue] : levels(opposite(taker))) {
    // Compared as a product first: a quotient by a tiny price would leave Decimal's range.
    const Decimal room = most - result;
    const Decimal here = money >= room * price ? room : (money / price).round_down_to(step);
    Decimal there;
    for (const Entry& entry : queue) {
      there += entry.remaining;
      if (there >= here) return result + here;
    }
    result += there;
    money -= there * price;
  }
  return result;
}

std::vector<Book::Level> Book::depth(Side side, std::size_t count) const {
  std::vector<Level> result;
  for (const auto& [price, queue] : levels(side)) {
    if (result.size() == count) break;
    Decimal quantity;
    for (const Entry& entry : queue) quantity += entry.remaining;
    result.push_back({price, quantity});
  }
  return result;
}

}  // namespace defib::paper
