// defib-guardian PROGRAM ARGUMENTS...
//
// The process that a user or an init system knows as `defib run` or `defib daemon`. It has one
// child, the supervisor, and one duty: that there is always one. `defib` executes it in its own
// place (same pid) and is started by it again as the child.
//
// Promises:
//   - A supervisor that is killed or crashes is started again at once; one that dies again and
//   again
//     at its start waits a little longer each time. A supervisor that ends by itself ends the
//     guardian, with the same exit code.
//   - The child dies with the guardian (PR_SET_PDEATHSIG): whoever kills this pid has killed the
//     supervisor. The services go on.
//   - Signals are passed on, each once: the child has a process group of its own, so that the
//     terminal's signals come here alone. They wait for a child that is being started.
//   - The supervisor's locks are kept while it is being replaced: no other one gets in between.
//   - It works as process 1. Processes that lose their parent come here (it is a subreaper); their
//     exit statuses are left standing for some seconds, for the next supervisor and its shims to
//     read.
//
// It opens no file, allocates nothing, and waits in one poll(2). docs/process.md has the protocol.
// Exit codes: the supervisor's; 2 wrong usage; 1 the supervisor cannot be executed.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "apps/defib-shim/kernel.h"
#include "defib/process/guardian_protocol.h"

namespace defib::process::shim {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kSettled = 1000 * kMillisecond;  // a child that lived so long had started
constexpr int kFreeDeaths = 1;                     // in quick succession that are followed at once
constexpr int kFreeReadyDeaths = 20;  // the same of children that had started their work
constexpr int64_t kFirstDelay = 10 * kMillisecond;     // after the second death in a row
constexpr int64_t kLastDelay = 10'000 * kMillisecond;  // doubled up to here
constexpr int64_t kZombieTime = 3000 * kMillisecond;   // statuses of strangers stand so long
constexpr int64_t kLongestZombieTime = 10 * kZombieTime;
constexpr int kMaxLocks = 1024;
constexpr int kLastSignal = 64;

struct Lock {
  int fd;
  dev_t device;
  ino_t inode;
};

Lock locks[kMaxLocks];
int lock_count = 0;
pid_t child = 0;
bool begun = false;        // the supervisor has told that it was at work
bool ready = false;        // the present supervisor is at work
bool start_again = false;  // it asked to be started again when it ends
int child_socket = -1;     // ours to the child
int quick_deaths = 0;
int64_t started_at = 0;
int64_t start_at = 0;  // of the next child; 0: none waits
int64_t reap_at = 0;   // strangers' zombies are there; 0: none
int64_t zombies_since = 0;
uint64_t held_signals = 0;  // that came while there was no child; bit N-1 is signal N
int last_passed = 0;

// After vfork(2), so what it tells is told by shared memory.
volatile int exec_error = 0;

void say(const char* what, int64_t number) {
  char line[160] = "defib-guardian: ";
  append_text(line, sizeof line - 1, what);
  if (number >= 0) append_number(line, sizeof line - 1, static_cast<uint64_t>(number));
  append_text(line, sizeof line, "\n");
  [[maybe_unused]] const ssize_t put = write(2, line, strlen(line));
}

bool is_passed_on(int signal) {
  // What stops or concerns this process itself is not.
  constexpr int kOwn[] = {SIGKILL, SIGSTOP, SIGCHLD, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT,
                          SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,  SIGTRAP, SIGABRT, SIGSYS};
  for (const int own : kOwn) {
    if (signal == own) return false;
  }
  return signal >= 1 && signal <= kLastSignal;
}

[[noreturn]] void run_child(char* const* argv, char* const* env, int socket, pid_t guardian) {
  // Asked for before the look at the parent: in between nothing can slip.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (static_cast<pid_t>(syscall(SYS_getppid)) != guardian) _exit(1);
  syscall(SYS_setpgid, 0, 0);
  fcntl(socket, F_SETFD, 0);
  for (int i = 0; i < lock_count; ++i) fcntl(locks[i].fd, F_SETFD, 0);
  // A process group in the background may write to its terminal.
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGTTOU, &ignore, nullptr);
  // The passed signals stay blocked: one that comes before the supervisor listens must wait.
  execve(argv[0], argv, env);
  exec_error = errno;
  _exit(127);
}

