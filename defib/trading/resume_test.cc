// What follows the ten steps: approvals, and the gate that is asked again.

#include "defib/trading/recovery_testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using testing::Contains;
using testing::ElementsAre;

TEST_F(RecoveryTest, MoreThanThreeCrashesInFiveMinutesNeedAPerson) {
  for (int i = 0; i < 3; ++i) {
    restart();
    clock_.advance(10s);
  }
  expect_recovers();
  restart();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  EXPECT_EQ(rule(), "repeated_crashes");
  EXPECT_THAT(run_->states, ElementsAre("recovering", "awaiting_approval"));
  EXPECT_FALSE(engine_->gateway->permit().open);
  live(2s);
  EXPECT_EQ(engine_->gateway->permit().open, false);
  approve();
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("approval_used")["by"].as_string(), "ada");
  // The same approval does not open the gate for the next crash.
  restart();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  live(2s);
  EXPECT_FALSE(engine_->gateway->permit().open);
}

TEST_F(RecoveryTest, AnUnknownDepositHoldsTheGateUntilAPersonAcceptsIt) {
  expect_recovers();
  venue_.deposit("BTC", "0.5");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  EXPECT_EQ(rule(), "unexplained");
  // A restart does not make it go away.
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "unexplained");
  approve("grace");
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open) << explanation();
  EXPECT_EQ(engine_->ledger->balances().at("BTC"), venue_.total("BTC"));
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, Decimal());
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").baseline, dec("10.5"));
  restart_after_clean_end();
  expect_recovers();
  const auto snapshot = std::move(*engine_->store->snapshot());
  const auto journal = read_journal(*snapshot, 100).value();
  ASSERT_FALSE(journal.empty());
  EXPECT_EQ(journal.back()["by"].as_string(), "grace");
}

TEST_F(RecoveryTest, WhatIsFilledWhileAPersonReadsIsNotTakenBackByTheApproval) {
  config_.reconcile_every = 5s;
  expect_recovers();
  live(6min);
  const Submitted order = engine_->submit(Engine::draft("0.2", "49000"));
  venue_.deposit("BTC", "0.5");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "unexplained");
  venue_.fill(order.client_id, "0.1");
  ASSERT_TRUE(engine_->gateway->sync_orders("BTCUSDT"));
  approve("grace");
  live(60s);
  EXPECT_TRUE(engine_->gateway->permit().open) << explanation();
  EXPECT_EQ(engine_->ledger->balances().at("BTC"), venue_.total("BTC"));
  EXPECT_EQ(engine_->ledger->balances().at("USDT"), venue_.total("USDT"));
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, dec("0.1"));
}

TEST_F(RecoveryTest, ADifferenceThatCameWhileAPersonReadNeedsAnotherApproval) {
  expect_recovers();
  venue_.deposit("BTC", "0.5");
  restart_after_clean_end();
  recover();
  venue_.deposit("BTC", "1");
  approve();
  live(1s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("approval_invalid")["reason"].as_string(), "plan_mismatch");
  approve();
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open) << explanation();
  EXPECT_EQ(engine_->ledger->balances().at("BTC"), venue_.total("BTC"));
}

// The reading before an approval is used costs more than a small budget gives back between polls.
TEST_F(RecoveryTest, AnApprovalWaitsForTheBudgetOfItsReading) {
  config_.gates.approval_always = true;
  venue_.tell_small_budget();
  recover();
  approve();
  int readings = 0;
  bool used_up = true;
  venue_.on_request = [&](std::string_view what) {
    const bool costs = what == "fills";
    readings += costs ? 1 : 0;
    venue_.fail_reads(costs && used_up
                          ? std::optional<Error>(Error(Code::kVenueRateLimited, "slow"))
                          : std::nullopt);
  };
  for (int i = 0; i < 30; ++i) {
    clock_.advance(1s);
    static_cast<void>(run_->recovery->poll());
  }
  EXPECT_EQ(readings, 1);
  EXPECT_FALSE(engine_->gateway->permit().open);
  used_up = false;
  live(20s);
  EXPECT_TRUE(engine_->gateway->permit().open);
}

