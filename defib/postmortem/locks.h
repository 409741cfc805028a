// Locks: which thread waits for which, and whether they wait in a circle.
//
// A blocked thread's system call names the address that it waits on; glibc's mutexes keep their
// owner's thread id beside it, its read-write locks that of their writer. So a deadlock can be
// named without any help of the program:
//   waits in futex(2) on a mutex (lock word 2, owner at +8)      -> the owner
//   waits for a priority-inheriting or robust mutex               -> the owner in the lock word
//   waits for a pthread_rwlock_t that a writer holds              -> the writer
//   waits in pthread_join (the word holds a thread id)            -> that thread
//   waits for a mutex of this process whose owner is none of its threads -> nobody, for ever
//
// Makes no edge, because it has no owner or ends by itself: a condition variable, a semaphore, a
// read-write lock that readers hold, every wait with a timeout, and the locks of other runtimes.
// A word that other processes share (no FUTEX_PRIVATE_FLAG) counts only where its owner is a
// thread of this process: thread ids are one numbering in a pid namespace.
// All threads stand still when the words are read, so a circle of owners is a deadlock, not a
// moment of a lock that moves.
// Thread rule: pure functions.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

enum class WaitKind : std::uint8_t { kMutex, kOwnerInWord, kWriter, kJoin, kAbandoned };
// "mutex", "priority or robust mutex", "read-write lock", "end of thread", "mutex"
std::string_view to_string(WaitKind kind);

struct LockWait {
  pid_t waiter = 0;
  pid_t owner = 0;            // a thread of the process, but of kAbandoned
  std::uint64_t address = 0;  // of the lock
  WaitKind kind = WaitKind::kMutex;
  friend bool operator==(const LockWait&, const LockWait&) = default;
};

// At most one a thread, in the snapshot's order.
std::vector<LockWait> find_lock_waits(const Snapshot& snapshot);

// The waits that form a circle, each one's owner being the next one's waiter; a thread that waits
// for itself is a circle of one. Empty: there is none.
std::vector<LockWait> find_lock_cycle(const std::vector<LockWait>& waits);

}  // namespace defib::postmortem
