// The life of the service: found again, started, watched, stopped. How it ends is in ending.cc, how
// it dies in dying.cc.

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

constexpr int64_t kWatchAgainNs = 1'000'000'000;

bool read_boot_id(char* to, size_t capacity) {
  if (read_small("/proc/sys/kernel/random/boot_id", to, capacity) <= 0) return false;
  to[strcspn(to, "\n")] = 0;
  return true;
}

// Opened before the end, it goes on meaning this process, whoever gets the number later.
int open_stat(pid_t pid) {
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(pid));
  append_text(path, sizeof path, "/stat");
  return open(path, O_RDONLY | O_CLOEXEC);
}

void copy_word(char* to, size_t capacity, const char* from, size_t size) {
  if (size >= capacity) size = capacity - 1;
  memcpy(to, from, size);
  memset(to + size, 0, capacity - size);
}

}  // namespace

Instance* Shim::find(InstanceRole role) {
  for (Instance& one : instances_) {
    if (one.used && saved(one).role == role) return &one;
  }
  return nullptr;
}

Instance* Shim::find_generation(uint64_t generation) {
  for (Instance& one : instances_) {
    if (one.used && saved(one).generation == generation) return &one;
  }
  return nullptr;
}

Instance* Shim::find_sender(pid_t pid) {
  ProcStat stat;
  const pid_t session = read_stat(pid, &stat) ? stat.session : 0;
  Instance* of_session = nullptr;
  for (Instance& one : instances_) {
    if (one.used && (one.pid == pid || has_announced(one, pid))) return &one;
    if (one.used && session != 0 && one.pid == session) of_session = &one;
  }
  return of_session != nullptr ? of_session : find(InstanceRole::kActive);
}

bool Shim::has_announced(const Instance& one, pid_t pid) {
  return one.announced == pid && !is_another(pid, one.announced_start);
}

bool Shim::any() const {
  for (const Instance& one : instances_) {
    if (one.used) return true;
  }
  return false;
}

// What the status file tells of the time before us.
void Shim::resume(const ShimOptions& options) {
  StatusRecord& record = status_.record;
  char boot_id[sizeof record.boot_id] = {};
  read_boot_id(boot_id, sizeof boot_id);
  const bool same_boot = strcmp(boot_id, record.boot_id) == 0;
  const bool told = take_adopted(options);
  copy_word(record.boot_id, sizeof record.boot_id, boot_id, strlen(boot_id));
  record.shim_pid = getpid();
  const auto is_acted_upon = [&record](const ExitInfo& exit) {
    for (const StatusInstance& one : record.instances) {
      if (one.generation == exit.generation && one.pid == exit.pid) return false;
    }
    return true;
  };
  for (int i = kKeptExits - 1; i >= 0; --i) {
    // Told by the shim before us to nobody, or to a supervisor that could not note it any more.
    // Where its slot is still there, what follows comes with it (ended()).
    if (record.exits[i].number <= record.acknowledged || !is_acted_upon(record.exits[i])) continue;
    const Exited again = {record.exits[i], 0, 0, 0, 0};
    journal_.add(Type::kExited, &again, sizeof again);
  }
  resume_hooks(boot_id);
  resume_instances(same_boot || told, options);
  status_.write_record();
  on_wake();  // It may have rung while nobody listened.
}

// The supervisor knows of a process of which the file does not.
bool Shim::take_adopted(const ShimOptions& options) {
  StatusRecord& record = status_.record;
  if (options.adopt_pid == 0) return false;
  StatusInstance* slot = nullptr;
  for (StatusInstance& one : record.instances) {
    if (one.generation == 0) {
      slot = &one;
      continue;
    }
    const bool same = one.pid == static_cast<pid_t>(options.adopt_pid) &&
                      one.start_time == options.adopt_start_time;
    if (same || one.role == InstanceRole::kActive) return false;
  }
  if (slot == nullptr) return false;
  *slot = StatusInstance{};
  if (record.generation == 0) record.generation = 1;
  slot->generation = record.generation;
  for (const ExitInfo& exit : record.exits) {  // Its end may be recorded, and not told.
    if (exit.number != 0 && exit.pid == static_cast<pid_t>(options.adopt_pid)) {
      slot->generation = exit.generation;
    }
  }
  slot->pid = static_cast<pid_t>(options.adopt_pid);
  slot->start_time = options.adopt_start_time;
  slot->phase = record.phase = Phase::kRunning;
  slot->epoch = record.epoch = record.epoch + 1;
  return true;
}

