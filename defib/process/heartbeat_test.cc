#include "defib/process/heartbeat.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

namespace defib::process {
namespace {

using std::chrono::milliseconds;

class HeartbeatTest : public testing::Test {
 protected:
  HeartbeatTest() : page_(std::make_unique<AgentPage>()) { claim(0, "main"); }
  void claim(std::size_t slot, const char* name, std::uint32_t deadline_ms = 0) {
    std::string(name).copy(page_->stages[slot].name, sizeof page_->stages[slot].name - 1);
    page_->stages[slot].deadline_ms = deadline_ms;
    page_->stages[slot].in_use = static_cast<std::uint32_t>(StageUse::kWatched);
  }
  void beat(std::size_t slot = 0) { ++page_->stages[slot].beats; }
  // Lets time pass in steps of a quarter of the deadline, and looks after each.
  std::optional<HeartbeatWatch::Lost> pass(os::Duration time, os::Duration step) {
    std::optional<HeartbeatWatch::Lost> lost;
    for (os::Duration left = time; left > os::Duration(0); left -= step) {
      now_ += step.count();
      if (auto one = watch_.look(page_.get(), now_); one && !lost) lost = one;
    }
    return lost;
  }

  std::unique_ptr<AgentPage> page_;
  HeartbeatWatch watch_{milliseconds(100)};
  std::int64_t now_ = 1'000'000'000;
};

TEST_F(HeartbeatTest, AStageIsArmedByItsFirstBeat) {
  EXPECT_FALSE(pass(milliseconds(1000), milliseconds(25)));
  EXPECT_FALSE(watch_.period());
  beat();
  EXPECT_FALSE(pass(milliseconds(25), milliseconds(25)));
  EXPECT_EQ(watch_.period(), milliseconds(25));
}

TEST_F(HeartbeatTest, SilenceForTheDeadlineIsALossAndIsToldOnce) {
  beat();
  EXPECT_FALSE(pass(milliseconds(100), milliseconds(25)));
  const auto lost = pass(milliseconds(25), milliseconds(25));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->stage, "main");
  EXPECT_EQ(lost->silent_for, milliseconds(100));
  EXPECT_EQ(lost->deadline, milliseconds(100));
  EXPECT_FALSE(pass(milliseconds(500), milliseconds(25)));
  beat();
  EXPECT_FALSE(pass(milliseconds(25), milliseconds(25)));
  EXPECT_TRUE(pass(milliseconds(200), milliseconds(25)));
}

TEST_F(HeartbeatTest, BeatsKeepItAlive) {
  for (int i = 0; i < 100; ++i) {
    beat();
    EXPECT_FALSE(pass(milliseconds(75), milliseconds(25)));
  }
}

TEST_F(HeartbeatTest, ASupervisorThatDidNotLookDoesNotBlameTheService) {
  beat();
  EXPECT_FALSE(pass(milliseconds(25), milliseconds(25)));
  // Ten seconds without a look: the supervisor was not running, perhaps nobody was.
  EXPECT_FALSE(pass(milliseconds(10'000), milliseconds(10'000)));
  EXPECT_FALSE(pass(milliseconds(50), milliseconds(25)));
  EXPECT_TRUE(pass(milliseconds(50), milliseconds(25)));
}

TEST_F(HeartbeatTest, EachStageHasItsOwnDeadline) {
  claim(1, "fast", 20);
  beat(0);
  beat(1);
  EXPECT_FALSE(pass(milliseconds(5), milliseconds(5)));
  EXPECT_EQ(watch_.period(), milliseconds(5));
  const auto lost = pass(milliseconds(50), milliseconds(5));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->stage, "fast");
}

TEST_F(HeartbeatTest, APausedStageIsNotMissed) {
  beat();
  EXPECT_FALSE(pass(milliseconds(25), milliseconds(25)));
  page_->stages[0].in_use = static_cast<std::uint32_t>(StageUse::kPaused);
  EXPECT_FALSE(pass(milliseconds(1000), milliseconds(25)));
  EXPECT_FALSE(watch_.period());
  page_->stages[0].in_use = static_cast<std::uint32_t>(StageUse::kWatched);
  EXPECT_FALSE(pass(milliseconds(75), milliseconds(25)));
}

TEST_F(HeartbeatTest, AnotherProgramInTheProcessBeginsAnew) {
  beat();
  EXPECT_FALSE(pass(milliseconds(75), milliseconds(25)));
  page_->image_id = 7;
  EXPECT_FALSE(pass(milliseconds(75), milliseconds(25)));
}

TEST_F(HeartbeatTest, ANameWithoutAnEndIsCutAndNotOverrun) {
  std::memset(page_->stages[0].name, 'n', sizeof page_->stages[0].name);
  beat();
  EXPECT_FALSE(pass(milliseconds(25), milliseconds(25)));
  const auto lost = pass(milliseconds(200), milliseconds(25));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->stage, std::string(32, 'n'));
}

TEST_F(HeartbeatTest, NotificationsAreAStageBesideThePage) {
  HeartbeatWatch watch(milliseconds(100));
  EXPECT_FALSE(watch.look(nullptr, now_));
  watch.notify_beat();
  std::optional<HeartbeatWatch::Lost> lost;
  for (int i = 0; i < 6 && !lost; ++i) lost = watch.look(nullptr, now_ += 25'000'000);
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->stage, "sd_notify");
}

TEST_F(HeartbeatTest, ADefaultOfZeroLeavesOnlyStagesWithADeadlineOfTheirOwn) {
  watch_ = HeartbeatWatch(os::Duration(0));
  beat();
  EXPECT_FALSE(pass(milliseconds(10'000), milliseconds(25)));
  claim(1, "own", 40);
  beat(1);
  const auto lost = pass(milliseconds(200), milliseconds(10));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->stage, "own");
}

}  // namespace
}  // namespace defib::process
