#include "defib/postmortem/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "defib/base/text.h"
#include "defib/base/visible_text.h"
#include "defib/postmortem/frame_text.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kTopFunctions = 8;
constexpr std::size_t kThreadFunctions = 24;

std::string hex(std::uint64_t value) {
  return fmt::format("{:#x}", value);
}

wire::Json frame_json(const Frame& frame) {
  wire::Json json = wire::Json::object({{"pc", hex(frame.pc)}});
  json.set("module", frame.module);
  json.set("offset", hex(frame.offset));
  json.set("function", frame.function);
  json.set("file", frame.file);
  json.set("line", frame.line);
  json.set("inlined", frame.inlined);
  json.set("kind", to_string(frame.kind));
  json.set("build_id", frame.build_id);
  return json;
}

wire::Json thread_json(const ThreadStack& stack) {
  wire::Json json = wire::Json::object({{"tid", stack.tid}, {"name", stack.name}});
  json.set("crashed", stack.crashed);
  wire::Json frames = wire::Json::array();
  for (const Frame& frame : stack.frames) frames.push(frame_json(frame));
  json.set("frames", std::move(frames));
  json.set("truncated", stack.truncated);
  if (!stack.error.empty()) json.set("unwind_error", stack.error);
  return json;
}

std::vector<SignatureFrame> signature_frames(const ThreadStack& stack) {
  std::vector<SignatureFrame> frames;
  frames.reserve(stack.frames.size());
  for (const Frame& frame : stack.frames) {
    frames.push_back({frame.module, frame.offset, frame.function});
  }
  return frames;
}

// The crashed thread. Where none crashed: those that wait for one another, else the busiest, else
// the first.
std::vector<pid_t> guilty_threads(const Report& report, const CrashFacts& facts) {
  for (const ThreadStack& stack : report.threads) {
    if (stack.crashed) return {stack.tid};
  }
  std::vector<pid_t> guilty;
  if (report.classification.cause == Cause::deadlock) {
    for (const LockWait& wait : facts.lock_cycle) guilty.push_back(wait.waiter);
    return guilty;
  }
  const ThreadFacts* chosen = nullptr;
  for (const ThreadFacts& thread : facts.threads) {
    const bool first = report.classification.cause != Cause::busy_loop && thread.tid == facts.pid;
    if (chosen == nullptr || first || thread.busy_share > chosen->busy_share) chosen = &thread;
    if (first) break;
  }
  if (chosen != nullptr) guilty.push_back(chosen->tid);
  return guilty;
}

Signature signature_of(const Report& report, const CrashFacts& facts) {
  SignatureFacts parts;
  parts.cause = to_string(report.classification.cause);
  parts.subtype = report.classification.subtype;
  parts.message = facts.message;
  if (facts.status.known) parts.detail = facts.status.to_string();
  for (const ThreadStack& stack : report.threads) {
    if (std::ranges::find(report.guilty, stack.tid) == report.guilty.end()) continue;
    parts.stacks.push_back(signature_frames(stack));
  }
  return sign(parts);
}

wire::Json registers_json(const Registers& registers) {
  wire::Json json = wire::Json::object();
  for (std::size_t i = 0; i < registers.values.size(); ++i) {
    if (const std::string_view name = registers.name(i); !name.empty()) {
      json.set(name, hex(registers.values[i]));
    }
  }
  return json;
}

wire::Json modules_json(const std::vector<Module>& modules) {
  wire::Json json = wire::Json::array();
  for (const Module& module : modules) {
    json.push(wire::Json::object({{"path", module.path},
                                  {"start", hex(module.start)},
                                  {"end", hex(module.end)},
                                  {"build_id", module.build_id}}));
  }
  return json;
}

template <typename Texts>
wire::Json texts_json(const Texts& texts) {
  wire::Json json = wire::Json::array();
  for (const auto& text : texts) json.push(text);
  return json;
}

}  // namespace

