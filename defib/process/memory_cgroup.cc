#include "defib/process/memory_cgroup.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "defib/base/text.h"
#include "defib/os/cgroup.h"

namespace defib::process {
namespace {

constexpr std::uint64_t kMaxProcFile = 1 << 20;

std::uint64_t number(std::string_view text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The value of "key 123" in a file of such lines; 0 where there is none.
std::uint64_t value_of(os::Files& files, const std::string& path, std::string_view key) {
  const auto text = os::read_file(files, path, kMaxProcFile);
  std::uint64_t value = 0;
  if (!text) return value;
  for (std::string_view rest = *text; !rest.empty();) {
    const std::string_view line = next_line(rest);
    const std::size_t space = line.find(' ');
    if (space != std::string_view::npos && line.substr(0, space) == key) {
      value = number(line.substr(space + 1));
    }
  }
  return value;
}

}  // namespace

std::optional<MemoryCgroup> find_memory_cgroup(std::string_view of_service, std::string_view of_us,
                                               std::string_view mountinfo) {
  const std::vector<os::CgroupMount> mounts = os::parse_cgroup_mounts(mountinfo);
  // Where version 1 has the memory controller, version 2 has none.
  for (const int version : {1, 2}) {
    const std::string_view controller = version == 1 ? "memory" : "";
    const os::CgroupMount* mount = os::find_cgroup_mount(mounts, controller);
    const auto path = os::cgroup_path(of_service, controller);
    if (mount == nullptr || !path || path->empty()) continue;
    if (path == os::cgroup_path(of_us, controller) || *path == "/") {
      if (version == 1) return std::nullopt;
      continue;
    }
    std::string_view below = *path;
    if (mount->root != "/" && below.starts_with(mount->root)) {
      below.remove_prefix(mount->root.size());
    }
    return MemoryCgroup{mount->point + std::string(below), version};
  }
  return std::nullopt;
}

std::optional<MemoryCgroup> own_memory_cgroup(os::Files& files, pid_t pid) {
  const auto theirs = os::read_file(files, fmt::format("/proc/{}/cgroup", pid), kMaxProcFile);
  const auto ours = os::read_file(files, "/proc/self/cgroup", kMaxProcFile);
  if (!theirs || !ours || *theirs == *ours) return std::nullopt;
  const auto mounts = os::read_file(files, "/proc/self/mountinfo", kMaxProcFile);
  if (!mounts) return std::nullopt;
  auto group = find_memory_cgroup(*theirs, *ours, *mounts);
  // A group of version 2 may lack the controller.
  if (group && !memory_in_use(files, *group)) return std::nullopt;
  return group;
}

std::optional<std::uint64_t> memory_in_use(os::Files& files, const MemoryCgroup& group) {
  const bool first = group.version == 1;
  const auto text = os::read_file(
      files, os::join_path(group.dir, first ? "memory.usage_in_bytes" : "memory.current"), 4096);
  if (!text) return std::nullopt;
  const std::uint64_t charged = number(*text);
  const std::uint64_t cache = value_of(files, os::join_path(group.dir, "memory.stat"),
                                       first ? "total_inactive_file" : "inactive_file");
  return charged - std::min(charged, cache);
}

std::uint64_t oom_kills(os::Files& files, const MemoryCgroup& group) {
  return value_of(
      files, os::join_path(group.dir, group.version == 1 ? "memory.oom_control" : "memory.events"),
      "oom_kill");
}

Result<std::unique_ptr<MemoryEvents>> MemoryEvents::watch(os::EventLoop& loop, os::FileWatch& files,
                                                          const MemoryCgroup& group,
                                                          std::uint64_t threshold_bytes,
                                                          Handler handler) {
  std::unique_ptr<MemoryEvents> events(new MemoryEvents(loop, files, std::move(handler)));
  if (group.version == 2) {
    DEFIB_TRY_ASSIGN(events->watch_,
                     files.add(os::join_path(group.dir, "memory.events"), IN_MODIFY,
                               [raw = events.get()](std::uint32_t, std::string_view) {
                                 const Handler told = raw->handler_;  // it may destroy us
                                 told();
                               }));
    return events;
  }
  DEFIB_TRY(events->add_eventfd(group.dir, "memory.oom_control", 0, 1));
  if (threshold_bytes > 0) {
    DEFIB_TRY(events->add_eventfd(group.dir, "memory.usage_in_bytes", threshold_bytes, 0));
  }
  return events;
}

// "<eventfd> <file's descriptor> [threshold]" into cgroup.event_control (cgroup-v1/memory.rst).
Result<> MemoryEvents::add_eventfd(const std::string& dir, const char* file,
                                   std::uint64_t threshold, int slot) {
  os::Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return os::system_error("eventfd");
  const std::string path = os::join_path(dir, file);
  const os::Fd source(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source.valid()) return os::system_error("open", path);
  const std::string control_path = os::join_path(dir, "cgroup.event_control");
  const os::Fd control(::open(control_path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!control.valid()) return os::system_error("open", control_path);
  const std::string text = threshold > 0
                               ? fmt::format("{} {} {}", event.get(), source.get(), threshold)
                               : fmt::format("{} {}", event.get(), source.get());
  if (::write(control.get(), text.data(), text.size()) < 0) {
    return os::system_error("write", control_path);
  }
  const int fd = event.get();
  event_[slot] = std::move(event);
  return loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) {
    std::uint64_t count = 0;
    if (::read(fd, &count, sizeof count) < 0) return;
    const Handler told = handler_;  // it may destroy us
    told();
  });
}

MemoryEvents::~MemoryEvents() {
  files_.remove(watch_);
  for (os::Fd& event : event_) {
    if (event.valid()) loop_.unwatch(event.get());
  }
}

}  // namespace defib::process
