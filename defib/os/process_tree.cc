#include "defib/os/process_tree.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::os {
namespace {

constexpr std::size_t kKeptOpen = 16;

struct StatLine {
  std::int64_t cpu_ticks = 0;
  int threads = 0;
  std::uint64_t rss_pages = 0;
  char state = 0;
};

std::int64_t number(std::string_view text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// Fields are counted as proc(5) does, from 1; those read here lie behind the name.
std::optional<StatLine> parse_stat(std::string_view text) {
  const std::size_t close = text.rfind(')');
  if (close == std::string_view::npos) return std::nullopt;
  std::string_view rest = text.substr(close + 1);
  StatLine line;
  for (int field = 3; field <= 24 && !rest.empty(); ++field) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (field == 3 && !word.empty()) line.state = word[0];
    if (field >= 14 && field <= 17) line.cpu_ticks += number(word);
    if (field == 20) line.threads = static_cast<int>(number(word));
    if (field == 24) {
      line.rss_pages = static_cast<std::uint64_t>(std::max<std::int64_t>(number(word), 0));
      return line;
    }
    rest.remove_prefix(word.size());
  }
  return std::nullopt;
}

Fd open_stat(pid_t pid) {
  return Fd(::open(fmt::format("/proc/{}/stat", pid).c_str(), O_RDONLY | O_CLOEXEC));
}

std::optional<StatLine> read_stat(int fd) {
  char buffer[1024];
  const ssize_t got = ::pread(fd, buffer, sizeof buffer, 0);
  if (got <= 0) return std::nullopt;
  return parse_stat({buffer, static_cast<std::size_t>(got)});
}

void add_children(const std::string& path, std::vector<pid_t>& to) {
  const auto text = read_file(real_files(), path, 1 << 16);
  if (!text) return;
  const char* at = text->data();
  const char* const end = at + text->size();
  while (at < end && to.size() < kMaxTree) {
    pid_t pid = 0;
    const auto parsed = std::from_chars(at, end, pid);
    if (parsed.ec != std::errc{}) return;
    to.push_back(pid);
    at = parsed.ptr;
    while (at < end && *at == ' ') ++at;
  }
}

// Each thread has children of its own.
void add_children_of(pid_t pid, std::vector<pid_t>& to) {
  const auto threads = real_files().list(fmt::format("/proc/{}/task", pid));
  if (!threads) return;
  for (const std::string& thread : *threads) {
    add_children(fmt::format("/proc/{}/task/{}/children", pid, thread), to);
  }
}

void add_descriptors(pid_t pid, TreeUsage& usage) {
  const std::string path = fmt::format("/proc/{}/fd", pid);
  const std::uint64_t count = count_descriptors(AT_FDCWD, path.c_str(), UINT64_MAX);
  rlimit limit = {};
  if (::prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) != 0) limit.rlim_cur = 0;
  const auto share = [](std::uint64_t used, std::uint64_t of) {
    return of == 0 ? 0.0 : static_cast<double>(used) / static_cast<double>(of);
  };
  const bool nearer =
      share(count, limit.rlim_cur) > share(usage.descriptors, usage.descriptor_limit);
  if (usage.descriptors_of == 0 || nearer ||
      (usage.descriptor_limit == limit.rlim_cur && count > usage.descriptors)) {
    usage.descriptors = count;
    usage.descriptor_limit = limit.rlim_cur;
    usage.descriptors_of = pid;
  }
}

}  // namespace

std::uint64_t count_descriptors(int at, const char* path, std::uint64_t most) {
  struct stat info;
  // Linux 6.2 and later tell the number as the directory's size.
  if (::fstatat(at, path, &info, 0) == 0 && info.st_size > 0) {
    return std::min(static_cast<std::uint64_t>(info.st_size), most);
  }
  const Fd fd(::openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return 0;
  struct Entry {  // struct linux_dirent64
    std::uint64_t inode;
    std::int64_t next;
    std::uint16_t size;
  };
  std::uint64_t count = 0;
  alignas(8) char buffer[4096];
  while (count < most) {
    const long got = ::syscall(SYS_getdents64, fd.get(), buffer, sizeof buffer);
    if (got <= 0) break;
    for (long at_entry = 0; at_entry < got; at_entry += load<Entry>(buffer + at_entry).size)
      ++count;
  }
  return count > 2 ? count - 2 : 0;  // without "." and ".."
}

std::vector<pid_t> own_children() {
  std::vector<pid_t> found;
  add_children("/proc/thread-self/children", found);
  return found;
}

std::vector<pid_t> process_descendants(pid_t root) {
  std::vector<pid_t> found;
  add_children_of(root, found);
  for (std::size_t i = 0; i < found.size() && found.size() < kMaxTree; ++i) {
    add_children_of(found[i], found);
  }
  return found;
}

void ProcessTree::look() {
  std::vector<pid_t> wanted = process_descendants(root_);
  if (with_root_) wanted.insert(wanted.begin(), root_);
  std::vector<Member> members;
  for (const pid_t pid : wanted) {
    const auto known =
        std::ranges::find_if(members_, [&](const Member& one) { return one.pid == pid; });
    Member member;
    member.pid = pid;
    // A descriptor that reads nothing any more is of an earlier process with this pid.
    if (known != members_.end() && known->stat.valid() && read_stat(known->stat.get())) {
      member.stat = std::move(known->stat);
    } else if (members.size() < kKeptOpen) {
      member.stat = open_stat(pid);
    }
    members.push_back(std::move(member));
  }
  members_ = std::move(members);
}

std::optional<TreeUsage> ProcessTree::sample(bool with_descriptors) {
  if (root_ <= 0) return std::nullopt;
  if (samples_++ % kLookEvery == 0) look();
  TreeUsage usage;
  std::int64_t ticks = 0;
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    Member& member = members_[i];
    const Fd opened = member.stat.valid() ? Fd() : open_stat(member.pid);
    const int fd = member.stat.valid() ? member.stat.get() : opened.get();
    const auto line = fd >= 0 ? read_stat(fd) : std::nullopt;
    const bool gone = !line || line->state == 'Z' || line->state == 'X';
    if (gone && i == 0 && with_root_) return std::nullopt;
    if (!line) continue;
    ticks += line->cpu_ticks;
    if (gone) continue;
    ++usage.processes;
    usage.threads += line->threads;
    pages += line->rss_pages;
    if (with_descriptors) add_descriptors(member.pid, usage);
  }
  if (usage.processes == 0) return std::nullopt;
  usage.cpu_ns = ticks * (1'000'000'000 / ::sysconf(_SC_CLK_TCK));
  usage.rss_bytes = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return usage;
}

std::uint64_t ProcessTree::pss_bytes() const {
  std::uint64_t bytes = 0;
  for (const Member& member : members_) bytes += process_pss_bytes(member.pid);
  return bytes;
}

int allowed_processors(pid_t pid) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(pid, sizeof set, &set) != 0) {
    return std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  }
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace defib::os
