// What a service says of itself by sd_notify(3), and what follows from it. The shim has judged
// already whether the sender may speak (notify_access), and handles what must work without a
// supervisor: MAINPID=, the descriptors, and EXTEND_TIMEOUT_USEC= of a requested stop.

#include <fmt/core.h>

#include <charconv>
#include <cstring>

#include "defib/process/supervised.h"

namespace defib::process {
namespace {

constexpr os::Duration kMaxExtension = std::chrono::hours(24);
constexpr std::size_t kMaxReportedError = 256;

template <typename Number>
std::optional<Number> parse(std::string_view text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (text.empty() || parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return value;
}

// A positive number of microseconds that a Duration can hold.
std::optional<os::Duration> parse_time(std::string_view text) {
  const auto microseconds = parse<std::uint64_t>(text);
  if (!microseconds || *microseconds == 0) return std::nullopt;
  constexpr std::uint64_t kMax = INT64_MAX / 1000;
  return std::chrono::microseconds(static_cast<std::int64_t>(std::min(*microseconds, kMax)));
}

}  // namespace

Result<> Supervised::on_notify(const ShimMessage& message) {
  DEFIB_TRY_ASSIGN(const shim::Notify notify, message.body<shim::Notify>());
  std::string_view text = message.tail<shim::Notify>();
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t equals = line.find('=');
    const bool current = notify.generation == generation_ && alive();
    if (equals == std::string_view::npos) {
      if (current && !line.empty()) ++said_.unknown;
      continue;
    }
    const std::string_view key = line.substr(0, equals), value = line.substr(equals + 1);
    if (current) {
      if (!on_notify_field(key, value)) ++said_.unknown;
    } else if (notify.generation == standby_.generation && standby_.pid != 0) {
      if (key == "READY" && value == "1") {
        standby_.ready = true;
        standby_error_.reset();
        cancel(standby_ready_timer_);
      }
      if (key == "X_DEFIB_STATE") standby_.state_word = value;
      continue;  // Not the service's own words, as long as it waits.
    }
    context_.observer.notified(
        {spec_.name, notify.generation, notify.pid, std::string(key), std::string(value)});
  }
  return {};
}

// False where the field means nothing here, or its value is malformed.
bool Supervised::on_notify_field(std::string_view key, std::string_view value) {
  if (key == "READY") {
    if (value == "1") on_says_ready();
    return value == "1";
  }
  if (key == "STATUS") {
    status_text_ = value;
    return true;
  }
  if (key == "WATCHDOG") {
    if (value == "trigger") {
      on_watchdog_trigger();
    } else if (value == "1") {
      heartbeat_.notify_beat(context_.clock.mono_ns());
      if (heartbeat_timer_ == 0) arm_heartbeat();
    }
    return value == "1" || value == "trigger";
  }
  if (key == "WATCHDOG_USEC") {
    const auto deadline = parse_time(value);
    if (deadline) heartbeat_.set_notify_deadline(*deadline);
    if (deadline) arm_heartbeat();
    return deadline.has_value();
  }
  if (key == "RELOADING" || key == "STOPPING") {
    if (value == "1") key == "RELOADING" ? on_says_reloading() : on_says_stopping();
    return value == "1";
  }
  if (key == "MONOTONIC_USEC") {
    const auto at = parse_time(value);
    // When the reload began, as the service knows it; never before its start, nor to come.
    if (at && said_.reloading_since_ns != 0 && at->count() >= started_mono_ns_ &&
        at->count() <= context_.clock.mono_ns()) {
      said_.reloading_since_ns = at->count();
    }
    return at.has_value();
  }
  if (key == "EXTEND_TIMEOUT_USEC") {
    const auto time = parse_time(value);
    if (time) extend_timeouts(std::min(*time, kMaxExtension));
    return time.has_value();
  }
  if (key == "ERRNO") {
    const auto number = parse<int>(value);
    if (number) said_.error = fmt::format("errno {} ({})", *number, std::strerror(*number));
    return number.has_value();
  }
  if (key == "BUSERROR" || key == "VARLINKERROR") {
    said_.error = value.substr(0, kMaxReportedError);
    return true;
  }
  if (key == "EXIT_STATUS") {
    const auto number = parse<std::int64_t>(value);
    if (number) said_.exit_status = number;
    return number.has_value();
  }
  if (key == "RESTART_RESET") {
    if (value != "1") return false;
    planner_->reset_backoff();
    if (replay_left_ == 0) grant_ticket();
    return true;
  }
  if (key == "X_DEFIB_STATE") {
    if (const auto said = event_for_word(value)) change(*said);
    return true;
  }
  // The shim's, or the observer's.
  return key == "MAINPID" || key == "MAINPIDFDID" || key == "MAINPIDFD" || key == "NOTIFYACCESS" ||
         key == "BARRIER" || key == "FDSTORE" || key == "FDSTOREREMOVE" || key == "FDNAME" ||
         key == "FDPOLL" || key == "X_DEFIB_EVENT" || key == "X_DEFIB_DROPPED";
}

void Supervised::on_says_ready() {
  said_.reloading_since_ns = 0;
  cancel(reload_timer_);
  said_ready_ = true;
  ready_if_all_said();
}

// It runs on while it reads its configuration again. A reload that does not end is an error to be
// told, and no reason to end a service that works.
void Supervised::on_says_reloading() {
  const std::int64_t now = context_.clock.mono_ns();
  said_.reloading_since_ns = now;
  if (spec_.ready_timeout.count() == 0) return;
  reload_due_ns_ = now + spec_.ready_timeout.count();
  extend_timeouts(os::Duration(0));
}

// As if it had been asked to stop: what does not end in time is killed.
void Supervised::on_says_stopping() {
  if (killing_) return;
  killing_ = true;
  stop_reason_ = StopReason::kNone;
  kill_at_mono_ns_ =
      spec_.stop_timeout.count() == 0 ? 0 : context_.clock.mono_ns() + spec_.stop_timeout.count();
  cancel(ready_timer_);
  cancel(runtime_timer_);
  change(ServiceEvent::kKilling);
  if (spec_.stop_timeout.count() == 0) return;
  self_stop_due_ns_ = context_.clock.mono_ns() + spec_.stop_timeout.count();
  cancel(self_stop_timer_);
  extend_timeouts(os::Duration(0));
}

void Supervised::on_watchdog_trigger() {
  if (killing_) return;
  const bool kills = spec_.on_heartbeat_lost == LimitAction::kRestart;
  last_error_ = Error(Code::kServiceHung,
                      fmt::format("the service '{}' asked to be treated as hung (WATCHDOG=trigger)",
                                  spec_.name))
                    .with("stage", "sd_notify");
  HangReport report;
  report.service = spec_.name;
  report.generation = generation_;
  report.pid = pid_;
  report.stage = "sd_notify";
  report.deadline = spec_.heartbeat_timeout;
  report.kills = kills;
  report.kind = "triggered";
  if (kills) report.capture_path = hang_report_path();
  context_.observer.hung(report);
  if (!kills) return change(ServiceEvent::kUnhealthy);
  capture_then_kill(StopReason::kHung);
}

// Arms what is going on anew, due not before `time` from now.
void Supervised::extend_timeouts(os::Duration time) {
  const std::int64_t now = context_.clock.mono_ns();
  const std::int64_t earliest = now + time.count();
  if (ready_timer_ != 0) {
    ready_due_ns_ = std::max(ready_due_ns_, earliest);
    arm_ready_timer();
  }
  if (runtime_timer_ != 0 && ready_) {
    runtime_due_ns_ = std::max(runtime_due_ns_, earliest);
    arm_runtime_timer();
  }
  if (said_.reloading_since_ns != 0 && reload_due_ns_ != 0) {
    reload_due_ns_ = std::max(reload_due_ns_, earliest);
    cancel(reload_timer_);
    reload_timer_ = context_.loop.run_after(os::Duration(reload_due_ns_ - now), [this] {
      reload_timer_ = 0;
      said_.reloading_since_ns = 0;
      last_error_ =
          Error(Code::kTimeout, fmt::format("the service '{}' did not say READY=1 within {} after "
                                            "RELOADING=1",
                                            spec_.name, os::format_duration(spec_.ready_timeout)));
    });
  }
  if (self_stop_due_ns_ != 0 && killing_) {
    self_stop_due_ns_ = std::max(self_stop_due_ns_, earliest);
    cancel(self_stop_timer_);
    self_stop_timer_ = context_.loop.run_after(os::Duration(self_stop_due_ns_ - now), [this] {
      self_stop_timer_ = 0;
      last_error_ = Error(Code::kServiceHung,
                          fmt::format("the service '{}' did not end within {} after STOPPING=1",
                                      spec_.name, os::format_duration(spec_.stop_timeout)));
      kill_now(StopReason::kHung);
    });
  }
}

void Supervised::arm_ready_timer() {
  cancel(ready_timer_);
  const os::Duration left(std::max<std::int64_t>(ready_due_ns_ - context_.clock.mono_ns(), 0));
  ready_timer_ = context_.loop.run_after(left, [this] {
    ready_timer_ = 0;
    const bool silent = spec_.expects_ready && !said_ready_;
    last_error_ = Error(
        Code::kStartFailed,
        fmt::format("the service '{}' {} within {}", spec_.name,
                    silent ? std::string("did not say READY=1")
                           : fmt::format("did not pass its ready_probe '{}'", spec_.ready_probe),
                    os::format_duration(spec_.ready_timeout)));
    kill_now(StopReason::kNotReady);
  });
}

void Supervised::arm_runtime_timer() {
  cancel(runtime_timer_);
  const os::Duration left(std::max<std::int64_t>(runtime_due_ns_ - context_.clock.mono_ns(), 0));
  runtime_timer_ = context_.loop.run_after(left, [this] {
    runtime_timer_ = 0;
    if (!alive() || killing_) return;
    last_error_ =
        Error(Code::kLimitExceeded, fmt::format("the service '{}' ran longer than {}", spec_.name,
                                                os::format_duration(spec_.max_runtime)));
    if (auto stopped = stop(StopReason::kLimit); !stopped) last_error_ = stopped.error();
  });
}

void Supervised::reset_said() {
  said_ = Said();
  ready_due_ns_ = reload_due_ns_ = self_stop_due_ns_ = runtime_due_ns_ = 0;
  for (os::EventLoop::TimerId* timer : {&reload_timer_, &self_stop_timer_, &runtime_timer_}) {
    cancel(*timer);
  }
}

}  // namespace defib::process
