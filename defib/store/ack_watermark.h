// AckWatermark: how far a store has acknowledged, where the next opening finds it after kill -9.
//
// One word in memory that outlives the process and ends with the machine's run (VolatilePage). It
// is stored after the write or sync that makes a commit's promise true and before the promise is
// given, so every acknowledged commit is at or below it. With it a bad last block after a mere kill
// is told from a torn one: acknowledged and broken is rot, not acknowledged is a cut-off write.
//
// A word means something only for the segment it was stored for, in the run of the machine it was
// stored in: its upper 16 bits are a check over both and the commit. Whatever else stands there, a
// word of another segment, of a copy of the store, or damage, is "unknown", and the verdicts then
// fall back on what the files say.
//
//   bits 0 to 47    number of the last acknowledged commit
//   bits 48 to 63   CRC32C, folded, of: commit, the segment's epoch, first commit and creation
//                   time, and the boot id
//
// Thread rule: begin() and acknowledge() from any thread; the word never goes back.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "defib/os/files.h"
#include "defib/store/format.h"

namespace defib::store {

inline constexpr std::size_t kAckWord = 0;  // of the page
std::string ack_page_name(std::string_view uuid);

// 0 where `lsn` does not fit: unknown.
std::uint64_t encode_ack(std::uint64_t lsn, const SegmentHeader& segment);
// The last commit acknowledged by whoever wrote `segment` in the present run of the machine.
std::optional<std::uint64_t> decode_ack(std::uint64_t word, const SegmentHeader& segment,
                                        std::string_view boot_id);

// The store's word, 0 where there is none. Makes no page. Read it before the log: a live writer
// goes on.
std::uint64_t read_ack_word(os::Files& files, std::string_view uuid);

class AckWatermark {
 public:
  // Without such memory everything is a no-op, and what was acknowledged is unknown.
  AckWatermark(os::Files& files, std::string_view uuid);

  // From now on for `segment`, whose name is durable; everything up to `lsn` was synced before it.
  void begin(const SegmentHeader& segment, std::uint64_t lsn);
  // Call it when the promise for all commits up to `lsn` holds and before it is given.
  void acknowledge(std::uint64_t lsn);

 private:
  std::unique_ptr<os::VolatilePage> page_;  // null: there is no such memory
  std::mutex mutex_;                        // guards all below
  std::optional<std::uint32_t> check_;      // of the segment; none before begin()
  std::uint64_t lsn_ = 0;
};

// For a store that was closed cleanly: there is nothing left to tell.
void remove_ack_word(os::Files& files, std::string_view uuid);

}  // namespace defib::store
