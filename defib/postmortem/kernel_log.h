// The kernel's log: what it said lately, and what it says about one process.
//
// Out-of-memory kills and faults are reported there, and nowhere else with the process's id.
// Reading /dev/kmsg needs CAP_SYSLOG where kernel.dmesg_restrict is set. Thread rule: pure
// functions but for the file.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"

namespace defib::postmortem {

struct KernelMessage {
  std::int64_t wall_ns = 0;
  std::string text;
};
// Not older than `since_mono_ns`, oldest first, the last 2000.
Result<std::vector<KernelMessage>> kernel_messages(std::int64_t since_mono_ns);
// One record of /dev/kmsg ("6,12,4711,-;text\n KEY=value\n"); false where it is none.
bool parse_kernel_record(std::string_view record, std::int64_t& mono_us, std::string& text);

struct KernelLines {
  std::vector<std::string> lines;  // oldest first
  // The log reaches back to then, and its process ids are ours (we are in the first pid namespace):
  // what it does not say of the process did not happen.
  bool complete = false;
};
// The lines that name the process and are not older than `since_mono_ns` (0: all).
Result<KernelLines> kernel_lines_about(pid_t pid, std::int64_t since_mono_ns);

// The text of one record, where it names the process and is not older than `since_us`; else empty.
std::string kernel_record_about(std::string_view record, pid_t pid, std::int64_t since_us);

}  // namespace defib::postmortem
