#include "defib/daemon/config.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <set>

#include "defib/process/restart_policy.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

TEST(Config, AServiceHasTheKeysOfTheCommandLine) {
  const auto config = parse_config(R"(
[defib]
state_dir = "/var/lib/defib"
log_level = "debug"

[service.engine]
command = ["./engine", "--live"]
env = { MODE = "paper" }
working_directory = "/srv"
restart = "always"
max_restarts = 3
restart_window = "10m"
restart_delay = "250ms"
heartbeat_timeout = "2s"
health_url = "http://127.0.0.1:8080/health"
health_check_interval = 5
max_memory = 512
max_cpu = 150.0
log_pattern = "FATAL|panic"
capture = "core"
stop_timeout = "30s"
stop_signal = "INT"
on_limit = "restart"
start = false

[service.feed]
command = ["feed"]
)");
  ASSERT_TRUE(config) << config.error().to_text();
  EXPECT_EQ(config->state_dir, "/var/lib/defib");
  ASSERT_EQ(config->services.size(), 2u);
  const ServiceConfig& engine = config->services[0];
  EXPECT_EQ(engine.spec.name, "engine");
  EXPECT_EQ(engine.spec.argv, (std::vector<std::string>{"./engine", "--live"}));
  EXPECT_EQ(engine.spec.env.front(), (std::pair<std::string, std::string>("MODE", "paper")));
  EXPECT_EQ(engine.spec.restart, process::RestartPolicy::kAlways);
  EXPECT_EQ(engine.spec.max_restarts, 3);
  EXPECT_EQ(engine.spec.restart_window, 10min);
  EXPECT_EQ(engine.spec.restart_delay, 250ms);
  EXPECT_EQ(engine.spec.heartbeat_timeout, 2s);
  EXPECT_EQ(engine.health.interval, 5s);
  EXPECT_EQ(engine.spec.max_memory_bytes, 512u << 20);
  EXPECT_EQ(engine.spec.max_cpu_percent, 150.0);
  EXPECT_EQ(engine.spec.capture, process::CaptureMode::kCore);
  EXPECT_EQ(engine.spec.stop_signal, SIGINT);
  EXPECT_EQ(engine.spec.on_limit, process::LimitAction::kRestart);
  EXPECT_FALSE(engine.start);
  EXPECT_EQ(config->services[1].spec.restart_delay, 30s);
  EXPECT_EQ(config->services[1].spec.on_limit, process::LimitAction::kAlert);
}

TEST(Config, EveryMistakeIsToldAtOnceWithItsPlace) {
  const auto config = parse_config(
      "[service.engine]\ncomand = [\"x\"]\nmax_restarts = \"many\"\nrestart = \"sometimes\"\n"
      "restart_window = \"0s\"\n",
      "defib.toml");
  ASSERT_FALSE(config);
  std::string all;
  for (const Error* error = &config.error(); error != nullptr; error = error->cause()) {
    all += error->to_line() + "\n";
  }
  for (const char* part : {"defib.toml:2:", "comand", "command", "max_restarts", "defib.toml:3:",
                           "restart", "defib.toml:4:", "on-failure", "defib.toml:5:"}) {
    EXPECT_NE(all.find(part), std::string::npos) << part << "\n" << all;
  }
}

TEST(Config, WhatSpansSeveralKeysIsAMistakeOfTheFileToo) {
  const std::pair<const char*, const char*> cases[] = {
      {"[service.a]\ncommand = [\"x\"]\nlog_pattern = \"(\"\n", "regular expression"},
      {"[service.a]\ncommand = [\"x\"]\nhealth_url = \"https://x/\"\n", "https"},
      {"[service.a]\ncommand = [\"x\"]\nhealth_url = \"http://x:99999/\"\n", "port"},
      {"[service.a]\ncommand = [\"x\"]\nstop_signal = \"SIGNOTHING\"\n", "SIGNOTHING"},
      {"[service.a]\ncommand = [\"x\"]\ncapture = \"ptrace\"\n", "not in this version"},
      {"[service.a]\ncommand = []\n", "command"},
      {"[service.\"-bad\"]\ncommand = [\"x\"]\n", "name"},
      {"[defib]\nlog_level = \"loud\"\n", "loud"},
      {"[[service]]\ncommand = [\"x\"]\n", "service"},
      {"surplus = 1\n", "surplus"},
      {"[service.a\n", "defib.toml:1:"}};
  for (const auto& [text, part] : cases) {
    const auto config = parse_config(text);
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().to_text().find(part), std::string::npos)
        << text << config.error().to_text();
    EXPECT_LT(static_cast<int>(config.error().code()), 0);
  }
}

