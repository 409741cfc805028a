// A standby takes over at once, and never beside one that still acts.

#include <fcntl.h>
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defib/os/random.h"
#include "defib/process/supervisor_test_util.h"
#include "defib/process/testcases/proof.h"

namespace defib::process {
namespace {

using testing::HasSubstr;

class StandbyService : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    const int fd = ::open((dir_ + "/proof").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_EQ(::ftruncate(fd, sizeof(Proof)), 0);
    void* memory = ::mmap(nullptr, sizeof(Proof), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(memory, MAP_FAILED);
    ::close(fd);
    proof_ = static_cast<Proof*>(memory);
  }
  void TearDown() override {
    SupervisorTest::TearDown();
    if (proof_ != nullptr) {
      EXPECT_EQ(proof_->violations.load(), 0u) << "two were active at once";
      ::munmap(proof_, sizeof(Proof));
    }
  }
  ServiceSpec pair(int megabytes = 1) const {
    ServiceSpec spec = victim({"alone", std::to_string(megabytes), dir_ + "/proof"});
    spec.argv[0] = program("process_agent_victim");
    spec.expects_ready = true;
    spec.standby = true;
    spec.max_restarts = 1'000'000;
    // So that the fence alone stands before a promotion, not the status with which one ends.
    spec.restart = RestartPolicy::kAlways;
    return spec;
  }
  bool settled() const {
    const ServiceStatus now = status();
    return now.pid > 0 && now.ready && now.standby_ready && now.restart_ready &&
           Proof::owner_of(now.epoch, now.pid) == proof_->owner.load();
  }
  void start_settled(const ServiceSpec& spec) {
    start(spec);
    run_until([&] { return settled(); });
  }

  Proof* proof_ = nullptr;
};

TEST_F(StandbyService, IsPromotedWhenTheActiveOneDies) {
  start_settled(pair());
  const ServiceStatus before = status();
  EXPECT_NE(before.standby_pid, before.pid);
  kill_one(before.pid, SIGKILL);
  run_until([&] { return seen_->promotions.size() == 1 && settled(); });
  const PromotionReport& promotion = seen_->promotions.at(0);
  EXPECT_EQ(promotion.pid, before.standby_pid);
  EXPECT_EQ(promotion.generation, before.standby_generation);
  EXPECT_EQ(promotion.old_generation, before.generation);
  EXPECT_EQ(promotion.epoch, before.epoch + 1);
  const ServiceStatus after = status();
  EXPECT_EQ(after.pid, before.standby_pid);
  EXPECT_EQ(after.state, ServiceState::kRunning);
  EXPECT_NE(after.standby_pid, before.standby_pid);
  EXPECT_EQ(after.restarts_in_window, 1);
  ASSERT_EQ(seen_->exits.size(), 1u);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(seen_->starts.size(), 1u);
  EXPECT_TRUE(seen_->standby_starts.back().by_ticket);
  EXPECT_EQ(proof_->activations.load(), 2u);
}

TEST_F(StandbyService, ThatDiesIsReplacedAndTheActiveOneDoesNotNotice) {
  start_settled(pair());
  const ServiceStatus before = status();
  for (std::size_t round = 1; round <= 3; ++round) {
    kill_one(status().standby_pid, SIGKILL);
    run_until([&] { return seen_->standby_exits.size() == round && settled(); });
  }
  EXPECT_EQ(status().pid, before.pid);
  EXPECT_EQ(status().restarts_in_window, 0);
  EXPECT_TRUE(seen_->exits.empty());
  EXPECT_TRUE(seen_->promotions.empty());
  // With a back-off: the second and the third in a row waited.
  const auto& starts = seen_->standby_starts;
  EXPECT_GE(starts.at(3).mono_ns - seen_->standby_exits.at(2).noticed_mono_ns, 150'000'000);
}

TEST_F(StandbyService, AStopEndsBoth) {
  start_settled(pair());
  EXPECT_TRUE(seen_->standby_losses.empty());
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped && status().standby_pid == 0; });
  EXPECT_EQ(processes(), std::vector<pid_t>{status().shim_pid});
  EXPECT_TRUE(seen_->promotions.empty());
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return settled(); });
  EXPECT_TRUE(seen_->standby_losses.empty()) << "it was asked for";
}

