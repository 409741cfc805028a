// AgentPage: the memory that a supervised process shares with its shim and its supervisor.
//
// A memfd of kAgentPageSize bytes, made by the shim for each start, inherited by the service as
// descriptor DEFIB_AGENT_FD (environment), sealed against shrinking and growing. The supervisor
// maps it read-only (through the descriptor that the shim passes, or /proc/PID/fd of the service),
// so it survives the death of any of the three.
//
//   offset  size  field
//   0       64    header: magic, version, sizes, event descriptor
//   64      ...   stages: kMaxStages heartbeat slots of 64 bytes
//   4096    1024  CrashPage
//
// Thread rule: every field has one writer, named here. Readers trust nothing: the service may be
// corrupted.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "defib/postmortem/crash_page.h"

namespace defib::process {

inline constexpr std::uint64_t kAgentPageMagic = 0x3145474150464544;  // "DEFPAGE1"
inline constexpr std::uint32_t kAgentPageVersion = 1;
inline constexpr std::size_t kAgentPageSize = 8192;
inline constexpr std::size_t kMaxStages = 62;

// Whose a slot is. Only kWatched slots have a deadline; the service alone changes it.
enum class StageUse : std::uint32_t {
  kFree = 0,
  kWatched = 1,
  kClaiming = 2,  // its name and deadline are being written
  kPaused = 3,    // claimed, and at rest on purpose
};

// One heartbeat. beats grows by one a beat (the service, relaxed); a stage is armed by its first
// beat, and hung when beats stands still for deadline_ms.
struct alignas(64) HeartbeatStage {
  std::atomic<std::uint64_t> beats;
  std::atomic<std::uint32_t> deadline_ms;  // 0: the supervisor's default
  std::atomic<std::uint32_t> in_use;       // a StageUse
  char name[40];                           // NUL-terminated
};

struct AgentPage {
  std::uint64_t magic;    // written by the shim
  std::uint32_t version;  // written by the shim
  std::int32_t event_fd;  // in the service: 8 bytes written to it wake the shim; -1: none
  std::atomic<std::int32_t> agent_pid;  // written by the agent when it attached; 0 before
  std::atomic<std::uint32_t> image_id;  // written by the agent: which exec'd image attached
  std::uint32_t reserved[10];
  HeartbeatStage stages[kMaxStages];
  alignas(4096) postmortem::CrashPage crash;
};
static_assert(offsetof(AgentPage, stages) == 64);
static_assert(offsetof(AgentPage, crash) == 4096);
static_assert(sizeof(AgentPage) <= kAgentPageSize);

}  // namespace defib::process
