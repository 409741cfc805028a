// A service with real processes: how it starts, ends, and comes back.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "defib/os/files.h"
#include "defib/process/supervisor_test_util.h"
#include "defib/wire/json.h"

namespace defib::process {
namespace {

using Supervision = SupervisorTest;

TEST_F(Supervision, ACleanExitEndsAServiceThatRestartsOnFailure) {
  start(victim({"exit", "0"}));
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_TRUE(seen_->exits.at(0).status.success());
  EXPECT_EQ(seen_->exits.at(0).source, shim::StatusSource::kWait);
  EXPECT_FALSE(seen_->exits.at(0).restarts);
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_EQ(seen_->starts.size(), 1u);
}

TEST_F(Supervision, AnExitCodeIsReportedAndTheServiceStartedAgain) {
  start(victim({"exit", "3"}));
  run_until([&] { return seen_->exits.size() >= 2; });
  EXPECT_EQ(seen_->exits.at(0).status.to_string(), "exit code 3");
  EXPECT_TRUE(seen_->exits.at(0).restarts);
  EXPECT_EQ(seen_->exits.at(0).generation, 1u);
  EXPECT_EQ(seen_->exits.at(1).generation, 2u);
  EXPECT_TRUE(seen_->starts.at(1).automatic);
}

TEST_F(Supervision, AKillIsAnsweredByAReplacementThatTheShimStartsByItself) {
  start(victim({"run"}));
  run_until([&] { return status().restart_ready; });
  const pid_t first = status().pid;
  kill_one(first, SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).pid, first);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_TRUE(seen_->starts.at(1).by_ticket);
  EXPECT_NE(status().pid, first);
  EXPECT_EQ(status().state, ServiceState::kRunning);
  EXPECT_EQ(status().restart_count, 1u);
  EXPECT_FALSE(duplicated());
}

TEST_F(Supervision, ASignalOfItsOwnIsReportedWithItsName) {
  ServiceSpec spec = victim({"signal", "11"});
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
  EXPECT_EQ(status().state, ServiceState::kFailed);
}

TEST_F(Supervision, StoppingIsGracefulAndIsNoFailure) {
  start(victim({"graceful", "7"}));
  run_until([&] { return status().pid > 0; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  EXPECT_EQ(status().state, ServiceState::kStopping);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kRequested);
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_EQ(seen_->starts.size(), 1u);
}

TEST_F(Supervision, OrderlyEndsDoNotSpendTheRestartBudget) {
  ServiceSpec spec = victim({"run"});
  spec.max_restarts = 2;
  for (int i = 0; i < 4; ++i) {
    start(spec);
    run_until([&] { return status().restart_ready; });
    ASSERT_TRUE(supervisor_->stop("victim"));
    run_until([&] { return status().state == ServiceState::kStopped; });
    abandon_supervisor();
  }
  start(spec);
  run_until([&] { return status().restart_ready; });
  EXPECT_EQ(status().restarts_in_window, 0);
}

TEST_F(Supervision, AServiceThatIgnoresTheStopSignalIsKilledAfterItsGrace) {
  ServiceSpec spec = victim({"stubborn"});
  spec.stop_timeout = std::chrono::milliseconds(200);
  start(spec);
  run_until([&] { return ignores_sigterm(); });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(status().state, ServiceState::kStopped);
}

TEST_F(Supervision, RestartGivesANewProcessWithoutSpendingTheBudget) {
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  const pid_t first = status().pid;
  ASSERT_TRUE(supervisor_->restart("victim"));
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_NE(status().pid, first);
  EXPECT_EQ(status().restarts_in_window, 0);
  EXPECT_EQ(status().restart_count, 0u);
}

// Between a start and the word of it, a restart is not lost: what runs in the end was started after
// it, as it is configured by then.
class RestartCrossing : public SupervisorTest {
 protected:
  ServiceSpec marked(const std::string& mark) const {
    ServiceSpec spec = victim({"run"});
    spec.env.emplace_back("MARK", mark);
    return spec;
  }
  void configure_and_restart(const std::string& mark) {
    ASSERT_TRUE(supervisor_->update(marked(mark)));
    ASSERT_TRUE(supervisor_->restart("victim"));
  }
  bool runs(const std::string& mark) const {
    const ServiceStatus now = status();
    if (now.state != ServiceState::kRunning || now.pid <= 0) return false;
    std::ifstream in("/proc/" + std::to_string(now.pid) + "/environ");
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return text.find("MARK=" + mark) != std::string::npos;
  }
  void expect_one() {
    EXPECT_EQ(processes().size(), 2u);
    EXPECT_FALSE(duplicated());
    EXPECT_EQ(status().restarts_in_window, 0);
  }
};

TEST_F(RestartCrossing, AStartThatWasJustAskedFor) {
  start(marked("first"));
  configure_and_restart("second");
  run_until([&] { return runs("second"); });
  expect_one();
}

TEST_F(RestartCrossing, AStartThatTheShimHasDoneAndNotYetTold) {
  start(marked("first"));
  // The loop does not run meanwhile.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const auto started = [&] {
    const auto read = read_status(os::real_files(), service_dir());
    return read && *read && (*read)->phase == shim::Phase::kRunning;
  };
  while (!started() && std::chrono::steady_clock::now() < until) ::usleep(500);
  ASSERT_EQ(status().pid, 0);
  configure_and_restart("second");
  run_until([&] { return runs("second"); });
  expect_one();
}

TEST_F(RestartCrossing, AStartByTicketAfterACrash) {
  start(marked("first"));
  run_until([&] { return status().restart_ready; });
  seen_->on_exit = [&] {
    seen_->on_exit = nullptr;
    configure_and_restart("second");
  };
  kill_service(SIGKILL);
  run_until([&] { return runs("second"); });
  EXPECT_EQ(processes().size(), 2u);
  EXPECT_FALSE(duplicated());
  EXPECT_EQ(status().restarts_in_window, 1);
}

TEST_F(RestartCrossing, AStartThatIsFollowedByAStopStaysDown) {
  start(marked("first"));
  configure_and_restart("second");
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped && processes().size() == 1; });
}