std::string mistakes(const char* text, const ConfigChecks& checks = {}) {
  const auto config = parse_config(text, "f", checks);
  std::string all;
  for (const Error* error = config ? nullptr : &config.error(); error != nullptr;
       error = error->cause()) {
    all += error->to_line() + "\n";
  }
  return all;
}

void expect_mistake(const char* text, const std::vector<const char*>& parts,
                    const ConfigChecks& checks = {}) {
  const std::string all = mistakes(text, checks);
  for (const char* part : parts) {
    EXPECT_NE(all.find(part), std::string::npos) << text << "\nhas no '" << part << "' in\n" << all;
  }
}

TEST(Config, RestartRulesAreReadWithCodesAndSignals) {
  const auto config = parse_config(R"(
[service.a]
command = ["x"]
success_exit_codes = [143, "SIGTERM"]
restart_exit_codes = ["64-78"]
no_restart_exit_codes = [3]
on_crash_loop = "slow"
slow_lane_interval = "2m"
same_crash_limit = 5
max_downtime = "10m"
start_in = "monitoring"
monitoring_after = 2
)");
  ASSERT_TRUE(config) << config.error().to_text();
  const process::ServiceSpec& spec = config->services[0].spec;
  EXPECT_EQ(spec.success_exit_codes, *process::parse_exit_set({"143", "SIGTERM"}));
  EXPECT_EQ(spec.restart_exit_codes, *process::parse_exit_set({"64-78"}));
  EXPECT_EQ(spec.no_restart_exit_codes, *process::parse_exit_set({"3"}));
  EXPECT_EQ(spec.on_crash_loop, process::CrashLoopAction::kSlow);
  EXPECT_EQ(spec.slow_lane_interval, 2min);
  EXPECT_EQ(spec.same_crash_limit, 5);
  EXPECT_EQ(spec.max_downtime, 10min);
  EXPECT_TRUE(spec.start_in_monitoring);
  EXPECT_EQ(spec.monitoring_after, 2);
}

TEST(Config, ImpossibleCombinationsNameTheKeyThatIsTooMuch) {
  const std::string head = "[service.a]\ncommand = [\"x\"]\n";
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"restart_exit_codes = [1, 3]\nno_restart_exit_codes = [3]", {"f:3:", "both name 3"}},
      {"restart_exit_codes = [256]", {"f:3:", "'256'"}},
      {"success_exit_codes = [\"SIGTREM\"]", {"f:3:", "SIGTREM"}},
      {"success_exit_codes = [1.5]", {"f:3:", "whole numbers"}},
      {"restart_delay = \"10m\"\nrestart_delay_cap = \"5m\"", {"f:4:", "restart_delay_cap"}},
      {"restart_window = \"0s\"", {"f:3:", "restart_window"}},
      {"max_downtime = \"2h\"", {"f:3:", "restart_window"}},
      {"health_url = \"http://x/\"\nhealth_check_interval = 1\nhealth_check_timeout = 2",
       {"f:5:", "health_check_timeout"}},
      {"ready_when = \"healthy\"", {"f:3:", "health_url"}},
      {"ready_when = \"healty\"", {"f:3:", "did you mean \"healthy\""}},
      {"on_crash_loop = \"slwo\"", {"f:3:", "did you mean \"slow\""}},
      {"expects_ready = true\nready_when = \"started\"", {"f:4:", "expects_ready"}},
      {"restart_with = true", {"f:3:", "`requires`"}},
      {"slow_lane_intreval = \"1m\"", {"f:3:", "did you mean \"slow_lane_interval\""}},
  };
  for (const auto& [text, parts] : cases) expect_mistake((head + text + "\n").c_str(), parts);
  expect_mistake("[defib]\nlog_level = \"inof\"\n", {"f:2:", "did you mean \"info\""});
}

TEST(Config, NamesThatThereAreNotAndCirclesAreToldWithTheWayRound) {
  expect_mistake(
      "[service.db]\ncommand = [\"x\"]\n"
      "[service.engine]\ncommand = [\"x\"]\nrequires = [\"dbb\"]\nafter = [\"q\"]\n",
      {"f:5:", "no service 'dbb'; did you mean 'db'?", "f:6:", "no service 'q'"});
  expect_mistake(
      "[service.a]\ncommand = [\"x\"]\nafter = [\"b\"]\n"
      "[service.b]\ncommand = [\"x\"]\nrequires = [\"c\"]\n"
      "[service.c]\ncommand = [\"x\"]\nrequires = [\"a\"]\n",
      {"f:3:", "wait for one another: a -> b -> c -> a"});
  expect_mistake("[service.a]\ncommand = [\"x\"]\nrequires = [\"a\"]\n", {"f:3:", "a -> a"});
}

