// The shim's side of a supervised service: finding, starting and replacing the shim, and what its
// messages mean.

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "defib/process/guardian.h"
#include "defib/process/launch_description.h"
#include "defib/process/launch_report.h"
#include "defib/process/supervised.h"
#include "defib/wire/json_parts.h"

namespace defib::process {
namespace {

constexpr int kWelcomeTimeoutMs = 5000;
constexpr int kAttachAttempts = 3;
constexpr int kQuickLosses = 5;  // then the next shim waits
constexpr os::Duration kQuick = std::chrono::seconds(10);
constexpr os::Duration kRelaunchDelay = std::chrono::milliseconds(200);
constexpr int kMaxMessagesPerRound = 256;
constexpr std::size_t kHeadOfReport = 128 << 10;

// Whose exits count as those of the service: the active process's, or that of the last one.
std::uint64_t service_generation(const shim::StatusRecord& record) {
  if (const auto* active = find_instance(record, shim::InstanceRole::kActive)) {
    return active->generation;
  }
  const shim::ExitInfo* last = last_service_exit(record);
  return last != nullptr ? last->generation : record.generation;
}

// The beginning of a report, with all that is needed of it here; it may be megabytes long, and
// everything else waits for this loop. Empty where there is none.
std::string head_of(os::Files& files, const std::string& path) {
  const auto file = files.open(path, os::OpenMode::kRead);
  std::string head(kHeadOfReport, '\0');
  const auto size = file ? (*file)->read_at(0, head.data(), head.size()) : Result<std::size_t>(0);
  head.resize(size ? *size : 0);
  return head;
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
  // Before a shim that speaks differently is ended: the next one must be able to read what it left.
  DEFIB_TRY(read_status(context_.files, dir_));
  Error last(Code::kUnavailable, "no shim answered");
  for (int attempt = 0; attempt < kAttachAttempts; ++attempt) {
    Result<> attached;
    if (!link_.connected()) {
      if (auto link = ShimLink::connect(dir_)) attached = greet(std::move(*link));
    }
    found_shim_ = link_.connected();
    if (!link_.connected()) {
      DEFIB_TRY(prepare_dir());
      DEFIB_TRY_ASSIGN(ShimLink launched, launch());
      attached = greet(std::move(launched));
    }
    if (attached) attached = attach();
    if (attached) attached = wait_for_welcome();
    if (attached) return {};
    last = attached.error();
    const pid_t found = found_shim_ && link_.connected() ? link_.peer_pid() : 0;
    if (link_.connected()) context_.loop.unwatch(link_.fd());
    link_.close();
    if (found <= 0) continue;
    // A shim that we found and cannot talk with, of another version perhaps, is replaced: that is
    // what its service survives.
    end_foreign_shim(found);
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
    if (page_.fd() >= 0) launch.pages.emplace_back(page_.fd(), pid_);
    if (standby_.page.fd() >= 0) launch.pages.emplace_back(standby_.page.fd(), standby_.pid);
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

Result<> Supervised::greet(ShimLink link) {
  link_ = std::move(link);
  return link_.send(shim::Type::kHello, shim::Hello{::getpid(), 0});
}

Result<> Supervised::attach() {
  return context_.loop.watch(link_.fd(), EPOLLIN, [this](std::uint32_t) { on_readable(); });
}

Result<> Supervised::wait_for_welcome() {
  DEFIB_TRY_ASSIGN(ShimMessage message, link_.wait_for_message(kWelcomeTimeoutMs));
  if (message.header.type != shim::Type::kWelcome) {
    return Error(Code::kFrameMalformed, "the shim did not begin with a welcome");
  }
  return on_welcome(message);
}

Result<> Supervised::configure(bool monitoring) {
  DEFIB_TRY_ASSIGN(const os::Fd description, describe(monitoring));
  DEFIB_TRY(open_sockets());
  DEFIB_TRY(send_sockets());
  const int fds[] = {description.get()};
  return link_.send_bytes(shim::Type::kConfigure, {}, fds);
}

// A shim that listened already has all that it needs, from the supervisor before us. What may have
// changed is told, and written, when every service is watched again: nobody is to wait for that.
void Supervised::catch_up_soon() {
  cancel(catch_up_timer_);
  catch_up_timer_ = context_.loop.run_after(os::Duration(0), [this] {
    catch_up_timer_ = 0;
    catch_up();
  });
}

// The FIFOs, so that what is in them outlives shim and service.
void Supervised::hold_output() {
  const char* const fifos[2] = {shim::kStdoutName, shim::kStderrName};
  for (int i = 0; i < 2; ++i) {
    if (output_[i].valid()) continue;
    output_[i] = os::Fd(::open(os::join_path(dir_, fifos[i]).c_str(),
                               O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  }
}

void Supervised::catch_up() {
  hold_output();
  if (auto prepared = prepare_dir(); !prepared) {
    last_error_ = prepared.error();
    context_.observer.trouble(spec_.name, prepared.error());
  }
  if (!alive()) return;
  if (sampling_.id != 0) take_sample();
  if (!link_.connected()) return;
  // A configuration that is impossible by now does not touch what runs.
  if (auto configured = configure(configured_monitoring_); !configured) {
    last_error_ = configured.error();
  }
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
    case shim::Type::kDying:
      done = on_dying(message);
      break;
    case shim::Type::kPromoted:
      done = on_promoted(message);
      break;
    case shim::Type::kFollowed:
      done = on_followed(message);
      break;
    case shim::Type::kStored:
      done = on_stored(message);
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
    case shim::Type::kHookFinished:
      done = on_hook_finished(message);
      break;
    case shim::Type::kShortfall:
      done = on_shortfall(message);
      break;
    case shim::Type::kOomKill:
      done = on_oom_kill(message);
      break;
    case shim::Type::kNotifySocket:
      if (!message.fds.empty()) notify_fd_ = std::move(message.fds[0]);
      break;
    case shim::Type::kLog:
      if (const auto body = message.body<shim::Log>()) {
        context_.observer.log(spec_.name, static_cast<int>(body->stream), message.tail<shim::Log>(),
                              body->dropped);
      }
      break;
    case shim::Type::kRefused:
      done = on_refused(message);
      break;
    default:
      break;  // Of a newer shim; its version says that we understand the rest.
  }
  if (!done) last_error_ = done.error();
  if (message.header.sequence == 0 || !link_.connected()) return;
  // A malformed event is acknowledged too: it would not be better the next time.
  static_cast<void>(link_.send(shim::Type::kAck, shim::Ack{message.header.sequence}).has_value());
  if (replay_left_ == 0) return;
  --replay_left_;
  if (replay_left_ == 0) replayed();
}

Result<> Supervised::on_welcome(ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Welcome welcome, message.body<shim::Welcome>());
  const bool first = !std::exchange(attached_, true);
  const pid_t old_shim = std::exchange(shim_pid_, welcome.shim_pid);
  events_dropped_ = welcome.events_dropped;
  log_bytes_dropped_ = welcome.log_bytes_dropped;
  take_pages_and_sockets(message, welcome);
  replay_left_ = welcome.pending_events;
  const shim::StatusRecord& record = welcome.status;
  if (first) {
    // A shim that was replaced has taken with it whether a ticket started what runs; where no
    // supervisor has heard of the end before that start, one may have.
    ticket_known_ = found_shim_ || record.acknowledged == record.exit_number;
    generation_ = service_generation(record);
    restarts_ = record.restarts;
    reported_exit_ = record.acknowledged;
  }
  const shim::StatusInstance* const active = find_instance(record, shim::InstanceRole::kActive);
  const shim::ExitInfo* const last = last_service_exit(record);
  const bool runs = active != nullptr;
  shim_waits_ = !runs && welcome.ticket_id != 0;
  shim_stops_ = welcome.stopping != StopReason::kNone;
  const bool catches_up = first && found_shim_;
  if (catches_up) {
    catch_up_soon();
  } else {
    hold_output();
  }
  if (first && !runs) {
    // The series of delays goes on where the supervisor before us was in it; the start that the
    // shim waits with, or that was decided, is the next of it.
    const int next = shim_waits_ || planner_->pending(generation_) ? 1 : 0;
    const auto restarts = std::min<std::uint64_t>(restarts_, INT32_MAX - 1);
    planner_->resume_backoff(std::min(static_cast<int>(restarts), planner_->used_in_window()) +
                             next);
  }
  if (runs && !first && alive() && generation_ == active->generation) {
    if (pid_ != active->pid) follow(active->pid, active->start_time);
  } else if (runs) {
    if (!first) {
      // It was restarted, and the shim that did it was killed before it could tell.
      standby_backoff_.reset();
      change(ServiceEvent::kExitedRestart);
      if (planner_->has_ticket()) account_ticket_use();
    }
    generation_ = active->generation;
    restarts_ = record.restarts;
    adopt(*active, welcome);
  } else if (!runs && first && welcome.ticket_id != 0 && !planner_->pending(generation_)) {
    // The shim waits with a start of its own. Where something was decided, its ticket came too late
    // for that end, and it does not.
    const std::int64_t since = last != nullptr ? last->noticed_mono_ns : context_.clock.mono_ns();
    next_start_mono_ns_ = since + welcome.ticket_delay_ns;
    change(ServiceEvent::kExitedRestart);
  }
  if (first && !runs && welcome.ticket_id == 0 && record.phase == shim::Phase::kExited &&
      last != nullptr && last->generation == generation_) {
    undecided_ = *last;
  }
  ended_before_ = first && found_shim_ && !runs && welcome.ticket_id == 0 && generation_ > 0;
  if (runs && !catches_up) {
    // A configuration that is impossible by now does not touch what runs.
    if (auto configured = configure(configured_monitoring_); !configured)
      last_error_ = configured.error();
  } else if (record.generation > 0 && welcome.ticket_id == 0) {
    // Only for what a killed shim left in the control groups; a start configures anew.
    if (const auto description = describe(configured_monitoring_)) {
      const int fds[] = {description->get()};
      DEFIB_TRY(link_.send_bytes(shim::Type::kConfigure, {}, fds));
    }
  }
  if (feed_log_) DEFIB_TRY(feed_log(true));
  if (out_ >= 0) DEFIB_TRY(pass_through(out_, err_));
  if (!first && old_shim != shim_pid_) {
    context_.observer.shim_replaced(spec_.name, old_shim, shim_pid_);
  }
  if (replay_left_ == 0) replayed();
  return {};
}

void Supervised::adopt(const shim::StatusInstance& active, const shim::Welcome& welcome) {
  begin_process(active.pid, active.start_time, active.started_mono_ns, active.started_wall_ns);
  epoch_ = active.epoch;
  if ((active.ready & shim::kSaidWatchdog) != 0) {
    // Armed as before; its silence counts from now on.
    heartbeat_.notify_beat(context_.clock.mono_ns());
    arm_heartbeat();
  }
  said_ready_ = (active.ready & shim::kSaidReady) != 0;
  if (!spec_.ready_probe.empty()) {
    // Its time was the start's; ours begins with the first look.
    wait_for_ready(spec_.ready_timeout);
  } else if (said_ready_) {
    ready_ = true;
    cancel(ready_timer_);
    change(ServiceEvent::kReady);
  }
  if (const auto said = event_for_word(active.state_word)) change(*said);
  if (std::string_view(active.state_word) == "stopping") on_says_stopping();
  if (welcome.ticket_id != 0) {
    // Held by the shim from an earlier supervisor, and durable in the budget: it goes on counting
    // as prepared.
    planner_->still_out();
    next_ticket_ = welcome.ticket_id + 1;
    ticket_delay_ = os::Duration(welcome.ticket_delay_ns);
  }
  if (welcome.stopping != StopReason::kNone) {
    // Asked for by the supervisor before us. Should this shim be killed, the next one is asked by
    // us.
    const bool requested = welcome.stopping == StopReason::kRequested;
    stop_asked_ = graceful_stop(spec_, welcome.stopping, requested ? 0 : active.generation);
    kill_at_mono_ns_ = context_.clock.mono_ns() + stop_asked_->grace_ns;
    killing_ = true;
    stop_reason_ = welcome.stopping;
    change(ServiceEvent::kKilling);
  }
  planner_->started(active.started_mono_ns, restarts_ == 0);
  // The series of delays goes on where the supervisor before us was in it.
  if (os::Duration(context_.clock.mono_ns() - active.started_mono_ns) < spec_.healthy_after) {
    const auto restarts = std::min<std::uint64_t>(restarts_, INT32_MAX);
    planner_->resume_backoff(std::min(static_cast<int>(restarts), planner_->used_in_window()));
  }
  context_.observer.adopted(spec_.name, active.pid, active.generation);
}

// All events of the time before are known.
void Supervised::replayed() {
  replay_left_ = 0;
  const bool shim_waits = state_ == ServiceState::kBackingOff && start_timer_ == 0;
  if (planner_->presumed_spent() && !shim_waits) {
    // A decision that still waits has not been acted upon.
    const bool waits = !alive() && planner_->pending(generation_);
    if (waits || (alive() && ticket_known_)) {
      planner_->unused();
    } else {
      planner_->presume_used();
    }
  }
  if (alive()) grant_ticket();
  ask_again(alive());
  ensure_standby();
  if (!alive() && state_ == ServiceState::kStopped && !start_asked_ && !stop_asked_) {
    resume_decision();
  }
}

// What was asked of a shim that was killed before it could do it.
void Supervised::ask_again(bool runs) {
  Result<> asked;
  if (stop_asked_ && (runs || stop_requested())) {
    if (shim_stops_) return;
    asked = send_stop(*stop_asked_);
  } else if (!runs && start_asked_) {
    asked = send_start(start_asked_->automatic != 0);
  } else if (!runs && state_ == ServiceState::kBackingOff && start_timer_ == 0 && !deciding_ &&
             !shim_waits_) {
    // The delayed start was that of a shim that was killed; its ticket is still prepared.
    const os::Duration left(next_start_mono_ns_ - context_.clock.mono_ns());
    ticket_id_ = 0;
    start_later(std::max(left, os::Duration(0)));
  }
  if (!asked) last_error_ = asked.error();
}

Result<> Supervised::on_started(ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Started started, message.body<shim::Started>());
  if (started.role == shim::InstanceRole::kStandby) return on_standby_started(message, started);
  const StartInfo info = {spec_.name,
                          started.generation,
                          started.pid,
                          started.started_mono_ns,
                          started.started_wall_ns,
                          started.automatic != 0,
                          started.ticket_id != 0,
                          started.epoch};
  const bool known = started.generation < generation_ ||
                     (started.generation == generation_ && (pid_ == started.pid || pid_ == 0));
  if (started.ticket_id != 0) account_ticket_use();
  if (known && attached_ && replay_left_ > 0) {
    context_.observer.started(info);
    return {};
  }
  // Where the one before is still dying, its exit comes later.
  if (alive()) change(ServiceEvent::kExitedRestart);
  generation_ = started.generation;
  epoch_ = started.epoch;
  restarts_ = started.automatic != 0 ? restarts_ + 1 : 0;
  page_ = message.fds.empty() ? PageView{} : PageView::map(std::move(message.fds[0]));
  planner_->started(started.started_mono_ns, started.automatic == 0);
  begin_process(started.pid, started.start_time, started.started_mono_ns, started.started_wall_ns);
  context_.observer.started(info);
  if (alive() && std::exchange(restart_when_started_, false)) return restart();
  if (alive() && generation_ == started.generation && replay_left_ == 0) {
    grant_ticket();
    ensure_standby();
  }
  return {};
}

Result<> Supervised::on_start_failed(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::StartFailed failed, message.body<shim::StartFailed>());
  if (failed.ticket_id != 0) account_ticket_use();
  const bool standby = failed.role == shim::InstanceRole::kStandby;
  if (!standby) start_asked_.reset();
  const Error error = start_error(spec_, failed);
  if (standby) {
    standby_by_ticket_ = false;
    if (failed.ticket_id != 0 && alive() && replay_left_ == 0) grant_ticket();
    ensure_standby();
    lose_standby(
        Error(Code::kStartFailed, fmt::format("the standby of '{}' cannot be started", spec_.name))
            .because(error));
    return {};
  }
  last_error_ = error;
  context_.observer.start_failed(spec_.name, error);
  if (stop_requested()) return {};  // It was called off.
  // By request: the caller knows, and decides. By itself: the program may be being replaced.
  // A hook that fails may find at the next time what it waits for.
  const bool again = failed.stage == shim::StartStage::kHook && may_restart(spec_);
  if (failed.ticket_id != 0 || state_ == ServiceState::kBackingOff || again) {
    planner_->start_failed(context_.clock.mono_ns());
    decide();
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
  report.oom_kills = exit.oom_kills;
  report.memory_limit_bytes = spec_.memory_limit_bytes;
  if (exit.crashed_mono_ns != 0 && spec_.capture != CaptureMode::kNone &&
      !context_.programs.capture.empty()) {
    report.capture_path = capture_path("crash", exit.generation);
  }
  if (exit.generation == generation_) {
    report.reported_error = said_.error;
    report.reported_exit_status = said_.exit_status;
  }
  // A start of the shim's own that our stop has called off does not come.
  const bool called_off = stop_requested() && stop_unanswered_ == 0;
  report.restarts = (exited.ticket_id != 0 && !called_off) || exited.promotes != 0;
  report.restart_delay = os::Duration(exited.restart_delay_ns);
  report.while_away = replay_left_ > 0;
  return report;
}

void Supervised::note_failure(ExitReport& report, bool current) {
  last_error_ = last_exit_error(report);
  const postmortem::CrashPage* page =
      current && page_.page() != nullptr ? &page_.page()->crash : nullptr;
  if (page != nullptr) {
    report.cpu_limit_ns = std::int64_t{page_.page()->cpu_limit_seconds} * 1'000'000'000;
  }
  const CrashPrint print = crash_print(report.status, report.reason, report.pid, page);
  planner_->failed(report.generation, report.noticed_mono_ns, print);
  report.fingerprint = print.to_string();
  report.equal_crashes = print.counts() ? planner_->equal_crashes() : 0;
  tell_trouble();
}

Result<> Supervised::on_exited(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Exited exited, message.body<shim::Exited>());
  if (exited.exit.number <= reported_exit_) return {};  // Told before its shim died.
  reported_exit_ = exited.exit.number;
  ExitReport report = make_report(exited);
  wait_for_orphan(&report);
  if (exited.exit.role == shim::InstanceRole::kStandby) {
    on_standby_exited(report);
    return {};
  }
  undecided_.reset();
  if (report.reason == StopReason::kRequested) stop_unanswered_ = 0;
  const bool requested =
      report.reason == StopReason::kRequested || report.reason == StopReason::kReboot;
  const bool current = exited.exit.generation == generation_;
  const bool by_shim = report.restarts;
  report.clean = is_clean(spec_, report.status);
  if (!requested && !(report.clean && report.reason == StopReason::kNone)) {
    note_failure(report, current);
    // Its replacement runs already; what this end means for the next one is known now.
    if (!current && alive()) {
      planner_->started(started_mono_ns_, false);
      if (replay_left_ == 0) grant_ticket();
    }
  }
  last_exit_ = report;
  if (current) {
    count_oom_kills();  // the event may come after the end
    end_process();
  }
  if (current && !report.restarts && !requested && !restart_requested_ && !stop_requested()) {
    report.restarts = wants_restart(spec_, exited.exit) && !planner_->gives_up();
    report.restart_delay = ticket_delay_;
  }
  context_.observer.exited(report);
  // The callback may have started it; what has begun anew is not ended here.
  if (!current || exited.exit.generation != generation_ || alive()) return {};
  if (exited.promotes != 0) {
    change(ServiceEvent::kExitedRestart);
    return {};
  }
  if (!by_shim) {
    // An end that nothing follows leaves the ticket unused: it is no restart.
    if (!report.restarts && planner_->has_ticket()) {
      ticket_id_ = 0;
      planner_->unused();
    } else if (planner_->presumed_spent() && !ticket_seen_used_) {
      // Of a supervisor before us. Its shim did not use it; whether it did before the machine went
      // down, nobody knows.
      if (report.reason == StopReason::kReboot) {
        planner_->presume_used();
      } else {
        planner_->unused();
      }
    }
    after_exit(report);
    return {};
  }
  // Killed by us and started again by the shim: what was wanted after it is there. Not where we
  // asked for a stop too: that ends the new process, or calls its start off (nothing_to_stop).
  if (report.reason != StopReason::kNone && !stop_requested()) restart_requested_ = false;
  next_start_mono_ns_ = report.noticed_mono_ns + report.restart_delay.count();
  change(ServiceEvent::kExitedRestart);
  return {};
}

Result<> Supervised::on_dying(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Dying dying, message.body<shim::Dying>());
  context_.observer.dying(
      {spec_.name, dying.generation, dying.pid, dying.sign, dying.noticed_mono_ns});
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
  const std::string head =
      captured.wait_status >= 0 ? head_of(context_.files, report.path) : std::string();
  const std::string_view json = head;
  report.crashed_mono_ns = wire::json_member(json, "crashed_mono_ns").as_int();
  const std::int64_t took = wire::json_member(json, "captured_in_ns").as_int();
  if (took > 0) report.released_mono_ns = report.crashed_mono_ns + took;
  if (const wire::Json why = wire::json_member(json, "capture_error"); why.is_object()) {
    // It tells what could still be learnt, and why it is not more.
    report.partial = true;
    report.error = Error(Code::kCaptureFailed, std::string(why["message"].as_string()))
                       .suggest(std::string(why["suggested_action"].as_string()));
  }
  if (report.ok && last_exit_ && last_exit_->generation == report.generation) {
    if (!head.empty()) planner_->captured(stack_print(json));
    report.fingerprint = planner_->last_crash().to_string();
    report.equal_crashes = planner_->equal_crashes();
  }
  context_.observer.captured(report);
  if (deciding_ && captures_running_ == 0) decide();
  return {};
}

Result<> Supervised::on_refused(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Refused refused, message.body<shim::Refused>());
  const bool active = refused.role == static_cast<std::uint16_t>(shim::InstanceRole::kActive);
  if (refused.request == shim::Type::kStart && refused.error_number == EALREADY) {
    // What the shim had started just before began too early to be the restart that was asked for.
    if (!active || !std::exchange(fresh_asked_, false)) return {};
    if (alive()) return restart();
    restart_when_started_ = true;
    return {};
  }
  if (refused.request == shim::Type::kStop && refused.error_number == ESRCH) {
    nothing_to_stop(refused.number);
    return {};
  }
  if (refused.request == shim::Type::kShutdown && shim_ended_) {
    // A restart crossed our stop.
    DEFIB_TRY(send_stop(graceful_stop(spec_, StopReason::kRequested, 0)));
    return link_.send_bytes(shim::Type::kShutdown, {});
  }
  return os::system_error(fmt::format("request {} to the shim", static_cast<int>(refused.request)),
                          {}, refused.error_number);
}

