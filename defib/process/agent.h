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

#include <string>
#include <string_view>
#include <utility>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/process/agent_core.h"
#include "defib/process/agent_page.h"
#include "defib/wire/json.h"

namespace defib::process {

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

  // sd_notify; each returns whether the message was delivered. They work under any supervisor that
  // sets NOTIFY_SOCKET. Never blocks for longer than notify::kPatienceMs.
  bool ready();
  bool stopping();
  bool status(std::string_view text);
  // The service's own state as `defib status` shows it: running degraded recovering monitoring
  // ramping awaiting_approval standby.
  bool state(std::string_view state);
  // An event of the open incident: an object with an "event" member. "recovery_closed" ends the
  // incident with its "outcome".
  bool event(const wire::Json& event);
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

 private:
  explicit Shutdown(int fd) : fd_(fd) {}
  int fd_;
};

// A small document that a service keeps over its own restarts: what it was doing, what it must not
// forget. Replaced atomically and synced by save(), mode 0600, checksummed.
class PersistedState {
 public:
  // The directory of the file must exist. Corrupted where the file fails its checksum; nothing is
  // changed then.
  static Result<PersistedState> open(os::Files& files, std::string path);
  // What the last save() stored, of this or an earlier process; null before the first.
  const wire::Json& value() const { return value_; }
  // Whether the process that saved last said that it stopped on purpose.
  bool stopped_cleanly() const { return stopped_cleanly_; }
  Result<> save(wire::Json value, const os::Clock& clock = os::real_clock());
  // The last save() of a graceful shutdown.
  Result<> save_stopped(wire::Json value, const os::Clock& clock = os::real_clock());

 private:
  PersistedState(os::Files& files, std::string path) : files_(&files), path_(std::move(path)) {}
  Result<> write(wire::Json value, bool stopped, const os::Clock& clock);

  os::Files* files_;
  std::string path_;
  wire::Json value_;
  bool stopped_cleanly_ = false;
};

}  // namespace defib::process
