#include "defib/wire/frame.h"

#include <gtest/gtest.h>

#include <vector>

#include "defib/base/bytes.h"
#include "defib/os/random.h"

namespace defib::wire {
namespace {

std::string frame_of(std::string_view payload) {
  std::string frame;
  Writer writer(frame);
  writer.u32(static_cast<std::uint32_t>(payload.size()));
  writer.u32(crc32c(payload));
  writer.bytes(payload);
  return frame;
}

TEST(Frame, MessagesArriveHoweverTheStreamIsCut) {
  std::vector<Json> messages;
  std::string stream;
  for (int i = 0; i < 50; ++i) {
    messages.push_back(Json::object({{"number", i}, {"text", std::string(i * 7 % 300, 'x')}}));
    stream += *encode_frame(messages.back());
  }
  os::Random random(7);
  for (int round = 0; round < 50; ++round) {
    FrameDecoder decoder;
    std::vector<Json> received;
    for (std::size_t at = 0; at < stream.size();) {
      const std::size_t piece = 1 + random.below(round < 25 ? 3 : 900);
      decoder.push(std::string_view(stream).substr(at, piece));
      at += piece;
      for (;;) {
        const auto message = decoder.pop();
        ASSERT_TRUE(message.has_value());
        if (!*message) break;
        received.push_back(**message);
      }
    }
    EXPECT_EQ(received, messages);
    EXPECT_EQ(decoder.held(), 0U);
  }
}

TEST(Frame, TheLayoutIsFixed) {
  const std::string frame = *encode_frame(Json(1));
  EXPECT_EQ(to_hex(as_bytes(frame)), "01000000" + to_hex(as_bytes(frame.substr(4, 4))) + "31");
  EXPECT_EQ(load<std::uint32_t>(frame.data() + 4), crc32c("1"));
}

TEST(Frame, AMessageThatWasCutIsHeldAndNotDelivered) {
  const std::string frame = *encode_frame(Json("text"));
  FrameDecoder decoder;
  decoder.push(std::string_view(frame).substr(0, frame.size() - 1));
  EXPECT_FALSE(decoder.pop()->has_value());
  EXPECT_EQ(decoder.held(), frame.size() - 1);
}

TEST(Frame, EveryFlippedBitIsFoundAndEndsTheStream) {
  const std::string frame = *encode_frame(Json::object({{"command", "stop"}}));
  const std::string next = *encode_frame(Json("next"));
  for (std::size_t bit = 0; bit < frame.size() * 8; ++bit) {
    std::string damaged = frame;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    FrameDecoder decoder;
    decoder.push(damaged);
    // A longer length waits for bytes; give it some.
    decoder.push(std::string(kMaxFramePayload, ' '));
    const auto message = decoder.pop();
    ASSERT_FALSE(message.has_value()) << "bit " << bit;
    EXPECT_EQ(message.error().code(), Code::kFrameMalformed);
    decoder.push(next);
    EXPECT_FALSE(decoder.pop().has_value()) << "the error is final";
  }
}

TEST(Frame, ALengthBeyondTheBoundIsRefusedBeforeItsBytesArrive) {
  std::string header;
  Writer writer(header);
  writer.u32(kMaxFramePayload + 1);
  writer.u32(0);
  FrameDecoder decoder;
  decoder.push(header);
  const auto message = decoder.pop();
  ASSERT_FALSE(message.has_value());
  EXPECT_EQ(message.error().code(), Code::kFrameMalformed);
  EXPECT_EQ(decoder.held(), 0U);
}

TEST(Frame, APayloadThatIsNoJsonNamesItsCause) {
  FrameDecoder decoder;
  decoder.push(frame_of("{\"a\":"));
  const auto message = decoder.pop();
  ASSERT_FALSE(message.has_value());
  EXPECT_EQ(message.error().root().code(), Code::kJsonMalformed);
  FrameDecoder empty;
  empty.push(frame_of(""));
  EXPECT_FALSE(empty.pop().has_value());
}

TEST(Frame, TheLargestMessagePassesAndALargerOneIsRefused) {
  const Json largest(std::string(kMaxFramePayload - 2, 'x'));
  FrameDecoder decoder;
  decoder.push(*encode_frame(largest));
  const auto message = decoder.pop();
  ASSERT_TRUE(message.has_value() && message->has_value());
  EXPECT_EQ(**message, largest);
  EXPECT_EQ(encode_frame(Json(std::string(kMaxFramePayload - 1, 'x'))).error().code(),
            Code::kLimitExceeded);
}

}  // namespace
}  // namespace defib::wire
