// How an opening ends before its time, and what it tells meanwhile: a stop on request, time limits
// of stages, progress. With the real clock, on a log that is long enough to be caught in every
// stage that can be long; and on the simulated disk at every single point where progress is told.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "defib/base/bytes.h"
#include "defib/os/pass_through_files.h"
#include "defib/os/random.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using recovery::Progress;
using std::chrono::milliseconds;
using testing_util::dump;
using testing_util::kDir;
using testing_util::Recording;
using testing_util::TemporaryDir;

constexpr os::Duration kStopWithin = milliseconds(50);
constexpr os::Duration kOvershoot = milliseconds(100);
constexpr os::Duration kLongestSilence = milliseconds(100);  // ten times a second
// Other programs may take the processor at the wrong moment: of so many attempts one has to do.
constexpr int kAttempts = 4;
const char* const kLongStages[] = {"wal_discovery", "wal_validation", "transaction_recovery"};

std::int64_t now() {
  return os::real_clock().mono_ns();
}

// Keeps what it is told, and calls `on_progress` then.
class Watcher : public recovery::Procedure::Observer {
 public:
  struct Told {
    std::int64_t at;
    Progress progress;
  };
  void stage_started(const recovery::StageRecord& record) override {
    if (on_start) on_start(record.name);
  }
  void stage_finished(const recovery::StageRecord& record) override {
    finished.push_back({record.name, record.outcome, record.started_mono_ns, record.duration});
  }
  void progressed(const Progress& progress) override {
    told.push_back({now(), progress});
    if (on_progress) on_progress(progress);
  }
  struct Finished {
    std::string name;
    recovery::StageOutcome outcome;
    std::int64_t started;
    os::Duration duration;
  };
  const Finished& stage(std::string_view name) const {
    return *std::ranges::find(finished, name, &Finished::name);
  }
  std::vector<Told> of(std::string_view name) const {
    std::vector<Told> own;
    for (const Told& one : told) {
      if (one.progress.stage == name && !one.progress.rolling_back) own.push_back(one);
    }
    return own;
  }
  std::vector<Told> told;
  std::vector<Finished> finished;
  std::function<void(const std::string&)> on_start;
  std::function<void(const Progress&)> on_progress;
};

