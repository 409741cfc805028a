#include "defib/process/strike_test_util.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "defib/base/assert.h"
#include "defib/os/process.h"

namespace defib::process {
namespace {

constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                          PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
constexpr int kSyscallStop = SIGTRAP | 0x80;

struct Fallible {
  long number;
  const char* name;
  std::array<int, 3> errors;  // those that it can fail with here; 0: none further
};
// What a full disk, a broken one, or the lack of descriptors, processes and memory make fail.
constexpr Fallible kFallible[] = {
    {SYS_open, "open", {EMFILE, ENOSPC, EIO}},
    {SYS_openat, "openat", {EMFILE, ENOSPC, EIO}},
    {SYS_write, "write", {ENOSPC, EIO, 0}},
    {SYS_pwrite64, "pwrite64", {ENOSPC, EIO, 0}},
    {SYS_fsync, "fsync", {ENOSPC, EIO, 0}},
    {SYS_fdatasync, "fdatasync", {ENOSPC, EIO, 0}},
    {SYS_ftruncate, "ftruncate", {ENOSPC, EIO, 0}},
    {SYS_rename, "rename", {ENOSPC, EIO, 0}},
    {SYS_renameat2, "renameat2", {ENOSPC, EIO, 0}},
    {SYS_mkdir, "mkdir", {ENOSPC, EIO, 0}},
    {SYS_mknod, "mknod", {ENOSPC, EIO, 0}},
    {SYS_mknodat, "mknodat", {ENOSPC, EIO, 0}},
    {SYS_memfd_create, "memfd_create", {EMFILE, ENOMEM, 0}},
    {SYS_socket, "socket", {EMFILE, 0, 0}},
    {SYS_socketpair, "socketpair", {EMFILE, 0, 0}},
    {SYS_pipe2, "pipe2", {EMFILE, 0, 0}},
    {SYS_dup3, "dup3", {EMFILE, 0, 0}},
    {SYS_eventfd2, "eventfd2", {EMFILE, 0, 0}},
    {SYS_signalfd4, "signalfd4", {EMFILE, 0, 0}},
    {SYS_timerfd_create, "timerfd_create", {EMFILE, 0, 0}},
    {SYS_epoll_create1, "epoll_create1", {EMFILE, 0, 0}},
    {SYS_pidfd_open, "pidfd_open", {EMFILE, 0, 0}},
    {SYS_vfork, "vfork", {EAGAIN, ENOMEM, 0}},
    {SYS_fork, "fork", {EAGAIN, ENOMEM, 0}},
    {SYS_clone, "clone", {EAGAIN, ENOMEM, 0}},
    {SYS_clone3, "clone3", {EAGAIN, ENOMEM, 0}},
    {SYS_splice, "splice", {ENOSPC, EIO, 0}},
};

// ptrace() takes a signal as a pointer.
void* as_data(int signal) {
  return reinterpret_cast<void*>(static_cast<long>(signal));  // NOLINT(performance-no-int-to-ptr)
}

std::string program_of(pid_t pid) {
  const auto exe = os::process_exe(pid);
  if (!exe) return {};
  return exe->substr(exe->rfind('/') + 1);
}

[[noreturn]] void run_traced(std::vector<std::string>& argv, std::vector<std::string>& env,
                             int out) {
  std::vector<char*> arguments, environment;
  for (std::string& text : argv) arguments.push_back(text.data());
  for (std::string& text : env) environment.push_back(text.data());
  arguments.push_back(nullptr);
  environment.push_back(nullptr);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::raise(SIGSTOP);  // Until the tracer has taken hold.
  ::execve(arguments[0], arguments.data(), environment.data());
  ::_exit(127);
}

}  // namespace

Striker::Striker(std::vector<std::string> argv, std::vector<std::string> env, int out,
                 Target target)
    : target_(std::move(target)) {
  pid_ = ::fork();
  DEFIB_ASSERT(pid_ >= 0);
  if (pid_ == 0) run_traced(argv, env, out);
  int status = 0;
  DEFIB_ASSERT(::waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status));
  DEFIB_ASSERT(::ptrace(PTRACE_SEIZE, pid_, nullptr, kOptions) == 0);
  tasks_[pid_] = {};
  ::kill(pid_, SIGCONT);
}

Striker::~Striker() {
  let_go();
}

bool Striker::counts(long number) const {
  if (target_.only >= 0 && number != target_.only) return false;
  if (target_.blow == Blow::kKill) return true;
  const auto* found = std::ranges::find(kFallible, number, &Fallible::number);
  return found != std::end(kFallible) &&
         std::ranges::find(found->errors, target_.error_number) != found->errors.end();
}

