// The log's head: which segment was begun last, in a file of its own (log.head).
//
// A segment that was removed leaves nothing behind: the log then simply ends earlier, and where the
// segment was the only one, there is no log. So each segment is named here, durably, after its own
// name is durable and before its first block is written. Whoever finds neither that segment nor a
// later one, nor a checkpoint that covers it, knows that it was taken away.
//
// A segment never reaches over a checkpoint's boundary (a checkpoint ends the log's segment), so a
// checkpoint at or behind a segment's first commit covers all of it.
//
// Thread rule: one writer; readers beside it see one head or the next.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "defib/os/files.h"
#include "defib/store/format.h"

namespace defib::store {

struct LogHead {
  // Without previous_crc. Epoch 0: no segment is needed beside the checkpoint. None: unknown.
  std::optional<SegmentHeader> newest;
  std::string problem;  // why it is unknown
};
LogHead read_log_head(os::Files& files, const std::string& dir, std::string_view uuid);
// Durable on return. NoSpace leaves the one before in force.
Result<> write_log_head(os::Files& files, const std::string& dir, const SegmentHeader& newest);
// Of a store whose log holds nothing that is needed.
SegmentHeader no_segment(std::string_view uuid);

}  // namespace defib::store
