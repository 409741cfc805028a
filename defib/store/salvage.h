// Salvage: what a damaged store still says, whatever of it is damaged.
//
// Nothing here relies on more than the bytes at hand: without store.id the log tells who the store
// was, without index.pg the double-write buffer may still have the manifest, without both the files
// are taken in the order of their generations. What cannot be read is told as a Loss, so that
// everything that is not among the losses is as it was.
//
// Thread rule: functions over files that nobody writes.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/maintenance.h"
#include "defib/store/page_file.h"

namespace defib::store {

// The newest manifest of which every byte stands in index.pg or dwb.pg, also in a buffer that is
// empty by now, or none. `uuid` empty: of whatever store.
struct SalvagedManifest {
  Manifest manifest;
  bool is_newest = false;  // no sound page is of a later one
};
std::optional<SalvagedManifest> salvage_manifest(os::Files& files, const std::string& dir,
                                                 const std::string& uuid);

// The bytes of a file with zeros where the device does not deliver, and how many those are.
struct ReadableBytes {
  std::string bytes;
  std::uint64_t unreadable = 0;
  std::string problem;
};
Result<ReadableBytes> read_what_is_readable(os::Files& files, const std::string& path);

// Where the salvaged changes go, in order: a later one of the same key replaces an earlier one.
// An error ends the salvage.
struct SalvageSink {
  std::function<Result<>(std::string_view table, std::string_view key, std::string_view value)> put;
  std::function<Result<>(std::string_view table, std::string_view key)> erase;
};
struct Salvaged {
  std::uint64_t commit = 0;  // the last one that is in it
  std::vector<Loss> losses;
  std::vector<std::string> remarks;
};
// NotAStore where there is nothing of one; StoreFormatUnsupported for a format that this program
// does not know.
Result<Salvaged> salvage_store(os::Files& files, const std::string& dir, const SalvageSink& sink);

}  // namespace defib::store
