#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hooks.h"
#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr char kGenerationKey[] = "DEFIB_GENERATION=";
constexpr char kWatchdogKey[] = "WATCHDOG_PID=";

// The header's numbers are consistent, and the block holds exactly as many strings as they say.
bool is_well_formed(const LaunchHeader& header, const char* strings, size_t file_size) {
  if (header.magic != kLaunchMagic || header.version != kLaunchVersion) return false;
  if (header.argc == 0 || header.bytes == 0 || header.bytes > kMaxLaunchBytes) return false;
  if (sizeof(LaunchHeader) + header.bytes > file_size) return false;
  if (header.group_count > kMaxGroups || header.limit_count > kMaxResourceLimits) return false;
  if (strings[header.bytes - 1] != 0) return false;
  uint64_t count = 0;
  for (uint32_t i = 0; i < header.bytes; ++i) count += strings[i] == 0;
  uint64_t expected = uint64_t{kLaunchFixedStrings} + header.argc + header.envc;
  for (const uint32_t hook_argc : header.hook_argc) expected += hook_argc;
  return count == expected;
}

// What the child of a vfork tells its parent: they share memory until the program is executed.
struct ChildReport {
  volatile int error_number;
  volatile int stage;
  volatile int refused[kStartStages];
};
ChildReport child_report;

[[noreturn]] void fail_child(StartStage stage) {
  child_report.error_number = errno;
  child_report.stage = static_cast<int>(stage);
  _exit(127);
}

void clear_report() {
  child_report.error_number = 0;
  for (volatile int& one : child_report.refused) one = 0;
}

void use_default_signals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Where only a privilege is missing the process goes without; any other failure ends the start.
void refuse_or_fail(StartStage stage) {
  if (errno != EPERM && errno != EACCES) fail_child(stage);
  child_report.refused[static_cast<int>(stage)] = errno;
}

void set_oom_score(int32_t adjust) {
  char text[16] = {};
  if (adjust < 0) append_text(text, sizeof text, "-");
  append_number(text, sizeof text, static_cast<uint64_t>(adjust < 0 ? -adjust : adjust));
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) refuse_or_fail(StartStage::kOomScore);
  if (fd >= 0) close(fd);
}

// Where a limit may not be raised so far, the highest allowed one is taken.
void set_limit(const ResourceLimit& limit) {
  struct {
    uint64_t soft, hard;
  } wanted = {limit.soft, limit.hard}, present = {0, 0};
  if (syscall(SYS_prlimit64, 0, limit.resource, &wanted, nullptr) == 0) return;
  refuse_or_fail(StartStage::kResourceLimit);
  if (syscall(SYS_prlimit64, 0, limit.resource, nullptr, &present) != 0) return;
  if (wanted.hard > present.hard) wanted.hard = present.hard;
  if (wanted.soft > wanted.hard) wanted.soft = wanted.hard;
  syscall(SYS_prlimit64, 0, limit.resource, &wanted, nullptr);
}

// In the order that the rights of the process allow: what needs privileges before they are given
// up, and the directory as the user who shall work in it.
void take_identity(const Launch& launch) {
  const LaunchHeader& header = launch.header();
  if (launch.sets(kSetOomScore)) set_oom_score(header.oom_score_adjust);
  if (launch.sets(kSetNice) && syscall(SYS_setpriority, 0, 0, header.nice) != 0) {
    refuse_or_fail(StartStage::kNice);
  }
  for (uint32_t i = 0; i < header.limit_count; ++i) set_limit(header.limits[i]);
  if (launch.sets(kSetUmask)) syscall(SYS_umask, header.umask);
  if (launch.sets(kSetUser)) {
    if (syscall(SYS_setgroups, header.group_count, header.groups) != 0) {
      fail_child(StartStage::kGroups);
    }
    if (syscall(SYS_setresgid, header.gid, header.gid, header.gid) != 0) {
      fail_child(StartStage::kGroups);
    }
    if (syscall(SYS_setresuid, header.uid, header.uid, header.uid) != 0) {
      fail_child(StartStage::kUser);
    }
  }
  syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);  // Linux 4.3
  if (launch.sets(kNoNewPrivileges) && syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    fail_child(StartStage::kPrivileges);
  }
  const char* directory = launch.text(LaunchText::kDirectory);
  if (directory[0] != 0 && chdir(directory) != 0) fail_child(StartStage::kDirectory);
}

