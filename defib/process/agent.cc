#include "defib/process/agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>

#include "defib/base/assert.h"
#include "defib/os/fd.h"
#include "defib/postmortem/terminate_text.h"
#include "defib/process/agent_core.h"

namespace defib::process {
namespace {

std::uint32_t to_milliseconds(os::Duration deadline) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(deadline).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(ms, 0, std::numeric_limits<std::uint32_t>::max()));
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

bool starts_in_monitoring() {
  const char* value = std::getenv(std::string(kStartModeVariable).c_str());
  const std::string_view mode = value != nullptr ? value : "";
  return !mode.empty() && mode != "normal";
}

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
  return agent ? *agent : Agent();
}

Heartbeat Agent::stage(std::string_view name, os::Duration deadline) {
  if (!attached_) return Heartbeat();
  return Heartbeat(agent_core::claim_stage(name.data(), name.size(), to_milliseconds(deadline)));
}

bool Agent::wait_until_active(os::Duration limit) const {
  const bool endless = limit.count() < 0;
  return agent_core::wait_until_active(
      endless ? -1 : std::chrono::ceil<std::chrono::milliseconds>(limit).count());
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

void Shutdown::request() const {
  on_shutdown_signal(SIGTERM);
}

bool Shutdown::wait_for(os::Duration time) const {
  if (requested()) return true;
  pollfd waiting = {fd_, POLLIN, 0};
  const timespec limit = {time.count() / 1'000'000'000, time.count() % 1'000'000'000};
  ppoll(&waiting, 1, &limit, nullptr);
  return requested();
}

}  // namespace defib::process