// A store that was killed with everything in its log: 900,000 records of two tables, 180 MB.
class LongLog : public testing::Test {
 protected:
  static constexpr int kCommits = 900;
  static constexpr int kRecords = 1000;  // of each commit
  static Options options(os::Files& files = os::real_files()) {
    Options options;
    options.files = &files;
    options.checkpoint_after = 0;
    options.segment_size = 8 << 20;
    return options;
  }
  static void SetUpTestSuite() {
    dir_ = new TemporaryDir;
    const auto store = *Store::open(dir_->path(), options());
    os::Random random(1);
    const std::string value(150, 'v');
    for (int commit = 0; commit < kCommits; ++commit) {
      auto transaction = *store->begin();
      for (int i = 0; i < kRecords; ++i) {
        const std::string key = fmt::format("{:016x}", random.next());
        ASSERT_TRUE(transaction->put(i % 8 == 0 ? "a" : "b", key, value).has_value());
      }
      ASSERT_TRUE(transaction->commit(Durability::kProcess).has_value());
    }
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static const std::string& dir() { return dir_->path(); }
  // A checksum of every file but the lock's record.
  static std::map<std::string, std::uint32_t> files_of(const std::string& dir) {
    std::map<std::string, std::uint32_t> sums;
    for (const auto& [path, bytes] : testing_util::read_tree(dir)) {
      if (!path.ends_with("/LOCK")) sums[path] = crc32c(bytes);
    }
    return sums;
  }
  static TemporaryDir* dir_;
};
TemporaryDir* LongLog::dir_ = nullptr;

// How long the opening went on after the stop was requested, at `percent` of the stage.
std::optional<os::Duration> stop_at(const std::string& dir, Options options,
                                    const std::string& stage, double percent, Error& error) {
  std::stop_source source;
  Watcher watcher;
  std::int64_t requested = 0;
  watcher.on_progress = [&](const Progress& progress) {
    if (requested != 0 || progress.stage != stage || progress.percent() < percent) return;
    requested = now();
    source.request_stop();
  };
  options.observer = &watcher;
  options.stop = source.get_token();
  const auto store = Store::open(dir, options);
  const os::Duration latency(now() - requested);
  if (requested == 0 || store) return std::nullopt;
  error = store.error();
  return latency;
}

class StoreStop : public LongLog {};

TEST_F(StoreStop, EndsEveryLongStageWithinFiftyMillisecondsAndChangesNoFile) {
  const auto before = files_of(dir());
  for (const std::string stage : kLongStages) {
    os::Duration worst{0};
    for (const double percent : {0.0, 30.0, 60.0, 90.0}) {
      os::Duration best = os::Duration::max();
      for (int i = 0; i < kAttempts && best > kStopWithin; ++i) {
        Error error(Code::kInternal, "it opened");
        const auto latency = stop_at(dir(), options(), stage, percent, error);
        ASSERT_TRUE(latency) << stage << " at " << percent;
        ASSERT_EQ(error.code(), Code::kProcedureAborted) << error.to_text();
        EXPECT_EQ(error.field("stage"), stage);
        EXPECT_NE(error.field("progress").find(" of "), std::string_view::npos);
        EXPECT_EQ(error.field("files_changed"), "no");
        EXPECT_NE(error.message().find(stage), std::string_view::npos);
        EXPECT_NE(error.suggested_action().find("recover"), std::string_view::npos);
        best = std::min(best, *latency);
      }
      worst = std::max(worst, best);
    }
    EXPECT_LE(worst, kStopWithin) << stage;
    fmt::print("  {}: stopped within {}\n", stage, os::format_duration(worst));
  }
  EXPECT_EQ(files_of(dir()), before);
}

TEST_F(StoreStop, FromAnotherThreadEndsItToo) {
  const auto before = files_of(dir());
  std::stop_source source;
  Watcher watcher;
  std::atomic<bool> reading = false;
  watcher.on_start = [&](const std::string& stage) {
    if (stage != "wal_validation") return;
    reading = true;
    reading.notify_all();
  };
  Options own = options();
  own.observer = &watcher;
  own.stop = source.get_token();
  const std::jthread other([&] {
    reading.wait(false);
    source.request_stop();
  });
  const auto stopped = Store::open(dir(), own);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
  EXPECT_EQ(files_of(dir()), before);
}

TEST_F(StoreStop, BeforeTheOpeningOpensNothing) {
  std::stop_source source;
  source.request_stop();
  Options own = options();
  own.stop = source.get_token();
  const auto stopped = Store::open(dir(), own);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
  EXPECT_EQ(stopped.error().field("stage"), "initialization");
  EXPECT_EQ(stopped.error().field("files_changed"), "no");
}

// Somebody holds the lock and has not written his name: the opening waits for it.
TEST_F(StoreStop, EndsTheWaitForTheLock) {
  class Held final : public os::PassThroughFiles {
   public:
    Held() : PassThroughFiles(os::real_files()) {}
    Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
      class Lock final : public os::PassThroughFile {
       public:
        using PassThroughFile::PassThroughFile;
        Result<> try_lock() override { return Error(Code::kDatabaseLocked, "held"); }
      };
      DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
      if (!path.ends_with("/LOCK")) return file;
      return std::unique_ptr<os::File>(std::make_unique<Lock>(std::move(file)));
    }
  } held;
  const TemporaryDir empty;
  std::stop_source source;
  Options own = options(held);
  own.stop = source.get_token();
  own.lock_wait = std::chrono::minutes(5);
  std::int64_t requested = 0;
  Result<std::unique_ptr<Store>> stopped = Error(Code::kInternal, "");
  {
    const std::jthread other([&] {
      std::this_thread::sleep_for(milliseconds(20));
      requested = now();
      source.request_stop();
    });
    stopped = Store::open(empty.path(), own);
  }
  const os::Duration latency(now() - requested);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
  EXPECT_EQ(stopped.error().field("stage"), "lock_acquisition");
  EXPECT_LE(latency, 10 * kStopWithin) << "not five minutes";
}

