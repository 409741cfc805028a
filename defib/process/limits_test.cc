#include "defib/process/limits.h"

#include <gtest/gtest.h>

#include "defib/os/event_loop.h"
#include "defib/process/sampler.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t seconds(double count) {
  return static_cast<std::int64_t>(count * 1e9);
}

TEST(CpuWindow, ABurstIsNoUseOfAWholeWindow) {
  CpuWindow window(60s);
  // 55 s at two processors after a minute of rest.
  double cpu = 0;
  for (int at = 0; at <= 115; at += 5) {
    window.add(seconds(at + 1), seconds(cpu));
    cpu += at >= 60 ? 10 : 0;
    if (at < 60) {
      EXPECT_FALSE(window.mean()) << at;
    }
  }
  ASSERT_TRUE(window.mean());
  EXPECT_NEAR(*window.mean(), 110.0 / 60, 0.01);
  EXPECT_NEAR(*window.latest(), 2.0, 0.01);
}

TEST(CpuWindow, NothingIsSaidBeforeAWindowHasPassed) {
  CpuWindow window(10s);
  for (int at = 1; at <= 10; ++at) {
    window.add(seconds(at), seconds(at));
    EXPECT_FALSE(window.mean()) << at;
  }
  window.add(seconds(11), seconds(11));
  EXPECT_NEAR(window.mean().value_or(0), 1.0, 0.001);
}

TEST(CpuWindow, TimeThatGoesBackAndManySamplesAreBounded) {
  CpuWindow window(1s);
  for (std::int64_t i = 1; i <= 100'000; ++i) window.add(i * 1'000'000, i * 500'000);
  EXPECT_NEAR(*window.mean(), 0.5, 0.02);
  window.add(200'000 * 1'000'000LL, 0);  // processes took their count with them
  EXPECT_GE(*window.mean(), 0);
}

TEST(LimitJudge, AUseThatSwingsAroundItsLimitIsOneEvent) {
  LimitJudge judge;
  EXPECT_EQ(judge.judge(Resource::kThreads, 100, 100), LimitVerdict::kNothing);
  EXPECT_EQ(judge.judge(Resource::kThreads, 101, 100), LimitVerdict::kExceeded);
  for (const double value : {99.0, 101.0, 96.0, 105.0}) {
    EXPECT_EQ(judge.judge(Resource::kThreads, value, 100), LimitVerdict::kNothing) << value;
  }
  EXPECT_TRUE(judge.exceeded(Resource::kThreads));
  EXPECT_FALSE(judge.exceeded(Resource::kMemory));
  EXPECT_EQ(judge.judge(Resource::kThreads, 94, 100), LimitVerdict::kCleared);
  EXPECT_FALSE(judge.any_exceeded());
  EXPECT_EQ(judge.judge(Resource::kThreads, 101, 100), LimitVerdict::kExceeded);
}

TEST(LimitJudge, ALimitThatIsTakenAwayIsCleared) {
  LimitJudge judge;
  EXPECT_EQ(judge.judge(Resource::kMemory, 1e9, 0), LimitVerdict::kNothing);
  EXPECT_EQ(judge.judge(Resource::kMemory, 1e9, 1e8), LimitVerdict::kExceeded);
  EXPECT_EQ(judge.judge(Resource::kMemory, 1e9, 0), LimitVerdict::kCleared);
}

TEST(Limits, EachResourceHasItsOwnActionOrTheCommonOne) {
  ServiceSpec spec;
  EXPECT_FALSE(has_limits(spec));
  spec.max_descriptors_percent = 50;
  EXPECT_TRUE(has_limits(spec));
  EXPECT_EQ(limit_of(spec, Resource::kDescriptors, 1024), 512);
  spec.max_descriptors = 10;
  EXPECT_EQ(limit_of(spec, Resource::kDescriptors, 1024), 10);
  spec.on_limit = LimitAction::kRestart;
  spec.on_threads = LimitAction::kAlert;
  EXPECT_EQ(action_of(spec, Resource::kThreads), LimitAction::kAlert);
  EXPECT_EQ(action_of(spec, Resource::kMemory), LimitAction::kRestart);
}

// Runs the loop for a while.
void run_for(os::EventLoop& loop, os::Duration time) {
  loop.run_after(time, [&] { loop.stop(); });
  EXPECT_TRUE(loop.run());
}

TEST(Sampler, AHundredServicesWakeTheSupervisorOnceAnInterval) {
  auto loop = std::move(*os::EventLoop::create());
  Sampler sampler(*loop);
  int calls = 0;
  int added = 0;
  // At any instants of the first interval.
  const auto adding = loop->run_every(1ms, [&] {
    if (added < 100) sampler.add(100ms, [&] { ++calls; });
    ++added;
  });
  run_for(*loop, 130ms);
  loop->cancel(adding);
  const std::uint64_t before = sampler.wake_ups();
  calls = 0;
  const std::int64_t begun = loop->clock().mono_ns();
  run_for(*loop, 450ms);
  const auto passed = static_cast<std::uint64_t>(loop->clock().mono_ns() - begun) / 100'000'000;
  const std::uint64_t woken = sampler.wake_ups() - before;
  EXPECT_GE(woken, 1u);
  EXPECT_LE(woken, passed + 1);
  EXPECT_EQ(static_cast<std::uint64_t>(calls), woken * 100);
}

TEST(Sampler, WhileNobodyIsRegisteredNothingWakes) {
  auto loop = std::move(*os::EventLoop::create());
  Sampler sampler(*loop);
  const Sampler::Id one = sampler.add(10ms, [] {});
  sampler.remove(one);
  run_for(*loop, 60ms);
  EXPECT_EQ(sampler.wake_ups(), 0u);
}

TEST(Sampler, AHandlerMayRemoveItselfAndOthers) {
  auto loop = std::move(*os::EventLoop::create());
  Sampler sampler(*loop);
  Sampler::Id first = 0, second = 0;
  int calls = 0;
  first = sampler.add(10ms, [&] {
    ++calls;
    sampler.remove(first);
    sampler.remove(second);
  });
  second = sampler.add(10ms, [&] { calls += 100; });
  run_for(*loop, 60ms);
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace defib::process
