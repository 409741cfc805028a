#include "defib/postmortem/classify_log.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <charconv>

#include "defib/postmortem/classify_rules.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxEvidenceLine = 400;

// ---- reading text -------------------------------------------------------------------------------

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.remove_suffix(1);
  }
  const std::size_t start = std::min(text.find_first_not_of(" \t"), text.size());
  return text.substr(start);
}

std::string_view first_line(std::string_view text) {
  return text.substr(0, text.find('\n'));
}

std::string line_of(std::string_view text) {
  return std::string(trimmed(first_line(text)).substr(0, kMaxEvidenceLine));
}

// Takes the first line off the text.
std::string_view take_line(std::string_view& text) {
  const std::string_view line = first_line(text);
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

// Where the last line begins that starts with `start`; npos: there is none.
std::size_t last_line_start(std::string_view text, std::string_view start) {
  for (std::size_t at = text.rfind(start); at != text.npos;
       at = at == 0 ? text.npos : text.rfind(start, at - 1)) {
    if (at == 0 || text[at - 1] == '\n') return at;
  }
  return text.npos;
}

// The whole line around `at`.
std::string_view line_around(std::string_view text, std::size_t at) {
  const std::size_t newline = at == 0 ? text.npos : text.rfind('\n', at - 1);
  return first_line(text.substr(newline == text.npos ? 0 : newline + 1));
}

template <typename Number>
std::optional<Number> number_after(std::string_view text, std::string_view key, int base = 10) {
  const std::size_t at = text.find(key);
  if (at == text.npos) return std::nullopt;
  std::string_view digits = text.substr(at + key.size());
  if (base == 16 && digits.starts_with("0x")) digits.remove_prefix(2);
  Number value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end == digits.data()) return std::nullopt;
  return value;
}

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '$';
}

// "ValueError" of "ValueError: no such symbol"; empty where the line does not begin so.
std::string type_before_colon(std::string_view line) {
  const auto end = std::ranges::find_if_not(line, is_word);
  const std::string_view word(line.begin(), end);
  const std::string_view rest = line.substr(word.size());
  const bool whole = rest.empty() || rest.starts_with(':') || rest.starts_with(" [");
  return whole ? std::string(word) : std::string();
}

// The verdict on a fault that a text tells of: the same as without a text, but less certain.
Classification told_fault(const CrashFacts& facts, int signal, int code,
                          std::optional<std::uint64_t> address, std::string evidence) {
  constexpr double kTold = 0.85;
  Classification result;
  if (signal == SIGSEGV) {
    CrashFacts told;
    told.pid = facts.pid;
    told.signal.signal = signal;
    told.signal.code = code;
    told.signal.fault_address = address.value_or(0);
    result = address || code == kFromKernel ? segmentation_fault(told)
                                            : verdict(Cause::segmentation_fault, "", 1.0, {});
    result.fault_address = address;
  } else {
    constexpr std::pair<int, Cause> kFaults[] = {
        {SIGBUS, Cause::bus_error},           {SIGFPE, Cause::arithmetic_fault},
        {SIGILL, Cause::illegal_instruction}, {SIGTRAP, Cause::illegal_instruction},
        {SIGSYS, Cause::bad_system_call},     {SIGABRT, Cause::abort}};
    const auto known =
        std::ranges::find(kFaults, signal, [](const auto& one) { return one.first; });
    if (known == std::end(kFaults)) {
      result = verdict(Cause::killed_externally, os::signal_name(signal), 1.0, {});
    } else {
      result = verdict(known->second, "", 1.0, {});
    }
  }
  result.signal = signal;
  result.confidence = std::min(result.confidence, kTold);
  result.evidence.insert(result.evidence.begin(), std::move(evidence));
  return result;
}

// ---- Python -------------------------------------------------------------------------------------

