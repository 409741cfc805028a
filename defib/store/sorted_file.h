// SortedFile: an immutable file of sorted records: the base, and the runs over it.
//
// Written once from front to back, synced, and never changed; an entry of the manifest
// (page_file.h) names it with its size and the checksum of its footer, so a file that does not
// match is not the one. It consists of blocks under a checksum each that carry the file's
// generation and their own number, so that rot, lost and misdirected writes are found block by
// block: a damaged block is a Corrupted error for the reads that need it, naming file, offset,
// table and key range, and the rest goes on. Blocks are checked when they are first touched (read
// through read_at(), so that an error of the device is an Error), then read from the mapping. Byte
// maps: docs/formats/store_sorted_file.md.
//
// Opening costs the same whatever the size: header, footer and the table directory are read and
// checked, everything else on first touch.
//
// Thread rule: a writer on one thread; a SortedFile from any.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/layer.h"
#include "defib/store/mapped_memory.h"

namespace defib::store {

enum class SortedKind { kBase, kRun };

// What the manifest says of a file.
struct SortedFileInfo {
  SortedKind kind = SortedKind::kRun;
  std::uint64_t generation = 0;  // unique for ever in one store
  std::uint64_t size = 0;        // bytes
  std::uint32_t footer_crc = 0;
  std::uint64_t last_commit = 0;  // it holds the effect of commits up to here
  std::uint64_t records = 0;      // erased ones included
  std::uint64_t erased = 0;
  friend bool operator==(const SortedFileInfo&, const SortedFileInfo&) = default;
};
// "00000000000000a1.base", "00000000000000a2.run"
std::string sorted_file_name(const SortedFileInfo& info);
struct SortedFileName {
  SortedKind kind = SortedKind::kRun;
  std::uint64_t generation = 0;
};
std::optional<SortedFileName> parse_sorted_file_name(std::string_view name);

struct SortedFileSettings {
  std::string store_uuid;  // 32 hexadecimal digits
  SortedKind kind = SortedKind::kRun;
  std::uint64_t generation = 0;
  std::uint64_t last_commit = 0;
  std::uint32_t page_size = 16 << 10;  // aim for a block, bytes; a power of two
  // Called with the bytes written since the last call, about every 256 KiB and outside of all
  // locks: paces the writer, and ends it with its error.
  std::function<Result<>(std::uint64_t)> pace;
};

class SortedFileWriter {
 public:
  // Creates `path`, which must not exist; NoSpace as the file system says.
  static Result<std::unique_ptr<SortedFileWriter>> create(os::Files& files, const std::string& path,
                                                          SortedFileSettings settings);
  virtual ~SortedFileWriter() = default;
  // Ascending by table, then key (Corrupted otherwise: a bug of the caller).
  virtual Result<> add(TableId table, std::string_view key, std::string_view value,
                       bool erased) = 0;
  // Writes the rest and syncs the file; its name is the caller's to make durable.
  virtual Result<SortedFileInfo> finish() = 0;
};

// What verify() and salvage() found broken.
struct SortedDamage {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;  // bytes
  std::string problem;     // "block 12: checksum 0a0b0c0d, computed 01020304"
  TableId table = 0;       // with the keys: what the block held, as far as its neighbours tell
  std::string after_key;   // exclusive; empty: from the table's start
  std::string before_key;  // exclusive; empty: to the table's end
  // False: what is broken finds or describes records (header, index, directory, footer) and holds
  // none, so that salvage loses nothing by it.
  bool holds_records = true;
};

class SortedFile : public MappedMemory::User {
 public:
  // `expected` from the manifest: Corrupted where the file's footer is not that one, FileNotFound
  // where it is missing. InconsistentState where it belongs to another store. `memory` bounds what
  // of its mapping counts as this process's; null: nothing does.
  static Result<std::shared_ptr<SortedFile>> open(os::Files& files, const std::string& path,
                                                  const SortedFileInfo& expected,
                                                  const std::string& store_uuid,
                                                  std::shared_ptr<MappedMemory> memory = nullptr);
  virtual const SortedFileInfo& info() const = 0;
  virtual const std::string& path() const = 0;
  // The bytes stay valid while the SortedFile lives.
  virtual Result<std::optional<LayerEntry>> find(TableId table, std::string_view key) const = 0;
  // Null where it has nothing of the table. The cursor must not outlive the SortedFile.
  virtual std::unique_ptr<LayerCursor> cursor(TableId table) const = 0;
  virtual std::vector<TableId> tables() const = 0;
  virtual std::uint64_t records(TableId table) const = 0;
  // Checks every block, read anew from the file, also those that were checked before: order, keys
  // against the index, counts. `pulse` is called about every MiB with the bytes done.
  virtual Result<std::vector<SortedDamage>> verify(
      const std::function<Result<>(std::uint64_t)>& pulse) const = 0;
  // Bytes of the mapping that are memory of this process since they were last released, at most.
  virtual std::uint64_t touched_bytes() const = 0;
  // Gives them back; units are checked again at their next touch. Any thread.
  void release_memory() const override = 0;
};

// Every record of every sound block of a file of which anything may be broken, in order; what is
// not there is listed. Needs neither manifest nor footer.
struct SalvagedRecord {
  TableId table = 0;
  std::string_view key;
  std::string_view value;
  bool erased = false;
};
Result<std::vector<SortedDamage>> salvage_sorted_file(
    os::Files& files, const std::string& path,
    const std::function<void(const SalvagedRecord&)>& sink);

}  // namespace defib::store
