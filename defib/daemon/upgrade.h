// Upgrade: replacing this supervisor by the program that lies on disk now, without any service
// noticing.
//
// The program is tried first: it has to read this very command line and configuration (`--check`)
// and find its helpers. One that cannot leaves everything as it is. Then the guardian starts it
// when this process has ended, or, without a guardian, it is executed in this process's place. The
// locks are kept over both. Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/process.h"

namespace defib::daemon {

class Upgrade {
 public:
  // What the trial printed, or why there is no upgrade.
  using Done = std::function<void(Result<std::string>)>;

  // `command` is the program's path and the arguments with which this process was started.
  Upgrade(os::EventLoop& loop, std::vector<std::string> command)
      : loop_(loop), command_(std::move(command)) {}
  ~Upgrade();
  Upgrade(const Upgrade&) = delete;
  Upgrade& operator=(const Upgrade&) = delete;

  void try_program(Done done);
  const std::vector<std::string>& command() const { return command_; }

 private:
  void finish(bool in_time);

  os::EventLoop& loop_;
  std::vector<std::string> command_;
  os::Child trial_;
  os::Fd output_;
  os::EventLoop::TimerId timer_ = 0;
  Done done_;
};

}  // namespace defib::daemon
