#include "defib/postmortem/guarded.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <exception>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"

// A sanitizer's shadow alone is larger than what the child may have.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DEFIB_UNBOUNDED_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DEFIB_UNBOUNDED_MEMORY 1
#endif
#endif

namespace defib::postmortem {
namespace {

constexpr int kFinished = 0;
constexpr int kNoMemory = 3;
constexpr int kLowNice = 10;
constexpr int kMaxAttempts = 4;
// Files of modules and debug information are mapped whole.
[[maybe_unused]] constexpr std::uint64_t kMappedFilesBytes = std::uint64_t{64} << 30;

void limit(int resource, std::uint64_t value) {
  rlimit limits;
  if (::getrlimit(resource, &limits) != 0) return;
  limits.rlim_cur = std::min<rlim_t>(value, limits.rlim_max);
  limits.rlim_max = limits.rlim_cur;
  ::setrlimit(resource, &limits);
}

void confine(const GuardLimits& limits, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kNoMemory);
  ::prctl(PR_SET_DUMPABLE, 0);
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU, SIGXFSZ}) {
    ::signal(signal, SIG_DFL);
  }
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, limits.output_bytes);
  limit(RLIMIT_CPU, static_cast<std::uint64_t>(limits.cpu.count()));
#ifndef DEFIB_UNBOUNDED_MEMORY
  limit(RLIMIT_DATA, limits.memory_bytes);
  limit(RLIMIT_AS, limits.memory_bytes + kMappedFilesBytes);
#endif
  if (limits.low_priority) ::setpriority(PRIO_PROCESS, 0, kLowNice);
}

void read_records(int fd, std::uint64_t max_bytes, GuardResult& result) {
  const off_t end = ::lseek(fd, 0, SEEK_END);
  if (end <= 0) return;
  std::vector<char>& bytes = result.bytes;
  bytes.resize(std::min<std::uint64_t>(static_cast<std::uint64_t>(end), max_bytes));
  std::size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t size =
        ::pread(fd, bytes.data() + got, bytes.size() - got, static_cast<off_t>(got));
    if (size <= 0) break;
    got += static_cast<std::size_t>(size);
  }
  Reader in(std::string_view(bytes.data(), got));
  while (in.remaining() > 0) {
    const std::string_view record = in.text();
    if (!in.ok()) return;  // The last one was cut.
    result.records.push_back(record);
  }
}

// False where the child had to be killed.
bool wait_until(pid_t child, int& status, std::int64_t deadline) {
  const os::Clock& clock = os::real_clock();
  const auto pidfd = os::open_pidfd(child);
  while (true) {
    const pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child || (ended < 0 && errno != EINTR)) return true;
    const std::int64_t left_ms = (deadline - clock.mono_ns()) / 1'000'000;
    if (left_ms <= 0) break;
    pollfd waiting = {pidfd ? pidfd->get() : -1, POLLIN, 0};
    // Where there are no pidfds it is looked after every millisecond.
    ::poll(&waiting, 1, pidfd ? static_cast<int>(left_ms) : 1);
  }
  ::kill(child, SIGKILL);
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return false;
}

std::string describe(int wait_status, bool overdue, std::chrono::milliseconds time) {
  if (overdue) return fmt::format("did not end in {} ms", time.count());
  const os::ExitStatus status = os::exit_status_from_wait(wait_status);
  if (status.exited && status.code == kNoMemory) return "out of memory";
  return status.to_string();
}

}  // namespace

GuardLimits limits_of(const SymbolOptions& options) {
  GuardLimits limits;
  limits.time = options.time_limit;
  limits.cpu = options.cpu_limit;
  limits.memory_bytes = options.memory_limit_bytes;
  return limits;
}

void GuardOutput::write(std::string_view record) const {
  std::string framed;
  Writer(framed).text(record);
  std::string_view rest = framed;
  while (!rest.empty()) {
    const ssize_t size = ::write(fd_, rest.data(), rest.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) ::_exit(kNoMemory);
    rest.remove_prefix(static_cast<std::size_t>(size));
  }
}

Result<GuardResult> run_guarded(const std::function<void(const GuardOutput&)>& work,
                                const GuardLimits& limits, const std::function<void()>& meanwhile) {
  const os::Fd output(::memfd_create("defib-guarded", MFD_CLOEXEC));
  if (!output.valid()) return os::system_error("memfd_create");
  void* memory = ::mmap(nullptr, sizeof(std::atomic<std::uint32_t>), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return os::system_error("mmap");
  auto* mark = new (memory) std::atomic<std::uint32_t>(kNoMark);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) {
    const int number = errno;
    ::munmap(memory, sizeof *mark);
    return os::system_error("fork", {}, number);
  }
  if (child == 0) {
    confine(limits, parent);
    try {
      work(GuardOutput(output.get(), mark));
    } catch (const std::exception&) {
      ::_exit(kNoMemory);
    }
    ::_exit(kFinished);
  }
  const std::int64_t deadline =
      os::real_clock().mono_ns() + std::chrono::nanoseconds(limits.time).count();
  if (meanwhile) meanwhile();
  int status = 0;
  const bool overdue = !wait_until(child, status, deadline);
  GuardResult result;
  read_records(output.get(), limits.output_bytes, result);
  result.mark = mark->load(std::memory_order_relaxed);
  ::munmap(memory, sizeof *mark);
  result.finished = !overdue && WIFEXITED(status) && WEXITSTATUS(status) == kFinished;
  if (!result.finished) result.failure = describe(status, overdue, limits.time);
  return result;
}

std::vector<GuardLoss> run_guarded_parts(
    std::size_t parts, const GuardedParts& work, const GuardLimits& limits,
    const std::function<void(const std::vector<std::string_view>&)>& take,
    const std::function<void()>& meanwhile) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + std::chrono::nanoseconds(limits.time).count();
  std::vector<GuardLoss> losses;
  std::set<std::size_t> left_out;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    const std::int64_t left_ms = std::max<std::int64_t>(deadline - clock.mono_ns(), 0) / 1'000'000;
    GuardLimits attempt_limits = limits;
    // Half of what is left, so that a hang leaves time for another attempt.
    attempt_limits.time = std::chrono::milliseconds(left_ms / 2);
    const auto result = run_guarded([&](const GuardOutput& output) { work(left_out, output); },
                                    attempt_limits, attempt == 0 ? meanwhile : nullptr);
    if (!result) {
      if (attempt == 0 && meanwhile) meanwhile();
      losses.push_back({kNoMark, result.error().to_line()});
      return losses;
    }
    take(result->records);
    if (result->finished) return losses;
    const bool is_known = result->mark < parts && left_out.insert(result->mark).second;
    losses.push_back({is_known ? result->mark : kNoMark, result->failure});
    if (!is_known) return losses;
  }
  return losses;
}

}  // namespace defib::postmortem
