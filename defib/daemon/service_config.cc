#include "defib/daemon/service_config.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <tuple>

#include "defib/obs/log.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/process/kept_sockets.h"
#include "defib/process/launch_description.h"
#include "defib/process/restart_policy.h"

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
constexpr conf::Range<std::int64_t> kMemoryMb{0, 1 << 30};
constexpr conf::Range<double> kCpuPercent{0, 100};
constexpr conf::Range<std::uint64_t> kDescriptors{0, 1'000'000'000};
constexpr conf::Range<int> kThreads{0, 1'000'000};
constexpr conf::Range<std::uint64_t> kLogSize{4096, std::uint64_t{1} << 40};
constexpr conf::Range<std::uint64_t> kLogTotal{0, std::uint64_t{1} << 50};
constexpr conf::Range<std::uint64_t> kLogRate{1024, std::uint64_t{1} << 40};
constexpr conf::Range<int> kLogFiles{1, 100};

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

// As the file has it: "64MiB", "500KB", "4096".
Result<> read_size(std::string_view key, std::string_view text, std::uint64_t& out,
                   conf::Range<std::uint64_t> range) {
  std::uint64_t bytes = 0;
  if (!conf::parse_size(text, bytes) || bytes < range.min || bytes > range.max) {
    return bad_value(key, text, "a size such as 64MiB or 500KB");
  }
  out = bytes;
  return {};
}

// "10MiB/s"; "0" is no limit.
Result<> read_rate(std::string_view key, std::string_view text, std::uint64_t& out) {
  if (text == "0") {
    out = 0;
    return {};
  }
  std::string_view size = text;
  if (size.ends_with("/s")) size.remove_suffix(2);
  if (!size.empty() && read_size(key, size, out, kLogRate)) return {};
  return bad_value(key, text, "a rate such as 10MiB/s, at least 1KiB/s; 0 is no limit");
}

Result<> set_memory(ServiceConfig& config, std::string_view key, std::string_view text) {
  std::int64_t megabytes = 0;
  DEFIB_TRY(read_number(key, text, megabytes, kMemoryMb));
  config.spec.max_memory_bytes = static_cast<std::uint64_t>(megabytes * kMegabyte);
  return {};
}

Result<> set_stop_signal(ServiceConfig& config, std::string_view key, std::string_view text) {
  const int number = os::signal_number(text);
  if (number == 0) return bad_value(key, text, "a signal such as SIGTERM, INT or 15");
  config.spec.stop_signal = number;
  return {};
}

// "800" or "90%".
Result<> set_descriptors(ServiceConfig& config, std::string_view key, std::string_view text) {
  if (!text.ends_with('%')) {
    config.spec.max_descriptors_percent = 0;
    return read_number(key, text, config.spec.max_descriptors, kDescriptors);
  }
  config.spec.max_descriptors = 0;
  return read_number(key, text.substr(0, text.size() - 1), config.spec.max_descriptors_percent,
                     conf::Range<double>{0, 100});
}

// The keys that have another name in other programs are read, and told.
std::string_view known_as(conf::Section& section, std::string_view key, std::string_view alias) {
  if (!section.has(alias)) return key;
  if (section.has(key)) {
    section.fail(alias, fmt::format("'{}' is another name of '{}': give one of them", alias, key));
    return key;
  }
  obs::log(obs::Level::kWarning, "config", "a key is read by its other name",
           {{"key", alias}, {"name", key}, {"place", section.where(alias)}});
  return alias;
}

void read_limits(conf::Section& section, process::ServiceSpec& spec) {
  auto memory_mb = static_cast<std::int64_t>(spec.max_memory_bytes / kMegabyte);
  section.value(known_as(section, "max_memory", "max_memory_mb"), memory_mb, kMemoryMb);
  spec.max_memory_bytes = static_cast<std::uint64_t>(memory_mb * kMegabyte);
  section.value(known_as(section, "max_cpu", "max_cpu_percent"), spec.max_cpu_percent, kCpuPercent);
  section.value("max_cpu_window", spec.max_cpu_window, kPositiveTime);
  section.value("max_threads", spec.max_threads, kThreads);
  if (section.has_text("max_descriptors")) {
    std::string text;
    section.value("max_descriptors", text);
    ServiceConfig scratch;
    if (const auto set = set_descriptors(scratch, "max_descriptors", text); !set) {
      section.fail("max_descriptors", fmt::format("'{}' is neither a number nor a percentage from "
                                                  "0% to 100%",
                                                  text));
    }
    spec.max_descriptors = scratch.spec.max_descriptors;
    spec.max_descriptors_percent = scratch.spec.max_descriptors_percent;
  } else {
    section.value("max_descriptors", spec.max_descriptors, kDescriptors);
  }
  section.value("sample_interval", spec.sample_interval, kPositiveTime);
  const std::pair<const char*, std::optional<process::LimitAction>*> actions[] = {
      {"on_memory", &spec.on_memory},
      {"on_cpu", &spec.on_cpu},
      {"on_descriptors", &spec.on_descriptors},
      {"on_threads", &spec.on_threads}};
  for (const auto& [key, action] : actions) {
    if (!section.has(key)) continue;
    process::LimitAction own = process::LimitAction::kAlert;
    section.word(
        key, own,
        {{"alert", process::LimitAction::kAlert}, {"restart", process::LimitAction::kRestart}});
    *action = own;
  }
}

Result<> read_flag(std::string_view key, std::string_view text, bool& out) {
  if (text != "true" && text != "false") return bad_value(key, text, "true or false");
  out = text == "true";
  return {};
}

// A list of the configuration as the command line has it: "3,64-78,SIGTERM".
std::vector<std::string> comma_list(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    words.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return words;
}

template <typename Word, typename Parse>
Result<> set_word(Word& out, std::string_view text, Parse parse) {
  DEFIB_TRY_ASSIGN(out, parse(text));
  return {};
}

template <shim::ExitSet process::ServiceSpec::* Field>
Result<> set_exits(ServiceConfig& config, std::string_view key, std::string_view text) {
  auto set = process::parse_exit_set(comma_list(text));
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
  DEFIB_TRY(read_duration(key, text, config.health.policy.interval, kPositiveTime));
  config.health.policy.timeout =
      std::min(config.health.policy.timeout, config.health.policy.interval);
  return {};
}

using Setter = Result<> (*)(ServiceConfig&, std::string_view key, std::string_view text);
struct Option {
  std::string_view key;
  Setter set;
};

constexpr std::array kOptions =
    {
        Option{"restart",
               [](ServiceConfig& c, std::string_view, std::string_view t) {
                 return set_word(c.spec.restart, t, process::parse_restart_policy);
               }},
        Option{"restart_when",
               [](ServiceConfig& c, std::string_view, std::string_view t) {
                 return set_word(c.spec.restart_when, t, process::parse_restart_when);
               }},
        Option{"standby", [](ServiceConfig& c, std::string_view k,
                             std::string_view t) { return read_flag(k, t, c.spec.standby); }},
        Option{"sockets",
               [](ServiceConfig& c, std::string_view, std::string_view t) -> Result<> {
                 c.spec.sockets = comma_list(t);
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
                 c.spec.restart_delay_cap =
                     std::max(c.spec.restart_delay_cap, c.spec.restart_delay);
                 return {};
               }},
        Option{"success_exit_codes", set_exits<&process::ServiceSpec::success_exit_codes>},
        Option{"restart_exit_codes", set_exits<&process::ServiceSpec::restart_exit_codes>},
        Option{"no_restart_exit_codes", set_exits<&process::ServiceSpec::no_restart_exit_codes>},
        Option{"on_crash_loop", set_crash_loop},
        Option{"slow_lane_interval", set_slow_lane},
        Option{"same_crash_limit", set_same_crash_limit},
        Option{"start_in",
               [](ServiceConfig& c, std::string_view k, std::string_view t) -> Result<> {
                 if (t != "normal" && t != "monitoring")
                   return bad_value(k, t, "normal or monitoring");
                 c.spec.start_in_monitoring = t == "monitoring";
                 return {};
               }},
        Option{"monitoring_after",
               [](ServiceConfig& c, std::string_view k, std::string_view t) {
                 return read_number(k, t, c.spec.monitoring_after, kRestarts);
               }},
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
        Option{"max_descriptors", set_descriptors},
        Option{"max_threads",
               [](ServiceConfig& c, std::string_view k,
                  std::string_view t) { return read_number(k, t, c.spec.max_threads, kThreads); }},
        Option{"log_pattern",
               [](ServiceConfig& c, std::string_view, std::string_view t) -> Result<> {
                 c.sensors.log_patterns.emplace_back();
                 c.sensors.log_patterns.back().match = t;
                 return {};
               }},
        Option{"log_rate",
               [](ServiceConfig& c, std::string_view k, std::string_view t) -> Result<> {
                 return read_rate(k, t, c.spec.log_rate);
               }},
        Option{"log_max_size",
               [](ServiceConfig& c, std::string_view k, std::string_view t) -> Result<> {
                 return read_size(k, t, c.spec.log_max_bytes, kLogSize);
               }},
        Option{
            "log_max_age",
            [](ServiceConfig& c, std::string_view k,
               std::string_view t) { return read_duration(k, t, c.spec.log_max_age, kAnyTime); }},
        Option{"log_files",
               [](ServiceConfig& c, std::string_view k,
                  std::string_view t) { return read_number(k, t, c.spec.log_files, kLogFiles); }},
        Option{"log_journal",
               [](ServiceConfig& c, std::string_view k,
                  std::string_view t) { return read_flag(k, t, c.spec.log_journal); }},
        Option{"capture",
               [](ServiceConfig& c, std::string_view,
                  std::string_view
                      t) { return set_word(c.spec.capture, t, process::parse_capture_mode); }},
        Option{
            "stop_timeout",
            [](ServiceConfig& c, std::string_view k,
               std::string_view t) { return read_duration(k, t, c.spec.stop_timeout, kAnyTime); }},
        Option{"stop_signal", set_stop_signal},
};

template <typename Value, typename... Rest>
void read_optional(conf::Section& section, std::string_view key, std::optional<Value>& out,
                   Rest... rest) {
  if (!section.has(key)) return;
  Value value{};
  section.value(key, value, rest...);
  out = std::move(value);
}

// As they are written for chmod and umask: "027".
void read_umask(conf::Section& section, std::optional<int>& out) {
  std::string text;
  section.value("umask", text);
  if (text.empty()) return;
  int mask = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), mask, 8);
  if (failed != std::errc{} || end != text.data() + text.size() || mask < 0 || mask > 0777) {
    return section.fail("umask", fmt::format("'{}' is no octal number from 000 to 777", text));
  }
  out = mask;
}

