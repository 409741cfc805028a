// Failing system calls: every operation of a workload and of a recovery fails once, with every
// error that it can have.

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "defib/os/pass_through_files.h"
#include "defib/store/failure_note.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/sample.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::PacedClock;
using testing_util::Recording;
using testing_util::Sample;
using testing_util::small_store;
using testing_util::State;
using testing_util::SteppedExecutor;

using Fault = os::SimFiles::Fault;

// EIO, a failed sync, and ENOSPC, which is what EDQUOT becomes too.
constexpr Code kErrors[] = {Code::kIoError, Code::kSyncFailed, Code::kNoSpace};

Fault fail_once(std::size_t failing, Code code) {
  return [failing, code](std::size_t index, std::string_view what) -> std::optional<Error> {
    if (index != failing) return std::nullopt;
    return Error(code, "injected into: " + std::string(what));
  };
}

bool is_poison(const Error& error) {
  return error.code() == Code::kStorePoisoned;
}

struct Outcome {
  std::size_t operations = 0;
  std::vector<std::uint64_t> acknowledged;  // kPower only
  bool poisoned = false;
};

// Commits, with a checkpoint between, and background work; notes what was acknowledged against
// power failures, and checks that a poisoned store stays that, and readable.
Outcome run_with_fault(Recording& r, const Fault& fault) {
  Outcome outcome;
  r.disk().set_fault(fault);
  auto store = Store::open(kDir, r.options());
  if (store) {
    bool poisoned = false;
    for (std::uint64_t i = 0; i < 12; ++i) {
      const auto committed =
          defib::store::put(**store, "t", fmt::format("{:02}", i), std::string(i * 60, 'v'),
                            i % 4 == 3 ? Durability::kProcess : Durability::kPower);
      if (poisoned) {
        EXPECT_FALSE(committed.has_value()) << "a poisoned store acknowledged a commit";
      }
      if (committed && i % 4 != 3) outcome.acknowledged.push_back(i);
      if (!committed) {
        EXPECT_TRUE(is_poison(committed.error()) || committed.error().code() == Code::kStoreFull)
            << committed.error().to_text();
        if (is_poison(committed.error())) {
          EXPECT_NE(committed.error().cause(), nullptr);
          poisoned = outcome.poisoned = true;
        }
      }
      if (i == 6) (void)(*store)->checkpoint();
      if (i % 5 == 2) r.executor().step();
      const auto snapshot = (*store)->snapshot();  // Reads go on.
      EXPECT_TRUE(snapshot.has_value());
      if (snapshot) {
        EXPECT_TRUE(testing_util::try_dump(**snapshot).has_value());
      }
    }
    const auto closed = (*store)->close();
    if (poisoned) {
      EXPECT_FALSE(closed.has_value());
    }
  }
  r.disk().set_fault(nullptr);
  outcome.operations = r.disk().operations();
  r.executor().clear();
  return outcome;
}

// Opens what is left, by a machine that was or was not restarted, and looks for what was
// acknowledged; then checks that what was shown was not in the page cache only.
void expect_acknowledged(os::SimFiles& disk, bool rebooted, const Outcome& outcome,
                         const std::string& where) {
  PacedClock clock;
  if (rebooted) clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  State shown;
  {
    const auto store = Store::open(kDir, small_store(disk, clock, executor));
    ASSERT_TRUE(store.has_value()) << where << ": " << store.error().to_text();
    shown = dump(**store);
  }
  for (const std::uint64_t number : outcome.acknowledged) {
    ASSERT_TRUE(shown.contains({"t", fmt::format("{:02}", number)})) << where << ": " << number;
  }
  const auto after = disk.crashed(disk.operations(), 0);
  clock.reboot(std::chrono::seconds(1));
  const auto again = Store::open(kDir, small_store(*after, clock, executor));
  ASSERT_TRUE(again.has_value()) << where << ": " << again.error().to_text();
  EXPECT_EQ(dump(**again), shown) << where << ": it showed what was not on the device";
}

