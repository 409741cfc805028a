#include "defib/store/sorted_file_verify.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "defib/base/assert.h"
#include "defib/store/format.h"

namespace defib::store::sorted {
namespace {

constexpr std::uint64_t kPulseBytes = 1 << 20;
constexpr std::size_t kWindow = 1 << 20;

// What is wrong with header, footer or directory, and where.
struct FrameProblem {
  Code code = Code::kCorrupted;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::string text;
};
using FrameOrProblem = std::expected<Frame, FrameProblem>;

std::unexpected<FrameProblem> corrupted(std::uint64_t offset, std::uint64_t size,
                                        std::string text) {
  return std::unexpected(FrameProblem{Code::kCorrupted, offset, size, std::move(text)});
}

std::expected<void, FrameProblem> read_header(os::File& file, const SortedFileInfo& expected,
                                              const std::string& uuid) {
  std::string problem;
  const std::string bytes = read_range(file, 0, kFilePage, problem);
  if (!problem.empty()) {
    return std::unexpected(FrameProblem{Code::kIoError, 0, kFilePage, "header page: " + problem});
  }
  bool unsupported = false;
  const auto header = decode_file_header(bytes, problem, unsupported);
  if (!header) {
    const Code code = unsupported ? Code::kStoreFormatUnsupported : Code::kCorrupted;
    return std::unexpected(FrameProblem{code, 0, kFilePage, problem});
  }
  if (header->uuid != uuid) {
    return std::unexpected(
        FrameProblem{Code::kInconsistentState, 0, kFilePage,
                     fmt::format("it belongs to another store, {}, and this one is {}",
                                 escape(header->uuid), uuid)});
  }
  if (header->generation != expected.generation || header->kind != expected.kind ||
      header->last_commit != expected.last_commit) {
    return corrupted(0, kFilePage,
                     fmt::format("header page: another file of this store: generation {}, up to "
                                 "commit {}; the manifest names {} and {}",
                                 header->generation, header->last_commit, expected.generation,
                                 expected.last_commit));
  }
  return {};
}

std::expected<void, FrameProblem> read_footer(os::File& file, const SortedFileInfo& expected,
                                              const std::string& uuid, Frame& frame) {
  const std::uint64_t offset = expected.size - kFilePage;
  std::string problem;
  const std::string bytes = read_range(file, offset, kFilePage, problem);
  if (!problem.empty()) {
    return std::unexpected(FrameProblem{Code::kIoError, offset, kFilePage, "footer: " + problem});
  }
  if (bytes.size() < kFilePage) return corrupted(offset, kFilePage, "footer: the file is shorter");
  UnitHeader header;
  problem = check_unit_alone(bytes, frame.owner, offset, header);
  if (problem.empty() && header.type != UnitType::kFooter) problem = "no footer stands there";
  if (problem.empty() && header.crc != expected.footer_crc) {
    problem =
        fmt::format("intact, but not the one that the manifest names (checksum {:08x}, {:08x})",
                    header.crc, expected.footer_crc);
  }
  if (!problem.empty()) return corrupted(offset, kFilePage, "footer: " + problem);
  const auto footer = decode_footer(bytes, problem);
  if (!footer) return corrupted(offset, kFilePage, problem);
  if (footer->file_size != expected.size || footer->records != expected.records ||
      footer->erased != expected.erased || footer->last_commit != expected.last_commit ||
      footer->kind != expected.kind || footer->uuid != uuid ||
      footer->directory_offset < kFilePage || footer->directory_offset > offset) {
    return corrupted(offset, kFilePage, "footer: it contradicts the manifest");
  }
  frame.footer = *footer;
  frame.units = header.number;
  return {};
}

std::expected<void, FrameProblem> read_directory(os::File& file, Frame& frame) {
  const Footer& footer = frame.footer;
  const std::uint64_t from = footer.directory_offset;
  const std::uint64_t size = footer.file_size - kFilePage - from;
  std::string problem;
  const std::string bytes = read_range(file, from, size, problem);
  if (!problem.empty()) {
    return std::unexpected(FrameProblem{Code::kIoError, from, size, "directory: " + problem});
  }
  std::uint64_t at = 0;
  std::uint32_t crc = 0;
  std::uint64_t records = 0;
  std::uint64_t erased = 0;
  for (std::uint32_t i = 0; i < footer.directory_units; ++i) {
    const std::string_view rest = std::string_view(bytes).substr(at);
    if (rest.size() < kUnitHeaderSize) return corrupted(from + at, 0, "directory: it is cut short");
    UnitHeader header;
    problem = check_unit_alone(rest, frame.owner, from + at, header);
    if (problem.empty() && (header.type != UnitType::kDirectory ||
                            header.number + (footer.directory_units - i) != frame.units)) {
      problem = "intact, but not the one that belongs there";
    }
    if (!problem.empty()) {
      return corrupted(from + at, rest.size(), fmt::format("directory unit {}: {}", i, problem));
    }
    crc = crc32c({reinterpret_cast<const char*>(&header.crc), 4}, crc);
    for (std::uint32_t j = 0; j < header.count; ++j) {
      const DirectoryEntry entry = directory_entry(rest, j);
      if (!frame.tables.empty() && entry.table <= frame.tables.back().table) {
        return corrupted(from + at, header.size, "directory: tables out of order");
      }
      records += entry.records;
      erased += entry.erased;
      frame.tables.push_back(entry);
    }
    at += header.size;
  }
  if (crc != footer.directory_crc || at != size || frame.tables.size() != footer.tables ||
      records != footer.records || erased != footer.erased) {
    return corrupted(from, size, "directory: it is not the one that the footer names");
  }
  return {};
}

FrameOrProblem load_frame(os::File& file, const SortedFileInfo& expected, const std::string& uuid) {
  const auto size = file.size();
  if (!size) {
    return std::unexpected(FrameProblem{size.error().code(), 0, 0, size.error().to_line()});
  }
  Frame frame;
  frame.owner = {expected.generation, tag_of(uuid)};
  if (auto done = read_header(file, expected, uuid); !done) return std::unexpected(done.error());
  if (*size != expected.size || *size < 2 * kFilePage || *size % kFilePage != 0) {
    return corrupted(
        std::min(*size, expected.size), 0,
        fmt::format("it has {} bytes, and the manifest says {}", *size, expected.size));
  }
  if (auto done = read_footer(file, expected, uuid, frame); !done) {
    return std::unexpected(done.error());
  }
  if (auto done = read_directory(file, frame); !done) return std::unexpected(done.error());
  return frame;
}

// Byte ranges of the file that were looked at, merged.
class Coverage {
 public:
  void add(std::uint64_t offset, std::uint64_t size) {
    std::uint64_t end = offset + size;
    if (const auto next = ranges_.find(end); next != ranges_.end()) {
      end = next->second;
      ranges_.erase(next);
    }
    const auto after = ranges_.lower_bound(offset);
    if (after != ranges_.begin() && std::prev(after)->second == offset) {
      std::prev(after)->second = end;
    } else {
      ranges_[offset] = std::max(ranges_[offset], end);
    }
  }
  bool contains(std::uint64_t offset) const {
    const auto after = ranges_.upper_bound(offset);
    return after != ranges_.begin() && std::prev(after)->second > offset;
  }
  // What is missing in [0, size).
  std::vector<std::pair<std::uint64_t, std::uint64_t>> gaps(std::uint64_t size) const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> missing;
    std::uint64_t at = 0;
    for (const auto& [offset, end] : ranges_) {
      if (offset > at) missing.emplace_back(at, offset);
      at = std::max(at, end);
    }
    if (at < size) missing.emplace_back(at, size);
    return missing;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;  // offset to end
};

class Verifier {
 public:
  Verifier(os::File& file, const Frame& frame, const std::function<Result<>(std::uint64_t)>& pulse)
      : file_(file), frame_(frame), pulse_(pulse) {}