TEST(Config, TwoServicesCannotHaveOneSocket) {
  expect_mistake(
      "[service.a]\ncommand = [\"x\"]\nsockets = [\"web=tcp:127.0.0.1:80\"]\n"
      "[service.b]\ncommand = [\"x\"]\nsockets = [\"tcp:127.0.0.1:80\"]\n",
      {"f:6:", "tcp:127.0.0.1:80 is a socket of the service 'a' already"});
}

TEST(Config, MissingProgramsAndDirectoriesAreMistakesButNotOfWhatRuns) {
  const char* text =
      "[service.a]\ncommand = [\"/no/such\"]\nworking_directory = \"/nowhere\"\n"
      "[service.b]\ncommand = [\"no-such-program-anywhere\"]\n"
      "[service.c]\ncommand = [\"/etc/passwd\"]\n"
      "[service.d]\ncommand = [\"/tmp\"]\nworking_directory = \"/etc/passwd\"\n"
      "[service.e]\ncommand = [\"sh\"]\nworking_directory = \"/tmp\"\n";
  EXPECT_EQ(mistakes(text), "");
  ConfigChecks checks{true, {}};
  expect_mistake(text,
                 {"f:2:", "'/no/such' of the service 'a' does not exist",
                  "f:3:", "'/nowhere' does not exist", "f:5:", "is not in PATH",
                  "f:7:", "cannot be executed", "f:9:", "f:10:", "'/etc/passwd' is no directory"},
                 checks);
  checks.runs = [](const std::string&) { return true; };
  const auto config = parse_config(text, "f", checks);
  ASSERT_TRUE(config) << config.error().to_text();
  EXPECT_EQ(config->warnings.size(), 6u);
}

TEST(Config, AnOptionOfTheCommandLineIsTheSameSetting) {
  ServiceConfig config;
  const std::pair<const char*, const char*> good[] = {{"restart", "never"},
                                                      {"max_restarts", "0"},
                                                      {"restart_window", "90"},
                                                      {"restart_delay", "10m"},
                                                      {"heartbeat_timeout", "0"},
                                                      {"health_url", "http://localhost/"},
                                                      {"health_check_interval", "1s"},
                                                      {"max_memory", "100"},
                                                      {"max_cpu", "12.5"},
                                                      {"log_pattern", "x+"},
                                                      {"capture", "none"},
                                                      {"stop_timeout", "250ms"},
                                                      {"stop_signal", "SIGINT"}};
  for (const auto& [key, value] : good) EXPECT_TRUE(set_option(config, key, value)) << key;
  EXPECT_EQ(config.spec.restart, process::RestartPolicy::kNever);
  EXPECT_EQ(config.spec.restart_window, 90s);
  EXPECT_EQ(config.spec.max_memory_bytes, 100u << 20);
  config.spec.name = "x";
  config.spec.argv = {"x"};
  const auto valid = validate(config);
  EXPECT_TRUE(valid) << valid.error().to_text();

  const std::pair<const char*, const char*> bad[] = {
      {"restart", "maybe"},     {"max_restarts", "-1"},  {"max_restarts", "3x"},
      {"max_restarts", ""},     {"restart_window", "0"}, {"restart_delay", "soon"},
      {"max_memory", "0"},      {"max_memory", "1e3"},   {"max_cpu", "-1"},
      {"capture", "video"},     {"stop_timeout", "-1s"}, {"stop_signal", "0"},
      {"stop_signal", "KILLX"}, {"nonsense", "1"}};
  for (const auto& [key, value] : bad) {
    const auto set = set_option(config, key, value);
    ASSERT_FALSE(set) << key << "=" << value;
    EXPECT_EQ(set.error().code(), Code::kInvalidArgument);
  }
}

TEST(Config, ACommandsNameBecomesAServicesName) {
  EXPECT_EQ(name_of_command("/opt/x/engine"), "engine");
  EXPECT_EQ(name_of_command("redis-server"), "redis-server");
  EXPECT_EQ(name_of_command("./a b.sh"), "a-b.sh");
  EXPECT_EQ(name_of_command("._-x"), "x");
  EXPECT_EQ(name_of_command("/"), "");
}

}  // namespace
}  // namespace defib::daemon
