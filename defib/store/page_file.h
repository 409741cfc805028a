// PageFile: the one file that is overwritten in place (index.pg), and its double-write buffer
// (dwb.pg).
//
// It holds the manifest: which base and runs make up the store, the tables and indexes by name and
// number, up to which commit they go, and counters. It is small and rewritten at each checkpoint:
//   1. the images of the changed pages and a header {state ARMED, checksum over all} to dwb.pg,
//      synced;
//   2. the pages home to index.pg, synced;
//   3. the header EMPTY to dwb.pg (its sync may wait: an armed buffer whose pages are home is
//      harmless).
// A crash before 1 is complete leaves a buffer that does not verify, and pages that all do; a crash
// after it leaves images that replace whatever is torn at home. Each page carries its number, its
// LSN (the manifest's sequence at which it was last written) and a checksum; the superblock lists
// the LSN of every page, so that a page whose write was lost or went elsewhere is found although
// its checksum holds. Two superblocks take turns. Byte maps: docs/formats/store.md.
//
// Thread rule: functions and one PageFile for one thread at a time; reading beside a live writer
// catches pages in motion and then takes another look.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/sorted_file.h"

namespace defib::store {

inline constexpr std::string_view kPageFile = "index.pg";
inline constexpr std::string_view kDwbFile = "dwb.pg";

struct ManifestTable {
  TableId id = 0;
  std::string name;
  friend bool operator==(const ManifestTable&, const ManifestTable&) = default;
};
struct ManifestIndex {
  std::string name;
  std::string table;    // that it indexes
  TableId entries = 0;  // the internal table that holds {secondary key, primary key}
  bool unique = false;
  std::uint32_t version = 0;  // of the extractor, as the program declared it
  friend bool operator==(const ManifestIndex&, const ManifestIndex&) = default;
};

struct Manifest {
  std::uint64_t sequence = 0;           // one more at each write; set by PageFile
  std::uint64_t epoch = 0;              // of the opening that wrote it
  std::uint64_t checkpoint_commit = 0;  // the files hold everything up to here
  std::uint32_t chain_crc = 0;          // header checksum of that commit's log block, where known
  bool chain_known = false;
  std::uint64_t next_generation = 1;
  TableId next_table = 1;
  std::uint64_t replay_bytes_per_second = 0;  // of log, as measured last; 0: never
  std::uint64_t wall_ns = 0;                  // when it was written
  std::vector<SortedFileInfo> files;          // the base first, then runs from oldest to newest
  std::vector<ManifestTable> tables;          // ascending by id
  std::vector<ManifestIndex> indexes;
  friend bool operator==(const Manifest&, const Manifest&) = default;
};
// Total over any bytes; `problem` says what does not hold.
std::string encode(const Manifest& manifest);
std::optional<Manifest> decode_manifest(std::string_view bytes, std::string& problem);

enum class DwbState {
  kAbsent,  // no file: the store is being created
  kEmpty,
  kArmed,  // a whole set of images
  kTorn,   // being written when the machine or process stopped: its images count for nothing
};
std::string_view to_string(DwbState state);

// What the two files say, with armed images applied in memory.
struct PageFilePicture {
  Manifest manifest;
  std::uint32_t page_size = 0;
  std::uint32_t pages = 0;
  DwbState dwb = DwbState::kAbsent;
  std::uint64_t dwb_sequence = 0;
  std::vector<std::uint32_t> to_restore;  // pages at home that are bad or older than their image
  std::vector<std::string> notes;         // for operators: what was found and what it means
};
// RecoveryImpossible (with path, reason) where no set of pages verifies; StoreFormatUnsupported for
// another format version or endianness; InconsistentState for another store's file.
Result<PageFilePicture> read_page_file(os::Files& files, const std::string& dir,
                                       const std::string& store_uuid);
// Only the header of dwb.pg, for the indicator: cheap and read-only.
Result<DwbState> read_dwb_state(os::Files& files, const std::string& dir, std::string* evidence);
// Puts an armed buffer's pages home, synced, and empties the buffer, synced. Idempotent.
Result<> restore_pages(os::Files& files, const std::string& dir, const std::string& store_uuid);
// Everything that verify has to say about the two files: one line for each problem.
Result<std::vector<std::string>> verify_page_file(os::Files& files, const std::string& dir,
                                                  const std::string& store_uuid);

class PageFile {
 public:
  // Creates both files with `manifest`, synced; the names are the caller's to make durable.
  static Result<> create(os::Files& files, const std::string& dir, const std::string& store_uuid,
                         std::uint32_t page_size, const Manifest& manifest);
  // For writing. Precondition: nothing is left to restore.
  static Result<PageFile> open(os::Files& files, const std::string& dir,
                               const std::string& store_uuid);
  // Makes `manifest` the store's, durably. Sets its sequence. After a failure nothing may be
  // written any more (the caller poisons the store); NoSpace before anything was changed is the
  // exception.
  Result<> write(Manifest& manifest);
  // Syncs the EMPTY state too, so that the files are as after a clean close.
  Result<> settle();

 private:
  PageFile() = default;
  std::unique_ptr<os::File> home_;
  std::unique_ptr<os::File> buffer_;
  std::string store_uuid_;
  std::uint32_t page_size_ = 0;
  std::vector<std::string> pages_;  // as they stand at home
  std::uint64_t sequence_ = 0;
};

}  // namespace defib::store
