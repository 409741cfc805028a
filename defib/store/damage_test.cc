// Damaged files: every byte of a small store changed, every file cut at every length. What comes
// back is the right data, a typed error, or less data together with a report that some may be lost.
//
// The short form leaves out most places in the middle of long runs of zeros; with
// DEFIB_DAMAGE_ALL=1, as tools/crash-test --long has it, no place is left out.

#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/os/pass_through_files.h"
#include "defib/store/format.h"
#include "defib/store/lock.h"
#include "defib/store/maintenance.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/sample.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::number_from_environment;
using testing_util::PacedClock;
using testing_util::Recording;
using testing_util::require;
using testing_util::Sample;
using testing_util::small_store;
using testing_util::State;
using testing_util::SteppedExecutor;
using testing_util::try_dump;

enum class Where { kInTheLog, kCheckpointed, kClosed };

struct Subject {
  std::unique_ptr<os::SimFiles> disk;
  std::unique_ptr<Recording> recording;
  const State& whole() const { return recording->state(recording->last()); }
};

// Everything in the log; or two checkpoints and commits behind them; or that, closed.
Subject make_subject(Where where) {
  Subject subject;
  subject.recording = std::make_unique<Recording>(5, nullptr);
  Recording& r = *subject.recording;
  r.open();
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower);
  if (where != Where::kInTheLog) r.all_durable(r.store().checkpoint());
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  if (where != Where::kInTheLog) r.all_durable(r.store().checkpoint());
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  if (where == Where::kClosed) r.close();
  r.drop();
  subject.disk = r.disk().killed(r.disk().operations(), 0);
  return subject;
}

bool reports_loss(const recovery::ProcedureResult& result) {
  const recovery::StageRecord* stage = result.find("wal_validation");
  if (stage == nullptr) return false;
  for (const auto& [name, value] : stage->metrics) {
    if (name == "loss_possible") return true;
  }
  return false;
}

// A store that cannot be read as a whole: each key is right or an error.
std::string judge_keys(const Snapshot& snapshot, const State& expected) {
  for (const auto& [key, value] : expected) {
    const auto found = snapshot.get(key.first, key.second);
    if (!found && found.error().code() != Code::kCorrupted) {
      return "an untyped error of a read: " + found.error().to_text();
    }
    if (found && *found != value) return "a wrong value, or a missing key without an error";
  }
  return {};
}

// Empty where the damaged disk behaves; else what is wrong.
// `shown_position` becomes the commit that it shows, where it opens.
std::string judge(os::Files& files, const Recording& recording, bool rebooted = true,
                  std::uint64_t* shown_position = nullptr) {
  PacedClock clock;
  if (rebooted) clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const Options options = small_store(files, clock, executor);
  const auto verified = Store::verify_files(kDir, options);
  const bool is_found = !verified || !verified->findings.empty();
  const auto status = Store::status(kDir, options);
  (void)status;
  const auto store = Store::open(kDir, options);
  if (!store) {
    const int code = store.error().number();
    if (code > -70 || code < -90) return "an untyped error: " + store.error().to_text();
    return is_found ? "" : "it does not open, but verifies";
  }
  const auto snapshot = *(*store)->snapshot();
  const std::uint64_t position = snapshot->position();
  if (shown_position != nullptr) *shown_position = position;
  if (position > recording.last()) return "a commit that never was";
  const State& expected = recording.state(position);
  const Result<State> shown = try_dump(*snapshot);
  if (!shown) {
    if (!is_found) return "it cannot be read, but verifies";
    if (auto problem = judge_keys(*snapshot, expected); !problem.empty()) return problem;
  } else if (*shown != expected) {
    return "wrong data";
  }
  if (position == recording.last()) return {};
  if (!reports_loss((*store)->recovery_result())) return "commits are missing without a report";
  return is_found ? "" : "commits are missing, but it verifies";
}

// The places to try: all, but in the short form few of those with only zeros around.
std::vector<std::size_t> places(const std::string& content) {
  constexpr std::size_t kAround = 32;
  constexpr std::size_t kStep = 97;
  const bool all = number_from_environment("DEFIB_DAMAGE_ALL", 0) != 0;
  std::vector<std::size_t> chosen;
  std::size_t last_byte = 0;  // that was not zero
  for (std::size_t at = 0; at < content.size(); ++at) {
    if (content[at] != 0) last_byte = at;
    const bool near_start = at < kAround || at + kAround >= content.size();
    if (all || near_start || at - last_byte < kAround || at % kStep == 0) chosen.push_back(at);
  }
  return chosen;
}