void Shim::resume_instances(bool same_boot, const ShimOptions& options) {
  for (size_t i = 0; i < kMaxInstances; ++i) {
    if (status_.record.instances[i].generation != 0) instances_.include(i);
  }
  // First all that live, so that the end of one finds the others.
  for (Instance& one : instances_) {
    const StatusInstance& before = saved(one);
    if (before.generation == 0) continue;
    one = Instance{};
    one.used = true;
    one.pid = before.pid;
    one.standby = before.role == InstanceRole::kStandby;
    const Announced& announced = status_.record.announced;
    if (same_boot && announced.generation == before.generation) {
      one.announced = announced.pid;
      one.announced_start = announced.start_time;
    }
    if (!same_boot || !is_same_and_alive(before.pid, before.start_time)) continue;
    int page_fd = -1;
    for (const ShimOptions::Page& page : options.pages) {
      if (page.fd >= 0 && page.pid == static_cast<uint64_t>(before.pid))
        page_fd = fcntl(page.fd, F_DUPFD_CLOEXEC, 0);
    }
    adopt(one, page_fd);
  }
  for (const ShimOptions::Page& page : options.pages) {
    if (page.fd >= 0) close(page.fd);
  }
  // In the order of their numbers: those first that are recorded.
  for (Instance& one : instances_) {
    if (one.used && recorded_exit(one) != nullptr) ended(one);
  }
  for (Instance& one : instances_) {
    if (!one.used || one.adopted) continue;
    // It ended while nobody watched. Only a zombie still tells how; after a boot, nothing does.
    if (!same_boot) one.reason = StopReason::kReboot;
    ProcStat stat;
    if (same_boot && read_stat(one.pid, &stat) && stat.start_time == saved(one).start_time) {
      one.stat_fd = open_stat(one.pid);
    }
    ended(one);
  }
  // A service that ended for good, and whose standby was not ended yet.
  if (!alive() && start_at_ == 0) end_standby();
}

void Shim::adopt(Instance& one, int page_fd) {
  StatusInstance& record = saved(one);
  one.adopted = true;
  record.phase = Phase::kRunning;
  watch_process(one, record.pid);
  adopt_page(one, page_fd);
  take_unheard(one);
  if (record.role != InstanceRole::kActive) return;
  adopted_ = true;
  status_.record.phase = Phase::kRunning;
  // A promotion that the shim before us had written down and not carried out.
  give_role(one, record.epoch);
}

void Shim::watch_process(Instance& one, pid_t pid) {
  one.pid = pid;
  ProcStat stat;
  one.is_child = read_stat(pid, &stat) && stat.parent == getpid();
  one.group = getpgid(pid);
  if (one.group == getpgrp()) one.group = 0;
  one.pidfd = pidfd_open(pid);
  if (!one.is_child && one.stat_fd < 0) one.stat_fd = open_stat(pid);
  if (one.pidfd >= 0) {
    watch(one.pidfd, EPOLLIN, kServicePidfd | static_cast<uint32_t>(index(one)) << kSourceBits);
  } else if (!one.is_child) {  // of a child SIGCHLD tells
    complain("cannot watch the service, and looks after it each second", -one.pidfd);
    one.watch_again_at = mono_ns() + kWatchAgainNs;
  }
}

