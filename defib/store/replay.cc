#include "defib/store/replay.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "defib/base/assert.h"
#include "defib/store/executor.h"
#include "defib/store/key_sort.h"

namespace defib::store {
namespace {

// Records that are sorted together: their references stay in the processor's cache.
constexpr std::size_t kRangeRecords = 16 << 10;
constexpr std::size_t kMaxRanges = 1 << 14;  // of one table
constexpr std::size_t kSamplesPerRange = 16;
constexpr std::size_t kFirstKeys = 2048;          // room for those of a chunk of small records
constexpr std::size_t kFetchAhead = 32;           // records
constexpr std::uint32_t kPulseChanges = 1 << 16;  // of one transaction

// What the steps of a replay take of its time, in sixteenths, as measured with small records of one
// table in random order: so much of the log's bytes counts as done when a step has done its share.
constexpr std::uint64_t kDecodePart = 4;
constexpr std::uint64_t kSpreadPart = 2;  // to give each key its range, and to bring it there: each
constexpr std::uint64_t kBuildPart = 8;
static_assert(kDecodePart + 2 * kSpreadPart + kBuildPart == 16);

// Of one of so many units of such a step.
std::uint64_t share_of(std::uint64_t bytes, std::uint64_t part, std::size_t units) {
  return bytes * part / 16 / std::max<std::size_t>(units, 1);
}

// The changes of one table in one chunk of log, in the order of the log.
struct ChunkTable {
  std::string_view name;
  std::vector<KeyRef> keys;
  std::vector<std::uint16_t> ranges;                             // of each key
  std::size_t shared = std::numeric_limits<std::size_t>::max();  // bytes that all keys begin with
};

// A part of a segment between two marks, decoded by one thread.
struct Chunk {
  const Segment* segment = nullptr;
  std::size_t mark = 0;
  std::vector<ChunkTable> tables;  // in the order in which they appear
  std::uint64_t transactions = 0;
  std::uint64_t changes = 0;
  std::uint64_t bytes = 0;
  std::optional<Error> error;
};

// Decodes the transactions of a chunk. Total over any bytes.
class ChunkDecoder {
 public:
  ChunkDecoder(Chunk& chunk, std::uint64_t after_commit)
      : chunk_(chunk), after_commit_(after_commit) {}

  void run(SharedPulse& pulse) {
    for (const ScannedBlock& block : chunk_.segment->blocks_from_mark(chunk_.mark)) {
      if (block.header.next_lsn() <= after_commit_ + 1) continue;
      std::string_view payload = chunk_.segment->payload(block);
      for (std::uint32_t i = 0; i < block.header.count && problem_.empty(); ++i) {
        if (!transaction(payload, block.header.first_lsn + i, pulse)) return;
      }
      if (problem_.empty() && !payload.empty()) {
        problem_ = fmt::format("{} bytes after the last transaction", payload.size());
      }
      if (!problem_.empty()) return fail(block.offset);
      const std::uint64_t size = kBlockHeaderSize + block.header.payload_size;
      chunk_.bytes += align_up(size, kBlockAlignment);
    }
    // While the keys are still in the cache: of what they do not share, the first eight bytes.
    for (ChunkTable& table : chunk_.tables) {
      for (KeyRef& key : table.keys) key.load_prefix(table.shared);
    }
    pulse.add(share_of(chunk_.bytes, kDecodePart, 1));
  }

 private:
  // False where the pulse stops it.
  bool transaction(std::string_view& payload, std::uint64_t number, SharedPulse& pulse) {
    constexpr std::size_t kBeginSize = 1 + 8 + 4;
    constexpr std::size_t kEndSize = 1 + 8;
    if (payload.size() < kBeginSize || payload[0] != 'B' ||
        load<std::uint64_t>(payload.data() + 1) != number) {
      problem_ = fmt::format("transaction {} does not begin where it should", number);
      return true;
    }
    const auto changes = load<std::uint32_t>(payload.data() + 9);
    payload.remove_prefix(kBeginSize);
    const bool counts = number > after_commit_;
    for (std::uint32_t i = 0; i < changes; ++i) {
      if (i % kPulseChanges == kPulseChanges - 1 && !pulse.add(0)) return false;
      if (!change(payload, counts)) {
        problem_ = fmt::format("transaction {} has a malformed change", number);
        return true;
      }
    }
    if (payload.size() < kEndSize || payload[0] != 'C' ||
        load<std::uint64_t>(payload.data() + 1) != number) {
      problem_ = fmt::format("transaction {} has no end", number);
      return true;
    }
    payload.remove_prefix(kEndSize);
    if (counts) {
      ++chunk_.transactions;
      chunk_.changes += changes;
    }
    return true;
  }

