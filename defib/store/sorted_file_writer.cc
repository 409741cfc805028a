// Writing a sorted file from front to back; what it looks like: docs/formats/store_sorted_file.md.
//
// Memory: one aligned buffer for output, one block, and 60 bytes or so for each block of the table
// that is being written. Nothing is written twice, and after a failure nothing more is written.

#include <fmt/core.h>

#include <algorithm>
#include <new>

#include "defib/base/assert.h"
#include "defib/store/format.h"
#include "defib/store/sorted_file_format.h"

namespace defib::store {
namespace {

using namespace sorted;

// One write past the page cache: what a commit's sync may have to wait for.
constexpr std::size_t kBufferSize = 256 << 10;
static_assert(kBufferSize % os::kDirectAlignment == 0 && kFilePage % os::kDirectAlignment == 0);

// Bytes appended to a file in whole buffers whose memory is aligned for direct writes.
class Output {
 public:
  Output(std::unique_ptr<os::File> file, std::function<Result<>(std::uint64_t)> pace)
      : file_(std::move(file)),
        pace_(std::move(pace)),
        buffer_(static_cast<char*>(::operator new(kBufferSize, kAlignment))) {}
  ~Output() { ::operator delete(buffer_, kAlignment); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  std::uint64_t position() const { return written_ + used_; }
  Result<> append(std::string_view bytes) {
    while (!bytes.empty()) {
      const std::size_t part = std::min(bytes.size(), kBufferSize - used_);
      std::memcpy(buffer_ + used_, bytes.data(), part);
      used_ += part;
      bytes.remove_prefix(part);
      if (used_ == kBufferSize) DEFIB_TRY(flush());
    }
    return {};
  }
  // Precondition: the position is a multiple of the alignment.
  Result<> finish() {
    DEFIB_TRY(flush());
    return file_->sync();
  }

 private:
  static constexpr std::align_val_t kAlignment{os::kDirectAlignment};

  Result<> flush() {
    if (used_ == 0) return {};
    DEFIB_ASSERT(used_ % os::kDirectAlignment == 0);
    DEFIB_TRY(file_->write_at(written_, {buffer_, used_}));
    written_ += used_;
    const std::size_t done = std::exchange(used_, 0);
    return pace_ ? pace_(done) : Result<>();
  }

  std::unique_ptr<os::File> file_;
  std::function<Result<>(std::uint64_t)> pace_;
  char* buffer_;
  std::size_t used_ = 0;
  std::uint64_t written_ = 0;
};

// Records on their way to a block.
class BlockBuilder {
 public:
  bool empty() const { return starts_.empty(); }
  // Size of the block with another record, unpadded.
  std::size_t size_with(std::string_view key, std::string_view value) const {
    return kUnitHeaderSize + kRecordOverhead * (starts_.size() + 1) - 2 * starts_.size() +
           records_.size() + key.size() + value.size();
  }
  void add(std::string_view key, std::string_view value, bool erased) {
    starts_.push_back(static_cast<std::uint32_t>(records_.size()));
    Writer writer(records_);
    writer.u16(static_cast<std::uint16_t>(key.size() | (erased ? kErasedBit : 0U)));
    writer.bytes(key);
    writer.bytes(value);
  }
  std::string_view key(std::size_t i) const {
    const char* record = records_.data() + starts_[i];
    return {record + 2, static_cast<std::size_t>(load<std::uint16_t>(record) & ~kErasedBit)};
  }
  // The block as a sealed unit; the builder is empty afterwards.
  const std::string& finish(UnitHeader header) {
    const std::size_t count = starts_.size();
    header.type = UnitType::kData;
    header.count = static_cast<std::uint32_t>(count);
    header.skip = static_cast<std::uint16_t>(common_prefix(key(0), key(count - 1)));
    unit_.assign(kUnitHeaderSize, '\0');
    Writer writer(unit_);
    for (std::size_t i = 0; i < count; ++i) writer.u32(prefix4(key(i), header.skip));
    const std::size_t base = unit_.size() + 2 * count;
    for (const std::uint32_t start : starts_) {
      DEFIB_ASSERT(base + start <= 0xffff);
      writer.u16(static_cast<std::uint16_t>(base + start));
    }
    writer.bytes(records_);
    seal_unit(unit_, header);
    starts_.clear();
    records_.clear();
    return unit_;
  }