// A log with a torn tail, a checkpoint and a run before it, as kill -9 leaves it.
void make_small_store(Recording& r) {
  r.open();
  for (int round = 0; round < 3; ++round) {
    r.must_commit(Durability::kPower, {.value_size = 2000, .changes = 10});
    if (round < 2) r.all_durable(r.store().checkpoint());
  }
  r.must_commit(Durability::kPower);
  r.drop();
  std::string last;
  const auto names = r.disk().list("/s/wal");
  for (const std::string& name : *names) {
    if (parse_segment_name(name)) last = "/s/wal/" + name;
  }
  std::string bytes = r.disk().content(last);
  // A block may end with zeros, so well behind what looks like its end.
  const std::size_t end =
      bytes.find_last_not_of('\0') / kBlockAlignment * kBlockAlignment + 2 * kBlockAlignment;
  r.disk().set_content(last, bytes.replace(end, 4, "torn"));
}

std::map<std::string, std::string> contents(const os::SimFiles& disk) {
  std::map<std::string, std::string> all;
  for (const std::string& path : disk.all_files()) {
    if (!path.ends_with("/LOCK")) all[path] = disk.content(path);
  }
  return all;
}

TEST(StoreStopSimulated, AtEveryStageAndAtEveryProgressItLeavesAStoreThatOpens) {
  std::set<std::string> stages;
  for (std::size_t stop_at = 0;; ++stop_at) {
    Recording r(4, nullptr);
    make_small_store(r);
    const auto before = contents(r.disk());
    std::stop_source source;
    Watcher watcher;
    std::size_t seen = 0;
    const auto count = [&] {
      if (seen++ == stop_at) source.request_stop();
    };
    watcher.on_start = [&](const std::string&) { count(); };
    watcher.on_progress = [&](const Progress&) { count(); };
    Options options = r.options();
    options.observer = &watcher;
    options.stop = source.get_token();
    const auto stopped = Store::open(kDir, options);
    if (!source.stop_requested()) {
      EXPECT_TRUE(stopped.has_value());
      break;
    }
    ASSERT_FALSE(stopped.has_value()) << "stop " << stop_at << " has no effect";
    const Error& error = stopped.error();
    ASSERT_EQ(error.code(), Code::kProcedureAborted) << error.to_text();
    EXPECT_FALSE(error.suggested_action().empty());
    EXPECT_FALSE(error.field("progress").empty());
    stages.emplace(error.field("stage"));
    const bool is_unchanged = contents(r.disk()) == before;
    const std::string stage(error.field("stage"));
    const bool is_late = stage == "database_unlock" || stage == "finalization" || stage == "none";
    if (error.field("files_changed") == "no") {
      EXPECT_TRUE(is_unchanged) << error.message();
      EXPECT_FALSE(is_late) << error.message();
    } else {
      EXPECT_TRUE(is_late || stage == "resource_cleanup") << error.message();
    }
    r.open();
    EXPECT_TRUE(r.shows(r.last())) << "after a stop at " << stage;
    r.must_commit(Durability::kPower);
    r.close();
  }
  for (const char* const stage : kLongStages) EXPECT_TRUE(stages.contains(stage)) << stage;
  EXPECT_GE(stages.size(), 11U);
}

