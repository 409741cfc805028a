// What stands ready beside the active process: its standby, and the sockets that are kept for it.

#include <fmt/core.h>

#include <algorithm>

#include "defib/process/launch_description.h"
#include "defib/process/supervised.h"

namespace defib::process {

Result<> Supervised::on_standby_started(ShimMessage& message, const shim::Started& started) {
  if (started.ticket_id != 0) {
    account_ticket_use();
    standby_by_ticket_ = false;
  }
  // Of an earlier one, told again, nothing but the news is taken.
  const bool news = started.generation > std::max(standby_.generation, generation_);
  if (news) {
    standby_ = Standby{};
    standby_.generation = started.generation;
    standby_.pid = started.pid;
    standby_.started_mono_ns = started.started_mono_ns;
  }
  if (started.generation == standby_.generation && !message.fds.empty()) {
    standby_.page = PageView::map(std::move(message.fds[0]));
  }
  if (news) watch_standby();
  context_.observer.standby_started({spec_.name, started.generation, started.pid,
                                     started.started_mono_ns, started.started_wall_ns,
                                     started.automatic != 0, started.ticket_id != 0, 0});
  if (started.ticket_id != 0 && alive() && replay_left_ == 0) grant_ticket();
  return {};
}

void Supervised::on_standby_exited(const ExitReport& report) {
  if (report.generation == standby_.generation) {
    // Only a standby that stood for a while makes the next one immediate again.
    standby_backoff_.succeeded_for(os::Duration(report.noticed_mono_ns - standby_.started_mono_ns));
    standby_ = Standby{};
    cancel(standby_ready_timer_);
  }
  context_.observer.standby_exited(report);
  ensure_standby();
  const bool told = report.reason == StopReason::kNotReady || report.reason == StopReason::kReboot;
  if (report.reason == StopReason::kRequested || told) return;
  lose_standby(
      Error(Code::kServiceCrashed, fmt::format("the standby of '{}' (pid {}) ended: {}", spec_.name,
                                               report.pid, report.status.to_string())));
}

// One that does not say READY=1 in time is replaced, as an active process is.
void Supervised::watch_standby() {
  cancel(standby_ready_timer_);
  if (standby_.pid == 0 || standby_.ready) return;
  if (!spec_.expects_ready || spec_.ready_timeout.count() == 0) return;
  const std::int64_t due = standby_.started_mono_ns + spec_.ready_timeout.count();
  const os::Duration left(std::max<std::int64_t>(0, due - context_.clock.mono_ns()));
  standby_ready_timer_ = context_.loop.run_after(left, [this] {
    standby_ready_timer_ = 0;
    static_cast<void>(
        send_stop(graceful_stop(spec_, StopReason::kNotReady, standby_.generation)).has_value());
    lose_standby(
        Error(Code::kTimeout,
              fmt::format("the standby of '{}' (pid {}) has not said READY=1 within {} and "
                          "is replaced",
                          spec_.name, standby_.pid, os::format_duration(spec_.ready_timeout))));
  });
}

void Supervised::lose_standby(Error why) {
  std::string next = "another one follows";
  if (standby_timer_ != 0) {
    const os::Duration left(std::max<std::int64_t>(0, standby_due_ns_ - context_.clock.mono_ns()));
    next = fmt::format("the next one is started in {}", os::format_duration(left));
  } else if (alive() && !killing_ && !planner_->has_ticket() && planner_->exhausted()) {
    next = "no other one is started while the restarts of the window are used up";
  }
  standby_error_ = std::move(why)
                       .with("service", spec_.name)
                       .suggest(fmt::format("{}; until one is ready, a failure of the service is "
                                            "followed by a cold start; its output is "
                                            "in `defib logs {}`",
                                            next, spec_.name));
  context_.observer.standby_lost(spec_.name, *standby_error_);
}

Result<> Supervised::on_promoted(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Promoted promoted, message.body<shim::Promoted>());
  standby_by_ticket_ = promoted.ticket_id != 0;
  standby_backoff_.reset();  // The last one did what it was there for.
  standby_error_.reset();
  cancel(standby_ready_timer_);
  if (promoted.generation != generation_) {
    Standby next = std::move(standby_);
    standby_ = Standby{};
    const bool known = next.generation == promoted.generation;
    change(ServiceEvent::kExitedRestart);
    generation_ = promoted.generation;
    ++restarts_;
    planner_->started(promoted.promoted_mono_ns, false);
    page_ = known ? std::move(next.page) : PageView{};
    // The time of its activation, not of its start: that is what health is counted from.
    begin_process(promoted.pid, os::process_start_time(promoted.pid).value_or(0),
                  promoted.promoted_mono_ns, promoted.promoted_wall_ns);
    said_ready_ = known && next.ready;
    if (said_ready_ && !ready_ && spec_.ready_probe.empty()) {
      ready_ = true;
      cancel(ready_timer_);
      change(ServiceEvent::kReady);
    }
    // "standby" was true until now; the service says itself what it is from here on.
    const auto said = event_for_word(next.state_word);
    if (known && said && *said != ServiceEvent::kSaysStandby) change(*said);
  }
  epoch_ = promoted.epoch;
  context_.observer.promoted({spec_.name, promoted.generation, promoted.old_generation,
                              promoted.pid, promoted.epoch, promoted.promoted_mono_ns,
                              promoted.promoted_wall_ns, promoted.fenced_early != 0, ready_});
  if (!standby_by_ticket_ && replay_left_ == 0 && alive()) {
    grant_ticket();
    ensure_standby();
  }
  return {};
}

