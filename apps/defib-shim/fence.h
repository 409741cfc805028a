// The fence: whether any thread of a process can still run a line of its program.
//
// The kernel marks a thread that has begun to exit (PF_EXITING), that waits for or writes the core
// dump of its process (PF_POSTCOREDUMP, PF_DUMPCORE): none of these ever returns to the program.
// Their bits are in field 9 of /proc/PID/task/TID/stat. What the process handed to the kernel
// before (bytes in socket buffers, requests of io_uring) may still be carried out.

#pragma once

#include <stdint.h>
#include <sys/types.h>

namespace defib::process::shim {

enum class Fence {
  kFenced,  // every thread is beyond return, or the process is gone
  kEnding,  // the process was killed or exits, and some thread has not noticed yet
  kLives,   // it runs: another program was executed, or only its main thread ended
};
struct FenceLook {
  Fence fence = Fence::kLives;
  // Not one of them writes a core any more, or waits for one.
  bool exiting = true;
  // The status with which it ends, as by wait(2), where the kernel tells it early. 0 may also mean
  // that it does not.
  int exit_code = 0;
};
// `quick`: does not tell kEnding from kLives for a thread that has not begun to exit, and so keeps
// away from the process's memory. For the first moments, when the threads are about to end.
FenceLook look_at_threads(pid_t pid, uint64_t start_time, bool quick);

}  // namespace defib::process::shim
