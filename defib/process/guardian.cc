#include "defib/process/guardian.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "defib/os/fd.h"
#include "defib/os/pass_fds.h"
#include "defib/os/process.h"

namespace defib::process {
namespace {

constexpr std::size_t kMaxLocks = 1024;

// Plain numbers: nothing here may be destroyed before the process ends.
struct LockTable {
  struct Lock {
    int fd;
    dev_t device;
    ino_t inode;
  };
  std::array<Lock, kMaxLocks> locks{};
  std::size_t count = 0;
  void add(int fd) {
    struct stat info{};
    if (count < kMaxLocks && ::fstat(fd, &info) == 0) {
      locks[count++] = {fd, info.st_dev, info.st_ino};
    }
  }
  void remove(int fd) {
    const auto end = locks.begin() + static_cast<std::ptrdiff_t>(count);
    const auto found =
        std::find_if(locks.begin(), end, [fd](const Lock& one) { return one.fd == fd; });
    if (found != end) *found = locks[--count];
  }
};
struct State {
  int socket = -1;
  pid_t guardian = 0;
  bool resumed = false;
  LockTable given;  // by whom was before us, and not yet taken
  LockTable taken;  // of those: the guardian holds them already
  LockTable kept;   // for whom comes after us, where there is no guardian to keep them
};
State state;

std::string take_variable(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value != nullptr ? value : "";
  ::unsetenv(name);
  return text;
}

void send_request(shim::GuardianMessage message, int fd) {
  if (state.socket < 0) return;
  iovec part = {&message, sizeof message};
  os::FdRoom<1> room;
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) os::attach_fds(header, room, &fd, 1);
  // The guardian does nothing but read this; where it is dead, so are we.
  while (::sendmsg(state.socket, &header, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

// Everything that the guardian blocked for us, but what supervisors listen to.
void unblock_other_signals() {
  sigset_t others;
  sigfillset(&others);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigdelset(&others, signal);
  ::sigprocmask(SIG_UNBLOCK, &others, nullptr);
}

bool is_running(pid_t pid) {
  const auto stat = os::read_file(os::real_files(), fmt::format("/proc/{}/stat", pid), 4096);
  const std::size_t name_end = stat ? stat->rfind(") ") : std::string::npos;
  return name_end != std::string::npos && (*stat)[name_end + 2] != 'Z';
}

// -1 where none was kept for us.
int take_given(const std::string& path) {
  struct stat wanted{};
  if (state.given.count == 0 || ::stat(path.c_str(), &wanted) != 0) return -1;
  for (std::size_t i = 0; i < state.given.count; ++i) {
    const LockTable::Lock lock = state.given.locks[i];
    if (lock.device != wanted.st_dev || lock.inode != wanted.st_ino) continue;
    state.given.remove(lock.fd);
    if (is_guarded()) state.taken.locks[state.taken.count++] = lock;
    return lock.fd;
  }
  return -1;
}

Error exec_failed(const std::vector<std::string>& arguments) {
  Error cause = os::system_error("execve", arguments[0]);
  return Error(Code::kProgramNotFound, fmt::format("'{}' cannot be executed", arguments[0]))
      .with("program", arguments[0])
      .because(std::move(cause));
}

void exec(const std::string& program, std::vector<std::string> arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
}

}  // namespace

void attach_guardian() {
  const std::string guardian = take_variable(shim::kGuardianVariable);
  const std::string locks = take_variable(shim::kLockVariable);
  const bool resumed = take_variable(shim::kResumedVariable) == "1";
  int socket = -1, again = 0;
  pid_t pid = 0;
  if (std::sscanf(guardian.c_str(), "%d:%d:%d", &socket, &pid, &again) == 3 && pid == ::getppid()) {
    state.socket = socket;
    state.guardian = pid;
    state.resumed = again != 0;
    ::fcntl(socket, F_SETFD, FD_CLOEXEC);
    unblock_other_signals();
  }
  // Else the variable is somebody else's, who started us as a service perhaps.
  if (state.socket < 0 && !resumed) return;
  state.resumed = state.resumed || resumed;
  const char* at = locks.data();
  const char* const end = at + locks.size();
  while (at < end) {
    int fd = -1;
    const auto parsed = std::from_chars(at, end, fd);
    if (parsed.ec != std::errc{}) return;
    at = parsed.ptr + (parsed.ptr < end ? 1 : 0);
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) state.given.add(fd);
  }
}

bool is_guarded() {
  return state.socket >= 0;
}
bool is_resumed() {
  return state.resumed;
}
pid_t public_pid() {
  return state.guardian != 0 ? state.guardian : ::getpid();
}

void tell_guardian(shim::GuardianRequest request) {
  send_request({request, 0, 0, 0}, -1);
}

pid_t lock_holder(const std::string& path) {
  // A question about the lock, not a lock; the kernel's file system is the one that knows.
  const os::Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return 0;
  struct flock query{};
  query.l_type = F_WRLCK;
  query.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_GETLK, &query) != 0 || query.l_type == F_UNLCK) return 0;
  char text[32] = {};
  const ssize_t size = ::pread(fd.get(), text, sizeof text - 1, 0);
  pid_t pid = 0;
  if (size > 0) std::from_chars(text, text + size, pid);
  return pid;
}

