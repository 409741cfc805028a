#include <fmt/core.h>
#include <unistd.h>

#include "apps/defib/commands.h"
#include "apps/defib/output.h"
#include "defib/daemon/service_log.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::cli {
namespace {

constexpr os::Duration kDefaultWindow = std::chrono::seconds(5);

// RFC 3339, or a duration back from now.
Result<std::int64_t> read_time(std::string_view option, const std::string& text) {
  if (const auto time = daemon::time_of_line(text)) return *time;
  const os::Duration ago = os::parse_duration(text);
  if (ago.count() >= 0) return os::real_clock().wall_ns() - ago.count();
  return Error(Code::kWrongUsage, fmt::format("{}: '{}' is no time", option, text))
      .suggest("write 2026-11-20T13:05:58Z, or a duration back from now such as 10m");
}

Result<daemon::LogSelection> selection_of(const CommandLine& line) {
  daemon::LogSelection selection;
  selection.last_lines = static_cast<std::size_t>(line.lines);
  if (!line.since.empty()) {
    DEFIB_TRY_ASSIGN(selection.from_wall_ns, read_time("--since", line.since));
  }
  os::Duration window = kDefaultWindow;
  if (!line.window.empty()) {
    window = os::parse_duration(line.window);
    if (window.count() < 0) {
      return Error(Code::kWrongUsage, fmt::format("--window: '{}' is no duration", line.window));
    }
  }
  if (!line.around.empty()) {
    DEFIB_TRY_ASSIGN(const std::int64_t middle, read_time("--around", line.around));
    selection.from_wall_ns = middle - window.count();
    selection.to_wall_ns = middle + window.count();
  }
  return selection;
}

}  // namespace

Result<int> logs_command(const CommandLine& line) {
  DEFIB_TRY_ASSIGN(const daemon::LogSelection selection, selection_of(line));
  const std::string dir = os::join_path(os::join_path(state_dir_of(line), "services"), line.name);
  os::Files& files = os::real_files();
  if (line.name.find('/') != std::string::npos || !files.is_dir(dir)) {
    return Error(Code::kServiceUnknown, fmt::format("there is no service '{}'", line.name))
        .with("service", line.name);
  }
  auto log = daemon::read_service_log(files, dir, selection);
  if (!log && log.error().code() != Code::kFileNotFound) return log.error();
  if (log) {
    if (log->without_times) {
      fmt::print(stderr, "defib: no line of this log tells its time; all of it is shown\n");
    }
    print(log->text);
  }
  if (!line.follow) return kDone;
  DEFIB_TRY(daemon::follow_service_log(
      dir, log ? log->end_offset : 0, [](std::string_view bytes) { print(bytes); },
      [] { return ferror(stdout) != 0; }));
  return kDone;
}

}  // namespace defib::cli
