// Fault: why a client cannot be used any more, and what is known of it.
//
// Thread rule: plain values and pure functions.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/call/host.h"
#include "defib/postmortem/crash_page.h"

namespace defib::call {

enum class FaultKind : std::uint8_t {
  kSegmentationFault,
  kNullDereference,
  kStackOverflow,
  kBusError,
  kIllegalInstruction,
  kArithmeticFault,
  kAssertionFailure,
  kUncaughtException,
  kHeapCorruption,
  kAbort,
  kBadSystemCall,  // one that the isolation forbids
  kTrap,
  kExit,         // exit(), _exit() or a return out of main: the library ended the process
  kOutOfMemory,  // killed by the kernel for want of memory, or crashed after its limit was reached
  kCpuLimit,
  kTimeLimit,  // the call's deadline passed while the worker was working
  kHang,       // ... while it made no progress
  kProtocol,   // what the worker wrote into the shared memory is impossible
  kKilled,     // from outside
  kZygoteLost,
};
// In the vocabulary of docs/cli.md's causes where it has a word: "segmentation_fault",
// "null_dereference", "time_limit", ...
std::string_view to_string(FaultKind kind);
// The word of docs/cli.md's vocabulary of causes.
std::string_view incident_cause(FaultKind kind);
// "a segmentation fault", "a call of exit()": for a sentence.
std::string_view in_words(FaultKind kind);

struct Fault {
  FaultKind kind = FaultKind::kProtocol;
  std::string method;     // that was running; empty: none was
  std::string arguments;  // their summary
  int signal = 0;
  std::uint64_t address = 0;  // that the instruction could not use; of signals with an address
  std::string place;    // "libprices.so+0x1139" of the instruction, or "0x7f..."; may be empty
  std::string message;  // an assertion's, an exception's or glibc's text; why, in general
  int exit_code = 0;
  std::int64_t at_wall_ns = 0;
};

// A signal's kind by what the crash hook wrote; the page is a copy, and may hold anything: nothing
// where it tells of no crash.
struct CrashNote {
  FaultKind kind;
  int signal;
  std::uint64_t address;
  std::uint64_t pc;
  std::string message;
};
std::optional<CrashNote> read_crash(const postmortem::CrashPage& page);
// Of a worker that ended without a crash page.
void classify_end(Fault& fault, const WorkerEnd& end);

// The error of the call during which it happened, and of every later one.
Error crash_error(const Fault& fault);
Error faulted_error(const Fault& fault, const Error& crash);

}  // namespace defib::call
