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

recovery::BackoffOptions backoff_options(const ServiceSpec& spec) {
  recovery::BackoffOptions options;
  options.base = spec.restart_delay;
  options.cap = spec.restart_delay_cap;
  options.multiplier = 2.0;
  options.jitter = false;
  options.first_immediate = true;
  options.reset_after = spec.healthy_after;
  return options;
}

shim::ExitInfo exit_info(const ExitReport& report) {
  shim::ExitInfo info{};
  info.reason = report.reason;
  info.source = report.status.known ? shim::StatusSource::kWait : shim::StatusSource::kUnknown;
  info.wait_status = report.status.success() ? 0 : 1;
  return info;
}

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
      backoff_(backoff_options(spec_), os::Random(os::random_seed())),
      standby_backoff_(standby_backoff_options(spec_), os::Random(os::random_seed())),
      heartbeat_(heartbeat_options(spec_)) {}

Supervised::~Supervised() {
  for (os::EventLoop::TimerId* timer :
       {&heartbeat_timer_, &healthy_timer_, &ready_timer_, &start_timer_, &relaunch_timer_,
        &capture_timer_, &standby_timer_, &reload_timer_, &self_stop_timer_, &runtime_timer_}) {
    cancel(*timer);
  }
  end_sampling();
  if (link_.connected()) context_.loop.unwatch(link_.fd());
  if (shim_.valid()) context_.loop.unwatch(shim_.pidfd());
  if (capture_.valid()) context_.loop.unwatch(capture_.pidfd());
}

Result<std::unique_ptr<Supervised>> Supervised::open(SupervisionContext& context,
                                                     ServiceSpec spec) {
  DEFIB_TRY(validate(spec));
  std::unique_ptr<Supervised> service(new Supervised(context, std::move(spec)));
  const std::string& name = service->spec_.name;
  DEFIB_TRY_ASSIGN(service->lock_, context.dir.lock_service(name));
  DEFIB_TRY(context.dir.prepare_service(name, to_json(service->spec_).dump(2) + "\n"));
  recovery::Budget::Options options;
  options.path = os::join_path(service->dir_, "budget");
  options.limit = service->spec_.max_restarts;
  options.window = service->spec_.restart_window;
  options.holder_is_asked = true;  // the shim, or what it left
  DEFIB_TRY_ASSIGN(service->budget_,
                   recovery::Budget::open(context.files, context.clock, std::move(options)));
  DEFIB_TRY(service->connect_or_launch());
  keep_lock(*service->lock_);
  return service;
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
  DEFIB_TRY_ASSIGN(const os::Fd description, describe());
  DEFIB_TRY(open_sockets());
  start_asked_ = shim::Start{automatic ? 1u : 0u, shim::InstanceRole::kActive};
  const int fds[] = {description.get()};
  if (link_.connected() && send_sockets() && link_.send_bytes(shim::Type::kConfigure, {}, fds)) {
    static_cast<void>(link_.send(shim::Type::kStart, *start_asked_).has_value());
  }
  return {};
}

Result<> Supervised::send_stop(const shim::Stop& request) {
  stop_asked_ = request;
  if (link_.connected()) {
    static_cast<void>(link_.send(shim::Type::kStop, request).has_value());
  }
  return {};
}

Result<> Supervised::start() {
  if (alive()) return {};
  cancel(start_timer_);
  next_start_mono_ns_ = 0;
  restart_requested_ = false;
  backoff_.reset();
  stop_asked_.reset();
  DEFIB_TRY(send_start(false));
  change(ServiceEvent::kStarted);
  return {};
}

Result<> Supervised::stop(StopReason reason) {
  cancel(start_timer_);
  next_start_mono_ns_ = 0;
  const bool requested = reason == StopReason::kRequested;
  const shim::Stop request = graceful_stop(spec_, reason, requested ? 0 : generation_);
  if (requested) cancel(standby_timer_);
  if (!alive()) {
    if (!requested) return {};
    // The shim's own delayed start is called off too; and should it have happened just now, the
    // new process is stopped.
    change(ServiceEvent::kExitedFinal);
    start_asked_.reset();
    return send_stop(request);
  }
  killing_ = true;
  cancel(self_stop_timer_);  // The shim has the deadline now.
  self_stop_due_ns_ = 0;
  stop_reason_ = reason;
  kill_at_mono_ns_ = context_.clock.mono_ns() + request.grace_ns;
  change(ServiceEvent::kKilling);
  return send_stop(request);
}

Result<> Supervised::restart() {
  if (!alive()) return start();
  DEFIB_TRY(stop());
  restart_requested_ = true;
  return {};
}

