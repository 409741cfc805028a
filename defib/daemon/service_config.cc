#include "defib/daemon/service_config.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <tuple>

#include "defib/daemon/health_check.h"
#include "defib/daemon/log_watch.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/process/kept_sockets.h"
#include "defib/process/restart_policy.h"
#include "defib/process/shim_link.h"

namespace defib::daemon {
namespace {

namespace shim = process::shim;
using namespace std::chrono_literals;

// The bounds of each setting, for the command line and the file alike.
constexpr conf::Range<os::Duration> kAnyTime{0s, 24h * 365};
constexpr conf::Range<os::Duration> kPositiveTime{1ms, 24h * 365};
constexpr conf::Range<os::Duration> kSlowLane{1s, 24h};
constexpr conf::Range<os::Duration> kHeartbeat{0s, 24h};
constexpr conf::Range<int> kRestarts{0, 1'000'000};
constexpr conf::Range<int> kFailures{1, 1000};
constexpr std::int64_t kMegabyte = 1 << 20;
constexpr conf::Range<std::int64_t> kMemoryMb{1, 1 << 30};
constexpr conf::Range<double> kCpuPercent{0.1, 1e6};

Error bad_value(std::string_view key, std::string_view text, std::string_view wanted) {
  return Error(Code::kInvalidArgument, fmt::format("'{}' is no value for {}", text, key))
      .with("key", key)
      .with("value", text)
      .suggest(fmt::format("{} takes {}", key, wanted));
}

Result<> read_duration(std::string_view key, std::string_view text, os::Duration& out,
                       conf::Range<os::Duration> range) {
  const os::Duration value = os::parse_duration(text);
  if (value < range.min || value > range.max) {
    return bad_value(key, text, "a duration such as 250ms, 30s, 5m or 1h");
  }
  out = value;
  return {};
}

template <typename Number>
Result<> read_number(std::string_view key, std::string_view text, Number& out,
                     conf::Range<Number> range) {
  Number value{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc{} || end != text.data() + text.size() || value < range.min ||
      value > range.max) {
    return bad_value(key, text, fmt::format("a number from {} to {}", range.min, range.max));
  }
  out = value;
  return {};
}

// "SIGTERM", "TERM" or "15"; 0 where it is no signal.
int signal_number(std::string_view text) {
  int number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed == std::errc{} && end == text.data() + text.size()) {
    return number > 0 && number < SIGRTMAX ? number : 0;
  }
  const std::string wanted =
      text.starts_with("SIG") ? std::string(text) : fmt::format("SIG{}", text);
  for (number = 1; number < 32; ++number) {
    if (os::signal_name(number) == wanted) return number;
  }
  return 0;
}

Result<> set_memory(ServiceConfig& config, std::string_view key, std::string_view text) {
  std::int64_t megabytes = 0;
  DEFIB_TRY(read_number(key, text, megabytes, kMemoryMb));
  config.spec.max_memory_bytes = static_cast<std::uint64_t>(megabytes * kMegabyte);
  return {};
}

Result<> set_stop_signal(ServiceConfig& config, std::string_view key, std::string_view text) {
  const int number = signal_number(text);
  if (number == 0) return bad_value(key, text, "a signal such as SIGTERM, INT or 15");
  config.spec.stop_signal = number;
  return {};
}

template <typename Word, typename Parse>
Result<> set_word(Word& out, std::string_view text, Parse parse) {
  DEFIB_TRY_ASSIGN(out, parse(text));
  return {};
}

// "3,64-78,SIGTERM" as the command line has it.
template <shim::ExitSet process::ServiceSpec::* Field>
Result<> set_exits(ServiceConfig& config, std::string_view key, std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    words.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  auto set = process::parse_exit_set(words);
  if (!set) return std::move(set.error()).with("key", key);
  config.spec.*Field = *set;
  return {};
}

Result<> set_crash_loop(ServiceConfig& config, std::string_view, std::string_view text) {
  return set_word(config.spec.on_crash_loop, text, process::parse_crash_loop_action);
}

Result<> set_slow_lane(ServiceConfig& config, std::string_view key, std::string_view text) {
  return read_duration(key, text, config.spec.slow_lane_interval, kSlowLane);
}

Result<> set_same_crash_limit(ServiceConfig& config, std::string_view key, std::string_view text) {
  return read_number(key, text, config.spec.same_crash_limit, kRestarts);
}

Result<> set_max_downtime(ServiceConfig& config, std::string_view key, std::string_view text) {
  return read_duration(key, text, config.spec.max_downtime, kAnyTime);
}

// A check takes no longer than the time between two.
Result<> set_check_interval(ServiceConfig& config, std::string_view key, std::string_view text) {
  DEFIB_TRY(read_duration(key, text, config.health.interval, kPositiveTime));
  config.health.timeout = std::min(config.health.timeout, config.health.interval);
  return {};
}

using Setter = Result<> (*)(ServiceConfig&, std::string_view key, std::string_view text);
struct Option {
  std::string_view key;
  Setter set;
};

constexpr std::array kOptions = {
    Option{"restart",
           [](ServiceConfig& c, std::string_view, std::string_view t) {
             return set_word(c.spec.restart, t, process::parse_restart_policy);
           }},
    Option{"restart_when",
           [](ServiceConfig& c, std::string_view, std::string_view t) {
             return set_word(c.spec.restart_when, t, process::parse_restart_when);
           }},
    Option{"standby",
           [](ServiceConfig& c, std::string_view k, std::string_view t) -> Result<> {
             if (t != "true" && t != "false") return bad_value(k, t, "true or false");
             c.spec.standby = t == "true";
             return {};
           }},
    Option{"sockets",
           [](ServiceConfig& c, std::string_view, std::string_view t) -> Result<> {
             // As the configuration's list, with commas.
             c.spec.sockets.clear();
             while (!t.empty()) {
               const std::size_t end = std::min(t.find(','), t.size());
               c.spec.sockets.emplace_back(t.substr(0, end));
               t.remove_prefix(std::min(end + 1, t.size()));
             }
             DEFIB_TRY(process::parse_sockets(c.spec.sockets));
             return {};
           }},
    Option{"max_restarts",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_number(k, t, c.spec.max_restarts, kRestarts);
           }},
    Option{"restart_window",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_duration(k, t, c.spec.restart_window, kPositiveTime);
           }},
    Option{"restart_delay",
           [](ServiceConfig& c, std::string_view k, std::string_view t) -> Result<> {
             DEFIB_TRY(read_duration(k, t, c.spec.restart_delay, kAnyTime));
             c.spec.restart_delay_cap = std::max(c.spec.restart_delay_cap, c.spec.restart_delay);
             return {};
           }},
    Option{"success_exit_codes", set_exits<&process::ServiceSpec::success_exit_codes>},
    Option{"restart_exit_codes", set_exits<&process::ServiceSpec::restart_exit_codes>},
    Option{"no_restart_exit_codes", set_exits<&process::ServiceSpec::no_restart_exit_codes>},
    Option{"on_crash_loop", set_crash_loop},
    Option{"slow_lane_interval", set_slow_lane},
    Option{"same_crash_limit", set_same_crash_limit},
    Option{"max_downtime", set_max_downtime},
    Option{"heartbeat_timeout",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_duration(k, t, c.spec.heartbeat_timeout, kHeartbeat);
           }},
    Option{"heartbeat_healthy",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_duration(k, t, c.spec.heartbeat_healthy, kPositiveTime);
           }},
    Option{"health_url",
           [](ServiceConfig& c, std::string_view, std::string_view t) -> Result<> {
             c.health.url = t;
             return {};
           }},
    Option{"health_check_interval", set_check_interval},
    Option{"max_memory", set_memory},
    Option{"max_cpu",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_number(k, t, c.spec.max_cpu_percent, kCpuPercent);
           }},
    Option{"log_pattern",
           [](ServiceConfig& c, std::string_view, std::string_view t) -> Result<> {
             c.log_pattern = t;
             return {};
           }},
    Option{"capture",
           [](ServiceConfig& c, std::string_view, std::string_view t) {
             return set_word(c.spec.capture, t, process::parse_capture_mode);
           }},
    Option{"stop_timeout",
           [](ServiceConfig& c, std::string_view k, std::string_view t) {
             return read_duration(k, t, c.spec.stop_timeout, kAnyTime);
           }},
    Option{"stop_signal", set_stop_signal},
};

}  // namespace

