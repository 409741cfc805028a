// Full disks and unreadable places beside the commits: in checkpoints, merges and openings. A full
// disk is told by a write, and then something is refused and later goes on, or by a sync, and then
// the store is poisoned. What cannot be read fails what needs it.

#include <gtest/gtest.h>

#include "defib/store/format.h"
#include "defib/store/sorted_file.h"
#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::PacedClock;
using testing_util::Recording;
using testing_util::small_store;
using testing_util::SteppedExecutor;
using testing_util::try_dump;

// What is done while a fault is on its way.
enum class Work { kCheckpoint, kMerge };
constexpr int kRunsBeforeMerge = 9;

void prepare(Recording& r, Work work) {
  r.open();
  const int rounds = work == Work::kCheckpoint ? 1 : kRunsBeforeMerge;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 2; ++i) r.must_commit(Durability::kPower, 200);
    r.all_durable(r.store().checkpoint());
  }
  for (int i = 0; i < 2; ++i) r.must_commit(Durability::kPower, 200);
  r.executor().run_all();
}

// The merge runs in the background, after the checkpoint that makes it due.
Result<> run(Recording& r, Work work) {
  Result<> done = r.store().checkpoint();
  if (work == Work::kMerge) r.executor().run_all();
  return done;
}

class StoreFullDisk : public testing::TestWithParam<Work> {};

TEST_P(StoreFullDisk, FromAnyWriteRefusesAndThenGoesOnAndFromASyncPoisons) {
  std::size_t begin = 0;
  std::size_t end = 0;
  {
    Recording healthy(4, nullptr);
    prepare(healthy, GetParam());
    begin = healthy.disk().operations();
    ASSERT_TRUE(run(healthy, GetParam()).has_value());
    EXPECT_EQ(healthy.store().statistics().merges, GetParam() == Work::kMerge ? 1U : 0U);
    end = healthy.disk().operations();
  }
  int refused = 0;
  int poisoned = 0;
  for (std::size_t n = begin; n < end; ++n) {
    Recording r(4, nullptr);
    prepare(r, GetParam());
    std::string hit;
    r.disk().set_fault([&](std::size_t index, std::string_view what) -> std::optional<Error> {
      if (index != n) return std::nullopt;
      hit = what;
      return Error(Code::kNoSpace, "injected");
    });
    const Result<> done = run(r, GetParam());
    r.disk().set_fault(nullptr);
    SCOPED_TRACE(hit);
    const auto shown = try_dump(**r.store().snapshot());
    ASSERT_TRUE(shown.has_value()) << "reads go on";
    EXPECT_EQ(*shown, r.state(r.last()));
    if (!done) {
      EXPECT_TRUE(done.error().code() == Code::kStoreFull ||
                  done.error().code() == Code::kStorePoisoned)
          << done.error().to_text();
    }
    const bool usable = r.store().sync().has_value();
    if (!usable) {
      // Also a write of the page file, where a manifest stands half written.
      EXPECT_TRUE(hit.find("sync") != hit.npos || hit.find(".pg") != hit.npos ||
                  hit.find("rename") != hit.npos || hit.find("remove") != hit.npos);
      EXPECT_FALSE(r.commit(Durability::kPower).has_value());
      ++poisoned;
    } else {
      // Spare segments are material only, and made anew.
      EXPECT_TRUE(hit.find("sync") == hit.npos || hit.find(".spare") != hit.npos)
          << "a failed sync was ignored";
      r.must_commit(Durability::kPower);
      const Result<> again = run(r, GetParam());
      EXPECT_TRUE(again.has_value()) << again.error().to_text();
      EXPECT_EQ(dump(r.store()), r.state(r.last()));
      refused += done ? 0 : 1;
    }
    r.drop();
    PacedClock clock;
    clock.reboot(std::chrono::seconds(1));
    SteppedExecutor executor;
    const auto image = r.disk().crashed(r.disk().operations(), n);
    const auto store = Store::open(kDir, small_store(*image, clock, executor));
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    const std::uint64_t position = (*(*store)->snapshot())->position();
    EXPECT_GE(position, r.required(r.disk().operations(), true));
    EXPECT_EQ(dump(**store), r.state(position));
  }
  fmt::print("  {} operations: {} refused, {} poisoned\n", end - begin, refused, poisoned);
  EXPECT_GT(refused, 0);
  EXPECT_GT(poisoned, 0);
}

