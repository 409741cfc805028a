#include "defib/process/service_spec.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <span>

#include "defib/process/kept_sockets.h"
#include "defib/process/restart_policy.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {
namespace {

constexpr std::array<std::string_view, 3> kRestartWords = {"always", "on-failure", "never"};
constexpr std::array<std::string_view, 2> kWhenWords = {"gone", "dying"};
// What the crash hook waits at most (crash_hook_sigsafe.h).
constexpr os::Duration kMaxCaptureTimeout = std::chrono::seconds(5);
constexpr std::array<std::string_view, 4> kCaptureWords = {"live", "ptrace", "core", "none"};
constexpr std::array<std::string_view, 2> kActionWords = {"alert", "restart"};
constexpr std::array<std::string_view, 2> kLoopWords = {"stop", "slow"};

constexpr std::array<std::string_view, 4> kAccessWords = {"all", "main", "exec", "none"};

template <typename Enum>
Result<Enum> parse_word(std::string_view what, std::span<const std::string_view> words,
                        std::string_view word) {
  const auto found = std::ranges::find(words, word);
  if (found != words.end()) return static_cast<Enum>(found - words.begin());
  std::string allowed;
  for (const std::string_view one : words) {
    if (!allowed.empty()) allowed += ", ";
    allowed += one;
  }
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' is not a {}: allowed are {}", word, what, allowed))
      .with("allowed", allowed);
}

bool valid_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxServiceName) return false;
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return alphanumeric(name.front()) && std::ranges::all_of(name, [&](char c) {
           return alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

Error bad_value(std::string_view field, std::string_view rule) {
  return Error(Code::kConfigBadValue, fmt::format("{} {}", field, rule)).with("field", field);
}

bool has_nul(std::string_view text) {
  return text.find('\0') != std::string_view::npos;
}

struct LimitName {
  std::string_view name;
  int number;
};
constexpr std::array kLimits = {LimitName{"as", RLIMIT_AS},
                                LimitName{"core", RLIMIT_CORE},
                                LimitName{"cpu", RLIMIT_CPU},
                                LimitName{"data", RLIMIT_DATA},
                                LimitName{"fsize", RLIMIT_FSIZE},
                                LimitName{"memlock", RLIMIT_MEMLOCK},
                                LimitName{"msgqueue", RLIMIT_MSGQUEUE},
                                LimitName{"nice", RLIMIT_NICE},
                                LimitName{"nofile", RLIMIT_NOFILE},
                                LimitName{"nproc", RLIMIT_NPROC},
                                LimitName{"rtprio", RLIMIT_RTPRIO},
                                LimitName{"rttime", RLIMIT_RTTIME},
                                LimitName{"sigpending", RLIMIT_SIGPENDING},
                                LimitName{"stack", RLIMIT_STACK}};

// Descriptors 30 and 31 are the agent's, so fewer than these cannot be given.
constexpr std::uint64_t kLeastDescriptors = 32;
// Room for a program, its libraries and a stack; less is a mistake in the unit.
constexpr std::uint64_t kLeastMemory = 1 << 20;

Result<> validate_identity(const ServiceSpec& spec) {
  for (const auto& [key, name] : {std::pair("user", &spec.user), std::pair("group", &spec.group)}) {
    if (has_nul(*name)) return bad_value(key, "must not contain a zero byte");
  }
  if (spec.supplementary_groups && spec.supplementary_groups->size() > shim::kMaxGroups) {
    return bad_value("supplementary_groups", fmt::format("must be {} at most", shim::kMaxGroups));
  }
  if (spec.umask && (*spec.umask < 0 || *spec.umask > 0777)) {
    return bad_value("umask", "must be from 000 to 777 (octal)");
  }
  if (spec.nice && (*spec.nice < -20 || *spec.nice > 19)) {
    return bad_value("nice", "must be from -20 to 19");
  }
  if (spec.oom_score_adjust && (*spec.oom_score_adjust < -1000 || *spec.oom_score_adjust > 1000)) {
    return bad_value("oom_score_adjust", "must be from -1000 to 1000");
  }
  for (const ProcessLimit& limit : spec.limits) {
    if (limit_number(limit.name) < 0) {
      return bad_value("limits", fmt::format("has no '{}'; there are {}", limit.name,
                                             fmt::join(limit_names(), ", ")));
    }
    if (limit.name == "nofile" && limit.value < kLeastDescriptors) {
      return bad_value("limits", fmt::format("nofile must be {} or more", kLeastDescriptors));
    }
  }
  if (spec.limits.size() > shim::kMaxResourceLimits) return bad_value("limits", "are too many");
  if (spec.memory_limit_bytes != 0 && spec.memory_limit_bytes < kLeastMemory) {
    return bad_value("memory_limit", "must be 1 MB or more");
  }
  if (spec.memory_limit_bytes != 0 && spec.max_memory_bytes > spec.memory_limit_bytes) {
    return bad_value("memory_limit", "must not be less than max_memory, which would never be met");
  }
  if (spec.control_groups == false && (spec.memory_limit_bytes != 0 || spec.max_processes != 0)) {
    return bad_value("control_groups",
                     "must not be false where memory_limit or max_processes is set");
  }
  return {};
}

Result<> validate_hooks(const ServiceSpec& spec) {
  constexpr os::Duration kNone{0};
  for (const auto& [key, argv] :
       {std::pair("pre_start", &spec.pre_start), std::pair("post_crash", &spec.post_crash),
        std::pair("cleanup", &spec.cleanup), std::pair("evidence_command", &spec.evidence)}) {
    if (!argv->empty() && argv->front().empty()) return bad_value(key, "must name a program");
    if (std::ranges::any_of(*argv, has_nul)) {
      return bad_value(key, "must not contain a zero byte");
    }
  }
  if (spec.hook_timeout <= kNone || spec.hook_timeout > std::chrono::hours(24)) {
    return bad_value("hook_timeout", "must be more than 0, and at most 24h");
  }
  if (spec.evidence_timeout < std::chrono::milliseconds(1) ||
      spec.evidence_timeout > std::chrono::hours(1)) {
    return bad_value("evidence_timeout", "must be 1ms to 1h");
  }
  if (spec.stop_sequence.size() > shim::kMaxStopSteps) {
    return bad_value("stop_sequence",
                     fmt::format("must have {} signals at most", shim::kMaxStopSteps));
  }
  for (const StopStep& step : spec.stop_sequence) {
    if (step.signal < 1 || step.signal > SIGRTMAX || step.wait < kNone) {
      return bad_value("stop_sequence", "must be of signals and times of 0 or more");
    }
  }
  return {};
}

}  // namespace

Result<> validate(const ServiceSpec& spec) {
  constexpr os::Duration kNone{0};
  if (!valid_name(spec.name)) {
    return bad_value("name", fmt::format("'{}' must consist of 1 to {} letters, digits and '._-', "
                                         "beginning with a letter or digit",
                                         spec.name, kMaxServiceName));
  }
  if (spec.argv.empty() || spec.argv[0].empty()) {
    return bad_value("command", "must name a program");
  }
  if (std::ranges::any_of(spec.argv, has_nul)) {
    return bad_value("command", "must not contain a zero byte");
  }
  for (const auto& [key, value] : spec.env) {
    if (key.empty() || key.find('=') != std::string::npos || has_nul(key) || has_nul(value)) {
      return bad_value("env", fmt::format("has an impossible name '{}'", key));
    }
  }
  if (spec.max_restarts < 0) return bad_value("max_restarts", "must be 0 or more");
  if (spec.restart_window <= kNone) return bad_value("restart_window", "must be more than 0");
  if (spec.restart_delay < kNone) return bad_value("restart_delay", "must be 0 or more");
  if (spec.restart_delay_cap < spec.restart_delay) {
    return bad_value("restart_delay_cap", "must not be less than restart_delay");
  }
  DEFIB_TRY(validate_restart_rules(spec));
  if (spec.healthy_after < kNone) return bad_value("healthy_after", "must be 0 or more");
  if (spec.standby && spec.restart == RestartPolicy::kNever) {
    return bad_value("standby", "needs a restart policy other than never");
  }
  DEFIB_TRY(parse_sockets(spec.sockets));
  if (spec.ready_timeout < kNone) return bad_value("ready_timeout", "must be 0 or more");
  if (spec.max_runtime < kNone) return bad_value("max_runtime", "must be 0 or more");
  if (spec.heartbeat_timeout < kNone) return bad_value("heartbeat_timeout", "must be 0 or more");
  if (spec.heartbeat_healthy <= kNone) {
    return bad_value("heartbeat_healthy", "must be more than 0");
  }
  if (spec.stop_signal < 1 || spec.stop_signal > SIGRTMAX) {
    return bad_value("stop_signal", fmt::format("must be from 1 to {}", SIGRTMAX));
  }
  if (spec.stop_timeout < kNone) return bad_value("stop_timeout", "must be 0 or more");
  if (spec.capture_timeout < kNone || spec.capture_timeout > kMaxCaptureTimeout) {
    return bad_value("capture_timeout", "must be from 0 to 5s");
  }
  if (spec.hang_capture_timeout < kNone || spec.hang_capture_timeout > std::chrono::minutes(1)) {
    return bad_value("hang_capture_timeout", "must be from 0 to 1m");
  }
  if (spec.max_cpu_percent < 0 || spec.max_cpu_percent > 100) {
    return bad_value("max_cpu",
                     "must be from 0 to 100 percent of all processors that the service may use");
  }
  if (spec.max_cpu_window <= kNone) return bad_value("max_cpu_window", "must be more than 0");
  if (spec.max_descriptors_percent < 0 || spec.max_descriptors_percent > 100) {
    return bad_value("max_descriptors", "must be from 0 to 100 percent");
  }
  if (spec.max_threads < 0) return bad_value("max_threads", "must be 0 or more");
  if (spec.sample_interval < std::chrono::milliseconds(10)) {
    return bad_value("sample_interval", "must be 10ms or more");
  }
  if (spec.log_max_bytes < 4096) return bad_value("log_max_bytes", "must be 4096 or more");
  if (spec.log_files < 1 || spec.log_files > 100) {
    return bad_value("log_files", "must be from 1 to 100");
  }
  if (spec.log_total_bytes != 0 && spec.log_total_bytes < 2 * spec.log_max_bytes) {
    return bad_value("log_total_size", "must be 0, or at least twice log_max_size");
  }
  if (spec.log_max_age < kNone) return bad_value("log_max_age", "must be 0 or more");
  if (spec.log_rate != 0 && spec.log_rate < 1024) {
    return bad_value("log_rate", "must be 0, or at least 1KiB/s");
  }
  DEFIB_TRY(validate_identity(spec));
  return validate_hooks(spec);
}

std::span<const std::string_view> limit_names() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, kLimits.size()> names;
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = kLimits[i].name;
    return names;
  }();
  return kNames;
}

