// LogWriter: appends blocks to the write-ahead log and makes them durable.
//
// Order of events that everything else relies on:
//   - a segment's header and name are durable before a block is written to it, and everything in
//     the segment before it is durable before that header is written;
//   - durable_lsn() grows only after the sync that covers it has succeeded;
//   - a failed sync, or a write that failed for another reason than a full disk, is final: every
//     later call answers with that first error and nothing is written any more;
//   - after a write on a full disk the file is cut back to its last whole block.
// A segment always ends with zeros, written ahead of the blocks: syncing a file that does not grow
// costs one write less, and a log that was cut short is recognized by the missing zeros.
//
// Thread rule: append() and rotate() from one thread at a time; sync(), the positions and failure()
// from any.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/format.h"

namespace defib::store {

class LogWriter {
 public:
  struct Start {
    std::string dir;  // the store's
    Identity identity;
    std::uint64_t epoch = 0;
    std::uint64_t last_lsn = 0;  // durable already
    std::uint32_t chain_crc = 0;
    std::uint64_t segment_size = 0;
  };
  LogWriter(os::Files& files, const os::Clock& clock, Start start);

  // Writes `count` transactions as one block. The first append of a writer begins a segment.
  // NoSpace: nothing was appended, and it may be tried again. Else: failed for good.
  Result<> append(std::uint64_t first_lsn, std::uint32_t count, std::string_view payload);
  // Makes everything that was appended before the call durable, or joins a sync that does.
  Result<> sync();
  // Ends the current segment, so that the next append begins another one.
  Result<> rotate();

  std::uint64_t written_lsn() const { return written_lsn_.load(std::memory_order_acquire); }
  std::uint64_t durable_lsn() const { return durable_lsn_.load(std::memory_order_acquire); }
  // Bytes of blocks appended by this writer.
  std::uint64_t appended_bytes() const { return appended_.load(std::memory_order_relaxed); }
  std::uint32_t chain_crc() const { return start_.chain_crc; }
  std::uint64_t epoch() const { return start_.epoch; }
  std::optional<Error> failure() const;
  // Remembers the first failure, also one of a neighbour, and answers with it.
  Error fail(Error error);

 private:
  Result<> begin_segment(std::uint64_t first_lsn);
  Result<> write_block(const std::string& block);
  Result<> sync_locked();

  os::Files& files_;
  const os::Clock& clock_;
  Start start_;
  std::uint64_t zero_ahead_;
  std::uint64_t offset_ = 0;     // where the next block goes
  std::uint64_t zeroed_to_ = 0;  // the file's size
  std::atomic<std::uint64_t> appended_ = 0;
  std::atomic<std::uint64_t> written_lsn_;
  std::atomic<std::uint64_t> durable_lsn_;

  std::mutex sync_mutex_;             // one sync at a time; guards changes of file_
  std::shared_ptr<os::File> file_;    // the appending thread reads it without the mutex
  mutable std::mutex failure_mutex_;  // guards failure_
  std::optional<Error> failure_;
};

}  // namespace defib::store