void take_output(const ProcessDescriptors& fds) {
  if (dup2(fds.null_fd, 0) < 0 || dup2(fds.stdout_fd, 1) < 0 || dup2(fds.stderr_fd, 2) < 0) {
    fail_child(StartStage::kDescriptors);
  }
}

// Our start time, as nobody would know this process again without it. `not_before` is a moment
// before our start: where the clock has not ticked since then, /proc need not be asked.
bool own_start_time(uint64_t not_before, StatusInstance& instance) {
  instance.start_time = start_time_now();
  if (instance.start_time == not_before) return true;
  ProcStat self;
  if (!read_stat(instance.pid, &self)) return false;
  instance.start_time = self.start_time;
  return true;
}

// The status file is open, so the record gets there whatever the user may do. `instance` comes with
// a moment before our start in place of the start time.
[[noreturn]] void run_service(Launch& launch, char* const* env, const ProcessDescriptors& fds,
                              const Cgroup& groups, bool in_tree, StatusFile& status,
                              StatusInstance& instance) {
  setsid();
  instance.pid = getpid();
  if (!own_start_time(instance.start_time, instance)) fail_child(StartStage::kDescriptors);
  if (status.write_record() != 0 && status.write_record() != 0) {
    fail_child(StartStage::kDescriptors);
  }
  launch.announce_pid(instance.pid);
  groups.enter(in_tree, child_report.refused);
  take_output(fds);
  if (fds.page_fd >= 0 &&
      (dup2(fds.page_fd, kAgentPageFd) < 0 || dup2(fds.wake_fd, kAgentWakeFd) < 0)) {
    fail_child(StartStage::kDescriptors);
  }
  // Their own numbers lie above all of these (SocketStore), so none is overwritten before its turn.
  for (int i = 0; i < fds.sockets->count(); ++i) {
    if (dup2(fds.sockets->fd(i), kFirstListenFd + i) < 0) fail_child(StartStage::kDescriptors);
  }
  // Where Yama lets only ancestors trace: what the shim starts may trace it.
  if (launch.sets(kTraced)) syscall(SYS_prctl, PR_SET_PTRACER, syscall(SYS_getppid), 0, 0, 0);
  take_identity(launch);
  use_default_signals();
  execve(launch.text(LaunchText::kProgram), launch.argv(), env);
  fail_child(StartStage::kExec);
}

[[noreturn]] void run_hook(const Launch& launch, Hook hook, char* const* env,
                           const ProcessDescriptors& fds, const HookNote& note) {
  setsid();
  note.record->pid = getpid();
  ProcStat self;
  note.record->start_time = read_stat(note.record->pid, &self) ? self.start_time : 0;
  [[maybe_unused]] const ssize_t put = pwrite(note.fd, note.record, sizeof *note.record, note.at);
  take_output(fds);
  take_identity(launch);
  if (hook == Hook::kEvidence) {
    // What it writes is bounded by the kernel: nobody reads along.
    const uint64_t bytes[2] = {kMaxEvidence, kMaxEvidence};
    syscall(SYS_prlimit64, 0, 1 /* RLIMIT_FSIZE */, bytes, nullptr);
  }
  use_default_signals();
  char* const* argv = launch.hook_argv(hook);
  execve(argv[0], argv, env);
  fail_child(StartStage::kExec);
}