// The delay of docs/cli.md: the first restart at once, then 30 s, doubling up to five minutes.
ServiceConfig::ServiceConfig() {
  spec.restart_delay = 30s;
}

Result<> set_option(ServiceConfig& config, std::string_view key, std::string_view text) {
  for (const Option& option : kOptions) {
    if (option.key == key) return option.set(config, key, text);
  }
  return Error(Code::kInvalidArgument, fmt::format("there is no setting '{}'", key));
}

namespace {

void read_exits(conf::Section& section, std::string_view key, shim::ExitSet& out) {
  std::vector<std::string> words;
  section.words(key, words);
  if (auto set = process::parse_exit_set(words)) {
    out = *set;
  } else {
    section.fail(key, set.error().message());
  }
}

// When it is started again.
void read_restart_rules(conf::Section& section, process::ServiceSpec& spec) {
  section.word("restart", spec.restart,
               {{"always", process::RestartPolicy::kAlways},
                {"on-failure", process::RestartPolicy::kOnFailure},
                {"never", process::RestartPolicy::kNever}});
  read_exits(section, "success_exit_codes", spec.success_exit_codes);
  read_exits(section, "restart_exit_codes", spec.restart_exit_codes);
  read_exits(section, "no_restart_exit_codes", spec.no_restart_exit_codes);
  section.value("max_restarts", spec.max_restarts, kRestarts);
  section.value("restart_window", spec.restart_window, kPositiveTime);
  section.value("restart_delay", spec.restart_delay, kAnyTime);
  spec.restart_delay_cap = std::max(spec.restart_delay_cap, spec.restart_delay);
  section.value("restart_delay_cap", spec.restart_delay_cap, kAnyTime);
  section.value("healthy_after", spec.healthy_after, kAnyTime);
  section.word(
      "on_crash_loop", spec.on_crash_loop,
      {{"stop", process::CrashLoopAction::kStop}, {"slow", process::CrashLoopAction::kSlow}});
  section.value("slow_lane_interval", spec.slow_lane_interval, kSlowLane);
  section.value("same_crash_limit", spec.same_crash_limit, kRestarts);
  section.value("max_downtime", spec.max_downtime, kAnyTime);
  section.word("start_in", spec.start_in_monitoring, {{"normal", false}, {"monitoring", true}});
  section.value("monitoring_after", spec.monitoring_after, kRestarts);
}

// Whom it needs, and when it is ready for those who need it.
void read_order(conf::Section& section, ServiceConfig& config) {
  process::ServiceSpec& spec = config.spec;
  section.value("start", config.start);
  section.value("after", config.after);
  section.value("requires", config.required);
  section.value("restart_with", config.restart_with);
  section.value("expects_ready", spec.expects_ready);
  enum class When { kStarted, kNotified, kHealthy };
  When when = spec.expects_ready ? When::kNotified : When::kStarted;
  section.word(
      "ready_when", when,
      {{"started", When::kStarted}, {"notified", When::kNotified}, {"healthy", When::kHealthy}});
  if (spec.expects_ready && when != When::kNotified) {
    section.fail("ready_when", "says something else than expects_ready; leave that one out");
  }
  spec.expects_ready = when == When::kNotified;
  spec.ready_when_healthy = when == When::kHealthy;
  section.value("ready_timeout", spec.ready_timeout, kAnyTime);
  if (config.restart_with && config.required.empty()) {
    section.fail("restart_with", "means the services in `requires`, and there are none");
  }
}

}  // namespace

