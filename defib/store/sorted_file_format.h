// What a sorted file looks like: docs/formats/store_sorted_file.md says it in prose.
//
// A file is a header page, units without gaps, and a footer page, which is a unit too. Views read
// a unit in place; they may be used only on bytes that check_unit() has found right, which makes
// every offset and order that they rely on a fact.
// Decoders and checks are total: any bytes yield a value or a problem in words.
// Thread rule: pure functions.

#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/store/sorted_file.h"

namespace defib::store::sorted {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kUnitAlignment = 64;
inline constexpr std::size_t kUnitHeaderSize = 64;
// The header and the footer; the file's size is a multiple of it.
inline constexpr std::size_t kFilePage = 4096;
// An index unit has at least two children, and there are at most 2^32 units.
inline constexpr unsigned kMaxLevels = 33;
// A page, or one record with the largest key and value.
inline constexpr std::size_t kMaxUnitSize = kMaxValueSize + kMaxKeySize + 4096;

enum class UnitType : std::uint32_t {
  kData = 0x44545253,       // "SRTD"
  kIndex = 0x49545253,      // "SRTI"
  kDirectory = 0x54545253,  // "SRTT"
  kFooter = 0x46545253,     // "SRTF"
};
std::string_view to_string(UnitType type);

// Which file of which store: each unit carries it.
struct Owner {
  std::uint64_t generation = 0;
  std::uint64_t tag = 0;
  friend auto operator<=>(const Owner&, const Owner&) = default;
};
// The number of a uuid's first 16 digits.
std::uint64_t tag_of(std::string_view uuid);

struct FileHeader {
  std::uint32_t page_size = 0;
  SortedKind kind = SortedKind::kRun;
  std::string uuid;
  std::uint64_t generation = 0;
  std::uint64_t last_commit = 0;
  Owner owner() const { return {generation, tag_of(uuid)}; }
};
std::string encode(const FileHeader& header);  // kFilePage bytes
// `unsupported` is set where the page is intact, but of another version or endianness.
std::optional<FileHeader> decode_file_header(std::string_view bytes, std::string& problem,
                                             bool& unsupported);

struct UnitHeader {
  UnitType type = UnitType::kData;  // at 0
  std::uint32_t crc = 0;            // 4, over bytes 8 on
  std::uint64_t generation = 0;     // 8
  std::uint64_t tag = 0;            // 16
  std::uint32_t number = 0;         // 24
  std::uint32_t first_child = 0;    // 28
  std::uint64_t offset = 0;         // 32
  std::uint32_t size = 0;           // 40
  std::uint32_t table = 0;          // 44
  std::uint32_t count = 0;          // 48
  std::uint32_t end = 0;            // 52
  std::uint16_t skip = 0;           // 56
  std::uint8_t level = 0;           // 58
  std::uint8_t zero = 0;            // 59
  std::uint32_t more_zeros = 0;     // 60
  Owner owner() const { return {generation, tag}; }
};
static_assert(sizeof(UnitHeader) == kUnitHeaderSize && offsetof(UnitHeader, offset) == 32 &&
              offsetof(UnitHeader, skip) == 56);

// An index unit's entry for one child.
struct IndexEntry {
  std::uint64_t offset = 0;           // at 0
  std::uint32_t size = 0;             // 8
  std::uint32_t crc = 0;              // 12
  std::uint32_t count = 0;            // 16
  std::uint32_t end = 0;              // 20
  std::uint16_t skip = 0;             // 24
  std::uint16_t separator_size = 0;   // 26
  std::uint32_t separator_start = 0;  // 28
};
static_assert(sizeof(IndexEntry) == 32 && offsetof(IndexEntry, skip) == 24);

struct DirectoryEntry {
  std::uint32_t table = 0;        // at 0
  std::uint32_t root_number = 0;  // 4
  std::uint64_t records = 0;      // 8
  std::uint64_t erased = 0;       // 16
  std::uint64_t root_offset = 0;  // 24
  std::uint32_t root_size = 0;    // 32
  std::uint32_t root_crc = 0;     // 36
  std::uint32_t root_count = 0;   // 40
  std::uint32_t root_end = 0;     // 44
  std::uint16_t root_skip = 0;    // 48
  std::uint8_t root_level = 0;    // 50
  std::uint8_t zero = 0;          // 51
  std::uint32_t blocks = 0;       // 52
  std::uint64_t data_offset = 0;  // 56
};
static_assert(sizeof(DirectoryEntry) == 64 && offsetof(DirectoryEntry, root_skip) == 48);

struct Footer {
  std::uint64_t file_size = 0;
  std::uint64_t records = 0;
  std::uint64_t erased = 0;
  std::uint64_t last_commit = 0;
  std::uint64_t directory_offset = 0;
  std::uint32_t directory_units = 0;
  std::uint32_t directory_crc = 0;
  std::uint32_t tables = 0;
  SortedKind kind = SortedKind::kRun;
  std::uint32_t page_size = 0;
  std::string uuid;
};
// A unit of kFilePage bytes, sealed; `header` gives owner, number and offset.
std::string encode(const Footer& footer, UnitHeader header);
// Of a unit that check_unit() has found right.
std::optional<Footer> decode_footer(std::string_view unit, std::string& problem);

// Where a unit must be and what must stand there.
struct UnitRef {
  std::uint64_t offset = 0;
  std::uint32_t size = 0;
  std::uint32_t crc = 0;
  std::uint32_t count = 0;
  std::uint32_t end = 0;
  std::uint16_t skip = 0;
  std::uint16_t level = 0;
  std::uint32_t number = 0;
};
UnitRef root_of(const DirectoryEntry& entry);

// Completes size, end and checksum of a unit whose header stands at its start, and pads it to
// `size` bytes, or where that is 0, to the alignment.
void seal_unit(std::string& unit, UnitHeader header, std::size_t size = 0);

// By itself: magic, sizes, owner, offset, checksum, and everything inside that views rely on.
// Empty where all is right. `bytes` is what stands in the file at `offset`, at least a header.
std::string check_unit_alone(std::string_view bytes, const Owner& owner, std::uint64_t offset,
                             UnitHeader& header);
// And against what its parent says of it.
std::string check_unit(std::string_view bytes, const Owner& owner, const UnitRef& ref,
                       TableId table);

// The number of up to four (eight) bytes behind the first `skip` ones, the first the highest.
inline std::uint32_t prefix4(std::string_view key, std::size_t skip) {
  if (key.size() >= skip + 4) return std::byteswap(load<std::uint32_t>(key.data() + skip));
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value = value << 8 | (skip + i < key.size() ? static_cast<unsigned char>(key[skip + i]) : 0U);
  }
  return value;
}
inline std::uint64_t prefix8(std::string_view key, std::size_t skip) {
  if (key.size() >= skip + 8) return std::byteswap(load<std::uint64_t>(key.data() + skip));
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    value = value << 8 | (skip + i < key.size() ? static_cast<unsigned char>(key[skip + i]) : 0U);
  }
  return value;
}
std::size_t common_prefix(std::string_view a, std::string_view b);

