// CommandRun: one run of a command on the event loop, with a bound on its time, its output and what
// it leaves behind. Exec probes and recover commands are runs.
//
// Invariants: when the callback comes, the command's process group and every descendant that could
// be found has been sent SIGKILL; their zombies (this process may be a subreaper) are reaped soon
// after, also when the run is destroyed meanwhile: the cleaning is the loop's.
// Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <memory>
#include <string>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/process.h"

namespace defib::daemon {

class CommandRun {
 public:
  static constexpr std::size_t kKeptOutput = 4096;  // the last bytes
  struct Result {
    os::ExitStatus status;  // unknown where it was killed for its time
    bool timed_out = false;
    std::string output;  // the end of stdout and stderr
  };
  // Called once, unless the run is destroyed before; it may destroy the run.
  using Done = std::function<void(const Result& result)>;

  // Starts the command in a session of its own. ProgramNotFound.
  static defib::Result<std::unique_ptr<CommandRun>> start(os::EventLoop& loop,
                                                          os::SpawnOptions options,
                                                          os::Duration timeout, Done done);
  // Kills what still runs.
  ~CommandRun();
  CommandRun(const CommandRun&) = delete;
  CommandRun& operator=(const CommandRun&) = delete;
  pid_t pid() const { return child_.pid(); }

 private:
  CommandRun(os::EventLoop& loop, Done done) : loop_(loop), done_(std::move(done)) {}
  void read_output();
  void finish(bool timed_out);
  os::ExitStatus end_all(bool has_ended);

  os::EventLoop& loop_;
  Done done_;
  os::Child child_;
  os::Fd output_;
  std::string text_;
  os::EventLoop::TimerId timer_ = 0;
  bool ended_ = false;
};

}  // namespace defib::daemon
