// Book: the resting limit orders of one symbol, in price-time priority.
//
// Orders of the client carry their order id; those of the simulated market carry kMarketOrder.
// Invariant: the best bid is below the best ask (the core trades what would cross before it rests
// the remainder). Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "defib/paper/types.h"

namespace defib::paper {

constexpr std::uint64_t kMarketOrder = 0;

class Book {
 public:
  struct Entry {
    std::uint64_t order_id;
    Decimal remaining;
  };
  struct Level {
    Decimal price;
    Decimal quantity;
  };

  // Behind all orders of the same price. A client's order id must not be in the book already.
  void rest(Side side, Decimal price, std::uint64_t order_id, Decimal quantity);
  // Nothing happens where the client's order does not rest here.
  void remove(std::uint64_t order_id);
  // Removes all orders of the simulated market.
  void remove_market_orders();

  std::optional<Decimal> best(Side side) const;
  // The first in priority at the best price of `side`; the side must not be empty.
  const Entry& front(Side side) const;
  // Reduces front(side) by `quantity`, and removes it where nothing remains.
  void take_front(Side side, Decimal quantity);

  // What a taker of `taker` could trade at once: quantity available up to `limit` (any price where
  // absent), and the money it would cost; both stop at `wanted`.
  struct Sweep {
    Decimal quantity;
    Decimal quote;
  };
  Sweep sweep(Side taker, std::optional<Decimal> limit, Decimal wanted) const;

  // The largest multiple of `step`, up to `most`, that a taker gets for `money` (a buyer) or that
  // brings no more than `money` (a seller).
  Decimal affordable(Side taker, Decimal money, Decimal step, Decimal most) const;

  // The best `count` levels of a side, best first.
  std::vector<Level> depth(Side side, std::size_t count) const;

 private:
  using Queue = std::list<Entry>;
  struct Place {
    Side side;
    Decimal price;
    Queue::iterator entry;
  };
  // Best first: bids by descending, asks by ascending price.
  struct Better {
    Side side;
    bool operator()(Decimal a, Decimal b) const { return side == Side::kBuy ? a > b : a < b; }
  };
  using Levels = std::map<Decimal, Queue, Better>;
  Levels& levels(Side side) { return side == Side::kBuy ? bids_ : asks_; }
  const Levels& levels(Side side) const { return side == Side::kBuy ? bids_ : asks_; }

  Levels bids_{Better{Side::kBuy}};
  Levels asks_{Better{Side::kSell}};
  std::unordered_map<std::uint64_t, Place> places_;  // of the client's orders
  // Where orders of the simulated market were put; some may have been taken since.
  std::vector<std::pair<Side, Decimal>> market_places_;
};

inline Side opposite(Side side) {
  return side == Side::kBuy ? Side::kSell : Side::kBuy;
}
// Whether a taker of `taker` with this limit trades with a resting order at `price`.
inline bool crosses(Side taker, std::optional<Decimal> limit, Decimal price) {
  return !limit || (taker == Side::kBuy ? price <= *limit : price >= *limit);
}

}  // namespace defib::paper
