#include "defib/store/log_writer.h"

#include <fmt/core.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/log_head.h"
#include "defib/store/log_reader.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kLargestZeroAhead = 1 << 20;
// Larger writes leave large folios in the page cache, which make every small write after them slow.
constexpr std::uint64_t kZeroStep = 64 << 10;
// Writing zeros ahead of large blocks would double the work of the device.
constexpr std::size_t kZeroAheadUpTo = 64 << 10;
constexpr std::size_t kKeptBuffer = 4 << 20;  // bytes of memory kept between writes

// How long a leader waits for threads that are about to join: a part of a sync, so that it cannot
// cost more than it can bring, and a number of looks, for clocks that stand still.
constexpr std::int64_t kGatherShare = 4;
constexpr int kMaxLooks = 1000;
constexpr std::uint32_t kImpatientRounds = 16;

std::string_view zeros() {
  static const std::string zeros(kZeroStep, '\0');
  return zeros;
}

}  // namespace

class LogWriter::Lead {
 public:
  explicit Lead(LogWriter& log) : log_(log) {
    for (;;) {
      const std::uint32_t round = log_.round_.load(std::memory_order_acquire);
      if (try_lead(log_)) return;
      log_.round_.wait(round);
    }
  }
  struct Taken {};
  Lead(LogWriter& log, Taken) : log_(log) {}
  Lead(const Lead&) = delete;
  Lead& operator=(const Lead&) = delete;
  ~Lead() {
    // In this order: who finds somebody leading waits for a later round than the one it has seen.
    log_.syncing_.store(false, std::memory_order_release);
    log_.round_.fetch_add(1, std::memory_order_acq_rel);
    log_.round_.notify_all();
  }
  static bool try_lead(LogWriter& log) {
    return !log.syncing_.exchange(true, std::memory_order_acq_rel);
  }

 private:
  LogWriter& log_;
};

LogWriter::LogWriter(os::Files& files, const os::Clock& clock, Start start)
    : files_(files),
      clock_(clock),
      start_(std::move(start)),
      tag_(start_.identity.tag()),
      wal_dir_(os::join_path(start_.dir, kWalDir)),
      zero_ahead_(std::clamp<std::uint64_t>(align_up(start_.segment_size / 64, kPageSize),
                                            kPageSize, kLargestZeroAhead)),
      watermark_(files, start_.identity.uuid),
      failure_note_(files, start_.identity.uuid, clock.boot_id()),
      chain_crc_(start_.chain_crc),
      written_lsn_(start_.last_lsn),
      durable_lsn_(start_.last_lsn),
      ended_lsn_(start_.last_lsn) {
  if (start_.executor == nullptr) return;
  supply_ = std::make_unique<SegmentSupply>(
      files, *start_.executor,
      SegmentSupply::Settings{.wal_dir = wal_dir_,
                              .epoch = start_.epoch,
                              .segment_size = align_up(start_.segment_size, kPageSize)});
}

LogWriter::~LogWriter() = default;

std::optional<Error> LogWriter::failure() const {
  if (!failed_.load(std::memory_order_acquire)) return std::nullopt;
  const std::lock_guard lock(failure_mutex_);
  return failure_;
}

Error LogWriter::fail(Error error) {
  failure_note_.note();
  const std::lock_guard lock(failure_mutex_);
  if (!failure_) failure_ = std::move(error);
  failed_.store(true, std::memory_order_release);
  return *failure_;
}

Result<> LogWriter::append(std::uint64_t first_lsn,
                           std::span<const std::string_view> transactions) {
  if (auto failed = failure()) return *std::move(failed);
  DEFIB_ASSERT(first_lsn == written_lsn() + 1 && !transactions.empty());
  const std::uint64_t told = durable_lsn();
  const std::uint32_t chain_crc = fill_buffer(first_lsn, transactions);
  const std::uint64_t size = buffer_.size();
  DEFIB_TRY(make_room(first_lsn, size));
  Result<> written = write_buffer();
  if (!written && written.error().code() == Code::kNoSpace && supply_ != nullptr &&
      supply_->discard()) {
    buffer_.resize(size);
    written = write_buffer();  // Into the space of spares that are not ready.
  }
  if (!written) return written;
  if (buffer_.capacity() > kKeptBuffer) buffer_ = {};
  chain_crc_ = chain_crc;
  told_durable_ = told;
  appended_.fetch_add(size, std::memory_order_relaxed);
  written_lsn_.store(first_lsn + transactions.size() - 1, std::memory_order_release);
  if (supply_ != nullptr) supply_->appended(size, grows_);
  return {};
}

