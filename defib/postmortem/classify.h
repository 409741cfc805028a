// Classify: from facts to the cause of a death or a hang, with evidence and confidence.
//
// A pure function over CrashFacts: no file, no process, no clock. What the kernel reports is
// corrected where it misleads: an access to a non-canonical address comes without its address and
// looks like one to null; the fault of an overflowing stack looks like any other. What cannot be
// told is not claimed: out of memory only on the kernel's word, use after free only where the
// allocator's own mark shows.
// Thread rule: pure.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/process.h"
#include "defib/postmortem/locks.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// The whole vocabulary of docs/cli.md; the ones that a supervisor alone can find are not used here.
// clang-format off
#define DEFIB_CAUSES(X) \
  X(segmentation_fault) X(null_dereference) X(stack_overflow) X(bus_error) \
  X(illegal_instruction) X(arithmetic_fault) X(assertion_failure) X(uncaught_exception) \
  X(heap_corruption) X(abort) X(out_of_memory) X(deadlock) X(busy_loop) X(heartbeat_lost) \
  X(health_check_failed) X(memory_limit) X(cpu_limit) X(resource_limit) X(bad_system_call) \
  X(log_pattern) X(killed_externally) X(venue_disconnected) X(start_failed) X(exit_failure) \
  X(clean_exit) X(unknown)
// clang-format on

enum class Cause : std::uint8_t {
#define DEFIB_CAUSE(name) name,
  DEFIB_CAUSES(DEFIB_CAUSE)
#undef DEFIB_CAUSE
};
std::string_view to_string(Cause cause);

// A function that samples of a thread found on its stack.
struct HotFrame {
  std::string place;  // "price() at book.cc:41"
  double share = 0;   // of the samples, 0..1
};

// A thread of a process that lives.
struct ThreadFacts {
  pid_t tid = 0;
  std::string name;
  std::string where;       // "settle() at bank.cc:41": the innermost frame of the program's own
  double busy_share = -1;  // ThreadSnapshot::busy_share
  char state = '?';        // ThreadSnapshot::state
  std::vector<std::string> functions = {};  // of its stack, innermost first; "" has no name
  int samples = 0;                          // of its stack, where it was busy
  std::vector<HotFrame> hot = {};           // the most frequent first
};

struct CrashFacts {
  pid_t pid = 0;
  bool alive = false;  // a hang is asked about, not a death

  // From the crash page or a core file; signal.signal 0: there was neither.
  SignalInfo signal;
  std::string message;                 // CrashPage.message
  std::optional<Registers> registers;  // of the crashed thread, at the fault
  std::vector<Mapping> maps;
  std::string code;                        // bytes at the program counter
  std::vector<std::string> top_functions;  // of the crashed thread, innermost first

  os::ExitStatus status;    // how the process ended, where that is known
  std::string stderr_tail;  // its last lines, of this run alone
  std::string stdout_tail;

  std::vector<std::string> kernel_lines;      // of the kernel's log, those that name the process
  bool kernel_log_complete = false;           // KernelLines::complete
  std::optional<std::int64_t> new_oom_kills;  // of its cgroup's counter, since its start
  std::uint64_t memory_limit_bytes = 0;  // of that cgroup, where it is the supervisor's; else 0
  int own_signal = 0;  // the signal that the supervisor itself sent to end it; 0: none
  // Processor time that it used, and its hard limit of it (RLIMIT_CPU); 0: not known.
  std::int64_t cpu_ns = 0;
  std::int64_t cpu_limit_ns = 0;

  std::vector<ThreadFacts> threads;  // where `alive`
  std::vector<LockWait> lock_cycle;
  std::vector<LockWait> lock_waits;  // all, also those that form no circle
};

struct Classification {
  Cause cause = Cause::unknown;
  std::string subtype;
  int signal = 0;
  std::optional<std::uint64_t> fault_address;
  std::vector<std::string> evidence;  // each one line, the weightiest first
  double confidence = 0;              // 0..1; 1: nothing else fits the facts
};

Classification classify(const CrashFacts& facts);

}  // namespace defib::postmortem
