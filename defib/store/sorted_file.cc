#include "defib/store/sorted_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "defib/base/assert.h"
#include "defib/store/mapped_memory.h"
#include "defib/store/sorted_file_format.h"
#include "defib/store/sorted_file_verify.h"

namespace defib::store {
namespace {

using namespace sorted;

constexpr std::uint64_t kWindow = 64 << 10;  // bytes that a fault maps (fault_around_bytes)

// The way from a table's root to a unit: the index units above it and which child was taken.
struct Path {
  struct Step {
    IndexView view;
    std::uint32_t child = 0;
  };
  std::array<Step, kMaxLevels> steps;
  unsigned depth = 0;

  void push(const IndexView& view, std::uint32_t child) {
    steps[depth].view = view;
    steps[depth].child = child;
    ++depth;
  }
};

// Which keys a unit at the end of a path holds: from (inclusive) to before.
struct KeyRange {
  std::string_view from;
  std::optional<std::string_view> before;
};
KeyRange range_below(const Path& path) {
  KeyRange range;
  for (unsigned i = 0; i < path.depth; ++i) {
    const Path::Step& step = path.steps[i];
    if (step.child > 0) range.from = step.view.separator(step.child);
    if (step.child + 1 < step.view.count()) range.before = step.view.separator(step.child + 1);
  }
  return range;
}

// The unit cannot be used: where, which table and keys, and why.
Error damaged(const std::string& file, const UnitRef& ref, TableId table, const Path& path,
              const std::string& problem, const std::optional<Error>& cause) {
  const KeyRange range = range_below(path);
  const UnitType type = ref.level == 0 ? UnitType::kData : UnitType::kIndex;
  const std::string before = range.before ? key_text(*range.before) : "the table's end";
  const std::string what =
      fmt::format("'{}', {} {} at {}: {}; table {} cannot be read from key '{}' to {}", file,
                  to_string(type), ref.number, ref.offset, problem, table, key_text(range.from),
                  range.before ? "before '" + before + "'" : before);
  Error error = Error(cause ? cause->code() : Code::kCorrupted, what)
                    .with("path", file)
                    .with("offset", static_cast<std::int64_t>(ref.offset))
                    .with("size", ref.size)
                    .with("table", table)
                    .with("from_key", escape(range.from));
  if (range.before) error = std::move(error).with("before_key", escape(*range.before));
  return cause ? std::move(error).because(*cause) : error;
}

class FileCursor;

class MappedSortedFile final : public SortedFile {
 public:
  MappedSortedFile(std::unique_ptr<os::File> file, std::unique_ptr<os::FileView> view,
                   std::string path, SortedFileInfo info, std::string store_uuid, Frame frame,
                   std::shared_ptr<MappedMemory> memory)
      : file_(std::move(file)),
        view_(std::move(view)),
        base_(view_->bytes().data()),
        path_(std::move(path)),
        info_(info),
        store_uuid_(std::move(store_uuid)),
        frame_(std::move(frame)),
        words_((std::size_t{frame_.units} + 63) / 64),
        checked_(std::make_unique<std::atomic<std::uint64_t>[]>(words_)),
        memory_(std::move(memory)),
        window_words_(window_of(view_->bytes().size()) / 64 + 1),
        windows_(std::make_unique<std::atomic<std::uint64_t>[]>(window_words_)) {
    if (memory_ != nullptr) memory_->add(*this);
  }
  MappedSortedFile(const MappedSortedFile&) = delete;
  MappedSortedFile& operator=(const MappedSortedFile&) = delete;
  ~MappedSortedFile() override {
    if (memory_ != nullptr) memory_->remove(*this);
  }

  const SortedFileInfo& info() const override { return info_; }
  const std::string& path() const override { return path_; }
  Result<std::optional<LayerEntry>> find(TableId table, std::string_view key) const override;
  std::unique_ptr<LayerCursor> cursor(TableId table) const override;
  std::vector<TableId> tables() const override;
  std::uint64_t records(TableId table) const override;
  Result<std::vector<SortedDamage>> verify(
      const std::function<Result<>(std::uint64_t)>& pulse) const override {
    return verify_sorted_file(*file_, info_, store_uuid_, frame_, pulse);
  }
  std::uint64_t touched_bytes() const override { return touched_.load(std::memory_order_relaxed); }
  void release_memory() const override;

  // The unit's bytes, checked; null where it cannot be used, and the reason in `problem`.
  struct Problem {
    std::string text;
    std::optional<Error> cause;
  };
  const char* touch(const UnitRef& ref, TableId table, Problem& problem) const {
    const std::uint64_t bit = std::uint64_t{1} << (ref.number % 64);
    const std::uint64_t word = checked_[ref.number / 64].load(std::memory_order_acquire);
    if ((word & bit) != 0) [[likely]] {
      return base_ + ref.offset;
    }
    return first_touch(ref, table, problem);
  }

