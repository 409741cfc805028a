// What stands between the wish to start or end the service and the act: hooks, control groups, the
// sequence of stop signals. The parts are in hooks.h, cgroup.h and launch.h.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

void evidence_path(uint64_t generation, char* to, size_t capacity) {
  to[0] = 0;
  append_text(to, capacity, kCaptureDir);
  append_text(to, capacity, "/evidence-");
  append_number(to, capacity, generation);
  append_text(to, capacity, ".txt");
}

bool is_failure(const ExitInfo& exit) {
  if (exit.reason != StopReason::kNone) return exit.reason != StopReason::kRequested;
  return exit.source == StatusSource::kUnknown || exit.wait_status != 0;
}

}  // namespace

ProcessDescriptors Shim::output_descriptors() const {
  return {null_, logs_.service_end(0), logs_.service_end(1), -1, wake_, &sockets_};
}

// Starts the service, or lets it wait for the hooks that come first.
void Shim::request_start(bool automatic, uint64_t ticket_id) {
  if (alive()) return;
  start_at_ = 0;
  waiting_ = {true, automatic, waiting_.prepared, ticket_id};
  pending_ = Ticket{};
  pending_.id = ticket_id;  // Told to a supervisor that comes meanwhile.
  pending_role_ = InstanceRole::kActive;
  if (hooks_.running(Hook::kPreStart) || hooks_.running(Hook::kCleanup) ||
      hooks_.running(Hook::kEvidence) ||
      (hooks_.running(Hook::kPostCrash) && launch_.sets(kPostCrashWaits))) {
    return;  // Their end comes back to it.
  }
  if (waiting_.prepared || !launch_.has_hook(Hook::kPreStart)) return start_waiting();
  const uint64_t next = status_.record.generation + 1;
  if (!hooks_.start(launch_, Hook::kPreStart, next, ticket_id, status_.record.exits[0],
                    output_descriptors(), journal_)) {
    fail_waiting(ENOEXEC);
  }
}

void Shim::start_waiting() {
  const WaitingStart waiting = waiting_;
  waiting_ = WaitingStart{};
  start(InstanceRole::kActive, waiting.automatic, waiting.ticket_id);
  // Where it has to wait for room, its hook is not run again.
  if (!alive() && start_at_ != 0) waiting_.prepared = waiting.prepared;
}

void Shim::fail_waiting(int error_number) {
  const StartFailed failure = {status_.record.generation + 1, waiting_.ticket_id, StartStage::kHook,
                               error_number};
  waiting_ = WaitingStart{};
  pending_ = Ticket{};
  journal_.add(Type::kStartFailed, &failure, sizeof failure);
}

void Shim::cancel_waiting() {
  waiting_ = WaitingStart{};
  hooks_.kill_now(Hook::kPreStart);
}

// A child has ended and is not yet waited for. True where it was a hook.
bool Shim::reap_hook(pid_t pid) {
  const Hooks::Ended ended = hooks_.reap(pid, journal_);
  if (!ended.is_hook) return false;
  if (ended.hook == Hook::kPreStart && waiting_.wanted) {
    if (ended.success) {
      waiting_.prepared = true;
      start_waiting();
    } else {
      fail_waiting(0);
    }
  } else if (waiting_.wanted) {
    request_start(waiting_.automatic, waiting_.ticket_id);
  }
  if (cleanup_wanted_) run_cleanup();
  return true;
}

void Shim::run_cleanup() {
  cleanup_wanted_ = false;
  if (!launch_.has_hook(Hook::kCleanup) || alive() || waiting_.wanted) return;
  if (hooks_.any_running()) {
    cleanup_wanted_ = true;
    return;
  }
  await_leftovers();
  hooks_.start(launch_, Hook::kCleanup, status_.record.generation, 0, status_.record.exits[0],
               output_descriptors(), journal_);
}

