// Where the numbers of a sample come from: a few small files of /proc. Nothing is allocated for
// them once the buffer is there.

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "defib/base/text.h"
#include "defib/os/process_tree.h"
#include "defib/postmortem/samples.h"

namespace defib::postmortem {
namespace {

using Numbers = std::uint64_t*;

// The number behind the blanks at the beginning; `text` is then what follows it.
std::uint64_t take_number(std::string_view& text) {
  const std::size_t start = text.find_first_of("0123456789");
  if (start == text.npos) {
    text = {};
    return 0;
  }
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + start, end, value);
  text = std::string_view(stop, static_cast<std::size_t>(end - stop));
  return error == std::errc() ? value : 0;
}

void skip_words(std::string_view& text, int count) {
  for (int i = 0; i < count; ++i) {
    const std::size_t start = text.find_first_not_of(' ');
    const std::size_t end = text.find(' ', start == text.npos ? text.size() : start);
    text.remove_prefix(end == text.npos ? text.size() : end);
  }
}

// What follows `name` where it begins a line.
std::string_view after_name(std::string_view text, std::string_view name) {
  for (std::size_t at = text.find(name); at != text.npos; at = text.find(name, at + 1)) {
    if (at == 0 || text[at - 1] == '\n') return text.substr(at + name.size());
  }
  return {};
}

std::uint64_t number_of(std::string_view text, std::string_view name) {
  std::string_view rest = after_name(text, name);
  rest = rest.substr(0, rest.find('\n'));
  return take_number(rest);
}

std::string_view read_at(int directory, const char* name, char* buffer, std::size_t size) {
  const os::Fd fd(::openat(directory, name, O_RDONLY | O_CLOEXEC));
  const ssize_t got = fd.valid() ? ::read(fd.get(), buffer, size) : -1;
  return {buffer, got > 0 ? static_cast<std::size_t>(got) : 0};
}

constexpr const char* kMachineFiles[] = {
    "/proc/loadavg",         "/proc/meminfo",        "/proc/stat",    "/proc/pressure/cpu",
    "/proc/pressure/memory", "/proc/pressure/io",    "/proc/net/dev", "/proc/net/sockstat",
    "/proc/net/snmp",        "/proc/sys/fs/file-nr", "/proc/vmstat"};
enum File { kLoad, kMemory, kStat, kCpu, kPressureMemory, kIo, kNet, kSockets, kSnmp, kOpen, kVm };
constexpr std::size_t kBuffer = 64 << 10;

// "0.52 0.58 0.59 2/834 12345".
void take_load(std::string_view text, Numbers to) {
  for (int i = 0; i < 3; ++i) {
    const std::uint64_t whole = take_number(text);
    const std::uint64_t hundredths = take_number(text);
    to[i] = whole * 1000 + hundredths * 10;
  }
  to[3] = take_number(text);
  to[4] = take_number(text);
}

void take_memory(std::string_view text, Numbers to) {
  constexpr std::string_view kNames[] = {
      "MemTotal:", "MemAvailable:", "MemFree:", "Cached:", "Dirty:", "SwapFree:"};
  for (const std::string_view name : kNames) *to++ = number_of(text, name) * 1024;
}

// "cpu  user nice system idle iowait irq softirq steal guest guest_nice".
void take_processors(std::string_view text, Numbers to) {
  std::string_view line = after_name(text, "cpu ");
  std::uint64_t ticks[8];
  for (std::uint64_t& value : ticks) value = take_number(line);
  to[0] = ticks[0] + ticks[1];
  to[1] = ticks[2] + ticks[5] + ticks[6];
  to[2] = ticks[3];
  to[3] = ticks[4];
  to[4] = ticks[7];
}

// All interfaces but the loopback, together.
void take_network(std::string_view text, Numbers to) {
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const std::size_t colon = line.find(':');
    if (colon == line.npos || line.substr(0, colon).ends_with(" lo")) continue;
    std::string_view rest = line.substr(colon + 1);
    std::uint64_t values[16];
    for (std::uint64_t& value : values) value = take_number(rest);
    to[0] += values[0];
    to[1] += values[8];
    to[2] += values[2] + values[10];
    to[3] += values[3] + values[11];
  }
}