// All of them as blocks, one after the other. The answer is the last one's header checksum.
std::uint32_t LogWriter::fill_buffer(std::uint64_t first_lsn,
                                     std::span<const std::string_view> transactions) {
  buffer_.clear();
  std::uint32_t chain_crc = chain_crc_;
  for (std::size_t begin = 0; begin < transactions.size();) {
    std::size_t payload = transactions[begin].size();
    std::size_t end = begin + 1;
    while (end < transactions.size() && payload + transactions[end].size() <= kMaxSharedPayload) {
      payload += transactions[end++].size();
    }
    chain_crc = add_block(first_lsn + begin, transactions.subspan(begin, end - begin), chain_crc);
    begin = end;
  }
  return chain_crc;
}

std::uint32_t LogWriter::add_block(std::uint64_t first_lsn,
                                   std::span<const std::string_view> transactions,
                                   std::uint32_t previous_crc) {
  const std::size_t start = buffer_.size();
  buffer_.resize(start + kBlockHeaderSize);
  for (const std::string_view transaction : transactions) buffer_ += transaction;
  const std::string_view payload = std::string_view(buffer_).substr(start + kBlockHeaderSize);
  BlockHeader header;
  header.epoch = start_.epoch;
  header.first_lsn = first_lsn;
  header.count = static_cast<std::uint32_t>(transactions.size());
  header.payload_size = static_cast<std::uint32_t>(payload.size());
  header.durable_lsn = durable_lsn();
  header.previous_crc = previous_crc;
  header.payload_crc = crc32c(payload);
  header.store_tag = tag_;
  encode(header, buffer_.data() + start);
  buffer_.resize(align_up(buffer_.size(), kBlockAlignment));
  return header.header_crc;
}

// Begins a segment where the current one cannot take `size` bytes more, or would have to grow
// although a spare is ready.
Result<> LogWriter::make_room(std::uint64_t first_lsn, std::uint64_t size) {
  const std::uint64_t end = offset_ + size + kBlockHeaderSize;
  if (file_ != nullptr && offset_ > kPageSize) {
    const bool full = end > start_.segment_size;
    const bool better = grows_ && end > zeroed_to_ && supply_ != nullptr && supply_->is_ready();
    if (full || better) DEFIB_TRY(rotate());
  }
  return file_ == nullptr ? begin_segment(first_lsn) : Result<>();
}

