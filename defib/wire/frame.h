// Frames: JSON messages on a stream between defib's own processes.
//
//   offset  size  field
//        0     4  length of the payload, at most kMaxFramePayload (little-endian, as all)
//        4     4  CRC32C of the payload
//        8     n  payload: one JSON value in UTF-8
//
// Thread rule: one thread at a time.

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::wire {

inline constexpr std::size_t kMaxFramePayload = 1 << 20;
inline constexpr std::size_t kFrameHeaderSize = 8;

// LimitExceeded where the message is larger than a frame may be.
Result<std::string> encode_frame(const Json& message);

// Push what was received, in pieces of any size, and pop until there is nothing more:
//   decoder.push(bytes);
//   for (;;) { DEFIB_TRY_ASSIGN(auto message, decoder.pop()); if (!message) break; ... }
// Popping after each push bounds what is held to one frame and the last piece.
class FrameDecoder {
 public:
  void push(std::string_view bytes);
  // The next message, or nullopt where it has not arrived in full. FrameMalformed is final: the
  // stream cannot be trusted any more, and every further call fails with it.
  Result<std::optional<Json>> pop();
  // Bytes that are held; not 0 at the stream's end means that a message was cut.
  std::size_t held() const { return buffer_.size() - taken_; }

 private:
  Error fail(std::string message, std::optional<Error> cause = std::nullopt);
  std::string buffer_;
  std::size_t taken_ = 0;  // of buffer_, by messages that were popped
  std::optional<Error> failed_;
};

}  // namespace defib::wire
