// Supervisor: keeps services alive, on one event loop.
//
// Each service has a shim (apps/defib-shim), which is its parent; the supervisor talks to the shims
// and holds nothing that it cannot rebuild from them and from the state directory. So:
//   - kill -9 of the supervisor leaves shim and service running; the next one adopts them in add().
//   - kill -9 of a shim leaves the service running; the supervisor starts another that adopts it.
//   - a restart after a crash waits for nobody: the shim holds a ticket, the permission for the
//   next
//     start, which was made durable in the restart budget in advance.
//
// Invariants: never two processes of one service; an exit status is true or "unknown", never
// invented; no disk sync lies between a death and the start of its replacement.
// Thread rule: everything on the loop's thread; callbacks come there too.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/process/heartbeat.h"
#include "defib/process/launch_report.h"
#include "defib/process/run_output.h"
#include "defib/process/sampler.h"
#include "defib/process/service_spec.h"
#include "defib/process/service_state.h"
#include "defib/process/state_dir.h"
#include "defib/recovery/decision.h"
#include "defib/recovery/probe.h"

namespace defib::process {

// Why a process was ended by the supervisor, or that it was not.
using shim::StopReason;

struct StartInfo {
  std::string service;
  std::uint64_t generation = 0;  // counts the starts in this state directory, from 1
  pid_t pid = 0;
  std::int64_t mono_ns = 0;  // the program was executed
  std::int64_t wall_ns = 0;
  bool automatic = false;   // a restart, not a start by request
  bool by_ticket = false;   // the shim did it by itself
  std::uint64_t epoch = 0;  // of an active one: grows with every activation
};

// A process begins to die; exited() follows when the kernel has torn it down.
struct DyingReport {
  std::string service;
  std::uint64_t generation = 0;
  pid_t pid = 0;
  shim::DyingSign sign = shim::DyingSign::kLifeLock;
  std::int64_t noticed_mono_ns = 0;
};

// The standby took the place of the active process.
struct PromotionReport {
  std::string service;
  std::uint64_t generation = 0;  // of the one that is active now
  std::uint64_t old_generation = 0;
  pid_t pid = 0;
  std::uint64_t epoch = 0;
  std::int64_t mono_ns = 0;
  std::int64_t wall_ns = 0;
  bool before_end = false;  // the one before was fenced, and not gone yet
  bool ready = false;       // it had said READY=1
};

struct ExitReport {
  std::string service;
  std::uint64_t generation = 0;
  pid_t pid = 0;
  os::ExitStatus status;  // `known` false: nobody could know
  shim::StatusSource source = shim::StatusSource::kUnknown;
  StopReason reason = StopReason::kNone;
  std::int64_t noticed_mono_ns = 0;  // the shim woke up
  std::int64_t reaped_mono_ns = 0;   // the status was known
  std::int64_t noticed_wall_ns = 0;
  std::int64_t crashed_mono_ns = 0;  // by the crash handler; 0: none spoke
  std::int64_t cpu_ns = 0;
  std::int64_t cpu_limit_ns = 0;  // RLIMIT_CPU's hard limit, of one that SIGKILL ended; 0: none
  std::uint64_t max_rss_bytes = 0;
  std::uint32_t oom_kills = 0;  // of its processes, by the kernel, for memory_limit
  std::uint64_t memory_limit_bytes = 0;
  std::string capture_path;  // of the report that captured() will announce; empty: none
  bool restarts = false;     // a replacement follows (or is running already)
  os::Duration restart_delay{0};
  std::string reported_error;  // ERRNO=, BUSERROR=, VARLINKERROR=; empty: none
  std::optional<std::int64_t> reported_exit_status;  // EXIT_STATUS=
  bool while_away = false;                           // it happened before this supervisor was there
  bool clean = false;                                // the spec counts the status as success
  std::string fingerprint;  // what tells this crash from others; empty: not a crash of its own
  int equal_crashes = 0;    // so many in a row have it
};

struct CaptureReport {
  std::string service;
  std::uint64_t generation = 0;
  std::string path;  // written by defib-capture; may be missing when !ok
  bool ok = false;
  bool partial = false;  // not ok, and the report tells what could still be learnt
  std::optional<Error> error;
  std::string fingerprint;  // as known by now
  int equal_crashes = 0;
  std::int64_t crashed_mono_ns = 0;   // 0: of a hang, or not known
  std::int64_t released_mono_ns = 0;  // it was copied and let go; 0: it was not
};

struct HangReport {
  std::string service;
  std::uint64_t generation = 0;
  pid_t pid = 0;
  std::string stage;  // the heartbeat's name; "sd_notify" for WATCHDOG=1
  os::Duration silent_for{0};
  os::Duration deadline{0};
  bool kills = false;        // snapshot and replacement follow; else an alert only
  std::string capture_path;  // of the report that captured() will announce; empty: none
  // "deadlock", "busy_loop", "stopped", "thread_ended", "asleep", "triggered" (WATCHDOG=trigger);
  // empty where it is no hang.
  std::string kind;
  // Why it is one, or why not: the rule, its numbers, what would flip it, and the evidence.
  recovery::Decision decision;
};

// "kept_from_running: it could use 3 ms of 210 ms ...", of the rule that decided; where all allow,
// of the one that measures the silence.
std::string explain_briefly(const recovery::Decision& decision);

struct LimitReport {
  std::string service;
  std::uint64_t generation = 0;
  pid_t pid = 0;
  std::string what;  // "memory", "cpu", "descriptors" or "threads"
  double value = 0;  // bytes, percent of all allowed processors, or a count
  double limit = 0;
  // How the value is known: "cgroup", "pss" or "rss" for memory, "proc" for the others.
  std::string source;
  int processes = 0;     // of the service, at that time
  os::Duration over{0};  // the window of "cpu"
  int processors = 0;    // allowed to the service, for "cpu"
  bool kills = false;
};

// The kernel killed processes of a service for its memory_limit, and the service lives.
struct OomReport {
  std::string service;
  std::uint64_t generation = 0;
  std::uint32_t kills = 0;  // since its start
  std::uint64_t limit_bytes = 0;
  std::int64_t noticed_mono_ns = 0;
};

struct NotifyEvent {
  std::string service;
  std::uint64_t generation = 0;
  pid_t pid = 0;    // the sender
  std::string key;  // "READY", "STATUS", "X_DEFIB_EVENT", ...
  std::string value;
};

// What the supervisor tells. Every function may call back into the Supervisor, except to destroy
// it. An exit is acknowledged to the shim when exited() returns: after a crash inside of it the
// next supervisor hears of the exit again.
class SupervisorObserver {
 public:
  virtual ~SupervisorObserver() = default;
  virtual void started(const StartInfo&) {}
  virtual void start_failed(const std::string& /*service*/, const Error&) {}
  virtual void ready(const std::string& /*service*/) {}
  // The crash handler rang: the process is about to die, and is being captured.
  virtual void crash_flagged(const std::string& /*service*/, std::uint64_t /*generation*/,
                             int /*signal*/, std::int64_t /*crashed_mono_ns*/) {}
  virtual void dying(const DyingReport&) {}
  virtual void exited(const ExitReport&) {}
  // Of the process that waits beside the active one. promoted() comes instead of started().
  virtual void standby_started(const StartInfo&) {}
  virtual void standby_exited(const ExitReport&) {}
  // The service has no standby that is ready, against its configuration: it died, could not be
  // started, or was not ready in time. Another one is started; the active process goes on.
  virtual void standby_lost(const std::string& /*service*/, const Error&) {}
  virtual void promoted(const PromotionReport&) {}
  // The report of a crash or of a hang has been written (or could not be).
  virtual void captured(const CaptureReport&) {}
  virtual void hung(const HangReport&) {}
  // A stage is silent for twice its deadline and more, and is no hang so far: it was kept from
  // running, say. Once a silence; nothing is done about it.
  virtual void heartbeat_held(const HangReport&) {}
  virtual void limit_exceeded(const LimitReport&) {}
  // The use is below the limit again (and was told only).
  virtual void limit_cleared(const LimitReport&) {}
  // The kernel has killed processes of the service's memory cgroup: so many since it started.
  virtual void out_of_memory(const std::string& /*service*/, std::uint64_t /*kills*/) {}
  virtual void state_changed(const std::string& /*service*/, ServiceState /*from*/,
                             ServiceState /*to*/) {}
  virtual void notified(const NotifyEvent&) {}
  // Output bytes of a service whose log feed is on; best effort, `lost` counts what was dropped.
  virtual void log(const std::string& /*service*/, int /*stream*/, std::string_view /*bytes*/,
                   std::uint64_t /*lost*/) {}
  virtual void hook_finished(const HookReport&) {}
  virtual void oom_killed(const OomReport&) {}
  // What the service has to do without, and why; each once. Where it is not asked for by the spec
  // (a control group of its own), it is worth knowing only.
  virtual void warned(const std::string& /*service*/, const Error&, bool /*asked_for*/) {}
  // It is not started again before a human says so: CrashLoop says by which rule.
  virtual void crash_loop(const std::string& /*service*/, const Error&) {}
  // It fails too often, and is tried again slowly: after `delay`.
  virtual void slow_lane(const std::string& /*service*/, const Error&, os::Duration /*delay*/) {}
  // The service goes on, but something about its supervision does not: a full disk, a damaged file.
  virtual void trouble(const std::string& /*service*/, const Error&) {}
  // The service was found running and taken over (`generation` as before).
  virtual void adopted(const std::string& /*service*/, pid_t, std::uint64_t /*generation*/) {}
  // The shim died and another one has taken over; the service went on.
  virtual void shim_replaced(const std::string& /*service*/, pid_t /*old_shim*/,
                             pid_t /*new_shim*/) {}
};

// What `defib status --json` needs.
struct ServiceStatus {
  std::string name;
  ServiceState state = ServiceState::kStopped;
  pid_t pid = 0;  // 0: not running
  pid_t shim_pid = 0;
  std::uint64_t generation = 0;
  std::int64_t started_wall_ns = 0;  // 0: not running
  std::int64_t started_mono_ns = 0;
  os::Duration uptime{0};
  std::uint64_t restart_count = 0;  // automatic ones since the last start by request
  int restarts_in_window = 0;       // of the budget
  int max_restarts = 0;
  std::string fingerprint;   // of the last crash; empty: none is known
  int equal_crashes = 0;     // in a row
  os::Duration downtime{0};  // in the window
  // It was found stopped: on request, or after an end that nothing follows. Its shim knows.
  bool ended_before = false;
  bool restart_ready = false;  // the shim holds a ticket: a restart needs nobody
  bool ready = false;
  std::uint64_t epoch = 0;
  pid_t standby_pid = 0;  // 0: none runs
  std::uint64_t standby_generation = 0;
  bool standby_ready = false;
  std::optional<Error> standby_error;  // why the last one was lost; none since one is ready
  std::string status_text;             // the last STATUS=
  bool reloading = false;              // RELOADING=1, and no READY=1 since
  std::string reported_error;          // why the service says that it fails; empty: it does not
  std::optional<std::int64_t> reported_exit_status;
  std::uint64_t unknown_notifications = 0;  // fields that mean nothing here, or were malformed
  std::optional<Error> last_error;
  std::uint64_t memory_bytes = 0;  // of the last sample
  std::string memory_source;       // as LimitReport's
  double cpu_percent = 0;          // of one processor
  int processes = 0;
  int threads = 0;
  // Why it is in this state, and what happens next by itself, and when (0: at no fixed time).
  std::string reason;
  std::string next_action;  // "start", "kill", "give_up_waiting", "reset"; empty: nothing
  std::int64_t next_action_mono_ns = 0;
  HeartbeatState heartbeat = HeartbeatState::kNone;
  std::optional<os::Duration> heartbeat_age;  // of the stage nearest to its deadline
  std::string heartbeat_stage;                // that stage's name
  // "attached", "preloaded" (not attached yet), "off", or "not covered: " and why.
  std::string agent;
  std::int64_t next_start_mono_ns = 0;  // while backing off
  bool slow_lane = false;               // backing off because it failed too often
  std::optional<ExitReport> last_exit;
  std::uint64_t log_bytes_dropped = 0;    // all that did not reach the log,
  std::uint64_t log_dropped_by_rate = 0;  // and the part of it beyond log_rate
  std::uint64_t journal_sent = 0;         // lines that journald took,
  std::uint64_t journal_dropped = 0;      // and that it did not
  std::uint64_t events_dropped = 0;
};
// Fills in the four numbers about the log, by what the shim leaves beside it.
void add_log_counters(const std::string& service_dir, ServiceStatus& status);

class Supervisor {
 public:
  struct Options {
    std::string state_dir;
    // Where defib-shim, defib-capture and libdefib-agent.so lie; empty: beside this program (and
    // ../lib for the library).
    std::string program_dir;
    os::Files* files = nullptr;  // nullptr: the kernel's
  };

