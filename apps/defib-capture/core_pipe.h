// The receiving end of `core_pattern`: the kernel starts this program for each core and writes the
// core into its stdin.
//
//   |/usr/bin/defib-capture core-pipe --dir /var/lib/defib/cores %P %u %g
//
// It runs as root in the initial namespaces, so it trusts nothing of the crashed process but
// numbers.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "defib/base/error.h"

namespace defib {

struct CorePipeOptions {
  std::string dir;  // exists; cores become core.PID.TIME in it
  pid_t pid = 0;
  uid_t uid = 0;  // of the process: the file becomes its
  gid_t gid = 0;
  std::uint64_t max_bytes = 4ULL << 30;  // more of a core is not kept
  int max_files = 16;                    // cores in the directory; the oldest go first
};

struct ReceivedCore {
  std::string path;
  std::uint64_t bytes = 0;
  bool truncated = false;
};

// Blocks that hold zeros only become holes. A core that cannot be kept leaves no file behind.
Result<ReceivedCore> receive_core(int from, const CorePipeOptions& options);

}  // namespace defib
