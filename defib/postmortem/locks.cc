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

bool is_thread(const Snapshot& snapshot, std::int64_t tid) {
  return std::ranges::any_of(snapshot.threads,
                             [&](const ThreadSnapshot& thread) { return thread.tid == tid; });
}

std::optional<LockWait> wait_of(const Snapshot& snapshot, const ThreadSnapshot& thread) {
  if (!thread.system_call || thread.system_call->number != SYS_futex) return std::nullopt;
  const auto [address, operation, value, timeout] = thread.system_call->arguments;
  const int command = static_cast<int>(operation) & FUTEX_CMD_MASK;
  MutexHead head{};
  if (!snapshot.memory.read(address, &head, sizeof head)) return std::nullopt;
  const auto tid_in_word = static_cast<pid_t>(head.lock & FUTEX_TID_MASK);
  const auto edge = [&](pid_t owner, WaitKind kind) {
    return LockWait{thread.tid, owner, address, kind};
  };
  if (command == FUTEX_LOCK_PI || command == FUTEX_LOCK_PI2) {
    if (!is_thread(snapshot, tid_in_word)) return std::nullopt;
    return edge(tid_in_word, WaitKind::kOwnerInWord);
  }
  if (command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET) return std::nullopt;
  const auto awaited = static_cast<std::uint32_t>(value);
  if (awaited == kLockedWithWaiters) {
    const bool plausible = head.lock == kLockedWithWaiters && head.users >= 1 &&
                           (head.kind & ~kKindMask) == 0 && is_thread(snapshot, head.owner);
    if (!plausible) return std::nullopt;
    return edge(head.owner, WaitKind::kMutex);
  }
  if (head.lock != awaited || !is_thread(snapshot, tid_in_word)) return std::nullopt;
  // A robust mutex marks its word; a thread's own id stands bare until the thread has ended.
  if ((awaited & FUTEX_WAITERS) != 0) return edge(tid_in_word, WaitKind::kOwnerInWord);
  if (tid_in_word != thread.tid) return edge(tid_in_word, WaitKind::kJoin);
  return std::nullopt;
}

}  // namespace

std::string_view to_string(WaitKind kind) {
  switch (kind) {
    case WaitKind::kMutex:
      return "mutex";
    case WaitKind::kOwnerInWord:
      return "priority or robust mutex";
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

std::vector<LockWait> find_lock_cycle(const std::vector<LockWait>& waits) {
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
