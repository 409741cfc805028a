// What a bundle needs of /proc, copied.

#include <sys/uio.h>

#include "defib/postmortem/raw_copy_proc_sigsafe.h"

namespace defib::postmortem::raw {
namespace {

constexpr size_t kMaxFile = 256u << 10;
constexpr size_t kMaxInfo = 1024;

void copy_link(Buffer& buffer, pid_t pid, const char* name, File which) {
  char target[kMaxPath];
  const long size =
      syscall(SYS_readlinkat, AT_FDCWD, proc_path(pid, name).get(), target, sizeof target);
  if (size > 0) {
    buffer.add(Kind::kFile, static_cast<int32_t>(which), 0, target, static_cast<size_t>(size));
  }
}

void copy_file(Buffer& buffer, pid_t pid, const char* name, File which, size_t max, int64_t until) {
  if (mono_ns() >= until) {
    return buffer.gap(Kind::kFactsGap, name, -1, "there was no time left");
  }
  char* to = buffer.begin(Kind::kFile, static_cast<int32_t>(which), 0, max);
  if (to == nullptr) return;
  bool cut = false;
  const ssize_t size = read_whole(proc_path(pid, name).get(), to, max, &cut);
  buffer.finish(size > 0 ? static_cast<size_t>(size) : 0);
  if (size < 0) return buffer.gap(Kind::kFactsGap, name, -1, reason(static_cast<int>(-size)));
  if (cut) buffer.gap(Kind::kFactsGap, name, -1, "cut: it is too long");
}

int socket_option(int fd, int level, int name) {
  int value = 0;
  unsigned size = sizeof value;
  return syscall(SYS_getsockopt, fd, level, name, &value, &size) == 0 ? value : -1;
}

// The process's own socket, held for a moment: while it is held, its port stays taken.
bool copy_socket(Buffer& buffer, int pidfd, int number) {
  constexpr int kSolSocket = 1, kType = 3, kAcceptConn = 30, kDomain = 39, kTcp = 6, kTcpInfo = 11;
  constexpr int kUnix = 1, kStream = 1;
  constexpr unsigned long kInQueue = 0x541B, kOutQueue = 0x5411;
  const long fd_or = syscall(SYS_pidfd_getfd, pidfd, number, 0);
  if (fd_or < 0) return false;
  const int fd = static_cast<int>(fd_or);
  Socket socket = {};
  socket.fd = number;
  socket.domain = socket_option(fd, kSolSocket, kDomain);
  socket.type = socket_option(fd, kSolSocket, kType);
  unsigned size = sizeof socket.local;
  if (syscall(SYS_getsockname, fd, socket.local, &size) == 0) socket.local_size = size;
  size = sizeof socket.remote;
  socket.connected = syscall(SYS_getpeername, fd, socket.remote, &size) == 0;
  if (socket.connected != 0) socket.remote_size = size;
  socket.tcp_state = -1;
  if (socket.type == kStream && socket.domain != kUnix) {
    unsigned char state = 0;  // the first field of struct tcp_info
    size = sizeof state;
    if (syscall(SYS_getsockopt, fd, kTcp, kTcpInfo, &state, &size) == 0) socket.tcp_state = state;
  }
  if (socket.tcp_state < 0) {
    socket.accepts = socket_option(fd, kSolSocket, kAcceptConn) == 1;
  }
  if (syscall(SYS_ioctl, fd, kInQueue, &socket.receive_queue) != 0) socket.receive_queue = 0;
  if (syscall(SYS_ioctl, fd, kOutQueue, &socket.send_queue) != 0) socket.send_queue = 0;
  close_file(fd);
  buffer.add(Kind::kSocket, number, 0, &socket, sizeof socket);
  return true;
}

// True where one of them is a socket that could not be asked.
bool copy_descriptors(Buffer& buffer, pid_t pid, int64_t until) {
  static int numbers[kMaxDescriptors];
  size_t count = 0;
  bool too_many = false;
  const bool listed = for_each_number(proc_path(pid, "fd").get(), [&](int number) {
    too_many = count == kMaxDescriptors;
    if (!too_many) numbers[count++] = number;
    return !too_many;
  });
  if (!listed) return buffer.gap(Kind::kFactsGap, "descriptors", -1, reason(errno)), false;
  if (too_many) {
    buffer.gap(Kind::kFactsGap, "descriptors: cut: more than", kMaxDescriptors, "there are more");
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  bool unasked = false;
  for (size_t i = 0; i < count; ++i) {
    if (mono_ns() >= until) {
      Text what;
      what.add("descriptors: cut: no time left after ").add(i).add(" of");
      buffer.gap(Kind::kFactsGap, what.get(), static_cast<int64_t>(count), "");
      break;
    }
    Text link = proc_path(pid, "fd/"), info = proc_path(pid, "fdinfo/");
    link.add(static_cast<uint64_t>(numbers[i]));
    info.add(static_cast<uint64_t>(numbers[i]));
    char* target = buffer.begin(Kind::kDescriptor, numbers[i], 0, kMaxPath);
    if (target == nullptr) break;
    const long size = syscall(SYS_readlinkat, AT_FDCWD, link.get(), target, kMaxPath);
    buffer.finish(size > 0 ? static_cast<size_t>(size) : 0);
    constexpr char kSocketLink[] = "socket:[";
    constexpr long kSocketSize = sizeof kSocketLink - 1;
    char text[kMaxInfo];
    const ssize_t got = read_whole(info.get(), text, sizeof text);
    if (got > 0) {
      buffer.add(Kind::kDescriptorInfo, numbers[i], 0, text, static_cast<size_t>(got));
    }
    if (size > kSocketSize && memcmp(target, kSocketLink, kSocketSize) == 0) {
      if (!copy_socket(buffer, pidfd, numbers[i])) unasked = true;
    }
  }
  close_file(pidfd);
  return unasked;
}

}  // namespace

void copy_identity(Buffer& buffer, pid_t pid, int64_t until) {
  char name[kMaxName];
  const ssize_t size = read_whole(proc_path(pid, "comm").get(), name, sizeof name);
  if (size > 0) {
    buffer.add(Kind::kFile, static_cast<int32_t>(File::kComm), 0, name, static_cast<size_t>(size));
  }
  copy_link(buffer, pid, "exe", File::kExe);
  copy_file(buffer, pid, "cmdline", File::kArguments, kMaxFile, until);
}

bool copy_facts(Buffer& buffer, pid_t pid, uint64_t pc, int64_t until) {
  // What is short and always wanted first.
  copy_link(buffer, pid, "cwd", File::kWorkingDirectory);
  copy_link(buffer, pid, "root", File::kRoot);
  copy_file(buffer, pid, "environ", File::kEnvironment, kMaxFile, until);
  copy_file(buffer, pid, "limits", File::kLimits, kMaxFile, until);
  copy_file(buffer, pid, "status", File::kStatus, kMaxFile, until);
  copy_file(buffer, pid, "cgroup", File::kCgroup, kMaxFile, until);
  if (pc != 0) copy_code(buffer, pid, pc);
  return copy_descriptors(buffer, pid, until);
}

}  // namespace defib::postmortem::raw