Result<std::unique_ptr<os::File>> take_lock(os::Files& files, const std::string& path) {
  // It names its holder already: the pid that users know is still the same.
  if (const int given = take_given(path); given >= 0) return os::adopt_file(given, path);
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kCreate));
  auto locked = file->try_lock();
  // A supervisor that dies with its guardian, and a child that a killed one was just starting,
  // hold it for some milliseconds. A holder that lives is answered at once.
  constexpr int kAttempts = 200;
  for (int attempt = 0; !locked && attempt < kAttempts; ++attempt) {
    if (locked.error().code() != Code::kDatabaseLocked || is_running(lock_holder(path))) break;
    ::usleep(5000);
    locked = file->try_lock();
  }
  if (!locked) return locked.error();
  DEFIB_TRY(file->truncate(0));
  DEFIB_TRY(file->write_at(0, fmt::format("{}\n", public_pid())));
  return file;
}

void keep_lock(const os::File& lock) {
  const int fd = lock.descriptor();
  if (fd < 0) return;
  const auto taken = std::span(state.taken.locks).first(state.taken.count);
  if (std::ranges::find(taken, fd, &LockTable::Lock::fd) != taken.end()) return;
  send_request({shim::GuardianRequest::kKeepLock, 0, 0, 0}, fd);
}

void keep_lock_for_upgrade(const os::File& lock) {
  if (is_guarded() || lock.descriptor() < 0) return;
  const int copy = ::fcntl(lock.descriptor(), F_DUPFD_CLOEXEC, 3);
  if (copy >= 0) state.kept.add(copy);
}

void forget_lock(const os::File& lock) {
  struct stat info{};
  if (lock.descriptor() < 0 || ::fstat(lock.descriptor(), &info) != 0) return;
  state.taken.remove(lock.descriptor());
  send_request({shim::GuardianRequest::kForgetLock, 0, info.st_dev, info.st_ino}, -1);
}

void forget_untaken_locks() {
  for (std::size_t i = 0; i < state.given.count; ++i) {
    forget_lock(*os::adopt_file(state.given.locks[i].fd, {}));
  }
  state.given.count = 0;
}

Error exec_guardian(const std::string& guardian, const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {guardian};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  exec(guardian, argv);
  return exec_failed(argv);
}

Error exec_upgraded(const std::vector<std::string>& arguments) {
  std::string fds;
  for (std::size_t i = 0; i < state.kept.count; ++i) {
    const int fd = state.kept.locks[i].fd;
    ::fcntl(fd, F_SETFD, 0);
    fds += fmt::format("{}{}", i > 0 ? "," : "", fd);
  }
  ::setenv(shim::kLockVariable, fds.c_str(), 1);
  ::setenv(shim::kResumedVariable, "1", 1);
  exec(arguments[0], arguments);
  return exec_failed(arguments);
}

}  // namespace defib::process
