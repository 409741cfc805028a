#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/executor.h"
#include "defib/store/log_reader.h"
#include "defib/store/segment_supply.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kMarkEvery = 256 << 10;  // bytes of log: one piece of parallel work
constexpr std::size_t kReadBuffer = 256 << 10;   // stays in the processor's cache
constexpr std::size_t kSegmentsPerThread = 2;

// What of a pulse's bytes counts when they are read, and what when they are checked: a disk is
// slower than the checks, and who estimates the time that is left goes by the slower one.
constexpr std::uint64_t when_checked(std::uint64_t bytes) {
  return bytes / 16;
}
constexpr std::uint64_t when_read(std::uint64_t bytes) {
  return bytes - when_checked(bytes);
}

class OwnedBytes final : public os::FileView {
 public:
  explicit OwnedBytes(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string_view bytes() const override { return bytes_; }

 private:
  std::string bytes_;
};

bool all_zero(std::string_view bytes) {
  constexpr std::size_t kWords = 8;
  constexpr std::size_t kLine = kWords * sizeof(std::uint64_t);
  while (bytes.size() >= kLine) {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < kWords; ++i) any |= load<std::uint64_t>(bytes.data() + i * 8);
    if (any != 0) return false;
    bytes.remove_prefix(kLine);
  }
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

// The header of a block of this store at `offset`, with a payload that fits into the file.
std::optional<BlockHeader> fitting_header(std::string_view bytes, std::uint64_t offset,
                                          std::uint64_t tag, std::string& problem) {
  const auto header = decode_block_header(bytes.substr(offset), problem);
  if (!header) return std::nullopt;
  if (header->store_tag != tag) {
    problem = "the block belongs to another store";
    return std::nullopt;
  }
  if (header->payload_size > bytes.size() - offset - kBlockHeaderSize) {
    problem = fmt::format("the block's {} bytes reach beyond the file", header->payload_size);
    return std::nullopt;
  }
  return header;
}

// What a header must also be to come next.
bool continues(const BlockHeader& header, const Segment& segment, std::string& problem) {
  if (header.epoch != segment.header->epoch) {
    problem = fmt::format("a block of epoch {} in a segment of epoch {}", header.epoch,
                          segment.header->epoch);
  } else if (header.first_lsn != segment.next_lsn) {
    problem = fmt::format("commit {} stands where {} belongs", header.first_lsn, segment.next_lsn);
  } else if (header.previous_crc != segment.chain_crc) {
    problem = "the block does not follow the one before it";
  } else if (header.next_lsn() < header.first_lsn) {
    problem = "the block's commits have no numbers left";
  } else if (header.durable_lsn >= std::max<std::uint64_t>(header.first_lsn, 1)) {
    problem = "the block says that it was synced before it was written";
  } else {
    return true;
  }
  return false;
}

bool holds_any_block(std::string_view bytes, std::uint64_t tag) {
  std::string ignored;
  for (std::uint64_t at = 0; at + kBlockHeaderSize <= bytes.size(); at += kBlockAlignment) {
    const auto header = decode_block_header(bytes.substr(at), ignored);
    if (header && header->store_tag == tag) return true;
  }
  return false;
}

std::uint64_t end_of(std::uint64_t offset, const BlockHeader& header) {
  return align_up(offset + kBlockHeaderSize + header.payload_size, kBlockAlignment);
}

// Reads a part of a file for the sake of its errors alone.
Result<> try_to_read(os::File& file, std::uint64_t offset, std::uint64_t size) {
  const auto buffer = std::make_unique_for_overwrite<char[]>(kReadBuffer);
  for (std::uint64_t done = 0; done < size;) {
    const std::size_t step = std::min<std::uint64_t>(kReadBuffer, size - done);
    DEFIB_TRY_ASSIGN(const std::size_t got, file.read_at(offset + done, buffer.get(), step));
    if (got == 0) break;
    done += got;
  }
  return {};
}

// One segment's scan: by one thread alone, or in parts that several threads share.
class Scan {
 public:
  // With `file` every byte is read through it before it is used from the segment's mapping, by
  // run_alone() as it goes along; for the parts it must have been read before.
  Scan(Segment& segment, std::uint64_t tag, os::File* file)
      : segment_(segment), tag_(tag), file_(file) {}

