// The crash hook: what runs inside the dying process, and as little of it as possible.
//
// On SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS and SIGTRAP the handler writes what the
// kernel told into the CrashPage, wakes those outside through the eventfd, waits for their capture
// (bounded by CrashPage.capture_timeout_ms), and hands the signal on to whoever had it before: an
// earlier handler, or the default action, so that the true signal, exit status and core file come
// through.
//
// Invariants:
//   - The handler calls the kernel only by async-signal-safe means, allocates nothing, takes no
//     lock, and every wait in it is bounded. It may run anywhere: inside malloc, under the
//     loader's lock, on a stack that has just overflowed.
//   - The first crashing thread owns the page; other threads that crash meanwhile wait for it. A
//     fault inside the handler goes straight to the default action.
//   - A child made by fork() or vfork() never touches its parent's page.
//   - No dependency but the C library: the file also goes into the preloaded agent, which brings
//     no C++ runtime into foreign programs.
//
// Thread rule: install and uninstall from one thread; guard_thread_stack from each thread for
// itself.

#pragma once

#include <cstdint>

#include "defib/postmortem/crash_page.h"

namespace defib::postmortem {

// How long the handler waits for the capture where the page does not say otherwise.
inline constexpr std::uint32_t kDefaultCaptureTimeoutMs = 50;
// What it waits at most, whatever a corrupted page says.
inline constexpr std::uint32_t kMaxCaptureTimeoutMs = 5000;

struct CrashHookOptions {
  // Leave a signal alone when the program has a handler for it already. Right for programs that
  // recover from faults themselves, such as virtual machines with a garbage collector. When
  // false, the earlier handler runs after the capture; it is reinstated for that, so a handler
  // that recovers takes that signal over for good.
  bool only_default = false;
};

// Installs the handlers and guards the calling thread's stack. `page` must stay mapped for the
// rest of the process's life. `event_fd`: an eventfd(2) or pipe that wakes the watcher; -1: none.
// Ignored signals stay ignored. Returns the number of signals taken over, or -1 with errno.
// A second call replaces page and descriptor.
int install_crash_hook(CrashPage* page, int event_fd, const CrashHookOptions& options = {});

// Gives every signal back that still has our handler.
void uninstall_crash_hook();

// Gives the calling thread an alternate signal stack with a guard page, so that the overflow of
// its own stack can be reported; without it the kernel kills the process unheard. To be called
// first in each new thread; a thread that has an alternate stack keeps it. False: no memory.
bool guard_thread_stack();

// Takes it away again: last in each thread that called guard_thread_stack().
void unguard_thread_stack();

}  // namespace defib::postmortem
