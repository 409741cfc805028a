// What the engine adds to the interface's own tests: layers, checkpoints beside readers and
// writers, merges, budgets, retention, and indexes.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "defib/os/random.h"
#include "defib/os/sim_files.h"
#include "defib/store/store.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::State;
using testing_util::SteppedExecutor;
using testing_util::TemporaryDir;

class SimulatedStore : public testing::Test {
 protected:
  Options options() {
    Options options;
    options.files = &disk_;
    options.clock = &clock_;
    options.executor = &executor_;
    options.page_size = 4096;
    options.segment_size = 64 << 10;
    options.checkpoint_after = 0;
    options.indexes = indexes_;
    return options;
  }
  void open() {
    store_.reset();
    auto opened = Store::open("/s", options());
    ASSERT_TRUE(opened.has_value()) << opened.error().to_text();
    store_ = *std::move(opened);
  }
  void put(const std::string& table, const std::string& key, const std::string& value) {
    const auto done = store::put(*store_, table, key, value, Durability::kProcess);
    ASSERT_TRUE(done.has_value()) << done.error().to_text();
    model_[{table, key}] = value;
  }
  void erase(const std::string& table, const std::string& key) {
    auto transaction = *store_->begin();
    ASSERT_TRUE(transaction->erase(table, key).has_value());
    ASSERT_TRUE(transaction->commit(Durability::kProcess).has_value());
    model_.erase({table, key});
  }
  void checkpoint() {
    const auto done = store_->checkpoint();
    ASSERT_TRUE(done.has_value()) << done.error().to_text();
  }
  void drain() {
    while (executor_.step()) {
    }
  }

  os::SimFiles disk_;
  os::FakeClock clock_;
  SteppedExecutor executor_;
  std::vector<IndexDefinition> indexes_;
  std::unique_ptr<Store> store_;
  State model_;
};

TEST_F(SimulatedStore, ShowsTheSameThroughOverlaysRunsAndBase) {
  open();
  os::Random random(7);
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 30; ++i) {
      const std::string key = fmt::format("k{:03}", random.below(300));
      if (random.below(4) == 0) {
        erase("t", key);
      } else {
        put(random.below(3) == 0 ? "u" : "t", key, fmt::format("{}:{}", round, i));
      }
    }
    if (round % 3 == 0) checkpoint();
    if (round % 7 == 0) drain();
    ASSERT_EQ(dump(*store_), model_) << round;
  }
  EXPECT_GT(store_->statistics().merges, 0U);
  EXPECT_LE(store_->statistics().runs, 9U);
  ASSERT_TRUE(store_->close().has_value());
  open();
  EXPECT_EQ(dump(*store_), model_);
}

TEST_F(SimulatedStore, KeepsASnapshotWhileItsFilesAreMergedAway) {
  open();
  for (int i = 0; i < 200; ++i) put("t", fmt::format("k{}", i), "first");
  checkpoint();
  const auto snapshot = *store_->snapshot();
  const State before = model_;
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 200; i += 3) put("t", fmt::format("k{}", i), std::to_string(round));
    checkpoint();
    drain();
  }
  EXPECT_GT(store_->statistics().merges, 0U);
  EXPECT_EQ(dump(*snapshot), before);
  EXPECT_EQ(dump(*store_), model_);
}

TEST_F(SimulatedStore, ACheckpointLetsTheLogGoExceptWhatIsToBeKept) {
  Options keep = options();
  keep.log_retention = 1 << 20;
  store_ = *Store::open("/s", keep);
  for (int i = 0; i < 50; ++i) put("t", std::to_string(i), "v");
  checkpoint();
  std::uint64_t seen = 0;
  const auto sink = [&](const CommittedTransaction& transaction) {
    EXPECT_EQ(transaction.number, ++seen);
    return true;
  };
  ASSERT_TRUE(store_->stream(1, sink).has_value());
  EXPECT_EQ(seen, 50U);
  ASSERT_TRUE(store_->close().has_value());
  open();
  for (int i = 0; i < 50; ++i) put("t", std::to_string(i), "w");
  checkpoint();
  const auto gone = store_->stream(1, sink);
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error().code(), Code::kNotFound);
}

