/* Victims in C: `victim_c MODE` dies in one way, each in a function of its own. The table in
 * catalogue.py says what each is to be called. A mode that is ended from outside says "ready"
 * first.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPAQUE(value)                    \
  ({                                     \
    __typeof__(value) hidden = (value);  \
    __asm__ volatile("" : "+r"(hidden)); \
    hidden;                              \
  })
#define FUNCTION static __attribute__((noinline, noclone))

static const char* directory; /* of this program */

static void ready(void) {
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) _exit(90);
}
static void wait_for_ever(void) {
  while (1) pause();
}

struct order {
  char symbol[24];
  long quantity;
};

FUNCTION void null_read(void) {
  printf("%d\n", *OPAQUE((int*)0));
}
FUNCTION void null_member_write(void) {
  OPAQUE((struct order*)0)->quantity = 1;
}
FUNCTION void null_call(void) {
  OPAQUE((void (*)(void))0)();
}
FUNCTION void null_index(void) {
  OPAQUE((int*)0)[OPAQUE(3000)] = 1;
}
FUNCTION void wild_write(void) {
  *OPAQUE((volatile long*)0x123456789008) = 1;
}
FUNCTION void wild_jump(void) {
  OPAQUE((void (*)(void))0x654321000)();
}
FUNCTION void non_canonical(void) {
  *OPAQUE((volatile long*)0x4141414141414141) = 1;
}
FUNCTION void write_read_only(void) {
  char* text = OPAQUE((char*)"constant");
  text[0] = 'C';
}
FUNCTION void execute_data(void) {
  static unsigned char code[16] = {0xc3};
  OPAQUE((void (*)(void))(uintptr_t)code)();
}
FUNCTION void guard_page(void) {
  char* page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *OPAQUE(page) = 1;
}

struct node {
  struct node* next;
  long value[6];
};
FUNCTION void use_after_free(void) {
  struct node* first = malloc(sizeof *first);
  first->next = 0;
  free(first);
  /* The block's first word is now the allocator's link, mangled. */
  printf("%ld\n", OPAQUE(OPAQUE(first)->next)->value[2]);
}

FUNCTION int recurse(int depth) {
  volatile char frame[512];
  frame[0] = (char)depth;
  return recurse(depth + 1) + frame[0];
}
FUNCTION void stack_overflow(void) {
  recurse(0);
}
static void* overflow_in_thread(void* unused) {
  recurse(0);
  return unused;
}
FUNCTION void stack_overflow_thread(void) {
  pthread_t thread;
  pthread_create(&thread, 0, overflow_in_thread, 0);
  pthread_join(thread, 0);
}

FUNCTION void assertion(void) {
  int balance = OPAQUE(-5);
  assert(balance >= 0);
}
FUNCTION void plain_abort(void) {
  abort();
}
FUNCTION void abort_after_text(void) {
  fprintf(stderr, "fatal: the journal is unreadable\n");
  abort();
}
FUNCTION void abort_after_old_text(void) {
  /* A check that failed and was survived, long before. */
  fprintf(stderr, "test.c:1: check: Assertion `x' failed. (ignored)\n");
  for (int i = 0; i < 50; ++i) fprintf(stderr, "working %d\n", i);
  abort();
}
FUNCTION void double_free(void) {
  char* block = OPAQUE((char*)malloc(40));
  free(block);
  free(OPAQUE(block));
}
FUNCTION void invalid_free(void) {
  char* block = OPAQUE((char*)malloc(64));
  free(OPAQUE(block + 8));
}
FUNCTION void heap_smash(void) {
  char* a = OPAQUE((char*)malloc(1200));
  char* b = OPAQUE((char*)malloc(1200));
  memset(OPAQUE(a), 'A', OPAQUE(1232));
  free(b);
  free(a);
}
FUNCTION void crash_in_malloc(void) {
  /* A freed block's link is overwritten by a wild address: the allocator follows it. */
  void** blocks[3];
  for (int i = 0; i < 3; ++i) blocks[i] = OPAQUE((void**)malloc(48));
  for (int i = 0; i < 3; ++i) free(blocks[i]);
  const uintptr_t mangled = 0x123456789000 ^ ((uintptr_t)blocks[2] >> 12);
  *OPAQUE(blocks[2]) = (void*)mangled;
  for (int i = 0; i < 4; ++i) printf("%p\n", OPAQUE(malloc(48)));
}
FUNCTION __attribute__((optimize("stack-protector-all"))) void stack_smash(void) {
  char name[8];
  memset(OPAQUE((char*)name), 'A', OPAQUE(64));
}
extern char* __strcpy_chk(char* to, const char* from, size_t room);
FUNCTION void fortified_overflow(void) {
  char name[8];
  __strcpy_chk(OPAQUE((char*)name), OPAQUE((const char*)"much too long for it"), sizeof name);
}
FUNCTION void integer_division(void) {
  printf("%d\n", 10 / OPAQUE(0));
}
FUNCTION void integer_overflow_division(void) {
  printf("%d\n", OPAQUE(INT32_MIN) / OPAQUE(-1));
}
FUNCTION void trap(void) {
  __builtin_trap();
}
FUNCTION void bad_opcode(void) {
  __asm__ volatile(".byte 0x06"); /* no instruction in 64-bit mode */
}
FUNCTION void breakpoint(void) {
  __asm__ volatile("int3");
}
FUNCTION void raise_segv(void) {
  raise(SIGSEGV);
}