TEST_F(Supervision, ACrashLoopStopsAtItsLimitAndAResetStartsAnew) {
  ServiceSpec spec = victim({"exit", "1"});
  spec.max_restarts = 3;
  start(spec);
  run_until([&] { return !seen_->loops.empty(); });
  EXPECT_EQ(seen_->exits.size(), 4u);  // The first start and three restarts.
  EXPECT_EQ(seen_->loops.at(0).code(), Code::kCrashLoop);
  EXPECT_EQ(seen_->loops.at(0).root().code(), Code::kBudgetExhausted);
  EXPECT_EQ(status().state, ServiceState::kFailed);
  ASSERT_TRUE(supervisor_->reset("victim"));
  run_until([&] { return seen_->loops.size() == 2; });
  EXPECT_EQ(seen_->exits.size(), 8u);
}

TEST_F(Supervision, TheFirstRestartIsImmediateAndTheNextOnesWaitLongerAndLonger) {
  ServiceSpec spec = victim({"exit", "1"});
  spec.restart_delay = std::chrono::milliseconds(100);
  spec.max_restarts = 3;
  start(spec);
  run_until([&] { return !seen_->loops.empty(); });
  ASSERT_EQ(seen_->exits.size(), 4u);
  EXPECT_EQ(seen_->exits.at(0).restart_delay.count(), 0);
  for (const int step : {1, 2}) {
    const auto delay = seen_->exits.at(static_cast<std::size_t>(step)).restart_delay;
    EXPECT_GE(delay, std::chrono::milliseconds(100 * step));
    EXPECT_LE(delay, std::chrono::milliseconds(110 * step)) << "jitter is a tenth at most";
  }
  const auto waited = [&](int exit) {
    return seen_->starts[static_cast<std::size_t>(exit) + 1].mono_ns -
           seen_->exits[static_cast<std::size_t>(exit)].noticed_mono_ns;
  };
  EXPECT_LT(waited(0), 90'000'000);
  EXPECT_GE(waited(1), 100'000'000);
  EXPECT_GE(waited(2), 200'000'000);
  const auto backed_off = std::pair(ServiceState::kRunning, ServiceState::kBackingOff);
  EXPECT_EQ(std::ranges::count(seen_->changes, backed_off), 3);
}

