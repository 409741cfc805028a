// Strategies of the reference engine: small, real, and of three risk levels.
//
//   maker      low     rests bids and asks around the market, and moves them along
//   trend      medium  follows a fast average that crosses a slow one, with immediate orders
//   reversion  high    bets on the way back when the price has run away from its average
//
// A strategy is a pure state machine over quotes: it sees the market and what is its own, and
// says what it wants; it neither sends nor waits nor reads a clock. All amounts are exact.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/random.h"
#include "defib/trading/gateway.h"
#include "defib/trading/intents.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"

namespace defib::engine {

struct MarketView {
  const std::map<std::string, venue::Quote>* quotes = nullptr;  // by symbol
  const std::map<std::string, trading::Instrument>* instruments = nullptr;
  const std::map<std::string, trading::Position>* positions = nullptr;
  std::int64_t now_ms = 0;  // the venue's clock
};

struct Wish {
  std::vector<trading::OrderDraft> place;
  std::vector<std::string> cancel;  // client ids
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  virtual std::string name() const = 0;
  virtual trading::RiskLevel risk() const = 0;
  // `own`: the strategy's open orders as the ledger knows them.
  virtual Wish on_tick(const MarketView& market,
                       const std::vector<const trading::TrackedOrder*>& own) = 0;
};

struct StrategyOptions {
  Decimal order_notional = Decimal::from_integer(100);  // about, in quote currency
  int resting_orders = 24;           // maker: how many it keeps open, over all symbols
  int orders_per_tick = 4;           // maker: how many it places at once at most
  std::int64_t max_age_ms = 20'000;  // maker: older orders are replaced
  std::uint64_t seed = 1;
};

// NotFound lists the names.
Result<std::unique_ptr<Strategy>> make_strategy(const std::string& name,
                                                const StrategyOptions& options);

// The quantity that costs about `notional` at `price`, a multiple of the lot; zero where it would
// be less than one lot. Pure.
Decimal quantity_for(Decimal notional, Decimal price, Decimal lot);

}  // namespace defib::engine
