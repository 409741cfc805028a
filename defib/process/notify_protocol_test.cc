// sd_notify(3) from real services, through a real shim, to a supervisor.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "defib/os/files.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;

class NotifyProtocol : public SupervisorTest {
 protected:
  ServiceSpec notifier(std::vector<std::string> words) const {
    ServiceSpec spec = victim({});
    spec.argv = {program("process_notifier")};
    spec.argv.insert(spec.argv.end(), words.begin(), words.end());
    spec.restart = RestartPolicy::kNever;
    return spec;
  }
  ServiceSpec python(const std::string& script) const {
    ServiceSpec spec = victim({});
    spec.argv = {"python3", "-c", script};
    spec.restart = RestartPolicy::kNever;
    return spec;
  }
  bool told(const std::string& key, const std::string& value = "1") const {
    return std::ranges::any_of(seen_->notifications, [&](const NotifyEvent& event) {
      return event.key == key && event.value == value;
    });
  }
  void until_exit() {
    run_until([&] { return !seen_->exits.empty(); });
  }
};

TEST_F(NotifyProtocol, AReloadIsShownUntilReadyComesAgain) {
  start(notifier({"on-term:0:0:READY=1", "agent:ready", "agent:reloading", "say:STATUS=half-way"}));
  run_until([&] { return status().status_text == "half-way"; });
  EXPECT_TRUE(status().reloading);
  EXPECT_TRUE(status().ready);
  EXPECT_EQ(status().state, ServiceState::kRunning);
  ASSERT_TRUE(supervisor_->signal("victim", SIGTERM));
  run_until([&] { return !status().reloading; });
  EXPECT_EQ(status().unknown_notifications, 0u);
}

TEST_F(NotifyProtocol, AReloadWithoutAnEndIsToldAndEndsNothing) {
  ServiceSpec spec = notifier({"agent:ready", "agent:reloading", "run"});
  spec.ready_timeout = 100ms;
  start(spec);
  run_until([&] { return told("RELOADING"); });
  run_until([&] { return !status().reloading; });
  EXPECT_EQ(status().last_error->code(), Code::kTimeout);
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

TEST_F(NotifyProtocol, StoppingIsShownAndEndsByItself) {
  start(notifier({"on-term:0:0:", "agent:ready", "agent:stopping"}));
  run_until([&] { return status().state == ServiceState::kStopping; });
  EXPECT_NE(status().pid, 0);
  ASSERT_TRUE(supervisor_->signal("victim", SIGTERM));
  until_exit();
  EXPECT_TRUE(seen_->exits.at(0).status.success());
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kNone);
  EXPECT_EQ(status().state, ServiceState::kStopped);
}

TEST_F(NotifyProtocol, AStopByItselfThatDoesNotEndIsKilledAtTheStopTimeout) {
  ServiceSpec spec = notifier({"agent:stopping", "run"});
  spec.stop_timeout = 100ms;
  start(spec);
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
}

TEST_F(NotifyProtocol, AStopByItselfMayBeExtended) {
  ServiceSpec spec = notifier({"agent:stopping", "agent:extend:20000000", "sleep:1500", "exit:5"});
  spec.stop_timeout = 1000ms;
  start(spec);
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).status.code, 5);
}

TEST_F(NotifyProtocol, TheNextSupervisorKnowsOfAStopByItself) {
  ServiceSpec spec = notifier({"on-term:0:0:", "agent:ready", "agent:stopping"});
  start(spec);
  run_until([&] { return status().state == ServiceState::kStopping; });
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(status().state, ServiceState::kStopping);
  ASSERT_TRUE(supervisor_->signal("victim", SIGTERM));
  until_exit();
}

TEST_F(NotifyProtocol, AStartMayBeExtended) {
  ServiceSpec spec = notifier({"agent:extend:20000000", "sleep:1500", "agent:ready", "run"});
  spec.expects_ready = true;
  spec.ready_timeout = 1000ms;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  EXPECT_TRUE(seen_->exits.empty());
}

