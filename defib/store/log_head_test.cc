// A segment of the log that is gone: what misses it, and what is said where nothing can.

#include "defib/store/log_head.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "defib/store/ack_watermark.h"
#include "defib/store/log_reader.h"
#include "defib/store/maintenance.h"
#include "defib/store/plan.h"
#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::PacedClock;
using testing_util::Recording;
using testing_util::small_store;
using testing_util::SteppedExecutor;

SegmentHeader header(std::uint64_t first_lsn, std::uint64_t epoch) {
  SegmentHeader header;
  header.uuid = std::string(kUuidSize, '7');
  header.epoch = epoch;
  header.first_lsn = first_lsn;
  header.created_wall_ns = 1'700'000'000'000'000'000;
  header.boot_id = std::string(36, 'b');
  return header;
}

TEST(LogHead, ComesBackAsItWasWrittenAndAnyDamageMakesItUnknown) {
  os::SimFiles files;
  ASSERT_TRUE(files.create_dirs("/s"));
  const std::string uuid(kUuidSize, '7');
  EXPECT_EQ(read_log_head(files, "/s", uuid).problem, "log.head is missing");
  ASSERT_TRUE(write_log_head(files, "/s", header(5, 2)).has_value());
  const LogHead read = read_log_head(files, "/s", uuid);
  ASSERT_TRUE(read.newest.has_value());
  EXPECT_EQ(read.newest->first_lsn, 5U);
  EXPECT_EQ(read.newest->epoch, 2U);
  EXPECT_EQ(read.newest->boot_id, header(5, 2).boot_id);
  EXPECT_EQ(encode_ack(7, *read.newest), encode_ack(7, header(5, 2)));
  EXPECT_FALSE(read_log_head(files, "/s", std::string(kUuidSize, '8')).newest.has_value());
  const std::string content = files.content("/s/log.head");
  for (std::size_t at = 0; at < content.size(); ++at) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    files.set_content("/s/log.head", damaged);
    const LogHead found = read_log_head(files, "/s", uuid);
    EXPECT_FALSE(found.newest.has_value()) << at;
    EXPECT_FALSE(found.problem.empty()) << at;
  }
}

// Segments that hold nothing, of these first commits and epochs, behind a checkpoint.
Result<LogAssessment> assess(const std::vector<std::pair<std::uint64_t, std::uint64_t>>& segments,
                             std::uint64_t covered, std::optional<SegmentHeader> newest) {
  std::vector<Segment> scanned;
  for (const auto& [first, epoch] : segments) {
    std::string bytes = encode(header(first, epoch));
    bytes.resize(2 * kPageSize);
    scanned.push_back(Segment::of(segment_name(first, epoch), std::move(bytes)));
    scan_segment(scanned.back(), {.uuid = std::string(kUuidSize, '7')});
  }
  LogContext context;
  context.identity.uuid = std::string(kUuidSize, '7');
  if (covered > 0) context.base = LogBase{.lsn = covered};
  context.newest = std::move(newest);
  return assess_log(scanned, context);
}

TEST(LogHead, IsSatisfiedByItsSegmentALaterOneOrACheckpointThatCoversIt) {
  const SegmentHeader none = no_segment(std::string(kUuidSize, '7'));
  EXPECT_TRUE(assess({}, 0, none).has_value());
  EXPECT_TRUE(assess({}, 4, none).has_value());
  EXPECT_TRUE(assess({{5, 2}}, 4, none).has_value());
  EXPECT_TRUE(assess({{5, 2}}, 4, header(5, 2)).has_value());
  EXPECT_TRUE(assess({{5, 3}}, 4, header(5, 2)).has_value()) << "a later opening's";
  EXPECT_TRUE(assess({}, 5, header(5, 2)).has_value()) << "covered";
  EXPECT_TRUE(assess({}, 9, header(5, 2)).has_value()) << "covered";
  for (const auto& [left, covered] :
       std::vector<std::pair<std::vector<std::pair<std::uint64_t, std::uint64_t>>, std::uint64_t>>{
           {{}, 0}, {{}, 4}, {{{5, 1}}, 4}, {{{1, 1}}, 0}}) {
    const auto refused = assess(left, covered, header(5, 2));
    ASSERT_FALSE(refused.has_value()) << left.size() << " " << covered;
    EXPECT_EQ(refused.error().code(), Code::kWalCorrupted);
    EXPECT_EQ(refused.error().field("path"), segment_name(5, 2));
    EXPECT_FALSE(refused.error().field("details").empty());
    EXPECT_FALSE(refused.error().suggested_action().empty());
  }
}

