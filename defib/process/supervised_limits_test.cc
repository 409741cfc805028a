// Limits, health and readiness of real processes.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "defib/os/process_tree.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;
using SupervisedLimits = SupervisorTest;

TEST_F(SupervisedLimits, MemoryOverTheLimitAlertsOnceAndLeavesTheServiceAlone) {
  ServiceSpec spec = victim({"eat", "60"});
  spec.max_memory_bytes = 30u << 20;
  spec.sample_interval = 20ms;
  start(spec);
  run_until([&] { return !seen_->limits.empty(); });
  const LimitReport& report = seen_->limits.at(0);
  EXPECT_EQ(report.what, "memory");
  EXPECT_GT(report.value, report.limit);
  EXPECT_FALSE(report.kills);
  EXPECT_EQ(report.processes, 1);
  EXPECT_EQ(report.pid, status().pid);
  EXPECT_EQ(status().state, ServiceState::kDegraded);
  EXPECT_NE(status().reason.find("its limit is 30.0 MB"), std::string::npos);
  const std::int64_t until = loop_->clock().mono_ns() + 100'000'000;
  run_until([&] { return loop_->clock().mono_ns() > until; });
  EXPECT_EQ(seen_->limits.size(), 1u);
  EXPECT_TRUE(seen_->exits.empty());
}

// Two processes share 40 MB: neither a limit that both sizes together exceed, nor one that only the
// sum of resident sizes exceeds, may be mistaken.
TEST_F(SupervisedLimits, MemoryIsThatOfTheWholeTreeAndSharedPagesCountOnce) {
  ServiceSpec spec = victim({"eat-together", "40"});
  spec.max_memory_bytes = 60u << 20;
  spec.sample_interval = 10ms;
  start(spec);
  run_until([&] { return status().processes == 2 && status().memory_source == "pss"; });
  EXPECT_GT(status().memory_bytes, 38u << 20);
  EXPECT_LT(status().memory_bytes, 60u << 20);
  const std::int64_t until = loop_->clock().mono_ns() + 150'000'000;
  run_until([&] { return loop_->clock().mono_ns() > until; });
  EXPECT_TRUE(seen_->limits.empty());
  spec.max_memory_bytes = 35u << 20;
  ASSERT_TRUE(supervisor_->update(spec));
  run_until([&] { return !seen_->limits.empty(); });
  EXPECT_EQ(seen_->limits.at(0).source, "pss");
  EXPECT_EQ(seen_->limits.at(0).processes, 2);
}

TEST_F(SupervisedLimits, AChildsMemoryIsTheServices) {
  ServiceSpec spec = victim({"eat-in-child", "60"});
  spec.max_memory_bytes = 30u << 20;
  spec.sample_interval = 10ms;
  spec.on_memory = LimitAction::kRestart;
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->limits.at(0).processes, 2);
  EXPECT_TRUE(seen_->limits.at(0).kills);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kLimit);
  run_until([&] { return seen_->starts.size() == 2; });
}

