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

TEST(SimFiles, AVolatilePageSurvivesAKillWithTheWordsOfThenAndNoPowerFailure) {
  SimFiles files;
  const auto page = *files.volatile_page("ack");
  EXPECT_EQ(page->load(1), 0U);
  page->store(1, 7);
  page->store(1, 8);
  EXPECT_EQ(page->load(1), 8U);
  EXPECT_EQ(files.operations(), 2U);
  for (std::size_t n = 0; n <= 2; ++n) {
    const std::uint64_t then = n == 0 ? 0 : 6 + n;
    EXPECT_EQ((*files.killed(n, 0)->volatile_page("ack"))->load(1), then);
    EXPECT_EQ((*files.crashed(n, n)->volatile_page("ack"))->load(1), 0U);
  }
  ASSERT_TRUE(files.remove_volatile_page("ack").has_value());
  EXPECT_EQ(page->load(1), 0U);
}

TEST(SimFiles, ALostWriteIsSeenUntilTheCacheIsDroppedAndSurvivesNoCrash) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "old").has_value());
  files.set_mischief(
      [](std::size_t, std::string_view) { return std::optional(SimFiles::Mischief{}); });
  ASSERT_TRUE(file->write_at(0, "new").has_value());
  files.set_mischief(nullptr);
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  EXPECT_EQ(files.content("/a"), "new");
  EXPECT_EQ(files.killed(files.operations(), 0)->content("/a"), "new");
  EXPECT_EQ(outcomes(files, "/a"), std::set<std::string>{"old"});
  ASSERT_TRUE(file->drop_cache().has_value());
  EXPECT_EQ(files.content("/a"), "old");
}

TEST(SimFiles, AMisdirectedWriteLandsInTheOtherFile) {
  SimFiles files;
  const auto file = create(files, "/a");
  const auto other = create(files, "/b");
  ASSERT_TRUE(file->write_at(0, "aaaa").has_value());
  ASSERT_TRUE(other->write_at(0, "bbbb").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(other->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  files.set_mischief([](std::size_t, std::string_view what) -> std::optional<SimFiles::Mischief> {
    EXPECT_EQ(what, "write /a at 1, 2 bytes");
    return SimFiles::Mischief{
        .kind = SimFiles::Mischief::Kind::kMisdirectWrite, .path = "/b", .offset = 2};
  });
  ASSERT_TRUE(file->write_at(1, "XX").has_value());
  files.set_mischief(nullptr);
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_EQ(files.content("/a"), "aXXa");
  EXPECT_EQ(files.content("/b"), "bbbb");
  EXPECT_EQ(outcomes(files, "/a"), std::set<std::string>{"aaaa"});
  EXPECT_EQ(outcomes(files, "/b"), std::set<std::string>{"bbXX"});
}

TEST(SimFiles, ASyncThatLiesMakesNothingDurable) {
  SimFiles files;
  const auto file = create(files, "/a");
  files.set_mischief([](std::size_t, std::string_view) {
    return std::optional(SimFiles::Mischief{.kind = SimFiles::Mischief::Kind::kLieAboutSync});
  });
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  // Anything but the certainty of "x": also a length without its bytes.
  EXPECT_EQ(outcomes(files, "/a"), (std::set<std::string>{"", std::string(1, '\0'), "x", "gone"}));
}

TEST(SimFiles, RotIsOnTheDeviceForEver) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "ab").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  files.rot("/a", 1, 1);
  EXPECT_EQ(files.content("/a"), "ac");
  EXPECT_EQ(outcomes(files, "/a"), std::set<std::string>{"ac"});
}

TEST(SimFiles, AReadFailsIsCutOrChangedAsTheFaultSaysAndAMappingShowsThePatternThere) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, std::string(3 * 4096, 'x')).has_value());
  files.set_read_fault(
      [](std::string_view path, std::uint64_t offset, std::span<char>& bytes) -> Result<> {
        EXPECT_EQ(path, "/a");
        if (offset == 4096) return Error(Code::kIoError, "injected");
        if (offset == 8192) bytes = bytes.first(10);
        bytes[0] = 'y';
        return {};
      });
  std::string page(4096, '\0');
  EXPECT_EQ(*file->read_at(0, page.data(), page.size()), 4096U);
  EXPECT_EQ(page.substr(0, 2), "yx");
  EXPECT_EQ(file->read_at(4096, page.data(), page.size()).error().code(), Code::kIoError);
  EXPECT_EQ(*file->read_at(8192, page.data(), page.size()), 10U);
  const auto view = *file->map();
  EXPECT_EQ(view->bytes().substr(0, 2), "yx");
  EXPECT_EQ(view->bytes()[4096], '\xDB');
  EXPECT_EQ(view->bytes()[8192], 'y');
  EXPECT_EQ(view->bytes()[8202], '\xDB');
}

TEST(SimFiles, AMappingStaysAsItWasMade) {
  SimFiles files;
  std::unique_ptr<FileView> view;
  {
    const auto file = create(files, "/a");
    ASSERT_TRUE(file->write_at(0, "old").has_value());
    view = *file->map();
    ASSERT_TRUE(file->write_at(0, "new").has_value());
  }
  ASSERT_TRUE(files.remove("/a").has_value());
  EXPECT_EQ(view->bytes(), "old");
}

TEST(SimFiles, ADirectWriteMustBeAligned) {
  SimFiles files;
  const auto file = *files.open("/a", OpenMode::kCreateNewDirect);
  alignas(kDirectAlignment) static const char kBlock[2 * kDirectAlignment] = {};
  EXPECT_TRUE(file->write_at(4096, {kBlock, 4096}).has_value());
  EXPECT_FALSE(file->write_at(1, {kBlock, 4096}).has_value());
  EXPECT_FALSE(file->write_at(0, {kBlock, 512}).has_value());
  EXPECT_FALSE(file->write_at(0, {kBlock + 64, 4096}).has_value());
}

TEST(SimFiles, EqualDisksHaveEqualFingerprintsAndOthersDoNot) {
  SimFiles files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files.sync_dir("/").has_value());
  const std::size_t synced = files.operations();
  EXPECT_EQ(files.crashed(synced, 1)->fingerprint(), files.crashed(synced, 2)->fingerprint());
  ASSERT_TRUE(file->write_at(0, "y").has_value());
  std::set<std::uint64_t> after;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    after.insert(files.crashed(files.operations(), seed)->fingerprint());
  }
  EXPECT_EQ(after.size(), 2U);
  // The same bytes to read, but a power failure would show another state.
  const std::uint64_t unsynced = files.killed(files.operations(), 0)->fingerprint();
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_NE(files.killed(files.operations(), 0)->fingerprint(), unsynced);
}

}  // namespace
}  // namespace defib::os
