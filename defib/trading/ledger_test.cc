#include "defib/trading/ledger.h"

#include "defib/os/random.h"
#include "defib/trading/reconcile.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;

const std::vector<std::string> kBoth = {"BTCUSDT", "ETHUSDT"};
const Instrument kBtc{"BTCUSDT", "BTC", "USDT", dec("0.01"), dec("0.00001")};

venue::Fill make_fill(int id, venue::Side side, std::string_view quantity, std::string_view price,
                      std::string_view fee = "0", std::string fee_asset = "USDT") {
  return {std::to_string(id),   "7",       "BTCUSDT", side, dec(quantity), dec(price), dec(fee),
          std::move(fee_asset), 1'000 + id};
}

// --- Positions
// ------------------------------------------------------------------------------------

TEST(Position, BuyingMoreAveragesAndSellingRealizes) {
  Position position;
  position.symbol = "BTCUSDT";
  position = *position_after(position, make_fill(1, venue::Side::kBuy, "1", "100"), kBtc);
  position = *position_after(position, make_fill(2, venue::Side::kBuy, "1", "200"), kBtc);
  EXPECT_EQ(position.average_price(), dec("150"));
  position = *position_after(position, make_fill(3, venue::Side::kSell, "1", "180"), kBtc);
  EXPECT_EQ(position.quantity, dec("1"));
  EXPECT_EQ(position.realized, dec("30"));
  EXPECT_EQ(position.average_price(), dec("150"));
}

TEST(Position, AFlipClosesTheOldSideAndOpensTheNewAtTheTradesPrice) {
  Position position;
  position = *position_after(position, make_fill(1, venue::Side::kSell, "1", "100"), kBtc);
  EXPECT_EQ(position.average_price(), dec("100"));
  position = *position_after(position, make_fill(2, venue::Side::kBuy, "3", "90"), kBtc);
  EXPECT_EQ(position.quantity, dec("2"));
  EXPECT_EQ(position.realized, dec("10"));
  EXPECT_EQ(position.average_price(), dec("90"));
}

TEST(Position, AFeeInTheBaseAssetReducesTheHolding) {
  Position position;
  position =
      *position_after(position, make_fill(1, venue::Side::kBuy, "1", "100", "0.001", "BTC"), kBtc);
  EXPECT_EQ(position.quantity, dec("0.999"));
}

TEST(Position, AFeeBeyondTheHoldingIsOwedAtTheTradesPrice) {
  Position position;
  position = *position_after(position, make_fill(1, venue::Side::kSell, "1", "100"), kBtc);
  position =
      *position_after(position, make_fill(2, venue::Side::kBuy, "1", "100", "0.001", "BTC"), kBtc);
  EXPECT_EQ(position.quantity, dec("-0.001"));
  EXPECT_EQ(position.average_price(), dec("100"));
  EXPECT_EQ(position.realized, dec("-0.1"));
}

TEST(Position, ImpossibleAmountsAreRefusedAndNothingOverflows) {
  Position position;
  position.quantity = Decimal::from_integer(90'000'000'000);
  EXPECT_FALSE(position_after(position, make_fill(1, venue::Side::kBuy, "90000000000", "1"), kBtc));
  EXPECT_FALSE(position_after({}, make_fill(1, venue::Side::kBuy, "1000000000", "1000000"), kBtc));
  std::map<std::string, Decimal> totals = {{"BTC", Decimal::from_integer(90'000'000'000)}};
  EXPECT_FALSE(apply_to_balances(totals, make_fill(1, venue::Side::kBuy, "9000000000", "1"), kBtc));
  EXPECT_EQ(totals.size(), 1u);
}

// Whatever is traded: quantity is the sum, and the money adds up: what was paid equals cost of what
// is held less what was realized.
TEST(PositionProperty, MoneyAddsUpOverRandomTrades) {
  os::Random random(20'261'120);
  for (int run = 0; run < 200; ++run) {
    Position position;
    std::int64_t quantity = 0;
    std::int64_t paid = 0;  // units of 1e-8, exact for whole quantities and prices
    for (int i = 0; i < 50; ++i) {
      const auto side = random.below(2) == 0 ? venue::Side::kBuy : venue::Side::kSell;
      const auto amount = static_cast<std::int64_t>(1 + random.below(9));
      const auto price = static_cast<std::int64_t>(90 + random.below(20));
      const std::int64_t sign = side == venue::Side::kBuy ? 1 : -1;
      quantity += sign * amount;
      paid += sign * amount * price * Decimal::kScale;
      position = *position_after(
          position, make_fill(i, side, std::to_string(amount), std::to_string(price)), kBtc);
      ASSERT_EQ(position.quantity, Decimal::from_integer(quantity));
      const std::int64_t off = position.cost.units() - position.realized.units() - paid;
      ASSERT_LE(std::abs(off), 2 * (i + 1)) << "run " << run << " trade " << i;
      if (position.quantity.is_zero()) {
        ASSERT_TRUE(position.cost.is_zero());
      }
    }
  }
}

TEST(TradeIds, AreOrderedByNumber) {
  EXPECT_TRUE(trade_id_less("9", "10"));
  EXPECT_FALSE(trade_id_less("10", "9"));
  EXPECT_FALSE(trade_id_less("10", "10"));
  EXPECT_LT(fill_key("BTCUSDT", "9"), fill_key("BTCUSDT", "10"));
}

TEST(TradeIds, OnlyTradesOlderThanTheLagAreSettled) {
  std::vector<venue::Fill> fills;
  for (int i = 1; i <= 5; ++i) {
    fills.push_back(make_fill(i, venue::Side::kBuy, "1", "100"));
    fills.back().time_ms = i * 100;
  }
  EXPECT_EQ(settled_trade(fills, 250), "2");
  EXPECT_EQ(settled_trade(fills, 1'000), "");
  EXPECT_EQ(settled_trade({}, 0), "");
}

// --- The ledger
// -----------------------------------------------------------------------------------

class LedgerTest : public testing::Test {
 protected:
  void SetUp() override {
    restart();
    engine_->ready(venue_, clock_);
  }
  void restart() {
    engine_.reset();  // killed
    engine_ = Engine::start(dir_.path(), clock_, venue_);
  }
  int sync() {
    const auto booked = engine_->ledger->sync_fills(venue_, "BTCUSDT", clock_.wall_ns());
    EXPECT_TRUE(booked) << booked.error().to_text();
    return booked.value_or(-1);
  }
  Decimal position() const { return engine_->ledger->positions().at("BTCUSDT").quantity; }
  void expect_balances_of_venue() {
    for (const std::string asset : {"BTC", "USDT"}) {
      EXPECT_EQ(engine_->ledger->balances().at(asset), venue_.total(asset)) << asset;
    }
  }

  TemporaryDir dir_;
  os::FakeClock clock_;
  ScriptedVenue venue_{clock_};
  std::unique_ptr<Engine> engine_;
};

TEST_F(LedgerTest, BeginsWithTheVenuesHoldingsAsBaselineAndOldTradesAreNotBooked) {
  venue_.place_external("old", "1", "50000");
  venue_.fill("old", "1");
  TemporaryDir fresh;
  const auto engine = Engine::start(fresh.path(), clock_, venue_);
  engine->ready(venue_, clock_);
  EXPECT_EQ(engine->ledger->positions().at("BTCUSDT").baseline, dec("11"));
  EXPECT_EQ(engine->ledger->positions().at("BTCUSDT").quantity, Decimal());
  EXPECT_EQ(engine->ledger->sync_fills(venue_, "BTCUSDT", 1).value(), 0);
}

// A history that is read newest first is not walked through to find out where it ends.
TEST_F(LedgerTest, WhereTheHistoryIsNotWalkedThroughTheBaselinesTimeIsWhereFillsBegin) {
  venue_.read_fills_by_time(true);
  venue_.place_external("old", "1", "50000");
  venue_.fill("old", "1");
  clock_.advance(std::chrono::seconds(10));
  TemporaryDir fresh;
  auto engine = Engine::start(fresh.path(), clock_, venue_);
  engine->ready(venue_, clock_);
  EXPECT_EQ(engine->ledger->cursor("BTCUSDT"), "");
  EXPECT_EQ(engine->ledger->positions().at("BTCUSDT").baseline, dec("11"));
  const Submitted order = engine->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.2");
  clock_.advance(std::chrono::seconds(10));
  engine.reset();
  engine = Engine::start(fresh.path(), clock_, venue_);
  const auto read = [&] { return engine->ledger->sync_fills(venue_, "BTCUSDT", 1).value(); };
  EXPECT_EQ(read(), 1) << "not the one of before the baseline";
  venue_.fill(order.client_id, "0.2");
  EXPECT_EQ(read(), 1);
  EXPECT_EQ(engine->ledger->positions().at("BTCUSDT").quantity, dec("0.4"));
  EXPECT_NE(engine->ledger->cursor("BTCUSDT"), "") << "a settled trade is a better beginning";
}

TEST_F(LedgerTest, OneHistoryOfAllSymbolsSettlesThoseThatDoNotTrade) {
  const auto since = [&](const std::string& symbol) {
    return engine_->ledger->view().since.at(symbol);
  };
  const std::int64_t baseline = since("ETHUSDT");
  EXPECT_EQ(baseline, venue_.now_ms() - venue_.visibility_lag_ms() - 2'000);
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  const auto trade_after = [&](os::Duration pause) {
    clock_.advance(pause);
    venue_.fill(order.client_id, "0.1");
    ASSERT_TRUE(engine_->ledger->sync_fills(venue_, kBoth, clock_.wall_ns()));
  };
  trade_after(std::chrono::minutes(2));
  EXPECT_EQ(since("ETHUSDT"), baseline) << "each symbol has its own history";
  venue_.read_fills_by_time(true);
  trade_after(std::chrono::minutes(2));
  EXPECT_EQ(since("ETHUSDT"), venue_.now_ms() - venue_.visibility_lag_ms());
  const std::int64_t settled = since("ETHUSDT");
  trade_after(std::chrono::seconds(10));
  EXPECT_EQ(since("ETHUSDT"), settled) << "not written at each trade";
  restart();
  EXPECT_EQ(since("ETHUSDT"), settled);
}

// What a reading of both symbols lacks of the trades that were booked.
std::size_t missing_fills(Engine& engine, ScriptedVenue& venue) {
  const auto snapshot =
      read_venue(venue, engine.ledger->view(), **engine.store->snapshot(), {.symbols = kBoth});
  EXPECT_TRUE(snapshot) << snapshot.error().to_text();
  const std::vector<Discrepancy> found = reconcile(engine.ledger->view(), *snapshot, {});
  return static_cast<std::size_t>(
      std::ranges::count(found, DiscrepancyKind::kFillAtLedgerOnly,
                         [](const Discrepancy& item) { return item.kind; }));
}

TEST_F(LedgerTest, ATradeOfAnotherSymbolTakesNoBookedOneOutOfTheReading) {
  venue_.read_fills_by_time(true);
  venue_.place_external("eth", "1", "3000", venue::Side::kBuy, "ETHUSDT");
  venue_.place_external("btc", "1", "50000");
  venue_.fill("eth", "0.1");
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, kBoth, clock_.wall_ns()));
  EXPECT_EQ(engine_->ledger->cursor("ETHUSDT"), "");
  clock_.advance(std::chrono::minutes(2));
  venue_.fill("btc", "0.1");
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, kBoth, clock_.wall_ns()));
  EXPECT_EQ(missing_fills(*engine_, venue_), 0u);
  EXPECT_NE(engine_->ledger->cursor("ETHUSDT"), "") << "it is settled with the time";
  restart();
  EXPECT_EQ(missing_fills(*engine_, venue_), 0u);
}

TEST_F(LedgerTest, ATradeWhoseTimeIsBeforeTheOneAheadOfItIsStillAskedFor) {
  venue_.read_fills_by_time(true);
  venue_.place_external("eth", "1", "3000", venue::Side::kBuy, "ETHUSDT");
  venue_.fill("eth", "0.1");
  venue_.fill("eth", "0.1");
  venue_.all_fills()[0].time_ms += 115'000;
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, kBoth, clock_.wall_ns()));
  EXPECT_EQ(engine_->ledger->cursor("ETHUSDT"), "");
  EXPECT_EQ(missing_fills(*engine_, venue_), 0u);
}

TEST_F(LedgerTest, AReconciliationSettlesWhatItsReadingShowed) {
  venue_.read_fills_by_time(true);
  clock_.advance(std::chrono::minutes(5));
  const std::int64_t begun_ms = venue_.now_ms();
  venue_.on_request = [&](std::string_view what) {
    if (what == "balances") clock_.advance(std::chrono::minutes(1));
  };
  const auto snapshot =
      read_venue(venue_, engine_->ledger->view(), **engine_->store->snapshot(), {.symbols = kBoth});
  ASSERT_TRUE(snapshot);
  ASSERT_TRUE(apply_reconciliation(*engine_->ledger, *snapshot, {}, {.reason = "test", .by = "ada"},
                                   clock_.wall_ns()));
  EXPECT_EQ(engine_->ledger->view().since.at("ETHUSDT"), shown_before(venue_, begun_ms));
}

TEST_F(LedgerTest, AFillIsBookedOnceHoweverOftenItIsReadAndRestarted) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.2");
  EXPECT_EQ(sync(), 1);
  EXPECT_EQ(sync(), 0);
  restart();
  EXPECT_EQ(sync(), 0);
  EXPECT_EQ(position(), dec("0.2"));
  expect_balances_of_venue();
  EXPECT_EQ(engine_->ledger->orders().at(order.client_id).order.status,
            venue::OrderStatus::kPartiallyFilled);
  venue_.fill(order.client_id, "0.3");
  EXPECT_EQ(sync(), 1);
  EXPECT_EQ(position(), dec("0.5"));
  EXPECT_TRUE(engine_->ledger->orders().empty());
  EXPECT_EQ(engine_->intents->load(order.client_id).value()->state, IntentState::kFilled);
  expect_balances_of_venue();
}

TEST_F(LedgerTest, AFillThatBecomesVisibleOutOfOrderIsNotSkipped) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.1");
  venue_.fill(order.client_id, "0.2");
  const venue::Fill hidden = venue_.all_fills().front();
  venue_.all_fills().erase(venue_.all_fills().begin());
  EXPECT_EQ(sync(), 1);
  venue_.all_fills().insert(venue_.all_fills().begin(), hidden);
  restart();
  EXPECT_EQ(sync(), 1);
  EXPECT_EQ(position(), dec("0.3"));
  expect_balances_of_venue();
}

