#include "defib/postmortem/kernel_log.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "defib/os/fd.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxRecords = 200'000;
constexpr std::size_t kMaxLines = 64;
constexpr std::size_t kRecordBytes = 8192;
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

}  // namespace

std::string kernel_record_about(std::string_view record, pid_t pid, std::int64_t since_us) {
  const std::size_t semicolon = record.find(';');
  if (semicolon == record.npos) return {};
  std::string_view prefix = record.substr(0, semicolon);
  std::int64_t time_us = 0;
  for (int skip = 0; skip < 2; ++skip) {
    const std::size_t comma = prefix.find(',');
    if (comma == prefix.npos) return {};
    prefix.remove_prefix(comma + 1);
  }
  if (std::from_chars(prefix.data(), prefix.data() + prefix.size(), time_us).ec != std::errc()) {
    return {};
  }
  if (time_us < since_us - kSlackUs) return {};
  const std::string_view text = record.substr(semicolon + 1);
  const std::string_view line = text.substr(0, text.find('\n'));
  return names_process(line, pid) ? std::string(line) : std::string();
}

Result<std::vector<std::string>> kernel_lines_about(pid_t pid, std::int64_t since_mono_ns) {
  const os::Fd fd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return os::system_error("open", "/dev/kmsg");
  std::vector<std::string> lines;
  std::string buffer(kRecordBytes, '\0');
  for (std::size_t i = 0; i < kMaxRecords; ++i) {
    const ssize_t size = ::read(fd.get(), buffer.data(), buffer.size());
    if (size < 0 && errno == EPIPE) continue;  // Records were overwritten meanwhile.
    if (size <= 0) break;
    std::string line =
        kernel_record_about(std::string_view(buffer).substr(0, static_cast<std::size_t>(size)), pid,
                            since_mono_ns / 1000);
    if (line.empty()) continue;
    lines.push_back(std::move(line));
    if (lines.size() > kMaxLines) lines.erase(lines.begin());
  }
  return lines;
}

}  // namespace defib::postmortem
