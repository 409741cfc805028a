// Where names and lines come from: options of everything that symbolizes.
// Thread rule: plain values.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace defib::postmortem {

struct SymbolOptions {
  // Places of debug files, asked in this order before /usr/lib/debug: DIR/.build-id/xx/yyy.debug,
  // DIR/NAME and DIR/NAME.debug of a module NAME, and by the module's .gnu_debuglink.
  std::vector<std::string> debug_dirs;
  // The modules and /usr/lib/debug lie under it; empty: where they say.
  std::string sysroot;
  // The directory of symbol tables (symbol_cache.h); empty: none is used.
  std::string cache_dir;
  // For unwinding and symbolizing as a whole: what is not done by then has no names. On a machine
  // that is busy it may take long; what runs in a circle is ended by `cpu_limit` (of an attempt).
  std::chrono::milliseconds time_limit{60'000};
  std::chrono::seconds cpu_limit{10};
  // Of memory that is neither a mapped file nor shared.
  std::uint64_t memory_limit_bytes = std::uint64_t{2} << 30;
};

}  // namespace defib::postmortem
