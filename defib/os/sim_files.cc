#include "defib/os/sim_files.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::os {
namespace {

using sim::Operation;

constexpr std::uint64_t kPage = 4096;
constexpr char kUnreadable = '\xDB';  // what a mapping shows where the device answers an error

Error not_there(const std::string& path) {
  return Error(Code::kFileNotFound, fmt::format("'{}' does not exist", path)).with("path", path);
}

// Whatever the device says to a sync, the caller hears that it failed (files.h).
Error sync_failed(const std::string& path, Error error) {
  if (error.code() != Code::kNoSpace && error.code() != Code::kIoError) return error;
  return Error(Code::kSyncFailed, error.message()).with("path", path).because(std::move(error));
}

bool is_aligned(std::uint64_t number) {
  return number % kDirectAlignment == 0;
}

// A mapping: what the file held when it was made.
class HeldView final : public FileView {
 public:
  HeldView(std::string_view bytes, std::shared_ptr<const void> hold)
      : bytes_(bytes), hold_(std::move(hold)) {}
  std::string_view bytes() const override { return bytes_; }

 private:
  std::string_view bytes_;
  std::shared_ptr<const void> hold_;
};

}  // namespace

class SimFile final : public File {
 public:
  SimFile(SimFiles& files, std::uint64_t inode, std::string path, OpenMode mode)
      : files_(files), inode_(inode), path_(std::move(path)), mode_(mode) {}
  ~SimFile() override {
    const std::lock_guard lock(files_.mutex_);
    if (holds_lock_) files_.locked_.erase(inode_);
  }

  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    const std::lock_guard lock(files_.mutex_);
    const std::string_view content = files_.disk_.inodes.at(inode_).current.bytes();
    if (offset >= content.size()) return std::size_t{0};
    std::span<char> bytes(to, content.copy(to, size, offset));
    if (files_.read_fault_) DEFIB_TRY(files_.read_fault_(path_, offset, bytes));
    return bytes.size();
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    if (mode_ == OpenMode::kCreateNewDirect &&
        !(is_aligned(offset) && is_aligned(bytes.size()) &&
          is_aligned(reinterpret_cast<std::uintptr_t>(bytes.data())))) {
      return Error(Code::kSystemCallFailed, "a direct write is not aligned").with("path", path_);
    }
    return perform(Operation::Kind::kWrite, offset, bytes);
  }
  Result<> truncate(std::uint64_t size) override {
    return perform(Operation::Kind::kTruncate, size, {});
  }
  Result<> sync() override { return perform(Operation::Kind::kSync, 0, {}); }
  Result<> drop_cache() override { return perform(Operation::Kind::kDropCache, 0, {}); }
  Result<std::uint64_t> size() override {
    const std::lock_guard lock(files_.mutex_);
    return std::uint64_t{files_.disk_.inodes.at(inode_).current.size()};
  }
  Result<std::unique_ptr<FileView>> map() override {
    const std::lock_guard lock(files_.mutex_);
    const sim::Content& content = files_.disk_.inodes.at(inode_).current;
    if (!files_.read_fault_) {
      return std::unique_ptr<FileView>(std::make_unique<HeldView>(content.bytes(), content.hold()));
    }
    const auto read = std::make_shared<std::string>(content.bytes());
    for (std::size_t at = 0; at < read->size(); at += kPage) {
      const std::span<char> page(read->data() + at, std::min(kPage, read->size() - at));
      std::span<char> answer = page;
      if (!files_.read_fault_(path_, at, answer)) answer = {};
      std::ranges::fill(page.subspan(answer.size()), kUnreadable);
    }
    return std::unique_ptr<FileView>(std::make_unique<HeldView>(*read, read));
  }
  Result<> try_lock() override {
    const std::lock_guard lock(files_.mutex_);
    if (holds_lock_) return {};
    if (!files_.locked_.insert(inode_).second) {
      return Error(Code::kDatabaseLocked, "'" + path_ + "' is locked").with("path", path_);
    }
    holds_lock_ = true;
    return {};
  }

 private:
  Result<> perform(Operation::Kind kind, std::uint64_t offset, std::string_view bytes) {
    if (mode_ == OpenMode::kRead && kind != Operation::Kind::kSync &&
        kind != Operation::Kind::kDropCache) {
      return Error(Code::kSystemCallFailed, "the file is open for reading only");
    }
    const std::lock_guard lock(files_.mutex_);
    Operation operation;
    operation.kind = kind;
    operation.inode = inode_;
    operation.offset = offset;
    if (kind == Operation::Kind::kWrite) {
      operation.bytes = std::make_shared<const std::string>(bytes);
    }
    operation.path = path_;
    return files_.perform(std::move(operation));
  }

  SimFiles& files_;
  std::uint64_t inode_;
  std::string path_;
  OpenMode mode_;
  bool holds_lock_ = false;
};

