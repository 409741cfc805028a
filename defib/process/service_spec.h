// ServiceSpec: everything that the supervisor must know about one service.
//
// A spec is a value: it is validated once, written to the service's directory as spec.json, and
// compared on reload. Durations are std::chrono; sizes are bytes; the meaning of each edge value
// stands beside its field. Thread rule: like std::string.

#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/process/shim_protocol.h"
#include "defib/wire/json.h"

namespace defib::process {

// Longest service name; names consist of letters, digits and "._-", and begin with none of these
// three.
inline constexpr std::size_t kMaxServiceName = 64;

enum class RestartPolicy : std::uint8_t { kAlways, kOnFailure, kNever };
// How much is learnt from a crash: by the preloaded agent's handler, by ptrace, by a core, or not.
enum class CaptureMode : std::uint8_t { kLive, kPtrace, kCore, kNone };
// Whose notifications (sd_notify) are believed.
using shim::NotifyAccess;
// When the replacement of a dead process starts: when it is gone, with its memory, locks and ports,
// or as soon as it dies: when the kernel has ended its last thread, before it has torn anything
// down. The latter is for services whose sockets defib keeps and whose files wait for their holder.
enum class RestartWhen : std::uint8_t { kGone, kDying };
// What a limit or a lost heartbeat leads to.
enum class LimitAction : std::uint8_t { kAlert, kRestart };
// What follows when a service fails too often: it waits for a human, or is tried again slowly.
enum class CrashLoopAction : std::uint8_t { kStop, kSlow };

// One signal of the graceful end, and how long its effect is waited for.
struct StopStep {
  int signal = 15;
  os::Duration wait = std::chrono::seconds(10);
  friend bool operator==(const StopStep&, const StopStep&) = default;
};

// A limit of the process (setrlimit). kUnlimited: none.
inline constexpr std::uint64_t kUnlimited = UINT64_MAX;
struct ProcessLimit {
  std::string name;         // "nofile", "core", ...: kLimitNames
  std::uint64_t value = 0;  // soft and hard
  friend bool operator==(const ProcessLimit&, const ProcessLimit&) = default;
};
// The names that there are, sorted.
std::span<const std::string_view> limit_names();
// RLIMIT_NOFILE for "nofile"; -1: there is none of this name.
int limit_number(std::string_view name);

struct ServiceSpec {
  std::string name;
  std::vector<std::string> argv;                         // argv[0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> env;  // added to the supervisor's own
  bool clear_environment = false;                        // env is all there is, besides PATH
  std::string working_directory;                         // empty: the supervisor's own

  // Who it runs as: names or numbers; empty: as the supervisor. Groups: none given: the user's own.
  std::string user;
  std::string group;
  std::optional<std::vector<std::string>> supplementary_groups;
  std::optional<int> umask;
  std::optional<int> nice;                // -20 to 19
  std::optional<int> oom_score_adjust;    // -1000 to 1000
  std::optional<bool> no_new_privileges;  // none given: true where a user is named
  std::vector<ProcessLimit> limits;       // by name
  // A control group of its own for each start. None given: where the system allows it, and without
  // a warning where it does not; the limits need it.
  std::optional<bool> control_groups;
  std::uint64_t memory_limit_bytes = 0;  // the kernel kills what goes beyond; 0: no limit
  std::uint64_t max_processes = 0;       // threads count; 0: no limit

  RestartPolicy restart = RestartPolicy::kOnFailure;
  int max_restarts = 10;  // automatic restarts within the window; 0: none
  os::Duration restart_window = std::chrono::hours(1);
  // The first restart is immediate; the next waits for restart_delay, and each further one twice
  // as long, up to the cap. So many healthy seconds, and it begins anew. 0: always immediate.
  os::Duration restart_delay = std::chrono::seconds(1);
  os::Duration restart_delay_cap = std::chrono::minutes(5);
  os::Duration healthy_after = std::chrono::seconds(30);

  // Ends that are told apart from `restart`'s own idea of a failure. Where several apply, the
  // strictest counts: no_restart, then restart, then success (as exit code 0), then the policy.
  shim::ExitSet success_exit_codes = {};
  shim::ExitSet restart_exit_codes = {};
  shim::ExitSet no_restart_exit_codes = {};

  CrashLoopAction on_crash_loop = CrashLoopAction::kStop;
  os::Duration slow_lane_interval = std::chrono::minutes(5);  // at least, between slow starts
  int same_crash_limit = 3;      // equal crashes in a row that are a crash loop; 0: no such rule
  os::Duration max_downtime{0};  // in the window; more is a crash loop; 0: no such rule

  // DEFIB_START_MODE=monitoring stands in the environment of every start, or of the restarts from
  // the n-th in the window on. No rule of the service's business keeps it from being started.
  bool start_in_monitoring = false;
  int monitoring_after = 0;  // 0: no such rule

  RestartWhen restart_when = RestartWhen::kGone;
  // Keep a second process beside the active one, started with DEFIB_ROLE=standby, which initialises
  // and calls Agent::wait_until_active(). It is promoted when the active one dies.
  bool standby = false;
  // Sockets that defib opens before the first start, keeps over all restarts, and passes as
  // sd_listen_fds(3) has it: "tcp:127.0.0.1:8080", "tcp:[::1]:80", "udp:...", "unix:/path", each
  // with an optional name before it ("web=tcp:...").
  std::vector<std::string> sockets;

