// The store as its users meet it, on a real file system.

#include "defib/store/store.h"

#include <gtest/gtest.h>

#include <thread>

#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::State;
using testing_util::TemporaryDir;

Options quick() {
  Options options;
  options.segment_size = 64 << 10;
  options.checkpoint_after = 0;
  return options;
}

std::unique_ptr<Store> open_or_die(const std::string& dir, Options options = quick()) {
  auto store = Store::open(dir, options);
  EXPECT_TRUE(store.has_value()) << store.error().to_text();
  return store ? *std::move(store) : nullptr;
}

void put_or_die(Store& store, std::string_view key, std::string_view value,
                Durability durability = Durability::kPower) {
  const auto put = defib::store::put(store, "t", key, value, durability);
  ASSERT_TRUE(put.has_value()) << put.error().to_text();
}

TEST(Store, KeepsCommitsOverCloseAndReopen) {
  const TemporaryDir dir;
  {
    const auto store = open_or_die(dir.path());
    put_or_die(*store, "b", "2");
    put_or_die(*store, "a", "1", Durability::kProcess);
    ASSERT_TRUE(store->close().has_value());
  }
  const auto store = open_or_die(dir.path());
  EXPECT_TRUE(store->recovery_result().stages.empty());
  EXPECT_EQ(dump(*store), (State{{{"t", "a"}, "1"}, {{"t", "b"}, "2"}}));
  EXPECT_EQ((*store->snapshot())->position(), 2U);
}

TEST(Store, ACleanCloseLeavesNoneOfTheFiveIndicators) {
  const TemporaryDir dir;
  {
    const auto store = open_or_die(dir.path());
    put_or_die(*store, "a", "1");
    ASSERT_TRUE(store->close().has_value());
  }
  const auto status = Store::status(dir.path(), {});
  ASSERT_TRUE(status.has_value()) << status.error().to_text();
  ASSERT_EQ(status->indicators.size(), 5U);
  for (const Indicator& indicator : status->indicators) {
    EXPECT_FALSE(indicator.present) << indicator.name << ": " << indicator.evidence;
    EXPECT_FALSE(indicator.evidence.empty());
  }
  EXPECT_FALSE(status->recovery_needed);
  EXPECT_EQ(status->last_commit, 1U);
  EXPECT_EQ(status->checkpoint_commit, 1U);
}

TEST(Store, WithoutCloseTheNextOpeningRunsTheTwelveStagesInOrder) {
  const TemporaryDir dir;
  {
    const auto store = open_or_die(dir.path());
    put_or_die(*store, "a", "1");
  }
  const auto store = open_or_die(dir.path());
  std::vector<std::string> names;
  for (const auto& stage : store->recovery_result().stages) {
    names.push_back(stage.name);
    EXPECT_EQ(stage.outcome, recovery::StageOutcome::kCompleted) << stage.name;
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "initialization", "lock_acquisition", "config_validation", "resource_check",
                "wal_discovery", "wal_validation", "transaction_recovery", "index_reconstruction",
                "consistency_validation", "resource_cleanup", "database_unlock", "finalization"}));
  EXPECT_EQ(dump(*store), (State{{{"t", "a"}, "1"}}));
}

TEST(Store, ASnapshotShowsOneCommitForItsWholeLife) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path());
  put_or_die(*store, "a", "1");
  const auto snapshot = *store->snapshot();
  put_or_die(*store, "a", "2");
  put_or_die(*store, "b", "2");
  EXPECT_EQ(*snapshot->get("t", "a"), std::optional<std::string>("1"));
  EXPECT_EQ(*snapshot->get("t", "b"), std::nullopt);
  EXPECT_EQ(*(*store->snapshot())->get("t", "a"), std::optional<std::string>("2"));
}

TEST(Store, ASnapshotOutlivesItsStore) {
  const TemporaryDir dir;
  auto store = open_or_die(dir.path());
  put_or_die(*store, "a", "1");
  const auto snapshot = *store->snapshot();
  store.reset();
  EXPECT_EQ(*snapshot->get("t", "a"), std::optional<std::string>("1"));
}

