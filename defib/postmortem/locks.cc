#include "defib/postmortem/locks.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include <algorithm>
#include <optional>

namespace defib::postmortem {
namespace {

// The head of glibc's pthread_mutex_t (nptl, struct __pthread_mutex_s), the same on both machines.
struct MutexHead {
  std::uint32_t lock;
  std::uint32_t count;
  std::int32_t owner;
  std::uint32_t users;
  std::int32_t kind;
};
constexpr std::uint32_t kLockedWithWaiters = 2;
// The kinds use the low 9 bits (elision flags included).
constexpr std::int32_t kKindMask = 0x1ff;
constexpr std::int32_t kSharedKind = 0x80;  // PTHREAD_PROCESS_SHARED

bool is_thread(const Snapshot& snapshot, std::int64_t tid) {
  return std::ranges::any_of(snapshot.threads,
                             [&](const ThreadSnapshot& thread) { return thread.tid == tid; });
}

// The head of glibc's pthread_rwlock_t (nptl, struct __pthread_rwlock_arch_t) on 64-bit machines.
struct RwlockHead {
  std::uint32_t readers;
  std::uint32_t writers;
  std::uint32_t phase_futex;
  std::uint32_t writers_futex;
  std::uint32_t pad3;
  std::uint32_t pad4;
  std::int32_t writer;
  std::int32_t shared;
};
constexpr std::uint64_t kPhaseFutexOffset = 8;
constexpr std::uint64_t kWritersFutexOffset = 12;
constexpr std::uint32_t kWriteLocked = 2;  // of `readers`
constexpr std::uint32_t kFutexUsed = 2;    // of both futex words, beside their value in bit 0

// A wait at one of the futexes of a read-write lock that a writer holds.
std::optional<LockWait> writer_awaited(const Snapshot& snapshot, pid_t waiter,
                                       std::uint64_t address, std::uint32_t awaited) {
  if ((awaited & kFutexUsed) == 0 || awaited > 3) return std::nullopt;
  for (const std::uint64_t offset : {kPhaseFutexOffset, kWritersFutexOffset}) {
    RwlockHead head{};
    if (address < offset || !snapshot.memory.read(address - offset, &head, sizeof head)) continue;
    const std::uint32_t word = offset == kPhaseFutexOffset ? head.phase_futex : head.writers_futex;
    const bool plausible = word == awaited && (head.readers & kWriteLocked) != 0 &&
                           head.phase_futex <= 3 && head.writers_futex <= 3 && head.pad3 == 0 &&
                           head.pad4 == 0 && (head.shared == 0 || head.shared == 1);
    if (!plausible || !is_thread(snapshot, head.writer)) continue;
    return LockWait{waiter, head.writer, address - offset, WaitKind::kWriter};
  }
  return std::nullopt;
}

// Of glibc's own mutexes, of the kinds that keep their owner beside the word.
std::optional<LockWait> mutex_owner(const Snapshot& snapshot, pid_t waiter, std::uint64_t address,
                                    const MutexHead& head, bool is_private) {
  const bool plausible = head.lock == kLockedWithWaiters && head.users >= 1 &&
                         (head.kind & ~kKindMask) == 0 && head.owner > 0;
  if (!plausible) return std::nullopt;
  if (is_thread(snapshot, head.owner)) {
    return LockWait{waiter, head.owner, address, WaitKind::kMutex};
  }
  // With threads left out of the snapshot nobody knows whether the owner is one of them.
  if (!is_private || (head.kind & kSharedKind) != 0 || !snapshot.gaps.empty()) return std::nullopt;
  return LockWait{waiter, head.owner, address, WaitKind::kAbandoned};
}

std::optional<LockWait> wait_of(const Snapshot& snapshot, const ThreadSnapshot& thread) {
  if (!thread.system_call || thread.system_call->number != SYS_futex) return std::nullopt;
  const auto [address, operation, value, timeout] = thread.system_call->arguments;
  // A wait that ends by itself is none for ever.
  if (timeout != 0) return std::nullopt;
  const int command = static_cast<int>(operation) & FUTEX_CMD_MASK;
  const bool is_private = (static_cast<int>(operation) & FUTEX_PRIVATE_FLAG) != 0;
  const auto awaited = static_cast<std::uint32_t>(value);
  const bool waits = command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET;
  if (waits) {
    if (auto writer = writer_awaited(snapshot, thread.tid, address, awaited)) return writer;
  }
  MutexHead head{};
  if (!snapshot.memory.read(address, &head, sizeof head)) return std::nullopt;
  const auto tid_in_word = static_cast<pid_t>(head.lock & FUTEX_TID_MASK);
  if (command == FUTEX_LOCK_PI || command == FUTEX_LOCK_PI2) {
    if (!is_thread(snapshot, tid_in_word)) return std::nullopt;
    return LockWait{thread.tid, tid_in_word, address, WaitKind::kOwnerInWord};
  }
  if (!waits) return std::nullopt;
  if (awaited == kLockedWithWaiters) {
    return mutex_owner(snapshot, thread.tid, address, head, is_private);
  }
  if (head.lock != awaited || !is_thread(snapshot, tid_in_word)) return std::nullopt;
  // A robust mutex marks its word; a thread's own id stands bare until the thread has ended.
  if ((awaited & FUTEX_WAITERS) != 0) {
    return LockWait{thread.tid, tid_in_word, address, WaitKind::kOwnerInWord};
  }
  if (tid_in_word == thread.tid) return std::nullopt;
  return LockWait{thread.tid, tid_in_word, address, WaitKind::kJoin};
}

}  // namespace

std::string_view to_string(WaitKind kind) {
  switch (kind) {
    case WaitKind::kMutex:
    case WaitKind::kAbandoned:
      return "mutex";
    case WaitKind::kOwnerInWord:
      return "priority or robust mutex";
    case WaitKind::kWriter:
      return "read-write lock";
    case WaitKind::kJoin:
      return "end of thread";
  }
  return "lock";
}

std::vector<LockWait> find_lock_waits(const Snapshot& snapshot) {
  std::vector<LockWait> waits;
  for (const ThreadSnapshot& thread : snapshot.threads) {
    if (const auto wait = wait_of(snapshot, thread)) waits.push_back(*wait);
  }
  return waits;
}

std::vector<LockWait> find_lock_cycle(const std::vector<LockWait>& all) {
  std::vector<LockWait> waits;
  std::ranges::copy_if(all, std::back_inserter(waits),
                       [](const LockWait& wait) { return wait.kind != WaitKind::kAbandoned; });
  for (const LockWait& first : waits) {
    // A thread waits for at most one other, so following the owners either ends or comes round.
    std::vector<LockWait> path;
    const LockWait* at = &first;
    while (at != nullptr && path.size() < waits.size()) {
      path.push_back(*at);
      if (at->owner == first.waiter) return path;
      const auto next = std::ranges::find(waits, at->owner, &LockWait::waiter);
      at = next == waits.end() ? nullptr : &*next;
    }
  }
  return {};
}

}  // namespace defib::postmortem
