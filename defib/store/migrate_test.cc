// Stores of format version 1, whole and damaged, brought up to date.

#include <gtest/gtest.h>

#include <algorithm>

#include "defib/os/sim_files.h"
#include "defib/store/format.h"
#include "defib/store/maintenance.h"
#include "defib/store/testing/store_util.h"
#include "defib/store/testing/version_1_stores.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::make_version_1_store;
using testing_util::State;

constexpr const char* kDir = "/s";

Options on(os::Files& files) {
  Options options;
  options.segment_size = 8 << 20;  // the simulated disk copies what it syncs
  options.files = &files;
  options.checkpoint_after = 0;
  return options;
}

State expected(std::string_view name) {
  State state;
  if (name != "young") {
    for (int i = 1; i <= 40; ++i) {
      state[{"orders", fmt::format("{:02}", i)}] = fmt::format("value {:02}", i);
    }
    state.erase({"orders", "03"});
    state[{"accounts", std::string("alice\0", 6)}] = "100";
    state[{"accounts", "bob"}] = "";
    state[{"accounts", "carol"}] = "7";
  }
  if (name == "closed") return state;
  for (int i = 0; i < 3; ++i) {
    state[{"orders", fmt::format("late{}", i)}] = "x";
    state.erase({"orders", fmt::format("{}", 10 + i)});
  }
  return state;
}
std::uint64_t last_commit(std::string_view name) {
  return name == "closed" ? 6 : name == "killed" ? 9 : 3;
}

class StoreMigration : public testing::TestWithParam<const char*> {};

TEST_P(StoreMigration, KeepsEveryRecordAndEveryCommitNumber) {
  os::SimFiles files;
  ASSERT_TRUE(make_version_1_store(files, GetParam(), kDir));
  const auto refused = Store::open(kDir, on(files));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kStoreFormatUnsupported);
  EXPECT_NE(refused.error().suggested_action().find("defib store migrate"), std::string::npos);

  const auto report = migrate(kDir, on(files));
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_EQ(report->from_version, 1U);
  EXPECT_EQ(report->to_version, kFormatVersion);
  const auto status = *Store::status(kDir, on(files));
  EXPECT_EQ(status.recovery_needed, std::string_view(GetParam()) != "closed");
  EXPECT_EQ(status.last_commit, last_commit(GetParam()));
  const auto findings = Store::verify_files(kDir, on(files))->findings;
  if (status.recovery_needed) {
    // Version 1 did not say which segment was its last.
    ASSERT_EQ(findings.size(), 1U);
    EXPECT_NE(findings[0].problem.find("log.head is missing"), std::string::npos);
  } else {
    EXPECT_TRUE(findings.empty());
  }
  for (const std::string& path : files.all_files()) EXPECT_FALSE(path.ends_with(".ckpt")) << path;

  const auto again = migrate(kDir, on(files));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->from_version, kFormatVersion);
  auto store = *Store::open(kDir, on(files));
  EXPECT_EQ(dump(*store), expected(GetParam()));
  EXPECT_EQ(*put(*store, "t", "k", "v", Durability::kPower), last_commit(GetParam()) + 1);
  EXPECT_TRUE(store->close());
}

// A power failure or a kill after each operation: then it is run again.
TEST_P(StoreMigration, CanBeEndedAtAnyPointAndRunAgain) {
  os::SimFiles files;
  ASSERT_TRUE(make_version_1_store(files, GetParam(), kDir));
  const auto disk = files.killed(files.operations(), 0);  // Everything of it is durable.
  ASSERT_TRUE(migrate(kDir, on(*disk)).has_value());
  for (std::size_t end = 0; end <= disk->operations(); ++end) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const auto crashed = seed == 0 ? disk->killed(end, end) : disk->crashed(end, end * 7 + seed);
      SCOPED_TRACE(fmt::format("after operation {} of {}, seed {}", end, disk->operations(), seed));
      const auto report = migrate(kDir, on(*crashed));
      ASSERT_TRUE(report.has_value()) << report.error().to_text();
      auto store = Store::open(kDir, on(*crashed));
      ASSERT_TRUE(store.has_value()) << store.error().to_text();
      ASSERT_EQ(dump(**store), expected(GetParam()));
      ASSERT_TRUE((*store)->close());
      ASSERT_TRUE(Store::verify_files(kDir, on(*crashed))->findings.empty());
    }
  }
}

