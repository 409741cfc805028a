// The log's writing side: what is on the disk after any crash, planted bugs, faults, full disks,
// threads.

#include "defib/store/log_writer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "defib/base/bytes.h"
#include "defib/os/pass_through_files.h"
#include "defib/store/executor.h"
#include "defib/store/testing/log_campaign.h"
#include "defib/store/testing/sample.h"

namespace defib::store {
namespace {

using os::PassThroughFile;
using os::PassThroughFiles;
using testing_util::FilesWrapper;
using testing_util::log_workload;
using testing_util::LogCampaign;
using testing_util::LogMisuse;
using testing_util::LogRecording;
using testing_util::Sample;
using testing_util::SteppedExecutor;

bool is_zero(std::string_view bytes) {
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

TEST(LogWriterCrash, NoCrashLosesWhatWasAcknowledgedOrShowsWhatWasNot) {
  std::uint64_t points = 0;
  Sample sample("crash campaigns of the log writer", testing_util::kFewCases);
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    if (!sample.takes(seed)) continue;
    LogCampaign campaign({.seed = seed, .wrapper = {}, .misuse = {}});
    campaign.run(log_workload);
    ASSERT_EQ(campaign.violation(), "");
    points += campaign.crash_points();
  }
  if (sample.is_all()) {
    EXPECT_GT(points, 5000U);
  }
}

TEST(LogWriterCrash, AFullDiskLeavesNothingThatACrashCouldShow) {
  Sample sample("campaigns on a full disk", testing_util::kFewCases);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    if (!sample.takes(seed)) continue;
    LogCampaign campaign({.seed = seed, .wrapper = {}, .misuse = {}});
    campaign.run([](LogRecording& r) {
      for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(r.append(2, 300).has_value());
        ASSERT_TRUE(r.sync().has_value());
        if (r.random().below(2) == 0) r.executor().step();
        r.disk().set_capacity(0);
        for (int i = 0; i < 30; ++i) {
          const Result<> appended = r.append(1, 2000);
          if (!appended) {
            EXPECT_EQ(appended.error().code(), Code::kNoSpace);
          }
          if (appended && r.random().below(3) == 0) r.acknowledge_written();
        }
        ASSERT_TRUE(r.sync().has_value());
        r.executor().step();
        r.disk().set_capacity(~0ULL);
        ASSERT_TRUE(r.append(1, 2000).has_value());
        ASSERT_TRUE(r.sync().has_value());
      }
    });
    ASSERT_EQ(campaign.violation(), "");
  }
}

// ---- Planted bugs --------------------------------------------------------------------------

struct Bug {
  std::string name;
  LogMisuse misuse = {};
  bool skips_all_syncs = false;
  bool skips_sync_before_rename = false;  // of a spare that becomes a segment
  bool skips_dir_syncs = false;
  bool skips_zeros_in_old_files = false;
  bool leaves_no_zeros = false;
  bool delays_syncs = false;
  bool ignores_truncate = false;
  bool loses_every_seventh_write = false;
  bool shifts_every_seventh_write = false;
  bool lies_about_durable = false;
  bool breaks_the_chain = false;
  bool forgets_head = false;
};

