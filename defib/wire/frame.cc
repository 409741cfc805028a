#include "defib/wire/frame.h"

#include <fmt/format.h>

#include "defib/base/bytes.h"

namespace defib::wire {

Result<std::string> encode_frame(const Json& message) {
  const std::string payload = message.dump();
  if (payload.size() > kMaxFramePayload) {
    return Error(Code::kLimitExceeded, fmt::format("a message of {} bytes is larger than a frame "
                                                   "may be ({} bytes)",
                                                   payload.size(), kMaxFramePayload));
  }
  std::string frame;
  frame.reserve(kFrameHeaderSize + payload.size());
  Writer writer(frame);
  writer.u32(static_cast<std::uint32_t>(payload.size()));
  writer.u32(crc32c(payload));
  writer.bytes(payload);
  return frame;
}

void FrameDecoder::push(std::string_view bytes) {
  if (failed_) return;
  // What was popped is dropped here, once a push, so that many small messages cost no copying.
  buffer_.erase(0, taken_);
  taken_ = 0;
  buffer_.append(bytes);
}

Result<std::optional<Json>> FrameDecoder::pop() {
  if (failed_) return *failed_;
  const std::string_view rest = std::string_view(buffer_).substr(taken_);
  if (rest.size() < kFrameHeaderSize) return std::optional<Json>();
  Reader header(rest.substr(0, kFrameHeaderSize));
  const std::uint32_t size = header.u32();
  const std::uint32_t checksum = header.u32();
  if (size > kMaxFramePayload) {
    return fail(
        fmt::format("a message announces {} bytes, and {} are allowed", size, kMaxFramePayload));
  }
  if (rest.size() - kFrameHeaderSize < size) return std::optional<Json>();
  const std::string_view payload = rest.substr(kFrameHeaderSize, size);
  if (crc32c(payload) != checksum) return fail("a message fails its checksum");
  auto message = Json::parse(payload);
  if (!message) return fail("a message is not JSON", message.error());
  taken_ += kFrameHeaderSize + size;
  return std::optional<Json>(std::move(*message));
}

Error FrameDecoder::fail(std::string message, std::optional<Error> cause) {
  failed_ = Error(Code::kFrameMalformed, std::move(message));
  if (cause) failed_ = std::move(*failed_).because(std::move(*cause));
  buffer_ = {};
  taken_ = 0;
  return *failed_;
}

}  // namespace defib::wire
