#include "defib/process/system_info.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

#include "defib/base/text.h"
#include "defib/os/cgroup.h"
#include "defib/os/process_tree.h"

namespace defib::process {
namespace {

constexpr std::size_t kMaxProcFile = 1 << 20;
constexpr int kMaxGroupDepth = 64;
constexpr double kMegabyte = 1024.0 * 1024.0;

std::optional<std::uint64_t> number(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{}) return std::nullopt;
  return value;
}

// The number after "KEY" at the beginning of a line ("MemTotal:", "inactive_file ").
std::optional<std::uint64_t> value_of(std::string_view text, std::string_view key) {
  std::optional<std::uint64_t> found;
  while (!found && !text.empty()) {
    const std::string_view line = next_line(text);
    if (line.starts_with(key)) found = number(line.substr(key.size()));
  }
  return found;
}

// The field of a space-separated line, from 0; empty where there are fewer.
std::string_view field(std::string_view line, int index) {
  for (; index > 0; --index) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return {};
    line.remove_prefix(space + 1);
  }
  return line.substr(0, line.find(' '));
}

// The directory of group `path` below the mount; the mount itself where the group lies elsewhere
// (a container that sees its own part only).
std::string group_dir(const os::CgroupMount& mount, std::string_view path) {
  if (mount.root != "/" && path.starts_with(mount.root)) path.remove_prefix(mount.root.size());
  if (path.empty() || path == "/" || path.find("..") != std::string_view::npos) return mount.point;
  return mount.point + std::string(path);
}

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

// {used, total} in clock ticks of the line "cpu ..." of /proc/stat.
std::pair<std::uint64_t, std::uint64_t> machine_ticks(std::string_view stat) {
  std::uint64_t total = 0, idle = 0;
  if (!stat.starts_with("cpu  ")) return {0, 0};
  const std::string_view line = stat.substr(5, stat.find('\n') - 5);
  constexpr int kColumns = 8;  // user nice system idle iowait irq softirq steal
  for (int i = 0; i < kColumns; ++i) {
    const std::uint64_t ticks = number(field(line, i)).value_or(0);
    total += ticks;
    if (i == 3 || i == 4) idle += ticks;
  }
  return {total - idle, total};
}

// From /proc/PID/stat: user and system time in nanoseconds, and the number of threads.
struct ProcessTimes {
  std::int64_t cpu_ns = 0;
  std::int64_t start_ns = 0;  // since boot
  int threads = 0;
};
std::optional<ProcessTimes> process_times(std::string_view stat) {
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 > stat.size()) return std::nullopt;
  const std::string_view rest = stat.substr(name_end + 2);  // from field 3, the state
  const std::int64_t tick_ns = 1'000'000'000 / std::max(1L, sysconf(_SC_CLK_TCK));
  constexpr std::uint64_t kMostTicks = 400'000'000'000;  // a century
  const auto value = [&](int field_number) {
    const std::uint64_t ticks = number(field(rest, field_number - 3)).value_or(0);
    return static_cast<std::int64_t>(std::min(ticks, kMostTicks));
  };
  return ProcessTimes{(value(14) + value(15)) * tick_ns, value(22) * tick_ns,
                      static_cast<int>(value(20))};
}

double rounded(double value) {
  return std::round(value * 100) / 100;
}

}  // namespace

SystemSampler::SystemSampler(Options options, os::Files& files, const os::Clock& clock)
    : options_(std::move(options)), files_(files), clock_(clock) {
  find_groups();
}

std::string SystemSampler::proc(std::string_view name) const {
  const std::string process = options_.pid == 0 ? "self" : std::to_string(options_.pid);
  return options_.root + "/proc/" + process + "/" + std::string(name);
}

// Empty where it cannot be read.
std::string SystemSampler::read(const std::string& path) const {
  return os::read_file(files_, path, kMaxProcFile).value_or(std::string());
}

void SystemSampler::find_groups() {
  const std::vector<os::CgroupMount> mounts = os::parse_cgroup_mounts(read(proc("mountinfo")));
  const std::string cgroups = read(proc("cgroup"));
  // `top` becomes the mount itself, above which there is nothing to look at.
  const auto find = [&](std::string_view controller, std::string* top) -> std::string {
    const os::CgroupMount* mount = os::find_cgroup_mount(mounts, controller);
    const auto path = os::cgroup_path(cgroups, controller);
    if (mount == nullptr || !path) return {};
    if (top != nullptr) *top = options_.root + mount->point;
    return options_.root + group_dir(*mount, *path);
  };
  group2_ = find("", &group2_top_);
  memory1_ = find("memory", nullptr);
  cpu1_ = find("cpu", &cpu1_top_);
}