TEST_F(NotifyProtocol, AStartThatIsExtendedTooLittleFails) {
  ServiceSpec spec = notifier({"agent:extend:1200000", "run"});
  spec.expects_ready = true;
  spec.ready_timeout = 800ms;
  start(spec);
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kNotReady);
  EXPECT_GE(seen_->exits.at(0).noticed_mono_ns - seen_->starts.at(0).mono_ns, 1'200'000'000);
}

TEST_F(NotifyProtocol, ARequestedStopMayBeExtended) {
  ServiceSpec spec = notifier({"on-term:1500:7:EXTEND_TIMEOUT_USEC=20000000", "agent:ready"});
  spec.expects_ready = true;
  spec.stop_timeout = 1000ms;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).status.code, 7);
}

TEST_F(NotifyProtocol, ARequestedStopThatIsNotExtendedIsKilledInTime) {
  ServiceSpec spec = notifier({"on-term:20000:7:STATUS=dawdling", "agent:ready"});
  spec.expects_ready = true;
  spec.stop_timeout = 150ms;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(NotifyProtocol, ALimitOfTheRuntimeStopsAndMayBeExtended) {
  ServiceSpec spec = notifier({"on-term:0:9:"});
  spec.max_runtime = 1000ms;
  start(spec);
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).status.code, 9);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kLimit);
  EXPECT_GE(seen_->exits.at(0).noticed_mono_ns - seen_->starts.at(0).mono_ns, 1'000'000'000);

  spec.argv = {program("process_notifier"), "agent:ready", "agent:extend:20000000", "sleep:1500",
               "exit:3"};
  ASSERT_TRUE(supervisor_->update(spec));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return seen_->exits.size() == 2; });
  EXPECT_EQ(seen_->exits.at(1).status.code, 3);
}

TEST_F(NotifyProtocol, ATriggeredWatchdogIsAHang) {
  start(notifier({"agent:ready", "agent:trigger", "run"}));
  until_exit();
  ASSERT_EQ(seen_->hangs.size(), 1u);
  EXPECT_EQ(seen_->hangs.at(0).stage, "sd_notify");
  EXPECT_TRUE(seen_->hangs.at(0).kills);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
}

TEST_F(NotifyProtocol, ATriggeredWatchdogOnlyAlertsWhereThatIsAskedFor) {
  ServiceSpec spec = notifier({"agent:trigger", "run"});
  spec.on_heartbeat_lost = LimitAction::kAlert;
  start(spec);
  run_until([&] { return seen_->hangs.size() == 1; });
  EXPECT_EQ(status().state, ServiceState::kDegraded);
  EXPECT_FALSE(seen_->hangs.at(0).kills);
}

TEST_F(NotifyProtocol, AServiceMayChangeItsWatchdogsDeadline) {
  ServiceSpec spec = notifier({"agent:watchdog", "agent:watchdog_usec:80000", "run"});
  spec.heartbeat_timeout = 60s;
  start(spec);
  until_exit();
  ASSERT_EQ(seen_->hangs.size(), 1u);
  EXPECT_EQ(seen_->hangs.at(0).deadline, 80ms);
}

TEST_F(NotifyProtocol, ErrorsThatAServiceTellsOfItselfAreInItsExit) {
  start(notifier({"agent:errno:2", "agent:exit_status:42", "exit:1"}));
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).reported_error, "errno 2 (No such file or directory)");
  EXPECT_EQ(seen_->exits.at(0).reported_exit_status, 42);
  EXPECT_NE(status().last_error->message().find("No such file"), std::string::npos);
}