// The interpreter prints the traceback last of all, and ends with 1. Its last line is the first
// one that is not indented; notes and carets are, and texts of several lines go on below it.
std::optional<Classification> python_exception(std::string_view text, const Ending& ending) {
  if (ending.exit_code != 1) return std::nullopt;
  constexpr std::string_view kHead = "Traceback (most recent call last):";
  const std::size_t at = last_line_start(text, kHead);
  if (at == text.npos) return std::nullopt;
  std::string_view rest = text.substr(at);
  take_line(rest);
  std::string place;  // the innermost frame
  std::string_view line;
  while (!rest.empty()) {
    line = take_line(rest);
    if (!line.starts_with(' ') && !line.empty()) break;
    if (trimmed(line).starts_with("File \"")) place = line_of(line);
  }
  const std::string type = type_before_colon(line);
  if (line.empty() || line.starts_with(' ') || type.empty()) return std::nullopt;
  // Lines behind it are of the exception's own text, or the program has gone on.
  constexpr std::size_t kLinesOfText = 12;
  std::size_t more = 0;
  while (!rest.empty()) more += trimmed(take_line(rest)).empty() ? 0U : 1U;
  if (more > kLinesOfText) return std::nullopt;
  std::vector<std::string> evidence = {line_of(line)};
  if (!place.empty()) evidence.push_back("raised at " + place);
  evidence.emplace_back("the output ends in a Python traceback");
  const double confidence = more == 0 ? 0.95 : 0.6;
  if (type == "MemoryError" || type == "numpy.core._exceptions._ArrayMemoryError") {
    evidence.emplace_back(
        "the allocator refused the memory: the process asked for more than it "
        "may have");
    return verdict(Cause::out_of_memory, "allocator", confidence, std::move(evidence));
  }
  return verdict(Cause::uncaught_exception, type, confidence, std::move(evidence));
}

// faulthandler, and the interpreter's own last words.
std::optional<Classification> python_fatal(std::string_view text, const Ending& ending) {
  constexpr std::string_view kHead = "Fatal Python error: ";
  const std::size_t at = last_line_start(text, kHead);
  if (at == text.npos || ending.signal == 0) return std::nullopt;
  const std::string_view told = first_line(text.substr(at)).substr(kHead.size());
  std::vector<std::string> evidence = {line_of(text.substr(at))};
  const std::string_view block = text.substr(at);
  if (const std::size_t file = block.find("\n  File \""); file != block.npos) {
    evidence.push_back("in " + line_of(block.substr(file + 1)));
  }
  if (ending.signal != SIGABRT) {
    Classification result =
        told_fault({}, ending.signal, 0, std::nullopt, std::move(evidence.front()));
    result.evidence.insert(result.evidence.end(), evidence.begin() + 1, evidence.end());
    return result;
  }
  if (told.starts_with("Aborted")) {
    return verdict(Cause::abort, "", 0.9, std::move(evidence));
  }
  return verdict(Cause::abort, "fatal_python_error", 0.9, std::move(evidence));
}

// ---- Node.js ------------------------------------------------------------------------------------

std::optional<Classification> node_heap(std::string_view text, const Ending& ending) {
  if (ending.exit_code == 0) return std::nullopt;
  const std::size_t at = text.rfind("JavaScript heap out of memory");
  if (at == text.npos) return std::nullopt;
  const std::string_view line = line_around(text, at);
  if (!line.starts_with("FATAL ERROR: ") && !line.starts_with("#")) return std::nullopt;
  return verdict(Cause::out_of_memory, "allocator", 0.95,
                 {line_of(line), "V8's heap reached its limit (--max-old-space-size)"});
}

