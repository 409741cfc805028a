#include "defib/os/sim_disk.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>

#include "defib/os/random.h"

namespace defib::os::sim {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kPage = 4096;

std::uint64_t combine(std::uint64_t hash, std::uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15 + (hash << 12) + (hash >> 4);
  hash *= 0xff51afd7ed558ccd;
  return hash ^ (hash >> 33);
}

std::uint64_t hash_of(std::string_view bytes) {
  return std::hash<std::string_view>()(bytes);
}

void apply_name(Disk::Names& names, const Disk::NameChange& change) {
  if (!change.gone.empty()) {
    const auto at = names.find(change.gone);
    if (at != names.end() && at->second == change.inode) names.erase(at);
  }
  if (!change.added.empty()) names[change.added] = change.inode;
}

void apply_change(Content& content, const Inode::Change& change) {
  if (change.is_truncate) {
    content.resize(change.offset);
  } else {
    content.write(change.offset, *change.bytes);
  }
}

}  // namespace

std::uint64_t mix(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  return Random(seed ^ (a * 0x9e3779b97f4a7c15) ^ (b * 0xc2b2ae3d27d4eb4f)).next();
}

Content::Content() {
  static const std::shared_ptr<Blob>& empty = *new std::shared_ptr<Blob>(std::make_shared<Blob>());
  blob_ = empty;
}

std::uint64_t Content::hash() const {
  std::uint64_t hash = blob_->hash.load(std::memory_order_relaxed);
  if (hash == 0) {
    hash = hash_of(blob_->bytes) | 1;
    blob_->hash.store(hash, std::memory_order_relaxed);
  }
  return hash;
}

std::string& Content::own() {
  if (blob_.use_count() > 1) {
    auto copy = std::make_shared<Blob>();
    copy->bytes = blob_->bytes;
    blob_ = std::move(copy);
  }
  blob_->hash.store(0, std::memory_order_relaxed);
  return blob_->bytes;
}

void Content::write(std::uint64_t offset, std::string_view bytes) {
  if (bytes.empty()) return;
  std::string& content = own();
  if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size());
  bytes.copy(content.data() + offset, bytes.size());
}

void Content::resize(std::uint64_t size) {
  if (size != this->size()) own().resize(size, '\0');
}

void Content::assign(std::string bytes) {
  blob_ = std::make_shared<Blob>();
  blob_->bytes = std::move(bytes);
}

std::string Operation::describe() const {
  switch (kind) {
    case Kind::kWrite:
      return fmt::format("write {} at {}, {} bytes", path, offset, data().size());
    case Kind::kTruncate:
      return fmt::format("truncate {} to {}", path, offset);
    case Kind::kSync:
      return "sync " + path;
    case Kind::kFailedSync:
      return "failed sync " + path;
    case Kind::kLyingSync:
      return "sync that does nothing " + path;
    case Kind::kDropCache:
      return "drop cache of " + path;
    case Kind::kSyncDir:
      return "sync directory " + path;
    case Kind::kVolatileStore:
      return fmt::format("store {} in word {} of volatile page {}", value, offset, path);
    case Kind::kVolatileRemove:
      return "remove volatile page " + path;
    case Kind::kRot:
      return fmt::format("rot {} at {}", path, offset);
    case Kind::kName:
      break;
  }
  if (gone.empty()) return "create " + added;
  if (added.empty()) return "remove " + gone;
  return fmt::format("rename {} to {}", gone, added);
}

void Inode::sync() {
  if (!diverged) {
    durable = current;
  } else {
    for (const Change& change : pending) apply_change(durable, change);
  }
  pending.clear();
}

void Inode::drop_cache() {
  if (!diverged) return;
  current = durable;
  for (const Change& change : pending) apply_change(current, change);
  diverged = false;
}

Content Inode::after_crash(Survival survival, std::uint64_t seed) const {
  const std::uint64_t count = pending.size();
  if (count == 0 || survival == Survival::kNone) return durable;
  if (survival == Survival::kAll && !diverged) return current;
  const std::uint64_t unit = survival == Survival::kPages ? kPage : kSector;
  // How many of the changes, in order, reached a place.
  const auto reached = [&](std::uint64_t place) -> std::uint64_t {
    if (survival == Survival::kAll) return count;
    if (survival == Survival::kPrefix) return mix(seed, 0, 0) % (count + 1);
    const std::uint64_t number = mix(seed, place, 1);
    // Mostly all or nothing of a place, sometimes a state in between.
    if (number % 4 == 0) return (number >> 8) % (count + 1);
    return number % 2 == 0 ? count : 0;
  };
  std::uint64_t size = durable.size();
  std::uint64_t extent = size;
  const std::uint64_t size_reached = reached(~0ULL);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Change& change = pending[i];
    extent = std::max(extent, change.end());
    if (i < size_reached) size = change.is_truncate ? change.offset : std::max(size, change.end());
  }
  std::string content(durable.bytes());
  content.resize(extent);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Change& change = pending[i];
    const std::uint64_t end = change.is_truncate ? extent : change.end();
    for (std::uint64_t at = change.offset; at < end;) {
      const std::uint64_t next = std::min(end, (at / unit + 1) * unit);
      if (i < reached(at / unit)) {
        if (change.is_truncate) {
          std::memset(content.data() + at, 0, next - at);
        } else {
          change.bytes->copy(content.data() + at, next - at, at - change.offset);
        }
      }
      at = next;
    }
  }
  content.resize(size);
  Content result;
  result.assign(std::move(content));
  return result;
}