 private:
  const DirectoryEntry* entry(TableId table) const {
    const auto at = std::ranges::lower_bound(frame_.tables, table, {}, &DirectoryEntry::table);
    return at != frame_.tables.end() && at->table == table ? &*at : nullptr;
  }
  const char* first_touch(const UnitRef& ref, TableId table, Problem& problem) const;
  void count_memory(const UnitRef& ref) const;
  // The window of addresses that `offset` lies in.
  std::size_t window_of(std::uint64_t offset) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(base_);
    return static_cast<std::size_t>((begin + offset) / kWindow - begin / kWindow);
  }
  Result<std::optional<LayerEntry>> find_again(const DirectoryEntry& entry,
                                               std::string_view key) const;

  std::unique_ptr<os::File> file_;
  std::unique_ptr<os::FileView> view_;
  const char* base_;
  std::string path_;
  SortedFileInfo info_;
  std::string store_uuid_;
  Frame frame_;
  std::size_t words_;
  // A bit for each unit: it was checked since its memory was last released.
  std::unique_ptr<std::atomic<std::uint64_t>[]> checked_;
  std::shared_ptr<MappedMemory> memory_;  // null: nobody counts
  // A bit for each window of addresses: it was touched since.
  std::size_t window_words_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> windows_;
  mutable std::atomic<std::uint64_t> touched_ = 0;
};

class FileCursor final : public LayerCursor {
 public:
  FileCursor(const MappedSortedFile& file, TableId table, const UnitRef& root)
      : file_(file), table_(table), root_(root) {}

  bool seek(std::string_view key) override {
    if (!descend_to(key)) return false;
    return settle_forward(block_.lower_bound(key));
  }
  bool seek_for_prev(std::string_view key) override {
    if (!descend_to(key)) return false;
    const std::uint32_t after = block_.upper_bound(key);
    return after > 0 ? take(after - 1) : prev_block();
  }
  bool first() override {
    start();
    return descend(root_, [](const IndexView&) { return 0U; }) && take(0);
  }
  bool last() override {
    start();
    return descend(root_, [](const IndexView& view) { return view.count() - 1; }) &&
           take(block_.count() - 1);
  }
  bool next() override {
    if (!positioned_) return false;
    const std::uint32_t next = at_ + 1;
    if (next == block_.count()) return next_block();
    at_ = next;
    // Records follow one another: this one starts where the last one ended.
    decode(stop_, block_.stop(next));
    return true;
  }
  bool prev() override {
    if (!positioned_) return false;
    return at_ > 0 ? take(at_ - 1) : prev_block();
  }
  std::string_view key() const override { return {key_, key_size_}; }
  std::string_view value() const override { return {key_ + key_size_, value_size_}; }
  bool erased() const override { return erased_; }
  const Error* error() const override { return error_ ? &*error_ : nullptr; }

 private:
  void start() {
    path_.depth = 0;
    positioned_ = false;
    error_.reset();
  }
  bool descend_to(std::string_view key) {
    start();
    return descend(root_, [&](const IndexView& view) { return view.search(key); });
  }

  // From `ref`, to which path_ leads, down to a block; `choose` says which child of an index unit.
  template <typename Choose>
  bool descend(UnitRef ref, Choose choose) {
    for (;;) {
      MappedSortedFile::Problem problem;
      const char* unit = file_.touch(ref, table_, problem);
      if (unit == nullptr) {
        positioned_ = false;
        error_ = damaged(file_.path(), ref, table_, path_, problem.text, problem.cause);
        return false;
      }
      if (ref.level == 0) {
        block_ = DataView(unit, ref.count, ref.end, ref.skip);
        return true;
      }
      const IndexView view(unit, ref.count, ref.skip, ref.level);
      path_.push(view, choose(view));
      ref = view.child(path_.steps[path_.depth - 1].child);
    }
  }

  bool take(std::uint32_t i) {
    at_ = i;
    decode(block_.start(i), block_.stop(i));
    positioned_ = true;
    return true;
  }
  void decode(std::uint32_t start, std::uint32_t stop) {
    const char* record = block_.unit() + start;
    const auto word = load<std::uint16_t>(record);
    key_ = record + 2;
    key_size_ = word & ~std::uint32_t{kErasedBit};
    value_size_ = stop - start - 2 - key_size_;
    erased_ = (word & kErasedBit) != 0;
    stop_ = stop;
  }
  bool settle_forward(std::uint32_t i) { return i < block_.count() ? take(i) : next_block(); }

  // To the first record of the next block, and the last one of the block before.
  bool next_block() {
    positioned_ = false;
    while (path_.depth > 0) {
      Path::Step& step = path_.steps[path_.depth - 1];
      if (step.child + 1 < step.view.count()) {
        ++step.child;
        return descend(step.view.child(step.child), [](const IndexView&) { return 0U; }) && take(0);
      }
      --path_.depth;
    }
    return false;
  }
  bool prev_block() {
    positioned_ = false;
    while (path_.depth > 0) {
      Path::Step& step = path_.steps[path_.depth - 1];
      if (step.child > 0) {
        --step.child;
        return descend(step.view.child(step.child),
                       [](const IndexView& view) { return view.count() - 1; }) &&
               take(block_.count() - 1);
      }
      --path_.depth;
    }
    return false;
  }

