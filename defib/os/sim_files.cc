#include "defib/os/sim_files.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "defib/base/assert.h"
#include "defib/os/random.h"

namespace defib::os {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kPage = 4096;

// A well-mixed number for each place, so that places do not depend on the order of asking.
std::uint64_t mix(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  return Random(seed ^ (a * 0x9e3779b97f4a7c15) ^ (b * 0xc2b2ae3d27d4eb4f)).next();
}

enum class Survival { kNone, kAll, kPrefix, kSectors, kPages };

Error not_there(const std::string& path) {
  return Error(Code::kFileNotFound, fmt::format("'{}' does not exist", path)).with("path", path);
}

}  // namespace

struct SimFiles::Inode {
  struct Change {
    bool is_truncate = false;
    std::uint64_t offset = 0;  // or the new size
    std::string bytes;
  };
  bool is_dir = false;
  std::string durable;
  std::string current;
  std::vector<Change> pending;

  static void apply(std::string& content, const Change& change) {
    if (change.is_truncate) {
      content.resize(change.offset, '\0');
      return;
    }
    content.resize(std::max<std::size_t>(content.size(), change.offset + change.bytes.size()));
    std::ranges::copy(change.bytes, content.begin() + static_cast<std::ptrdiff_t>(change.offset));
  }

  std::string after_crash(Survival survival, std::uint64_t seed) const;
};

struct SimFiles::Operation {
  enum class Kind { kWrite, kTruncate, kSync, kFailedSync, kDropCache, kName, kSyncDir };
  Kind kind;
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;  // or the new size
  std::string bytes;
  // kName: takes `gone` away, if it is this inode's, and gives it the name `added`.
  std::string gone;
  std::string added;
  bool makes_dir = false;
  std::string path;  // for messages; of kSyncDir the directory
};

struct SimFiles::Disk {
  struct NameChange {
    std::string gone;
    std::string added;
    std::uint64_t inode;
  };
  std::map<std::uint64_t, Inode> inodes;
  std::map<std::string, std::uint64_t> names;
  std::map<std::string, std::uint64_t> durable_names;
  std::vector<NameChange> pending_names;
  std::uint64_t next_inode = 1;

  static void apply(std::map<std::string, std::uint64_t>& names, const NameChange& change) {
    if (!change.gone.empty()) {
      const auto at = names.find(change.gone);
      if (at != names.end() && at->second == change.inode) names.erase(at);
    }
    if (!change.added.empty()) names[change.added] = change.inode;
  }
  static std::string dir_of(const NameChange& change) {
    return parent_dir(change.added.empty() ? change.gone : change.added);
  }

  void apply(const Operation& operation);
  void sync_dir(const std::string& dir);
  Disk after_crash(std::uint64_t seed) const;
  std::uint64_t used() const {
    std::uint64_t bytes = 0;
    for (const auto& [path, inode] : names) bytes += inodes.at(inode).current.size();
    return bytes;
  }
};

std::string SimFiles::Inode::after_crash(Survival survival, std::uint64_t seed) const {
  const std::uint64_t count = pending.size();
  // How many of the changes, in order, reached a place.
  const std::uint64_t unit = survival == Survival::kPages ? kPage : kSector;
  const auto reached = [&](std::uint64_t place) -> std::uint64_t {
    switch (survival) {
      case Survival::kNone:
        return 0;
      case Survival::kAll:
        return count;
      case Survival::kPrefix:
        return mix(seed, 0, 0) % (count + 1);
      case Survival::kSectors:
      case Survival::kPages:
        break;
    }
    const std::uint64_t number = mix(seed, place, 1);
    // Mostly all or nothing of a place, sometimes a state in between.
    if (number % 4 == 0) return (number >> 8) % (count + 1);
    return number % 2 == 0 ? count : 0;
  };
  std::string content = durable;
  std::uint64_t size = durable.size();
  std::uint64_t extent = size;
  const std::uint64_t size_reached = reached(~0ULL);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Change& change = pending[i];
    const std::uint64_t end = change.offset + change.bytes.size();
    extent = std::max(extent, end);
    if (i < size_reached) size = change.is_truncate ? end : std::max(size, end);
  }
  content.resize(extent);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Change& change = pending[i];
    const std::uint64_t end = change.is_truncate ? extent : change.offset + change.bytes.size();
    for (std::uint64_t at = change.offset; at < end;) {
      const std::uint64_t next = std::min(end, (at / unit + 1) * unit);
      if (i < reached(at / unit)) {
        for (std::uint64_t byte = at; byte < next; ++byte) {
          content[byte] = change.is_truncate ? '\0' : change.bytes[byte - change.offset];
        }
      }
      at = next;
    }
  }
  content.resize(size);
  return content;
}

