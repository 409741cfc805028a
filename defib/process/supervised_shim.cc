// The shim's side of a supervised service: finding, starting and replacing the shim, and what its
// messages mean.

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "defib/process/guardian.h"
#include "defib/process/supervised.h"

namespace defib::process {
namespace {

constexpr int kWelcomeTimeoutMs = 5000;
constexpr int kAttachAttempts = 3;
constexpr int kQuickLosses = 5;  // then the next shim waits
constexpr os::Duration kQuick = std::chrono::seconds(10);
constexpr os::Duration kRelaunchDelay = std::chrono::milliseconds(200);
constexpr int kMaxMessagesPerRound = 256;

bool is_alive_phase(shim::Phase phase) {
  return phase == shim::Phase::kRunning || phase == shim::Phase::kStarting;
}

std::string_view start_stage_text(shim::StartStage stage) {
  switch (stage) {
    case shim::StartStage::kNotConfigured:
      return "the shim was not told what to start";
    case shim::StartStage::kFork:
      return "no process could be made";
    case shim::StartStage::kDirectory:
      return "the working directory cannot be entered";
    case shim::StartStage::kExec:
      return "the program cannot be executed";
    case shim::StartStage::kDescriptors:
      return "its descriptors could not be set up";
  }
  return "unknown stage";
}

// Only a process that calls itself a shim.
void end_foreign_shim(pid_t pid) {
  const auto name = os::read_file(os::real_files(), fmt::format("/proc/{}/comm", pid), 64);
  const auto pidfd = os::open_pidfd(pid);
  if (!name || *name != "defib-shim\n" || !pidfd) return;
  ::kill(pid, SIGKILL);
  constexpr int kPatienceMs = 2000;
  pollfd wait = {pidfd->get(), POLLIN, 0};
  ::poll(&wait, 1, kPatienceMs);
  ::waitpid(pid, nullptr, WNOHANG);  // where it is ours
}

}  // namespace

// A shim that listens is used; else one is started, which finds a running service by itself.
Result<> Supervised::connect_or_launch() {
  Error last(Code::kUnavailable, "no shim answered");
  for (int attempt = 0; attempt < kAttachAttempts; ++attempt) {
    auto link = ShimLink::connect(dir_);
    const pid_t found = link ? link->peer_pid() : 0;
    if (!link) link = launch();
    if (!link) return link.error();
    auto attached = attach(std::move(*link));
    if (attached) attached = wait_for_welcome();
    if (attached) return {};
    last = attached.error();
    if (link_.connected()) context_.loop.unwatch(link_.fd());
    link_.close();
    // A shim that we found and cannot talk with, of another version perhaps, is replaced: that is
    // what its service survives.
    if (found > 0) end_foreign_shim(found);
  }
  return Error(Code::kUnavailable,
               fmt::format("the shim of the service '{}' cannot be reached", spec_.name))
      .because(std::move(last));
}

Result<ShimLink> Supervised::launch() {
  if (shim_.valid()) {
    // It listens no more: it is dead, or shall be.
    context_.loop.unwatch(shim_.pidfd());
    static_cast<void>(shim_.signal(SIGKILL).has_value());
    shim_.wait();
    shim_ = os::Child{};
  }
  ShimLaunch launch;
  launch.program = context_.programs.shim;
  launch.service_dir = dir_;
  launch.notify_fd = notify_fd_.get();
  if (std::string address = notify_address(dir_); address.starts_with('@')) {
    launch.notify_address = address.substr(1);
  }
  if (alive()) {
    launch.page_fd = page_.fd();
    launch.adopt_pid = pid_;
    launch.adopt_start_time = start_time_;
  }
  DEFIB_TRY_ASSIGN(LaunchedShim shim, launch_shim(launch));
  shim_ = std::move(shim.process);
  DEFIB_TRY(context_.loop.watch(shim_.pidfd(), EPOLLIN, [this](std::uint32_t) {
    on_shim_ended();
    if (link_.connected()) on_readable();  // What it still said; at its end comes lost_shim().
  }));
  return std::move(shim.link);
}

// Reaps the shim that this supervisor started.
void Supervised::on_shim_ended() {
  if (!shim_.valid() || !shim_.try_wait()) return;
  context_.loop.unwatch(shim_.pidfd());
  shim_ = os::Child{};
}

Result<> Supervised::attach(ShimLink link) {
  link_ = std::move(link);
  DEFIB_TRY(link_.send(shim::Type::kHello, shim::Hello{::getpid(), 0}));
  return context_.loop.watch(link_.fd(), EPOLLIN, [this](std::uint32_t) { on_readable(); });
}

Result<> Supervised::wait_for_welcome() {
  DEFIB_TRY_ASSIGN(ShimMessage message, link_.wait_for_message(kWelcomeTimeoutMs));
  if (message.header.type != shim::Type::kWelcome) {
    return Error(Code::kFrameMalformed, "the shim did not begin with a welcome");
  }
  return on_welcome(message);
}

Result<> Supervised::configure() {
  DEFIB_TRY_ASSIGN(const os::Fd description,
                   make_launch_description(spec_, context_.programs, context_.dir.path(), dir_));
  const int fds[] = {description.get()};
  return link_.send_bytes(shim::Type::kConfigure, {}, fds);
}

void Supervised::on_readable() {
  for (int round = 0; round < kMaxMessagesPerRound && link_.connected(); ++round) {
    auto message = link_.receive();
    if (!message) return lost_shim();
    if (!*message) return;
    handle(std::move(**message));
  }
}

void Supervised::handle(ShimMessage message) {
  Result<> done;
  switch (message.header.type) {
    case shim::Type::kWelcome:
      done = on_welcome(message);
      break;
    case shim::Type::kStarted:
      done = on_started(message);
      break;
    case shim::Type::kStartFailed:
      done = on_start_failed(message);
      break;
    case shim::Type::kExited:
      done = on_exited(message);
      break;
    case shim::Type::kCrashFlag:
      done = on_crash_flag(message);
      break;
    case shim::Type::kCaptured:
      done = on_captured(message);
      break;
    case shim::Type::kNotify:
      done = on_notify(message);
      break;
    case shim::Type::kPageChanged:
      arm_heartbeat();
      break;
    case shim::Type::kLog:
      if (const auto body = message.body<shim::Log>()) {
        context_.observer.log(spec_.name, static_cast<int>(body->stream), message.tail<shim::Log>(),
                              body->dropped);
      }
      break;
    case shim::Type::kRefused:
      if (const auto body = message.body<shim::Refused>(); body && body->error_number != EALREADY) {
        last_error_ =
            os::system_error(fmt::format("the shim's request {}", static_cast<int>(body->request)),
                             {}, body->error_number);
      }
      break;
    default:
      break;  // Of a newer shim; its version says that we understand the rest.
  }
  if (!done) last_error_ = done.error();
  if (message.header.sequence == 0 || !link_.connected()) return;
  // A malformed event is acknowledged too: it would not be better the next time.
  static_cast<void>(link_.send(shim::Type::kAck, shim::Ack{message.header.sequence}).has_value());
  if (replay_left_ > 0 && --replay_left_ == 0) replayed();
}

Result<> Supervised::on_welcome(ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Welcome welcome, message.body<shim::Welcome>());
  const bool first = !std::exchange(attached_, true);
  const pid_t old_shim = std::exchange(shim_pid_, welcome.shim_pid);
  events_dropped_ = welcome.events_dropped;
  log_bytes_dropped_ = welcome.log_bytes_dropped;
  if (!message.fds.empty()) notify_fd_ = std::move(message.fds[0]);
  if (message.fds.size() > 1) page_ = PageView::map(std::move(message.fds[1]));
  const char* const fifos[2] = {shim::kStdoutName, shim::kStderrName};
  for (int i = 0; i < 2; ++i) {
    if (output_[i].valid()) continue;
    output_[i] = os::Fd(::open(os::join_path(dir_, fifos[i]).c_str(),
                               O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  }
  replay_left_ = welcome.pending_events;
  const shim::StatusRecord& record = welcome.status;
  if (first) {
    generation_ = record.generation;
    restarts_ = record.restarts;
    reported_exit_ = record.acknowledged;
  }
  const bool runs = is_alive_phase(record.phase);
  if (first && !runs && generation_ > 0 && record.exits[0].generation == generation_ &&
      record.acknowledged == generation_) {
    last_acknowledged_ = record.exits[0];
  }
  if (first && !runs && welcome.ticket_id != 0) {
    backoff_.resume(os::Duration(welcome.ticket_delay_ns));
  } else if (last_acknowledged_) {
    // Its delay is not known any more; that it failed so often is.
    for (const shim::ExitInfo& exit : record.exits) {
      if (exit.generation != 0 && exit.reason != StopReason::kRequested) backoff_.next();
    }
  }
  if (runs && (first || generation_ != record.generation || pid_ != record.pid)) {
    if (!first) {
      // It was restarted, and the shim that did it was killed before it could tell.
      change(ServiceEvent::kExitedRestart);
      if (budget_->prepared()) account_ticket_use();
    }
    generation_ = record.generation;
    restarts_ = record.restarts;
    adopt(record, welcome);
  } else if (!runs && first && welcome.ticket_id != 0) {
    change(ServiceEvent::kExitedRestart);
  } else if (!runs && first && record.exits[0].generation == generation_ && budget_->exhausted() &&
             record.exits[0].reason != StopReason::kRequested && record.exits[0].wait_status != 0) {
    change(ServiceEvent::kExitedFailed);  // It was given up, and still is.
  }
  if (runs) {
    // A configuration that is impossible by now does not touch what runs.
    if (auto configured = configure(); !configured) last_error_ = configured.error();
  }
  if (feed_log_) DEFIB_TRY(feed_log(true));
  if (out_ >= 0) DEFIB_TRY(pass_through(out_, err_));
  if (!first && old_shim != shim_pid_) {
    context_.observer.shim_replaced(spec_.name, old_shim, shim_pid_);
  }
  if (replay_left_ == 0) replayed();
  return {};
}

void Supervised::adopt(const shim::StatusRecord& record, const shim::Welcome& welcome) {
  begin_process(record.pid, record.start_time, record.started_mono_ns, record.started_wall_ns);
  if ((record.ready & shim::kSaidWatchdog) != 0) {
    // Armed as before; its silence counts from now on.
    heartbeat_.notify_beat();
    arm_heartbeat();
  }
  if ((record.ready & shim::kSaidReady) != 0) {
    ready_ = true;
    cancel(ready_timer_);
    change(ServiceEvent::kReady);
  }
  if (const auto said = event_for_word(record.state_word)) change(*said);
  if (welcome.ticket_id != 0) {
    // Held by the shim from an earlier supervisor, and durable in the budget: it goes on counting
    // as prepared, and the back-off goes on from its delay.
    if (auto resumed = budget_->resume_prepared(); !resumed) last_error_ = resumed.error();
    next_ticket_ = welcome.ticket_id + 1;
    ticket_delay_ = os::Duration(welcome.ticket_delay_ns);
    delay_generation_ = generation_;
    backoff_.resume(ticket_delay_);
  }
  context_.observer.adopted(spec_.name, record.pid, record.generation);
}

// All events of the time before are known.
void Supervised::replayed() {
  replay_left_ = 0;
  if (is_resumed() && !alive() && state_ == ServiceState::kStopped && last_acknowledged_ &&
      shim::calls_for_restart(shim_policy(spec_.restart), *last_acknowledged_)) {
    // The supervisor before us heard of its end, and died before it could start it again.
    start_later(backoff_.next());
  }
  if (budget_->presumed_spent() && !ticket_seen_used_ && alive()) {
    if (auto back = budget_->give_back(); !back) last_error_ = back.error();
  }
  if (alive()) grant_ticket();
  ask_again(alive());
}

// What was asked of a shim that was killed before it could do it.
void Supervised::ask_again(bool runs) {
  Result<> asked;
  if (runs && stop_asked_) {
    asked = send_stop(*stop_asked_);
  } else if (!runs && start_asked_) {
    asked = send_start(start_asked_->automatic != 0);
  } else if (!runs && state_ == ServiceState::kBackingOff && start_timer_ == 0 && ticket_id_ != 0 &&
             next_start_mono_ns_ != 0) {
    // The delayed start was the shim's own; its ticket is still prepared.
    const os::Duration left(next_start_mono_ns_ - context_.clock.mono_ns());
    start_later(std::max(left, os::Duration(0)));
  }
  if (!asked) last_error_ = asked.error();
}

Result<> Supervised::on_started(ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Started started, message.body<shim::Started>());
  const StartInfo info = {spec_.name,
                          started.generation,
                          started.pid,
                          started.started_mono_ns,
                          started.started_wall_ns,
                          started.automatic != 0,
                          started.ticket_id != 0};
  const bool known = started.generation < generation_ ||
                     (started.generation == generation_ && (pid_ == started.pid || pid_ == 0));
  if (started.ticket_id != 0) account_ticket_use();
  if (known && attached_ && replay_left_ > 0) {
    context_.observer.started(info);
    return {};
  }
  generation_ = started.generation;
  restarts_ = started.automatic != 0 ? restarts_ + 1 : 0;
  page_ = message.fds.empty() ? PageView{} : PageView::map(std::move(message.fds[0]));
  begin_process(started.pid, started.start_time, started.started_mono_ns, started.started_wall_ns);
  context_.observer.started(info);
  if (alive() && generation_ == started.generation && replay_left_ == 0) grant_ticket();
  return {};
}

Result<> Supervised::on_start_failed(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::StartFailed failed, message.body<shim::StartFailed>());
  start_asked_.reset();
  if (failed.ticket_id != 0) account_ticket_use();
  const bool directory = failed.stage == shim::StartStage::kDirectory;
  Error error = Error(Code::kStartFailed, fmt::format("the service '{}' could not be started: {}",
                                                      spec_.name, start_stage_text(failed.stage)))
                    .with("program", spec_.argv[0])
                    .because(os::system_error(directory ? "chdir" : "execve",
                                              directory ? spec_.working_directory : spec_.argv[0],
                                              failed.error_number));
  last_error_ = error;
  context_.observer.start_failed(spec_.name, error);
  // By request: the caller knows, and decides. By itself: the program may be being replaced.
  if (failed.ticket_id != 0 || state_ == ServiceState::kBackingOff) {
    start_later(backoff_.next());
  } else {
    change(ServiceEvent::kExitedFailed);
  }
  return {};
}

