// Hooks: programs before a start, after a crash, and at rest; and what becomes of them when the
// shim or the supervisor is killed.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

class HookTest : public SupervisorTest {
 protected:
  std::string file() const { return dir_ + "/story"; }

  std::vector<std::string> hook(const std::string& code) const {
    return {program("process_launched"), "hook", file(), code};
  }
  std::vector<std::string> hanging() const { return {program("process_launched"), "hang", file()}; }

  ServiceSpec launched(const std::string& mode, const std::string& code = "0") const {
    ServiceSpec spec = victim({});
    spec.argv = {program("process_launched"), mode, file(), code};
    return spec;
  }

  // The words with which the lines of the story begin.
  std::vector<std::string> story() const {
    std::vector<std::string> words;
    std::ifstream in(file());
    std::string line;
    while (std::getline(in, line)) words.push_back(line.substr(0, line.find(' ')));
    return words;
  }
  std::string line(std::size_t number) const {
    std::ifstream in(file());
    std::string text;
    for (std::size_t i = 0; i <= number; ++i) std::getline(in, text);
    return text;
  }
  std::ptrdiff_t told(std::string_view word) const { return std::ranges::count(story(), word); }
};

using Story = std::vector<std::string>;

TEST_F(HookTest, HooksRunBeforeTheStartAfterACrashAndAtRestAndKnowWhatFor) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = hook("0");
  spec.post_crash = hook("0");
  spec.cleanup = hook("0");
  start(spec);
  run_until([&] { return told("service") == 1 && status().restart_ready; });
  EXPECT_EQ(story(), (Story{"pre_start", "service"}));
  kill_service(SIGKILL);
  run_until([&] { return told("service") == 2 && status().restart_ready; });
  EXPECT_EQ(story(), (Story{"pre_start", "service", "post_crash", "pre_start", "service"}));
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->hooks.size() == 4; });
  EXPECT_EQ(story().back(), "cleanup");
  const std::string as = " service=victim uid=" + std::to_string(::getuid());
  EXPECT_EQ(line(0), "pre_start generation=1 status= signal= reason=" + as);
  EXPECT_EQ(line(2), "post_crash generation=1 status=137 signal=9 reason=none" + as);
  EXPECT_EQ(line(5), "cleanup generation=2 status=143 signal=15 reason=requested" + as);
  for (const HookReport& report : seen_->hooks) EXPECT_TRUE(report.ok);
  // What they write is in the service's log.
  run_until([&] { return all_logs().find("a hook spoke") != std::string::npos; });
  EXPECT_FALSE(duplicated());
}

TEST_F(HookTest, ARestartOnRequestIsNoRest) {
  ServiceSpec spec = launched("stamp");
  spec.cleanup = hook("0");
  start(spec);
  run_until([&] { return told("service") == 1 && status().pid > 0; });
  ASSERT_TRUE(supervisor_->restart("victim"));
  run_until([&] { return told("service") == 2; });
  EXPECT_EQ(told("cleanup"), 0);
  EXPECT_EQ(told("post_crash"), 0);
}

TEST_F(HookTest, APreStartThatFailsIsAFailureOfTheStartAndIsTriedAgain) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = hook("3");
  spec.cleanup = hook("0");
  spec.max_restarts = 2;
  start(spec);
  run_until([&] { return !seen_->loops.empty(); });
  EXPECT_EQ(seen_->start_failures.size(), 3u);
  EXPECT_EQ(seen_->start_failures.at(0).code(), Code::kStartFailed);
  EXPECT_NE(seen_->start_failures.at(0).message().find("its pre_start hook failed"),
            std::string::npos);
  EXPECT_EQ(seen_->hooks.at(0).error->message(),
            "pre_start of the service 'victim' ended with exit code 3");
  run_until([&] { return told("cleanup") == 1; });
  EXPECT_EQ(told("service"), 0);
  EXPECT_TRUE(seen_->starts.empty());
}

TEST_F(HookTest, AHangingHookIsKilledWithItsGroupAtItsTimeout) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = hanging();
  spec.hook_timeout = std::chrono::milliseconds(150);
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return told("pre_start") == 1; });
  run_until([&] { return !seen_->start_failures.empty(); });
  ASSERT_EQ(seen_->hooks.size(), 1u);
  EXPECT_TRUE(seen_->hooks.at(0).timed_out);
  EXPECT_GE(seen_->hooks.at(0).duration, spec.hook_timeout);
  EXPECT_EQ(seen_->hooks.at(0).error->message(),
            "pre_start of the service 'victim' did not end within 150 ms and was killed");
  // Its child had a session of its own.
  run_until([&] { return processes().size() == 1; });
  EXPECT_EQ(told("service"), 0);
}

TEST_F(HookTest, AStopEndsTheHookThatAStartWaitsFor) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = hanging();
  start(spec);
  run_until([&] { return told("pre_start") == 1; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->hooks.size() == 1 && processes().size() == 1; });
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_TRUE(seen_->starts.empty());
  EXPECT_TRUE(seen_->start_failures.empty());
}

TEST_F(HookTest, APostCrashThatIsNotWaitedForRunsBesideTheReplacement) {
  ServiceSpec spec = launched("stamp");
  spec.post_crash = hanging();
  spec.post_crash_wait = false;
  spec.hook_timeout = std::chrono::seconds(6);  // so long the end of the test waits for it
  start(spec);
  run_until([&] { return told("service") == 1 && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return told("service") == 2 && told("post_crash") == 1; });
  EXPECT_TRUE(seen_->hooks.empty());  // It still hangs.
  // A second crash meanwhile does not run it twice at a time.
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->hooks.size() == 1; });
  EXPECT_NE(seen_->hooks.at(0).error->message().find("it still runs"), std::string::npos);
  EXPECT_EQ(told("post_crash"), 1);
}

