// Compaction: one base without erased records, beside readers and a writer, until close() ends it.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "defib/os/pass_through_files.h"
#include "defib/os/random.h"
#include "defib/store/format.h"
#include "defib/store/picture.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::Recording;
using testing_util::State;
using testing_util::TemporaryDir;

// A store whose base is written through `on_base_write`, which may wait.
class WatchedFiles final : public os::PassThroughFiles {
 public:
  explicit WatchedFiles(std::function<void()> on_base_write)
      : PassThroughFiles(os::real_files()), on_base_write_(std::move(on_base_write)) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    if (!path.ends_with(".base") || mode != os::OpenMode::kCreateNewDirect) return file;
    return std::unique_ptr<os::File>(std::make_unique<Base>(std::move(file), on_base_write_));
  }

 private:
  class Base final : public os::PassThroughFile {
   public:
    Base(std::unique_ptr<os::File> file, const std::function<void()>& on_write)
        : PassThroughFile(std::move(file)), on_write_(on_write) {}
    Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
      on_write_();
      return file_->write_at(offset, bytes);
    }

   private:
    const std::function<void()>& on_write_;
  };
  std::function<void()> on_base_write_;
};

std::vector<std::string> data_files(const std::string& dir) {
  return *os::real_files().list(dir + "/data");
}

Options without_limits(os::Files& files) {
  Options options;
  options.files = &files;
  options.checkpoint_after = 0;
  options.checkpoint_rate = 0;
  options.segment_size = 4 << 20;
  return options;
}

// `bytes` of records in a base, and a run that overwrites some and erases others.
State fill(Store& store, std::size_t bytes) {
  State state;
  os::Random random(7);
  constexpr std::size_t kValue = 4000;
  const std::size_t count = bytes / kValue;
  for (const bool first : {true, false}) {
    auto transaction = *store.begin();
    for (std::size_t i = 0; i < count; i += first ? 1 : 5) {
      const std::string key = fmt::format("key {:06}", i);
      if (!first && i % 2 == 0) {
        EXPECT_TRUE(transaction->erase("t", key).has_value());
        state.erase({"t", key});
        continue;
      }
      std::string value(kValue, 'v');
      value.replace(0, 16, fmt::format("{:016x}", random.next()));
      EXPECT_TRUE(transaction->put("t", key, value).has_value());
      state[{"t", key}] = std::move(value);
    }
    EXPECT_TRUE(transaction->commit(Durability::kPower).has_value());
    EXPECT_TRUE(store.checkpoint().has_value());
  }
  return state;
}

TEST(StoreCompact, LeavesOneBaseWithoutErasedRecordsAndNoLog) {
  Recording r(5, nullptr);
  Options options = r.options();
  options.page_size = 4096;
  r.open(options);
  const Recording::Shape shape{.value_size = 900, .changes = 20, .keys = 40, .erased_percent = 50};
  for (int i = 0; i < 6; ++i) {
    r.must_commit(Durability::kPower, shape);
    r.all_durable(r.store().checkpoint());
  }
  r.must_commit(Durability::kPower, shape);
  const auto before = *Store::status(kDir, options);
  const auto snapshot = *r.store().snapshot();
  ASSERT_TRUE(r.store().compact().has_value());
  EXPECT_TRUE(r.shows(r.last()));
  EXPECT_EQ(dump(*snapshot), r.state(r.last())) << "a reader of the files that went";
  const auto after = *Store::status(kDir, options);
  EXPECT_GT(before.runs, 0U);
  EXPECT_EQ(after.runs, 0U);
  EXPECT_LT(after.checkpoint_bytes, before.checkpoint_bytes);
  EXPECT_LT(after.log_bytes, before.log_bytes);
  EXPECT_EQ(after.checkpoint_commit, r.last());
  EXPECT_EQ(r.store().statistics().tail_bytes, 0U);
  EXPECT_EQ(Store::verify_files(kDir, options)->checkpoint_records, r.state(r.last()).size())
      << "erased records are still there";
  r.close();
  r.open(options);
  EXPECT_TRUE(r.store().recovery_result().stages.empty()) << "a clean close after a compaction";
  EXPECT_TRUE(r.shows(r.last()));
  // Of one base there is nothing to make, and a store that was only looked at stays clean.
  const std::size_t operations = r.disk().operations();
  ASSERT_TRUE(r.store().compact().has_value());
  for (std::size_t i = operations; i < r.disk().operations(); ++i) {
    EXPECT_EQ(r.disk().describe_operation(i).find("/s/data/"), std::string::npos)
        << r.disk().describe_operation(i);
  }
  r.close();
}

