// Any bytes as a checkpoint of format version 1: reading and salvaging are total, and what reading
// accepts as a whole is what salvage finds, without a gap.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/base/bytes.h"
#include "defib/os/sim_files.h"
#include "defib/store/legacy_checkpoint.h"
#include "defib/store/testing/fuzz_store.h"
#include "defib/store/testing/version_1_stores.h"

using namespace defib;
using namespace defib::store;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  std::vector<std::string> seeds;
  for (const std::string_view name : {"closed", "killed"}) {
    os::SimFiles disk;
    testing_util::fuzz_require(testing_util::make_version_1_store(disk, name, "/s"));
    for (const std::string& path : disk.all_files()) {
      if (!path.ends_with(".ckpt")) continue;
      for (char mode = 0; mode < 2; ++mode) {
        seeds.push_back(std::string(1, mode) + disk.content(path));
      }
    }
  }
  testing_util::fuzz_require(!seeds.empty());
  testing_util::write_seeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 0 && bytes.size() >= kPageSize + kCheckpointFooterSize) {
    // Right checksums around the first chunk, so that mutations reach what lies behind them.
    const auto seal = [&](std::size_t at, std::size_t length) {
      store_value(bytes.data() + at + length - 4,
                  crc32c(std::string_view(bytes).substr(at, length - 4)));
    };
    seal(0, kPageSize);
    if (bytes.size() >= kPageSize + kChunkHeaderSize) {
      const auto payload = load<std::uint32_t>(bytes.data() + kPageSize + 8);
      store_value(bytes.data() + kPageSize + 12,
                  crc32c(std::string_view(bytes).substr(kPageSize + kChunkHeaderSize, payload)));
      seal(kPageSize, kChunkHeaderSize);
    }
    seal(bytes.size() - kCheckpointFooterSize, kCheckpointFooterSize);
  }
  std::uint64_t salvaged = 0;
  const auto gaps = salvage_checkpoint(bytes, [&](const RecordView&) { ++salvaged; });
  // As if the directory belonged to whatever the bytes say.
  Identity identity;
  std::string path = "/" + checkpoint_name(1);
  std::string problem;
  if (const auto header = decode_checkpoint_header(bytes, problem)) {
    identity.uuid = header->uuid;
    path = "/" + checkpoint_name(header->lsn);
  }
  os::SimFiles files;
  const auto file = *files.open(path, os::OpenMode::kCreate);
  if (!file->write_at(0, bytes)) std::abort();
  std::uint64_t handed_out = 0;
  const auto records = read_checkpoint(files, path, identity, [&](const RecordView&) -> Result<> {
    ++handed_out;
    return {};
  });
  if (records && (*records != handed_out || salvaged != handed_out || !gaps.empty())) std::abort();
  return 0;
}