inline constexpr std::uint16_t kErasedBit = 0x8000;
inline constexpr std::size_t kRecordOverhead = 4 + 2 + 2;  // prefix, start, key size
static_assert(kMaxKeySize < kErasedBit);

// A data block in place.
class DataView {
 public:
  DataView() = default;
  DataView(const char* unit, std::uint32_t count, std::uint32_t end, std::uint32_t skip)
      : unit_(unit), count_(count), end_(end), skip_(skip) {}

  std::uint32_t count() const { return count_; }
  std::uint32_t end() const { return end_; }
  const char* unit() const { return unit_; }
  std::uint32_t prefix(std::size_t i) const {
    return load<std::uint32_t>(unit_ + kUnitHeaderSize + 4 * i);
  }
  std::uint32_t start(std::size_t i) const {
    return load<std::uint16_t>(unit_ + kUnitHeaderSize + 4 * std::size_t{count_} + 2 * i);
  }
  // Where record i ends.
  std::uint32_t stop(std::size_t i) const { return i + 1 < count_ ? start(i + 1) : end_; }
  std::string_view key(std::size_t i) const {
    const char* record = unit_ + start(i);
    const auto size = load<std::uint16_t>(record);
    return {record + 2, static_cast<std::size_t>(size & ~kErasedBit)};
  }
  bool erased(std::size_t i) const {
    return (load<std::uint16_t>(unit_ + start(i)) & kErasedBit) != 0;
  }
  std::string_view value(std::size_t i) const {
    const std::string_view k = key(i);
    const char* from = k.data() + k.size();
    return {from, static_cast<std::size_t>(unit_ + stop(i) - from)};
  }
  // Index of the record with that key, or count().
  std::uint32_t find(std::string_view key) const;
  // Of the first with key >= `key`, and of the first with key > `key`; count() where there is none.
  std::uint32_t lower_bound(std::string_view key) const;
  std::uint32_t upper_bound(std::string_view key) const;

 private:
  std::uint32_t prefixes_less(std::uint32_t x) const;
  template <typename Before>
  std::uint32_t partition(std::string_view key, Before before) const;

  const char* unit_ = nullptr;
  std::uint32_t count_ = 0;
  std::uint32_t end_ = 0;
  std::uint32_t skip_ = 0;
};

// An index unit in place.
class IndexView {
 public:
  IndexView() = default;
  IndexView(const char* unit, std::uint32_t count, std::uint32_t skip, std::uint32_t level)
      : unit_(unit), count_(count), skip_(skip), level_(level) {}

  std::uint32_t count() const { return count_; }
  std::uint64_t prefix(std::size_t i) const {
    return load<std::uint64_t>(unit_ + kUnitHeaderSize + 8 * i);
  }
  IndexEntry entry(std::size_t i) const {
    return load<IndexEntry>(unit_ + kUnitHeaderSize + 8 * std::size_t{count_} +
                            sizeof(IndexEntry) * i);
  }
  std::string_view separator(std::size_t i) const {
    const IndexEntry e = entry(i);
    return {unit_ + e.separator_start, e.separator_size};
  }
  UnitRef child(std::size_t i) const {
    const IndexEntry e = entry(i);
    UnitRef ref;
    ref.offset = e.offset;
    ref.size = e.size;
    ref.crc = e.crc;
    ref.count = e.count;
    ref.end = e.end;
    ref.skip = e.skip;
    ref.level = static_cast<std::uint16_t>(level_ - 1);
    ref.number = load<std::uint32_t>(unit_ + offsetof(UnitHeader, first_child)) +
                 static_cast<std::uint32_t>(i);
    return ref;
  }
  // The child that holds the key if any of them does.
  std::uint32_t search(std::string_view key) const;

 private:
  const char* unit_ = nullptr;
  std::uint32_t count_ = 0;
  std::uint32_t skip_ = 0;
  std::uint32_t level_ = 0;
};

inline DirectoryEntry directory_entry(std::string_view unit, std::size_t i) {
  return load<DirectoryEntry>(unit.data() + kUnitHeaderSize + sizeof(DirectoryEntry) * i);
}

// Bytes for messages and error fields: escaped, and cut where they are long.
std::string key_text(std::string_view key);

}  // namespace defib::store::sorted
