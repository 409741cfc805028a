// Watching a service that lives: health, and the end of one that hangs. Its heartbeat is in
// supervised_heartbeat.cc, its limits in supervised_limits.cc.

#include <fmt/core.h>
#include <signal.h>
#include <sys/epoll.h>

#include "defib/process/supervised.h"

namespace defib::process {

std::string Supervised::capture_path(std::string_view kind, std::uint64_t generation) const {
  return fmt::format("{}/{}/{}-{}.json", dir_, shim::kCaptureDir, kind, generation);
}

// Empty where a living process is not looked at: only one is at a time.
std::string Supervised::hang_report_path() const {
  const bool none =
      spec_.capture == CaptureMode::kNone || context_.programs.capture.empty() || capture_.valid();
  return none ? std::string() : capture_path("hang", generation_);
}

// Evidence first, but only for so long: then the process is killed, whatever the helper does.
void Supervised::capture_then_kill(StopReason reason) {
  killing_ = true;
  stop_reason_ = reason;
  kill_at_mono_ns_ = context_.clock.mono_ns() + spec_.hang_capture_timeout.count();
  change(ServiceEvent::kKilling);
  const std::string path = hang_report_path();
  if (path.empty()) return kill_now(reason);
  os::SpawnOptions options;
  options.argv = {context_.programs.capture,
                  "analyze",
                  std::to_string(pid_),
                  "--output-of",
                  dir_,
                  "--since-mono-ns",
                  std::to_string(started_mono_ns_),
                  "--out",
                  path};
  options.new_session = true;
  auto child = os::spawn(options);
  if (!child) {
    CaptureReport failed;
    failed.service = spec_.name;
    failed.generation = generation_;
    failed.path = path;
    failed.error = child.error();
    context_.observer.captured(failed);
    return kill_now(reason);
  }
  capture_ = std::move(*child);
  ++captures_running_;
  const std::uint64_t generation = generation_;
  const auto finish = [this, generation, path, reason](bool in_time) {
    cancel(capture_timer_);
    context_.loop.unwatch(capture_.pidfd());
    if (!in_time) static_cast<void>(capture_.signal(SIGKILL).has_value());
    const os::ExitStatus status = capture_.wait();
    capture_ = os::Child{};
    --captures_running_;
    CaptureReport report;
    report.service = spec_.name;
    report.generation = generation;
    report.path = path;
    report.ok = status.success();
    if (!report.ok) {
      report.error =
          Error(Code::kCaptureFailed,
                in_time ? fmt::format("the capture helper ended with {}", status.to_string())
                        : "the capture took too long and was stopped");
    }
    if (alive() && generation_ == generation) kill_now(reason);
    context_.observer.captured(report);
  };
  const auto watched =
      context_.loop.watch(capture_.pidfd(), EPOLLIN, [finish](std::uint32_t) { finish(true); });
  if (!watched) return finish(false);
  capture_timer_ = context_.loop.run_after(spec_.hang_capture_timeout, [this, finish] {
    capture_timer_ = 0;
    finish(false);
  });
}

void Supervised::kill_now(StopReason reason) {
  if (!alive()) return;
  killing_ = true;
  change(ServiceEvent::kKilling);
  // With core files wanted, the signal that writes one; else the one that nothing can refuse.
  const bool core = spec_.capture == CaptureMode::kCore;
  shim::Stop request{};
  request.reason = reason;
  request.signal = core ? SIGABRT : 0;
  request.grace_ns = core ? spec_.stop_timeout.count() : 0;
  request.generation = generation_;
  stop_reason_ = reason;
  kill_at_mono_ns_ = context_.clock.mono_ns() + request.grace_ns;
  if (auto sent = send_stop(request); !sent) last_error_ = sent.error();
}

void Supervised::report_health(recovery::Health health, const std::string& detail,
                               std::optional<LimitAction> action) {
  if (!alive() || killing_) return;
  if (health == recovery::Health::kHealthy) {
    probes_unhealthy_ = false;
    return healthy_if_all_agree();
  }
  if (health != recovery::Health::kUnhealthy) return;
  probes_unhealthy_ = true;
  last_error_ = Error(Code::kProbeFailed,
                      fmt::format("the service '{}' is unhealthy: {}", spec_.name, detail));
  change(ServiceEvent::kUnhealthy);
  if (action.value_or(spec_.on_unhealthy) == LimitAction::kRestart) {
    capture_then_kill(StopReason::kUnhealthy);
  }
}

// Degraded ends when neither a probe nor a limit nor a heartbeat says otherwise any more.
void Supervised::healthy_if_all_agree() {
  const bool degraded =
      probes_unhealthy_ || degraded_by_heartbeat_ || sampling_.judge.any_exceeded();
  if (!degraded) change(ServiceEvent::kHealthy);
}

}  // namespace defib::process
