#include "defib/postmortem/capture.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstring>
#include <map>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/collect.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxThreads = 4096;
constexpr std::size_t kMaxModules = 1024;
// A process that starts threads while it is being stopped is caught in a few rounds.
constexpr int kMaxStopRounds = 16;
constexpr std::chrono::microseconds kStopPollInterval{50};
constexpr std::chrono::milliseconds kReapTimeout{1000};
constexpr std::size_t kMaxVdsoBytes = 64 * 1024;

std::string proc_path(pid_t pid, std::string_view rest) {
  return fmt::format("/proc/{}/{}", pid, rest);
}
std::string task_path(pid_t pid, pid_t tid, std::string_view rest) {
  return fmt::format("/proc/{}/task/{}/{}", pid, tid, rest);
}

// A small file of /proc; empty where it cannot be read.
std::string read_proc(const std::string& path) {
  auto text = os::read_file(os::real_files(), path);
  return text ? std::move(*text) : std::string();
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string link_target(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

std::vector<pid_t> list_threads(pid_t pid) {
  std::vector<pid_t> tids;
  DIR* dir = ::opendir(proc_path(pid, "task").c_str());
  if (dir == nullptr) return tids;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    pid_t tid = 0;
    const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), tid);
    if (error == std::errc() && stop == name.data() + name.size()) tids.push_back(tid);
    if (tids.size() >= kMaxThreads) break;
  }
  ::closedir(dir);
  return tids;
}