// A disk without a byte left while the checkpoint or merge is on, and room again after it.
TEST_P(StoreFullDisk, AsAWholeLosesNothingAndTheWorkIsDoneLater) {
  Recording r(4, nullptr);
  prepare(r, GetParam());
  r.disk().set_capacity(0);
  (void)run(r, GetParam());
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
  Result<std::uint64_t> refused = std::uint64_t{0};
  for (int i = 0; i < 40 && refused; ++i) refused = r.commit(Durability::kPower, 2000);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kStoreFull);
  r.disk().set_capacity(~0ULL);
  r.must_commit(Durability::kPower);
  ASSERT_TRUE(run(r, GetParam()).has_value());
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
  r.close();
  r.open();
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
}

INSTANTIATE_TEST_SUITE_P(Works, StoreFullDisk, testing::Values(Work::kCheckpoint, Work::kMerge),
                         [](const auto& test) {
                           return test.param == Work::kCheckpoint ? "checkpoint" : "merge";
                         });

TEST(StoreFullDiskOpening, IsInsufficientResourcesAndTheNextOpeningFindsEverything) {
  Recording r(4, nullptr);
  prepare(r, Work::kCheckpoint);
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kProcess, 3000);
  const std::size_t operations = r.disk().operations();
  r.drop();
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const auto image = r.disk().crashed(operations, seed);
    PacedClock clock;
    clock.reboot(std::chrono::seconds(1));
    SteppedExecutor executor;
    image->set_capacity(0);
    auto store = Store::open(kDir, small_store(*image, clock, executor));
    image->set_capacity(~0ULL);
    if (!store) {
      EXPECT_EQ(store.error().code(), Code::kInsufficientResources) << store.error().to_text();
      EXPECT_FALSE(store.error().field("available").empty());
      ++refused;
      store = Store::open(kDir, small_store(*image, clock, executor));
    }
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    const std::uint64_t position = (*(*store)->snapshot())->position();
    EXPECT_GE(position, r.required(operations, true));
    EXPECT_EQ(dump(**store), r.state(position));
    EXPECT_TRUE(put(**store, "z", "k", "v", Durability::kPower).has_value());
  }
  EXPECT_GT(refused, 0);
}

// log.head needs a block of its own for each segment; without one the commit waits for space.
TEST(StoreFullDiskHead, RefusesTheCommitThatNeedsANewSegmentAndTakesItLater) {
  Recording r(4, nullptr);
  r.open();
  bool full = true;
  r.disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!full || !what.starts_with("write /s/log.head.tmp")) return std::nullopt;
    return Error(Code::kNoSpace, "injected");
  });
  for (int i = 0; i < 3; ++i) {
    const auto refused = r.commit(Durability::kPower);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kStoreFull);
  }
  full = false;
  r.must_commit(Durability::kPower);
  full = true;
  // In the segment that it has it goes on.
  r.must_commit(Durability::kPower);
  full = false;
  r.drop();
  r.open();
  EXPECT_EQ(dump(r.store()), r.state(2));
}

