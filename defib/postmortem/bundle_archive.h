// A bundle as one file: tar, compressed by zstd (libarchive).
//
// The same content gives the same bytes: names ascend, owners are 0, times are the given one. The
// file appears whole, with mode 0600. Thread rule: one thread an archive.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "defib/base/error.h"

namespace defib::postmortem {

struct ArchiveEntry {
  std::string name;  // "20261120T130558Z-1a2b3c/1/crash.json"
  std::string content;
};
// FileExists where `path` is there already.
Result<> write_archive(const std::string& path, std::vector<ArchiveEntry> entries,
                       std::int64_t time_s);

}  // namespace defib::postmortem
