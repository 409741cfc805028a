// What a service uses, held against its limits; and what the status says of both.

#include <fmt/core.h>

#include <algorithm>

#include "defib/process/supervised.h"

namespace defib::process {
namespace {

// The proportional set size is read for at most this share of the time.
constexpr std::int64_t kPssRest = 50;
// The group may be made after the process: it is looked for with the first samples.
constexpr int kCgroupLooks = 3;
// Under pressure the kernel tells of its work many times a second.
constexpr os::Duration kEventRest = std::chrono::milliseconds(100);
// A status that is younger is given again.
constexpr os::Duration kFreshUsage = std::chrono::milliseconds(200);
constexpr double kMegabyte = 1 << 20;

std::string amount(Resource resource, double value) {
  switch (resource) {
    case Resource::kMemory:
      return fmt::format("{:.1f} MB of memory", value / kMegabyte);
    case Resource::kCpu:
      return fmt::format("{:.1f} % of its processors", value);
    case Resource::kDescriptors:
      return fmt::format("{:.0f} descriptors", value);
    case Resource::kThreads:
      return fmt::format("{:.0f} threads", value);
  }
  return {};
}

std::string_view stop_reason_text(StopReason reason) {
  switch (reason) {
    case StopReason::kNone:
      return "it says that it stops";
    case StopReason::kRequested:
      return "it was asked to stop";
    case StopReason::kHung:
      return "it hangs";
    case StopReason::kUnhealthy:
      return "a health check failed again and again";
    case StopReason::kLimit:
      return "it is over a limit";
    case StopReason::kNotReady:
      return "it did not become ready in time";
    case StopReason::kReboot:
      return "the machine was started anew";
    case StopReason::kPattern:
      return "its output asks for a replacement";
  }
  return "it is being ended";
}

}  // namespace

void Supervised::watch_limits() {
  const bool limits = has_limits(spec_);
  if (sampling_.id != 0) context_.sampler->remove(sampling_.id);
  sampling_.id = 0;
  if (!alive()) return;
  if (sampling_.tree.root() != pid_) sampling_.tree = os::ProcessTree(pid_);
  sampling_.window = CpuWindow(spec_.max_cpu_window);
  sampling_.events.reset();  // the threshold may be another one
  sampling_.cgroup_looks = 0;
  if (!limits && orphans_.empty()) return;
  sampling_.id = context_.sampler->add(spec_.sample_interval, [this] { sample(); });
  // The window begins now, or when the others are watched too.
  if (spec_.max_cpu_percent > 0 && catch_up_timer_ == 0) take_sample();
}

void Supervised::end_sampling() {
  if (sampling_.id != 0) context_.sampler->remove(sampling_.id);
  cancel(sampling_.event_timer);
  sampling_ = Sampling{};
}

void Supervised::sample() {
  if (!alive()) return;
  if (heartbeat_timer_ == 0) look_at_heartbeat();  // A stage may have been armed without a ring.
  if (!orphans_.empty()) reap_orphans();
  clock_stepped();  // What a full disk kept from being written goes with it.
  if (!alive() || !has_limits(spec_)) return;
  look_for_cgroup();
  if (!take_sample()) return;
  count_oom_kills();
  hold_memory_limit();
  judge(Resource::kMemory, static_cast<double>(sampling_.memory_bytes));
  if (const auto processors = sampling_.window.mean(); processors && spec_.max_cpu_percent > 0) {
    judge(Resource::kCpu, 100 * *processors / os::allowed_processors(pid_));
  }
  judge(Resource::kDescriptors, static_cast<double>(sampling_.usage.descriptors));
  judge(Resource::kThreads, sampling_.usage.threads);
}

bool Supervised::take_sample() const {
  const bool descriptors = spec_.max_descriptors > 0 || spec_.max_descriptors_percent > 0;
  auto usage = sampling_.tree.sample(descriptors);
  if (!usage && shim_pid_ > 0 && captures_running_ == 0 && sampling_.tree.root() == pid_) {
    // It has forked and left: what remains of it are the shim's children.
    sampling_.tree = os::ProcessTree(shim_pid_, false);
    usage = sampling_.tree.sample(descriptors);
  }
  if (!usage) return false;
  const std::int64_t now = context_.clock.mono_ns();
  sampling_.usage = *usage;
  sampling_.at_mono_ns = now;
  sampling_.window.add(now, usage->cpu_ns);
  measure_memory(now);
  return true;
}

void Supervised::measure_memory(std::int64_t now) const {
  if (sampling_.cgroup) {
    if (const auto used = memory_in_use(context_.files, *sampling_.cgroup)) {
      sampling_.memory_bytes = *used;
      sampling_.memory_source = "cgroup";
      return;
    }
  }
  sampling_.memory_bytes = sampling_.usage.rss_bytes;
  sampling_.memory_source = "rss";
  // Proportional sizes are never larger: they matter only where the resident ones are too large.
  const std::uint64_t least =
      spec_.max_memory_bytes > 0 ? spec_.max_memory_bytes : spec_.memory_limit_bytes;
  if (least == 0 || sampling_.usage.rss_bytes <= least) return;
  if (now >= sampling_.pss_not_before_mono_ns) {
    sampling_.pss_bytes = sampling_.tree.pss_bytes();
    const std::int64_t took = context_.clock.mono_ns() - now;
    sampling_.pss_not_before_mono_ns = now + took * kPssRest;
  }
  if (sampling_.pss_bytes == 0) return;  // It may not be read: the resident size must do.
  sampling_.memory_bytes = sampling_.pss_bytes;
  sampling_.memory_source = "pss";
}

void Supervised::look_for_cgroup() {
  if (spec_.max_memory_bytes == 0 || sampling_.cgroup_looks >= kCgroupLooks || sampling_.events) {
    return;
  }
  ++sampling_.cgroup_looks;
  sampling_.cgroup = own_memory_cgroup(context_.files, pid_);
  if (!sampling_.cgroup) return;
  sampling_.oom_kills = oom_kills(context_.files, *sampling_.cgroup);
  if (!context_.file_watch) {
    auto watch = os::FileWatch::create(context_.loop);
    if (!watch) return;  // The samples go on without events.
    context_.file_watch = std::move(*watch);
  }
  auto events = MemoryEvents::watch(context_.loop, *context_.file_watch, *sampling_.cgroup,
                                    spec_.max_memory_bytes, [this] { on_memory_event(); });
  if (events) sampling_.events = std::move(*events);
}

void Supervised::on_memory_event() {
  if (sampling_.id == 0 || sampling_.event_timer != 0) return;
  const os::Duration since(context_.clock.mono_ns() - sampling_.at_mono_ns);
  if (since >= kEventRest) return sample();
  sampling_.event_timer = context_.loop.run_after(kEventRest - since, [this] {
    sampling_.event_timer = 0;
    sample();
  });
}

void Supervised::count_oom_kills() {
  if (!sampling_.cgroup) return;
  const std::uint64_t kills = oom_kills(context_.files, *sampling_.cgroup);
  if (kills <= sampling_.oom_kills) return;
  sampling_.oom_kills = kills;
  context_.observer.out_of_memory(spec_.name, kills);
}

LimitReport Supervised::limit_report(Resource resource, double value, double limit) const {
  LimitReport report;
  report.service = spec_.name;
  report.generation = generation_;
  report.pid = pid_;
  report.what = to_string(resource);
  report.value = value;
  report.limit = limit;
  report.source = resource == Resource::kMemory ? sampling_.memory_source : "proc";
  report.processes = sampling_.usage.processes;
  report.kills = action_of(spec_, resource) == LimitAction::kRestart;
  return report;
}

// Where no control group holds the hard limit, the sample does, as well as it can.
void Supervised::hold_memory_limit() {
  if (spec_.memory_limit_bytes == 0 || sampling_.memory_bytes <= spec_.memory_limit_bytes ||
      killing_ || !context_.cgroups.find(true, false).memory_missing) {
    return;
  }
  LimitReport report = limit_report(Resource::kMemory, static_cast<double>(sampling_.memory_bytes),
                                    static_cast<double>(spec_.memory_limit_bytes));
  report.kills = true;
  last_error_ =
      Error(Code::kLimitExceeded, fmt::format("the service '{}' uses {}, its memory_limit is {}",
                                              spec_.name, amount(Resource::kMemory, report.value),
                                              amount(Resource::kMemory, report.limit)))
          .with("resource", report.what);
  over_limit(report);
}

void Supervised::judge(Resource resource, double value) {
  if (!alive() || killing_) return;
  const double limit = limit_of(spec_, resource, sampling_.usage.descriptor_limit);
  const LimitVerdict verdict = sampling_.judge.judge(resource, value, limit);
  if (verdict == LimitVerdict::kNothing) return;
  LimitReport report = limit_report(resource, value, limit);
  if (resource == Resource::kCpu) {
    report.over = spec_.max_cpu_window;
    report.processors = os::allowed_processors(pid_);
  }
  if (verdict == LimitVerdict::kExceeded) {
    last_error_ = Error(Code::kLimitExceeded,
                        fmt::format("the service '{}' uses {}, its limit is {}", spec_.name,
                                    amount(resource, value), amount(resource, report.limit)))
                      .with("resource", report.what)
                      .with("source", report.source);
    return over_limit(report);
  }
  context_.observer.limit_cleared(report);
  healthy_if_all_agree();
}

void Supervised::over_limit(const LimitReport& report) {
  context_.observer.limit_exceeded(report);
  if (!alive() || killing_) return;  // The observer may have acted.
  if (!report.kills) return change(ServiceEvent::kUnhealthy);
  // Gracefully: it still works, and may save what it holds.
  if (auto stopped = stop(StopReason::kLimit); !stopped) last_error_ = stopped.error();
}

// A question is answered by a sample of its own where the last one is old, so that nothing needs to
// wake up for it.
void Supervised::add_usage(ServiceStatus& status, bool fresh) const {
  if (fresh && (context_.clock.mono_ns() - sampling_.at_mono_ns > kFreshUsage.count() ||
                sampling_.at_mono_ns == 0)) {
    take_sample();
  }
  status.memory_bytes = sampling_.memory_bytes;
  status.memory_source = sampling_.memory_source;
  status.processes = sampling_.usage.processes;
  status.threads = sampling_.usage.threads;
  if (const auto latest = sampling_.window.latest()) {
    status.cpu_percent = 100 * *latest;
  } else if (status.uptime.count() > 0) {
    status.cpu_percent = 100 * static_cast<double>(sampling_.usage.cpu_ns) /
                         static_cast<double>(status.uptime.count());
  }
}

// Why it is as it is, and what comes next.
void Supervised::explain(ServiceStatus& status) const {
  switch (state_) {
    case ServiceState::kStarting:
      status.reason =
          spec_.expects_ready && !said_ready_
              ? "waits for READY=1"
              : fmt::format("waits for its ready_probe '{}' to pass", spec_.ready_probe);
      if (ready_timer_ != 0) {
        status.next_action = "give_up_waiting";
        status.next_action_mono_ns = ready_due_ns_;
      }
      return;
    case ServiceState::kStopping:
      status.reason = stop_reason_text(stop_reason_);
      status.next_action = "kill";
      status.next_action_mono_ns = kill_at_mono_ns_;
      return;
    case ServiceState::kBackingOff:
      status.reason = last_exit_ ? fmt::format("it ended: {}", last_exit_->status.to_string())
                                 : std::string("it could not be started");
      if (slow_lane_) {
        status.reason += fmt::format("; it is tried again only slowly: {}",
                                     last_error_ ? last_error_->message() : "a crash loop");
      }
      status.next_action = "start";
      status.next_action_mono_ns = next_start_mono_ns_;
      return;
    case ServiceState::kFailed:
      status.reason = last_error_ ? last_error_->message() : std::string("it failed");
      status.next_action = "reset";  // by a human
      return;
    case ServiceState::kStopped:
      if (last_exit_ && last_exit_->reason == StopReason::kNone) {
        // A program that goes into the background looks so too, and its operator should know why.
        status.reason =
            fmt::format("it ended by itself: {}; what it left in the background was ended with it",
                        last_exit_->status.to_string());
      }
      return;
    case ServiceState::kDegraded:
      if (last_error_) status.reason = last_error_->message();
      return;
    default:
      return;
  }
}

}  // namespace defib::process