void SimFiles::Disk::sync_dir(const std::string& dir) {
  std::erase_if(pending_names, [&](const NameChange& change) {
    if (dir_of(change) != dir) return false;
    apply(durable_names, change);
    return true;
  });
}

void SimFiles::Disk::apply(const Operation& operation) {
  using Kind = Operation::Kind;
  switch (operation.kind) {
    case Kind::kWrite:
    case Kind::kTruncate: {
      Inode& inode = inodes.at(operation.inode);
      Inode::Change change{operation.kind == Kind::kTruncate, operation.offset, operation.bytes};
      Inode::apply(inode.current, change);
      inode.pending.push_back(std::move(change));
      break;
    }
    case Kind::kSync: {
      Inode& inode = inodes.at(operation.inode);
      for (const Inode::Change& change : inode.pending) Inode::apply(inode.durable, change);
      inode.pending.clear();
      break;
    }
    case Kind::kFailedSync:
      // The pages count as clean from now on, and no later sync writes them.
      inodes.at(operation.inode).pending.clear();
      break;
    case Kind::kDropCache: {
      Inode& inode = inodes.at(operation.inode);
      inode.current = inode.durable;
      for (const Inode::Change& change : inode.pending) Inode::apply(inode.current, change);
      break;
    }
    case Kind::kName: {
      if (operation.inode >= next_inode) {
        inodes[operation.inode].is_dir = operation.makes_dir;
        next_inode = operation.inode + 1;
      }
      NameChange change{operation.gone, operation.added, operation.inode};
      apply(names, change);
      pending_names.push_back(std::move(change));
      break;
    }
    case Kind::kSyncDir:
      sync_dir(operation.path);
      break;
  }
}

SimFiles::Disk SimFiles::Disk::after_crash(std::uint64_t seed) const {
  constexpr Survival kModes[] = {Survival::kNone,    Survival::kAll,   Survival::kPrefix,
                                 Survival::kSectors, Survival::kPages, Survival::kSectors};
  // The last mode gives each file and directory a mode of its own.
  const std::uint64_t chosen = seed % (std::size(kModes) + 1);
  const auto mode = [&](std::uint64_t what) {
    return kModes[(chosen < std::size(kModes) ? chosen : mix(seed, what, 2)) % std::size(kModes)];
  };
  Disk disk;
  disk.next_inode = next_inode;
  disk.durable_names = durable_names;
  std::map<std::string, std::uint64_t> changes_of;
  for (const NameChange& change : pending_names) ++changes_of[dir_of(change)];
  std::map<std::string, std::uint64_t> seen_of;
  for (const NameChange& change : pending_names) {
    const std::string dir = dir_of(change);
    const std::uint64_t dir_hash = std::hash<std::string>()(dir);
    const std::uint64_t position = seen_of[dir]++;
    bool survives = false;
    switch (mode(dir_hash)) {
      case Survival::kNone:
        break;
      case Survival::kAll:
        survives = true;
        break;
      case Survival::kPrefix:
        survives = position < mix(seed, dir_hash, 3) % (changes_of[dir] + 1);
        break;
      case Survival::kSectors:
      case Survival::kPages:
        survives = mix(seed, dir_hash, 4 + position) % 2 == 0;
        break;
    }
    if (survives) apply(disk.durable_names, change);
  }
  // A name in a directory that did not survive is gone with it.
  std::erase_if(disk.durable_names, [&](const auto& name) {
    const std::string dir = parent_dir(name.first);
    return dir != "/" && dir != "." && !disk.durable_names.contains(dir);
  });
  disk.names = disk.durable_names;
  for (const auto& [path, id] : disk.names) {
    const Inode& inode = inodes.at(id);
    Inode& copy = disk.inodes[id];
    copy.is_dir = inode.is_dir;
    copy.durable = copy.current = inode.after_crash(mode(id), mix(seed, id, 5));
  }
  return disk;
}