std::string Striker::description() const {
  const auto* known = std::ranges::find(kFallible, struck_call_, &Fallible::number);
  return fmt::format("{} of {} at call {} ({})",
                     target_.blow == Blow::kKill ? std::string("kill")
                                                 : fmt::format("error {}", target_.error_number),
                     target_.program, target_.call,
                     known != std::end(kFallible) ? std::string(known->name)
                                                  : fmt::format("number {}", struck_call_));
}

void Striker::resume(pid_t tid, int signal) {
  const auto task = tasks_.find(tid);
  if (task == tasks_.end()) return;
  const bool stepping = !struck_ || task->second.failing;
  const auto request = stepping ? PTRACE_SYSCALL : PTRACE_CONT;
  ::ptrace(request, tid, nullptr, as_data(signal));
}

// At the entry or the return of a system call.
void Striker::at_call(pid_t tid, Task& task) {
  task.inside = !task.inside;
  if (!task.inside) {
    if (!task.failing) return;
    task.failing = false;
    user_regs_struct registers{};
    ::ptrace(PTRACE_GETREGS, tid, nullptr, &registers);
    registers.rax = static_cast<unsigned long long>(-target_.error_number);
    ::ptrace(PTRACE_SETREGS, tid, nullptr, &registers);
    return;
  }
  if (struck_ || !target_.armed || task.program != target_.program) return;
  user_regs_struct registers{};
  if (::ptrace(PTRACE_GETREGS, tid, nullptr, &registers) != 0) return;
  const long number = static_cast<long>(registers.orig_rax);
  if (!counts(number) || ++calls_ != target_.call) return;
  struck_ = true;
  struck_call_ = number;
  if (target_.blow == Blow::kFail) {
    registers.orig_rax = static_cast<unsigned long long>(-1);
    ::ptrace(PTRACE_SETREGS, tid, nullptr, &registers);
    task.failing = true;
    return;
  }
  ::kill(tid, SIGKILL);
}

// A child that is traced from its birth must be waited for, even if it has not stopped yet.
void Striker::note_child(pid_t tid, int event) {
  if (event != PTRACE_EVENT_FORK && event != PTRACE_EVENT_VFORK && event != PTRACE_EVENT_CLONE) {
    return;
  }
  unsigned long child = 0;
  if (::ptrace(PTRACE_GETEVENTMSG, tid, nullptr, &child) != 0) return;
  const auto pid = static_cast<pid_t>(child);
  if (known_.insert(pid).second) tasks_.try_emplace(pid, Task{program_of(pid), false, false});
}

void Striker::handle(pid_t tid, int status) {
  if (WIFEXITED(status) || WIFSIGNALED(status)) {
    tasks_.erase(tid);
    known_.erase(tid);
    if (tid == pid_) ended_ = true;
    return;
  }
  if (!WIFSTOPPED(status)) return;
  // A child's first stop may come before its parent tells of it.
  Task& task = tasks_.try_emplace(tid, Task{program_of(tid), false, false}).first->second;
  known_.insert(tid);
  const int signal = WSTOPSIG(status);
  const int event = status >> 16;
  note_child(tid, event);
  if (signal == kSyscallStop) {
    at_call(tid, task);
    return resume(tid, 0);
  }
  if (event == PTRACE_EVENT_EXEC) {
    task.program = program_of(tid);
    task.inside = true;  // The stop comes inside of the call.
    const bool followed = task.program == target_.program || tid == pid_ ||
                          task.program.starts_with("defib-shim") ||
                          task.program.starts_with("defib-guardian");
    if (followed) return resume(tid, 0);
    ::ptrace(PTRACE_DETACH, tid, nullptr, nullptr);  // A service or a helper.
    tasks_.erase(tid);
    return;
  }
  resume(tid, event != 0 ? 0 : signal);
}

void Striker::watch() {
  while (true) {
    int status = 0;
    const pid_t tid = ::waitpid(-1, &status, __WALL | WNOHANG);
    if (tid <= 0) return;
    handle(tid, status);
  }
}

void Striker::let_go() {
  for (const auto& [tid, task] : tasks_) ::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
  constexpr int kAttempts = 2000;
  for (int attempt = 0; attempt < kAttempts && !tasks_.empty(); ++attempt) {
    int status = 0;
    const pid_t tid = ::waitpid(-1, &status, __WALL | WNOHANG);
    if (tid <= 0) {
      ::usleep(200);
    } else if (!WIFSTOPPED(status)) {
      handle(tid, status);
    } else {
      const int signal = WSTOPSIG(status);
      const bool real = status >> 16 == 0 && signal != kSyscallStop;
      if (const auto task = tasks_.find(tid); task != tasks_.end() && task->second.failing) {
        at_call(tid, task->second);
      }
      note_child(tid, status >> 16);
      ::ptrace(PTRACE_DETACH, tid, nullptr, as_data(real ? signal : 0));
      tasks_.erase(tid);
      known_.insert(tid);
    }
  }
}

}  // namespace defib::process
