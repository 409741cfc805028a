// The service's life: what its caller asks, what its timers say, when it starts again. The shim's
// side is in supervised_shim.cc, heartbeat and health in supervised_watch.cc, limits in
// supervised_limits.cc.

#include "defib/process/supervised.h"

#include <fmt/core.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "defib/base/assert.h"
#include "defib/os/random.h"
#include "defib/process/guardian.h"

namespace defib::process {
namespace {

// A standby that fails again and again must not take the machine from the active process, also
// where the active one is restarted without a delay.
recovery::BackoffOptions standby_backoff_options(const ServiceSpec& spec) {
  recovery::BackoffOptions options = backoff_options(spec);
  options.base = std::max<os::Duration>(options.base, std::chrono::milliseconds(100));
  options.cap = std::max(options.base, options.cap);
  return options;
}

HeartbeatWatch::Options heartbeat_options(const ServiceSpec& spec) {
  return {spec.heartbeat_timeout, spec.heartbeat_healthy};
}

// How long the decision about a suspicious crash waits for its capture.
constexpr os::Duration kCaptureWait = std::chrono::seconds(10);

shim::ExitInfo exit_info(const ExitReport& report) {
  shim::ExitInfo info{};
  info.reason = report.reason;
  info.source = report.status.known ? shim::StatusSource::kWait : shim::StatusSource::kUnknown;
  const os::ExitStatus& status = report.status;
  info.wait_status = status.exited ? status.code << 8 : status.signal;
  return info;
}

}  // namespace

PageView::~PageView() {
  if (page_ != nullptr) ::munmap(const_cast<AgentPage*>(page_), kAgentPageSize);
}

PageView PageView::map(os::Fd fd) {
  PageView view;
  void* memory = ::mmap(nullptr, kAgentPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return view;
  view.fd_ = std::move(fd);
  view.page_ = static_cast<const AgentPage*>(memory);
  if (view.page_->magic != kAgentPageMagic || view.page_->version != kAgentPageVersion) return {};
  return view;
}

Supervised::Supervised(SupervisionContext& context, ServiceSpec spec)
    : context_(context),
      spec_(std::move(spec)),
      dir_(context.dir.service_dir(spec_.name)),
      standby_backoff_(standby_backoff_options(spec_), os::Random(os::random_seed())),
      heartbeat_(heartbeat_options(spec_)) {}

Supervised::~Supervised() {
  for (os::EventLoop::TimerId* timer :
       {&heartbeat_timer_, &healthy_timer_, &ready_timer_, &start_timer_, &relaunch_timer_,
        &capture_timer_, &decide_timer_, &standby_timer_, &standby_ready_timer_, &reload_timer_,
        &self_stop_timer_, &runtime_timer_, &catch_up_timer_}) {
    cancel(*timer);
  }
  end_sampling();
  if (link_.connected()) context_.loop.unwatch(link_.fd());
  if (shim_.valid()) context_.loop.unwatch(shim_.pidfd());
  if (capture_.valid()) context_.loop.unwatch(capture_.pidfd());
}

Result<std::unique_ptr<Supervised>> Supervised::begin(SupervisionContext& context,
                                                      ServiceSpec spec) {
  DEFIB_TRY(validate(spec));
  std::unique_ptr<Supervised> service(new Supervised(context, std::move(spec)));
  DEFIB_TRY_ASSIGN(service->lock_, context.dir.lock_service(service->spec_.name));
  if (auto link = ShimLink::connect(service->dir_)) {
    // One that goes in this moment is found out by open().
    static_cast<void>(service->greet(std::move(*link)).has_value());
  }
  return service;
}

Result<> Supervised::prepare_dir() const {
  return context_.dir.prepare_service(spec_.name, to_json(spec_).dump(2) + "\n");
}

Result<> Supervised::open() {
  planner_ = RestartPlanner::open(context_.files, context_.clock, dir_, spec_,
                                  os::Random(os::random_seed()));
  DEFIB_TRY(connect_or_launch());
  keep_lock(*lock_);
  return {};
}

void Supervised::cancel(os::EventLoop::TimerId& timer) {
  if (timer != 0) context_.loop.cancel(timer);
  timer = 0;
}

void Supervised::change(ServiceEvent event) {
  const std::optional<ServiceState> next = next_state(state_, event);
  if (!next || *next == state_) return;
  const ServiceState from = std::exchange(state_, *next);
  const bool rests = state_ == ServiceState::kStopped || state_ == ServiceState::kFailed;
  const bool rested = from == ServiceState::kStopped || from == ServiceState::kFailed;
  if (rests && !rested && !starting_again_) request_cleanup();
  context_.observer.state_changed(spec_.name, from, state_);
}

// A shim that is gone, or goes while it is told, is no error: the next one is told again.
Result<> Supervised::send_start(bool automatic) {
  // An automatic start is counted by now.
  const bool monitoring = automatic ? planner_->monitors_this() : spec_.start_in_monitoring;
  DEFIB_TRY_ASSIGN(const os::Fd description, describe(monitoring));
  DEFIB_TRY(open_sockets());
  start_asked_ = shim::Start{automatic ? 1u : 0u, shim::InstanceRole::kActive};
  const int fds[] = {description.get()};
  if (link_.connected() && send_sockets() && link_.send_bytes(shim::Type::kConfigure, {}, fds)) {
    static_cast<void>(link_.send(shim::Type::kStart, *start_asked_).has_value());
  }
  return {};
}

Result<> Supervised::send_stop(shim::Stop request) {
  request.number = ++stops_sent_;
  stop_asked_ = request;
  const bool sent = link_.connected() && link_.send(shim::Type::kStop, request).has_value();
  if (sent && stop_requested()) stop_unanswered_ = request.number;
  return {};
}

Result<> Supervised::start() {
  if (alive()) {
    // Of a process that is on its way out, another one is wanted after it.
    if (state_ == ServiceState::kStopping) restart_requested_ = true;
    return {};
  }
  cancel(start_timer_);
  cancel(decide_timer_);
  deciding_ = false;
  next_start_mono_ns_ = 0;
  fresh_asked_ = false;
  planner_->forget_pending();
  restart_requested_ = stop_unanswered_ != 0;
  if (restart_requested_) {
    // What that stop finds ends first.
    change(ServiceEvent::kStarted);
    return {};
  }
  stop_asked_.reset();
  if (auto started = send_start(false); !started) {
    // Nobody may look at the answer: a daemon that starts its services does not.
    last_error_ = started.error();
    context_.observer.start_failed(spec_.name, started.error());
    change(ServiceEvent::kExitedFailed);
    return started;
  }
  change(ServiceEvent::kStarted);
  return {};
}

Result<> Supervised::stop(StopReason reason) {
  const bool requested = reason == StopReason::kRequested;
  if (!requested && !alive()) return {};
  cancel(start_timer_);
  cancel(decide_timer_);
  deciding_ = false;
  next_start_mono_ns_ = 0;
  if (requested) restart_requested_ = fresh_asked_ = restart_when_started_ = false;
  const shim::Stop request = graceful_stop(spec_, reason, requested ? 0 : generation_);
  if (requested) {
    cancel(standby_timer_);
    cancel(standby_ready_timer_);
  }
  if (!alive()) {
    // The shim's own delayed start is called off too; and should it have happened just now, the
    // new process is stopped.
    call_off_start();
    return send_stop(request);
  }
  if (requested) planner_->forget_pending();
  killing_ = true;
  cancel(self_stop_timer_);  // The shim has the deadline now.
  self_stop_due_ns_ = 0;
  stop_reason_ = reason;
  kill_at_mono_ns_ = context_.clock.mono_ns() + request.grace_ns;
  change(ServiceEvent::kKilling);
  return send_stop(request);
}

void Supervised::call_off_start() {
  // What rests is remembered as that already.
  const bool rests = state_ == ServiceState::kStopped && !start_asked_ && replay_left_ == 0;
  cancel(start_timer_);
  next_start_mono_ns_ = 0;
  change(ServiceEvent::kExitedFinal);
  start_asked_.reset();
  if (!rests) planner_->remember_stop(generation_);  // Its end alone may call for a start.
  if (planner_->has_ticket()) planner_->unused();
  ticket_id_ = 0;
}

Result<> Supervised::restart() {
  if (!alive()) {
    DEFIB_TRY(start());
    fresh_asked_ = true;
    return {};
  }
  DEFIB_TRY(stop());
  restart_requested_ = true;
  planner_->remember_restart(generation_);
  return {};
}

Result<> Supervised::reset() {
  last_error_.reset();
  planner_->reset();
  tell_trouble();
  if (alive()) {
    if (state_ == ServiceState::kStopping) return start();
    grant_ticket();
    return {};
  }
  change(ServiceEvent::kReset);
  return start();
}

Result<> Supervised::signal(int number) {
  if (!alive()) {
    return Error(Code::kProcessGone, fmt::format("the service '{}' does not run", spec_.name));
  }
  if (number < 1 || number > SIGRTMAX) {
    return Error(Code::kInvalidArgument, fmt::format("there is no signal {}", number));
  }
  return link_.send(shim::Type::kSignal, shim::SignalRequest{number, 0});
}

Result<> Supervised::update(ServiceSpec spec) {
  DEFIB_TRY(validate(spec));
  DEFIB_ASSERT(spec.name == spec_.name);
  DEFIB_TRY(context_.dir.prepare_service(spec.name, to_json(spec).dump(2) + "\n"));
  spec_ = std::move(spec);
  planner_->configure(spec_);
  heartbeat_ = HeartbeatWatch(heartbeat_options(spec_));
  stall_ = StallWatch();
  standby_backoff_ =
      recovery::Backoff(standby_backoff_options(spec_), os::Random(os::random_seed()));
  if (!link_.connected()) return {};
  DEFIB_TRY(open_sockets());
  DEFIB_TRY_ASSIGN(const os::Fd description, describe(configured_monitoring_));
  // A shim that is gone, or goes now, is no error: the next one is told again.
  const int fds[] = {description.get()};
  if (!send_sockets() || !link_.send_bytes(shim::Type::kConfigure, {}, fds)) return {};
  if (alive()) {
    arm_heartbeat();
    watch_limits();
    grant_ticket();
    ensure_standby();
  }
  return {};
}

void Supervised::clock_stepped() {
  planner_->settle();
  tell_trouble();
}

void Supervised::begin_process(pid_t pid, std::uint64_t start_time, std::int64_t mono_ns,
                               std::int64_t wall_ns) {
  for (os::EventLoop::TimerId* timer :
       {&start_timer_, &heartbeat_timer_, &healthy_timer_, &ready_timer_}) {
    cancel(*timer);
  }
  cancel(decide_timer_);
  deciding_ = false;
  next_start_mono_ns_ = 0;
  slow_lane_ = false;
  ended_before_ = false;
  undecided_.reset();
  start_asked_.reset();
  pid_ = pid;
  start_time_ = start_time;
  started_mono_ns_ = mono_ns;
  started_wall_ns_ = wall_ns;
  ready_ = false;
  killing_ = false;
  stop_reason_ = StopReason::kNone;
  said_ready_ = probe_ready_ = probes_unhealthy_ = false;
  degraded_by_heartbeat_ = false;
  status_text_.clear();
  reset_said();
  heartbeat_ = HeartbeatWatch(heartbeat_options(spec_));
  stall_ = StallWatch();
  change(ServiceEvent::kStarted);
  if (!spec_.expects_ready && spec_.ready_probe.empty()) {
    change(ServiceEvent::kReady);
  } else {
    wait_for_ready(os::Duration(mono_ns + spec_.ready_timeout.count() - context_.clock.mono_ns()));
  }
  if (spec_.max_runtime.count() > 0) {
    runtime_due_ns_ = mono_ns + spec_.max_runtime.count();
    arm_runtime_timer();
  }
  end_sampling();
  watch_limits();
  arm_heartbeat();
  if (stop_requested()) {
    // The request to stop crossed its start. The same one again: where it was heard, nothing more
    // is signalled.
    killing_ = true;
    change(ServiceEvent::kKilling);
    if (link_.connected()) {
      static_cast<void>(link_.send(shim::Type::kStop, *stop_asked_).has_value());
    }
  }
}

void Supervised::wait_for_ready(os::Duration time) {
  if (spec_.ready_timeout.count() == 0) return;
  ready_due_ns_ = context_.clock.mono_ns() + std::max(time, os::Duration(0)).count();
  arm_ready_timer();
}

// READY=1 and the probe, where both are waited for.
void Supervised::ready_if_all_said() {
  if (!alive() || ready_) return;
  if (spec_.expects_ready && !said_ready_) return;
  if (!spec_.ready_probe.empty() && !probe_ready_) return;
  ready_ = true;
  cancel(ready_timer_);
  change(ServiceEvent::kReady);
  context_.observer.ready(spec_.name);
  ensure_standby();
}

void Supervised::report_ready() {
  probe_ready_ = alive();
  ready_if_all_said();
}

Result<> Supervised::replace(StopReason reason, Error why) {
  if (!alive() || killing_) return {};
  last_error_ = std::move(why);
  return stop(reason);
}

void Supervised::end_process() {
  pid_ = 0;
  fresh_asked_ = false;
  // What is to stay down stays down, also where a start has crossed the request.
  if (!stop_requested()) stop_asked_.reset();
  ready_ = false;
  reset_said();
  started_wall_ns_ = 0;
  page_ = PageView{};
  for (os::EventLoop::TimerId* timer : {&heartbeat_timer_, &healthy_timer_, &ready_timer_}) {
    cancel(*timer);
  }
  end_sampling();
}

// Permission for the next start: durable in the budget first, then the shim's.
void Supervised::grant_ticket() {
  ticket_id_ = 0;
  if (!may_restart(spec_) || !link_.connected()) return;
  const auto permit = planner_->permit(generation_);
  tell_trouble();
  if (!permit) return;  // What follows the next end is decided then.
  ticket_delay_ = permit->delay;
  if (permit->monitoring != configured_monitoring_) {
    if (auto configured = configure(permit->monitoring); !configured) {
      last_error_ = configured.error();
    }
  }
  ticket_id_ = next_ticket_++;
  const shim::Ticket ticket = {ticket_delay_.count(),
                               ticket_id_,
                               shim_policy(spec_.restart),
                               permit->held_status ? 1u : 0u,
                               permit->held_status.value_or(0),
                               0,
                               restart_after(spec_)};
  if (!link_.send(shim::Type::kTicket, ticket)) ticket_id_ = 0;  // lost_shim() comes next.
  cancel(healthy_timer_);
  if (ticket_delay_.count() == 0 || spec_.healthy_after.count() == 0) return;
  // Once it has been healthy for so long, the next restart is immediate again.
  const os::Duration left(started_mono_ns_ + spec_.healthy_after.count() -
                          context_.clock.mono_ns());
  healthy_timer_ = context_.loop.run_after(std::max(left, os::Duration(0)), [this] {
    healthy_timer_ = 0;
    if (!alive()) return;
    planner_->healthy();
    grant_ticket();
  });
}

// The shim used a ticket: the budget's file follows, after the fact.
void Supervised::account_ticket_use() {
  ticket_id_ = 0;
  ticket_seen_used_ = true;
  planner_->used();
  tell_trouble();
}

void Supervised::tell_trouble() {
  if (auto trouble = planner_->trouble()) {
    last_error_ = *trouble;
    context_.observer.trouble(spec_.name, *trouble);
  }
}

Error Supervised::last_exit_error(const ExitReport& report) const {
  const std::string said =
      report.reported_error.empty() ? "" : fmt::format("; it said: {}", report.reported_error);
  return Error(report.reason == StopReason::kHung ? Code::kServiceHung : Code::kServiceCrashed,
               fmt::format("the service '{}' (process {}) ended: {}{}", spec_.name, report.pid,
                           report.status.to_string(), said))
      .with("service", spec_.name)
      .with("pid", report.pid);
}

// What follows an exit that the shim does not already restart from.
void Supervised::after_exit(const ExitReport& report) {
  if (restart_requested_) {
    restart_requested_ = false;
    starting_again_ = true;
    change(ServiceEvent::kExitedFinal);
    starting_again_ = false;
    if (auto started = start(); !started) last_error_ = started.error();
    return;
  }
  // It ended before the request was heard.
  if (stop_requested() && report.reason != StopReason::kRequested) return call_off_start();
  // Decided by a supervisor that did not live to do it.
  if (const auto decision = planner_->pending(generation_)) return follow(*decision);
  // After a boot the configuration decides what is started, as for the first time.
  if (report.reason == StopReason::kRequested || report.reason == StopReason::kReboot) {
    return change(ServiceEvent::kExitedFinal);
  }
  if (!wants_restart(spec_, exit_info(report))) {
    return change(is_clean(spec_, report.status) ? ServiceEvent::kExitedFinal
                                                 : ServiceEvent::kExitedFailed);
  }
  if (captures_running_ > 0 && planner_->capture_decides()) return wait_for_capture();
  decide();
}

// Whether it is the same crash again, its stack tells; the service waits for it, bounded.
void Supervised::wait_for_capture() {
  deciding_ = true;
  change(ServiceEvent::kExitedRestart);
  cancel(decide_timer_);
  decide_timer_ = context_.loop.run_after(kCaptureWait, [this] {
    decide_timer_ = 0;
    decide();
  });
}

void Supervised::decide() {
  cancel(decide_timer_);
  deciding_ = false;
  const RestartPlanner::Decision decision = planner_->decide(generation_);
  ticket_id_ = 0;
  tell_trouble();
  follow(decision);
}

void Supervised::follow(const RestartPlanner::Decision& decision) {
  switch (decision.verdict) {
    case RestartPlanner::Verdict::kStart:
      slow_lane_ = false;
      return start_later(decision.delay);
    case RestartPlanner::Verdict::kSlow:
      slow_lane_ = true;
      if (decision.why) {
        last_error_ = *decision.why;
        context_.observer.slow_lane(spec_.name, *decision.why, decision.delay);
      }
      return start_later(decision.delay);
    case RestartPlanner::Verdict::kGiveUp:
      return give_up(*decision.why);
    case RestartPlanner::Verdict::kStopped:
      return change(ServiceEvent::kExitedFinal);
  }
}

void Supervised::start_later(os::Duration delay) {
  change(ServiceEvent::kExitedRestart);
  next_start_mono_ns_ = context_.clock.mono_ns() + delay.count();
  cancel(start_timer_);
  start_timer_ = context_.loop.run_after(delay, [this] {
    start_timer_ = 0;
    automatic_start();
  });
}

void Supervised::automatic_start() {
  next_start_mono_ns_ = 0;
  if (alive()) return;
  const RestartPlanner::Decision now = planner_->start_now(generation_);
  tell_trouble();
  if (now.verdict != RestartPlanner::Verdict::kStart) return follow(now);
  if (auto started = send_start(true); !started) {
    // The program may be being replaced: it is tried again, as after a crash.
    context_.observer.start_failed(spec_.name, started.error());
    last_error_ = started.error();
    planner_->start_failed(context_.clock.mono_ns());
    decide();
  }
}

void Supervised::give_up(const Error& error) {
  last_error_ = error;
  next_start_mono_ns_ = 0;
  change(ServiceEvent::kExitedFailed);
  context_.observer.crash_loop(spec_.name, error);
}

// What the supervisor before us decided after the last end, and did not live to do.
void Supervised::resume_decision() {
  if (const auto decision = planner_->pending(generation_)) {
    follow(*decision);
    // Who wrote that it is stopped may not have lived to tell the shim, which waits to start it.
    const bool stopped = decision->verdict == RestartPlanner::Verdict::kStopped;
    if (stopped && shim_waits_) {
      static_cast<void>(send_stop(graceful_stop(spec_, StopReason::kRequested, 0)).has_value());
    }
  } else if (undecided_ && wants_restart(spec_, *undecided_)) {
    decide();  // Nor could it write it down.
  }
}

ServiceStatus Supervised::status(bool with_usage) const {
  ServiceStatus status;
  status.name = spec_.name;
  status.state = state_;
  status.pid = pid_;
  status.shim_pid = shim_pid_;
  status.generation = generation_;
  status.started_wall_ns = started_wall_ns_;
  status.started_mono_ns = started_mono_ns_;
  if (alive()) status.uptime = os::Duration(context_.clock.mono_ns() - started_mono_ns_);
  status.restart_count = restarts_;
  status.restarts_in_window = planner_->used_in_window();
  status.fingerprint = planner_->last_crash().to_string();
  status.equal_crashes = planner_->equal_crashes();
  status.downtime = planner_->downtime();
  status.max_restarts = spec_.max_restarts;
  status.ended_before = ended_before_ && state_ == ServiceState::kStopped;
  status.restart_ready = alive() && ticket_id_ != 0;
  status.ready = ready_;
  status.epoch = epoch_;
  status.standby_pid = standby_.pid;
  status.standby_generation = standby_.generation;
  status.standby_ready = standby_.ready;
  if (spec_.standby && alive()) status.standby_error = standby_error_;
  status.status_text = status_text_;
  status.reloading = said_.reloading_since_ns != 0;
  status.reported_error = said_.error;
  status.reported_exit_status = said_.exit_status;
  status.unknown_notifications = said_.unknown;
  status.last_error = last_error_;
  if (alive()) {
    const HeartbeatWatch::View view = heartbeat_.view(page_.page(), context_.clock.mono_ns());
    status.heartbeat = view.state;
    if (view.state != HeartbeatState::kNone) status.heartbeat_stage = view.stage;
    if (view.state > HeartbeatState::kResting) status.heartbeat_age = view.age;
    const bool late = view.age > spec_.heartbeat_healthy || view.state == HeartbeatState::kHeld;
    if (late && status.state == ServiceState::kRunning) status.state = ServiceState::kDegraded;
    status.agent = agent_text();
    add_usage(status, with_usage);
  }
  explain(status);
  status.next_start_mono_ns = next_start_mono_ns_;
  if (state_ == ServiceState::kBackingOff) {
    const auto decision = planner_->pending(generation_);
    status.slow_lane = decision && decision->verdict == RestartPlanner::Verdict::kSlow;
  }
  status.last_exit = last_exit_;
  status.log_bytes_dropped = log_bytes_dropped_;
  if (with_usage) add_log_counters(dir_, status);
  status.events_dropped = events_dropped_;
  return status;
}

}  // namespace defib::process
