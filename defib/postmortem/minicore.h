// A small core file made of a snapshot: registers of all threads, the copied parts of their stacks,
// the list of libraries and the maps. A debugger shows the stacks of it as of a whole core:
//
//   gdb EXE crash-7.core -ex 'thread apply all bt'
//
// Heap and global variables are not in it. Stacks hold whatever the program had there, secrets too:
// it is written with mode 0600 and goes into no export.
// Thread rule: pure but for writing the file.

#pragma once

#include <cstddef>
#include <string>

#include "defib/base/error.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// More memory than this is left out, the crashed thread's last.
inline constexpr std::size_t kMinicoreBytes = 2u << 20;

// The ELF file. Of a snapshot of this machine's kind.
std::string make_minicore(const Snapshot& snapshot, std::size_t max_bytes = kMinicoreBytes);

// Under a temporary name first; not synced. InvalidArgument: the snapshot has no threads.
Result<> write_minicore(const Snapshot& snapshot, const std::string& path);

}  // namespace defib::postmortem
