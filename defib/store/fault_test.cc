// Failing system calls: every operation of a workload fails once, with every error it can have.

#include <gtest/gtest.h>

#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::Recording;
using testing_util::SteppedExecutor;

// Commits until something fails; then checks that it stays failed.
void commit_until_failure(Recording& r) {
  auto store = Store::open(kDir, r.options());
  if (!store) return;
  bool poisoned = false;
  for (int i = 0; i < 12; ++i) {
    auto committed = defib::store::put(**store, "t", fmt::format("{}", i), "v",
                                       i % 3 == 0 ? Durability::kProcess : Durability::kPower);
    if (poisoned) {
      ASSERT_FALSE(committed.has_value());
      EXPECT_EQ(committed.error().code(), Code::kStorePoisoned) << committed.error().to_text();
      EXPECT_NE(committed.error().cause(), nullptr);
    }
    if (!committed) poisoned = committed.error().code() == Code::kStorePoisoned;
    if (i == 6) (void)(*store)->checkpoint();
    ASSERT_TRUE((*store)->snapshot().has_value());  // Reads go on.
  }
}

struct Outcome {
  std::size_t operations = 0;
  std::vector<std::uint64_t> acknowledged;  // kPower only
};

// As above, noting what was acknowledged against power failures.
Outcome run_with_fault(Recording& r, std::size_t failing, Code code) {
  Outcome outcome;
  r.disk().set_fault([&](std::size_t index, std::string_view what) -> std::optional<Error> {
    if (index != failing) return std::nullopt;
    return Error(code, "injected into: " + std::string(what));
  });
  auto store = Store::open(kDir, r.options());
  if (store) {
    for (int i = 0; i < 12; ++i) {
      const auto committed =
          defib::store::put(**store, "t", fmt::format("{:02}", i), "v", Durability::kPower);
      if (committed) outcome.acknowledged.push_back(static_cast<std::uint64_t>(i));
      if (i == 6) (void)(*store)->checkpoint();
    }
    (void)(*store)->close();
  }
  r.disk().set_fault(nullptr);
  outcome.operations = r.disk().operations();
  return outcome;
}

void expect_acknowledged(os::SimFiles& disk, bool rebooted, const Outcome& outcome,
                         std::string where) {
  os::FakeClock clock;
  if (rebooted) clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  Options options;
  options.files = &disk;
  options.clock = &clock;
  options.executor = &executor;
  options.segment_size = 16 << 10;
  testing_util::State shown;
  {
    const auto store = Store::open(kDir, options);
    ASSERT_TRUE(store.has_value()) << where << ": " << store.error().to_text();
    shown = dump(**store);
  }
  for (const std::uint64_t number : outcome.acknowledged) {
    ASSERT_TRUE(shown.contains({"t", fmt::format("{:02}", number)})) << where << ": " << number;
  }
  // What was shown was not only in the page cache.
  const auto after = disk.crashed(disk.operations(), 0);
  clock.reboot(std::chrono::seconds(1));
  options.files = after.get();
  const auto again = Store::open(kDir, options);
  ASSERT_TRUE(again.has_value()) << where << ": " << again.error().to_text();
  EXPECT_EQ(dump(**again), shown) << where;
}

TEST(StoreFault, AnyFailingOperationLosesNothingAcknowledged) {
  Recording healthy(1, nullptr);
  const Outcome all = run_with_fault(healthy, ~0ULL, Code::kIoError);
  ASSERT_EQ(all.acknowledged.size(), 12U);
  ASSERT_GT(all.operations, 60U);
  for (std::size_t n = 0; n < all.operations; ++n) {
    for (const Code code : {Code::kIoError, Code::kSyncFailed, Code::kNoSpace}) {
      Recording r(1, nullptr);
      const Outcome outcome = run_with_fault(r, n, code);
      const std::string where =
          fmt::format("operation {} fails with {}", n, static_cast<int>(code));
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        expect_acknowledged(*r.disk().crashed(outcome.operations, seed), true, outcome,
                            where + ", then power fails");
      }
      expect_acknowledged(*r.disk().killed(outcome.operations, 0), false, outcome,
                          where + ", then it is killed");
    }
  }
}

TEST(StoreFault, APoisonedStoreStaysPoisonedAndReadable) {
  for (std::size_t n = 12; n < 60; ++n) {
    Recording r(1, nullptr);
    r.disk().set_fault([&](std::size_t index, std::string_view what) -> std::optional<Error> {
      if (index != n) return std::nullopt;
      return Error(Code::kIoError, "injected into: " + std::string(what));
    });
    commit_until_failure(r);
  }
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

TEST(StoreFault, ATransactionThatBuiltOnAnUnwrittenCommitFailsToo) {
  Recording r(1, nullptr);
  r.open();
  r.must_commit(Durability::kPower);
  r.disk().set_capacity(0);
  Result<std::uint64_t> refused = std::uint64_t{0};
  for (int i = 0; i < 40 && refused; ++i) refused = r.commit(Durability::kPower, 2000);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kStoreFull);
  r.disk().set_capacity(~0ULL);
  r.must_commit(Durability::kPower);
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
}

}  // namespace
}  // namespace defib::store