// The second line that begins with "Tcp:" has the numbers, RetransSegs as the twelfth.
std::uint64_t take_retransmits(std::string_view text) {
  std::string_view rest = after_name(text, "Tcp:");
  rest = after_name(rest, "Tcp:");
  std::uint64_t value = 0;
  // The fourth number may be negative; its digits count all the same.
  for (int i = 0; i < 12; ++i) value = take_number(rest);
  return value;
}

}  // namespace

bool sample_process(pid_t pid, std::uint64_t generation,
                    std::array<std::uint64_t, kServiceNumbers>& to) {
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  static const auto tick_ns = 1'000'000'000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  to.fill(0);
  char path[32], buffer[4096];
  ::snprintf(path, sizeof path, "/proc/%d", pid);
  const os::Fd process(::open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!process.valid()) return false;
  std::string_view stat = read_at(process.get(), "stat", buffer, sizeof buffer);
  const std::size_t name_end = stat.rfind(')');
  if (name_end == stat.npos || name_end + 3 >= stat.size()) return false;
  const char state = stat[name_end + 2];
  if (state == 'Z' || state == 'X') return false;
  stat.remove_prefix(name_end + 3);
  to[0] = static_cast<std::uint64_t>(pid);
  to[1] = generation;
  to[14] = static_cast<unsigned char>(state);
  skip_words(stat, 6);  // ppid pgrp session tty tpgid flags
  to[8] = take_number(stat);
  skip_words(stat, 1);
  to[9] = take_number(stat);
  skip_words(stat, 1);
  to[2] = (take_number(stat) + take_number(stat)) * tick_ns;
  skip_words(stat, 4);  // cutime cstime priority nice
  to[6] = take_number(stat);
  skip_words(stat, 2);  // itrealvalue starttime
  to[4] = take_number(stat);
  to[3] = take_number(stat) * page_bytes;
  const std::string_view status = read_at(process.get(), "status", buffer, sizeof buffer);
  to[5] = number_of(status, "VmSwap:") * 1024;
  to[10] = number_of(status, "voluntary_ctxt_switches:");
  to[11] = number_of(status, "nonvoluntary_ctxt_switches:");
  const std::string_view io = read_at(process.get(), "io", buffer, sizeof buffer);
  to[12] = number_of(io, "read_bytes:");
  to[13] = number_of(io, "write_bytes:");
  to[7] = os::count_descriptors(process.get(), "fd", kMaxCountedDescriptors);
  to[15] = number_of(read_at(process.get(), "limits", buffer, sizeof buffer), "Max open files");
  return true;
}

std::string_view MachineSampler::read(std::size_t file) {
  static_assert(std::size(kMachineFiles) == kFiles);
  os::Fd& fd = files_[file];
  if (!fd.valid()) fd = os::Fd(::open(kMachineFiles[file], O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  buffer_.resize(kBuffer);
  const ssize_t got = ::pread(fd.get(), buffer_.data(), buffer_.size(), 0);
  return {buffer_.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

void MachineSampler::sample(std::array<std::uint64_t, kMachineNumbers>& to) {
  to.fill(0);
  take_load(read(kLoad), &to[0]);
  take_memory(read(kMemory), &to[5]);
  const std::string_view stat = read(kStat);
  take_processors(stat, &to[11]);
  to[30] = number_of(stat, "ctxt ");
  for (const auto& [file, place] : {std::pair(kCpu, 16), {kPressureMemory, 17}, {kIo, 18}}) {
    const std::string_view line = read(file);
    const std::size_t total = line.find("total=");
    if (total != line.npos)
      to[static_cast<std::size_t>(place)] = number_of(line.substr(total), "total=");
  }
  struct statvfs disk;
  if (::statvfs(disk_path_.c_str(), &disk) == 0) {
    to[19] = std::uint64_t{disk.f_bavail} * disk.f_frsize;
    to[20] = std::uint64_t{disk.f_blocks} * disk.f_frsize;
    to[21] = disk.f_favail;
  }
  take_network(read(kNet), &to[22]);
  to[26] = number_of(read(kSockets), "TCP: inuse");
  to[27] = take_retransmits(read(kSnmp));
  to[28] = number_of(read(kOpen), "");
  const std::string_view memory = read(kVm);
  to[29] = number_of(memory, "oom_kill ");
  to[31] = number_of(memory, "pgmajfault ");
}

}  // namespace defib::postmortem