FUNCTION void truncated_mapping(void) {
  char path[] = "/tmp/victim-XXXXXX";
  int fd = mkstemp(path);
  unlink(path);
  if (ftruncate(fd, 8192) != 0) _exit(91);
  char* file = mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0);
  if (ftruncate(fd, 0) != 0) _exit(91);
  printf("%d\n", OPAQUE(file)[4096]);
}
FUNCTION void seccomp_kill(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {4, code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
  syscall(SYS_getppid);
}
FUNCTION void seccomp_kill_process(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {4, code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
  syscall(SYS_getppid);
}

static void limit(int what, rlim_t soft, rlim_t hard) {
  struct rlimit values = {soft, hard};
  if (setrlimit(what, &values) != 0) _exit(92);
}
FUNCTION void spin(void) {
  for (volatile long i = 0;; ++i) {
  }
}
FUNCTION void cpu_limit(void) {
  limit(RLIMIT_CPU, 1, 10);
  spin();
}
FUNCTION void cpu_hard_limit(void) {
  limit(RLIMIT_CPU, 1, 1);
  spin();
}
FUNCTION void file_size_limit(void) {
  limit(RLIMIT_FSIZE, 1000, 1000);
  char path[] = "/tmp/victim-XXXXXX";
  int fd = mkstemp(path);
  unlink(path);
  char block[4096] = {0};
  while (write(fd, block, sizeof block) > 0) {
  }
}
FUNCTION void broken_pipe(void) {
  int ends[2];
  if (pipe(ends) != 0) _exit(93);
  close(ends[0]);
  if (write(ends[1], "x", 1) < 0) _exit(94);
}
FUNCTION void exit_with_lines(void) {
  fprintf(stderr, "loading /etc/engine.conf\nerror: line 3: 'depth' must be a number\n");
  exit(3);
}
FUNCTION void exit_shell_code(void) {
  exit(128 + SIGSEGV);
}

static void crash_on_signal(int number) {
  *OPAQUE((volatile int*)0) = number;
}
FUNCTION void crash_in_handler(void) {
  signal(SIGUSR1, crash_on_signal);
  raise(SIGUSR1);
}
static pthread_barrier_t together;
static void* crash_together(void* unused) {
  pthread_barrier_wait(&together);
  *OPAQUE((volatile int*)0) = 1;
  return unused;
}
FUNCTION void eight_threads(void) {
  pthread_barrier_init(&together, 0, 8);
  for (int i = 0; i < 8; ++i) {
    pthread_t thread;
    pthread_create(&thread, 0, crash_together, 0);
  }
  wait_for_ever();
}
static void* load(const char* library) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, library);
  void* handle = dlopen(path, RTLD_NOW);
  if (handle == 0) fprintf(stderr, "%s\n", dlerror());
  return handle;
}
FUNCTION void library_constructor(void) {
  setenv("VICTIM_LIBRARY", "crash", 1);
  load("libvictim_library.so");
}
FUNCTION void exit_in_library(void) {
  setenv("VICTIM_LIBRARY", "exit", 1);
  load("libvictim_library.so");
}
FUNCTION void child_crashes(void) {
  const pid_t child = fork();
  if (child == 0) null_read();
  int status = 0;
  waitpid(child, &status, 0);
  fprintf(stderr, "error: the worker died of signal %d\n", WTERMSIG(status));
  exit(7);
}
FUNCTION void crash_after_exec(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/victim_c", directory);
  execl(path, path, "null_read", (char*)0);
}
FUNCTION void handler_exits(void) {
  struct sigaction action = {0};
  action.sa_handler = _exit;
  sigaction(SIGSEGV, &action, 0);
  *OPAQUE((volatile int*)0) = 1;
}

