#include "defib/daemon/config.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <set>
#include <string>
#include <vector>

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
max_cpu = 75.5
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
  EXPECT_EQ(engine.health.policy.interval, 5s);
  EXPECT_EQ(engine.spec.max_memory_bytes, 512u << 20);
  EXPECT_EQ(engine.spec.max_cpu_percent, 75.5);
  EXPECT_EQ(engine.spec.capture, process::CaptureMode::kCore);
  EXPECT_EQ(engine.spec.stop_signal, SIGINT);
  EXPECT_EQ(engine.spec.on_limit, process::LimitAction::kRestart);
  EXPECT_FALSE(engine.start);
  EXPECT_EQ(config->services[1].spec.restart_delay, 30s);
  EXPECT_EQ(config->services[1].spec.max_memory_bytes, 1024u << 20);
  EXPECT_EQ(config->services[1].spec.max_cpu_percent, 90.0);
  EXPECT_EQ(config->services[1].health.policy.interval, 30s);
  EXPECT_EQ(config->services[1].spec.max_restarts, 10);
  EXPECT_EQ(config->services[1].spec.on_limit, process::LimitAction::kAlert);
  const process::ServiceSpec& defaults = config->services[1].spec;
  EXPECT_EQ(defaults.max_cpu_window, 60s);
  EXPECT_EQ(defaults.heartbeat_healthy, 5s);
  EXPECT_EQ(defaults.heartbeat_timeout, 10s);
  EXPECT_EQ(defaults.on_heartbeat_lost, process::LimitAction::kRestart);
  EXPECT_EQ(defaults.restart_window, 1h);
  EXPECT_EQ(defaults.restart_delay_cap, 5min);
  EXPECT_EQ(defaults.same_crash_limit, 3);
  EXPECT_EQ(defaults.restart, process::RestartPolicy::kOnFailure);
}

TEST(Config, AServiceSaysAsWhomItRunsWithinWhatAndWithWhichHooks) {
  const auto config = parse_config(R"(
[service.engine]
command = ["./engine"]
clear_env = true
user = "trading"
group = "desk"
supplementary_groups = ["market", "2000"]
umask = "027"
nice = -5
oom_score_adjust = -500
no_new_privs = false
limits = { nofile = 4096, core = 0, stack = "8MiB", as = "unlimited" }
control_groups = true
memory_limit = 512
max_processes = 100
stop_sequence = ["SIGINT 5s", "TERM 250ms"]
pre_start = ["./check"]
post_crash = ["/bin/sh", "-c", "true"]
cleanup = ["./cancel-all"]
post_crash_wait = false
hook_timeout = "3s"
)");
  ASSERT_TRUE(config) << config.error().to_text();
  const process::ServiceSpec& spec = config->services.at(0).spec;
  EXPECT_TRUE(spec.clear_environment);
  EXPECT_EQ(spec.user, "trading");
  EXPECT_EQ(spec.group, "desk");
  EXPECT_EQ(spec.supplementary_groups, (std::vector<std::string>{"market", "2000"}));
  EXPECT_EQ(spec.umask, 027);
  EXPECT_EQ(spec.nice, -5);
  EXPECT_EQ(spec.oom_score_adjust, -500);
  EXPECT_EQ(spec.no_new_privileges, false);
  EXPECT_EQ(spec.limits,
            (std::vector<process::ProcessLimit>{
                {"as", process::kUnlimited}, {"core", 0}, {"nofile", 4096}, {"stack", 8u << 20}}));
  EXPECT_EQ(spec.control_groups, true);
  EXPECT_EQ(spec.memory_limit_bytes, 512u << 20);
  EXPECT_EQ(spec.max_processes, 100u);
  EXPECT_EQ(spec.max_threads, 90) << "told before the kernel refuses";
  EXPECT_EQ(spec.stop_sequence, (std::vector<process::StopStep>{{SIGINT, 5s}, {SIGTERM, 250ms}}));
  EXPECT_EQ(spec.pre_start, std::vector<std::string>{"./check"});
  EXPECT_EQ(spec.post_crash.size(), 3u);
  EXPECT_EQ(spec.cleanup, std::vector<std::string>{"./cancel-all"});
  EXPECT_FALSE(spec.post_crash_wait);
  EXPECT_EQ(spec.hook_timeout, 3s);
}