TEST_F(SupervisedLimits, AUseThatEndsIsClearedAndTheServiceIsHealthyAgain) {
  ServiceSpec spec = victim({"eat-then-free", "60"});
  spec.max_memory_bytes = 30u << 20;
  spec.sample_interval = 10ms;
  start(spec);
  run_until([&] { return !seen_->limits.empty(); });
  kill_service(SIGUSR1);
  run_until([&] { return !seen_->cleared.empty(); });
  EXPECT_LT(seen_->cleared.at(0).value, seen_->cleared.at(0).limit);
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

// One spinning thread on one allowed processor is all of it, whatever the machine has.
TEST_F(SupervisedLimits, ProcessorTimeIsOfAllProcessorsAllowedAndOverAWindow) {
  ServiceSpec spec = victim({"spin", "1", "pinned"});
  spec.max_cpu_percent = 15;  // low: others may want that processor too
  spec.max_cpu_window = 400ms;
  spec.sample_interval = 20ms;
  start(spec);
  run_until([&] { return !seen_->limits.empty(); });
  const LimitReport& report = seen_->limits.at(0);
  EXPECT_EQ(report.what, "cpu");
  EXPECT_EQ(report.processors, 1);
  EXPECT_EQ(report.over, 400ms);
  EXPECT_GT(report.value, 15);
  EXPECT_LE(report.value, 110);
  const std::int64_t began = seen_->starts.at(0).mono_ns;
  EXPECT_GE(loop_->clock().mono_ns() - began, os::Duration(400ms).count());
}

TEST_F(SupervisedLimits, HalfOfTheAllowedProcessorsIsNotOverAHigherLimit) {
  if (os::allowed_processors(::getpid()) < 2) GTEST_SKIP() << "one processor only";
  ServiceSpec spec = victim({"spin", "1"});
  spec.max_cpu_percent = 90;
  spec.max_cpu_window = 200ms;
  spec.sample_interval = 20ms;
  start(spec);
  run_until([&] { return !seen_->starts.empty(); });
  const std::int64_t until = seen_->starts.at(0).mono_ns + 700'000'000;
  run_until([&] { return loop_->clock().mono_ns() > until; });
  EXPECT_TRUE(seen_->limits.empty());
}

TEST_F(SupervisedLimits, ABurstShorterThanTheWindowIsNothing) {
  ServiceSpec spec = victim({"spin-for", "150", "pinned"});
  spec.max_cpu_percent = 60;
  spec.max_cpu_window = 1s;
  spec.sample_interval = 20ms;
  start(spec);
  run_until([&] { return !seen_->starts.empty(); });
  const std::int64_t until = seen_->starts.at(0).mono_ns + 1'300'000'000;
  run_until([&] { return loop_->clock().mono_ns() > until; });
  EXPECT_TRUE(seen_->limits.empty());
}

TEST_F(SupervisedLimits, DescriptorsAbsoluteOrAsAShareOfTheirLimit) {
  ServiceSpec spec = victim({"open", "50", "100"});  // RLIMIT_NOFILE 100
  spec.max_descriptors = 40;
  spec.sample_interval = 10ms;
  start(spec);
  run_until([&] { return !seen_->limits.empty(); });
  EXPECT_EQ(seen_->limits.at(0).what, "descriptors");
  EXPECT_GE(seen_->limits.at(0).value, 50);
  EXPECT_LE(seen_->limits.at(0).value, 70);
  spec.max_descriptors = 0;
  spec.max_descriptors_percent = 95;
  ASSERT_TRUE(supervisor_->update(spec));
  run_until([&] { return !seen_->cleared.empty(); });
  spec.max_descriptors_percent = 45;
  ASSERT_TRUE(supervisor_->update(spec));
  run_until([&] { return seen_->limits.size() == 2; });
  EXPECT_EQ(seen_->limits.at(1).limit, 45);
}

TEST_F(SupervisedLimits, ThreadsAreCounted) {
  ServiceSpec spec = victim({"threads", "20"});
  spec.max_threads = 10;
  spec.sample_interval = 10ms;
  spec.on_threads = LimitAction::kRestart;
  start(spec);
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->limits.at(0).what, "threads");
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kLimit);
}

TEST_F(SupervisedLimits, TheStatusAsksOnDemandAndNothingWakesWithoutALimit) {
  start(victim({"eat", "30"}));
  run_until([&] { return status().memory_bytes > (30u << 20); });
  EXPECT_EQ(status().processes, 1);
  EXPECT_EQ(status().threads, 1);
  EXPECT_EQ(status().memory_source, "rss");
}

TEST_F(SupervisedLimits, AServiceThatForkedAndLeftIsStillMeasured) {
  start(victim({"forking"}));
  run_until([&] { return seen_->ready_count == 1; });
  const pid_t launcher = seen_->starts.at(0).pid;
  run_until([&] { return ::kill(launcher, 0) != 0; });
  run_until([&] { return status().processes == 1 && status().memory_bytes > 0; });
}

TEST_F(SupervisedLimits, DegradedEndsWhenNeitherAProbeNorALimitSaysOtherwise) {
  ServiceSpec spec = victim({"eat-then-free", "60"});
  spec.max_memory_bytes = 30u << 20;
  spec.sample_interval = 10ms;
  spec.on_unhealthy = LimitAction::kAlert;
  start(spec);
  run_until([&] { return !seen_->limits.empty(); });
  ASSERT_TRUE(supervisor_->report_health("victim", recovery::Health::kUnhealthy, "HTTP 500"));
  ASSERT_TRUE(supervisor_->report_health("victim", recovery::Health::kHealthy, "HTTP 200"));
  EXPECT_EQ(status().state, ServiceState::kDegraded);
  kill_service(SIGUSR1);
  run_until([&] { return !seen_->cleared.empty(); });
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(SupervisedLimits, AProbesOwnActionStandsBeforeTheSpecs) {
  ServiceSpec spec = victim({"run"});
  spec.on_unhealthy = LimitAction::kAlert;
  start(spec);
  run_until([&] { return status().pid > 0; });
  ASSERT_TRUE(supervisor_->report_health("victim", recovery::Health::kUnhealthy, "dead",
                                         LimitAction::kRestart));
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kUnhealthy);
}