TEST_F(StandbyService, ThatIsLostIsToldWithItsReasonAndShownUntilTheNextIsReady) {
  start_settled(pair());
  const pid_t lost = status().standby_pid;
  kill_one(lost, SIGKILL);
  run_until([&] { return seen_->standby_losses.size() == 1; });
  const Error& error = seen_->standby_losses.at(0);
  EXPECT_THAT(error.message(), HasSubstr(fmt::format("the standby of 'victim' (pid {})", lost)));
  EXPECT_THAT(error.message(), HasSubstr("SIGKILL"));
  EXPECT_THAT(error.suggested_action(), HasSubstr("the next one is started in"));
  EXPECT_THAT(error.suggested_action(), HasSubstr("defib logs victim"));
  ASSERT_TRUE(status().standby_error);
  EXPECT_EQ(status().standby_error->message(), error.message());
  run_until([&] { return settled(); });
  EXPECT_FALSE(status().standby_error);
}

// The victim as the active process; as its standby something else.
ServiceSpec with_other_standby(ServiceSpec spec, const std::string& standby) {
  std::string active;
  for (const std::string& word : spec.argv) active += " '" + word + "'";
  spec.argv = {"/bin/sh", "-c",
               fmt::format("[ $DEFIB_ROLE = standby ] && {}; exec{}", standby, active)};
  return spec;
}

TEST_F(StandbyService, ThatIsNeverReadyIsToldAndReplaced) {
  ServiceSpec spec = with_other_standby(pair(), "exec sleep 1000");
  spec.ready_timeout = std::chrono::milliseconds(500);
  start(spec);
  run_until([&] { return status().standby_pid != 0; });
  const ServiceStatus before = status();
  run_until([&] { return seen_->standby_losses.size() == 1; });
  EXPECT_EQ(seen_->standby_losses.at(0).code(), Code::kTimeout);
  EXPECT_THAT(seen_->standby_losses.at(0).message(), HasSubstr("READY=1 within 500 ms"));
  run_until([&] { return seen_->standby_exits.size() == 1 && status().standby_pid != 0; });
  EXPECT_EQ(seen_->standby_exits.at(0).reason, StopReason::kNotReady);
  EXPECT_NE(status().standby_pid, before.standby_pid);
  EXPECT_TRUE(status().standby_error);
  EXPECT_EQ(seen_->standby_losses.size(), 1u) << "its end is no second loss";
  EXPECT_EQ(status().pid, before.pid) << "the active process goes on";
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(StandbyService, ThatCannotBeStartedIsNoFailureOfTheService) {
  const std::string own = dir_ + "/sh";
  ASSERT_EQ(::symlink("/bin/sh", own.c_str()), 0);
  ServiceSpec spec = with_other_standby(pair(), "exit 0");
  spec.argv[0] = own;
  spec.argv[2] = "rm " + own + "; " + spec.argv[2];
  start(spec);
  run_until([&] { return !seen_->standby_losses.empty(); });
  EXPECT_EQ(seen_->standby_losses.at(0).code(), Code::kStartFailed);
  EXPECT_THAT(seen_->standby_losses.at(0).message(), HasSubstr("cannot be started"));
  EXPECT_TRUE(seen_->start_failures.empty());
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(StandbyService, ACleanEndIsNotTakenOver) {
  ServiceSpec spec = pair();
  spec.argv[1] = "quit";
  spec.argv[3] = "0";
  spec.restart = RestartPolicy::kOnFailure;
  start(spec);
  run_until([&] { return status().standby_ready; });
  kill_service(SIGUSR1);
  run_until([&] { return status().state == ServiceState::kStopped && status().standby_pid == 0; });
  EXPECT_TRUE(seen_->promotions.empty());
}

TEST_F(StandbyService, AStoppedActiveOneIsKilledAndFencedFirst) {
  start_settled(pair());
  const ServiceStatus before = status();
  kill_one(before.pid, SIGSTOP);
  ASSERT_TRUE(supervisor_->report_health("victim", recovery::Health::kUnhealthy, "it is silent"));
  run_until([&] { return seen_->promotions.size() == 1 && settled(); });
  EXPECT_EQ(status().pid, before.standby_pid);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kUnhealthy);
}

TEST_F(StandbyService, AnActiveOneWhoseMainThreadEndedIsStillActive) {
  start_settled(pair());
  const ServiceStatus before = status();
  kill_one(before.pid, SIGUSR1);
  bool passed = false;
  loop_->run_after(std::chrono::milliseconds(50), [&] { passed = true; });
  run_until([&] { return passed; });
  EXPECT_TRUE(seen_->promotions.empty());
  EXPECT_EQ(status().pid, before.pid);
  kill_one(before.pid, SIGKILL);
  run_until([&] { return seen_->promotions.size() == 1 && settled(); });
}

TEST_F(StandbyService, TheNextSupervisorAndTheNextShimAdoptBoth) {
  start_settled(pair());
  const ServiceStatus before = status();
  const auto expect_same = [&] {
    run_until([&] { return settled(); });
    EXPECT_EQ(status().pid, before.pid);
    EXPECT_EQ(status().standby_pid, before.standby_pid);
    EXPECT_EQ(status().epoch, before.epoch);
  };
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1; });
  expect_same();
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(pair()));
  expect_same();
  const pid_t shim = status().shim_pid;
  abandon_supervisor();
  kill_one(shim, SIGKILL);
  ::waitpid(shim, nullptr, 0);
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(pair()));
  expect_same();
  kill_one(before.pid, SIGKILL);
  run_until([&] { return settled() && status().pid == before.standby_pid; });
}

