#include "defib/call/channel.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "defib/base/assert.h"

namespace defib::call {
namespace {

constexpr std::int64_t kNsInSecond = 1'000'000'000;
// About 10 microseconds; a wake-up from the kernel costs five times as much.
constexpr std::uint32_t kSpins = 2000;
constexpr std::size_t kMostWords = 8;

timespec timespec_of(std::int64_t ns) {
  return {static_cast<time_t>(ns / kNsInSecond), static_cast<long>(ns % kNsInSecond)};
}

}  // namespace

void wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, std::int64_t timeout_ns) {
  const timespec timeout = timespec_of(timeout_ns);
  return syscall(SYS_futex, &word, FUTEX_WAIT, value, timeout_ns < 0 ? nullptr : &timeout, nullptr,
                 0) == 0;
}

void wait_any(const Awaited* words, std::size_t count, std::int64_t deadline_mono_ns) {
  DEFIB_ASSERT(count <= kMostWords);
  futex_waitv waiters[kMostWords] = {};
  for (std::size_t i = 0; i < count; ++i) {
    waiters[i].val = words[i].value;
    waiters[i].uaddr = reinterpret_cast<std::uintptr_t>(words[i].word);
    waiters[i].flags = FUTEX_32;
  }
  const timespec deadline = timespec_of(deadline_mono_ns);
  syscall(SYS_futex_waitv, waiters, count, 0, deadline_mono_ns == 0 ? nullptr : &deadline,
          CLOCK_MONOTONIC);
}

void fence_for_all() {
  // A system call is a full fence for the calling thread itself.
  syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

bool register_for_fences() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

std::uint32_t spins() {
  static const std::uint32_t count = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < 2 ? 0U : kSpins;
  }();
  return count;
}

}  // namespace defib::call
