// A few lines of a source file around a place, where the file is at hand. The path is the debug
// information's word, and what it names may be anything: only regular files are read, bounded.
// Thread rule: like a value.

#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace defib::postmortem {

inline constexpr int kSourceContext = 3;  // lines before and after

struct SourceLine {
  int number = 0;
  std::string text;
};
struct SourceView {
  pid_t tid = 0;
  std::string file;
  int line = 0;
  bool newer = false;  // than the module: the lines may be others than those it was built of
  std::vector<SourceLine> lines;
};

// Nothing where there is no such file or line. `sysroot` is put before both paths.
std::optional<SourceView> read_source(const std::string& file, int line, const std::string& module,
                                      const std::string& sysroot = {});

}  // namespace defib::postmortem
