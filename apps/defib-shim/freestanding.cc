// The C library of the shim: the sixty functions that it uses, as plain system calls.
//
// A static program with glibc maps 0.7 MB before its first line, a fresh copy in memory for a
// machine with one service. This one maps what it uses. The declarations are glibc's headers, the
// structures are the kernel's where both agree on 64-bit machines (asserted below where they could
// differ). One thread, so errno is a plain integer. Not used in sanitizer builds.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the freestanding shim knows x86-64 and AArch64; link defib-shim with the C library instead"
#endif

namespace {

constexpr size_t kKernelSigset = 8;  // bytes; glibc's sigset_t begins with them
int errno_value;

long raw(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#else
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
#endif
}

template <typename T>
long word(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// As the C library answers: -1 and errno.
long checked(long result) {
  if (result >= 0 || result < -4095) return result;
  errno_value = static_cast<int>(-result);
  return -1;
}
int checked_int(long result) {
  return static_cast<int>(checked(result));
}

// The kernel's struct sigaction; handlers are never functions here, so no restorer is needed.
struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void* restorer;
  uint64_t mask;
};

}  // namespace

int main(int argc, char** argv);

extern "C" {

char** environ;

int* __errno_location() noexcept {
  return &errno_value;
}

[[noreturn]] void _exit(int code) {
  raw(SYS_exit_group, code);
  __builtin_trap();
}

// The kernel leaves argc, argv and the environment on the stack.
[[noreturn, gnu::used]] void start_with_stack(long* stack) {
  const int argc = static_cast<int>(stack[0]);
  char** argv = reinterpret_cast<char**>(stack + 1);
  environ = argv + argc + 1;
  _exit(main(argc, argv));
}

#if defined(__x86_64__)
asm(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n"
    "  call start_with_stack\n");
// The child shares our stack: the return address is kept in a register, for both to return by.
asm(".globl vfork\n.type vfork, @function\nvfork:\n  pop %rdx\n  mov $58, %eax\n  syscall\n"
    "  push %rdx\n  cmp $-4095, %rax\n  jae 1f\n  ret\n1: mov %rax, %rdi\n  jmp vfork_failed\n");
asm(".globl vfork_with\n.type vfork_with, @function\nvfork_with:\n  pop %rdx\n  mov $435, %eax\n"
    "  syscall\n  push %rdx\n  cmp $-4095, %rax\n  jae 1f\n  ret\n"
    "1: mov %rax, %rdi\n  jmp vfork_failed\n");
#else
asm(".globl _start\n_start:\n  mov x29, #0\n  mov x30, #0\n  mov x0, sp\n  b start_with_stack\n");
asm(".globl vfork\n.type vfork, @function\nvfork:\n  mov x0, #0x4111\n  mov x1, #0\n  mov x2, #0\n"
    "  mov x3, #0\n  mov x4, #0\n  mov x8, #220\n  svc 0\n  cmn x0, #4095\n  b.cs 1f\n  ret\n"
    "1: b vfork_failed\n");
asm(".globl vfork_with\n.type vfork_with, @function\nvfork_with:\n  mov x8, #435\n  svc 0\n"
    "  cmn x0, #4095\n  b.cs 1f\n  ret\n1: b vfork_failed\n");
#endif
[[gnu::used]] int vfork_failed(long result) {
  return checked_int(result);
}

// Memory and text. Compiled so that the compiler does not turn the loops into calls of themselves.
void* memcpy(void* to, const void* from, size_t size) noexcept {
#if defined(__x86_64__)
  void* at = to;
  asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
  return to;
#else
  auto* t = static_cast<unsigned char*>(to);
  const auto* f = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < size; ++i) t[i] = f[i];
  return to;
#endif
}
void* memmove(void* to, const void* from, size_t size) noexcept {
  auto* t = static_cast<unsigned char*>(to);
  const auto* f = static_cast<const unsigned char*>(from);
  if (t <= f) return memcpy(to, from, size);
  while (size > 0) {
    --size;
    t[size] = f[size];
  }
  return to;
}
void* memset(void* to, int value, size_t size) noexcept {
#if defined(__x86_64__)
  void* at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
#else
  auto* t = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < size; ++i) t[i] = static_cast<unsigned char>(value);
#endif
  return to;
}
int memcmp(const void* a, const void* b, size_t size) noexcept {
  const auto* x = static_cast<const unsigned char*>(a);
  const auto* y = static_cast<const unsigned char*>(b);
  for (size_t i = 0; i < size; ++i) {
    if (x[i] != y[i]) return x[i] - y[i];
  }
  return 0;
}
size_t strlen(const char* text) noexcept {
  size_t size = 0;
  while (text[size] != 0) ++size;
  return size;
}
int strncmp(const char* a, const char* b, size_t size) noexcept {
  for (size_t i = 0; i < size; ++i) {
    if (a[i] != b[i] || a[i] == 0) {
      return static_cast<unsigned char>(a[i]) - static_cast<unsigned char>(b[i]);
    }
  }
  return 0;
}
int strcmp(const char* a, const char* b) noexcept {
  return strncmp(a, b, SIZE_MAX);
}
size_t strcspn(const char* text, const char* stop) noexcept {
  size_t size = 0;
  for (; text[size] != 0; ++size) {
    for (const char* s = stop; *s != 0; ++s) {
      if (*s == text[size]) return size;
    }
  }
  return size;
}

