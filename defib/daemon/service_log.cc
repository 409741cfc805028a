#include "defib/daemon/service_log.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/process/shim_protocol.h"

namespace defib::daemon {
namespace {

constexpr int kMaxRotated = 1000;
constexpr int kFollowPollMs = 200;
constexpr std::size_t kChunk = 64 << 10;
constexpr std::size_t kDateTime = 19;  // "2026-11-20T13:05:58"

std::string log_path(const std::string& service_dir, int number) {
  const std::string current = os::join_path(service_dir, process::shim::kLogCurrent);
  return number == 0 ? current : fmt::format("{}.{}", current, number);
}

// Two digits of an offset such as "+02:00", or -1.
int two_digits(std::string_view text, std::size_t at) {
  int value = 0;
  if (at + 2 > text.size()) return -1;
  const auto [end, failed] = std::from_chars(text.data() + at, text.data() + at + 2, value);
  return failed == std::errc{} && end == text.data() + at + 2 ? value : -1;
}

void keep_last_lines(std::string& text, std::size_t lines) {
  std::size_t at = text.size();
  if (at > 0 && text[at - 1] == '\n') --at;
  for (std::size_t i = 0; i < lines && at != std::string::npos; ++i) {
    if (at == 0) return;
    at = text.rfind('\n', at - 1);
  }
  if (at != std::string::npos) text.erase(0, at + 1);
}

// The lines within the times; false where none tells a time.
bool keep_by_time(std::string& text, const LogSelection& selection) {
  std::string kept;
  bool any_time = false, within = false;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size() - 1) + 1;
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end);
    if (const auto time = time_of_line(line)) {
      any_time = true;
      within = *time >= selection.from_wall_ns && *time <= selection.to_wall_ns;
    }
    if (within) kept += line;
  }
  if (any_time) text = std::move(kept);
  return any_time;
}

}  // namespace

std::optional<std::int64_t> time_of_line(std::string_view line) {
  if (line.starts_with("time=")) line.remove_prefix(5);
  if (line.starts_with('[') || line.starts_with('"')) line.remove_prefix(1);
  if (line.size() < kDateTime || line[4] != '-' || line[7] != '-' || line[13] != ':') {
    return std::nullopt;
  }
  std::string text(line.substr(0, kDateTime));
  text[10] = 'T';
  std::size_t at = kDateTime;
  std::string fraction;
  if (at < line.size() && (line[at] == '.' || line[at] == ',')) {
    const std::size_t end = std::min(line.find_first_not_of("0123456789", at + 1), line.size());
    fraction = line.substr(at + 1, std::min<std::size_t>(end - at - 1, 9));
    at = end;
  }
  fraction.resize(9, '0');
  std::int64_t offset_minutes = 0;
  if (at < line.size() && (line[at] == '+' || line[at] == '-')) {
    const int hours = two_digits(line, at + 1);
    const bool colon = at + 3 < line.size() && line[at + 3] == ':';
    const int minutes = two_digits(line, at + (colon ? 4 : 3));
    if (hours >= 0 && minutes >= 0) offset_minutes = hours * 60 + minutes;
    if (line[at] == '-') offset_minutes = -offset_minutes;
  }
  const std::int64_t time = os::parse_time(fmt::format("{}.{}Z", text, fraction));
  if (time < 0) return std::nullopt;
  return time - offset_minutes * 60 * 1'000'000'000;
}

Result<LogText> read_service_log(os::Files& files, const std::string& service_dir,
                                 const LogSelection& selection, std::uint64_t max_bytes) {
  LogText result;
  std::uint64_t left = max_bytes;
  // From the newest to the oldest, as far as the bound allows.
  for (int number = 0; number <= kMaxRotated && left > 0; ++number) {
    auto file = files.open(log_path(service_dir, number), os::OpenMode::kRead);
    if (!file && number == 0) return file.error();
    if (!file) break;
    DEFIB_TRY_ASSIGN(const std::uint64_t size, (*file)->size());
    if (number == 0) result.end_offset = size;
    const std::uint64_t take = std::min(size, left);
    std::string text(take, '\0');
    DEFIB_TRY_ASSIGN(const std::size_t got, (*file)->read_at(size - take, text.data(), take));
    text.resize(got);
    left -= take;
    // The bound may cut a line; the rest of it is not shown.
    if (take < size) text.erase(0, std::min(text.find('\n'), text.size() - 1) + 1);
    result.text.insert(0, text);
  }
  if (selection.by_time()) result.without_times = !keep_by_time(result.text, selection);
  if (selection.last_lines > 0) keep_last_lines(result.text, selection.last_lines);
  return result;
}

Result<> follow_service_log(const std::string& service_dir, std::uint64_t offset,
                            const std::function<void(std::string_view)>& sink,
                            const std::function<bool()>& stop) {
  const std::string path = log_path(service_dir, 0);
  const os::Fd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch.valid()) return os::system_error("inotify_init1");
  const std::string dir = os::parent_dir(path);
  if (inotify_add_watch(watch.get(), dir.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
    return os::system_error("inotify_add_watch", dir);
  }
  os::Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string buffer(kChunk, '\0');
  while (!stop()) {
    ssize_t got = 0;
    while (file.valid() && (got = pread(file.get(), buffer.data(), buffer.size(),
                                        static_cast<off_t>(offset))) > 0) {
      sink({buffer.data(), static_cast<std::size_t>(got)});
      offset += static_cast<std::uint64_t>(got);
    }
    // All of this file is shown; a rotation has put another one in its place.
    struct stat now = {}, ours = {};
    const bool exists = stat(path.c_str(), &now) == 0;
    const bool same = file.valid() && fstat(file.get(), &ours) == 0 && now.st_ino == ours.st_ino;
    if (exists && !same) {
      file = os::Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      offset = 0;
      continue;
    }
    pollfd waiting = {watch.get(), POLLIN, 0};
    if (poll(&waiting, 1, kFollowPollMs) > 0) {
      alignas(inotify_event) char events[4096];
      while (read(watch.get(), events, sizeof events) > 0) {
      }
    }
  }
  return {};
}

}  // namespace defib::daemon
