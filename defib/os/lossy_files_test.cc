#include "defib/os/lossy_files.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

namespace defib::os {
namespace {

class LossyFilesTest : public testing::Test {
 protected:
  LossyFilesTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "defib-os-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    base_ = pattern;
    root_ = base_ + "/root";
    files_ = std::make_unique<LossyFiles>(real_files(), root_, 1);
  }
  ~LossyFilesTest() override { std::filesystem::remove_all(base_); }

  std::string at(const std::string& name) const { return root_ + "/" + name; }
  // What a killed process would leave of the file; "gone" where it is not there.
  static std::string below(const std::string& path) {
    if (!real_files().exists(path)) return "gone";
    return *read_file(real_files(), path);
  }
  // The directory, durably, and a file in it, durably.
  std::unique_ptr<File> make(const std::string& name, std::string_view content) {
    EXPECT_TRUE(files_->create_dirs(root_).has_value());
    EXPECT_TRUE(files_->sync_dir(base_).has_value());
    auto file = *files_->open(at(name), OpenMode::kCreate);
    EXPECT_TRUE(file->write_at(0, content).has_value());
    EXPECT_TRUE(file->sync().has_value());
    EXPECT_TRUE(files_->sync_dir(root_).has_value());
    return file;
  }

  std::string base_;
  std::string root_;
  std::unique_ptr<LossyFiles> files_;
};

TEST_F(LossyFilesTest, WhatWasSyncedWithItsNameIsBelow) {
  const auto file = make("a", "x");
  EXPECT_EQ(below(at("a")), "x");
}

TEST_F(LossyFilesTest, WithoutSyncNothingOfAWriteOrTruncationIsBelow) {
  const auto file = make("a", "old content");
  ASSERT_TRUE(file->write_at(0, "NEW").has_value());
  ASSERT_TRUE(file->truncate(5).has_value());
  EXPECT_EQ(*read_file(*files_, at("a")), "NEW c");
  EXPECT_EQ(below(at("a")), "old content");
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_EQ(below(at("a")), "NEW c");
}

TEST_F(LossyFilesTest, ASyncedFileWithoutASyncedNameIsNotBelow) {
  make("a", "x").reset();
  const auto file = *files_->open(at("b"), OpenMode::kCreateNew);
  ASSERT_TRUE(file->write_at(0, "synced").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(file->write_at(0, "UNSYNCED").has_value());
  EXPECT_EQ(below(at("b")), "gone");
  ASSERT_TRUE(files_->sync_dir(root_).has_value());
  EXPECT_EQ(below(at("b")), "synced");
  EXPECT_EQ(*read_file(*files_, at("b")), "UNSYNCED");
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_EQ(below(at("b")), "UNSYNCED");
}

TEST_F(LossyFilesTest, RenamesAndRemovalsGoDownWithTheirDirectory) {
  make("a", "old").reset();
  make("c", "c").reset();
  {
    const auto file = *files_->open(at("a.tmp"), OpenMode::kCreate);
    ASSERT_TRUE(file->write_at(0, "new").has_value());
    ASSERT_TRUE(file->sync().has_value());
  }
  ASSERT_TRUE(files_->rename(at("a.tmp"), at("a")).has_value());
  ASSERT_TRUE(files_->remove(at("c")).has_value());
  EXPECT_EQ(*files_->list(root_), std::vector<std::string>{"a"});
  EXPECT_EQ(*read_file(*files_, at("a")), "new");
  EXPECT_FALSE(files_->exists(at("c")));
  EXPECT_EQ(below(at("a")), "old");
  EXPECT_EQ(below(at("c")), "c");
  ASSERT_TRUE(files_->sync_dir(root_).has_value());
  EXPECT_EQ(below(at("a")), "new");
  EXPECT_EQ(below(at("a.tmp")), "gone");
  EXPECT_EQ(below(at("c")), "gone");
}

TEST_F(LossyFilesTest, ASyncedDirectoryWaitsForItsParent) {
  ASSERT_TRUE(files_->create_dirs(at("wal")).has_value());
  const auto file = *files_->open(at("wal/1"), OpenMode::kCreate);
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  ASSERT_TRUE(file->sync().has_value());
  ASSERT_TRUE(files_->sync_dir(at("wal")).has_value());
  ASSERT_TRUE(files_->sync_dir(root_).has_value());
  EXPECT_FALSE(real_files().exists(root_));
  ASSERT_TRUE(files_->sync_dir(base_).has_value());
  EXPECT_EQ(below(at("wal/1")), "x");
}

TEST_F(LossyFilesTest, AfterALossTheNextOneSeesWhatIsBelow) {
  const auto file = make("a", std::string(10000, 'o'));
  ASSERT_TRUE(file->write_at(5000, std::string(10000, 'n')).has_value());
  files_ = std::make_unique<LossyFiles>(real_files(), root_, 2);
  EXPECT_EQ(*read_file(*files_, at("a")), std::string(10000, 'o'));
}

TEST_F(LossyFilesTest, ARemovedAndRecreatedFileIsTheNewOne) {
  make("a", "old").reset();
  ASSERT_TRUE(files_->remove(at("a")).has_value());
  const auto file = make("a", "n");
  EXPECT_EQ(below(at("a")), "n");
}

TEST_F(LossyFilesTest, ALockHoldsAgainstTheRealFileSystem) {
  ASSERT_TRUE(files_->create_dirs(root_).has_value());
  auto file = *files_->open(at("LOCK"), OpenMode::kCreate);
  ASSERT_TRUE(file->try_lock().has_value());
  const auto other = *real_files().open(at("LOCK"), OpenMode::kWrite);
  EXPECT_EQ(other->try_lock().error().code(), Code::kDatabaseLocked);
  ASSERT_TRUE(file->write_at(0, "me").has_value());
  EXPECT_EQ(below(at("LOCK")), "");
  ASSERT_TRUE(file->sync().has_value());
  EXPECT_EQ(below(at("LOCK")), "me");
  file.reset();
  EXPECT_TRUE(other->try_lock().has_value());
}

TEST_F(LossyFilesTest, AVolatilePageIsThisProcesssMemory) {
  const auto page = *files_->volatile_page("p");
  page->store(3, 9);
  EXPECT_EQ((*files_->volatile_page("p"))->load(3), 9U);
  ASSERT_TRUE(files_->remove_volatile_page("p").has_value());
  EXPECT_EQ((*files_->volatile_page("p"))->load(3), 0U);
}

TEST_F(LossyFilesTest, WhatLiesElsewhereGoesThrough) {
  const std::string path = base_ + "/outside";
  const auto file = *files_->open(path, OpenMode::kCreate);
  ASSERT_TRUE(file->write_at(0, "x").has_value());
  EXPECT_EQ(below(path), "x");
}

// Against the simulated disk's idea of the same: what is below is what survives where nothing that
// was not synced does.
TEST_F(LossyFilesTest, RandomOperationsLeaveBelowWhatWasMadeDurable) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const std::string root = base_ + "/r" + std::to_string(seed);
    LossyFiles lossy(real_files(), root, seed);
    std::map<std::string, std::pair<std::string, std::string>> model;  // name -> current, synced
    std::map<std::string, std::string> durable;
    ASSERT_TRUE(lossy.create_dirs(root).has_value());
    ASSERT_TRUE(lossy.sync_dir(base_).has_value());
    Random random(seed);
    for (int step = 0; step < 60; ++step) {
      const std::string name = std::string(1, static_cast<char>('a' + random.below(3)));
      const std::string path = root + "/" + name;
      const bool known = model.contains(name);
      switch (random.below(5)) {
        case 0:
        case 1: {
          const auto file = *lossy.open(path, OpenMode::kCreate);
          const std::uint64_t offset = random.below(9000);
          const std::string bytes(random.below(6000) + 1, static_cast<char>('a' + step % 26));
          ASSERT_TRUE(file->write_at(offset, bytes).has_value());
          std::string& current = model[name].first;
          current.resize(std::max<std::size_t>(current.size(), offset + bytes.size()));
          bytes.copy(current.data() + offset, bytes.size());
          break;
        }
        case 2: {
          if (!known) break;
          const std::uint64_t size = random.below(12000);
          const auto file = *lossy.open(path, OpenMode::kWrite);
          ASSERT_TRUE(file->truncate(size).has_value());
          model[name].first.resize(size);
          break;
        }
        case 3: {
          if (!known) break;
          const auto file = *lossy.open(path, OpenMode::kWrite);
          ASSERT_TRUE(file->sync().has_value());
          model[name].second = model[name].first;
          if (durable.contains(name)) durable[name] = model[name].second;
          break;
        }
        case 4: {
          // Names change only right before their directory is synced, which keeps the model small.
          if (known && random.below(3) == 0) {
            ASSERT_TRUE(lossy.remove(path).has_value());
            model.erase(name);
          }
          ASSERT_TRUE(lossy.sync_dir(root).has_value());
          durable.clear();
          for (const auto& [each, content] : model) durable[each] = content.second;
          break;
        }
      }
      std::map<std::string, std::string> found;
      const std::vector<std::string> names = *real_files().list(root);
      for (const std::string& each : names) found[each] = below(root + "/" + each);
      ASSERT_EQ(found, durable) << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace defib::os
