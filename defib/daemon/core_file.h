// Core files: which process one is of, by its notes, and which of a service's are kept.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/sensor_config.h"
#include "defib/os/files.h"

namespace defib::daemon {

// What the notes of an ELF core say.
struct CoreIdentity {
  pid_t pid = 0;
  pid_t session = 0;  // of that process: a service leads a session of its own
  int signal = 0;
  std::string program;  // at most 15 characters
};
// FrameMalformed where the file is no core, or its notes are not whole. Reads a bounded part of it.
Result<CoreIdentity> identify_core(const std::string& path);

// Where the kernel puts core files, from /proc/sys/kernel/core_pattern.
struct CorePlace {
  bool pipe_of_ours = false;  // `defib-capture core-pipe --dir DIR`
  std::string dir;            // empty: not a place that can be watched
  std::string prefix;         // what the names begin with
};
// `working_directory` is the service's. Pure.
CorePlace core_place(std::string_view core_pattern, std::string_view working_directory);

// The core files of one service, so that they stay bounded: a list in the service's directory
// (docs/formats/state_dir.md). Only files on the list are ever removed, and only while they are the
// same files.
class CoreList {
 public:
  CoreList(os::Files& files, std::string path) : files_(files), path_(std::move(path)) {}
  struct Entry {
    std::string path;
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t bytes = 0;  // on the disk: core files have holes
  };
  struct Removed {
    std::string path;
    std::uint64_t bytes = 0;
  };
  // Adds a file and removes the oldest ones beyond the limits; the new one too where it alone is
  // too large, or none is kept.
  Result<std::vector<Removed>> add(const std::string& core, const CoreLimits& limits);
  std::vector<Entry> entries() const;

 private:
  os::Files& files_;
  std::string path_;
};

}  // namespace defib::daemon
