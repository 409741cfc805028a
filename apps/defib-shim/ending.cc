// How a process of the service ended: its status, what it left, and who takes its place.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

// Its limits stay with a zombie.
uint32_t cpu_limit_seconds(pid_t pid) {
  uint64_t limit[2] = {};  // struct rlimit64: soft, hard
  if (syscall(SYS_prlimit64, pid, RLIMIT_CPU, nullptr, limit) != 0) return 0;
  return limit[1] > UINT32_MAX ? 0 : static_cast<uint32_t>(limit[1]);
}

}  // namespace

// The wait status, by whatever means the kernel offers for this process. A zombie stays: it is the
// only other place that knows, until the record does.
bool Shim::learn_status(Instance& one, ExitInfo* exit) {
  if (one.is_child) {
    rusage usage = {};
    siginfo_t info = {};
    // Not by the library: its waitid() leaves the usage out.
    if (syscall(SYS_waitid, P_PID, one.pid, &info, WEXITED | WNOHANG | WNOWAIT, &usage) != 0 ||
        info.si_pid != one.pid) {
      return false;
    }
    constexpr int kCoreFlag = 0x80;
    exit->wait_status = info.si_code == CLD_EXITED   ? (info.si_status & 0xff) << 8
                        : info.si_code == CLD_DUMPED ? info.si_status | kCoreFlag
                                                     : info.si_status;
    exit->source = StatusSource::kWait;
    exit->cpu_ns = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000'000LL +
                   (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
    exit->max_rss_bytes = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
    return true;
  }
  // A process that another one waits for: as a zombie it tells its status in /proc; once it has
  // been waited for, the pidfd does (Linux 6.15). In between there is nothing, for microseconds.
  constexpr int kAttempts = 20;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    char text[2048];
    const ssize_t size = one.stat_fd >= 0 ? pread(one.stat_fd, text, sizeof text - 1, 0) : -1;
    ProcStat stat;
    if (size > 0) {
      text[size] = 0;
      if (parse_stat(text, &stat) && stat.state == 'Z' && stat.has_exit_code) {
        exit->wait_status = stat.exit_code;
        exit->source = StatusSource::kProcStat;
        return true;
      }
    }
    if (one.pidfd >= 0 && pidfd_exit_status(one.pidfd, &exit->wait_status)) {
      exit->source = StatusSource::kPidfdInfo;
      return true;
    }
    if (one.stat_fd < 0 && one.pidfd < 0) break;
    usleep(500);
  }
  exit->source = StatusSource::kUnknown;
  return true;
}

void Shim::reap(const Instance& one) {
  if (one.is_child) wait4(one.pid, nullptr, WNOHANG, nullptr);
}

// What a shim recorded of this end that was killed before it could write down what follows. The
// zombie may still be there, and is not counted again.
const ExitInfo* Shim::recorded_exit(const Instance& one) const {
  for (const ExitInfo& exit : status_.record.exits) {
    if (exit.number != 0 && exit.pid == one.pid && exit.generation == saved(one).generation) {
      return &exit;
    }
  }
  return nullptr;
}

// Its slot in the status record stays: the caller frees it with the write that tells what follows.
void Shim::free_instance(Instance& one) {
  if (one.pidfd >= 0) {
    unwatch(one.pidfd);
    close(one.pidfd);
  }
  if (one.stat_fd >= 0) close(one.stat_fd);
  one.life.end();
  one.groups.leave();
  sweep_soon();
  // To give memory back takes time too.
  close_page(&old_page_);
  old_page_ = one.page;
  one = Instance{};
}

// A service of the forking kind: what ended was its launcher. True where it goes on.
bool Shim::follow_successor(Instance& one) {
  const pid_t successor = one.announced;
  one.announced = 0;
  status_.record.announced = Announced{};
  if (!is_same_and_alive(successor, one.announced_start)) return false;
  const Followed followed = {saved(one).generation, one.announced_start, successor, one.pid};
  saved(one).pid = successor;
  saved(one).start_time = one.announced_start;
  status_.write_record();
  journal_.add(Type::kFollowed, &followed, sizeof followed);
  reap(one);
  if (one.pidfd >= 0) {
    unwatch(one.pidfd);
    close(one.pidfd);
  }
  if (one.stat_fd >= 0) close(one.stat_fd);
  one.pidfd = one.stat_fd = -1;
  watch_process(one, successor);  // A stop that is under way concerns it too.
  return true;
}

