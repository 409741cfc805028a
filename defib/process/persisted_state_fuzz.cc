// Any bytes as a state file: they are refused as damaged, or mean the same when they are written
// again.

#include <cstdint>

#include "defib/base/assert.h"
#include "defib/process/persisted_state.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using defib::process::PersistedState;
  const auto read = PersistedState::parse({reinterpret_cast<const char*>(data), size});
  if (!read) {
    DEFIB_ASSERT(read.error().code() == defib::Code::kCorrupted);
    return 0;
  }
  const auto again = PersistedState::parse(PersistedState::format(*read, 1));
  DEFIB_ASSERT(again && again->value == read->value);
  DEFIB_ASSERT(again->stopped_cleanly == read->stopped_cleanly);
  return 0;
}
