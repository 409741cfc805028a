// What surrounds the starts of a supervised service: its launch description, its hooks, and what
// the system refuses it.

#include <fmt/core.h>

#include <cerrno>

#include "defib/process/agent.h"
#include "defib/process/launch_report.h"
#include "defib/process/supervised.h"

namespace defib::process {

// The spec's own environment decides where it speaks of the start mode itself.
Result<os::Fd> Supervised::describe(bool monitoring) {
  configured_monitoring_ = monitoring;
  ServiceSpec spec = spec_;
  if (monitoring)
    spec.env.insert(spec.env.begin(), {std::string(kStartModeVariable), "monitoring"});
  auto description = make_launch_description(
      spec, {context_.programs, context_.dir.path(), dir_, context_.cgroups});
  if (!description) return description;
  agent_obstacle_ = preload_obstacle(spec_);
  if (const std::string obstacle = trace_obstacle(spec_); !obstacle.empty()) {
    warn(Error(Code::kPermissionDenied,
               fmt::format("the service '{}' is not seized (capture = ptrace): {}, which would "
                           "lose its rights by it",
                           spec_.name, obstacle))
             .with("service", spec_.name)
             .suggest("take capture = core, or a program without these rights"),
         true);
  }
  const bool asked_for =
      spec_.control_groups == true || spec_.memory_limit_bytes != 0 || spec_.max_processes != 0;
  for (const Error& one : missing_cgroups(spec_, context_.cgroups)) warn(one, asked_for);
  return description;
}

// Each warning is told once by this supervisor; what only concerns the machine, once for all
// services.
void Supervised::warn(const Error& warning, bool asked_for) {
  constexpr std::size_t kMaxTold = 4096;
  const std::string key = asked_for ? warning.message() : "control groups";
  if (context_.told.size() >= kMaxTold || !context_.told.insert(key).second) return;
  context_.observer.warned(spec_.name, warning, asked_for);
}

// The service came to rest. A shim that is killed before it could do it tells so by its successor.
void Supervised::request_cleanup() {
  if (spec_.cleanup.empty() || !link_.connected()) return;
  if (auto configured = configure(configured_monitoring_); !configured)
    last_error_ = configured.error();
  const shim::RunHook request = {shim::Hook::kCleanup, 0};
  static_cast<void>(link_.send(shim::Type::kRunHook, request).has_value());
}

Result<> Supervised::on_hook_finished(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::HookFinished finished, message.body<shim::HookFinished>());
  const HookReport report = hook_report(spec_, finished);
  if (report.error) last_error_ = report.error;
  context_.observer.hook_finished(report);
  const bool cut_off = finished.hook == shim::Hook::kCleanup && finished.error_number == EOWNERDEAD;
  const bool rests = state_ == ServiceState::kStopped || state_ == ServiceState::kFailed;
  if (cut_off && rests) request_cleanup();
  return {};
}

Result<> Supervised::on_shortfall(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Shortfall shortfall, message.body<shim::Shortfall>());
  warn(shortfall_error(spec_, shortfall), true);
  return {};
}

Result<> Supervised::on_oom_kill(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::OomKill kill, message.body<shim::OomKill>());
  last_error_ = Error(
      Code::kLimitExceeded,
      fmt::format("the kernel killed {} process{} of the service '{}' for its "
                  "memory_limit of {} bytes; the service goes on",
                  kill.oom_kills, kill.oom_kills == 1 ? "" : "es", spec_.name, kill.limit_bytes));
  context_.observer.oom_killed(
      {spec_.name, kill.generation, kill.oom_kills, kill.limit_bytes, kill.noticed_mono_ns});
  return {};
}

}  // namespace defib::process
