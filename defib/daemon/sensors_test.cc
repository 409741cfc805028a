// A host with a real supervisor, real services and what watches them, read off the incidents.

#include "defib/daemon/sensors.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "defib/daemon/config.h"
#include "defib/daemon/host.h"
#include "defib/daemon/incident_view.h"
#include "defib/obs/log.h"
#include "defib/postmortem/testcases/core_pattern.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

class Sensing : public testing::Test {
 protected:
  void SetUp() override {
    obs::set_log_level(obs::Level::kOff);
    char name[] = "/tmp/defib-sensors-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    loop_ = std::move(*os::EventLoop::create());
  }
  void TearDown() override {
    if (host_) {
      bool done = false;
      host_->shutdown([&] { done = true; });
      run_until([&] { return done; });
      host_.reset();
    }
    ::prctl(PR_SET_CHILD_SUBREAPER, 0);
    std::filesystem::remove_all(dir_);
  }
  // A service `s` that runs this shell script, with more keys and tables.
  void start(const std::string& script, const std::string& keys) {
    std::ofstream(dir_ + "/script") << script;
    const auto config = parse_config("[service.s]\ncommand = [\"/bin/sh\", \"" + dir_ +
                                     "/script\"]\nworking_directory = \"" + dir_ +
                                     "\"\ncapture = \"none\"\nrestart_delay = 0\n" + keys);
    ASSERT_TRUE(config) << config.error().to_text();
    Host::Options options;
    options.state_dir = dir_ + "/state";
    auto made = Host::create(*loop_, options);
    ASSERT_TRUE(made) << made.error().to_text();
    host_ = std::move(*made);
    const auto added = host_->add(config->services.at(0));
    ASSERT_TRUE(added) << added.error().to_text();
  }
  void run_until(const std::function<bool()>& condition) {
    const auto poll = loop_->run_every(2ms, [&] {
      if (condition()) loop_->stop();
    });
    const auto limit = loop_->run_after(20s, [&] { loop_->stop(); });
    EXPECT_TRUE(loop_->run());
    loop_->cancel(poll);
    loop_->cancel(limit);
    EXPECT_TRUE(condition()) << incident().dump(2);
  }
  process::ServiceStatus status() { return *host_->supervisor().status("s"); }
  bool exists(const std::string& name) { return std::filesystem::exists(dir_ + "/" + name); }
  void touch(const std::string& name) { std::ofstream(dir_ + "/" + name) << "x"; }
  std::string read(const std::string& name) {
    std::ifstream in(dir_ + "/" + name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  wire::Json incident() {
    auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), dir_ + "/state");
    if (!log) return {};
    const auto id = log->find("latest");
    if (!id) return {};
    return incident_document(*log->read(*id));
  }
  // The newest incident's first event of this name.
  wire::Json event(std::string_view name) {
    const wire::Json document = incident();
    for (const wire::Json& line : document["timeline"].items()) {
      if (line["event"].as_string() == name) return line;
    }
    return {};
  }

  std::string dir_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<Host> host_;
};

constexpr const char* kRuns = "touch alive; exec sleep 987654321";

TEST_F(Sensing, AnExecProbeThatFailsReplacesTheServiceAndTheIncidentHasTheNumbers) {
  touch("healthy");
  start(kRuns, R"(
[[service.s.probe]]
kind = "exec"
command = ["test", "-e", "healthy"]
interval = "20ms"
failures = 2
)");
  run_until([&] { return status().pid != 0 && exists("alive"); });
  std::filesystem::remove(dir_ + "/healthy");
  run_until([&] { return status().generation == 2; });
  touch("healthy");
  EXPECT_EQ(incident()["cause"].as_string(), "health_check_failed");
  const wire::Json detected = event("detected");
  EXPECT_EQ(detected["probe"].as_string(), "exec");
  EXPECT_EQ(detected["failures"].as_int(), 2);
  EXPECT_EQ(detected["interval_ns"].as_int(), 20'000'000);
  EXPECT_EQ(detected["detail"].as_string(), "exit code 1");
}