TEST(Store, ATransactionSeesItsOwnWritesAndItsCursorStandsStill) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path());
  put_or_die(*store, "a", "1");
  const auto transaction = *store->begin();
  ASSERT_TRUE(transaction->put("t", "b", "2").has_value());
  const auto cursor = *transaction->scan("t");
  ASSERT_TRUE(transaction->put("t", "c", "3").has_value());
  ASSERT_TRUE(transaction->erase("t", "a").has_value());
  ASSERT_TRUE(cursor->first());
  EXPECT_EQ(cursor->key(), "a");
  ASSERT_TRUE(cursor->next());
  EXPECT_EQ(cursor->key(), "b");
  EXPECT_FALSE(cursor->next());
  EXPECT_EQ(*transaction->get("t", "a"), std::nullopt);
  EXPECT_EQ(*transaction->get("t", "c"), std::optional<std::string>("3"));
  ASSERT_TRUE(transaction->commit(Durability::kProcess).has_value());
  EXPECT_FALSE(cursor->first());  // Its transaction has ended.
}

TEST(Store, ARolledBackTransactionLeavesNothing) {
  const TemporaryDir dir;
  {
    const auto store = open_or_die(dir.path());
    put_or_die(*store, "a", "1");
    {
      const auto transaction = *store->begin();
      ASSERT_TRUE(transaction->put("t", "a", "changed").has_value());
      ASSERT_TRUE(transaction->put("u", "x", "y").has_value());
    }
    EXPECT_EQ(dump(*store), (State{{{"t", "a"}, "1"}}));
    EXPECT_EQ((*store->snapshot())->tables(), std::vector<std::string>{"t"});
  }
  EXPECT_EQ(dump(*open_or_die(dir.path())), (State{{{"t", "a"}, "1"}}));
}

TEST(Store, LimitsAreNamedInTheError) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path());
  const auto transaction = *store->begin();
  const auto key = transaction->put("t", std::string(kMaxKeySize + 1, 'k'), "v");
  ASSERT_FALSE(key.has_value());
  EXPECT_EQ(key.error().code(), Code::kKeyOrValueTooLarge);
  EXPECT_EQ(key.error().field("limit"), "4096");
  EXPECT_FALSE(transaction->put(std::string(kMaxTableName + 1, 't'), "k", "v").has_value());
  EXPECT_FALSE(transaction->put("t", "k", std::string(kMaxValueSize + 1, 'v')).has_value());
  EXPECT_FALSE(transaction->put("", "k", "v").has_value());
  EXPECT_TRUE(transaction
                  ->put(std::string(kMaxTableName, 't'), std::string(kMaxKeySize, 'k'),
                        std::string(kMaxValueSize, 'v'))
                  .has_value());
  ASSERT_TRUE(transaction->commit(Durability::kPower).has_value());
}

TEST(Store, ACheckpointLetsTheLogGoAndLaterCommitsFollowIt) {
  const TemporaryDir dir;
  {
    const auto store = open_or_die(dir.path());
    for (int i = 0; i < 2000; ++i) {
      put_or_die(*store, std::to_string(i), std::string(100, 'x'), Durability::kProcess);
    }
    ASSERT_TRUE(store->checkpoint().has_value());
    put_or_die(*store, "after", "it");
    const auto status = Store::status(dir.path(), {});
    EXPECT_EQ(status->checkpoint_commit, 2000U);
    EXPECT_EQ(status->last_commit, 2001U);
    EXPECT_LE(status->log_bytes, 64U << 10);
  }
  const auto store = open_or_die(dir.path());
  EXPECT_EQ(dump(*store).size(), 2001U);
}

TEST(Store, CheckpointsByItselfWhenTheLogHasGrown) {
  const TemporaryDir dir;
  Options options = quick();
  options.checkpoint_after = 100 << 10;
  const auto store = open_or_die(dir.path(), options);
  Status status;
  for (int i = 0; i < 100000 && status.checkpoint_commit == 0; ++i) {
    put_or_die(*store, std::to_string(i % 50), std::string(1000, 'x'), Durability::kProcess);
    if (i % 100 == 99) status = *Store::status(dir.path(), {});
  }
  EXPECT_GT(status.checkpoint_commit, 0U);
}

