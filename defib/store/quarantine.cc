#include "defib/store/quarantine.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/store/log_reader.h"

namespace defib::store {

Result<> quarantine_tail(os::Files& files, const std::string& dir, const TornTail& tail,
                         const std::function<Result<>()>& go_on) {
  const std::string path = os::join_path(os::join_path(dir, kWalDir), tail.segment);
  DEFIB_TRY_ASSIGN(std::string bytes, read_whole(files, path, [&](std::uint64_t) {
                     return go_on ? go_on() : Result<>();
                   }));
  bytes.erase(0, std::min<std::size_t>(tail.offset, bytes.size()));
  bytes.resize(bytes.find_last_not_of('\0') + 1);
  if (bytes.empty()) return {};
  const std::string folder = os::join_path(dir, kQuarantineDir);
  DEFIB_TRY(files.create_dirs(folder));
  DEFIB_TRY(files.sync_dir(dir));
  return os::write_file_atomically(
      files, os::join_path(folder, fmt::format("{}-at-{}.bin", tail.segment, tail.offset)), bytes);
}

Result<> quarantine_tails_of(os::Files& files, const std::string& dir, const std::string& segment,
                             const std::vector<TornTail>& tails) {
  for (const TornTail& tail : tails) {
    if (tail.segment == segment) DEFIB_TRY(quarantine_tail(files, dir, tail));
  }
  return {};
}

}  // namespace defib::store
