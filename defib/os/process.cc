#include "defib/os/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "defib/base/assert.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::os {
namespace {

// What the child needs, prepared by the parent: between vfork-like clone and exec nothing may
// allocate or lock.
struct ChildPlan {
  const char* program;
  char* const* argv;
  char* const* env;
  const char* working_directory;
  const std::vector<std::pair<int, int>>* fds;
  bool new_session;
  int parent_death_signal;
  pid_t parent;
  int report_fd;
};

[[noreturn]] void fail_child(int report_fd) {
  const int number = errno;
  [[maybe_unused]] const ssize_t put = ::write(report_fd, &number, sizeof number);
  ::_exit(127);
}

[[noreturn]] void run_child(const ChildPlan& plan) {
  sigset_t none;
  sigemptyset(&none);
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < 32; ++signal) ::sigaction(signal, &standard, nullptr);
  if (plan.new_session && ::setsid() < 0) fail_child(plan.report_fd);
  if (plan.parent_death_signal != 0) {
    if (::prctl(PR_SET_PDEATHSIG, plan.parent_death_signal) != 0) fail_child(plan.report_fd);
    if (::getppid() != plan.parent) ::_exit(127);  // The parent died before the request.
  }
  if (plan.working_directory != nullptr && ::chdir(plan.working_directory) != 0) {
    fail_child(plan.report_fd);
  }
  // Two passes, so that no descriptor of the plan is overwritten before it was copied.
  constexpr int kHigh = 400;
  constexpr std::size_t kMaxFds = 64;
  int high[kMaxFds];
  const std::size_t count = plan.fds->size();
  const int report = ::fcntl(plan.report_fd, F_DUPFD_CLOEXEC, kHigh);
  if (report < 0 || count > kMaxFds) fail_child(plan.report_fd);
  for (std::size_t i = 0; i < count; ++i) {
    high[i] = ::fcntl((*plan.fds)[i].first, F_DUPFD_CLOEXEC, kHigh + 1);
    if (high[i] < 0) fail_child(report);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const int target = (*plan.fds)[i].second;
    if (::dup2(high[i], target) < 0) fail_child(report);
  }
  int highest = 2;
  for (const auto& [ours, theirs] : *plan.fds) highest = std::max(highest, theirs);
  for (int fd = 3; fd <= highest; ++fd) {
    const bool wanted = std::ranges::any_of(*plan.fds, [&](auto& p) { return p.second == fd; });
    if (!wanted && fd != report) ::close(fd);
  }
  // Everything above stays close-on-exec; mark the rest so that nothing of ours leaks.
  ::syscall(SYS_close_range, static_cast<unsigned>(highest + 1), ~0U, 4U /* CLOEXEC */);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(plan.program, plan.argv, plan.env);
  fail_child(report);
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (true) {
    const std::size_t colon = rest.find(':');
    const std::string_view dir = rest.substr(0, colon);
    std::string candidate = join_path(dir.empty() ? "." : dir, name);
    if (::access(candidate.c_str(), X_OK) == 0 && !real_files().is_dir(candidate)) {
      return candidate;
    }
    if (colon == std::string_view::npos) return {};
    rest.remove_prefix(colon + 1);
  }
}

std::vector<std::string> make_environment(const SpawnOptions& options) {
  std::vector<std::string> env;
  const auto replaced = [&](std::string_view entry) {
    const std::string_view key = entry.substr(0, entry.find('='));
    return std::ranges::any_of(options.env, [&](const auto& pair) { return pair.first == key; });
  };
  for (char** entry = environ; !options.clear_env && *entry != nullptr; ++entry) {
    if (!replaced(*entry)) env.emplace_back(*entry);
  }
  for (const auto& [key, value] : options.env) env.push_back(fmt::format("{}={}", key, value));
  return env;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// The fields of /proc/PID/stat from field 3 on (the name before may hold anything).
Result<std::vector<std::string>> stat_fields(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/stat", pid);
  auto text = read_file(real_files(), path, 4096);
  if (!text) {
    return Error(Code::kProcessGone, fmt::format("there is no process {}", pid)).with("pid", pid);
  }
  const std::size_t close = text->rfind(')');
  std::vector<std::string> fields;
  if (close == std::string::npos) return fields;
  std::string_view rest = std::string_view(*text).substr(close + 1);
  while (!rest.empty()) {
    const std::size_t start = rest.find_first_not_of(" \n");
    if (start == std::string_view::npos) break;
    rest.remove_prefix(start);
    const std::size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    fields.emplace_back(rest.substr(0, end));
    rest.remove_prefix(end);
  }
  return fields;
}

std::int64_t to_number(std::string_view text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

int signal_number(std::string_view text) {
  int number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed == std::errc{} && end == text.data() + text.size()) {
    return number > 0 && number < SIGRTMAX ? number : 0;
  }
  const std::string wanted =
      text.starts_with("SIG") ? std::string(text) : fmt::format("SIG{}", text);
  for (number = 1; number < 32; ++number) {
    if (signal_name(number) == wanted) return number;
  }
  return 0;
}

std::string ExitStatus::to_string() const {
  if (!known) return "unknown";
  if (exited) return fmt::format("exit code {}", code);
  return fmt::format("signal {} ({}){}", signal, signal_name(signal),
                     core_dumped ? ", core dumped" : "");
}

ExitStatus exit_status_from_wait(int wait_status) {
  ExitStatus status;
  status.known = true;
  if (WIFEXITED(wait_status)) {
    status.exited = true;
    status.code = WEXITSTATUS(wait_status);
  } else {
    status.signal = WTERMSIG(wait_status);
    status.core_dumped = WCOREDUMP(wait_status);
  }
  return status;
}

Result<> Child::signal(int number) const {
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0) != 0) {
    return system_error("pidfd_send_signal", fmt::format("pid {}", pid_));
  }
  return {};
}