TEST_F(Supervision, AHealthyTimeMakesTheNextRestartImmediateAgain) {
  ServiceSpec spec = victim({"run"});
  spec.restart_delay = std::chrono::hours(1);
  spec.restart_delay_cap = std::chrono::hours(1);
  spec.healthy_after = std::chrono::milliseconds(50);
  start(spec);
  for (std::size_t round = 1; round <= 3; ++round) {
    run_until([&] { return seen_->starts.size() == round && status().pid > 0; });
    const std::int64_t since = seen_->starts.back().mono_ns;
    run_until([&] { return loop_->clock().mono_ns() > since + 80'000'000; });
    kill_service(SIGKILL);
  }
  run_until([&] { return seen_->starts.size() == 4; });
}

TEST_F(Supervision, AStopWhileBackingOffCallsTheRestartOff) {
  ServiceSpec spec = victim({"exit", "1"});
  spec.restart_delay = std::chrono::hours(1);
  spec.restart_delay_cap = std::chrono::hours(1);
  start(spec);
  run_until([&] { return seen_->exits.size() == 2; });
  EXPECT_EQ(status().state, ServiceState::kBackingOff);
  EXPECT_GT(status().next_start_mono_ns, 0);
  ASSERT_TRUE(supervisor_->stop("victim"));
  EXPECT_EQ(status().state, ServiceState::kStopped);
  // Its shim does not wait any more either.
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_TRUE(status().ended_before);
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return seen_->starts.size() >= 3; });
}

TEST_F(Supervision, ARemovedServiceIsForgottenWithItsShimAndMayBeAddedAgain) {
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  EXPECT_EQ(supervisor_->remove("victim").error().code(), Code::kAlreadyExists);
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->exits.size() == 1; });
  ASSERT_TRUE(supervisor_->remove("victim"));
  run_until([&] { return supervisor_->status().empty() && processes().empty(); });
  EXPECT_EQ(supervisor_->stop("victim").error().code(), Code::kServiceUnknown);
  start(victim({"run"}));
  run_until([&] { return seen_->starts.size() == 2; });
}

TEST_F(Supervision, AMissingProgramIsAnErrorOfTheStart) {
  make_supervisor();
  ServiceSpec spec = victim({});
  spec.argv = {"/no/such/program"};
  ASSERT_TRUE(supervisor_->add(spec));
  const auto started = supervisor_->start("victim");
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kProgramNotFound);
  // Also those who did not ask are told.
  EXPECT_EQ(seen_->start_failures.size(), 1u);
  EXPECT_EQ(status().state, ServiceState::kFailed);
  EXPECT_EQ(status().reason, started.error().message());
  EXPECT_EQ(status().next_action, "reset");
}

TEST_F(Supervision, AWorkingDirectoryThatWentAwayIsToldByTheShim) {
  ServiceSpec spec = victim({"run"});
  spec.working_directory = dir_ + "/here";
  std::filesystem::create_directory(spec.working_directory);
  start(spec);
  run_until([&] { return status().restart_ready; });
  std::filesystem::remove(spec.working_directory);
  kill_service(SIGKILL);
  run_until([&] { return !seen_->start_failures.empty(); });
  EXPECT_EQ(seen_->start_failures.at(0).code(), Code::kStartFailed);
  EXPECT_EQ(seen_->start_failures.at(0).root().code(), Code::kFileNotFound);
  // It is tried again, and may be there by then.
  std::filesystem::create_directory(spec.working_directory);
  run_until([&] { return seen_->starts.size() == 2; });
}

