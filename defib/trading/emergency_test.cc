// What stops a recovered engine, and what holds its ramp.

#include <algorithm>

#include "defib/trading/damage.h"
#include "defib/trading/recovery_testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(RecoveryTest, AStopThatCouldNotBeVerifiedIsFinishedWhenTheVenueAnswers) {
  expect_recovers();
  live(5s);
  engine_->submit(Engine::draft("0.1", "49000"));
  const Error away(Code::kVenueUnreachable, "nobody listens");
  venue_.fail_everything_until(away, clock_.mono_ns() + 60'000'000'000);
  live(55s);
  EXPECT_EQ(run_->states.back(), "stopped");
  EXPECT_FALSE(run_->last("emergency_stop")["verified"].as_bool());
  EXPECT_EQ(venue_.open_count(), 1);
  live(60s);
  EXPECT_EQ(venue_.open_count(), 0);
  EXPECT_TRUE(run_->last("emergency_stop")["verified"].as_bool());
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "venue");
  const std::vector<std::string> told = run_->names();
  EXPECT_EQ(std::ranges::count(told, "emergency_stop"), 2) << "once, and when it changed";
  EXPECT_FALSE(engine_->gateway->permit().open);
  const int cancels = venue_.cancels();
  live(10min);
  EXPECT_EQ(venue_.cancels(), cancels) << "what is verified is not stopped again";
}

TEST_F(RecoveryTest, TwoOrdersForOneIdStopARunningEngine) {
  expect_recovers();
  live(6min);
  ASSERT_EQ(run_->states.back(), "running");
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.fill(order.client_id, "0.1");
  ASSERT_TRUE(engine_->gateway->sync_orders("BTCUSDT"));
  venue_.place_external(order.client_id, "0.1", "49000");
  EXPECT_FALSE(engine_->gateway->sync_orders("BTCUSDT"));
  live(5s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "duplicate_orders");
  EXPECT_EQ(venue_.open_count(), 0);
}

TEST_F(RecoveryTest, NoStepPassesWhileAReconciliationIsNeverAnswered) {
  config_.reconcile_every = 5s;
  expect_recovers();
  venue_.fail_reads(Error(Code::kVenueRateLimited, "the budget is used up"), "balances");
  live(20min);
  EXPECT_THAT(run_->states, ElementsAre("recovering", "ramping")) << "and nothing is stopped";
  EXPECT_EQ(run_->last("ramp_step")["step"].as_int(), 1);
  EXPECT_TRUE(engine_->gateway->permit().open);
  venue_.fail_reads({});
  live(6min);
  EXPECT_EQ(run_->states.back(), "running");
}

TEST_F(RecoveryTest, NoStepPassesOnASuspicionThatIsNeverLookedAtAgain) {
  config_.reconcile_every = 100s;
  expect_recovers();
  live(1s);
  venue_.deposit("BTC", "1");
  live(5s);  // seen once: it may be the market between two requests
  venue_.fail_reads(Error(Code::kVenueRateLimited, "the budget is used up"), "balances");
  live(4min);  // less than three turns
  EXPECT_THAT(run_->states, ElementsAre("recovering", "ramping"));
  EXPECT_EQ(run_->last("ramp_step")["step"].as_int(), 1);
  venue_.fail_reads({});
  live(100s);
  EXPECT_EQ(run_->states.back(), "stopped");
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "reconciliation");
}

TEST_F(RecoveryTest, ARecordOfDamageThatMayNotBeLookedAtIsOne) {
  GuardedFiles files(store_dir() + ".damage.json");
  const auto found = read_damage(files, store_dir());
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->incident.empty());
  EXPECT_THAT(found->what, HasSubstr("cannot be read"));
  EXPECT_FALSE(read_damage(os::real_files(), store_dir()));
}

}  // namespace
}  // namespace defib::trading