ExitStatus Child::wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0) {
    if (errno != EINTR) return {};
  }
  return exit_status_from_wait(status);
}

std::optional<ExitStatus> Child::try_wait() {
  int status = 0;
  const pid_t got = ::waitpid(pid_, &status, WNOHANG);
  if (got == 0) return std::nullopt;
  return got == pid_ ? exit_status_from_wait(status) : ExitStatus{};
}

Result<Child> spawn(const SpawnOptions& options) {
  DEFIB_ASSERT(!options.argv.empty());
  const std::string program = find_program(options.argv[0]);
  const auto not_found = [&](std::string_view why) {
    return Error(Code::kProgramNotFound,
                 fmt::format("the program '{}' cannot be started: {}", options.argv[0], why))
        .with("program", options.argv[0]);
  };
  if (program.empty()) return not_found("it is not in PATH");
  std::vector<std::string> args = options.argv;
  std::vector<std::string> env = make_environment(options);
  const std::vector<char*> argv = pointers(args);
  const std::vector<char*> envp = pointers(env);
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return system_error("pipe2");
  Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  const ChildPlan plan = {
      program.c_str(),
      argv.data(),
      envp.data(),
      options.working_directory.empty() ? nullptr : options.working_directory.c_str(),
      &options.fds,
      options.new_session,
      options.parent_death_signal,
      ::getpid(),
      write_end.get()};
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::fork();
  if (pid == 0) run_child(plan);
  const int fork_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return system_error("fork", {}, fork_error);
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  Child child(pid, std::move(pidfd));
  write_end.reset();
  int failed = 0;
  ssize_t got = 0;
  while ((got = ::read(read_end.get(), &failed, sizeof failed)) < 0 && errno == EINTR) {
  }
  if (got == sizeof failed) {
    child.wait();
    return not_found(std::strerror(failed));
  }
  if (child.pidfd() < 0) return system_error("pidfd_open");
  return child;
}

Result<CommandOutput> run_command(const std::vector<std::string>& argv, int timeout_ms) {
  constexpr std::size_t kMaxOutput = 1 << 20;
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return system_error("pipe2");
  const Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  SpawnOptions options;
  options.argv = argv;
  options.fds = {{null.get(), 0}, {write_end.get(), 1}, {write_end.get(), 2}};
  DEFIB_TRY_ASSIGN(Child child, spawn(options));
  write_end.reset();
  CommandOutput output;
  const std::int64_t deadline = real_clock().mono_ns() + timeout_ms * 1'000'000LL;
  char buffer[8192];
  pollfd polls[2] = {{read_end.get(), POLLIN, 0}, {child.pidfd(), POLLIN, 0}};
  bool ended = false;
  while (!ended || polls[0].revents != 0) {
    const std::int64_t left = (deadline - real_clock().mono_ns()) / 1'000'000;
    if (left <= 0 && !ended) {
      (void)child.signal(SIGKILL);
      child.wait();
      return Error(Code::kTimeout,
                   fmt::format("'{}' did not end within {} ms", argv[0], timeout_ms));
    }
    // After the end, take what is in the pipe, but do not wait for others that hold it open.
    const int ready = ::poll(polls, ended ? 1 : 2, ended ? 0 : static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return system_error("poll");
    if (ready <= 0) {
      if (ended) break;
      continue;
    }
    if (polls[0].revents != 0) {
      const ssize_t got = ::read(read_end.get(), buffer, sizeof buffer);
      if (got <= 0) {
        polls[0].fd = -1;
        polls[0].revents = 0;
      } else if (output.text.size() < kMaxOutput) {
        output.text.append(buffer, static_cast<std::size_t>(got));
      }
    }
    if (!ended && polls[1].revents != 0) ended = true;
  }
  output.status = child.wait();
  return output;
}

Result<Fd> open_pidfd(pid_t pid) {
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.valid()) return system_error("pidfd_open", fmt::format("pid {}", pid));
  return fd;
}