std::vector<std::string> segments_of(os::Files& files) {
  return *list_segments(files, kDir);
}

std::string loss_in(const Store& store) {
  const recovery::StageRecord* stage = store.recovery_result().find("wal_validation");
  if (stage == nullptr) return {};
  for (const auto& [name, value] : stage->metrics) {
    if (name == "loss_possible") return value;
  }
  return {};
}

// Each way to a store whose newest segment holds acknowledged commits.
struct Way {
  std::string name;
  std::function<void(Recording&)> go;
};
std::vector<Way> ways() {
  const auto commits = [](Recording& r, int count) {
    for (int i = 0; i < count; ++i) r.must_commit(Durability::kPower, 100);
  };
  return {
      {"the only segment", [=](Recording& r) { commits(r, 3); }},
      {"the second of two",
       [=](Recording& r) {
         commits(r, 2);
         for (int i = 0; i < 12; ++i) r.must_commit(Durability::kPower, 3000);
       }},
      {"behind a checkpoint",
       [=](Recording& r) {
         commits(r, 3);
         r.all_durable(r.store().checkpoint());
         commits(r, 2);
       }},
      {"of an opening after a kill",
       [=](Recording& r) {
         commits(r, 3);
         r.drop();
         r.open();
         commits(r, 2);
       }},
      {"of an opening after a power failure",
       [=](Recording& r) {
         commits(r, 3);
         r.crash(true);
         commits(r, 2);
       }},
      {"after a clean close",
       [=](Recording& r) {
         commits(r, 3);
         r.close();
         r.open();
         commits(r, 2);
       }},
      {"beside retained ones",
       [=](Recording& r) {
         Options keep = r.options();
         keep.log_retention = 1 << 20;
         r.drop();
         r.open(keep);
         commits(r, 3);
         r.all_durable(r.store().checkpoint());
         commits(r, 2);
       }},
  };
}

TEST(StoreMissingSegment, OfTheNewestCommitsIsRefusedAndNamedAfterAKillAndAfterARestart) {
  for (const Way& way : ways()) {
    for (const bool rebooted : {false, true}) {
      SCOPED_TRACE(way.name + (rebooted ? ", restarted" : ", killed"));
      Recording r(5, nullptr);
      r.open();
      way.go(r);
      r.drop();
      const auto disk = rebooted ? r.disk().crashed(r.disk().operations(), 0)
                                 : r.disk().killed(r.disk().operations(), 0);
      PacedClock clock;
      for (int i = 0; i < r.boots() + (rebooted ? 1 : 0); ++i)
        clock.reboot(std::chrono::seconds(1));
      SteppedExecutor executor;
      const Options options = small_store(*disk, clock, executor);
      const std::string newest = segments_of(*disk).back();
      const std::uint64_t first = parse_segment_name(newest)->first_lsn;
      ASSERT_TRUE(disk->remove("/s/wal/" + newest).has_value());

      const auto verified = Store::verify_files(kDir, options);
      ASSERT_TRUE(verified.has_value());
      ASSERT_FALSE(verified->findings.empty());
      EXPECT_NE(verified->findings.back().problem.find(newest), std::string::npos);
      EXPECT_FALSE(Store::open_read_only(kDir, options).has_value());
      const auto plan = *plan_recovery(kDir, options);
      const auto stage = std::ranges::find(plan.stages, "wal_validation", &PlannedStage::name);
      ASSERT_NE(stage, plan.stages.end());
      ASSERT_TRUE(stage->obstacle.has_value());
      EXPECT_EQ(stage->obstacle->code(), Code::kWalCorrupted);
      const auto store = Store::open(kDir, options);
      ASSERT_FALSE(store.has_value());
      const Error& error = store.error();
      EXPECT_EQ(error.code(), Code::kWalCorrupted) << error.to_text();
      EXPECT_EQ(error.field("path"), newest);
      EXPECT_EQ(error.field("first_lost_commit"), std::to_string(first));
      // What the process had acknowledged is known until the machine restarts.
      EXPECT_EQ(error.field("last_lost_commit"), rebooted ? "" : std::to_string(r.last()));

      const auto repaired = repair(kDir, "/new", options);
      ASSERT_TRUE(repaired.has_value()) << repaired.error().to_text();
      const auto names_it = [&](const Loss& loss) { return loss.where == newest; };
      EXPECT_TRUE(std::ranges::any_of(repaired->losses, names_it));
    }
  }
}

