// What the kernel tells of another process's threads: whether they run, wait for a processor or
// sleep, and on whose lock. Read from /proc (proc(5)), and never trusted to be complete: a thread
// may end while it is read, and a hardened kernel may hide some of it.
//
// Thread rule: like std::string.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/os/clock.h"

namespace defib::process {

struct ThreadFacts {
  pid_t tid = 0;
  // Of /proc/PID/task/TID/stat: R runnable (running, or waiting for a processor), S asleep, D waits
  // for a disk or is frozen, T stopped, t traced, Z and X ended.
  char state = '?';
  os::Duration cpu{0};        // on a processor, since its start
  os::Duration run_delay{0};  // runnable and without a processor; a wait counts when it ends
  std::uint64_t turns = 0;    // how often it got a processor
};

// The lock for which a thread waits.
struct LockWait {
  enum class Kind : std::uint8_t {
    kNone,           // it does not wait in a futex
    kUnknownHolder,  // in a futex that names no holder (condition variable), or it cannot be read
    kHeld,           // by `holder`
  };
  Kind kind = Kind::kNone;
  pid_t holder = 0;
  std::uint64_t address = 0;
  friend bool operator==(const LockWait&, const LockWait&) = default;
};

// What concerns the process, or the machine, as a whole.
struct Surroundings {
  bool ending = false;  // it exits, or its core is being written
  bool frozen = false;  // by the freezer of its control group
  pid_t tracer = 0;     // a debugger
  // Runnable threads of the whole machine for each processor that we may use.
  double runnable_per_cpu = 0;
  double load_per_cpu = 0;  // likewise, the mean of about the last minute
  // Percent of the last ten seconds in which something waited (/proc/pressure); -1: not known.
  double cpu_pressure = -1;
  double io_pressure = -1;
};

// The source of these facts; a narrow seam, so that the judgement is tested without a loaded
// machine.
class ThreadView {
 public:
  virtual ~ThreadView() = default;
  // Nothing where there is no such thread.
  virtual std::optional<ThreadFacts> thread(pid_t pid, pid_t tid) const = 0;
  // All of them, at most kMaxThreads.
  virtual std::vector<ThreadFacts> threads(pid_t pid) const = 0;
  virtual LockWait lock_wait(pid_t pid, pid_t tid) const = 0;
  // The kernel's function in which it sleeps ("futex_wait_queue"); empty where it is not told.
  virtual std::string waits_in(pid_t pid, pid_t tid) const = 0;
  virtual Surroundings surroundings(pid_t pid) const = 0;
  // How long the calling thread was runnable and without a processor, since its start.
  virtual os::Duration own_run_delay() const = 0;
};

inline constexpr std::size_t kMaxThreads = 256;

// Lives for ever.
const ThreadView& kernel_threads();

}  // namespace defib::process