// Before anything else happens to what the service left: a replacement waits for its end.
void Shim::run_evidence(const ExitInfo& exit) {
  if (!launch_.has_hook(Hook::kEvidence) || !is_failure(exit)) return;
  // Of those that nobody has taken away, a few are kept.
  constexpr uint64_t kKept = 8;
  char path[64];
  if (exit.generation > kKept) {
    evidence_path(exit.generation - kKept, path, sizeof path);
    unlink(path);
  }
  evidence_path(exit.generation, path, sizeof path);
  const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) return complain("evidence", errno);
  const ProcessDescriptors fds = {null_, file, file, -1, wake_, &sockets_};
  hooks_.start(launch_, Hook::kEvidence, exit.generation, 0, exit, fds, journal_);
  close(file);
}

void Shim::run_post_crash(const ExitInfo& exit) {
  if (!launch_.has_hook(Hook::kPostCrash) || !is_failure(exit)) return;
  hooks_.start(launch_, Hook::kPostCrash, exit.generation, 0, exit, output_descriptors(), journal_);
}

// What the shim before us left of its hooks. A start by ticket that waited for one fails here, so
// that the supervisor asks for it again.
void Shim::resume_hooks(const char* boot_id) {
  const int failed = hooks_.open_file(boot_id);
  if (failed != 0) complain("hooks", -failed);
  const uint64_t ticket_id = failed == 0 ? hooks_.end_remains(journal_) : 0;
  if (ticket_id == 0) return;
  const StartFailed failure = {status_.record.generation + 1, ticket_id, StartStage::kHook,
                               EOWNERDEAD};
  journal_.add(Type::kStartFailed, &failure, sizeof failure);
}

void Shim::tell_shortfalls(uint64_t generation, const StartOutcome& outcome) {
  for (uint32_t stage = 0; stage < kStartStages; ++stage) {
    if (outcome.refused[stage] == 0 || !launch_.tells(static_cast<StartStage>(stage))) continue;
    const Shortfall report = {generation, static_cast<StartStage>(stage), outcome.refused[stage]};
    journal_.add(Type::kShortfall, &report, sizeof report);
  }
}

// What does not depend on how the present process ends: to make a group takes the kernel longer
// than the rest of a start.
void Shim::prepare(uint64_t generation) {
  forget_prepared();
  prepared_.generation = generation;
  prepared_.groups.make(launch_, generation, prepared_.refused);
  if ((launch_.header().agent & kLaunchAgent) == 0) return;
  const int failed = make_page(&prepared_.page);
  if (failed != 0) complain("no agent page", -failed);
}

void Shim::forget_prepared() {
  close_page(&prepared_.page);
  prepared_.groups.forget();
  prepared_ = Prepared{};
}

// For the restart that a ticket allows at once. Others have the time.
void Shim::prepare_for_ticket() {
  if (!launch_.loaded() || ticket_.id == 0 || ticket_.delay_ns > 0) return forget_prepared();
  const uint64_t next = status_.record.generation + 1;
  if (prepared_.generation != next) prepare(next);
}

// Not beside a start, which wants the processor.
void Shim::sweep_soon() {
  constexpr int64_t kSoonNs = 5'000'000;
  sweep_step_ns_ = 0;
  sweep_at_ = mono_ns() + kSoonNs;
}

// Groups of generations that are dead: of this shim, of those before it where they were killed.
void Shim::sweep_groups() {
  close_page(&old_page_);
  if (!launch_.loaded()) return;
  swept_ = true;
  uint64_t first_kept = prepared_.generation != 0 ? prepared_.generation : UINT64_MAX;
  for (const Instance& one : instances_) {
    if (one.used && saved(one).generation < first_kept) first_kept = saved(one).generation;
  }
  if (Cgroup::sweep(launch_, first_kept)) {
    sweep_at_ = sweep_step_ns_ = 0;
    return;
  }
  // A killed process leaves its group when its memory has been torn down. One that does not end
  // (a disk that does not answer) is looked for at the next start.
  constexpr int64_t kFirstStepNs = 1'000'000, kLastStepNs = 4'000'000'000;
  sweep_step_ns_ = sweep_step_ns_ == 0 ? kFirstStepNs : sweep_step_ns_ * 2;
  sweep_at_ = sweep_step_ns_ <= kLastStepNs ? mono_ns() + sweep_step_ns_ : 0;
  if (sweep_at_ == 0) sweep_step_ns_ = 0;
}

void Shim::watch_memory(Instance& one) {
  const int fd = one.groups.watch_memory();
  if (fd < 0) return;
  watch(fd, EPOLLIN | EPOLLPRI, kMemory | static_cast<uint32_t>(index(one)) << kSourceBits);
}