// The blocks, and where the zeros written ahead are used up, more of them.
Result<> LogWriter::write_buffer() {
  const std::uint64_t end = offset_ + buffer_.size();
  const std::uint64_t needed = align_up(end + kBlockHeaderSize, kPageSize);
  Result<> written;
  std::uint64_t size_after = zeroed_to_;
  if (end + kBlockHeaderSize <= zeroed_to_) {
    written = file_->write_at(offset_, buffer_);
  } else {
    const bool ahead = buffer_.size() <= kZeroAheadUpTo;
    size_after =
        ahead ? align_up(end + kBlockHeaderSize, std::min(kZeroStep, zero_ahead_)) : needed;
    buffer_.resize(size_after - offset_);
    written = file_->write_at(offset_, buffer_);
    if (!written && written.error().code() == Code::kNoSpace && size_after > needed) {
      size_after = needed;  // Then without the luxury.
      buffer_.resize(size_after - offset_);
      written = file_->write_at(offset_, buffer_);
    } else if (written && ahead) {
      const std::uint64_t wanted = align_up(size_after + zero_ahead_, kPageSize);
      if (write_zeros(*file_, size_after, wanted)) size_after = wanted;
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

Result<> LogWriter::write_zeros(os::File& file, std::uint64_t from, std::uint64_t to) {
  while (from < to) {
    const std::uint64_t step = std::min(kZeroStep - from % kZeroStep, to - from);
    DEFIB_TRY(file.write_at(from, zeros().substr(0, step)));
    from += step;
  }
  return {};
}

Result<> LogWriter::begin_segment(std::uint64_t first_lsn) {
  SegmentHeader header;
  header.uuid = start_.identity.uuid;
  header.epoch = start_.epoch;
  header.first_lsn = first_lsn;
  header.previous_crc = chain_crc_;
  header.created_wall_ns = clock_.wall_ns();
  header.boot_id = clock_.boot_id();
  const std::string name = segment_name(first_lsn, start_.epoch);
  const std::string path = os::join_path(wal_dir_, name);
  {
    const std::lock_guard lock(file_mutex_);
    file_name_ = name;  // Before it exists: retire() must not take it for an ended one.
  }
  std::optional<SegmentSupply::Spare> spare;
  if (supply_ != nullptr) spare = supply_->take();
  grows_ = !spare;
  zeroed_to_ = align_up(start_.segment_size, kPageSize);
  if (!spare) {
    DEFIB_TRY_ASSIGN(spare, make_short_spare(path));
  }
  // With the header on the disk it is a segment, and only then it gets the name of one.
  Result<> done = spare->file->write_at(0, encode(header));
  if (!done && done.error().code() == Code::kNoSpace) {
    (void)files_.remove(spare->path);
    return done;
  }
  if (done) done = spare->file->sync();
  if (done) {
    done = files_.rename(spare->path, path);
    if (!done && done.error().code() == Code::kNoSpace) {
      (void)files_.remove(spare->path);
      return done;
    }
  }
  if (done) done = files_.sync_dir(wal_dir_);
  if (!done) return fail(std::move(done.error()));
  DEFIB_TRY(name_in_head(header));
  watermark_.begin(header, durable_lsn());
  offset_ = kPageSize;
  told_durable_ = durable_lsn();
  const std::lock_guard lock(file_mutex_);
  file_ = std::move(spare->file);
  return {};
}

// NoSpace leaves an empty segment that the head does not name; the next attempt replaces it.
Result<> LogWriter::name_in_head(const SegmentHeader& header) {
  const std::lock_guard head(head_mutex_);
  named_ = true;  // Also where it fails: whatever stands there, nobody else is to write it.
  Result<> named = write_log_head(files_, start_.dir, header);
  if (!named && named.error().code() == Code::kNoSpace && supply_ != nullptr &&
      supply_->discard()) {
    named = write_log_head(files_, start_.dir, header);
  }
  if (!named && named.error().code() != Code::kNoSpace) return fail(std::move(named.error()));
  return named;
}

// Where none is ready: a file of a few zeros, to which more are added as the log grows.
Result<std::optional<SegmentSupply::Spare>> LogWriter::make_short_spare(const std::string& path) {
  std::optional<SegmentSupply::Spare> spare;
  spare.emplace(spare_name(path), nullptr);
  zeroed_to_ = kPageSize + zero_ahead_;
  Result<> done;
  if (auto file = files_.open(spare->path, os::OpenMode::kCreate)) {
    spare->file = *std::move(file);
    done = spare->file->truncate(0);  // What an attempt on a full disk left.
    if (done) done = write_zeros(*spare->file, 0, zeroed_to_);
  } else {
    done = std::move(file.error());
  }
  if (done) return spare;
  if (done.error().code() != Code::kNoSpace) return fail(std::move(done.error()));
  (void)files_.remove(spare->path);
  return std::move(done.error());
}

Result<> LogWriter::sync() {
  const std::uint64_t wanted = written_lsn();
  if (durable_lsn() >= wanted) {
    if (auto failed = failure()) return *std::move(failed);
    return {};
  }
  const std::uint32_t seen = round_.load(std::memory_order_acquire);
  waiting_.fetch_add(1, std::memory_order_acq_rel);
  Result<> result;
  for (std::uint32_t round = seen;; round = round_.load(std::memory_order_acquire)) {
    if (durable_lsn() >= wanted) break;
    if (auto failed = failure()) {
      result = *std::move(failed);
      break;
    }
    if (!Lead::try_lead(*this)) {
      round_.wait(round);
      continue;
    }
    const Lead lead(*this, Lead::Taken());
    if (durable_lsn() >= wanted) break;
    gather();
    result = sync_file();
    break;
  }
  waiting_.fetch_sub(1, std::memory_order_acq_rel);
  return result;
}

// Threads that were served together come back together. A leader that finds only some of those that
// were here at the end of the last round waits a little for the others: two half groups taking
// turns would need twice as many syncs.
void LogWriter::gather() {
  if (expected_ <= 1) return;
  if (impatient_for_ > 0) {
    --impatient_for_;
    return;
  }
  const std::int64_t until = clock_.mono_ns() + last_sync_ns_ / kGatherShare;
  for (int look = 0; look < kMaxLooks; ++look) {
    if (waiting_.load(std::memory_order_acquire) >= expected_) return;
    if (clock_.mono_ns() >= until) break;
    std::this_thread::yield();
  }
  impatient_for_ = kImpatientRounds;  // They have something else to do.
}

// For the leader. The kernel tells a failed write-back to one sync only: its error and its
// consequence stay together here.
Result<> LogWriter::sync_file() {
  if (auto failed = failure()) return *std::move(failed);
  std::shared_ptr<os::File> file;
  {
    const std::lock_guard lock(file_mutex_);
    file = file_;
  }
  const std::uint64_t covered = written_lsn();
  if (file == nullptr) return {};
  const std::int64_t begun = clock_.mono_ns();
  if (auto synced = file->sync(); !synced) return fail(std::move(synced.error()));
  last_sync_ns_ = clock_.mono_ns() - begun;
  expected_ = waiting_.load(std::memory_order_acquire);
  if (covered > durable_lsn()) durable_lsn_.store(covered, std::memory_order_release);
  return {};
}

Result<> LogWriter::rotate() {
  const Lead lead(*this);
  if (auto failed = failure()) return *std::move(failed);
  if (durable_lsn() < written_lsn()) DEFIB_TRY(sync_file());
  const std::lock_guard lock(file_mutex_);
  if (file_ != nullptr && offset_ == kPageSize) return {};  // log.head names it: it has to stay.
  file_ = nullptr;
  file_name_.clear();
  ended_lsn_ = written_lsn();
  return {};
}

Result<> LogWriter::seal() {
  DEFIB_TRY(sync());
  const std::uint64_t last = written_lsn();
  // A segment that is about to end needs no seal: the next one's header is one.
  const bool fits = offset_ + 2 * kBlockHeaderSize <= zeroed_to_;
  if (file_ == nullptr || told_durable_ >= last || !fits) return {};
  buffer_.clear();
  const std::uint32_t chain_crc = add_block(last + 1, {}, chain_crc_);
  const std::uint64_t size = buffer_.size();
  DEFIB_TRY(write_buffer());
  chain_crc_ = chain_crc;
  told_durable_ = last;
  appended_.fetch_add(size, std::memory_order_relaxed);
  const Lead lead(*this);
  return sync_file();
}

std::shared_ptr<const void> LogWriter::hold_segments() {
  const std::lock_guard lock(retire_mutex_);
  auto held = holds_.lock();
  if (held == nullptr) {
    held = std::make_shared<int>(0);
    holds_ = held;
  }
  return held;
}

void LogWriter::discard_spares() {
  if (supply_ == nullptr) return;
  supply_->stop();
  (void)supply_->discard();
}

Result<> LogWriter::retire(std::uint64_t boundary, std::uint64_t retain_bytes) {
  Result<> done = let_go(boundary, retain_bytes);
  if (!done && done.error().code() != Code::kNoSpace) return fail(std::move(done.error()));
  return done;
}

Result<> LogWriter::let_go(std::uint64_t boundary, std::uint64_t retain_bytes) {
  const std::lock_guard lock(retire_mutex_);
  DEFIB_TRY_ASSIGN(std::vector<std::string> names, list_segments(files_, start_.dir));
  DEFIB_TRY(keep_needed(names, boundary));
  DEFIB_TRY(keep_newest(names, retain_bytes));
  if (!names.empty() && parse_segment_name(names.back())->first_lsn > boundary) {
    // An empty one that an earlier opening left, and that log.head may name: it is not needed.
    const std::lock_guard head(head_mutex_);
    if (!named_) DEFIB_TRY(write_log_head(files_, start_.dir, no_segment(start_.identity.uuid)));
  }
  const bool held = !holds_.expired();
  std::vector<std::string> material;
  for (const std::string& name : names) {
    const std::string path = os::join_path(wal_dir_, name);
    if (!quarantine_tails_of(files_, start_.dir, name, start_.torn)) continue;
    std::optional<std::string> as_material;
    if (supply_ != nullptr && !held && parse_segment_name(name)->epoch == start_.epoch) {
      as_material = supply_->wanted_material();
    }
    if (as_material) {
      DEFIB_TRY(files_.rename(path, *as_material));
      material.push_back(*std::move(as_material));
    } else {
      DEFIB_TRY(files_.remove(path));
    }
  }
  if (!names.empty()) DEFIB_TRY(files_.sync_dir(wal_dir_));
  // Only now: zeros under a name that a power failure brings back would be a hole in the log.
  for (std::string& path : material) supply_->add_material(std::move(path));
  return {};
}

// Takes out of `names` what holds commits after `boundary`, and the segment in use.
Result<> LogWriter::keep_needed(std::vector<std::string>& names, std::uint64_t boundary) const {
  // After the listing: what ended since then is known to have ended here.
  const std::lock_guard lock(file_mutex_);
  std::size_t covered = 0;
  for (; covered < names.size(); ++covered) {
    if (names[covered] == file_name_) break;
    // What an attempt on a full disk left: the next one begins a segment under that very name.
    const SegmentName name = *parse_segment_name(names[covered]);
    if (name.epoch == start_.epoch && name.first_lsn > boundary) break;
    const bool is_last = covered + 1 == names.size();
    const std::uint64_t end =
        is_last ? ended_lsn_ : parse_segment_name(names[covered + 1])->first_lsn - 1;
    if (end > boundary) break;
  }
  names.resize(covered);
  return {};
}

// Takes out of `names`, all of which could go, the newest until they come to `retain_bytes`.
Result<> LogWriter::keep_newest(std::vector<std::string>& names, std::uint64_t retain_bytes) {
  while (!names.empty() && retain_bytes > 0) {
    DEFIB_TRY_ASSIGN(const auto file,
                     files_.open(os::join_path(wal_dir_, names.back()), os::OpenMode::kRead));
    DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
    retain_bytes -= std::min(size, retain_bytes);
    names.pop_back();
  }
  return {};
}

}  // namespace defib::store
