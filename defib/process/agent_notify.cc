// The agent's messages to the supervisor: sd_notify(3), whole, and defib's own two.

#include <fmt/core.h>
#include <unistd.h>

#include "defib/os/notify.h"
#include "defib/process/agent.h"
#include "defib/process/agent_core.h"

namespace defib::process {
namespace {

namespace notify = os::notify;

bool send_field(const char* key, std::string_view value) {
  return notify::send_field(key, value.data(), value.size());
}

std::string microseconds(os::Duration time) {
  return std::to_string(
      std::max<std::int64_t>(std::chrono::ceil<std::chrono::microseconds>(time).count(), 0));
}

}  // namespace

bool Agent::ready() {
  agent_core::note_ready();
  return send_field("READY", "1");
}
bool Agent::reloading() {
  return notify::send_reloading();
}
bool Agent::stopping() {
  return send_field("STOPPING", "1");
}
bool Agent::status(std::string_view text) {
  return send_field("STATUS", text);
}
bool Agent::error_number(int number) {
  return send_field("ERRNO", std::to_string(number));
}
bool Agent::bus_error(std::string_view name) {
  return send_field("BUSERROR", name);
}
bool Agent::varlink_error(std::string_view name) {
  return send_field("VARLINKERROR", name);
}
bool Agent::exit_status(int status) {
  return send_field("EXIT_STATUS", std::to_string(status));
}
bool Agent::main_pid(int pid) {
  return notify::send_main_pid(pid);
}
bool Agent::watchdog() {
  return send_field("WATCHDOG", "1");
}
bool Agent::watchdog_trigger() {
  return send_field("WATCHDOG", "trigger");
}
bool Agent::watchdog_deadline(os::Duration deadline) {
  return send_field("WATCHDOG_USEC", microseconds(deadline));
}
os::Duration Agent::watchdog_interval() const {
  return std::chrono::microseconds(notify::watchdog_usec());
}
bool Agent::extend_timeout(os::Duration time) {
  return send_field("EXTEND_TIMEOUT_USEC", microseconds(time));
}
bool Agent::notify_access(std::string_view who) {
  return send_field("NOTIFYACCESS", who);
}
bool Agent::restart_reset() {
  return send_field("RESTART_RESET", "1");
}
bool Agent::barrier(os::Duration time) {
  return notify::barrier(std::chrono::ceil<std::chrono::milliseconds>(time).count());
}
bool Agent::store_fd(std::string_view name, int fd, bool poll) {
  return notify::store_fd(name.data(), name.size(), fd, poll);
}
bool Agent::remove_stored_fd(std::string_view name) {
  return notify::remove_stored_fd(name.data(), name.size());
}
bool Agent::state(std::string_view state) {
  agent_core::note_state(state.data(), state.size());
  return send_field("X_DEFIB_STATE", state);
}
bool Agent::event(const wire::Json& event, os::Duration patience) {
  const std::string text = event.dump();
  const auto patience_ms = std::chrono::ceil<std::chrono::milliseconds>(patience).count();
  return notify::send_field("X_DEFIB_EVENT", text.data(), text.size(),
                            static_cast<int>(patience_ms));
}
std::uint64_t Agent::dropped_messages() const {
  return notify::drops();
}

}  // namespace defib::process