ServiceConfig read_service(conf::Section& section, std::string name) {
  ServiceConfig config;
  process::ServiceSpec& spec = config.spec;
  spec.name = std::move(name);
  spec.argv = section.required<std::vector<std::string>>("command");
  section.value("env", spec.env);
  section.value("working_directory", spec.working_directory);
  read_order(section, config);
  read_restart_rules(section, spec);
  section.word("restart_when", spec.restart_when,
               {{"gone", process::RestartWhen::kGone}, {"dying", process::RestartWhen::kDying}});
  section.value("standby", spec.standby);
  section.value("sockets", spec.sockets);
  section.value("heartbeat_timeout", spec.heartbeat_timeout, kHeartbeat);
  section.value("heartbeat_healthy", spec.heartbeat_healthy, kPositiveTime);
  section.value("preload_heartbeat", spec.preload_heartbeat);
  const std::initializer_list<std::pair<std::string_view, process::LimitAction>> actions = {
      {"alert", process::LimitAction::kAlert}, {"restart", process::LimitAction::kRestart}};
  section.word("on_heartbeat_lost", spec.on_heartbeat_lost, actions);
  section.word("on_limit", spec.on_limit, actions);
  section.word("on_unhealthy", spec.on_unhealthy, actions);
  section.value("health_url", config.health.url);
  section.value("health_check_interval", config.health.interval, kPositiveTime);
  config.health.timeout = std::min(config.health.timeout, config.health.interval);
  section.value("health_check_timeout", config.health.timeout, kPositiveTime);
  section.value("health_check_failures", config.health.failures, kFailures);
  std::int64_t memory_mb = 0;
  section.value("max_memory", memory_mb, kMemoryMb);
  spec.max_memory_bytes = static_cast<std::uint64_t>(memory_mb * kMegabyte);
  section.value("max_cpu", spec.max_cpu_percent, kCpuPercent);
  section.value("sample_interval", spec.sample_interval, kPositiveTime);
  section.value("log_pattern", config.log_pattern);
  section.size("log_max_size", spec.log_max_bytes, {4096, std::uint64_t{1} << 40});
  section.value("log_files", spec.log_files, {0, 1000});
  section.word("capture", spec.capture,
               {{"live", process::CaptureMode::kLive},
                {"ptrace", process::CaptureMode::kPtrace},
                {"core", process::CaptureMode::kCore},
                {"none", process::CaptureMode::kNone}});
  section.value("capture_timeout", spec.capture_timeout, kPositiveTime);
  section.word("notify_access", spec.notify_access,
               {{"all", process::NotifyAccess::kAll},
                {"main", process::NotifyAccess::kMain},
                {"exec", process::NotifyAccess::kExec},
                {"none", process::NotifyAccess::kNone}});
  section.value("max_runtime", spec.max_runtime, kAnyTime);
  section.value("stop_timeout", spec.stop_timeout, kAnyTime);
  std::string stop_signal = "SIGTERM";
  section.value("stop_signal", stop_signal);
  spec.stop_signal = signal_number(stop_signal);
  if (spec.stop_signal == 0) {
    spec.stop_signal = SIGTERM;
    section.fail("stop_signal", fmt::format("'{}' is no signal such as SIGTERM", stop_signal));
  }
  return config;
}