class BuggyFile final : public PassThroughFile {
 public:
  BuggyFile(const Bug& bug, int& writes, bool is_old, std::unique_ptr<os::File> file)
      : PassThroughFile(std::move(file)), bug_(bug), writes_(writes), is_old_(is_old) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    DEFIB_TRY(catch_up());
    return file_->read_at(offset, to, size);
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    DEFIB_TRY(catch_up());
    if (is_zero(bytes)) {
      if (bug_.leaves_no_zeros || (bug_.skips_zeros_in_old_files && is_old_)) return {};
      return file_->write_at(offset, bytes);
    }
    std::string changed(bytes);
    if (offset > 0) {
      holds_blocks_ = true;
      ++writes_;
      if (bug_.loses_every_seventh_write && writes_ % 7 == 0) return {};
      if (bug_.shifts_every_seventh_write && writes_ % 7 == 0) offset += 512;
      if (bug_.leaves_no_zeros) changed.resize(changed.find_last_not_of('\0') + 1);
      change_header(changed);
    }
    return file_->write_at(offset, changed);
  }
  Result<> sync() override {
    if (bug_.skips_all_syncs || (bug_.skips_sync_before_rename && !holds_blocks_)) return {};
    owes_sync_ = bug_.delays_syncs;
    return owes_sync_ ? Result<>() : file_->sync();
  }
  Result<> truncate(std::uint64_t size) override {
    DEFIB_TRY(catch_up());
    return bug_.ignores_truncate ? Result<>() : file_->truncate(size);
  }

 private:
  Result<> catch_up() { return std::exchange(owes_sync_, false) ? file_->sync() : Result<>(); }
  void change_header(std::string& bytes) const {
    if (!bug_.lies_about_durable && !bug_.breaks_the_chain) return;
    std::string problem;
    auto header = decode_block_header(bytes, problem);
    if (!header) return;
    if (bug_.lies_about_durable) header->durable_lsn = header->first_lsn - 1;
    if (bug_.breaks_the_chain) header->previous_crc = 0;
    encode(*header, bytes.data());
  }
  const Bug& bug_;
  int& writes_;
  bool is_old_;  // it held something when it was opened
  bool holds_blocks_ = false;
  bool owes_sync_ = false;
};

class BuggyFiles final : public PassThroughFiles {
 public:
  BuggyFiles(const Bug& bug, os::Files& files) : PassThroughFiles(files), bug_(bug) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    const bool is_old = files_.exists(path);
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(
        std::make_unique<BuggyFile>(bug_, writes_, is_old, std::move(file)));
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    if (bug_.forgets_head && to.ends_with("/log.head")) return {};
    return files_.rename(from, to);
  }
  Result<> sync_dir(const std::string& path) override {
    return bug_.skips_dir_syncs ? Result<>() : files_.sync_dir(path);
  }

 private:
  const Bug& bug_;
  int writes_ = 0;
};

std::vector<Bug> bugs() {
  return {
      {.name = "no sync", .skips_all_syncs = true},
      {.name = "a commit is acknowledged before its sync",
       .misuse = {.acknowledges_before_sync = true}},
      {.name = "a sync returns before it is done", .delays_syncs = true},
      {.name = "the watermark is stored before the write",
       .misuse = {.watermark_before_write = true}},
      {.name = "the watermark is never stored", .misuse = {.watermark_never_stored = true}},
      {.name = "the reader ignores the watermark", .misuse = {.reader_ignores_watermark = true}},
      {.name = "the reader ignores log.head", .misuse = {.reader_ignores_head = true}},
      {.name = "log.head stays as it was", .forgets_head = true},
      {.name = "a spare is not synced before it gets its name", .skips_sync_before_rename = true},
      {.name = "no name is synced", .skips_dir_syncs = true},
      {.name = "a used file is not zeroed again", .skips_zeros_in_old_files = true},
      {.name = "the log ends without zeros", .leaves_no_zeros = true},
      {.name = "every seventh write is lost", .loses_every_seventh_write = true},
      {.name = "every seventh write is a sector off", .shifts_every_seventh_write = true},
      {.name = "blocks call durable what is not", .lies_about_durable = true},
      {.name = "blocks do not name the one before", .breaks_the_chain = true},
  };
}

std::string violation_of(const Bug& bug) {
  const FilesWrapper wrapper = [&](os::SimFiles& files) -> std::unique_ptr<os::Files> {
    return std::make_unique<BuggyFiles>(bug, files);
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    LogCampaign campaign({.seed = seed, .wrapper = wrapper, .misuse = bug.misuse});
    campaign.run(log_workload);
    if (!campaign.violation().empty()) return campaign.violation();
  }
  return {};
}

TEST(LogWriterMutant, EachPlantedBugIsCaught) {
  for (const Bug& bug : bugs()) {
    const std::string violation = violation_of(bug);
    EXPECT_NE(violation, "") << "not caught: " << bug.name;
    RecordProperty(bug.name, violation);
  }
}