TEST_F(Supervision, ADescendantInAnotherSessionDiesWithItsService) {
  start(victim({"family"}));
  // Victim, child, grandchild's session, and the shim.
  run_until([&] { return processes().size() == 4; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return processes().size() == 1; });
}

TEST_F(Supervision, AReplacementFindsNoDescendantsOfTheOneBefore) {
  start(victim({"family"}));
  run_until([&] { return processes().size() == 4; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && processes().size() == 4; });
}

TEST_F(Supervision, AForkingServiceIsFollowedToItsMainProcess) {
  start(victim({"forking"}));
  run_until([&] { return seen_->ready_count == 1; });
  const pid_t launcher = seen_->starts.at(0).pid;
  run_until([&] { return ::kill(launcher, 0) != 0; });
  EXPECT_TRUE(seen_->exits.empty());
  const auto left = processes();
  ASSERT_EQ(left.size(), 2u);  // The main process and the shim.
  const pid_t main = left[0] == status().shim_pid ? left[1] : left[0];
  run_until([&] { return status().pid == main; });
  kill_one(main, SIGKILL);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->exits.at(0).pid, main);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(Supervision, NotificationsArriveInOrderAndMoveTheState) {
  ServiceSpec spec = victim({"notify"});
  spec.expects_ready = true;
  start(spec);
  run_until([&] { return seen_->ready_count == 1 && status().state == ServiceState::kRunning; });
  ASSERT_EQ(seen_->notifications.size(), 5u);
  EXPECT_EQ(seen_->notifications.at(0).key, "STATUS");
  EXPECT_EQ(seen_->notifications.at(1).key, "X_DEFIB_STATE");
  EXPECT_EQ(seen_->notifications.at(2).value, "{\"step\":1}");
  EXPECT_EQ(seen_->notifications.at(0).pid, status().pid);
  EXPECT_EQ(status().status_text, "warming up");
  const auto recovering = std::pair(ServiceState::kStarting, ServiceState::kRecovering);
  EXPECT_EQ(std::ranges::count(seen_->changes, recovering), 1);
}

TEST_F(Supervision, AServiceThatNeverGetsReadyIsReplaced) {
  ServiceSpec spec = victim({"run"});
  spec.expects_ready = true;
  spec.ready_timeout = std::chrono::milliseconds(100);
  spec.max_restarts = 1;
  start(spec);
  run_until([&] { return !seen_->loops.empty(); });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kNotReady);
}

TEST_F(Supervision, AHeartbeatThatStopsIsAHangAndTheServiceIsReplaced) {
  ServiceSpec spec = victim({"beat", "10", "20"});
  spec.heartbeat_timeout = std::chrono::milliseconds(200);
  start(spec);
  run_until([&] { return seen_->starts.size() == 2; });
  ASSERT_EQ(seen_->hangs.size(), 1u);
  EXPECT_EQ(seen_->hangs.at(0).stage, "main");
  EXPECT_GE(seen_->hangs.at(0).silent_for, spec.heartbeat_timeout);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(Supervision, AHangIsOnlyToldWhereTheSpecSaysSo) {
  ServiceSpec spec = victim({"beat", "10", "5"});
  spec.heartbeat_timeout = std::chrono::milliseconds(100);
  spec.on_heartbeat_lost = LimitAction::kAlert;
  start(spec);
  run_until([&] { return seen_->hangs.size() == 1; });
  EXPECT_FALSE(seen_->hangs.at(0).kills);
  EXPECT_EQ(status().state, ServiceState::kDegraded);
  EXPECT_TRUE(seen_->exits.empty());
}

TEST_F(Supervision, TheWatchdogOfSdNotifyIsAHeartbeatToo) {
  ServiceSpec spec = victim({"watchdog"});
  spec.heartbeat_timeout = std::chrono::milliseconds(150);
  start(spec);
  run_until([&] { return seen_->starts.size() == 2; });
  ASSERT_GE(seen_->hangs.size(), 1u);
  EXPECT_EQ(seen_->hangs.at(0).stage, "sd_notify");
}

TEST_F(Supervision, AnUnhealthyServiceIsReplacedWhereTheSpecSaysSo) {
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  ASSERT_TRUE(supervisor_->report_health("victim", recovery::Health::kUnhealthy, "HTTP 500"));
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kUnhealthy);
}