int limit_number(std::string_view name) {
  const auto found = std::ranges::find(kLimits, name, &LimitName::name);
  return found != kLimits.end() ? found->number : -1;
}

std::vector<StopStep> stop_steps(const ServiceSpec& spec) {
  if (!spec.stop_sequence.empty()) return spec.stop_sequence;
  return {{spec.stop_signal, spec.stop_timeout}};
}

wire::Json to_json(const ServiceSpec& spec) {
  const auto list = [](const std::vector<std::string>& texts) {
    wire::Json json = wire::Json::array();
    for (const std::string& text : texts) json.push(text);
    return json;
  };
  const auto number = [](const std::optional<int>& value) {
    return value ? wire::Json(*value) : wire::Json();
  };
  const auto flag = [](const std::optional<bool>& value) {
    return value ? wire::Json(*value) : wire::Json();
  };
  wire::Json limits = wire::Json::array();
  for (const ProcessLimit& limit : spec.limits) {
    limits.push(
        wire::Json::object({{"name", limit.name},
                            {"value", limit.value == kUnlimited ? wire::Json("unlimited")
                                                                : wire::Json(limit.value)}}));
  }
  wire::Json stop = wire::Json::array();
  for (const StopStep& step : stop_steps(spec)) {
    stop.push(wire::Json::object({{"signal", step.signal}, {"wait_ns", step.wait.count()}}));
  }
  const auto action = [&](const std::optional<LimitAction>& own) {
    return wire::Json(to_string(own.value_or(spec.on_limit)));
  };
  const auto nanoseconds = [](os::Duration duration) { return wire::Json(duration.count()); };
  const auto words = [&](const shim::ExitSet& set) { return list(exit_set_words(set)); };
  wire::Json argv = wire::Json::array();
  for (const std::string& argument : spec.argv) argv.push(argument);
  wire::Json sockets = wire::Json::array();
  for (const std::string& socket : spec.sockets) sockets.push(socket);
  wire::Json env = wire::Json::array();
  for (const auto& [key, value] : spec.env) env.push(key);
  return wire::Json::object({
      {"schema", "defib.spec/1"},
      {"name", spec.name},
      {"argv", std::move(argv)},
      {"env_names", std::move(env)},
      {"clear_environment", spec.clear_environment},
      {"working_directory", spec.working_directory},
      {"user", spec.user},
      {"group", spec.group},
      {"supplementary_groups",
       spec.supplementary_groups ? list(*spec.supplementary_groups) : wire::Json()},
      {"umask", number(spec.umask)},
      {"nice", number(spec.nice)},
      {"oom_score_adjust", number(spec.oom_score_adjust)},
      {"no_new_privileges", flag(spec.no_new_privileges)},
      {"limits", std::move(limits)},
      {"control_groups", flag(spec.control_groups)},
      {"memory_limit_bytes", spec.memory_limit_bytes},
      {"max_processes", spec.max_processes},
      {"stop_sequence", std::move(stop)},
      {"pre_start", list(spec.pre_start)},
      {"post_crash", list(spec.post_crash)},
      {"cleanup", list(spec.cleanup)},
      {"post_crash_wait", spec.post_crash_wait},
      {"hook_timeout_ns", nanoseconds(spec.hook_timeout)},
      {"evidence_command", list(spec.evidence)},
      {"evidence_timeout_ns", nanoseconds(spec.evidence_timeout)},
      {"restart", to_string(spec.restart)},
      {"max_restarts", spec.max_restarts},
      {"restart_window_ns", nanoseconds(spec.restart_window)},
      {"restart_delay_ns", nanoseconds(spec.restart_delay)},
      {"restart_delay_cap_ns", nanoseconds(spec.restart_delay_cap)},
      {"success_exit_codes", words(spec.success_exit_codes)},
      {"restart_exit_codes", words(spec.restart_exit_codes)},
      {"no_restart_exit_codes", words(spec.no_restart_exit_codes)},
      {"on_crash_loop", to_string(spec.on_crash_loop)},
      {"slow_lane_interval_ns", nanoseconds(spec.slow_lane_interval)},
      {"same_crash_limit", spec.same_crash_limit},
      {"max_downtime_ns", nanoseconds(spec.max_downtime)},
      {"start_in", spec.start_in_monitoring ? "monitoring" : "normal"},
      {"monitoring_after", spec.monitoring_after},
      {"healthy_after_ns", nanoseconds(spec.healthy_after)},
      {"restart_when", to_string(spec.restart_when)},
      {"standby", spec.standby},
      {"sockets", std::move(sockets)},
      {"expects_ready", spec.expects_ready},
      {"ready_probe", spec.ready_probe},
      {"ready_timeout_ns", nanoseconds(spec.ready_timeout)},
      {"heartbeat_timeout_ns", nanoseconds(spec.heartbeat_timeout)},
      {"heartbeat_healthy_ns", nanoseconds(spec.heartbeat_healthy)},
      {"on_heartbeat_lost", to_string(spec.on_heartbeat_lost)},
      {"notify_access", to_string(spec.notify_access)},
      {"max_runtime_ns", nanoseconds(spec.max_runtime)},
      {"preload_heartbeat", spec.preload_heartbeat},
      {"stop_signal", spec.stop_signal},
      {"stop_timeout_ns", nanoseconds(spec.stop_timeout)},
      {"capture", to_string(spec.capture)},
      {"capture_timeout_ns", nanoseconds(spec.capture_timeout)},
      {"hang_capture_timeout_ns", nanoseconds(spec.hang_capture_timeout)},
      {"minicore", spec.minicore},
      {"max_memory_bytes", spec.max_memory_bytes},
      {"max_cpu_percent", spec.max_cpu_percent},
      {"max_cpu_window_ns", nanoseconds(spec.max_cpu_window)},
      {"max_descriptors", spec.max_descriptors},
      {"max_descriptors_percent", spec.max_descriptors_percent},
      {"max_threads", spec.max_threads},
      {"on_limit", to_string(spec.on_limit)},
      {"on_memory", action(spec.on_memory)},
      {"on_cpu", action(spec.on_cpu)},
      {"on_descriptors", action(spec.on_descriptors)},
      {"on_threads", action(spec.on_threads)},
      {"sample_interval_ns", nanoseconds(spec.sample_interval)},
      {"on_unhealthy", to_string(spec.on_unhealthy)},
      {"log_max_bytes", spec.log_max_bytes},
      {"log_files", spec.log_files},
      {"log_total_bytes", spec.log_total_bytes},
      {"log_max_age_ns", nanoseconds(spec.log_max_age)},
      {"log_rate", spec.log_rate},
      {"log_burst", spec.log_burst},
      {"log_journal", spec.log_journal},
  });
}