  // Everything, with each byte fetched into the processor's cache once.
  void run_alone(SharedPulse& pulse);

  // The parts, in this order. Pieces may be done in parallel.
  void follow_headers(SharedPulse& pulse) { follow(pulse, Payloads::kLater, ~0ULL); }
  std::size_t pieces() const { return segment_.marks.size(); }
  void check_payloads(std::size_t piece, SharedPulse& pulse);
  void apply_bad_payload(SharedPulse& pulse);
  std::size_t rest_pieces() const;  // of what follows the stop
  void check_rest(std::size_t piece, SharedPulse& pulse);
  void look_for_later_blocks();

  // Why a byte could not be read.
  const std::optional<Error>& failure() const { return failure_; }

 private:
  enum class Payloads { kNow, kLater };
  // Follows the chain of blocks from the start of the segment to where it ends, or to `limit`.
  void follow(SharedPulse& pulse, Payloads payloads, std::uint64_t limit);
  bool read_up_to(std::uint64_t end, SharedPulse& pulse);
  bool payload_matches(const ScannedBlock& block, SharedPulse& pulse) const;
  void stop_at_payload(const ScannedBlock& block);
  std::string_view rest() const {
    return segment_.bytes.substr(
        std::min<std::size_t>(segment_.stop.offset, segment_.bytes.size()));
  }

