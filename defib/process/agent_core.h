// The agent's core: what must work inside any process, also one that was not built for defib.
//
// It is C in C++ clothing: no allocation, no exceptions, no C++ runtime, no threads, no
// destructors, so that libdefib-agent.so can be preloaded into whatever program there is. agent.h
// (C++) and agent_c.h (C) are its two faces.
//
// Thread rule: every function from any thread.

#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>

#include "defib/process/agent_page.h"

namespace defib::process::agent_core {

enum class Attached {
  kYes,
  kNotSupervised,  // no DEFIB_AGENT_FD in the environment
  kNotOurs,        // the descriptor is closed, is something else, or belongs to our parent
  kVersion,        // the page's layout is of another defib version
  kSystem,         // the page could not be mapped; errno tells why
};

// Maps the page and claims it for this process; once per process, later calls answer the same.
//
// The page belongs to the process that the shim started. A process forked from it is not covered:
// at the fork its mapping is replaced by private memory, so that neither its beats nor its crash
// pass for its parent's. A program exec'd in the same process takes the page over.
// `crash_hook`: install the handlers for fatal signals that still have their default action.
Attached attach(bool crash_hook);
// The page of this process, or nullptr where it is not attached.
AgentPage* page();

// A free slot, claimed, named (cut to 31 bytes) and not yet armed; nullptr where there is none.
HeartbeatStage* claim_stage(const char* name, std::size_t name_size, std::uint32_t deadline_ms,
                            std::uint32_t flags = 0);
void release_stage(HeartbeatStage* stage);
// The first beat of a stage, which arms it: notes the thread and rings.
void first_beat(HeartbeatStage& stage, bool stamped);
// At rest until resume(), which beats. Two stores and, for a stage that was beaten with a stamp, a
// look at the clock each; a ring only where the supervisor may have stopped looking.
void rest(HeartbeatStage& stage);
void resume(HeartbeatStage& stage);
// Wakes the shim, so that the supervisor looks at the stages: one was armed.
void ring();

// Leaves in the page what is about to be sent, for a shim that is not there to hear it. Words that
// are too long are not left.
void note_ready();
void note_state(const char* word, std::size_t size);

// Whether this process may act on the outside world. A process that does not run under defib may; a
// standby may once it is promoted, and its forked children never.
bool is_active();
// Blocks until it may; false when so many milliseconds have passed (negative: no limit), or where
// it never will, in a forked child of a standby.
bool wait_until_active(std::int64_t timeout_ms);
// Grows with every activation of the service, so that what an earlier active process left on its
// way can be told and refused. 0 while this process is not active, and without defib.
std::uint64_t epoch();

// Through the vDSO: no system call.
inline std::int64_t now_mono_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

inline void beat(HeartbeatStage& stage) {
  const std::uint64_t beats = stage.beats.load(std::memory_order_relaxed);
  if (beats == 0) [[unlikely]]
    return first_beat(stage, false);
  stage.beat_mono_ns.store(0, std::memory_order_relaxed);
  stage.beats.store(beats + 1, std::memory_order_relaxed);
}

inline void beat_stamped(HeartbeatStage& stage) {
  const std::uint64_t beats = stage.beats.load(std::memory_order_relaxed);
  if (beats == 0) [[unlikely]]
    return first_beat(stage, true);
  stage.beat_mono_ns.store(now_mono_ns(), std::memory_order_relaxed);
  stage.beats.store(beats + 1, std::memory_order_release);
}

}  // namespace defib::process::agent_core
