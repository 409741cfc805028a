// HelperProcess: a program that a supervising process starts beside itself, at most one at a time,
// and is told of its end. What it says last on stderr is told with it.
//
// Helpers keep libraries (HTTP, mail) out of the supervisor. Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"

namespace defib::daemon {

class HelperProcess {
 public:
  // `last_words` is what it wrote on stderr, cut.
  using OnExit = std::function<void(const os::ExitStatus& status, const std::string& last_words)>;
  explicit HelperProcess(os::EventLoop& loop) : loop_(loop) {}
  // A helper that runs goes on.
  ~HelperProcess();
  HelperProcess(const HelperProcess&) = delete;
  HelperProcess& operator=(const HelperProcess&) = delete;

  struct Options {
    std::vector<std::string> argv;  // argv[0] is a program beside this one
    // {ours, theirs}, beside 0, 1 and 2.
    std::vector<std::pair<int, int>> fds;
    bool dies_with_us = false;
  };
  // Fails where it runs already.
  Result<> start(const Options& options, OnExit on_exit);
  bool running() const { return child_.valid(); }
  pid_t pid() const { return child_.valid() ? child_.pid() : 0; }
  void terminate();
  // SIGKILL, and waits for the end, which is not told.
  void end();

 private:
  void on_end();
  os::EventLoop& loop_;
  os::Child child_;
  os::Fd stderr_;
  OnExit on_exit_;
};

}  // namespace defib::daemon
