// Transactions that cannot lie, against real servers: what is told is what is stored.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "defib/connection/pool.h"
#include "defib/connection/testing/rig.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::Driver;
using testing::FaultProxy;
using testing::Rig;

std::string driver_name(const ::testing::TestParamInfo<Driver>& info) {
  return testing::name_of(info.param);
}

class TransactionTest : public ::testing::TestWithParam<Driver> {
 protected:
  void SetUp() override {
    auto rig = Rig::make(GetParam());
    ASSERT_TRUE(rig) << rig.error().to_text();
    rig_ = std::move(*rig);
    const auto made = rig_->make_table("t");
    ASSERT_TRUE(made) << made.error().to_text();
  }
  std::unique_ptr<Pool> open(PoolOptions options = {}) {
    auto pool = rig_->pool(std::move(options));
    EXPECT_TRUE(pool) << pool.error().to_text();
    return std::move(*pool);
  }
  static Statement insert(int id) {
    return Statement(fmt::format("INSERT INTO t (id, n) VALUES ({}, 0)", id));
  }
  std::unique_ptr<Rig> rig_;
};

TEST_P(TransactionTest, CommitsWhatItSays) {
  auto pool = open();
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute(insert(1)));
    DEFIB_TRY(tx.execute(insert(2)));
    return {};
  });
  ASSERT_TRUE(done) << done.error().to_text();
  EXPECT_EQ(rig_->count("t"), 2);
}

TEST_P(TransactionTest, AnErrorOfTheCallersRollsBack) {
  auto pool = open();
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute(insert(1)));
    return Error(Code::kCancelled, "not today");
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kCancelled);
  EXPECT_EQ(rig_->count("t"), 0);
}

// MariaDB would store the row with the table, and a repetition would store it twice.
TEST_P(TransactionTest, NothingIsStoredWhereAStatementCommitsByItself) {
  ASSERT_TRUE(rig_->administer("DROP TABLE IF EXISTS beside"));
  auto pool = open();
  Code code = Code::kCancelled;
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute(insert(1)));
    const auto made = tx.execute("CREATE TABLE beside (id INTEGER)");
    if (!made) code = made.error().code();
    DEFIB_TRY(made);
    return Error(Code::kCancelled, "not today");
  });
  EXPECT_FALSE(done);
  EXPECT_EQ(code, GetParam() == Driver::kMariadb ? Code::kInvalidArgument : Code::kCancelled);
  EXPECT_EQ(rig_->count("t"), 0);
}

// INSERT 1; duplicate key; INSERT 2; COMMIT: every driver would say SUCCESS.
TEST_P(TransactionTest, NothingIsStoredAfterAnErrorThatWasPassedOver) {
  ASSERT_TRUE(rig_->administer(insert(7)));
  auto pool = open();
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    EXPECT_TRUE(tx.execute(insert(1)));
    const auto duplicate = tx.execute(insert(7));
    EXPECT_FALSE(duplicate);
    EXPECT_EQ(class_of(duplicate.error()), FailureClass::kNever) << duplicate.error().to_text();
    EXPECT_FALSE(tx.execute(insert(2)));
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kTransactionPoisoned) << done.error().to_text();
  EXPECT_EQ(rig_->count("t"), 1);
}

// The same at every position, on the bare session, whose commit must refuse by itself.
TEST_P(TransactionTest, ABareCommitAfterAnErrorStoresNothingAndSaysSo) {
  ASSERT_TRUE(rig_->administer(insert(1000)));
  auto session = rig_->connect();
  ASSERT_TRUE(session) << session.error().to_text();
  for (int bad = 0; bad < 4; ++bad) {
    ASSERT_TRUE((*session)->begin(Isolation::kDefault, false, Deadline::after(5s)));
    for (int i = 0; i < 4; ++i) {
      (void)(*session)->execute(insert(i == bad ? 1000 : i), Deadline::after(5s));
    }
    const auto committed = (*session)->commit(Deadline::after(5s));
    ASSERT_FALSE(committed) << "after an error at " << bad;
    EXPECT_EQ(committed.error().code(), Code::kCommitRolledBack) << committed.error().to_text();
    EXPECT_EQ(rig_->count("t"), 1) << "after an error at " << bad;
  }
}