void SystemSampler::sample_memory(SystemSample& to) const {
  const std::string meminfo = read(options_.root + "/proc/meminfo");
  const std::uint64_t total = value_of(meminfo, "MemTotal:").value_or(0) * 1024;
  const std::uint64_t available = value_of(meminfo, "MemAvailable:").value_or(0) * 1024;
  to.limit_bytes = total;
  to.used_bytes = total > available ? total - available : 0;

  const auto take = [&](std::optional<std::uint64_t> limit, std::optional<std::uint64_t> used,
                        const std::string& stat, std::string_view inactive_key) {
    if (!limit || !used || *limit == 0 || *limit >= total) return;
    if (to.memory_by_group && *limit >= to.limit_bytes) return;
    const std::uint64_t inactive = value_of(stat, inactive_key).value_or(0);
    to.memory_by_group = true;
    to.limit_bytes = *limit;
    to.used_bytes = *used - std::min(*used, inactive);  // page cache that goes without harm
  };
  std::string dir = group2_;
  for (int depth = 0; !dir.empty() && depth < kMaxGroupDepth; ++depth) {
    take(number(read(dir + "/memory.max")), number(read(dir + "/memory.current")),
         read(dir + "/memory.stat"), "inactive_file ");
    if (dir.size() <= group2_top_.size()) break;
    dir = os::parent_dir(dir);
  }
  if (!memory1_.empty()) {
    const std::string stat = read(memory1_ + "/memory.stat");
    take(value_of(stat, "hierarchical_memory_limit "),
         number(read(memory1_ + "/memory.usage_in_bytes")), stat, "total_inactive_file ");
  }
  to.memory_percent = percent(to.used_bytes, to.limit_bytes);
}

void SystemSampler::sample_processors(SystemSample& to) {
  to.processors = os::allowed_processors(0);
  std::string dir = group2_;
  for (int depth = 0; !dir.empty() && depth < kMaxGroupDepth; ++depth) {
    const std::string quota = read(dir + "/cpu.max");  // "max 100000" or "50000 100000"
    const auto part = number(field(quota, 0)), period = number(field(quota, 1));
    if (part && period && *period > 0) {
      to.processors =
          std::min(to.processors, static_cast<double>(*part) / static_cast<double>(*period));
    }
    if (dir.size() <= group2_top_.size()) break;
    dir = os::parent_dir(dir);
  }
  dir = cpu1_;
  for (int depth = 0; !dir.empty() && depth < kMaxGroupDepth; ++depth) {
    const auto part = number(read(dir + "/cpu.cfs_quota_us"));  // -1: none, which is no number
    const auto period = number(read(dir + "/cpu.cfs_period_us"));
    if (part && period && *period > 0) {
      to.processors =
          std::min(to.processors, static_cast<double>(*part) / static_cast<double>(*period));
    }
    if (dir.size() <= cpu1_top_.size()) break;
    dir = os::parent_dir(dir);
  }

  const std::int64_t now = clock_.mono_ns();
  if (const auto times = process_times(read(proc("stat")))) {
    to.threads = times->threads;
    const std::int64_t since = sampled_mono_ns_ != 0 ? sampled_mono_ns_ : times->start_ns;
    const std::int64_t used = times->cpu_ns - process_cpu_ns_;
    if (now > since && to.processors > 0) {
      to.cpu_percent = std::clamp(
          100.0 * static_cast<double>(used) / (static_cast<double>(now - since) * to.processors),
          0.0, 100.0);
    }
    process_cpu_ns_ = times->cpu_ns;
  }
  sampled_mono_ns_ = now;
  const auto [busy, total] = machine_ticks(read(options_.root + "/proc/stat"));
  if (total > machine_total_ && busy >= machine_busy_) {
    to.machine_cpu_percent = percent(busy - machine_busy_, total - machine_total_);
  }
  machine_busy_ = busy;
  machine_total_ = total;
}

Result<SystemSample> SystemSampler::sample() {
  SystemSample sample;
  const std::string statm = read(proc("statm"));
  const auto pages = number(field(statm, 1));
  if (!pages) {
    return Error(Code::kUnavailable, "the process's use of memory cannot be read")
        .with("path", proc("statm"))
        .suggest("mount /proc in the service's environment");
  }
  sample.rss_bytes = *pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  sample_memory(sample);
  sample_processors(sample);
  if (const auto names = files_.list(proc("fd"))) {
    // The look itself has one open.
    sample.open_fds = std::max(0, static_cast<int>(names->size()) - 1);
  }
  struct statvfs disk{};
  if (::statvfs(options_.disk_path.c_str(), &disk) == 0) {
    const std::uint64_t used = disk.f_blocks - disk.f_bfree;
    sample.disk_percent = percent(used, used + disk.f_bavail);
  }
  return sample;
}

wire::Json to_json(const SystemSample& sample, std::string_view status, double uptime_seconds) {
  const auto megabytes = [](std::uint64_t bytes) {
    return rounded(static_cast<double>(bytes) / kMegabyte);
  };
  return wire::Json::object({
      {"schema", "defib.system_info/1"},
      {"status", status},
      {"pid", ::getpid()},
      {"uptime", rounded(uptime_seconds)},
      {"memory_usage_mb", megabytes(sample.rss_bytes)},
      {"memory_percent", rounded(sample.memory_percent)},
      {"memory_used_mb", megabytes(sample.used_bytes)},
      {"memory_limit_mb", megabytes(sample.limit_bytes)},
      {"memory_limited_by", sample.memory_by_group ? "cgroup" : "machine"},
      {"cpu_percent", rounded(sample.cpu_percent)},
      {"machine_cpu_percent", rounded(sample.machine_cpu_percent)},
      {"processors", rounded(sample.processors)},
      {"disk_percent", rounded(sample.disk_percent)},
      {"threads", sample.threads},
      {"open_fds", sample.open_fds},
  });
}

}  // namespace defib::process