void Shim::watch_again(Instance& one) {
  one.watch_again_at = 0;
  if (!is_same_and_alive(one.pid, saved(one).start_time)) return ended(one);
  watch_process(one, one.pid);
}

void Shim::adopt_page(Instance& one, int page_fd) {
  if (page_fd < 0) {
    char path[64] = "/proc/";
    append_number(path, sizeof path, static_cast<uint64_t>(one.pid));
    append_text(path, sizeof path, "/fd/");
    append_number(path, sizeof path, kAgentPageFd);
    page_fd = open(path, O_RDWR | O_CLOEXEC);
  }
  if (page_fd >= 0 && map_page(page_fd, &one.page) != 0) close(page_fd);
  const AgentPage* page = one.page.page;
  if (page == nullptr) return;
  // A crash that was given up or captured by the shim before us is not captured again.
  one.crash_handled =
      page->crash.state.load() > static_cast<uint32_t>(postmortem::CrashState::kCrashed);
  one.dying_told = one.crash_handled;
  // It began to die while nobody watched, or executed another program.
  const bool released = page->life_tid.load() != 0 && !LifeWatch::is_held(*page);
  if (released || one.crash_handled) {
    one.look_at = mono_ns();
    one.looks_left = kLooksAfterCrash;
  }
}

void Shim::start(InstanceRole role, bool automatic, uint64_t ticket_id) {
  const bool standby = role == InstanceRole::kStandby;
  Instance* one = instances_.find_free();
  if (one == nullptr) {
    // So many are dying that one of them must be gone first.
    pending_.id = ticket_id;
    pending_role_ = role;
    start_at_ = mono_ns() + kSlotRetryNs;
    return;
  }
  if (!standby || ticket_id != 0) {
    start_at_ = 0;
    pending_ = Ticket{};
  }
  if (!standby) ticket_ = Ticket{};
  cleanup_until_ = 0;
  StatusRecord& record = status_.record;
  StartFailed failure = {record.generation + 1, ticket_id, StartStage::kNotConfigured, 0, role, 0};
  if (!launch_.loaded()) {
    journal_.add(Type::kStartFailed, &failure, sizeof failure);
    return;
  }
  use_notify_name();
  // What the one before has said is its own: it is in the log before this one's start.
  for (int stream = 0; stream < 2; ++stream) on_output(stream);
  *one = Instance{};
  StatusInstance& record_of_it = saved(*one);
  record_of_it = StatusInstance{};
  record_of_it.generation = ++record.generation;
  record_of_it.role = role;
  record_of_it.phase = Phase::kStarting;
  // Corrected once the program is executed; until then a shim that takes over must not find none.
  record_of_it.started_mono_ns = mono_ns();
  record_of_it.started_wall_ns = wall_ns();
  if (!standby) {
    record_of_it.epoch = ++record.epoch;
    record.restarts = automatic ? record.restarts + 1 : 0;
    record.phase = Phase::kStarting;
  }
  if (prepared_.generation != record_of_it.generation) prepare(record_of_it.generation);
  one->groups = prepared_.groups;
  one->page = prepared_.page;
  int refused[kStartStages];
  memcpy(refused, prepared_.refused, sizeof refused);
  prepared_ = Prepared{};
  if (one->page.page != nullptr) {
    fill_page(one->page, launch_.header().capture_timeout_ms);
    one->page.page->epoch.store(record_of_it.epoch);
    one->page.page->role.store(static_cast<uint32_t>(standby ? Role::kStandby : Role::kActive));
  }
  const ProcessDescriptors fds = {
      null_, logs_.service_end(0), logs_.service_end(1), one->page.fd, wake_, &sockets_};
  const StartOutcome outcome =
      start_process(launch_, fds, one->groups, refused, status_, record_of_it);
  tell_shortfalls(record_of_it.generation, outcome);
  if (outcome.pid < 0) {
    close_page(&one->page);
    record_of_it = StatusInstance{};
    if (!standby) record.phase = Phase::kNone;
    status_.write_record();
    failure.stage = outcome.stage;
    failure.error_number = outcome.error_number;
    journal_.add(Type::kStartFailed, &failure, sizeof failure);
    return;
  }
  record_of_it.phase = Phase::kRunning;
  record_of_it.started_mono_ns = mono_ns();
  record_of_it.started_wall_ns = wall_ns();
  if (!standby) {
    record.phase = Phase::kRunning;
    adopted_ = false;
  }
  status_.write_record();
  one->used = true;
  one->standby = standby;
  one->pid = outcome.pid;
  one->is_child = true;
  one->group = outcome.pid;
  one->pidfd = pidfd_open(one->pid);
  if (one->pidfd >= 0) {  // else SIGCHLD tells
    watch(one->pidfd, EPOLLIN, kServicePidfd | static_cast<uint32_t>(index(*one)) << kSourceBits);
  }
  const Started started = {record_of_it.generation,
                           record_of_it.start_time,
                           record_of_it.started_mono_ns,
                           record_of_it.started_wall_ns,
                           ticket_id,
                           one->pid,
                           automatic ? 1u : 0u,
                           record_of_it.epoch,
                           role,
                           0};
  journal_.add(Type::kStarted, &started, sizeof started);
  start_tracer(*one);
  watch_memory(*one);
  sweep_soon();
}