// The environment with our two variables; its own strings live as long as the guardian.
char* const* environment(int socket, pid_t guardian) {
  static char guardian_text[64];
  static char lock_text[32 + kMaxLocks * 6];
  static char** env = nullptr;
  if (env == nullptr) {
    size_t count = 0;
    while (environ[count] != nullptr) ++count;
    void* memory = mmap(nullptr, (count + 3) * sizeof(char*), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return environ;
    env = static_cast<char**>(memory);
    for (size_t i = 0; i < count; ++i) env[i + 2] = environ[i];
    env[0] = guardian_text;
    env[1] = lock_text;
  }
  guardian_text[0] = lock_text[0] = 0;
  append_text(guardian_text, sizeof guardian_text, kGuardianVariable);
  append_text(guardian_text, sizeof guardian_text, "=");
  append_number(guardian_text, sizeof guardian_text, static_cast<uint64_t>(socket));
  append_text(guardian_text, sizeof guardian_text, ":");
  append_number(guardian_text, sizeof guardian_text, static_cast<uint64_t>(guardian));
  append_text(guardian_text, sizeof guardian_text, begun ? ":1" : ":0");
  append_text(lock_text, sizeof lock_text, kLockVariable);
  append_text(lock_text, sizeof lock_text, "=");
  for (int i = 0; i < lock_count; ++i) {
    if (i > 0) append_text(lock_text, sizeof lock_text, ",");
    append_number(lock_text, sizeof lock_text, static_cast<uint64_t>(locks[i].fd));
  }
  return env;
}

bool start_child(char* const* argv) {
  start_at = 0;
  if (child_socket >= 0) close(child_socket);
  int pair[2];
  if (syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
  child_socket = pair[0];
  exec_error = 0;
  start_again = ready = false;
  started_at = mono_ns();
  const pid_t guardian = getpid();
  char* const* env = environment(pair[1], guardian);
  const pid_t pid = vfork();
  if (pid == 0) run_child(argv, env, pair[1], guardian);
  close(pair[1]);
  if (pid < 0) return false;
  if (exec_error != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return false;
  }
  child = pid;
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    if ((held_signals >> (signal - 1) & 1) != 0) kill(child, signal);
  }
  held_signals = 0;
  return true;
}

void start_later() {
  const bool quick = mono_ns() - started_at < kSettled;
  quick_deaths = quick ? quick_deaths + 1 : 0;
  const int free_deaths = ready ? kFreeReadyDeaths : kFreeDeaths;
  if (quick_deaths <= free_deaths) {
    start_at = 1;  // at once
    return;
  }
  int64_t delay = kFirstDelay;
  for (int i = free_deaths + 1; i < quick_deaths && delay < kLastDelay; ++i) delay *= 2;
  start_at = mono_ns() + (delay < kLastDelay ? delay : kLastDelay);
}

void forget_lock(dev_t device, ino_t inode) {
  for (int i = 0; i < lock_count; ++i) {
    if (locks[i].device != device || locks[i].inode != inode) continue;
    close(locks[i].fd);
    locks[i] = locks[--lock_count];
    return;
  }
}

void on_child_message() {
  GuardianMessage message;
  int fds[2];
  int fd_count = 0;
  while (true) {
    const ssize_t size = receive_message(child_socket, &message, sizeof message, fds, &fd_count);
    if (size == -EAGAIN || size == -EINTR) return;
    if (size < static_cast<ssize_t>(sizeof message)) {
      // Closed: the child is dead, or soon will be.
      close(child_socket);
      child_socket = -1;
      return;
    }
    if (message.kind == GuardianRequest::kKeepLock && fd_count == 1 && lock_count < kMaxLocks) {
      struct stat info;
      if (fstat(fds[0], &info) == 0) {
        forget_lock(info.st_dev, info.st_ino);
        locks[lock_count++] = {fds[0], info.st_dev, info.st_ino};
        fd_count = 0;
      }
    } else if (message.kind == GuardianRequest::kForgetLock) {
      forget_lock(static_cast<dev_t>(message.device), static_cast<ino_t>(message.inode));
    } else if (message.kind == GuardianRequest::kBegun) {
      begun = true;
    } else if (message.kind == GuardianRequest::kStartAgain) {
      start_again = true;
    } else if (message.kind == GuardianRequest::kReady) {
      ready = true;
    }
    for (int i = 0; i < fd_count; ++i) close(fds[i]);
  }
}

// Ends the guardian where the supervisor ended by itself.
void on_child_exit(int status) {
  if (child_socket >= 0) on_child_message();  // what it still said
  child = 0;
  if (start_again) {
    quick_deaths = 0;
    start_at = 1;
    return;
  }
  if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
  // Somebody sent it to us, and it knew no better than to die.
  if (WTERMSIG(status) == last_passed) _exit(128 + last_passed);
  say("the supervisor was killed and is started again; signal ", WTERMSIG(status));
  start_later();
}

void look_for_dead() {
  if (child != 0) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) on_child_exit(status);
  }
  // Anyone else? The supervisor itself is not dead, or has just been waited for.
  siginfo_t info = {};
  if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
    const int64_t now = mono_ns();
    if (reap_at == 0) zombies_since = now;
    if (now - zombies_since < kLongestZombieTime) reap_at = now + kZombieTime;
  }
}

