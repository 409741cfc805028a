// Hooks: programs of the user's that run before a start, after a crash, and when the service came
// to rest. They run in the background as the service's user, each in a session of its own; one that
// hangs is killed with all that it started.
//
// The file `hooks` names each process before it executes its program. A shim that was killed in the
// middle of one is followed by one that ends it and says so; so a hook never runs twice at a time,
// and a start that waits for one is asked for again.

#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "journal.h"
#include "launch.h"

namespace defib::process::shim {

struct HookRecord {
  uint32_t magic;
  Hook hook;
  pid_t pid;  // 0: none runs
  uint32_t reserved;
  uint64_t start_time;
  uint64_t generation;
  uint64_t ticket_id;  // of the start that waits for it; 0: by request, or none
  int64_t started_mono_ns;
  char boot_id[40];
};
static_assert(sizeof(HookRecord) == 88);
inline constexpr size_t kHookSlot = 128;

class Hooks {
 public:
  // 0 or -errno.
  int open_file(const char* boot_id);
  // Ends what the shim before us left running, and tells the journal. The ticket of the start that
  // waited for it; 0: none.
  uint64_t end_remains(Journal& journal);

  // False where it could not be started; the journal tells why.
  bool start(Launch& launch, Hook hook, uint64_t generation, uint64_t ticket_id,
             const ExitInfo& last_exit, const ProcessDescriptors& fds, Journal& journal);
  bool running(Hook hook) const { return slots_[static_cast<size_t>(hook)].record.pid > 0; }
  bool any_running() const;
  bool owns(pid_t pid) const;
  // Kills a running one with all that it started; its end comes by SIGCHLD.
  void kill_now(Hook hook);
  void kill_overdue(int64_t now);
  int64_t next_deadline() const;  // 0: none

  // A child of ours has ended and is not yet waited for: if it is a hook it is reaped here.
  struct Ended {
    bool is_hook = false;
    Hook hook{};
    bool success = false;
  };
  Ended reap(pid_t pid, Journal& journal);
  // Fills in up to `capacity` pids; the number of them.
  size_t list(pid_t* to, size_t capacity) const;

 private:
  struct Slot {
    HookRecord record = {};
    int64_t deadline = 0;
    bool timed_out = false;
  };
  void write_slot(Hook hook);

  Slot slots_[kHooks];
  int file_ = -1;
  char boot_id_[40] = {};
};

}  // namespace defib::process::shim