  bool change(std::string_view& payload, bool counts) {
    constexpr std::size_t kChangeSize = 1 + 1 + 2 + 4;
    if (payload.size() < kChangeSize) return false;
    const char operation = payload[0];
    const std::size_t table_size = load<std::uint8_t>(payload.data() + 1);
    const std::size_t key_size = load<std::uint16_t>(payload.data() + 2);
    const std::size_t value_size = load<std::uint32_t>(payload.data() + 4);
    payload.remove_prefix(kChangeSize);
    const bool erased = operation == 'E';
    // What follows the change in a whole transaction leaves eight bytes after each key.
    if ((operation != 'P' && !erased) || table_size == 0 || table_size > kMaxTableName ||
        key_size > kMaxKeySize || value_size > kMaxValueSize ||
        table_size + key_size + value_size + 8 > payload.size()) {
      return false;
    }
    if (counts) add(payload.substr(0, table_size), payload.substr(table_size, key_size), erased);
    payload.remove_prefix(table_size + key_size + value_size);
    return true;
  }

  void add(std::string_view name, std::string_view key, bool erased) {
    if (current_ >= chunk_.tables.size() || chunk_.tables[current_].name != name) {
      const auto [at, is_new] = by_name_.try_emplace(name, chunk_.tables.size());
      if (is_new) {
        chunk_.tables.push_back({.name = name, .keys = {}, .ranges = {}});
        if (chunk_.tables.size() == 1) chunk_.tables[0].keys.reserve(kFirstKeys);
      }
      current_ = at->second;
    }
    ChunkTable& table = chunk_.tables[current_];
    table.keys.emplace_back(key.data(), key.size(), erased);
    table.shared = common_bytes(table.keys[0].key().substr(0, table.shared), key);
  }

  void fail(std::uint64_t offset) {
    const std::string what = fmt::format("{} at offset {}: {}, although the checksum is right",
                                         chunk_.segment->name, offset, problem_);
    chunk_.error = Error(Code::kInconsistentState, what)
                       .with("description", what)
                       .with("diagnostics", problem_)
                       .with("recovery_suggestions", "run `defib store repair DIR --to NEWDIR`")
                       .suggest(
                           "run `defib store repair DIR --to NEWDIR`; the damaged store stays "
                           "as it is");
  }

  Chunk& chunk_;
  std::uint64_t after_commit_;
  std::size_t current_ = 0;  // the table of the last change
  std::unordered_map<std::string_view, std::size_t> by_name_;
  std::string problem_;
};

// One table's share of all chunks, on its way to sorted parts.
class TableReplay {
 public:
  TableReplay(TableId id, std::string_view name) : id_(id), name_size_(name.size()) {}

  TableId id() const { return id_; }
  void add(ChunkTable& piece) { pieces_.push_back(&piece); }
  std::size_t pieces() const { return pieces_.size(); }
  std::size_t ranges() const { return splitters_.size() + 1; }

  // Chooses what the prefixes skip, and ranges of about equal numbers of records.
  void plan();
  // Gives each key of a piece its range, and counts. Pieces may be done in parallel.
  void classify(std::size_t piece);
  // After all of classify(): where each piece's keys of each range go.
  void lay_out();
  // Puts a piece's keys to their ranges, so that each range is in the order of the log.
  void scatter(std::size_t piece);
  // After all of scatter(): sorts a range, takes the last change of each key, and builds from it.
  std::unique_ptr<OverlayBuilder> build(std::size_t range, SharedPulse& pulse);

 private:
  void split(std::size_t total, std::size_t wanted);
  std::uint16_t range_of(std::uint64_t prefix) const;