// Files.
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & O_CREAT) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  return checked_int(raw(SYS_openat, AT_FDCWD, word(path), flags, mode));
}
int close(int fd) {
  return checked_int(raw(SYS_close, fd));
}
ssize_t read(int fd, void* to, size_t size) {
  return checked(raw(SYS_read, fd, word(to), static_cast<long>(size)));
}
ssize_t write(int fd, const void* from, size_t size) {
  return checked(raw(SYS_write, fd, word(from), static_cast<long>(size)));
}
ssize_t pread(int fd, void* to, size_t size, off_t at) {
  return checked(raw(SYS_pread64, fd, word(to), static_cast<long>(size), at));
}
ssize_t pwrite(int fd, const void* from, size_t size, off_t at) {
  return checked(raw(SYS_pwrite64, fd, word(from), static_cast<long>(size), at));
}
ssize_t splice(int from, off64_t* from_at, int to, off64_t* to_at, size_t size, unsigned flags) {
  return checked(raw(SYS_splice, from, word(from_at), to, word(to_at), static_cast<long>(size),
                     static_cast<long>(flags)));
}
ssize_t tee(int from, int to, size_t size, unsigned flags) {
  return checked(raw(SYS_tee, from, to, static_cast<long>(size), static_cast<long>(flags)));
}
int pipe2(int fds[2], int flags) noexcept {
  return checked_int(raw(SYS_pipe2, word(fds), flags));
}
int fstat(int fd, struct stat* info) noexcept {
  return checked_int(raw(SYS_fstat, fd, word(info)));
}
int ftruncate(int fd, off_t size) noexcept {
  return checked_int(raw(SYS_ftruncate, fd, size));
}
// Returns the error, as POSIX has it; where the file system cannot, the caller goes on without.
int posix_fallocate(int fd, off_t at, off_t size) {
  return static_cast<int>(-raw(SYS_fallocate, fd, 0, at, size));
}
int mkfifo(const char* path, mode_t mode) noexcept {
  return checked_int(raw(SYS_mknodat, AT_FDCWD, word(path), static_cast<long>(S_IFIFO | mode), 0));
}
int mkdir(const char* path, mode_t mode) noexcept {
  return checked_int(raw(SYS_mkdirat, AT_FDCWD, word(path), static_cast<long>(mode)));
}
int rename(const char* from, const char* to) noexcept {
  return checked_int(raw(SYS_renameat2, AT_FDCWD, word(from), AT_FDCWD, word(to), 0));
}
int unlink(const char* path) noexcept {
  return checked_int(raw(SYS_unlinkat, AT_FDCWD, word(path), 0));
}
int chdir(const char* path) noexcept {
  return checked_int(raw(SYS_chdir, word(path)));
}
int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  const long argument = va_arg(rest, long);
  va_end(rest);
  return checked_int(raw(SYS_fcntl, fd, command, argument));
}
int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list rest;
  va_start(rest, request);
  const long argument = va_arg(rest, long);
  va_end(rest);
  return checked_int(raw(SYS_ioctl, fd, static_cast<long>(request), argument));
}
int dup3(int from, int to, int flags) noexcept {
  return checked_int(raw(SYS_dup3, from, to, flags));
}
int dup2(int from, int to) noexcept {
  if (from == to) return checked_int(raw(SYS_fcntl, from, F_GETFD)) < 0 ? -1 : to;
  return dup3(from, to, 0);
}
int memfd_create(const char* name, unsigned flags) noexcept {
  return checked_int(raw(SYS_memfd_create, word(name), static_cast<long>(flags)));
}
void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  return reinterpret_cast<void*>(
      checked(raw(SYS_mmap, word(at), static_cast<long>(size), protection, flags, fd, offset)));
}
int munmap(void* at, size_t size) noexcept {
  return checked_int(raw(SYS_munmap, word(at), static_cast<long>(size)));
}
int madvise(void* at, size_t size, int advice) noexcept {
  return checked_int(raw(SYS_madvise, word(at), static_cast<long>(size), advice));
}