TEST(StoreFault, AnyFailingOperationLosesNothingAcknowledged) {
  Recording healthy(1, nullptr);
  const Outcome all = run_with_fault(healthy, nullptr);
  ASSERT_EQ(all.acknowledged.size(), 9U);
  ASSERT_GT(all.operations, 50U);
  Sample sample("failing operations", testing_util::kFewCases);
  for (std::size_t n = 0; n < all.operations; ++n) {
    if (!sample.takes(n)) continue;
    for (const Code code : kErrors) {
      Recording r(1, nullptr);
      const Outcome outcome = run_with_fault(r, fail_once(n, code));
      const std::string where = fmt::format("operation {} fails with {}", n, code_info(code).name);
      ASSERT_FALSE(HasFailure()) << where;
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        expect_acknowledged(*r.disk().crashed(outcome.operations, seed), true, outcome,
                            where + ", then power fails");
      }
      expect_acknowledged(*r.disk().killed(outcome.operations, 0), false, outcome,
                          where + ", then it is killed");
      ASSERT_FALSE(HasFailure()) << where;
    }
  }
}

// From some operation on, the device is gone: every further write and sync fails, and so does
// whatever the store would leave on it for the next opening to know.
Fault gone_from(std::size_t first) {
  return [first](std::size_t index, std::string_view) -> std::optional<Error> {
    if (index < first) return std::nullopt;
    return Error(Code::kIoError, "the device is gone");
  };
}

TEST(StoreFault, ADeviceThatGoesAwayLosesNothingAcknowledged) {
  Recording healthy(1, nullptr);
  const std::size_t operations = run_with_fault(healthy, nullptr).operations;
  Sample sample("ends of a device", testing_util::kFewCases);
  for (std::size_t n = 0; n < operations; n += 2) {
    if (!sample.takes(n)) continue;
    Recording r(1, nullptr);
    const Outcome outcome = run_with_fault(r, gone_from(n));
    expect_acknowledged(*r.disk().crashed(outcome.operations, n), true, outcome,
                        fmt::format("everything fails from operation {} on", n));
    ASSERT_FALSE(HasFailure());
  }
}

// What was to be synced is in the page cache, marked as clean, and on the device there is no word
// of the failure: only memory that outlives the process can tell the next opening.
TEST(StoreFault, ADeviceThatWentAwayWithoutAWordIsNotBelievedInThePageCache) {
  Recording healthy(1, nullptr);
  const std::size_t operations = run_with_fault(healthy, nullptr).operations;
  for (std::size_t n = 0; n < operations; ++n) {
    Recording r(1, nullptr);
    const Outcome outcome = run_with_fault(r, gone_from(n));
    expect_acknowledged(*r.disk().killed(outcome.operations, 0), false, outcome,
                        fmt::format("everything fails from operation {} on", n));
    ASSERT_FALSE(HasFailure());
  }
}

// A process may die at once after the device's answer: nothing comes before the note.
TEST(StoreFault, AFailureIsNotedInMemoryBeforeAnythingElseHappens) {
  Recording healthy(1, nullptr);
  const std::size_t operations = run_with_fault(healthy, nullptr).operations;
  int noted = 0;
  for (std::size_t n = 0; n < operations; ++n) {
    if (healthy.disk().describe_operation(n).find("sync") != 0) continue;
    Recording r(1, nullptr);
    const Outcome outcome = run_with_fault(r, fail_once(n, Code::kSyncFailed));
    if (!outcome.poisoned) continue;
    const bool is_dir = healthy.disk().describe_operation(n).starts_with("sync directory");
    const std::string next = r.disk().describe_operation(is_dir ? n : n + 1);
    EXPECT_TRUE(next.starts_with("store ") && next.find("in word 1 ") != next.npos)
        << healthy.disk().describe_operation(n) << " fails, and then: " << next;
    ++noted;
  }
  EXPECT_GT(noted, 15);
}

TEST(StoreFault, AFailedSyncIsNeverRetriedAndLeavesAMarkerForTheNextOpening) {
  Recording r(1, nullptr);
  r.open();
  r.must_commit(Durability::kPower);
  int syncs = 0;
  r.disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!what.starts_with("sync /s/wal/")) return std::nullopt;
    ++syncs;
    return Error(Code::kSyncFailed, "injected");
  });
  const auto failed = r.commit(Durability::kPower);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().code(), Code::kStorePoisoned);
  EXPECT_EQ(failed.error().cause()->code(), Code::kSyncFailed);
  EXPECT_FALSE(r.store().sync().has_value());
  EXPECT_FALSE(r.store().checkpoint().has_value());
  EXPECT_FALSE(r.store().close().has_value());
  EXPECT_EQ(syncs, 1);
  r.disk().set_fault(nullptr);
  r.drop();
  const auto status = Store::status(kDir, r.options());
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(status->indicators[0].present);
  EXPECT_EQ(status->indicators[0].name, "recovery_marker");
}

