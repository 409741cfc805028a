#include "defib/os/sim_files.h"

#include <gtest/gtest.h>

#include <set>

namespace defib::os {
namespace {

constexpr int kSeeds = 200;

// What `path` may hold after a crash of `files` now; "gone" where it may be missing.
std::set<std::string> outcomes(const SimFiles& files, const std::string& path) {
  std::set<std::string> found;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto after = files.crashed(files.operations(), seed);
    found.insert(after->exists(path) ? after->content(path) : "gone");
  }
  return found;
}

std::unique_ptr<File> create(SimFiles& files, const std::string& path) {
  return *files.open(path, OpenMode::kCreate);
}

TEST(SimFiles, WhatWasSyncedWithItsNameSurvivesEveryCrash) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  EXPECT_EQ(outcomes(files, "/a"), std::set<std::string>{"x"});
}

TEST(SimFiles, WithoutSyncingTheDirectoryASyncedFileMayBeGone) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_EQ(outcomes(files, "/a"), (std::set<std::string>{"x", "gone"}));
}

TEST(SimFiles, AnUnsyncedOverwriteLeavesOldOrNew) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "old").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  ASSERT_TRUE(file->write_at(0, "new").has_value());
  EXPECT_EQ(outcomes(files, "/a"), (std::set<std::string>{"old", "new"}));
}

TEST(SimFiles, UnsyncedSectorsAreLostTornAndReordered) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, std::string(1024, 'o')).has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  ASSERT_TRUE(file->write_at(0, std::string(512, 'a')).has_value());
  ASSERT_TRUE(file->write_at(512, std::string(512, 'b')).has_value());
  std::set<std::string> kinds;
  for (const std::string& content : outcomes(files, "/a")) {
    ASSERT_EQ(content.size(), 1024U);
    EXPECT_EQ(content.substr(0, 512), std::string(512, content[0]));
    EXPECT_EQ(content.substr(512), std::string(512, content[512]));
    kinds.insert({content[0], content[512]});
  }
  // "ob": the second write without the first.
  EXPECT_EQ(kinds, (std::set<std::string>{"oo", "ao", "ob", "ab"}));
}

TEST(SimFiles, ARenameIsAtomicAndMayBeLost) {
  SimFiles files;
  {
    const auto old = create(files, "/a");
    ASSERT_TRUE(old->write_at(0, "old").has_value());
    ASSERT_TRUE(old->sync().has_value());
  }
  const auto file = create(files, "/a.tmp");
  ASSERT_TRUE(file->write_at(0, "new").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  ASSERT_TRUE(files.rename("/a.tmp", "/a").has_value());
  EXPECT_EQ(outcomes(files, "/a"), (std::set<std::string>{"old", "new"}));
}

TEST(SimFiles, AFailedSyncLosesItsDataAndTheNextOneDoesNotBringThemBack) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  files.set_fault([](std::size_t, std::string_view) {
    return std::optional(Error(Code::kSyncFailed, "injected"));
  });
  EXPECT_EQ(file->sync().error().code(), Code::kSyncFailed);
  files.set_fault(nullptr);
  EXPECT_TRUE(file->sync().has_value());
  EXPECT_EQ(files.content("/a"), "x");  // The page cache still has it.
  EXPECT_EQ(outcomes(files, "/a"), std::set<std::string>{""});
  ASSERT_TRUE(file->drop_cache().has_value());
  EXPECT_EQ(files.content("/a"), "");
}

TEST(SimFiles, AKillKeepsEveryWriteAndCutsTheOneUnderWayBetweenPages) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  const std::size_t before = files.operations();
  ASSERT_TRUE(file->write_at(0, std::string(10000, 'y')).has_value());
  std::set<std::size_t> sizes;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    sizes.insert(files.killed(before, seed)->content("/a").size());
  }
  EXPECT_EQ(sizes, (std::set<std::size_t>{1, 4096, 8192}));
}

TEST(SimFiles, AFullDiskRefusesToGrowAndTakesRemovedFilesBack) {
  SimFiles files;
  files.set_capacity(10);
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "12345678").has_value());
  EXPECT_EQ(file->write_at(8, "123").error().code(), Code::kNoSpace);
  EXPECT_EQ(*files.free_space("/"), 2U);
  ASSERT_TRUE(files.remove("/a").has_value());
  EXPECT_EQ(*files.free_space("/"), 10U);
}

TEST(SimFiles, ALockIsHeldByOneOpenFileUntilItIsClosed) {
  SimFiles files;
  auto first = create(files, "/a");
  const auto second = create(files, "/a");
  ASSERT_TRUE(first->try_lock().has_value());
  EXPECT_EQ(second->try_lock().error().code(), Code::kDatabaseLocked);
  first.reset();
  EXPECT_TRUE(second->try_lock().has_value());
}

}  // namespace
}  // namespace defib::os
