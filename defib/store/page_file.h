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
// its checksum holds. Two superblocks take turns. Byte maps, and what
// is found where: docs/formats/store_page_file.md.
//
// Thread rule: functions and one PageFile for one thread at a time; reading beside a live writer
// catches pages in motion and then takes another look.

#pragma once

#include <cstdint>
#include <memory>
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
// RecoveryImpossible (with path, reason, pages) where no set of pages verifies; InconsistentState
// where sound pages contradict one another (a write that the device lost), and for another store's
// file; StoreFormatUnsupported for another format version or byte order; RecoveryConfigurationError
// for an impossible page size; Unavailable where a live writer is faster than the reader.
Result<PageFilePicture> read_page_file(os::Files& files, const std::string& dir,
                                       const std::string& store_uuid);
// Only the header of dwb.pg, for the indicator: cheap and read-only.
Result<DwbState> read_dwb_state(os::Files& files, const std::string& dir, std::string* evidence);
// Puts an armed buffer's pages home, synced, and empties the buffer, synced; replaces a buffer that
// is torn, missing, foreign or outdated by an empty one. Writes nothing where read_page_file()
// fails, or where there is nothing to do. Idempotent.
Result<> restore_pages(os::Files& files, const std::string& dir, const std::string& store_uuid);
// Everything that verify has to say about the two files: one line for each problem.
Result<std::vector<std::string>> verify_page_file(os::Files& files, const std::string& dir,
                                                  const std::string& store_uuid);

// The two files page by page, for people; works on damaged files as far as they can be read.
struct PageDescription {
  std::uint32_t page = 0;
  std::string kind;  // superblock, manifest, zeros, unknown
  std::uint64_t lsn = 0;
  bool crc_ok = false;
  std::string note;  // empty: nothing is wrong with it
};
struct PageFileDescription {
  std::uint32_t page_size = 0;  // 0: nothing says it
  std::uint64_t sequence = 0;   // in force; 0: none, and `problem` says why
  std::string problem;
  std::vector<PageDescription> pages;  // as they stand at home
  DwbState dwb = DwbState::kAbsent;
  bool dwb_header_ok = false;  // then the three fields are its own
  std::uint64_t dwb_sequence = 0;
  std::uint32_t dwb_page_size = 0;
  std::uint32_t dwb_count = 0;
  std::string dwb_note;  // why the images count for nothing; empty: they hold
  std::vector<PageDescription> images;
};
Result<PageFileDescription> describe_page_file(os::Files& files, const std::string& dir,
                                               const std::string& store_uuid);

class PageFile {
 public:
  // Creates both files with `manifest` as sequence 1, synced; the names are the caller's to make
  // durable. FileExists where one of them is there, also as the rest of a creation that a crash
  // ended: whether it is that, only the caller knows. RecoveryConfigurationError for a page size
  // that is no power of two from 4096 to 65536.
  static Result<> create(os::Files& files, const std::string& dir, const std::string& store_uuid,
                         std::uint32_t page_size, const Manifest& manifest);
  // For writing. RecoveryNeeded where restore_pages() has something to bring home. A buffer that
  // counts for nothing is replaced by an empty one.
  static Result<PageFile> open(os::Files& files, const std::string& dir,
                               const std::string& store_uuid);
  // Makes `manifest` the store's, durably, and sets its sequence. Fails without having changed
  // anything, and may be called again: NoSpace; LimitExceeded for more pages than a superblock
  // lists; InvalidArgument for a manifest that would not read back. After any other failure it
  // answers StorePoisoned for ever, and which manifest is the store's is open until the next
  // read_page_file().
  Result<> write(Manifest& manifest);
  // Syncs the EMPTY state too, so that the files are as after a clean close.
  Result<> settle();
  std::uint64_t sequence() const { return sequence_; }

 private:
  struct Plan;
  PageFile() = default;
  Result<Plan> plan(const Manifest& manifest) const;
  Result<> write_planned(const Plan& next);
  Result<> reserve(const Plan& next);
  Result<> arm(const Plan& next);
  Result<> bring_home(const Plan& next);
  Result<> poisoned(Error error);

  std::unique_ptr<os::File> home_;
  std::unique_ptr<os::File> buffer_;
  std::uint64_t home_size_ = 0;  // bytes, of the files
  std::uint64_t buffer_size_ = 0;
  std::string store_uuid_;
  std::uint32_t page_size_ = 0;
  std::vector<std::string> pages_;  // as they stand at home
  std::uint64_t sequence_ = 0;
  std::optional<Error> failure_;  // nothing may be written any more
};

}  // namespace defib::store