// Starts a standby where one is missing: after the active process is ready, and not faster than its
// back-off. It is no restart of the service, so the budget has no say; the shim's own start of one
// after a promotion has its ticket.
void Supervised::ensure_standby() {
  const bool wanted = spec_.standby && alive() && !killing_ && link_.connected() &&
                      replay_left_ == 0 && (ready_ || !spec_.expects_ready) &&
                      (planner_->has_ticket() || !planner_->exhausted());
  if (!wanted || standby_.pid != 0 || standby_by_ticket_ || standby_timer_ != 0) return;
  const os::Duration delay = standby_backoff_.next();
  standby_due_ns_ = context_.clock.mono_ns() + delay.count();
  standby_timer_ = context_.loop.run_after(delay, [this] {
    standby_timer_ = 0;
    if (!spec_.standby || !alive() || killing_ || standby_.pid != 0 || !link_.connected()) return;
    const shim::Start request = {0, shim::InstanceRole::kStandby};
    static_cast<void>(link_.send(shim::Type::kStart, request).has_value());
  });
}

Result<> Supervised::open_sockets() {
  return sockets_.open(spec_.sockets, pid_);
}

Result<> Supervised::send_sockets() {
  const shim::Sockets counts = sockets_.counts();
  std::string payload(reinterpret_cast<const char*>(&counts), sizeof counts);
  payload += sockets_.names();
  const std::vector<int> fds = sockets_.descriptors();
  return link_.send_bytes(shim::Type::kSockets, payload, fds);
}

Result<> Supervised::on_stored(ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Sockets counts, message.body<shim::Sockets>());
  sockets_.take(counts, message.tail<shim::Sockets>(), std::move(message.fds));
  return {};
}

void Supervised::take_pages_and_sockets(ShimMessage& message, const shim::Welcome& welcome) {
  std::vector<os::Fd>& fds = message.fds;
  std::size_t next = 0;
  const auto take = [&]() -> os::Fd {
    return next < fds.size() ? std::move(fds[next++]) : os::Fd();
  };
  notify_fd_ = take();
  PageView standby;
  if (welcome.active_page != 0) page_ = PageView::map(take());
  if (welcome.standby_page != 0) standby = PageView::map(take());
  fds.erase(fds.begin(), fds.begin() + static_cast<std::ptrdiff_t>(next));
  // A shim that was just started holds nothing: what we hold is sent to it.
  const shim::Sockets& counts = welcome.sockets;
  if (counts.listening + counts.stored > 0) {
    sockets_.take(counts, message.tail<shim::Welcome>(), std::move(fds));
  }
  const auto* record = find_instance(welcome.status, shim::InstanceRole::kStandby);
  standby_ = Standby{};
  cancel(standby_ready_timer_);
  if (record == nullptr) return;
  standby_.generation = record->generation;
  standby_.pid = record->pid;
  standby_.started_mono_ns = record->started_mono_ns;
  standby_.ready = (record->ready & shim::kSaidReady) != 0;
  standby_.state_word = record->state_word;
  standby_.page = std::move(standby);
  watch_standby();
}

}  // namespace defib::process