TEST_F(HookTest, APostCrashIsWaitedForWhereTheSpecSaysSo) {
  ServiceSpec spec = launched("stamp");
  spec.post_crash = hanging();
  spec.hook_timeout = std::chrono::milliseconds(200);
  start(spec);
  run_until([&] { return told("service") == 1 && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return told("service") == 2 && seen_->starts.size() == 2; });
  ASSERT_EQ(seen_->hooks.size(), 1u);
  EXPECT_TRUE(seen_->hooks.at(0).timed_out);
  // Its failure is told, and does not keep the service down.
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(HookTest, AHookKnowsThatTheOutputAskedForTheReplacement) {
  ServiceSpec spec = launched("stamp");
  spec.post_crash = hook("0");
  start(spec);
  run_until([&] { return told("service") == 1 && status().restart_ready; });
  ASSERT_TRUE(supervisor_->replace("victim", StopReason::kPattern,
                                   Error(Code::kProbeFailed, "its output says so")));
  run_until([&] { return told("post_crash") == 1 && told("service") == 2; });
  EXPECT_NE(line(1).find(" reason=log_pattern "), std::string::npos) << line(1);
}

TEST_F(HookTest, ACleanExitRunsCleanupAndNoPostCrash) {
  ServiceSpec spec = launched("stamp-exit", "0");
  spec.post_crash = hook("0");
  spec.cleanup = hook("0");
  start(spec);
  run_until([&] { return seen_->hooks.size() == 1; });
  EXPECT_EQ(story(), (Story{"service", "cleanup"}));
}

TEST_F(HookTest, AStartDuringCleanupWaitsForItsEnd) {
  ServiceSpec spec = launched("stamp");
  spec.cleanup = hanging();
  spec.hook_timeout = std::chrono::milliseconds(200);
  start(spec);
  run_until([&] { return told("service") == 1 && status().pid > 0; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return told("cleanup") == 1; });
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return told("service") == 2 && seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->hooks.size(), 1u);
  EXPECT_FALSE(duplicated());
}

TEST_F(HookTest, AShimKilledInTheMiddleOfPreStartNeitherLosesNorDoublesTheStart) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = {"/bin/sh", "-c",
                    "echo pre_start >> " + file() + "; [ -e " + dir_ + "/go ] || exec sleep 1000"};
  start(spec);
  run_until([&] { return told("pre_start") == 1; });
  const auto before = processes();
  kill_shim();
  // The first hook is gone before the second one begins.
  run_until([&] { return told("pre_start") == 2; });
  const auto now = processes();
  EXPECT_EQ(now.size(), before.size());
  kill_shim();
  std::ofstream(dir_ + "/go") << "\n";
  run_until([&] { return told("service") == 1; });
  run_until([&] { return status().restart_ready; });
  EXPECT_EQ(seen_->starts.size(), 1u);
  EXPECT_EQ(told("service"), 1);
  // The same for a start by ticket.
  std::filesystem::remove(dir_ + "/go");
  const auto begun = told("pre_start");
  kill_service(SIGKILL);
  run_until([&] { return told("pre_start") == begun + 1; });
  kill_shim();
  std::ofstream(dir_ + "/go") << "\n";
  run_until([&] { return told("service") == 2 && status().pid > 0; });
  EXPECT_EQ(seen_->starts.size(), 2u);
  EXPECT_EQ(seen_->exits.size(), 1u);
}

TEST_F(HookTest, AShimKilledInTheMiddleOfCleanupIsFollowedByOneThatDoesItAgain) {
  ServiceSpec spec = launched("stamp");
  spec.cleanup = {"/bin/sh", "-c",
                  "echo cleanup >> " + file() + "; [ -e " + dir_ + "/go ] || sleep 1000"};
  start(spec);
  run_until([&] { return told("service") == 1 && status().pid > 0; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return told("cleanup") == 1; });
  kill_shim();
  std::ofstream(dir_ + "/go") << "\n";
  run_until([&] { return !seen_->hooks.empty() && seen_->hooks.back().ok; });
  EXPECT_EQ(told("cleanup"), 2);
  EXPECT_NE(seen_->hooks.at(0).error->message().find("its shim had died"), std::string::npos);
  EXPECT_EQ(told("service"), 1);
}

TEST_F(HookTest, ASupervisorKilledInTheMiddleOfPreStartFindsTheServiceStartedOnce) {
  ServiceSpec spec = launched("stamp");
  spec.pre_start = {
      "/bin/sh", "-c",
      "echo pre_start >> " + file() + "; until [ -e " + dir_ + "/go ]; do sleep 0.02; done"};
  std::ofstream(dir_ + "/go") << "\n";
  start(spec);
  run_until([&] { return told("service") == 1 && status().restart_ready; });
  std::filesystem::remove(dir_ + "/go");
  kill_service(SIGKILL);
  run_until([&] { return told("pre_start") == 2; });
  abandon_supervisor();
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  ASSERT_TRUE(supervisor_->start("victim"));  // As a daemon does; the hook still runs.
  EXPECT_EQ(told("pre_start"), 2);
  std::ofstream(dir_ + "/go") << "\n";
  run_until([&] { return told("service") == 2 && status().pid > 0; });
  EXPECT_FALSE(duplicated());
  EXPECT_LE(told("pre_start"), 3);
}

}  // namespace
}  // namespace defib::process
