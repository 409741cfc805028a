// LifeWatch: is told by the kernel that a process begins to die, before its memory is torn down.
//
// The agent holds the robust lock of its page on the main thread. When that thread ends (or its
// program is replaced by another, exec) the kernel marks the lock's word and wakes one waiter. The
// waiter is a thread of the shim, with a stack of half a kibibyte, that sleeps in the kernel until
// then and rings the wake FIFO. So nothing polls, and the loop stays a loop over descriptors.
//
// Thread rule: all functions from the loop's thread. The watching thread touches its LifeWatch and
// the page's word, by plain system calls: no errno, no library.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "defib/process/agent_page.h"

namespace defib::process::shim {

class LifeWatch {
 public:
  // Whether the agent holds the lock: there is something to be told of.
  static bool is_held(const AgentPage& page);
  // Starts the thread. 0 or -errno; -ENOSYS where this machine's threads are not known.
  int begin(AgentPage* page, int wake_fd);
  // The lock was released, or was never held.
  bool fired() const { return __atomic_load_n(&state_, __ATOMIC_ACQUIRE) == kFired; }
  bool watching() const { return __atomic_load_n(&state_, __ATOMIC_ACQUIRE) == kWatching; }
  // Ends the thread, if it still runs. The page may be unmapped afterwards.
  void end();

 private:
  enum State : uint32_t { kIdle = 0, kWatching = 1, kFired = 2 };
  static constexpr size_t kStackSize = 512;
  static void run(void* self);

  // In the pages of its own that the stack needs anyway.
  alignas(16) unsigned char stack_[kStackSize];
  uint32_t* word_ = nullptr;
  int wake_fd_ = -1;
  uint32_t state_ = kIdle;
  uint32_t stop_ = 0;
  uint32_t thread_ = 0;  // cleared by the kernel when the thread is gone
};

}  // namespace defib::process::shim
