// Symbolizer: functions, files and lines of addresses in the modules of a session: from the kept
// symbol tables where there are any, else from the debug information.
//
// Thread rule: one thread at a time; only where it may fail (guarded.h).

#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/postmortem/dwarf_symbols.h"
#include "defib/postmortem/elf_session.h"
#include "defib/postmortem/symbol_cache.h"

namespace defib::postmortem {

class Symbolizer {
 public:
  // `session` and `options` must outlive it.
  Symbolizer(ElfSession& session, const SymbolOptions& options);

  // Of an address in the module's file; demangled, innermost first. One nameless location where
  // nothing is known.
  const std::vector<Location>& locate(std::size_t module, std::uint64_t offset);
  // What the kept tables could not be used for.
  std::vector<std::string>& gaps() { return gaps_; }

 private:
  struct Source {
    std::unique_ptr<CachedTable> table;
    std::optional<DwarfSymbols> dwarf;
  };
  Source& source_of(std::size_t module);

  ElfSession& session_;
  const SymbolOptions& options_;
  std::optional<SymbolCache> cache_;
  std::vector<std::optional<Source>> sources_;
  std::map<std::pair<std::size_t, std::uint64_t>, std::vector<Location>> known_;
  std::map<std::string, std::string> demangled_;
  std::vector<std::string> gaps_;
};

}  // namespace defib::postmortem