class StoreDamage : public testing::TestWithParam<Where> {};

TEST_P(StoreDamage, OfAnyByteNeverYieldsWrongData) {
  const Subject subject = make_subject(GetParam());
  ASSERT_EQ(judge(*subject.disk->killed(0, 0), *subject.recording), "");
  std::uint64_t trials = 0;
  Sample sample("damaged bytes");
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (const std::size_t at : places(content)) {
      if (!sample.takes(at)) continue;
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      disk->set_content(path, damaged);
      ASSERT_EQ(judge(*disk, *subject.recording, at % 16 != 0), "") << path << ", byte " << at;
      ++trials;
    }
  }
  fmt::print("  {} damaged bytes\n", trials);
}

TEST_P(StoreDamage, ByCuttingAFileAnywhereNeverYieldsWrongData) {
  const Subject subject = make_subject(GetParam());
  Sample sample("cuts");
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (const std::size_t size : places(content)) {
      if (!sample.takes(size)) continue;
      if (size > 200 && size % 8 != 0 && number_from_environment("DEFIB_DAMAGE_ALL", 0) == 0) {
        continue;
      }
      const auto disk = subject.disk->killed(0, 0);
      disk->set_content(path, content.substr(0, size));
      ASSERT_EQ(judge(*disk, *subject.recording), "") << path << ", cut to " << size;
    }
  }
}

TEST_P(StoreDamage, ByRemovingAFileNeverYieldsWrongData) {
  const Subject subject = make_subject(GetParam());
  for (const std::string& path : subject.disk->all_files()) {
    if (path.ends_with("/store.id")) continue;  // Without it there is no store to speak of.
    const auto disk = subject.disk->killed(0, 0);
    ASSERT_TRUE(disk->remove(path).has_value());
    const auto same_run = disk->killed(disk->operations(), 0);
    ASSERT_EQ(judge(*disk, *subject.recording), "") << path << " removed";
    ASSERT_EQ(judge(*same_run, *subject.recording, false), "") << path << " removed, same run";
  }
}

// Whole 512-byte sectors: lost (zeros), or another sector of the same store in their place.
TEST_P(StoreDamage, OfWholeSectorsNeverYieldsWrongData) {
  const Subject subject = make_subject(GetParam());
  os::Random random(7);
  std::vector<std::string> files = subject.disk->all_files();
  Sample sample("sectors", testing_util::kFewCases);
  for (const std::string& path : files) {
    const std::string content = subject.disk->content(path);
    for (std::size_t at = 0; at < content.size(); at += 512) {
      const std::string& other = files[random.below(files.size())];
      const std::string source = subject.disk->content(other);
      const std::size_t sectors = (source.size() + 511) / 512;
      const std::size_t from = sectors == 0 ? 0 : random.below(sectors) * 512;
      const std::size_t size = std::min<std::size_t>(512, content.size() - at);
      for (std::string sector :
           {std::string(), source.substr(std::min(from, source.size()), 512)}) {
        sector.resize(size);
        if (content.compare(at, size, sector) == 0 || !sample.takes(at)) continue;
        const auto disk = subject.disk->killed(0, 0);
        std::string damaged = content;
        damaged.replace(at, size, sector);
        disk->set_content(path, damaged);
        ASSERT_EQ(judge(*disk, *subject.recording), "")
            << path << ", sector at " << at << ", from " << other << " at " << from;
      }
    }
  }
}

TEST_P(StoreDamage, IsRepairedIntoANewStoreThatListsWhatIsMissing) {
  const Subject subject = make_subject(GetParam());
  PacedClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  Sample sample("repairs");
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (std::size_t at = 0; at < content.size(); at += 61) {
      if (!sample.takes(at)) continue;
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
      disk->set_content(path, damaged);
      const Options options = small_store(*disk, clock, executor);
      const auto report = repair(kDir, "/new", options);
      ASSERT_TRUE(report.has_value())
          << path << ", byte " << at << ": " << report.error().to_text();
      EXPECT_EQ(disk->content(path), damaged) << "repair changed its source";
      const auto store = Store::open("/new", options);
      ASSERT_TRUE(store.has_value());
      const bool is_whole = dump(**store) == subject.whole();
      EXPECT_TRUE(is_whole || !report->losses.empty()) << path << " " << at;
    }
  }
}