// The number behind "Key:" in /proc/PID/status; 0 where it is not there. Of several numbers (one a
// pid namespace) the last, innermost one.
pid_t status_number(std::string_view status, std::string_view key) {
  const std::size_t at = status.find(fmt::format("\n{}:", key));
  if (at == std::string_view::npos) return 0;
  std::string_view line = status.substr(at + key.size() + 2);
  line = line.substr(0, line.find('\n'));
  pid_t value = 0;
  const std::size_t last = line.find_last_of(" \t");
  const std::string_view digits = last == std::string_view::npos ? line : line.substr(last + 1);
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

Error attach_error(pid_t pid, int number) {
  Error error(Code::kCaptureFailed, fmt::format("may not attach to process {}", pid));
  if (number == ESRCH) {
    return Error(Code::kCaptureFailed, fmt::format("process {} is gone", pid)).with("pid", pid);
  }
  const std::string status = read_proc(proc_path(pid, "status"));
  if (const pid_t tracer = status_number(status, "TracerPid"); tracer != 0) {
    return Error(Code::kCaptureFailed,
                 fmt::format("process {} is being traced by process {}", pid, tracer))
        .with("pid", pid)
        .with("tracer", tracer)
        .suggest("detach the debugger or tracer that holds the process");
  }
  return std::move(error)
      .with("pid", pid)
      .because(os::system_error("ptrace(PTRACE_SEIZE)", {}, number))
      .suggest(
          "run as the same user or as root; in a container add the capability SYS_PTRACE; see "
          "/proc/sys/kernel/yama/ptrace_scope");
}

// Holds threads stopped; lets them go when destroyed.
class StoppedThreads {
 public:
  explicit StoppedThreads(pid_t pid)
      : pid_(pid),
        is_own_child_(status_number(read_proc(proc_path(pid, "status")), "PPid") == ::getpid()) {}
  ~StoppedThreads() { release(); }
  StoppedThreads(const StoppedThreads&) = delete;
  StoppedThreads& operator=(const StoppedThreads&) = delete;

  Result<> stop(std::chrono::milliseconds timeout);
  // `last`: the thread that will end the process once it goes on.
  void release(pid_t last = 0);
  const std::vector<pid_t>& tids() const { return stopped_; }
  std::vector<std::string>& gaps() { return gaps_; }

 private:
  bool seize_new_threads(Error& failure);
  void await(pid_t tid, std::int64_t deadline_ns);
  void release_one(pid_t tid);

  pid_t pid_;
  bool is_own_child_;
  std::vector<pid_t> known_;
  std::vector<pid_t> waiting_;
  std::vector<pid_t> stopped_;
  std::map<pid_t, int> pending_signals_;  // to be delivered when the thread goes on
  std::vector<std::string> gaps_;
};

// True when there were threads that we did not hold yet.
bool StoppedThreads::seize_new_threads(Error& failure) {
  bool found = false;
  for (const pid_t tid : list_threads(pid_)) {
    if (std::ranges::find(known_, tid) != known_.end()) continue;
    known_.push_back(tid);
    if (::ptrace(PTRACE_SEIZE, tid, nullptr, nullptr) != 0 ||
        ::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0) {
      // A thread that ends just now, or a main thread that has ended, is no failure of ours.
      const int number = errno;
      if (number != ESRCH) {
        failure = attach_error(pid_, number);
        gaps_.push_back(fmt::format("thread {}: {}", tid, failure.message()));
      }
      continue;
    }
    waiting_.push_back(tid);
    found = true;
  }
  return found;
}

void StoppedThreads::await(pid_t tid, std::int64_t deadline_ns) {
  const os::Clock& clock = os::real_clock();
  while (true) {
    int status = 0;
    const pid_t changed = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (changed == tid && WIFSTOPPED(status)) {
      // A stop without an event is a signal on its way to the thread: it must not be lost.
      if (status >> 16 == 0) pending_signals_[tid] = WSTOPSIG(status);
      stopped_.push_back(tid);
      return;
    }
    if (changed == tid || (changed < 0 && errno != EINTR)) return;  // It ended.
    if (clock.mono_ns() >= deadline_ns) {
      gaps_.push_back(fmt::format("thread {} did not stop in time (state {})", tid,
                                  read_proc(task_path(pid_, tid, "wchan"))));
      return;
    }
    clock.sleep_for(kStopPollInterval);
  }
}

Result<> StoppedThreads::stop(std::chrono::milliseconds timeout) {
  const std::int64_t deadline =
      os::real_clock().mono_ns() + std::chrono::nanoseconds(timeout).count();
  Error failure = attach_error(pid_, ESRCH);
  for (int round = 0; round < kMaxStopRounds; ++round) {
    if (!seize_new_threads(failure)) break;
    for (const pid_t tid : waiting_) await(tid, deadline);
    waiting_.clear();
  }
  if (stopped_.empty()) return failure;
  return {};
}

void StoppedThreads::release_one(pid_t tid) {
  const auto pending = pending_signals_.find(tid);
  const long signal = pending == pending_signals_.end() ? 0 : pending->second;
  if (::ptrace(PTRACE_DETACH, tid, nullptr, signal) == 0) return;
  // It was killed meanwhile. A dead thread stays until its tracer has taken note, and the whole
  // process with it. Only of a process that is our own child the end is not ours to take here.
  if (tid == pid_ && is_own_child_) return;
  const std::int64_t deadline =
      os::real_clock().mono_ns() + std::chrono::nanoseconds(kReapTimeout).count();
  while (::waitpid(tid, nullptr, __WALL | WNOHANG) == 0) {
    if (os::real_clock().mono_ns() >= deadline) return;
    os::real_clock().sleep_for(kStopPollInterval);
  }
}

void StoppedThreads::release(pid_t last) {
  for (const pid_t tid : stopped_) {
    if (tid != last) release_one(tid);
  }
  if (std::ranges::find(stopped_, last) != stopped_.end()) release_one(last);
  stopped_.clear();
}

MemoryReader reader_of(pid_t pid) {
  return [pid](std::uint64_t address, std::size_t size) {
    return read_process_memory(pid, address, size);
  };
}

bool copy_thread(pid_t pid, pid_t tid, ThreadSnapshot& thread) {
  thread.tid = tid;
  char regset[1024];
  iovec buffer = {regset, sizeof regset};
  if (::ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &buffer) != 0) return false;
  const std::string_view bytes(regset, buffer.iov_len);
  if (!registers_from_regset(kOwnMachine, bytes, thread.registers)) return false;
  thread.system_call = system_call_in(bytes, thread.registers, reader_of(pid));
  return true;
}

// The file that is mapped, even where another one has taken its name since.
os::Fd open_module(pid_t pid, const Mapping& mapping, const std::string& exe) {
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (mapping.path == exe) {
    if (os::Fd fd(::open(proc_path(pid, "exe").c_str(), flags)); fd.valid()) return fd;
  }
  if (mapping.deleted) {
    const std::string path = fmt::format("map_files/{:x}-{:x}", mapping.start, mapping.end);
    return os::Fd(::open(proc_path(pid, path).c_str(), flags));
  }
  // Through the process's own root, which may be a container's.
  os::Fd fd(::open(proc_path(pid, "root" + mapping.path).c_str(), flags));
  return fd.valid() ? std::move(fd) : os::Fd(::open(mapping.path.c_str(), flags));
}

