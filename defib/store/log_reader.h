// Reading the write-ahead log: what a segment's bytes hold, and what a place where they stop making
// sense means.
//
// A segment is scanned from its header, block by block: first the chain of block headers, then the
// payloads' checksums, which need no order and are checked in parallel. Where the scan stops, the
// evidence around the place decides between the end of the log, a torn tail (a write that a crash
// cut), and damage of what was acknowledged; the rules are one table (log_verdict.h). Scanning and
// assessing are pure functions over bytes; they never change a file.
//
// Thread rule: values; no shared state. scan_segments() lets an executor help.

#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/format.h"
#include "defib/store/log_verdict.h"
#include "defib/store/pulse.h"
#include "defib/store/store.h"

namespace defib::store {

struct ScannedBlock {
  std::uint64_t offset = 0;
  BlockHeader header;
};

// Valid blocks that follow one another, decoded as they are passed.
class BlockRange {
 public:
  class Iterator {
   public:
    using value_type = ScannedBlock;
    using difference_type = std::ptrdiff_t;
    const ScannedBlock& operator*() const { return block_; }
    const ScannedBlock* operator->() const { return &block_; }
    Iterator& operator++();
    friend bool operator==(const Iterator& a, std::default_sentinel_t) {
      return a.block_.offset >= a.end_;
    }

   private:
    friend class BlockRange;
    Iterator(std::string_view bytes, std::uint64_t offset, std::uint64_t end);
    std::string_view bytes_;
    std::uint64_t end_;
    ScannedBlock block_;
  };
  // From the block at `offset` to the one that ends at `end`.
  BlockRange(std::string_view bytes, std::uint64_t offset, std::uint64_t end)
      : bytes_(bytes), offset_(offset), end_(end) {}
  Iterator begin() const { return {bytes_, offset_, end_}; }
  static std::default_sentinel_t end() { return {}; }

 private:
  std::string_view bytes_;
  std::uint64_t offset_;
  std::uint64_t end_;
};

struct Stop {
  StopKind kind = StopKind::kZeros;
  std::uint64_t offset = 0;
  std::uint64_t lsn = 0;            // of the commit that would come next
  std::string problem;              // of kBadBlock
  bool rest_is_zero = true;         // from offset to the end of the file
  bool later_block = false;         // a header of a later block of this log stands further on
  bool later_block_covers = false;  // ... and says that `lsn` had been synced when it was written
};

struct Segment {
  std::string name;                          // without the directory
  std::shared_ptr<const os::FileView> view;  // whose bytes these are
  std::string_view bytes;
  std::optional<SegmentHeader> header;  // none: unreadable, see header_problem
  std::string header_problem;
  bool holds_blocks = false;         // although the header is unreadable
  std::vector<std::uint64_t> marks;  // offsets of blocks, the first one's and about every 256 KiB
  std::uint64_t next_lsn = 0;        // after the last valid block
  std::uint32_t chain_crc = 0;       // header checksum of the last valid block
  Stop stop;

  // A segment of these bytes, not scanned yet.
  static Segment of(std::string name, std::unique_ptr<const os::FileView> view);
  static Segment of(std::string name, std::string bytes);

  bool has_blocks() const { return header && stop.offset > kPageSize; }
  BlockRange blocks() const { return {bytes, kPageSize, has_blocks() ? stop.offset : 0}; }
  // Of marks[index] up to the next one, or to the last block.
  BlockRange blocks_from_mark(std::size_t index) const;
  std::string_view payload(const ScannedBlock& block) const;
};

// Fills in everything after `bytes`.
void scan_segment(Segment& segment, const Identity& identity);

enum class ReadMode {
  // Mapped: no copy, and the bytes can be used after the scan. Only for who holds the store's lock,
  // for somebody else could change them.
  kMap,
  kCopy,  // beside a live writer
};
struct ReadSettings {
  ReadMode mode = ReadMode::kCopy;
  Executor* executor = nullptr;  // null: nobody helps
};
// Reads and scans the segments of these names. Every byte is read through read_at() first, so that
// what the device cannot deliver is its Error. `pulse` hears of the bytes of the files, of most of
// each when it was read, and of the rest when it was checked.
Result<std::vector<Segment>> scan_segments(os::Files& files, const std::string& dir,
                                           const std::vector<std::string>& names,
                                           const Identity& identity, const ReadSettings& settings,
                                           const Pulse& pulse);

struct LogCut {
  std::string segment;         // name
  std::uint64_t offset = 0;    // from here to the end of the file
  std::uint64_t bytes = 0;     // how many
  std::uint64_t lsn = 0;       // first commit that stood there, if any did
  bool loss_possible = false;  // false: nothing of it was acknowledged
  std::string reason;
};

struct LogAssessment {
  std::uint64_t last_lsn = 0;     // number of the last commit in checkpoint and log together
  std::uint64_t log_end_lsn = 0;  // of the log alone; 0: no commits in it
  // The segments hold every commit from here to the last one; last_lsn + 1: not even that one.
  std::uint64_t unbroken_from = 0;
  std::uint64_t epoch = 0;  // highest seen
  std::uint32_t chain_crc = 0;
  bool chain_known = false;
  std::vector<std::size_t> live;      // segments that hold commits after the checkpoint, in order
  std::vector<std::string> obsolete;  // names of segments that nothing needs
  std::optional<LogCut> cut;
  std::vector<std::string> notes;  // possible losses, in words for operators
};

// What the log builds on.
struct LogBase {
  std::uint64_t lsn = 0;        // the files hold the effect of commits up to here
  std::uint64_t epoch = 0;      // of the opening that wrote them
  std::uint32_t chain_crc = 0;  // header checksum of that commit's block, where known
  bool chain_known = false;
};

struct LogContext {
  Identity identity;
  std::optional<LogBase> base;  // none: the log is all there is
  std::string boot_id;          // of the machine's present run
  std::uint64_t ack_word = 0;   // read_ack_word(); 0: unknown
  // The segment that was begun last, as log.head says it; none, or epoch 0: no one is missed.
  std::optional<SegmentHeader> newest;
  std::string newest_unknown;  // why nothing tells which it was; empty: it is known
};
// WalCorrupted or InconsistentState where acknowledged commits are missing.
Result<LogAssessment> assess_log(const std::vector<Segment>& segments, const LogContext& context);

// Names of segments in `dir`/wal in log order; names that the store does not know go to
// `strangers`.
Result<std::vector<std::string>> list_segments(os::Files& files, const std::string& dir,
                                               std::vector<std::string>* strangers = nullptr);
Result<std::string> read_whole(os::Files& files, const std::string& path, const Pulse& pulse);

}  // namespace defib::store
