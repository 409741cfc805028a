// libdefib-agent.so in programs that know nothing of it.

#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "defib/os/process.h"
#include "defib/process/launch_description.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using std::chrono::milliseconds;

class Preload : public SupervisorTest {
 protected:
  ServiceSpec preloaded(std::vector<std::string> arguments) const {
    ServiceSpec spec = victim({});
    spec.argv = {program("preload_victim")};
    spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
    spec.capture = CaptureMode::kLive;
    spec.restart = RestartPolicy::kNever;
    return spec;
  }
  ServiceSpec beating(const std::string& mode, milliseconds deadline = milliseconds(200)) const {
    ServiceSpec spec = preloaded({mode});
    spec.preload_heartbeat = true;
    spec.heartbeat_timeout = deadline;
    return spec;
  }
  std::string library() const { return program("../lib/libdefib-agent.so"); }
  void pass_time(milliseconds time) {
    const std::int64_t end = loop_->clock().mono_ns() + std::chrono::nanoseconds(time).count();
    run_until([&] { return loop_->clock().mono_ns() >= end; });
  }
  // A copy of a program, for its mode bits to be changed.
  std::string copy_of(const std::string& original) {
    const std::string copy = dir_ + "/program";
    std::filesystem::copy_file(original, copy);
    return copy;
  }
};

TEST_F(Preload, TheMainThreadBeatsFromItsWaitingCalls) {
  start(beating("polls"));
  run_until([&] { return status().heartbeat != HeartbeatState::kNone; });
  EXPECT_EQ(status().heartbeat_stage, "waits");
  EXPECT_EQ(status().agent, "attached");
  pass_time(milliseconds(600));
  EXPECT_TRUE(seen_->hangs.empty());
}

TEST_F(Preload, ComputingForLongerThanTheDeadlineAfterAnyWaitingCallIsAHang) {
  make_supervisor();
  const std::vector<std::string> modes = {"compute", "epoll", "select", "accept"};
  for (const std::string& mode : modes) {
    ServiceSpec spec = beating(mode);
    spec.name = mode;
    spec.hang_capture_timeout = milliseconds(1);
    start(spec);
  }
  run_until([&] { return seen_->hangs.size() == modes.size(); });
  for (const HangReport& hang : seen_->hangs) {
    EXPECT_EQ(hang.kind, "busy_loop") << hang.service << "\n" << hang.decision.explain();
    EXPECT_EQ(hang.stage, "waits");
  }
  run_until([&] { return seen_->exits.size() == modes.size(); });
  run_until([&] { return seen_->captures.size() == modes.size(); });
  for (const HangReport& hang : seen_->hangs) {
    EXPECT_NE(hang.capture_path, "");
    EXPECT_EQ(std::ranges::count(seen_->captures, hang.capture_path, &CaptureReport::path), 1)
        << "the report that was announced is told of";
  }
}

TEST_F(Preload, ABoundlessWaitIsRestAndNoHang) {
  start(beating("poll-for-ever", milliseconds(50)));
  run_until([&] { return status().agent == "attached"; });
  pass_time(milliseconds(500));
  EXPECT_TRUE(seen_->hangs.empty());
  EXPECT_TRUE(seen_->exits.empty());
}

TEST_F(Preload, ASleepOutsideOfTheWrappedCallsIsRestToo) {
  start(beating("sleeps", milliseconds(50)));
  run_until([&] { return !seen_->held.empty(); });
  EXPECT_EQ(seen_->held.at(0).decision.rule, "rests_elsewhere")
      << seen_->held.at(0).decision.explain();
  pass_time(milliseconds(300));
  EXPECT_TRUE(seen_->hangs.empty());
}

TEST_F(Preload, OtherThreadsWaitingCallsDoNotBeat) {
  start(beating("threads"));
  run_until([&] { return status().agent == "attached"; });
  pass_time(milliseconds(100));
  EXPECT_EQ(status().heartbeat, HeartbeatState::kNone);
}

TEST_F(Preload, ByDefaultAProgramThatComputesLongIsLeftAlone) {
  ServiceSpec spec = preloaded({"compute"});
  spec.heartbeat_timeout = milliseconds(50);
  start(spec);
  run_until([&] { return status().agent == "attached"; });
  pass_time(milliseconds(300));
  EXPECT_EQ(status().heartbeat, HeartbeatState::kNone);
  EXPECT_TRUE(seen_->hangs.empty());
}

TEST_F(Preload, SignalsThatAProgramHandlesItselfStayItsOwn) {
  make_supervisor();
  for (const char* mode : {"handler-after", "handler-before"}) {
    ServiceSpec spec = preloaded({mode});
    spec.name = mode;
    start(spec);
  }
  run_until([&] { return seen_->exits.size() == 2; });
  for (const ExitReport& exit : seen_->exits) {
    EXPECT_EQ(exit.status.to_string(), "exit code 7") << exit.service;
    EXPECT_EQ(exit.crashed_mono_ns, 0) << exit.service;
  }
}

