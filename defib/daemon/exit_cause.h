// The cause of an end that left no postmortem report: the classifier's rules over the exit status,
// the supervisor's own reason, the kernel's word, and what this run of the service wrote. It also
// is what an incident says before a report is there. The words are those of docs/cli.md. Pure, but
// for kernel_evidence().

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/process.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/process/supervisor.h"
#include "defib/wire/json.h"

namespace defib::daemon {

struct Classification {
  std::string cause = "unknown";
  std::string subtype;                // refines the cause; may be empty
  std::string signal;                 // "SIGSEGV"; empty: none
  std::string fault_address;          // "0x0"; empty: unknown
  std::vector<std::string> evidence;  // sentences
  double confidence = 0;              // 0 to 1
  // {"cause","subtype","signal","fault_address","evidence","confidence"}; null where unknown.
  wire::Json to_json() const;
};

// What is known of an end.
struct ExitFacts {
  os::ExitStatus status = {};
  process::StopReason reason = process::StopReason::kNone;
  std::string limit = {};  // what was over it ("memory", "cpu"), where it was ended for that
  pid_t pid = 0;
  std::int64_t started_mono_ns = 0;  // of the run; 0: not known
  std::uint32_t oom_kills = 0;       // by the kernel, in its own control group
  std::uint64_t memory_limit_bytes = 0;
  std::int64_t cpu_ns = 0;
  std::int64_t cpu_limit_ns = 0;   // RLIMIT_CPU's hard limit; 0: none, or not known
  std::string err = {}, out = {};  // the end of what this run wrote
  postmortem::KernelLines kernel = {};
};

// Without output and kernel lines.
ExitFacts exit_facts(const process::ExitReport& report, std::string_view limit);

// The lines of the kernel's log that name the process, where they can decide this end; else, and
// where the log is not readable, none.
postmortem::KernelLines kernel_evidence(const ExitFacts& facts);

Classification classify_exit(const ExitFacts& facts);

}  // namespace defib::daemon
