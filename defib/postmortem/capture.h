// Capture: copies a process from outside, in a moment, and lets it go.
//
// Every thread is stopped (PTRACE_SEIZE, PTRACE_INTERRUPT), its registers and the top of its stack
// are copied, and all are released. What copies is raw_copy_sigsafe.h; nothing is unwound,
// symbolized, parsed or interpreted while the process stands still.
//
// Invariants:
//   - The process is never left stopped: threads are released on every path, and by the kernel if
//     this program dies.
//   - Every wait is bounded; a thread that does not stop (waiting for a device) is left out and
//     named in Snapshot::gaps.
//   - Nothing is written into the process. Of the crash page, only `state` and `captured_mono_ns`.
// Thread rule: one thread, from beginning to end (a tracer is a thread).

#pragma once

#include <sys/types.h>

#include <chrono>
#include <string_view>

#include "defib/base/error.h"
#include "defib/postmortem/crash_page.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

struct CaptureOptions {
  // How much of a stack is copied, from the stack pointer up.
  std::size_t stack_bytes = 64 * 1024;
  std::size_t crashed_stack_bytes = 256 * 1024;
  // How long to wait for all threads to stop.
  std::chrono::milliseconds stop_timeout{500};
  // Watch the threads for so long before they are stopped, to tell a busy loop from a blocked
  // thread. Zero: do not.
  std::chrono::milliseconds sample_window{0};
};

// Of a process that crashed and now waits in its crash hook. At the end the page's state becomes
// kCaptured, and the process is free to die. CaptureFailed says why ("may not attach: ...") and
// carries what is still known as fields: signal, fault_address, pc; snapshot_from_page() gives the
// same as a Snapshot. `facts`, where given, gets what a bundle needs besides.
Result<Snapshot> capture_crash(pid_t pid, CrashPage& page, const CaptureOptions& options = {},
                               ProcessFacts* facts = nullptr);

// The same of what defib-snapshot copied (raw_snapshot.h).
Result<Snapshot> captured_crash(std::string_view raw, const CrashPage& page, ProcessFacts* facts);

// Of a process that runs, or hangs.
Result<Snapshot> capture_live(pid_t pid, const CaptureOptions& options = {});

}  // namespace defib::postmortem
