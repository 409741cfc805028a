// LogWriter: appends blocks to the write-ahead log and makes them durable.
//
// Order of events that everything else relies on:
//   - a segment's header and name are durable before a block is written to it, and everything in
//     the segment before it is durable before that name is; log.head names it before that, too;
//   - durable_lsn() grows only after the sync that covers it has succeeded;
//   - what a segment is written over is zeros, and its end is zeros: a log that was cut short is
//     recognized by missing ones, and no older life of the file shows through;
//   - a failed sync, or a write that failed for another reason than a full disk, is final: every
//     later call answers with that first error and nothing is written any more; it is noted in
//     memory that outlives the process before anything else happens (failure_note.h);
//   - after a write on a full disk the file is cut back to its last whole block.
// A segment is a spare file that was zeroed in the background (segment_supply.h), or, where none is
// ready, a new file that grows by steps of zeros written with the blocks.
//
// Thread rule: append(), rotate() and seal() from one thread at a time; the rest from any, also
// beside it. No sync ever makes append() wait, but for the one that rotate() needs.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/ack_watermark.h"
#include "defib/store/failure_note.h"
#include "defib/store/format.h"
#include "defib/store/quarantine.h"
#include "defib/store/segment_supply.h"
#include "defib/store/store.h"

namespace defib::store {

// Transactions that are written together share blocks of at most so many bytes, the unit under one
// checksum and the most that one rotten bit makes unreadable. A larger transaction has one to
// itself.
inline constexpr std::size_t kMaxSharedPayload = 16 << 10;

class LogWriter {
 public:
  struct Start {
    std::string dir;  // the store's
    Identity identity;
    std::uint64_t epoch = 0;
    std::uint64_t last_lsn = 0;  // durable already
    std::uint32_t chain_crc = 0;
    std::uint64_t segment_size = 0;
    Executor* executor = nullptr;  // makes spare segments; null: there are none
    // Go to the quarantine before their segments go. One that cannot stays for the next opening.
    std::vector<TornTail> torn{};
  };
  LogWriter(os::Files& files, const os::Clock& clock, Start start);
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;
  ~LogWriter();

  // Writes transactions (TransactionEncoder::finish()), numbered `first_lsn` on, in one write. The
  // first append of a writer begins a segment. NoSpace: nothing was appended, and it may be tried
  // again. Else: failed for good.
  Result<> append(std::uint64_t first_lsn, std::span<const std::string_view> transactions);
  // Makes everything that was appended before the call durable, or joins a sync that does. Threads
  // that call it at the same time share one sync.
  Result<> sync();
  // Ends the current segment, so that the next append begins another one; an empty one stays.
  Result<> rotate();
  // To be called when nothing was written for a while: if the log's last block does not know yet
  // that everything before its end is durable, one without transactions is added that does, so that
  // damage of the last commit can be told from a torn write. Durable on return. NoSpace is no harm.
  Result<> seal();

  // To be called once the promise for all commits up to `lsn` holds and before it is given; after
  // kill -9 the next opening knows (ack_watermark.h).
  void acknowledge(std::uint64_t lsn) { watermark_.acknowledge(lsn); }

  // Lets segments go all of whose commits are at or below `boundary`, oldest first, but keeps the
  // newest of them until their files come to `retain_bytes` at least. Those that this writer began
  // are used again; older ones, which a recovery may have mapped, are removed.
  Result<> retire(std::uint64_t boundary, std::uint64_t retain_bytes);
  // While one of these lives, no segment is used again; it may be removed, but who has it open
  // reads what it held. For reading the log beside its writer.
  std::shared_ptr<const void> hold_segments();
  // Gives back the space of spare files, for a store that is being closed.
  void discard_spares();

  std::uint64_t written_lsn() const { return written_lsn_.load(std::memory_order_acquire); }
  std::uint64_t durable_lsn() const { return durable_lsn_.load(std::memory_order_acquire); }
  // Bytes of blocks appended by this writer.
  std::uint64_t appended_bytes() const { return appended_.load(std::memory_order_relaxed); }
  std::uint32_t chain_crc() const { return chain_crc_; }
  std::uint64_t epoch() const { return start_.epoch; }
  std::optional<Error> failure() const;
  // Remembers the first failure, also one of a neighbour, and answers with it.
  Error fail(Error error);

 private:
  // Takes part in rounds of syncs: there is one leader at a time.
  class Lead;
  Result<> make_room(std::uint64_t first_lsn, std::uint64_t size);
  Result<> begin_segment(std::uint64_t first_lsn);
  Result<> name_in_head(const SegmentHeader& header);
  Result<std::optional<SegmentSupply::Spare>> make_short_spare(const std::string& path);
  Result<> write_zeros(os::File& file, std::uint64_t from, std::uint64_t to);
  std::uint32_t fill_buffer(std::uint64_t first_lsn,
                            std::span<const std::string_view> transactions);
  std::uint32_t add_block(std::uint64_t first_lsn, std::span<const std::string_view> transactions,
                          std::uint32_t previous_crc);
  Result<> write_buffer();
  Result<> sync_file();
  void gather();
  Result<> let_go(std::uint64_t boundary, std::uint64_t retain_bytes);
  Result<> keep_needed(std::vector<std::string>& names, std::uint64_t boundary) const;
  Result<> keep_newest(std::vector<std::string>& names, std::uint64_t retain_bytes);

  os::Files& files_;
  const os::Clock& clock_;
  const Start start_;
  const std::uint64_t tag_;
  const std::string wal_dir_;
  const std::uint64_t zero_ahead_;
  AckWatermark watermark_;
  FailureNote failure_note_;
  std::unique_ptr<SegmentSupply> supply_;  // null: no spares

  // Of the appending thread.
  std::string buffer_;
  std::uint32_t chain_crc_;
  std::uint64_t offset_ = 0;        // where the next block goes
  std::uint64_t zeroed_to_ = 0;     // the file's size
  bool grows_ = false;              // the segment is not a spare
  std::uint64_t told_durable_ = 0;  // durable_lsn of the last block

  std::atomic<std::uint64_t> appended_ = 0;
  std::atomic<std::uint64_t> written_lsn_;
  std::atomic<std::uint64_t> durable_lsn_;

  std::atomic<bool> syncing_ = false;       // somebody leads
  std::atomic<std::uint32_t> round_ = 0;    // one more when a leader is done
  std::atomic<std::uint32_t> waiting_ = 0;  // threads in sync()
  // Of the leader.
  std::uint32_t expected_ = 1;       // threads that may be on their way into the next round
  std::uint32_t impatient_for_ = 0;  // rounds in which nobody is waited for
  std::int64_t last_sync_ns_ = 0;

  mutable std::mutex file_mutex_;   // guards the three below
  std::shared_ptr<os::File> file_;  // null: the next append begins a segment
  std::string file_name_;           // of file_
  std::uint64_t ended_lsn_;         // last commit in segments before file_

  std::mutex head_mutex_;  // one writer of log.head at a time; guards named_
  bool named_ = false;     // this writer has named a segment there

  std::mutex retire_mutex_;  // one retire() at a time; guards holds_; before head_mutex_
  std::weak_ptr<const void> holds_;

  std::atomic<bool> failed_ = false;
  mutable std::mutex failure_mutex_;  // guards failure_
  std::optional<Error> failure_;
};

}  // namespace defib::store