// A failed sync leaves pages that only the page cache has, and that count as clean. What the next
// opening shows must come from the device.
TEST(StoreFault, AfterAFailedSyncTheNextOpeningDoesNotBelieveThePageCache) {
  Recording r(1, nullptr);
  r.open();
  r.must_commit(Durability::kPower);
  r.disk().set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!what.starts_with("sync /s/wal/")) return std::nullopt;
    return Error(Code::kSyncFailed, "injected");
  });
  EXPECT_FALSE(r.commit(Durability::kPower).has_value());
  r.disk().set_fault(nullptr);
  r.drop();
  r.open();
  const State shown = dump(r.store());
  EXPECT_EQ(shown, r.state(1)) << "the second commit was never on the device";
  const auto after = r.disk().crashed(r.disk().operations(), 0);
  PacedClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const auto again = Store::open(kDir, small_store(*after, clock, executor));
  ASSERT_TRUE(again.has_value()) << again.error().to_text();
  EXPECT_EQ(dump(**again), shown);
}

TEST(StoreFault, AFullDiskRefusesCommitsAndTakesThemAgainWhenThereIsSpace) {
  Recording r(1, nullptr);
  r.open();
  r.must_commit(Durability::kPower);
  for (int round = 0; round < 3; ++round) {
    r.disk().set_capacity(0);
    Result<std::uint64_t> refused = std::uint64_t{0};
    for (int i = 0; i < 40 && refused; ++i) refused = r.commit(Durability::kPower, 2000);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kStoreFull);
    EXPECT_EQ(dump(r.store()), r.state(r.last()));
    r.disk().set_capacity(~0ULL);
    r.must_commit(Durability::kPower);
    EXPECT_EQ(dump(r.store()), r.state(r.last()));
  }
  r.close();
  r.open();
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
}

// ENOSPC from one write at a time, wherever it comes: commits are refused or not, and later ones
// succeed; only where it came from a sync is the store poisoned.
TEST(StoreFault, NoSpaceFromAnyWriteOfACommitRefusesThatCommitOnly) {
  for (std::size_t skip = 0; skip < 30; ++skip) {
    Recording r(1, nullptr);
    r.open();
    r.must_commit(Durability::kPower);
    const std::size_t first = r.disk().operations();
    bool hit_write = false;
    r.disk().set_fault([&](std::size_t index, std::string_view what) -> std::optional<Error> {
      if (index != first + skip || !what.starts_with("write /s/wal/")) return std::nullopt;
      hit_write = true;
      return Error(Code::kNoSpace, "injected");
    });
    for (int i = 0; i < 14; ++i) {
      const auto committed = r.commit(Durability::kPower, 1500);
      if (committed) continue;
      EXPECT_TRUE(hit_write);
      EXPECT_EQ(committed.error().code(), Code::kStoreFull) << committed.error().to_text();
    }
    EXPECT_EQ(dump(r.store()), r.state(r.last()));
    r.disk().set_fault(nullptr);
    r.drop();
    r.open();
    EXPECT_EQ(dump(r.store()), r.state(r.last())) << "operation " << first + skip;
  }
}

// What recovery has to leave alone: everything but the lock's record.
std::map<std::string, std::string> all_but_lock(const os::SimFiles& disk) {
  std::map<std::string, std::string> files;
  for (const std::string& path : disk.all_files()) {
    if (!path.ends_with("/LOCK")) files[path] = disk.content(path);
  }
  return files;
}

// Says after which operation each stage of a recovery ended.
class StageWatch final : public recovery::Procedure::Observer {
 public:
  explicit StageWatch(const os::SimFiles& disk) : disk_(disk) {}
  void stage_finished(const recovery::StageRecord& record) override {
    if (record.name == "consistency_validation") before_cleanup_ = disk_.operations();
  }
  std::size_t before_cleanup() const { return before_cleanup_; }

 private:
  const os::SimFiles& disk_;
  std::size_t before_cleanup_ = 0;
};

