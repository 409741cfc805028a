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

// `exe` replaces the program that the core names, for one that lies elsewhere now; empty: as named.
// CoreUnreadable says what is wrong with the file.
Result<Snapshot> read_core(os::File& file, const std::string& exe = {});
Result<Snapshot> read_core(const std::string& path, const std::string& exe = {});

}  // namespace defib::postmortem
