// The cause of an end as far as its exit status, the supervisor's own reason and the last lines of
// output tell it: what an incident says when there is no postmortem report, or before it is there.
// The words are those of docs/cli.md. Pure.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/process.h"
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

// An end by the kernel for the service's memory_limit; nothing where it was none.
std::optional<Classification> classify_memory_kill(const process::ExitReport& report);

// `limit` is what was over its limit ("memory", "cpu") where the supervisor ended it for that.
Classification classify_exit(const os::ExitStatus& status, process::StopReason reason,
                             std::string_view limit, std::string_view log_tail);

}  // namespace defib::daemon
