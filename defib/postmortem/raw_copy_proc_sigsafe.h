// The kernel's calls and /proc as the copier uses them (raw_copy_sigsafe.h), which is no public
// face: plain functions that allocate nothing.

#pragma once

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "defib/postmortem/raw_copy_sigsafe.h"

namespace defib::postmortem::raw {

inline constexpr size_t kMaxPath = 4096;
inline constexpr size_t kMaxName = 64;

class Text {
 public:
  Text& add(const char* text) {
    while (*text != 0 && size_ + 1 < sizeof text_) text_[size_++] = *text++;
    text_[size_] = 0;
    return *this;
  }
  Text& add(uint64_t number, unsigned base = 10) {
    char digits[24];
    size_t count = 0;
    do {
      const unsigned digit = static_cast<unsigned>(number % base);
      digits[count++] = static_cast<char>(digit < 10 ? '0' + digit : 'a' + digit - 10);
      number /= base;
    } while (number != 0);
    while (count > 0 && size_ + 1 < sizeof text_) text_[size_++] = digits[--count];
    text_[size_] = 0;
    return *this;
  }
  const char* get() const { return text_; }
  size_t size() const { return size_; }

 private:
  char text_[256] = {};
  size_t size_ = 0;
};

inline Text proc_path(pid_t pid, const char* rest) {
  Text path;
  path.add("/proc/").add(static_cast<uint64_t>(pid)).add("/").add(rest);
  return path;
}
inline Text task_path(pid_t pid, pid_t tid, const char* rest) {
  Text path = proc_path(pid, "task/");
  path.add(static_cast<uint64_t>(tid)).add("/").add(rest);
  return path;
}

inline long trace(long request, pid_t tid, long address, long data) {
  return syscall(SYS_ptrace, request, tid, address, data);
}
inline int open_file(const char* path, int flags = O_RDONLY | O_CLOEXEC) {
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, 0));
}
inline void close_file(int fd) {
  if (fd >= 0) syscall(SYS_close, fd);
}
inline ssize_t read_some(int fd, void* to, size_t size) {
  return syscall(SYS_read, fd, to, size);
}
inline pid_t wait_for(pid_t tid, int* status, int options) {
  return static_cast<pid_t>(syscall(SYS_wait4, tid, status, options, nullptr));
}
inline void sleep_ns(long ns) {
  const timespec pause = {0, ns};
  syscall(SYS_nanosleep, &pause, nullptr);
}
inline const char* reason(int error_number) {
  switch (error_number) {
    case EACCES:
    case EPERM:
      return "it is not permitted";
    case ENOENT:
    case ESRCH:
      return "it is gone";
    case EMFILE:
    case ENFILE:
      return "too many files are open";
    default:
      return "the kernel refused it";
  }
}

// The whole of a small file; the size, or -errno.
inline ssize_t read_whole(const char* path, char* to, size_t max, bool* cut = nullptr) {
  const int fd = open_file(path);
  if (fd < 0) return -errno;
  size_t size = 0;
  ssize_t got = 0;
  while (size < max && (got = read_some(fd, to + size, max - size)) > 0) {
    size += static_cast<size_t>(got);
  }
  const int failed = errno;
  if (cut != nullptr) *cut = got > 0;
  close_file(fd);
  return got < 0 && size == 0 ? -failed : static_cast<ssize_t>(size);
}

inline bool parse_number(const char* text, int64_t* value) {
  if (*text < '0' || *text > '9') return false;
  *value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) {
    if (*value > INT32_MAX) return false;
    *value = *value * 10 + (*text - '0');
  }
  return *text == 0;
}

// Calls `use` with each name in the directory that is a number; ends where it returns false.
template <typename Use>
bool for_each_number(const char* path, Use use) {
  struct Entry {  // struct linux_dirent64
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
  };
  const int fd = open_file(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  alignas(8) char entries[4096];
  bool more = true;
  while (more) {
    const long size = syscall(SYS_getdents64, fd, entries, sizeof entries);
    if (size <= 0) break;
    for (long at = 0; at < size && more;) {
      const Entry* entry = reinterpret_cast<const Entry*>(entries + at);
      at += entry->size;
      int64_t number = 0;
      if (parse_number(entry->name, &number)) more = use(static_cast<int>(number));
    }
  }
  close_file(fd);
  return true;
}

// The code around `pc`, as a record.
void copy_code(Buffer& buffer, pid_t pid, uint64_t pc);

}  // namespace defib::postmortem::raw
