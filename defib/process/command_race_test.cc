// Operator's commands, crashes, and deaths of shim and supervisor in random order and at random
// moments: whatever crosses what, the last command wins, and there are never two copies.
//
// The orders that were once found to go wrong come first, each by itself.
//
// DEFIB_RACE_ROUNDS says how many rounds of commands (60 by default), DEFIB_SEED which.

#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/process/state_dir.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;

class CommandRace : public SupervisorTest {
 protected:
  void run_for(os::Duration time) {
    const auto timer = loop_->run_after(time, [this] { loop_->stop(); });
    ASSERT_TRUE(loop_->run());
    loop_->cancel(timer);
  }

  ServiceSpec spec(os::Random& random) {
    ServiceSpec spec = victim({random.below(3) == 0 ? "stubborn" : "run"});
    spec.stop_timeout = 30ms;
    spec.restart_delay = std::chrono::milliseconds(random.below(3) * 15);
    spec.restart_delay_cap = 60ms;
    spec.max_restarts = 100'000;
    return spec;
  }

  // Nothing is on its way any more.
  void settle(const std::string& history) {
    SCOPED_TRACE(history);
    run_until([&] {
      const ServiceStatus now = status();
      return wanted_ ? now.state == ServiceState::kRunning && now.pid > 0
                     : now.state == ServiceState::kStopped && now.pid == 0;
    });
    if (HasFailure()) {
      const ServiceStatus now = status();
      FAIL() << fmt::format("wanted {}, but it is {}, process {}, generation {}, next start {}: {}",
                            wanted_ ? "running" : "stopped", to_string(now.state), now.pid,
                            now.generation, now.next_start_mono_ns,
                            now.last_error ? now.last_error->to_text() : "no error");
    }
    // And it stays so: a start or stop that was forgotten would come now. A start of the shim's own
    // that crossed the last stop may show for a moment, and is ended.
    if (!wanted_) {
      run_for(25ms);
      run_until([&] { return status().state == ServiceState::kStopped && status().pid == 0; });
    }
    commanded_ = false;
  }

  void command(std::uint64_t which) {
    commanded_ = true;
    switch (which) {
      case 0:
        ASSERT_TRUE(supervisor_->start("victim"));
        wanted_ = true;
        return;
      case 1:
      case 2:
        ASSERT_TRUE(supervisor_->stop("victim"));
        wanted_ = false;
        return;
      case 3:
        ASSERT_TRUE(supervisor_->restart("victim"));
        wanted_ = true;
        return;
      case 4:
        // Where it runs and is not being stopped, only its failures are forgotten.
        ASSERT_TRUE(supervisor_->reset("victim"));
        wanted_ = true;
        return;
      default:
        FAIL();
    }
  }

  bool wanted_ = false;
  bool commanded_ = false;  // since it was settled
};

// The first start and its stop lie unread. What that start began must end, however its shim ends.
TEST_F(CommandRace, AStartAfterAStopIsNotAnsweredByTheStartBeforeIt) {
  ServiceSpec spec = victim({"run"});
  spec.stop_signal = SIGWINCH;  // without effect
  spec.stop_timeout = 300ms;
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  const pid_t shim = status().shim_pid;
  kill_one(shim, SIGSTOP);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(supervisor_->start("victim"));
    ASSERT_TRUE(supervisor_->stop("victim"));
  }
  ASSERT_TRUE(supervisor_->start("victim"));
  EXPECT_EQ(status().state, ServiceState::kStarting);
  kill_one(shim, SIGCONT);
  run_until([&] { return status().pid > 0; });
  EXPECT_EQ(status().state, ServiceState::kStopping);
  const pid_t first = status().pid;
  kill_one(shim, SIGKILL);
  run_until([&] { return status().state == ServiceState::kRunning && status().pid > 0; });
  EXPECT_NE(status().pid, first);
  EXPECT_EQ(seen_->starts.size(), 2u);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kRequested);
  EXPECT_FALSE(duplicated());
}