void Shim::note_exit(Instance& one, ExitInfo& exit) {
  StatusRecord& record = status_.record;
  exit.reaped_mono_ns = mono_ns();
  exit.number = ++record.exit_number;
  exit.generation = saved(one).generation;
  exit.pid = one.pid;
  exit.reason = one.reason;
  exit.role = one.standby ? InstanceRole::kStandby : saved(one).role;
  const AgentPage* page = one.page.page;
  if (page != nullptr && page->crash.state.load() != 0) {
    exit.crashed_mono_ns = page->crash.crashed_mono_ns;
  }
  const bool killed = exit.source != StatusSource::kUnknown && (exit.wait_status & 0x7f) == SIGKILL;
  if (page != nullptr && killed) one.page.page->cpu_limit_seconds = cpu_limit_seconds(one.pid);
  memmove(record.exits + 1, record.exits, sizeof(ExitInfo) * (kKeptExits - 1));
  record.exits[0] = exit;
}

// How it ended: in the record first, then taken from the kernel. A shim that is killed in between
// leaves its slot beside the exit, so that the next one goes on from there (recorded_exit).
// False where it has not ended, or goes on as another process.
bool Shim::take_exit(Instance& one, ExitInfo* exit) {
  if (const ExitInfo* recorded = recorded_exit(one)) {
    *exit = *recorded;
    reap(one);
    return true;
  }
  exit->noticed_mono_ns = mono_ns();
  exit->noticed_wall_ns = wall_ns();
  const bool has_successor = one.announced != 0;
  // The zombie still keeps the number of the group from being used again.
  if (!has_successor && one.group > 0) kill(-one.group, SIGKILL);
  exit->oom_kills = one.groups.oom_kills();
  if (!learn_status(one, exit)) return false;  // A spurious wake-up.
  if (has_successor) {
    if (follow_successor(one)) return false;
    if (one.group > 0) kill(-one.group, SIGKILL);
  }
  note_exit(one, *exit);
  status_.write_record();
  reap(one);
  return true;
}

void Shim::ended(Instance& one) {
  if (!one.used) return;
  // What it said before its end is heard before it: an error, a successor, READY=1.
  constexpr int kRounds = 8;  // of 64; the kernel's queues hold at most 512
  for (int i = 0; i < kRounds && on_notify(); ++i) {
  }
  // A crash that was not heard of while it lived.
  if (one.page.page != nullptr) look_at_crash(one);
  Exited report = {};
  ExitInfo& exit = report.exit;
  if (!take_exit(one, &exit)) {
    if (one.tracer <= 0) return;
    end_tracer(one);
    if (!take_exit(one, &exit)) return;
  }
  for (const Capture& capture : captures_) {
    if (capture.pid != 0 && capture.generation == exit.generation) report.capture_running = 1;
  }
  report.ticket_id = one.ticket_id;
  report.restart_delay_ns = one.replaced_delay_ns;
  saved(one) = StatusInstance{};
  kill_family(one);
  free_instance(one);
  kill_leftovers();
  if (exit.role != InstanceRole::kStandby) {
    run_evidence(exit);
    run_post_crash(exit);
  }
  if (exit.role == InstanceRole::kActive) {
    after_active(exit, &report);
  } else {
    status_.write_record();
    journal_.add(Type::kExited, &report, sizeof report);
  }
  tell_early_captures(exit.generation);
  if (any()) return;
  forget_prepared();  // Nothing follows at once.
  cleanup_until_ = mono_ns() + kCleanupLimitNs;
  if (connection_ < 0) idle_since_ = mono_ns();
}

