// Debug files: where the debug information of a module lies that was split off it.
//
// Asked in this order: by build id under each place, then by the name in the module's
// .gnu_debuglink beside it and in .debug/ there, then under each place by that name.
// Invariant: a file is taken only if its build id is the module's; of a module without one, only if
// its CRC is the one in the link.
// Thread rule: pure but for reading files.

#pragma once

#include <string>
#include <vector>

#include "defib/os/fd.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/symbols.h"

namespace defib::postmortem {

// Of an ELF file, in hexadecimal; empty where it has none or is no ELF file.
std::string build_id_of(int fd);
bool is_elf(int fd);

struct DebugFile {
  os::Fd fd;  // invalid: there is none
  std::string path;
};
struct DebugLink {
  std::string name;  // as in .gnu_debuglink; empty: there is none
  std::uint32_t crc = 0;
};
// `refused` gets a line for each file that has the right name and the wrong content.
DebugFile find_debug_file(const Module& module, const DebugLink& link, const SymbolOptions& options,
                          std::vector<std::string>& refused);

// True if a debug file lies there by its build id. Cheap: nothing is read.
bool has_debug_file(const Module& module, const SymbolOptions& options);

// The module's own file, or else a debug file of it, for a module that is known by name and build
// id only.
DebugFile find_module_file(const std::string& path, const std::string& build_id,
                           const SymbolOptions& options, std::vector<std::string>& refused);

}  // namespace defib::postmortem
