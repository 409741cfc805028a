#include "defib/store/sorted_file_format.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "defib/base/assert.h"
#include "defib/store/format.h"

namespace defib::store::sorted {
namespace {

constexpr std::string_view kFileMagic = "DEFIBSRT";
constexpr std::uint32_t kEndianness = 0x01020304;
constexpr std::uint32_t kForeignEndianness = 0x04030201;
constexpr std::size_t kCrcStart = 8;  // of a unit
constexpr std::size_t kFooterSize = 160;
constexpr std::size_t kShownKey = 64;

bool is_page_size(std::uint32_t size) {
  return size >= 4096 && size <= 65536 && std::has_single_bit(size);
}

bool is_zero(std::string_view bytes) {
  return std::ranges::all_of(bytes, [](char c) { return c == 0; });
}

std::string check_data(std::string_view bytes, const UnitHeader& header) {
  const std::uint64_t records = kUnitHeaderSize + 6 * std::uint64_t{header.count};
  if (header.count == 0 || records > header.end || header.first_child != 0) {
    return "impossible sizes of its parts";
  }
  const DataView view(bytes.data(), header.count, header.end, header.skip);
  std::string_view previous;
  for (std::uint32_t i = 0; i < header.count; ++i) {
    const std::uint32_t start = view.start(i);
    const std::uint32_t stop = view.stop(i);
    if ((i == 0 && start != records) || start + 2 > stop || stop > header.end) {
      return fmt::format("record {} starts where none can", i);
    }
    const auto word = load<std::uint16_t>(bytes.data() + start);
    const std::size_t key_size = word & ~kErasedBit;
    if (key_size > kMaxKeySize || start + 2 + key_size > stop) {
      return fmt::format("record {} is larger than its place", i);
    }
    const std::string_view key = view.key(i);
    if (view.erased(i) && !view.value(i).empty()) {
      return fmt::format("record {} is erased and has a value", i);
    }
    if (i > 0 && key <= previous) return fmt::format("record {} is out of order", i);
    if (view.prefix(i) != prefix4(key, header.skip)) {
      return fmt::format("record {} does not fit its prefix", i);
    }
    previous = key;
  }
  if (common_prefix(view.key(0), previous) != header.skip) return "keys with another common start";
  return "";
}

std::string check_index(std::string_view bytes, const UnitHeader& header) {
  const std::uint64_t heap =
      kUnitHeaderSize + (8 + sizeof(IndexEntry)) * std::uint64_t{header.count};
  if (header.count == 0 || heap > header.end || header.level == 0 || header.level >= kMaxLevels ||
      std::uint64_t{header.first_child} + header.count > header.number) {
    return "impossible sizes of its parts";
  }
  const IndexView view(bytes.data(), header.count, header.skip, header.level);
  std::uint64_t separator_at = heap;
  std::uint64_t child_at = view.entry(0).offset;
  for (std::uint32_t i = 0; i < header.count; ++i) {
    const IndexEntry entry = view.entry(i);
    if (entry.separator_start != separator_at || separator_at + entry.separator_size > header.end) {
      return fmt::format("separator {} is not where it must be", i);
    }
    separator_at += entry.separator_size;
    if (entry.offset != child_at || entry.size < kUnitHeaderSize ||
        entry.size % kUnitAlignment != 0 || entry.size > kMaxUnitSize || entry.end > entry.size ||
        entry.offset > header.offset || entry.offset + entry.size > header.offset ||
        entry.count == 0) {
      return fmt::format("child {} is not where it must be", i);
    }
    child_at += entry.size;
    if (i > 0 && view.separator(i) <= view.separator(i - 1)) {
      return fmt::format("separator {} is out of order", i);
    }
    const std::uint64_t prefix = i == 0 ? 0 : prefix8(view.separator(i), header.skip);
    if (view.prefix(i) != prefix) return fmt::format("separator {} does not fit its prefix", i);
  }
  const std::size_t common =
      header.count < 2 ? 0 : common_prefix(view.separator(1), view.separator(header.count - 1));
  if (separator_at != header.end || common != header.skip) {
    return "separators that do not fit its header";
  }
  return "";
}

std::string check_directory(std::string_view bytes, const UnitHeader& header) {
  if (header.end != kUnitHeaderSize + sizeof(DirectoryEntry) * std::uint64_t{header.count}) {
    return "impossible sizes of its parts";
  }
  for (std::uint32_t i = 0; i < header.count; ++i) {
    const DirectoryEntry entry = directory_entry(bytes, i);
    if (i > 0 && entry.table <= directory_entry(bytes, i - 1).table) {
      return fmt::format("entry {} is out of order", i);
    }
    const std::uint64_t root_end = entry.root_offset + entry.root_size;
    if (entry.root_offset % kUnitAlignment != 0 || entry.root_size < kUnitHeaderSize ||
        entry.root_size > kMaxUnitSize || entry.root_offset > header.offset ||
        root_end > header.offset || entry.root_number >= header.number ||
        entry.root_end > entry.root_size || entry.root_level >= kMaxLevels || entry.records == 0 ||
        entry.erased > entry.records || entry.blocks == 0 ||
        entry.data_offset > entry.root_offset) {
      return fmt::format("entry {} is impossible", i);
    }
  }
  return "";
}

std::string check_inside(std::string_view bytes, const UnitHeader& header) {
  if (header.zero != 0 || header.more_zeros != 0 || header.end < kUnitHeaderSize ||
      header.end > header.size || !is_zero(bytes.substr(header.end))) {
    return "no zeros where they belong";
  }
  if ((header.level != 0) != (header.type == UnitType::kIndex)) return "an impossible level";
  switch (header.type) {
    case UnitType::kData:
      return check_data(bytes, header);
    case UnitType::kIndex:
      return check_index(bytes, header);
    case UnitType::kDirectory:
      return check_directory(bytes, header);
    case UnitType::kFooter:
      return header.size == kFilePage && header.end == kFooterSize ? "" : "impossible sizes";
  }
  return "no magic number";
}

bool is_unit_type(UnitType type) {
  return type == UnitType::kData || type == UnitType::kIndex || type == UnitType::kDirectory ||
         type == UnitType::kFooter;
}

}  // namespace

std::string_view to_string(UnitType type) {
  switch (type) {
    case UnitType::kData:
      return "block";
    case UnitType::kIndex:
      return "index unit";
    case UnitType::kDirectory:
      return "directory unit";
    case UnitType::kFooter:
      return "footer";
  }
  return "unit";
}

std::uint64_t tag_of(std::string_view uuid) {
  std::uint64_t tag = 0;
  const std::string_view digits = uuid.substr(0, 16);
  std::from_chars(digits.data(), digits.data() + digits.size(), tag, 16);
  return tag;
}

std::string encode(const FileHeader& header) {
  DEFIB_ASSERT(header.uuid.size() == kUuidSize && is_page_size(header.page_size));
  std::string out(kFileMagic);
  Writer writer(out);
  writer.u32(kVersion);
  writer.u32(kEndianness);
  writer.u32(header.page_size);
  writer.u32(header.kind == SortedKind::kBase ? 1 : 2);
  writer.bytes(header.uuid);
  writer.u64(header.generation);
  writer.u64(header.last_commit);
  out.resize(kFilePage - 4, '\0');
  writer.u32(crc32c(out));
  return out;
}

std::optional<FileHeader> decode_file_header(std::string_view bytes, std::string& problem,
                                             bool& unsupported) {
  unsupported = false;
  if (bytes.size() < kFilePage) {
    problem = fmt::format("header page: {} bytes where {} belong", bytes.size(), kFilePage);
    return std::nullopt;
  }
  bytes = bytes.substr(0, kFilePage);
  if (!bytes.starts_with(kFileMagic)) {
    problem = "header page: no magic number";
    return std::nullopt;
  }
  Reader reader(bytes.substr(kFileMagic.size()));
  const std::uint32_t version = reader.u32();
  const std::uint32_t endianness = reader.u32();
  // A machine of the other endianness computes the same checksum and stores it the other way round.
  const auto stored = load<std::uint32_t>(bytes.data() + kFilePage - 4);
  const std::uint32_t computed = crc32c(bytes.substr(0, kFilePage - 4));
  const bool is_foreign = endianness == kForeignEndianness && stored == std::byteswap(computed);
  if (stored != computed && !is_foreign) {
    problem = fmt::format("header page: checksum {:08x}, computed {:08x}", stored, computed);
    return std::nullopt;
  }
  if (is_foreign || endianness != kEndianness) {
    problem = "written by a machine of another endianness";
    unsupported = true;
    return std::nullopt;
  }
  if (version != kVersion) {
    problem = fmt::format("sorted file format version {}, supported is {}", version, kVersion);
    unsupported = true;
    return std::nullopt;
  }
  FileHeader header;
  header.page_size = reader.u32();
  const std::uint32_t kind = reader.u32();
  header.kind = kind == 1 ? SortedKind::kBase : SortedKind::kRun;
  header.uuid = reader.bytes(kUuidSize);
  header.generation = reader.u64();
  header.last_commit = reader.u64();
  if ((kind != 1 && kind != 2) || !is_page_size(header.page_size)) {
    problem = "header page: impossible values under a right checksum";
    return std::nullopt;
  }
  return header;
}

std::string encode(const Footer& footer, UnitHeader header) {
  std::string out(kUnitHeaderSize, '\0');
  Writer writer(out);
  writer.u64(footer.file_size);
  writer.u64(footer.records);
  writer.u64(footer.erased);
  writer.u64(footer.last_commit);
  writer.u64(footer.directory_offset);
  writer.u32(footer.directory_units);
  writer.u32(footer.directory_crc);
  writer.u32(footer.tables);
  writer.u32(footer.kind == SortedKind::kBase ? 1 : 2);
  writer.u32(footer.page_size);
  writer.u32(kVersion);
  writer.bytes(footer.uuid);
  DEFIB_ASSERT(out.size() == kFooterSize);
  header.type = UnitType::kFooter;
  seal_unit(out, header, kFilePage);
  return out;
}

std::optional<Footer> decode_footer(std::string_view unit, std::string& problem) {
  Reader reader(unit.substr(kUnitHeaderSize));
  Footer footer;
  footer.file_size = reader.u64();
  footer.records = reader.u64();
  footer.erased = reader.u64();
  footer.last_commit = reader.u64();
  footer.directory_offset = reader.u64();
  footer.directory_units = reader.u32();
  footer.directory_crc = reader.u32();
  footer.tables = reader.u32();
  const std::uint32_t kind = reader.u32();
  footer.kind = kind == 1 ? SortedKind::kBase : SortedKind::kRun;
  footer.page_size = reader.u32();
  const std::uint32_t version = reader.u32();
  footer.uuid = reader.bytes(kUuidSize);
  if (!reader.ok() || version != kVersion || (kind != 1 && kind != 2)) {
    problem = "footer: impossible values under a right checksum";
    return std::nullopt;
  }
  return footer;
}

UnitRef root_of(const DirectoryEntry& entry) {
  UnitRef ref;
  ref.offset = entry.root_offset;
  ref.size = entry.root_size;
  ref.crc = entry.root_crc;
  ref.count = entry.root_count;
  ref.end = entry.root_end;
  ref.skip = entry.root_skip;
  ref.level = entry.root_level;
  ref.number = entry.root_number;
  return ref;
}

void seal_unit(std::string& unit, UnitHeader header, std::size_t size) {
  header.end = static_cast<std::uint32_t>(unit.size());
  if (size == 0) size = align_up(unit.size(), kUnitAlignment);
  DEFIB_ASSERT(unit.size() >= kUnitHeaderSize && size >= unit.size());
  unit.resize(size, '\0');
  header.size = static_cast<std::uint32_t>(size);
  store_value(unit.data(), header);
  header.crc = crc32c(std::string_view(unit).substr(kCrcStart));
  store_value(unit.data(), header);
}

std::string check_unit_alone(std::string_view bytes, const Owner& owner, std::uint64_t offset,
                             UnitHeader& header) {
  DEFIB_ASSERT(bytes.size() >= kUnitHeaderSize);
  header = load<UnitHeader>(bytes.data());
  if (is_zero(bytes.substr(0, kUnitHeaderSize))) return "zeros: it was never written";
  if (!is_unit_type(header.type)) return "no magic number";
  if (header.size < kUnitHeaderSize || header.size > kMaxUnitSize ||
      header.size % kUnitAlignment != 0) {
    return fmt::format("impossible size {}", header.size);
  }
  if (header.size > bytes.size()) {
    return fmt::format("{} bytes where {} belong", bytes.size(), header.size);
  }
  bytes = bytes.substr(0, header.size);
  const std::uint32_t computed = crc32c(bytes.substr(kCrcStart));
  if (header.crc != computed) {
    return fmt::format("checksum {:08x}, computed {:08x}", header.crc, computed);
  }
  if (header.tag != owner.tag) return "intact, but of another store: a misdirected or stale write";
  if (header.generation != owner.generation) {
    return fmt::format("intact, but of generation {}: a misdirected or stale write",
                       header.generation);
  }
  if (header.offset != offset) {
    return fmt::format("intact, but the one for offset {}: a misdirected write", header.offset);
  }
  return check_inside(bytes, header);
}

std::string check_unit(std::string_view bytes, const Owner& owner, const UnitRef& ref,
                       TableId table) {
  UnitHeader header;
  std::string problem = check_unit_alone(bytes, owner, ref.offset, header);
  if (!problem.empty()) return problem;
  const UnitType type = ref.level == 0 ? UnitType::kData : UnitType::kIndex;
  if (header.type != type || header.crc != ref.crc || header.size != ref.size ||
      header.number != ref.number || header.table != table || header.count != ref.count ||
      header.end != ref.end || header.skip != ref.skip || header.level != ref.level) {
    return fmt::format("intact, but not the one that its index names (checksum {:08x}, not {:08x})",
                       header.crc, ref.crc);
  }
  return "";
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  const std::size_t limit = std::min(a.size(), b.size());
  std::size_t size = 0;
  while (size < limit && a[size] == b[size]) ++size;
  return size;
}

std::uint32_t DataView::prefixes_less(std::uint32_t x) const {
  // Four at a time: the prefixes lie together, and comparing all of them is cheaper than the
  // mispredicted branches of a binary search. Comparisons are signed, hence the bias.
  using Lanes = std::int32_t __attribute__((vector_size(16)));
  constexpr std::int32_t kBias = INT32_MIN;
  const auto biased = static_cast<std::int32_t>(x) ^ kBias;
  const Lanes limit = {biased, biased, biased, biased};
  const Lanes bias = {kBias, kBias, kBias, kBias};
  const char* at = unit_ + kUnitHeaderSize;
  Lanes less = {0, 0, 0, 0};
  std::uint32_t i = 0;
  for (; i + 4 <= count_; i += 4) {
    const auto lanes = load<Lanes>(at + 4 * std::size_t{i});
    less -= (lanes ^ bias) < limit;
  }
  auto total = static_cast<std::uint32_t>(less[0] + less[1] + less[2] + less[3]);
  for (; i < count_; ++i) total += prefix(i) < x;
  return total;
}

std::uint32_t DataView::find(std::string_view key) const {
  const std::uint32_t x = prefix4(key, skip_);
  std::uint32_t low = prefixes_less(x);
  if (low == count_ || prefix(low) != x) return count_;
  std::uint32_t high = low + 1;
  if (high < count_ && prefix(high) == x) {
    // Several keys with one prefix: by whole keys.
    high = x == UINT32_MAX ? count_ : prefixes_less(x + 1);
    while (high - low > 1) {
      const std::uint32_t middle = low + (high - low) / 2;
      (this->key(middle) <= key ? low : high) = middle;
    }
  }
  return this->key(low) == key ? low : count_;
}

template <typename Before>
std::uint32_t DataView::partition(std::string_view wanted, Before before) const {
  if (skip_ > 0) {
    const int order = wanted.substr(0, skip_).compare(key(0).substr(0, skip_));
    if (order != 0) return order < 0 ? 0 : count_;
  }
  const std::uint32_t x = prefix4(wanted, skip_);
  std::uint32_t low = prefixes_less(x);
  std::uint32_t high = x == UINT32_MAX ? count_ : low;
  if (x != UINT32_MAX && low < count_ && prefix(low) == x) high = prefixes_less(x + 1);
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (before(key(middle))) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

std::uint32_t DataView::lower_bound(std::string_view wanted) const {
  return partition(wanted, [&](std::string_view key) { return key < wanted; });
}
std::uint32_t DataView::upper_bound(std::string_view wanted) const {
  return partition(wanted, [&](std::string_view key) { return key <= wanted; });
}

std::uint32_t IndexView::search(std::string_view key) const {
  if (count_ < 2) return 0;
  if (skip_ > 0) {
    const int order = key.substr(0, skip_).compare(separator(1).substr(0, skip_));
    if (order != 0) return order < 0 ? 0 : count_ - 1;
  }
  const std::uint64_t x = prefix8(key, skip_);
  // Without branches: the first of the separators 1 to count - 1 whose prefix is not less than x.
  std::uint32_t base = 1;
  for (std::uint32_t n = count_ - 1; n > 0;) {
    const std::uint32_t half = (n + 1) / 2;
    base += half & (0U - static_cast<std::uint32_t>(prefix(base + half - 1) < x));
    n -= half;
  }
  std::uint32_t low = base;
  if (low == count_ || prefix(low) != x) return low - 1;
  std::uint32_t high = low;
  while (high < count_ && prefix(high) == x) ++high;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (separator(middle) <= key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

std::string key_text(std::string_view key) {
  std::string text = escape(key.substr(0, kShownKey));
  if (key.size() > kShownKey) text += fmt::format("... ({} bytes)", key.size());
  return text;
}

}  // namespace defib::store::sorted