ExitReport Supervised::make_report(const shim::Exited& exited) const {
  const shim::ExitInfo& exit = exited.exit;
  ExitReport report;
  report.service = spec_.name;
  report.generation = exit.generation;
  report.pid = exit.pid;
  report.source = exit.source;
  if (exit.source != shim::StatusSource::kUnknown) {
    report.status = os::exit_status_from_wait(exit.wait_status);
  }
  report.reason = exit.reason;
  report.noticed_mono_ns = exit.noticed_mono_ns;
  report.reaped_mono_ns = exit.reaped_mono_ns;
  report.noticed_wall_ns = exit.noticed_wall_ns;
  report.crashed_mono_ns = exit.crashed_mono_ns;
  report.cpu_ns = exit.cpu_ns;
  report.max_rss_bytes = exit.max_rss_bytes;
  if (exit.crashed_mono_ns != 0 && spec_.capture != CaptureMode::kNone &&
      !context_.programs.capture.empty()) {
    report.capture_path = capture_path("crash", exit.generation);
  }
  report.restarts = exited.ticket_id != 0;
  report.restart_delay = os::Duration(exited.restart_delay_ns);
  report.while_away = replay_left_ > 0;
  return report;
}

Result<> Supervised::on_exited(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Exited exited, message.body<shim::Exited>());
  if (exited.exit.generation <= reported_exit_) return {};  // Told before its shim died.
  reported_exit_ = exited.exit.generation;
  ExitReport report = make_report(exited);
  if (orphaned_ && report.pid == pid_) wait_for_orphan(&report);
  last_exit_ = report;
  const bool requested =
      report.reason == StopReason::kRequested || report.reason == StopReason::kReboot;
  if (!requested && !report.status.success()) last_error_ = last_exit_error(report);
  const bool current = exited.exit.generation == generation_;
  if (current) end_process();
  if (current && exited.ticket_id == 0 && !requested && !restart_requested_) {
    const bool wanted = spec_.restart == RestartPolicy::kAlways ||
                        (spec_.restart == RestartPolicy::kOnFailure && !report.status.success());
    report.restarts = wanted && !exhausted_;
    report.restart_delay = ticket_delay_;
  }
  context_.observer.exited(report);
  // The callback may have started it; what has begun anew is not ended here.
  if (!current || exited.exit.generation != generation_ || alive()) return {};
  if (exited.ticket_id == 0) {
    // An end that nothing follows leaves the ticket unused: it is no restart.
    if (!report.restarts && budget_->prepared()) {
      ticket_id_ = 0;
      if (auto back = budget_->give_back(); !back) last_error_ = back.error();
    }
    after_exit(report);
    return {};
  }
  next_start_mono_ns_ = report.noticed_mono_ns + report.restart_delay.count();
  if (report.while_away) backoff_.resume(report.restart_delay);
  change(ServiceEvent::kExitedRestart);
  return {};
}

