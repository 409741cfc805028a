#include "defib/process/thread_facts.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "defib/os/cgroup.h"
#include "defib/os/fd.h"

namespace defib::process {
namespace {

// One read of a small file of /proc; empty where it cannot be read.
template <std::size_t kSize>
std::string_view read_small(const char* path, std::array<char, kSize>& buffer) {
  const os::Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  const ssize_t size = ::read(fd.get(), buffer.data(), buffer.size());
  return size > 0 ? std::string_view(buffer.data(), static_cast<std::size_t>(size))
                  : std::string_view();
}

using Path = std::array<char, 64>;

Path thread_path(pid_t pid, pid_t tid, const char* file) {
  Path path{};
  fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/task/{}/{}", pid, tid, file);
  return path;
}

Path process_path(pid_t pid, const char* file) {
  Path path{};
  fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/{}", pid, file);
  return path;
}

std::string_view next_word(std::string_view& rest) {
  const std::size_t begin = std::min(rest.find_first_not_of(" \t\n"), rest.size());
  rest.remove_prefix(begin);
  const std::size_t end = std::min(rest.find_first_of(" \t\n"), rest.size());
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end);
  return word;
}

std::uint64_t to_number(std::string_view word, int base = 10) {
  if (base == 16 && word.starts_with("0x")) word.remove_prefix(2);
  std::uint64_t value = 0;
  std::from_chars(word.data(), word.data() + word.size(), value, base);
  return value;
}

// "1234 567 8": on the processor, waiting for it, turns (proc(5), /proc/PID/schedstat).
void parse_schedule(std::string_view text, ThreadFacts& facts) {
  facts.cpu = os::Duration(static_cast<std::int64_t>(to_number(next_word(text))));
  facts.run_delay = os::Duration(static_cast<std::int64_t>(to_number(next_word(text))));
  facts.turns = to_number(next_word(text));
}

// The number after "avg10=" in the "some" line.
double pressure(const char* path) {
  std::array<char, 256> buffer;
  const std::string_view text = read_small(path, buffer);
  constexpr std::string_view kKey = "avg10=";
  const std::size_t at = text.find(kKey);
  if (!text.starts_with("some") || at == std::string_view::npos) return -1;
  return std::strtod(std::string(text.substr(at + kKey.size(), 8)).c_str(), nullptr);
}

// "0.39 1.96 1.39 3/105 22195": the mean of a minute, ..., runnable/all.
void read_load(Surroundings& found) {
  std::array<char, 128> buffer;
  std::string_view text = read_small("/proc/loadavg", buffer);
  std::string_view word = next_word(text);
  cpu_set_t set;
  CPU_ZERO(&set);
  const int count = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  const double processors = std::max(count, 1);
  found.load_per_cpu = std::strtod(std::string(word).c_str(), nullptr) / processors;
  for (int i = 0; i < 3; ++i) word = next_word(text);
  // Without this thread, which looks.
  const auto runnable = static_cast<double>(to_number(word.substr(0, word.find('/')))) - 1;
  found.runnable_per_cpu = std::max(runnable, 0.0) / processors;
}

// The number behind a key of /proc/PID/status; 0 where there is none.
std::uint64_t status_number(std::string_view status, std::string_view key) {
  const std::size_t at = status.find(key);
  if (at == std::string_view::npos) return 0;
  status.remove_prefix(at + key.size());
  return to_number(next_word(status));
}

// By the freezer of either control group version.
bool is_frozen(pid_t pid) {
  std::array<char, 256> buffer;
  std::array<char, 4096> groups;
  const std::string_view cgroups = read_small(process_path(pid, "cgroup").data(), groups);
  if (const auto path = os::cgroup_path(cgroups, "")) {
    for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      const std::string file = fmt::format("{}{}/cgroup.events", root, *path);
      if (read_small(file.c_str(), buffer).find("frozen 1") != std::string_view::npos) return true;
    }
  }
  if (const auto path = os::cgroup_path(cgroups, "freezer")) {
    const std::string file = fmt::format("/sys/fs/cgroup/freezer{}/freezer.state", *path);
    if (read_small(file.c_str(), buffer).starts_with("FR")) return true;  // FROZEN, FREEZING
  }
  return read_small(thread_path(pid, pid, "wchan").data(), buffer) == "__refrigerator";
}

#if defined(__x86_64__)
constexpr std::uint64_t kFutexCall = 202;
#elif defined(__aarch64__)
constexpr std::uint64_t kFutexCall = 98;
#endif

// glibc's pthread_mutex_t begins with the futex word, the recursion count and the holder's tid.
struct MutexHead {
  std::uint32_t word;
  std::uint32_t count;
  std::uint32_t owner;
};
constexpr std::uint32_t kContended = 2;  // the word while somebody waits