// As after a power failure that kept the removal of one name and not of another.
TEST_F(SimulatedStore, TheHistoryBeginsBehindAHoleInTheLogThatIsKept) {
  Options keep = options();
  keep.log_retention = 1 << 20;
  store_ = *Store::open("/s", keep);
  for (int i = 1; i <= 40; ++i) {
    put("t", std::to_string(i), "v");
    if (i % 10 == 0) checkpoint();
  }
  store_.reset();
  std::vector<std::string> segments;
  const auto names = disk_.list("/s/wal");
  for (const std::string& name : *names) {
    if (parse_segment_name(name)) segments.push_back(name);
  }
  ASSERT_EQ(segments.size(), 4U);
  ASSERT_TRUE(disk_.remove("/s/wal/" + segments[1]).has_value());
  store_ = *Store::open("/s", keep);
  std::vector<std::uint64_t> seen;
  const auto sink = [&](const CommittedTransaction& transaction) {
    seen.push_back(transaction.number);
    return true;
  };
  for (const std::uint64_t from : {1U, 5U, 15U, 20U}) {
    const auto gone = store_->stream(from, sink);
    ASSERT_FALSE(gone.has_value());
    EXPECT_EQ(gone.error().code(), Code::kNotFound);
    EXPECT_EQ(gone.error().field("first"), "21");
  }
  EXPECT_TRUE(seen.empty());
  ASSERT_TRUE(store_->stream(21, sink).has_value());
  ASSERT_EQ(seen.size(), 20U);
  EXPECT_EQ(seen.front(), 21U);
  EXPECT_EQ(seen.back(), 40U);
}

TEST_F(SimulatedStore, StartsACheckpointWhenReplayWouldTakeHalfTheBudget) {
  Options small = options();
  small.checkpoint_after = 1 << 30;
  small.recovery_budget = std::chrono::milliseconds(1);
  store_ = *Store::open("/s", small);
  const std::string value(1000, 'v');
  for (int i = 0; i < 1000; ++i) {
    put("t", std::to_string(i), value);
    if (i % 10 == 9) drain();
    EXPECT_LE(store_->statistics().estimated_recovery, small.recovery_budget) << i;
  }
  EXPECT_GT(store_->statistics().checkpoints, 2U);
}

TEST_F(SimulatedStore, ReadsOfATransactionSeeCommitsThatAreStillOnTheirWay) {
  TemporaryDir dir;
  Options real;
  real.background_sync = std::chrono::seconds(10);
  const auto store = *Store::open(dir.path(), real);
  std::vector<std::thread> threads;
  constexpr int kThreads = 8;
  constexpr int kRounds = 60;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        auto transaction = *store->begin();
        const auto value = *transaction->get("t", "counter");
        const int count = value ? std::stoi(*value) : 0;
        ASSERT_TRUE(transaction->put("t", "counter", std::to_string(count + 1)).has_value());
        ASSERT_TRUE(transaction->put("n", fmt::format("{:06}", count), "x").has_value());
        const auto cursor = *transaction->scan("n");
        ASSERT_TRUE(cursor->last());
        ASSERT_EQ(cursor->key(), fmt::format("{:06}", count));
        ASSERT_TRUE(transaction->commit(Durability::kPower).has_value());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(*(*store->snapshot())->get("t", "counter"), std::to_string(kThreads * kRounds));
}

TEST_F(SimulatedStore, ReadersWritersCheckpointsAndMergesRunBesideOneAnother) {
  TemporaryDir dir;
  Options real;
  real.page_size = 4096;
  real.segment_size = 1 << 20;
  real.checkpoint_after = 200 << 10;
  real.checkpoint_rate = 0;
  const auto store = *Store::open(dir.path(), real);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!done) {
        const auto snapshot = *store->snapshot();
        // Every commit writes the same number under each key.
        const auto cursor = *snapshot->scan("t");
        std::string number;
        int records = 0;
        for (bool more = cursor->first(); more; more = cursor->next()) {
          const std::string own(cursor->value().substr(0, 8));
          if (records++ == 0) number = own;
          ASSERT_EQ(own, number);
        }
        ASSERT_TRUE(cursor->status().has_value());
        ASSERT_TRUE(records == 0 || records == 20) << records;
      }
    });
  }
  for (int i = 0; i < 1500; ++i) {
    auto transaction = *store->begin();
    for (int k = 0; k < 20; ++k) {
      ASSERT_TRUE(transaction->put("t", std::to_string(k), fmt::format("{:08}{:>60}", i, k)));
    }
    ASSERT_TRUE(transaction->commit(Durability::kProcess).has_value());
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_GT(store->statistics().checkpoints, 2U);
  ASSERT_TRUE(store->close().has_value());
}

IndexDefinition by_city(bool unique = false, std::uint32_t version = 1) {
  return {.name = "by_city",
          .table = "people",
          .unique = unique,
          .version = version,
          .extract = [](std::string_view, std::string_view value, std::vector<std::string>& keys) {
            if (!value.empty()) keys.emplace_back(value);
          }};
}

TEST_F(SimulatedStore, AnIndexFollowsItsTable) {
  indexes_ = {by_city()};
  open();
  put("people", "ann", "Oslo");
  put("people", "bob", "Rome");
  put("people", "cid", "Oslo");
  const auto found = [&](const std::string& city) {
    return *(*store_->snapshot())->find_by("by_city", city);
  };
  EXPECT_EQ(found("Oslo"), (std::vector<std::string>{"ann", "cid"}));
  put("people", "ann", "Rome");
  erase("people", "cid");
  EXPECT_EQ(found("Oslo"), std::vector<std::string>{});
  EXPECT_EQ(found("Rome"), (std::vector<std::string>{"ann", "bob"}));
  checkpoint();
  put("people", "bob", "");
  EXPECT_EQ(found("Rome"), std::vector<std::string>{"ann"});
  store_.reset();  // As a crash.
  open();
  EXPECT_EQ(found("Rome"), std::vector<std::string>{"ann"});
  EXPECT_EQ((*store_->snapshot())->tables(), std::vector<std::string>{"people"});
}