Result<std::uint64_t> process_start_time(pid_t pid) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> fields, stat_fields(pid));
  if (fields.size() < 20) return Error(Code::kProcessGone, fmt::format("process {} ended", pid));
  return static_cast<std::uint64_t>(to_number(fields[19]));
}

ExitStatus exit_status_of(int pidfd) {
  // struct pidfd_info of Linux 6.15 (include/uapi/linux/pidfd.h); older kernels refuse the call.
  struct PidfdInfo {
    std::uint64_t mask, cgroupid;
    std::uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    std::int32_t exit_code;
  };
  static_assert(sizeof(PidfdInfo) == 64);
  constexpr std::uint64_t kInfoExit = 1ULL << 3;
  PidfdInfo info{};
  info.mask = kInfoExit;
  if (::ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &info) != 0 || (info.mask & kInfoExit) == 0) {
    return {};
  }
  return exit_status_from_wait(info.exit_code);
}

Result<ProcessUsage> process_usage(pid_t pid, bool with_pss) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> fields, stat_fields(pid));
  if (fields.size() < 22) return Error(Code::kProcessGone, fmt::format("process {} ended", pid));
  ProcessUsage usage;
  const std::int64_t ticks = to_number(fields[11]) + to_number(fields[12]);
  usage.cpu_ns = ticks * (1'000'000'000 / ::sysconf(_SC_CLK_TCK));
  usage.threads = static_cast<int>(to_number(fields[17]));
  usage.rss_bytes = static_cast<std::uint64_t>(to_number(fields[21])) *
                    static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (const auto names = real_files().list(fmt::format("/proc/{}/fd", pid))) {
    usage.open_fds = static_cast<int>(names->size());
  }
  if (with_pss) usage.pss_bytes = process_pss_bytes(pid);
  return usage;
}

std::uint64_t process_pss_bytes(pid_t pid) {
  const auto rollup = read_file(real_files(), fmt::format("/proc/{}/smaps_rollup", pid), 65536);
  const std::size_t at = rollup ? rollup->find("\nPss:") : std::string::npos;
  if (at == std::string::npos) return 0;
  const std::size_t digits = rollup->find_first_of("0123456789", at);
  if (digits == std::string::npos) return 0;
  return static_cast<std::uint64_t>(to_number(rollup->substr(digits, 20))) * 1024;
}

Result<std::string> process_exe(pid_t pid) {
  const std::string link = fmt::format("/proc/{}/exe", pid);
  char target[4096];
  const ssize_t size = ::readlink(link.c_str(), target, sizeof target);
  if (size < 0) return system_error("readlink", link);
  return std::string(target, static_cast<std::size_t>(size));
}

std::string own_program_dir() {
  const auto exe = process_exe(::getpid());
  return exe ? parent_dir(*exe) : ".";
}

namespace {

constexpr int kRaisedNice = -15;

}  // namespace

OwnPriority raise_own_priority(bool respect_nice) {
  OwnPriority result;
  errno = 0;
  if (respect_nice && (::getpriority(PRIO_PROCESS, 0) != 0 || errno != 0)) {
    return result;  // A choice, not a failure.
  }
  sched_param parameters{};
  parameters.sched_priority = ::sched_get_priority_min(SCHED_RR);
  result.realtime = ::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0;
  result.raised = result.realtime;
  if (!result.raised) {
    // Control groups without a share of real time refuse that also to root.
    const sched_param ordinary{};
    result.raised = ::sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &ordinary) == 0 &&
                    ::setpriority(PRIO_PROCESS, 0, kRaisedNice) == 0;
    if (!result.raised) result.refused = fmt::format("setpriority: {}", std::strerror(errno));
  }
  return result;
}

void lower_own_priority() {
  const sched_param parameters{};
  ::sched_setscheduler(0, SCHED_OTHER, &parameters);
  ::setpriority(PRIO_PROCESS, 0, 0);
}

}  // namespace defib::os