// Waiting and sockets.
int poll(pollfd* fds, nfds_t count, int timeout_ms) {
  timespec time = {timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
  return checked_int(raw(SYS_ppoll, word(fds), static_cast<long>(count),
                         timeout_ms < 0 ? 0 : word(&time), 0, kKernelSigset));
}
int epoll_create1(int flags) noexcept {
  return checked_int(raw(SYS_epoll_create1, flags));
}
int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
  return checked_int(raw(SYS_epoll_ctl, epoll, operation, fd, word(event)));
}
int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms) {
  return checked_int(
      raw(SYS_epoll_pwait, epoll, word(events), count, timeout_ms, 0, kKernelSigset));
}
int socket(int domain, int type, int protocol) noexcept {
  return checked_int(raw(SYS_socket, domain, type, protocol));
}
int bind(int fd, const sockaddr* address, socklen_t size) noexcept {
  return checked_int(raw(SYS_bind, fd, word(address), static_cast<long>(size)));
}
int getsockname(int fd, sockaddr* address, socklen_t* size) noexcept {
  return checked_int(raw(SYS_getsockname, fd, word(address), word(size)));
}
int listen(int fd, int backlog) noexcept {
  return checked_int(raw(SYS_listen, fd, backlog));
}
int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  return checked_int(raw(SYS_accept4, fd, word(address), word(size), flags));
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  return checked(raw(SYS_sendmsg, fd, word(message), flags));
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  return checked(raw(SYS_recvmsg, fd, word(message), flags));
}
int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  return checked_int(raw(SYS_setsockopt, fd, level, name, word(value), static_cast<long>(size)));
}
int getsockopt(int fd, int level, int name, void* value, socklen_t* size) noexcept {
  return checked_int(raw(SYS_getsockopt, fd, level, name, word(value), word(size)));
}
cmsghdr* __cmsg_nxthdr(msghdr* message, cmsghdr* header) noexcept {
  const size_t step = CMSG_ALIGN(header->cmsg_len);
  auto* next = reinterpret_cast<char*>(header) + step;
  const auto* end = static_cast<const char*>(message->msg_control) + message->msg_controllen;
  if (header->cmsg_len < sizeof(cmsghdr) || next + sizeof(cmsghdr) > end) return nullptr;
  auto* result = reinterpret_cast<cmsghdr*>(next);
  return next + CMSG_ALIGN(result->cmsg_len) > end ? nullptr : result;
}

// Signals.
int sigemptyset(sigset_t* set) noexcept {
  memset(set, 0, sizeof *set);
  return 0;
}
int sigfillset(sigset_t* set) noexcept {
  memset(set, 0xff, sizeof *set);
  return 0;
}
int sigaddset(sigset_t* set, int signal) noexcept {
  set->__val[0] |= 1UL << (signal - 1);
  return 0;
}
int sigprocmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  return checked_int(raw(SYS_rt_sigprocmask, how, word(set), word(old), kKernelSigset));
}
int sigaction(int signal, const struct sigaction* action, struct sigaction*) noexcept {
  KernelSigaction kernel = {reinterpret_cast<void*>(action->sa_handler), 0, nullptr, 0};
  return checked_int(raw(SYS_rt_sigaction, signal, word(&kernel), 0, kKernelSigset));
}
int signalfd(int fd, const sigset_t* set, int flags) noexcept {
  return checked_int(raw(SYS_signalfd4, fd, word(set), kKernelSigset, flags));
}
int kill(pid_t pid, int signal) noexcept {
  return checked_int(raw(SYS_kill, pid, signal));
}

// Processes and time.
pid_t getpid() noexcept {
  return static_cast<pid_t>(raw(SYS_getpid));
}
pid_t getpgid(pid_t pid) noexcept {
  return checked_int(raw(SYS_getpgid, pid));
}
pid_t getpgrp() noexcept {
  return getpgid(0);
}
pid_t setsid() noexcept {
  return checked_int(raw(SYS_setsid));
}
uid_t geteuid() noexcept {
  return static_cast<uid_t>(raw(SYS_geteuid));
}
int prctl(int option, ...) noexcept {
  va_list rest;
  va_start(rest, option);
  const long argument = va_arg(rest, long);
  va_end(rest);
  return checked_int(raw(SYS_prctl, option, argument));
}
int execve(const char* path, char* const argv[], char* const env[]) noexcept {
  return checked_int(raw(SYS_execve, word(path), word(argv), word(env)));
}
pid_t wait4(pid_t pid, int* status, int options, rusage* usage) noexcept {
  return checked_int(raw(SYS_wait4, pid, word(status), options, word(usage)));
}
pid_t waitpid(pid_t pid, int* status, int options) {
  return wait4(pid, status, options, nullptr);
}
int waitid(idtype_t type, id_t id, siginfo_t* info, int options) {
  return checked_int(raw(SYS_waitid, type, static_cast<long>(id), word(info), options, 0));
}
int clock_gettime(clockid_t clock, timespec* time) noexcept {
  return checked_int(raw(SYS_clock_gettime, clock, word(time)));
}
int usleep(useconds_t microseconds) {
  const timespec time = {microseconds / 1'000'000, microseconds % 1'000'000 * 1000L};
  return checked_int(raw(SYS_nanosleep, word(&time), 0));
}
long syscall(long number, ...) noexcept {
  va_list rest;
  va_start(rest, number);
  long a[6];
  for (long& argument : a) argument = va_arg(rest, long);
  va_end(rest);
  return checked(raw(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

}  // extern "C"
