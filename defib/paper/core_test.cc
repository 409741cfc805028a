#include "defib/paper/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "defib/paper/testing.h"

namespace defib::paper {
namespace {

using testing::dec;
using testing::kStart;
using testing::limit;
using testing::make_core;
using testing::market;

// Both sides of the book without the simulated market: halting withdraws its quotes, and no step
// renews them as long as time stands still.
Core quiet_core() {
  Core core = make_core();
  core.set_status(0, SymbolStatus::kHalt);
  core.set_status(0, SymbolStatus::kTrading);
  core.take_events();
  return core;
}

std::uint64_t placed_id(const std::expected<Core::Placed, Reject>& placed) {
  EXPECT_TRUE(placed.has_value());
  return placed ? placed->order_id : 0;
}

TEST(Core, RestingOrderLocksExactlyWhatItCanSpend) {
  Core core = quiet_core();
  placed_id(core.place(limit("a", Side::kBuy, "50000", "0.1")));
  placed_id(core.place(limit("b", Side::kSell, "70000", "2")));
  EXPECT_EQ(core.balances().at("USDT").locked, dec("5000"));
  EXPECT_EQ(core.balances().at("USDT").free, dec("995000"));
  EXPECT_EQ(core.balances().at("BTC").locked, dec("2"));
  EXPECT_EQ(core.check_invariants(), "");
}

TEST(Core, FillBetterThanTheLimitReturnsTheDifference) {
  Core core = quiet_core();
  const std::uint64_t seller = placed_id(core.place(limit("s", Side::kSell, "60000", "1")));
  const std::uint64_t buyer = placed_id(core.place(limit("b", Side::kBuy, "61000", "0.5")));
  EXPECT_EQ(core.find_order(buyer)->status, OrderStatus::kFilled);
  EXPECT_EQ(core.find_order(buyer)->executed_quote, dec("30000"));
  EXPECT_EQ(core.find_order(seller)->status, OrderStatus::kPartiallyFilled);
  EXPECT_EQ(core.balances().at("USDT").locked, dec("0"));
  // The account traded with itself and lost only the two fees.
  EXPECT_EQ(core.balances().at("USDT").free, dec("999970"));
  EXPECT_EQ(core.balances().at("BTC").free + core.balances().at("BTC").locked, dec("9.9995"));
  EXPECT_EQ(core.check_invariants(), "");
}

TEST(Core, BetterPriceTradesFirstAndAmongEqualPricesTheEarlierOrder) {
  Core core = quiet_core();
  const std::uint64_t late_price = placed_id(core.place(limit("1", Side::kSell, "60001", "1")));
  const std::uint64_t first = placed_id(core.place(limit("2", Side::kSell, "60000", "1")));
  const std::uint64_t second = placed_id(core.place(limit("3", Side::kSell, "60000", "1")));
  core.take_events();
  placed_id(core.place(limit("t", Side::kBuy, "60001", "2.5")));
  std::vector<std::uint64_t> makers;
  for (const Event& event : core.take_events()) {
    const auto* filled = std::get_if<Filled>(&event.body);
    if (filled != nullptr && filled->trade.maker) makers.push_back(filled->trade.order_id);
  }
  EXPECT_EQ(makers, (std::vector{first, second, late_price}));
}

TEST(Core, ImmediateOrCancelExpiresWhatItCannotTrade) {
  Core core = quiet_core();
  placed_id(core.place(limit("s", Side::kSell, "60000", "1")));
  NewOrder taker = limit("t", Side::kBuy, "60000", "3");
  taker.time_in_force = TimeInForce::kIoc;
  const Order& order = *core.find_order(placed_id(core.place(taker)));
  EXPECT_EQ(order.status, OrderStatus::kExpired);
  EXPECT_EQ(order.executed, dec("1"));
  EXPECT_EQ(core.balances().at("USDT").locked, dec("0"));
}

TEST(Core, FillOrKillTradesAllOrNothing) {
  Core core = quiet_core();
  placed_id(core.place(limit("s", Side::kSell, "60000", "1")));
  NewOrder taker = limit("t", Side::kBuy, "60000", "1.1");
  taker.time_in_force = TimeInForce::kFok;
  EXPECT_EQ(core.find_order(placed_id(core.place(taker)))->executed, dec("0"));
  taker.quantity = dec("1");
  taker.client_id = "u";
  EXPECT_EQ(core.find_order(placed_id(core.place(taker)))->status, OrderStatus::kFilled);
}

TEST(Core, MarketOrderWithoutCounterpartExpires) {
  Core core = quiet_core();
  const Order& order = *core.find_order(placed_id(core.place(market("m", Side::kBuy, "1"))));
  EXPECT_EQ(order.status, OrderStatus::kExpired);
  EXPECT_EQ(order.executed, dec("0"));
}

TEST(Core, MarketOrderByMoneySpendsAtMostThatMoney) {
  Core core = quiet_core();
  placed_id(core.place(limit("1", Side::kSell, "60000", "0.5")));
  placed_id(core.place(limit("2", Side::kSell, "61000", "0.5")));
  NewOrder order = market("m", Side::kBuy, "0");
  order.quote_quantity = dec("40000");
  const Order& placed = *core.find_order(placed_id(core.place(order)));
  EXPECT_EQ(placed.status, OrderStatus::kFilled);
  // 0.5 for 30000, and 10000 buy 0.16393 at 61000.
  EXPECT_EQ(placed.executed, dec("0.66393"));
  EXPECT_EQ(placed.executed_quote, dec("39999.73"));
}

TEST(Core, ClientIdIsUniqueAmongOpenOrdersOnly) {
  Core core = quiet_core();
  const std::uint64_t first = placed_id(core.place(limit("same", Side::kBuy, "50000", "0.1")));
  EXPECT_EQ(core.place(limit("same", Side::kBuy, "50000", "0.1")).error(), Reject::kDuplicate);
  EXPECT_TRUE(core.cancel(first, "x"));
  const std::uint64_t second = placed_id(core.place(limit("same", Side::kBuy, "50000", "0.1")));
  EXPECT_NE(first, second);
  EXPECT_EQ(core.find_order("same")->id, second);
}

TEST(Core, RefusesWhatFiltersBalanceAndMarketDoNotAllow) {
  Core core = quiet_core();
  const auto reject = [&](const NewOrder& order) { return core.place(order).error(); };
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000.001", "0.1")), Reject::kPriceFilter);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "0", "0.1")), Reject::kPriceFilter);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000", "0.000001")), Reject::kLotSize);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000", "9001")), Reject::kLotSize);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000", "0.00001")), Reject::kNotional);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000", "21")), Reject::kInsufficientBalance);
  EXPECT_EQ(reject(limit("a", Side::kSell, "50000", "11")), Reject::kInsufficientBalance);
  placed_id(core.place(limit("ask", Side::kSell, "60000", "1")));
  NewOrder maker = limit("a", Side::kBuy, "60000", "0.1");
  maker.type = OrderType::kLimitMaker;
  EXPECT_EQ(reject(maker), Reject::kWouldTake);
  core.set_status(0, SymbolStatus::kHalt);
  EXPECT_EQ(reject(limit("a", Side::kBuy, "50000", "0.1")), Reject::kMarketClosed);
}

