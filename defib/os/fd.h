// Fd: a file descriptor that closes itself. Thread rule: like an int.

#pragma once

#include <string>
#include <utility>

#include "defib/base/error.h"

namespace defib::os {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

// The Error for a failed system call, from errno: "open(/x/y): No such file or directory".
// ENOENT, EACCES/EPERM/EROFS, ENOSPC/EDQUOT, EIO, EMFILE/ENFILE, EEXIST and ESRCH have codes of
// their own; the rest is SystemCallFailed. Fields: call, path (if any), errno.
Error system_error(std::string_view call, std::string_view path = {}, int error_number = 0);

}  // namespace defib::os