TEST_F(NotifyProtocol, BusAndVarlinkErrorsAreShown) {
  start(notifier({"agent:bus_error:org.example.Broken", "run"}));
  run_until([&] { return !status().reported_error.empty(); });
  EXPECT_EQ(status().reported_error, "org.example.Broken");
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_EQ(status().reported_error, "");
  ServiceSpec spec = notifier({"agent:varlink_error:io.systemd.No", "run"});
  ASSERT_TRUE(supervisor_->update(spec));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return status().reported_error == "io.systemd.No"; });
}

TEST_F(NotifyProtocol, UnknownAndMalformedFieldsAreCountedAndIgnored) {
  start(
      notifier({"say:X_OWN=1\\nNONSENSE\\nWATCHDOG_USEC=soon\\nEXTEND_TIMEOUT_USEC=-1\\nERRNO=x\\n"
                "READY=yes\\nWATCHDOG=0\\nRELOADING=2\\nSTOPPING=true\\nMONOTONIC_USEC=\\n"
                "EXTEND_TIMEOUT_USEC=99999999999999999999999\\nEXIT_STATUS=1e3",
                "say:WATCHDOG_USEC=18446744073709551615", "say:STATUS=done", "run"}));
  run_until([&] { return status().status_text == "done"; });
  EXPECT_EQ(status().unknown_notifications, 12u);
  EXPECT_TRUE(told("X_OWN"));  // and recorded
  EXPECT_EQ(status().state, ServiceState::kRunning);
  EXPECT_FALSE(status().reloading);
}

TEST_F(NotifyProtocol, OnlyTheMainProcessIsBelievedWhereThatIsAskedFor) {
  ServiceSpec spec = notifier({"child:READY=1\\nX_DEFIB_STATE=ramping", "say:STATUS=mine", "run"});
  spec.notify_access = NotifyAccess::kMain;
  spec.expects_ready = true;
  start(spec);
  run_until([&] { return status().status_text == "mine"; });
  EXPECT_FALSE(status().ready);
  EXPECT_FALSE(told("READY"));
  EXPECT_EQ(status().state, ServiceState::kStarting);
}

TEST_F(NotifyProtocol, AChildOfTheServiceIsNoHelperOfTheSupervisor) {
  ServiceSpec spec = notifier({"child:READY=1", "say:STATUS=mine", "run"});
  spec.notify_access = NotifyAccess::kExec;
  spec.expects_ready = true;
  start(spec);
  run_until([&] { return status().status_text == "mine"; });
  EXPECT_FALSE(told("READY"));
}

TEST_F(NotifyProtocol, EveryProcessIsBelievedByDefault) {
  start(notifier({"child:STATUS=the child's", "run"}));
  run_until([&] { return status().status_text == "the child's"; });
}

TEST_F(NotifyProtocol, AServiceMayNarrowItsAccessUntilItsNextStart) {
  ServiceSpec spec = notifier({"on-term:0:0:", "agent:access:main", "child:STATUS=no",
                               "agent:access:none", "say:STATUS=neither"});
  start(spec);
  run_until([&] { return told("NOTIFYACCESS", "none"); });
  ASSERT_TRUE(supervisor_->signal("victim", SIGTERM));
  until_exit();
  EXPECT_FALSE(told("STATUS", "no"));
  EXPECT_FALSE(told("STATUS", "neither"));
  spec.argv = {program("process_notifier"), "say:STATUS=again", "run"};
  ASSERT_TRUE(supervisor_->update(spec));
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return status().status_text == "again"; });
}

TEST_F(NotifyProtocol, WithAccessForNobodyNothingIsHeard) {
  ServiceSpec spec = notifier({"say:READY=1", "say:STOPPING=1", "exit:0"});
  spec.notify_access = NotifyAccess::kNone;
  start(spec);
  until_exit();
  EXPECT_TRUE(seen_->notifications.empty());
}

TEST_F(NotifyProtocol, TheBarrierReturnsWhenAllBeforeItIsTaken) {
  start(notifier({"say:STATUS=before", "agent:barrier:5000", "exit:0"}));
  until_exit();
  EXPECT_TRUE(seen_->exits.at(0).status.success());  // 96 where the barrier was not lifted
  EXPECT_TRUE(told("STATUS", "before"));
}