TEST(StoreStopSimulated, WhileAnIndexIsBuiltItLeavesAStoreThatBuildsIt) {
  Recording r(4, nullptr);
  r.open();
  for (int i = 0; i < 20; ++i) r.must_commit(Durability::kPower);
  r.close();
  std::stop_source source;
  Options options = r.options();
  options.indexes = testing_util::index_definitions(1);
  options.stop = source.get_token();
  auto extract = options.indexes[0].extract;
  options.indexes[0].extract = [&](std::string_view key, std::string_view value,
                                   std::vector<std::string>& keys) {
    source.request_stop();
    extract(key, value, keys);
  };
  const auto stopped = Store::open(kDir, options);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
  EXPECT_NE(stopped.error().message().find("by_size"), std::string_view::npos);
  options.indexes = testing_util::index_definitions(1);
  options.stop = {};
  const auto store = Store::open(kDir, options);
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  EXPECT_EQ(testing_util::index_problem(**(*store)->snapshot(), r.state(r.last())), std::nullopt);
}

class StoreStageTimeout : public LongLog {};

TEST_F(StoreStageTimeout, OvershootsByAtMostAHundredMilliseconds) {
  const auto before = files_of(dir());
  for (const std::string stage : kLongStages) {
    os::Duration best = os::Duration::max();
    // Shorter than what the quickest of them takes on an idle machine.
    const os::Duration limit = std::chrono::microseconds(100);
    for (int i = 0; i < kAttempts && best > kOvershoot; ++i) {
      Watcher watcher;
      Options own = options();
      own.observer = &watcher;
      own.stage_timeouts[stage] = limit;
      const auto store = Store::open(dir(), own);
      ASSERT_FALSE(store.has_value()) << stage;
      const Error& error = store.error();
      ASSERT_EQ(error.code(), Code::kRecoveryTimeout) << error.to_text();
      EXPECT_EQ(error.field("stage"), stage);
      EXPECT_EQ(error.field("timeout_seconds"), "0.0001");
      EXPECT_NE(error.field("progress").find(" of "), std::string_view::npos);
      best = std::min(best, watcher.stage(stage).duration - limit);
    }
    EXPECT_LE(best, kOvershoot) << stage;
    fmt::print("  {}: {} beyond its limit of {}\n", stage, os::format_duration(best),
               os::format_duration(limit));
  }
  EXPECT_EQ(files_of(dir()), before);
}

TEST_F(StoreStageTimeout, OfAllStagesIsTheOneThatHasNoOther) {
  Options own = options();
  own.stage_timeout = milliseconds(2);
  own.stage_timeouts["wal_discovery"] = std::chrono::minutes(1);
  own.stage_timeouts["lock_acquisition"] = std::chrono::minutes(1);
  const auto store = Store::open(dir(), own);
  ASSERT_FALSE(store.has_value());
  EXPECT_EQ(store.error().code(), Code::kRecoveryTimeout) << store.error().to_text();
  EXPECT_NE(store.error().field("stage"), "wal_discovery");
}

TEST_F(StoreStageTimeout, OfAStageThatDoesNotExistOrThatIsNotPositiveIsMinus76) {
  Options own = options();
  own.stage_timeouts["wal_discovry"] = milliseconds(5);
  EXPECT_EQ(Store::open(dir(), own).error().code(), Code::kRecoveryConfigurationError);
  EXPECT_EQ(Store::open(dir(), own).error().field("setting"), "stage_timeouts[\"wal_discovry\"]");
  own.stage_timeouts = {{"wal_discovery", os::Duration::zero()}};
  EXPECT_EQ(Store::open(dir(), own).error().code(), Code::kRecoveryConfigurationError);
  own.stage_timeouts.clear();
  own.stage_timeout = os::Duration::zero();
  EXPECT_EQ(Store::open(dir(), own).error().field("setting"), "stage_timeout");
}