TEST_F(Supervision, OutputGoesToTheLogAndIsRotatedAtWholeLines) {
  ServiceSpec spec = victim({"log", "4000", "100"});
  spec.log_max_bytes = 64 * 1024;
  spec.log_files = 20;
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  run_until([&] { return std::ranges::count(all_logs(), '\n') == 4000; });
  const std::string text = all_logs();
  for (int i = 0; i < 4000; i += 199) {
    EXPECT_NE(text.find("line " + std::to_string(i) + " "), std::string::npos) << i;
  }
  std::ifstream rotated(service_dir() + "/logs/current.1");
  std::string content((std::istreambuf_iterator<char>(rotated)), {});
  ASSERT_FALSE(content.empty());
  EXPECT_TRUE(content.starts_with("line "));
  EXPECT_EQ(content.back(), '\n');
  const RunOutput tail = supervisor_->run_output("victim", {.max_bytes = 250});
  EXPECT_TRUE(tail.out.starts_with("line "));
  EXPECT_LE(tail.out.size(), 250U);
  EXPECT_NE(tail.out.find("line 3999 "), std::string::npos);
}

TEST_F(Supervision, OutputPassesThroughCompletelyAlsoToASlowReader) {
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"log", "20000", "100"})));
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const os::Fd reader(pipe_fds[0]);
  os::Fd writer(pipe_fds[1]);
  ASSERT_TRUE(supervisor_->pass_through("victim", writer.get(), writer.get()));
  ASSERT_TRUE(supervisor_->start("victim"));
  ::fcntl(reader.get(), F_SETFL, O_NONBLOCK);
  std::string got;
  run_until([&] {
    char buffer[16384];
    const ssize_t size = ::read(reader.get(), buffer, sizeof buffer);
    if (size > 0) got.append(buffer, static_cast<std::size_t>(size));
    return got.size() == 2'000'000;
  });
  EXPECT_TRUE(got.starts_with("line 0 "));
  EXPECT_EQ(std::ranges::count(got, '\n'), 20000);
}

TEST_F(Supervision, AReaderThatGoesAwayDoesNotDisturbTheService) {
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"log", "20000", "100"})));
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  ASSERT_TRUE(supervisor_->pass_through("victim", pipe_fds[1], pipe_fds[1]));
  ::close(pipe_fds[0]);
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_TRUE(seen_->exits.at(0).status.success());
  run_until([&] { return std::ranges::count(all_logs(), '\n') == 20000; });
  ::close(pipe_fds[1]);
}

TEST_F(Supervision, TheLogFeedCarriesTheOutput) {
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"log", "10", "50"})));
  ASSERT_TRUE(supervisor_->feed_log("victim", true));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return seen_->log_bytes.size() == 500; });
  EXPECT_TRUE(seen_->log_bytes.starts_with("line 0 "));
}

TEST_F(Supervision, ACrashIsCapturedWhileTheProcessWaits) {
  ServiceSpec spec = victim({"null"});
  spec.capture = CaptureMode::kLive;
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return seen_->exits.size() == 1 && seen_->captures.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
  EXPECT_GT(seen_->exits.at(0).crashed_mono_ns, 0);
  EXPECT_EQ(seen_->exits.at(0).capture_path, seen_->captures.at(0).path);
  ASSERT_TRUE(seen_->captures.at(0).ok) << seen_->captures.at(0).error->to_text();
  const auto text = os::read_file(os::real_files(), seen_->captures.at(0).path);
  ASSERT_TRUE(text);
  const auto report = wire::Json::parse(*text);
  ASSERT_TRUE(report);
  EXPECT_EQ((*report)["classification"]["cause"].as_string(), "null_dereference") << *text;
}

