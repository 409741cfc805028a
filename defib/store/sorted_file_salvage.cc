// Getting the records out of a sorted file of which anything may be broken, and saying what is not
// there.
//
// Two passes over the units that are right by themselves: the first one collects what is left of
// index and directory, the second hands out the records, of blocks that no index contradicts, and
// remembers the stretches in between, the gaps. The index names the blocks that stood in a gap and
// their keys; the directory tells whether what is left of a gap held records at all, by the numbers
// of the units around it; where neither is left, the neighbouring blocks bound the loss.

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "defib/store/format.h"
#include "defib/store/sorted_file_format.h"
#include "defib/store/sorted_file_verify.h"

namespace defib::store {
namespace {

using namespace sorted;

// A sound block next to a gap.
struct Neighbour {
  bool exists = false;
  TableId table = 0;
  std::string key;  // the one next to the gap
};

struct Gap {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::string problem;
  // Numbers of the units that can have stood there: from first to before `end`.
  std::uint64_t first_number = 0;
  std::uint64_t end_number = UINT64_MAX;
  Neighbour left;
  Neighbour right;
  // The table whose index had begun before the gap, so that its blocks are all in front of it.
  std::optional<TableId> complete_table;
};

// What an index unit says of a block.
struct KnownBlock {
  std::uint64_t offset = 0;
  std::uint32_t size = 0;
  std::uint32_t crc = 0;
  std::uint32_t number = 0;
  TableId table = 0;
  std::string before_key;  // empty: not known
};

class Salvage {
 public:
  Salvage(os::File& file, std::uint64_t size,
          const std::function<void(const SalvagedRecord&)>& sink)
      : file_(file), size_(size), sink_(sink) {}

  Result<std::vector<SortedDamage>> run();

 private:
  std::optional<Owner> find_owner();
  std::optional<Owner> vote();
  void survey(const UnitHeader& header, std::string_view bytes);
  void hand_out(const UnitHeader& header, std::string_view bytes);
  std::string contradiction(const UnitHeader& header, const DataView& block) const;
  std::vector<KnownBlock> blocks_in(const Gap& gap) const;
  void add_gap(std::uint64_t offset, std::uint64_t size, const std::string& problem);
  bool has_directory() const;
  void name_gap(const Gap& gap);
  void report_by_neighbours(const Gap& gap);
  void report(const Gap& gap, TableId table, bool holds_records);