  Segment& segment_;
  const std::uint64_t tag_;
  os::File* const file_;
  std::uint64_t read_ = 0;  // bytes of the file, by run_alone()
  std::optional<Error> failure_;
  std::atomic<std::uint64_t> bad_payload_ = ~0ULL;  // offset of the first block with one
  std::atomic<bool> rest_holds_bytes_ = false;
};

void Scan::run_alone(SharedPulse& pulse) {
  follow(pulse, Payloads::kNow, ~0ULL);
  for (std::size_t piece = 0; piece < rest_pieces() && !pulse.stopped(); ++piece) {
    const std::uint64_t end = segment_.stop.offset + (piece + 1) * kPulseStep;
    if (read_up_to(end, pulse)) check_rest(piece, pulse);
  }
  if (segment_.header && !pulse.stopped()) look_for_later_blocks();
}

// False where that fails, which ends everything.
bool Scan::read_up_to(std::uint64_t end, SharedPulse& pulse) {
  if (file_ == nullptr) return true;
  end = std::min<std::uint64_t>(end, segment_.bytes.size());
  while (read_ < end) {
    const std::uint64_t size = std::min<std::uint64_t>(kReadBuffer, segment_.bytes.size() - read_);
    if (Result<> done = try_to_read(*file_, read_, size); !done) {
      failure_ = std::move(done.error());
      pulse.stop();
      return false;
    }
    read_ += size;
    if (!pulse.add(when_read(size))) return false;
  }
  return true;
}

void Scan::follow(SharedPulse& pulse, Payloads payloads, std::uint64_t limit) {
  const std::string_view bytes = segment_.bytes;
  const bool alone = payloads == Payloads::kNow;
  if (alone && !read_up_to(kPageSize, pulse)) return;
  segment_.header = decode_segment_header(bytes, segment_.header_problem);
  segment_.marks.clear();
  if (!segment_.header) {
    if (alone && !read_up_to(bytes.size(), pulse)) return;
    segment_.holds_blocks = holds_any_block(bytes, tag_);
    return;
  }
  segment_.next_lsn = segment_.header->first_lsn;
  segment_.chain_crc = segment_.header->previous_crc;
  ScannedBlock block{.offset = kPageSize, .header = {}};
  std::uint64_t next_mark = block.offset;
  std::uint64_t next_pulse = block.offset + kPulseStep;
  Stop& stop = segment_.stop;
  for (;;) {
    stop.offset = block.offset;
    stop.lsn = segment_.next_lsn;
    if (block.offset >= limit) return;
    const std::uint64_t payload_at = block.offset + kBlockHeaderSize;
    if (payload_at > bytes.size()) {
      stop.kind = StopKind::kEndOfFile;
      return;
    }
    if (alone && !read_up_to(payload_at, pulse)) return;
    if (all_zero(bytes.substr(block.offset, kBlockHeaderSize))) {
      stop.kind = StopKind::kZeros;
      return;
    }
    const auto header = fitting_header(bytes, block.offset, tag_, stop.problem);
    if (!header || !continues(*header, segment_, stop.problem)) {
      stop.kind = StopKind::kBadBlock;
      return;
    }
    block.header = *header;
    if (alone) {
      if (!read_up_to(payload_at + header->payload_size, pulse)) return;
      if (!payload_matches(block, pulse)) return stop_at_payload(block);
    }
    if (block.offset >= next_mark) {
      segment_.marks.push_back(block.offset);
      next_mark = block.offset + kMarkEvery;
    }
    segment_.next_lsn = header->next_lsn();
    segment_.chain_crc = header->header_crc;
    block.offset = end_of(block.offset, *header);
    if (block.offset >= next_pulse) {
      next_pulse = block.offset + kPulseStep;
      if (!pulse.add(alone ? when_checked(kPulseStep) : 0)) return;
    }
  }
}

bool Scan::payload_matches(const ScannedBlock& block, SharedPulse& pulse) const {
  std::string_view payload = segment_.payload(block);
  std::uint32_t crc = 0;
  while (payload.size() > kPulseStep) {
    crc = crc32c(payload.substr(0, kPulseStep), crc);
    payload.remove_prefix(kPulseStep);
    if (!pulse.add(0)) return true;
  }
  return crc32c(payload, crc) == block.header.payload_crc;
}

void Scan::stop_at_payload(const ScannedBlock& block) {
  segment_.stop.kind = StopKind::kBadBlock;
  segment_.stop.problem = fmt::format("payload checksum {:08x}, computed {:08x}",
                                      block.header.payload_crc, crc32c(segment_.payload(block)));
}

// From one mark to the next.
void Scan::check_payloads(std::size_t piece, SharedPulse& pulse) {
  if (pulse.stopped() || segment_.marks[piece] > bad_payload_) return;
  std::uint64_t checked = 0;
  for (const ScannedBlock& block : segment_.blocks_from_mark(piece)) {
    checked += kBlockHeaderSize + block.header.payload_size;
    if (payload_matches(block, pulse)) continue;
    std::uint64_t first = bad_payload_;
    while (block.offset < first && !bad_payload_.compare_exchange_weak(first, block.offset)) {
    }
    break;
  }
  pulse.add(when_checked(checked));
}

// Ends the segment before the first payload that does not match.
void Scan::apply_bad_payload(SharedPulse& pulse) {
  const std::uint64_t offset = bad_payload_;
  if (offset == ~0ULL || pulse.stopped()) return;
  follow(pulse, Payloads::kLater, offset);
  stop_at_payload({offset, load_block_header(segment_.bytes.data() + offset)});
}

std::size_t Scan::rest_pieces() const {
  if (!segment_.header) return 0;
  return align_up(rest().size(), kPulseStep) / kPulseStep;
}

void Scan::check_rest(std::size_t piece, SharedPulse& pulse) {
  const std::string_view bytes = rest().substr(piece * kPulseStep, kPulseStep);
  if (!pulse.add(when_checked(bytes.size()))) return;
  if (!rest_holds_bytes_ && !all_zero(bytes)) rest_holds_bytes_ = true;
}

// A header alone is evidence: it stands under a checksum of its own inside one sector, and was
// written after what comes before it. So each place is looked at once, whatever it claims to hold.
void Scan::look_for_later_blocks() {
  Stop& stop = segment_.stop;
  stop.rest_is_zero = !rest_holds_bytes_;
  if (stop.rest_is_zero) return;
  std::string ignored;
  for (std::uint64_t at = align_up(stop.offset, kBlockAlignment);
       at + kBlockHeaderSize <= segment_.bytes.size(); at += kBlockAlignment) {
    const auto header = decode_block_header(segment_.bytes.substr(at), ignored);
    if (!header || header->store_tag != tag_ || header->epoch != segment_.header->epoch) continue;
    // Commits before the stop are old copies, perhaps inside a value, and prove nothing.
    if (header->first_lsn < stop.lsn) continue;
    // The next block itself, torn in its payload, is no later one.
    if (at == stop.offset && header->first_lsn == stop.lsn &&
        header->previous_crc == segment_.chain_crc) {
      continue;
    }
    stop.later_block = true;
    if (header->durable_lsn >= stop.lsn) stop.later_block_covers = true;
  }
}

// Numbers the pieces of several scans through, so that one loop can share them out.
struct Piece {
  std::size_t scan;
  std::size_t index;
};
template <typename Count>
std::vector<Piece> all_pieces(const std::vector<std::unique_ptr<Scan>>& scans, const Count& count) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < scans.size(); ++i) {
    for (std::size_t piece = 0; piece < count(*scans[i]); ++piece) pieces.push_back({i, piece});
  }
  return pieces;
}