class SimFile final : public File {
 public:
  SimFile(SimFiles& files, std::uint64_t inode, std::string path, bool writable)
      : files_(files), inode_(inode), path_(std::move(path)), writable_(writable) {}
  ~SimFile() override {
    const std::lock_guard lock(files_.mutex_);
    if (holds_lock_) files_.locked_.erase(inode_);
  }

  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    const std::lock_guard lock(files_.mutex_);
    const std::string& content = files_.disk_->inodes.at(inode_).current;
    if (offset >= content.size()) return std::size_t{0};
    const std::size_t count = std::min<std::size_t>(size, content.size() - offset);
    std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(offset), count, to);
    return count;
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    return perform(SimFiles::Operation::Kind::kWrite, offset, bytes);
  }
  Result<> truncate(std::uint64_t size) override {
    return perform(SimFiles::Operation::Kind::kTruncate, size, {});
  }
  Result<> sync() override { return perform(SimFiles::Operation::Kind::kSync, 0, {}); }
  Result<> drop_cache() override { return perform(SimFiles::Operation::Kind::kDropCache, 0, {}); }
  Result<std::uint64_t> size() override {
    const std::lock_guard lock(files_.mutex_);
    return std::uint64_t{files_.disk_->inodes.at(inode_).current.size()};
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
  Result<> perform(SimFiles::Operation::Kind kind, std::uint64_t offset, std::string_view bytes) {
    if (!writable_) return Error(Code::kSystemCallFailed, "the file is open for reading only");
    const std::lock_guard lock(files_.mutex_);
    SimFiles::Operation operation{.kind = kind,
                                  .inode = inode_,
                                  .offset = offset,
                                  .bytes = std::string(bytes),
                                  .gone = {},
                                  .added = {},
                                  .path = path_};
    return files_.perform(std::move(operation));
  }

  SimFiles& files_;
  std::uint64_t inode_;
  std::string path_;
  bool writable_;
  bool holds_lock_ = false;
};

SimFiles::SimFiles() : SimFiles(std::make_unique<Disk>()) {}
SimFiles::SimFiles(std::unique_ptr<Disk> base)
    : base_(std::move(base)), disk_(std::make_unique<Disk>(*base_)) {}
SimFiles::~SimFiles() = default;

// Precondition: mutex_ is held.
Result<> SimFiles::perform(Operation operation) {
  using Kind = Operation::Kind;
  const std::size_t index = operations_.size();
  const auto record = [&](Operation done) {
    disk_->apply(done);
    operations_.push_back(std::move(done));
  };
  if (operation.kind == Kind::kWrite) {
    const std::uint64_t size = disk_->inodes.at(operation.inode).current.size();
    const std::uint64_t end = operation.offset + operation.bytes.size();
    if (end > size && disk_->used() + (end - size) > capacity_) {
      return Error(Code::kNoSpace, "'" + operation.path + "': no space left on device")
          .with("path", operation.path);
    }
  }
  if (fault_) {
    operations_.push_back(operation);
    const std::string what = describe_operation(index);
    operations_.pop_back();
    if (std::optional<Error> error = fault_(index, what)) {
      if (operation.kind == Kind::kWrite) {
        operation.bytes.resize(operation.bytes.size() / 2);
        record(std::move(operation));
      } else if (operation.kind == Kind::kSync) {
        operation.kind = Kind::kFailedSync;
        record(std::move(operation));
      }
      return *error;
    }
  }
  record(std::move(operation));
  return {};
}

Result<std::unique_ptr<File>> SimFiles::open(const std::string& path, OpenMode mode) {
  const std::lock_guard lock(mutex_);
  const bool creates = mode != OpenMode::kRead && mode != OpenMode::kWrite;
  auto at = disk_->names.find(path);
  if (at == disk_->names.end()) {
    const std::string dir = parent_dir(path);
    const bool dir_exists = dir == "/" || dir == "." || disk_->names.contains(dir);
    if (!creates || !dir_exists) return not_there(path);
    DEFIB_TRY(perform({.kind = Operation::Kind::kName,
                       .inode = disk_->next_inode,
                       .bytes = {},
                       .gone = {},
                       .added = path,
                       .path = path}));
    at = disk_->names.find(path);
  } else if (mode == OpenMode::kCreateNew || mode == OpenMode::kCreateNewDirect) {
    return Error(Code::kFileExists, "'" + path + "' exists").with("path", path);
  }
  if (disk_->inodes.at(at->second).is_dir) {
    return Error(Code::kSystemCallFailed, "'" + path + "' is a directory").with("path", path);
  }
  return std::unique_ptr<File>(
      std::make_unique<SimFile>(*this, at->second, path, mode != OpenMode::kRead));
}

Result<> SimFiles::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_->names.find(from);
  if (at == disk_->names.end()) return not_there(from);
  DEFIB_ASSERT_MESSAGE(parent_dir(from) == parent_dir(to), "renames stay in one directory");
  return perform({.kind = Operation::Kind::kName,
                  .inode = at->second,
                  .bytes = {},
                  .gone = from,
                  .added = to,
                  .path = to});
}

Result<> SimFiles::remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_->names.find(path);
  if (at == disk_->names.end()) return not_there(path);
  return perform({.kind = Operation::Kind::kName,
                  .inode = at->second,
                  .bytes = {},
                  .gone = path,
                  .added = {},
                  .path = path});
}

Result<> SimFiles::create_dirs(const std::string& path) {
  const std::lock_guard lock(mutex_);
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (!disk_->names.contains(part)) {
      DEFIB_TRY(perform({.kind = Operation::Kind::kName,
                         .inode = disk_->next_inode,
                         .bytes = {},
                         .gone = {},
                         .added = part,
                         .makes_dir = true,
                         .path = part}));
    }
    if (end == std::string::npos) return {};
  }
}