Result<> validate(const ServiceConfig& config) {
  DEFIB_TRY(process::validate(config.spec));
  if (config.spec.capture == process::CaptureMode::kPtrace) {
    return Error(Code::kInvalidArgument, "capture = ptrace is not in this version")
        .suggest("use live, core or none");
  }
  if (!config.log_pattern.empty()) {
    DEFIB_TRY(LogWatch::create(config.log_pattern, [](const std::string&) {}));
  }
  if (!config.health.url.empty()) DEFIB_TRY(HttpTarget::parse(config.health.url));
  const auto bad = [](std::string_view key, std::string message) {
    return Error(Code::kConfigBadValue, std::move(message)).with("key", key);
  };
  if (config.spec.ready_when_healthy && config.health.url.empty()) {
    return bad("ready_when", "\"healthy\" needs a health check: health_url");
  }
  if (config.health.timeout > config.health.interval) {
    return bad("health_check_timeout", "must not be more than health_check_interval");
  }
  return {};
}

bool needs_restart(const ServiceConfig& before, const ServiceConfig& after) {
  const auto started_with = [](const process::ServiceSpec& spec) {
    return std::tie(spec.argv, spec.env, spec.working_directory, spec.capture, spec.capture_timeout,
                    spec.heartbeat_timeout, spec.start_in_monitoring);
  };
  return started_with(before.spec) != started_with(after.spec);
}

std::vector<Missing> missing_files(const ServiceConfig& config) {
  std::vector<Missing> missing;
  const std::string& directory = config.spec.working_directory;
  if (!directory.empty() && !os::real_files().is_dir(directory)) {
    missing.push_back(
        {"working_directory",
         fmt::format("'{}' {}", directory,
                     os::real_files().exists(directory) ? "is no directory" : "does not exist")});
  }
  if (const auto program = process::find_service_program(config.spec); !program) {
    missing.push_back({"command", program.error().message()});
  }
  return missing;
}

std::string name_of_command(std::string_view program) {
  const std::size_t slash = program.rfind('/');
  if (slash != std::string_view::npos) program.remove_prefix(slash + 1);
  std::string name;
  for (const char c : program.substr(0, process::kMaxServiceName)) {
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    name += allowed ? c : '-';
  }
  const std::size_t first = name.find_first_not_of("._-");
  return first == std::string::npos ? std::string() : name.substr(first);
}

}  // namespace defib::daemon
