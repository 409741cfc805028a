// Death is noticed before the end, told apart from what only looks like it, and used for an early
// replacement where that is wanted.

#include <signal.h>

#include <fstream>

#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

class DyingService : public SupervisorTest {
 protected:
  // Large enough that the kernel needs many milliseconds to tear it down.
  static constexpr const char* kLargeMb = "400";

  ServiceSpec agent_victim(std::vector<std::string> arguments) const {
    ServiceSpec spec = victim(std::move(arguments));
    spec.argv[0] = program("process_agent_victim");
    spec.expects_ready = true;
    return spec;
  }
  void start_ready(const ServiceSpec& spec) {
    start(spec);
    run_until([&] { return seen_->ready_count == 1 && status().restart_ready; });
  }
};

TEST_F(DyingService, DeathIsToldBeforeTheEnd) {
  start_ready(agent_victim({"run", kLargeMb}));
  const pid_t service = status().pid;
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  ASSERT_EQ(seen_->deaths.size(), 1u);
  EXPECT_EQ(seen_->deaths.at(0).pid, service);
  EXPECT_EQ(seen_->deaths.at(0).generation, 1u);
  EXPECT_EQ(seen_->deaths.at(0).sign, shim::DyingSign::kLifeLock);
  ASSERT_EQ(seen_->exits.size(), 1u);
  EXPECT_LT(seen_->deaths.at(0).noticed_mono_ns, seen_->exits.at(0).noticed_mono_ns);
  // Locks and ports are held until the end: by default nobody starts before it.
  EXPECT_GT(seen_->starts.at(1).mono_ns, seen_->exits.at(0).noticed_mono_ns);
}