TEST_F(Sensing, AServiceIsHealthyAgainWhenNoneOfItsProbesSaysOtherwise) {
  touch("a");
  touch("b");
  start(kRuns, R"(
[[service.s.probe]]
kind = "exec"
name = "a"
command = ["test", "-e", "a"]
interval = "10ms"
failures = 1
on_unhealthy = "alert"
[[service.s.probe]]
kind = "exec"
name = "b"
command = ["test", "-e", "b"]
interval = "10ms"
failures = 1
on_unhealthy = "alert"
)");
  using process::ServiceState;
  run_until([&] { return status().state == ServiceState::kRunning && exists("alive"); });
  std::filesystem::remove(dir_ + "/a");
  std::filesystem::remove(dir_ + "/b");
  run_until([&] { return status().state == ServiceState::kDegraded; });
  const auto failed = [&](std::string_view probe) {
    const wire::Json document = incident();
    for (const wire::Json& line : document["timeline"].items()) {
      if (line["event"].as_string() == "detected" && line["probe"].as_string() == probe)
        return true;
    }
    return false;
  };
  run_until([&] { return failed("a") && failed("b"); });
  touch("a");
  run_until([&] { return event("health_check_passed").is_object(); });
  EXPECT_EQ(status().state, ServiceState::kDegraded);
  touch("b");
  run_until([&] { return status().state == ServiceState::kRunning; });
  run_until([&] { return incident()["outcome"].as_string() == "recovered"; });
  EXPECT_EQ(status().generation, 1u);
}

TEST_F(Sensing, AServiceRunsWhenItsReadyProbeFirstPasses) {
  start("while [ ! -e go ]; do sleep 0.01; done; touch ready; exec sleep 987654321", R"(
ready_probe = "exec"
[[service.s.probe]]
kind = "exec"
command = ["test", "-e", "ready"]
interval = "1h"
)");
  using process::ServiceState;
  run_until([&] { return status().pid != 0; });
  EXPECT_EQ(status().state, ServiceState::kStarting);
  touch("go");
  run_until([&] { return status().state == ServiceState::kRunning; });
  EXPECT_TRUE(exists("ready"));
  EXPECT_TRUE(status().ready);
  EXPECT_FALSE(incident().is_object());
}

TEST_F(Sensing, APatternWithARateReplacesTheServiceAtItsCount) {
  start(
      "for i in 1 2; do echo 'request FAILED' >&2; done; echo 'request FAILED'; touch two\n"
      "while [ ! -e go ]; do sleep 0.01; done; [ -e again ] && exec sleep 987654321\n"
      "touch again; echo 'request FAILED' >&2; exec sleep 987654321\n",
      R"(
[[service.s.log_pattern]]
match = "FAILED$"
action = "restart"
rate = "3/1m"
stream = "stderr"
)");
  run_until([&] { return exists("two"); });
  EXPECT_EQ(status().generation, 1u);
  touch("go");
  run_until([&] { return status().generation == 2; });
  EXPECT_EQ(incident()["cause"].as_string(), "log_pattern");
  const wire::Json detected = event("detected");
  EXPECT_EQ(detected["lines"].as_int(), 3);
  EXPECT_EQ(detected["line"].as_string(), "request FAILED");
  EXPECT_EQ(detected["stream"].as_string(), "stderr");
  EXPECT_EQ(detected["action"].as_string(), "restart");
}

TEST_F(Sensing, AServiceIsAskedToRecoverBySignalAndCommandAndThenReplaced) {
  start(
      "trap 'echo signalled >> signals' USR1; touch alive\n"
      "while :; do if [ -e say ]; then rm say; echo 'lost the feed'; fi; sleep 0.01; done\n",
      R"(
recover_signal = "USR1"
recover_command = ["/bin/sh", "-c", "echo $DEFIB_SERVICE $DEFIB_ATTEMPT $DEFIB_LINE >> commands"]
recover_attempts = 2
[[service.s.log_pattern]]
match = "lost the feed"
action = "recover"
)");
  const auto lines = [&](const std::string& name) {
    const std::string text = read(name);
    return std::ranges::count(text, '\n');
  };
  run_until([&] { return exists("alive"); });
  for (int attempt = 1; attempt <= 2; ++attempt) {
    touch("say");
    run_until([&] { return lines("signals") == attempt && lines("commands") == attempt; });
    run_until([&] {
      const wire::Json document = incident();
      int ended = 0;
      for (const wire::Json& line : document["timeline"].items()) {
        ended += line["event"].as_string() == "recovery_command" ? 1 : 0;
      }
      return ended == attempt;
    });
    EXPECT_EQ(status().generation, 1u);
  }
  EXPECT_EQ(read("commands"), "s 1 lost the feed\ns 2 lost the feed\n");
  const wire::Json asked = event("recovery_asked");
  EXPECT_EQ(asked["attempt"].as_int(), 1);
  EXPECT_EQ(asked["signal"].as_string(), "SIGUSR1");
  EXPECT_EQ(event("recovery_command")["status"].as_string(), "exit code 0");
  touch("say");
  run_until([&] { return status().generation == 2; });
}