// A disk that gives so many bytes a second, whoever asks.
class SlowFiles final : public os::PassThroughFiles {
 public:
  explicit SlowFiles(std::uint64_t bytes_per_second)
      : PassThroughFiles(os::real_files()), rate_(bytes_per_second) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    if (!path.ends_with(".wal")) return file;
    return std::unique_ptr<os::File>(std::make_unique<Slow>(std::move(file), *this));
  }

 private:
  class Slow final : public os::PassThroughFile {
   public:
    Slow(std::unique_ptr<os::File> file, SlowFiles& disk)
        : PassThroughFile(std::move(file)), disk_(disk) {}
    Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
      disk_.take(size);
      return file_->read_at(offset, to, size);
    }

   private:
    SlowFiles& disk_;
  };
  void take(std::uint64_t bytes) {
    std::int64_t due = 0;
    {
      const std::lock_guard lock(mutex_);
      free_at_ =
          std::max(free_at_, now()) + static_cast<std::int64_t>(bytes * 1'000'000'000 / rate_);
      due = free_at_;
    }
    const std::int64_t wait = due - now();
    if (wait > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(wait));
  }
  const std::uint64_t rate_;
  std::mutex mutex_;  // guards free_at_
  std::int64_t free_at_ = 0;
};

void expect_monotone(const std::vector<Watcher::Told>& told) {
  for (std::size_t i = 1; i < told.size(); ++i) {
    const Progress& before = told[i - 1].progress;
    const Progress& after = told[i].progress;
    if (before.stage != after.stage || before.what != after.what) continue;
    ASSERT_GE(after.done, before.done);
    ASSERT_EQ(after.total, before.total);
    ASSERT_LE(after.done, after.total);
    ASSERT_GE(after.percent(), before.percent());
  }
}

// The longest time within a stage without a word of it.
os::Duration longest_silence(const Watcher& watcher, std::string_view stage) {
  const Watcher::Finished& whole = watcher.stage(stage);
  std::int64_t last = whole.started;
  os::Duration longest{0};
  for (const Watcher::Told& told : watcher.of(stage)) {
    longest = std::max(longest, os::Duration(told.at - last));
    last = told.at;
  }
  return std::max(longest, os::Duration(whole.started + whole.duration.count() - last));
}

// By how much the worst estimate after a fifth of the stage misses the stage's whole duration.
double worst_estimate(const Watcher& watcher, std::string_view stage) {
  const Watcher::Finished& whole = watcher.stage(stage);
  const auto actual = static_cast<double>(whole.duration.count());
  double worst = 0;
  for (const Watcher::Told& told : watcher.of(stage)) {
    const auto left = told.progress.time_left();
    const auto elapsed = static_cast<double>(told.at - whole.started);
    if (!left || elapsed < actual / 5) continue;
    const double estimated = elapsed + static_cast<double>(left->count());
    worst = std::max(worst, std::abs(estimated - actual) / actual);
  }
  return worst;
}

class StoreProgress : public LongLog {};

TEST_F(StoreProgress, ComesTenTimesASecondAndNeverGoesBack) {
  for (const char* const stage : kLongStages) {
    os::Duration best = os::Duration::max();
    for (int i = 0; i < kAttempts && best > kLongestSilence; ++i) {
      Watcher watcher;
      std::stop_source source;
      // Before the cleanup it ends, so that the log is there for the other tests.
      watcher.on_start = [&](const std::string& name) {
        if (name == "resource_cleanup") source.request_stop();
      };
      Options own = options();
      own.observer = &watcher;
      own.stop = source.get_token();
      ASSERT_FALSE(Store::open(dir(), own).has_value());
      expect_monotone(watcher.told);
      const auto told = watcher.of(stage);
      ASSERT_GE(told.size(), 3U) << stage;
      EXPECT_EQ(told.front().progress.percent(), 0) << stage;
      EXPECT_EQ(told.back().progress.percent(), 100) << stage;
      EXPECT_EQ(*told.back().progress.time_left(), os::Duration::zero()) << stage;
      best = std::min(best, longest_silence(watcher, stage));
      fmt::print("  {}: {}, told {} times, the longest silence {}, estimates within {:.0f} %\n",
                 stage, os::format_duration(watcher.stage(stage).duration), told.size(),
                 os::format_duration(longest_silence(watcher, stage)),
                 100 * worst_estimate(watcher, stage));
    }
    EXPECT_LE(best, kLongestSilence) << stage;
  }
}

