#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "defib/process/shim_protocol.h"

namespace defib::process::shim {
namespace {

int64_t clock_ns(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

constexpr int kMaxFds = kMaxMessageFds;

}  // namespace

int64_t mono_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}
int64_t wall_ns() {
  return clock_ns(CLOCK_REALTIME);
}
uint64_t start_time_now() {
  constexpr int64_t kTickNs = 10'000'000;  // USER_HZ is 100 on the machines that we know
  return static_cast<uint64_t>(clock_ns(CLOCK_BOOTTIME) / kTickNs);
}
int64_t later(int64_t at, int64_t delay) {
  if (delay <= 0) return at;
  return delay < INT64_MAX - at ? at + delay : INT64_MAX;
}

void complain(const char* what, int error_number) {
  char line[256] = "defib-shim: ";
  append_text(line, sizeof line - 1, what);
  if (error_number != 0) {
    append_text(line, sizeof line - 1, ": errno ");
    append_number(line, sizeof line - 1, static_cast<uint64_t>(error_number));
  }
  append_text(line, sizeof line, "\n");
  [[maybe_unused]] const ssize_t put = write(2, line, strlen(line));
}

int pidfd_open(pid_t pid) {
  const long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd < 0 ? -errno : static_cast<int>(fd);
}

int pidfd_send(int pidfd, int signal) {
  return syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0 ? 0 : -errno;
}

pid_t pidfd_pid(int pidfd) {
  static constexpr char kKey[] = "\nPid:\t";
  char path[64] = "/proc/self/fdinfo/";
  append_number(path, sizeof path, static_cast<uint64_t>(pidfd));
  char text[1024];
  if (read_small(path, text, sizeof text) <= 0) return 0;
  for (const char* at = text; (at = find_first(at, '\n')) != nullptr; ++at) {
    if (strncmp(at, kKey, sizeof kKey - 1) != 0) continue;
    uint64_t pid = 0;
    return parse_number(at + sizeof kKey - 1, &pid) != nullptr ? static_cast<pid_t>(pid) : 0;
  }
  return 0;
}

ssize_t read_small(const char* path, char* to, size_t capacity) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const ssize_t size = read(fd, to, capacity - 1);
  const int error_number = errno;
  close(fd);
  if (size < 0) return -error_number;
  to[size] = 0;
  return size;
}

bool parse_stat(const char* text, ProcStat* stat) {
  // "PID (NAME) STATE PPID ...": the name may hold anything, so look for its last parenthesis.
  const char* at = find_last(text, ')');
  if (at == nullptr || at[1] != ' ' || at[2] == 0) return false;
  at += 2;
  *stat = ProcStat{};
  stat->state = *at;
  for (int field = 3; *at != 0; ++field) {
    uint64_t value = 0;
    parse_number(at, &value);
    if (field == 4) stat->parent = static_cast<pid_t>(value);
    if (field == 6) stat->session = static_cast<pid_t>(value);
    if (field == 9) stat->flags = value;
    if (field == 22) stat->start_time = value;
    if (field == 52) {
      stat->exit_code = static_cast<int>(value);
      stat->has_exit_code = true;
    }
    while (*at != 0 && *at != ' ' && *at != '\n') ++at;
    while (*at == ' ' || *at == '\n') ++at;
  }
  return stat->start_time != 0;
}

bool read_stat(pid_t pid, ProcStat* stat) {
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(pid));
  append_text(path, sizeof path, "/stat");
  char text[2048];
  return read_small(path, text, sizeof text) > 0 && parse_stat(text, stat);
}

bool is_same_and_alive(pid_t pid, uint64_t start_time) {
  ProcStat stat;
  return pid > 0 && read_stat(pid, &stat) && stat.start_time == start_time && stat.state != 'Z' &&
         stat.state != 'X';
}

