// Any bytes as a manifest, and as the page file and its buffer, also under right checksums:
// reading, restoring, verifying and describing are total, and what restoring leaves reads as
// before.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/store/testing/fuzz_store.h"
#include "defib/store/testing/page_util.h"

using namespace defib;
using namespace defib::store;
using namespace defib::store::testing_util;

namespace {

void check_manifest(std::string_view bytes) {
  std::string problem;
  const auto manifest = decode_manifest(bytes, problem);
  if (manifest ? encode(*manifest) != bytes : problem.empty()) std::abort();
}

// The files of a store after two manifests, the second of them on its way home.
struct Sample {
  std::string home;
  std::string buffer;
};
const Sample& sample() {
  static const Sample made = [] {
    const auto disk = page_disk();
    if (!create_page_file(*disk, sample_manifest(1, 150, 1))) std::abort();
    auto file = PageFile::open(*disk, kPagesDir, kPagesUuid);
    Manifest manifest = sample_manifest(2, 150, 2);
    if (!file || !file->write(manifest)) std::abort();
    return Sample{disk->content(kPagesHome), disk->content(kPagesBuffer)};
  }();
  return made;
}

void mend(std::string& home, std::string& buffer) {
  for (std::size_t page = 0; (page + 1) * 4096 <= home.size(); ++page) {
    char* at = home.data() + page * 4096;
    if (page < 2) store_value(at + 84, crc32c(std::string_view(at + 32, 52)));
    reseal(home, page);
  }
  if (buffer.size() < 4096) return;
  for (std::size_t page = 1; (page + 1) * 4096 <= buffer.size(); ++page) reseal(buffer, page);
  const std::uint64_t size = std::uint64_t{load<std::uint32_t>(buffer.data() + 64)} * 4096;
  store_value(buffer.data() + 68, crc32c(std::string_view(buffer).substr(4096, size)));
  store_value(buffer.data() + 72, crc32c(std::string_view(buffer).substr(0, 72)));
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  std::vector<std::string> seeds;
  for (char mode = 0; mode < 8; ++mode) {
    seeds.push_back(std::string(1, mode) + encode(sample_manifest(mode + 1U, mode, mode)));
  }
  write_seeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  check_manifest(bytes);
  std::string home = sample().home;
  std::string buffer = sample().buffer;
  // Patches of the sample: file, place (3 bytes), value.
  for (std::size_t at = 0; at + 5 <= bytes.size(); at += 5) {
    std::string& file = bytes[at] % 2 == 0 ? home : buffer;
    const std::size_t place = load<std::uint32_t>(bytes.data() + at) >> 8;
    // Mostly the first bytes of a page, where its structure is.
    const std::size_t offset = (bytes[at] & 2) != 0 ? place : place / 256 * 4096 + place % 256;
    file[offset % file.size()] = bytes[at + 4];
  }
  if (data[0] % 2 == 0) mend(home, buffer);
  if (data[0] % 8 == 7) home.resize(home.size() * (data[0] >> 3) / 32);
  const auto disk = page_disk();
  for (const std::string& path : {kPagesHome, kPagesBuffer}) {
    if (!disk->open(path, os::OpenMode::kCreate)) std::abort();
  }
  disk->set_content(kPagesHome, home);
  disk->set_content(kPagesBuffer, buffer);
  (void)verify_page_file(*disk, kPagesDir, kPagesUuid);
  (void)describe_page_file(*disk, kPagesDir, kPagesUuid);
  (void)read_dwb_state(*disk, kPagesDir, nullptr);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  const auto restored = restore_pages(*disk, kPagesDir, kPagesUuid);
  if (picture.has_value() != restored.has_value()) std::abort();
  if (!picture) return 0;
  const auto again = read_page_file(*disk, kPagesDir, kPagesUuid);
  if (!again || again->manifest != picture->manifest || again->dwb != DwbState::kEmpty) {
    std::abort();
  }
  return 0;
}
