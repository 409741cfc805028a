// The log's reading side: the table of verdicts, and what each kind of damage is called.

#include <gtest/gtest.h>

#include <span>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/os/sim_files.h"
#include "defib/store/ack_watermark.h"
#include "defib/store/executor.h"
#include "defib/store/log_reader.h"

namespace defib::store {
namespace {

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

Result<LogAssessment> assess(const Log& log, char boot = 'x',
                             std::optional<std::uint64_t> acked = std::nullopt) {
  std::vector<Segment> segments;
  segments.push_back(Segment::of(segment_name(1, 1), log.bytes));
  scan_segment(segments[0], log.identity);
  LogContext context;
  context.identity = log.identity;
  context.boot_id = std::string(36, boot);
  if (acked) context.ack_word = encode_ack(*acked, *segments[0].header);
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

TEST(LogReader, AfterAKillTheWatermarkTellsATornLastBlockFromARottenOne) {
  Log log = make_log(5, 1);
  log.bytes[log.offsets[4] + 70] ^= 1;
  const auto acknowledged = assess(log, 'b', 5);
  ASSERT_FALSE(acknowledged.has_value());
  EXPECT_EQ(acknowledged.error().code(), Code::kWalCorrupted);
  EXPECT_EQ(acknowledged.error().field("first_lost_commit"), "5");
  const auto not_acknowledged = assess(log, 'b', 4);
  ASSERT_TRUE(not_acknowledged.has_value());
  EXPECT_EQ(not_acknowledged->last_lsn, 4U);
  ASSERT_TRUE(not_acknowledged->cut.has_value());
  EXPECT_FALSE(not_acknowledged->cut->loss_possible);
  EXPECT_TRUE(not_acknowledged->notes.empty());
  // After a restart of the machine the word, if there is one, is of another run.
  const auto restarted = assess(log, 'x', 5);
  ASSERT_TRUE(restarted.has_value());
  EXPECT_TRUE(restarted->cut->loss_possible);
}

TEST(LogReader, ZerosWhereSomethingAcknowledgedStoodAreNotTheEnd) {
  Log log = make_log(5, 1);
  std::fill(log.bytes.begin() + static_cast<std::ptrdiff_t>(log.offsets[4]), log.bytes.end(), 0);
  EXPECT_EQ(assess(log, 'b')->last_lsn, 4U);
  EXPECT_EQ(assess(log, 'b', 4)->last_lsn, 4U);
  ASSERT_FALSE(assess(log, 'b', 5).has_value());
}

TEST(LogReader, AHeaderAloneProvesThatALaterBlockWasWritten) {
  Log log = make_log(5, 1);
  log.bytes[log.offsets[2] + 70] ^= 1;
  for (const int later : {3, 4}) log.bytes[log.offsets[later] + 70] ^= 1;  // Payloads only.
  EXPECT_FALSE(assess(log, 'x').has_value());
}

TEST(LogReader, TheFirstOfSeveralBadPayloadsDecides) {
  Log log = make_log(3000, 3000);
  for (const int bad : {2000, 1200, 2999}) log.bytes[log.offsets[bad] + 80] ^= 4;
  const auto assessed = assess(log);
  ASSERT_TRUE(assessed.has_value());
  EXPECT_EQ(assessed->last_lsn, 1200U);
  EXPECT_EQ(assessed->cut->offset, log.offsets[1200]);
}

// Each of them under right checksums, as a write that went astray or a stale block would have them.
TEST(LogReader, ABlockThatIsNotTheNextOneEndsTheScan) {
  const std::pair<const char*, void (*)(BlockHeader&)> strangers[] = {
      {"another epoch", [](BlockHeader& header) { ++header.epoch; }},
      {"a later commit", [](BlockHeader& header) { ++header.first_lsn; }},
      {"an earlier commit", [](BlockHeader& header) { --header.first_lsn; }},
      {"after another block", [](BlockHeader& header) { header.previous_crc ^= 1; }},
      {"of another store", [](BlockHeader& header) { header.store_tag ^= 1; }},
      {"synced before it was written",
       [](BlockHeader& header) { header.durable_lsn = header.first_lsn; }},
      {"larger than the file", [](BlockHeader& header) { header.payload_size = 1 << 20; }},
  };
  for (const auto& [name, change] : strangers) {
    Log log = make_log(5, 100);
    BlockHeader header = load_block_header(log.bytes.data() + log.offsets[4]);
    change(header);
    encode(header, log.bytes.data() + log.offsets[4]);
    Segment segment = Segment::of(segment_name(1, 1), log.bytes);
    scan_segment(segment, log.identity);
    EXPECT_EQ(segment.stop.kind, StopKind::kBadBlock) << name;
    EXPECT_EQ(segment.stop.offset, log.offsets[4]) << name;
    EXPECT_EQ(segment.next_lsn, 5U) << name;
    EXPECT_FALSE(segment.stop.problem.empty()) << name;
  }
}

// The bits on the way from the device: whatever cannot be read is an error, not a short log.
TEST(LogReader, WhatTheDeviceCannotDeliverIsItsErrorAlsoBehindAMapping) {
  const Log log = make_log(3000, 1);
  os::SimFiles files;
  ASSERT_TRUE(files.create_dirs("/s/wal").has_value());
  const std::string path = "/s/wal/" + segment_name(1, 1);
  ASSERT_TRUE((*files.open(path, os::OpenMode::kCreate))->write_at(0, log.bytes).has_value());
  files.set_read_fault(
      [](std::string_view, std::uint64_t offset, std::span<char>& bytes) -> Result<> {
        const std::uint64_t bad = 400'000;
        if (offset > bad || offset + bytes.size() <= bad) return {};
        return Error(Code::kSystemCallFailed, "input/output error");
      });
  for (const ReadMode mode : {ReadMode::kMap, ReadMode::kCopy}) {
    const auto read =
        scan_segments(files, "/s", {segment_name(1, 1)}, log.identity, {.mode = mode}, nullptr);
    ASSERT_FALSE(read.has_value());
    EXPECT_EQ(read.error().message(), "input/output error");
  }
  files.set_read_fault(nullptr);
  Threads threads(2);
  const auto read = scan_segments(files, "/s", {segment_name(1, 1)}, log.identity,
                                  {.mode = ReadMode::kMap, .executor = &threads}, nullptr);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->front().next_lsn, 3001U);
}

TEST(LogReader, ThePulseEndsTheReadingAtAnyOfItsCalls) {
  const Log log = make_log(20'000, 1);
  os::SimFiles files;
  ASSERT_TRUE(files.create_dirs("/s/wal").has_value());
  const std::string path = "/s/wal/" + segment_name(1, 1);
  ASSERT_TRUE((*files.open(path, os::OpenMode::kCreate))->write_at(0, log.bytes).has_value());
  Threads threads(2);
  for (const ReadMode mode : {ReadMode::kMap, ReadMode::kCopy}) {
    for (std::uint64_t stop_at = 1;; ++stop_at) {
      std::uint64_t calls = 0;
      const auto read =
          scan_segments(files, "/s", {segment_name(1, 1)}, log.identity,
                        {.mode = mode, .executor = &threads}, [&](std::uint64_t) -> Result<> {
                          if (++calls < stop_at) return {};
                          return Error(Code::kProcedureAborted, "enough");
                        });
      if (read) {
        EXPECT_GT(stop_at, 3U);
        break;
      }
      EXPECT_EQ(read.error().code(), Code::kProcedureAborted);
      EXPECT_EQ(calls, stop_at);
    }
  }
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