// ---- Faults --------------------------------------------------------------------------------

// A small fixed workload; answers the first error, and what was acknowledged as durable before it.
struct Outcome {
  std::uint64_t durable = 0;
  std::optional<Error> error;
};
Outcome run_small_workload(os::Files& files, const os::Clock& clock, const Identity& identity,
                           SteppedExecutor& executor, std::unique_ptr<LogWriter>& log) {
  log = std::make_unique<LogWriter>(files, clock,
                                    LogWriter::Start{.dir = "/s",
                                                     .identity = identity,
                                                     .epoch = 1,
                                                     .segment_size = 16 << 10,
                                                     .executor = &executor});
  Outcome outcome;
  const auto good = [&](const Result<>& done) {
    if (!done && !outcome.error) outcome.error = done.error();
    return done.has_value();
  };
  for (std::uint64_t lsn = 1; lsn <= 12; ++lsn) {
    TransactionEncoder encoder;
    encoder.put("t", std::to_string(lsn), std::string(2500, 'v'));
    const std::string payload = encoder.finish(lsn);
    const std::string_view one = payload;
    if (!good(log->append(lsn, {&one, 1}))) return outcome;
    if (lsn % 2 == 0 && !good(log->sync())) return outcome;
    if (lsn % 5 == 0 && !good(log->seal())) return outcome;
    outcome.durable = log->durable_lsn();
    executor.step();
    if (lsn == 8 && (!good(log->rotate()) || !good(log->retire(lsn, 0)))) return outcome;
  }
  return outcome;
}

Identity test_identity() {
  Identity identity;
  identity.uuid = std::string(kUuidSize, '7');
  return identity;
}
void make_dir(os::Files& files) {
  ASSERT_TRUE(files.create_dirs("/s/wal") && files.sync_dir("/s") && files.sync_dir("/"));
}
// Of the segments, for a base that covers up to `covered`.
Result<LogAssessment> assess_disk(os::Files& files, const os::Clock& clock,
                                  std::uint64_t covered = 0) {
  DEFIB_TRY_ASSIGN(const auto names, list_segments(files, "/s"));
  DEFIB_TRY_ASSIGN(const auto segments,
                   scan_segments(files, "/s", names, test_identity(), {}, nullptr));
  LogContext context;
  context.identity = test_identity();
  if (covered > 0) context.base = LogBase{.lsn = covered};
  context.boot_id = clock.boot_id();
  context.ack_word = read_ack_word(files, context.identity.uuid);
  return assess_log(segments, context);
}

class LogWriterFault : public testing::TestWithParam<Code> {};

