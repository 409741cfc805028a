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
#include <cstring>
#include <deque>

#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::daemon {
namespace {

using process::LogIndex;
using process::shim::LogIndexRecord;
using process::shim::LogRecordKind;

constexpr int kMaxRotated = 1000;
constexpr std::size_t kChunk = 64 << 10;
constexpr std::size_t kDateTime = 19;  // "2026-11-20T13:05:58"

std::string log_path(const std::string& service_dir, int number) {
  const std::string current = os::join_path(service_dir, process::shim::kLogCurrent);
  return number == 0 ? current : fmt::format("{}.{}", current, number);
}

std::int64_t modified_wall_ns(const struct stat& info) {
  return std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

std::uint64_t count_lines(int fd, std::uint64_t size) {
  std::string chunk(kChunk, '\0');
  std::uint64_t lines = 0;
  for (std::uint64_t at = 0; at < size;) {
    const ssize_t got = ::pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(at));
    if (got <= 0) break;
    lines += static_cast<std::uint64_t>(std::count(chunk.begin(), chunk.begin() + got, '\n'));
    at += static_cast<std::uint64_t>(got);
  }
  return lines;
}

// Two digits of an offset such as "+02:00", or -1.
int two_digits(std::string_view text, std::size_t at) {
  int value = 0;
  if (at + 2 > text.size()) return -1;
  const auto [end, failed] = std::from_chars(text.data() + at, text.data() + at + 2, value);
  return failed == std::errc{} && end == text.data() + at + 2 ? value : -1;
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

// Newest first. The numbers of files only grow, so a file that is moved on meanwhile is met twice,
// never missed.
std::vector<ServiceLog::Part> ServiceLog::snapshot() const {
  std::vector<Part> parts;
  int missing = 0;
  for (int number = 0; number <= kMaxRotated && missing < 2; ++number) {
    Part part;
    part.log = os::Fd(::open(log_path(dir_, number).c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info{};
    if (!part.log.valid() || ::fstat(part.log.get(), &info) != 0) {
      ++missing;
      continue;
    }
    missing = 0;
    part.inode = info.st_ino;
    part.modified_wall_ns = modified_wall_ns(info);
    if (!parts.empty() && parts.back().inode == part.inode) continue;
    find_index(part, number);
    parts.push_back(std::move(part));
  }
  return parts;
}

// In the middle of a rotation it may have the number beside.
void ServiceLog::find_index(Part& part, int number) const {
  for (const int candidate : {number, number + 1, number - 1}) {
    if (part.index || candidate < 0) continue;
    part.index =
        LogIndex::open(log_path(dir_, candidate) + process::shim::kLogIndexSuffix, part.inode);
  }
}

std::uint64_t ServiceLog::size_of(const Part& part) const {
  struct stat info{};
  return ::fstat(part.log.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

void ServiceLog::emit(Part& part, int stream, bool ended, const LogSink& sink) {
  Begun& begun = begun_[stream];
  LogLine line;
  line.stream = stream;
  line.text = begun.text;
  line.ended = ended;
  if (begun.indexed) {
    line.wall_ns = begun.wall_ns;
    line.time = LogLine::Time::kIndex;
  } else {
    if (const auto told = time_of_line(begun.text)) part.told_wall_ns = *told;
    const bool told = part.told_wall_ns != 0;
    line.wall_ns = told ? part.told_wall_ns : part.modified_wall_ns;
    line.time = told ? LogLine::Time::kLine : LogLine::Time::kFile;
  }
  sink(line);
  begun.text.clear();
}

// The lines that have begun and will not end.
void ServiceLog::flush(const LogSink& sink) {
  for (int stream = 0; stream < 3; ++stream) {
    if (!begun_[stream].text.empty()) emit(part_, stream, false, sink);
  }
}

void ServiceLog::push(Part& part, std::string_view bytes, const LogSink& sink) {
  const int stream = part.record ? part.record->stream : 0;
  Begun& begun = begun_[stream];
  while (!bytes.empty()) {
    if (begun.text.empty()) {
      begun.indexed = part.record.has_value();
      begun.wall_ns = part.record ? part.record->wall_ns : 0;
    }
    const std::size_t end = bytes.find('\n');
    const std::size_t room = kMaxLine - begun.text.size();
    const std::size_t take = std::min({end, bytes.size(), room});
    begun.text.append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    if (take == end) {
      bytes.remove_prefix(1);
      emit(part, stream, true, sink);
    } else if (begun.text.size() == kMaxLine) {
      emit(part, stream, false, sink);
    }
  }
}

// The record that says whose the bytes at `offset` are, where there is a further one. A record at
// the very end describes nothing yet, and may be written anew; only what was dropped there is told
// when nothing further will be read.
bool ServiceLog::take_record(Part& part, std::uint64_t size, bool final, const LogSink& sink) {
  LogIndexRecord record;
  const auto read = part.index->record(part.next_record, record);
  if (read == LogIndex::Read::kDamaged) {
    ++part.next_record;
    part.record.reset();
    return true;
  }
  const bool data = record.kind == LogRecordKind::kData;
  if (read == LogIndex::Read::kEnd || record.offset > part.offset) return false;
  if (record.offset >= size && (data || !final)) return false;
  ++part.next_record;
  if (data) {
    part.record = record;
    return true;
  }
  if (!begun_[record.stream].text.empty()) emit(part, record.stream, false, sink);
  LogLine notice;
  notice.wall_ns = record.wall_ns;
  notice.time = LogLine::Time::kIndex;
  notice.stream = record.stream;
  notice.dropped = record.value;
  notice.dropped_by_rate = record.kind == LogRecordKind::kDroppedByRate;
  sink(notice);
  return true;
}

// All of the file that was not read yet. The size is taken first: the index covers it then.
void ServiceLog::drain(Part& part, bool final, const LogSink& sink) {
  const std::uint64_t size = size_of(part);
  if (!part.index && size > part.offset) find_index(part, 0);
  std::string chunk(kChunk, '\0');
  while (true) {
    if (part.index && take_record(part, size, final, sink)) continue;
    if (part.offset >= size) return;
    std::uint64_t end = size;
    LogIndexRecord next;
    if (part.index && part.index->record(part.next_record, next) == LogIndex::Read::kRecord &&
        next.offset > part.offset) {
      end = std::min(end, next.offset);
    }
    const std::size_t wanted = std::min<std::uint64_t>(end - part.offset, chunk.size());
    const ssize_t got =
        ::pread(part.log.get(), chunk.data(), wanted, static_cast<off_t>(part.offset));
    if (got <= 0) return;
    push(part, std::string_view(chunk).substr(0, static_cast<std::size_t>(got)), sink);
    part.offset += static_cast<std::uint64_t>(got);
  }
}

std::size_t ServiceLog::first_needed(const std::vector<Part>& parts, std::size_t lines) const {
  std::uint64_t found = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    found += count_lines(parts[i].log.get(), size_of(parts[i]));
    if (found > lines) return i;
  }
  return parts.size() - 1;
}

Result<> ServiceLog::read(const LogSelection& selection, bool goes_on, const LogSink& sink) {
  std::vector<Part> parts = snapshot();
  if (parts.empty()) {
    const std::string path = log_path(dir_, 0);
    return Error(Code::kFileNotFound, fmt::format("there is no '{}'", path)).with("path", path);
  }
  std::size_t first = parts.size() - 1;
  if (selection.last_lines > 0 && selection.stream == 0 && selection.to_wall_ns == INT64_MAX) {
    first = first_needed(parts, selection.last_lines);
  }
  // What was last changed before the times asked for holds nothing of them.
  while (first > 0 && parts[first].modified_wall_ns < selection.from_wall_ns) --first;
  std::deque<std::pair<LogLine, std::string>> kept;
  const LogSink take = [&](const LogLine& line) {
    if (!selection.wants(line)) return;
    if (selection.last_lines == 0) return sink(line);
    kept.emplace_back(line, line.text);
    if (kept.size() > selection.last_lines) kept.pop_front();
  };
  for (std::size_t i = first + 1; i-- > 0;) {
    part_ = std::move(parts[i]);
    drain(part_, i > 0 || !goes_on, take);
  }
  if (!goes_on) flush(take);
  for (auto& [line, text] : kept) {
    line.text = text;
    sink(line);
  }
  return {};
}

// The file that was read has been rotated: it is complete, and newer ones follow it.
void ServiceLog::advance(const LogSink& sink) {
  std::vector<Part> parts = snapshot();
  const auto ours = std::ranges::find(parts, part_.inode, &Part::inode);
  // Where it is gone altogether, all that is left is newer.
  if (part_.log.valid()) drain(part_, true, sink);
  for (auto newer = ours; newer != parts.begin();) {
    --newer;
    part_ = std::move(*newer);
    drain(part_, newer != parts.begin(), sink);
  }
}

Result<> ServiceLog::follow(const LogSelection& selection, const LogSink& sink,
                            const std::function<bool()>& stop, int hangup_fd) {
  const std::string path = log_path(dir_, 0);
  const os::Fd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch.valid()) return os::system_error("inotify_init1");
  const std::string dir = os::parent_dir(path);
  if (::inotify_add_watch(watch.get(), dir.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
    return os::system_error("inotify_add_watch", dir);
  }
  const LogSink take = [&](const LogLine& line) {
    if (selection.wants(line)) sink(line);
  };
  while (true) {
    struct stat now{};
    const bool exists = ::stat(path.c_str(), &now) == 0;
    if (exists && now.st_ino != part_.inode) {
      advance(take);
      continue;
    }
    drain(part_, false, take);
    if (stop()) return {};
    pollfd waiting[2] = {{watch.get(), POLLIN, 0}, {hangup_fd, 0, 0}};
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return os::system_error("poll");
    if ((waiting[1].revents & (POLLERR | POLLHUP)) != 0) return {};
    alignas(inotify_event) char events[4096];
    while (::read(watch.get(), events, sizeof events) > 0) {
    }
  }
}

}  // namespace defib::daemon