void copy_modules(Snapshot& snapshot) {
  std::map<std::string, std::size_t> index;
  for (const Mapping& mapping : snapshot.maps) {
    if (mapping.path == "[vdso]" && mapping.end - mapping.start <= kMaxVdsoBytes) {
      Module module{mapping.start, mapping.end, mapping.path, {}, {}, {}};
      module.image = read_process_memory(snapshot.pid, mapping.start, mapping.end - mapping.start);
      snapshot.modules.push_back(std::move(module));
      continue;
    }
    if (!mapping.path.starts_with('/')) continue;
    const auto [at, is_new] = index.try_emplace(mapping.path, snapshot.modules.size());
    if (!is_new) {
      snapshot.modules[at->second].end = mapping.end;
      continue;
    }
    if (snapshot.modules.size() >= kMaxModules) continue;
    Module module{mapping.start, mapping.end, mapping.path, {}, {}, {}};
    module.build_id = build_id_in_memory(mapping.start, reader_of(snapshot.pid));
    // Data files are mapped too; only what has an ELF header in memory is a module.
    if (!read_process_memory(snapshot.pid, mapping.start, SELFMAG).starts_with(ELFMAG)) {
      index.erase(at);
      continue;
    }
    module.file = open_module(snapshot.pid, mapping, snapshot.exe);
    if (!module.file.valid()) {
      snapshot.gaps.push_back(
          fmt::format("{}: not readable, so its frames have no names", mapping.path));
    }
    snapshot.modules.push_back(std::move(module));
  }
}

void copy_identity(Snapshot& snapshot) {
  const pid_t pid = snapshot.pid;
  snapshot.comm = trimmed(read_proc(proc_path(pid, "comm")));
  snapshot.exe = link_target(proc_path(pid, "exe"));
  constexpr std::string_view kDeleted = " (deleted)";
  if (snapshot.exe.ends_with(kDeleted)) {
    snapshot.exe.resize(snapshot.exe.size() - kDeleted.size());
  }
  const std::string arguments = read_proc(proc_path(pid, "cmdline"));
  std::vector<std::string> list;
  for (std::size_t at = 0; at < arguments.size();) {
    const std::size_t end = std::min(arguments.find('\0', at), arguments.size());
    list.push_back(arguments.substr(at, end - at));
    at = end + 1;
  }
  snapshot.command_line = redact_command_line(std::move(list));
}

// The crashed thread's own id, which in a pid namespace differs from the one that we see.
pid_t find_crashed_tid(pid_t pid, const std::vector<pid_t>& tids, pid_t reported) {
  if (std::ranges::find(tids, reported) != tids.end()) return reported;
  for (const pid_t tid : tids) {
    if (status_number(read_proc(task_path(pid, tid, "status")), "NSpid") == reported) return tid;
  }
  return 0;
}

// Everything that needs the process to stand still, and nothing else.
void copy_stopped(Snapshot& snapshot, const StoppedThreads& stopped,
                  const CaptureOptions& options) {
  const pid_t pid = snapshot.pid;
  pid_t crashed_tid = 0;
  std::optional<ThreadSnapshot> crashed;
  if (!snapshot.threads.empty()) {
    crashed = std::move(snapshot.threads.front());
    snapshot.threads.clear();
    crashed_tid = find_crashed_tid(pid, stopped.tids(), crashed->tid);
  }
  for (const pid_t tid : stopped.tids()) {
    ThreadSnapshot thread;
    if (!copy_thread(pid, tid, thread)) continue;
    if (tid == crashed_tid) {
      // Not as it is now, in the crash hook, but as it was at the fault.
      thread.crashed = true;
      thread.registers = crashed->registers;
      thread.system_call.reset();
      snapshot.threads.insert(snapshot.threads.begin(), std::move(thread));
    } else {
      snapshot.threads.push_back(std::move(thread));
    }
  }
  if (crashed && crashed_tid == 0) {
    snapshot.gaps.push_back(fmt::format("the crashed thread {} was not found", crashed->tid));
    snapshot.threads.insert(snapshot.threads.begin(), *crashed);
  }
  snapshot.maps_text = read_proc(proc_path(pid, "maps"));
  snapshot.maps = parse_maps(snapshot.maps_text);
  const MemoryReader read = reader_of(pid);
  for (const ThreadSnapshot& thread : snapshot.threads) {
    collect_stack(snapshot, thread,
                  thread.crashed ? options.crashed_stack_bytes : options.stack_bytes, read);
  }
  collect_code(snapshot, read);
  collect_locks(snapshot, read);
  copy_modules(snapshot);
  for (ThreadSnapshot& thread : snapshot.threads) {
    thread.name = trimmed(read_proc(task_path(pid, thread.tid, "comm")));
  }
}

