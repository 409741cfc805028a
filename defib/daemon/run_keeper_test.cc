// Which runs are good: what lives in health for long enough, and what ends well.

#include "defib/daemon/run_keeper.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <vector>

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

class RunKeeperTest : public ::testing::Test {
 protected:
  RunKeeperTest()
      : loop_(std::move(*os::EventLoop::create())),
        keeper_(
            *loop_, [this](const std::string&) { return healthy_; },
            [this](const std::string& service, pid_t pid, std::uint64_t generation, bool live) {
              good_.push_back(
                  fmt::format("{} {} {} {}", service, pid, generation, live ? "lives" : "ended"));
            }) {}
  void run_for(os::Duration time) {
    loop_->run_after(time, [this] { loop_->stop(); });
    EXPECT_TRUE(loop_->run());
  }
  std::unique_ptr<os::EventLoop> loop_;
  bool healthy_ = true;
  std::vector<std::string> good_;
  RunKeeper keeper_;
};
using Runs = std::vector<std::string>;

TEST_F(RunKeeperTest, ARunIsGoodOnceItHasLivedForLongEnough) {
  keeper_.started("engine", 11, 1, 50ms);
  EXPECT_EQ(good_, Runs());
  run_for(300ms);
  EXPECT_EQ(good_, Runs{"engine 11 1 lives"});
  keeper_.ended("engine", 1, true);
  EXPECT_EQ(good_.size(), 1U);  // told once
}

TEST_F(RunKeeperTest, ARunThatEndsBeforeIsNot) {
  keeper_.started("engine", 11, 1, 50ms);
  keeper_.ended("engine", 1, false);
  keeper_.started("engine", 12, 2, 10s);
  keeper_.ended("engine", 2, true);  // well, but at once
  run_for(300ms);
  EXPECT_EQ(good_, Runs());
}

TEST_F(RunKeeperTest, OnlyTheNewestProcessCounts) {
  keeper_.started("engine", 11, 1, 50ms);
  keeper_.started("engine", 12, 2, 50ms);
  keeper_.ended("engine", 1, false);  // told late
  run_for(300ms);
  EXPECT_EQ(good_, Runs{"engine 12 2 lives"});
}

TEST_F(RunKeeperTest, WhileSomethingIsWrongItIsNot) {
  healthy_ = false;
  keeper_.started("engine", 11, 1, 30ms);
  run_for(200ms);
  EXPECT_EQ(good_, Runs());
  healthy_ = true;
  run_for(200ms);
  EXPECT_EQ(good_, Runs{"engine 11 1 lives"});
}

TEST_F(RunKeeperTest, AJobThatEndsWellIsGood) {
  keeper_.started("job", 11, 1, 1h);
  run_for(RunKeeper::kShortest + 50ms);
  keeper_.ended("job", 1, true);
  EXPECT_EQ(good_, Runs{"job 11 1 ended"});
  keeper_.started("job", 12, 2, 1h);
  run_for(RunKeeper::kShortest + 50ms);
  keeper_.ended("job", 2, false);
  EXPECT_EQ(good_.size(), 1U);
}

}  // namespace
}  // namespace defib::daemon
