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
  if (!line.stream.empty() && line.stream != "stdout" && line.stream != "stderr") {
    return Error(Code::kWrongUsage, fmt::format("--stream: '{}' is no stream", line.stream))
        .suggest("use stdout or stderr");
  }
  if (!line.stream.empty()) selection.stream = line.stream == "stdout" ? 1 : 2;
  if (!line.since.empty()) {
    DEFIB_TRY_ASSIGN(selection.from_wall_ns, read_time("--since", line.since));
  }
  if (!line.until.empty()) {
    DEFIB_TRY_ASSIGN(selection.to_wall_ns, read_time("--until", line.until));
  }
  os::Duration window = kDefaultWindow;
  if (!line.window.empty()) {
    window = os::parse_duration(line.window);
    if (window.count() < 0) {
      return Error(Code::kWrongUsage, fmt::format("--window: '{}' is no duration", line.window))
          .suggest("write 500ms, 10s or 5m");
    }
  }
  if (!line.around.empty()) {
    DEFIB_TRY_ASSIGN(const std::int64_t middle, read_time("--around", line.around));
    selection.from_wall_ns = middle - window.count();
    selection.to_wall_ns = middle + window.count();
  }
  return selection;
}

// Flushed when all is shown: a log may be long.
void put(std::string_view text) {
  fwrite(text.data(), 1, text.size(), stdout);
}

std::string_view stream_name(int stream) {
  return stream == 1 ? "stdout" : stream == 2 ? "stderr" : "output";
}

// The length of the UTF-8 character at the beginning; 0 where there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t length = first < 0x80                     ? 1
                             : first >= 0xc2 && first <= 0xdf ? 2
                             : (first & 0xf0) == 0xe0         ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies beyond Unicode.
  if (first == 0xe0 && byte(1) < 0xa0) return 0;
  if (first == 0xed && byte(1) > 0x9f) return 0;
  if (first == 0xf0 && byte(1) < 0x90) return 0;
  if (first == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

// JSON is UTF-8; a service may write anything.
std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    valid += length > 0 ? text.substr(0, length) : std::string_view("\xef\xbf\xbd");
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return valid;
}

void print_line_json(const daemon::LogLine& line) {
  wire::Json json = wire::Json::object(
      {{"schema", "defib.log/1"},
       {"at", os::format_time(line.wall_ns)},
       {"stream", line.stream != 0 ? wire::Json(stream_name(line.stream)) : wire::Json(nullptr)}});
  if (line.dropped > 0) {
    json.set("dropped_bytes", line.dropped);
    json.set("reason", line.dropped_by_rate ? "log_rate" : "disk_full");
  } else {
    json.set("text", valid_utf8(line.text));
    if (!line.ended) json.set("partial", true);
  }
  if (line.time != daemon::LogLine::Time::kIndex) {
    json.set("at_source", line.time == daemon::LogLine::Time::kLine ? "line" : "file");
  }
  put(json.dump() + "\n");
}

void print_line(const daemon::LogLine& line, bool timestamps) {
  std::string text;
  if (timestamps) {
    text = styled(Style::kDim,
                  fmt::format("{} {}", os::format_time(line.wall_ns), stream_name(line.stream))) +
           " ";
  }
  if (line.dropped > 0) {
    const std::string notice = fmt::format(
        "[defib: {} bytes of {} are missing here: {}]", line.dropped, stream_name(line.stream),
        line.dropped_by_rate ? "more than log_rate allows" : "the disk was full");
    put(text + styled(Style::kWarning, notice) + "\n");
    return;
  }
  text += line.text;
  // The last line of a file may have no end, and is shown as it is.
  if (line.ended || timestamps) text += '\n';
  put(text);
}

}  // namespace

Result<int> logs_command(const CommandLine& line) {
  DEFIB_TRY_ASSIGN(const daemon::LogSelection selection, selection_of(line));
  const std::string dir = os::join_path(os::join_path(state_dir_of(line), "services"), line.name);
  if (line.name.find('/') != std::string::npos || !os::real_files().is_dir(dir)) {
    return Error(Code::kServiceUnknown, fmt::format("there is no service '{}'", line.name))
        .with("service", line.name);
  }
  const bool timestamps = line.timestamps || (isatty(STDOUT_FILENO) == 1 && !line.no_timestamps);
  const daemon::LogSink sink = [&](const daemon::LogLine& one) {
    line.json ? print_line_json(one) : print_line(one, timestamps);
  };
  daemon::ServiceLog log(dir);
  const auto read = log.read(selection, line.follow, sink);
  fflush(stdout);
  if (!read && read.error().code() != Code::kFileNotFound) return read.error();
  if (!line.follow) return kDone;
  DEFIB_TRY(log.follow(
      selection, sink,
      [] {
        fflush(stdout);
        return ferror(stdout) != 0;
      },
      STDOUT_FILENO));
  return kDone;
}

}  // namespace defib::cli
