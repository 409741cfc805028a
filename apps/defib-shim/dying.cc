// The death of a process before its end: noticed by its life lock or its crash flag, believed when
// no thread of it can run any more, and used for a replacement where that is allowed so early.

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

constexpr int64_t kFirstLookNs = 1'000'000;
constexpr int64_t kLongestStepNs = 512'000'000;
// A lock that was released while the process lives is looked at again: another thread may be on its
// way out too, between the signal that ends it and the mark of its end.
constexpr int kLooksAfterRelease = 3;
// The other threads of a killed process notice it within their next tick.
constexpr int kQuickLooks = 20;
constexpr useconds_t kQuickStepUs = 50;

}  // namespace

// The agent attached, or its lock was released.
void Shim::watch_life(Instance& one) {
  AgentPage* page = one.page.page;
  if (one.life.fired()) {
    one.looks_left = kLooksAfterRelease;
    one.look_step_ns = kFirstLookNs;
    look_at_life(one);
    if (!one.used) return;
    one.life.end();
  }
  if (one.life.watching() || !LifeWatch::is_held(*page)) return;
  const int failed = one.life.begin(page, wake_);
  if (failed != 0) complain("cannot watch the life lock", -failed);
}

void Shim::look_at_life(Instance& one) {
  one.look_at = 0;
  if (saved(one).role == InstanceRole::kDying) return;
  if (is_same_and_alive(one.announced, one.announced_start)) return;  // It goes on as that one.
  const uint64_t start_time = saved(one).start_time;
  // Of a released lock: this is the moment in which the threads end, one after the other.
  FenceLook look = look_at_threads(one.pid, start_time, one.life.fired());
  for (int i = 0; i < kQuickLooks && look.fence == Fence::kEnding; ++i) {
    usleep(kQuickStepUs);
    look = look_at_threads(one.pid, start_time, i + 1 < kQuickLooks);
  }
  if (look.fence == Fence::kFenced) return fenced(one, look);
  // What is ending ends some time, and then its pidfd tells; what lives is left alone after a
  // while.
  if (look.fence == Fence::kLives && --one.looks_left <= 0) return;
  if (one.look_step_ns == 0) one.look_step_ns = kFirstLookNs;
  one.look_at = mono_ns() + one.look_step_ns;
  one.look_step_ns = one.look_step_ns < kLongestStepNs / 2 ? one.look_step_ns * 2 : kLongestStepNs;
}

void Shim::tell_dying(Instance& one, DyingSign sign) {
  if (one.dying_told) return;
  one.dying_told = true;
  const Dying dying = {saved(one).generation, one.pid, sign, mono_ns()};
  journal_.add(Type::kDying, &dying, sizeof dying);
}

// Whether its death calls for a replacement, as far as that is known before its end.
bool Shim::should_replace(const Instance& one, int exit_code) const {
  ExitInfo exit = {};
  exit.reason = one.reason;
  exit.source = StatusSource::kProcStat;
  exit.wait_status = exit_code;  // 0 may mean that the kernel does not tell: then its end will
  const StatusRecord& record = status_.record;
  if (find(InstanceRole::kStandby) == nullptr && ticket_.id != 0 &&
      !calls_for_restart(ticket_, exit)) {
    return false;
  }
  return wants_restart(record.restart, record.restart_after, exit);
}

// No line of its program runs any more; its memory, its locks and its sockets are still there.
void Shim::fenced(Instance& one, const FenceLook& look) {
  tell_dying(one, DyingSign::kLifeLock);
  if (saved(one).role != InstanceRole::kActive || !should_replace(one, look.exit_code)) return;
  const bool has_standby = find(InstanceRole::kStandby) != nullptr;
  if (!has_standby && (status_.record.restart_when != ShimRestartWhen::kDying || ticket_.id == 0)) {
    return;
  }
  // A core that is being written would be cut off, and the status with it.
  if (look.exiting) {
    if (one.group > 0) kill(-one.group, SIGKILL);
    one.groups.kill_all();  // None that it started acts beside the one to come.
  }
  saved(one).role = InstanceRole::kDying;
  if (has_standby) return promote(saved(one).generation, true);
  use_ticket(mono_ns(), InstanceRole::kActive, &one.ticket_id, &one.replaced_delay_ns);
  if (one.replaced_delay_ns == 0) return request_start(true, one.ticket_id);
  status_.record.phase = Phase::kExited;
  status_.write_record();
}

// The one before is fenced or gone, and marked so in the record. First the file, then the page: a
// shim that is killed in between leaves what its successor carries out.
void Shim::promote(uint64_t old_generation, bool early) {
  Instance& one = *find(InstanceRole::kStandby);
  StatusRecord& record = status_.record;
  StatusInstance& promoted = saved(one);
  promoted.role = InstanceRole::kActive;
  promoted.epoch = ++record.epoch;
  record.phase = Phase::kRunning;
  ++record.restarts;
  status_.write_record();
  give_role(one, promoted.epoch);
  adopted_ = one.adopted;
  Promoted told = {
      promoted.generation, old_generation, promoted.epoch, mono_ns(), wall_ns(), 0, 0, one.pid,
      early ? 1u : 0u};
  use_ticket(told.promoted_mono_ns, InstanceRole::kStandby, &told.ticket_id,
             &told.standby_delay_ns);
  journal_.add(Type::kPromoted, &told, sizeof told);
  if (told.ticket_id != 0 && told.standby_delay_ns == 0) {
    start(InstanceRole::kStandby, true, told.ticket_id);
  }
}

void Shim::give_role(Instance& one, uint64_t epoch) {
  one.standby = false;
  AgentPage* page = one.page.page;
  if (page == nullptr || page->role.load() == static_cast<uint32_t>(Role::kActive)) return;
  page->epoch.store(epoch);
  page->role.store(static_cast<uint32_t>(Role::kActive));
  syscall(SYS_futex, &page->role, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace defib::process::shim
