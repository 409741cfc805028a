// The word that outlives kill -9: what it says, and when it says nothing.

#include "defib/store/ack_watermark.h"

#include <gtest/gtest.h>

#include "defib/os/sim_files.h"

namespace defib::store {
namespace {

const std::string kBoot(36, 'b');

SegmentHeader segment(std::uint64_t first_lsn = 10, std::uint64_t epoch = 3) {
  SegmentHeader header;
  header.epoch = epoch;
  header.first_lsn = first_lsn;
  header.created_wall_ns = 1'700'000'000'000'000'000;
  header.boot_id = kBoot;
  return header;
}

TEST(AckWatermark, TheWordSaysHowFarTheSegmentsWriterAcknowledged) {
  for (const std::uint64_t lsn : {0ULL, 1ULL, 9ULL, 12345678ULL, (1ULL << 48) - 1}) {
    EXPECT_EQ(decode_ack(encode_ack(lsn, segment()), segment(), kBoot), lsn);
  }
}

TEST(AckWatermark, AWordOfAnythingElseIsUnknown) {
  const std::uint64_t word = encode_ack(77, segment());
  EXPECT_FALSE(decode_ack(0, segment(), kBoot).has_value());
  EXPECT_FALSE(decode_ack(word, segment(11), kBoot).has_value()) << "another segment";
  EXPECT_FALSE(decode_ack(word, segment(10, 4), kBoot).has_value()) << "another epoch";
  EXPECT_FALSE(decode_ack(word, segment(), std::string(36, 'c')).has_value()) << "another run";
  SegmentHeader copy = segment();
  copy.created_wall_ns += 1;
  EXPECT_FALSE(decode_ack(word, copy, kBoot).has_value()) << "a copy of the store";
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_FALSE(decode_ack(word ^ (1ULL << bit), segment(), kBoot).has_value()) << bit;
  }
  // A number that does not fit is not said rather than said wrongly.
  EXPECT_EQ(encode_ack(1ULL << 48, segment()), 0U);
}

TEST(AckWatermark, ItNeverGoesBackAndFollowsTheSegments) {
  os::SimFiles files;
  AckWatermark mark(files, "u");
  mark.acknowledge(5);  // No segment yet: nothing to say.
  EXPECT_EQ(read_ack_word(files, "u"), 0U);
  mark.begin(segment(), 9);
  EXPECT_EQ(decode_ack(read_ack_word(files, "u"), segment(), kBoot), 9U);
  mark.acknowledge(20);
  mark.acknowledge(15);
  EXPECT_EQ(decode_ack(read_ack_word(files, "u"), segment(), kBoot), 20U);
  mark.begin(segment(21), 20);
  EXPECT_EQ(decode_ack(read_ack_word(files, "u"), segment(21), kBoot), 20U);
  EXPECT_FALSE(decode_ack(read_ack_word(files, "u"), segment(), kBoot).has_value());
  remove_ack_word(files, "u");
  EXPECT_EQ(read_ack_word(files, "u"), 0U);
}

}  // namespace
}  // namespace defib::store