struct OpenSegment {
  std::unique_ptr<os::File> file;
  std::uint64_t size = 0;
};

// Every page that is about to be used from the mappings, through calls that can answer an error.
Result<> read_all_once(const std::vector<OpenSegment>& open, Executor& executor,
                       SharedPulse& pulse) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < open.size(); ++i) {
    const std::size_t count = align_up(open[i].size, kPulseStep) / kPulseStep;
    for (std::size_t piece = 0; piece < count; ++piece) pieces.push_back({i, piece});
  }
  std::mutex mutex;  // guards failure
  std::optional<Error> failure;
  share_work(executor, pulse, pieces.size(), [&](std::size_t i) {
    if (pulse.stopped()) return;
    const OpenSegment& segment = open[pieces[i].scan];
    const std::uint64_t offset = pieces[i].index * kPulseStep;
    const std::uint64_t size = std::min(kPulseStep, segment.size - offset);
    if (Result<> read = try_to_read(*segment.file, offset, size); !read) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::move(read.error());
      pulse.stop();
      return;
    }
    pulse.add(when_read(size));
  });
  if (failure) return *failure;
  return pulse.result();
}

// `open` has the files of mapped segments, and nothing where they are copies.
Result<> scan_all(std::vector<Segment>& segments, const std::vector<OpenSegment>& open,
                  const Identity& identity, Executor& executor, SharedPulse& pulse) {
  std::vector<std::unique_ptr<Scan>> scans;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    os::File* const file = open.empty() ? nullptr : open[i].file.get();
    scans.push_back(std::make_unique<Scan>(segments[i], identity.tag(), file));
  }
  // Enough segments for all threads: one thread for each is the fastest way through memory.
  const std::size_t threads = executor.concurrency() + std::size_t{1};
  if (threads == 1 || segments.size() >= kSegmentsPerThread * threads) {
    share_work(executor, pulse, scans.size(), [&](std::size_t i) {
      if (!pulse.stopped()) scans[i]->run_alone(pulse);
    });
    for (const auto& scan : scans) {
      if (scan->failure()) return *scan->failure();
    }
    return pulse.result();
  }
  DEFIB_TRY(read_all_once(open, executor, pulse));
  share_work(executor, pulse, scans.size(),
             [&](std::size_t i) { scans[i]->follow_headers(pulse); });
  DEFIB_TRY(pulse.result());
  auto pieces = all_pieces(scans, [](const Scan& scan) { return scan.pieces(); });
  share_work(executor, pulse, pieces.size(),
             [&](std::size_t i) { scans[pieces[i].scan]->check_payloads(pieces[i].index, pulse); });
  for (const auto& scan : scans) scan->apply_bad_payload(pulse);
  DEFIB_TRY(pulse.result());
  pieces = all_pieces(scans, [](const Scan& scan) { return scan.rest_pieces(); });
  share_work(executor, pulse, pieces.size(),
             [&](std::size_t i) { scans[pieces[i].scan]->check_rest(pieces[i].index, pulse); });
  DEFIB_TRY(pulse.result());
  for (std::size_t i = 0; i < scans.size(); ++i) {
    if (segments[i].header) scans[i]->look_for_later_blocks();
  }
  return {};
}

}  // namespace

