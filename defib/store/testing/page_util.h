// What the tests of the page file share: manifests to write, and disks to write them on.

#pragma once

#include <fmt/core.h>

#include <memory>
#include <string>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/os/sim_files.h"
#include "defib/store/page_file.h"
#include "defib/store/page_format.h"

namespace defib::store::testing_util {

inline const std::string kPagesDir = "/s";
inline const std::string kPagesHome = "/s/index.pg";
inline const std::string kPagesBuffer = "/s/dwb.pg";
inline const std::string kPagesUuid = "0123456789abcdef0123456789abcdef";

// A manifest of its own for each `number`; about 45 bytes a table and 90 a file.
inline Manifest sample_manifest(std::uint64_t number, int tables, int runs) {
  Manifest manifest;
  manifest.epoch = number;
  manifest.checkpoint_commit = 1000 * number;
  manifest.chain_crc = static_cast<std::uint32_t>(number * 77);
  manifest.chain_known = number % 2 == 0;
  manifest.next_generation = number + 100;
  manifest.next_table = static_cast<TableId>(tables + 1);
  manifest.replay_bytes_per_second = 1'000'000'000;
  manifest.wall_ns = number * 1'000'000;
  for (int i = 1; i <= tables; ++i) {
    manifest.tables.push_back({static_cast<TableId>(i), fmt::format("table-{:030}", i)});
  }
  if (tables > 1) {
    manifest.indexes.push_back({"by_owner", manifest.tables[0].name, 2, true, 7});
    manifest.indexes.push_back({"by_time", manifest.tables[1].name, 1, false, 1});
  }
  for (int i = 0; i < runs; ++i) {
    const auto generation = static_cast<std::uint64_t>(i + 1);
    manifest.files.push_back({.kind = i == 0 ? SortedKind::kBase : SortedKind::kRun,
                              .generation = generation,
                              .size = 4096 * number,
                              .footer_crc = static_cast<std::uint32_t>(number + generation),
                              .last_commit = number,
                              .records = 10,
                              .erased = 1});
  }
  return manifest;
}

inline std::unique_ptr<os::SimFiles> page_disk() {
  auto disk = std::make_unique<os::SimFiles>();
  (void)disk->create_dirs(kPagesDir);
  (void)disk->sync_dir("/");
  return disk;
}

inline Result<> create_page_file(os::Files& files, const Manifest& manifest,
                                 std::uint32_t page_size = 4096) {
  DEFIB_TRY(PageFile::create(files, kPagesDir, kPagesUuid, page_size, manifest));
  return files.sync_dir(kPagesDir);
}

// Changes bytes of a page and makes its checksum right again.
inline void reseal(std::string& file, std::uint64_t page, std::uint32_t page_size = 4096) {
  const std::size_t at = page * page_size;
  store_value(file.data() + at + 4, crc32c(std::string_view(file).substr(at + 8, page_size - 8)));
}

}  // namespace defib::store::testing_util
