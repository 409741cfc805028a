// Watching a service that lives: memory and processor use, health, and the end of one that hangs.
// Its heartbeat is in supervised_heartbeat.cc.

#include <fmt/core.h>
#include <signal.h>
#include <sys/epoll.h>

#include "defib/process/supervised.h"

namespace defib::process {

std::string Supervised::capture_path(std::string_view kind, std::uint64_t generation) const {
  return fmt::format("{}/{}/{}-{}.json", dir_, shim::kCaptureDir, kind, generation);
}

// Evidence first, but only for so long: then the process is killed, whatever the helper does.
void Supervised::capture_then_kill(StopReason reason) {
  killing_ = true;
  change(ServiceEvent::kKilling);
  if (spec_.capture == CaptureMode::kNone || context_.programs.capture.empty() ||
      capture_.valid()) {
    return kill_now(reason);
  }
  const std::string path = capture_path("hang", generation_);
  os::SpawnOptions options;
  options.argv = {context_.programs.capture,
                  "analyze",
                  std::to_string(pid_),
                  "--log-tail",
                  os::join_path(dir_, shim::kLogCurrent),
                  "--out",
                  path};
  options.new_session = true;
  auto child = os::spawn(options);
  if (!child) {
    context_.observer.captured({spec_.name, generation_, path, false, child.error(), {}, 0});
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
    CaptureReport report = {spec_.name, generation, path, status.success(), std::nullopt, {}, 0};
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
  capture_timer_ = context_.loop.run_after(spec_.capture_timeout, [this, finish] {
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
  const shim::Stop request = {reason, core ? SIGABRT : 0, core ? spec_.stop_timeout.count() : 0,
                              generation_};
  if (auto sent = send_stop(request); !sent) last_error_ = sent.error();
}

void Supervised::sample() {
  if (!alive()) return;
  if (heartbeat_timer_ == 0) look_at_heartbeat();  // A stage may have been armed without a ring.
  if (!orphans_.empty()) reap_orphans();
  clock_stepped();  // What a full disk kept from being written goes with it.
  const auto usage = os::process_usage(pid_);
  if (!usage) return;
  const std::int64_t now = context_.clock.mono_ns();
  memory_bytes_ = usage->rss_bytes;
  if (sampled_mono_ns_ != 0 && now > sampled_mono_ns_) {
    cpu_percent_ = 100.0 * static_cast<double>(usage->cpu_ns - sampled_cpu_ns_) /
                   static_cast<double>(now - sampled_mono_ns_);
  }
  sampled_cpu_ns_ = usage->cpu_ns;
  sampled_mono_ns_ = now;
  const bool memory = spec_.max_memory_bytes > 0 && memory_bytes_ > spec_.max_memory_bytes;
  const bool cpu = spec_.max_cpu_percent > 0 && cpu_percent_ > spec_.max_cpu_percent;
  if (memory) {
    over_limit("memory", static_cast<double>(memory_bytes_),
               static_cast<double>(spec_.max_memory_bytes));
  } else if (cpu) {
    over_limit("cpu", cpu_percent_, spec_.max_cpu_percent);
  } else if (limit_told_) {
    limit_told_ = false;
    change(ServiceEvent::kHealthy);
  }
}

void Supervised::over_limit(std::string_view what, double value, double limit) {
  if (limit_told_ || killing_) return;  // Told once, until it is below again.
  limit_told_ = true;
  const bool kills = spec_.on_limit == LimitAction::kRestart;
  last_error_ =
      Error(Code::kLimitExceeded,
            fmt::format("the service '{}' uses {:.0f} {} of {}, more than its limit of "
                        "{:.0f}",
                        spec_.name, value, what == "cpu" ? "percent" : "bytes", what, limit));
  context_.observer.limit_exceeded({spec_.name, std::string(what), value, limit, kills});
  if (!kills) return change(ServiceEvent::kUnhealthy);
  // Gracefully: it still works, and may save what it holds.
  if (auto stopped = stop(StopReason::kLimit); !stopped) last_error_ = stopped.error();
}

void Supervised::report_health(recovery::Health health, const std::string& detail) {
  if (!alive() || killing_) return;
  if (health == recovery::Health::kHealthy) {
    if (spec_.ready_when_healthy) on_says_ready();
    return change(ServiceEvent::kHealthy);
  }
  if (health != recovery::Health::kUnhealthy) return;
  last_error_ = Error(Code::kProbeFailed,
                      fmt::format("the service '{}' is unhealthy: {}", spec_.name, detail));
  change(ServiceEvent::kUnhealthy);
  if (spec_.on_unhealthy == LimitAction::kRestart) capture_then_kill(StopReason::kUnhealthy);
}

}  // namespace defib::process