TEST(StoreCompact, OfAnEmptyStoreAndOfOneWhereAllIsErased) {
  Recording r(6, nullptr);
  r.open();
  ASSERT_TRUE(r.store().compact().has_value());
  r.must_commit(Durability::kPower, {.changes = 20, .erased_percent = 0});
  r.all_durable(r.store().checkpoint());
  ASSERT_TRUE(r.erase_all(Durability::kPower).has_value());
  ASSERT_TRUE(r.store().compact().has_value());
  EXPECT_TRUE(r.shows(r.last()));
  EXPECT_EQ(Store::verify_files(kDir, r.options())->checkpoint_records, r.state(r.last()).size());
  r.close();
  r.open();
  EXPECT_TRUE(r.shows(r.last()));
}

// The base's writing waits until a writer has made its commits: who stopped the writer would wait
// for ever.
TEST(StoreCompact, NeverStopsTheWriterAndShowsWhatItWritesMeanwhile) {
  const TemporaryDir dir;
  std::atomic<bool> watch = false;
  std::mutex mutex;
  std::condition_variable changed;
  bool begun = false;
  bool written = false;
  bool waited_in_vain = false;
  WatchedFiles files([&] {
    if (!watch) return;
    std::unique_lock lock(mutex);
    begun = true;
    changed.notify_all();
    waited_in_vain |= !changed.wait_for(lock, std::chrono::seconds(20), [&] { return written; });
  });
  auto store = *Store::open(dir.path(), without_limits(files));
  State state = fill(*store, 2 << 20);
  watch = true;
  std::optional<Result<>> compacted;
  {
    const std::jthread other([&] { compacted = store->compact(); });
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return begun; }));
    lock.unlock();
    for (int i = 0; i < 200; ++i) {
      const std::string key = fmt::format("key {:06}", i);
      const auto durability = i % 20 == 0 ? Durability::kPower : Durability::kProcess;
      ASSERT_TRUE(put(*store, "t", key, "meanwhile", durability).has_value());
      state[{"t", key}] = "meanwhile";
    }
    EXPECT_EQ(dump(*store), state);
    lock.lock();
    written = true;
    changed.notify_all();
  }
  EXPECT_FALSE(waited_in_vain);
  ASSERT_TRUE(compacted->has_value()) << compacted->error().to_text();
  EXPECT_EQ(dump(*store), state);
  EXPECT_EQ(data_files(dir.path()).size(), 1U);
  store.reset();
  store = *Store::open(dir.path(), without_limits(os::real_files()));
  EXPECT_EQ(dump(*store), state);
}