// "SIGINT 5s"
void read_stop_sequence(conf::Section& section, std::vector<process::StopStep>& out) {
  std::vector<std::string> lines;
  section.value("stop_sequence", lines);
  for (const std::string& line : lines) {
    const std::size_t space = line.find(' ');
    process::StopStep step;
    step.signal = os::signal_number(line.substr(0, space));
    step.wait =
        space == std::string::npos ? os::Duration(-1) : os::parse_duration(line.substr(space + 1));
    if (step.signal == 0 || step.wait < kAnyTime.min || step.wait > kAnyTime.max) {
      return section.fail(
          "stop_sequence",
          fmt::format("'{}' is no signal with a time, such as \"SIGINT 5s\"", line));
    }
    out.push_back(step);
  }
}

void read_identity(conf::Section& section, process::ServiceSpec& spec) {
  section.value("clear_env", spec.clear_environment);
  section.value("user", spec.user);
  section.value("group", spec.group);
  read_optional(section, "supplementary_groups", spec.supplementary_groups);
  read_umask(section, spec.umask);
  read_optional(section, "nice", spec.nice, conf::Range<int>{-20, 19});
  read_optional(section, "oom_score_adjust", spec.oom_score_adjust, conf::Range<int>{-1000, 1000});
  read_optional(section, "no_new_privs", spec.no_new_privileges);
  conf::Section limits = section.table("limits");
  for (const std::string_view name : process::limit_names()) {
    if (!limits.present() || !limits.has(name)) continue;
    process::ProcessLimit limit{std::string(name), 0};
    limits.limit(name, limit.value);
    spec.limits.push_back(std::move(limit));
  }
  read_optional(section, "control_groups", spec.control_groups);
  std::int64_t memory_mb = 0;
  section.value("memory_limit", memory_mb, kMemoryMb);
  spec.memory_limit_bytes = static_cast<std::uint64_t>(memory_mb * kMegabyte);
  // Where only the hard limit is given, the alert comes shortly before it.
  const bool named = section.has("max_memory") || section.has("max_memory_mb");
  if (!named && memory_mb > 0 && spec.max_memory_bytes > spec.memory_limit_bytes) {
    spec.max_memory_bytes = spec.memory_limit_bytes / 10 * 9;
  }
  section.value("max_processes", spec.max_processes, {1, 1u << 22});
  if (!section.has("max_threads") && spec.max_processes > 0) {
    spec.max_threads = std::max<int>(1, static_cast<int>(spec.max_processes * 9 / 10));
  }
}

