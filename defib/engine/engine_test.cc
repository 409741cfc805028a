#include "defib/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "defib/engine/faults.h"
#include "defib/engine/strategy.h"
#include "defib/os/files.h"

namespace defib::engine {
namespace {

using testing::HasSubstr;

Decimal d(const char* text) {
  return Decimal::parse(text).value();
}

TEST(FaultPlanTest, ReadsKindPointAndCount) {
  const auto plan = parse_fault("segv@request_sent:3\n");
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->kind, FaultKind::kSegv);
  EXPECT_EQ(plan->point, "request_sent");
  EXPECT_EQ(plan->at_pass, 3);
}

TEST(FaultPlanTest, RefusesWhatItDoesNotKnowAndListsWhatItDoes) {
  for (const char* bad : {"", "segv", "segv@", "segv@nowhere", "oops@tick", "segv@tick:0",
                          "segv@tick:x", "segv@tick:1x"}) {
    const auto plan = parse_fault(bad);
    ASSERT_FALSE(plan) << bad;
    EXPECT_EQ(plan.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(plan.error().suggested_action(), HasSubstr("stack_overflow"));
    EXPECT_THAT(plan.error().suggested_action(), HasSubstr("intent_durable"));
  }
}

TEST(FaultInjectorDeathTest, FailsAtTheNthPassOfItsPointOnly) {
  FaultInjector faults;
  faults.reached("tick");
  faults.arm(parse_fault("kill@tick:3").value());
  faults.reached("tick");
  faults.reached("reply_seen");
  faults.reached("tick");
  EXPECT_EXIT(faults.reached("tick"), testing::KilledBySignal(9), "");
}

TEST(FaultInjectorDeathTest, EveryKindEndsTheProcessInItsOwnWay) {
  EXPECT_EXIT(fail(FaultKind::kAbort), testing::KilledBySignal(6), "");
  EXPECT_EXIT(fail(FaultKind::kAssert), testing::KilledBySignal(6), "positions_are_consistent");
  EXPECT_EXIT(fail(FaultKind::kKill), testing::KilledBySignal(9), "");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_EXIT(fail(FaultKind::kSegv), testing::KilledBySignal(11), "");
  EXPECT_EXIT(fail(FaultKind::kDisconnect), testing::KilledBySignal(11), "");
  EXPECT_EXIT(fail(FaultKind::kStackOverflow), testing::KilledBySignal(11), "");
  EXPECT_EXIT([]() noexcept { fail(FaultKind::kException); }(), testing::KilledBySignal(6),
              "nobody catches");
  EXPECT_EXIT([]() noexcept { fail(FaultKind::kLeak); }(), testing::KilledBySignal(6), "bad_alloc");
#endif
}

struct Market {
  std::map<std::string, venue::Quote> quotes;
  std::map<std::string, trading::Instrument> instruments;
  std::map<std::string, trading::Position> positions;

  Market() {
    instruments["BTCUSDT"] = {"BTCUSDT", "BTC", "USDT", d("0.01"), d("0.00001")};
    set_price("50000");
  }
  void set_price(const char* mid) {
    quotes["BTCUSDT"] = {"BTCUSDT", d(mid) - d("0.5"), d("1"), d(mid) + d("0.5"), d("1")};
  }
  MarketView view(std::int64_t now_ms = 0) const {
    return {&quotes, &instruments, &positions, now_ms};
  }
};

TEST(QuantityTest, IsAMultipleOfTheLotAndNeverRoundedUp) {
  EXPECT_EQ(quantity_for(d("100"), d("50000"), d("0.00001")), d("0.002"));
  EXPECT_EQ(quantity_for(d("100"), d("30000"), d("0.001")), d("0.003"));
  EXPECT_EQ(quantity_for(d("1"), d("50000"), d("0.001")), Decimal());
  EXPECT_EQ(quantity_for(d("1"), Decimal(), d("0.001")), Decimal());
}

TEST(MakerTest, RestsOrdersOnBothSidesOfTheMarketOnTheTick) {
  const Market market;
  StrategyOptions options;
  options.resting_orders = 40;
  options.orders_per_tick = 40;
  const auto maker = make_strategy("maker", options).value();
  const Wish wish = maker->on_tick(market.view(), {});
  ASSERT_EQ(wish.place.size(), 40u);
  int buys = 0;
  for (const trading::OrderDraft& draft : wish.place) {
    const bool buy = draft.side == venue::Side::kBuy;
    buys += buy ? 1 : 0;
    EXPECT_EQ(draft.price, draft.price.round_down_to(d("0.01")));
    EXPECT_TRUE(buy ? draft.price <= d("49999.5") : draft.price >= d("50000.5"));
    EXPECT_EQ(draft.risk, trading::RiskLevel::kLow);
  }
  EXPECT_GT(buys, 5);
  EXPECT_LT(buys, 35);
}

TEST(MakerTest, ReplacesOldOrdersAndStaysBelowItsNumber) {
  const Market market;
  StrategyOptions options;
  options.resting_orders = 1;
  const auto maker = make_strategy("maker", options).value();
  trading::TrackedOrder tracked;
  tracked.order.client_id = "a";
  tracked.order.symbol = "BTCUSDT";
  tracked.order.price = d("50000");
  tracked.order.created_ms = 1'000;
  EXPECT_TRUE(maker->on_tick(market.view(2'000), {&tracked}).cancel.empty());
  const Wish late = maker->on_tick(market.view(1'000'000), {&tracked});
  EXPECT_THAT(late.cancel, testing::ElementsAre("a"));
  EXPECT_TRUE(late.place.empty());
}

TEST(TrendTest, OrdersOnceWhenTheAveragesCross) {
  Market market;
  const auto trend = make_strategy("trend", {}).value();
  for (int i = 0; i < 10; ++i) {
    market.set_price(i % 2 == 0 ? "50000" : "49990");
    (void)trend->on_tick(market.view(), {});
  }
  market.set_price("50500");
  int orders = 0;
  for (int i = 0; i < 20; ++i) {
    const Wish wish = trend->on_tick(market.view(), {});
    for (const auto& draft : wish.place) {
      EXPECT_EQ(draft.side, venue::Side::kBuy);
      EXPECT_EQ(draft.time_in_force, venue::TimeInForce::kIoc);
      ++orders;
    }
  }
  EXPECT_EQ(orders, 1);
}

TEST(ReversionTest, BetsAgainstARunAwayPriceOnly) {
  Market market;
  const auto reversion = make_strategy("reversion", {}).value();
  EXPECT_TRUE(reversion->on_tick(market.view(), {}).place.empty());
  market.set_price("50100");
  const Wish wish = reversion->on_tick(market.view(), {});
  ASSERT_EQ(wish.place.size(), 1u);
  EXPECT_EQ(wish.place[0].side, venue::Side::kSell);
  EXPECT_EQ(wish.place[0].risk, trading::RiskLevel::kHigh);
}

TEST(StrategyTest, UnknownNameListsTheKnownOnes) {
  const auto strategy = make_strategy("wizard", {});
  ASSERT_FALSE(strategy);
  EXPECT_THAT(strategy.error().suggested_action(), HasSubstr("maker, trend, reversion"));
}

// Kraken's smallest account: reading in turn, with a whole check of the account every minute.
TEST(SyncInterval, LeavesHalfOfASmallBudgetForChecks) {
  using namespace std::chrono_literals;
  venue::RebuildModel model;
  EXPECT_EQ(sync_interval(1s, model), 1s) << "nothing limits";
  model.limit = {.capacity = 6'000, .window = 1min};
  model.fills_cost = 20;
  model.orders_cost = 80;
  EXPECT_EQ(sync_interval(1s, model), 1s) << "a large one";
  EXPECT_EQ(sync_interval(10ms, model), 400ms);
  model.limit = {.capacity = 15, .refill_per_1000s = 330};
  model.fills_cost = 2;
  model.orders_cost = 1;
  model.filtered = false;
  const os::Duration interval = sync_interval(1s, model);
  EXPECT_GT(interval, 18s);
  EXPECT_EQ(sync_interval(1min, model), 1min);
  os::FakeClock clock;
  venue::RateBudget budget(model.limit, clock);
  os::Duration next_check = 1min;
  for (os::Duration at{0}; at < 1h; at += interval) {
    ASSERT_TRUE(budget.take(3, false, 2s, "kraken"));
    if (at >= next_check) {
      ASSERT_TRUE(budget.take(6, false, 2s, "kraken"));
      next_check += 1min;
    }
    clock.advance(interval);
  }
}

TEST(EngineConfigTest, TheStatusSaysWhichAccountIsTradedOn) {
  trading::TradingConfig config;
  config.venue.name = "binance";
  EXPECT_EQ(trading_text(config), "trading");
  config.others.resize(2);
  config.others[0].name = "kraken";
  config.others[1].name = "coinbase";
  EXPECT_EQ(trading_text(config),
            "trading on binance alone; the engine sends no order to kraken, coinbase");
}

TEST(EngineConfigTest, UnknownKeyNamesItsPlaceAndTheNearestOne) {
  char dir[] = "/tmp/defib-engine-XXXXXX";
  const std::string path = std::string(::mkdtemp(dir)) + "/defib.toml";
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), path,
                                        "[venue]\nurl = \"http://127.0.0.1:1\"\n"
                                        "symbols = [\"BTCUSDT\"]\n"
                                        "[trading]\n[engine]\ntick = \"50ms\"\ntik = 3\n"));
  const auto config = load_engine_config(path);
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code(), Code::kConfigUnknownKey);
  EXPECT_THAT(config.error().to_text(), HasSubstr("defib.toml:7:1"));
  EXPECT_THAT(config.error().to_text(), HasSubstr("tick"));
}

}  // namespace
}  // namespace defib::engine
