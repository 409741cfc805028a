// SimDisk: the state behind SimFiles: what the page cache shows, what the device has, and the
// operations that lead from one state to the next.
//
// Copying a disk is cheap: contents and written bytes are shared until somebody changes them, so
// that a hundred thousand crash images of a workload cost what they differ in.
//
// Thread rule: one thread at a time, also for two disks of which one is a copy of the other.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/files.h"

namespace defib::os::sim {

// A well-mixed number for each place, so that places do not depend on the order of asking.
std::uint64_t mix(std::uint64_t seed, std::uint64_t a, std::uint64_t b);

// The bytes of a file, shared between copies until one of them is changed.
class Content {
 public:
  Content();
  std::string_view bytes() const { return blob_->bytes; }
  std::size_t size() const { return blob_->bytes.size(); }
  std::uint64_t hash() const;  // computed once for each state
  void write(std::uint64_t offset, std::string_view bytes);
  void resize(std::uint64_t size);
  void assign(std::string bytes);
  // Keeps these bytes as they are now, whatever becomes of the Content.
  std::shared_ptr<const void> hold() const { return blob_; }

 private:
  struct Blob {
    std::string bytes;
    std::atomic<std::uint64_t> hash{0};  // 0: not computed
  };
  std::string& own();  // for changing
  std::shared_ptr<Blob> blob_;
};

using SharedBytes = std::shared_ptr<const std::string>;

struct Operation {
  enum class Kind {
    kWrite,
    kTruncate,
    kSync,
    kFailedSync,
    kLyingSync,  // of a file or a directory: answered with success, and nothing was done
    kDropCache,
    kName,  // creation, rename, removal
    kSyncDir,
    kVolatileStore,
    kVolatileRemove,
    kRot,
  };
  // Where the device puts a write instead of where it was told to.
  enum class Landing { kRight, kNowhere, kElsewhere };

  Kind kind = Kind::kWrite;
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;  // or the new size; of a volatile page the word
  SharedBytes bytes;
  // kName: takes `gone` away, if it is this inode's, and gives it the name `added`.
  std::string gone;
  std::string added;
  bool makes_dir = false;
  std::uint64_t value = 0;  // kVolatileStore; of kRot the mask
  Landing landing = Landing::kRight;
  std::uint64_t landing_inode = 0;
  std::uint64_t landing_offset = 0;
  std::string path;  // for messages; of kSyncDir the directory, of a volatile page its name

  std::string_view data() const { return bytes ? std::string_view(*bytes) : std::string_view(); }
  // "write wal/1 at 4096, 64 bytes"
  std::string describe() const;
};

// What a crash leaves of the changes that were not synced.
enum class Survival { kNone, kAll, kPrefix, kSectors, kPages };

struct Inode {
  // A write or truncation that the device need not have yet.
  struct Change {
    bool is_truncate = false;
    std::uint64_t offset = 0;  // or the new size
    SharedBytes bytes;
    std::uint64_t end() const { return offset + (bytes ? bytes->size() : 0); }
  };
  bool is_dir = false;
  Content durable;
  Content current;
  std::vector<Change> pending;
  // What the page cache shows is not what the device will have: a sync failed, or a write was lost.
  bool diverged = false;

  void sync();
  void drop_cache();
  Content after_crash(Survival survival, std::uint64_t seed) const;
  std::uint64_t hash() const;
};

struct Disk {
  struct NameChange {
    std::string gone;
    std::string added;
    std::uint64_t inode;
    std::string dir() const { return parent_dir(added.empty() ? gone : added); }
  };
  using Names = std::map<std::string, std::uint64_t>;
  using Words = std::array<std::uint64_t, VolatilePage::kWords>;

  std::map<std::uint64_t, Inode> inodes;
  Names names;
  Names durable_names;
  std::vector<NameChange> pending_names;
  std::map<std::string, Words> volatile_pages;
  std::uint64_t next_inode = 1;

  void apply(const Operation& operation);
  // After a power failure, by `seed`.
  Disk after_crash(std::uint64_t seed) const;
  // Bytes of all files.
  std::uint64_t used() const;
  // Equal for disks that no program can tell apart, now and after further crashes.
  std::uint64_t hash() const;

 private:
  void write(const Operation& operation);
  void sync_dir(const std::string& dir);
};

}  // namespace defib::os::sim