// The active process is gone: its standby takes its place, or a new process does, or nobody.
void Shim::after_active(const ExitInfo& exit, Exited* report) {
  const bool wanted = wants_restart(status_.record.restart, status_.record.restart_after, exit);
  if (find(InstanceRole::kStandby) != nullptr && wanted) {
    report->promotes = 1;
    journal_.add(Type::kExited, report, sizeof *report);
    return promote(exit.generation, false);
  }
  end_standby();
  if (ticket_.id != 0 && !calls_for_restart(ticket_, exit)) ticket_ = Ticket{};
  use_ticket(exit.noticed_mono_ns, InstanceRole::kActive, &report->ticket_id,
             &report->restart_delay_ns);
  journal_.add(Type::kExited, report, sizeof *report);
  if (report->ticket_id != 0 && report->restart_delay_ns == 0) {
    await_leftovers();
    request_start(true, report->ticket_id);
    if (alive()) return;
  }
  if (start_when_gone_ && exit.reason == StopReason::kRequested) {
    start_when_gone_ = false;
    await_leftovers();
    request_start(false, 0);
    if (alive()) return;
  }
  if (status_.record.phase != Phase::kNone) status_.record.phase = Phase::kExited;
  status_.write_record();
}

// Takes the ticket for the next start, which is at once where the delay comes out as 0, else by the
// timer.
void Shim::use_ticket(int64_t noticed, InstanceRole role, uint64_t* ticket_id, int64_t* delay_ns) {
  if (ticket_.id == 0 && pending_.id != 0) {
    // Meant for a standby, whose active process is dead now: it is needed more here.
    ticket_ = pending_;
    ticket_.delay_ns = start_at_ - noticed;
  }
  const Ticket ticket = ticket_;
  ticket_ = Ticket{};
  if (ticket.id == 0) return;
  *ticket_id = ticket.id;
  *delay_ns = ticket.delay_ns > 0 ? ticket.delay_ns : 0;
  if (ticket.delay_ns <= 0) return;
  pending_ = ticket;
  pending_role_ = role;
  start_at_ = later(noticed, ticket.delay_ns);
}

bool Shim::is_capture(pid_t pid) const {
  for (const Capture& capture : captures_) {
    if (capture.pid == pid) return true;
  }
  return hooks_.owns(pid);
}

// A child of ours that a dead process of the service left to us. While another one lives, only what
// carries a generation that is dead counts: the living one may leave us children too.
bool Shim::is_leftover(pid_t pid) {
  if (is_capture(pid)) return false;
  for (const Instance& one : instances_) {
    if (one.used && (one.pid == pid || has_announced(one, pid) || one.tracer == pid)) return false;
  }
  if (!any()) return true;
  uint64_t generation = 0;
  return read_generation(pid, &generation) && find_generation(generation) == nullptr;
}

// Our children as they are now, in the words of /proc. False where there are none.
bool Shim::read_children(char* to, size_t capacity) {
  if (children_ < 0) children_ = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
  const ssize_t size = children_ >= 0 ? pread(children_, to, capacity - 1, 0) : 0;
  if (size <= 0) return false;
  to[size] = 0;
  return true;
}

int Shim::kill_leftovers() {
  static char text[4096];
  if (!read_children(text, sizeof text)) return 0;
  int count = 0;
  const char* at = text;
  uint64_t number = 0;
  while ((at = parse_number(at, &number)) != nullptr) {
    const pid_t pid = static_cast<pid_t>(number);
    if (is_leftover(pid)) {
      kill(pid, SIGKILL);
      ++count;
    }
    while (*at == ' ') ++at;
  }
  return count;
}

// What the dead service left has been killed; the replacement shall not meet it, nor the locks and
// ports that it holds until it is quite gone.
void Shim::await_leftovers() {
  const int64_t until = mono_ns() + kLeftoverLimitNs;
  while (kill_leftovers() > 0 && mono_ns() < until) {
    reap_children();
    usleep(100);
  }
}

void Shim::reap_children() {
  while (true) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) break;
    Instance* one = nullptr;
    for (Instance& candidate : instances_) {
      if (candidate.used && candidate.pid == info.si_pid) one = &candidate;
    }
    if (one != nullptr) {
      one->is_child = true;
      ended(*one);
      continue;
    }
    if (reap_hook(info.si_pid)) continue;
    int status = 0;
    if (wait4(info.si_pid, &status, WNOHANG, nullptr) != info.si_pid) break;
    for (Instance& candidate : instances_) {
      if (candidate.used && candidate.tracer == info.si_pid) tracer_ended(candidate, status);
    }
    for (Capture& capture : captures_) {
      if (capture.pid == info.si_pid) captured(capture, status);
    }
  }
}

}  // namespace defib::process::shim
