// What changed since the last good run: a description of each run that was good, and the
// differences of a later one in words.
//
// A description holds the program (path, build id, or hash where it has none), the files that the
// command names, the settings, the names of the environment with a keyed hash of each value, and
// the build ids of the libraries. The key lies with the descriptions in the service's directory;
// neither hashes nor values leave it, only the words do. docs/formats/runs.md has the file.
// Thread rule: pure functions but for reading the files that a command names.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

struct RunFacts {
  std::string exe;       // path
  std::string build_id;  // as the process had it in memory; empty: that of the file now
  std::vector<std::string> command;
  std::string directory;  // that the command's relative paths begin at; empty: this one's
  std::vector<std::pair<std::string, std::string>> environment;
  wire::Json settings;                                         // spec.json
  std::vector<std::pair<std::string, std::string>> libraries;  // path, build id; empty: not known
  std::string defib, kernel;                                   // versions
};

// Files that a command names are hashed up to this size, and told apart by size and time beyond.
inline constexpr std::uint64_t kMaxHashedFile = 4 << 20;
inline constexpr std::size_t kMaxRuns = 8;

// The same facts give the same description, as long as the key is the same.
wire::Json describe_run(const RunFacts& facts, std::string_view key);
// One line each, the likeliest to matter first; empty: the two are alike. What one of the two does
// not know is not compared.
std::vector<std::string> run_differences(const wire::Json& before, const wire::Json& after);

// The good runs of a service, distinct ones, the newest last. A file that is missing or damaged is
// none, and a new key.
class GoodRuns {
 public:
  static GoodRuns read(os::Files& files, const std::string& service_dir);
  const std::string& key() const { return key_; }
  // The run `generation` was good at `at`.
  void note(const wire::Json& description, std::uint64_t generation, std::string_view at);
  Result<> save(os::Files& files) const;
  // "defib.changes/1": what a later run has changed since the newest good one; where that is
  // nothing, also what had changed last before it.
  wire::Json changes(const wire::Json& description) const;

 private:
  std::string path_, key_;
  wire::Json::Array runs_;
};

// Of the executable mappings of a text of /proc/PID/maps: path and build id of each file.
std::vector<std::pair<std::string, std::string>> libraries_of_maps(std::string_view maps);
// Of an ELF file; empty where there is none.
std::string build_id_of_file(const std::string& path);

}  // namespace defib::postmortem
