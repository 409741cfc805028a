// The heartbeat of a service: when to look, what a silence means, and what follows from it.

#include <fmt/core.h>
#include <sys/ioctl.h>

#include "defib/process/supervised.h"

namespace defib::process {
namespace {

// A silence that is held for so many deadlines is worth a line in the log.
constexpr int kToldDeadlines = 2;
constexpr std::string_view kMeasuringRule = "kept_from_running";

}  // namespace

std::string explain_briefly(const recovery::Decision& decision) {
  const std::string_view wanted = decision.rule == "none" ? kMeasuringRule : decision.rule;
  for (const recovery::Finding& finding : decision.findings) {
    if (finding.rule == wanted) return fmt::format("{}: {}", finding.rule, finding.input);
  }
  return decision.rule;
}

void Supervised::arm_heartbeat() {
  cancel(heartbeat_timer_);
  if (!alive()) return;
  heartbeat_due_ns_ = 0;
  look_at_heartbeat();
}

void Supervised::look_at_heartbeat() {
  if (killing_) return;
  const std::int64_t now = context_.clock.mono_ns();
  const HeartbeatWatch::Look look = heartbeat_.look(page_.page(), now);
  // The kernel is asked about ourselves only where a deadline is, or was, armed.
  os::Duration late{0};
  if (heartbeat_due_ns_ != 0 || heartbeat_.next_due()) {
    late = stall_.unexplained_lateness(heartbeat_due_ns_ != 0 ? heartbeat_due_ns_ : now, now);
  }
  if (look.recovered) on_beats_again();
  for (const HeartbeatWatch::Silence& silence : look.silent) {
    judge_silence(silence, late);
    if (killing_ || !alive()) return;
  }
  stall_.note_beating(pid_, look.beating, now);
  const std::optional<std::int64_t> due = heartbeat_.next_due();
  heartbeat_due_ns_ = due.value_or(0);
  if (!due) return;
  heartbeat_timer_ = context_.loop.run_at(*due, [this] {
    heartbeat_timer_ = 0;
    look_at_heartbeat();
  });
}

// WATCHDOG=1 that the shim has not read yet was sent in time.
bool Supervised::has_unread_notification() const {
  int bytes = 0;
  return notify_fd_.valid() && ::ioctl(notify_fd_.get(), FIONREAD, &bytes) == 0 && bytes > 0;
}

void Supervised::judge_silence(const HeartbeatWatch::Silence& silence, os::Duration late) {
  using Answer = HeartbeatWatch::Said;
  StallWatch::Judgement judgement = stall_.look(pid_, silence, late, context_.clock.mono_ns());
  StallFacts& facts = judgement.facts;
  const AgentPage* const page = page_.page();
  facts.has_beaten = heartbeat_.has_beaten(page, silence.slot) ||
                     (silence.slot == HeartbeatWatch::kNotifySlot && has_unread_notification());
  facts.ending = facts.ending || (page != nullptr && page->crash.state.load() != 0);
  HangReport report;
  report.service = spec_.name;
  report.generation = generation_;
  report.pid = pid_;
  report.stage = silence.stage;
  report.silent_for = silence.silent_for;
  report.deadline = silence.deadline;
  report.decision = judge_stall(facts, judgement.threads);
  switch (report.decision.verdict) {
    case recovery::Verdict::kAllow:
    case recovery::Verdict::kWarn:
      heartbeat_.mark_told(silence.slot, context_.clock.mono_ns());
      report.kind = hang_kind(facts);
      report.kills = spec_.on_heartbeat_lost == LimitAction::kRestart;
      if (report.kills || silence.said != Answer::kAlert) on_hung(std::move(report));
      return;
    case recovery::Verdict::kMonitorOnly:
      heartbeat_.hold(silence.slot, judgement.look_again_ns, Answer::kAlert);
      if (silence.said != Answer::kAlert) on_hung(std::move(report));
      return;
    case recovery::Verdict::kNeedApproval:
    case recovery::Verdict::kRefuse:
      break;
  }
  const bool tells =
      silence.said == Answer::kNothing && silence.silent_for >= kToldDeadlines * silence.deadline;
  heartbeat_.hold(silence.slot, judgement.look_again_ns, tells ? Answer::kHeld : silence.said);
  if (tells) context_.observer.heartbeat_held(report);
}

void Supervised::on_hung(HangReport report) {
  const bool kills = report.kills;
  last_error_ = Error(Code::kServiceHung,
                      fmt::format("the service '{}' has not beaten in stage '{}' for {}",
                                  spec_.name, report.stage, os::format_duration(report.silent_for)))
                    .with("stage", report.stage)
                    .with("deadline_ms", report.deadline.count() / 1'000'000)
                    .with("kind", report.kind)
                    .with("verdict", report.decision.rule);
  if (kills) report.capture_path = hang_report_path();
  context_.observer.hung(report);
  if (kills) {
    capture_then_kill(StopReason::kHung);
  } else {
    degraded_by_heartbeat_ = true;
    change(ServiceEvent::kUnhealthy);
  }
}

void Supervised::on_beats_again() {
  if (std::exchange(degraded_by_heartbeat_, false)) healthy_if_all_agree();
}

// Attached: by the process that runs now; its page names it.
std::string Supervised::agent_text() const {
  const AgentPage* const page = page_.page();
  if (page != nullptr && page->agent_pid.load(std::memory_order_relaxed) != 0) return "attached";
  if (!agent_obstacle_.empty()) return "not covered: " + agent_obstacle_;
  return spec_.capture == CaptureMode::kLive && !context_.programs.agent_lib.empty() ? "preloaded"
                                                                                     : "off";
}

}  // namespace defib::process
