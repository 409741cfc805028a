// CoreWatch: notices the core files of one service.
//
// The directory that core_pattern names is watched (inotify) while the service's RLIMIT_CORE allows
// a core file, or while a core-pipe handler of ours collects them; when the process has ended with
// a core, the directory is also looked through, so that none is missed. A file is the service's by
// the pid or the session in its own notes, whatever its name. Thread rule: the loop's thread.

#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "defib/daemon/core_file.h"
#include "defib/os/event_loop.h"
#include "defib/os/file_watch.h"

namespace defib::daemon {

struct CoreReport {
  std::string path;
  std::uint64_t bytes = 0;       // its length
  std::uint64_t disk_bytes = 0;  // what it takes: core files have holes
  CoreIdentity identity;
  std::vector<CoreList::Removed> removed;  // older ones, or this one, to stay within the limits
  std::optional<Error> error;              // the list could not be kept
};

class CoreWatch {
 public:
  using OnCore = std::function<void(const CoreReport& report)>;
  struct Options {
    std::string core_pattern_path = "/proc/sys/kernel/core_pattern";
    std::string list_path;          // the service's list of core files
    std::string working_directory;  // where it is not known of the process
    CoreLimits limits;
  };
  CoreWatch(os::EventLoop& loop, os::FileWatch& watch, os::Files& files, Options options,
            OnCore on_core);
  ~CoreWatch();
  CoreWatch(const CoreWatch&) = delete;
  CoreWatch& operator=(const CoreWatch&) = delete;

  // A process of the service runs.
  void started(pid_t pid);
  // It ended; `core` where its status says that a core was written.
  void ended(pid_t pid, bool core);
  bool watching() const { return watch_id_ != 0; }

 private:
  void watch(pid_t pid);
  void consider(const std::string& name);
  void scan();

  os::EventLoop& loop_;
  os::FileWatch& watch_;
  os::Files& files_;
  Options options_;
  OnCore on_core_;
  CorePlace place_;
  os::FileWatch::WatchId watch_id_ = 0;
  std::deque<pid_t> pids_;                                   // of the service's last processes
  std::deque<std::pair<std::uint64_t, std::int64_t>> told_;  // inode and time of change
  std::int64_t scan_since_wall_ns_ = 0;
};

}  // namespace defib::daemon
