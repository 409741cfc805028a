// Unwind: from a Snapshot to the stacks of all its threads, with names, files and lines.
//
// elfutils' libdwfl walks the copied memory by the modules' call frame information, and by frame
// pointers where there is none. Names and lines come from the debug information of the files as
// they were opened at capture, or of /usr/lib/debug; a file whose build id differs from the one
// in the process's memory is not used: no name is better than a wrong one.
//
// Invariants: reads the snapshot and files, never the process; no network (debuginfod is not
// asked); bounded by kMaxFrames a thread, whatever the memory says.
// Thread rule: one thread at a time.

#pragma once

#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

inline constexpr std::size_t kMaxFrames = 256;

// One function, inlined or not. Innermost first; those inlined into one another share a pc.
struct Frame {
  std::uint64_t pc = 0;
  std::string module;        // path; empty: no module holds the pc
  std::uint64_t offset = 0;  // of the pc in the module's file, as `addr2line -e MODULE` takes it
  std::string function;      // demangled; empty: not known
  std::string file;          // empty: not known
  int line = 0;
  bool inlined = false;
};

struct ThreadStack {
  pid_t tid = 0;
  std::string name;
  bool crashed = false;
  std::vector<Frame> frames;
  bool truncated = false;  // there were more than kMaxFrames
  std::string error;       // why the walk ended early; empty: it reached the thread's start
};

// All threads in the snapshot's order. Always as many stacks as threads: one that cannot be walked
// has the frame of its registers.
std::vector<ThreadStack> unwind(const Snapshot& snapshot);

}  // namespace defib::postmortem
