// Locks: which thread waits for which, and whether they wait in a circle.
//
// A blocked thread's system call names the address that it waits on; glibc's mutexes keep their
// owner's thread id beside it. So a deadlock can be named without any help of the program:
//   waits in futex(2) on a mutex (lock word 2, owner at +8)      -> the owner
//   waits for a priority-inheriting or robust mutex               -> the owner in the lock word
//   waits in pthread_join (the word holds a thread id)            -> that thread
// Waits on condition variables, semaphores and read locks have no owner and make no edge.
// Thread rule: pure functions.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

enum class WaitKind : std::uint8_t { kMutex, kOwnerInWord, kJoin };
std::string_view to_string(WaitKind kind);  // "mutex", "priority or robust mutex", "end of thread"

struct LockWait {
  pid_t waiter = 0;
  pid_t owner = 0;
  std::uint64_t address = 0;
  WaitKind kind = WaitKind::kMutex;
  friend bool operator==(const LockWait&, const LockWait&) = default;
};

// At most one a thread, in the snapshot's order.
std::vector<LockWait> find_lock_waits(const Snapshot& snapshot);

// The waits that form a circle, each one's owner being the next one's waiter; a thread that waits
// for itself is a circle of one. Empty: there is none.
std::vector<LockWait> find_lock_cycle(const std::vector<LockWait>& waits);

}  // namespace defib::postmortem