Result<> Supervised::reset() {
  DEFIB_TRY(budget_->reset());
  backoff_.reset();
  exhausted_.reset();
  last_error_.reset();
  if (alive()) {
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
  budget_->set_limit(spec_.max_restarts, spec_.restart_window);
  backoff_ = recovery::Backoff(backoff_options(spec_), os::Random(os::random_seed()));
  heartbeat_ = HeartbeatWatch(heartbeat_options(spec_));
  stall_ = StallWatch();
  standby_backoff_ =
      recovery::Backoff(standby_backoff_options(spec_), os::Random(os::random_seed()));
  if (!link_.connected()) return {};
  DEFIB_TRY(configure());
  if (alive()) {
    arm_heartbeat();
    watch_limits();
    grant_ticket();
    ensure_standby();
  }
  return {};
}

void Supervised::begin_process(pid_t pid, std::uint64_t start_time, std::int64_t mono_ns,
                               std::int64_t wall_ns) {
  for (os::EventLoop::TimerId* timer :
       {&start_timer_, &heartbeat_timer_, &healthy_timer_, &ready_timer_}) {
    cancel(*timer);
  }
  next_start_mono_ns_ = 0;
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
  stop_asked_.reset();
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
  exhausted_.reset();
  ticket_id_ = 0;
  if (spec_.restart == RestartPolicy::kNever || !link_.connected()) return;
  if (auto prepared = budget_->prepare(); !prepared) {
    exhausted_ = prepared.error();
    return;
  }
  if (delay_generation_ != generation_) {
    delay_generation_ = generation_;
    ticket_delay_ = backoff_.next();
  }
  ticket_id_ = next_ticket_++;
  const shim::Ticket ticket = {ticket_delay_.count(), ticket_id_, shim_policy(spec_.restart), 0};
  if (!link_.send(shim::Type::kTicket, ticket)) ticket_id_ = 0;  // lost_shim() comes next.
  cancel(healthy_timer_);
  if (ticket_delay_.count() == 0 || spec_.healthy_after.count() == 0) return;
  // Once it has been healthy for so long, the next restart is immediate again.
  const os::Duration left(started_mono_ns_ + spec_.healthy_after.count() -
                          context_.clock.mono_ns());
  healthy_timer_ = context_.loop.run_after(std::max(left, os::Duration(0)), [this] {
    healthy_timer_ = 0;
    if (!alive()) return;
    backoff_.succeeded_for(spec_.healthy_after);
    delay_generation_ = 0;
    grant_ticket();
  });
}

// The shim used a ticket: the budget's file follows, after the fact.
void Supervised::account_ticket_use() {
  ticket_id_ = 0;
  ticket_seen_used_ = true;
  if (budget_->prepared()) {
    budget_->use_prepared();
    if (auto settled = budget_->settle(); !settled) last_error_ = settled.error();
  } else if (budget_->presumed_spent()) {
    // Prepared by the supervisor before us: it counts since the file was opened.
    if (auto confirmed = budget_->confirm_presumed(); !confirmed) last_error_ = confirmed.error();
  } else if (auto spent = budget_->spend(); !spent) {
    last_error_ = spent.error();
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
  // After a boot the configuration decides what is started, as for the first time.
  if (report.reason == StopReason::kRequested || report.reason == StopReason::kReboot) {
    return change(ServiceEvent::kExitedFinal);
  }
  if (!shim::calls_for_restart(shim_policy(spec_.restart), exit_info(report))) {
    return change(report.status.success() ? ServiceEvent::kExitedFinal
                                          : ServiceEvent::kExitedFailed);
  }
  if (exhausted_) return give_up(*exhausted_);
  start_later(ticket_id_ != 0 ? ticket_delay_ : backoff_.next());
}

void Supervised::start_later(os::Duration delay) {
  // The permission is durable before the start, as with a ticket.
  if (auto prepared = budget_->prepare(); !prepared) return give_up(prepared.error());
  budget_->use_prepared();
  if (auto settled = budget_->settle(); !settled) return give_up(settled.error());
  ticket_id_ = 0;
  change(ServiceEvent::kExitedRestart);
  next_start_mono_ns_ = context_.clock.mono_ns() + delay.count();
  cancel(start_timer_);
  start_timer_ = context_.loop.run_after(delay, [this] {
    start_timer_ = 0;
    next_start_mono_ns_ = 0;
    if (alive()) return;
    if (auto started = send_start(true); !started) {
      context_.observer.start_failed(spec_.name, started.error());
      last_error_ = started.error();
      start_later(backoff_.next());
    }
  });
}

void Supervised::give_up(Error cause) {
  const bool loop = cause.code() == Code::kBudgetExhausted;
  std::string message =
      loop ? fmt::format("the service '{}' failed {} times within {} and was stopped", spec_.name,
                         budget_->used() + 1, os::format_duration(spec_.restart_window))
           : fmt::format("the service '{}' cannot be restarted", spec_.name);
  Error error = Error(loop ? Code::kCrashLoop : Code::kStartFailed, std::move(message))
                    .with("service", spec_.name)
                    .because(std::move(cause));
  if (loop) {
    error = std::move(error).suggest(
        fmt::format("find the cause with `defib incidents`, then `defib reset {}`", spec_.name));
  }
  last_error_ = error;
  change(ServiceEvent::kExitedFailed);
  context_.observer.crash_loop(spec_.name, error);
}

ServiceStatus Supervised::status(bool with_usage) const {
  ServiceStatus status;
  status.name = spec_.name;
  status.state = state_;
  status.pid = pid_;
  status.shim_pid = shim_pid_;
  status.generation = generation_;
  status.started_wall_ns = started_wall_ns_;
  if (alive()) status.uptime = os::Duration(context_.clock.mono_ns() - started_mono_ns_);
  status.restart_count = restarts_;
  status.restarts_in_window = budget_->used();
  status.max_restarts = spec_.max_restarts;
  status.restart_ready = alive() && ticket_id_ != 0;
  status.ready = ready_;
  status.epoch = epoch_;
  status.standby_pid = standby_.pid;
  status.standby_generation = standby_.generation;
  status.standby_ready = standby_.ready;
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
  status.last_exit = last_exit_;
  status.log_bytes_dropped = log_bytes_dropped_;
  if (with_usage) add_log_counters(dir_, status);
  status.events_dropped = events_dropped_;
  return status;
}

}  // namespace defib::process
