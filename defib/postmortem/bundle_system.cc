#include "defib/postmortem/bundle_system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxText = 64 << 10;
constexpr std::size_t kMaxProcesses = 2000;
constexpr std::size_t kMaxLooked = 32768;

std::string text_of(const std::string& path) {
  const os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(kMaxText, '\0');
  std::size_t size = 0;
  while (fd.valid() && size < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + size, text.size() - size);
    if (got <= 0) break;
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

struct ProcessRow {
  pid_t pid = 0;
  pid_t parent = 0;
  std::string name;
  char state = '?';
  std::uint64_t cpu_ticks = 0;
  std::uint64_t rss_pages = 0;
  std::uint64_t threads = 0;
  std::uint64_t start_ticks = 0;
};

bool parse_stat(std::string_view text, ProcessRow& row) {
  const std::size_t open = text.find('('), close = text.rfind(')');
  if (open == text.npos || close == text.npos || close < open || close + 2 >= text.size()) {
    return false;
  }
  row.name = text.substr(open + 1, close - open - 1);
  row.state = text[close + 2];
  std::string_view rest = text.substr(close + 3);
  std::uint64_t values[21] = {};  // ppid is the first, rss the twenty-first
  for (std::uint64_t& value : values) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(word.size());
    const bool negative = word.starts_with('-');
    std::from_chars(word.data() + (negative ? 1 : 0), word.data() + word.size(), value);
  }
  row.parent = static_cast<pid_t>(values[0]);
  row.cpu_ticks = values[10] + values[11];
  row.threads = values[16];
  row.start_ticks = values[18];
  row.rss_pages = values[20];
  return true;
}

wire::Json row_json(const ProcessRow& row, bool of_service) {
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  static const auto tick_ms = 1000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return wire::Json::object({{"pid", row.pid},
                             {"parent", row.parent},
                             {"name", row.name},
                             {"state", std::string(1, row.state)},
                             {"threads", row.threads},
                             {"rss_bytes", row.rss_pages * page},
                             {"cpu_ms", row.cpu_ticks * tick_ms},
                             {"started_ms_after_boot", row.start_ticks * tick_ms},
                             {"of_service", of_service}});
}

}  // namespace

wire::Json system_json(const std::string& disk_path) {
  wire::Json json = wire::Json::object(
      {{"schema", "defib.system/1"}, {"at", os::format_time(os::real_clock().wall_ns())}});
  utsname names;
  if (::uname(&names) == 0) {
    json.set("kernel", names.release);
    json.set("kernel_version", names.version);
    json.set("machine", names.machine);
  }
  json.set("processors", ::sysconf(_SC_NPROCESSORS_ONLN));
  json.set("uptime", text_of("/proc/uptime"));
  json.set("load", text_of("/proc/loadavg"));
  wire::Json pressure = wire::Json::object();
  for (const char* what : {"cpu", "memory", "io"}) {
    pressure.set(what, text_of(fmt::format("/proc/pressure/{}", what)));
  }
  json.set("pressure", std::move(pressure));
  json.set("memory", text_of("/proc/meminfo"));
  struct statvfs disk;
  if (::statvfs(disk_path.c_str(), &disk) == 0) {
    json.set("disk",
             wire::Json::object({{"path", disk_path},
                                 {"size_bytes", std::uint64_t{disk.f_blocks} * disk.f_frsize},
                                 {"free_bytes", std::uint64_t{disk.f_bavail} * disk.f_frsize},
                                 {"inodes", std::uint64_t{disk.f_files}},
                                 {"inodes_free", std::uint64_t{disk.f_favail}}}));
  }
  json.set("disk_activity", text_of("/proc/diskstats"));
  json.set("interfaces", text_of("/proc/net/dev"));
  json.set("sockets", text_of("/proc/net/sockstat"));
  json.set("network_counters", text_of("/proc/net/snmp"));
  json.set("routes", text_of("/proc/net/route"));
  json.set("open_files", text_of("/proc/sys/fs/file-nr"));
  return json;
}

ProcessList processes_json(const std::vector<pid_t>& roots) {
  ProcessList result;
  std::vector<ProcessRow> rows;
  const auto names = os::real_files().list("/proc");
  if (names) {
    for (const std::string& name : *names) {
      ProcessRow row;
      const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), row.pid);
      if (error != std::errc() || stop != name.data() + name.size()) continue;
      if (rows.size() == kMaxLooked) {
        result.cut = fmt::format("only {} processes were looked at", kMaxLooked);
        break;
      }
      if (parse_stat(text_of("/proc/" + name + "/stat"), row)) rows.push_back(std::move(row));
    }
  }
  std::set<pid_t> inside(roots.begin(), roots.end());
  // Children may have lower numbers than their parents, so it is done until nothing is new.
  for (std::size_t before = 0; before != inside.size();) {
    before = inside.size();
    for (const ProcessRow& row : rows) {
      if (inside.contains(row.parent) && row.parent != 0) inside.insert(row.pid);
    }
  }
  const auto weight = [&](const ProcessRow& row) {
    return std::tuple(!inside.contains(row.pid), ~row.rss_pages, row.pid);
  };
  std::ranges::sort(rows, {}, weight);
  if (rows.size() > kMaxProcesses) {
    result.cut = fmt::format("the {} smallest of {}", rows.size() - kMaxProcesses, rows.size());
    rows.resize(kMaxProcesses);
  }
  wire::Json list = wire::Json::array();
  for (const ProcessRow& row : rows) list.push(row_json(row, inside.contains(row.pid)));
  result.document =
      wire::Json::object({{"schema", "defib.processes/1"}, {"processes", std::move(list)}});
  return result;
}

wire::Json samples_json(const std::vector<Sample>& samples, SampleKind kind,
                        std::int64_t from_wall_ns) {
  wire::Json names = wire::Json::array(), list = wire::Json::array();
  for (const std::string_view name : sample_names(kind)) names.push(name);
  for (const Sample& sample : samples) {
    if (sample.wall_ns < from_wall_ns) continue;
    wire::Json numbers = wire::Json::array();
    for (const std::uint64_t number : sample.numbers) numbers.push(number);
    list.push(wire::Json::object({{"at", os::format_time(sample.wall_ns)},
                                  {"mono_ns", sample.mono_ns},
                                  {"numbers", std::move(numbers)}}));
  }
  return wire::Json::object({{"names", std::move(names)}, {"samples", std::move(list)}});
}

}  // namespace defib::postmortem