TEST(Core, DepositsAreBounded) {
  Core core = make_core();
  EXPECT_EQ(core.deposit("DOGE", dec("1")).error().code(), Code::kNotFound);
  EXPECT_EQ(core.deposit("BTC", dec("20000")).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core.deposit("BTC", dec("0")).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(core.set_price(0, dec("0.001")).error().code(), Code::kInvalidArgument);
}

TEST(Core, CancelReleasesTheRestAndHappensOnce) {
  Core core = quiet_core();
  const std::uint64_t id = placed_id(core.place(limit("a", Side::kBuy, "50000", "0.1")));
  EXPECT_TRUE(core.cancel(id, "x"));
  EXPECT_FALSE(core.cancel(id, "x"));
  EXPECT_FALSE(core.cancel(99, "x"));
  EXPECT_EQ(core.balances().at("USDT").free, dec("1000000"));
  EXPECT_FALSE(core.book(0).best(Side::kBuy).has_value());
}

TEST(Market, FillsRestingOrdersWhileNobodyCalls) {
  Core core = make_core(7);
  const Decimal price = core.reference_price(0);
  const std::string near = (price - dec("30")).round_down_to(dec("0.01")).to_string();
  const std::uint64_t id = placed_id(core.place(limit("rest", Side::kBuy, near, "0.2")));
  core.advance(kStart + 600'000'000);
  EXPECT_EQ(core.find_order(id)->status, OrderStatus::kFilled);
  EXPECT_EQ(core.find_order(id)->executed_quote, dec(near) * dec("0.2"));
  EXPECT_EQ(core.check_invariants(), "");
}

TEST(Market, QuotesBothSidesInStepsOfTheSymbol) {
  Core core = make_core(3);
  for (int step = 0; step < 2000; ++step) {
    core.advance(kStart + step * kMarketStepUs);
    for (std::uint32_t symbol = 0; symbol < 3; ++symbol) {
      const Symbol& rules = core.symbols()[symbol];
      const auto bid = core.book(symbol).best(Side::kBuy);
      const auto ask = core.book(symbol).best(Side::kSell);
      ASSERT_TRUE(bid && ask);
      ASSERT_LT(*bid, *ask);
      ASSERT_EQ(bid->round_down_to(rules.tick), *bid);
    }
  }
}

TEST(Market, HaltedSymbolNeitherQuotesNorFills) {
  Core core = make_core(7);
  const Decimal price = core.reference_price(0) - dec("5");
  const std::uint64_t id =
      placed_id(core.place(limit("rest", Side::kBuy, price.to_string(), "0.2")));
  core.set_status(0, SymbolStatus::kHalt);
  core.advance(kStart + 600'000'000);
  EXPECT_EQ(core.find_order(id)->status, OrderStatus::kNew);
  EXPECT_FALSE(core.book(0).best(Side::kSell).has_value());
  EXPECT_TRUE(core.book(1).best(Side::kSell).has_value());
}

TEST(Market, WalkDoesNotDependOnWhatClientsDo) {
  Core idle = make_core(11);
  Core busy = make_core(11);
  os::Random random(5);
  for (int i = 0; i < 300; ++i) {
    const Micros now = kStart + i * kMarketStepUs;
    busy.advance(now);
    static_cast<void>(busy.place(market("m" + std::to_string(i), Side::kBuy, "0.05")));
  }
  idle.advance(busy.now());
  EXPECT_EQ(idle.reference_price(0), busy.reference_price(0));
}

// ---- Properties over random sequences.

class CoreProperties : public ::testing::TestWithParam<int> {};

TEST_P(CoreProperties, InvariantsHoldAfterEveryOperation) {
  SCOPED_TRACE(GetParam());
  // Every other one pays its fees in money.
  Core core = make_core(static_cast<std::uint64_t>(GetParam()), GetParam() % 2 == 0);
  os::Random random(static_cast<std::uint64_t>(GetParam()) + 1000);
  Micros now = kStart;
  for (int i = 0; i < 1500; ++i) {
    testing::random_operation(core, random, now);
    ASSERT_EQ(core.check_invariants(), "") << "after operation " << i;
  }
  EXPECT_GT(core.trade_count(), 100U);
}

// An order must never be filled while a better one, or an earlier one of the same price, waits.
TEST_P(CoreProperties, FillsFollowPriceTimePriority) {
  SCOPED_TRACE(GetParam());
  Core core = make_core(static_cast<std::uint64_t>(GetParam()));
  os::Random random(static_cast<std::uint64_t>(GetParam()) + 2000);
  Micros now = kStart;
  std::map<std::uint64_t, Order> open;  // as the events tell it, apart from the core's own lists
  std::uint64_t maker_fills = 0;
  std::uint64_t triggers = 0;
  for (int i = 0; i < 1500; ++i) {
    testing::random_operation(core, random, now);
    for (const Event& event : core.take_events()) {
      if (const auto* accepted = std::get_if<OrderAccepted>(&event.body)) {
        open[accepted->order.id] = accepted->order;
        open[accepted->order.id].priority = event.seq;
      } else if (const auto* triggered = std::get_if<Triggered>(&event.body)) {
        open.at(triggered->order_id).waits = false;
        open.at(triggered->order_id).priority = event.seq;
        ++triggers;
      } else if (const auto* closed = std::get_if<OrderClosed>(&event.body)) {
        open.erase(closed->order_id);
      } else if (const auto* filled = std::get_if<Filled>(&event.body)) {
        const Trade& trade = filled->trade;
        Order& order = open.at(trade.order_id);
        if (trade.maker) {
          ++maker_fills;
          for (const auto& [id, other] : open) {
            if (id == order.id || other.symbol != order.symbol || other.side != order.side)
              continue;
            if (other.type == OrderType::kMarket || other.waits ||
                other.time_in_force != TimeInForce::kGtc) {
              continue;
            }
            const bool better =
                order.side == Side::kBuy ? other.price > order.price : other.price < order.price;
            ASSERT_FALSE(better) << "order " << id << " had the better price";
            ASSERT_FALSE(other.price == order.price && other.priority < order.priority)
                << "order " << id << " was earlier";
          }
        }
        order.executed += trade.quantity;
        if (order.remaining().is_zero()) open.erase(order.id);
      }
    }
  }
  EXPECT_GT(maker_fills, 50U);
  EXPECT_GT(triggers, 10U);
}

TEST_P(CoreProperties, SameSeedAndCallsGiveTheSameStateAndEvents) {
  const auto run = [](std::uint64_t seed) {
    Core core = make_core(seed);
    os::Random random(9);
    Micros now = kStart;
    for (int i = 0; i < 800; ++i) testing::random_operation(core, random, now);
    return std::pair(core.digest(), core.last_seq());
  };
  const auto seed = static_cast<std::uint64_t>(GetParam());
  EXPECT_EQ(run(seed), run(seed));
  EXPECT_NE(run(seed).first, run(seed + 1).first);
}

TEST_P(CoreProperties, ReplayedEventsGiveTheLiveState) {
  Core live = make_core(static_cast<std::uint64_t>(GetParam()), GetParam() % 2 == 0);
  os::Random random(static_cast<std::uint64_t>(GetParam()) + 3000);
  Micros now = kStart;
  std::vector<Event> events;
  for (int i = 0; i < 1000; ++i) {
    testing::random_operation(live, random, now);
    for (Event& event : live.take_events()) events.push_back(std::move(event));
  }
  Core::Options options;
  options.seed = static_cast<std::uint64_t>(GetParam());
  Core replayed(options);
  for (const Event& event : events) ASSERT_TRUE(replayed.replay(event).has_value());
  EXPECT_EQ(replayed.digest(), live.digest());
  // And goes on trading: the orders that rested rest again, at the price that the market has now.
  replayed.start(now);
  EXPECT_EQ(replayed.check_invariants(), "");
  for (std::uint32_t symbol = 0; symbol < 3; ++symbol) {
    const Decimal difference =
        (replayed.reference_price(symbol) - live.reference_price(symbol)).abs();
    EXPECT_LE(difference.to_double(), live.reference_price(symbol).to_double() / 1000);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, CoreProperties, ::testing::Range(1, 7));

TEST(Replay, NamesTheEventThatContradictsTheState) {
  Core live = make_core();
  placed_id(live.place(limit("a", Side::kBuy, "50000", "0.1")));
  std::vector<Event> events = live.take_events();
  const auto failure = [&](auto change) {
    std::vector<Event> changed = events;
    change(changed);
    Core core(Core::Options{});
    for (const Event& event : changed) {
      if (const Result<> done = core.replay(event); !done) {
        EXPECT_EQ(done.error().code(), Code::kCorrupted);
        return done.error().message();
      }
    }
    return std::string();
  };
  using ::testing::HasSubstr;
  const auto last = [](std::vector<Event>& list) -> Event& { return list.back(); };
  EXPECT_EQ(failure([](auto&) {}), "");
  EXPECT_THAT(failure([&](auto& e) { last(e).seq += 1; }), HasSubstr("expected number"));
  EXPECT_THAT(failure([&](auto& e) { last(e).at_us -= 1'000'000; }), HasSubstr("backwards"));
  EXPECT_THAT(failure([&](auto& e) { std::get<OrderAccepted>(last(e).body).order.id = 7; }),
              HasSubstr("out of turn"));
  EXPECT_THAT(
      failure([&](auto& e) { std::get<OrderAccepted>(last(e).body).order.quantity = dec("9000"); }),
      HasSubstr("balance is too low"));
  EXPECT_THAT(
      failure([&](auto& e) {
        e.push_back({last(e).seq + 1, last(e).at_us, OrderClosed{9, OrderStatus::kCancelled, ""}});
      }),
      HasSubstr("not open"));
  EXPECT_THAT(failure([&](auto& e) {
                Trade trade;
                trade.id = 1;
                trade.order_id = 1;
                trade.side = Side::kBuy;
                trade.price = dec("50000.01");
                trade.quantity = dec("0.1");
                trade.quote = trade.price * trade.quantity;
                e.push_back({last(e).seq + 1, last(e).at_us, Filled{trade}});
              }),
              HasSubstr("worse than the order's limit"));
}

}  // namespace
}  // namespace defib::paper