bool is_another(pid_t pid, uint64_t start_time) {
  ProcStat stat;
  return read_stat(pid, &stat) && stat.start_time != start_time;
}

bool read_generation(pid_t pid, uint64_t* generation) {
  static constexpr char kKey[] = "DEFIB_GENERATION=";
  constexpr size_t kKeySize = sizeof kKey - 1;
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(pid));
  append_text(path, sizeof path, "/environ");
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  // The text is met piece by piece: `matched` bytes of the key stand at the end of what was read.
  constexpr size_t kNotHere = SIZE_MAX;
  size_t matched = 0;
  bool found = false, whole = false;
  char piece[1024];
  ssize_t size;
  *generation = 0;
  while (!whole && (size = read(fd, piece, sizeof piece)) > 0) {
    for (ssize_t i = 0; i < size && !whole; ++i) {
      const char c = piece[i];
      if (found) {
        whole = c < '0' || c > '9';
        if (!whole) *generation = *generation * 10 + static_cast<uint64_t>(c - '0');
      } else if (c == 0) {
        matched = 0;
      } else if (matched != kNotHere) {
        matched = c == kKey[matched] ? matched + 1 : kNotHere;
        found = matched == kKeySize;
      }
    }
  }
  close(fd);
  return found;
}

bool pidfd_exit_status(int pidfd, int* wait_status) {
  // struct pidfd_info of Linux 6.15 (include/uapi/linux/pidfd.h).
  struct PidfdInfo {
    uint64_t mask, cgroupid;
    uint32_t ids[11];
    int32_t exit_code;
  } info = {};
  static_assert(sizeof(PidfdInfo) == 64);
  constexpr uint64_t kInfoExit = 1u << 3;
  info.mask = kInfoExit;
  if (ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &info) != 0 || (info.mask & kInfoExit) == 0) {
    return false;
  }
  *wait_status = info.exit_code;
  return true;
}

const char* find_first(const char* text, char wanted) {
  for (; *text != 0; ++text) {
    if (*text == wanted) return text;
  }
  return nullptr;
}

const char* find_last(const char* text, char wanted) {
  const char* last = nullptr;
  for (; *text != 0; ++text) {
    if (*text == wanted) last = text;
  }
  return last;
}

const char* parse_number(const char* text, uint64_t* value) {
  const char* at = text;
  uint64_t result = 0;
  while (*at >= '0' && *at <= '9') result = result * 10 + static_cast<uint64_t>(*at++ - '0');
  if (at == text) return nullptr;
  *value = result;
  return at;
}

void append_text(char* to, size_t capacity, const char* text) {
  size_t at = strlen(to);
  while (*text != 0 && at + 1 < capacity) to[at++] = *text++;
  to[at] = 0;
}

void append_number(char* to, size_t capacity, uint64_t value) {
  char digits[24];
  size_t at = sizeof digits - 1;
  digits[at] = 0;
  do {
    digits[--at] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  append_text(to, capacity, digits + at);
}

int send_message(int socket, const void* head, size_t head_size, const void* body, size_t body_size,
                 const int* fds, int fd_count) {
  iovec parts[2] = {{const_cast<void*>(head), head_size}, {const_cast<void*>(body), body_size}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = body_size > 0 ? 2 : 1;
  if (fd_count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * static_cast<size_t>(fd_count));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * static_cast<size_t>(fd_count));
    memcpy(CMSG_DATA(header), fds, sizeof(int) * static_cast<size_t>(fd_count));
  }
  while (sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return -errno;
  }
  return 0;
}

ssize_t receive_message(int socket, void* to, size_t capacity, int* fds, int* fd_count) {
  *fd_count = 0;
  iovec part = {to, capacity};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0) return -errno;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (*fd_count < kMaxFds) {
        fds[(*fd_count)++] = fd;
      } else {
        close(fd);
      }
    }
  }
  return size;
}

bool peer_is_trusted(int socket) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

}  // namespace defib::process::shim