// A block of the base that the device does not deliver: its keys answer an error, the others their
// values; a merge that needs it ends without harm, and succeeds when the device does again.
TEST(StoreUnreadableBlock, FailsItsKeysAndTheMergeAndNothingElse) {
  Recording r(4, nullptr);
  r.open();
  const auto fill = [&](int round) {
    auto transaction = *r.store().begin();
    for (int i = 0; i < 1000; ++i) {
      const bool changed = round == 0 || i % 200 == round;
      if (changed) {
        ASSERT_TRUE(transaction->put("big", std::to_string(10000 + i), std::string(100, 'v')));
      }
    }
    ASSERT_TRUE(transaction->commit(Durability::kPower).has_value());
    ASSERT_TRUE(r.store().checkpoint().has_value());
  };
  fill(0);
  std::string base;
  for (const std::string& path : r.disk().all_files()) {
    if (path.ends_with(".base")) base = path;
  }
  r.drop();
  const std::size_t bad = r.disk().content(base).find("10500") / 4096 * 4096;
  r.disk().set_read_fault(
      [&](std::string_view path, std::uint64_t offset, std::span<char>& bytes) -> Result<> {
        if (path != base || offset >= bad + 4096 || bad >= offset + bytes.size()) return {};
        return Error(Code::kIoError, "injected").with("path", path);
      });
  r.open();
  const auto expect_damage = [&] {
    const auto snapshot = *r.store().snapshot();
    EXPECT_EQ(*snapshot->get("big", "10000"), std::string(100, 'v'));
    EXPECT_EQ(*snapshot->get("big", "10999"), std::string(100, 'v'));
    const auto hit = snapshot->get("big", "10500");
    ASSERT_FALSE(hit.has_value());
    EXPECT_EQ(hit.error().code(), Code::kIoError) << hit.error().to_text();
    EXPECT_FALSE(hit.error().field("from_key").empty());
  };
  expect_damage();
  for (int round = 1; round <= kRunsBeforeMerge + 1; ++round) fill(round);
  r.executor().run_all();
  EXPECT_EQ(r.store().statistics().merges, 0U);
  expect_damage();
  ASSERT_TRUE(put(r.store(), "t", "k", "v", Durability::kPower).has_value()) << "not poisoned";
  // A mapping of the simulator keeps what it could not read; the kernel's reads it again.
  r.drop();
  r.disk().set_read_fault(nullptr);
  r.open();
  fill(kRunsBeforeMerge + 2);
  r.executor().run_all();
  EXPECT_EQ(r.store().statistics().merges, 1U);
  EXPECT_EQ(*(*r.store().snapshot())->get("big", "10500"), std::string(100, 'v'));
  ASSERT_TRUE(r.store().close().has_value());
}

// What a checkpoint has just written and cannot read again does not count, and is no poison.
TEST(StoreUnreadableBlock, InANewRunFailsTheCheckpointAndNothingElse) {
  Recording r(4, nullptr);
  r.open();
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  bool failing = true;
  r.disk().set_read_fault([&](std::string_view path, std::uint64_t, std::span<char>&) -> Result<> {
    if (!failing || !path.starts_with("/s/data/")) return {};
    return Error(Code::kIoError, "injected").with("path", path);
  });
  EXPECT_FALSE(r.store().checkpoint().has_value());
  r.must_commit(Durability::kPower);
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
  failing = false;
  r.all_durable(r.store().checkpoint());
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
  r.drop();
  r.open();
  EXPECT_EQ(dump(r.store()), r.state(r.last()));
}

// A commit that would have dropped an index and found no space has not dropped it: the next one
// must, or the index would go stale under whoever declares it again.
TEST(StoreFullDisk, LeavesAnIndexThatAFailedCommitWouldHaveDropped) {
  os::SimFiles disk;
  PacedClock clock;
  SteppedExecutor executor;
  const Options plain = small_store(disk, clock, executor);
  Options indexed = plain;
  indexed.indexes = {{.name = "by_value",
                      .table = "orders",
                      .extract = [](auto, auto value, auto& keys) { keys.emplace_back(value); }}};
  {
    const auto store = *Store::open(kDir, indexed);
    ASSERT_TRUE(put(*store, "orders", "1", "old", Durability::kPower).has_value());
    ASSERT_TRUE(store->close().has_value());
  }
  {
    const auto store = *Store::open(kDir, plain);
    disk.set_capacity(0);
    const auto refused = put(*store, "orders", "2", std::string(100'000, 'x'), Durability::kPower);
    ASSERT_FALSE(refused.has_value());
    ASSERT_EQ(refused.error().code(), Code::kStoreFull);
    disk.set_capacity(~0ULL);
    ASSERT_TRUE(put(*store, "orders", "1", "new", Durability::kPower).has_value());
    ASSERT_TRUE(store->close().has_value());
  }
  const auto store = *Store::open(kDir, indexed);
  const auto snapshot = *store->snapshot();
  EXPECT_EQ(*snapshot->find_by("by_value", "new"), std::vector<std::string>{"1"});
  EXPECT_TRUE(snapshot->find_by("by_value", "old")->empty());
}

}  // namespace
}  // namespace defib::store