std::string_view to_string(RestartPolicy policy) {
  return kRestartWords[static_cast<std::size_t>(policy)];
}
std::string_view to_string(RestartWhen when) {
  return kWhenWords[static_cast<std::size_t>(when)];
}
std::string_view to_string(CaptureMode mode) {
  return kCaptureWords[static_cast<std::size_t>(mode)];
}
std::string_view to_string(NotifyAccess access) {
  return kAccessWords[static_cast<std::size_t>(access)];
}
std::string_view to_string(LimitAction action) {
  return kActionWords[static_cast<std::size_t>(action)];
}

std::string_view to_string(CrashLoopAction action) {
  return kLoopWords[static_cast<std::size_t>(action)];
}

Result<RestartPolicy> parse_restart_policy(std::string_view word) {
  return parse_word<RestartPolicy>("restart policy", kRestartWords, word);
}
Result<RestartWhen> parse_restart_when(std::string_view word) {
  return parse_word<RestartWhen>("time of a restart", kWhenWords, word);
}
Result<CaptureMode> parse_capture_mode(std::string_view word) {
  return parse_word<CaptureMode>("capture mode", kCaptureWords, word);
}
Result<LimitAction> parse_limit_action(std::string_view word) {
  return parse_word<LimitAction>("limit action", kActionWords, word);
}
Result<NotifyAccess> parse_notify_access(std::string_view word) {
  return parse_word<NotifyAccess>("notify access", kAccessWords, word);
}
Result<CrashLoopAction> parse_crash_loop_action(std::string_view word) {
  return parse_word<CrashLoopAction>("crash loop action", kLoopWords, word);
}

}  // namespace defib::process
