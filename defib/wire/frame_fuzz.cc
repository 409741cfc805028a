// Any bytes in any pieces: decoding ends, holds no more than it was given, and does not depend on
// where the stream was cut.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/wire/frame.h"

namespace {

using defib::wire::FrameDecoder;
using defib::wire::Json;

std::vector<Json> decode(std::string_view stream, std::size_t piece, bool& failed) {
  FrameDecoder decoder;
  std::vector<Json> messages;
  failed = false;
  for (std::size_t at = 0; at < stream.size(); at += piece) {
    decoder.push(stream.substr(at, piece));
    for (;;) {
      auto message = decoder.pop();
      failed = !message;
      if (!message || !*message) break;
      messages.push_back(std::move(**message));
    }
    DEFIB_ASSERT(decoder.held() <= stream.size());
  }
  return messages;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  // Once as they are, and once with a right checksum, so that the payload's reader is reached.
  std::string framed;
  defib::Writer writer(framed);
  writer.u32(static_cast<std::uint32_t>(size));
  writer.u32(defib::crc32c(bytes));
  writer.bytes(bytes);
  for (const std::string_view stream : {bytes, std::string_view(framed)}) {
    bool failed_whole = false, failed_pieces = false;
    const auto whole = decode(stream, stream.size() + 1, failed_whole);
    const auto pieces = decode(stream, 3, failed_pieces);
    DEFIB_ASSERT(whole == pieces && failed_whole == failed_pieces);
  }
  return 0;
}