void read_hooks(conf::Section& section, process::ServiceSpec& spec) {
  section.value("pre_start", spec.pre_start);
  section.value("post_crash", spec.post_crash);
  section.value("cleanup", spec.cleanup);
  section.value("post_crash_wait", spec.post_crash_wait);
  section.value("hook_timeout", spec.hook_timeout, {1ms, 24h});
  section.value("evidence_command", spec.evidence);
  section.value("evidence_timeout", spec.evidence_timeout, {1ms, 1h});
  read_stop_sequence(section, spec.stop_sequence);
  for (const char* other : {"stop_signal", "stop_timeout"}) {
    if (!spec.stop_sequence.empty() && section.has(other)) {
      section.fail(other,
                   fmt::format("{} and stop_sequence say the same thing: keep one of them", other));
    }
  }
}

}  // namespace

// The delay of docs/cli.md: the first restart at once, then 30 s, doubling up to five minutes. And
// a watchdog's limits, which alert where nobody asks for more.
ServiceConfig::ServiceConfig() {
  spec.restart_delay = 30s;
  spec.max_memory_bytes = 1024 * kMegabyte;
  spec.max_cpu_percent = 90;
}

std::vector<ProbeConfig> all_probes(const ServiceConfig& config) {
  std::vector<ProbeConfig> probes;
  if (!config.health.url.empty()) {
    ProbeConfig& probe = probes.emplace_back();
    probe.name = "health_url";
    probe.url = config.health.url;
    probe.policy = config.health.policy;
  }
  probes.insert(probes.end(), config.sensors.probes.begin(), config.sensors.probes.end());
  return probes;
}