TEST_F(SupervisedLimits, AReadyProbeDecidesWhenTheServiceRuns) {
  ServiceSpec spec = victim({"run"});
  spec.ready_probe = "tcp";
  start(spec);
  run_until([&] { return status().pid > 0; });
  EXPECT_EQ(status().state, ServiceState::kStarting);
  EXPECT_NE(status().reason.find("'tcp'"), std::string::npos);
  EXPECT_EQ(status().next_action, "give_up_waiting");
  EXPECT_GT(status().next_action_mono_ns, loop_->clock().mono_ns());
  ASSERT_TRUE(supervisor_->report_ready("victim"));
  EXPECT_EQ(status().state, ServiceState::kRunning);
  EXPECT_EQ(seen_->ready_count, 1);
  EXPECT_TRUE(status().ready);
  ASSERT_TRUE(supervisor_->report_ready("victim"));
  EXPECT_EQ(seen_->ready_count, 1);
}

TEST_F(SupervisedLimits, ReadyProbeAndReadyMessageAreBothWaitedFor) {
  ServiceSpec spec = victim({"notify"});
  spec.expects_ready = true;
  spec.ready_probe = "tcp";
  start(spec);
  run_until([&] { return seen_->notifications.size() == 5; });
  EXPECT_EQ(seen_->ready_count, 0);
  ASSERT_TRUE(supervisor_->report_ready("victim"));
  EXPECT_EQ(seen_->ready_count, 1);
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(SupervisedLimits, AReadyProbeThatNeverPassesIsAFailedStart) {
  ServiceSpec spec = victim({"run"});
  spec.ready_probe = "tcp";
  spec.ready_timeout = 100ms;
  spec.max_restarts = 1;
  start(spec);
  run_until([&] { return !seen_->loops.empty(); });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kNotReady);
}

// A service that runs for hours is not late because its supervisor is new.
TEST_F(SupervisedLimits, AnAdoptedServiceGetsItsWholeTimeForTheReadyProbe) {
  ServiceSpec spec = victim({"run"});
  spec.ready_probe = "tcp";
  spec.ready_timeout = 300ms;
  start(spec);
  run_until([&] { return status().pid > 0; });
  ASSERT_TRUE(supervisor_->report_ready("victim"));
  const std::int64_t until = loop_->clock().mono_ns() + 400'000'000;
  run_until([&] { return loop_->clock().mono_ns() > until; });
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  const std::int64_t later = loop_->clock().mono_ns() + 50'000'000;
  run_until([&] { return loop_->clock().mono_ns() > later; });
  EXPECT_TRUE(seen_->exits.empty());
  EXPECT_EQ(status().state, ServiceState::kStarting);
  ASSERT_TRUE(supervisor_->report_ready("victim"));
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(SupervisedLimits, AReplacementThatIsAskedForIsGracefulAndSaysWhy) {
  ServiceSpec spec = victim({"graceful", "0"});
  start(spec);
  run_until([&] { return status().pid > 0 && ::access((dir_ + "/alive").c_str(), F_OK) == 0; });
  ASSERT_TRUE(supervisor_->replace("victim", StopReason::kPattern,
                                   Error(Code::kProbeFailed, "its output says so")));
  EXPECT_EQ(status().state, ServiceState::kStopping);
  EXPECT_EQ(status().next_action, "kill");
  EXPECT_EQ(status().reason, "its output asks for a replacement");
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kPattern);
}

TEST_F(SupervisedLimits, TheStatusSaysWhyItBacksOffAndWhenItStarts) {
  ServiceSpec spec = victim({"exit", "3"});
  spec.restart_delay = 1h;
  spec.restart_delay_cap = 1h;
  start(spec);
  run_until([&] { return seen_->exits.size() == 2; });
  EXPECT_EQ(status().reason, "it ended: exit code 3");
  EXPECT_EQ(status().next_action, "start");
  EXPECT_GT(status().next_action_mono_ns, loop_->clock().mono_ns() + os::Duration(54min).count());
}

}  // namespace
}  // namespace defib::process
