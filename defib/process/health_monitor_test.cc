#include "defib/process/health_monitor.h"

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <stdexcept>

#include "defib/obs/log.h"
#include "defib/process/manager_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;

// A monitor over a sample that the test sets.
struct Watched {
  explicit Watched(HealthOptions options = {}) {
    auto made = HealthMonitor::create(options, [this]() -> Result<SystemSample> { return now; });
    EXPECT_TRUE(made);
    monitor = std::move(*made);
    monitor->on_crossing([this](const HealthCrossing& crossing) { told.push_back(crossing); });
  }
  void check() { EXPECT_TRUE(monitor->check()); }
  SystemSample now;
  std::vector<HealthCrossing> told;
  std::unique_ptr<HealthMonitor> monitor;
};

TEST(HealthMonitor, TellsEachCrossingOnceAndClearsWithHysteresis) {
  Watched watched;
  watched.now.memory_percent = 79.9;
  watched.check();
  EXPECT_TRUE(watched.told.empty());
  watched.now.memory_percent = 80;
  watched.check();
  watched.check();
  ASSERT_EQ(watched.told.size(), 1u);
  EXPECT_EQ(watched.told[0].resource, Resource::kMemory);
  EXPECT_TRUE(watched.told[0].alarmed);
  EXPECT_EQ(watched.told[0].threshold, 80);
  EXPECT_TRUE(watched.monitor->alarmed(Resource::kMemory));
  EXPECT_FALSE(watched.monitor->healthy());
  watched.now.memory_percent = 75.1;  // below the threshold, but not by 5
  watched.check();
  EXPECT_EQ(watched.told.size(), 1u);
  watched.now.memory_percent = 75;
  watched.check();
  ASSERT_EQ(watched.told.size(), 2u);
  EXPECT_FALSE(watched.told[1].alarmed);
  EXPECT_TRUE(watched.monitor->healthy());
}

TEST(HealthMonitor, WatchesProcessorsAndDiskByTheirOwnThresholds) {
  Watched watched;
  watched.now.cpu_percent = 89;
  watched.now.disk_percent = 89;
  watched.check();
  EXPECT_TRUE(watched.told.empty());
  watched.now.machine_cpu_percent = 90;  // the machine's counts too: the service starves
  watched.now.disk_percent = 90;
  watched.check();
  ASSERT_EQ(watched.told.size(), 2u);
  EXPECT_EQ(watched.told[0].resource, Resource::kCpu);
  EXPECT_EQ(watched.told[1].resource, Resource::kDisk);
}

TEST(HealthMonitor, AThresholdOfZeroIsNotWatched) {
  HealthOptions options;
  options.disk_percent = 0;
  Watched watched(options);
  watched.now.disk_percent = 100;
  watched.check();
  EXPECT_TRUE(watched.told.empty());
}

TEST(HealthMonitor, ACallbackThatThrowsDoesNotStopTheOthers) {
  obs::set_log_level(obs::Level::kOff);
  Watched watched;
  watched.monitor->on_crossing([](const HealthCrossing&) { throw std::runtime_error("no"); });
  int after = 0;
  watched.monitor->on_crossing([&](const HealthCrossing&) { ++after; });
  watched.now.memory_percent = 99;
  watched.check();
  EXPECT_EQ(after, 1);
  obs::set_log_level(obs::Level::kInfo);
}

TEST(HealthMonitor, ImpossibleOptionsAreRefusedByName) {
  for (const auto& [name, change] :
       std::vector<std::pair<std::string, std::function<void(HealthOptions&)>>>{
           {"memory_percent", [](HealthOptions& o) { o.memory_percent = 101; }},
           {"cpu_percent", [](HealthOptions& o) { o.cpu_percent = -1; }},
           {"disk_percent", [](HealthOptions& o) { o.disk_percent = 1e9; }},
           {"hysteresis", [](HealthOptions& o) { o.hysteresis = -1; }},
           {"interval", [](HealthOptions& o) { o.interval = 1ms; }}}) {
    HealthOptions options;
    change(options);
    const auto made = HealthMonitor::create(options);
    ASSERT_FALSE(made) << name;
    EXPECT_EQ(made.error().field("field"), name);
    EXPECT_EQ(made.error().code(), Code::kConfigBadValue);
  }
}

TEST(HealthMonitor, ItsThreadChecksByItselfAndStopsAlsoFromACallback) {
  HealthOptions options;
  options.interval = 10ms;
  std::atomic<int> checks{0};
  auto made = HealthMonitor::create(options, [&]() -> Result<SystemSample> {
    SystemSample sample;
    sample.memory_percent = ++checks >= 3 ? 99 : 1;
    return sample;
  });
  ASSERT_TRUE(made);
  HealthMonitor& monitor = **made;
  std::atomic<bool> crossed{false};
  monitor.on_crossing([&](const HealthCrossing&) {
    monitor.stop();
    crossed = true;
  });
  ASSERT_TRUE(monitor.start());
  ASSERT_TRUE(monitor.start());
  while (!crossed) std::this_thread::yield();
  made->reset();
  EXPECT_EQ(checks, 3);
}

TEST(HealthMonitor, ACheckCostsFarBelowAPercentOfAProcessor) {
  auto monitor = HealthMonitor::create({});
  ASSERT_TRUE(monitor);
  constexpr int kChecks = 100;
  const auto cpu_ns = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
  };
  const auto before = cpu_ns();
  for (int i = 0; i < kChecks; ++i) ASSERT_TRUE((*monitor)->check());
  const double each_ns = static_cast<double>(cpu_ns() - before) / kChecks;
  printf("one check: %.0f us of processor time; at the default interval %.5f %%\n", each_ns / 1000,
         100 * each_ns / 60e9);
  EXPECT_LT(each_ns, 0.01 * 1e9);  // 1 % even at an interval of a second
}

}  // namespace
}  // namespace defib::process