TEST_F(NotifyProtocol, AMainProcessIsHandedOverByItsPidAndInode) {
  start(notifier({"successor"}));
  run_until([&] { return seen_->ready_count == 1; });
  const pid_t launcher = seen_->starts.at(0).pid;
  run_until([&] { return ::kill(launcher, 0) != 0; });
  EXPECT_TRUE(seen_->exits.empty());
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_NE(seen_->exits.at(0).pid, launcher);
}

TEST_F(NotifyProtocol, AMainProcessWithAnotherInodeIsNotBelieved) {
  start(notifier({"successor:wrong"}));
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).pid, seen_->starts.at(0).pid);
}

TEST_F(NotifyProtocol, AMainProcessIsHandedOverByItsPidfd) {
  start(notifier({"successor:fd"}));
  run_until([&] { return seen_->ready_count == 1; });
  const pid_t launcher = seen_->starts.at(0).pid;
  run_until([&] { return ::kill(launcher, 0) != 0; });
  EXPECT_TRUE(seen_->exits.empty());
  EXPECT_EQ(status().unknown_notifications, 0u);
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_NE(seen_->exits.at(0).pid, launcher);
}

TEST_F(NotifyProtocol, ADescriptorThatIsNoneOfAChildOfTheServiceIsNotBelieved) {
  for (const std::string how : {"no-fd", "null-fd", "own-fd"}) {
    SCOPED_TRACE(how);
    seen_->starts.clear();
    seen_->exits.clear();
    const ServiceSpec spec = notifier({"successor:" + how});
    if (supervisor_) {
      ASSERT_TRUE(supervisor_->update(spec));
      ASSERT_TRUE(supervisor_->start("victim"));
    } else {
      start(spec);
    }
    until_exit();
    EXPECT_EQ(seen_->exits.at(0).pid, seen_->starts.at(0).pid);
  }
}

// What was announced outlives the shim that heard it.
TEST_F(NotifyProtocol, AMainProcessIsFollowedByTheNextShim) {
  start(notifier({"successor:stay"}));
  run_until([&] { return seen_->ready_count == 1 && processes().size() == 3; });
  const pid_t launcher = status().pid;
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1; });
  ASSERT_TRUE(kill_one(launcher, SIGKILL));
  run_until([&] { return ::kill(launcher, 0) != 0; });
  EXPECT_EQ(processes().size(), 2u);
  EXPECT_TRUE(seen_->exits.empty());
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_NE(seen_->exits.at(0).pid, launcher);
}

TEST_F(NotifyProtocol, AMainProcessIsFollowedWhereItsLauncherEndsWithItsShim) {
  start(notifier({"successor:stay"}));
  run_until([&] { return seen_->ready_count == 1 && processes().size() == 3; });
  const pid_t launcher = status().pid;
  kill_shim();
  ASSERT_TRUE(kill_one(launcher, SIGKILL));
  run_until([&] { return seen_->new_shims.size() == 1; });
  run_until([&] { return status().pid != launcher; });
  EXPECT_TRUE(seen_->exits.empty());
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_NE(seen_->exits.at(0).pid, launcher);
}

constexpr char kInNamespace[] = "DEFIB_IN_PID_NAMESPACE";

