// The log's reading side: the table of verdicts, and what each kind of damage is called.

#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/store/log_reader.h"

namespace defib::store {
namespace {

TEST(LogVerdict, EveryCombinationOfEvidenceHasTheVerdictThatSafetyDemands) {
  for (int bits = 0; bits < 64; ++bits) {
    for (const StopKind kind : {StopKind::kZeros, StopKind::kEndOfFile, StopKind::kBadBlock}) {
      const StopEvidence evidence{.kind = kind,
                                  .rest_is_zero = (bits & 1) != 0,
                                  .later_block = (bits & 2) != 0,
                                  .later_block_covers = (bits & 4) != 0,
                                  .same_boot = (bits & 8) != 0,
                                  .has_successor = (bits & 16) != 0,
                                  .successor_continues = (bits & 32) != 0};
      const StopVerdict verdict = judge_stop(evidence);
      const bool proof_of_loss =
          (evidence.has_successor && !evidence.successor_continues) ||
          (!evidence.has_successor &&
           (evidence.later_block_covers || (evidence.later_block && evidence.same_boot)));
      const bool proof_of_end =
          (evidence.has_successor && evidence.successor_continues) ||
          (!evidence.has_successor && kind == StopKind::kZeros && evidence.rest_is_zero);
      if (proof_of_loss) {
        EXPECT_EQ(verdict, StopVerdict::kDamaged) << bits;
      } else {
        EXPECT_EQ(verdict, proof_of_end ? StopVerdict::kEnd : StopVerdict::kTorn) << bits;
      }
    }
  }
}

// A log of one segment with a block for each commit.
struct Log {
  Identity identity;
  std::string bytes;
  std::vector<std::size_t> offsets;
};

Log make_log(int commits, std::uint64_t durable_behind) {
  Log log;
  log.identity.uuid = std::string(kUuidSize, '7');
  SegmentHeader header;
  header.uuid = log.identity.uuid;
  header.epoch = 1;
  header.first_lsn = 1;
  header.boot_id = std::string(36, 'b');
  log.bytes = encode(header);
  std::uint32_t chain = 0;
  for (int i = 1; i <= commits; ++i) {
    const auto lsn = static_cast<std::uint64_t>(i);
    TransactionEncoder encoder;
    encoder.put("t", std::to_string(i), std::string(100, 'v'));
    const std::string payload = encoder.finish(lsn);
    BlockHeader block;
    block.epoch = 1;
    block.first_lsn = lsn;
    block.count = 1;
    block.payload_size = static_cast<std::uint32_t>(payload.size());
    block.durable_lsn = lsn > durable_behind ? lsn - durable_behind : 0;
    block.previous_crc = chain;
    block.payload_crc = crc32c(payload);
    block.store_tag = log.identity.tag();
    log.offsets.push_back(log.bytes.size());
    encode(block, log.bytes);
    log.bytes += payload;
    log.bytes.resize(align_up(log.bytes.size(), kBlockAlignment));
    chain = block.header_crc;
  }
  log.bytes.resize(align_up(log.bytes.size() + kBlockHeaderSize, kPageSize));
  return log;
}

Result<LogAssessment> assess(const Log& log, char boot = 'x') {
  std::vector<Segment> segments(1);
  segments[0].name = segment_name(1, 1);
  segments[0].bytes = log.bytes;
  scan_segment(segments[0], log.identity);
  LogContext context;
  context.identity = log.identity;
  context.boot_id = std::string(36, boot);
  return assess_log(segments, context);
}

TEST(LogReader, AWholeLogEndsWhereItsZerosBegin) {
  const auto log = assess(make_log(5, 1));
  ASSERT_TRUE(log.has_value());
  EXPECT_EQ(log->last_lsn, 5U);
  EXPECT_FALSE(log->cut.has_value());
  EXPECT_TRUE(log->notes.empty());
}

TEST(LogReader, ADamagedLastBlockIsATornTailThatIsReported) {
  Log log = make_log(5, 1);
  log.bytes[log.offsets[4] + 70] ^= 1;
  const auto assessed = assess(log);
  ASSERT_TRUE(assessed.has_value());
  EXPECT_EQ(assessed->last_lsn, 4U);
  ASSERT_TRUE(assessed->cut.has_value());
  EXPECT_EQ(assessed->cut->lsn, 5U);
  EXPECT_EQ(assessed->cut->offset, log.offsets[4]);
  EXPECT_EQ(assessed->notes.size(), 1U);
}

TEST(LogReader, ADamagedBlockThatALaterOneKnewToBeDurableIsRot) {
  Log log = make_log(5, 1);
  log.bytes[log.offsets[2] + 70] ^= 1;
  const auto assessed = assess(log);
  ASSERT_FALSE(assessed.has_value());
  EXPECT_EQ(assessed.error().code(), Code::kWalCorrupted);
  EXPECT_EQ(assessed.error().field("first_lost_commit"), "3");
  EXPECT_FALSE(assessed.error().field("details").empty());
}

TEST(LogReader, UnsyncedBlocksAfterALostOneAreTornAfterARestartAndRotBeforeIt) {
  Log log = make_log(5, 100);  // Nothing was known to be durable.
  log.bytes[log.offsets[2] + 70] ^= 1;
  const auto after_restart = assess(log, 'x');
  ASSERT_TRUE(after_restart.has_value());
  EXPECT_EQ(after_restart->last_lsn, 2U);
  const auto same_boot = assess(log, 'b');
  ASSERT_FALSE(same_boot.has_value());
  EXPECT_EQ(same_boot.error().code(), Code::kWalCorrupted);
}

TEST(LogReader, AFileWithoutItsEndMarkWasCut) {
  Log log = make_log(5, 1);
  log.bytes.resize(log.offsets[3]);
  const auto assessed = assess(log);
  ASSERT_TRUE(assessed.has_value());
  EXPECT_EQ(assessed->last_lsn, 3U);
  EXPECT_EQ(assessed->notes.size(), 1U);
}

TEST(LogReader, ABlockOfAnotherStoreIsNotTakenForOurs) {
  Log log = make_log(2, 1);
  Log other = make_log(3, 1);
  other.identity.uuid = std::string(kUuidSize, '8');
  EXPECT_EQ(assess(log)->last_lsn, 2U);
  log.identity = other.identity;
  const auto assessed = assess(log);
  ASSERT_FALSE(assessed.has_value());
  EXPECT_EQ(assessed.error().code(), Code::kInconsistentState);
}

}  // namespace
}  // namespace defib::store
