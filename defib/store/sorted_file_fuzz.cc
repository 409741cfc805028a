// Any bytes as a sorted file: opening, finding, scanning, verifying and salvaging are total. Half
// of the inputs get right checksums all the way up, so that mutations reach what lies behind them.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/store/testing/fuzz_store.h"
#include "defib/store/testing/sorted_fuzz_harness.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  std::vector<std::string> seeds;
  const std::string& file = defib::store::testing::fuzzed_file().bytes;
  for (char mode = 0; mode < 4; ++mode) {
    const bool is_whole = (mode & 1) != 0;
    seeds.push_back(std::string(1, mode) + std::string(15, '\0') +
                    (is_whole ? file : std::string("\0\x10\0x", 4)));
  }
  defib::store::testing_util::write_seeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 16) return 0;
  defib::store::testing::read_as_sorted_file({reinterpret_cast<const char*>(data), 16},
                                             {reinterpret_cast<const char*>(data) + 16, size - 16});
  return 0;
}
