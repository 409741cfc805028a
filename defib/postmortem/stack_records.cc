#include "defib/postmortem/stack_records.h"

#include "defib/base/bytes.h"
#include "defib/postmortem/symbol_table.h"

namespace defib::postmortem {
namespace {

constexpr std::uint8_t kStackRecord = 1;
constexpr std::uint8_t kGapRecord = 2;

}  // namespace

std::uint32_t StackEncoder::text(const std::string& text) {
  const auto [at, is_new] = numbers_.try_emplace(text, static_cast<std::uint32_t>(numbers_.size()));
  if (is_new) Writer(new_texts_).text(text);
  return at->second;
}

std::string StackEncoder::stack(std::uint32_t thread, const ThreadStack& stack) {
  std::string frames;
  Writer out(frames);
  const std::size_t known = numbers_.size();
  new_texts_.clear();
  for (const Frame& frame : stack.frames) {
    out.u64(frame.pc);
    out.u64(frame.offset);
    out.u32(text(frame.module));
    out.u32(text(frame.build_id));
    out.u32(text(frame.function));
    out.u32(text(frame.file));
    out.u32(static_cast<std::uint32_t>(frame.line));
    out.u8(frame.inlined ? 1 : 0);
    out.u8(static_cast<std::uint8_t>(frame.kind));
  }
  std::string record;
  Writer head(record);
  head.u8(kStackRecord);
  head.u32(thread);
  head.u8(stack.truncated ? 1 : 0);
  head.text(stack.error);
  head.u32(static_cast<std::uint32_t>(numbers_.size() - known));
  head.bytes(new_texts_);
  head.bytes(frames);
  return record;
}

std::string encode_gap(std::string_view line) {
  std::string record;
  Writer out(record);
  out.u8(kGapRecord);
  out.text(line);
  return record;
}

std::optional<StackRecord> StackDecoder::stack(std::string_view record) {
  Reader in(record);
  if (in.u8() != kStackRecord) return std::nullopt;
  StackRecord result;
  result.thread = in.u32();
  result.stack.truncated = in.u8() != 0;
  result.stack.error = in.text();
  for (std::uint32_t left = in.u32(); left > 0 && in.ok(); --left) texts_.push_back(in.text());
  bool known = true;
  const auto text = [&] {
    const std::uint32_t number = in.u32();
    known = known && number < texts_.size();
    return known ? std::string(texts_[number]) : std::string();
  };
  while (in.remaining() > 0) {
    if (result.stack.frames.size() >= kMaxFrames + kMaxInlineDepth) return std::nullopt;
    Frame& frame = result.stack.frames.emplace_back();
    frame.pc = in.u64();
    frame.offset = in.u64();
    frame.module = text();
    frame.build_id = text();
    frame.function = text();
    frame.file = text();
    frame.line = static_cast<int>(in.u32());
    frame.inlined = in.u8() != 0;
    const std::uint8_t kind = in.u8();
    if (kind <= static_cast<std::uint8_t>(FrameKind::kUnknown)) {
      frame.kind = static_cast<FrameKind>(kind);
    }
  }
  if (!in.ok() || !known || result.stack.frames.empty()) return std::nullopt;
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
