// What the machine says of this process and of the room that it has: memory, processors, disk.
//
// Memory is measured against the tightest limit of the process's control groups (version 2 or 1,
// with all their ancestors), and against the machine where there is none. Processor use is over the
// time since the sample before.
// Thread rule: one thread at a time.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::process {

struct SystemSample {
  std::uint64_t rss_bytes = 0;    // of this process
  std::uint64_t used_bytes = 0;   // in the group, or in the machine; page cache left out
  std::uint64_t limit_bytes = 0;  // of the group, or the machine's memory
  bool memory_by_group = false;   // which of the two
  double memory_percent = 0;      // used of limit
  double processors = 0;          // that this process may use: affinity, and the group's quota
  double cpu_percent = 0;         // of this process, 100 = all of its processors
  double machine_cpu_percent = 0;
  double disk_percent = 0;  // of the file system of the watched directory, as df(1) counts
  int threads = 0;
  int open_fds = 0;
};

class SystemSampler {
 public:
  struct Options {
    std::string disk_path = ".";
    std::string root;  // before /proc and /sys; for tests
    pid_t pid = 0;     // 0: this process; its directory below /proc is then "self"
  };
  SystemSampler() : SystemSampler(Options()) {}
  explicit SystemSampler(Options options, os::Files& files = os::real_files(),
                         const os::Clock& clock = os::real_clock());

  // What cannot be read is 0 in the sample; an Error only where /proc itself cannot be read. The
  // processor use of the first sample is that since the start of the process and of the machine.
  Result<SystemSample> sample();

 private:
  std::string proc(std::string_view name) const;
  std::string read(const std::string& path) const;
  void find_groups();
  void sample_memory(SystemSample& to) const;
  void sample_processors(SystemSample& to);

  Options options_;
  os::Files& files_;
  const os::Clock& clock_;
  // Directories of the process's groups, the process's own first; empty: none.
  std::string group2_, group2_top_;
  std::string memory1_;
  std::string cpu1_, cpu1_top_;
  std::int64_t sampled_mono_ns_ = 0;
  std::int64_t process_cpu_ns_ = 0;
  std::uint64_t machine_busy_ = 0, machine_total_ = 0;  // clock ticks
};

// {"schema":"defib.system_info/1","status","uptime","memory_usage_mb","memory_percent",...}
wire::Json to_json(const SystemSample& sample, std::string_view status, double uptime_seconds);

}  // namespace defib::process
