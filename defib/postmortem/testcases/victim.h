// What the victim programs share: each has one fault, in a function of its own whose name and line
// the test expects to see, and two further threads that wait.
//
// Started with a memfd of a crash page as descriptor 3 and an eventfd as descriptor 4, a victim
// installs the crash hook on them; without, it dies unheard, as any program.

#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <latch>
#include <mutex>
#include <thread>

#include "defib/postmortem/crash_hook_sigsafe.h"
#include "defib/postmortem/terminate_text.h"

namespace victim {

inline constexpr int kPageFd = 3;
inline constexpr int kEventFd = 4;

// Keeps the compiler from knowing a value.
template <typename T>
inline T opaque(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

inline constexpr int kWaiters = 2;
inline std::latch all_wait(kWaiters + 1);

inline void wait_for_ever() {
  defib::postmortem::guard_thread_stack();
  all_wait.count_down();
  while (true) pause();
}

inline void start(bool with_threads = true) {
  void* memory = mmap(nullptr, sizeof(defib::postmortem::CrashPage), PROT_READ | PROT_WRITE,
                      MAP_SHARED, kPageFd, 0);
  if (memory != MAP_FAILED) {
    auto* page = static_cast<defib::postmortem::CrashPage*>(memory);
    defib::postmortem::install_crash_hook(page, kEventFd);
    defib::postmortem::install_terminate_text(page);
  }
  if (!with_threads) return;
  for (int i = 0; i < kWaiters; ++i) std::thread(wait_for_ever).detach();
  all_wait.arrive_and_wait();
}

}  // namespace victim

// Not inlined, and the call in it is no tail call: it keeps a frame of its own.
#define VICTIM_FUNCTION [[gnu::noinline, gnu::noclone]]
