// `trace`: the tracer of a service for its whole life, for programs that cannot have the hook.
//
// It seizes every thread, passes every signal on, and copies the process when a signal is about to
// end it with a fault. Then it lets the signal do so, and becomes defib-capture.
//
// Invariants:
//   - Its death, at any moment, leaves the service running: the kernel lets go of the threads.
//   - Stops stay stops (PTRACE_LISTEN), and children of the service are not traced.
//   - It waits for the threads of the service alone, and its exit code says why it ended: 0: the
//     service has; else the errno of the system call that refused it.

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defib/postmortem/raw_copy_proc_sigsafe.h"
#include "defib/process/shim_protocol.h"
#include "snapshot.h"

namespace defib::snapshot {
namespace {

using postmortem::CrashPage;
namespace raw = postmortem::raw;
using raw::trace;

constexpr int64_t kStopTimeNs = 500'000'000;
constexpr int64_t kReapTimeNs = 1'000'000'000;
constexpr long kOptions = PTRACE_O_TRACECLONE;
constexpr int kMaxSeizeRounds = 16;

bool is_fault(int signal) {
  return signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE ||
         signal == SIGABRT || signal == SIGSYS || signal == SIGTRAP;
}

bool is_stop(int signal) {
  return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

// Whether the process has neither a handler for the signal nor ignores it.
bool is_default(pid_t pid, int signal) {
  char text[4096];
  const ssize_t got = raw::read_whole(raw::proc_path(pid, "status").get(), text, sizeof text - 1);
  if (got <= 0) return true;
  text[got] = 0;
  for (const char* line = text; *line != 0;) {
    const char* end = line + strcspn(line, "\n");
    if (strncmp(line, "SigIgn:", 7) == 0 || strncmp(line, "SigCgt:", 7) == 0) {
      uint64_t mask = 0;
      for (const char* at = line + 7; at < end; ++at) {
        if (*at >= '0' && *at <= '9') mask = mask << 4 | static_cast<uint64_t>(*at - '0');
        if (*at >= 'a' && *at <= 'f') mask = mask << 4 | static_cast<uint64_t>(*at - 'a' + 10);
      }
      if ((mask >> (signal - 1) & 1) != 0) return false;
    }
    line = *end != 0 ? end + 1 : end;
  }
  return true;
}

#if defined(__x86_64__)
void copy_registers(CrashPage& page, const uint64_t* set) {
  // struct user_regs_struct, put into the order of the System V ABI's DWARF numbers.
  constexpr uint8_t kOrder[] = {10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0};
  for (size_t i = 0; i < sizeof kOrder; ++i) page.registers[i] = set[kOrder[i]];
  page.registers[postmortem::kCrashPcRegister] = set[16];
  page.machine = EM_X86_64;
}
#else
void copy_registers(CrashPage& page, const uint64_t* set) {
  for (size_t i = 0; i < postmortem::kCrashRegisters; ++i) page.registers[i] = set[i];
  page.machine = EM_AARCH64;
}
#endif

class Tracer {
 public:
  Tracer(CrashPage& page, const Options& options) : page_(page), options_(options) {}
  // 0 or the errno.
  int seize();
  // 0: it ended; -1: it crashed, and snapshot_fd() is what was copied of it.
  int run();
  int snapshot_fd() const { return buffer_.fd(); }

 private:
  bool is_ours(pid_t tid) const;
  void on_stop(pid_t tid, int status);
  void on_crash(pid_t tid, int signal);

  CrashPage& page_;
  const Options& options_;
  raw::Buffer buffer_;
  bool crashed_ = false;
};

int Tracer::seize() {
  if (trace(PTRACE_SEIZE, options_.pid, 0, kOptions) != 0) return errno;
  // Threads that were there before us, and those that they start meanwhile.
  bool found = true;
  for (int round = 0; round < kMaxSeizeRounds && found; ++round) {
    found = false;
    raw::for_each_thread(
        options_.pid,
        [](void* seen, pid_t tid) {
          if (trace(PTRACE_SEIZE, tid, 0, kOptions) == 0) *static_cast<bool*>(seen) = true;
        },
        &found);
  }
  return 0;
}

bool Tracer::is_ours(pid_t tid) const {
  return syscall(SYS_faccessat, AT_FDCWD, raw::task_path(options_.pid, tid, "").get(), F_OK) == 0;
}

void Tracer::on_stop(pid_t tid, int status) {
  const int signal = WSTOPSIG(status);
  const int event = status >> 16;
  if (event == PTRACE_EVENT_STOP) {
    if (is_stop(signal)) {
      trace(PTRACE_LISTEN, tid, 0, 0);
    } else if (tid != options_.pid && !is_ours(tid)) {
      trace(PTRACE_DETACH, tid, 0, 0);  // a process of its own that clone() made
    } else {
      trace(PTRACE_CONT, tid, 0, 0);
    }
    return;
  }
  if (event != 0) {
    trace(PTRACE_CONT, tid, 0, 0);
    return;
  }
  if (is_fault(signal) && is_default(options_.pid, signal)) return on_crash(tid, signal);
  trace(PTRACE_CONT, tid, 0, signal);
}

void Tracer::on_crash(pid_t tid, int signal) {
  siginfo_t info = {};
  trace(PTRACE_GETSIGINFO, tid, 0, reinterpret_cast<long>(&info));
  uint64_t set[40] = {};
  iovec to = {set, sizeof set};
  if (buffer_.open() != 0 ||
      trace(PTRACE_GETREGSET, tid, NT_PRSTATUS, reinterpret_cast<long>(&to)) != 0) {
    trace(PTRACE_CONT, tid, 0, signal);
    return;
  }
  page_.pid = options_.pid;
  page_.tid = tid;
  page_.signal = signal;
  page_.signal_code = info.si_code;
  const bool sent = info.si_code <= 0;
  page_.sender_pid = sent ? info.si_pid : 0;
  page_.sender_uid = sent ? static_cast<int32_t>(info.si_uid) : 0;
  page_.fault_address = sent ? 0 : reinterpret_cast<uint64_t>(info.si_addr);
  page_.context_address = 0;
  page_.crashed_mono_ns = raw::mono_ns();
  page_.access = 0;
  page_.message[0] = 0;
  copy_registers(page_, set);

  raw::Capture capture;
  capture.pid = options_.pid;
  capture.stop_deadline_ns = raw::mono_ns() + kStopTimeNs;
  capture.copy.link_map = options_.minicore;
  capture.held = tid;
  capture.held_signal = signal;
  bound_by_page(page_, true, capture);
  // The registers go through the page: from here on it is as after the hook. It says that it is
  // captured before anybody hears of it, so that nobody starts a capture of his own.
  page_.state.store(static_cast<uint32_t>(postmortem::CrashState::kCaptured));
  raw::capture(buffer_, capture);
  const int wake = open(process::shim::kWakeName, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t rung = wake >= 0 ? write(wake, &one, sizeof one) : 0;
  crashed_ = true;
}

int Tracer::run() {
  while (!crashed_) {
    int status = 0;
    const pid_t tid = static_cast<pid_t>(syscall(SYS_wait4, -1, &status, __WALL, nullptr));
    if (tid < 0 && errno == EINTR) continue;
    if (tid < 0) return 0;
    if (WIFSTOPPED(status)) on_stop(tid, status);
  }
  // What could not be stopped in time ends now, and is ours to take note of.
  const int64_t until = raw::mono_ns() + kReapTimeNs;
  int status = 0;
  while (raw::mono_ns() < until) {
    const long tid = syscall(SYS_wait4, -1, &status, __WALL | WNOHANG, nullptr);
    if (tid < 0) break;
    if (tid > 0 && WIFSTOPPED(status)) trace(PTRACE_DETACH, static_cast<pid_t>(tid), 0, 0);
    if (tid == 0) usleep(100);
  }
  buffer_.close(false);
  return -1;
}

}  // namespace

int run_trace(int argc, char** argv, const Options& options) {
  CrashPage* page = map_page(options);
  if (page == nullptr) return complain("the crash page", EINVAL), EINVAL;
  Tracer tracer(*page, options);
  const int failed = tracer.seize();
  if (failed != 0) return complain("PTRACE_SEIZE", failed), failed;
  if (tracer.run() == 0) return 0;
  return become_capture(argc, argv, "crash", tracer.snapshot_fd());
}

}  // namespace defib::snapshot