Result<> set_option(ServiceConfig& config, std::string_view key, std::string_view text) {
  for (const Option& option : kOptions) {
    if (option.key == key) return option.set(config, key, text);
  }
  return Error(Code::kInvalidArgument, fmt::format("there is no setting '{}'", key));
}

namespace {

void read_log_settings(conf::Section& section, process::ServiceSpec& spec) {
  section.size("log_max_size", spec.log_max_bytes, kLogSize);
  section.size("log_total_size", spec.log_total_bytes, kLogTotal);
  section.value("log_max_age", spec.log_max_age, kAnyTime);
  section.value("log_files", spec.log_files, kLogFiles);
  std::string rate = "0";
  section.value("log_rate", rate);
  if (const auto read = read_rate("log_rate", rate, spec.log_rate); !read) {
    section.fail("log_rate",
                 fmt::format("{}: {}", read.error().message(), read.error().suggested_action()));
  }
  section.size("log_burst", spec.log_burst, kLogTotal);
  section.value("log_journal", spec.log_journal);
}

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
  section.value("ready_probe", spec.ready_probe);
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
  section.value("health_check_interval", config.health.policy.interval, kPositiveTime);
  config.health.policy.timeout =
      std::min(config.health.policy.timeout, config.health.policy.interval);
  section.value("health_check_timeout", config.health.policy.timeout, kPositiveTime);
  section.value("health_check_failures", config.health.policy.failures_to_unhealthy, kFailures);
  section.value("health_check_successes", config.health.policy.successes_to_healthy, kFailures);
  section.value("health_check_grace", config.health.policy.start_grace, kAnyTime);
  read_limits(section, spec);
  read_sensors(section, config.sensors);
  read_log_settings(section, spec);
  section.word("capture", spec.capture,
               {{"live", process::CaptureMode::kLive},
                {"ptrace", process::CaptureMode::kPtrace},
                {"core", process::CaptureMode::kCore},
                {"none", process::CaptureMode::kNone}});
  section.value("capture_timeout", spec.capture_timeout, kAnyTime);
  section.value("hang_capture_timeout", spec.hang_capture_timeout, kPositiveTime);
  section.value("minicore", spec.minicore);
  section.word("notify_access", spec.notify_access,
               {{"all", process::NotifyAccess::kAll},
                {"main", process::NotifyAccess::kMain},
                {"exec", process::NotifyAccess::kExec},
                {"none", process::NotifyAccess::kNone}});
  section.value("max_runtime", spec.max_runtime, kAnyTime);
  section.value("stop_timeout", spec.stop_timeout, kAnyTime);
  std::string stop_signal = "SIGTERM";
  section.value("stop_signal", stop_signal);
  spec.stop_signal = os::signal_number(stop_signal);
  if (spec.stop_signal == 0) {
    spec.stop_signal = SIGTERM;
    section.fail("stop_signal", fmt::format("'{}' is no signal such as SIGTERM", stop_signal));
  }
  read_identity(section, spec);
  read_hooks(section, spec);
  return config;
}