TEST_F(StandbyService, TheShimPromotesWhileNoSupervisorIsThere) {
  start_settled(pair());
  const ServiceStatus before = status();
  abandon_supervisor();
  kill_one(before.pid, SIGKILL);
  run_until([&] { return proof_->activations.load() == 2; });
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(pair()));
  run_until([&] { return settled() && seen_->exits.size() == 1; });
  EXPECT_EQ(status().pid, before.standby_pid);
  EXPECT_EQ(seen_->exits.at(0).pid, before.pid);
}

// The shim is killed at any moment around the death of the active one, which ends in any way.
TEST_F(StandbyService, KillsAtRandomTimesNeverMakeTwoActive) {
  const std::uint64_t seed = os::random_seed();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  os::Random random(seed);
  start_settled(pair());
  constexpr std::uint64_t kRounds = 60;
  for (std::uint64_t round = 1; round <= kRounds; ++round) {
    const ServiceStatus before = status();
    const std::uint64_t how = random.below(4);
    if (how == 0) kill_one(before.pid, SIGSTOP);
    if (how == 1) kill_one(before.pid, SIGUSR1);  // Its main thread ends first.
    if (how == 2) ::usleep(static_cast<useconds_t>(random.below(500)));
    const bool shim_first = random.below(3) == 0;
    if (shim_first) kill_one(before.shim_pid, SIGKILL);
    kill_one(before.pid, SIGKILL);
    if (!shim_first && random.below(3) != 0) {
      ::usleep(static_cast<useconds_t>(random.below(1500)));
      kill_one(before.shim_pid, SIGKILL);
    }
    run_until([&] { return settled() && status().epoch > before.epoch; });
    if (HasFatalFailure()) {
      const ServiceStatus now = status();
      FAIL() << fmt::format(
          "round {}: how {}; active {} of epoch {}, standby {}, shim {}; now: active {} of epoch "
          "{}, "
          "ready {}, standby {} ready {}, ticket {}, shim {}, {}",
          round, how, before.pid, before.epoch, before.standby_pid, before.shim_pid, now.pid,
          now.epoch, now.ready, now.standby_pid, now.standby_ready, now.restart_ready, now.shim_pid,
          now.last_error ? now.last_error->to_text() : "");
    }
    ASSERT_EQ(proof_->violations.load(), 0u) << "round " << round;
    ASSERT_EQ(status().pid, before.standby_pid) << "round " << round;
    ASSERT_EQ(status().epoch, before.epoch + 1) << "round " << round;
  }
  EXPECT_EQ(proof_->activations.load(), kRounds + 1);
}

struct Latencies {
  std::vector<std::int64_t> ns;
  double percentile_ms(double fraction) {
    std::ranges::sort(ns);
    const auto last = static_cast<double>(ns.size() - 1);
    return static_cast<double>(ns[static_cast<std::size_t>(fraction * last)]) / 1e6;
  }
};

// DEFIB_FAILOVERS: how many of small services.
class Failovers : public StandbyService {
 protected:
  void run_failovers(int rounds, int megabytes) {
    start_settled(pair(megabytes));
    Latencies latencies;
    for (int round = 0; round < rounds; ++round) {
      const ServiceStatus before = status();
      const std::uint64_t activations = proof_->activations.load();
      const std::int64_t killed = os::real_clock().mono_ns();
      kill_one(before.pid, SIGKILL);
      run_until([&] { return proof_->activations.load() > activations && settled(); });
      if (HasFatalFailure()) return;
      ASSERT_EQ(status().pid, before.standby_pid);
      ASSERT_EQ(proof_->violations.load(), 0u) << "round " << round;
      latencies.ns.push_back(proof_->active_ns.load() - killed);
    }
    fmt::print("{} fail-overs of {} MB: active after p50 {:.3f} ms, p99 {:.3f} ms, 0 violations\n",
               rounds, megabytes, latencies.percentile_ms(0.5), latencies.percentile_ms(0.99));
  }
};

TEST_F(Failovers, OfSmallServices) {
  const char* count = std::getenv("DEFIB_FAILOVERS");
  run_failovers(count != nullptr ? std::atoi(count) : 1000, 1);
}

TEST_F(Failovers, OfLargeServices) {
  run_failovers(20, 1024);
}

}  // namespace
}  // namespace defib::process
