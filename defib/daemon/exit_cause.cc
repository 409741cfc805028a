#include "defib/daemon/exit_cause.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>

#include "defib/postmortem/classify.h"

namespace defib::daemon {
namespace {

struct ReasonCause {
  process::StopReason reason;
  std::string_view cause;
  std::string_view evidence;
};
constexpr std::array kReasonCauses = {
    ReasonCause{process::StopReason::kHung, "heartbeat_lost",
                "a heartbeat stood still beyond its deadline"},
    ReasonCause{process::StopReason::kUnhealthy, "health_check_failed",
                "the health check failed again and again"},
    ReasonCause{process::StopReason::kNotReady, "start_failed",
                "the service did not become ready in time"},
    ReasonCause{process::StopReason::kReboot, "unknown",
                "the machine was started anew while the service ran"},
    ReasonCause{process::StopReason::kPattern, "log_pattern",
                "its output matches a pattern that asks for a replacement"},
};

Classification from(const postmortem::Classification& verdict) {
  Classification found;
  found.cause = to_string(verdict.cause);
  found.subtype = verdict.subtype;
  if (verdict.signal != 0) found.signal = os::signal_name(verdict.signal);
  if (verdict.fault_address) found.fault_address = fmt::format("{:#x}", *verdict.fault_address);
  found.evidence = verdict.evidence;
  found.confidence = verdict.confidence;
  return found;
}

// What the supervisor itself ended the process for.
std::optional<Classification> by_reason(const ExitFacts& facts) {
  Classification found;
  found.confidence = 1;
  if (facts.reason == process::StopReason::kLimit) {
    const std::string& limit = facts.limit;
    found.cause = limit == "cpu"                                 ? "cpu_limit"
                  : limit == "descriptors" || limit == "threads" ? "resource_limit"
                                                                 : "memory_limit";
    if (found.cause == "resource_limit") found.subtype = limit;
    found.evidence = {fmt::format("it used more {} than its limit allows", limit)};
    return found;
  }
  for (const ReasonCause& known : kReasonCauses) {
    if (known.reason != facts.reason) continue;
    found.cause = known.cause;
    found.evidence = {std::string(known.evidence)};
    return found;
  }
  return std::nullopt;
}

}  // namespace

wire::Json Classification::to_json() const {
  wire::Json list = wire::Json::array();
  for (const std::string& sentence : evidence) list.push(sentence);
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? wire::Json() : wire::Json(text);
  };
  return wire::Json::object({{"cause", cause},
                             {"subtype", text_or_null(subtype)},
                             {"signal", text_or_null(signal)},
                             {"fault_address", text_or_null(fault_address)},
                             {"evidence", std::move(list)},
                             {"confidence", confidence}});
}

ExitFacts exit_facts(const process::ExitReport& report, std::string_view limit) {
  ExitFacts facts;
  facts.status = report.status;
  facts.reason = report.reason;
  facts.limit = limit;
  facts.pid = report.pid;
  facts.oom_kills = report.oom_kills;
  facts.memory_limit_bytes = report.memory_limit_bytes;
  facts.cpu_ns = report.cpu_ns;
  facts.cpu_limit_ns = report.cpu_limit_ns;
  return facts;
}

postmortem::KernelLines kernel_evidence(const ExitFacts& facts) {
  constexpr std::array kTold = {SIGKILL, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  const bool told = facts.status.known && !facts.status.exited &&
                    std::ranges::find(kTold, facts.status.signal) != kTold.end();
  if (!told || facts.reason != process::StopReason::kNone) return {};
  auto lines = postmortem::kernel_lines_about(facts.pid, facts.started_mono_ns);
  return lines ? std::move(*lines) : postmortem::KernelLines();
}

Classification classify_exit(const ExitFacts& facts) {
  if (auto found = by_reason(facts)) return *found;
  if (!facts.status.known) {
    Classification found;
    found.evidence = {"nobody could learn the exit status"};
    return found;
  }
  postmortem::CrashFacts all;
  all.pid = facts.pid;
  all.status = facts.status;
  all.stderr_tail = facts.err;
  all.stdout_tail = facts.out;
  all.kernel_lines = facts.kernel.lines;
  all.kernel_log_complete = facts.kernel.complete;
  if (facts.oom_kills > 0) all.new_oom_kills = facts.oom_kills;
  all.memory_limit_bytes = facts.memory_limit_bytes;
  all.cpu_ns = facts.cpu_ns;
  all.cpu_limit_ns = facts.cpu_limit_ns;
  // On request it may have ended by any of the signals that asked it to.
  if (facts.reason == process::StopReason::kRequested) all.own_signal = facts.status.signal;
  return from(postmortem::classify(all));
}

}  // namespace defib::daemon