  void frame_problem(const FrameProblem& problem) {
    SortedDamage damage;
    damage.offset = problem.offset;
    damage.size = problem.size;
    damage.problem = problem.text;
    damage.holds_records = false;
    damages_.push_back(std::move(damage));
  }

  Result<> table(const DirectoryEntry& entry);
  // Blocks that the index does not lead to.
  Result<> rest();
  std::vector<SortedDamage> damages() && { return std::move(damages_); }

 private:
  struct Node {
    std::string bytes;
    IndexView view;
    std::uint32_t next = 0;
    std::string before;  // the first key behind it; empty: the table's end
  };
  Result<> visit(const UnitRef& ref, std::string_view separator, std::string_view before);
  void check_block(const UnitRef& ref, const DataView& block, std::string_view separator,
                   std::string_view before);
  void report(const UnitRef& ref, std::string_view problem, std::string_view before);
  Result<> advance(std::uint64_t bytes);

  os::File& file_;
  const Frame& frame_;
  const std::function<Result<>(std::uint64_t)>& pulse_;
  std::vector<SortedDamage> damages_;
  Coverage coverage_;
  std::uint64_t done_ = 0;
  std::uint64_t pulsed_ = 0;
  // Of the table being checked.
  TableId table_ = 0;
  std::vector<Node> nodes_;
  bool has_last_ = false;
  std::string last_key_;  // of the last sound block
  std::uint64_t records_ = 0;
  std::uint64_t erased_ = 0;
  std::uint64_t blocks_ = 0;
};

Result<> Verifier::advance(std::uint64_t bytes) {
  done_ += bytes;
  if (!pulse_ || done_ - pulsed_ < kPulseBytes) return {};
  pulsed_ = done_;
  return pulse_(done_);
}

void Verifier::report(const UnitRef& ref, std::string_view problem, std::string_view before) {
  SortedDamage damage;
  damage.offset = ref.offset;
  damage.size = ref.size;
  const UnitType type = ref.level == 0 ? UnitType::kData : UnitType::kIndex;
  damage.problem = fmt::format("{} {}: {}", to_string(type), ref.number, problem);
  damage.table = table_;
  damage.after_key = last_key_;
  damage.before_key = before;
  damage.holds_records = ref.level == 0;
  damages_.push_back(std::move(damage));
}

void Verifier::check_block(const UnitRef& ref, const DataView& block, std::string_view separator,
                           std::string_view before) {
  const std::string_view first = block.key(0);
  const std::string_view last = block.key(block.count() - 1);
  if (first < separator || (has_last_ && first <= last_key_) ||
      (!before.empty() && last >= before)) {
    report(ref, "intact, but its keys are not those that its index names", before);
  }
  has_last_ = true;
  last_key_ = last;
  ++blocks_;
  records_ += block.count();
  for (std::uint32_t i = 0; i < block.count(); ++i) erased_ += block.erased(i) ? 1 : 0;
}

Result<> Verifier::visit(const UnitRef& ref, std::string_view separator, std::string_view before) {
  if (coverage_.contains(ref.offset)) {
    report(ref, "it is below two index units", before);
    return {};
  }
  std::string problem;
  std::string bytes = read_range(file_, ref.offset, ref.size, problem);
  if (problem.empty()) {
    problem = bytes.size() < ref.size ? "the file ends inside of it"
                                      : check_unit(bytes, frame_.owner, ref, table_);
  }
  coverage_.add(ref.offset, ref.size);
  if (!problem.empty()) {
    report(ref, problem, before);
  } else if (ref.level == 0) {
    check_block(ref, DataView(bytes.data(), ref.count, ref.end, ref.skip), separator, before);
  } else {
    DEFIB_ASSERT(nodes_.size() < nodes_.capacity());
    Node& node = nodes_.emplace_back();
    node.bytes = std::move(bytes);
    node.view = IndexView(node.bytes.data(), ref.count, ref.skip, ref.level);
    node.before = before;
    if (node.view.separator(0) != separator) {
      report(ref, "intact, but its keys are not those that its index names", before);
    }
  }
  return advance(ref.size);
}

Result<> Verifier::table(const DirectoryEntry& entry) {
  table_ = entry.table;
  has_last_ = false;
  last_key_.clear();
  records_ = erased_ = blocks_ = 0;
  const std::size_t damages_before = damages_.size();
  nodes_.clear();
  nodes_.reserve(kMaxLevels);  // references into it stay good
  DEFIB_TRY(visit(root_of(entry), "", ""));
  while (!nodes_.empty()) {
    Node& node = nodes_.back();
    if (node.next == node.view.count()) {
      nodes_.pop_back();
      continue;
    }
    const std::uint32_t i = node.next++;
    const std::string_view before =
        i + 1 < node.view.count() ? node.view.separator(i + 1) : std::string_view(node.before);
    DEFIB_TRY(visit(node.view.child(i), node.view.separator(i), before));
  }
  if (damages_.size() == damages_before &&
      (records_ != entry.records || erased_ != entry.erased || blocks_ != entry.blocks)) {
    last_key_.clear();
    report(root_of(entry),
           fmt::format("{} records, {} erased, {} blocks; the directory says {}, {}, {}", records_,
                       erased_, blocks_, entry.records, entry.erased, entry.blocks),
           "");
  }
  return {};
}

Result<> Verifier::rest() {
  coverage_.add(0, kFilePage);
  coverage_.add(frame_.footer.directory_offset,
                frame_.footer.file_size - frame_.footer.directory_offset);
  const bool is_index_whole = damages_.empty();
  UnitVisitor visitor;
  last_key_.clear();
  std::optional<std::size_t> open;  // damage whose end is not known yet
  const auto finish = [&](TableId table, std::string_view before) {
    if (open && damages_[*open].table == table) damages_[*open].before_key = before;
    open.reset();
  };
  visitor.sound = [&](const UnitHeader& header, std::string_view bytes) -> Result<> {
    if (header.type == UnitType::kData) {
      const DataView block(bytes.data(), header.count, header.end, header.skip);
      finish(header.table, block.key(0));
      table_ = header.table;
      last_key_ = block.key(header.count - 1);
    }
    return advance(header.size);
  };
  visitor.broken = [&](std::uint64_t offset, std::uint64_t size,
                       const std::string& problem) -> Result<> {
    const auto after =
        std::ranges::upper_bound(frame_.tables, offset, {}, &DirectoryEntry::data_offset);
    SortedDamage damage;
    damage.offset = offset;
    damage.size = size;
    damage.problem = "not reached through the index, and " + problem;
    if (after != frame_.tables.begin()) damage.table = std::prev(after)->table;
    if (damage.table == table_) damage.after_key = last_key_;
    open = damages_.size();
    damages_.push_back(std::move(damage));
    return advance(size);
  };
  for (const auto& [from, to] : coverage_.gaps(frame_.footer.file_size)) {
    table_ = 0;
    last_key_.clear();
    open.reset();
    DEFIB_TRY(walk_units(file_, frame_.owner, from, to, visitor));
    if (is_index_whole) {
      SortedDamage damage;
      damage.offset = from;
      damage.size = to - from;
      damage.problem = "bytes that no index names";
      damages_.push_back(std::move(damage));
    }
  }
  return {};
}

// Reads ahead, and less where the device fails.
class Window {
 public:
  explicit Window(os::File& file) : file_(file) {}
  // `size` bytes at `offset`, fewer at the end of the file or before a place that cannot be read;
  // `problem` then says why.
  std::string_view get(std::uint64_t offset, std::size_t size, std::string& problem) {
    if (offset < start_ || offset + size > start_ + bytes_.size()) {
      start_ = offset;
      std::string failure;
      bytes_ = read_range(file_, offset, std::max(size, kWindow), failure);
      if (!failure.empty()) {
        const std::uint64_t page_end = align_up(offset + size, kFilePage);
        bytes_ = read_range(file_, offset, page_end - offset, problem);
      }
    }
    return std::string_view(bytes_).substr(offset - start_, size);
  }