class SimPage final : public VolatilePage {
 public:
  SimPage(SimFiles& files, std::string name) : files_(files), name_(std::move(name)) {}
  std::uint64_t load(std::size_t word) const override {
    const std::lock_guard lock(files_.mutex_);
    const auto at = files_.disk_.volatile_pages.find(name_);
    return at == files_.disk_.volatile_pages.end() ? 0 : at->second.at(word);
  }
  void store(std::size_t word, std::uint64_t value) override {
    const std::lock_guard lock(files_.mutex_);
    Operation operation;
    operation.kind = Operation::Kind::kVolatileStore;
    operation.offset = word;
    operation.value = value;
    operation.path = name_;
    files_.record(std::move(operation));
  }

 private:
  SimFiles& files_;
  std::string name_;
};

SimFiles::SimFiles() : SimFiles(std::make_shared<const sim::Disk>()) {}
SimFiles::SimFiles(std::shared_ptr<const sim::Disk> base) : base_(std::move(base)), disk_(*base_) {}
SimFiles::~SimFiles() = default;

void SimFiles::record(Operation operation) {
  disk_.apply(operation);
  operations_.push_back(std::move(operation));
}

void SimFiles::play(const Mischief& mischief, Operation& operation) const {
  using Kind = Operation::Kind;
  switch (mischief.kind) {
    case Mischief::Kind::kLoseWrite:
      if (operation.kind == Kind::kWrite) operation.landing = Operation::Landing::kNowhere;
      break;
    case Mischief::Kind::kMisdirectWrite: {
      if (operation.kind != Kind::kWrite) break;
      const auto target = disk_.names.find(mischief.path);
      operation.landing = Operation::Landing::kElsewhere;
      operation.landing_inode = target == disk_.names.end() ? operation.inode : target->second;
      operation.landing_offset = mischief.offset;
      break;
    }
    case Mischief::Kind::kLieAboutSync:
      if (operation.kind == Kind::kSync || operation.kind == Kind::kSyncDir) {
        operation.kind = Kind::kLyingSync;
      }
      break;
  }
}

// Precondition: mutex_ is held.
Result<> SimFiles::perform(Operation operation) {
  using Kind = Operation::Kind;
  const std::size_t index = operations_.size();
  if (operation.kind == Kind::kWrite && capacity_ != ~0ULL) {
    const std::uint64_t size = disk_.inodes.at(operation.inode).current.size();
    const std::uint64_t end = operation.offset + operation.data().size();
    if (end > size && disk_.used() + (end - size) > capacity_) {
      return Error(Code::kNoSpace, "'" + operation.path + "': no space left on device")
          .with("path", operation.path);
    }
  }
  if (fault_) {
    if (std::optional<Error> error = fault_(index, operation.describe())) {
      if (operation.kind == Kind::kWrite) {
        operation.bytes = std::make_shared<const std::string>(
            operation.data().substr(0, operation.data().size() / 2));
        record(std::move(operation));
        return *error;
      }
      if (operation.kind == Kind::kSync) {
        operation.kind = Kind::kFailedSync;
        const std::string path = operation.path;
        record(std::move(operation));
        return sync_failed(path, *std::move(error));
      }
      if (operation.kind == Kind::kSyncDir) return sync_failed(operation.path, *std::move(error));
      return *error;
    }
  }
  if (trick_) {
    if (const auto mischief = trick_(index, operation.describe())) play(*mischief, operation);
  }
  record(std::move(operation));
  return {};
}

