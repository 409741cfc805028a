// Unwind: from a Snapshot to the stacks of all its threads, with names, files and lines.
//
// elfutils' libdwfl walks the copied memory by the modules' call frame information, and by frame
// pointers where there is none. Names and lines come from the debug information of the files as
// they were opened at capture, or of debug files (debug_files.h), or of kept symbol tables; a file
// whose build id differs from the one in the process's memory is not used: no name is better than
// a wrong one.
//
// All that runs in a child (guarded.h), since the modules may be anything. A module that lets it
// crash, hang or run out of memory is left out, and said so; if all fails, the stacks are walked
// here by frame pointers alone and have modules and offsets.
//
// Invariants: reads the snapshot and files, never the process; no network (debuginfod is not
// asked); bounded by kMaxFrames a thread and SymbolOptions' limits, whatever the memory says.
// Thread rule: one thread at a time, in a process that has no other.

#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/symbols.h"

namespace defib::postmortem {

inline constexpr std::size_t kMaxFrames = 256;

// Where the code of a frame lies.
enum class FrameKind : std::uint8_t {
  kModule,   // in a file of the process
  kVdso,     // in what the kernel maps into every process
  kSignal,   // the return from a signal handler: the next frame was interrupted
  kJit,      // in executable memory of no file: made at run time
  kData,     // in memory that is not executable: a jump through a wild pointer
  kUnknown,  // nowhere
};
// "module", "vdso", "signal", "jit", "data", "unknown".
std::string_view to_string(FrameKind kind);
FrameKind frame_kind_from(std::string_view text);  // kUnknown for anything else

// One function, inlined or not. Innermost first; those inlined into one another share a pc.
struct Frame {
  std::uint64_t pc = 0;
  std::string module;        // path; empty: no module holds the pc
  std::string build_id;      // of the module, in hexadecimal; empty: it has none
  std::uint64_t offset = 0;  // of the pc in the module's file, as `addr2line -e MODULE` takes it
  std::string function;      // demangled; empty: not known
  std::string file;          // empty: not known
  int line = 0;
  bool inlined = false;
  FrameKind kind = FrameKind::kUnknown;
};

struct ThreadStack {
  pid_t tid = 0;
  std::string name;
  bool crashed = false;
  std::vector<Frame> frames;
  bool truncated = false;  // there were more than kMaxFrames
  std::string error;       // why the walk ended early; empty: it reached the thread's start
};

struct Unwound {
  // All threads in the snapshot's order. Always as many stacks as threads: one that cannot be
  // walked has the frame of its registers.
  std::vector<ThreadStack> stacks;
  std::vector<std::string> gaps;  // what could not be had, and why
};

// `meanwhile` is called once, here, while the child works.
Unwound unwind(const Snapshot& snapshot, const SymbolOptions& options = {},
               const std::function<void()>& meanwhile = {});

}  // namespace defib::postmortem
