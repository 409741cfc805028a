// Any bytes as a sorted file: opening, finding, scanning, verifying and salvaging are total. Half
// of the inputs get right checksums all the way up, so that mutations reach what lies behind them.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/store/testing/sorted_fuzz_harness.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 16) return 0;
  defib::store::testing::read_as_sorted_file({reinterpret_cast<const char*>(data), 16},
                                             {reinterpret_cast<const char*>(data) + 16, size - 16});
  return 0;
}