Result<> Supervised::on_crash_flag(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::CrashFlag flag, message.body<shim::CrashFlag>());
  if (spec_.capture != CaptureMode::kNone && !context_.programs.capture.empty()) {
    ++captures_running_;
  }
  context_.observer.crash_flagged(spec_.name, flag.generation, flag.signal, flag.crashed_mono_ns);
  return {};
}

Result<> Supervised::on_captured(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Captured captured, message.body<shim::Captured>());
  if (captures_running_ > 0) --captures_running_;
  CaptureReport report;
  report.service = spec_.name;
  report.generation = captured.generation;
  report.path = capture_path("crash", captured.generation);
  report.ok = captured.wait_status == 0;
  if (captured.wait_status < 0) {
    report.error = os::system_error("execve", context_.programs.capture, -captured.wait_status);
  } else if (!report.ok) {
    report.error = Error(Code::kCaptureFailed,
                         fmt::format("the capture helper ended with {}",
                                     os::exit_status_from_wait(captured.wait_status).to_string()));
  }
  context_.observer.captured(report);
  return {};
}

Result<> Supervised::on_notify(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Notify notify, message.body<shim::Notify>());
  std::string_view text = message.tail<shim::Notify>();
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    on_notify_line(notify, text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {};
}

void Supervised::on_notify_line(const shim::Notify& from, std::string_view line) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos) return;
  const std::string_view key = line.substr(0, equals);
  const std::string_view value = line.substr(equals + 1);
  const bool current = from.generation == generation_ && alive();
  if (current && key == "READY" && value == "1" && !ready_) {
    ready_ = true;
    cancel(ready_timer_);
    change(ServiceEvent::kReady);
    context_.observer.ready(spec_.name);
  } else if (current && key == "STATUS") {
    status_text_ = value;
  } else if (current && key == "WATCHDOG" && value == "1") {
    heartbeat_.notify_beat();
    if (heartbeat_timer_ == 0) arm_heartbeat();
  } else if (current && key == "WATCHDOG_USEC") {
    std::int64_t microseconds = 0;
    std::from_chars(value.data(), value.data() + value.size(), microseconds);
    if (microseconds > 0) {
      heartbeat_.set_notify_deadline(std::chrono::microseconds(microseconds));
    }
  } else if (current && key == "X_DEFIB_STATE") {
    if (const auto said = event_for_word(value)) change(*said);
  }
  context_.observer.notified(
      {spec_.name, from.generation, from.pid, std::string(key), std::string(value)});
}

