// Striker: runs a program under ptrace(2), follows what it starts, and at one chosen system call
// kills the process that makes it, or lets that call fail. Everything then runs on untraced.
//
// Thread rule: construct, watch and destroy on one thread, which is the tracer.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace defib::process {

class Striker {
 public:
  enum class Blow : std::uint8_t { kKill, kFail };
  struct Target {
    std::string program;     // base name of the executable whose system calls count
    std::uint64_t call = 0;  // the blow falls at the entry of this one, from 1; 0: never
    Blow blow = Blow::kKill;
    int error_number = 0;  // of a failing call; only calls that can fail so are counted
    bool armed = true;     // else nothing is counted before arm()
    long only = -1;        // counts calls of this number alone; -1: of any
  };

  // Starts the program, stopped at its first instruction. `out` becomes its stdout and stderr.
  Striker(std::vector<std::string> argv, std::vector<std::string> env, int out, Target target);
  // Lets go of all that is still traced.
  ~Striker();
  Striker(const Striker&) = delete;
  Striker& operator=(const Striker&) = delete;

  // Handles what has happened since the last call; does not block.
  void watch();
  void arm() { target_.armed = true; }
  // Traces nothing any more.
  void let_go();

  pid_t pid() const { return pid_; }
  bool struck() const { return struck_; }
  // Calls counted so far.
  std::uint64_t calls() const { return calls_; }
  // "kill of defib-shim at call 17 (pwrite64)".
  std::string description() const;
  // Whether the program that was started has been waited for.
  bool ended() const { return ended_; }

 private:
  struct Task {
    std::string program;
    bool inside = false;   // between the entry of a system call and its return
    bool failing = false;  // its return is to be replaced
  };
  void handle(pid_t tid, int status);
  void note_child(pid_t tid, int event);
  void at_call(pid_t tid, Task& task);
  void resume(pid_t tid, int signal);
  bool counts(long number) const;

  Target target_;
  pid_t pid_ = -1;
  std::map<pid_t, Task> tasks_;
  std::set<pid_t> known_;  // that were seen, also those that are not traced any more
  std::uint64_t calls_ = 0;
  long struck_call_ = -1;
  bool struck_ = false;
  bool ended_ = false;
};

}  // namespace defib::process