void Shim::stop(const Stop& request) {
  if (request.reason == StopReason::kRequested) {
    start_when_gone_ = false;
    ticket_ = Ticket{};
    pending_ = Ticket{};
    start_at_ = 0;
    cancel_waiting();
    const bool found = alive();
    for (Instance& one : instances_) {
      if (one.used && saved(one).role != InstanceRole::kDying) stop_one(one, request);
    }
    // The answer: this, or the end of the active one. What waited to be started here is called off.
    if (!found) refuse(Type::kStop, ESRCH, InstanceRole::kActive, request.number);
    return;
  }
  Instance* one =
      request.generation != 0 ? find_generation(request.generation) : find(InstanceRole::kActive);
  if (one != nullptr) stop_one(*one, request);
}

void Shim::stop_one(Instance& one, const Stop& request) {
  // Told twice. A second SIGINT makes many a program end at once.
  const bool same = one.stopping.number == request.number && one.reason == request.reason;
  if (one.kill_at != 0 && request.number != 0 && same) return;
  one.reason = request.reason;
  one.stop_extendable = request.grace_ns > 0 && (request.reason == StopReason::kRequested ||
                                                 request.reason == StopReason::kLimit);
  one.stopping = request;
  one.stop_step = 0;
  one.kill_at = later(mono_ns(), request.grace_ns);
  if (request.signal > 0) {
    signal_service(one, request.signal);
    signal_service(one, SIGCONT);  // A stopped process takes no signal else.
    if (is_same_and_alive(one.announced, one.announced_start)) {
      kill(one.announced, request.signal);
    }
  }
}

// Where no descriptor was left for its pidfd, a child keeps its number until it is waited for.
void Shim::signal_service(const Instance& one, int signal) const {
  if (one.pidfd >= 0) {
    pidfd_send(one.pidfd, signal);
  } else if (one.pid <= 0) {
    return;  // kill() would take it for a group
  } else if (one.is_child || is_same_and_alive(one.pid, saved(one).start_time)) {
    kill(one.pid, signal);
  }
}

// EXTEND_TIMEOUT_USEC= while stopping: at least so long from now.
void Shim::extend_stop(Instance& one, uint64_t microseconds) {
  constexpr uint64_t kMaxExtension = 86'400'000'000;  // a day
  if (one.kill_at == 0 || !one.stop_extendable) return;
  if (microseconds > kMaxExtension) microseconds = kMaxExtension;
  const int64_t wanted = mono_ns() + static_cast<int64_t>(microseconds) * 1000;
  if (wanted > one.kill_at) one.kill_at = wanted;
}