TEST_F(RecoveryTest, AnApprovalDoesNotOpenAHaltedMarket) {
  config_.gates.approval_always = true;
  venue_.halt("BTCUSDT");
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  approve();
  live(1s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->states.back(), "monitoring");
  venue_.halt("BTCUSDT", false);
  live(6s);
  EXPECT_TRUE(engine_->gateway->permit().open);
}

TEST_F(RecoveryTest, AnApprovalCoversNoReasonThatCameUpLater) {
  config_.gates.approval_always = true;
  venue_.halt("BTCUSDT");
  recover();
  approve();
  live(1s);
  EXPECT_EQ(run_->states.back(), "monitoring");
  const std::string first = run_->recovery->plan()->hash();
  venue_.set_quote("ETHUSDT", "0", "0");
  venue_.halt("BTCUSDT", false);
  live(6s);
  EXPECT_FALSE(engine_->gateway->permit().open) << explanation();
  ASSERT_TRUE(run_->recovery->plan());
  EXPECT_NE(run_->last("approval_required")["plan"].as_string(), first);
  EXPECT_THAT(run_->recovery->plan()->asked_because, Contains("stale_prices"));
  approve();
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open) << explanation();
}

TEST_F(RecoveryTest, AStartInMonitoringTradesOnlyAfterAPersonApproved) {
  const auto start_in_monitoring = [&] {
    run_ = std::make_unique<Recovery>(*engine_, venue_, clock_, dir_.path(), config_, false,
                                      std::function<void(const std::string&)>(), true);
    ASSERT_TRUE(run_->recovery->procedure().execute(clock_).success());
  };
  start_in_monitoring();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  EXPECT_EQ(rule(), "start_mode");
  EXPECT_THAT(run_->states, ElementsAre("recovering", "monitoring"));
  EXPECT_EQ(run_->last("trading_recovery_started")["start_mode"].as_string(), "monitoring");
  EXPECT_EQ(run_->last("trading_report")["start_mode"].as_string(), "monitoring");
  EXPECT_THAT(run_->recovery->plan()->asked_because, Contains("start_mode"));
  live(10min);
  EXPECT_FALSE(engine_->gateway->permit().open) << "time alone opens nothing";
  approve();
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->states.back(), "ramping");
  live(2min);  // A checkpoint is written.
  // The approval was for that start alone; a normal start needs none.
  restart();
  start_in_monitoring();
  live(2s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  restart();
  expect_recovers();
}

TEST_F(RecoveryTest, AnApprovalForAPlanThatChangedIsNotUsed) {
  config_.gates.approval_always = true;
  recover();
  approve();
  const Submitted none;
  // Before it is taken, a large position appears: the plan is another one.
  config_.gates.max_exposure = dec("1000");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  live(1s);
  EXPECT_FALSE(engine_->gateway->permit().open);
}

// The check before the first order reads the whole account. Tried again and again it would use up
// what is given back, and stop a sound engine for the venue's silence.
TEST_F(RecoveryTest, TheComprehensiveCheckSavesUpForASmallBudget) {
  config_.ramp.check_after = 5s;
  venue_.tell_small_budget();
  venue_.read_fills_by_time(true);
  expect_recovers();
  venue::RateBudget budget(venue_.rebuild_model().limit, clock_);
  ASSERT_TRUE(budget.take(13, false, 0s, "scripted"));
  venue_.on_request = [&](std::string_view what) {
    const bool costs = what == "fills" || what == "open_orders" || what == "balances";
    const Result<> taken = budget.take(costs ? 1 : 0, false, 0s, "scripted");
    venue_.fail_reads(taken ? std::nullopt : std::optional(taken.error()));
  };
  live(50s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->states.back(), "ramping");
}

}  // namespace
}  // namespace defib::trading
