#include "defib/process/agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/fd.h"
#include "defib/os/notify.h"
#include "defib/postmortem/terminate_text.h"
#include "defib/process/agent_core.h"

namespace defib::process {
namespace {

std::uint32_t to_milliseconds(os::Duration deadline) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(deadline).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(ms, 0, std::numeric_limits<std::uint32_t>::max()));
}

bool notify_field(const char* key, std::string_view value) {
  return os::notify::send_field(key, value.data(), value.size());
}

// What the signal handler of Shutdown writes. Plain atomics without destructors.
std::atomic<int> shutdown_signal{0};
std::atomic<int> shutdown_fd{-1};

void on_shutdown_signal(int signal) {
  const int saved_errno = errno;
  shutdown_signal.store(signal, std::memory_order_relaxed);
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(shutdown_fd.load(), &one, sizeof one);
  errno = saved_errno;
}

}  // namespace

Heartbeat::~Heartbeat() {
  agent_core::release_stage(slot_);
}
void Heartbeat::pause() {
  if (slot_ != nullptr) agent_core::rest(*slot_);
}
void Heartbeat::resume() {
  if (slot_ != nullptr) agent_core::resume(*slot_);
}

Result<Agent> Agent::attach(Options options) {
  Agent agent;
  switch (agent_core::attach(options.crash_hook)) {
    case agent_core::Attached::kYes:
      agent.attached_ = true;
      if (options.crash_hook) postmortem::install_terminate_text(&agent_core::page()->crash);
      return agent;
    case agent_core::Attached::kNotSupervised:
      return Error(Code::kAgentUnavailable, "this process was not started by defib");
    case agent_core::Attached::kNotOurs:
      return Error(Code::kAgentUnavailable,
                   "this process is a child of the supervised one, not the supervised one itself")
          .suggest("start the service's main process with `exec`, or ignore this");
    case agent_core::Attached::kVersion:
      return Error(Code::kAgentUnavailable, "the supervisor is of another defib version")
          .suggest("install the same version of defib and of the library that the service links");
    case agent_core::Attached::kSystem:
      return Error(Code::kAgentUnavailable, "the page shared with the supervisor cannot be mapped")
          .because(os::system_error("mmap"));
  }
  DEFIB_UNREACHABLE("an outcome of attach() without a text");
}

Agent Agent::attach_or_idle() {
  auto agent = attach();
  return agent ? std::move(*agent) : Agent();
}

Heartbeat Agent::stage(std::string_view name, os::Duration deadline) {
  if (!attached_) return Heartbeat();
  return Heartbeat(agent_core::claim_stage(name.data(), name.size(), to_milliseconds(deadline)));
}

bool Agent::ready() {
  return notify_field("READY", "1");
}
bool Agent::stopping() {
  return notify_field("STOPPING", "1");
}
bool Agent::status(std::string_view text) {
  return notify_field("STATUS", text);
}
bool Agent::state(std::string_view state) {
  return notify_field("X_DEFIB_STATE", state);
}
bool Agent::event(const wire::Json& event) {
  return notify_field("X_DEFIB_EVENT", event.dump());
}
std::uint64_t Agent::dropped_messages() const {
  return os::notify::drops();
}

Result<Shutdown> Shutdown::watch() {
  static std::mutex mutex;  // guards the installation
  const std::lock_guard lock(mutex);
  if (shutdown_fd.load() >= 0) return Shutdown(shutdown_fd.load());
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return os::system_error("eventfd");
  shutdown_fd.store(fd);
  struct sigaction action = {};
  action.sa_handler = on_shutdown_signal;
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGTERM, SIGINT}) {
    if (sigaction(number, &action, nullptr) != 0) return os::system_error("sigaction");
  }
  return Shutdown(fd);
}

bool Shutdown::requested() const {
  return signal() != 0;
}
int Shutdown::signal() const {
  return shutdown_signal.load(std::memory_order_relaxed);
}

bool Shutdown::wait_for(os::Duration time) const {
  if (requested()) return true;
  pollfd waiting = {fd_, POLLIN, 0};
  const timespec limit = {time.count() / 1'000'000'000, time.count() % 1'000'000'000};
  ppoll(&waiting, 1, &limit, nullptr);
  return requested();
}

// {"schema":"defib.state/1","saved_at","pid","stopped","value":{...},"crc32c":N}, where the
// checksum is over the dump of "value".
Result<PersistedState> PersistedState::open(os::Files& files, std::string path) {
  PersistedState state(files, std::move(path));
  if (!files.exists(state.path_)) return state;
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, state.path_));
  auto document = wire::Json::parse(text);
  if (!document) {
    return Error(Code::kCorrupted, "the persisted state is not JSON")
        .with("path", state.path_)
        .because(std::move(document.error()));
  }
  state.value_ = (*document)["value"];
  if ((*document)["crc32c"].as_int(-1) != crc32c(state.value_.dump())) {
    return Error(Code::kCorrupted, "the persisted state fails its checksum")
        .with("path", state.path_);
  }
  state.stopped_cleanly_ = (*document)["stopped"].as_bool();
  return state;
}

Result<> PersistedState::save(wire::Json value, const os::Clock& clock) {
  return write(std::move(value), false, clock);
}

Result<> PersistedState::save_stopped(wire::Json value, const os::Clock& clock) {
  return write(std::move(value), true, clock);
}

Result<> PersistedState::write(wire::Json value, bool stopped, const os::Clock& clock) {
  const auto checksum = crc32c(value.dump());
  const auto document = wire::Json::object({{"schema", "defib.state/1"},
                                            {"saved_at", os::format_time(clock.wall_ns())},
                                            {"pid", getpid()},
                                            {"stopped", stopped},
                                            {"value", value},
                                            {"crc32c", checksum}});
  DEFIB_TRY(os::write_file_atomically(*files_, path_, document.dump(2) + "\n"));
  value_ = std::move(value);
  stopped_cleanly_ = stopped;
  return {};
}

}  // namespace defib::process