 private:
  std::vector<std::uint32_t> starts_;  // in records_
  std::string records_;
  std::string unit_;
};

// What an index says of units of one level.
struct Level {
  struct Item {
    UnitRef ref;
    std::uint32_t separator_size = 0;
  };
  std::vector<Item> items;
  std::string separators;  // one after the other

  void add(const UnitRef& ref, std::string_view separator) {
    items.push_back({ref, static_cast<std::uint32_t>(separator.size())});
    separators += separator;
  }
};

UnitRef ref_of(std::string_view unit) {
  const auto header = load<UnitHeader>(unit.data());
  UnitRef ref;
  ref.offset = header.offset;
  ref.size = header.size;
  ref.crc = header.crc;
  ref.count = header.count;
  ref.end = header.end;
  ref.skip = header.skip;
  ref.level = header.level;
  ref.number = header.number;
  return ref;
}

// One index unit over items [from, to), whose first separator starts at `separator`.
std::string encode_index(const Level& children, std::size_t from, std::size_t to,
                         std::size_t separator, UnitHeader header) {
  const std::size_t count = to - from;
  std::vector<std::string_view> separators;
  for (std::size_t i = from; i < to; ++i) {
    separators.push_back(
        std::string_view(children.separators).substr(separator, children.items[i].separator_size));
    separator += separators.back().size();
  }
  header.type = UnitType::kIndex;
  header.count = static_cast<std::uint32_t>(count);
  header.first_child = children.items[from].ref.number;
  header.skip =
      count < 2 ? 0 : static_cast<std::uint16_t>(common_prefix(separators[1], separators.back()));
  std::string unit(kUnitHeaderSize, '\0');
  Writer writer(unit);
  for (std::size_t i = 0; i < count; ++i) {
    writer.u64(i == 0 ? 0 : prefix8(separators[i], header.skip));
  }
  std::size_t heap = unit.size() + sizeof(IndexEntry) * count;
  for (std::size_t i = 0; i < count; ++i) {
    const UnitRef& ref = children.items[from + i].ref;
    IndexEntry entry;
    entry.offset = ref.offset;
    entry.size = ref.size;
    entry.crc = ref.crc;
    entry.count = ref.count;
    entry.end = ref.end;
    entry.skip = ref.skip;
    entry.separator_size = static_cast<std::uint16_t>(separators[i].size());
    entry.separator_start = static_cast<std::uint32_t>(heap);
    heap += separators[i].size();
    unit.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  for (const std::string_view text : separators) unit += text;
  seal_unit(unit, header);
  return unit;
}

class FileWriter final : public SortedFileWriter {
 public:
  FileWriter(std::unique_ptr<os::File> file, std::string path, SortedFileSettings settings)
      : path_(std::move(path)),
        settings_(std::move(settings)),
        tag_(tag_of(settings_.store_uuid)),
        output_(std::move(file), settings_.pace) {}

  Result<> begin() {
    FileHeader header;
    header.page_size = settings_.page_size;
    header.kind = settings_.kind;
    header.uuid = settings_.store_uuid;
    header.generation = settings_.generation;
    header.last_commit = settings_.last_commit;
    return output_.append(encode(header));
  }

  Result<> add(TableId table, std::string_view key, std::string_view value, bool erased) override {
    if (failure_) return *failure_;
    if (auto done = add_record(table, key, value, erased); !done) return fail(done.error());
    return {};
  }

  Result<SortedFileInfo> finish() override {
    if (failure_) return *failure_;
    auto info = write_rest();
    if (!info) return fail(info.error());
    // Nothing may follow.
    failure_ = Error(Code::kInternal, fmt::format("'{}' is finished already", path_));
    return info;
  }

 private:
  Error fail(Error error) {
    failure_ = std::move(error);
    return *failure_;
  }
  Error bug(std::string_view what, TableId table, std::string_view key) const {
    return Error(Code::kCorrupted,
                 fmt::format("'{}': {} (table {}, key {})", path_, what, table, key_text(key)))
        .with("path", path_);
  }

  Result<> add_record(TableId table, std::string_view key, std::string_view value, bool erased) {
    if (key.size() > kMaxKeySize || value.size() > kMaxValueSize) {
      return Error(Code::kKeyOrValueTooLarge,
                   fmt::format("a key of {} and a value of {} bytes", key.size(), value.size()));
    }
    if (erased && !value.empty()) return bug("an erased record with a value", table, key);
    const bool same_table = has_table_ && table == table_;
    if (has_table_ && (table < table_ || (same_table && key <= last_key_))) {
      return bug("records out of order", table, key);
    }
    if (!same_table) {
      DEFIB_TRY(end_table());
      has_table_ = true;
      table_ = table;
      entry_ = {};
      entry_.table = table;
      entry_.data_offset = output_.position();
    } else if (!block_.empty() && block_.size_with(key, value) > settings_.page_size) {
      DEFIB_TRY(end_block());
    }
    if (block_.empty()) {
      // The shortest string that is greater than the last key and not greater than this one.
      const std::size_t common = common_prefix(last_key_, key);
      separator_ = same_table ? key.substr(0, common + 1) : "";
    }
    block_.add(key, value, erased);
    last_key_ = key;
    ++entry_.records;
    entry_.erased += erased ? 1 : 0;
    return {};
  }

  Result<UnitHeader> next_header() {
    if (number_ == UINT32_MAX) {
      return Error(Code::kLimitExceeded, fmt::format("'{}' has too many blocks", path_))
          .with("limit", UINT32_MAX);
    }
    UnitHeader header;
    header.generation = settings_.generation;
    header.tag = tag_;
    header.number = number_++;
    header.offset = output_.position();
    header.table = table_;
    return header;
  }

  Result<> end_block() {
    DEFIB_TRY_ASSIGN(const UnitHeader header, next_header());
    const std::string& unit = block_.finish(header);
    blocks_.add(ref_of(unit), separator_);
    ++entry_.blocks;
    return output_.append(unit);
  }

  // Writes units over `children`; what is to be said of them goes to `parents`.
  Result<> write_level(const Level& children, unsigned level, Level& parents) {
    std::size_t separator = 0;
    for (std::size_t from = 0; from < children.items.size();) {
      std::size_t size = kUnitHeaderSize;
      std::size_t separators = 0;
      std::size_t to = from;
      while (to < children.items.size()) {
        const std::uint32_t own = children.items[to].separator_size;
        size += 8 + sizeof(IndexEntry) + own;
        if (to >= from + 2 && size > settings_.page_size) break;
        separators += own;
        ++to;
      }
      DEFIB_TRY_ASSIGN(UnitHeader header, next_header());
      header.level = static_cast<std::uint8_t>(level);
      const std::string unit = encode_index(children, from, to, separator, header);
      parents.add(ref_of(unit), std::string_view(children.separators)
                                    .substr(separator, children.items[from].separator_size));
      DEFIB_TRY(output_.append(unit));
      separator += separators;
      from = to;
    }
    return {};
  }

  Result<> end_table() {
    if (!has_table_) return {};
    DEFIB_TRY(end_block());
    Level level = std::exchange(blocks_, {});
    for (unsigned height = 1; level.items.size() > 1; ++height) {
      DEFIB_ASSERT(height < kMaxLevels);
      Level parents;
      DEFIB_TRY(write_level(level, height, parents));
      level = std::move(parents);
    }
    const UnitRef& root = level.items.front().ref;
    entry_.root_number = root.number;
    entry_.root_offset = root.offset;
    entry_.root_size = root.size;
    entry_.root_crc = root.crc;
    entry_.root_count = root.count;
    entry_.root_end = root.end;
    entry_.root_skip = root.skip;
    entry_.root_level = static_cast<std::uint8_t>(root.level);
    directory_.push_back(entry_);
    return {};
  }

  // One unit at least: it fills the file up to where the footer may start.
  Result<> write_directory(Footer& footer) {
    footer.directory_offset = output_.position();
    const std::size_t fit = (settings_.page_size - kUnitHeaderSize) / sizeof(DirectoryEntry);
    table_ = 0;
    for (std::size_t from = 0; from == 0 || from < directory_.size(); from += fit) {
      const std::size_t to = std::min(from + fit, directory_.size());
      DEFIB_TRY_ASSIGN(UnitHeader header, next_header());
      header.type = UnitType::kDirectory;
      header.count = static_cast<std::uint32_t>(to - from);
      std::string unit(kUnitHeaderSize, '\0');
      unit.append(reinterpret_cast<const char*>(directory_.data() + from),
                  sizeof(DirectoryEntry) * (to - from));
      const bool is_last = to == directory_.size();
      const std::uint64_t end = header.offset + unit.size();
      seal_unit(unit, header, is_last ? align_up(end, kFilePage) - header.offset : 0);
      const std::uint32_t crc = load<UnitHeader>(unit.data()).crc;
      footer.directory_crc = crc32c({reinterpret_cast<const char*>(&crc), 4}, footer.directory_crc);
      ++footer.directory_units;
      DEFIB_TRY(output_.append(unit));
    }
    return {};
  }

  Result<SortedFileInfo> write_rest() {
    DEFIB_TRY(end_table());
    Footer footer;
    DEFIB_TRY(write_directory(footer));
    for (const DirectoryEntry& entry : directory_) {
      footer.records += entry.records;
      footer.erased += entry.erased;
    }
    footer.last_commit = settings_.last_commit;
    footer.tables = static_cast<std::uint32_t>(directory_.size());
    footer.kind = settings_.kind;
    footer.page_size = settings_.page_size;
    footer.uuid = settings_.store_uuid;
    DEFIB_TRY_ASSIGN(const UnitHeader header, next_header());
    footer.file_size = header.offset + kFilePage;
    const std::string unit = encode(footer, header);
    DEFIB_TRY(output_.append(unit));
    DEFIB_TRY(output_.finish());
    SortedFileInfo info;
    info.kind = settings_.kind;
    info.generation = settings_.generation;
    info.size = footer.file_size;
    info.footer_crc = load<UnitHeader>(unit.data()).crc;
    info.last_commit = settings_.last_commit;
    info.records = footer.records;
    info.erased = footer.erased;
    return info;
  }

  std::string path_;
  SortedFileSettings settings_;
  std::uint64_t tag_;
  Output output_;
  std::optional<Error> failure_;  // every later call answers with it
  std::uint32_t number_ = 0;      // of the next unit
  bool has_table_ = false;
  TableId table_ = 0;
  std::string last_key_;
  DirectoryEntry entry_;   // of the table being written
  BlockBuilder block_;     // being filled
  std::string separator_;  // before it
  Level blocks_;           // of the table so far
  std::vector<DirectoryEntry> directory_;
};

}  // namespace

Result<std::unique_ptr<SortedFileWriter>> SortedFileWriter::create(os::Files& files,
                                                                   const std::string& path,
                                                                   SortedFileSettings settings) {
  if (!std::has_single_bit(settings.page_size) || settings.page_size < 4096 ||
      settings.page_size > 65536 || settings.store_uuid.size() != kUuidSize) {
    return Error(Code::kInvalidArgument, "a page size or uuid that no sorted file can have")
        .with("page_size", settings.page_size)
        .with("uuid", settings.store_uuid);
  }
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file,
                   files.open(path, os::OpenMode::kCreateNewDirect));
  auto writer = std::make_unique<FileWriter>(std::move(file), path, std::move(settings));
  DEFIB_TRY(writer->begin());
  return std::unique_ptr<SortedFileWriter>(std::move(writer));
}

std::string sorted_file_name(const SortedFileInfo& info) {
  return fmt::format("{:016x}.{}", info.generation,
                     info.kind == SortedKind::kBase ? "base" : "run");
}

std::optional<SortedFileName> parse_sorted_file_name(std::string_view name) {
  constexpr std::size_t kDigits = 16;
  if (name.size() < kDigits) return std::nullopt;
  SortedFileName parsed;
  const std::string_view kind = name.substr(kDigits);
  if (kind != ".base" && kind != ".run") return std::nullopt;
  parsed.kind = kind == ".base" ? SortedKind::kBase : SortedKind::kRun;
  for (const char c : name.substr(0, kDigits)) {
    const bool is_digit = c >= '0' && c <= '9';
    if (!is_digit && (c < 'a' || c > 'f')) return std::nullopt;
    const int digit = is_digit ? c - '0' : c - 'a' + 10;
    parsed.generation = parsed.generation << 4 | static_cast<unsigned>(digit);
  }
  return parsed;
}

}  // namespace defib::store
