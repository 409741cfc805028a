#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "defib/postmortem/crash_bound.h"

namespace defib::postmortem {

void release_crashed(CrashPage& page, int64_t now_ns) {
  page.captured_mono_ns = now_ns;
  auto expected = static_cast<uint32_t>(CrashState::kCrashed);
  page.state.compare_exchange_strong(expected, static_cast<uint32_t>(CrashState::kCaptured),
                                     std::memory_order_acq_rel);
  syscall(SYS_futex, &page.state, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void bound_by_page(CrashPage& page, bool facts, raw::Capture& capture) {
  const int64_t now = raw::mono_ns();
  const int64_t bound = int64_t{page.capture_timeout_ms} * 1'000'000;
  if (bound != 0) {
    // A quarter is left for letting go. The page may be corrupted.
    constexpr int64_t kLongAgo = 60'000'000'000;
    int64_t crashed = page.crashed_mono_ns;
    if (crashed > now || crashed < now - kLongAgo) crashed = now;
    const int64_t end = crashed + bound - bound / 4;
    capture.copy.deadline_ns = end;
    if (end < capture.stop_deadline_ns) capture.stop_deadline_ns = end;
  }
  if (facts) {
    const int64_t end = now + kFactsTimeNs;
    capture.copy.facts_deadline_ns =
        end < capture.copy.deadline_ns ? end : capture.copy.deadline_ns;
  }
  capture.copy.crashed_tid = page.tid;
  capture.copy.crashed_registers = page.registers;
  capture.context = &page;
  capture.captured = [](void* context, int64_t now_ns) {
    release_crashed(*static_cast<CrashPage*>(context), now_ns);
  };
}

}  // namespace defib::postmortem
