// Reading the write-ahead log: what a segment's bytes hold, and what a place where they stop making
// sense means.
//
// A segment is scanned from its header, block by block. Where the scan stops, the evidence around
// the place decides between the end of the log, a torn tail (an unsynced write that a crash cut),
// and damage of what was acknowledged; the rules are one table, judge_stop(). The scan and the
// assessment are pure functions over bytes; they never change a file.
//
// Thread rule: values; no shared state.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/format.h"

namespace defib::store {

struct ScannedBlock {
  std::uint64_t offset = 0;
  BlockHeader header;
};

enum class StopKind {
  kZeros,      // zeros where the next block would begin: how every complete log ends
  kEndOfFile,  // the file ends there; a complete log ends with zeros, so it was cut
  kBadBlock,   // something that is not the next block
};

struct Stop {
  StopKind kind = StopKind::kZeros;
  std::uint64_t offset = 0;
  std::uint64_t lsn = 0;            // of the commit that would come next
  std::string problem;              // of kBadBlock
  bool rest_is_zero = true;         // from offset to the end of the file
  bool later_block = false;         // a valid block of this log stands further on
  bool later_block_covers = false;  // ... and says that `lsn` had been synced when it was written
};

struct Segment {
  std::string name;  // without the directory
  std::string bytes;
  std::optional<SegmentHeader> header;  // none: unreadable, see header_problem
  std::string header_problem;
  bool holds_blocks = false;  // although the header is unreadable
  std::vector<ScannedBlock> blocks;
  std::uint64_t next_lsn = 0;   // after the last valid block
  std::uint32_t chain_crc = 0;  // header checksum of the last valid block
  Stop stop;

  std::string_view payload(const ScannedBlock& block) const;
};

// Fills in everything after `bytes`.
void scan_segment(Segment& segment, const Identity& identity);

enum class StopVerdict {
  kEnd,      // the log ends here, completely
  kTorn,     // cut from here; commits from stop.lsn on may have been lost with a power failure
  kDamaged,  // acknowledged history is missing
};
struct StopEvidence {
  StopKind kind = StopKind::kZeros;
  bool rest_is_zero = true;
  bool later_block = false;
  bool later_block_covers = false;
  bool same_boot = false;            // the page cache has survived since the log was written
  bool has_successor = false;        // a further segment follows
  bool successor_continues = false;  // ... with exactly the commit after this one's last
};
StopVerdict judge_stop(const StopEvidence& evidence);
std::string_view to_string(StopVerdict verdict);

struct LogCut {
  std::string segment;       // name
  std::uint64_t offset = 0;  // from here to the end of the file
  std::uint64_t bytes = 0;   // how many
  std::uint64_t lsn = 0;     // first commit that may have been lost
  std::string reason;
};

struct LogAssessment {
  std::uint64_t last_lsn = 0;     // number of the last commit in checkpoint and log together
  std::uint64_t log_end_lsn = 0;  // of the log alone; 0: no commits in it
  std::uint64_t epoch = 0;        // highest seen
  std::uint32_t chain_crc = 0;
  bool chain_known = false;
  std::vector<std::size_t> live;      // segments that hold commits after the checkpoint, in order
  std::vector<std::string> obsolete;  // names of segments that nothing needs
  std::optional<LogCut> cut;
  std::vector<std::string> notes;  // what an operator should know, in words
};

struct LogContext {
  Identity identity;
  std::optional<CheckpointHeader> checkpoint;
  std::string boot_id;  // of the machine's present run
};
// WalCorrupted or InconsistentState where acknowledged commits are missing.
Result<LogAssessment> assess_log(const std::vector<Segment>& segments, const LogContext& context);

// Called about every MiB; an Error ends the reading with it.
using Pulse = std::function<Result<>(std::uint64_t bytes_done)>;

// Names of segments in `dir`/wal in log order; other names go to `strangers`.
Result<std::vector<std::string>> list_segments(os::Files& files, const std::string& dir,
                                               std::vector<std::string>* strangers = nullptr);
Result<std::string> read_whole(os::Files& files, const std::string& path, const Pulse& pulse);

}  // namespace defib::store
