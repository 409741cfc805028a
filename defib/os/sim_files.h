// SimFiles: a disk in memory that crashes, for proving what a program does with a real one.
//
// Fault model. A file has the bytes that its last sync made durable, and the writes and truncations
// since, none of which has to have reached the disk; a directory has the names that its last sync
// made durable, and the creations, renames and removals since. At a crash, by its seed:
//   - all, none, or a prefix of what was not synced survives, per file and per directory; or
//   - each 512-byte sector or 4096-byte page of unsynced writes, and each unsynced change of a
//     name, survives by itself (lost, torn and reordered writes);
//   - a sector is never a mixture of two writes, and never changes where nothing was written;
//   - a file may have any length that it had since its last sync.
// A file whose creation was not made durable by sync_dir() may be gone although it was synced.
// Volatile pages survive the death of the process and not a power failure.
// Any call can be made to fail; the device can be made to lose writes, to put them elsewhere, to
// lie about syncs, and to rot; and the disk has a size.
//
// Every change is kept as an operation in order, so that a workload is run once and then crashed
// after each of its operations: crashed(n, seed) is the disk after the first n and a power failure.
//
// Thread rule: any thread, calls are one at a time inside; but a disk and the images made of it on
// one thread at a time, because they share what they have in common.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/files.h"
#include "defib/os/sim_disk.h"

namespace defib::os {

class SimFiles : public Files {
 public:
  SimFiles();
  ~SimFiles() override;

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override;
  Result<> rename(const std::string& from, const std::string& to) override;
  Result<> remove(const std::string& path) override;
  Result<> create_dirs(const std::string& path) override;
  Result<> sync_dir(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& path) override;
  bool exists(const std::string& path) override;
  bool is_dir(const std::string& path) override;
  Result<std::uint64_t> free_space(const std::string& path) override;
  Result<std::unique_ptr<VolatilePage>> volatile_page(const std::string& name) override;
  Result<std::unique_ptr<VolatilePage>> find_volatile_page(const std::string& name) override;
  Result<> remove_volatile_page(const std::string& name) override;

  // Operations so far: each changes something, or is a sync.
  std::size_t operations() const;
  // "write wal/1 at 4096, 64 bytes", for messages of tests.
  std::string describe_operation(std::size_t index) const;
  // The disk after the first `operations` operations and a power failure.
  std::unique_ptr<SimFiles> crashed(std::size_t operations, std::uint64_t seed) const;
  // The disk after the first `operations` operations and the death of the process: everything that
  // was written is there, and where the next operation is a write, by `seed`, its first pages too.
  std::unique_ptr<SimFiles> killed(std::size_t operations, std::uint64_t seed) const;
  // Equal for disks that no program can tell apart, now and after further crashes.
  std::uint64_t fingerprint() const;

  // The disk's size; the bytes of all files count against it. Without it there is no limit.
  void set_capacity(std::uint64_t bytes);
  // Asked before each operation with its index; an Error makes it fail with that, and a sync with
  // SyncFailed of which that is the cause. A failed write
  // leaves its first half, a failed sync leaves what it should have synced volatile for ever, as
  // Linux does: the next sync succeeds and makes nothing of it durable.
  using Fault = std::function<std::optional<Error>(std::size_t index, std::string_view what)>;
  void set_fault(Fault fault);

  // What a device does behind the program's back: the call succeeds, and the page cache shows
  // what it should until it is dropped.
  struct Mischief {
    enum class Kind {
      kLoseWrite,       // never reaches the device, however often it is synced
      kMisdirectWrite,  // reaches the device elsewhere
      kLieAboutSync,    // of a file or a directory: nothing becomes durable
    };
    Kind kind = Kind::kLoseWrite;
    // kMisdirectWrite: where to; an empty or unknown path is the file that was written to.
    std::string path = {};
    std::uint64_t offset = 0;
  };
  // Asked before each operation; a kind that does not fit the operation changes nothing.
  using Trick = std::function<std::optional<Mischief>(std::size_t index, std::string_view what)>;
  void set_mischief(Trick trick);

  // Asked after each read with what it is about to answer: may change the bytes (rot on the way),
  // shorten `bytes` (a short read), or fail it. A mapping shows what reading it page by page would
  // have given, and a pattern of its own where that fails: a program that trusts a mapping without
  // reading it first gets garbage instead of SIGBUS.
  using ReadFault =
      std::function<Result<>(std::string_view path, std::uint64_t offset, std::span<char>& bytes)>;
  void set_read_fault(ReadFault fault);
  // Flips the bits of `mask` in one byte on the device, and drops the file's clean pages.
  void rot(const std::string& path, std::uint64_t offset, std::uint8_t mask);

  // Direct access for tests that damage files. The content must exist.
  std::string content(const std::string& path) const;
  void set_content(const std::string& path, std::string bytes);
  std::vector<std::string> all_files() const;

 private:
  friend class SimFile;
  friend class SimPage;
  explicit SimFiles(std::shared_ptr<const sim::Disk> base);
  Result<> perform(sim::Operation operation);
  void record(sim::Operation operation);
  void play(const Mischief& mischief, sim::Operation& operation) const;
  // The disk after the first `operations` operations. Precondition: mutex_ is held.
  const sim::Disk& disk_after(std::size_t operations) const;

  mutable std::mutex mutex_;                   // guards all below
  std::shared_ptr<const sim::Disk> base_;      // before the first operation
  sim::Disk disk_;                             // now
  mutable std::unique_ptr<sim::Disk> replay_;  // the last disk that disk_after() was asked for
  mutable std::size_t replayed_ = 0;           // operations in it
  std::vector<sim::Operation> operations_;
  std::set<std::uint64_t> locked_;  // inodes
  std::uint64_t capacity_ = ~0ULL;
  Fault fault_;
  Trick trick_;
  ReadFault read_fault_;
};

}  // namespace defib::os
