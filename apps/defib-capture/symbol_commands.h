// The commands `symbolize` and `warm`. Thread rule: once a process.

#pragma once

#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/symbols.h"
#include "defib/wire/json.h"

namespace defib {

// A document for machines, and the same for people.
struct CommandResult {
  wire::Json document;
  std::string text;
};

// Of a report, an incident, or lines with addresses; "-" is standard input.
Result<CommandResult> symbolize_file(const std::string& path,
                                     const postmortem::SymbolOptions& options);

// Makes the symbol tables of processes (by number) and ELF files in options.cache_dir.
Result<CommandResult> warm_targets(const std::vector<std::string>& targets,
                                   const postmortem::SymbolOptions& options);

}  // namespace defib