  // Opens the state directory (StateDirectoryForeign) and makes this process a subreaper.
  static Result<std::unique_ptr<Supervisor>> create(os::EventLoop& loop, Options options,
                                                    SupervisorObserver& observer);
  // Leaves shims and services running.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Takes the name's lock (AlreadySupervised) and adopts the service if it runs already; else it is
  // stopped until start(). Blocks for some milliseconds.
  Result<> add(ServiceSpec spec);
  // Before many add()s: the shims of all these services are asked together, so that none is waited
  // for by itself. What cannot be had is told by its add().
  void begin(const std::vector<ServiceSpec>& specs);
  // Changes the spec: what concerns a process takes effect with its next start.
  Result<> update(ServiceSpec spec);
  // Forgets a service that does not run, and ends its shim. AlreadyExists where it runs.
  Result<> remove(const std::string& name);

  // Returns at once; the outcome comes by the observer. No effect where it runs already.
  Result<> start(const std::string& name);
  Result<> stop(const std::string& name);
  Result<> restart(const std::string& name);
  // Ends a failure: forgets the restart budget's events, and starts the service.
  Result<> reset(const std::string& name);
  Result<> signal(const std::string& name, int signal);

  // The result of all health checks of the caller's together: unhealthy is degraded, and replaced
  // where `action` or else the spec says so.
  Result<> report_health(const std::string& name, recovery::Health health,
                         const std::string& detail,
                         std::optional<LimitAction> action = std::nullopt);
  // The caller's probe that ServiceSpec::ready_probe names has passed.
  Result<> report_ready(const std::string& name);
  // Ends the service gracefully for a reason that calls for a replacement; `why` is told.
  Result<> replace(const std::string& name, StopReason reason, Error why);

  // From now on the service's output also goes to these descriptors, in order and without loss,
  // until this supervisor dies. -1, -1 ends it.
  Result<> pass_through(const std::string& name, int stdout_fd, int stderr_fd);
  // Switches SupervisorObserver::log() on or off.
  Result<> feed_log(const std::string& name, bool on);
  // The end of what the service wrote in that time.
  RunOutput run_output(const std::string& name, const RunWindow& window) const;

  std::vector<ServiceStatus> status() const;
  // Reads nothing: memory that no sample told is 0, and so is what the log's files tell.
  std::vector<ServiceStatus> known_status() const;
  Result<ServiceStatus> known_status(const std::string& name) const;
  Result<ServiceStatus> status(const std::string& name) const;
  const StateDir& state_dir() const;
  // The one timer for everything that is sampled.
  Sampler& sampler();

  // Before exec_upgraded() (guardian.h): the names stay locked for the program that follows.
  void keep_locks_for_upgrade() const;

  // Stops every service (gracefully, then not), ends the shims, and calls `done`.
  void shutdown(std::function<void()> done);

 private:
  struct Core;
  explicit Supervisor(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace defib::process
