#include "defib/postmortem/stack_records.h"

#include "defib/base/bytes.h"
#include "defib/postmortem/symbol_table.h"

namespace defib::postmortem {
namespace {

constexpr std::uint8_t kStackRecord = 1;
constexpr std::uint8_t kGapRecord = 2;

}  // namespace

std::string encode_stack(std::uint32_t thread, const ThreadStack& stack) {
  std::string record;
  Writer out(record);
  out.u8(kStackRecord);
  out.u32(thread);
  out.u8(stack.truncated ? 1 : 0);
  out.text(stack.error);
  for (const Frame& frame : stack.frames) {
    out.u64(frame.pc);
    out.text(frame.module);
    out.text(frame.build_id);
    out.u64(frame.offset);
    out.text(frame.function);
    out.text(frame.file);
    out.u32(static_cast<std::uint32_t>(frame.line));
    out.u8(frame.inlined ? 1 : 0);
    out.u8(static_cast<std::uint8_t>(frame.kind));
  }
  return record;
}

std::string encode_gap(std::string_view line) {
  std::string record;
  Writer out(record);
  out.u8(kGapRecord);
  out.text(line);
  return record;
}

std::optional<StackRecord> decode_stack(std::string_view record) {
  Reader in(record);
  if (in.u8() != kStackRecord) return std::nullopt;
  StackRecord result;
  result.thread = in.u32();
  result.stack.truncated = in.u8() != 0;
  result.stack.error = in.text();
  while (in.remaining() > 0) {
    if (result.stack.frames.size() >= kMaxFrames + kMaxInlineDepth) return std::nullopt;
    Frame frame;
    frame.pc = in.u64();
    frame.module = in.text();
    frame.build_id = in.text();
    frame.offset = in.u64();
    frame.function = in.text();
    frame.file = in.text();
    frame.line = static_cast<int>(in.u32());
    frame.inlined = in.u8() != 0;
    const std::uint8_t kind = in.u8();
    if (kind <= static_cast<std::uint8_t>(FrameKind::kUnknown)) {
      frame.kind = static_cast<FrameKind>(kind);
    }
    result.stack.frames.push_back(std::move(frame));
  }
  if (!in.ok() || result.stack.frames.empty()) return std::nullopt;
  return result;
}

std::optional<std::string> decode_gap(std::string_view record) {
  Reader in(record);
  if (in.u8() != kGapRecord) return std::nullopt;
  std::string line(in.text());
  if (!in.finished()) return std::nullopt;
  return line;
}

}  // namespace defib::postmortem