void reap_strangers() {
  reap_at = 0;
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == child) on_child_exit(status);
  }
}

void on_signals(int signals) {
  signalfd_siginfo info;
  while (read(signals, &info, sizeof info) == sizeof info) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD) {
      look_for_dead();
    } else if (is_passed_on(signal) && child != 0) {
      last_passed = signal;
      kill(child, signal);
    } else if (is_passed_on(signal)) {
      held_signals |= uint64_t{1} << (signal - 1);
      if (start_at > 1) start_at = 1;  // It shall hear of it now.
    }
  }
}

int timeout_ms() {
  int64_t next = 0;
  if (start_at != 0) next = start_at;
  if (reap_at != 0 && (next == 0 || reap_at < next)) next = reap_at;
  if (next == 0) return -1;
  const int64_t left = next - mono_ns();
  return left <= 0 ? 0 : static_cast<int>((left + kMillisecond - 1) / kMillisecond);
}

int run(char* const* argv) {
  prctl(PR_SET_NAME, "defib-guardian");
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) say("cannot become a subreaper: errno ", errno);
  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    if (is_passed_on(signal)) sigaddset(&watched, signal);
  }
  sigprocmask(SIG_BLOCK, &watched, nullptr);
  const int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0 || !start_child(argv)) {
    say("the supervisor cannot be executed: errno ", exec_error != 0 ? exec_error : errno);
    return 1;
  }
  while (true) {
    pollfd polls[2] = {{signals, POLLIN, 0}, {child_socket, POLLIN, 0}};
    poll(polls, 2, timeout_ms());
    if (polls[1].revents != 0) on_child_message();
    if (polls[0].revents != 0) on_signals(signals);
    const int64_t now = mono_ns();
    if (reap_at != 0 && now >= reap_at) reap_strangers();
    if (start_at == 0 || now < start_at || start_child(argv)) continue;
    say("the supervisor cannot be started: errno ", exec_error != 0 ? exec_error : errno);
    if (held_signals != 0) _exit(1);
    start_later();
  }
}

}  // namespace
}  // namespace defib::process::shim

int main(int argc, char** argv) {
  if (argc < 2) {
    defib::process::shim::say("usage: defib-guardian PROGRAM ARGUMENTS... (started by defib)", -1);
    return 2;
  }
  return defib::process::shim::run(argv + 1);
}