// A store that needs recovery, with a torn tail: kills and power failures of a workload whose first
// so many commits are durable.
constexpr std::uint64_t kDurableInNeed = 7;
std::vector<std::unique_ptr<os::SimFiles>> stores_in_need(Recording& r) {
  r.open();
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower, 300);
  r.all_durable(r.store().checkpoint());
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 300);
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kProcess, 3000);
  const std::size_t operations = r.disk().operations();
  std::vector<std::unique_ptr<os::SimFiles>> stores;
  for (const std::uint64_t seed : {1, 3, 4, 5}) {
    stores.push_back(r.disk().crashed(operations, seed));
  }
  stores.push_back(r.disk().killed(operations, 0));
  stores.push_back(r.disk().killed(operations - 1, 2));
  return stores;
}

TEST(StoreFault, AFailureInsideRecoveryLeavesTheFilesAsFoundAndTheNextRecoverySucceeds) {
  Recording recording(3, nullptr);
  Sample sample("failing operations of recoveries", testing_util::kFewCases);
  for (const auto& found : stores_in_need(recording)) {
    PacedClock clock;
    clock.reboot(std::chrono::seconds(1));
    SteppedExecutor executor;
    const auto healthy = found->killed(0, 0);
    StageWatch watch(*healthy);
    Options watched = small_store(*healthy, clock, executor);
    watched.observer = &watch;
    State recovered;
    const std::string uuid = Store::status(kDir, watched)->uuid;
    {
      const auto store = Store::open(kDir, watched);
      ASSERT_TRUE(store.has_value()) << store.error().to_text();
      recovered = dump(**store);
    }
    const std::size_t operations = healthy->operations();
    ASSERT_GT(watch.before_cleanup(), 0U);
    for (std::size_t n = 0; n < operations; ++n) {
      if (!sample.takes(n)) continue;
      for (const Code code : kErrors) {
        const auto disk = found->killed(0, 0);
        const auto before = all_but_lock(*disk);
        disk->set_fault(fail_once(n, code));
        const Options options = small_store(*disk, clock, executor);
        const auto failed = Store::open(kDir, options);
        disk->set_fault(nullptr);
        const std::string where =
            fmt::format("operation {} of {} ({}) fails with {}", n, operations,
                        healthy->describe_operation(n), code_info(code).name);
        if (!failed) {
          const int number = failed.error().number();
          EXPECT_TRUE(number <= -70 && number >= -90) << where << ": " << failed.error().to_text();
          if (n < watch.before_cleanup()) {
            EXPECT_EQ(all_but_lock(*disk), before) << where;
          }
          // What a failed sync leaves in the page cache is not to be shown.
          const bool believes = !failure_is_noted(*disk, uuid, clock.boot_id());
          State shown;
          {
            const auto again = Store::open(kDir, options);
            ASSERT_TRUE(again.has_value()) << where << ": " << again.error().to_text();
            shown = dump(**again);
            const std::uint64_t position = (*(*again)->snapshot())->position();
            EXPECT_TRUE(believes ? shown == recovered : position >= kDurableInNeed) << where;
            EXPECT_EQ(shown, recording.state(position)) << where;
          }
          executor.clear();
          const auto after = disk->crashed(disk->operations(), 0);
          PacedClock later;
          later.reboot(std::chrono::seconds(2));
          const auto third = Store::open(kDir, small_store(*after, later, executor));
          ASSERT_TRUE(third.has_value()) << where << ": " << third.error().to_text();
          EXPECT_EQ(dump(**third), shown) << where << ": it showed what was not on the device";
        } else {
          EXPECT_EQ(dump(**failed), recovered) << where;
        }
      }
    }
  }
}

// A read that the device refuses: an error, or none where nobody needed it; never other data.
TEST(StoreFault, ARefusedReadIsAnErrorAndNeverOtherData) {
  Recording r(3, nullptr);
  r.open();
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 300);
  r.all_durable(r.store().checkpoint());
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 300);
  r.drop();
  const State whole = r.state(r.last());
  const auto image = r.disk().killed(r.disk().operations(), 0);
  Sample sample("unreadable sectors", testing_util::kFewCases);
  for (const std::string& path : image->all_files()) {
    const std::size_t size = image->content(path).size();
    for (std::size_t bad = 0; bad < size; bad += 512) {
      if (!sample.takes(bad)) continue;
      const auto disk = image->killed(0, 0);
      disk->set_read_fault(
          [&](std::string_view read, std::uint64_t offset, std::span<char>& bytes) -> Result<> {
            // The kernel reads whole pages: what shares one with a bad sector is unreadable too.
            const std::uint64_t first = offset / 4096 * 4096;
            if (read == path && first <= bad && bad / 4096 * 4096 < offset + bytes.size()) {
              return Error(Code::kIoError, "injected").with("path", path);
            }
            return {};
          });
      SteppedExecutor executor;
      PacedClock clock;
      const auto store = Store::open(kDir, small_store(*disk, clock, executor));
      if (!store) continue;
      const auto shown = testing_util::try_dump(**(*store)->snapshot());
      if (!shown) {
        const Code code = shown.error().code();
        EXPECT_TRUE(code == Code::kCorrupted || code == Code::kIoError) << shown.error().to_text();
      } else {
        ASSERT_EQ(*shown, whole) << path << ", unreadable at " << bad;
      }
    }
  }
}