// Our stop found no process: a start that was to follow an end by itself is called off, and one
// that was asked for after it can go.
void Supervised::nothing_to_stop(std::uint32_t number) {
  if (number != stop_unanswered_) return;
  stop_unanswered_ = 0;
  if (!stop_requested() || alive()) return;
  const bool again = std::exchange(restart_requested_, false);
  if (state_ == ServiceState::kBackingOff) {
    starting_again_ = again;
    call_off_start();
    starting_again_ = false;
  }
  if (!again) return;
  if (auto started = start(); !started) last_error_ = started.error();
}

// The connection ended: the shim is dead, or as good as dead. The service is not touched.
void Supervised::lost_shim() {
  context_.loop.unwatch(link_.fd());
  link_.close();
  stop_unanswered_ = 0;
  on_shim_ended();
  // After an upgrade in place the shims are our children, and nobody's Child.
  if (!shim_.valid() && shim_pid_ > 0 && ::waitpid(shim_pid_, nullptr, WNOHANG) == 0) {
    constexpr int kPatienceMs = 20;
    const auto pidfd = os::open_pidfd(shim_pid_);
    pollfd wait = {pidfd ? pidfd->get() : -1, POLLIN, 0};
    ::poll(&wait, 1, kPatienceMs);
    ::waitpid(shim_pid_, nullptr, WNOHANG);
  }
  if (shim_ended_) {
    if (shim_.valid()) {
      context_.loop.unwatch(shim_.pidfd());
      shim_.wait();
      shim_ = os::Child{};
    }
    context_.cgroups.remove_groups(group_prefix(spec_.name, dir_));
    return std::exchange(shim_ended_, nullptr)();
  }
  // They are our children now (we are a subreaper), unless another supervisor had started the shim.
  for (const pid_t pid : {pid_, standby_.pid}) {
    const auto same = [pid](const Orphan& one) { return one.pid == pid; };
    if (pid <= 0 || std::ranges::any_of(orphans_, same)) continue;
    if (auto pidfd = os::open_pidfd(pid)) orphans_.push_back({pid, std::move(*pidfd)});
  }
  watch_limits();  // their zombies are looked for with the samples
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
  Result<> attached = link ? greet(std::move(*link)) : Result<>(link.error());
  if (attached) attached = attach();
  if (attached) return;
  last_error_ = attached.error();
  if (link_.connected()) context_.loop.unwatch(link_.fd());
  link_.close();
  relaunch_timer_ = context_.loop.run_after(kRelaunchDelay, [this] {
    relaunch_timer_ = 0;
    relaunch();
  });
}

