// Symbolize: names, files and lines for addresses that were written down without them, from the
// modules' files or debug files as they can be had now; and symbol tables made in advance.
//
// Invariants: a file whose build id is another than the one written down is not used, and that is
// said. Files are read in a child (guarded.h).
// Thread rule: one thread at a time, in a process that has no other.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/symbol_table.h"
#include "defib/postmortem/symbols.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

struct SymbolQuery {
  std::string module;        // path
  std::string build_id;      // empty: not known, and not checked
  std::uint64_t offset = 0;  // in the module's file
};

struct Symbolized {
  // One for each query: the functions there, innermost first; empty: nothing is known.
  std::vector<std::vector<Location>> answers;
  std::vector<std::string> gaps;  // what could not be used, and why
};
Symbolized symbolize(const std::vector<SymbolQuery>& queries, const SymbolOptions& options);

// One address a line: "MODULE+0xOFFSET" or "MODULE BUILD_ID 0xOFFSET", separated by blanks or tabs.
// InvalidArgument names the line that is none.
Result<std::vector<SymbolQuery>> parse_queries(std::string_view text);

// A report (defib.crash/1) or an incident with stacks, filled in: frames are replaced where more is
// known of them now, and lines are added to `gaps`. InvalidArgument: there are no stacks in it.
Result<wire::Json> symbolize_report(wire::Json report, const SymbolOptions& options);
// {"schema":"defib.symbols/1","addresses":[...],"gaps":[...]}.
wire::Json symbols_json(const std::vector<SymbolQuery>& queries, const Symbolized& symbolized);
// For people: for each query a line a function.
std::string symbols_text(const std::vector<SymbolQuery>& queries, const Symbolized& symbolized);
// The stacks of a report or incident.
std::string stacks_text(const wire::Json& report);

// Makes the symbol tables that options.cache_dir lacks for the modules; each within
// options.time_limit, at a low priority.
struct Warmed {
  int made = 0;
  int kept = 0;  // were there already
  std::vector<std::string> gaps;
};
Result<Warmed> warm_symbols(const std::vector<Module>& modules, const SymbolOptions& options);
// Of the files that a process has mapped, without stopping it; or of one ELF file.
Result<std::vector<Module>> modules_of_process(pid_t pid);
Result<Module> module_of_file(const std::string& path);

}  // namespace defib::postmortem