  TableId id_;
  std::size_t name_size_;
  std::vector<ChunkTable*> pieces_;
  std::size_t shared_ = 0;                // bytes that all keys begin with
  std::vector<std::uint64_t> splitters_;  // ascending: the least prefix of each range but the first
  std::vector<std::uint32_t> positions_;  // of piece p and range r at p * ranges() + r
  std::vector<std::size_t> range_begin_;  // and one more: the end
  std::unique_ptr<KeyRef[]> keys_;        // by range
};

void TableReplay::plan() {
  std::size_t total = 0;
  shared_ = pieces_[0]->shared;
  const std::string_view first = pieces_[0]->keys[0].key();
  for (const ChunkTable* piece : pieces_) {
    total += piece->keys.size();
    shared_ = std::min({shared_, piece->shared, common_bytes(first, piece->keys[0].key())});
  }
  const std::size_t wanted = std::clamp<std::size_t>(total / kRangeRecords, 1, kMaxRanges);
  DEFIB_ASSERT(total <= std::numeric_limits<std::uint32_t>::max());
  if (wanted > 1) split(total, wanted);
  positions_.resize(pieces_.size() * ranges());
}

void TableReplay::split(std::size_t total, std::size_t wanted) {
  // Evenly spaced records stand for all of them.
  const std::size_t step = std::max<std::size_t>(total / (wanted * kSamplesPerRange), 1);
  std::vector<std::uint64_t> samples;
  std::size_t skip = step / 2;
  for (const ChunkTable* piece : pieces_) {
    for (; skip < piece->keys.size(); skip += step) {
      KeyRef key = piece->keys[skip];
      key.load_prefix(shared_);
      samples.push_back(key.prefix());
    }
    skip -= piece->keys.size();
  }
  std::ranges::sort(samples);
  for (std::size_t i = 1; i < wanted; ++i) {
    splitters_.push_back(samples[i * samples.size() / wanted]);
  }
  const auto repeated = std::ranges::unique(splitters_);
  splitters_.erase(repeated.begin(), repeated.end());
}

// The number of splitters that are not above the prefix, without a branch to mispredict.
std::uint16_t TableReplay::range_of(std::uint64_t prefix) const {
  const std::uint64_t* base = splitters_.data();
  std::size_t count = splitters_.size();
  while (count > 1) {
    const std::size_t half = count / 2;
    base += base[half - 1] <= prefix ? half : 0;
    count -= half;
  }
  const std::size_t below = static_cast<std::size_t>(base - splitters_.data());
  return static_cast<std::uint16_t>(below + (count == 1 && *base <= prefix ? 1 : 0));
}

void TableReplay::classify(std::size_t index) {
  ChunkTable& piece = *pieces_[index];
  if (piece.shared != shared_) {
    for (KeyRef& key : piece.keys) key.load_prefix(shared_);
  }
  std::uint32_t* counts = &positions_[index * ranges()];
  if (splitters_.empty()) {
    counts[0] = static_cast<std::uint32_t>(piece.keys.size());
    return;
  }
  piece.ranges.resize(piece.keys.size());
  for (std::size_t i = 0; i < piece.keys.size(); ++i) {
    piece.ranges[i] = range_of(piece.keys[i].prefix());
    ++counts[piece.ranges[i]];
  }
}

void TableReplay::lay_out() {
  const std::size_t count = ranges();
  range_begin_.clear();
  std::uint32_t next = 0;
  for (std::size_t range = 0; range < count; ++range) {
    range_begin_.push_back(next);
    for (std::size_t piece = 0; piece < pieces_.size(); ++piece) {
      next += std::exchange(positions_[piece * count + range], next);
    }
  }
  range_begin_.push_back(next);
  keys_ = std::make_unique_for_overwrite<KeyRef[]>(next);
}

void TableReplay::scatter(std::size_t index) {
  ChunkTable& piece = *pieces_[index];
  std::uint32_t* positions = &positions_[index * ranges()];
  if (splitters_.empty()) {
    std::ranges::copy(piece.keys, &keys_[positions[0]]);
  } else {
    for (std::size_t i = 0; i < piece.keys.size(); ++i) {
      keys_[positions[piece.ranges[i]]++] = piece.keys[i];
    }
  }
  piece.keys = {};
  piece.ranges = {};
}

std::unique_ptr<OverlayBuilder> TableReplay::build(std::size_t range, SharedPulse& pulse) {
  const std::size_t begin = range_begin_[range];
  const std::span<KeyRef> keys(&keys_[begin], range_begin_[range + 1] - begin);
  auto builder = make_overlay_builder();
  if (keys.empty()) return builder;
  {
    const auto scratch = std::make_unique_for_overwrite<KeyRef[]>(keys.size());
    sort_keys(keys, {scratch.get(), keys.size()}, shared_, &pulse);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + kFetchAhead < keys.size()) __builtin_prefetch(keys[i + kFetchAhead].data());
    if (i % kRangeRecords == 0 && !pulse.add(0)) break;
    const KeyRef& key = keys[i];
    if (key.superseded()) continue;
    // The value's size stands before the table's name, the value behind the key.
    const auto value_size = load<std::uint32_t>(key.data() - name_size_ - sizeof(std::uint32_t));
    builder->append(key.key(), {key.data() + key.size(), value_size}, key.erased());
  }
  return builder;
}

// A unit of parallel work on a table.
struct Unit {
  TableReplay* table;
  std::size_t index;
};
template <typename Count>
std::vector<Unit> all_units(std::vector<std::unique_ptr<TableReplay>>& tables, const Count& count) {
  std::vector<Unit> units;
  for (const auto& table : tables) {
    for (std::size_t i = 0; i < count(*table); ++i) units.push_back({table.get(), i});
  }
  return units;
}

// Numbers the tables in the order of the log, and gives each its pieces.
std::vector<std::unique_ptr<TableReplay>> gather_tables(std::vector<Chunk>& chunks,
                                                        TableNames& names) {
  std::vector<std::unique_ptr<TableReplay>> tables;
  std::unordered_map<TableId, TableReplay*> by_id;
  for (Chunk& chunk : chunks) {
    for (ChunkTable& piece : chunk.tables) {
      const TableId id = names.add(piece.name);
      TableReplay*& table = by_id[id];
      if (table == nullptr) {
        table = tables.emplace_back(std::make_unique<TableReplay>(id, piece.name)).get();
      }
      table->add(piece);
    }
  }
  return tables;
}

// Sorted parts of all tables, in ascending order within each; short where the pulse stops it.
// `bytes` of log hold them.
std::vector<OverlayPart> build_parts(std::vector<std::unique_ptr<TableReplay>>& tables,
                                     std::uint64_t bytes, Executor& executor, SharedPulse& pulse) {
  share_work(executor, pulse, tables.size(), [&](std::size_t i) { tables[i]->plan(); });
  auto pieces = all_units(tables, [](const TableReplay& table) { return table.pieces(); });
  const std::uint64_t piece_share = share_of(bytes, kSpreadPart, pieces.size());
  share_work(executor, pulse, pieces.size(), [&](std::size_t i) {
    if (pulse.add(piece_share)) pieces[i].table->classify(pieces[i].index);
  });
  if (pulse.stopped()) return {};
  for (const auto& table : tables) table->lay_out();
  share_work(executor, pulse, pieces.size(), [&](std::size_t i) {
    if (pulse.add(piece_share)) pieces[i].table->scatter(pieces[i].index);
  });
  if (pulse.stopped()) return {};
  const auto ranges = all_units(tables, [](const TableReplay& table) { return table.ranges(); });
  std::vector<OverlayPart> parts(ranges.size());
  const std::uint64_t range_share = share_of(bytes, kBuildPart, ranges.size());
  share_work(executor, pulse, ranges.size(), [&](std::size_t i) {
    if (!pulse.add(range_share)) return;
    parts[i].table = ranges[i].table->id();
    parts[i].builder = ranges[i].table->build(ranges[i].index, pulse);
  });
  return parts;
}

}  // namespace