// The process that it announced goes on in its place.
Result<> Supervised::on_followed(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Followed followed, message.body<shim::Followed>());
  if (followed.generation == generation_ && pid_ == followed.old_pid) {
    follow(followed.pid, followed.start_time);
  }
  return {};
}

void Supervised::follow(pid_t pid, std::uint64_t start_time) {
  // Where the one before was left to us, so is this one.
  if (std::ranges::find(orphans_, pid_, &Orphan::pid) != orphans_.end()) {
    if (auto pidfd = os::open_pidfd(pid)) orphans_.push_back({pid, std::move(*pidfd)});
    siginfo_t ignored{};
    collect_orphan(pid_, &ignored);
  }
  pid_ = pid;
  start_time_ = start_time;
  end_sampling();
  watch_limits();
}

// Whether that process was ours to wait for, and has ended.
bool Supervised::collect_orphan(pid_t pid, siginfo_t* info) {
  const auto orphan = std::ranges::find(orphans_, pid, &Orphan::pid);
  if (orphan == orphans_.end()) return false;
  const auto kPidfd = static_cast<idtype_t>(3);  // P_PIDFD
  const bool ours =
      ::waitid(kPidfd, static_cast<id_t>(orphan->pidfd.get()), info, WEXITED | WNOHANG) == 0 &&
      info->si_pid != 0;
  orphans_.erase(orphan);
  return ours;
}

