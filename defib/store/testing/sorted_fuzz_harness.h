// One input of the sorted file's fuzzer, and of the test that feeds it seeded mutations.

#pragma once

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "defib/store/testing/sorted_util.h"

namespace defib::store::testing {

inline void fuzz_check(bool expected) {
  if (!expected) std::abort();
}

// Recomputes every checksum from the bottom up, the ones that parents hold included, as far as the
// bytes still make units; answers the footer's.
inline std::uint32_t reseal_all(std::string& bytes) {
  using namespace sorted;
  if (bytes.size() < 2 * kFilePage) return 0;
  store_value(&bytes[kFilePage - 4], crc32c(std::string_view(bytes).substr(0, kFilePage - 4)));
  std::map<std::uint64_t, std::uint32_t> crcs;  // of units, by offset
  std::uint32_t directory = 0;
  for (std::size_t at = kFilePage; at + kUnitHeaderSize <= bytes.size();) {
    const auto header = load<UnitHeader>(&bytes[at]);
    if (header.size < kUnitHeaderSize || header.size > bytes.size() - at) break;
    const auto patch = [&](std::size_t entry, std::size_t offset_at, std::size_t crc_at) {
      const auto child = crcs.find(load<std::uint64_t>(&bytes[entry + offset_at]));
      if (child != crcs.end()) store_value(&bytes[entry + crc_at], child->second);
    };
    const std::size_t body = header.size - kUnitHeaderSize;
    if (header.type == UnitType::kIndex && header.count <= body / (8 + sizeof(IndexEntry))) {
      for (std::size_t i = 0; i < header.count; ++i) {
        patch(at + kUnitHeaderSize + 8 * std::size_t{header.count} + i * sizeof(IndexEntry),
              offsetof(IndexEntry, offset), offsetof(IndexEntry, crc));
      }
    } else if (header.type == UnitType::kDirectory &&
               header.count <= body / sizeof(DirectoryEntry)) {
      for (std::size_t i = 0; i < header.count; ++i) {
        patch(at + kUnitHeaderSize + i * sizeof(DirectoryEntry),
              offsetof(DirectoryEntry, root_offset), offsetof(DirectoryEntry, root_crc));
      }
    } else if (header.type == UnitType::kFooter && header.size == kFilePage) {
      store_value(&bytes[at + 108], directory);
    }
    const std::uint32_t crc = crc32c(std::string_view(bytes).substr(at + 8, header.size - 8));
    store_value(&bytes[at + 4], crc);
    crcs[at] = crc;
    if (header.type == UnitType::kDirectory) {
      directory = crc32c({reinterpret_cast<const char*>(&crc), 4}, directory);
    }
    at += header.size;
  }
  return load<std::uint32_t>(&bytes[bytes.size() - kFilePage + 4]);
}

// Everything that reads, over one file's bytes; what is wrong inside must show as an error, and
// order must hold whatever the bytes say.
inline void read_everything_of(MemoryFiles& files, const SortedFileInfo& info) {
  std::string last;
  TableId last_table = 0;
  bool has_last = false;
  const auto damages = salvage_sorted_file(files, "/s/f", [&](const SalvagedRecord& record) {
    fuzz_check(!has_last || record.table > last_table ||
               (record.table == last_table && record.key > last));
    has_last = true;
    last_table = record.table;
    last = record.key;
  });
  fuzz_check(damages.has_value());
  const auto file = SortedFile::open(files, "/s/f", info, kUuid);
  if (!file) return;
  for (const TableId table : (*file)->tables()) {
    const auto cursor = (*file)->cursor(table);
    std::uint64_t forward = 0;
    // More records than the directory says are a contradiction that verify finds; stop there.
    const std::uint64_t limit = (*file)->records(table) + 1000;
    for (bool more = cursor->first(); more && forward < limit; more = cursor->next()) {
      fuzz_check(cursor->key().size() <= kMaxKeySize);
      ++forward;
      const auto found = (*file)->find(table, cursor->key());
      (void)found;
    }
    std::uint64_t back = 0;
    for (bool more = cursor->last(); more && back < limit; more = cursor->prev()) ++back;
    for (const std::string_view key : {"", "a", "account-1030", "\xff\xff\xff\xff\xff"}) {
      (void)cursor->seek(key);
      (void)cursor->seek_for_prev(key);
      (void)(*file)->find(table, key);
    }
  }
  fuzz_check((*file)->verify(nullptr).has_value());
}

inline const Written& fuzzed_file() {
  static const Written& written = *new Written(write_model(damage_model()));
  return written;
}

// By the first byte of `mode`, `bytes` are a file of their own, or edits of a sound one (three
// bytes of place, one of value); and checksums are made right, or not.
inline void read_as_sorted_file(std::string_view mode, std::string_view bytes) {
  MemoryFiles files;
  SortedFileInfo info = fuzzed_file().info;
  const bool is_whole_file = (mode[0] & 1) != 0;
  if (is_whole_file) {
    files.bytes = bytes;
  } else {
    files.bytes = fuzzed_file().bytes;
    for (std::size_t i = 0; i + 4 <= bytes.size(); i += 4) {
      const std::uint32_t place = load<std::uint32_t>(&bytes[i]) & 0xffffff;
      files.bytes[place % files.bytes.size()] = bytes[i + 3];
    }
  }
  if ((mode[0] & 2) != 0) {
    info.footer_crc = reseal_all(files.bytes);
    info.size = files.bytes.size();
  }
  read_everything_of(files, info);
}

}  // namespace defib::store::testing