// A store of a defib that did not write log.head, or whose log.head was removed or damaged.
TEST(StoreMissingSegment, IsSaidToBePossibleOnceWhereNothingCanTell) {
  for (const bool removed : {true, false}) {
    for (const Way& way : ways()) {
      SCOPED_TRACE(way.name + (removed ? ", log.head removed" : ", log.head damaged"));
      Recording r(5, nullptr);
      r.open();
      way.go(r);
      r.drop();
      const auto spoiled = [&](std::unique_ptr<os::SimFiles> disk) {
        if (removed) {
          EXPECT_TRUE(disk->remove("/s/log.head").has_value());
        } else {
          disk->set_content("/s/log.head", std::string(128, 'x'));
        }
        return disk;
      };
      PacedClock clock;
      for (int i = 0; i < r.boots(); ++i) clock.reboot(std::chrono::seconds(1));
      SteppedExecutor executor;
      {
        // The last process's word is about this segment: it had begun no later one.
        const auto disk = spoiled(r.disk().killed(r.disk().operations(), 0));
        const auto store = Store::open(kDir, small_store(*disk, clock, executor));
        ASSERT_TRUE(store.has_value()) << store.error().to_text();
        EXPECT_EQ(loss_in(**store), "");
      }
      const auto disk = spoiled(r.disk().crashed(r.disk().operations(), 0));
      clock.reboot(std::chrono::seconds(1));
      const Options options = small_store(*disk, clock, executor);
      {
        const auto store = Store::open(kDir, options);
        ASSERT_TRUE(store.has_value()) << store.error().to_text();
        EXPECT_EQ(dump(**store), r.state(r.last()));
        const std::string loss = loss_in(**store);
        EXPECT_NE(loss.find("log.head"), std::string::npos);
        EXPECT_NE(loss.find(fmt::format("from {} on", r.last() + 1)), std::string::npos) << loss;
      }
      EXPECT_TRUE(Store::verify_files(kDir, options)->findings.empty());
      const auto store = Store::open(kDir, options);
      ASSERT_TRUE(store.has_value());
      EXPECT_EQ(loss_in(**store), "") << "it was said";
      const std::string newest = segments_of(*disk).back();
      EXPECT_EQ(read_log_head(*disk, kDir, Store::status(kDir, options)->uuid).newest->first_lsn,
                parse_segment_name(newest)->first_lsn);
    }
  }
}

TEST(StoreMissingSegment, WithoutALogHeadACleanlyClosedStoreIsWhole) {
  Recording r(5, nullptr);
  r.open();
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  r.close();
  ASSERT_TRUE(r.disk().remove("/s/log.head").has_value());
  EXPECT_TRUE(Store::verify_files(kDir, r.options())->findings.empty());
  r.open();
  EXPECT_TRUE(r.store().recovery_result().stages.empty());
  r.must_commit(Durability::kPower);
  r.drop();
  EXPECT_TRUE(r.disk().exists("/s/log.head"));
}

// A segment in which nothing was ever written, and that a close takes away, is not missed by the
// opening after it, wherever that is killed.
TEST(StoreMissingSegment, IsNoEmptyOneThatAnEarlierOpeningLeft) {
  Recording r(5, nullptr);
  r.open();
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  r.all_durable(r.store().checkpoint());
  r.disk().set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!what.starts_with("write /s/wal/") || what.find(" at 4096,") == what.npos) {
      return std::nullopt;
    }
    return Error(Code::kNoSpace, "injected");
  });
  const auto refused = r.commit(Durability::kPower);
  ASSERT_FALSE(refused.has_value());
  ASSERT_EQ(refused.error().code(), Code::kStoreFull);
  r.disk().set_fault(nullptr);
  r.drop();
  ASSERT_EQ(segments_of(r.disk()).size(), 1U) << "the empty one";
  r.open();
  ASSERT_TRUE(r.store().close().has_value());
  r.drop();
  ASSERT_EQ(segments_of(r.disk()).size(), 0U);
  const std::size_t before = r.disk().operations();
  r.open();
  r.must_commit(Durability::kPower);
  r.drop();
  for (std::size_t n = before; n <= r.disk().operations(); ++n) {
    const auto image = r.disk().killed(n, 0);
    SteppedExecutor executor;
    const auto store = Store::open(kDir, small_store(*image, r.clock(), executor));
    ASSERT_TRUE(store.has_value()) << n << ": " << store.error().to_text();
  }
}

