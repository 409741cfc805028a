// CrashPage: what a crashing process leaves in shared memory for those outside it.
//
// It lies in the agent page (process/agent_page.h), a memfd that the shim made and that outlives
// the process. The crash handler, in the dying process, fills it and then waits, bounded, for the
// capture helper to copy registers, stacks and maps:
//
//   handler: fields, state = kCrashed, FUTEX_WAKE, eventfd +1   -> shim: starts defib-capture
//   capture: copies, state = kCaptured, FUTEX_WAKE  -> handler: re-raises, the process dies
//   capture: unwinds, symbolizes, classifies the copy; writes its report
//
// Plain integers only, safe for any bits: the writer may be corrupted. Fixed size, read from
// outside with no help of the process.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace defib::postmortem {

enum class CrashState : std::uint32_t { kNone = 0, kCrashed = 1, kCaptured = 2, kGivenUp = 3 };

// What the faulting instruction did to the fault address, as far as the processor tells.
enum class CrashAccess : std::uint32_t { kUnknown = 0, kRead = 1, kWrite = 2, kExecute = 3 };

// x86-64: 0..15 rax rdx rcx rbx rsi rdi rbp rsp r8..r15; AArch64: 0..30 x0..x30, 31 sp.
inline constexpr std::size_t kCrashRegisters = 33;
inline constexpr std::size_t kCrashPcRegister = 32;

struct CrashPage {
  std::atomic<std::uint32_t> state;  // CrashState; also the futex word
  std::uint32_t capture_timeout_ms;  // how long the handler waits; 0: it does not
  std::int32_t pid;
  std::int32_t tid;  // of the crashed thread
  std::int32_t signal;
  std::int32_t signal_code;  // si_code
  std::int32_t sender_pid;   // si_pid where si_code says that a process sent it
  std::int32_t sender_uid;
  std::uint64_t fault_address;    // si_addr
  std::uint64_t context_address;  // the ucontext_t on the handler's stack, in the process
  std::int64_t crashed_mono_ns;
  std::int64_t captured_mono_ns;             // written by the capture helper
  char message[512];                         // assertion or terminate text; always NUL-terminated
  std::uint32_t machine;                     // ELF machine of `registers`: EM_X86_64, EM_AARCH64
  std::uint32_t access;                      // CrashAccess
  std::uint64_t registers[kCrashRegisters];  // at the fault, in DWARF numbering; the last is the pc
};
static_assert(sizeof(CrashPage) <= 1024);

}  // namespace defib::postmortem
