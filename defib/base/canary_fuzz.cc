// A bug on purpose: tools/fuzz runs this one first and goes on only if the bug was found, so that a
// harness that finds nothing any more cannot look like code without bugs.

#include <cstddef>
#include <cstdint>
#include <memory>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr char kTrigger[] = {'b', 'u', 'g', '!'};
  if (size < sizeof(kTrigger)) return 0;
  for (std::size_t i = 0; i < sizeof(kTrigger); ++i) {
    if (data[i] != static_cast<std::uint8_t>(kTrigger[i])) return 0;
  }
  // One byte behind the end of the heap's block: only the address sanitizer sees it.
  const auto copy = std::make_unique<std::uint8_t[]>(size);
  volatile std::uint8_t* const behind = copy.get() + size;
  static_cast<void>(*behind);
  return 0;
}
