// What is read of a module's file without any library, so that it can be done anywhere.
// Thread rule: pure but for reading the file.

#pragma once

#include <cstdint>
#include <string>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// What is added to an address in the module's file to make the one in the process: where it is
// mapped, less the address of its first segment. Its start where it cannot be read.
std::uint64_t load_bias(const Module& module);

// The build id in the module's file, in hexadecimal; empty where there is none among its segments.
std::string build_id_in_file(const Module& module);

}  // namespace defib::postmortem
