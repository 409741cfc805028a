#include "defib/os/path_facts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "defib/os/files.h"

namespace defib::os {
namespace {

TEST(PathFacts, ThisUsersOwnFilesAreItsOwn) {
  const std::string path = testing::TempDir() + "/path-facts-" + std::to_string(::getpid());
  ASSERT_TRUE(write_file_atomically(real_files(), path, "x").has_value());
  EXPECT_EQ(effective_user(), ::geteuid());
  EXPECT_EQ(path_owner(path), effective_user());
  EXPECT_EQ(path_owner("/proc/1"), 0U);
  ASSERT_TRUE(real_files().remove(path).has_value());
  EXPECT_EQ(path_owner(path), std::nullopt);
}

TEST(PathFacts, AMountPointIsThatOfTheNearestParentThatExists) {
  EXPECT_EQ(mount_point("/"), "/");
  EXPECT_EQ(mount_point("/proc"), "/proc");
  EXPECT_EQ(mount_point("/proc/self/status"), "/proc");
  EXPECT_EQ(mount_point("/proc/no/such/path"), "/proc");
}

}  // namespace
}  // namespace defib::os
