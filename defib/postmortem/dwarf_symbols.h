// DwarfSymbols: functions, files and lines of code addresses from a module's debug information and
// symbol tables, as they are in its files.
//
// Thread rule: one thread at a time; only where it may fail (guarded.h).

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "defib/postmortem/elf_session.h"
#include "defib/postmortem/symbol_table.h"

namespace defib::postmortem {

// Of one module of a session.
class DwarfSymbols {
 public:
  // `module` may be nullptr: nothing is known then.
  DwarfSymbols(Dwfl_Module* module, std::uint64_t bias);
  ~DwarfSymbols();
  DwarfSymbols(DwarfSymbols&&) noexcept;

  // The functions at an address in the module's file, innermost first; empty: nothing is known.
  std::vector<Location> locate(std::uint64_t offset);
  // True if there is debug information with line numbers.
  bool has_lines();
  // What locate() says, for all addresses. Empty: more than `max_bytes`.
  std::string make_table(std::string_view key, std::size_t max_bytes);

 private:
  class Unit;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace defib::postmortem