  // A service is running when READY=1 arrived (sd_notify), else as soon as its program started.
  bool expects_ready = false;
  // Nor before Supervisor::report_ready(), where the caller's probe of this name decides.
  std::string ready_probe;
  os::Duration ready_timeout = std::chrono::seconds(90);  // counts as a failure; 0: for ever

  // Silence after which an armed heartbeat counts as lost. Stages with a deadline of their own
  // keep it. A heartbeat is armed by its first beat, so 0 (off) is rarely needed.
  os::Duration heartbeat_timeout = std::chrono::seconds(10);
  // A beat older than this is late: the service shows as degraded.
  os::Duration heartbeat_healthy = std::chrono::seconds(5);
  LimitAction on_heartbeat_lost = LimitAction::kRestart;
  // The preloaded agent beats from the main thread's waiting calls (epoll, poll, select, accept).
  // Off: a program that computes for longer than heartbeat_timeout between two of them is no
  // hanging one, and nobody but its operator knows which kind it is.
  bool preload_heartbeat = false;

  // Of every process of the service's user, the main process alone, the main process and what the
  // supervisor starts for the service, or nobody.
  NotifyAccess notify_access = NotifyAccess::kAll;
  // Running longer than this it is stopped, which counts as a failure; 0: no such limit.
  os::Duration max_runtime{0};

  int stop_signal = 15;                                  // SIGTERM
  os::Duration stop_timeout = std::chrono::seconds(10);  // then SIGKILL to all of it
  std::vector<StopStep> stop_sequence;                   // in place of these two; empty: they hold

  // Programs that run before each start (whose failure is a failure of the start), after a failure
  // (before the next start, or beside it), and when the service came to rest. Empty: none.
  std::vector<std::string> pre_start;
  std::vector<std::string> post_crash;
  std::vector<std::string> cleanup;
  bool post_crash_wait = true;
  os::Duration hook_timeout = std::chrono::seconds(30);  // then it is killed with its group
  // Runs after a failure and before the replacement, whatever else waits or does not: what it
  // writes goes into the incident's bundle. Empty: none.
  std::vector<std::string> evidence;
  os::Duration evidence_timeout = std::chrono::seconds(5);  // then it is killed with its group

  CaptureMode capture = CaptureMode::kLive;
  // A crashed process waits so long for its capture, from the fault on; 0: it does not wait.
  os::Duration capture_timeout = std::chrono::milliseconds(50);
  os::Duration hang_capture_timeout = std::chrono::seconds(2);  // a hung one, to be killed
  bool minicore = false;  // a capture also leaves a small core for debuggers; it holds stacks

  // Limits of the process and all its descendants; 0: none. Memory is what the service's own cgroup
  // is charged with (without droppable cache), else the sum of proportional set sizes.
  std::uint64_t max_memory_bytes = 0;
  double max_cpu_percent = 0;  // of all processors allowed to it, on average over the window
  os::Duration max_cpu_window = std::chrono::seconds(60);
  std::uint64_t max_descriptors = 0;   // of the process that has most; 0: by percent
  double max_descriptors_percent = 0;  // of its RLIMIT_NOFILE
  int max_threads = 0;
  LimitAction on_limit = LimitAction::kAlert;  // where the resource has no action of its own
  std::optional<LimitAction> on_memory, on_cpu, on_descriptors, on_threads;
  os::Duration sample_interval = std::chrono::seconds(5);

  // An unhealthy service (Supervisor::report_health) is degraded; with kRestart it is replaced.
  LimitAction on_unhealthy = LimitAction::kRestart;

  // The output's files (docs/formats/service_log.md); each with its index.
  std::uint64_t log_max_bytes = 16u << 20;  // of logs/current before it is rotated
  int log_files = 4;                        // rotated files kept beside it
  std::uint64_t log_total_bytes = 0;        // of all of them together; 0: no bound of its own
  os::Duration log_max_age{0};              // of the first byte of logs/current; 0: no limit
  std::uint64_t log_rate = 0;   // bytes a second, beyond which output is dropped; 0: no limit
  std::uint64_t log_burst = 0;  // so much at once is within the rate; 0: one second's worth
  bool log_journal = false;     // each line also goes to journald

  friend bool operator==(const ServiceSpec&, const ServiceSpec&) = default;
};

// ConfigBadValue names the field and its allowed values.
Result<> validate(const ServiceSpec& spec);
// The form of spec.json (docs/formats/state_dir.md). The environment's values are left out: they
// may be secrets.
wire::Json to_json(const ServiceSpec& spec);
// The signals of its graceful end, at least one.
std::vector<StopStep> stop_steps(const ServiceSpec& spec);

std::string_view to_string(RestartPolicy policy);    // "always" "on-failure" "never"
std::string_view to_string(RestartWhen when);        // "gone" "dying"
std::string_view to_string(CaptureMode mode);        // "live" "ptrace" "core" "none"
std::string_view to_string(LimitAction action);      // "alert" "restart"
std::string_view to_string(CrashLoopAction action);  // "stop" "slow"
std::string_view to_string(NotifyAccess access);     // "all" "main" "exec" "none"
// InvalidArgument lists the allowed words.
Result<RestartPolicy> parse_restart_policy(std::string_view word);
Result<RestartWhen> parse_restart_when(std::string_view word);
Result<CaptureMode> parse_capture_mode(std::string_view word);
Result<LimitAction> parse_limit_action(std::string_view word);
Result<NotifyAccess> parse_notify_access(std::string_view word);
Result<CrashLoopAction> parse_crash_loop_action(std::string_view word);

}  // namespace defib::process