CrashFacts facts_from(const Snapshot& snapshot, const std::vector<ThreadStack>& stacks) {
  CrashFacts facts;
  facts.pid = snapshot.pid;
  facts.signal = snapshot.signal;
  facts.message = snapshot.message;
  facts.maps = snapshot.maps;
  facts.code = snapshot.code;
  facts.alive = snapshot.signal.signal == 0;
  if (const ThreadSnapshot* thread = snapshot.crashed_thread(); thread != nullptr) {
    facts.registers = thread->registers;
  }
  for (const ThreadStack& stack : stacks) {
    if (stack.crashed) {
      for (const Frame& frame : stack.frames) {
        if (facts.top_functions.size() < kTopFunctions) {
          // With glibc's debug information installed its functions have their inner names.
          constexpr std::string_view kInner = "__GI_";
          const bool is_inner = frame.function.starts_with(kInner);
          facts.top_functions.push_back(frame.function.substr(is_inner ? kInner.size() : 0));
        }
      }
    }
    ThreadFacts thread;
    thread.tid = stack.tid;
    thread.name = stack.name;
    thread.where = where_of(stack);
    const auto sample = std::ranges::find(snapshot.threads, stack.tid, &ThreadSnapshot::tid);
    if (sample != snapshot.threads.end()) {
      thread.busy_share = sample->busy_share;
      thread.state = sample->state;
    }
    for (const Frame& frame : stack.frames) {
      if (thread.functions.size() < kThreadFunctions) thread.functions.push_back(frame.function);
    }
    facts.threads.push_back(std::move(thread));
  }
  facts.lock_waits = find_lock_waits(snapshot);
  facts.lock_cycle = find_lock_cycle(facts.lock_waits);
  return facts;
}

Report make_report(Snapshot snapshot, CrashFacts more, const SymbolOptions& symbols) {
  Report report;
  Unwound unwound = unwind(snapshot, symbols);
  report.threads = std::move(unwound.stacks);
  std::ranges::move(unwound.gaps, std::back_inserter(snapshot.gaps));
  CrashFacts facts = facts_from(snapshot, report.threads);
  facts.status = more.status;
  facts.stderr_tail = std::move(more.stderr_tail);
  facts.stdout_tail = std::move(more.stdout_tail);
  facts.kernel_lines = std::move(more.kernel_lines);
  facts.new_oom_kills = more.new_oom_kills;
  facts.own_signal = more.own_signal;
  for (ThreadFacts& sampled : more.threads) {
    const auto thread = std::ranges::find(facts.threads, sampled.tid, &ThreadFacts::tid);
    if (thread == facts.threads.end()) continue;
    thread->samples = sampled.samples;
    thread->hot = std::move(sampled.hot);
  }
  report.classification = classify(facts);
  report.guilty = guilty_threads(report, facts);
  report.signature = signature_of(report, facts);
  report.log_tail = std::move(facts.stderr_tail);
  report.snapshot = std::move(snapshot);
  return report;
}

wire::Json to_json(const Classification& classification) {
  wire::Json json = wire::Json::object(
      {{"cause", to_string(classification.cause)}, {"subtype", classification.subtype}});
  json.set("signal", classification.signal == 0
                         ? wire::Json()
                         : wire::Json(os::signal_name(classification.signal)));
  json.set("fault_address", classification.fault_address
                                ? wire::Json(hex(*classification.fault_address))
                                : wire::Json());
  json.set("evidence", texts_json(classification.evidence));
  json.set("confidence", classification.confidence);
  return json;
}

wire::Json to_json(const Signature& signature) {
  if (signature.id.empty()) return {};
  return wire::Json::object({{"id", signature.id}, {"text", signature.text}});
}

wire::Json to_json(const Report& report) {
  const Snapshot& snapshot = report.snapshot;
  wire::Json json = wire::Json::object({{"schema", "defib.crash/1"}, {"pid", snapshot.pid}});
  json.set("comm", snapshot.comm);
  json.set("exe", snapshot.exe);
  json.set("command_line", texts_json(snapshot.command_line));
  json.set("classification", to_json(report.classification));
  json.set("signature", to_json(report.signature));
  json.set("signal", snapshot.signal.signal);
  json.set("signal_code", snapshot.signal.code);
  json.set("fault_address", report.classification.fault_address
                                ? wire::Json(hex(*report.classification.fault_address))
                                : wire::Json());
  json.set("message", snapshot.message);
  if (const ThreadSnapshot* thread = snapshot.crashed_thread(); thread != nullptr) {
    json.set("registers", registers_json(thread->registers));
  }
  wire::Json threads = wire::Json::array();
  for (const ThreadStack& stack : report.threads) threads.push(thread_json(stack));
  json.set("threads", std::move(threads));
  json.set("modules", modules_json(snapshot.modules));
  json.set("crashed_mono_ns", snapshot.crashed_mono_ns);
  const bool timed = snapshot.crashed_mono_ns != 0 && snapshot.captured_mono_ns != 0;
  json.set("captured_in_ns",
           timed ? wire::Json(snapshot.captured_mono_ns - snapshot.crashed_mono_ns) : wire::Json());
  json.set("stopped_ns", snapshot.stopped_ns);
  json.set("gaps", texts_json(snapshot.gaps));
  if (!report.log_tail.empty()) json.set("log_tail", report.log_tail);
  if (report.capture_error) json.set("capture_error", wire::to_json(*report.capture_error));
  return json;
}