TEST(StoreCompact, IsEndedByCloseAndLosesNothing) {
  const TemporaryDir dir;
  std::atomic<bool> slow = false;
  std::atomic<int> writes = 0;
  WatchedFiles files([&] {
    if (!slow) return;
    ++writes;
    writes.notify_all();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  constexpr std::size_t kBytes = 64 << 20;
  auto store = *Store::open(dir.path(), without_limits(files));
  const State state = fill(*store, kBytes);
  const std::size_t before = data_files(dir.path()).size();
  slow = true;
  std::optional<Result<>> compacted;
  {
    const std::jthread other([&] { compacted = store->compact(); });
    writes.wait(0);
    ASSERT_TRUE(store->close().has_value());
  }
  ASSERT_FALSE(compacted->has_value());
  EXPECT_EQ(compacted->error().code(), Code::kCancelled);
  EXPECT_FALSE(compacted->error().suggested_action().empty());
  EXPECT_LT(writes, 10) << "close() waited for more of the compaction than its next step";
  EXPECT_EQ(data_files(dir.path()).size(), before) << "an unfinished base stays";
  store.reset();
  store = *Store::open(dir.path(), without_limits(os::real_files()));
  EXPECT_TRUE(store->recovery_result().stages.empty());
  EXPECT_EQ(dump(*store), state);
  ASSERT_TRUE(store->compact().has_value());
  EXPECT_EQ(data_files(dir.path()).size(), 1U);
  EXPECT_EQ(dump(*store), state);
  ASSERT_TRUE(store->close().has_value());
  EXPECT_EQ(store->compact().error().code(), Code::kInvalidArgument) << "it is closed";
}

// Bytes of this process's own memory, without what it has mapped of files.
std::uint64_t own_memory() {
  const std::string text = *os::read_file(os::real_files(), "/proc/self/status", 1 << 16);
  const std::size_t at = text.find("RssAnon:");
  return at == std::string::npos ? 0 : std::stoull(text.substr(at + 8)) << 10;
}

TEST(StoreCompact, TakesTheSameMemoryHoweverMuchThereIs) {
  const TemporaryDir dir;
  std::atomic<bool> watch = false;
  std::atomic<std::uint64_t> most = 0;
  WatchedFiles files([&] {
    if (watch) most = std::max(most.load(), own_memory());
  });
  constexpr std::size_t kBytes = 96 << 20;
  {
    auto store = *Store::open(dir.path(), without_limits(files));
    (void)fill(*store, kBytes);
    ASSERT_TRUE(store->close().has_value());
  }
  Options options = without_limits(files);
  options.cache_size = 8 << 20;
  auto store = *Store::open(dir.path(), options);
  const std::uint64_t before = own_memory();
  watch = true;
  ASSERT_TRUE(store->compact().has_value());
  ASSERT_GT(most, 0U);
  EXPECT_LT(most - std::min(most.load(), before), 12U << 20) << "for a base of 96 MiB";
  EXPECT_LT(store->statistics().mapped_bytes, 48U << 20) << "of the files that it read";
}

TEST(StoreCompact, AFullDiskIsToldAndTheStoreGoesOn) {
  Recording r(8, nullptr);
  r.open();
  for (int i = 0; i < 3; ++i) {
    r.must_commit(Durability::kPower, {.value_size = 3000, .changes = 10});
    r.all_durable(r.store().checkpoint());
  }
  std::uint64_t used = 0;
  for (const std::string& path : r.disk().all_files()) used += r.disk().content(path).size();
  r.disk().set_capacity(used + 4000);
  const Result<> refused = r.store().compact();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kStoreFull);
  r.disk().set_capacity(~0ULL);
  EXPECT_TRUE(r.shows(r.last()));
  r.must_commit(Durability::kPower);
  ASSERT_TRUE(r.store().compact().has_value());
  EXPECT_TRUE(r.shows(r.last()));
  r.close();
}

// Each operation of a compaction fails once: nothing that was acknowledged is lost.
TEST(StoreCompact, AFailureOfAnyOfItsOperationsLosesNothing) {
  std::size_t failed = 0;
  for (std::size_t fail_at = 0;; ++fail_at) {
    Recording r(9, nullptr);
    r.open();
    for (int i = 0; i < 3; ++i) {
      r.must_commit(Durability::kPower, {.changes = 6, .erased_percent = 40});
      if (i < 2) r.all_durable(r.store().checkpoint());
    }
    std::size_t seen = 0;
    bool injected = false;
    r.disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
      if (seen++ != fail_at) return std::nullopt;
      injected = true;
      const bool is_sync = what.starts_with("sync");
      return Error(is_sync ? Code::kSyncFailed : Code::kIoError, "injected");
    });
    const Result<> compacted = r.store().compact();
    r.disk().set_fault(nullptr);
    if (!injected) {
      EXPECT_TRUE(compacted.has_value());
      break;
    }
    failed += compacted ? 0 : 1;
    EXPECT_TRUE(r.shows(r.last())) << "reads go on";
    r.drop();
    r.open();
    ASSERT_TRUE(r.shows(r.last())) << "operation " << fail_at << " failed";
    ASSERT_TRUE(r.store().compact().has_value());
    ASSERT_TRUE(r.shows(r.last()));
  }
  EXPECT_GT(failed, 10U);
}

}  // namespace
}  // namespace defib::store