TEST_F(LedgerTest, SettledTradesAreNotReadAgain) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.1");
  clock_.advance(std::chrono::seconds(10));
  venue_.fill(order.client_id, "0.1");
  EXPECT_EQ(sync(), 2);
  EXPECT_EQ(engine_->ledger->cursor("BTCUSDT"), "1001");
  EXPECT_EQ(engine_->ledger->state().recent_fills.size(), 1u);
  EXPECT_TRUE(engine_->ledger->has_fill("BTCUSDT", "1001"));
  EXPECT_TRUE(engine_->ledger->has_fill("BTCUSDT", "1002"));
  EXPECT_FALSE(engine_->ledger->has_fill("BTCUSDT", "1003"));
}

TEST_F(LedgerTest, ALateFillOfACancelledOrderIsBookedAgainstItsIntent) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.2");
  ASSERT_TRUE(engine_->gateway->cancel(order.client_id));
  EXPECT_TRUE(engine_->ledger->orders().empty());
  EXPECT_EQ(sync(), 1);
  const auto intent = engine_->intents->load(order.client_id).value();
  EXPECT_EQ(intent->state, IntentState::kCancelled);
  EXPECT_EQ(intent->filled, dec("0.2"));
  EXPECT_EQ(position(), dec("0.2"));
}

