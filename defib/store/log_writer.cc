#include "defib/store/log_writer.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kLargestZeroAhead = 1 << 20;
// Writing zeros ahead of large blocks would double the work of the device.
constexpr std::size_t kZeroAheadUpTo = 64 << 10;

}  // namespace

LogWriter::LogWriter(os::Files& files, const os::Clock& clock, Start start)
    : files_(files),
      clock_(clock),
      start_(std::move(start)),
      zero_ahead_(std::clamp<std::uint64_t>(align_up(start_.segment_size / 64, kPageSize),
                                            kPageSize, kLargestZeroAhead)),
      written_lsn_(start_.last_lsn),
      durable_lsn_(start_.last_lsn) {}

std::optional<Error> LogWriter::failure() const {
  const std::lock_guard lock(failure_mutex_);
  return failure_;
}

Error LogWriter::fail(Error error) {
  const std::lock_guard lock(failure_mutex_);
  if (!failure_) failure_ = std::move(error);
  return *failure_;
}

Result<> LogWriter::append(std::uint64_t first_lsn, std::uint32_t count, std::string_view payload) {
  if (auto failed = failure()) return *std::move(failed);
  DEFIB_ASSERT(first_lsn == written_lsn() + 1);
  const std::uint64_t size = align_up(kBlockHeaderSize + payload.size(), kBlockAlignment);
  const bool is_full = file_ != nullptr && offset_ > kPageSize &&
                       offset_ + size + kBlockHeaderSize > start_.segment_size;
  if (is_full) DEFIB_TRY(rotate());
  if (file_ == nullptr) DEFIB_TRY(begin_segment(first_lsn));

  BlockHeader header;
  header.epoch = start_.epoch;
  header.first_lsn = first_lsn;
  header.count = count;
  header.payload_size = static_cast<std::uint32_t>(payload.size());
  header.durable_lsn = durable_lsn();
  header.previous_crc = start_.chain_crc;
  header.payload_crc = crc32c(payload);
  header.store_tag = start_.identity.tag();
  std::string block;
  block.reserve(size);
  encode(header, block);
  block += payload;
  block.resize(size);
  DEFIB_TRY(write_block(block));
  start_.chain_crc = header.header_crc;
  appended_.fetch_add(size, std::memory_order_relaxed);
  written_lsn_.store(header.next_lsn() - 1, std::memory_order_release);
  return {};
}

// The block, and where the zeros written ahead are used up, more of them in the same write.
Result<> LogWriter::write_block(const std::string& block) {
  const std::uint64_t end = offset_ + block.size();
  Result<> written;
  std::uint64_t size_after = zeroed_to_;
  if (end + kBlockHeaderSize <= zeroed_to_) {
    written = file_->write_at(offset_, block);
  } else {
    const std::uint64_t ahead = block.size() <= kZeroAheadUpTo ? zero_ahead_ : 0;
    size_after = align_up(end + kBlockHeaderSize + ahead, kPageSize);
    std::string longer = block;
    longer.resize(size_after - offset_);
    written = file_->write_at(offset_, longer);
    if (!written && written.error().code() == Code::kNoSpace && ahead > 0) {
      size_after = align_up(end + kBlockHeaderSize, kPageSize);  // Then without the luxury.
      longer.resize(size_after - offset_);
      written = file_->write_at(offset_, longer);
    }
  }
  if (written) {
    zeroed_to_ = std::max(zeroed_to_, size_after);
    offset_ = end;
    return {};
  }
  if (written.error().code() != Code::kNoSpace) return fail(std::move(written.error()));
  // What was written of it must not stay: give the space back, and put the end mark back.
  Result<> cut = file_->truncate(offset_);
  if (cut) cut = file_->truncate(zeroed_to_);
  if (!cut) return fail(std::move(cut.error()));
  return written;
}

Result<> LogWriter::begin_segment(std::uint64_t first_lsn) {
  const std::string wal = os::join_path(start_.dir, kWalDir);
  const std::string path = os::join_path(wal, segment_name(first_lsn, start_.epoch));
  SegmentHeader header;
  header.uuid = start_.identity.uuid;
  header.epoch = start_.epoch;
  header.first_lsn = first_lsn;
  header.previous_crc = start_.chain_crc;
  header.created_wall_ns = clock_.wall_ns();
  header.boot_id = clock_.boot_id();
  std::string content = encode(header);
  content.resize(kPageSize + zero_ahead_);

  auto opened = files_.open(path, os::OpenMode::kCreate);
  if (!opened) {
    if (opened.error().code() == Code::kNoSpace) return Error(std::move(opened.error()));
    return fail(std::move(opened.error()));
  }
  std::shared_ptr<os::File> file = *std::move(opened);
  // A segment of that name can only be what an attempt on a full disk left.
  Result<> done = file->truncate(0);
  if (done) done = file->write_at(0, content);
  if (!done && done.error().code() == Code::kNoSpace) {
    (void)files_.remove(path);
    return done;
  }
  if (done) done = file->sync();
  if (done) done = files_.sync_dir(wal);
  if (!done) return fail(std::move(done.error()));
  const std::lock_guard lock(sync_mutex_);
  file_ = std::move(file);
  offset_ = kPageSize;
  zeroed_to_ = content.size();
  return {};
}

Result<> LogWriter::sync() {
  const std::uint64_t wanted = written_lsn();
  if (durable_lsn() >= wanted) {
    if (auto failed = failure()) return *std::move(failed);
    return {};
  }
  const std::lock_guard lock(sync_mutex_);
  if (durable_lsn() >= wanted) return {};
  return sync_locked();
}

Result<> LogWriter::sync_locked() {
  if (auto failed = failure()) return *std::move(failed);
  const std::uint64_t covered = written_lsn();
  if (file_ == nullptr || durable_lsn() >= covered) return {};
  // The kernel tells a failed write-back to one sync only; the mutex keeps that sync's error and
  // its consequence together.
  if (auto synced = file_->sync(); !synced) return fail(std::move(synced.error()));
  durable_lsn_.store(covered, std::memory_order_release);
  return {};
}

Result<> LogWriter::rotate() {
  const std::lock_guard lock(sync_mutex_);
  DEFIB_TRY(sync_locked());
  file_ = nullptr;
  return {};
}

}  // namespace defib::store
