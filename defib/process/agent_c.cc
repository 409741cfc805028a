// The C face over agent_core. Also compiled into libdefib-agent.so: no C++ runtime.

#include "defib/process/agent_c.h"

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
  return send("READY", "1");
}
DEFIB_EXPORT int defib_stopping(void) {
  return send("STOPPING", "1");
}
DEFIB_EXPORT int defib_status(const char* text) {
  return send("STATUS", text);
}
DEFIB_EXPORT int defib_state(const char* state) {
  return send("X_DEFIB_STATE", state);
}
DEFIB_EXPORT int defib_event(const char* json) {
  return send("X_DEFIB_EVENT", json);
}
DEFIB_EXPORT uint64_t defib_notify_drops(void) {
  return notify::drops();
}