TEST_F(DyingService, TheReplacementMayStartBeforeTheEnd) {
  ServiceSpec spec = agent_victim({"run", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  for (std::size_t round = 1; round <= 3; ++round) {
    const pid_t service = status().pid;
    const int signal = round == 2 ? SIGTERM : SIGKILL;
    kill_one(service, signal);
    run_until([&] { return seen_->starts.size() == round + 1 && seen_->exits.size() == round; });
    EXPECT_TRUE(seen_->starts.back().by_ticket);
    EXPECT_LT(seen_->starts.back().mono_ns, seen_->exits.back().noticed_mono_ns);
    EXPECT_EQ(seen_->exits.back().pid, service);
    EXPECT_EQ(seen_->exits.back().generation, round);
    EXPECT_EQ(seen_->exits.back().status.signal, signal);
    EXPECT_EQ(seen_->exits.back().source, shim::StatusSource::kWait);
    run_until([&] { return status().ready && status().restart_ready; });
    EXPECT_EQ(status().restarts_in_window, static_cast<int>(round));
  }
}

// The shim has promised to start the next one, and called that off before the end.
TEST_F(DyingService, AStopBetweenTheFenceAndTheEndIsKept) {
  ServiceSpec spec = agent_victim({"run", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  spec.restart_delay = std::chrono::seconds(100);
  start_ready(spec);
  kill_service(SIGKILL);
  run_until([&] { return seen_->exits.size() == 1 && status().ready && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->deaths.size() == 2; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->exits.size() == 2; });
  run_until([&] { return status().state == ServiceState::kStopped; });
}

TEST_F(DyingService, WithoutATicketTheEndIsAwaited) {
  ServiceSpec spec = agent_victim({"run", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  spec.max_restarts = 0;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->loops.size() == 1; });
  EXPECT_EQ(seen_->starts.size(), 1u);
  EXPECT_EQ(status().state, ServiceState::kFailed);
}

TEST_F(DyingService, ACleanEndIsNoFailureHoweverEarlyItIsSeen) {
  ServiceSpec spec = agent_victim({"quit", kLargeMb, "0"});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  kill_service(SIGUSR1);
  run_until([&] { return status().state == ServiceState::kStopped; });
  EXPECT_EQ(seen_->deaths.size(), 1u);
  EXPECT_EQ(seen_->starts.size(), 1u);
  EXPECT_TRUE(seen_->exits.at(0).status.success());
}

TEST_F(DyingService, AFailingEndIsReplacedEarly) {
  ServiceSpec spec = agent_victim({"quit", kLargeMb, "7"});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  kill_service(SIGUSR1);
  run_until([&] { return seen_->starts.size() == 2 && seen_->exits.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.code, 7);
  EXPECT_LT(seen_->starts.at(1).mono_ns, seen_->exits.at(0).noticed_mono_ns);
}

TEST_F(DyingService, ACrashIsToldByItsFlagAndReplacedWhileItsCoreIsWritten) {
  ServiceSpec spec = agent_victim({"crash", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  spec.working_directory = dir_;
  start_ready(spec);
  kill_service(SIGUSR1);
  run_until([&] { return seen_->starts.size() == 2 && seen_->exits.size() == 1; });
  ASSERT_EQ(seen_->deaths.size(), 1u);
  EXPECT_EQ(seen_->deaths.at(0).sign, shim::DyingSign::kCrashFlag);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
  EXPECT_NE(seen_->exits.at(0).crashed_mono_ns, 0);
  EXPECT_LT(seen_->starts.at(1).mono_ns, seen_->exits.at(0).noticed_mono_ns);
}

TEST_F(DyingService, AnotherProgramInTheSameProcessIsNoDeathAndIsWatchedAgain) {
  start_ready(agent_victim({"exec", kLargeMb}));
  const pid_t service = status().pid;
  kill_one(service, SIGUSR1);
  // The new image says READY=1 a second time.
  run_until(
      [&] { return std::ranges::count(seen_->notifications, "READY", &NotifyEvent::key) == 2; });
  EXPECT_TRUE(seen_->deaths.empty());
  EXPECT_EQ(status().pid, service);
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_EQ(seen_->deaths.size(), 1u);
}

TEST_F(DyingService, TheEndOfTheMainThreadIsNoDeath) {
  ServiceSpec spec = agent_victim({"main-ends", "50"});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  const pid_t service = status().pid;
  kill_one(service, SIGUSR1);
  run_until([&] {
    std::ifstream stat("/proc/" + std::to_string(service) + "/stat");
    std::string text;
    std::getline(stat, text);
    return text.find(") Z ") != std::string::npos;
  });
  // Time enough for every look that the shim takes.
  bool passed = false;
  loop_->run_after(std::chrono::milliseconds(50), [&] { passed = true; });
  run_until([&] { return passed; });
  EXPECT_TRUE(seen_->deaths.empty());
  EXPECT_EQ(seen_->starts.size(), 1u);
  EXPECT_TRUE(seen_->exits.empty());
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(DyingService, AnAgentThatAttachedOnAnotherThreadPromisesNothing) {
  start_ready(agent_victim({"late", "50"}));
  EXPECT_TRUE(seen_->deaths.empty());
  kill_service(SIGKILL);
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_TRUE(seen_->deaths.empty());
}

TEST_F(DyingService, AShimThatTakesOverWatchesToo) {
  ServiceSpec spec = agent_victim({"run", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1 && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && seen_->exits.size() == 1; });
  EXPECT_EQ(seen_->deaths.size(), 1u);
  EXPECT_LT(seen_->starts.at(1).mono_ns, seen_->exits.at(0).noticed_mono_ns);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(DyingService, AShimThatIsKilledBesideADyingServiceDoublesNothing) {
  ServiceSpec spec = agent_victim({"run", kLargeMb});
  spec.restart_when = RestartWhen::kDying;
  start_ready(spec);
  for (std::size_t round = 1; round <= 5; ++round) {
    run_until([&] { return status().ready && status().restart_ready; });
    const std::uint64_t generation = status().generation;
    const pid_t service = status().pid;
    kill_one(service, SIGKILL);
    ::usleep(static_cast<useconds_t>(round * 700));
    kill_shim();
    run_until([&] { return status().generation > generation && status().ready; });
    run_until([&] { return seen_->exits.size() == round; });
    EXPECT_EQ(seen_->exits.back().pid, service);
    EXPECT_EQ(seen_->exits.back().status.signal, SIGKILL);
    EXPECT_EQ(status().generation, generation + 1);
  }
}

}  // namespace
}  // namespace defib::process
