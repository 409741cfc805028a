#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr char kGenerationKey[] = "DEFIB_GENERATION=";
constexpr char kWatchdogKey[] = "WATCHDOG_PID=";

// The header's numbers are consistent, and the block holds exactly as many strings as they say.
bool is_well_formed(const LaunchHeader& header, const char* strings, size_t file_size) {
  if (header.magic != kLaunchMagic || header.version != kProtocolVersion) return false;
  if (header.argc == 0 || header.bytes == 0 || header.bytes > kMaxLaunchBytes) return false;
  if (sizeof(LaunchHeader) + header.bytes > file_size) return false;
  if (strings[header.bytes - 1] != 0) return false;
  uint64_t count = 0;
  for (uint32_t i = 0; i < header.bytes; ++i) count += strings[i] == 0;
  return count == uint64_t{kLaunchFixedStrings} + header.argc + header.envc;
}

// What the child of a vfork tells its parent: they share memory until the program is executed.
struct ChildReport {
  volatile int error_number;
  volatile int stage;
};
ChildReport child_report;

[[noreturn]] void fail_child(StartStage stage) {
  child_report.error_number = errno;
  child_report.stage = static_cast<int>(stage);
  _exit(127);
}

void use_default_signals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void run_service(Launch& launch, char* const* env, const ProcessDescriptors& fds,
                              StatusFile& status, StatusInstance& instance) {
  setsid();
  instance.pid = getpid();
  ProcStat self;
  // Without it nobody would know this process again.
  if (!read_stat(instance.pid, &self)) fail_child(StartStage::kDescriptors);
  instance.start_time = self.start_time;
  if (status.write_record() != 0 && status.write_record() != 0) {
    fail_child(StartStage::kDescriptors);
  }
  launch.announce_pid(instance.pid);
  if (launch.directory()[0] != 0 && chdir(launch.directory()) != 0) {
    fail_child(StartStage::kDirectory);
  }
  if (dup2(fds.null_fd, 0) < 0 || dup2(fds.stdout_fd, 1) < 0 || dup2(fds.stderr_fd, 2) < 0 ||
      (fds.page_fd >= 0 &&
       (dup2(fds.page_fd, kAgentPageFd) < 0 || dup2(fds.wake_fd, kAgentWakeFd) < 0))) {
    fail_child(StartStage::kDescriptors);
  }
  // Their own numbers lie above all of these (SocketStore), so none is overwritten before its turn.
  for (int i = 0; i < fds.sockets->count(); ++i) {
    if (dup2(fds.sockets->fd(i), kFirstListenFd + i) < 0) fail_child(StartStage::kDescriptors);
  }
  use_default_signals();
  execve(launch.program(), launch.argv(), env);
  fail_child(StartStage::kExec);
}

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
  const auto& head = *static_cast<const LaunchHeader*>(memory);
  char* at = static_cast<char*>(memory) + sizeof(LaunchHeader);
  char** pointers = nullptr;
  const size_t pointer_bytes =
      (size_t{head.argc} + head.envc + 2 + kExtraVariables) * sizeof(char*);
  if (read_all && is_well_formed(head, at, size)) {
    void* zeroed =
        mmap(nullptr, pointer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
  program_ = next();
  directory_ = next();
  capture_ = next();
  argv_ = pointers;
  pointer_bytes_ = pointer_bytes;
  for (uint32_t i = 0; i < head.argc; ++i) argv_[i] = next();
  envp_ = pointers + head.argc + 1;
  generation_slot_ = watchdog_slot_ = head.envc;
  for (uint32_t i = 0; i < head.envc; ++i) {
    envp_[i] = next();
    if (strncmp(envp_[i], kGenerationKey, sizeof kGenerationKey - 1) == 0) generation_slot_ = i;
    if (strncmp(envp_[i], kWatchdogKey, sizeof kWatchdogKey - 1) == 0) watchdog_slot_ = i;
  }
  return 0;
}

void Launch::unload() {
  if (memory_ == nullptr) return;
  munmap(memory_, size_);
  munmap(argv_, pointer_bytes_);
  memory_ = nullptr;
}

char* const* Launch::env_for(uint64_t generation, bool standby, const SocketStore& sockets) {
  const auto set = [](char* text, size_t capacity, const char* key) {
    text[0] = 0;
    append_text(text, capacity, key);
  };
  set(generation_text_, sizeof generation_text_, kGenerationKey);
  append_number(generation_text_, sizeof generation_text_, generation);
  if (generation_slot_ < header().envc) envp_[generation_slot_] = generation_text_;
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

int make_page(uint32_t capture_timeout_ms, PageHandle* handle) {
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
  handle->page->magic = kAgentPageMagic;
  handle->page->version = kAgentPageVersion;
  handle->page->event_fd = kAgentWakeFd;
  handle->page->crash.capture_timeout_ms = capture_timeout_ms;
  return 0;
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

StartOutcome start_process(Launch& launch, const ProcessDescriptors& fds, StatusFile& status,
                           StatusInstance& instance) {
  StartOutcome outcome;
  const bool standby = instance.role == InstanceRole::kStandby;
  char* const* env = launch.env_for(instance.generation, standby, *fds.sockets);
  child_report.error_number = 0;
  // A process before this one may have made the shared description non-blocking.
  fcntl(fds.stdout_fd, F_SETFL, 0);
  fcntl(fds.stderr_fd, F_SETFL, 0);
  const pid_t pid = vfork();
  if (pid == 0) run_service(launch, env, fds, status, instance);
  if (pid < 0) {
    outcome.stage = StartStage::kFork;
    outcome.error_number = errno;
    return outcome;
  }
  if (child_report.error_number != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    outcome.stage = static_cast<StartStage>(child_report.stage);
    outcome.error_number = child_report.error_number;
    return outcome;
  }
  outcome.pid = pid;
  return outcome;
}

pid_t start_helper(char* const* argv, int page_fd) {
  child_report.error_number = 0;
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
