// LegacyCheckpoint: the one file of records that a store of format version 1 had, for reading.
//
// It holds every record as of one commit, sorted by table name and key: a header page, chunks of
// about 64 KiB under a checksum each, and a footer with the counts. It was written under a
// temporary name, synced and renamed, so a file with a checkpoint's name is complete, and whatever
// does not verify in it is damage. Migration reads it as a whole, repair takes what is left of a
// damaged one; nothing writes it any more.
//
// Thread rule: functions; the files are the caller's to keep from others.

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

// Names of checkpoint files in `dir`, newest first.
Result<std::vector<std::string>> list_checkpoints(os::Files& files, const std::string& dir);

// Corrupted where it does not verify; InconsistentState where it is another store's.
Result<CheckpointHeader> read_checkpoint_header(os::Files& files, const std::string& path,
                                                const Identity& identity);

// Hands out every record in order and answers how many there are. Memory for one chunk only, so
// records may have been handed out when it fails: Corrupted, or the sink's own error.
using CheckpointSink = std::function<Result<>(const RecordView&)>;
Result<std::uint64_t> read_checkpoint(os::Files& files, const std::string& path,
                                      const Identity& identity, const CheckpointSink& sink);

// A stretch of a damaged checkpoint that cannot be read, between two records (exclusive) that can.
struct CheckpointGap {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string after_table;  // empty: from the start
  std::string after_key;
  std::string before_table;  // empty: to the end
  std::string before_key;
};
// Every record of every sound chunk goes to `sink`, what stands between them is the answer.
std::vector<CheckpointGap> salvage_checkpoint(std::string_view bytes,
                                              const std::function<void(const RecordView&)>& sink);

// The clean mark as version 1 wrote it; the manifest's sequence, which it did not have, is zero.
std::optional<CleanRecord> decode_legacy_clean_record(std::string_view bytes);

}  // namespace defib::store