Result<> Supervised::on_refused(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Refused refused, message.body<shim::Refused>());
  if (refused.request == shim::Type::kStart && refused.error_number == EALREADY) return {};
  if (refused.request == shim::Type::kShutdown && shim_ended_) {
    // A restart crossed our stop.
    DEFIB_TRY(send_stop({StopReason::kRequested, spec_.stop_signal, spec_.stop_timeout.count()}));
    return link_.send_bytes(shim::Type::kShutdown, {});
  }
  return os::system_error(fmt::format("request {} to the shim", static_cast<int>(refused.request)),
                          {}, refused.error_number);
}

// The connection ended: the shim is dead, or as good as dead. The service is not touched.
void Supervised::lost_shim() {
  context_.loop.unwatch(link_.fd());
  link_.close();
  on_shim_ended();
  if (shim_ended_) {
    if (shim_.valid()) {
      context_.loop.unwatch(shim_.pidfd());
      shim_.wait();
      shim_ = os::Child{};
    }
    return std::exchange(shim_ended_, nullptr)();
  }
  if (alive() && !service_pidfd_.valid()) {
    // It is our child now (we are a subreaper), unless another supervisor had started its shim.
    orphaned_ = true;
    if (auto pidfd = os::open_pidfd(pid_)) service_pidfd_ = std::move(*pidfd);
  }
  const std::int64_t now = context_.clock.mono_ns();
  if (os::Duration(now - last_loss_mono_ns_) > kQuick) shim_losses_ = 0;
  last_loss_mono_ns_ = now;
  if (++shim_losses_ <= kQuickLosses) return relaunch();
  relaunch_timer_ = context_.loop.run_after(kRelaunchDelay, [this] {
    relaunch_timer_ = 0;
    relaunch();
  });
}