// The source line, a caret, an empty line, the exception with its stack, and "Node.js v20.1.0" at
// the very end.
std::optional<Classification> node_exception(std::string_view text, const Ending& ending) {
  if (ending.exit_code < 1) return std::nullopt;
  const std::string_view whole = trimmed(text);
  const std::size_t sign = last_line_start(whole, "Node.js v");
  if (sign == whole.npos || whole.find('\n', sign) != whole.npos) return std::nullopt;
  const std::string_view block = whole.substr(0, sign);
  std::size_t caret = block.npos;
  for (std::size_t at = block.rfind("^\n"); at != block.npos && caret == block.npos;
       at = at == 0 ? block.npos : block.rfind("^\n", at - 1)) {
    const std::string_view line = line_around(block, at);
    if (line.find_first_not_of(" \t^") == line.npos) caret = at;
  }
  if (caret == block.npos) return std::nullopt;
  const std::string_view before = block.substr(0, caret);
  std::string_view rest = block.substr(caret + 2);
  std::string_view line;
  while (!rest.empty() && trimmed(line).empty()) line = take_line(rest);
  std::vector<std::string> evidence = {line_of(line)};
  if (trimmed(first_line(rest)).starts_with("at ")) evidence.push_back(line_of(rest));
  std::string type = type_before_colon(line.starts_with('[') ? line.substr(1) : line);
  const bool rejected = type == "UnhandledPromiseRejection" ||
                        before.find("triggerUncaughtException(") != before.npos;
  if (rejected) evidence.emplace_back("a promise was rejected, and nobody handled it");
  if (type.empty()) type = "thrown_value";
  evidence.emplace_back("the output ends in Node.js' report of an uncaught exception");
  return verdict(Cause::uncaught_exception, std::move(type), 0.95, std::move(evidence));
}

// ---- Go -----------------------------------------------------------------------------------------

// "main.settle(...)" and the line below it, "/src/x.go:4 +0x1d", of the first goroutine that is
// running.
std::string go_place(std::string_view text) {
  std::size_t at = text.find(" [running]:\n");
  if (at == text.npos) at = text.find("\ngoroutine ");
  if (at == text.npos) return {};
  std::string_view rest = text.substr(at + 1);
  take_line(rest);
  for (int i = 0; i < 16 && !rest.empty(); ++i) {
    const std::string_view function = take_line(rest);
    const std::string_view file = take_line(rest);
    if (function.starts_with("panic(") || function.starts_with("runtime.")) continue;
    if (!file.starts_with('\t')) return {};
    return fmt::format("{} at {}", trimmed(function), trimmed(file));
  }
  return {};
}

std::optional<Classification> go_fatal(std::string_view text, std::string_view told,
                                       std::vector<std::string> evidence) {
  if (told.starts_with("all goroutines are asleep - deadlock!")) {
    evidence.emplace_back("Go's runtime found that no goroutine can run again");
    return verdict(Cause::deadlock, "all_goroutines_asleep", 0.95, std::move(evidence));
  }
  if (told.starts_with("stack overflow")) {
    if (const std::size_t limit = text.rfind("runtime: goroutine stack exceeds ");
        limit != text.npos) {
      evidence.push_back(line_of(text.substr(limit)));
    }
    return verdict(Cause::stack_overflow, "", 0.95, std::move(evidence));
  }
  if (told.find("out of memory") != told.npos || told.find("cannot allocate") != told.npos) {
    return verdict(Cause::out_of_memory, "allocator", 0.9, std::move(evidence));
  }
  return verdict(Cause::abort, "go_fatal_error", 0.9, std::move(evidence));
}