void mark_captured(CrashPage& page, std::int64_t now_ns) {
  page.captured_mono_ns = now_ns;
  auto expected = static_cast<std::uint32_t>(CrashState::kCrashed);
  page.state.compare_exchange_strong(expected, static_cast<std::uint32_t>(CrashState::kCaptured),
                                     std::memory_order_acq_rel);
  ::syscall(SYS_futex, &page.state, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

struct ThreadSample {
  char state = '?';
  std::int64_t busy_ns = 0;  // ran, or waited for a processor
};

ThreadSample sample_thread(pid_t pid, pid_t tid) {
  ThreadSample sample;
  const std::string stat = read_proc(task_path(pid, tid, "stat"));
  if (const std::size_t close = stat.rfind(')'); close != std::string::npos) {
    if (close + 2 < stat.size()) sample.state = stat[close + 2];
  }
  // "time on processor, time runnable but waiting, slices", in nanoseconds.
  const std::string times = read_proc(task_path(pid, tid, "schedstat"));
  std::int64_t running = 0;
  std::int64_t waiting = 0;
  const char* end = times.data() + times.size();
  const auto [space, error] = std::from_chars(times.data(), end, running);
  if (error == std::errc() && space != end) std::from_chars(space + 1, end, waiting);
  sample.busy_ns = running + waiting;
  return sample;
}

using BusyShares = std::map<pid_t, std::pair<char, double>>;

BusyShares sample_threads(pid_t pid, std::chrono::milliseconds window) {
  BusyShares shares;
  if (window.count() == 0) return shares;
  const os::Clock& clock = os::real_clock();
  std::map<pid_t, ThreadSample> first;
  for (const pid_t tid : list_threads(pid)) first[tid] = sample_thread(pid, tid);
  const std::int64_t started = clock.mono_ns();
  clock.sleep_for(window);
  const auto elapsed = static_cast<double>(clock.mono_ns() - started);
  for (const auto& [tid, before] : first) {
    const ThreadSample after = sample_thread(pid, tid);
    const double share = static_cast<double>(after.busy_ns - before.busy_ns) / elapsed;
    shares[tid] = {after.state, std::clamp(share, 0.0, 1.0)};
  }
  return shares;
}

}  // namespace

Result<Snapshot> capture_crash(pid_t pid, CrashPage& page, const CaptureOptions& options) {
  const os::Clock& clock = os::real_clock();
  if (page.state.load(std::memory_order_acquire) == static_cast<std::uint32_t>(CrashState::kNone)) {
    return Error(Code::kCaptureFailed, fmt::format("process {} has not reported a crash", pid))
        .with("pid", pid);
  }
  Snapshot snapshot = snapshot_from_page(page);
  snapshot.pid = pid;
  const std::int64_t started = clock.mono_ns();
  StoppedThreads stopped(pid);
  if (auto result = stopped.stop(options.stop_timeout); !result) {
    mark_captured(page, clock.mono_ns());
    return std::move(result.error())
        .with("signal", snapshot.signal.signal)
        .with("fault_address", fmt::format("{:#x}", snapshot.signal.fault_address))
        .with("pc", fmt::format("{:#x}", snapshot.threads.front().registers.pc()));
  }
  copy_identity(snapshot);
  copy_stopped(snapshot, stopped, options);
  if (options.while_stopped && !snapshot.threads.empty()) {
    options.while_stopped(pid, snapshot.threads.front().registers.pc());
  }
  snapshot.captured_mono_ns = clock.mono_ns();
  mark_captured(page, snapshot.captured_mono_ns);
  stopped.release(snapshot.threads.empty() ? 0 : snapshot.threads.front().tid);
  snapshot.stopped_ns = clock.mono_ns() - started;
  std::ranges::move(stopped.gaps(), std::back_inserter(snapshot.gaps));
  return snapshot;
}

Result<Snapshot> capture_live(pid_t pid, const CaptureOptions& options) {
  const os::Clock& clock = os::real_clock();
  const BusyShares shares = sample_threads(pid, options.sample_window);
  Snapshot snapshot;
  snapshot.pid = pid;
  const std::int64_t started = clock.mono_ns();
  StoppedThreads stopped(pid);
  DEFIB_TRY(stopped.stop(options.stop_timeout));
  copy_stopped(snapshot, stopped, options);
  snapshot.captured_mono_ns = clock.mono_ns();
  stopped.release();
  snapshot.stopped_ns = clock.mono_ns() - started;
  copy_identity(snapshot);
  for (ThreadSnapshot& thread : snapshot.threads) {
    const auto share = shares.find(thread.tid);
    if (share == shares.end()) continue;
    thread.state = share->second.first;
    thread.busy_share = share->second.second;
  }
  std::ranges::move(stopped.gaps(), std::back_inserter(snapshot.gaps));
  std::ranges::sort(snapshot.threads, {}, &ThreadSnapshot::tid);
  return snapshot;
}

}  // namespace defib::postmortem