BlockRange::Iterator::Iterator(std::string_view bytes, std::uint64_t offset, std::uint64_t end)
    : bytes_(bytes), end_(end) {
  block_.offset = offset;
  if (offset < end) block_.header = load_block_header(bytes.data() + offset);
}

BlockRange::Iterator& BlockRange::Iterator::operator++() {
  block_.offset = end_of(block_.offset, block_.header);
  if (block_.offset < end_) block_.header = load_block_header(bytes_.data() + block_.offset);
  return *this;
}

Segment Segment::of(std::string name, std::unique_ptr<const os::FileView> view) {
  Segment segment;
  segment.name = std::move(name);
  segment.view = std::move(view);
  segment.bytes = segment.view->bytes();
  return segment;
}

Segment Segment::of(std::string name, std::string bytes) {
  return of(std::move(name), std::make_unique<OwnedBytes>(std::move(bytes)));
}

BlockRange Segment::blocks_from_mark(std::size_t index) const {
  const std::uint64_t end = index + 1 < marks.size() ? marks[index + 1] : stop.offset;
  return {bytes, marks[index], end};
}

std::string_view Segment::payload(const ScannedBlock& block) const {
  return bytes.substr(block.offset + kBlockHeaderSize, block.header.payload_size);
}

void scan_segment(Segment& segment, const Identity& identity) {
  const Pulse none;
  SharedPulse pulse(none);
  Scan(segment, identity.tag(), nullptr).run_alone(pulse);
}

Result<std::vector<Segment>> scan_segments(os::Files& files, const std::string& dir,
                                           const std::vector<std::string>& names,
                                           const Identity& identity, const ReadSettings& settings,
                                           const Pulse& pulse) {
  Executor& executor = settings.executor != nullptr ? *settings.executor : no_helpers();
  SharedPulse shared(pulse);
  std::vector<Segment> segments;
  std::vector<OpenSegment> open;
  if (settings.mode == ReadMode::kCopy) {
    for (const std::string& name : names) {
      const std::string path = os::join_path(os::join_path(dir, kWalDir), name);
      std::uint64_t seen = 0;
      const Pulse own = [&](std::uint64_t done) -> Result<> {
        if (!shared.add(when_read(done - seen))) return shared.result();
        seen = done;
        return {};
      };
      DEFIB_TRY_ASSIGN(std::string bytes, read_whole(files, path, own));
      segments.push_back(Segment::of(name, std::move(bytes)));
    }
  } else {
    for (const std::string& name : names) {
      const std::string path = os::join_path(os::join_path(dir, kWalDir), name);
      OpenSegment& segment = open.emplace_back();
      DEFIB_TRY_ASSIGN(segment.file, files.open(path, os::OpenMode::kRead));
      DEFIB_TRY_ASSIGN(segment.size, segment.file->size());
    }
    for (std::size_t i = 0; i < names.size(); ++i) {
      DEFIB_TRY_ASSIGN(std::unique_ptr<os::FileView> view, open[i].file->map());
      segments.push_back(Segment::of(names[i], std::move(view)));
    }
  }
  DEFIB_TRY(scan_all(segments, open, identity, executor, shared));
  return segments;
}

Result<std::vector<std::string>> list_segments(os::Files& files, const std::string& dir,
                                               std::vector<std::string>* strangers) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files.list(os::join_path(dir, kWalDir)));
  std::vector<std::string> segments;
  for (const std::string& name : names) {
    if (parse_segment_name(name)) {
      segments.push_back(name);
    } else if (strangers != nullptr && !is_spare_name(name)) {
      strangers->push_back(name);
    }
  }
  return segments;
}

Result<std::string> read_whole(os::Files& files, const std::string& path, const Pulse& pulse) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  std::string bytes;
  bytes.resize(size);
  std::uint64_t done = 0;
  while (done < size) {
    const std::size_t step = std::min<std::uint64_t>(kPulseStep, size - done);
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(done, bytes.data() + done, step));
    done += got;
    if (pulse) DEFIB_TRY(pulse(done));
    if (got < step) break;  // It was cut meanwhile.
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace defib::store
