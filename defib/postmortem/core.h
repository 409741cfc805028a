// Core files: read into the same Snapshot that a live capture gives.
//
// Reads what the kernel writes (ELF notes NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_FILE, NT_AUXV)
// and the few parts of memory that a postmortem needs, never the whole file. A core is untrusted
// input: every offset and count is checked against the file.
// Thread rule: pure but for reading the files.

#pragma once

#include <string>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

struct CoreOptions {
  // Replaces the program that the core names, for one that lies elsewhere now; empty: as named.
  std::string exe;
  // Where the root directory of the machine lies that the core is of: its files are looked for
  // there alone, and no link leads out of it. Empty: it is of this machine.
  std::string sysroot;
};
// CoreUnreadable says what is wrong with the file. One that is cut off, or lacks parts, gives what
// there is, and the snapshot's gaps name the rest.
Result<Snapshot> read_core(os::File& file, const CoreOptions& options = {});
Result<Snapshot> read_core(const std::string& path, const CoreOptions& options = {});

}  // namespace defib::postmortem
