// NewStore: a whole store written at once, from records in order, under given commit numbers.
//
// Backups, restored stores and migrated ones are made this way: one base file, the page file that
// names it, and last of all store.id, which makes the directory a store. Everything else is durable
// before that, so a crash leaves a directory that is no store yet, or a complete one. Numbers are
// kept: the first commit of the new store is the one after `commit`.
//
// Thread rule: one thread.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/format.h"
#include "defib/store/page_file.h"
#include "defib/store/sorted_file.h"

namespace defib::store {

class NewStore {
 public:
  struct Settings {
    std::string dir;
    Identity identity;
    std::uint64_t commit = 0;  // that the records are the state of
    std::uint64_t epoch = 0;
    std::uint32_t chain_crc = 0;  // header checksum of that commit's log block, where known
    bool chain_known = false;
    bool* made = nullptr;  // set by create() before the first change, if there is one
  };
  // An identity of its own.
  static Identity new_identity(const os::Clock& clock, std::uint32_t page_size);

  // Makes the directories; AlreadyExists where the store's files are there already.
  static Result<NewStore> create(os::Files& files, const os::Clock& clock, Settings settings);

  // Ascending by table, then key.
  Result<> add(TableId table, std::string_view key, std::string_view value);
  // Everything but store.id, durable. `tables` ascending by number.
  Result<> finish(std::vector<ManifestTable> tables, TableId next_table);
  // store.id, and before it, where the store needs no recovery, the clean mark.
  Result<> publish(bool mark_clean);
  // Removes the files that were written, as far as possible; for a copy that failed.
  void discard();

  std::uint64_t records() const { return records_; }
  std::uint64_t bytes() const { return bytes_; }  // of the base

 private:
  NewStore(os::Files& files, const os::Clock& clock, Settings settings)
      : files_(&files), clock_(&clock), settings_(std::move(settings)) {}
  std::string base_path() const;

  os::Files* files_;
  const os::Clock* clock_;
  Settings settings_;
  std::unique_ptr<SortedFileWriter> writer_;  // null until the first record
  std::uint64_t records_ = 0;
  std::uint64_t bytes_ = 0;
};

// AlreadyExists where `dir` is there and is not an empty directory.
Result<> require_new_directory(os::Files& files, const std::string& dir);

}  // namespace defib::store