TEST_F(LedgerTest, AStaleReadingDoesNotBringAnEndedOrderBack) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  const venue::Order stale = order.order;
  ASSERT_TRUE(engine_->gateway->cancel(order.client_id));
  LedgerUpdate update(*engine_->ledger);
  ASSERT_TRUE(update.set_order(stale, "a stale list"));
  ASSERT_TRUE(update.commit(1));
  EXPECT_TRUE(engine_->ledger->orders().empty());
}

TEST_F(LedgerTest, AnotherVenueOrderForTheSameIdIsADuplicate) {
  const Submitted order = engine_->submit();
  venue::Order other = order.order;
  other.venue_id = "999";
  LedgerUpdate update(*engine_->ledger);
  const auto set = update.set_order(other, "another");
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), Code::kDuplicateOrder);
}

TEST_F(LedgerTest, AnOrderThatWasProvedAbsentAndShowsUpIsAContradiction) {
  venue_.next(Script::kLose);
  const Submitted lost = engine_->submit();
  Intent gone = *engine_->intents->find(lost.client_id);
  gone.state = IntentState::kNeverAccepted;
  LedgerUpdate update(*engine_->ledger);
  update.set_intent(gone);
  ASSERT_TRUE(update.commit(1));
  venue_.place_external(lost.client_id, "0.1", "49000");
  LedgerUpdate again(*engine_->ledger);
  const auto set = again.set_order(venue_.order("BTCUSDT", lost.client_id).value(), "shows up");
  EXPECT_EQ(set.error().code(), Code::kLedgerDamaged);
}