// Syncs of the log that are told how they end: the first one lets others gather behind it, the
// second one takes its time and fails.
class SlowSyncs {
 public:
  // Before each sync of the log, on its thread.
  Result<> sync_begins() {
    std::unique_lock lock(mutex_);
    if (!armed_) return {};
    const int number = ++syncs_;
    changed_.notify_all();
    if (number == 1) {
      changed_.wait_for(lock, kPatience, [&] { return released_; });
      return {};
    }
    // Whoever is acknowledged now is so before the sync that covers it.
    changed_.wait_for(lock, kPatience, [&] { return acknowledged_ > 1; });
    return Error(Code::kSyncFailed, "injected");
  }
  void arm() {
    const std::lock_guard lock(mutex_);
    armed_ = true;
  }
  void wait_for_first_sync() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [&] { return syncs_ > 0; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  void acknowledged() {
    const std::lock_guard lock(mutex_);
    ++acknowledged_;
    changed_.notify_all();
  }
  int acknowledgements() {
    const std::lock_guard lock(mutex_);
    return acknowledged_;
  }
  int syncs() {
    const std::lock_guard lock(mutex_);
    return syncs_;
  }

 private:
  // Only a store that does what it must waits so long.
  static constexpr std::chrono::milliseconds kPatience{300};
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  bool armed_ = false;
  bool released_ = false;
  int syncs_ = 0;
  int acknowledged_ = 0;
};

class SlowFile final : public os::PassThroughFile {
 public:
  SlowFile(std::unique_ptr<os::File> file, SlowSyncs& syncs)
      : PassThroughFile(std::move(file)), syncs_(syncs) {}
  Result<> sync() override {
    DEFIB_TRY(syncs_.sync_begins());
    return file_->sync();
  }

 private:
  SlowSyncs& syncs_;
};

class SlowFiles final : public os::PassThroughFiles {
 public:
  SlowFiles(os::Files& files, SlowSyncs& syncs) : PassThroughFiles(files), syncs_(syncs) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    if (path.find("/wal/") == std::string::npos) return file;
    return std::unique_ptr<os::File>(std::make_unique<SlowFile>(std::move(file), syncs_));
  }

 private:
  SlowSyncs& syncs_;
};

// One thread's sync is under way, two more commits gather behind it and share the next one, which
// fails: neither may be acknowledged, at no time.
TEST(StoreFault, NobodyIsAcknowledgedBeforeTheSharedSyncHasSucceeded) {
  os::SimFiles disk;
  SlowSyncs syncs;
  SlowFiles files(disk, syncs);
  PacedClock clock;
  SteppedExecutor executor;
  auto store = Store::open(kDir, small_store(files, clock, executor));
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  ASSERT_TRUE(defib::store::put(**store, "t", "0", "v", Durability::kPower).has_value());
  syncs.arm();
  const auto commit = [&](const char* key) {
    if (defib::store::put(**store, "t", key, "v", Durability::kPower)) syncs.acknowledged();
  };
  std::thread first(commit, "1");
  syncs.wait_for_first_sync();
  std::vector<std::thread> others;
  for (const char* key : {"2", "3", "4"}) others.emplace_back(commit, key);
  // Long enough for them to be written and to wait; where it is not, less is proven.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  syncs.release();
  first.join();
  for (std::thread& other : others) other.join();
  EXPECT_GE(syncs.syncs(), 2);
  EXPECT_LE(syncs.acknowledgements(), 1) << "a commit was acknowledged before its sync";
}

}  // namespace
}  // namespace defib::store
