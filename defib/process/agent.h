// Agent: the service's side of supervision. Heartbeats in shared memory, the crash hook, readiness
// and events by sd_notify, and a few things that a recoverable service always needs.
//
//   auto agent = process::Agent::attach_or_idle();
//   auto loop = agent.stage("loop", 200ms);
//   auto shutdown = process::Shutdown::watch();
//   agent.ready();
//   while (!shutdown->requested()) { loop.beat(); ... }
//
// A service that does not run under defib works the same: every call is then a cheap no-op.
// Thread rule: Agent from any thread; a Heartbeat is beaten by one thread at a time.

#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/notify.h"
#include "defib/process/agent_core.h"
#include "defib/process/agent_page.h"
#include "defib/process/persisted_state.h"
#include "defib/wire/json.h"

namespace defib::process {

// What a start that should do nothing outside finds in its environment, with the value "monitoring"
// (`start_in`, `monitoring_after`).
inline constexpr std::string_view kStartModeVariable = "DEFIB_START_MODE";
// Whether this start is such a one. A value that is neither empty nor "normal" says so too: who
// cannot tell what was meant does the safe thing.
bool starts_in_monitoring();

// One watched activity: a loop, a thread, a stage of a pipeline. Armed by its first beat; hung when
// it is then not beaten within its deadline. Destroying it ends the watch.
class Heartbeat {
 public:
  Heartbeat() = default;  // beats into nowhere
  explicit Heartbeat(HeartbeatStage* slot) : slot_(slot) {}
  Heartbeat(Heartbeat&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
  Heartbeat& operator=(Heartbeat&& other) noexcept {
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~Heartbeat();

  // Counts: about a nanosecond, no system call. Its silence is told within a quarter of the
  // deadline.
  void beat() {
    if (slot_ != nullptr) agent_core::beat(*slot_);
  }
  // Leaves the time too: some 20 ns, no system call. Its silence is told within a millisecond of
  // the deadline. For deadlines under a second.
  void beat_stamped() {
    if (slot_ != nullptr) agent_core::beat_stamped(*slot_);
  }
  // At rest on purpose (waiting for work without a bound): no deadline until resume(), which beats.
  void pause();
  void resume();
  bool watched() const { return slot_ != nullptr; }

 private:
  HeartbeatStage* slot_ = nullptr;
};

class Agent {
 public:
  struct Options {
    // Handle fatal signals that still have their default action: leave the crash's facts in the
    // shared page, let the capture helper copy the process, then die as before.
    bool crash_hook = true;
  };
  Agent() = default;  // idle: every call is a no-op
  // AgentUnavailable where this process does not run under defib.
  static Result<Agent> attach(Options options);
  static Result<Agent> attach() { return attach(Options()); }
  // An idle agent where this process does not run under defib.
  static Agent attach_or_idle();
  bool attached() const { return attached_; }

  // A stage that does nothing where the agent is idle or all kMaxStages slots are taken.
  // `deadline` is rounded up to milliseconds, 5 ms at the least; zero: the supervisor's
  // --heartbeat-timeout.
  Heartbeat stage(std::string_view name, os::Duration deadline = os::Duration{0});

  // sd_notify(3); each returns whether the message was delivered. They work under any supervisor
  // that sets NOTIFY_SOCKET. Never blocks for longer than notify::kPatienceMs.
  bool ready();
  // Reading the configuration again; the end is told by ready().
  bool reloading();
  bool stopping();
  bool status(std::string_view text);
  // Why the service fails: an errno value; a D-Bus or Varlink style name.
  bool error_number(int number);
  bool bus_error(std::string_view name);
  bool varlink_error(std::string_view name);
  // The exit status of what the service stands for (a container, a virtual machine).
  bool exit_status(int status);
  // Another process, started by this one, is the service from now on. Its pidfd's inode goes along
  // where the kernel has such numbers, so that no reused pid is believed.
  bool main_pid(int pid);
  // A beat, for services that beat by messages (watchdog_interval()).
  bool watchdog();
  // Asks to be treated as hung, now.
  bool watchdog_trigger();
  bool watchdog_deadline(os::Duration deadline);
  // Zero where this process need not beat by messages, as sd_watchdog_enabled(3).
  os::Duration watchdog_interval() const;
  // The deadline of what goes on now (start, reload, stop) is at least so far from now.
  bool extend_timeout(os::Duration time);
  // Whose messages are believed from now on: "main" "exec" "all" "none".
  bool notify_access(std::string_view who);
  // The restart delays begin anew.
  bool restart_reset();
  // Waits until the supervisor has taken every message sent before; false at the end of the time.
  bool barrier(os::Duration time);
  // The supervisor keeps a duplicate of the descriptor over a restart (LISTEN_FDS, LISTEN_FDNAMES);
  // `poll` false: also when its other end has hung up. NAME: printable, without ':', at most 255.
  bool store_fd(std::string_view name, int fd, bool poll = true);
  bool remove_stored_fd(std::string_view name);

  // The service's own state as `defib status` shows it: running degraded recovering monitoring
  // ramping awaiting_approval standby.
  bool state(std::string_view state);
  // An event of the open incident: an object with an "event" member. "recovery_closed" ends the
  // incident with its "outcome". It is evidence: off the order path it may wait longer for a
  // supervisor that is behind.
  bool event(const wire::Json& event,
             os::Duration patience = std::chrono::milliseconds(os::notify::kPatienceMs));
  // Whether this process may act on the outside world: not a standby (spec.standby) that waits.
  bool active() const { return agent_core::is_active(); }
  // For a standby, once it is initialised: returns when it is promoted, at once where it is active.
  // False when `limit` has passed (negative: there is none), and in a standby's forked child.
  bool wait_until_active(os::Duration limit = os::Duration{-1}) const;
  // Grows with every activation of the service: a token by which the outside world can refuse what
  // an earlier active process sent. 0 while this process is not active, and without defib.
  std::uint64_t epoch() const { return agent_core::epoch(); }
  // Messages that were meant to be sent and were not.
  std::uint64_t dropped_messages() const;

 private:
  bool attached_ = false;
};

// SIGTERM and SIGINT as a request that the service's loop looks at. One for the whole process.
class Shutdown {
 public:
  // Installs the handlers. The same Shutdown answers to later calls.
  static Result<Shutdown> watch();
  bool requested() const;
  // The signal that asked for it, or 0.
  int signal() const;
  // Readable once the shutdown is requested, for an event loop.
  int fd() const { return fd_; }
  // True when the shutdown was requested within the time.
  bool wait_for(os::Duration time) const;
  // As if SIGTERM had come.
  void request() const;

 private:
  explicit Shutdown(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace defib::process
