#include "defib/process/heartbeat.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

namespace defib::process {
namespace {

using std::chrono::milliseconds;
using Said = HeartbeatWatch::Said;

class HeartbeatTest : public testing::Test {
 protected:
  HeartbeatTest() : page_(std::make_unique<AgentPage>()) { claim(0, "main"); }
  void claim(std::size_t slot, const char* name, std::uint32_t deadline_ms = 0) {
    std::string(name).copy(page_->stages[slot].name, sizeof page_->stages[slot].name - 1);
    page_->stages[slot].deadline_ms = deadline_ms;
    use(StageUse::kWatched, slot);
  }
  void use(StageUse use, std::size_t slot = 0) {
    page_->stages[slot].in_use = static_cast<std::uint32_t>(use);
  }
  void beat(std::size_t slot = 0) {
    page_->stages[slot].beat_mono_ns = 0;
    ++page_->stages[slot].beats;
  }
  void beat_stamped(std::size_t slot = 0) {
    page_->stages[slot].beat_mono_ns = now_;
    ++page_->stages[slot].beats;
  }
  void pass(os::Duration time) { now_ += time.count(); }
  HeartbeatWatch::Look look() { return watch_.look(page_.get(), now_); }
  // Until the next look; nothing where none is due.
  std::optional<os::Duration> wait() const {
    const auto due = watch_.next_due();
    return due ? std::optional(os::Duration(*due - now_)) : std::nullopt;
  }
  // Looks whenever it is due, as the supervisor does, until something is silent or the time is
  // over. Silence is told.
  std::optional<HeartbeatWatch::Silence> run(os::Duration time) {
    const std::int64_t end = now_ + time.count();
    while (true) {
      auto silent = look().silent;
      ++looks_;
      for (const auto& one : silent) watch_.mark_told(one.slot, now_);
      if (!silent.empty()) return silent.front();
      const auto due = watch_.next_due();
      if (!due || *due > end) break;
      EXPECT_GT(*due, now_) << "looks without end";
      if (*due <= now_) break;
      now_ = *due;
    }
    now_ = end;
    return std::nullopt;
  }

