// Processes: spawn, watch by pidfd, signal without races, and read what /proc tells.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"

namespace defib::os {

struct SpawnOptions {
  std::vector<std::string> argv;                         // argv[0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> env;  // added to, or replacing, ours
  bool clear_env = false;                                // start from an empty environment
  std::string working_directory;                         // empty: ours
  // {ours, theirs}: `ours` becomes descriptor `theirs` in the child. All others are closed.
  std::vector<std::pair<int, int>> fds;
  bool new_session = false;     // setsid(2)
  int parent_death_signal = 0;  // PR_SET_PDEATHSIG; 0: none
};

struct ExitStatus {
  bool known = false;
  bool exited = false;  // by exit(code)
  int code = 0;         // exit code when `exited`
  int signal = 0;       // the signal when killed by one
  bool core_dumped = false;
  // "exit code 3", "signal 11 (SIGSEGV), core dumped", "unknown".
  std::string to_string() const;
  bool success() const { return known && exited && code == 0; }
};
ExitStatus exit_status_from_wait(int wait_status);
// "SIGSEGV"; "signal 77" where it has no name.
std::string signal_name(int signal);
// Of "SIGTERM", "TERM" or "15"; 0 where it is no signal.
int signal_number(std::string_view text);

// A child process of ours. Destroying it does not kill it.
class Child {
 public:
  Child() = default;
  Child(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid() const { return pid_; }
  // Readable when the process has ended.
  int pidfd() const { return pidfd_.get(); }
  bool valid() const { return pid_ > 0; }
  // ProcessGone if it has ended. Free of pid-reuse races.
  Result<> signal(int number) const;
  // Waits until it ends and reaps it.
  ExitStatus wait();
  // Reaps it if it has ended.
  std::optional<ExitStatus> try_wait();

 private:
  pid_t pid_ = -1;
  Fd pidfd_;
};

// Fails with ProgramNotFound or SystemCallFailed; when it returns success, exec has succeeded.
Result<Child> spawn(const SpawnOptions& options);
// Spawns, waits for the end (or kills it at the deadline: Timeout) and returns its stdout+stderr,
// at most 1 MiB of it. Not for the event loop's thread.
struct CommandOutput {
  ExitStatus status;
  std::string text;
};
Result<CommandOutput> run_command(const std::vector<std::string>& argv, int timeout_ms);

Result<Fd> open_pidfd(pid_t pid);
// The kernel's start time of the process in clock ticks since boot (/proc/PID/stat field 22): with
// the boot id and the pid it identifies a process for ever.
Result<std::uint64_t> process_start_time(pid_t pid);
// Of a process that is not ours to reap, as far as the kernel tells: PIDFD_GET_INFO with
// PIDFD_INFO_EXIT (Linux 6.15) on a pidfd opened before its end. `known` is false elsewhere.
ExitStatus exit_status_of(int pidfd);

struct ProcessUsage {
  std::uint64_t rss_bytes = 0;
  std::uint64_t pss_bytes = 0;  // 0 where smaps_rollup is not readable
  std::int64_t cpu_ns = 0;      // user + system time since its start
  int threads = 0;
  int open_fds = 0;
};
Result<ProcessUsage> process_usage(pid_t pid, bool with_pss = false);
// The proportional set size; 0 where smaps_rollup is not readable.
std::uint64_t process_pss_bytes(pid_t pid);
// "/usr/bin/x" of /proc/PID/exe.
Result<std::string> process_exe(pid_t pid);
// What a supervisor asks for, so that it looks in time while others want all processors.
struct OwnPriority {
  bool realtime = false;  // SCHED_RR, the lowest priority of that kind
  bool raised = false;    // that, or else a better nice value
  std::string refused;    // why it could not be raised; empty where it was, or was not tried
};
// For the calling thread. Children do not inherit it: they begin at the ordinary priority. With
// `respect_nice` a nice value that somebody chose stays: then nothing is changed. Memory is not
// locked: what is not needed for long shall leave it.
OwnPriority raise_own_priority(bool respect_nice = true);
// Back to the ordinary one.
void lower_own_priority();

// The directory of the running program, for finding the programs beside it.
std::string own_program_dir();

}  // namespace defib::os