TEST_F(Sensing, ARecoveryThatFailsOrHangsIsAReplacement) {
  start("[ -e once ] || { touch once; echo 'lost the feed'; }; exec sleep 987654321", R"(
recover_command = ["sleep", "987654321"]
recover_timeout = "50ms"
[[service.s.log_pattern]]
match = "lost the feed"
action = "recover"
)");
  run_until([&] { return status().generation == 2; });
  EXPECT_NE(event("recovery_command")["status"].as_string().find("killed after"),
            std::string::npos);
}

TEST_F(Sensing, AFloodIsSurvivedAndWhatWasNotLookedAtIsTold) {
  start(
      "echo begin >&2; head -c 100000000 /dev/zero | tr '\\0' 'a' | fold -w 100; touch done;"
      " sleep 0.2; echo FATAL >&2; exec sleep 987654321",
      R"(
log_max_size = "8MiB"
log_files = 1
[[service.s.log_pattern]]
match = "begin"
[[service.s.log_pattern]]
match = "b.*(a|b)*c$"
)");
  run_until([&] { return exists("done"); });
  // The supervisor lives and answers; bytes were lost on the way or here, and that is told.
  run_until([&] { return event("output_not_looked_at").is_object(); });
  EXPECT_GT(event("output_not_looked_at")["bytes"].as_int(), 0);
  EXPECT_EQ(status().generation, 1u);
}

TEST_F(Sensing, ACoreIsAnEventOfTheIncidentOfItsEnd) {
  std::ifstream in("/proc/sys/kernel/core_pattern");
  std::string pattern;
  std::getline(in, pattern);
  if (pattern.empty() || pattern.find_first_of("/|@") != std::string::npos) {
    GTEST_SKIP() << "the kernel writes no core beside the process here";
  }
  start("ulimit -c unlimited; [ -e once ] && exec sleep 987654321; touch once; kill -ABRT $$",
        "max_core_files = 1\n");
  run_until([&] { return event("core_dumped").is_object(); });
  const wire::Json core = event("core_dumped");
  EXPECT_GT(core["bytes"].as_int(), 4096);
  EXPECT_EQ(core["signal"].as_string(), "SIGABRT");
  EXPECT_TRUE(std::filesystem::exists(std::string(core["path"].as_string())));
  EXPECT_TRUE(exists("state/services/s/cores.json"));
  run_until([&] { return incident()["outcome"].as_string() == "restarted"; });
}

// Changes the machine's core_pattern for a moment: only where the environment asks for it.
TEST_F(Sensing, ACoreThroughThePipeOfOursIsTheServicesToo) {
  if (::getenv("DEFIB_TEST_CORE_PATTERN") == nullptr) {
    GTEST_SKIP() << "DEFIB_TEST_CORE_PATTERN=1 lets this test change the machine's core_pattern";
  }
  std::filesystem::create_directory(dir_ + "/cores");
  postmortem::HeldCorePattern held(os::join_path(os::own_program_dir(), "defib-capture"),
                                   " core-pipe --dir " + dir_ + "/cores %P %u %g");
  if (!held.failed().empty()) GTEST_SKIP() << held.failed();
  start("[ -e once ] && exec sleep 987654321; touch once; kill -SEGV $$", "");
  run_until([&] { return event("core_dumped").is_object(); });
  const wire::Json core = event("core_dumped");
  EXPECT_TRUE(core["path"].as_string().starts_with(dir_ + "/cores/core."));
  EXPECT_EQ(core["signal"].as_string(), "SIGSEGV");
  EXPECT_TRUE(std::filesystem::exists(std::string(core["path"].as_string())));
}

}  // namespace
}  // namespace defib::daemon
