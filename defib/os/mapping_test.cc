#include "defib/os/mapping.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <string>

#include "defib/os/files.h"

namespace defib::os {
namespace {

class MappingTest : public testing::Test {
 protected:
  MappingTest() {
    char pattern[] = "/tmp/defib-map-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/file";
  }
  ~MappingTest() override {
    remove(path_.c_str());
    remove(directory_.c_str());
  }
  std::string directory_, path_;
};

TEST_F(MappingTest, WhatIsWrittenIsInTheFileAndThereAgain) {
  {
    auto mapping = Mapping::open(path_, 8192);
    ASSERT_TRUE(mapping.has_value()) << mapping.error().to_line();
    std::memcpy(mapping->data() + 8000, "hello", 5);
    EXPECT_EQ(read_file(real_files(), path_)->substr(8000, 5), "hello");
  }
  const auto again = Mapping::open(path_, 8192);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(std::memcmp(again->data() + 8000, "hello", 5), 0);
}

TEST_F(MappingTest, ItsDiskSpaceIsAllocatedAndOnlyTheOwnerHasAccess) {
  const auto mapping = Mapping::open(path_, 1 << 20);
  ASSERT_TRUE(mapping.has_value());
  struct stat status = {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, 1 << 20);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST_F(MappingTest, IsLockedWhileItLives) {
  {
    const auto first = Mapping::open(path_, 4096);
    ASSERT_TRUE(first.has_value());
    EXPECT_EQ(Mapping::open(path_, 4096).error().code(), Code::kDatabaseLocked);
  }
  EXPECT_TRUE(Mapping::open(path_, 4096).has_value());
}

TEST_F(MappingTest, AFileOfAnotherSizeIsRefusedAndUntouched) {
  ASSERT_TRUE(Mapping::open(path_, 4096).has_value());
  EXPECT_EQ(Mapping::open(path_, 8192).error().code(), Code::kCorrupted);
  EXPECT_EQ(read_file(real_files(), path_)->size(), 4096U);
}

TEST_F(MappingTest, WithoutSpaceItFailsAtOnceAndLeavesAnEmptyFile) {
  // A file-size limit stands for the full disk.
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {4096, before.rlim_max};
  void (*const handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const auto mapping = Mapping::open(path_, 1 << 20);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(mapping.has_value());
  EXPECT_EQ(read_file(real_files(), path_)->size(), 0U);
  EXPECT_TRUE(Mapping::open(path_, 1 << 20).has_value());
}

}  // namespace
}  // namespace defib::os