TEST_P(StoreDamage, OfNothingIsRepairedWithoutLoss) {
  const Subject subject = make_subject(GetParam());
  PacedClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const Options options = small_store(*subject.disk, clock, executor);
  const auto report = repair(kDir, "/new", options);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_TRUE(report->losses.empty()) << report->losses[0];
  EXPECT_EQ(dump(**Store::open("/new", options)), subject.whole());
}

INSTANTIATE_TEST_SUITE_P(States, StoreDamage,
                         testing::Values(Where::kInTheLog, Where::kCheckpointed, Where::kClosed),
                         [](const auto& test) {
                           switch (test.param) {
                             case Where::kInTheLog:
                               return "in_the_log";
                             case Where::kCheckpointed:
                               return "checkpointed";
                             case Where::kClosed:
                               return "closed";
                           }
                           return "";
                         });

// A write that the device lost or put elsewhere while the store worked: found out at the latest
// when the store is opened again, and never wrong data.
TEST(StoreDamageOnTheWay, OfALostOrMisdirectedWriteNeverYieldsWrongData) {
  using Mischief = os::SimFiles::Mischief;
  const auto work = [](Recording& r) {
    r.open();
    for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 200);
    r.all_durable(r.store().checkpoint());
    for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 200);
    r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kPower, 200);
    r.drop();
  };
  std::size_t operations = 0;
  {
    Recording healthy(5, nullptr);
    work(healthy);
    operations = healthy.disk().operations();
  }
  std::map<std::string, int> outcomes;
  Sample sample("writes that went wrong", testing_util::kFewCases);
  for (std::size_t n = 0; n < operations; ++n) {
    if (!sample.takes(n)) continue;
    for (const Mischief& mischief :
         {Mischief{}, Mischief{.kind = Mischief::Kind::kMisdirectWrite, .offset = 512},
          Mischief{.kind = Mischief::Kind::kMisdirectWrite, .offset = 4096}}) {
      Recording r(5, nullptr);
      r.disk().set_mischief([&](std::size_t index, std::string_view) {
        return index == n ? std::optional(mischief) : std::nullopt;
      });
      work(r);
      r.disk().set_mischief(nullptr);
      const auto image = r.disk().crashed(r.disk().operations(), 0);
      std::uint64_t position = 0;
      const std::string problem = judge(*image, r, true, &position);
      ++outcomes[problem];
      // The log's very last block as if it was never written: no file can tell.
      if (problem.starts_with("commits are missing") && position + 1 == r.last()) continue;
      ASSERT_EQ(problem, "") << r.disk().describe_operation(n) << " went wrong";
    }
  }
  for (const auto& [problem, count] : outcomes) {
    fmt::print("  {}: {}\n", problem.empty() ? "right, refused or reported" : problem, count);
  }
}

// The same with runs and merges, to the same and to other files, seen after a power failure and
// after a kill whose page cache the kernel has dropped. After a kill not even the log's last block
// may be missing without a word.
class MischiefCampaign {
 public:
  using Mischief = os::SimFiles::Mischief;
  // Small runs and a merge into a new base.
  static void work(Recording& r) {
    r.open();
    for (int round = 0; round < 10; ++round) {
      r.must_commit(Durability::kPower, 120);
      r.all_durable(r.store().checkpoint());
    }
    r.executor().run_all();
    require(r.store().statistics().merges == 1, "nothing was merged");
    for (int i = 0; i < 2; ++i) r.must_commit(Durability::kPower, 120);
    r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kPower, 120);
    r.drop();
  }

  void run() {
    std::vector<std::size_t> writes;
    {
      Recording healthy(6, nullptr);
      work(healthy);
      for (std::size_t n = 0; n < healthy.disk().operations(); ++n) {
        if (healthy.disk().describe_operation(n).starts_with("write ")) writes.push_back(n);
      }
    }
    for (const std::size_t n : writes) {
      for (const Mischief& mischief : mischiefs()) {
        ASSERT_NO_FATAL_FAILURE(commit_mischief(n, mischief));
      }
    }
    fmt::print("  {} writes, {} ways each: {} right, refused or reported, {} last blocks unseen\n",
               writes.size(), mischiefs().size(), good_, unseen_);
    EXPECT_GT(writes.size(), 100U);
    EXPECT_GT(good_, 20 * unseen_);
  }

 private:
  static std::vector<Mischief> mischiefs() {
    const auto elsewhere = [](std::string path, std::uint64_t offset) {
      return Mischief{
          .kind = Mischief::Kind::kMisdirectWrite, .path = std::move(path), .offset = offset};
    };
    return {Mischief{},
            elsewhere("", 4096),
            elsewhere("/s/index.pg", 4096),
            elsewhere("/s/dwb.pg", 4096),
            elsewhere("/s/data/0000000000000001.base", 4096),
            elsewhere("/s/log.head", 0)};
  }

  void commit_mischief(std::size_t n, const Mischief& mischief) {
    Recording r(6, nullptr);
    r.disk().set_mischief([&](std::size_t index, std::string_view) {
      return index == n ? std::optional(mischief) : std::nullopt;
    });
    work(r);
    r.disk().set_mischief(nullptr);
    const std::size_t operations = r.disk().operations();
    for (const bool rebooted : {true, false}) {
      const auto image =
          rebooted ? r.disk().crashed(operations, 0) : r.disk().killed(operations, 0);
      if (!rebooted) {
        for (const std::string& path : image->all_files()) {
          ASSERT_TRUE((*image->open(path, os::OpenMode::kWrite))->drop_cache().has_value());
        }
      }
      std::uint64_t position = 0;
      const std::string problem = judge(*image, r, rebooted, &position);
      const bool unseen =
          rebooted && problem.starts_with("commits are missing") && position + 1 == r.last();
      if (unseen) ++unseen_;
      if (problem.empty()) ++good_;
      ASSERT_TRUE(unseen || problem.empty())
          << problem << ": " << r.disk().describe_operation(n) << " went to '" << mischief.path
          << "', " << mischief.offset
          << (rebooted ? ", then power failed" : ", then it was killed");
    }
  }
  int good_ = 0;
  int unseen_ = 0;  // where no file can tell
};