TEST_F(SimulatedStore, AnIndexIsBuiltForRecordsThatAreThereAlready) {
  open();
  put("people", "ann", "Oslo");
  put("people", "bob", std::string("a\0b", 3));
  put("people", "cid", "a");
  indexes_ = {by_city()};
  open();
  const auto cursor = *(*store_->snapshot())->scan_index("by_city");
  std::vector<std::pair<std::string, std::string>> entries;
  for (bool more = cursor->first(); more; more = cursor->next()) {
    entries.emplace_back(cursor->secondary(), cursor->key());
  }
  ASSERT_TRUE(cursor->status().has_value());
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"Oslo", "ann"}, {"a", "cid"}, {std::string("a\0b", 3), "bob"}};
  EXPECT_EQ(entries, expected);
}

TEST_F(SimulatedStore, AnIndexThatAWriterDidNotKnowIsBuiltAnew) {
  indexes_ = {by_city()};
  open();
  put("people", "ann", "Oslo");
  put("other", "x", "y");
  indexes_.clear();
  open();
  put("other", "x", "z");
  EXPECT_TRUE((*store_->snapshot())->scan_index("by_city").has_value());
  put("people", "ann", "Rome");
  EXPECT_EQ((*store_->snapshot())->scan_index("by_city").error().code(), Code::kNotFound);
  indexes_ = {by_city()};
  open();
  EXPECT_EQ(*(*store_->snapshot())->find_by("by_city", "Oslo"), std::vector<std::string>{});
  EXPECT_EQ(*(*store_->snapshot())->find_by("by_city", "Rome"), std::vector<std::string>{"ann"});
}

TEST_F(SimulatedStore, AUniqueIndexRefusesTheSecondRecord) {
  indexes_ = {by_city(true)};
  open();
  put("people", "ann", "Oslo");
  {
    auto transaction = *store_->begin();
    const auto refused = transaction->put("people", "bob", "Oslo");
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kIndexViolation);
    EXPECT_EQ(refused.error().field("record"), "ann");
    // Within one transaction the place can be given away and taken.
    ASSERT_TRUE(transaction->put("people", "ann", "Rome").has_value());
    ASSERT_TRUE(transaction->put("people", "bob", "Oslo").has_value());
    ASSERT_TRUE(transaction->commit(Durability::kPower).has_value());
  }
  EXPECT_EQ(*(*store_->snapshot())->find_by("by_city", "Oslo"), std::vector<std::string>{"bob"});
}

TEST_F(SimulatedStore, AnExtractorThatChangedItsAnswersIsFoundByTheSample) {
  indexes_ = {by_city()};
  open();
  put("people", "ann", "Oslo");
  store_.reset();
  indexes_[0].extract = [](std::string_view, std::string_view value,
                           std::vector<std::string>& keys) {
    keys.push_back("x" + std::string(value));
  };
  const auto refused = Store::open("/s", options());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kRecoveryVerificationFailed);
  EXPECT_EQ(refused.error().field("check_name"), "index_sample");
  indexes_[0].version = 2;
  open();
  EXPECT_EQ(*(*store_->snapshot())->find_by("by_city", "xOslo"), std::vector<std::string>{"ann"});
}

TEST_F(SimulatedStore, AnExtractorThatThrowsFailsThePutAndNothingElse) {
  indexes_ = {by_city()};
  indexes_[0].extract = [](std::string_view, std::string_view value, std::vector<std::string>&) {
    if (value == "bad") throw std::runtime_error("no such city");
  };
  open();
  auto transaction = *store_->begin();
  EXPECT_EQ(transaction->put("people", "ann", "bad").error().code(), Code::kCallbackThrew);
  EXPECT_TRUE(transaction->put("people", "ann", "Oslo").has_value());
  EXPECT_TRUE(transaction->commit(Durability::kPower).has_value());
}

TEST_F(SimulatedStore, BigValuesPassThroughLogRunAndBase) {
  open();
  const std::string big(3 << 20, 'b');
  put("t", "big", big);
  put("t", "small", "s");
  EXPECT_EQ(*(*store_->snapshot())->get("t", "big"), big);
  checkpoint();
  EXPECT_EQ(*(*store_->snapshot())->get("t", "big"), big);
  store_.reset();
  open();
  EXPECT_EQ(*(*store_->snapshot())->get("t", "big"), big);
  EXPECT_EQ(dump(*store_), model_);
}

}  // namespace
}  // namespace defib::store
