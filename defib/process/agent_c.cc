// The C face over agent_core. Also compiled into libdefib-agent.so: no C++ runtime.

#include "defib/process/agent_c.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "defib/os/notify.h"
#include "defib/process/agent_core.h"

namespace {

using defib::process::HeartbeatStage;
namespace agent_core = defib::process::agent_core;
namespace notify = defib::os::notify;

static_assert(offsetof(HeartbeatStage, beats) == 0);
static_assert(sizeof(HeartbeatStage::beats) == sizeof(defib_stage::beats));
static_assert(offsetof(HeartbeatStage, beat_mono_ns) == offsetof(defib_stage, beat_mono_ns));

HeartbeatStage* to_slot(defib_stage* stage) {
  return reinterpret_cast<HeartbeatStage*>(stage);
}

int send(const char* key, const char* value) {
  return value != nullptr && notify::send_field(key, value, strlen(value)) ? 1 : 0;
}

int send_number(const char* key, long value) {
  char text[24];
  snprintf(text, sizeof text, "%ld", value);
  return send(key, text);
}

int send_usec(const char* key, uint64_t usec) {
  char text[24];
  snprintf(text, sizeof text, "%" PRIu64, usec);
  return send(key, text);
}

}  // namespace

#define DEFIB_EXPORT extern "C" __attribute__((visibility("default")))

DEFIB_EXPORT int defib_attach(void) {
  return agent_core::attach(true) == agent_core::Attached::kYes ? 1 : 0;
}

DEFIB_EXPORT defib_stage* defib_stage_claim(const char* name, uint32_t deadline_ms) {
  const char* text = name != nullptr ? name : "";
  return reinterpret_cast<defib_stage*>(agent_core::claim_stage(text, strlen(text), deadline_ms));
}

DEFIB_EXPORT void defib_stage_release(defib_stage* stage) {
  agent_core::release_stage(to_slot(stage));
}

DEFIB_EXPORT void defib_stage_armed(void) {
  agent_core::ring();
}

DEFIB_EXPORT void defib_stage_beat(defib_stage* stage) {
  defib_beat(stage);
}

DEFIB_EXPORT void defib_stage_beat_stamped(defib_stage* stage) {
  defib_beat_stamped(stage);
}

DEFIB_EXPORT void defib_stage_first_beat(defib_stage* stage, int stamped) {
  if (stage != nullptr) agent_core::first_beat(*to_slot(stage), stamped != 0);
}

DEFIB_EXPORT void defib_stage_pause(defib_stage* stage) {
  if (stage != nullptr) agent_core::rest(*to_slot(stage));
}

DEFIB_EXPORT void defib_stage_resume(defib_stage* stage) {
  if (stage != nullptr) agent_core::resume(*to_slot(stage));
}

DEFIB_EXPORT int defib_ready(void) {
  agent_core::note_ready();
  return send("READY", "1");
}
DEFIB_EXPORT int defib_stopping(void) {
  return send("STOPPING", "1");
}
DEFIB_EXPORT int defib_status(const char* text) {
  return send("STATUS", text);
}
DEFIB_EXPORT int defib_reloading(void) {
  return notify::send_reloading() ? 1 : 0;
}
DEFIB_EXPORT int defib_error_number(int number) {
  return send_number("ERRNO", number);
}
DEFIB_EXPORT int defib_bus_error(const char* name) {
  return send("BUSERROR", name);
}
DEFIB_EXPORT int defib_varlink_error(const char* name) {
  return send("VARLINKERROR", name);
}
DEFIB_EXPORT int defib_exit_status(int status) {
  return send_number("EXIT_STATUS", status);
}
DEFIB_EXPORT int defib_main_pid(int pid) {
  return notify::send_main_pid(pid) ? 1 : 0;
}
DEFIB_EXPORT int defib_watchdog(void) {
  return send("WATCHDOG", "1");
}
DEFIB_EXPORT int defib_watchdog_trigger(void) {
  return send("WATCHDOG", "trigger");
}
DEFIB_EXPORT int defib_watchdog_deadline(uint64_t usec) {
  return send_usec("WATCHDOG_USEC", usec);
}
DEFIB_EXPORT uint64_t defib_watchdog_usec(void) {
  return notify::watchdog_usec();
}
DEFIB_EXPORT int defib_extend_timeout(uint64_t usec) {
  return send_usec("EXTEND_TIMEOUT_USEC", usec);
}
DEFIB_EXPORT int defib_notify_access(const char* who) {
  return send("NOTIFYACCESS", who);
}
DEFIB_EXPORT int defib_restart_reset(void) {
  return send("RESTART_RESET", "1");
}
DEFIB_EXPORT int defib_barrier(int timeout_ms) {
  return notify::barrier(timeout_ms) ? 1 : 0;
}
DEFIB_EXPORT int defib_store_fd(const char* name, int fd, int poll) {
  return name != nullptr && notify::store_fd(name, strlen(name), fd, poll != 0) ? 1 : 0;
}
DEFIB_EXPORT int defib_remove_stored_fd(const char* name) {
  return name != nullptr && notify::remove_stored_fd(name, strlen(name)) ? 1 : 0;
}
DEFIB_EXPORT int defib_state(const char* state) {
  if (state != nullptr) agent_core::note_state(state, strlen(state));
  return send("X_DEFIB_STATE", state);
}
DEFIB_EXPORT int defib_event(const char* json) {
  return send("X_DEFIB_EVENT", json);
}
DEFIB_EXPORT int defib_active(void) {
  return agent_core::is_active() ? 1 : 0;
}
DEFIB_EXPORT int defib_wait_active(int64_t timeout_ms) {
  return agent_core::wait_until_active(timeout_ms) ? 1 : 0;
}
DEFIB_EXPORT uint64_t defib_epoch(void) {
  return agent_core::epoch();
}

DEFIB_EXPORT uint64_t defib_notify_drops(void) {
  return notify::drops();
}