TEST(Config, AnImpossibleIdentityOrLimitIsToldWithItsPlace) {
  struct Case {
    const char* line;
    const char* message;  // a part of it
  };
  const std::vector<Case> cases = {
      {"umask = \"999\"", "'999' is no octal number"},
      {"nice = 20", "nice"},
      {"oom_score_adjust = -1001", "oom_score_adjust"},
      {"limits = { nofiles = 5 }", "nofile"},
      {"limits = { nofile = 5 }", "nofile must be 32 or more"},
      {"limits = { core = \"big\" }", "core"},
      {"stop_sequence = [\"SIGINT\"]", "'SIGINT' is no signal with a time"},
      {"stop_sequence = [\"SIGFOO 5s\"]", "'SIGFOO 5s' is no signal with a time"},
      {"stop_signal = \"INT\"\nstop_sequence = [\"SIGINT 5s\"]", "say the same thing"},
      {"pre_start = [\"\"]", "must name a program"},
      {"hook_timeout = \"0s\"", "hook_timeout"},
      {"control_groups = false\nmemory_limit = 5", "must not be false"},
      {"max_memory = 10\nmemory_limit = 5", "must not be less than max_memory"},
  };
  for (const Case& one : cases) {
    const auto config = parse_config(
        std::string("[service.engine]\ncommand = [\"x\"]\n") + one.line + "\n", "defib.toml");
    ASSERT_FALSE(config) << one.line;
    const std::string text = config.error().to_text();
    EXPECT_NE(text.find(one.message), std::string::npos) << text;
    EXPECT_NE(text.find("defib.toml:"), std::string::npos) << text;
  }
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
      {"[service.a]\ncommand = [\"x\"]\ncapture = \"gdb\"\n", "ptrace"},
      {"[service.a]\ncommand = [\"x\"]\nmax_cpu = 150.0\n", "max_cpu"},
      {"[service.a]\ncommand = [\"x\"]\nmax_descriptors = \"many\"\n", "max_descriptors"},
      {"[service.a]\ncommand = [\"x\"]\nmax_memory = 1\nmax_memory_mb = 1\n", "give one"},
      {"[service.a]\ncommand = [\"x\"]\nready_probe = \"tcp\"\n", "no probe 'tcp'"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\nkind = \"udp\"\n", "udp"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\naddress = \"h:1\"\n", "kind"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\nkind = \"tcp\"\naddress = \"h\"\n",
       "no port"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\nkind = \"tcp\"\naddress = "
       "\"h:1\"\ncommand = [\"x\"]\n",
       "belongs to kind"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\nkind = \"exec\"\n", "no command"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.probe]]\nkind = \"exec\"\ncommand = "
       "[\"x\"]\n[[service.a.probe]]\nkind = \"exec\"\ncommand = [\"y\"]\n",
       "two probes"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.log_pattern]]\naction = \"alert\"\n", "match"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.log_pattern]]\nmatch = \"x\"\nrate = \"5\"\n",
       "rate"},
      {"[service.a]\ncommand = [\"x\"]\n[[service.a.log_pattern]]\nmatch = \"x\"\naction = "
       "\"recover\"\n",
       "recover_signal"},
      {"[service.a]\ncommand = [\"x\"]\nrecover_signal = \"KILL\"\n", "recover_signal"},
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