Result<std::unique_ptr<File>> SimFiles::open(const std::string& path, OpenMode mode) {
  const std::lock_guard lock(mutex_);
  const bool creates = mode != OpenMode::kRead && mode != OpenMode::kWrite;
  auto at = disk_.names.find(path);
  if (at == disk_.names.end()) {
    const std::string dir = parent_dir(path);
    const bool dir_exists = dir == "/" || dir == "." || disk_.names.contains(dir);
    if (!creates || !dir_exists) return not_there(path);
    Operation creation;
    creation.kind = Operation::Kind::kName;
    creation.inode = disk_.next_inode;
    creation.added = creation.path = path;
    DEFIB_TRY(perform(std::move(creation)));
    at = disk_.names.find(path);
  } else if (mode == OpenMode::kCreateNew || mode == OpenMode::kCreateNewDirect) {
    return Error(Code::kFileExists, "'" + path + "' exists").with("path", path);
  }
  if (disk_.inodes.at(at->second).is_dir) {
    return Error(Code::kSystemCallFailed, "'" + path + "' is a directory").with("path", path);
  }
  return std::unique_ptr<File>(std::make_unique<SimFile>(*this, at->second, path, mode));
}

Result<> SimFiles::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_.names.find(from);
  if (at == disk_.names.end()) return not_there(from);
  DEFIB_ASSERT_MESSAGE(parent_dir(from) == parent_dir(to), "renames stay in one directory");
  Operation operation;
  operation.kind = Operation::Kind::kName;
  operation.inode = at->second;
  operation.gone = from;
  operation.added = operation.path = to;
  return perform(std::move(operation));
}

Result<> SimFiles::remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_.names.find(path);
  if (at == disk_.names.end()) return not_there(path);
  Operation operation;
  operation.kind = Operation::Kind::kName;
  operation.inode = at->second;
  operation.gone = operation.path = path;
  return perform(std::move(operation));
}

Result<> SimFiles::create_dirs(const std::string& path) {
  const std::lock_guard lock(mutex_);
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (!disk_.names.contains(part)) {
      Operation creation;
      creation.kind = Operation::Kind::kName;
      creation.inode = disk_.next_inode;
      creation.added = creation.path = part;
      creation.makes_dir = true;
      DEFIB_TRY(perform(std::move(creation)));
    }
    if (end == std::string::npos) return {};
  }
}

Result<> SimFiles::sync_dir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const bool is_root = path == "/" || path == ".";
  if (!is_root && !disk_.names.contains(path)) return not_there(path);
  Operation operation;
  operation.kind = Operation::Kind::kSyncDir;
  operation.path = path;
  return perform(std::move(operation));
}

Result<std::vector<std::string>> SimFiles::list(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto dir = disk_.names.find(path);
  if (dir == disk_.names.end() || !disk_.inodes.at(dir->second).is_dir) return not_there(path);
  const std::string prefix = path + "/";
  std::vector<std::string> names;
  for (auto at = disk_.names.lower_bound(prefix);
       at != disk_.names.end() && at->first.starts_with(prefix); ++at) {
    const std::string_view name = std::string_view(at->first).substr(prefix.size());
    if (name.find('/') == std::string_view::npos) names.emplace_back(name);
  }
  return names;
}

bool SimFiles::exists(const std::string& path) {
  const std::lock_guard lock(mutex_);
  return disk_.names.contains(path);
}

bool SimFiles::is_dir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_.names.find(path);
  return at != disk_.names.end() && disk_.inodes.at(at->second).is_dir;
}

Result<std::uint64_t> SimFiles::free_space(const std::string&) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t used = disk_.used();
  return capacity_ > used ? capacity_ - used : 0;
}

Result<std::unique_ptr<VolatilePage>> SimFiles::volatile_page(const std::string& name) {
  return std::unique_ptr<VolatilePage>(std::make_unique<SimPage>(*this, name));
}

Result<std::unique_ptr<VolatilePage>> SimFiles::find_volatile_page(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    if (!disk_.volatile_pages.contains(name)) return std::unique_ptr<VolatilePage>();
  }
  return volatile_page(name);
}