  const MappedSortedFile& file_;
  const TableId table_;
  const UnitRef root_;
  DataView block_;
  std::uint32_t at_ = 0;
  std::uint32_t stop_ = 0;  // where the current record ends in the block
  std::uint32_t key_size_ = 0;
  std::uint32_t value_size_ = 0;
  const char* key_ = nullptr;
  bool positioned_ = false;
  bool erased_ = false;
  Path path_;
  std::optional<Error> error_;
};

Result<std::optional<LayerEntry>> MappedSortedFile::find(TableId table,
                                                         std::string_view key) const {
  const DirectoryEntry* const found = entry(table);
  if (found == nullptr) return std::nullopt;
  UnitRef ref = root_of(*found);
  Problem problem;
  for (;;) {
    const char* unit = touch(ref, table, problem);
    if (unit == nullptr) [[unlikely]] {
      return find_again(*found, key);
    }
    if (ref.level == 0) {
      const DataView block(unit, ref.count, ref.end, ref.skip);
      const std::uint32_t i = block.find(key);
      if (i == block.count()) return std::nullopt;
      return LayerEntry{block.value(i), block.erased(i)};
    }
    const IndexView view(unit, ref.count, ref.skip, ref.level);
    ref = view.child(view.search(key));
  }
}

// After a failure: down once more with the way kept, for the message.
Result<std::optional<LayerEntry>> MappedSortedFile::find_again(const DirectoryEntry& entry,
                                                               std::string_view key) const {
  FileCursor cursor(*this, entry.table, root_of(entry));
  const bool found = cursor.seek(key);
  if (cursor.error() != nullptr) return *cursor.error();
  if (!found || cursor.key() != key) return std::nullopt;
  return LayerEntry{cursor.value(), cursor.erased()};
}

const char* MappedSortedFile::first_touch(const UnitRef& ref, TableId table,
                                          Problem& problem) const {
  std::string scratch(ref.size, '\0');
  auto got = file_->read_at(ref.offset, scratch.data(), scratch.size());
  if (!got) {
    problem.text = "it cannot be read";
    problem.cause = got.error();
    return nullptr;
  }
  scratch.resize(*got);
  problem.text = *got < ref.size ? "the file ends inside of it"
                                 : check_unit(scratch, frame_.owner, ref, table);
  if (!problem.text.empty()) return nullptr;
  const std::uint64_t bit = std::uint64_t{1} << (ref.number % 64);
  checked_[ref.number / 64].fetch_or(bit, std::memory_order_acq_rel);
  count_memory(ref);
  return base_ + ref.offset;
}

// The kernel maps what it has around a touched page, too.
void MappedSortedFile::count_memory(const UnitRef& ref) const {
  std::uint64_t more = 0;
  for (std::size_t i = window_of(ref.offset); i <= window_of(ref.offset + ref.size - 1); ++i) {
    const std::uint64_t bit = std::uint64_t{1} << (i % 64);
    if ((windows_[i / 64].fetch_or(bit, std::memory_order_relaxed) & bit) == 0) more += kWindow;
  }
  touched_.fetch_add(more, std::memory_order_relaxed);
  if (more > 0 && memory_ != nullptr) memory_->grow(more);
}

std::unique_ptr<LayerCursor> MappedSortedFile::cursor(TableId table) const {
  const DirectoryEntry* const found = entry(table);
  if (found == nullptr) return nullptr;
  return std::make_unique<FileCursor>(*this, table, root_of(*found));
}

std::vector<TableId> MappedSortedFile::tables() const {
  std::vector<TableId> tables;
  tables.reserve(frame_.tables.size());
  for (const DirectoryEntry& entry : frame_.tables) tables.push_back(entry.table);
  return tables;
}

std::uint64_t MappedSortedFile::records(TableId table) const {
  const DirectoryEntry* const found = entry(table);
  return found == nullptr ? 0 : found->records;
}

void MappedSortedFile::release_memory() const {
  // In this order a reader beside it can only make the count too large.
  touched_.store(0, std::memory_order_relaxed);
  for (std::size_t i = 0; i < window_words_; ++i) windows_[i].store(0, std::memory_order_relaxed);
  for (std::size_t i = 0; i < words_; ++i) checked_[i].store(0, std::memory_order_release);
  view_->release(0, view_->bytes().size());
}

}  // namespace

Result<std::shared_ptr<SortedFile>> SortedFile::open(os::Files& files, const std::string& path,
                                                     const SortedFileInfo& expected,
                                                     const std::string& store_uuid,
                                                     std::shared_ptr<MappedMemory> memory) {
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(Frame frame, read_frame(*file, path, expected, store_uuid));
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::FileView> view, file->map());
  if (view->bytes().size() != expected.size) {
    return Error(Code::kCorrupted, fmt::format("'{}' changes its size", path)).with("path", path);
  }
  return std::shared_ptr<SortedFile>(
      std::make_shared<MappedSortedFile>(std::move(file), std::move(view), path, expected,
                                         store_uuid, std::move(frame), std::move(memory)));
}

}  // namespace defib::store