// ---- Streams ---------------------------------------------------------------------------------

class StoreStream : public testing::Test {
 protected:
  // Several segments, all retained, all but the last covered by a checkpoint.
  void SetUp() override {
    keep_ = r_.options();
    keep_.log_retention = 1 << 20;
    r_.open(keep_);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 3; ++i) r_.must_commit(Durability::kPower);
      r_.all_durable(r_.store().checkpoint());
    }
    r_.must_commit(Durability::kPower);
    segments_ = segments_of(r_.disk());
    ASSERT_EQ(segments_.size(), 5U);
  }
  // Numbers that came, which must follow one another; and how it ended.
  Result<> stream(std::uint64_t from) {
    seen_.clear();
    return r_.store().stream(from, [&](const CommittedTransaction& transaction) {
      EXPECT_EQ(transaction.number, seen_.empty() ? from : seen_.back() + 1);
      seen_.push_back(transaction.number);
      return true;
    });
  }
  std::uint64_t first_of(std::size_t i) { return parse_segment_name(segments_.at(i))->first_lsn; }

  Recording r_{5, nullptr};
  Options keep_;
  std::vector<std::string> segments_;
  std::vector<std::uint64_t> seen_;
};

TEST_F(StoreStream, GivesEveryCommitThatTheLogHas) {
  ASSERT_TRUE(stream(1).has_value());
  EXPECT_EQ(seen_.size(), r_.last());
  ASSERT_TRUE(stream(r_.last()).has_value());
  EXPECT_EQ(seen_.size(), 1U);
  ASSERT_TRUE(stream(r_.last() + 1).has_value());
  EXPECT_EQ(seen_.size(), 0U);
}

TEST_F(StoreStream, EndsAtARemovedSegmentWithTheFirstAndTheLastMissingCommit) {
  for (std::size_t i = 1; i < segments_.size(); ++i) {
    const std::string path = "/s/wal/" + segments_[i];
    const std::string content = r_.disk().content(path);
    ASSERT_TRUE(r_.disk().remove(path).has_value());
    const std::uint64_t next = i + 1 < segments_.size() ? first_of(i + 1) : r_.last() + 1;
    for (const std::uint64_t from : {std::uint64_t{1}, first_of(i) - 1, first_of(i)}) {
      const auto ended = stream(from);
      ASSERT_FALSE(ended.has_value()) << segments_[i] << " from " << from;
      EXPECT_EQ(ended.error().code(), Code::kWalCorrupted);
      EXPECT_EQ(ended.error().field("first_lost_commit"), std::to_string(first_of(i)));
      EXPECT_EQ(ended.error().field("last_lost_commit"), std::to_string(next - 1));
      EXPECT_EQ(seen_.size(), first_of(i) - from);
    }
    if (next <= r_.last()) {
      EXPECT_TRUE(stream(next).has_value()) << "behind the hole";
    }
    (void)*r_.disk().open(path, os::OpenMode::kCreate);
    r_.disk().set_content(path, content);
  }
  ASSERT_TRUE(r_.disk().remove("/s/wal/" + segments_[0]).has_value());
  const auto gone = stream(1);
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error().code(), Code::kNotFound);
  EXPECT_EQ(gone.error().field("first"), std::to_string(first_of(1)));
}

TEST_F(StoreStream, EndsAtDamageInsideARetainedSegment) {
  for (std::size_t i = 0; i + 1 < segments_.size(); ++i) {
    const std::string path = "/s/wal/" + segments_[i];
    const std::string content = r_.disk().content(path);
    for (const std::size_t at : {std::size_t{9}, kPageSize + kBlockHeaderSize + std::size_t{3}}) {
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      r_.disk().set_content(path, damaged);
      const auto ended = stream(1);
      ASSERT_FALSE(ended.has_value()) << path << " at " << at;
      EXPECT_EQ(ended.error().field("first_lost_commit"), std::to_string(first_of(i)));
      EXPECT_EQ(ended.error().field("last_lost_commit"), std::to_string(first_of(i + 1) - 1));
      EXPECT_EQ(seen_.size(), first_of(i) - 1);
    }
    r_.disk().set_content(path, content);
  }
}

}  // namespace
}  // namespace defib::store