Result<> validate(const ServiceConfig& config) {
  DEFIB_TRY(process::validate(config.spec));
  if (config.health.policy.timeout > config.health.policy.interval) {
    return Error(Code::kConfigBadValue,
                 "health_check_timeout: must not be more than health_check_interval")
        .with("key", "health_check_timeout");
  }
  SensorConfig sensors = config.sensors;
  sensors.probes = all_probes(config);
  DEFIB_TRY(validate(sensors));
  const std::string& wanted = config.spec.ready_probe;
  const bool found = std::ranges::any_of(
      sensors.probes, [&](const ProbeConfig& probe) { return probe.name == wanted; });
  if (wanted.empty() || found) return {};
  std::string names;
  for (const ProbeConfig& probe : sensors.probes) {
    names += (names.empty() ? "" : ", ") + probe.name;
  }
  return Error(Code::kInvalidArgument, fmt::format("ready_probe: there is no probe '{}'", wanted))
      .with("key", "ready_probe")
      .suggest(names.empty() ? "describe one with [[service.NAME.probe]]"
                             : fmt::format("the probes are: {}", names));
}

bool needs_restart(const ServiceConfig& before, const ServiceConfig& after) {
  const auto started_with = [](const process::ServiceSpec& spec) {
    return std::tie(spec.argv, spec.env, spec.clear_environment, spec.working_directory, spec.user,
                    spec.group, spec.supplementary_groups, spec.umask, spec.nice,
                    spec.oom_score_adjust, spec.no_new_privileges, spec.limits, spec.control_groups,
                    spec.memory_limit_bytes, spec.max_processes, spec.capture, spec.capture_timeout,
                    spec.minicore, spec.heartbeat_timeout, spec.start_in_monitoring);
  };
  return started_with(before.spec) != started_with(after.spec);
}

std::vector<Missing> missing_files(const ServiceConfig& config) {
  std::vector<Missing> missing;
  for (const process::StartObstacle& one : process::start_obstacles(config.spec)) {
    std::string text(one.error.message());
    // Of the system's words only those that say more.
    const Error* cause = one.error.cause();
    if (cause != nullptr && cause->code() == Code::kPermissionDenied)
      text += ": " + cause->message();
    missing.push_back({one.key, fmt::format("{}; {}", text, one.error.suggested_action())});
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