TEST_F(Preload, AHandlerThatHandsTheCrashOnHasItCaptured) {
  start(preloaded({"handler-chained"}));
  run_until([&] { return seen_->exits.size() == 1 && seen_->captures.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
  EXPECT_GT(seen_->exits.at(0).crashed_mono_ns, 0);
  EXPECT_TRUE(seen_->captures.at(0).ok);
}

TEST_F(Preload, ItStartsNoThread) {
  ServiceSpec spec = beating("count");
  start(spec);
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.to_string(), "exit code 1");
}

TEST_F(Preload, ItExportsTheCFaceAndTheWrappedCallsAndNothingElse) {
  const auto listed = os::run_command({"nm", "-D", "--defined-only", library()}, 10'000);
  ASSERT_TRUE(listed) << listed.error().to_text();
  const std::set<std::string> wrapped = {
      "accept", "accept4", "epoll_pwait", "epoll_pwait2", "epoll_wait",  "poll",
      "ppoll",  "pselect", "select",      "__poll_chk",   "__ppoll_chk", "pthread_create"};
  std::set<std::string> seen;
  std::istringstream lines(listed->text);
  for (std::string line; std::getline(lines, line);) {
    const std::string name = line.substr(line.rfind(' ') + 1);
    if (!name.starts_with("defib_")) seen.insert(name);
  }
  EXPECT_EQ(seen, wrapped);
  const auto needed = os::run_command({"readelf", "-d", library()}, 10'000);
  ASSERT_TRUE(needed);
  std::istringstream entries(needed->text);
  for (std::string line; std::getline(entries, line);) {
    if (line.find("(NEEDED)") == std::string::npos) continue;
    EXPECT_NE(line.find("libc.so"), std::string::npos) << line;
  }
}

// Of the mappings of the library and of what it allocates: the difference to the same program
// without it.
TEST_F(Preload, ItTakesLessThanTwoMegabytesAndLessThanAHundredthOfAProcessor) {
  make_supervisor();
  for (const CaptureMode mode : {CaptureMode::kLive, CaptureMode::kNone}) {
    ServiceSpec spec = preloaded({"idle"});
    spec.name = mode == CaptureMode::kLive ? "with" : "without";
    spec.preload_heartbeat = true;
    spec.capture = mode;
    start(spec);
  }
  run_until([&] {
    const auto with = supervisor_->status("with");
    return with && with->agent == "attached";
  });
  pass_time(milliseconds(50));
  const auto usage = [&](const char* name) {
    return os::process_usage(supervisor_->status(name)->pid, true)->pss_bytes;
  };
  const double kilobytes =
      (static_cast<double>(usage("with")) - static_cast<double>(usage("without"))) / 1024;
  EXPECT_LT(kilobytes, 2048);
  // What one waiting call costs more; a loop that wakes up ten thousand times a second is busy.
  const auto cost = [&](const char* library_path) {
    os::SpawnOptions options;
    const std::string command =
        fmt::format("LD_PRELOAD={} {} cost 300000", library_path, program("preload_victim"));
    const auto output = os::run_command({"sh", "-c", command}, 20'000);
    return output ? std::strtod(output->text.c_str(), nullptr) : 1e9;
  };
  const double without = cost("");
  const double with = cost(library().c_str());
  std::printf("%.0f KiB; a poll() costs %.0f ns without it and %.0f ns beside it\n", kilobytes,
              without, with);
  EXPECT_LT((with - without) * 10'000, 0.01 * 1e9);
}

TEST_F(Preload, ProgramsThatItCannotCoverAreNamedWithTheReason) {
  EXPECT_EQ(preload_obstacle(program("preload_victim")), "");
  EXPECT_EQ(preload_obstacle(program("defib-shim")), "static program");
  const std::string script = dir_ + "/script";
  std::ofstream(script) << "#!/bin/sh -e\ntrue\n";
  EXPECT_EQ(preload_obstacle(script), "");
  std::ofstream(script) << "#! " << program("defib-shim") << "\n";
  EXPECT_EQ(preload_obstacle(script), "static program");
  std::ofstream(script) << "neither";
  EXPECT_EQ(preload_obstacle(script), "not an ELF program");
  const std::string copy = copy_of(program("preload_victim"));
  ASSERT_EQ(::chmod(copy.c_str(), 04755), 0);
  EXPECT_EQ(preload_obstacle(copy), "");  // Its owner gains nothing by executing it.
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(copy.c_str(), 65534, 65534), 0);
    ASSERT_EQ(::chmod(copy.c_str(), 04755), 0);
    EXPECT_EQ(preload_obstacle(copy), "setuid program");
  }
}

TEST_F(Preload, AStaticProgramRunsUncoveredAndItsStatusSaysSo) {
  ServiceSpec spec = victim({});
  spec.argv = {program("process_static_victim")};
  spec.capture = CaptureMode::kLive;
  start(spec);
  run_until([&] { return status().pid > 0; });
  EXPECT_EQ(status().agent, "not covered: static program");
}

}  // namespace
}  // namespace defib::process
