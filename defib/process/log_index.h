// Reading the indexes beside a service's log files (log_index_format.h), also while the shim writes
// them. Thread rule: one thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "defib/os/fd.h"
#include "defib/process/log_index_format.h"

namespace defib::process {

class LogIndex {
 public:
  // The index at `path` of the log file with that inode; nothing where there is none of it.
  static std::optional<LogIndex> open(const std::string& path, std::uint64_t inode);
  const shim::LogIndexHeader& header() const { return header_; }

  enum class Read { kRecord, kDamaged, kEnd };
  // kDamaged: there is a record behind it, so this one will not become better.
  Read record(std::uint64_t number, shim::LogIndexRecord& record) const;
  // How many whole records there are now.
  std::uint64_t records() const;

 private:
  os::Fd fd_;
  shim::LogIndexHeader header_{};
};

// What the service's log and journald did not get, by the header of its current index; nothing
// where there is none.
std::optional<shim::LogIndexHeader> read_log_counters(const std::string& service_dir);

}  // namespace defib::process