  std::unique_ptr<AgentPage> page_;
  HeartbeatWatch watch_{{milliseconds(100), milliseconds(50)}};
  std::int64_t now_ = 1'000'000'000;
  int looks_ = 0;
};

TEST_F(HeartbeatTest, AStageIsArmedByItsFirstBeat) {
  EXPECT_FALSE(run(milliseconds(10'000)));
  EXPECT_EQ(looks_, 1);
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kNone);
  beat();
  look();
  EXPECT_EQ(wait(), std::chrono::microseconds(24'500));
}

TEST_F(HeartbeatTest, ACountingStageIsSilentADeadlineAfterItsLastSeenChange) {
  beat();
  look();
  const auto silence = run(milliseconds(1000));
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->stage, "main");
  EXPECT_FALSE(silence->stamped);
  EXPECT_EQ(silence->silent_for, milliseconds(100));
  EXPECT_EQ(silence->deadline, milliseconds(100));
  EXPECT_FALSE(run(milliseconds(5000)));  // Told once.
  beat();
  EXPECT_TRUE(look().recovered);
  EXPECT_TRUE(run(milliseconds(200)));
}

TEST_F(HeartbeatTest, ACountingStageIsToldWithinAQuarterOfItsDeadlineWheneverItBeatLast) {
  for (int after_ms = 0; after_ms < 100; after_ms += 7) {
    beat();
    look();
    EXPECT_FALSE(run(milliseconds(after_ms)));
    beat();
    const std::int64_t last = now_;
    ASSERT_TRUE(run(milliseconds(1000))) << after_ms;
    EXPECT_GE(now_ - last, 100'000'000);
    EXPECT_LE(now_ - last, 125'000'000) << after_ms;
  }
}

TEST_F(HeartbeatTest, AStampedStageIsSilentExactlyADeadlineAfterItsStamp) {
  beat_stamped();
  look();
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(run(milliseconds(33)));
    beat_stamped();
  }
  const std::int64_t last = now_;
  const auto silence = run(milliseconds(1000));
  ASSERT_TRUE(silence);
  EXPECT_TRUE(silence->stamped);
  EXPECT_EQ(silence->last_beat_ns, last);
  EXPECT_EQ(now_ - last, 100'000'000);
}

TEST_F(HeartbeatTest, AHealthyStampedStageCostsOneLookADeadline) {
  beat_stamped();
  look();
  looks_ = 0;
  std::int64_t next_beat = now_;
  const std::int64_t end = now_ + 10'000'000'000;
  while (now_ < end) {
    const std::int64_t due = watch_.next_due().value();
    for (; next_beat <= due; next_beat += 1'000'000) {
      page_->stages[0].beat_mono_ns = next_beat;
      ++page_->stages[0].beats;
    }
    now_ = due;
    ASSERT_TRUE(look().silent.empty());
    ++looks_;
  }
  EXPECT_LE(looks_, 102);  // 100 deadlines
}

TEST_F(HeartbeatTest, AStageMayChangeBetweenCountingAndStamping) {
  beat_stamped();
  look();
  EXPECT_EQ(wait(), milliseconds(100));
  pass(milliseconds(90));
  beat();  // clears the stamp
  look();
  EXPECT_EQ(wait(), std::chrono::microseconds(24'500));
  const auto silence = run(milliseconds(1000));
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->silent_for, milliseconds(100));
}

TEST_F(HeartbeatTest, AStampInTheFutureIsNoStamp) {
  beat_stamped();
  page_->stages[0].beat_mono_ns = now_ + 3'600'000'000'000;
  EXPECT_TRUE(run(milliseconds(200)));
}

TEST_F(HeartbeatTest, AHeldSilenceComesAgainWhenItIsDueAndEndsWithABeat) {
  beat_stamped();
  look();
  pass(milliseconds(100));
  ASSERT_EQ(look().silent.size(), 1u);
  watch_.hold(0, now_ + 40'000'000, Said::kHeld);
  EXPECT_EQ(wait(), milliseconds(40));
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kHeld);
  pass(milliseconds(39));
  EXPECT_TRUE(look().silent.empty());
  pass(milliseconds(1));
  const auto again = look().silent;
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].said, Said::kHeld);
  EXPECT_EQ(again[0].silent_for, milliseconds(140));
  watch_.hold(0, now_ + 40'000'000, Said::kAlert);
  EXPECT_FALSE(watch_.has_beaten(page_.get(), 0));
  beat_stamped();
  EXPECT_TRUE(watch_.has_beaten(page_.get(), 0));
  EXPECT_TRUE(look().recovered);
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kHealthy);
}

TEST_F(HeartbeatTest, ABeatOlderThanTheHealthyAgeIsLate) {
  beat_stamped();
  claim(1, "slow", 1000);
  beat_stamped(1);
  look();
  pass(milliseconds(50));
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kHealthy);
  pass(milliseconds(1));
  const auto view = watch_.view(page_.get(), now_);
  EXPECT_EQ(view.state, HeartbeatState::kLate);
  EXPECT_EQ(view.stage, "main");
  EXPECT_EQ(view.age, milliseconds(51));
  beat_stamped();
  pass(milliseconds(20));
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kHealthy);
  EXPECT_EQ(watch_.view(page_.get(), now_).age, milliseconds(20));
}