// The service ended for good, or is started anew: the standby has nothing to wait for.
void Shim::end_standby() {
  Instance* one = find(InstanceRole::kStandby);
  if (one == nullptr) return;
  saved(*one).role = InstanceRole::kDying;  // From here on nothing promotes it.
  one->reason = StopReason::kRequested;
  signal_service(*one, SIGKILL);
  if (one->group > 0) kill(-one->group, SIGKILL);
  one->groups.kill_all();
}

// MAINPID=: a process that shall count as the service from now on, or from the end of the present
// one on. Only one that the service started is believed.
// `pidfd` not -1: it stands for that process, whose number may have been used again meanwhile.
void Shim::follow_main_pid(Instance& one, pid_t pid, int pidfd) {
  if (pid == one.pid || pid <= 1) return;
  ProcStat stat;
  if (!read_stat(pid, &stat) || (stat.parent != one.pid && stat.parent != getpid())) return;
  if (pidfd >= 0 && pidfd_pid(pidfd) != pid) return;
  one.announced = pid;
  one.announced_start = stat.start_time;
  status_.record.announced = {saved(one).generation, stat.start_time, pid, 0};
  status_.write_record();
}

void Shim::on_signals() {
  signalfd_siginfo ignored;
  while (read(signals_, &ignored, sizeof ignored) == sizeof ignored) {
  }
  reap_children();
  if (cleanup_until_ != 0 && kill_leftovers() == 0) {
    cleanup_until_ = 0;
    sweep_groups();
  }
}

// An agent rang: it attached, a heartbeat was armed, a crash. Or a life lock was released.
void Shim::on_wake() {
  char ignored[256];
  constexpr int kMaxReads = 64;  // who rings without end shall not keep the loop
  for (int i = 0; i < kMaxReads && read(wake_, ignored, sizeof ignored) > 0; ++i) {
  }
  for (Instance& one : instances_) {
    if (!one.used || one.page.page == nullptr) continue;
    look_at_crash(one);
    if (one.used) watch_life(one);
  }
  const Instance* active = find(InstanceRole::kActive);
  page_changed_ = page_changed_ || (active != nullptr && active->page.page != nullptr);
}

void Shim::on_timers(int64_t now) {
  for (Instance& one : instances_) {
    if (!one.used) continue;
    if (one.kill_at != 0 && now >= one.kill_at && !next_stop_signal(one, now)) {
      one.kill_at = 0;
      signal_service(one, SIGKILL);
      if (one.group > 0) kill(-one.group, SIGKILL);
      one.groups.kill_all();
    }
    if (one.memory_look_at != 0 && now >= one.memory_look_at) look_at_memory(one);
    if (one.look_at != 0 && now >= one.look_at) look_at_life(one);
    if (one.used && one.watch_again_at != 0 && now >= one.watch_again_at) watch_again(one);
  }
  hooks_.kill_overdue(now);
  if (start_at_ != 0 && now >= start_at_) {
    if (pending_role_ == InstanceRole::kActive) {
      request_start(true, pending_.id);
    } else {
      start(pending_role_, true, pending_.id);
    }
  }
  if (cleanup_until_ != 0 && now >= cleanup_until_) cleanup_until_ = 0;
  if (sweep_at_ != 0 && now >= sweep_at_) sweep_groups();
  if (logs_.retry_at() != 0 && now >= logs_.retry_at()) logs_.retry();
  for (Capture& capture : captures_) {
    if (capture.deadline != 0 && now >= capture.deadline) capture_overdue(capture, now);
  }
  const bool idle = connection_ < 0 && !any() && start_at_ == 0 && !hooks_.any_running();
  if (!idle) {
    idle_since_ = 0;
  } else if (idle_since_ == 0) {
    idle_since_ = now;
  } else if (now >= idle_since_ + kIdleLimitNs) {
    ending_ = true;
  }
}

}  // namespace defib::process::shim