// One process through all segments, and several through the parts of a few, on a slow disk.
TEST_F(StoreProgress, OnASlowDiskItComesAsOftenAndTheTimeThatIsLeftIsRight) {
  for (const std::uint64_t segment_size : {8ULL << 20, 256ULL << 20}) {
    const TemporaryDir own_dir;
    Options own = options();
    own.segment_size = segment_size;
    {
      const auto store = *Store::open(own_dir.path(), own);
      const std::string value(1 << 20, 'v');
      for (int i = 0; i < 48; ++i) {
        ASSERT_TRUE(put(*store, "t", std::to_string(i), value, Durability::kProcess).has_value());
      }
    }
    SlowFiles files(60 << 20);
    own.files = &files;
    os::Duration silence = os::Duration::max();
    double estimate = 1;
    // Dropped as if it were killed each time: the next opening has the same to do.
    for (int i = 0; i < kAttempts && (silence > kLongestSilence || estimate > 0.25); ++i) {
      Watcher watcher;
      own.observer = &watcher;
      const auto store = Store::open(own_dir.path(), own);
      ASSERT_TRUE(store.has_value()) << store.error().to_text();
      expect_monotone(watcher.told);
      const std::string_view stage = "wal_validation";
      const os::Duration took = watcher.stage(stage).duration;
      EXPECT_GE(took, milliseconds(500)) << "the disk is not slow";
      silence = longest_silence(watcher, stage);
      estimate = worst_estimate(watcher, stage);
      fmt::print("  segments of {} MiB: {}, the longest silence {}, estimates within {:.0f} %\n",
                 segment_size >> 20, os::format_duration(took), os::format_duration(silence),
                 100 * estimate);
    }
    EXPECT_LE(silence, kLongestSilence);
    EXPECT_LE(estimate, 0.25);
  }
}

// The caller's thread waits for others that read: it still hears of a stop and of the time.
TEST_F(StoreProgress, AStopAndATimeLimitAreHeardOnASlowDiskToo) {
  SlowFiles files(20 << 20);
  for (const double percent : {1.0, 5.0}) {
    os::Duration best = os::Duration::max();
    for (int i = 0; i < kAttempts && best > kStopWithin; ++i) {
      Error error(Code::kInternal, "it opened");
      const auto latency = stop_at(dir(), options(files), "wal_validation", percent, error);
      ASSERT_TRUE(latency);
      EXPECT_EQ(error.code(), Code::kProcedureAborted);
      best = std::min(best, *latency);
    }
    EXPECT_LE(best, kStopWithin);
  }
  const os::Duration limit = milliseconds(150);
  os::Duration best = os::Duration::max();
  for (int i = 0; i < kAttempts && best > limit + kOvershoot; ++i) {
    Watcher watcher;
    Options own = options(files);
    own.observer = &watcher;
    own.stage_timeouts["wal_validation"] = limit;
    const auto late = Store::open(dir(), own);
    ASSERT_FALSE(late.has_value());
    EXPECT_EQ(late.error().code(), Code::kRecoveryTimeout);
    best = std::min(best, watcher.stage("wal_validation").duration);
  }
  EXPECT_LE(best, limit + kOvershoot);
}

// On a copy, for the other tests need the log as it is.
TEST_F(StoreProgress, AfterAllStopsTheStoreOpensWithEverything) {
  const TemporaryDir copy;
  std::filesystem::copy(
      dir(), copy.path(),
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  Error error(Code::kInternal, "it opened");
  ASSERT_TRUE(stop_at(copy.path(), options(), "transaction_recovery", 50, error));
  const auto store = Store::open(copy.path(), options());
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  EXPECT_EQ((*(*store)->snapshot())->position(), static_cast<std::uint64_t>(kCommits));
}

}  // namespace
}  // namespace defib::store
