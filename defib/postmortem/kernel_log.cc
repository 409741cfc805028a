#include "defib/postmortem/kernel_log.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <deque>
#include <utility>

#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxRecords = 200'000;
constexpr std::size_t kMaxLines = 64;
constexpr std::size_t kMaxMessages = 2000;
constexpr std::size_t kRecordBytes = 8192;
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;  // PROC_PID_INIT_INO (linux/proc_ns.h)
// The log's clock runs beside CLOCK_MONOTONIC and may differ by a little.
constexpr std::int64_t kSlackUs = 2'000'000;

// Process 12 is named by "[12]", "pid=12," and "process 12 (", not by "112" or "12.5".
bool names_process(std::string_view text, pid_t pid) {
  const std::string digits = std::to_string(pid);
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  for (std::size_t at = text.find(digits); at != text.npos; at = text.find(digits, at + 1)) {
    const std::size_t end = at + digits.size();
    const bool starts = at == 0 || !(is_word(text[at - 1]) || text[at - 1] == '.');
    const bool ends = end == text.size() || !(is_word(text[end]) || text[end] == '.');
    if (starts && ends) return true;
  }
  return false;
}

// Calls `take` with each record, the oldest first. The error number that ended it; 0: none did.
template <typename Take>
int each_record(int fd, Take take) {
  std::string buffer(kRecordBytes, '\0');
  for (std::size_t i = 0; i < kMaxRecords; ++i) {
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size < 0 && errno == EPIPE) continue;  // Records were overwritten meanwhile.
    if (size < 0) return errno == EAGAIN ? 0 : errno;
    if (size == 0) return 0;
    take(std::string_view(buffer.data(), static_cast<std::size_t>(size)));
  }
  return 0;
}

os::Fd open_log() {
  return os::Fd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
}

}  // namespace

// Lines of properties, which begin with a blank, follow the text.
bool parse_kernel_record(std::string_view record, std::int64_t& mono_us, std::string& text) {
  const std::size_t semicolon = record.find(';');
  if (semicolon == record.npos) return false;
  std::string_view head = record.substr(0, semicolon);
  for (int skip = 0; skip < 2; ++skip) {
    const std::size_t comma = head.find(',');
    if (comma == head.npos) return false;
    head.remove_prefix(comma + 1);
  }
  if (std::from_chars(head.data(), head.data() + head.size(), mono_us).ec != std::errc() ||
      mono_us < 0 || mono_us > INT64_MAX / 1000) {
    return false;
  }
  const std::string_view line = record.substr(semicolon + 1);
  text = line.substr(0, line.find('\n'));
  return true;
}

Result<std::vector<KernelMessage>> kernel_messages(std::int64_t since_mono_ns) {
  const os::Fd fd = open_log();
  if (!fd.valid()) return os::system_error("open", "/dev/kmsg");
  const os::Clock& clock = os::real_clock();
  const std::int64_t wall_offset = clock.wall_ns() - clock.mono_ns();
  std::deque<KernelMessage> messages;
  const int failed = each_record(fd.get(), [&](std::string_view record) {
    std::int64_t mono_us = 0;
    KernelMessage message;
    if (!parse_kernel_record(record, mono_us, message.text)) return;
    if (mono_us * 1000 < since_mono_ns) return;
    message.wall_ns = mono_us * 1000 + wall_offset;
    messages.push_back(std::move(message));
    if (messages.size() > kMaxMessages) messages.pop_front();
  });
  if (failed != 0 && messages.empty()) return os::system_error("read", "/dev/kmsg", failed);
  return std::vector<KernelMessage>(messages.begin(), messages.end());
}

std::string kernel_record_about(std::string_view record, pid_t pid, std::int64_t since_us) {
  std::int64_t time_us = 0;
  std::string line;
  if (!parse_kernel_record(record, time_us, line) || time_us < since_us - kSlackUs) return {};
  return names_process(line, pid) ? line : std::string();
}

Result<KernelLines> kernel_lines_about(pid_t pid, std::int64_t since_mono_ns) {
  const os::Fd fd = open_log();
  if (!fd.valid()) return os::system_error("open", "/dev/kmsg");
  KernelLines found;
  std::int64_t oldest_us = INT64_MAX;
  // Where it cannot be read, it has said nothing.
  const int failed = each_record(fd.get(), [&](std::string_view record) {
    std::int64_t mono_us = 0;
    std::string text;
    if (parse_kernel_record(record, mono_us, text)) oldest_us = std::min(oldest_us, mono_us);
    std::string line = kernel_record_about(record, pid, since_mono_ns / 1000);
    if (line.empty()) return;
    found.lines.push_back(std::move(line));
    if (found.lines.size() > kMaxLines) found.lines.erase(found.lines.begin());
  });
  struct stat own = {};
  const bool same_numbers =
      ::stat("/proc/self/ns/pid", &own) == 0 && own.st_ino == kFirstPidNamespace;
  found.complete = failed == 0 && same_numbers && oldest_us <= since_mono_ns / 1000;
  return found;
}

}  // namespace defib::postmortem