void Supervised::relaunch() {
  auto link = ShimLink::connect(dir_);
  if (!link) link = launch();
  Result<> attached = link ? attach(std::move(*link)) : Result<>(link.error());
  if (attached) return;
  last_error_ = attached.error();
  if (link_.connected()) context_.loop.unwatch(link_.fd());
  link_.close();
  relaunch_timer_ = context_.loop.run_after(kRelaunchDelay, [this] {
    relaunch_timer_ = 0;
    relaunch();
  });
}

// The shim of this service was not its parent. If we are, the status is ours to collect; the zombie
// was left until now, so that the shim could read the status too.
void Supervised::wait_for_orphan(ExitReport* report) {
  siginfo_t info{};
  const auto kPidfd = static_cast<idtype_t>(3);  // P_PIDFD
  const bool ours =
      service_pidfd_.valid() &&
      ::waitid(kPidfd, static_cast<id_t>(service_pidfd_.get()), &info, WEXITED | WNOHANG) == 0 &&
      info.si_pid != 0;
  if (ours && !report->status.known) {
    report->status.known = true;
    report->status.exited = info.si_code == CLD_EXITED;
    report->status.core_dumped = info.si_code == CLD_DUMPED;
    (report->status.exited ? report->status.code : report->status.signal) = info.si_status;
    report->source = shim::StatusSource::kSupervisor;
  }
  reap_orphans();
}

