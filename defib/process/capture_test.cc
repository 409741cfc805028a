// Captures whose helper is stuck, fails or is killed, and services that are seized for life.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "defib/os/files.h"
#include "defib/process/launch_description.h"
#include "defib/process/supervisor_test_util.h"
#include "defib/wire/json.h"

namespace defib::process {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class Capturing : public SupervisorTest {
 protected:
  // The programs, with a shell script in the place of one of them.
  void programs_with(const std::string& name, const std::string& script) {
    const std::string bin = dir_ + "/bin";
    std::filesystem::create_directory(bin);
    for (const char* one : {"defib-shim", "defib-capture", "defib-snapshot"}) {
      if (one != name) std::filesystem::create_symlink(program(one), bin + "/" + one);
    }
    std::filesystem::create_symlink(program("../lib"), dir_ + "/lib");
    std::ofstream(bin + "/" + name) << "#!/bin/sh\n" << script << "\n";
    ASSERT_EQ(::chmod((bin + "/" + name).c_str(), 0755), 0);
    Supervisor::Options options;
    options.state_dir = state_dir_;
    options.program_dir = bin;
    auto made = Supervisor::create(*loop_, options, *seen_);
    ASSERT_TRUE(made) << made.error().to_text();
    supervisor_ = std::move(*made);
  }
  // Crashes once, some moments after its start.
  ServiceSpec crashing(const std::string& victim = "capture_plain",
                       const std::string& mode = "crash") const {
    ServiceSpec spec = this->victim({});
    spec.argv = {program(victim), mode, dir_ + "/once", "100"};
    spec.capture = CaptureMode::kLive;
    return spec;
  }
  void run_to_capture() {
    run_until([&] { return !seen_->captures.empty() && seen_->starts.size() > 1; });
    ASSERT_FALSE(seen_->captures.empty());
    ASSERT_GT(seen_->starts.size(), 1U);
  }
  double restarted_ms() const {
    return static_cast<double>(seen_->starts[1].mono_ns - seen_->exits.at(0).crashed_mono_ns) / 1e6;
  }
  wire::Json report() const {
    const auto text = os::read_file(os::real_files(), seen_->captures.at(0).path);
    const auto json = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
    EXPECT_TRUE(json);
    return json ? *json : wire::Json();
  }
  std::string capture_error() const {
    return seen_->captures.at(0).error ? seen_->captures.at(0).error->to_text() : "";
  }
  // What a loaded machine adds.
  static constexpr double kSlackMs = 1500;
};

TEST_F(Capturing, ACrashIsCopiedAndReported) {
  ServiceSpec spec = crashing();
  spec.capture_timeout = milliseconds(5000);  // the machine may be loaded
  start(spec);
  run_to_capture();
  EXPECT_TRUE(seen_->captures[0].ok) << capture_error();
  const wire::Json json = report();
  EXPECT_EQ(json["threads"].size(), 3U);
  EXPECT_EQ(json["threads"].items()[0]["frames"].items()[0]["function"].as_string(), "fill_order");
  EXPECT_EQ(json["gaps"].size(), 0U) << json.dump(2);
}

// A process with gigabytes of memory, or one that writes a core, ends long after its report. This
// one is released by the end of its helper.
TEST_F(Capturing, AReportThatIsDoneBeforeTheEndIsToldAfterIt) {
  programs_with("defib-snapshot", "exit 0");
  ServiceSpec spec = crashing();
  spec.capture_timeout = milliseconds(5000);
  start(spec);
  bool before_its_end = false;
  seen_->on_exit = [&] { before_its_end = !seen_->captures.empty(); };
  run_to_capture();
  EXPECT_FALSE(before_its_end);
  EXPECT_TRUE(seen_->captures[0].ok) << capture_error();
}

TEST_F(Capturing, AHelperThatSleepsHoldsUpNothingBeyondTheBound) {
  programs_with("defib-snapshot", "exec sleep 100");
  ServiceSpec spec = crashing();
  // Long enough for the crash to be heard of in time on a loaded machine.
  spec.capture_timeout = milliseconds(500);
  start(spec);
  run_to_capture();
  EXPECT_LT(restarted_ms(), 500 + kSlackMs);
  EXPECT_FALSE(seen_->captures[0].ok);
  EXPECT_TRUE(seen_->captures[0].partial);
  EXPECT_THAT(capture_error(), HasSubstr("within 500 ms"));
  const wire::Json json = report();
  EXPECT_EQ(json["classification"]["cause"].as_string(), "null_dereference");
  EXPECT_FALSE(json["registers"].members().empty());
}

// The process is gone before its time is over: nobody can ask it what became of the copy.
TEST_F(Capturing, AHelperThatSleepsIsEndedAlsoWhereTheProcessIsGone) {
  programs_with("defib-snapshot", "kill -KILL $3; exec sleep 100");
  ServiceSpec spec = crashing();
  spec.capture_timeout = milliseconds(500);  // the machine may be loaded
  start(spec);
  run_to_capture();
  EXPECT_TRUE(seen_->captures[0].partial);
  EXPECT_THAT(capture_error(), HasSubstr("within 500 ms"));
}

// The hook cannot give up by itself: its thread stands still.
TEST_F(Capturing, AHelperThatHoldsTheProcessIsKilledAtTheBound) {
  programs_with("defib-snapshot", "exec " + program("capture_holder") + " \"$@\"");
  ServiceSpec spec = crashing();
  spec.capture_timeout = milliseconds(150);
  start(spec);
  run_to_capture();
  EXPECT_LT(restarted_ms(), 150 + kSlackMs);
  EXPECT_THAT(capture_error(), HasSubstr("within 150 ms"));
}

TEST_F(Capturing, AHelperThatIsKilledIsNamed) {
  programs_with("defib-snapshot", "kill -SEGV $$");
  start(crashing());
  run_to_capture();
  EXPECT_THAT(capture_error(), HasSubstr("killed by SIGSEGV"));
  EXPECT_EQ(report()["classification"]["cause"].as_string(), "null_dereference");
}

TEST_F(Capturing, WithoutATimeOnlyThePageTells) {
  ServiceSpec spec = crashing();
  spec.capture_timeout = milliseconds(0);
  start(spec);
  run_to_capture();
  EXPECT_TRUE(seen_->captures[0].partial) << capture_error();
  EXPECT_EQ(report()["classification"]["cause"].as_string(), "null_dereference");
}

TEST_F(Capturing, ASecondCrashInsideTheHandlerEndsTheProcess) {
  ServiceSpec spec = crashing("capture_plain", "blind");
  start(spec);
  run_until([&] { return seen_->starts.size() > 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
}

class Tracing : public Capturing {
 protected:
  ServiceSpec traced(std::vector<std::string> arguments) const {
    ServiceSpec spec = victim({});
    spec.argv = {program("capture_plain_static")};
    spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
    spec.capture = CaptureMode::kPtrace;
    spec.capture_timeout = milliseconds(5000);  // the machine may be loaded
    return spec;
  }
  pid_t tracer_of(pid_t pid) const {
    std::ifstream in(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("TracerPid:")) return std::stoi(line.substr(10));
    }
    return 0;
  }
  pid_t wait_for_tracer() {
    run_until([&] { return status().pid > 0 && tracer_of(status().pid) > 0; });
    return tracer_of(status().pid);
  }
};

TEST_F(Tracing, AStaticProgramIsCopiedWithAllItsThreads) {
  start(traced({"crash", dir_ + "/once", "300"}));
  wait_for_tracer();
  run_to_capture();
  EXPECT_TRUE(seen_->captures[0].ok) << capture_error();
  const wire::Json json = report();
  EXPECT_EQ(json["threads"].size(), 3U);
  EXPECT_EQ(json["threads"].items()[0]["frames"].items()[0]["function"].as_string(), "fill_order");
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGSEGV);
}

TEST_F(Tracing, TheDeathOfTheTracerIsToldAndTheServiceGoesOn) {
  start(traced({"signals", dir_ + "/count"}));
  const pid_t tracer = wait_for_tracer(), service = status().pid;
  ::kill(tracer, SIGKILL);
  run_until([&] { return !seen_->warnings.empty(); });
  ASSERT_FALSE(seen_->warnings.empty());
  EXPECT_THAT(seen_->warnings[0].to_text(), HasSubstr("nobody traces it"));
  EXPECT_EQ(status().pid, service);
  EXPECT_EQ(tracer_of(service), 0);
}

// A dead process cannot be waited for until its tracer has taken note.
TEST_F(Tracing, ATracerThatStandsStillDoesNotHoldUpTheRestart) {
  start(traced({"signals", dir_ + "/count"}));
  const pid_t tracer = wait_for_tracer(), service = status().pid;
  ::kill(tracer, SIGSTOP);
  ::kill(service, SIGKILL);
  run_until([&] { return seen_->starts.size() > 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
}

TEST_F(Tracing, AHandlerOfTheProgramGetsItsSignal) {
  ServiceSpec spec = traced({"handler", dir_ + "/once", "300"});
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_TRUE(seen_->exits.at(0).status.exited);
  EXPECT_EQ(seen_->exits.at(0).status.code, 9);
  EXPECT_EQ(seen_->exits.at(0).crashed_mono_ns, 0) << "it was taken for a crash";
}

TEST_F(Tracing, AProgramThatWouldLoseItsRightsIsNotSeizedAndThatIsSaid) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make such a program";
  const std::string copy = dir_ + "/program";
  std::filesystem::copy_file(program("capture_plain_static"), copy);
  ASSERT_EQ(::chown(copy.c_str(), 65534, 65534), 0);
  ASSERT_EQ(::chmod(copy.c_str(), 04755), 0);
  ServiceSpec spec = traced({"signals", dir_ + "/count"});
  spec.argv[0] = copy;
  EXPECT_EQ(trace_obstacle(spec), "setuid program");
  start(spec);
  run_until([&] { return !seen_->warnings.empty() && status().pid > 0; });
  EXPECT_THAT(seen_->warnings.at(0).to_text(), HasSubstr("not seized"));
}

}  // namespace
}  // namespace defib::process