std::uint64_t Inode::hash() const {
  std::uint64_t hash = combine(is_dir ? 1 : 2, current.hash());
  hash = combine(hash, durable.hash());
  for (const Change& change : pending) {
    hash = combine(hash, change.offset * 2 + (change.is_truncate ? 1 : 0));
    if (change.bytes) hash = combine(hash, hash_of(*change.bytes));
  }
  return hash;
}

void Disk::sync_dir(const std::string& dir) {
  std::erase_if(pending_names, [&](const NameChange& change) {
    if (change.dir() != dir) return false;
    apply_name(durable_names, change);
    return true;
  });
}

void Disk::write(const Operation& operation) {
  Inode& inode = inodes.at(operation.inode);
  const bool is_truncate = operation.kind == Operation::Kind::kTruncate;
  Inode::Change change{is_truncate, operation.offset, operation.bytes};
  apply_change(inode.current, change);
  switch (operation.landing) {
    case Operation::Landing::kRight:
      inode.pending.push_back(std::move(change));
      break;
    case Operation::Landing::kNowhere:
      inode.diverged = true;
      break;
    case Operation::Landing::kElsewhere: {
      inode.diverged = true;
      // On the device at once: no sync of that file is on its way.
      Inode& other = inodes.at(operation.landing_inode);
      other.diverged = true;
      other.durable.write(operation.landing_offset, *operation.bytes);
      break;
    }
  }
}

void Disk::apply(const Operation& operation) {
  using Kind = Operation::Kind;
  switch (operation.kind) {
    case Kind::kWrite:
    case Kind::kTruncate:
      write(operation);
      break;
    case Kind::kSync:
      inodes.at(operation.inode).sync();
      break;
    case Kind::kFailedSync: {
      // The pages count as clean from now on, and no later sync writes them.
      Inode& inode = inodes.at(operation.inode);
      inode.diverged = inode.diverged || !inode.pending.empty();
      inode.pending.clear();
      break;
    }
    case Kind::kLyingSync:
      break;
    case Kind::kDropCache:
      inodes.at(operation.inode).drop_cache();
      break;
    case Kind::kName: {
      if (operation.inode >= next_inode) {
        inodes[operation.inode].is_dir = operation.makes_dir;
        next_inode = operation.inode + 1;
      }
      NameChange change{operation.gone, operation.added, operation.inode};
      apply_name(names, change);
      pending_names.push_back(std::move(change));
      break;
    }
    case Kind::kSyncDir:
      sync_dir(operation.path);
      break;
    case Kind::kVolatileStore:
      volatile_pages[operation.path].at(operation.offset) = operation.value;
      break;
    case Kind::kVolatileRemove:
      volatile_pages.erase(operation.path);
      break;
    case Kind::kRot: {
      Inode& inode = inodes.at(operation.inode);
      if (operation.offset >= inode.durable.size()) break;
      const char rotten = static_cast<char>(inode.durable.bytes()[operation.offset] ^
                                            static_cast<char>(operation.value));
      inode.durable.write(operation.offset, {&rotten, 1});
      inode.diverged = true;
      inode.drop_cache();
      break;
    }
  }
}

Disk Disk::after_crash(std::uint64_t seed) const {
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
  for (const NameChange& change : pending_names) ++changes_of[change.dir()];
  std::map<std::string, std::uint64_t> seen_of;
  for (const NameChange& change : pending_names) {
    const std::string dir = change.dir();
    const std::uint64_t dir_hash = hash_of(dir);
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
    if (survives) apply_name(disk.durable_names, change);
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

std::uint64_t Disk::used() const {
  std::uint64_t bytes = 0;
  for (const auto& [path, inode] : names) bytes += inodes.at(inode).current.size();
  return bytes;
}

std::uint64_t Disk::hash() const {
  // Inode numbers are of no consequence to a program, but cheap to tell apart by.
  std::uint64_t hash = 1;
  for (const Names* table : {&names, &durable_names}) {
    hash = combine(hash, table->size());
    for (const auto& [path, id] : *table) {
      hash = combine(combine(hash, hash_of(path)), inodes.at(id).hash());
    }
  }
  for (const NameChange& change : pending_names) {
    hash = combine(combine(hash, hash_of(change.gone)), hash_of(change.added));
    hash = combine(hash, inodes.at(change.inode).hash());
  }
  for (const auto& [name, words] : volatile_pages) {
    hash = combine(hash, hash_of(name));
    for (const std::uint64_t word : words) hash = combine(hash, word);
  }
  return hash;
}

}  // namespace defib::os::sim