  os::File& file_;
  std::uint64_t size_;
  const std::function<void(const SalvagedRecord&)>& sink_;
  std::vector<SortedDamage> damages_;
  std::vector<Gap> gaps_;
  std::size_t closed_gaps_ = 0;  // those whose right side is known
  std::size_t numbered_gaps_ = 0;
  Neighbour last_;  // block handed out
  std::uint64_t next_number_ = 0;
  std::optional<TableId> indexed_table_;  // whose index was seen last
  UnitType last_type_ = UnitType::kData;  // of the last unit handed out
  std::vector<KnownBlock> known_;         // ascending by offset
  std::vector<DirectoryEntry> directory_;
  bool has_footer_ = false;
  std::uint32_t tables_ = 0;  // as the footer says
};

// From the header or the footer; if both are broken, what most units say.
std::optional<Owner> Salvage::find_owner() {
  std::string problem;
  bool unsupported = false;
  const std::string page = read_range(file_, 0, kFilePage, problem);
  const auto header = decode_file_header(page, problem, unsupported);
  if (header) return header->owner();
  SortedDamage damage;
  damage.size = std::min<std::uint64_t>(size_, kFilePage);
  damage.problem = problem;
  damage.holds_records = false;
  damages_.push_back(std::move(damage));
  if (size_ >= 2 * kFilePage) {
    const std::uint64_t offset = size_ - kFilePage;
    std::string unreadable;
    const std::string bytes = read_range(file_, offset, kFilePage, unreadable);
    if (bytes.size() == kFilePage) {
      UnitHeader footer = load<UnitHeader>(bytes.data());
      if (check_unit_alone(bytes, footer.owner(), offset, footer).empty() &&
          footer.type == UnitType::kFooter) {
        return footer.owner();
      }
    }
  }
  return vote();
}

std::optional<Owner> Salvage::vote() {
  std::map<Owner, std::uint64_t> votes;
  for (std::uint64_t at = kFilePage; at + kUnitHeaderSize <= size_;) {
    std::string problem;
    std::string bytes = read_range(file_, at, kUnitHeaderSize, problem);
    UnitHeader header;
    if (bytes.size() == kUnitHeaderSize) header = load<UnitHeader>(bytes.data());
    if (header.offset == at && header.size >= kUnitHeaderSize && header.size <= kMaxUnitSize &&
        header.size <= size_ - at) {
      bytes = read_range(file_, at, header.size, problem);
      if (bytes.size() == header.size &&
          check_unit_alone(bytes, header.owner(), at, header).empty()) {
        ++votes[header.owner()];
        at += header.size;
        continue;
      }
    }
    at += kUnitAlignment;
  }
  const auto most =
      std::ranges::max_element(votes, {}, [](const auto& candidate) { return candidate.second; });
  if (most == votes.end()) return std::nullopt;
  return most->first;
}

void Salvage::add_gap(std::uint64_t offset, std::uint64_t size, const std::string& problem) {
  Gap gap;
  gap.offset = offset;
  gap.size = size;
  gap.problem = problem;
  gap.first_number = next_number_;
  gap.left = last_;
  gap.complete_table = indexed_table_;
  gaps_.push_back(std::move(gap));
}

void Salvage::survey(const UnitHeader& header, std::string_view bytes) {
  if (header.type == UnitType::kIndex && header.level == 1) {
    const IndexView view(bytes.data(), header.count, header.skip, header.level);
    for (std::uint32_t i = 0; i < view.count(); ++i) {
      const UnitRef ref = view.child(i);
      KnownBlock block = {ref.offset, ref.size, ref.crc, ref.number, header.table, ""};
      if (i + 1 < view.count()) block.before_key = view.separator(i + 1);
      known_.push_back(std::move(block));
    }
  } else if (header.type == UnitType::kDirectory) {
    for (std::uint32_t i = 0; i < header.count; ++i) {
      directory_.push_back(directory_entry(bytes, i));
    }
  } else if (header.type == UnitType::kFooter) {
    std::string problem;
    const auto footer = decode_footer(bytes, problem);
    has_footer_ = footer && footer->file_size == size_;
    if (has_footer_) tables_ = footer->tables;
  }
}

// Why an intact block is not to be believed; empty where it is.
std::string Salvage::contradiction(const UnitHeader& header, const DataView& block) const {
  const auto known = std::ranges::lower_bound(known_, header.offset, {}, &KnownBlock::offset);
  if (known != known_.end() && known->offset == header.offset && known->crc != header.crc) {
    return "intact, but not the one that its index names";
  }
  if (last_.exists &&
      (header.table < last_.table ||
       (header.table == last_.table && block.key(0) <= std::string_view(last_.key)))) {
    return "intact, but its keys are out of order";
  }
  return "";
}

void Salvage::hand_out(const UnitHeader& header, std::string_view bytes) {
  for (; numbered_gaps_ < gaps_.size(); ++numbered_gaps_) {
    gaps_[numbered_gaps_].end_number = header.number;
  }
  if (header.type == UnitType::kIndex) indexed_table_ = header.table;
  if (header.type == UnitType::kData) {
    const DataView block(bytes.data(), header.count, header.end, header.skip);
    if (const std::string problem = contradiction(header, block); !problem.empty()) {
      next_number_ = header.number;
      add_gap(header.offset, header.size, problem);
      return;
    }
    for (; closed_gaps_ < gaps_.size(); ++closed_gaps_) {
      gaps_[closed_gaps_].right = {true, header.table, std::string(block.key(0))};
    }
    for (std::uint32_t i = 0; i < block.count(); ++i) {
      sink_({header.table, block.key(i), block.value(i), block.erased(i)});
    }
    last_ = {true, header.table, std::string(block.key(block.count() - 1))};
  }
  next_number_ = std::uint64_t{header.number} + 1;
  last_type_ = header.type;
}

std::vector<KnownBlock> Salvage::blocks_in(const Gap& gap) const {
  std::vector<KnownBlock> blocks;
  for (auto at = std::ranges::lower_bound(known_, gap.offset, {}, &KnownBlock::offset);
       at != known_.end() && at->offset < gap.offset + gap.size; ++at) {
    blocks.push_back(*at);
  }
  return blocks;
}

void Salvage::report(const Gap& gap, TableId table, bool holds_records) {
  SortedDamage damage;
  damage.offset = gap.offset;
  damage.size = gap.size;
  damage.problem = gap.problem;
  damage.table = table;
  damage.holds_records = holds_records;
  if (holds_records && gap.left.exists && gap.left.table == table) damage.after_key = gap.left.key;
  if (holds_records && gap.right.exists && gap.right.table == table) {
    damage.before_key = gap.right.key;
  }
  damages_.push_back(std::move(damage));
}

// Neither index nor directory: each table that may have had blocks there.
void Salvage::report_by_neighbours(const Gap& gap) {
  bool reported = false;
  if (gap.left.exists && gap.complete_table != gap.left.table) {
    report(gap, gap.left.table, true);
    reported = true;
  }
  if (gap.right.exists && (!gap.left.exists || gap.right.table != gap.left.table)) {
    report(gap, gap.right.table, true);
    reported = true;
  }
  // Tables that stood there as a whole have no neighbours, and nothing names them.
  const TableId left = gap.left.exists ? gap.left.table : 0;
  const bool hides_tables = !gap.right.exists || gap.right.table > left + 1;
  if (hides_tables || !reported) report(gap, 0, true);
}

// Whether the directory is all there: by the footer, or because nothing but the footer is missing
// behind it.
bool Salvage::has_directory() const {
  if (has_footer_) return directory_.size() == tables_;
  return last_type_ == UnitType::kDirectory && !gaps_.empty() && size_ % kFilePage == 0 &&
         gaps_.back().size == kFilePage && gaps_.back().offset + kFilePage == size_;
}

void Salvage::name_gap(const Gap& gap) {
  const std::vector<KnownBlock> blocks = blocks_in(gap);
  std::uint64_t covered = 0;
  for (const KnownBlock& block : blocks) {
    SortedDamage damage;
    damage.offset = block.offset;
    damage.size = block.size;
    damage.problem = fmt::format("block {}: {}", block.number, gap.problem);
    damage.table = block.table;
    if (gap.left.exists && gap.left.table == block.table) damage.after_key = gap.left.key;
    damage.before_key = block.before_key;
    if (damage.before_key.empty() && gap.right.exists && gap.right.table == block.table) {
      damage.before_key = gap.right.key;
    }
    covered += block.size;
    damages_.push_back(std::move(damage));
  }
  if (!blocks.empty() && covered >= gap.size) return;
  if (!has_directory()) {
    report_by_neighbours(gap);
    return;
  }
  // The units of a table have consecutive numbers, its blocks first.
  bool held_records = false;
  std::uint64_t first = 0;
  for (const DirectoryEntry& entry : directory_) {
    const std::uint64_t from = std::max(first, gap.first_number);
    const std::uint64_t to = std::min(first + entry.blocks, gap.end_number);
    const auto named = static_cast<std::uint64_t>(
        std::ranges::count(blocks, TableId{entry.table}, &KnownBlock::table));
    if (from < to && named < to - from) {
      report(gap, entry.table, true);
      held_records = true;
    }
    first = std::uint64_t{entry.root_number} + 1;
  }
  if (!held_records) report(gap, gap.left.table, false);
}

Result<std::vector<SortedDamage>> Salvage::run() {
  const std::optional<Owner> owner = find_owner();
  if (!owner) {
    SortedDamage damage;
    damage.size = size_;
    damage.problem = "no unit of a sorted file is left in it";
    damages_.push_back(std::move(damage));
    return std::move(damages_);
  }
  UnitVisitor surveyor;
  surveyor.sound = [this](const UnitHeader& header, std::string_view bytes) -> Result<> {
    survey(header, bytes);
    return {};
  };
  surveyor.broken = [](std::uint64_t, std::uint64_t, const std::string&) -> Result<> { return {}; };
  DEFIB_TRY(walk_units(file_, *owner, kFilePage, size_, surveyor));
  std::ranges::sort(known_, {}, &KnownBlock::offset);
  UnitVisitor visitor;
  visitor.sound = [this](const UnitHeader& header, std::string_view bytes) -> Result<> {
    hand_out(header, bytes);
    return {};
  };
  visitor.broken = [this](std::uint64_t offset, std::uint64_t size,
                          const std::string& problem) -> Result<> {
    add_gap(offset, size, problem);
    return {};
  };
  DEFIB_TRY(walk_units(file_, *owner, kFilePage, size_, visitor));
  const bool ends_in_gap = !gaps_.empty() && gaps_.back().offset + gaps_.back().size == size_;
  if (!has_footer_ && !ends_in_gap) {
    add_gap(size_, 0, "the file ends without its footer; what followed is lost");
  }
  for (const Gap& gap : gaps_) name_gap(gap);
  std::ranges::sort(damages_, {}, [](const SortedDamage& damage) {
    return std::pair(damage.offset, damage.table);
  });
  return std::move(damages_);
}

}  // namespace

Result<std::vector<SortedDamage>> salvage_sorted_file(
    os::Files& files, const std::string& path,
    const std::function<void(const SalvagedRecord&)>& sink) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  return Salvage(*file, size, sink).run();
}

}  // namespace defib::store