TEST_P(LogWriterFault, AtWhateverCallItHappensNothingAcknowledgedIsLost) {
  const os::FakeClock clock;
  std::size_t calls = 0;
  {
    os::SimFiles sound;
    make_dir(sound);
    const std::size_t first = sound.operations();
    SteppedExecutor executor;
    std::unique_ptr<LogWriter> log;
    ASSERT_FALSE(run_small_workload(sound, clock, test_identity(), executor, log).error);
    calls = sound.operations() - first;
  }
  ASSERT_GT(calls, 50U);
  std::size_t failed = 0;
  Sample sample("failing calls of the log writer", testing_util::kFewCases);
  for (std::size_t at = 0; at < calls; ++at) {
    if (!sample.takes(at)) continue;
    os::SimFiles disk;
    make_dir(disk);
    const std::size_t first = disk.operations();
    bool happened = false;
    disk.set_fault([&](std::size_t index, std::string_view what) -> std::optional<Error> {
      if (index != first + at) return std::nullopt;
      happened = true;
      return Error(what.starts_with("sync") ? Code::kSyncFailed : GetParam(), "planted");
    });
    SteppedExecutor executor;
    std::unique_ptr<LogWriter> log;
    const Outcome outcome = run_small_workload(disk, clock, test_identity(), executor, log);
    if (!happened) continue;  // A call that cannot fail, such as one of the watermark's.
    ++failed;
    disk.set_fault(nullptr);
    const bool is_final = log->failure().has_value();
    // Only a full disk may be tried again; any other error that shows stays.
    if (outcome.error && outcome.error->code() != GetParam()) {
      EXPECT_TRUE(is_final) << at << ": " << outcome.error->to_line();
    }
    TransactionEncoder encoder;
    encoder.put("t", "later", "v");
    const std::uint64_t next = log->written_lsn() + 1;
    const std::string payload = encoder.finish(next);
    const std::string_view one = payload;
    EXPECT_EQ(log->append(next, {&one, 1}).has_value(), !is_final) << at;
    EXPECT_EQ(log->sync().has_value(), !is_final) << at;
    const std::uint64_t durable = is_final ? outcome.durable : next;
    log.reset();
    const std::uint64_t covered = outcome.durable >= 8 ? 8 : 0;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      const auto image = disk.crashed(disk.operations(), seed);
      os::FakeClock later;
      later.reboot(std::chrono::seconds(1));
      const auto found = assess_disk(*image, later, covered);
      ASSERT_TRUE(found.has_value()) << at << ": " << found.error().to_text();
      EXPECT_GE(found->last_lsn, durable) << "fault at " << at;
    }
  }
  EXPECT_GT(failed, sample.is_all() ? calls / 2 : 0);
}
INSTANTIATE_TEST_SUITE_P(Errors, LogWriterFault,
                         testing::Values(Code::kNoSpace, Code::kSystemCallFailed));

// ---- What it does --------------------------------------------------------------------------

class LogWriterTest : public testing::Test {
 protected:
  LogWriterTest() {
    make_dir(disk_);
    open();
  }
  void open(std::uint64_t segment_size = 64 << 10) {
    const std::uint64_t last = log_ != nullptr ? log_->written_lsn() : 0;
    const std::uint32_t chain = log_ != nullptr ? log_->chain_crc() : 0;
    log_.reset();
    log_ = std::make_unique<LogWriter>(disk_, clock_,
                                       LogWriter::Start{.dir = "/s",
                                                        .identity = test_identity(),
                                                        .epoch = ++epoch_,
                                                        .last_lsn = last,
                                                        .chain_crc = chain,
                                                        .segment_size = segment_size,
                                                        .executor = &executor_});
  }
  void append(std::vector<std::size_t> value_sizes) {
    std::vector<std::string> own;
    const std::uint64_t first = log_->written_lsn() + 1;
    for (const std::size_t size : value_sizes) {
      TransactionEncoder encoder;
      encoder.put("t", "key", std::string(size, 'v'));
      own.push_back(encoder.finish(first + own.size()));
    }
    const std::vector<std::string_view> views(own.begin(), own.end());
    const Result<> appended = log_->append(first, views);
    ASSERT_TRUE(appended.has_value()) << appended.error().to_text();
  }
  std::vector<Segment> scan() {
    const auto names = *list_segments(disk_, "/s");
    return *scan_segments(disk_, "/s", names, test_identity(), {}, nullptr);
  }
  std::vector<std::string> spares() {
    std::vector<std::string> names = *disk_.list("/s/wal");
    std::erase_if(names, [](const std::string& name) { return !is_spare_name(name); });
    return names;
  }

  os::SimFiles disk_;
  os::FakeClock clock_;
  SteppedExecutor executor_;
  std::uint64_t epoch_ = 0;
  std::unique_ptr<LogWriter> log_;
};

