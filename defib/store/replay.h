// Replay: from the log's live segments to the overlay that holds their effect.
//
// The result is that of applying all transactions after a commit in their order: of each key the
// last change stands, erased records as erased ones. It is not done in their order, which would
// miss the cache at every record: the segments are decoded in parallel into arrays of {eight bytes
// of the key, where the record stands}, these are sorted by radix, of equal keys the last one is
// taken, and the overlay is built from sorted records, again in parallel. Keys and values are not
// copied; the overlay holds the segments' views, so a segment's bytes must not change while the
// overlay lives: segments that a recovery has read may be removed, but never be used again in
// place.
//
// Thread rule: one call on one thread, with help from the executor's; `pulse` is called on the
// calling thread only.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/log_reader.h"
#include "defib/store/overlay.h"
#include "defib/store/store.h"
#include "defib/store/table_names.h"

namespace defib::store {

struct Replayed {
  std::shared_ptr<Overlay> overlay;  // empty where nothing was to be replayed, never null
  std::uint64_t last_commit = 0;     // `after_commit` where nothing was
  std::uint64_t transactions = 0;    // replayed
  std::uint64_t changes = 0;         // in them
  std::uint64_t bytes = 0;           // of log that were read for it
};

// `segments` as they were scanned and assessed (only log.live matters), at least one commit after
// `after_commit` or none. New names get the next number of `names`, in the order of the log.
// InconsistentState where a block whose checksum holds is not what a block holds. `pulse` hears of
// bytes of log, about every MiB; its error ends the replay.
Result<Replayed> replay_log(std::vector<Segment> segments, const LogAssessment& log,
                            std::uint64_t after_commit, TableNames& names, Executor& executor,
                            const Pulse& pulse);

}  // namespace defib::store
