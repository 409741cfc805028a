// The two ways to walk a copied stack.
// Thread rule: one thread at a time.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "defib/postmortem/elf_session.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

struct Step {
  std::uint64_t pc = 0;
  bool exact = false;      // the instruction itself; else the call before it is meant
  bool is_signal = false;  // the return from a signal handler
};

struct Walk {
  std::vector<Step> steps;
  bool truncated = false;
  std::string error;  // why it ended early
};

// By frame pointers alone, and by nothing but the snapshot: never fails, and may miss functions
// that keep none.
Walk walk_frame_pointers(const Snapshot& snapshot, const ThreadSnapshot& thread);

// By call frame information, and by frame pointers where there is none. `about_to_read` gets the
// module whose information is needed next.
class StackWalker {
 public:
  StackWalker(const Snapshot& snapshot, ElfSession& session,
              std::function<void(std::size_t module)> about_to_read);
  Walk walk(std::size_t thread);

 private:
  static pid_t next_thread(Dwfl*, void* arg, void** thread_arg);
  static bool get_thread(Dwfl*, pid_t tid, void* arg, void** thread_arg);
  static bool read_word(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void* arg);
  static int on_frame(Dwfl_Frame* state, void* arg);
  static const Dwfl_Thread_Callbacks kThreadCallbacks;

  const Snapshot& snapshot_;
  ElfSession& session_;
  std::function<void(std::size_t)> about_to_read_;
  std::vector<ThreadSnapshot> starts_;  // where each walk begins
  std::vector<bool> stepped_;           // past the top frame, which is nowhere
  bool ready_ = false;
};

}  // namespace defib::postmortem