// The child's end of the report, in the parent.
StartOutcome outcome_of(pid_t pid, int fork_error) {
  StartOutcome outcome;
  for (uint32_t i = 0; i < kStartStages; ++i) outcome.refused[i] = child_report.refused[i];
  if (pid < 0) {
    outcome.stage = StartStage::kFork;
    outcome.error_number = fork_error;
  } else if (child_report.error_number != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    outcome.stage = static_cast<StartStage>(child_report.stage);
    outcome.error_number = child_report.error_number;
  } else {
    outcome.pid = pid;
  }
  return outcome;
}

// The child takes on another user in memory that it shares with us: the kernel then refuses to show
// that memory to others, and goes on to do so until it is told otherwise.
void become_visible_again(const Launch& launch) {
  if (launch.sets(kSetUser)) prctl(PR_SET_DUMPABLE, 1);
}

#if DEFIB_FREESTANDING
// As vfork(), with the arguments of clone3 (freestanding.cc).
extern "C" __attribute__((returns_twice)) pid_t vfork_with(const void* arguments, size_t size);
struct CloneArguments {  // struct clone_args of Linux 5.7
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
      set_tid_size, cgroup;
};
#endif

}  // namespace

int Launch::load(int memfd) {
  struct stat info;
  if (fstat(memfd, &info) != 0) {
    const int failed = -errno;
    close(memfd);
    return failed;
  }
  const size_t size = static_cast<size_t>(info.st_size);
  if (size < sizeof(LaunchHeader) || size > sizeof(LaunchHeader) + kMaxLaunchBytes) {
    close(memfd);
    return -EINVAL;
  }
  // Private and read now: what the sender does to its file later does not reach us.
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool read_all =
      memory != MAP_FAILED && pread(memfd, memory, size, 0) == static_cast<ssize_t>(size);
  close(memfd);
  if (memory == MAP_FAILED) return -ENOMEM;
  if (read_all && size == size_ && memory_ != nullptr && memcmp(memory, memory_, size) == 0) {
    munmap(memory, size);
    return 0;
  }
  const auto& head = *static_cast<const LaunchHeader*>(memory);
  char* at = static_cast<char*>(memory) + sizeof(LaunchHeader);
  char** pointers = nullptr;
  size_t pointer_count = 0;
  if (read_all && is_well_formed(head, at, size)) {
    pointer_count =
        size_t{head.argc} + 2 * size_t{head.envc} + kExtraVariables + kHookVariables + 3;
    for (const uint32_t hook_argc : head.hook_argc) pointer_count += hook_argc + 1;
    void* zeroed = mmap(nullptr, pointer_count * sizeof(char*), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeroed != MAP_FAILED) pointers = static_cast<char**>(zeroed);
  }
  if (pointers == nullptr) {
    munmap(memory, size);
    return -EINVAL;
  }
  unload();
  memory_ = memory;
  size_ = size;
  const auto next = [&at] {
    char* text = at;
    at += strlen(at) + 1;
    return text;
  };
  for (const char*& one : fixed_) one = next();
  argv_ = pointers;
  pointer_bytes_ = pointer_count * sizeof(char*);
  for (uint32_t i = 0; i < head.argc; ++i) argv_[i] = next();
  envp_ = pointers + head.argc + 1;
  generation_slot_ = watchdog_slot_ = head.envc;
  for (uint32_t i = 0; i < head.envc; ++i) {
    envp_[i] = next();
    if (strncmp(envp_[i], kGenerationKey, sizeof kGenerationKey - 1) == 0) generation_slot_ = i;
    if (strncmp(envp_[i], kWatchdogKey, sizeof kWatchdogKey - 1) == 0) watchdog_slot_ = i;
  }
  hook_envp_ = envp_ + head.envc + kExtraVariables + 1;
  char** arguments = hook_envp_ + head.envc + kHookVariables + 1;
  for (uint32_t hook = 0; hook < kHooks; ++hook) {
    hook_argv_[hook] = arguments;
    for (uint32_t i = 0; i < head.hook_argc[hook]; ++i) *arguments++ = next();
    ++arguments;
  }
  told_ = 0;
  return 1;
}

