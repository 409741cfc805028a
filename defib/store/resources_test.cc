#include "defib/store/resources.h"

#include <gtest/gtest.h>

#include "defib/os/sim_files.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kMebibyte = 1 << 20;

class Resources : public testing::Test {
 protected:
  Resources() {
    EXPECT_TRUE(files_.create_dirs("/proc/self/fd").has_value());
    EXPECT_TRUE(files_.create_dirs("/s/data").has_value());
    say("/proc/meminfo", "MemTotal: 9999999 kB\nMemAvailable: 1048576 kB\n");
    say("/proc/self/limits",
        "Max open files            1024                 4096       files\n"
        "Max address space         unlimited            unlimited  bytes\n");
    say("/proc/self/status", "Name: x\nVmSize:\t   10240 kB\n");
  }
  void say(const std::string& path, std::string_view text) {
    const auto file = *files_.open(path, os::OpenMode::kCreate);
    EXPECT_TRUE(file->truncate(0).has_value());
    EXPECT_TRUE(file->write_at(0, text).has_value());
  }
  ResourceNeeds needs() {
    return resource_needs(files_, "/s",
                          {.log_bytes = 100 * kMebibyte,
                           .last_segment_bytes = 64 * kMebibyte,
                           .segments = 2,
                           .segment_size = 64 * kMebibyte,
                           .is_needed = true});
  }
  std::string short_of() {
    const Result<> enough = check_resources(needs(), "/s");
    return enough ? "" : std::string(enough.error().field("resource"));
  }
  os::SimFiles files_;
};

TEST_F(Resources, AMachineWithEnoughOfAllIsEnough) {
  EXPECT_EQ(short_of(), "");
  const ResourceNeeds found = needs();
  EXPECT_EQ(found.memory.required, 66 * kMebibyte);
  EXPECT_EQ(found.memory.available, 1024 * kMebibyte);
  EXPECT_EQ(found.address_space.required, 0U);  // It is not limited.
  EXPECT_EQ(found.descriptors.required, 34U);
  EXPECT_EQ(found.descriptors.available, 1024U);
  EXPECT_EQ(found.disk.required, 66 * kMebibyte);
}

TEST_F(Resources, EachThatFallsShortIsNamed) {
  say("/proc/meminfo", "MemAvailable: 1024 kB\n");
  EXPECT_EQ(short_of(), "memory");
  say("/proc/meminfo", "MemAvailable: 1048576 kB\n");
  files_.set_capacity(10 * kMebibyte);
  EXPECT_EQ(short_of(), "disk space in /s");
  say("/proc/self/limits", "Max open files            20                 20       files\n");
  EXPECT_EQ(short_of(), "file descriptors");
}

TEST_F(Resources, ALimitedAddressSpaceHasToHoldTheMappedFilesAsWell) {
  const auto limited = [this](std::uint64_t bytes) {
    say("/proc/self/limits", "Max address space         " + std::to_string(bytes) +
                                 "            unlimited            bytes\n");
    return short_of();
  };
  // 100 MiB of log, 66 MiB for its records, 10 MiB that are in use.
  EXPECT_EQ(limited(177 * kMebibyte), "");
  EXPECT_EQ(limited(175 * kMebibyte), "address space");
  EXPECT_EQ(limited(1), "address space");
  {
    const auto base = *files_.open("/s/data/x.base", os::OpenMode::kCreate);
    ASSERT_TRUE(base->truncate(20 * kMebibyte).has_value());
  }
  EXPECT_EQ(limited(190 * kMebibyte), "address space");
  EXPECT_EQ(limited(198 * kMebibyte), "");
}

TEST_F(Resources, NothingKnownIsNoReasonToRefuse) {
  for (const char* path : {"/proc/meminfo", "/proc/self/limits", "/proc/self/status"}) {
    EXPECT_TRUE(files_.remove(path).has_value());
  }
  EXPECT_EQ(short_of(), "");
}

}  // namespace
}  // namespace defib::store