Result<Replayed> replay_log(std::vector<Segment> segments, const LogAssessment& log,
                            std::uint64_t after_commit, TableNames& names, Executor& executor,
                            const Pulse& pulse) {
  Replayed replayed;
  replayed.last_commit = after_commit;
  std::vector<Chunk> chunks;
  auto views = std::make_shared<std::vector<std::shared_ptr<const os::FileView>>>();
  for (const std::size_t index : log.live) {
    const Segment& segment = segments[index];
    if (!segment.has_blocks() || segment.next_lsn <= after_commit + 1) continue;
    for (std::size_t mark = 0; mark < segment.marks.size(); ++mark) {
      chunks.push_back({.segment = &segment, .mark = mark, .tables = {}, .error = {}});
    }
    views->push_back(segment.view);
    replayed.last_commit = segment.next_lsn - 1;
  }
  SharedPulse shared(pulse);
  share_work(executor, shared, chunks.size(), [&](std::size_t i) {
    if (!shared.stopped()) ChunkDecoder(chunks[i], after_commit).run(shared);
  });
  DEFIB_TRY(shared.result());
  for (Chunk& chunk : chunks) {
    if (chunk.error) return *std::move(chunk.error);
    replayed.transactions += chunk.transactions;
    replayed.changes += chunk.changes;
    replayed.bytes += chunk.bytes;
  }
  auto tables = gather_tables(chunks, names);
  auto parts = build_parts(tables, replayed.bytes, executor, shared);
  DEFIB_TRY(shared.result());
  replayed.overlay = join_overlay(std::move(parts), std::move(views));
  return replayed;
}

}  // namespace defib::store