TEST(Config, ProbesPatternsAndLimitsAreRead) {
  const auto config = parse_config(R"(
[service.web]
command = ["web"]
health_url = "http://127.0.0.1/h"
health_check_grace = "1m"
health_check_successes = 2
ready_probe = "tcp"
max_memory_mb = 64
max_cpu_percent = 50
max_cpu_window = "10s"
max_descriptors = "80%"
max_threads = 32
on_limit = "restart"
on_threads = "alert"
recover_signal = "SIGUSR1"
recover_command = ["./recover"]
recover_timeout = "5s"
recover_attempts = 2
max_core_files = 2
max_core_mb = 100

[[service.web.probe]]
kind = "tcp"
address = "127.0.0.1:80"
interval = "250ms"

[[service.web.probe]]
kind = "exec"
name = "lag"
command = ["./lag", "--max", "5"]
timeout = "1s"
failures = 5
successes = 3
start_grace = "20s"
on_unhealthy = "alert"

[[service.web.log_pattern]]
match = "FATAL"
action = "restart"
rate = "5/1m"
stream = "stderr"

[[service.web.log_pattern]]
match = "reconnect"
action = "recover"
)");
  ASSERT_TRUE(config) << config.error().to_text();
  const ServiceConfig& web = config->services.at(0);
  const auto probes = all_probes(web);
  ASSERT_EQ(probes.size(), 3u);
  EXPECT_EQ(probes[0].name, "health_url");
  EXPECT_EQ(probes[0].policy.start_grace, 1min);
  EXPECT_EQ(probes[0].policy.successes_to_healthy, 2);
  EXPECT_EQ(probes[1].name, "tcp");
  EXPECT_EQ(probes[1].policy.interval, 250ms);
  EXPECT_FALSE(probes[1].action);
  EXPECT_EQ(probes[2].command.size(), 3u);
  EXPECT_EQ(probes[2].policy.failures_to_unhealthy, 5);
  EXPECT_EQ(probes[2].policy.start_grace, 20s);
  EXPECT_EQ(probes[2].action, process::LimitAction::kAlert);
  EXPECT_EQ(web.spec.ready_probe, "tcp");
  EXPECT_EQ(web.spec.max_memory_bytes, 64u << 20);
  EXPECT_EQ(web.spec.max_cpu_percent, 50.0);
  EXPECT_EQ(web.spec.max_cpu_window, 10s);
  EXPECT_EQ(web.spec.max_descriptors, 0u);
  EXPECT_EQ(web.spec.max_descriptors_percent, 80.0);
  EXPECT_EQ(web.spec.max_threads, 32);
  EXPECT_FALSE(web.spec.on_memory);
  EXPECT_EQ(web.spec.on_threads, process::LimitAction::kAlert);
  EXPECT_EQ(web.sensors.recover.signal, SIGUSR1);
  EXPECT_EQ(web.sensors.recover.attempts, 2);
  EXPECT_EQ(web.sensors.cores.max_files, 2);
  EXPECT_EQ(web.sensors.cores.max_bytes, 100u << 20);
  ASSERT_EQ(web.sensors.log_patterns.size(), 2u);
  EXPECT_EQ(web.sensors.log_patterns[0].count, 5);
  EXPECT_EQ(web.sensors.log_patterns[0].window, 1min);
  EXPECT_FALSE(web.sensors.log_patterns[0].on_stdout);
  EXPECT_EQ(web.sensors.log_patterns[0].action, PatternAction::kRestart);
  EXPECT_EQ(web.sensors.log_patterns[1].action, PatternAction::kRecover);
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
      {"ready_probe = \"health_url\"", {"f:3:", "no probe 'health_url'"}},
      {"on_crash_loop = \"slwo\"", {"f:3:", "did you mean \"slow\""}},
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
      "[service.e]\ncommand = [\"sh\"]\nworking_directory = \"/tmp\"\n"
      "[service.f]\ncommand = [\"sh\"]\nuser = \"nosuchuser\"\npre_start = [\"/no/hook\"]\n";
  EXPECT_EQ(mistakes(text), "");
  ConfigChecks checks{true, {}};
  expect_mistake(
      text,
      {"f:2:", "the command of the service 'a': there is no '/no/such'",
       "f:3:", "'/nowhere' of the service 'a' does not exist", "f:5:", "is in no directory of PATH",
       "f:7:", "is not executable", "f:9:", "is a directory, and no program",
       "chmod +x /etc/passwd", "f:10:", "'/etc/passwd' of the service 'd' is no directory",
       "f:16:", "there is no user 'nosuchuser'", "f:17:", "pre_start of the service 'f'"},
      checks);
  checks.runs = [](const Config&, const std::string&) { return true; };
  const auto config = parse_config(text, "f", checks);
  ASSERT_TRUE(config) << config.error().to_text();
  EXPECT_EQ(config->warnings.size(), 8u);
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
                                                      {"max_descriptors", "90%"},
                                                      {"max_threads", "0"},
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
      {"max_memory", "-1"},     {"max_memory", "1e3"},   {"max_cpu", "-1"},
      {"max_cpu", "150"},       {"max_threads", "x"},    {"max_descriptors", "101%"},
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
