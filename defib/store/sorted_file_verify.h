// Reading a whole sorted file anew and saying what is broken; and what opening reads of it.
//
// Thread rule: pure functions over a file that nobody writes.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "defib/os/files.h"
#include "defib/store/sorted_file_format.h"

namespace defib::store::sorted {

struct Frame {
  Owner owner;
  Footer footer;
  std::uint32_t units = 0;  // the footer not counted
  std::vector<DirectoryEntry> tables;
};
// Header, footer and directory, checked against the manifest's entry and one another.
Result<Frame> read_frame(os::File& file, const std::string& path, const SortedFileInfo& expected,
                         const std::string& store_uuid);

// Reads `size` bytes at `offset`, fewer where the file ends before. On an error of the device
// `problem` says so.
std::string read_range(os::File& file, std::uint64_t offset, std::uint64_t size,
                       std::string& problem);

// Checks every unit of the tables in `frame`, which opening has found right, and the frame once
// more. Blocks below a damaged index unit are checked by themselves.
Result<std::vector<SortedDamage>> verify_sorted_file(
    os::File& file, const SortedFileInfo& expected, const std::string& store_uuid,
    const Frame& frame, const std::function<Result<>(std::uint64_t)>& pulse);

// Calls `sound` for each unit that is right by itself in [from, to), in order, and `broken` for
// each stretch in between. Both end the walk by answering with an error.
struct UnitVisitor {
  std::function<Result<>(const UnitHeader&, std::string_view)> sound;
  std::function<Result<>(std::uint64_t offset, std::uint64_t size, const std::string& problem)>
      broken;
};
Result<> walk_units(os::File& file, const Owner& owner, std::uint64_t from, std::uint64_t to,
                    const UnitVisitor& visitor);

}  // namespace defib::store::sorted