TEST_F(Supervision, AHungProcessIsCapturedBeforeItIsKilled) {
  ServiceSpec spec = victim({"beat", "10", "5"});
  spec.capture = CaptureMode::kLive;
  spec.heartbeat_timeout = std::chrono::milliseconds(200);
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return seen_->exits.size() == 1 && seen_->captures.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
  EXPECT_TRUE(seen_->captures.at(0).ok) << seen_->captures.at(0).error->to_text();
  EXPECT_TRUE(os::real_files().exists(seen_->captures.at(0).path));
}

TEST_F(Supervision, ASecondSupervisorOfTheSameNameIsRefusedAndNamesTheFirst) {
  start(victim({"run"}));
  Recorder other_seen;
  Supervisor::Options options;
  options.state_dir = state_dir_;
  auto other = Supervisor::create(*loop_, options, other_seen);
  ASSERT_TRUE(other);
  const auto added = (*other)->add(victim({"run"}));
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Code::kAlreadySupervised);
  EXPECT_EQ(added.error().field("holder"), std::to_string(::getpid()));
  ServiceSpec another = victim({"exit", "0"});
  another.name = "another";
  EXPECT_TRUE((*other)->add(another));  // Another name in the same directory is free.
  bool done = false;
  (*other)->shutdown([&] { done = true; });
  run_until([&] { return done; });
}

TEST_F(Supervision, ServicesThatAreTakenOverTogetherAreWatchedAndFollowTheNewSpecs) {
  std::vector<ServiceSpec> specs;
  for (const char* name : {"one", "two", "three"}) {
    specs.push_back(victim({"run"}));
    specs.back().name = name;
    specs.back().env = {{"SUPERVISION_TEST", dir_}};  // each has its own directory
    start(specs.back());
  }
  run_until([&] { return seen_->starts.size() == specs.size(); });
  std::vector<pid_t> before;
  for (const ServiceSpec& spec : specs) before.push_back(supervisor_->status(spec.name)->pid);
  const pid_t shim_of_two = supervisor_->status("two")->shim_pid;
  abandon_supervisor();
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  for (ServiceSpec& spec : specs) spec.argv.back() = "notify";
  supervisor_->begin(specs);
  kill_one(shim_of_two, SIGKILL);  // It was greeted, and does not answer any more.
  for (const ServiceSpec& spec : specs) ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(seen_->adoptions, before);
  run_until([&] { return supervisor_->status("two")->shim_pid != shim_of_two; });
  // Each is watched, and what starts next is what the new spec says.
  run_until([&] {
    return std::ranges::all_of(specs, [&](const ServiceSpec& spec) {
      const std::string dir = supervisor_->state_dir().service_dir(spec.name);
      const auto text = os::read_file(os::real_files(), os::join_path(dir, "spec.json"));
      return text && text->find("\"notify\"") != std::string::npos;
    });
  });
  // By the shim, which hears of it after the new spec.
  for (const ServiceSpec& spec : specs) ASSERT_TRUE(supervisor_->signal(spec.name, SIGKILL));
  run_until(
      [&] { return std::ranges::count(seen_->notifications, "READY", &NotifyEvent::key) == 3; });
  EXPECT_EQ(seen_->exits.size(), 3u);
}

TEST_F(Supervision, AStateDirectoryPathOfAnyLengthWorks) {
  state_dir_ = dir_ + "/" + std::string(120, 'd') + "/state";
  start(victim({"notify"}));
  run_until([&] { return seen_->ready_count == 1; });
}

}  // namespace
}  // namespace defib::process