// A process with that number, in a namespace of our own; 0: the kernel does not let us choose.
pid_t with_number(pid_t wanted) {
  for (int i = 0; i < 100; ++i) {
    std::ofstream("/proc/sys/kernel/ns_last_pid") << wanted - 1 << std::flush;
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    if (pid == wanted) return pid;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  return 0;
}

// The number of an announced process that has ended is anybody's. Numbers are chosen where nobody
// else's are, in a namespace.
TEST_F(NotifyProtocol, AStopSignalsNobodyWhoOnlyHasTheNumberOfWhatWasAnnounced) {
  if (std::getenv(kInNamespace) == nullptr) {
    const std::string namespaces = "unshare --pid --fork --kill-child --mount-proc ";
    if (std::system((namespaces + "true 2>/dev/null").c_str()) != 0) {
      GTEST_SKIP() << "no pid namespace is to be had here";
    }
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    EXPECT_EQ(std::system(fmt::format("{}=1 {} {} --gtest_brief=1 --gtest_filter=*.{}",
                                      kInNamespace, namespaces, self,
                                      testing::UnitTest::GetInstance()->current_test_info()->name())
                              .c_str()),
              0);
    return;
  }
  start(notifier({"successor:outlived"}));
  run_until([&] { return !status().status_text.empty(); });
  ::usleep(50'000);  // The kernel counts starts in hundredths of a second.
  const pid_t bystander = with_number(std::stoi(status().status_text));
  if (bystander == 0) GTEST_SKIP() << "the kernel does not let us choose a process's number";
  ASSERT_TRUE(supervisor_->stop("victim"));
  until_exit();
  EXPECT_EQ(seen_->exits.at(0).pid, seen_->starts.at(0).pid);
  EXPECT_EQ(::waitpid(bystander, nullptr, WNOHANG), 0) << "the bystander was signalled";
  ::kill(bystander, SIGKILL);
  ::waitpid(bystander, nullptr, 0);
}

TEST_F(NotifyProtocol, WithoutAResetTheSecondRestartWaits) {
  ServiceSpec spec = notifier({"sleep:50", "exit:1"});
  spec.restart = RestartPolicy::kOnFailure;
  spec.restart_delay = 60s;
  start(spec);
  run_until([&] { return seen_->exits.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).restart_delay, 0s);
  EXPECT_GE(seen_->exits.at(1).restart_delay, 60s);  // of the third start
  EXPECT_LE(seen_->exits.at(1).restart_delay, 66s);  // with its jitter
}

TEST_F(NotifyProtocol, ARestartResetBeginsTheDelaysAnew) {
  ServiceSpec spec = notifier({"agent:restart_reset", "agent:barrier:5000", "sleep:200", "exit:1"});
  spec.restart = RestartPolicy::kOnFailure;
  spec.restart_delay = 60s;
  start(spec);
  run_until([&] { return seen_->exits.size() == 3; });
  for (const ExitReport& exit : seen_->exits) EXPECT_EQ(exit.restart_delay, 0s);
}

TEST_F(NotifyProtocol, AnAbstractSocketDoesTheSame) {
  // A path that does not fit into an address makes the supervisor use an abstract name.
  state_dir_ = dir_ + "/" + std::string(100, 'x');
  start(notifier(
      {"agent:ready", "say:STATUS=over the abstract socket", "agent:barrier:5000", "run"}));
  run_until([&] { return status().status_text == "over the abstract socket"; });
  const std::string environ_path = fmt::format("/proc/{}/environ", status().pid);
  const auto environ = os::read_file(os::real_files(), environ_path);
  ASSERT_TRUE(environ);
  EXPECT_NE(environ->find("NOTIFY_SOCKET=@"), std::string::npos);
}

// What sd_watchdog_enabled(3) does, in Python's own words.
constexpr char kBeatsInPython[] = R"(
import os, socket, time
def tell(text):
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\0" + path[1:] if path[0] == "@" else path)
        s.send(text.encode())
def interval():
    if "WATCHDOG_USEC" not in os.environ: return 0
    if int(os.environ.get("WATCHDOG_PID", os.getpid())) != os.getpid(): return 0
    return int(os.environ["WATCHDOG_USEC"]) / 1e6
child = os.fork()
if child == 0:
    os._exit(1 if interval() else 0)
if os.waitpid(child, 0)[1] != 0: os._exit(90)
if interval() == 0: os._exit(91)
tell("READY=1\nSTATUS=%g" % interval())
for i in range(8):
    tell("WATCHDOG=1")
    time.sleep(interval() / 4)
tell("STATUS=silent")
time.sleep(1000)
)";

constexpr char kBeatsByLibsystemd[] = R"(
import ctypes, os, time
library = ctypes.CDLL("libsystemd.so.0")
usec = ctypes.c_uint64()
if library.sd_watchdog_enabled(0, ctypes.byref(usec)) <= 0: os._exit(91)
library.sd_notify(0, b"READY=1\nSTATUS=%g" % (usec.value / 1e6))
for i in range(8):
    library.sd_notify(0, b"WATCHDOG=1")
    time.sleep(usec.value / 4e6)
if library.sd_notify_barrier(0, ctypes.c_uint64(5000000)) < 0: os._exit(92)
library.sd_notify(0, b"STATUS=silent")
time.sleep(1000)
)";

