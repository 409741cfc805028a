// Instance: one process of the service, as long as its end has not been collected.
//
// What must outlive the shim (generation, pid, role, epoch) stands in the status record, in the
// slot of the same index; here is what one shim holds of it.

#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "defib/process/shim_protocol.h"
#include "launch.h"
#include "life_watch.h"

namespace defib::process::shim {

struct Instance {
  bool used = false;
  pid_t pid = 0;
  int pidfd = -1;
  int stat_fd = -1;  // of one that is not our child
  PageHandle page;
  LifeWatch life;
  pid_t group = 0;  // its process group; 0: none that is only its own
  // MAINPID= of a process that lives beside it, or has: its number may have been used again.
  pid_t announced = 0;
  uint64_t announced_start = 0;
  bool is_child = false;  // ours to wait for
  bool adopted = false;
  bool standby = false;        // it has not been made active
  bool crash_handled = false;  // its crash flag was seen
  pid_t tracer = 0;            // defib-snapshot, which has seized it for life; 0: none
  bool dying_told = false;
  bool stop_extendable = false;  // what hangs, or is over, gets no more time by asking for it
  // NOTIFYACCESS=; until then that of the launch description.
  bool access_changed = false;
  bool stranger_told = false;
  NotifyAccess notify_access = NotifyAccess::kAll;
  StopReason reason = StopReason::kNone;
  uint64_t ticket_id = 0;  // the ticket by which it was replaced while it was dying
  int64_t replaced_delay_ns = 0;
  int64_t kill_at = 0;       // 0: nothing is being stopped
  int64_t look_at = 0;       // when its threads are looked at again; 0: not
  int64_t look_step_ns = 0;  // doubles from look to look
  int looks_left = 0;
  Cgroup groups;
  Stop stopping = {};
  uint32_t stop_step = 0;      // the next one of stopping
  int64_t watch_again_at = 0;  // no descriptor was left to watch it; 0: it is watched
  int64_t memory_look_at = 0;  // when the kernel's count of kills is read; 0: not
  uint32_t oom_kills_told = 0;
};

// Those that are used, or were. Memory behind them is not touched, so that it costs nothing.
class Instances {
 public:
  // Zeroed memory for kMaxInstances.
  explicit Instances(Instance* first) : first_(first) {}
  Instance* begin() const { return first_; }
  Instance* end() const { return first_ + count_; }
  Instance& operator[](size_t index) const { return first_[index]; }
  // From now on the one of this index is among them.
  void include(size_t index) {
    if (count_ <= index) count_ = index + 1;
  }
  // One that is not used, or nullptr. Its memory may be anything.
  Instance* find_free() {
    for (Instance& one : *this) {
      if (!one.used) return &one;
    }
    if (count_ == kMaxInstances) return nullptr;
    return first_ + count_++;
  }

 private:
  Instance* first_;
  size_t count_ = 0;
};

}  // namespace defib::process::shim
