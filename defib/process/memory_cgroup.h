// The memory cgroup of a service: what it uses, and the kernel's word when it is too much.
//
// A service has one of its own when its memory cgroup is another than the supervisor's. Version 2
// tells by memory.events (inotify), version 1 by eventfds on memory.usage_in_bytes and
// memory.oom_control; where neither is there, sampling remains.
// Thread rule: the loop's thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"
#include "defib/os/file_watch.h"
#include "defib/os/files.h"

namespace defib::process {

struct MemoryCgroup {
  std::string dir;
  int version = 0;  // 1 or 2
};

// From the texts of /proc/PID/cgroup, /proc/self/cgroup and /proc/self/mountinfo. Pure.
std::optional<MemoryCgroup> find_memory_cgroup(std::string_view of_service, std::string_view of_us,
                                               std::string_view mountinfo);
// Of a running process; nothing where it shares ours, or has none.
std::optional<MemoryCgroup> own_memory_cgroup(os::Files& files, pid_t pid);

// What is charged to the group without the page cache that can be dropped at once.
std::optional<std::uint64_t> memory_in_use(os::Files& files, const MemoryCgroup& group);
// How many processes the kernel has killed in the group because it was full.
std::uint64_t oom_kills(os::Files& files, const MemoryCgroup& group);

class MemoryEvents {
 public:
  // Something happened: look at memory_in_use() and oom_kills().
  using Handler = std::function<void()>;
  // `threshold_bytes` (0: none): version 1 also tells when the use crosses it.
  static Result<std::unique_ptr<MemoryEvents>> watch(os::EventLoop& loop, os::FileWatch& files,
                                                     const MemoryCgroup& group,
                                                     std::uint64_t threshold_bytes,
                                                     Handler handler);
  ~MemoryEvents();
  MemoryEvents(const MemoryEvents&) = delete;
  MemoryEvents& operator=(const MemoryEvents&) = delete;

 private:
  MemoryEvents(os::EventLoop& loop, os::FileWatch& files, Handler handler)
      : loop_(loop), files_(files), handler_(std::move(handler)) {}
  Result<> add_eventfd(const std::string& dir, const char* file, std::uint64_t threshold, int slot);

  os::EventLoop& loop_;
  os::FileWatch& files_;
  Handler handler_;
  os::FileWatch::WatchId watch_ = 0;
  os::Fd event_[2];  // version 1: of the threshold, of the OOM killer
};

}  // namespace defib::process