class UnchangedServices : public NotifyProtocol, public testing::WithParamInterface<const char*> {};

TEST_P(UnchangedServices, BeatByThemselvesAndAreFoundWhenTheyHang) {
  if (GetParam() == kBeatsByLibsystemd &&
      !std::filesystem::exists("/lib/x86_64-linux-gnu/libsystemd.so.0") &&
      !std::filesystem::exists("/lib/aarch64-linux-gnu/libsystemd.so.0")) {
    GTEST_SKIP() << "there is no libsystemd";
  }
  // As if the supervisor were itself watched: what it was told must not reach the service.
  ::setenv("WATCHDOG_PID", "1", 1);
  ::setenv("WATCHDOG_USEC", "1", 1);
  ServiceSpec spec = python(GetParam());
  spec.expects_ready = true;
  spec.heartbeat_timeout = 800ms;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  EXPECT_EQ(status().status_text, "0.8");
  run_until([&] { return status().status_text == "silent" || !seen_->exits.empty(); });
  EXPECT_TRUE(seen_->hangs.empty());
  until_exit();
  ::unsetenv("WATCHDOG_PID");
  ::unsetenv("WATCHDOG_USEC");
  ASSERT_EQ(seen_->hangs.size(), 1u);
  EXPECT_EQ(seen_->hangs.at(0).stage, "sd_notify");
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
}
INSTANTIATE_TEST_SUITE_P(Python, UnchangedServices,
                         testing::Values(kBeatsInPython, kBeatsByLibsystemd));

TEST_F(NotifyProtocol, WithoutAHeartbeatTimeoutNobodyIsAskedToBeat) {
  ::setenv("WATCHDOG_USEC", "1", 1);
  ServiceSpec spec = python("import os; os._exit('WATCHDOG_USEC' in os.environ)");
  spec.heartbeat_timeout = 0s;
  start(spec);
  until_exit();
  ::unsetenv("WATCHDOG_USEC");
  EXPECT_TRUE(seen_->exits.at(0).status.success());
}

TEST_F(NotifyProtocol, WhatTheAgentSaysWhileThereIsNoShimIsNotLost) {
  ServiceSpec spec = victim({});
  spec.argv = {program("process_agent_victim"), "say", "1", "ramping"};
  spec.expects_ready = true;  // by then it waits for the signal
  start(spec);
  run_until([&] { return status().state == ServiceState::kRunning; });
  // The supervisor keeps the socket; with both of them dead nobody does.
  const pid_t service = status().pid;
  ASSERT_TRUE(kill_one(status().shim_pid, SIGKILL));
  abandon_supervisor();
  ASSERT_TRUE(kill_one(service, SIGUSR1));
  const std::string said = dir_ + "/said";
  for (int i = 0; i < 5000 && !os::real_files().exists(said); ++i) ::usleep(1000);
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  run_until([&] { return status().state == ServiceState::kRamping; });
  EXPECT_EQ(status().pid, service);
}

}  // namespace
}  // namespace defib::process