// Ends with 2; with GOTRACEBACK=crash by SIGABRT.
std::optional<Classification> go_end(std::string_view text, const Ending& ending) {
  if (ending.exit_code != 2 && ending.signal != SIGABRT) return std::nullopt;
  const std::size_t goroutine = text.rfind("\ngoroutine ");
  if (goroutine == text.npos) return std::nullopt;
  constexpr std::string_view kPanic = "panic: ";
  constexpr std::string_view kFatal = "fatal error: ";
  const std::size_t panic = last_line_start(text, kPanic);
  const std::size_t fatal = last_line_start(text, kFatal);
  const std::size_t signal = text.rfind("\nPC=0x");
  const auto latest = [&](std::size_t one) {
    return one != text.npos && (panic == text.npos || panic <= one) &&
           (fatal == text.npos || fatal <= one);
  };
  if (!latest(panic) && !latest(fatal) && signal == text.npos) return std::nullopt;
  const std::size_t at = latest(panic) ? panic : latest(fatal) ? fatal : signal;
  std::vector<std::string> evidence = {line_of(text.substr(at))};
  if (std::string place = go_place(text.substr(at)); !place.empty()) {
    evidence.push_back("in " + std::move(place));
  }
  if (at == signal) {
    // "SIGQUIT: quit", and below it the registers with the signal's code: 0 was sent by kill(2).
    const std::string_view head = line_around(text, signal);
    const int number = os::signal_number(std::string(head.substr(0, head.find(':'))));
    if (number <= 0) return std::nullopt;
    evidence.front() = std::string(trimmed(head));
    const int code = number_after<int>(text.substr(signal), "sigcode=").value_or(0);
    if (code <= 0) {
      evidence.emplace_back("the signal was sent by a process, says Go's runtime");
      return verdict(Cause::killed_externally, os::signal_name(number), 0.85, std::move(evidence));
    }
    return told_fault({}, number, code, std::nullopt, evidence.front());
  }
  // A fault is a panic, or a fatal error where it happened outside of Go's own code.
  const std::string_view block = text.substr(at, text.find("\ngoroutine ", at) - at);
  if (const std::size_t fault = block.find("\n[signal SIG"); fault != block.npos) {
    const std::string_view line = first_line(block.substr(fault + 1));
    const std::string name(line.substr(8, line.find(':') - 8));
    const int code = number_after<int>(line, "code=0x", 16).value_or(0);
    const auto address = number_after<std::uint64_t>(line, "addr=", 16);
    Classification result =
        told_fault({}, os::signal_number(name), code, address, std::string(line));
    result.evidence.insert(result.evidence.begin(), evidence.begin(), evidence.end());
    return result;
  }
  if (at == fatal) {
    return go_fatal(text, first_line(text.substr(at)).substr(kFatal.size()), std::move(evidence));
  }
  return verdict(Cause::uncaught_exception, "panic", 0.95, std::move(evidence));
}

// ---- Rust ---------------------------------------------------------------------------------------

std::optional<Classification> rust_abort(std::string_view text, const Ending& ending) {
  if (ending.signal == 0) return std::nullopt;
  if (const std::size_t at = text.rfind(" has overflowed its stack"); at != text.npos) {
    const std::string_view line = line_around(text, at);
    if (line.starts_with("thread ")) {
      return verdict(Cause::stack_overflow, "", 0.95, {line_of(line)});
    }
  }
  if (const std::size_t at = last_line_start(text, "memory allocation of "); at != text.npos) {
    const std::string line = line_of(text.substr(at));
    if (line.find("bytes failed") != line.npos) {
      return verdict(Cause::out_of_memory, "allocator", 0.95,
                     {line, "the allocator refused the memory"});
    }
  }
  for (const std::string_view part : {"thread panicked while panicking. aborting.",
                                      "thread caused non-unwinding panic. aborting.",
                                      "thread panicked while processing panic. aborting."}) {
    if (const std::size_t at = last_line_start(text, part); at != text.npos) {
      return verdict(Cause::abort, "double_panic", 0.95,
                     {line_of(text.substr(at)), "a panic came while another was being handled"});
    }
  }
  return std::nullopt;
}

// "thread 'main' panicked at 'text', src/x.rs:2:5", and since 1.73 (some with the thread's id)
// "thread 'main' (12) panicked at src/x.rs:2:5:" with the text below it.
std::optional<Classification> rust_panic(std::string_view text, const Ending& ending) {
  constexpr int kPanicked = 101;
  if (ending.exit_code != kPanicked && ending.signal != SIGABRT) return std::nullopt;
  constexpr std::string_view kPanickedAt = " panicked at ";
  for (std::size_t at = text.rfind(kPanickedAt); at != text.npos;
       at = at == 0 ? text.npos : text.rfind(kPanickedAt, at - 1)) {
    const std::string_view line = line_around(text, at);
    if (!line.starts_with("thread ")) continue;
    std::vector<std::string> evidence = {line_of(line)};
    if (line.ends_with(':')) {
      std::string_view rest = text.substr(at);
      take_line(rest);
      evidence.push_back(line_of(rest));
    }
    return verdict(Cause::uncaught_exception, "panic", 0.95, std::move(evidence));
  }
  return std::nullopt;
}

// ---- servers ------------------------------------------------------------------------------------

