#include "life_watch.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__aarch64__)
#define DEFIB_SHIM_THREADS 1
#endif

namespace defib::process::shim {

bool LifeWatch::is_held(const AgentPage& page) {
  uint32_t word;
  memcpy(&word, page.life, sizeof word);
  const auto tid = static_cast<uint32_t>(page.life_tid.load());
  return tid != 0 && (word & FUTEX_TID_MASK) == tid && (word & FUTEX_OWNER_DIED) == 0;
}

#ifdef DEFIB_SHIM_THREADS

extern "C" long defib_shim_clone(unsigned long flags, void* stack, void (*function)(void*),
                                 void* argument, uint32_t* child_tid);

// The new thread begins on its own stack, where function and argument lie, and ends without return.
#if defined(__x86_64__)
asm(".globl defib_shim_clone\n.type defib_shim_clone, @function\ndefib_shim_clone:\n"
    "  sub $16, %rsi\n  mov %rdx, (%rsi)\n  mov %rcx, 8(%rsi)\n  mov %r8, %r10\n"
    "  xor %edx, %edx\n  xor %r8d, %r8d\n  mov $56, %eax\n  syscall\n  test %rax, %rax\n"
    "  jnz 1f\n  xor %ebp, %ebp\n  pop %rax\n  pop %rdi\n  call *%rax\n  mov $60, %eax\n"
    "  xor %edi, %edi\n  syscall\n  hlt\n1: ret\n");
#else
asm(".globl defib_shim_clone\n.type defib_shim_clone, @function\ndefib_shim_clone:\n"
    "  stp x2, x3, [x1, #-16]!\n  mov x2, #0\n  mov x3, #0\n  mov x8, #220\n  svc 0\n"
    "  cbnz x0, 1f\n  mov x29, #0\n  ldp x1, x0, [sp], #16\n  blr x1\n  mov x0, #0\n"
    "  mov x8, #93\n  svc 0\n1: ret\n");
#endif

namespace {

// Without errno, which belongs to the loop's thread.
#if defined(__x86_64__)
[[gnu::always_inline]] inline long call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}
#else
[[gnu::always_inline]] inline long call(long number, long a, long b, long c, long d) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
}
#endif

constexpr unsigned long kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                       CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;

}  // namespace

[[gnu::no_sanitize("address", "thread", "undefined"), gnu::optimize("no-stack-protector")]] void
LifeWatch::run(void* self) {
  auto& watch = *static_cast<LifeWatch*>(self);
  uint32_t* const word = watch.word_;
  while (__atomic_load_n(&watch.stop_, __ATOMIC_ACQUIRE) == 0) {
    uint32_t value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if ((value & FUTEX_OWNER_DIED) != 0 || (value & FUTEX_TID_MASK) == 0) break;
    if ((value & FUTEX_WAITERS) == 0) {
      // Without this mark the kernel wakes nobody.
      if (!__atomic_compare_exchange_n(word, &value, value | FUTEX_WAITERS, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE)) {
        continue;
      }
      value |= FUTEX_WAITERS;
    }
    call(SYS_futex, reinterpret_cast<long>(word), FUTEX_WAIT, static_cast<long>(value), 0);
  }
  __atomic_store_n(&watch.state_, kFired, __ATOMIC_RELEASE);
  const uint64_t one = 1;
  // A FIFO that is full wakes the loop as well.
  call(SYS_write, watch.wake_fd_, reinterpret_cast<long>(&one), sizeof one, 0);
}

int LifeWatch::begin(AgentPage* page, int wake_fd) {
  end();
  word_ = reinterpret_cast<uint32_t*>(page->life);
  wake_fd_ = wake_fd;
  stop_ = 0;
  thread_ = 1;
  state_ = kWatching;
  const long made = defib_shim_clone(kThreadFlags, stack_ + kStackSize, run, this, &thread_);
  if (made > 0) return 0;
  thread_ = 0;
  state_ = kIdle;
  return static_cast<int>(made);
}

void LifeWatch::end() {
  __atomic_store_n(&stop_, 1, __ATOMIC_RELEASE);
  // The thread may be about to sleep when it is woken: then it is woken again.
  uint32_t thread;
  while ((thread = __atomic_load_n(&thread_, __ATOMIC_ACQUIRE)) != 0) {
    call(SYS_futex, reinterpret_cast<long>(word_), FUTEX_WAKE, INT32_MAX, 0);
    const timespec while_ending = {0, 1'000'000};
    call(SYS_futex, reinterpret_cast<long>(&thread_), FUTEX_WAIT, static_cast<long>(thread),
         reinterpret_cast<long>(&while_ending));
  }
  state_ = kIdle;
}

#else

int LifeWatch::begin(AgentPage*, int) {
  return -ENOSYS;
}
void LifeWatch::end() {
  state_ = kIdle;
}

#endif

}  // namespace defib::process::shim
