#include "defib/postmortem/unwind.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "defib/postmortem/guarded.h"
#include "defib/postmortem/module_file.h"
#include "defib/postmortem/stack_records.h"
#include "defib/postmortem/stack_walk.h"
#include "defib/postmortem/symbolizer.h"

namespace defib::postmortem {
namespace {

constexpr std::string_view kKinds[] = {"module", "vdso", "signal", "jit", "data", "unknown"};

std::optional<std::size_t> module_at(const Snapshot& snapshot, std::uint64_t address) {
  for (std::size_t i = 0; i < snapshot.modules.size(); ++i) {
    const Module& module = snapshot.modules[i];
    if (address >= module.start && address < module.end) return i;
  }
  return std::nullopt;
}

FrameKind kind_of(const Snapshot& snapshot, const Step& step, const Module* module) {
  if (step.is_signal) return FrameKind::kSignal;
  if (module != nullptr) return module->path == "[vdso]" ? FrameKind::kVdso : FrameKind::kModule;
  const Mapping* mapping = find_mapping(snapshot.maps, step.pc);
  if (mapping == nullptr) return FrameKind::kUnknown;
  return mapping->executable ? FrameKind::kJit : FrameKind::kData;
}

Frame frame_of(const Snapshot& snapshot, const Step& step, const Module* module,
               std::uint64_t bias) {
  Frame frame;
  frame.pc = step.pc;
  frame.kind = kind_of(snapshot, step, module);
  if (module == nullptr) return frame;
  frame.module = module->path;
  frame.build_id = module->build_id;
  frame.offset = step.pc - bias;
  return frame;
}

// The instruction that a step means; a return address may lie behind the module's last function.
std::uint64_t lookup_of(const Step& step) {
  return step.exact || step.pc == 0 ? step.pc : step.pc - 1;
}

// What the child has said so far, the last word counts.
void take(std::string_view record, StackDecoder& decoder, Unwound& unwound,
          std::vector<bool>& known) {
  if (auto gap = decode_gap(record)) unwound.gaps.push_back(std::move(*gap));
  auto stack = decoder.stack(record);
  if (!stack || stack->thread >= unwound.stacks.size()) return;
  unwound.stacks[stack->thread] = std::move(stack->stack);
  known[stack->thread] = true;
}

// In the child: first all stacks without names, then each with them.
void unwind_here(const Snapshot& snapshot, const SymbolOptions& options,
                 const std::set<std::size_t>& left_out, const GuardOutput& output) {
  const auto mark = [&](std::size_t module) { output.mark(static_cast<std::uint32_t>(module)); };
  ElfSession session(snapshot.modules, options, left_out, mark);
  StackWalker walker(snapshot, session, mark);
  StackEncoder encoder;
  std::vector<Walk> walks;
  for (std::size_t i = 0; i < snapshot.threads.size(); ++i) {
    walks.push_back(walker.walk(i));
    const Walk& walk = walks.back();
    ThreadStack stack;
    stack.truncated = walk.truncated;
    stack.error = walk.error;
    for (const Step& step : walk.steps) {
      const auto module = session.find(lookup_of(step));
      stack.frames.push_back(frame_of(snapshot, step, module ? &snapshot.modules[*module] : nullptr,
                                      module ? session.bias(*module) : 0));
    }
    output.write(encoder.stack(static_cast<std::uint32_t>(i), stack));
  }
  Symbolizer symbolizer(session, options);
  for (std::size_t i = 0; i < walks.size(); ++i) {
    ThreadStack stack;
    stack.truncated = walks[i].truncated;
    stack.error = walks[i].error;
    for (const Step& step : walks[i].steps) {
      if (stack.frames.size() >= kMaxFrames) {
        stack.truncated = true;
        break;
      }
      const auto module = session.find(lookup_of(step));
      if (!module) {
        stack.frames.push_back(frame_of(snapshot, step, nullptr, 0));
        continue;
      }
      mark(*module);
      const std::uint64_t bias = session.bias(*module);
      Frame frame = frame_of(snapshot, step, &snapshot.modules[*module], bias);
      for (const Location& location : symbolizer.locate(*module, lookup_of(step) - bias)) {
        frame.function = location.function;
        frame.file = location.file;
        frame.line = location.line;
        frame.inlined = location.inlined;
        stack.frames.push_back(frame);
      }
    }
    output.write(encoder.stack(static_cast<std::uint32_t>(i), stack));
  }
  for (const std::string& line : session.refused()) output.write(encode_gap(line));
  for (const std::string& line : symbolizer.gaps()) output.write(encode_gap(line));
}

ThreadStack walked_by_frame_pointers(const Snapshot& snapshot, const ThreadSnapshot& thread) {
  const Walk walk = walk_frame_pointers(snapshot, thread);
  ThreadStack stack;
  stack.truncated = walk.truncated;
  for (const Step& step : walk.steps) {
    const auto index = module_at(snapshot, lookup_of(step));
    const Module* module = index ? &snapshot.modules[*index] : nullptr;
    stack.frames.push_back(
        frame_of(snapshot, step, module, module != nullptr ? load_bias(*module) : 0));
  }
  return stack;
}

}  // namespace

std::string_view to_string(FrameKind kind) {
  return kKinds[static_cast<std::size_t>(kind)];
}

FrameKind frame_kind_from(std::string_view text) {
  const auto* const found = std::ranges::find(kKinds, text);
  return found == std::end(kKinds) ? FrameKind::kUnknown
                                   : static_cast<FrameKind>(found - std::begin(kKinds));
}

Unwound unwind(const Snapshot& snapshot, const SymbolOptions& options,
               const std::function<void()>& meanwhile) {
  Unwound unwound;
  unwound.stacks.resize(snapshot.threads.size());
  std::vector<bool> known(snapshot.threads.size());
  const auto losses = run_guarded_parts(
      snapshot.modules.size(),
      [&](const std::set<std::size_t>& left_out, const GuardOutput& output) {
        unwind_here(snapshot, options, left_out, output);
      },
      limits_of(options),
      [&](const std::vector<std::string_view>& records) {
        unwound.gaps.clear();
        StackDecoder decoder;
        for (const std::string_view record : records) take(record, decoder, unwound, known);
      },
      meanwhile);
  for (const GuardLoss& loss : losses) {
    unwound.gaps.push_back(
        loss.part == kNoMark
            ? fmt::format("walking stacks and reading names failed ({}); frames may have no names",
                          loss.failure)
            : fmt::format(
                  "{}: reading it for stacks and names failed ({}); its frames have no names",
                  snapshot.modules[loss.part].path, loss.failure));
  }
  for (std::size_t i = 0; i < snapshot.threads.size(); ++i) {
    const ThreadSnapshot& thread = snapshot.threads[i];
    ThreadStack& stack = unwound.stacks[i];
    if (!known[i]) stack = walked_by_frame_pointers(snapshot, thread);
    stack.tid = thread.tid;
    stack.name = thread.name;
    stack.crashed = thread.crashed;
  }
  return unwound;
}

}  // namespace defib::postmortem