// Redis catches its faults, reports them, and raises the signal again.
std::optional<Classification> redis_report(std::string_view text, const Ending& ending) {
  if (ending.exit_code == 0) return std::nullopt;
  const std::size_t start = text.rfind("=== REDIS BUG REPORT START");
  // The text of a refused allocation stands before the report.
  const std::size_t memory = text.rfind("Out Of Memory allocating ");
  if (memory != text.npos && ending.signal == SIGABRT) {
    return verdict(Cause::out_of_memory, "allocator", 0.95,
                   {line_of(line_around(text, memory)), "the allocator refused the memory"});
  }
  if (start == text.npos) return std::nullopt;
  const std::string_view report = text.substr(start);
  if (report.find("=== ASSERTION FAILED ===") != report.npos) {
    const std::size_t at = report.find(" ==> ");
    return verdict(Cause::assertion_failure, "", 0.95,
                   {line_of(at == report.npos ? report : line_around(report, at))});
  }
  if (const std::size_t at = report.find("Guru Meditation: "); at != report.npos) {
    return verdict(Cause::abort, "panic", 0.95, {line_of(report.substr(at))});
  }
  const std::size_t crashed = report.find("crashed by signal: ");
  if (crashed == report.npos) return std::nullopt;
  const int signal = number_after<int>(report, "crashed by signal: ").value_or(0);
  const int code = number_after<int>(report, "si_code: ").value_or(0);
  std::string line = line_of(report.substr(crashed));
  if (const auto sender = number_after<int>(report, "Killed by PID: "); sender && code <= 0) {
    return verdict(Cause::killed_externally, os::signal_name(signal), 0.9,
                   {fmt::format("{} was sent by process {} of user {}", os::signal_name(signal),
                                *sender, number_after<int>(report, "UID: ").value_or(-1)),
                    std::move(line)});
  }
  Classification result =
      told_fault({}, signal, code, number_after<std::uint64_t>(report, "Accessing address: ", 16),
                 std::move(line));
  if (const std::size_t at = report.find("Crashed running the instruction at: ");
      at != report.npos) {
    result.evidence.push_back(line_of(report.substr(at)));
  }
  return result;
}

// A server ends because one of its processes was ended by a signal (PostgreSQL without
// restart_after_crash).
std::optional<Classification> crashed_child(std::string_view text, const Ending& ending) {
  if (ending.exit_code < 1) return std::nullopt;
  constexpr std::pair<std::string_view, std::string_view> kTexts[] = {
      {" was terminated by signal ", "(PID "}, {" exited on signal ", "process "}};
  for (const auto& [text_of_it, before] : kTexts) {
    const std::size_t at = text.rfind(text_of_it);
    if (at == text.npos) continue;
    const std::string_view line = line_around(text, at);
    const int signal = number_after<int>(line, text_of_it).value_or(0);
    if (signal <= 0 || line.find(before) == line.npos) continue;
    Classification result = told_fault({}, signal, 0, std::nullopt, line_of(line));
    result.subtype = "child_process";
    result.evidence.emplace_back("a process of the server's own ended so, and the server after it");
    result.confidence = std::min(result.confidence, 0.8);
    return result;
  }
  return std::nullopt;
}

using Rule = std::optional<Classification> (*)(std::string_view, const Ending&);
constexpr Rule kRules[] = {redis_report, node_heap,        node_exception, go_end,       rust_abort,
                           rust_panic,   python_exception, python_fatal,   crashed_child};

}  // namespace

std::vector<std::string> last_lines(std::string_view text, std::size_t count) {
  std::vector<std::string> lines;
  while (!text.empty() && lines.size() < count) {
    const std::size_t newline = text.rfind('\n');
    const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    if (start < text.size()) {
      lines.insert(lines.begin(), std::string(text.substr(start).substr(0, kMaxEvidenceLine)));
    }
    text = text.substr(0, newline == std::string_view::npos ? 0 : newline);
  }
  return lines;
}

std::optional<Classification> told_by_output(const CrashFacts& facts, const Ending& ending) {
  for (const std::string* text : {&facts.stderr_tail, &facts.stdout_tail}) {
    for (const Rule rule : kRules) {
      if (auto told = rule(*text, ending)) return told;
    }
  }
  return std::nullopt;
}

}  // namespace defib::postmortem
