// Any bytes as a status file: the parser finds a valid record or nothing.

#include <cstdint>

#include "defib/base/assert.h"
#include "defib/process/state_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto record = defib::process::parse_status({reinterpret_cast<const char*>(data), size});
  DEFIB_ASSERT(!record || defib::process::shim::status_valid(*record));
  return 0;
}