namespace {

// Bold, dim, red, or nothing.
std::string styled(std::string_view text, std::string_view code, const TextOptions& options) {
  if (!options.colours || text.empty()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

constexpr std::string_view kBold = "1", kDim = "2", kRed = "31", kYellow = "33", kCyan = "36";

std::string frame_text(const Frame& frame, int number, const TextOptions& options) {
  std::string line =
      fmt::format("  #{:<3} {} ", number, styled(fmt::format("{:#018x}", frame.pc), kDim, options));
  const bool own = !frame.module.empty() && !is_system_library(frame.module);
  if (frame.function.empty()) {
    line += visible_text(fmt::format("{}+{:#x}", base_name(frame.module), frame.offset));
  } else {
    line += styled(visible_text(frame.function), own ? kBold : "", options);
  }
  if (!frame.file.empty()) {
    line += " at " + styled(visible_text(fmt::format("{}:{}", base_name(frame.file), frame.line)),
                            kCyan, options);
  }
  return line + (frame.inlined ? " (inlined)\n" : "\n");
}

std::string source_text(const SourceView& view, const TextOptions& options) {
  std::string text = fmt::format("\n       {}:{}{}\n", visible_text(view.file), view.line,
                                 view.newer ? " (changed after the program was built)" : "");
  for (const SourceLine& line : view.lines) {
    const bool marked = line.number == view.line;
    const std::string shown =
        fmt::format("{} {:>6}  {}", marked ? ">" : " ", line.number, visible_text(line.text));
    text += "     " + styled(shown, marked ? kRed : kDim, options) + "\n";
  }
  return text;
}

std::string thread_text(const ThreadStack& stack, const TextOptions& options) {
  std::string text = fmt::format("\n{} {} ({}){}\n", styled("thread", kBold, options), stack.tid,
                                 visible_text(stack.name),
                                 stack.crashed ? styled(", crashed", kRed, options) : "");
  int number = 0;
  for (const Frame& frame : stack.frames) text += frame_text(frame, number++, options);
  if (stack.truncated) text += "       and more\n";
  if (!stack.error.empty()) text += fmt::format("       the walk ends here: {}\n", stack.error);
  for (const SourceView& view : options.sources) {
    if (view.tid == stack.tid) text += source_text(view, options);
  }
  return text;
}

}  // namespace

std::string to_text(const Report& report, const TextOptions& options) {
  const Classification& verdict = report.classification;
  std::string head = fmt::format("{}", to_string(verdict.cause));
  if (!verdict.subtype.empty()) head += fmt::format(" ({})", visible_text(verdict.subtype));
  std::string text = styled(head, "1;31", options);
  if (verdict.signal != 0) text += fmt::format(", {}", os::signal_name(verdict.signal));
  if (verdict.fault_address) text += fmt::format(" at {:#x}", *verdict.fault_address);
  text += fmt::format(", confidence {:.0f} %\n", verdict.confidence * 100);
  for (const std::string& line : verdict.evidence) {
    text += fmt::format("  - {}\n", visible_text(line));
  }
  if (report.capture_error) text += "\n" + visible_text(report.capture_error->to_text()) + "\n";
  for (const ThreadStack& stack : report.threads) text += thread_text(stack, options);
  for (const std::string& gap : report.snapshot.gaps) {
    text += fmt::format("\n{} {}", styled("note:", kYellow, options), visible_text(gap));
  }
  if (!report.snapshot.gaps.empty()) text += "\n";
  return text;
}

std::vector<SourceView> source_views(const Report& report, const std::string& sysroot) {
  std::vector<SourceView> views;
  for (const ThreadStack& stack : report.threads) {
    if (std::ranges::find(report.guilty, stack.tid) == report.guilty.end()) continue;
    for (const Frame& frame : stack.frames) {
      if (frame.file.empty() || is_runtime_module(frame.module)) continue;
      auto view = read_source(frame.file, frame.line, frame.module, sysroot);
      if (!view) continue;
      view->tid = stack.tid;
      views.push_back(std::move(*view));
      break;
    }
  }
  return views;
}

}  // namespace defib::postmortem
