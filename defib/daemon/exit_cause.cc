#include "defib/daemon/exit_cause.h"

#include <fmt/core.h>
#include <signal.h>

#include <array>
#include <optional>

namespace defib::daemon {
namespace {

struct SignalCause {
  int signal;
  std::string_view cause;
  std::string_view evidence;
  double confidence;
};
constexpr std::array kSignalCauses = {
    SignalCause{SIGSEGV, "segmentation_fault", "an invalid memory access ends a process so", 0.8},
    SignalCause{SIGBUS, "bus_error", "an impossible memory access ends a process so", 0.8},
    SignalCause{SIGILL, "illegal_instruction", "an invalid instruction ends a process so", 0.8},
    SignalCause{SIGFPE, "arithmetic_fault", "a division by zero ends a process so", 0.8},
    SignalCause{SIGABRT, "abort", "abort() ends a process so", 0.8},
    SignalCause{SIGSYS, "bad_system_call", "a forbidden system call ends a process so", 0.8},
    SignalCause{SIGXCPU, "resource_limit", "the limit of CPU time ends a process so", 0.8},
    SignalCause{SIGXFSZ, "resource_limit", "the limit of file sizes ends a process so", 0.8},
};

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

std::string_view last_line(std::string_view text) {
  while (text.ends_with('\n') || text.ends_with('\r')) text.remove_suffix(1);
  const std::size_t begin = text.rfind('\n');
  return begin == std::string_view::npos ? text : text.substr(begin + 1);
}

// The first line after the first one that does not begin with a space.
std::string_view first_unindented_line(std::string_view text) {
  for (std::size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    text.remove_prefix(end + 1);
    if (!text.empty() && text[0] != ' ' && text[0] != '\n') return text.substr(0, text.find('\n'));
  }
  return {};
}

// What runtimes write when an exception ends the program.
std::optional<Classification> uncaught_exception(std::string_view log_tail) {
  Classification found;
  found.cause = "uncaught_exception";
  found.confidence = 0.9;
  const std::size_t python = log_tail.rfind("Traceback (most recent call last):");
  if (python != std::string_view::npos) {
    // "ValueError: no such symbol" or "KeyboardInterrupt", not indented, ends a traceback. What
    // follows may be of the next process already.
    const std::string_view line = first_unindented_line(log_tail.substr(python));
    if (line.empty()) return std::nullopt;
    found.subtype = line.substr(0, line.find(':'));
    found.evidence = {"the output ends in a Python traceback", std::string(line)};
    return found;
  }
  constexpr std::string_view kTerminate = "terminate called after throwing an instance of '";
  const std::size_t cpp = log_tail.rfind(kTerminate);
  if (cpp != std::string_view::npos) {
    const std::string_view rest = log_tail.substr(cpp + kTerminate.size());
    found.subtype = rest.substr(0, rest.find('\''));
    found.evidence = {"the output names an uncaught C++ exception"};
    const std::size_t what = rest.find("what():");
    if (what != std::string_view::npos) {
      found.evidence.emplace_back(rest.substr(what, rest.substr(what).find('\n')));
    }
    return found;
  }
  return std::nullopt;
}

Classification by_signal(const os::ExitStatus& status, std::string_view log_tail) {
  Classification found;
  found.signal = os::signal_name(status.signal);
  const std::string ended = fmt::format("the process was ended by {}", found.signal);
  if (status.signal == SIGABRT) {
    if (auto exception = uncaught_exception(log_tail)) {
      exception->signal = found.signal;
      exception->evidence.insert(exception->evidence.begin(), ended);
      return *exception;
    }
    const std::size_t assertion = log_tail.rfind("Assertion `");
    if (assertion != std::string_view::npos) {
      found.cause = "assertion_failure";
      found.evidence = {ended, std::string(last_line(log_tail))};
      found.confidence = 0.8;
      return found;
    }
  }
  for (const SignalCause& known : kSignalCauses) {
    if (known.signal != status.signal) continue;
    found.cause = known.cause;
    found.evidence = {ended, std::string(known.evidence)};
    found.confidence = known.confidence;
    return found;
  }
  found.cause = "killed_externally";
  found.evidence = {ended, "no fault of the process itself ends it so"};
  found.confidence = status.signal == SIGKILL ? 0.6 : 0.8;
  return found;
}

Classification by_exit_code(int code, std::string_view log_tail) {
  Classification found;
  const std::string ended = fmt::format("the process ended with exit code {}", code);
  if (code == 0) {
    found.cause = "clean_exit";
    found.evidence = {ended};
    found.confidence = 1;
    return found;
  }
  if (auto exception = uncaught_exception(log_tail)) {
    exception->evidence.insert(exception->evidence.begin(), ended);
    return *exception;
  }
  found.cause = "exit_failure";
  found.subtype = fmt::format("exit_code_{}", code);
  found.evidence = {ended};
  if (code > 128 && code < 128 + 32) {
    found.evidence.push_back(
        fmt::format("shells say so when {} ended their command", os::signal_name(code - 128)));
  } else if (code == 126 || code == 127) {
    found.evidence.emplace_back("shells say so when their command cannot be executed");
  }
  found.confidence = 1;
  return found;
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

// SIGKILL by itself says nothing; the count of the service's own control group does.
std::optional<Classification> classify_memory_kill(const process::ExitReport& report) {
  if (report.oom_kills == 0 || report.reason != process::StopReason::kNone ||
      report.status.signal != SIGKILL) {
    return std::nullopt;
  }
  Classification found;
  found.cause = "out_of_memory";
  found.subtype = "memory_limit";
  found.signal = os::signal_name(SIGKILL);
  found.evidence = {
      "the process was ended by SIGKILL",
      fmt::format("the kernel counts {} process{} killed in its control group for the limit of {} "
                  "bytes (oom_kill)",
                  report.oom_kills, report.oom_kills == 1 ? "" : "es", report.memory_limit_bytes)};
  found.confidence = 0.95;
  return found;
}

Classification classify_exit(const os::ExitStatus& status, process::StopReason reason,
                             std::string_view limit, std::string_view log_tail) {
  Classification found;
  if (reason == process::StopReason::kLimit) {
    found.cause = limit == "cpu"                                 ? "cpu_limit"
                  : limit == "descriptors" || limit == "threads" ? "resource_limit"
                                                                 : "memory_limit";
    if (found.cause == "resource_limit") found.subtype = limit;
    found.evidence = {fmt::format("it used more {} than its limit allows", limit)};
    found.confidence = 1;
    return found;
  }
  for (const ReasonCause& known : kReasonCauses) {
    if (known.reason != reason) continue;
    found.cause = known.cause;
    found.evidence = {std::string(known.evidence)};
    found.confidence = 1;
    return found;
  }
  if (!status.known) {
    found.evidence = {"nobody could learn the exit status"};
    return found;
  }
  return status.exited ? by_exit_code(status.code, log_tail) : by_signal(status, log_tail);
}

}  // namespace defib::daemon