TEST(Store, StreamsCommitsInOrderAndNamesTheFirstThatItStillHas) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path());
  for (int i = 1; i <= 5; ++i) put_or_die(*store, std::to_string(i), "v");
  std::vector<std::uint64_t> numbers;
  const auto collect = [&](const CommittedTransaction& transaction) {
    numbers.push_back(transaction.number);
    EXPECT_EQ(transaction.changes.at(0).key, std::to_string(transaction.number));
    return true;
  };
  ASSERT_TRUE(store->stream(3, collect).has_value());
  EXPECT_EQ(numbers, (std::vector<std::uint64_t>{3, 4, 5}));
  ASSERT_TRUE(store->checkpoint().has_value());
  put_or_die(*store, "6", "v");
  const auto gone = store->stream(3, collect);
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error().code(), Code::kNotFound);
  EXPECT_EQ(gone.error().field("first"), "6");
}

TEST(Store, ASecondOpeningIsRefusedAndNamesTheHolder) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path());
  const auto second = Store::open(dir.path(), quick());
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kDatabaseLocked);
  EXPECT_NE(second.error().field("lock_holder").find("pid "), std::string_view::npos);
}

TEST(Store, ReadOnlyOpeningShowsAllBesideALiveWriterAndWritesNothing) {
  const TemporaryDir dir;
  testing_util::SteppedExecutor standing_still;
  Options options = quick();
  options.executor = &standing_still;
  const auto store = open_or_die(dir.path(), options);
  put_or_die(*store, "a", "1", Durability::kProcess);
  const auto before = testing_util::read_tree(dir.path());
  const auto snapshot = Store::open_read_only(dir.path(), {});
  ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_text();
  EXPECT_EQ(*(*snapshot)->get("t", "a"), std::optional<std::string>("1"));
  ASSERT_TRUE(Store::status(dir.path(), {}).has_value());
  ASSERT_TRUE(Store::verify_files(dir.path(), {}).has_value());
  EXPECT_EQ(testing_util::read_tree(dir.path()), before);
}

TEST(Store, AForeignDirectoryIsNotAStoreAndStaysAsItIs) {
  const TemporaryDir dir;
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), dir.path() + "/notes.txt", "hello"));
  const auto opened = Store::open(dir.path(), quick());
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code(), Code::kNotAStore);
  Options options = quick();
  options.create = false;
  EXPECT_EQ(Store::open(dir.path() + "/none", options).error().code(), Code::kNotAStore);
}

TEST(Store, WithoutRecoverAnUncleanStoreIsRefusedWithItsIndicators) {
  const TemporaryDir dir;
  {
    put_or_die(*open_or_die(dir.path()), "a", "1");
  }
  Options options = quick();
  options.recover = false;
  const auto opened = Store::open(dir.path(), options);
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code(), Code::kRecoveryNeeded);
  EXPECT_NE(opened.error().field("indicators").find("log_tail"), std::string_view::npos);
}

TEST(Store, ManyThreadsCommitAndReadBesideCheckpoints) {
  const TemporaryDir dir;
  constexpr int kThreads = 4;
  constexpr int kCommits = 60;
  {
    Options options = quick();
    options.checkpoint_after = 16 << 10;
    options.background_sync = std::chrono::milliseconds(1);
    const auto store = open_or_die(dir.path(), options);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < kCommits; ++i) {
          const auto transaction = *store->begin();
          const std::string own = fmt::format("{}-{}", thread, i);
          ASSERT_TRUE(transaction->put("all", own, std::string(200, 'x')).has_value());
          ASSERT_TRUE(transaction->put("last", std::to_string(thread), own).has_value());
          ASSERT_TRUE(transaction->commit(i % 2 == 0 ? Durability::kPower : Durability::kProcess)
                          .has_value());
        }
      });
    }
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const auto snapshot = *store->snapshot();
        const auto cursor = *snapshot->scan("all");
        std::uint64_t count = 0;
        for (bool more = cursor->first(); more; more = cursor->next()) ++count;
        ASSERT_EQ(count, snapshot->position());
      }
    });
    for (std::thread& thread : threads) thread.join();
  }
  const auto store = open_or_die(dir.path());
  EXPECT_EQ((*store->snapshot())->position(), std::uint64_t{kThreads * kCommits});
  EXPECT_EQ(dump(*store).size(), std::size_t{kThreads * kCommits + kThreads});
  const auto report = store->verify();
  ASSERT_TRUE(report.has_value());
  EXPECT_TRUE(report->findings.empty());
}

}  // namespace
}  // namespace defib::store