TEST_F(LogWriterTest, ManyTransactionsShareBlocksOfBoundedSizeInOneWrite) {
  append({17'000});  // Worth a whole spare.
  executor_.run_all();
  ASSERT_TRUE(log_->rotate().has_value());
  append({10});  // Into a spare.
  const std::size_t before = disk_.operations();
  append(std::vector<std::size_t>(100, 500));
  EXPECT_EQ(disk_.operations(), before + 1) << disk_.describe_operation(before);
  append({10, 20'000, 10});
  std::vector<std::size_t> counts;
  for (const Segment& segment : scan()) {
    for (const ScannedBlock& block : segment.blocks()) {
      counts.push_back(block.header.count);
      if (block.header.count > 1) {
        EXPECT_LE(block.header.payload_size, kMaxSharedPayload);
      }
    }
  }
  // 500 bytes of value are 534 of transaction: 30 in a block.
  EXPECT_EQ(counts, (std::vector<std::size_t>{1, 1, 30, 30, 30, 10, 1, 1, 1}));
  EXPECT_EQ(assess_disk(disk_, clock_)->last_lsn, 105U);
}

TEST_F(LogWriterTest, ASegmentBeginsInASpareAndThenNeitherGrowsNorIsZeroed) {
  append({17'000});  // Nothing was there yet: it grows, and that is worth a whole spare.
  executor_.run_all();
  EXPECT_EQ(spares().size(), 1U);
  append({30'000});  // Would have to grow: the spare is better.
  EXPECT_EQ(scan().size(), 2U);
  const std::size_t before = disk_.operations();
  for (int i = 0; i < 5; ++i) append({100});
  for (std::size_t i = before; i < disk_.operations(); ++i) {
    EXPECT_NE(disk_.describe_operation(i).find(", 256 bytes"), std::string::npos)
        << disk_.describe_operation(i);
  }
}

TEST_F(LogWriterTest, ASpareIsMadeAtThePaceOfTheLogInSmallSteps) {
  constexpr std::uint64_t kSize = 1 << 20;
  open(kSize);
  append({10});
  executor_.run_all();  // The first at once, because the segment grows.
  while (scan().size() < 2) append({8000});
  const std::size_t before = disk_.operations();
  const auto spare_bytes = [&] {
    return spares().empty() ? 0 : disk_.content("/s/wal/" + spares()[0]).size();
  };
  std::uint64_t log_bytes = 0;
  for (; spare_bytes() < kSize; log_bytes += 8000) {
    ASSERT_LT(log_bytes, kSize * 6 / 10) << "two bytes for each byte of log";
    EXPECT_LT(spare_bytes(), 2 * log_bytes + (80 << 10)) << "and not all at once";
    append({8000});
    executor_.step();
  }
  for (std::size_t i = before; i < disk_.operations(); ++i) {
    const std::string what = disk_.describe_operation(i);
    if (!what.starts_with("write") || what.find(".spare at") == std::string::npos) continue;
    EXPECT_LE(std::stoul(what.substr(what.rfind(", ") + 2)), 64U << 10) << what;
  }
}

TEST_F(LogWriterTest, CoveredSegmentsGoButTheCurrentOneAndWhatIsToBeRetained) {
  for (int i = 0; i < 8; ++i) append({40'000});
  ASSERT_TRUE(log_->sync().has_value());
  EXPECT_EQ(scan().size(), 8U);
  ASSERT_TRUE(log_->retire(3, 0).has_value());
  EXPECT_EQ(scan().front().header->first_lsn, 4U);
  ASSERT_TRUE(log_->retire(8, 100'000).has_value());  // Each has 44 KiB.
  auto left = scan();
  ASSERT_EQ(left.size(), 4U);  // Three retained, for two are not enough, and the current one.
  EXPECT_EQ(left.front().header->first_lsn, 5U);
  ASSERT_TRUE(log_->retire(8, 0).has_value());
  EXPECT_EQ(scan().size(), 1U);
  ASSERT_TRUE(log_->rotate().has_value());
  ASSERT_TRUE(log_->retire(7, 0).has_value());
  EXPECT_EQ(scan().size(), 1U) << "commit 8 is not covered";
  ASSERT_TRUE(log_->retire(8, 0).has_value());
  EXPECT_EQ(scan().size(), 0U);
  append({10});
  EXPECT_EQ(scan().front().header->first_lsn, 9U);
}

TEST_F(LogWriterTest, OnlyItsOwnSegmentsAreUsedAgainAndNoneWhileTheyAreHeld) {
  append({40'000});
  append({40'000});
  open();  // A recovery may have mapped these two.
  append({40'000});
  append({40'000});
  append({40'000});
  ASSERT_TRUE(log_->retire(2, 0).has_value());
  EXPECT_EQ(spares().size(), 0U);
  {
    const auto hold = log_->hold_segments();
    ASSERT_TRUE(log_->retire(3, 0).has_value());
    EXPECT_EQ(spares().size(), 0U);
  }
  ASSERT_TRUE(log_->retire(4, 0).has_value());
  ASSERT_EQ(spares().size(), 1U);
  append({10});
  executor_.run_all();
  EXPECT_TRUE(is_zero(disk_.content("/s/wal/" + spares()[0])));
  EXPECT_EQ(disk_.content("/s/wal/" + spares()[0]).size(), 64U << 10);
}

TEST_F(LogWriterTest, LeftoverSparesAreZeroedBeforeTheyAreUsed) {
  append({10});
  const auto file = *disk_.open("/s/wal/00000001.00000099.spare", os::OpenMode::kCreate);
  ASSERT_TRUE(file->write_at(0, std::string(100'000, 'x')).has_value());
  open();
  append({17'000});
  executor_.run_all();
  ASSERT_EQ(spares().size(), 1U);
  EXPECT_TRUE(is_zero(disk_.content("/s/wal/" + spares()[0])));
  log_->discard_spares();
  EXPECT_EQ(spares().size(), 0U);
}

TEST_F(LogWriterTest, AFullDiskTakesTheSpaceOfUnfinishedSparesBeforeACommitFails) {
  open(1 << 20);
  append({70'000});
  executor_.step();  // The first part of one.
  EXPECT_EQ(spares().size(), 1U);
  std::uint64_t used = 0;
  for (const std::string& path : disk_.all_files()) used += disk_.content(path).size();
  disk_.set_capacity(used);
  for (int i = 0; i < 10; ++i) append({5000});
  EXPECT_EQ(spares().size(), 0U);
}

TEST_F(LogWriterTest, SealingClosesTheWindowInWhichTheLastCommitIsAmbiguous) {
  append({100});
  ASSERT_TRUE(log_->sync().has_value());
  const auto rotten = [&] {
    const auto copy = disk_.crashed(disk_.operations(), 1);
    const std::string path = "/s/wal/" + scan()[0].name;
    std::string bytes = copy->content(path);
    bytes[kPageSize + kBlockHeaderSize + 20] ^= 1;
    copy->set_content(path, std::move(bytes));
    os::FakeClock later;
    later.reboot(std::chrono::seconds(1));
    return assess_disk(*copy, later);
  };
  const auto before = rotten();
  ASSERT_TRUE(before.has_value());
  EXPECT_TRUE(before->cut->loss_possible);  // Nothing can tell.
  ASSERT_TRUE(log_->seal().has_value());
  const auto after = rotten();
  ASSERT_FALSE(after.has_value());
  EXPECT_EQ(after.error().code(), Code::kWalCorrupted);
  const std::size_t operations = disk_.operations();
  ASSERT_TRUE(log_->seal().has_value());
  EXPECT_EQ(disk_.operations(), operations) << "once is enough";
  append({100});
  EXPECT_EQ(assess_disk(disk_, clock_)->last_lsn, 2U);
}

TEST_F(LogWriterTest, AFailureIsFinalAndNamesItsCauseForEver) {
  append({10});
  disk_.set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!what.starts_with("sync")) return std::nullopt;
    return Error(Code::kSyncFailed, "the device is gone");
  });
  EXPECT_EQ(log_->sync().error().code(), Code::kSyncFailed);
  disk_.set_fault(nullptr);
  const std::size_t operations = disk_.operations();
  const std::string_view any = "x";
  EXPECT_EQ(log_->sync().error().message(), "the device is gone");
  EXPECT_EQ(log_->append(2, {&any, 1}).error().message(), "the device is gone");
  EXPECT_EQ(log_->rotate().error().message(), "the device is gone");
  EXPECT_EQ(log_->seal().error().message(), "the device is gone");
  EXPECT_EQ(disk_.operations(), operations);
  EXPECT_EQ(log_->durable_lsn(), 0U);
}

// Holds syncs back until it is told to let them go.
class GateFile final : public PassThroughFile {
 public:
  GateFile(std::atomic<bool>& closed, std::atomic<int>& syncs, std::unique_ptr<os::File> file)
      : PassThroughFile(std::move(file)), closed_(closed), syncs_(syncs) {}
  Result<> sync() override {
    ++syncs_;
    syncs_.notify_all();
    closed_.wait(true);
    return file_->sync();
  }

 private:
  std::atomic<bool>& closed_;
  std::atomic<int>& syncs_;
};
class GateFiles final : public PassThroughFiles {
 public:
  using PassThroughFiles::PassThroughFiles;
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(std::make_unique<GateFile>(closed, syncs, std::move(file)));
  }
  std::atomic<bool> closed = false;
  std::atomic<int> syncs = 0;
};

TEST(LogWriterThreads, AppendDoesNotWaitForASyncAndWaitersShareTheNextOne) {
  os::SimFiles disk;
  make_dir(disk);
  GateFiles files(disk);
  const os::FakeClock clock;
  LogWriter log(files, clock,
                {.dir = "/s", .identity = test_identity(), .epoch = 1, .segment_size = 1 << 20});
  const auto append = [&] {
    TransactionEncoder encoder;
    encoder.put("t", "k", "v");
    const std::string payload = encoder.finish(log.written_lsn() + 1);
    const std::string_view one = payload;
    ASSERT_TRUE(log.append(log.written_lsn() + 1, {&one, 1}).has_value());
  };
  append();
  const int before = files.syncs;
  files.closed = true;
  std::vector<std::jthread> threads;
  threads.emplace_back([&] { EXPECT_TRUE(log.sync().has_value()); });
  for (int seen = files.syncs; seen == before; seen = files.syncs) files.syncs.wait(seen);
  for (int i = 0; i < 8; ++i) {
    append();  // Beside the sync that is held back.
    threads.emplace_back([&] { EXPECT_TRUE(log.sync().has_value()); });
  }
  EXPECT_EQ(log.durable_lsn(), 0U);
  files.closed = false;
  files.closed.notify_all();
  threads.clear();
  EXPECT_EQ(log.durable_lsn(), 9U);
  EXPECT_LE(files.syncs - before, 9);
}

TEST(LogWriterThreads, ManyCommittersLeaveAWholeLog) {
  os::SimFiles disk;
  make_dir(disk);
  const os::FakeClock clock;
  OneThread executor;
  constexpr int kThreads = 8;
  constexpr int kCommits = 150;
  {
    LogWriter log(disk, clock,
                  {.dir = "/s",
                   .identity = test_identity(),
                   .epoch = 1,
                   .segment_size = 64 << 10,
                   .executor = &executor});
    std::mutex turn;  // One thread at a time appends.
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < kCommits; ++i) {
          std::uint64_t own = 0;
          {
            const std::lock_guard lock(turn);
            own = log.written_lsn() + 1;
            TransactionEncoder encoder;
            encoder.put("t", std::to_string(own), std::string(300, 'v'));
            const std::string payload = encoder.finish(own);
            const std::string_view one = payload;
            ASSERT_TRUE(log.append(own, {&one, 1}).has_value());
            if (thread == 0 && i % 50 == 49) {
              ASSERT_TRUE(log.seal().has_value());
            }
          }
          ASSERT_TRUE(log.sync().has_value());
          ASSERT_GE(log.durable_lsn(), own);
          log.acknowledge(own);
          if (thread == 1 && i % 40 == 39) {
            const auto hold = log.hold_segments();
            ASSERT_TRUE(log.retire(0, 0).has_value());
          }
        }
      });
    }
  }
  const auto found = assess_disk(disk, clock);
  ASSERT_TRUE(found.has_value()) << found.error().to_text();
  EXPECT_EQ(found->last_lsn, static_cast<std::uint64_t>(kThreads * kCommits));
  EXPECT_FALSE(found->cut.has_value());
}

}  // namespace
}  // namespace defib::store
