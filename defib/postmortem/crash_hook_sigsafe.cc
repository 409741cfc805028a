#include "defib/postmortem/crash_hook_sigsafe.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

namespace defib::postmortem {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
constexpr int kSignalCount = sizeof kSignals / sizeof kSignals[0];
// Our own frames need less than 4 KiB; the rest is for an earlier handler that is called after us.
constexpr size_t kAlternateStackBytes = 64 * 1024;
constexpr size_t kPageBytes = 4096;
constexpr long kNanosecondsPerMs = 1'000'000;
// How long a second crashing thread waits for the first one to end the process.
constexpr long kSecondCrashWaitMs = 2 * kMaxCaptureTimeoutMs;

// What glibc prints before it aborts (assert, malloc's checks, stack protector); layout as in
// glibc's include/stdlib.h, read by debuggers for many years.
struct AbortMessage {
  unsigned int size;
  char text[1];
};

struct Hook {
  std::atomic<CrashPage*> page{nullptr};
  std::atomic<int> event_fd{-1};
  std::atomic<int> pid{0};
  std::atomic<int> first_tid{0};  // the crashed thread that owns the page; 0: none; a futex word
  AbortMessage** abort_message = nullptr;
  struct sigaction previous[kSignalCount] = {};
  bool taken[kSignalCount] = {};
};
constinit Hook hook;

int own_tid() {
  return static_cast<int>(syscall(SYS_gettid));
}
int own_pid() {
  return static_cast<int>(syscall(SYS_getpid));
}

int64_t mono_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// Waits while `word` holds `value`, at latest until the deadline. True: the word changed.
bool wait_for_change(const std::atomic<uint32_t>& word, uint32_t value, int64_t deadline_ns) {
  while (word.load(std::memory_order_acquire) == value) {
    const int64_t left = deadline_ns - mono_ns();
    if (left <= 0) return false;
    const timespec timeout = {static_cast<time_t>(left / 1'000'000'000),
                              static_cast<long>(left % 1'000'000'000)};
    // Shared, not private: the one who wakes us is another process.
    const long rc = syscall(SYS_futex, &word, FUTEX_WAIT, value, &timeout, nullptr, 0);
    if (rc != 0 && errno == ENOSYS) return false;
  }
  return true;
}

void copy_abort_message(CrashPage& page) {
  if (page.message[0] != '\0') return;  // The terminate handler has written already.
  if (hook.abort_message == nullptr || *hook.abort_message == nullptr) return;
  const AbortMessage& message = **hook.abort_message;
  size_t size = 0;
  while (size < sizeof page.message - 1 && message.text[size] != '\0') {
    page.message[size] = message.text[size];
    ++size;
  }
  while (size > 0 && page.message[size - 1] == '\n') --size;
  page.message[size] = '\0';
}

#if defined(__x86_64__)

void copy_registers(CrashPage& page, const ucontext_t& context) {
  // The kernel's order, put into the order of the System V ABI's DWARF numbers.
  constexpr int kOrder[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const auto& registers = context.uc_mcontext.gregs;
  for (size_t i = 0; i < sizeof kOrder / sizeof kOrder[0]; ++i) {
    page.registers[i] = static_cast<uint64_t>(registers[kOrder[i]]);
  }
  page.registers[kCrashPcRegister] = static_cast<uint64_t>(registers[REG_RIP]);
  page.machine = EM_X86_64;
  // The page fault's error code: bit 1 write, bit 4 instruction fetch (Intel SDM vol. 3, 4.7).
  constexpr greg_t kPageFault = 14;
  if (registers[REG_TRAPNO] != kPageFault) return;
  const greg_t error = registers[REG_ERR];
  const CrashAccess access = (error & 16) != 0  ? CrashAccess::kExecute
                             : (error & 2) != 0 ? CrashAccess::kWrite
                                                : CrashAccess::kRead;
  page.access = static_cast<uint32_t>(access);
}

#elif defined(__aarch64__)

void copy_registers(CrashPage& page, const ucontext_t& context) {
  const mcontext_t& registers = context.uc_mcontext;
  for (size_t i = 0; i < 31; ++i) page.registers[i] = registers.regs[i];
  page.registers[31] = registers.sp;
  page.registers[kCrashPcRegister] = registers.pc;
  page.machine = EM_AARCH64;
  // The kernel's list of extra records; the one with the syndrome register has the write bit 6
  // for data aborts (exception classes 0x24, 0x25) (Arm ARM, ESR_ELx).
  const auto* record = reinterpret_cast<const unsigned char*>(registers.__reserved);
  for (size_t at = 0; at + 16 <= sizeof registers.__reserved;) {
    uint32_t magic = 0;
    uint32_t size = 0;
    uint64_t syndrome = 0;
    __builtin_memcpy(&magic, record + at, 4);
    __builtin_memcpy(&size, record + at + 4, 4);
    __builtin_memcpy(&syndrome, record + at + 8, 8);
    if (magic == 0 || size < 16) return;
    constexpr uint32_t kSyndromeMagic = 0x45535201;
    if (magic == kSyndromeMagic) {
      const uint64_t exception_class = syndrome >> 26 & 0x3f;
      CrashAccess access = CrashAccess::kUnknown;
      if (exception_class == 0x20 || exception_class == 0x21) access = CrashAccess::kExecute;
      if (exception_class == 0x24 || exception_class == 0x25) {
        access = (syndrome >> 6 & 1) != 0 ? CrashAccess::kWrite : CrashAccess::kRead;
      }
      page.access = static_cast<uint32_t>(access);
      return;
    }
    at += size;
  }
}

#else
#error "the crash hook knows x86-64 and AArch64"
#endif

void fill(CrashPage& page, int tid, int signal, const siginfo_t& info, void* context) {
  page.pid = own_pid();
  page.tid = tid;
  page.signal = signal;
  page.signal_code = info.si_code;
  const bool sent = info.si_code <= 0;  // SI_USER, SI_TKILL, SI_QUEUE...: a process sent it.
  page.sender_pid = sent ? info.si_pid : 0;
  page.sender_uid = sent ? static_cast<int32_t>(info.si_uid) : 0;
  page.fault_address = sent ? 0 : reinterpret_cast<uint64_t>(info.si_addr);
  page.context_address = reinterpret_cast<uint64_t>(context);
  page.crashed_mono_ns = mono_ns();
  page.captured_mono_ns = 0;
  page.access = static_cast<uint32_t>(CrashAccess::kUnknown);
  copy_registers(page, *static_cast<const ucontext_t*>(context));
  // Only abort() leaves a message, and a stale one must not explain another signal.
  if (signal == SIGABRT) {
    copy_abort_message(page);
  } else {
    page.message[0] = '\0';
  }
}

void report(CrashPage& page, int tid, int signal, const siginfo_t& info, void* context) {
  // Where Yama restricts ptrace to ancestors this lets the helper attach; elsewhere it does
  // nothing.
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  fill(page, tid, signal, info, context);
  constexpr auto kCrashed = static_cast<uint32_t>(CrashState::kCrashed);
  page.state.store(kCrashed, std::memory_order_release);
  // Who waits for the crash itself, and not for the descriptor.
  syscall(SYS_futex, &page.state, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  const int event_fd = hook.event_fd.load(std::memory_order_relaxed);
  if (event_fd >= 0) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_fd, &one, sizeof one);
  }
  uint32_t timeout_ms = page.capture_timeout_ms;
  if (timeout_ms > kMaxCaptureTimeoutMs) timeout_ms = kMaxCaptureTimeoutMs;
  const int64_t deadline = page.crashed_mono_ns + timeout_ms * int64_t{kNanosecondsPerMs};
  if (!wait_for_change(page.state, kCrashed, deadline)) {
    uint32_t expected = kCrashed;
    page.state.compare_exchange_strong(expected, static_cast<uint32_t>(CrashState::kGivenUp));
  }
}

// Another thread is reporting its crash already and will end the process.
void wait_for_first_thread(int first_tid) {
  const int64_t deadline = mono_ns() + kSecondCrashWaitMs * int64_t{kNanosecondsPerMs};
  while (hook.first_tid.load(std::memory_order_acquire) == first_tid && mono_ns() < deadline) {
    const timespec pause = {0, kNanosecondsPerMs};
    nanosleep(&pause, nullptr);
  }
}

// True for a signal that comes again by itself when the handler returns: the instruction faults
// anew. Not for traps, which have been passed, nor for signals that somebody sent.
bool recurs_on_return(int signal, int code) {
  if (code <= 0) return false;
  if (signal == SIGBUS) return code != BUS_MCEERR_AO;
  return signal == SIGSEGV || signal == SIGILL || signal == SIGFPE;
}

// Puts back what was there before and lets the same signal happen again, with the same siginfo.
// It arrives when this handler returns, in the context of the fault.
void hand_on(int signal, siginfo_t* info) {
  struct sigaction before = {};
  before.sa_handler = SIG_DFL;
  for (int i = 0; i < kSignalCount; ++i) {
    if (kSignals[i] == signal && hook.taken[i]) before = hook.previous[i];
  }
  sigaction(signal, &before, nullptr);
  if (recurs_on_return(signal, info->si_code)) return;
  if (syscall(SYS_rt_tgsigqueueinfo, own_pid(), own_tid(), signal, info) == 0) return;
  if (syscall(SYS_tgkill, own_pid(), own_tid(), signal) == 0) return;
  _exit(128 + signal);
}

void on_crash(int signal, siginfo_t* info, void* context) noexcept {
  const int saved_errno = errno;
  CrashPage* page = hook.page.load(std::memory_order_acquire);
  const int tid = own_tid();
  if (page != nullptr && own_pid() == hook.pid.load(std::memory_order_relaxed)) {
    int first = 0;
    if (hook.first_tid.compare_exchange_strong(first, tid)) {
      report(*page, tid, signal, *info, context);
    } else if (first != tid) {
      wait_for_first_thread(first);
    }
  }
  hand_on(signal, info);
  errno = saved_errno;
}

size_t alternate_stack_bytes() {
  // Vector registers of newer processors make the kernel's signal frame larger than SIGSTKSZ.
  const size_t frame = getauxval(AT_MINSIGSTKSZ);
  return (kAlternateStackBytes + frame + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

int install_crash_hook(CrashPage* page, int event_fd, const CrashHookOptions& options) {
  if (page == nullptr) {
    errno = EINVAL;
    return -1;
  }
  if (!guard_thread_stack()) return -1;
  hook.abort_message = static_cast<AbortMessage**>(dlsym(RTLD_DEFAULT, "__abort_msg"));
  hook.pid.store(own_pid(), std::memory_order_relaxed);
  hook.event_fd.store(event_fd, std::memory_order_relaxed);
  hook.first_tid.store(0, std::memory_order_relaxed);
  hook.page.store(page, std::memory_order_release);

  int count = 0;
  for (int i = 0; i < kSignalCount; ++i) {
    struct sigaction before = {};
    if (sigaction(kSignals[i], nullptr, &before) != 0) return -1;
    const bool ours = (before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction == on_crash;
    if (ours) {
      ++count;
      continue;
    }
    const bool has_handler = (before.sa_flags & SA_SIGINFO) != 0 || before.sa_handler != SIG_DFL;
    const bool ignored = (before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler == SIG_IGN;
    if (ignored || (has_handler && options.only_default)) continue;
    struct sigaction action = {};
    action.sa_sigaction = on_crash;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    hook.previous[i] = before;
    hook.taken[i] = true;
    if (sigaction(kSignals[i], &action, nullptr) != 0) return -1;
    ++count;
  }
  return count;
}

void uninstall_crash_hook() {
  for (int i = 0; i < kSignalCount; ++i) {
    struct sigaction now = {};
    if (!hook.taken[i] || sigaction(kSignals[i], nullptr, &now) != 0) continue;
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_crash) {
      sigaction(kSignals[i], &hook.previous[i], nullptr);
    }
    hook.taken[i] = false;
  }
  hook.page.store(nullptr, std::memory_order_release);
}

bool guard_thread_stack() {
  stack_t now = {};
  if (sigaltstack(nullptr, &now) != 0) return false;
  if ((now.ss_flags & SS_DISABLE) == 0) return true;
  // The guard page below keeps an overflow of this stack from damaging a neighbour.
  const size_t size = alternate_stack_bytes();
  void* memory = mmap(nullptr, size + kPageBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  stack_t stack = {};
  stack.ss_sp = static_cast<char*>(memory) + kPageBytes;
  stack.ss_size = size;
  if (mprotect(stack.ss_sp, size, PROT_READ | PROT_WRITE) != 0 ||
      sigaltstack(&stack, nullptr) != 0) {
    munmap(memory, size + kPageBytes);
    return false;
  }
  return true;
}

void unguard_thread_stack() {
  stack_t now = {};
  if (sigaltstack(nullptr, &now) != 0 || (now.ss_flags & SS_DISABLE) != 0) return;
  // A stack of another size was not made by guard_thread_stack().
  if (now.ss_size != alternate_stack_bytes()) return;
  stack_t none = {};
  none.ss_flags = SS_DISABLE;
  if (sigaltstack(&none, nullptr) != 0) return;
  munmap(static_cast<char*>(now.ss_sp) - kPageBytes, now.ss_size + kPageBytes);
}

}  // namespace defib::postmortem