TEST_F(HeartbeatTest, EachStageHasItsOwnDeadline) {
  claim(1, "fast", 20);
  beat(0);
  beat(1);
  look();
  EXPECT_EQ(wait(), std::chrono::microseconds(4'500));
  const auto silence = run(milliseconds(50));
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->stage, "fast");
}

TEST_F(HeartbeatTest, ADeadlineUnderFiveMillisecondsIsTakenForFive) {
  claim(1, "fast", 1);
  beat_stamped(1);
  look();
  EXPECT_EQ(wait(), milliseconds(5));
}

TEST_F(HeartbeatTest, AShortDeadlineOfACountingStageIsLookedAtMoreOften) {
  for (const int deadline_ms : {5, 8}) {
    claim(1, "fast", deadline_ms);
    beat(1);
    look();
    // The look's own lateness must fit into a quarter of the deadline beside it.
    const os::Duration deadline = milliseconds(deadline_ms);
    const os::Duration step = wait().value();
    EXPECT_LE(step + std::chrono::microseconds(500), deadline / 4);
    EXPECT_GE(step, deadline / 8);
  }
}

TEST_F(HeartbeatTest, APausedStageIsNotMissedAndLookedAtOnlyOnceMore) {
  beat_stamped();
  look();
  pass(milliseconds(25));
  use(StageUse::kPaused);
  looks_ = 0;
  EXPECT_FALSE(run(milliseconds(10'000)));
  EXPECT_LE(looks_, 3);
  EXPECT_FALSE(watch_.next_due());
  EXPECT_EQ(watch_.view(page_.get(), now_).state, HeartbeatState::kResting);
  beat_stamped();
  use(StageUse::kWatched);
  EXPECT_FALSE(run(milliseconds(75)));
  EXPECT_TRUE(run(milliseconds(75)));
}

// What agent_core::resume() relies on: a rest of less than half a deadline needs no ring.
TEST_F(HeartbeatTest, AfterAShortRestTheStageIsStillLookedAt) {
  for (int rest_at_ms = 0; rest_at_ms <= 200; rest_at_ms += 3) {
    watch_ = HeartbeatWatch({milliseconds(100), milliseconds(50)});
    beat_stamped();
    look();
    const std::int64_t rest_at = now_ + rest_at_ms * 1'000'000;
    const std::int64_t resume_at = rest_at + 49'000'000;
    std::int64_t beat_at = now_;
    bool silent = false;
    // It beats every 10 ms but for the rest, and hangs after it.
    while (watch_.next_due() && !silent) {
      const std::int64_t due = *watch_.next_due();
      for (; beat_at <= due && beat_at < rest_at; beat_at += 10'000'000) {
        now_ = beat_at;
        beat_stamped();
      }
      if (due >= rest_at) use(StageUse::kPaused);
      if (due >= resume_at && beat_at < resume_at) {
        now_ = beat_at = resume_at;
        beat_stamped();
      }
      if (due >= resume_at) use(StageUse::kWatched);
      now_ = due;
      silent = !look().silent.empty();
    }
    use(StageUse::kWatched);
    EXPECT_TRUE(silent) << rest_at_ms;
  }
}

TEST_F(HeartbeatTest, AnotherProgramInTheProcessBeginsAnew) {
  beat();
  EXPECT_FALSE(run(milliseconds(75)));
  page_->image_id = 7;
  EXPECT_FALSE(run(milliseconds(75)));
}

TEST_F(HeartbeatTest, ANameWithoutAnEndIsCutAndNotOverrun) {
  std::memset(page_->stages[0].name, 'n', sizeof page_->stages[0].name);
  beat();
  const auto silence = run(milliseconds(200));
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->stage, std::string(32, 'n'));
}

TEST_F(HeartbeatTest, NotificationsAreAStampedStageBesideThePage) {
  EXPECT_TRUE(watch_.look(nullptr, now_).beating.empty());
  watch_.notify_beat(now_);
  watch_.look(nullptr, now_);
  EXPECT_EQ(wait(), milliseconds(100));
  watch_.set_notify_deadline(milliseconds(30));
  watch_.notify_beat(now_);
  watch_.look(nullptr, now_);
  EXPECT_EQ(wait(), milliseconds(30));
  pass(milliseconds(30));
  const auto silent = watch_.look(nullptr, now_).silent;
  ASSERT_EQ(silent.size(), 1u);
  EXPECT_EQ(silent[0].stage, "sd_notify");
  EXPECT_TRUE(silent[0].stamped);
}

TEST_F(HeartbeatTest, ADefaultOfZeroLeavesOnlyStagesWithADeadlineOfTheirOwn) {
  watch_ = HeartbeatWatch({os::Duration(0), milliseconds(50)});
  beat();
  EXPECT_FALSE(run(milliseconds(10'000)));
  claim(1, "own", 40);
  beat(1);
  const auto silence = run(milliseconds(200));
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->stage, "own");
}

}  // namespace
}  // namespace defib::process