TEST_F(LedgerTest, FillsOfAnUnknownIntentAreCountedOnceItIsFound) {
  venue_.next(Script::kAcceptAndLoseReply);
  const Submitted lost = engine_->submit(Engine::draft("0.5", "49000"));
  EXPECT_EQ(lost.state, IntentState::kUnknown);
  venue_.fill(lost.client_id, "0.2");
  EXPECT_EQ(sync(), 1);
  EXPECT_EQ(engine_->ledger->fills_of_unknown_orders().size(), 1u);
  restart();
  EXPECT_EQ(engine_->ledger->fills_of_unknown_orders().size(), 1u);
  LedgerUpdate update(*engine_->ledger);
  ASSERT_TRUE(engine_->intents->mark_unknown_after_restart(1));
  ASSERT_TRUE(update.set_order(venue_.order("BTCUSDT", lost.client_id).value(), "found"));
  ASSERT_TRUE(update.commit(1));
  EXPECT_EQ(engine_->ledger->orders().at(lost.client_id).booked, dec("0.2"));
  EXPECT_TRUE(engine_->ledger->fills_of_unknown_orders().empty());
  EXPECT_EQ(position(), dec("0.2"));
}

TEST_F(LedgerTest, WhatIsReadBesideTheEngineIsWhatTheEngineBelieves) {
  const Submitted order = engine_->submit(Engine::draft("0.5", "49000"));
  venue_.fill(order.client_id, "0.2");
  sync();
  venue_.next(Script::kLose);
  engine_->submit();
  ASSERT_TRUE(engine_->store->sync());
  const auto snapshot = store::Store::open_read_only(dir_.path(), {});
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  const auto read = read_ledger_state(**snapshot);
  ASSERT_TRUE(read) << read.error().to_text();
  const LedgerState mine = engine_->ledger->state();
  EXPECT_EQ(read->positions, mine.positions);
  EXPECT_EQ(read->balances, mine.balances);
  EXPECT_EQ(read->orders.size(), 1u);
  EXPECT_EQ(read->intents.size(), mine.intents.size());
  EXPECT_EQ(read->recent_fills.size(), 1u);
}

