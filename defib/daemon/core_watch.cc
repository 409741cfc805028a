#include "defib/daemon/core_watch.h"

#include <fmt/core.h>
#include <limits.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace defib::daemon {
namespace {

constexpr std::size_t kKnownPids = 8;
constexpr std::size_t kKnownCores = 64;
constexpr std::size_t kMaxScan = 10'000;

std::string working_directory_of(pid_t pid) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(fmt::format("/proc/{}/cwd", pid).c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

bool may_dump(pid_t pid) {
  rlimit limit = {};
  return ::prlimit(pid, RLIMIT_CORE, nullptr, &limit) == 0 && limit.rlim_cur > 0;
}

}  // namespace

CoreWatch::CoreWatch(os::EventLoop& loop, os::FileWatch& watch, os::Files& files, Options options,
                     OnCore on_core)
    : loop_(loop),
      watch_(watch),
      files_(files),
      options_(std::move(options)),
      on_core_(std::move(on_core)) {}

CoreWatch::~CoreWatch() {
  watch_.remove(watch_id_);
}

void CoreWatch::started(pid_t pid) {
  pids_.push_back(pid);
  if (pids_.size() > kKnownPids) pids_.pop_front();
  if (scan_since_wall_ns_ == 0) scan_since_wall_ns_ = loop_.clock().wall_ns();
  watch(pid);
}

void CoreWatch::watch(pid_t pid) {
  const auto pattern = os::read_file(files_, options_.core_pattern_path, 4096);
  const std::string actual = working_directory_of(pid);
  CorePlace place =
      core_place(pattern ? *pattern : "", actual.empty() ? options_.working_directory : actual);
  const bool same = place.dir == place_.dir && place.prefix == place_.prefix;
  // The kernel asks for no limit where a pipe takes the core. A directory that gets no core is not
  // watched: the service may be busy there.
  const bool wanted = !place.dir.empty() && (place.pipe_of_ours || may_dump(pid));
  if (wanted && same && watch_id_ != 0) return;
  watch_.remove(watch_id_);
  watch_id_ = 0;
  place_ = std::move(place);
  if (!wanted) return;
  auto id = watch_.add(place_.dir, IN_CLOSE_WRITE | IN_MOVED_TO | IN_Q_OVERFLOW,
                       [this](std::uint32_t mask, std::string_view name) {
                         if ((mask & IN_Q_OVERFLOW) != 0) return scan();
                         consider(std::string(name));
                       });
  if (id) watch_id_ = *id;  // Without it, an end with a core is looked into.
}

void CoreWatch::ended(pid_t pid, bool core) {
  if (!std::ranges::count(pids_, pid)) pids_.push_back(pid);
  if (core) scan();
}

void CoreWatch::consider(const std::string& name) {
  if (!name.starts_with(place_.prefix)) return;
  const std::string path = os::join_path(place_.dir, name);
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
  const std::pair<std::uint64_t, std::int64_t> key = {
      status.st_ino, std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
  if (std::ranges::count(told_, key)) return;
  auto identity = identify_core(path);
  if (!identity) return;  // Another file of that name, or a core that was cut at its beginning.
  const bool ours = std::ranges::count(pids_, identity->pid) > 0 ||
                    std::ranges::count(pids_, identity->session) > 0;
  if (!ours) return;
  told_.push_back(key);
  if (told_.size() > kKnownCores) told_.pop_front();
  CoreReport report;
  report.path = path;
  report.bytes = static_cast<std::uint64_t>(status.st_size);
  report.disk_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
  report.identity = std::move(*identity);
  auto removed = CoreList(files_, options_.list_path).add(path, options_.limits);
  if (removed) {
    report.removed = std::move(*removed);
  } else {
    report.error = removed.error();
  }
  on_core_(report);
}

// Files of the place that changed since the service was first seen.
void CoreWatch::scan() {
  if (place_.dir.empty()) return;
  auto names = files_.list(place_.dir);
  if (!names) return;
  std::size_t looked = 0;
  for (const std::string& name : *names) {
    if (!name.starts_with(place_.prefix)) continue;
    if (++looked > kMaxScan) return;
    struct stat status;
    if (::lstat(os::join_path(place_.dir, name).c_str(), &status) != 0) continue;
    const std::int64_t changed =
        std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    if (changed >= scan_since_wall_ns_ - 1'000'000'000) consider(name);
  }
}

}  // namespace defib::daemon