Result<> SimFiles::remove_volatile_page(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (!disk_.volatile_pages.contains(name)) return not_there(name);
  Operation operation;
  operation.kind = Operation::Kind::kVolatileRemove;
  operation.path = name;
  return perform(std::move(operation));
}

std::size_t SimFiles::operations() const {
  const std::lock_guard lock(mutex_);
  return operations_.size();
}

std::string SimFiles::describe_operation(std::size_t index) const {
  const std::lock_guard lock(mutex_);
  return operations_.at(index).describe();
}

const sim::Disk& SimFiles::disk_after(std::size_t operations) const {
  DEFIB_ASSERT(operations <= operations_.size());
  if (replay_ == nullptr || replayed_ > operations) {
    replay_ = std::make_unique<sim::Disk>(*base_);
    replayed_ = 0;
  }
  while (replayed_ < operations) replay_->apply(operations_[replayed_++]);
  return *replay_;
}

std::unique_ptr<SimFiles> SimFiles::crashed(std::size_t operations, std::uint64_t seed) const {
  const std::lock_guard lock(mutex_);
  auto disk = std::make_shared<const sim::Disk>(disk_after(operations).after_crash(seed));
  return std::unique_ptr<SimFiles>(new SimFiles(std::move(disk)));
}

std::unique_ptr<SimFiles> SimFiles::killed(std::size_t operations, std::uint64_t seed) const {
  const std::lock_guard lock(mutex_);
  auto disk = std::make_shared<sim::Disk>(disk_after(operations));
  if (operations < operations_.size() && operations_[operations].kind == Operation::Kind::kWrite) {
    // The kernel copies a write page by page, and stops between two pages.
    Operation part = operations_[operations];
    const std::uint64_t first_page = part.offset / kPage;
    const std::uint64_t pages = (part.offset + part.data().size()) / kPage - first_page + 1;
    const std::uint64_t end = (first_page + sim::mix(seed, operations, 6) % pages) * kPage;
    if (end > part.offset) {
      part.bytes = std::make_shared<const std::string>(part.data().substr(0, end - part.offset));
      disk->apply(part);
    }
  }
  return std::unique_ptr<SimFiles>(new SimFiles(std::move(disk)));
}

std::uint64_t SimFiles::fingerprint() const {
  const std::lock_guard lock(mutex_);
  return disk_.hash();
}

void SimFiles::set_capacity(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  capacity_ = bytes;
}

void SimFiles::set_fault(Fault fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

void SimFiles::set_mischief(Trick trick) {
  const std::lock_guard lock(mutex_);
  trick_ = std::move(trick);
}

void SimFiles::set_read_fault(ReadFault fault) {
  const std::lock_guard lock(mutex_);
  read_fault_ = std::move(fault);
}

void SimFiles::rot(const std::string& path, std::uint64_t offset, std::uint8_t mask) {
  const std::lock_guard lock(mutex_);
  Operation operation;
  operation.kind = Operation::Kind::kRot;
  operation.inode = disk_.names.at(path);
  operation.offset = offset;
  operation.value = mask;
  operation.path = path;
  record(std::move(operation));
}

std::string SimFiles::content(const std::string& path) const {
  const std::lock_guard lock(mutex_);
  return std::string(disk_.inodes.at(disk_.names.at(path)).current.bytes());
}

void SimFiles::set_content(const std::string& path, std::string bytes) {
  const std::lock_guard lock(mutex_);
  sim::Inode& inode = disk_.inodes.at(disk_.names.at(path));
  inode.current.assign(std::move(bytes));
  inode.durable = inode.current;
  inode.pending.clear();
  inode.diverged = false;
  // What was recorded does not lead here any more.
  base_ = std::make_shared<const sim::Disk>(disk_);
  operations_.clear();
  replay_.reset();
}

std::vector<std::string> SimFiles::all_files() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> files;
  for (const auto& [path, inode] : disk_.names) {
    if (!disk_.inodes.at(inode).is_dir) files.push_back(path);
  }
  return files;
}

}  // namespace defib::os