TEST_F(CommandRace, TheFailureOfAStartThatWasCalledOffIsNoFailureOfTheService) {
  ServiceSpec spec = victim({});
  spec.argv = {dir_ + "/program"};
  std::ofstream(spec.argv[0]) << "#!/bin/sh\n";
  ASSERT_EQ(::chmod(spec.argv[0].c_str(), 0755), 0);
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  kill_one(status().shim_pid, SIGSTOP);
  ASSERT_TRUE(supervisor_->start("victim"));
  ASSERT_TRUE(supervisor_->stop("victim"));
  ASSERT_TRUE(std::filesystem::remove(spec.argv[0]));
  kill_one(status().shim_pid, SIGCONT);
  run_until([&] { return seen_->start_failures.size() == 1; });
  EXPECT_EQ(status().state, ServiceState::kStopped);
}

// The shim cannot say that its service had ended already: its socket is full of output.
TEST_F(CommandRace, AStopIsAnsweredHoweverFullTheConnectionIs) {
  make_supervisor();
  ServiceSpec spec = victim({"log", "40000", "1000"});
  ASSERT_TRUE(supervisor_->add(spec));
  ASSERT_TRUE(supervisor_->feed_log("victim", true));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return status().pid > 0; });
  const auto ended = [&] {
    const auto record = read_status(os::real_files(), service_dir());
    return record && *record && (*record)->exit_number == 1;
  };
  for (int i = 0; i < 2000 && !ended(); ++i) ::usleep(10'000);  // The supervisor reads nothing.
  ASSERT_TRUE(ended());
  ASSERT_TRUE(supervisor_->stop("victim"));
  ASSERT_TRUE(supervisor_->start("victim"));
  ::usleep(100'000);  // It is heard while there is no room yet for its answer.
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_TRUE(seen_->new_shims.empty());
}

TEST_F(CommandRace, TheLastCommandWinsWhateverItCrosses) {
  const char* asked = std::getenv("DEFIB_RACE_ROUNDS");
  const int rounds = asked != nullptr ? std::atoi(asked) : 60;
  const char* given = std::getenv("DEFIB_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : os::random_seed() % 1'000'000'000;
  fmt::print("{} rounds with seed {} (DEFIB_RACE_ROUNDS, DEFIB_SEED)\n", rounds, seed);
  std::fflush(stdout);
  os::Random random(seed);
  start(spec(random));
  wanted_ = true;
  constexpr const char* kNames[] = {"start", "stop",  "stop",  "restart", "reset",
                                    "crash", "crash", "shim!", "leave",   "reload"};
  for (int round = 0; round < rounds; ++round) {
    std::string history = fmt::format("DEFIB_SEED={} round {}:", seed, round);
    const std::uint64_t steps = 1 + random.below(6);
    for (std::uint64_t step = 0; step < steps; ++step) {
      const std::uint64_t which = random.below(std::size(kNames));
      history += fmt::format(" {}", kNames[which]);
      if (which < 5) {
        command(which);
      } else if (which < 7) {
        if (status().pid > 0) kill_one(status().pid, SIGKILL);
      } else if (which == 7) {
        if (status().shim_pid > 0) kill_one(status().shim_pid, SIGKILL);
      } else if (which == 8) {
        abandon_supervisor();
        make_supervisor();
        const auto added = supervisor_->add(spec(random));
        ASSERT_TRUE(added) << added.error().to_text() << history;
        // Who was not told that it was done asks again: the shim may not have read the request.
        if (commanded_) command(wanted_ ? 0 : 1);
      } else {
        ASSERT_TRUE(supervisor_->update(spec(random)));
      }
      if (HasFatalFailure()) return;
      if (random.below(2) == 0) {
        run_for(std::chrono::microseconds(random.below(12'000)));
        history += ".";
      }
    }
    settle(history);
    if (HasFailure()) return;
    ASSERT_FALSE(duplicated()) << "two copies: " << history;
  }
}

}  // namespace
}  // namespace defib::process
