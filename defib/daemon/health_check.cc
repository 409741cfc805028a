#include "defib/daemon/health_check.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace defib::daemon {
namespace {

// While readiness waits: from the first to the second, doubling, but never more rarely than the
// probe's own interval.
constexpr os::Duration kFirstAwaitingDelay = std::chrono::milliseconds(10);
constexpr os::Duration kMostAwaitingDelay = std::chrono::milliseconds(500);

}  // namespace

Result<std::unique_ptr<HealthChecker>> HealthChecker::create(os::EventLoop& loop,
                                                             ProbeConfig config,
                                                             const std::string& service,
                                                             Observer observer) {
  std::unique_ptr<HealthChecker> checker(
      new HealthChecker(loop, std::move(config), std::move(observer)));
  const ProbeConfig& probe = checker->config_;
  switch (probe.kind) {
    case ProbeKind::kHttp: {
      DEFIB_TRY_ASSIGN(checker->attempt_, make_http_attempt(loop, probe.url));
      break;
    }
    case ProbeKind::kTcp: {
      DEFIB_TRY_ASSIGN(checker->attempt_, make_tcp_attempt(loop, probe.address));
      break;
    }
    case ProbeKind::kExec:
      checker->attempt_ = make_exec_attempt(
          loop, {probe.command, {{"DEFIB_SERVICE", service}}, probe.working_directory});
      break;
  }
  return checker;
}

HealthChecker::~HealthChecker() {
  pause();
}

recovery::Health HealthChecker::health() const {
  return tracker_ ? tracker_->health() : recovery::Health::kUnknown;
}

void HealthChecker::restart(bool awaited) {
  pause();
  tracker_ = std::make_unique<recovery::HealthTracker>(config_.policy, loop_.clock().mono_ns());
  awaited_ = awaited && observer_.on_first_pass != nullptr;
  awaiting_delay_ = kFirstAwaitingDelay;
  schedule(awaited_ ? os::Duration(0) : config_.policy.interval);
}

void HealthChecker::pause() {
  if (next_ != 0) loop_.cancel(next_);
  if (deadline_ != 0) loop_.cancel(deadline_);
  next_ = deadline_ = 0;
  attempt_->abandon();
}

void HealthChecker::schedule(os::Duration delay) {
  next_ = loop_.run_after(delay, [this] {
    next_ = 0;
    begin();
  });
}

os::Duration HealthChecker::next_delay() {
  if (!awaited_) return config_.policy.interval;
  const os::Duration delay = std::min(awaiting_delay_, config_.policy.interval);
  awaiting_delay_ = std::min(awaiting_delay_ * 2, kMostAwaitingDelay);
  return delay;
}

void HealthChecker::begin() {
  deadline_ = loop_.run_after(config_.policy.timeout, [this] {
    deadline_ = 0;
    attempt_->abandon();
    finish(false, fmt::format("no answer within {}", os::format_duration(config_.policy.timeout)));
  });
  attempt_->begin([this](bool healthy, std::string detail) { finish(healthy, std::move(detail)); });
}

void HealthChecker::finish(bool healthy, std::string detail) {
  if (deadline_ != 0) loop_.cancel(deadline_);
  deadline_ = 0;
  const bool first_pass = awaited_ && healthy;
  if (first_pass) awaited_ = false;
  schedule(next_delay());
  if (awaited_) return;
  recovery::ProbeResult result;
  result.healthy = healthy;
  result.detail = detail;
  if (!healthy) {
    result.error =
        Error(Code::kProbeFailed, fmt::format("the check '{}' failed: {}", config_.name, detail));
  }
  const bool changed = tracker_->add(result, loop_.clock().mono_ns());
  const HealthChange change = {tracker_->health(), std::move(detail), tracker_->failures_in_row()};
  // Last, and by copies: the observers may restart, pause or destroy this checker.
  const Observer observer = observer_;
  if (first_pass) observer.on_first_pass();
  if (changed) observer.on_change(change);
}

}  // namespace defib::daemon
