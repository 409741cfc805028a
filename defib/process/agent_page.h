// AgentPage: the memory that a supervised process shares with its shim and its supervisor.
//
// A memfd of kAgentPageSize bytes, made by the shim for each start, inherited by the service as
// descriptor DEFIB_AGENT_FD (environment), sealed against shrinking and growing. The supervisor
// maps it read-only (through the descriptor that the shim passes, or /proc/PID/fd of the service),
// so it survives the death of any of the three.
//
//   offset  size  field
//   0       64    header: magic, version, event descriptor, role and epoch
//   64      64    life: the robust lock that tells of the process's death
//   128     3968  stages: kMaxStages heartbeat slots of 64 bytes
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
inline constexpr std::uint32_t kAgentPageVersion = 2;
inline constexpr std::size_t kAgentPageSize = 8192;
inline constexpr std::size_t kMaxStages = 62;

// Whose a slot is. Only kWatched slots have a deadline; the service alone changes it.
enum class StageUse : std::uint32_t {
  kFree = 0,
  kWatched = 1,
  kClaiming = 2,  // its name and deadline are being written
  kPaused = 3,    // claimed, and at rest on purpose
};

// HeartbeatStage.flags. The stage is beaten by the program's own waiting calls (the preloaded agent
// did it): asleep elsewhere its thread is at rest, not hung.
inline constexpr std::uint32_t kStageFromWaits = 1;

// One heartbeat. beats grows by one a beat (the service, relaxed); a stage is armed by its first
// beat, and hung when it then does not beat for deadline_ms. A time-stamped beat also leaves when
// it was, so that the deadline can be held to the millisecond; a counting one is cheaper, and
// clears the stamp, so that a stage may change between the two.
struct alignas(64) HeartbeatStage {
  std::atomic<std::uint64_t> beats;
  std::atomic<std::int64_t> beat_mono_ns;  // CLOCK_MONOTONIC of the last stamped beat; 0: counting
  std::atomic<std::uint32_t> deadline_ms;  // 0: the supervisor's default
  std::atomic<std::uint32_t> in_use;       // a StageUse
  std::atomic<std::int32_t> tid;           // the thread that beats; 0: not known
  std::uint32_t flags;                     // kStageFromWaits
  char name[32];                           // NUL-terminated
};

// Whether the process may act on the outside world. Written by the shim, a futex for the service.
enum class Role : std::uint32_t {
  kActive = 0,
  kStandby = 1,  // initialised, and waiting to be made active
};

struct AgentPage {
  std::uint64_t magic;    // written by the shim
  std::uint32_t version;  // written by the shim
  std::int32_t event_fd;  // in the service: 8 bytes written to it wake the shim; -1: none
  std::atomic<std::int32_t> agent_pid;  // written by the agent when it attached; 0 before
  std::atomic<std::uint32_t> image_id;  // written by the agent: which exec'd image attached
  std::atomic<std::uint32_t> role;      // a Role; written by the shim
  std::atomic<std::int32_t> life_tid;   // written by the agent: the thread that holds life; 0: none
  std::atomic<std::uint64_t> epoch;     // written by the shim before role becomes kActive
  // Written by the shim when SIGKILL has ended the process: the hard limit of its processor time
  // (RLIMIT_CPU), at which the kernel sends that; 0: none, or not known.
  std::uint32_t cpu_limit_seconds;
  // Written by the agent before it sends them: what was said while there was no shim is not lost
  // with the datagram.
  char state_word[18];      // the last X_DEFIB_STATE, NUL-terminated
  std::uint8_t said_ready;  // 1: READY=1 was said
  std::uint8_t reserved[1];
  // A robust, process-shared pthread_mutex_t (its first word is the futex), held by the main thread
  // from attach to its end. The kernel marks and wakes it when that thread begins to die, before
  // any memory is torn down.
  alignas(64) unsigned char life[64];
  HeartbeatStage stages[kMaxStages];
  alignas(4096) postmortem::CrashPage crash;
};
static_assert(offsetof(AgentPage, life) == 64);
static_assert(offsetof(AgentPage, stages) == 128);
static_assert(offsetof(AgentPage, crash) == 4096);
static_assert(sizeof(AgentPage) <= kAgentPageSize);

}  // namespace defib::process