TEST(StoreDamageOnTheWay, AmongRunsAndMergesNeverYieldsWrongData) {
  MischiefCampaign().run();
}

// Who holds the lock is told by a record that the lock itself does not protect.
TEST(StoreDamageLock, OfAnyByteLeavesNoRecordOrTheSameOne) {
  LockRecord record;
  record.state = "open";
  record.pid = 4711;
  record.start_time = 12345;
  record.boot_id = "00000000-0000-4000-8000-000000000000";
  record.since = "2026-11-20T13:05:58.123456789Z";
  record.program = "engine";
  const std::string sound = encode(record);
  ASSERT_TRUE(decode_lock_record(sound).has_value());
  for (std::size_t at = 0; at < sound.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = sound;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const auto decoded = decode_lock_record(damaged);
      if (decoded) {
        EXPECT_EQ(encode(*decoded), sound) << "byte " << at << ", bit " << bit;
      }
    }
  }
}

// A reader without checksums must not get through the same test: the planted bug of this file.
class BlindFile final : public os::PassThroughFile {
 public:
  BlindFile(std::unique_ptr<os::File> file, bool is_log)
      : PassThroughFile(std::move(file)), is_log_(is_log) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    DEFIB_TRY_ASSIGN(const std::size_t got, file_->read_at(offset, to, size));
    if (is_log_ && offset == 0) make_right({to, got});
    return got;
  }
  Result<std::unique_ptr<os::FileView>> map() override {
    return os::File::map();  // Through read_at().
  }

 private:
  // Gives every block the checksum that its payload has.
  static void make_right(std::span<char> bytes) {
    for (std::size_t at = kPageSize; at + kBlockHeaderSize <= bytes.size(); at += kBlockAlignment) {
      std::string problem;
      auto header = decode_block_header({bytes.data() + at, kBlockHeaderSize}, problem);
      if (!header || at + kBlockHeaderSize + header->payload_size > bytes.size()) continue;
      header->payload_crc = crc32c({bytes.data() + at + kBlockHeaderSize, header->payload_size});
      std::string fixed;
      encode(*header, fixed);
      std::ranges::copy(fixed, bytes.data() + at);
    }
  }
  bool is_log_;
};

class BlindFiles final : public os::PassThroughFiles {
 public:
  using PassThroughFiles::PassThroughFiles;
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(
        std::make_unique<BlindFile>(std::move(file), path.ends_with(".wal")));
  }
};

TEST(StoreDamageProof, CatchesAReaderThatDoesNotCheckPayloads) {
  const Subject subject = make_subject(Where::kInTheLog);
  for (const std::string& path : subject.disk->all_files()) {
    if (!path.ends_with(".wal")) continue;
    const std::string content = subject.disk->content(path);
    for (std::size_t at = kPageSize; at < content.size(); ++at) {
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      disk->set_content(path, damaged);
      BlindFiles blind(*disk);
      if (judge(blind, *subject.recording) == "wrong data") return;
    }
  }
  FAIL() << "nobody noticed";
}

}  // namespace
}  // namespace defib::store
