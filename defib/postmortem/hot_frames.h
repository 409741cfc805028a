// Hot frames: where a busy thread spends its time. The thread is stopped for a moment a few times,
// some milliseconds apart, and its registers and the top of its stack are copied; the copies are
// unwound afterwards. A function that is on the stack again and again says where a loop is.
//
// Invariants: as capture.h's: no thread is left stopped, every wait is bounded, nothing is written
// into the process. Thread rule: as capture.h's.

#pragma once

#include <chrono>
#include <vector>

#include "defib/postmortem/classify.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/unwind.h"

namespace defib::postmortem {

struct HotOptions {
  double busy_share = 0.8;  // of the snapshot's sampling window; a thread below it is not looked at
  std::size_t max_threads = 4;
  int samples = 9;
  std::chrono::milliseconds interval{7};
  std::size_t stack_bytes = 16 * 1024;
};

// Of the process that the snapshot is of, which still runs: tid, samples and hot of each thread
// that was busy. Empty where none was, or where attaching is not possible any more.
std::vector<ThreadFacts> sample_hot_frames(const Snapshot& snapshot,
                                           const HotOptions& options = {});

// From the stacks of one thread, one a sample: the program's own functions with the share of the
// samples that have them on the stack, at the line that they most often stand at; of equal shares
// the innermost first.
std::vector<HotFrame> hot_frames_of(const std::vector<ThreadStack>& stacks);

}  // namespace defib::postmortem