void Launch::unload() {
  if (memory_ == nullptr) return;
  munmap(memory_, size_);
  munmap(argv_, pointer_bytes_);
  memory_ = nullptr;
}

void Launch::set_generation(uint64_t generation) {
  generation_text_[0] = 0;
  append_text(generation_text_, sizeof generation_text_, kGenerationKey);
  append_number(generation_text_, sizeof generation_text_, generation);
  if (generation_slot_ < header().envc) envp_[generation_slot_] = generation_text_;
}

char* const* Launch::env_for(uint64_t generation, bool standby, const SocketStore& sockets) {
  const auto set = [](char* text, size_t capacity, const char* key) {
    text[0] = 0;
    append_text(text, capacity, key);
  };
  set_generation(generation);
  set(role_text_, sizeof role_text_, standby ? "DEFIB_ROLE=standby" : "DEFIB_ROLE=active");
  char** next = envp_ + header().envc;
  *next++ = role_text_;
  if (sockets.count() > 0) {
    set(listen_fds_, sizeof listen_fds_, "LISTEN_FDS=");
    append_number(listen_fds_, sizeof listen_fds_, static_cast<uint64_t>(sockets.count()));
    set(listen_names_, sizeof listen_names_, "LISTEN_FDNAMES=");
    for (int i = 0; i < sockets.count(); ++i) {
      if (i > 0) append_text(listen_names_, sizeof listen_names_, ":");
      append_text(listen_names_, sizeof listen_names_, sockets.name(i));
    }
    *next++ = listen_fds_;
    *next++ = listen_names_;
    *next++ = listen_pid_;
  }
  *next = nullptr;
  return envp_;
}

void Launch::announce_pid(pid_t pid) {
  listen_pid_[0] = 0;
  append_text(listen_pid_, sizeof listen_pid_, "LISTEN_PID=");
  append_number(listen_pid_, sizeof listen_pid_, static_cast<uint64_t>(pid));
  if (watchdog_slot_ >= header().envc) return;
  watchdog_text_[0] = 0;
  append_text(watchdog_text_, sizeof watchdog_text_, kWatchdogKey);
  append_number(watchdog_text_, sizeof watchdog_text_, static_cast<uint64_t>(pid));
  envp_[watchdog_slot_] = watchdog_text_;
}

char* const* Launch::hook_env(uint64_t generation, char* const* variables, size_t count) {
  // A hook neither beats nor speaks for the service.
  constexpr const char* kServiceOnly[] = {
      "DEFIB_AGENT_FD=", "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID="};
  set_generation(generation);
  char* const* own = envp_;
  size_t used = 0;
  for (size_t i = 0; i < header().envc; ++i) {
    bool left_out = false;
    for (const char* key : kServiceOnly) left_out |= strncmp(own[i], key, strlen(key)) == 0;
    if (!left_out) hook_envp_[used++] = own[i];
  }
  for (size_t i = 0; i < count && i < kHookVariables; ++i) hook_envp_[used++] = variables[i];
  hook_envp_[used] = nullptr;
  return hook_envp_;
}

uid_t Launch::service_uid() const {
  return loaded() && sets(kSetUser) ? header().uid : geteuid();
}

bool Launch::tells(StartStage stage) {
  const uint32_t bit = 1u << static_cast<uint32_t>(stage);
  const bool first = (told_ & bit) == 0;
  told_ |= bit;
  return first;
}