void Shim::on_memory(Instance& one) {
  if (!one.used) return;
  one.groups.drain_memory();
  // The kernel tells of the need first, and counts what it killed some moments later.
  constexpr int64_t kCountedAfterNs = 50'000'000;
  if (one.memory_look_at == 0) one.memory_look_at = mono_ns() + kCountedAfterNs;
}

void Shim::look_at_memory(Instance& one) {
  one.memory_look_at = 0;
  const uint32_t kills = one.groups.oom_kills();
  if (kills <= one.oom_kills_told) return;
  one.oom_kills_told = kills;
  const OomKill report = {saved(one).generation, mono_ns(), launch_.header().memory_limit_bytes,
                          kills, 0};
  journal_.add(Type::kOomKill, &report, sizeof report);
}

// The next signal of the sequence; false where there is none left.
bool Shim::next_stop_signal(Instance& one, int64_t now) {
  const Stop& stopping = one.stopping;
  if (one.stop_step >= stopping.step_count || one.stop_step >= kMaxStopSteps - 1) return false;
  const StopStep& step = stopping.steps[one.stop_step++];
  if (step.signal > 0) {
    signal_service(one, step.signal);
    signal_service(one, SIGCONT);
  }
  one.kill_at = later(now, step.grace_ns);
  return true;
}

// Everything of a process that has ended, wherever it went: by its control group, else by descent.
void Shim::kill_family(Instance& one) {
  if (one.groups.kill_all()) return;
  one.used = false;  // From here on it keeps nobody alive.
  constexpr size_t kMaxSpared = 256;
  static pid_t spared[kMaxSpared];
  // First those that matter most; then the children that a living process left to us.
  size_t count = hooks_.list(spared, kHooks);
  for (const Capture& capture : captures_) {
    if (capture.pid > 0) spared[count++] = capture.pid;
  }
  for (const Instance& other : instances_) {
    if (other.used) spared[count++] = other.pid;
    if (other.used && is_same_and_alive(other.announced, other.announced_start)) {
      spared[count++] = other.announced;
    }
    if (other.used && other.tracer > 0) spared[count++] = other.tracer;
  }
  static char text[4096];
  if (!read_children(text, sizeof text)) return;
  const char* at = text;
  uint64_t number = 0;
  while ((at = parse_number(at, &number)) != nullptr) {
    const pid_t pid = static_cast<pid_t>(number);
    if (!is_leftover(pid) && count < kMaxSpared) spared[count++] = pid;
    while (*at == ' ') ++at;
  }
  kill_descendants(getpid(), spared, count);
}

// The service's user may not be able to reach a socket in our directory: then it has an abstract
// name, and its senders are told by their credentials. Changes only while nothing runs that speaks
// to the one before.
void Shim::use_notify_name() {
  if (any()) return;
  const char* name = launch_.text(LaunchText::kNotify);
  sockaddr_un bound = {};
  socklen_t size = sizeof bound;
  if (getsockname(notify_, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return;
  const bool abstract = bound.sun_path[0] == 0;
  const bool same =
      name[0] == 0 ? !abstract
                   : abstract && strncmp(bound.sun_path + 1, name, sizeof bound.sun_path - 1) == 0;
  if (same) return;
  const int before = notify_;
  const int failed = open_notify(name[0] != 0 ? name : nullptr);
  if (failed != 0) {
    complain("cannot open the notify socket", -failed);
    if (notify_ >= 0) close(notify_);
    notify_ = before;
    return;
  }
  unwatch(before);
  close(before);
  watch(notify_, EPOLLIN, kNotifySocket);
  send_now(Type::kNotifySocket, "", 0, nullptr, 0, &notify_, 1);
}

// Before the shim ends: no group stays behind that nothing lives in.
void Shim::remove_groups() {
  if (!launch_.loaded()) return;
  constexpr int kAttempts = 50;
  forget_prepared();
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Cgroup::sweep(launch_, UINT64_MAX);
    if (!Cgroup::any_left(launch_)) return;
    reap_children();
    usleep(2000);
  }
}

}  // namespace defib::process::shim
