#include "defib/process/service_spec.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <span>

#include "defib/process/kept_sockets.h"
#include "defib/process/restart_policy.h"

namespace defib::process {
namespace {

constexpr std::array<std::string_view, 3> kRestartWords = {"always", "on-failure", "never"};
constexpr std::array<std::string_view, 2> kWhenWords = {"gone", "dying"};
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
  if (spec.capture_timeout < kNone || spec.capture_timeout > std::chrono::minutes(1)) {
    return bad_value("capture_timeout", "must be from 0 to 1m");
  }
  if (spec.max_cpu_percent < 0) return bad_value("max_cpu", "must be 0 or more");
  if (spec.sample_interval < std::chrono::milliseconds(10)) {
    return bad_value("sample_interval", "must be 10ms or more");
  }
  if (spec.log_max_bytes < 4096) return bad_value("log_max_bytes", "must be 4096 or more");
  if (spec.log_files < 1 || spec.log_files > 100) {
    return bad_value("log_files", "must be from 1 to 100");
  }
  return {};
}

wire::Json to_json(const ServiceSpec& spec) {
  const auto nanoseconds = [](os::Duration duration) { return wire::Json(duration.count()); };
  const auto words = [](const shim::ExitSet& set) {
    wire::Json list = wire::Json::array();
    for (std::string& word : exit_set_words(set)) list.push(std::move(word));
    return list;
  };
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
      {"working_directory", spec.working_directory},
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
      {"ready_when_healthy", spec.ready_when_healthy},
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
      {"max_memory_bytes", spec.max_memory_bytes},
      {"max_cpu_percent", spec.max_cpu_percent},
      {"on_limit", to_string(spec.on_limit)},
      {"sample_interval_ns", nanoseconds(spec.sample_interval)},
      {"on_unhealthy", to_string(spec.on_unhealthy)},
      {"log_max_bytes", spec.log_max_bytes},
      {"log_files", spec.log_files},
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