class KernelThreads : public ThreadView {
 public:
  std::optional<ThreadFacts> thread(pid_t pid, pid_t tid) const override {
    ThreadFacts facts;
    facts.tid = tid;
    std::array<char, 512> buffer;
    std::string_view stat = read_small(thread_path(pid, tid, "stat").data(), buffer);
    const std::size_t name_end = stat.rfind(')');
    if (name_end == std::string_view::npos || name_end + 2 >= stat.size()) return std::nullopt;
    facts.state = stat[name_end + 2];
    parse_schedule(read_small(thread_path(pid, tid, "schedstat").data(), buffer), facts);
    return facts;
  }

  std::vector<ThreadFacts> threads(pid_t pid) const override {
    std::vector<ThreadFacts> all;
    DIR* const directory = ::opendir(process_path(pid, "task").data());
    if (directory == nullptr) return all;
    while (const dirent* entry = ::readdir(directory)) {
      const auto tid = static_cast<pid_t>(to_number(entry->d_name));
      if (tid == 0 || all.size() == kMaxThreads) continue;
      if (auto facts = thread(pid, tid)) all.push_back(*facts);
    }
    ::closedir(directory);
    return all;
  }

  // A thread that waits for a pthread mutex sleeps in futex(&mutex, FUTEX_WAIT, 2).
  LockWait lock_wait(pid_t pid, pid_t tid) const override {
    std::array<char, 256> buffer;
    std::string_view call = read_small(thread_path(pid, tid, "syscall").data(), buffer);
    if (call.empty()) {
      // Not readable for us: the name of the kernel's function may be.
      const std::string at = waits_in(pid, tid);
      const bool futex = at.empty() || at.starts_with("futex");
      return {futex ? LockWait::Kind::kUnknownHolder : LockWait::Kind::kNone, 0, 0};
    }
    if (call.starts_with("running") || to_number(next_word(call)) != kFutexCall) return {};
    const std::uint64_t address = to_number(next_word(call), 16);
    const std::uint64_t operation = to_number(next_word(call), 16) & FUTEX_CMD_MASK;
    const std::uint64_t value = to_number(next_word(call), 16) & 0xffffffff;
    LockWait wait = {LockWait::Kind::kUnknownHolder, 0, address};
    const bool locks = operation == FUTEX_WAIT || operation == FUTEX_LOCK_PI;
    if (!locks) return wait;
    MutexHead head{};
    const iovec local = {&head, sizeof head};
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the other process.
    const iovec remote = {reinterpret_cast<void*>(address), sizeof head};
    if (::process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof head) return wait;
    // A robust or priority-inheriting mutex has its holder in the word itself.
    const bool in_word = (head.word & FUTEX_WAITERS) != 0;
    if (!in_word && (head.word != kContended || value != kContended)) return wait;
    const auto holder = static_cast<pid_t>(in_word ? head.word & FUTEX_TID_MASK : head.owner);
    // The holder is one of its threads, or the memory is no mutex.
    if (holder == 0 || ::access(thread_path(pid, holder, "stat").data(), F_OK) != 0) return wait;
    wait.kind = LockWait::Kind::kHeld;
    wait.holder = holder;
    return wait;
  }

  std::string waits_in(pid_t pid, pid_t tid) const override {
    std::array<char, 128> buffer;
    const std::string_view at = read_small(thread_path(pid, tid, "wchan").data(), buffer);
    return at == "0" ? std::string() : std::string(at);
  }

  Surroundings surroundings(pid_t pid) const override {
    Surroundings found;
    std::array<char, 4096> buffer;
    const std::string_view status = read_small(process_path(pid, "status").data(), buffer);
    const std::size_t state = status.find("State:\t");
    const char letter =
        state != std::string_view::npos && state + 7 < status.size() ? status[state + 7] : 'X';
    const std::uint64_t threads = status_number(status, "Threads:");
    found.ending = status.empty() || letter == 'X' || (letter == 'Z' && threads <= 1) ||
                   status_number(status, "CoreDumping:") != 0;
    found.tracer = static_cast<pid_t>(status_number(status, "TracerPid:"));
    found.frozen = is_frozen(pid);
    read_load(found);
    found.cpu_pressure = pressure("/proc/pressure/cpu");
    found.io_pressure = pressure("/proc/pressure/io");
    return found;
  }

  os::Duration own_run_delay() const override {
    std::array<char, 128> buffer;
    ThreadFacts facts;
    parse_schedule(read_small("/proc/thread-self/schedstat", buffer), facts);
    return facts.run_delay;
  }
};

}  // namespace

const ThreadView& kernel_threads() {
  static const KernelThreads threads;
  return threads;
}

}  // namespace defib::process