TEST_P(TransactionTest, ADeadlocksVictimLetsGoAtOnceAndIsReplayed) {
  if (!rig_->networked()) GTEST_SKIP() << "one writer at a time";
  ASSERT_TRUE(rig_->administer(insert(1)));
  ASSERT_TRUE(rig_->administer(insert(2)));
  auto pool = open();
  std::atomic<int> first_done{0}, attempts{0}, finished{0};
  const auto work = [&](int first, int second) {
    return pool->transaction([&, met = false](Transaction& tx) mutable -> Result<> {
      ++attempts;
      DEFIB_TRY(tx.execute(fmt::format("UPDATE t SET n = n + 1 WHERE id = {}", first)));
      if (!met) {
        met = true;
        ++first_done;
        while (first_done < 2) std::this_thread::yield();
      }
      const auto updated = tx.execute(fmt::format("UPDATE t SET n = n + 1 WHERE id = {}", second));
      if (updated) return {};
      // The victim has let go although its work has not returned yet: the other gets through.
      const Deadline limit = Deadline::after(5s);
      while (finished == 0 && !limit.passed()) os::real_clock().sleep_for(1ms);
      EXPECT_GT(finished, 0);
      return updated.error();
    });
  };
  std::thread other([&] {
    const auto done = work(2, 1);
    EXPECT_TRUE(done) << done.error().to_text();
    ++finished;
  });
  const auto done = work(1, 2);
  ++finished;
  other.join();
  EXPECT_TRUE(done) << done.error().to_text();
  EXPECT_EQ(attempts, 3);
  EXPECT_EQ(rig_->count("t", "n = 2"), 2);
}

// Commits are cut at random places; each transaction adds one row with its own number, as a
// transaction that adds again would be seen by n.
class CutTest : public TransactionTest {};

TEST_P(CutTest, LostRequestsAndRepliesCostNothingAndDoubleNothing) {
  PoolOptions options;
  options.transaction_attempts = 5;
  options.gate.retry_reserve = 10'000;
  if (!rig_->is_postgres()) options.commit_table = "defib_commits";
  {
    auto session = rig_->connect_directly();
    ASSERT_TRUE(session);
    ASSERT_TRUE(make_commit_table(**session, "defib_commits", Deadline::after(5s)));
    ASSERT_TRUE((*session)->execute("DROP TABLE IF EXISTS ledger", Deadline::after(5s)));
    ASSERT_TRUE((*session)->execute("CREATE TABLE ledger (id INTEGER)", Deadline::after(5s)));
  }
  auto pool = open(options);
  constexpr int kRounds = 60;
  for (int i = 0; i < kRounds; ++i) {
    const FaultProxy::Cut cut = i % 3 == 0   ? FaultProxy::Cut::kRequest
                                : i % 3 == 1 ? FaultProxy::Cut::kReply
                                             : FaultProxy::Cut::kNone;
    rig_->proxy().cut_commits(cut);
    TransactionOptions limits;
    limits.timeout = 20s;
    const auto done = pool->transaction(
        [&](Transaction& tx) -> Result<> {
          DEFIB_TRY(tx.execute(fmt::format("INSERT INTO ledger (id) VALUES ({})", i)));
          return {};
        },
        limits);
    EXPECT_TRUE(done) << i << ": " << done.error().to_text();
    EXPECT_EQ(rig_->count("ledger", fmt::format("id = {}", i)), 1) << i;
  }
  EXPECT_GE(rig_->proxy().cuts_done(), kRounds * 2 / 3);
  EXPECT_EQ(rig_->count("ledger"), kRounds);
  EXPECT_EQ(pool->metrics().commits_unresolved.value(), 0u);
  EXPECT_EQ(pool->metrics().commits_ambiguous.value(), pool->metrics().commits_resolved.value());
  EXPECT_GE(pool->metrics().commits_resolved.value(), static_cast<std::uint64_t>(kRounds * 2 / 3));
}

TEST_P(CutTest, WithoutResolutionAnAmbiguousCommitIsToldAsSuch) {
  PoolOptions options;
  options.commit_resolution = CommitResolution::kOff;
  auto pool = open(options);
  rig_->proxy().cut_commits(FaultProxy::Cut::kReply);
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute(insert(1)));
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kCommitUnknown) << done.error().to_text();
  EXPECT_EQ(rig_->count("t"), 1);  // it was stored; nobody could know
}

INSTANTIATE_TEST_SUITE_P(Drivers, TransactionTest,
                         ::testing::Values(Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb,
                                           Driver::kSqlite),
                         driver_name);
INSTANTIATE_TEST_SUITE_P(Drivers, CutTest, ::testing::ValuesIn(testing::kNetworked), driver_name);

}  // namespace
}  // namespace defib::connection