Result<> SimFiles::sync_dir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const bool is_root = path == "/" || path == ".";
  if (!is_root && !disk_->names.contains(path)) return not_there(path);
  return perform(
      {.kind = Operation::Kind::kSyncDir, .bytes = {}, .gone = {}, .added = {}, .path = path});
}

Result<std::vector<std::string>> SimFiles::list(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_->names.find(path);
  if (at == disk_->names.end() || !disk_->inodes.at(at->second).is_dir) return not_there(path);
  std::vector<std::string> names;
  for (const auto& [name, inode] : disk_->names) {
    if (parent_dir(name) == path) names.push_back(name.substr(path.size() + 1));
  }
  return names;
}

bool SimFiles::exists(const std::string& path) {
  const std::lock_guard lock(mutex_);
  return disk_->names.contains(path);
}

bool SimFiles::is_dir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto at = disk_->names.find(path);
  return at != disk_->names.end() && disk_->inodes.at(at->second).is_dir;
}

Result<std::uint64_t> SimFiles::free_space(const std::string&) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t used = disk_->used();
  return capacity_ > used ? capacity_ - used : 0;
}

std::size_t SimFiles::operations() const {
  const std::lock_guard lock(mutex_);
  return operations_.size();
}

std::string SimFiles::describe_operation(std::size_t index) const {
  using Kind = Operation::Kind;
  const Operation& operation = operations_.at(index);
  switch (operation.kind) {
    case Kind::kWrite:
      return fmt::format("write {} at {}, {} bytes", operation.path, operation.offset,
                         operation.bytes.size());
    case Kind::kTruncate:
      return fmt::format("truncate {} to {}", operation.path, operation.offset);
    case Kind::kSync:
      return "sync " + operation.path;
    case Kind::kFailedSync:
      return "failed sync " + operation.path;
    case Kind::kDropCache:
      return "drop cache of " + operation.path;
    case Kind::kSyncDir:
      return "sync directory " + operation.path;
    case Kind::kName:
      break;
  }
  if (operation.gone.empty()) return "create " + operation.added;
  if (operation.added.empty()) return "remove " + operation.gone;
  return fmt::format("rename {} to {}", operation.gone, operation.added);
}

const SimFiles::Disk& SimFiles::disk_after(std::size_t operations) const {
  DEFIB_ASSERT(operations <= operations_.size());
  if (replay_ == nullptr || replayed_ > operations) {
    replay_ = std::make_unique<Disk>(*base_);
    replayed_ = 0;
  }
  while (replayed_ < operations) replay_->apply(operations_[replayed_++]);
  return *replay_;
}

std::unique_ptr<SimFiles> SimFiles::crashed(std::size_t operations, std::uint64_t seed) const {
  const std::lock_guard lock(mutex_);
  return std::unique_ptr<SimFiles>(
      new SimFiles(std::make_unique<Disk>(disk_after(operations).after_crash(seed))));
}

std::unique_ptr<SimFiles> SimFiles::killed(std::size_t operations, std::uint64_t seed) const {
  const std::lock_guard lock(mutex_);
  auto disk = std::make_unique<Disk>(disk_after(operations));
  if (operations < operations_.size() && operations_[operations].kind == Operation::Kind::kWrite) {
    // The kernel copies a write page by page, and stops between two pages.
    Operation part = operations_[operations];
    const std::uint64_t first_page = part.offset / kPage;
    const std::uint64_t pages = (part.offset + part.bytes.size()) / kPage - first_page + 1;
    const std::uint64_t end = (first_page + mix(seed, operations, 6) % pages) * kPage;
    part.bytes.resize(end > part.offset ? end - part.offset : 0);
    if (!part.bytes.empty()) disk->apply(part);
  }
  return std::unique_ptr<SimFiles>(new SimFiles(std::move(disk)));
}

void SimFiles::set_capacity(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  capacity_ = bytes;
}

void SimFiles::set_fault(Fault fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

std::string SimFiles::content(const std::string& path) const {
  const std::lock_guard lock(mutex_);
  return disk_->inodes.at(disk_->names.at(path)).current;
}

void SimFiles::set_content(const std::string& path, std::string bytes) {
  const std::lock_guard lock(mutex_);
  Inode& inode = disk_->inodes.at(disk_->names.at(path));
  inode.current = inode.durable = std::move(bytes);
  inode.pending.clear();
  // What was recorded does not lead here any more.
  *base_ = *disk_;
  operations_.clear();
  replay_.reset();
}

std::vector<std::string> SimFiles::all_files() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> files;
  for (const auto& [path, inode] : disk_->names) {
    if (!disk_->inodes.at(inode).is_dir) files.push_back(path);
  }
  return files;
}

}  // namespace defib::os