TEST_P(StoreMigration, ThatFailsLeavesAStoreThatCanStillBeMigrated) {
  os::SimFiles files;
  ASSERT_TRUE(make_version_1_store(files, GetParam(), kDir));
  const auto disk = files.killed(files.operations(), 0);
  const auto whole = disk->killed(0, 0);
  ASSERT_TRUE(migrate(kDir, on(*whole)).has_value());
  for (const Code code : {Code::kNoSpace, Code::kSystemCallFailed, Code::kSyncFailed}) {
    for (std::size_t at = 0; at < whole->operations(); ++at) {
      SCOPED_TRACE(fmt::format("operation {} fails", at));
      const auto failing = disk->killed(0, 0);
      failing->set_fault([&](std::size_t index, std::string_view) {
        return index == at ? std::optional(Error(code, "a planned failure")) : std::nullopt;
      });
      const auto report = migrate(kDir, on(*failing));
      failing->set_fault(nullptr);
      const auto later = migrate(kDir, on(*failing));
      ASSERT_TRUE(later.has_value()) << later.error().to_text();
      ASSERT_EQ(dump(**Store::open(kDir, on(*failing))), expected(GetParam()));
    }
  }
}

TEST_P(StoreMigration, RepairReadsTheOldFormatToo) {
  os::SimFiles files;
  ASSERT_TRUE(make_version_1_store(files, GetParam(), kDir));
  const auto report = repair(kDir, "/new", on(files));
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_TRUE(report->losses.empty()) << report->losses.front();
  EXPECT_EQ(report->commit, last_commit(GetParam()));
  EXPECT_EQ(dump(**Store::open("/new", on(files))), expected(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Each, StoreMigration, testing::Values("closed", "killed", "young"),
                         [](const auto& test) { return std::string(test.param); });

TEST(StoreMigrationRefusal, OfADamagedCheckpointChangesNothingAndPointsToRepair) {
  os::SimFiles files;
  ASSERT_TRUE(make_version_1_store(files, "killed", kDir));
  const std::string path = "/s/checkpoint-0000000000000006.ckpt";
  std::string bytes = files.content(path);
  bytes[4200] ^= 1;
  files.set_content(path, bytes);
  const auto report = migrate(kDir, on(files));
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code(), Code::kRecoveryImpossible);
  EXPECT_NE(report.error().suggested_action().find("defib store repair"), std::string::npos);
  EXPECT_EQ(files.content(path), bytes);
  EXPECT_FALSE(files.exists("/s/index.pg"));

  const auto saved = repair(kDir, "/new", on(files));
  ASSERT_TRUE(saved.has_value()) << saved.error().to_text();
  ASSERT_EQ(saved->losses.size(), 1U);
  EXPECT_EQ(saved->losses[0].kind, LossKind::kRecords);
  // The log's commits are there.
  EXPECT_EQ(dump(**Store::open("/new", on(files))).count({"orders", "late2"}), 1U);
}

TEST(StoreMigrationRefusal, NamesWhatItCannotMigrate) {
  os::SimFiles files;
  const auto nothing = migrate("/nowhere", on(files));
  ASSERT_FALSE(nothing.has_value());
  EXPECT_EQ(nothing.error().code(), Code::kNotAStore);
  EXPECT_FALSE(files.exists("/nowhere"));
  ASSERT_TRUE(make_version_1_store(files, "closed", kDir));
  std::string problem;
  Identity identity = *decode_identity(files.content("/s/store.id"), problem);
  identity.version = kFormatVersion + 1;
  files.set_content("/s/store.id", encode(identity));
  const auto newer = migrate(kDir, on(files));
  ASSERT_FALSE(newer.has_value());
  EXPECT_EQ(newer.error().code(), Code::kStoreFormatUnsupported);
}

}  // namespace
}  // namespace defib::store