 private:
  os::File& file_;
  std::uint64_t start_ = 0;
  std::string bytes_;
};

}  // namespace

std::string read_range(os::File& file, std::uint64_t offset, std::uint64_t size,
                       std::string& problem) {
  std::string bytes(size, '\0');
  auto got = file.read_at(offset, bytes.data(), bytes.size());
  if (!got) problem = "it cannot be read: " + got.error().to_line();
  bytes.resize(got ? *got : 0);
  return bytes;
}

Result<Frame> read_frame(os::File& file, const std::string& path, const SortedFileInfo& expected,
                         const std::string& store_uuid) {
  FrameOrProblem frame = load_frame(file, expected, store_uuid);
  if (frame) return std::move(*frame);
  const FrameProblem& problem = frame.error();
  return Error(problem.code, fmt::format("'{}': {}", path, problem.text))
      .with("path", path)
      .with("offset", static_cast<std::int64_t>(problem.offset));
}

Result<std::vector<SortedDamage>> verify_sorted_file(
    os::File& file, const SortedFileInfo& expected, const std::string& store_uuid,
    const Frame& frame, const std::function<Result<>(std::uint64_t)>& pulse) {
  Verifier verifier(file, frame, pulse);
  const FrameOrProblem again = load_frame(file, expected, store_uuid);
  if (!again) verifier.frame_problem(again.error());
  for (const DirectoryEntry& entry : frame.tables) DEFIB_TRY(verifier.table(entry));
  DEFIB_TRY(verifier.rest());
  return std::move(verifier).damages();
}

Result<> walk_units(os::File& file, const Owner& owner, std::uint64_t from, std::uint64_t to,
                    const UnitVisitor& visitor) {
  Window window(file);
  bool is_broken = false;  // since broken_from
  std::uint64_t broken_from = 0;
  std::string broken_problem;
  std::uint64_t at = from;
  while (at < to) {
    std::string problem;
    std::string_view bytes =
        window.get(at, std::min<std::uint64_t>(kUnitHeaderSize, to - at), problem);
    std::uint64_t step = kUnitAlignment;
    UnitHeader header;
    if (!problem.empty()) {
      step = kFilePage - at % kFilePage;
    } else if (bytes.size() < kUnitHeaderSize) {
      problem = "the file ends inside of it";
    } else {
      header = load<UnitHeader>(bytes.data());
      // While searching, only what says that it belongs here is worth a checksum.
      const bool is_candidate = header.offset == at && header.owner() == owner;
      if ((is_candidate || !is_broken) && header.size <= kMaxUnitSize) {
        const std::uint64_t size = std::max<std::uint64_t>(header.size, kUnitHeaderSize);
        bytes = window.get(at, std::min(size, to - at), problem);
      }
      if (problem.empty()) problem = check_unit_alone(bytes, owner, at, header);
    }
    if (!problem.empty()) {
      if (!is_broken) {
        is_broken = true;
        broken_from = at;
        broken_problem = problem;
      }
      at += step;
      continue;
    }
    if (is_broken) {
      DEFIB_TRY(visitor.broken(broken_from, at - broken_from, broken_problem));
      is_broken = false;
    }
    DEFIB_TRY(visitor.sound(header, bytes));
    at += header.size;
  }
  if (!is_broken) return {};
  return visitor.broken(broken_from, to - broken_from, broken_problem);
}

}  // namespace defib::store::sorted