FUNCTION void waits(void) {
  ready();
  wait_for_ever();
}
FUNCTION void child_killed_then_waits(void) {
  /* A child is killed as the kernel does it for memory, long before the end of the parent. */
  const pid_t child = fork();
  if (child == 0) wait_for_ever();
  kill(child, SIGKILL);
  waitpid(child, 0, 0);
  fprintf(stderr, "Out of memory: Killed process %d (victim_c)\n", (int)child);
  waits();
}
FUNCTION void kills_itself(void) {
  kill(getpid(), SIGKILL);
  wait_for_ever();
}
FUNCTION void eats_memory(void) {
  ready();
  for (long i = 0; i < 4096; ++i) memset(OPAQUE((char*)malloc(1 << 20)), 1, 1 << 20);
  wait_for_ever();
}
FUNCTION void child_eats_memory_then_waits(void) {
  const pid_t child = fork();
  if (child == 0) {
    FILE* file = fopen("/proc/self/oom_score_adj", "w");
    if (file) fputs("1000", file), fclose(file);
    for (long i = 0; i < 4096; ++i) memset(OPAQUE((char*)malloc(1 << 20)), 1, 1 << 20);
  }
  waitpid(child, 0, 0);
  waits();
}

struct mode {
  const char* name;
  void (*run)(void);
};
#define MODE(name) {#name, name}
static const struct mode modes[] = {
    MODE(null_read),
    MODE(null_member_write),
    MODE(null_call),
    MODE(null_index),
    MODE(wild_write),
    MODE(wild_jump),
    MODE(non_canonical),
    MODE(write_read_only),
    MODE(execute_data),
    MODE(guard_page),
    MODE(use_after_free),
    MODE(stack_overflow),
    MODE(stack_overflow_thread),
    MODE(assertion),
    MODE(plain_abort),
    MODE(abort_after_text),
    MODE(abort_after_old_text),
    MODE(double_free),
    MODE(invalid_free),
    MODE(heap_smash),
    MODE(crash_in_malloc),
    MODE(stack_smash),
    MODE(fortified_overflow),
    MODE(integer_division),
    MODE(integer_overflow_division),
    MODE(trap),
    MODE(bad_opcode),
    MODE(breakpoint),
    MODE(raise_segv),
    MODE(truncated_mapping),
    MODE(seccomp_kill),
    MODE(seccomp_kill_process),
    MODE(cpu_limit),
    MODE(cpu_hard_limit),
    MODE(file_size_limit),
    MODE(broken_pipe),
    MODE(exit_with_lines),
    MODE(exit_shell_code),
    MODE(crash_in_handler),
    MODE(eight_threads),
    MODE(library_constructor),
    MODE(exit_in_library),
    MODE(child_crashes),
    MODE(crash_after_exec),
    MODE(handler_exits),
    MODE(waits),
    MODE(child_killed_then_waits),
    MODE(kills_itself),
    MODE(eats_memory),
    MODE(child_eats_memory_then_waits),
};

int main(int argc, char** argv) {
  static char own[4096];
  if (readlink("/proc/self/exe", own, sizeof own - 1) < 0) return 95;
  *strrchr(own, '/') = 0;
  directory = own;
  for (size_t i = 0; argc == 2 && i < sizeof modes / sizeof modes[0]; ++i) {
    if (strcmp(modes[i].name, argv[1]) == 0) {
      modes[i].run();
      return 0;
    }
  }
  fprintf(stderr, "usage: victim_c MODE\n");
  return 96;
}