// The shim of this service was not its parent. If we are, the status is ours to collect; the zombie
// was left until now, so that the shim could read the status too.
void Supervised::wait_for_orphan(ExitReport* report) {
  if (std::ranges::find(orphans_, report->pid, &Orphan::pid) == orphans_.end()) return;
  siginfo_t info{};
  if (collect_orphan(report->pid, &info) && !report->status.known) {
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
  for (const pid_t pid : os::own_children()) {
    // Not the service's processes themselves: their status is collected with their reports.
    if (std::ranges::find(orphans_, pid, &Orphan::pid) != orphans_.end()) continue;
    const pid_t session = ::getsid(pid);
    const bool of_dead = last_exit_ && session == last_exit_->pid;
    const bool of_living = session > 0 && (session == pid_ || session == standby_.pid);
    if (pid != pid_ && (of_dead || of_living)) ::waitpid(pid, nullptr, WNOHANG);
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
  if (!on && !feed_log_) return {};  // No shim does so by itself.
  feed_log_ = on;
  if (link_.connected()) {
    static_cast<void>(link_.send(shim::Type::kLogFeed, shim::LogFeed{on ? 1u : 0u, 0}).has_value());
  }
  return {};
}

void Supervised::end_shim(std::function<void()> done) {
  cancel(relaunch_timer_);
  restart_requested_ = false;
  if (!link_.connected() || !link_.send_bytes(shim::Type::kShutdown, {})) return done();
  shim_ended_ = std::move(done);
}

}  // namespace defib::process
