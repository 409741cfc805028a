// What is read of a module's file without any library, so that it can be done anywhere.
// Thread rule: pure but for reading the file.

#pragma once

#include <cstdint>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// What is added to an address in the module's file to make the one in the process: where it is
// mapped, less the address of its first segment. Its start where it cannot be read.
std::uint64_t load_bias(const Module& module);

}  // namespace defib::postmortem
