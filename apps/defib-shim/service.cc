// The life of the service: start, watch, learn how it ended, start again where a ticket allows it.

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

bool read_boot_id(char* to, size_t capacity) {
  if (read_small("/proc/sys/kernel/random/boot_id", to, capacity) <= 0) return false;
  to[strcspn(to, "\n")] = 0;
  return true;
}

// A process of that pid and start time exists and has not ended.
bool is_same_and_alive(pid_t pid, uint64_t start_time) {
  ProcStat stat;
  return pid > 0 && read_stat(pid, &stat) && stat.start_time == start_time && stat.state != 'Z' &&
         stat.state != 'X';
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

// What the status file tells of the time before us.
void Shim::resume(const ShimOptions& options) {
  StatusRecord& record = status_.record;
  char boot_id[sizeof record.boot_id] = {};
  read_boot_id(boot_id, sizeof boot_id);
  const bool same_boot = strcmp(boot_id, record.boot_id) == 0;
  if (options.adopt_pid != 0 &&
      (!same_boot || record.phase == Phase::kNone || record.phase == Phase::kExited)) {
    // The supervisor knows of a process of which the file does not.
    if (record.generation == 0) record.generation = 1;
    record.phase = Phase::kRunning;
    record.pid = static_cast<pid_t>(options.adopt_pid);
    record.start_time = options.adopt_start_time;
  }
  const bool was_alive = record.phase == Phase::kStarting || record.phase == Phase::kRunning;
  const bool is_there = (same_boot || options.adopt_pid != 0) && was_alive;
  copy_word(record.boot_id, sizeof record.boot_id, boot_id, strlen(boot_id));
  record.shim_pid = getpid();
  for (int i = kKeptExits - 1; i >= 0; --i) {
    // Told by the shim before us to nobody, or to a supervisor that could not note it any more.
    if (record.exits[i].generation <= record.acknowledged) continue;
    const Exited again = {record.exits[i], 0, 0, 0, 0};
    journal_.add(Type::kExited, &again, sizeof again);
  }
  if (is_there && is_same_and_alive(record.pid, record.start_time)) {
    adopted_ = true;
    record.phase = Phase::kRunning;
    watch_process(record.pid);
    adopt_page(options.page_fd);
    status_.write_record();
    on_wake();  // It may have rung while nobody listened.
    return;
  }
  if (options.page_fd >= 0) close(options.page_fd);
  if (was_alive) {
    // It ended while nobody watched. Only a zombie still tells how; after a boot, nothing does.
    if (!same_boot && options.adopt_pid == 0) reason_ = StopReason::kReboot;
    pid_ = record.pid;
    is_child_ = false;
    group_ = 0;
    ProcStat stat;
    if (is_there && read_stat(pid_, &stat) && stat.start_time == record.start_time) {
      stat_fd_ = open_stat(pid_);
    }
    service_ended();
    return;
  }
  status_.write_record();
}

void Shim::watch_process(pid_t pid) {
  pid_ = pid;
  ProcStat stat;
  is_child_ = read_stat(pid, &stat) && stat.parent == getpid();
  group_ = getpgid(pid);
  if (group_ == getpgrp()) group_ = 0;
  pidfd_ = pidfd_open(pid);
  if (!is_child_) stat_fd_ = open_stat(pid);
  if (pidfd_ >= 0) {
    watch(pidfd_, EPOLLIN, kServicePidfd);
  } else {
    complain("cannot watch the service", -pidfd_);
  }
}

void Shim::adopt_page(int page_fd) {
  if (page_fd < 0) {
    char path[64] = "/proc/";
    append_number(path, sizeof path, static_cast<uint64_t>(pid_));
    append_text(path, sizeof path, "/fd/");
    append_number(path, sizeof path, kAgentPageFd);
    page_fd = open(path, O_RDWR | O_CLOEXEC);
  }
  if (page_fd >= 0 && map_page(page_fd, &page_) != 0) close(page_fd);
  // A crash that was given up or captured by the shim before us is not captured again.
  crash_handled_ =
      page_.page != nullptr &&
      page_.page->crash.state.load() > static_cast<uint32_t>(postmortem::CrashState::kCrashed);
}

void Shim::start(bool automatic, uint64_t ticket_id) {
  start_at_ = 0;
  ticket_ = Ticket{};
  pending_ = Ticket{};
  cleanup_until_ = 0;
  close_page(&page_);
  StatusRecord& record = status_.record;
  StartFailed failure = {record.generation + 1, ticket_id, StartStage::kNotConfigured, 0};
  if (!launch_.loaded()) {
    journal_.add(Type::kStartFailed, &failure, sizeof failure);
    return;
  }
  if (launch_.header().agent != 0) {
    const int failed = make_page(launch_.header().capture_timeout_ms, &page_);
    if (failed != 0) complain("no agent page", -failed);
  }
  ++record.generation;
  record.restarts = automatic ? record.restarts + 1 : 0;
  record.phase = Phase::kStarting;
  record.ready = 0;
  memset(record.state_word, 0, sizeof record.state_word);
  const ProcessDescriptors fds = {null_, logs_.service_end(0), logs_.service_end(1), page_.fd,
                                  wake_};
  const StartOutcome outcome = start_process(launch_, fds, status_);
  if (outcome.pid < 0) {
    record.phase = Phase::kNone;
    record.pid = 0;
    status_.write_record();
    failure.stage = outcome.stage;
    failure.error_number = outcome.error_number;
    journal_.add(Type::kStartFailed, &failure, sizeof failure);
    return;
  }
  record.phase = Phase::kRunning;
  record.started_mono_ns = mono_ns();
  record.started_wall_ns = wall_ns();
  status_.write_record();
  pid_ = outcome.pid;
  is_child_ = true;
  adopted_ = false;
  group_ = outcome.pid;
  reason_ = StopReason::kNone;
  crash_handled_ = false;
  announced_pid_ = 0;
  pidfd_ = pidfd_open(pid_);
  if (pidfd_ >= 0) watch(pidfd_, EPOLLIN, kServicePidfd);  // else SIGCHLD tells
  const Started started = {record.generation,      record.start_time, record.started_mono_ns,
                           record.started_wall_ns, ticket_id,         pid_,
                           automatic ? 1u : 0u};
  journal_.add(Type::kStarted, &started, sizeof started);
}

// The wait status, by whatever means the kernel offers for this process.
bool Shim::learn_status(ExitInfo* exit) {
  if (is_child_) {
    rusage usage = {};
    int status = 0;
    if (wait4(pid_, &status, WNOHANG, &usage) != pid_) return false;
    exit->wait_status = status;
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
    const ssize_t size = stat_fd_ >= 0 ? pread(stat_fd_, text, sizeof text - 1, 0) : -1;
    ProcStat stat;
    if (size > 0) {
      text[size] = 0;
      if (parse_stat(text, &stat) && stat.state == 'Z' && stat.has_exit_code) {
        exit->wait_status = stat.exit_code;
        exit->source = StatusSource::kProcStat;
        return true;
      }
    }
    if (pidfd_ >= 0 && pidfd_exit_status(pidfd_, &exit->wait_status)) {
      exit->source = StatusSource::kPidfdInfo;
      return true;
    }
    if (stat_fd_ < 0 && pidfd_ < 0) break;
    usleep(500);
  }
  exit->source = StatusSource::kUnknown;
  return true;
}

void Shim::forget_process() {
  if (pidfd_ >= 0) {
    unwatch(pidfd_);
    close(pidfd_);
  }
  if (stat_fd_ >= 0) close(stat_fd_);
  pidfd_ = stat_fd_ = -1;
  pid_ = 0;
  kill_at_ = 0;
}

void Shim::service_ended() {
  if (!alive()) return;
  Exited report = {};
  ExitInfo& exit = report.exit;
  exit.noticed_mono_ns = mono_ns();
  exit.noticed_wall_ns = wall_ns();
  const pid_t successor = announced_pid_;
  // Before the wait: the zombie still keeps the number of the group from being used again.
  if (successor == 0 && group_ > 0) kill(-group_, SIGKILL);
  if (!learn_status(&exit)) return;  // A spurious wake-up.
  exit.reaped_mono_ns = mono_ns();
  exit.generation = status_.record.generation;
  exit.pid = pid_;
  exit.reason = reason_;
  if (page_.page != nullptr && page_.page->crash.state.load() != 0) {
    exit.crashed_mono_ns = page_.page->crash.crashed_mono_ns;
  }
  const int64_t kill_at = kill_at_;
  forget_process();
  if (successor != 0) {
    announced_pid_ = 0;
    ProcStat stat;
    if (read_stat(successor, &stat) && stat.state != 'Z') {
      // A service of the forking kind: what ended was its launcher.
      watch_process(successor);
      kill_at_ = kill_at;  // A stop that is under way concerns it too.
      status_.record.pid = successor;
      status_.record.start_time = stat.start_time;
      status_.write_record();
      return;
    }
    if (group_ > 0) kill(-group_, SIGKILL);
  }
  kill_leftovers();
  for (const Capture& capture : captures_) {
    if (capture.pid > 0 && capture.generation == exit.generation) report.capture_running = 1;
  }
  ExitInfo* kept = status_.record.exits;
  memmove(kept + 1, kept, sizeof(ExitInfo) * (kKeptExits - 1));
  kept[0] = exit;
  use_ticket(exit, &report);
  journal_.add(Type::kExited, &report, sizeof report);
  if (report.ticket_id != 0 && report.restart_delay_ns == 0) {
    await_leftovers();
    start(true, report.ticket_id);
    if (alive()) return;
  } else {
    status_.record.phase = Phase::kExited;
    status_.write_record();
  }
  cleanup_until_ = mono_ns() + kCleanupLimitNs;
  if (connection_ < 0) idle_since_ = mono_ns();
}

void Shim::use_ticket(const ExitInfo& exit, Exited* report) {
  const Ticket ticket = ticket_;
  ticket_ = Ticket{};
  if (ticket.id == 0 || !calls_for_restart(ticket.restart, exit)) return;
  report->ticket_id = ticket.id;
  report->restart_delay_ns = ticket.delay_ns;
  if (ticket.delay_ns <= 0) return;
  pending_ = ticket;
  start_at_ = exit.noticed_mono_ns + ticket.delay_ns;
}

bool Shim::is_capture(pid_t pid) const {
  for (const Capture& capture : captures_) {
    if (capture.pid == pid) return true;
  }
  return false;
}

int Shim::kill_leftovers() {
  static char text[4096];
  if (read_small("/proc/thread-self/children", text, sizeof text) <= 0) return 0;
  int count = 0;
  const char* at = text;
  uint64_t number = 0;
  while ((at = parse_number(at, &number)) != nullptr) {
    const pid_t pid = static_cast<pid_t>(number);
    if (pid != pid_ && !is_capture(pid)) {
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

void Shim::stop(const Stop& request) {
  if (request.reason == StopReason::kRequested) {
    ticket_ = Ticket{};
    pending_ = Ticket{};
    start_at_ = 0;
  }
  if (!alive()) return;
  reason_ = request.reason;
  kill_at_ = mono_ns() + (request.grace_ns > 0 ? request.grace_ns : 0);
  if (request.signal > 0 && pidfd_ >= 0) {
    pidfd_send(pidfd_, request.signal);
    pidfd_send(pidfd_, SIGCONT);  // A stopped process takes no signal else.
    if (announced_pid_ > 0) kill(announced_pid_, request.signal);
  }
}

// MAINPID=: a process that shall count as the service from now on, or from the end of the present
// one on. Only one that the service started is believed.
void Shim::follow_main_pid(pid_t pid) {
  if (pid == pid_ || pid <= 1) return;
  ProcStat stat;
  if (!read_stat(pid, &stat) || (stat.parent != pid_ && stat.parent != getpid())) return;
  announced_pid_ = pid;
}

void Shim::on_signals() {
  signalfd_siginfo ignored;
  while (read(signals_, &ignored, sizeof ignored) == sizeof ignored) {
  }
  reap_children();
  if (cleanup_until_ != 0 && kill_leftovers() == 0) cleanup_until_ = 0;
}

void Shim::reap_children() {
  while (true) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) break;
    if (info.si_pid == pid_) {
      is_child_ = true;
      service_ended();
      continue;
    }
    int status = 0;
    if (wait4(info.si_pid, &status, WNOHANG, nullptr) != info.si_pid) break;
    for (Capture& capture : captures_) {
      if (capture.pid == info.si_pid) captured(capture, status);
    }
  }
}

// The agent rang: a crash, or a heartbeat that was armed.
void Shim::on_wake() {
  char ignored[256];
  while (read(wake_, ignored, sizeof ignored) > 0) {
  }
  if (page_.page == nullptr || !alive()) return;
  const auto state = static_cast<postmortem::CrashState>(page_.page->crash.state.load());
  if (state != postmortem::CrashState::kCrashed) {
    page_changed_ = true;
    return;
  }
  if (crash_handled_) return;
  crash_handled_ = true;
  start_capture();  // First of all: the process waits for it.
  const CrashFlag flag = {status_.record.generation, pid_, page_.page->crash.signal,
                          page_.page->crash.crashed_mono_ns, mono_ns()};
  journal_.add(Type::kCrashFlag, &flag, sizeof flag);
}

void Shim::give_up_capture() {
  auto& state = page_.page->crash.state;
  uint32_t expected = static_cast<uint32_t>(postmortem::CrashState::kCrashed);
  state.compare_exchange_strong(expected, static_cast<uint32_t>(postmortem::CrashState::kGivenUp));
  syscall(SYS_futex, &state, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

void Shim::start_capture() {
  Capture* slot = nullptr;
  for (Capture& capture : captures_) {
    if (capture.pid == 0) slot = &capture;
  }
  if (slot == nullptr || !launch_.loaded() || launch_.capture_program()[0] == 0) {
    return give_up_capture();
  }
  static char pid_text[24], out[64];
  pid_text[0] = out[0] = 0;
  append_number(pid_text, sizeof pid_text, static_cast<uint64_t>(pid_));
  append_text(out, sizeof out, kCaptureDir);
  append_text(out, sizeof out, "/crash-");
  append_number(out, sizeof out, status_.record.generation);
  append_text(out, sizeof out, ".json");
  // The helper inherits our directory, and the page as its descriptor 3.
  static char crash[] = "crash", pid_option[] = "--pid", page_option[] = "--page-fd",
              page_fd[] = "3", log_option[] = "--log-tail", log_path[] = "logs/current",
              out_option[] = "--out";
  char* const argv[] = {const_cast<char*>(launch_.capture_program()),
                        crash,
                        pid_option,
                        pid_text,
                        page_option,
                        page_fd,
                        log_option,
                        log_path,
                        out_option,
                        out,
                        nullptr};
  const pid_t pid = start_helper(argv, page_.fd);
  if (pid < 0) {
    const Captured failed = {status_.record.generation, pid, 0};
    journal_.add(Type::kCaptured, &failed, sizeof failed);
    return give_up_capture();
  }
  *slot = {pid, status_.record.generation, mono_ns() + kCaptureLimitNs};
}

void Shim::captured(Capture& capture, int wait_status) {
  const Captured report = {capture.generation, wait_status, 0};
  if (page_.page != nullptr && capture.generation == status_.record.generation) {
    give_up_capture();  // No effect after a capture; a helper that failed must not delay the death.
  }
  capture = Capture{};
  journal_.add(Type::kCaptured, &report, sizeof report);
}

void Shim::on_timers(int64_t now) {
  if (kill_at_ != 0 && now >= kill_at_) {
    kill_at_ = 0;
    if (pidfd_ >= 0) pidfd_send(pidfd_, SIGKILL);
    if (group_ > 0 && alive()) kill(-group_, SIGKILL);
  }
  if (start_at_ != 0 && now >= start_at_) start(true, pending_.id);
  if (cleanup_until_ != 0 && now >= cleanup_until_) cleanup_until_ = 0;
  if (logs_.retry_at() != 0 && now >= logs_.retry_at()) logs_.retry();
  for (Capture& capture : captures_) {
    if (capture.deadline == 0 || now < capture.deadline) continue;
    capture.deadline = 0;
    kill(capture.pid, SIGKILL);
  }
  const bool idle = connection_ < 0 && !alive() && start_at_ == 0;
  if (!idle) {
    idle_since_ = 0;
  } else if (idle_since_ == 0) {
    idle_since_ = now;
  } else if (now >= idle_since_ + kIdleLimitNs) {
    ending_ = true;
  }
}

}  // namespace defib::process::shim