int make_page(PageHandle* handle) {
  const int fd = memfd_create(kPageMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  void* memory = MAP_FAILED;
  if (ftruncate(fd, kAgentPageSize) == 0 &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    memory = mmap(nullptr, kAgentPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (memory == MAP_FAILED) {
    const int failed = -errno;
    close(fd);
    return failed;
  }
  handle->fd = fd;
  handle->page = static_cast<AgentPage*>(memory);
  return 0;
}

void fill_page(const PageHandle& handle, uint32_t capture_timeout_ms) {
  handle.page->magic = kAgentPageMagic;
  handle.page->version = kAgentPageVersion;
  handle.page->event_fd = kAgentWakeFd;
  // It is zero already; not to touch it leaves its memory to whoever needs it.
  if (capture_timeout_ms != 0) handle.page->crash.capture_timeout_ms = capture_timeout_ms;
}

int map_page(int fd, PageHandle* handle) {
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (info.st_size != static_cast<off_t>(kAgentPageSize)) return -EINVAL;
  void* memory = mmap(nullptr, kAgentPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return -errno;
  auto* page = static_cast<AgentPage*>(memory);
  if (page->magic != kAgentPageMagic || page->version != kAgentPageVersion) {
    munmap(memory, kAgentPageSize);
    return -EINVAL;
  }
  handle->fd = fd;
  handle->page = page;
  return 0;
}

void close_page(PageHandle* handle) {
  if (handle->page != nullptr) munmap(handle->page, kAgentPageSize);
  if (handle->fd >= 0) close(handle->fd);
  *handle = PageHandle{};
}

StartOutcome start_process(Launch& launch, const ProcessDescriptors& fds, Cgroup& groups,
                           int* refused, StatusFile& status, StatusInstance& instance) {
  const bool standby = instance.role == InstanceRole::kStandby;
  char* const* env = launch.env_for(instance.generation, standby, *fds.sockets);
  clear_report();
  for (const int fd : {fds.stdout_fd, fds.stderr_fd}) {
    // A process before this one may have made the shared description non-blocking.
    fcntl(fd, F_SETFL, 0);
    // For programs that open /dev/stdout by its name.
    if (launch.sets(kSetUser)) {
      syscall(SYS_fchown, fd, launch.header().uid, launch.header().gid);
    }
  }
  pid_t pid = -1;
#if DEFIB_FREESTANDING
  static CloneArguments arguments;
  if (groups.tree_fd() >= 0) {
    arguments = CloneArguments{};
    arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP;
    arguments.exit_signal = SIGCHLD;
    arguments.cgroup = static_cast<uint64_t>(groups.tree_fd());
    instance.start_time = start_time_now();
    pid = vfork_with(&arguments, sizeof arguments);
    if (pid == 0) run_service(launch, env, fds, groups, true, status, instance);
  }
#endif
  if (pid < 0) {
    // Those that were made in advance may have been removed by somebody.
    if (groups.tree_fd() >= 0) groups.make(launch, instance.generation, refused);
    instance.start_time = start_time_now();
    pid = vfork();
    if (pid == 0) run_service(launch, env, fds, groups, false, status, instance);
  }
  StartOutcome outcome = outcome_of(pid, errno);
  groups.close_start();
  become_visible_again(launch);
  for (uint32_t i = 0; i < kStartStages; ++i) {
    if (refused[i] != 0) outcome.refused[i] = refused[i];
  }
  if (outcome.pid < 0) groups.forget();
  return outcome;
}

StartOutcome start_hook(const Launch& launch, Hook hook, char* const* env,
                        const ProcessDescriptors& fds, const HookNote& note) {
  clear_report();
  const pid_t pid = vfork();
  if (pid == 0) run_hook(launch, hook, env, fds, note);
  StartOutcome outcome = outcome_of(pid, errno);
  become_visible_again(launch);
  return outcome;
}

pid_t start_helper(char* const* argv, int page_fd) {
  clear_report();
  const pid_t pid = vfork();
  if (pid == 0) {
    setsid();
    if (page_fd >= 0 && dup2(page_fd, 3) < 0) fail_child(StartStage::kDescriptors);
    if (page_fd == 3) fcntl(3, F_SETFD, 0);
    use_default_signals();
    execve(argv[0], argv, environ);
    fail_child(StartStage::kExec);
  }
  if (pid < 0) return -errno;
  if (child_report.error_number != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return -child_report.error_number;
  }
  return pid;
}

}  // namespace defib::process::shim
