// For tests that change the machine's core_pattern: one at a time, and never for longer than they
// live, however they end. The program stands in it under a short name, because the kernel takes 127
// bytes.

#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "defib/os/fd.h"

namespace defib::postmortem {

class HeldCorePattern {
 public:
  static constexpr const char* kPattern = "/proc/sys/kernel/core_pattern";
  static constexpr std::size_t kMaxPattern = 127;

  // "|PROGRAM ARGUMENTS", until this object ends.
  HeldCorePattern(const std::string& program, const std::string& arguments) {
    failed_ = hold(program, arguments);
  }
  // The guard restores it, now.
  ~HeldCorePattern() {
    alive_ = os::Fd();
    if (guard_ > 0) ::waitpid(guard_, nullptr, 0);
    if (place_.empty()) return;
    ::unlink((place_ + "/c").c_str());
    ::rmdir(place_.c_str());
  }
  HeldCorePattern(const HeldCorePattern&) = delete;
  HeldCorePattern& operator=(const HeldCorePattern&) = delete;
  // Why it is not held; empty: it is.
  const std::string& failed() const { return failed_; }

 private:
  std::string hold(const std::string& program, const std::string& arguments) {
    lock_ = os::Fd(::open("/tmp/defib-core-pattern.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (!lock_.valid() || ::flock(lock_.get(), LOCK_EX) != 0) {
      return "the lock of the tests that change core_pattern cannot be had";
    }
    const os::Fd file(::open(kPattern, O_RDWR | O_CLOEXEC));
    char before[256];
    const ssize_t size = file.valid() ? ::read(file.get(), before, sizeof before) : -1;
    if (size <= 0) return "core_pattern may not be written here: run as root";
    char place[] = "/tmp/dc-XXXXXX";
    if (::mkdtemp(place) == nullptr) return "no directory for the link";
    place_ = place;
    const std::string link = place_ + "/c";
    const std::string pattern = "|" + link + arguments;
    if (pattern.size() > kMaxPattern) return "the pattern is too long: " + pattern;
    if (::symlink(program.c_str(), link.c_str()) != 0) return "no link to the program";
    if (!start_guard(std::string(before, static_cast<std::size_t>(size)))) {
      return "nobody would restore core_pattern";
    }
    return write(pattern) ? "" : "core_pattern could not be written";
  }
  static bool write(const std::string& pattern) {
    const os::Fd file(::open(kPattern, O_WRONLY | O_CLOEXEC));
    return file.valid() && ::write(file.get(), pattern.data(), pattern.size()) ==
                               static_cast<ssize_t>(pattern.size());
  }
  // A process that notices the end of this one by the end of a pipe. It holds the lock too, so that
  // nobody reads the pattern in between.
  bool start_guard(const std::string& before) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return false;
    const os::Fd waiting(ends[0]);
    alive_ = os::Fd(ends[1]);
    guard_ = ::fork();
    if (guard_ != 0) return guard_ > 0;
    ::setsid();
    ::close(ends[1]);
    char byte;
    while (::read(ends[0], &byte, 1) < 0) {
    }
    static_cast<void>(write(before));
    ::_exit(0);
  }
  os::Fd lock_, alive_;
  pid_t guard_ = -1;
  std::string place_, failed_;
};

}  // namespace defib::postmortem