// Zombies that the orphaned service left to us: those of its session. Others are not ours to touch.
void Supervised::reap_orphans() {
  const auto children = os::read_file(context_.files, "/proc/thread-self/children", 65536);
  if (!children) return;
  const char* at = children->data();
  const char* const end = at + children->size();
  while (at < end) {
    pid_t pid = 0;
    const auto parsed = std::from_chars(at, end, pid);
    if (parsed.ec != std::errc{}) break;
    at = parsed.ptr;
    while (at < end && *at == ' ') ++at;
    // Not the service itself: its status is collected with its report.
    if (pid != pid_ && last_exit_ && ::getsid(pid) == last_exit_->pid) {
      ::waitpid(pid, nullptr, WNOHANG);
    } else if (pid != pid_ && pid_ > 0 && ::getsid(pid) == pid_) {
      ::waitpid(pid, nullptr, WNOHANG);
    }
  }
}

// What is asked here is kept, and asked again of every shim to come.
Result<> Supervised::pass_through(int stdout_fd, int stderr_fd) {
  const bool on = stdout_fd >= 0 && stderr_fd >= 0;
  out_ = on ? stdout_fd : -1;
  err_ = on ? stderr_fd : -1;
  const int fds[] = {out_, err_};
  if (link_.connected()) {
    static_cast<void>(link_
                          .send(shim::Type::kPassThrough, shim::PassThrough{on ? 1u : 0u, 0},
                                on ? std::span<const int>(fds) : std::span<const int>())
                          .has_value());
  }
  return {};
}

Result<> Supervised::feed_log(bool on) {
  feed_log_ = on;
  if (link_.connected()) {
    static_cast<void>(link_.send(shim::Type::kLogFeed, shim::LogFeed{on ? 1u : 0u, 0}).has_value());
  }
  return {};
}

void Supervised::end_shim(std::function<void()> done) {
  cancel(relaunch_timer_);
  if (!link_.connected() || !link_.send_bytes(shim::Type::kShutdown, {})) return done();
  shim_ended_ = std::move(done);
}

}  // namespace defib::process
