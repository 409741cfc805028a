#include "defib/postmortem/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/text.h"
#include "defib/base/visible_text.h"
#include "defib/postmortem/frame_text.h"
#include "defib/wire/json_writer.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kTopFunctions = 8;
constexpr std::size_t kThreadFunctions = 24;

std::string hex(std::uint64_t value) {
  return fmt::format("{:#x}", value);
}

void write_frame(wire::JsonWriter& json, const Frame& frame) {
  json.open_object();
  json.member("pc", hex(frame.pc));
  json.member("module", frame.module);
  json.member("offset", hex(frame.offset));
  json.member("function", frame.function);
  json.member("file", frame.file);
  json.member("line", frame.line);
  json.member("inlined", frame.inlined);
  json.member("kind", to_string(frame.kind));
  json.member("build_id", frame.build_id);
  json.close();
}

void write_thread(wire::JsonWriter& json, const ThreadStack& stack) {
  json.open_object();
  json.member("tid", stack.tid);
  json.member("name", stack.name);
  json.member("crashed", stack.crashed);
  json.key("frames");
  json.open_array();
  for (const Frame& frame : stack.frames) write_frame(json, frame);
  json.close();
  json.member("truncated", stack.truncated);
  if (!stack.error.empty()) json.member("unwind_error", stack.error);
  json.close();
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
  return make_report_asking(std::move(snapshot), [&more] { return std::move(more); }, symbols);
}

Report make_report_asking(Snapshot snapshot, const std::function<CrashFacts()>& ask_more,
                          const SymbolOptions& symbols) {
  Report report;
  CrashFacts more;
  Unwound unwound = unwind(snapshot, symbols, [&] { more = ask_more(); });
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

std::string to_json_text(const Report& report) {
  // The names of a C++ program's functions are most of it.
  constexpr std::size_t kBytesBesides = 16 << 10, kBytesOfFrame = 256;
  std::size_t bytes = kBytesBesides + report.log_tail.size();
  for (const ThreadStack& stack : report.threads) {
    for (const Frame& frame : stack.frames) {
      bytes += kBytesOfFrame + frame.module.size() + frame.function.size() + frame.file.size();
    }
  }
  const Snapshot& snapshot = report.snapshot;
  wire::JsonWriter json(2, bytes);
  json.open_object();
  json.member("schema", "defib.crash/1");
  json.member("pid", snapshot.pid);
  json.member("comm", snapshot.comm);
  json.member("exe", snapshot.exe);
  json.member("classification", to_json(report.classification));
  json.member("signature", to_json(report.signature));
  json.member("signal", snapshot.signal.signal);
  json.member("signal_code", snapshot.signal.code);
  json.member("fault_address", report.classification.fault_address
                                   ? wire::Json(hex(*report.classification.fault_address))
                                   : wire::Json());
  json.member("message", snapshot.message);
  if (const ThreadSnapshot* thread = snapshot.crashed_thread(); thread != nullptr) {
    json.member("registers", registers_json(thread->registers));
  }
  json.member("crashed_mono_ns", snapshot.crashed_mono_ns);
  const bool timed = snapshot.crashed_mono_ns != 0 && snapshot.captured_mono_ns != 0;
  json.member(
      "captured_in_ns",
      timed ? wire::Json(snapshot.captured_mono_ns - snapshot.crashed_mono_ns) : wire::Json());
  json.member("stopped_ns", snapshot.stopped_ns);
  if (report.capture_error) json.member("capture_error", wire::to_json(*report.capture_error));
  // From here on it may be long: a supervisor reads only the beginning.
  json.key("threads");
  json.open_array();
  for (const ThreadStack& stack : report.threads) write_thread(json, stack);
  json.close();
  json.member("command_line", texts_json(snapshot.command_line));
  json.member("modules", modules_json(snapshot.modules));
  json.member("gaps", texts_json(snapshot.gaps));
  if (!report.log_tail.empty()) json.member("log_tail", report.log_tail);
  json.close();
  return json.take();
}

wire::Json to_json(const Report& report) {
  auto json = wire::Json::parse(to_json_text(report));
  DEFIB_ASSERT(json.has_value());
  return std::move(*json);
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
  if (frame.function.empty() && frame.module.empty()) {
    line += "??";
  } else if (frame.function.empty()) {
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
  std::string text = fmt::format("\n{} {}", styled("thread", kBold, options), stack.tid);
  // A core file does not tell it.
  if (!stack.name.empty()) text += fmt::format(" ({})", visible_text(stack.name));
  text += stack.crashed ? styled(", crashed", kRed, options) + "\n" : "\n";
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

namespace {

// Of the innermost frame that is meant and whose source is here.
template <typename IsMeant>
std::optional<SourceView> source_view(const ThreadStack& stack, IsMeant is_meant,
                                      const std::string& sysroot) {
  for (const Frame& frame : stack.frames) {
    if (frame.file.empty() || !is_meant(frame)) continue;
    if (auto view = read_source(frame.file, frame.line, frame.module, sysroot)) return view;
  }
  return std::nullopt;
}

}  // namespace

std::vector<SourceView> source_views(const Report& report, const std::string& sysroot) {
  std::vector<SourceView> views;
  for (const ThreadStack& stack : report.threads) {
    if (std::ranges::find(report.guilty, stack.tid) == report.guilty.end()) continue;
    auto view = source_view(stack, is_own, sysroot);
    if (!view) {
      const auto of_program = [](const Frame& one) { return !is_runtime_module(one.module); };
      view = source_view(stack, of_program, sysroot);
    }
    if (!view) continue;
    view->tid = stack.tid;
    views.push_back(std::move(*view));
  }
  return views;
}

}  // namespace defib::postmortem