TEST_F(LedgerTest, NothingOfAFailedUpdateIsThere) {
  LedgerUpdate update(*engine_->ledger);
  venue::Fill good = make_fill(5'000, venue::Side::kBuy, "1", "100");
  ASSERT_TRUE(update.apply_fill(good));
  venue::Fill bad = make_fill(5'001, venue::Side::kBuy, "90000000000", "90000000000");
  EXPECT_EQ(update.apply_fill(bad).error().code(), Code::kVenueBadAnswer);
  bad.symbol = "DOGEUSDT";
  EXPECT_EQ(update.apply_fill(bad).error().code(), Code::kNotFound);
  EXPECT_EQ(position(), Decimal());
  EXPECT_FALSE(engine_->ledger->has_fill("BTCUSDT", "5000"));
}

TEST_F(LedgerTest, ExposureCountsPositionsOpenOrdersAndTheUnknownInFull) {
  const Submitted filled = engine_->submit(Engine::draft("0.4", "50000"));
  venue_.fill(filled.client_id, "0.1");
  sync();
  venue_.next(Script::kLose);
  engine_->submit(Engine::draft("0.2", "49000"));
  const Exposure exposure = exposure_of(engine_->ledger->state(), {{"BTCUSDT", dec("60000")}});
  EXPECT_EQ(exposure.positions, dec("6000"));
  EXPECT_EQ(exposure.open_orders, dec("15000"));
  EXPECT_EQ(exposure.unknown, dec("9800"));
  EXPECT_EQ(exposure.total(), dec("30800"));
}

TEST(Exposure, AnOpenOrderWithoutAPriceCountsAtItsMarkOrIsAskedFor) {
  LedgerState state;
  TrackedOrder& stop = state.orders["#BTCUSDT:7"];
  stop.order.symbol = "BTCUSDT";
  stop.order.quantity = dec("0.5");
  EXPECT_EQ(exposure_of(state, {{"BTCUSDT", dec("60000")}}).open_orders, dec("30000"));
  EXPECT_THAT(exposure_of(state, {}).unpriced, testing::ElementsAre("BTCUSDT"));
  stop.order.price = dec("70000");  // its trigger
  EXPECT_EQ(exposure_of(state, {{"BTCUSDT", dec("60000")}}).open_orders, dec("35000"));
  EXPECT_TRUE(exposure_of(state, {}).unpriced.empty());
}

}  // namespace
}  // namespace defib::trading
