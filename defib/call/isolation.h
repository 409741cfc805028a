// Isolation: what a worker may do and use. Set in the worker, before its plugin is loaded.
//
// Thread rule: apply_isolation() in a process with one thread.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "defib/base/error.h"

namespace defib::call {

// Zero or false: no limit of that kind, unless said otherwise.
struct Isolation {
  // Of address space beyond what the worker has when the plugin is loaded (RLIMIT_AS). malloc and
  // new fail beyond it: the method throws std::bad_alloc, or the library crashes.
  std::uint64_t memory_bytes = 0;
  // Of processor time over the worker's life, in seconds (RLIMIT_CPU).
  std::uint32_t cpu_seconds = 0;
  // Open descriptors (RLIMIT_NOFILE).
  std::uint32_t descriptors = 256;
  // Of child processes: none may be started. Threads may.
  bool no_processes = true;
  // No socket but UNIX ones can be made (seccomp).
  bool no_network = false;
  // Nothing can be written but below `writable` (Landlock, Linux 5.13). Descriptors that are open
  // stay as they are.
  bool read_only_files = false;
  std::vector<std::string> writable = {};
  // What no library needs for computing: ptrace, mount, kernel modules, keys, clocks, reboot, bpf,
  // namespaces, and reading other processes' memory, end the worker (seccomp).
  bool strict_system_calls = false;
  // Gives up all capabilities, for good, and with them what root may do.
  bool drop_capabilities = true;
};

// What the running kernel or processor cannot do is an error (Unavailable), never left out.
Result<> apply_isolation(const Isolation& isolation);

}  // namespace defib::call
