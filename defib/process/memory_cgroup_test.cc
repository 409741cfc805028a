#include "defib/process/memory_cgroup.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "defib/os/process.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kHybrid =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
constexpr std::string_view kUnified =
    "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(MemoryCgroup, IsTheServicesOwnWhereItDiffersFromOurs) {
  const auto hybrid =
      find_memory_cgroup("4:memory:/defib/engine\n0::/\n", "4:memory:/defib\n0::/\n", kHybrid);
  ASSERT_TRUE(hybrid);
  EXPECT_EQ(hybrid->dir, "/sys/fs/cgroup/memory/defib/engine");
  EXPECT_EQ(hybrid->version, 1);
  const auto unified =
      find_memory_cgroup("0::/system.slice/defib/engine\n", "0::/system.slice/defib\n", kUnified);
  ASSERT_TRUE(unified);
  EXPECT_EQ(unified->dir, "/sys/fs/cgroup/system.slice/defib/engine");
  EXPECT_EQ(unified->version, 2);
}

TEST(MemoryCgroup, SharedOrMissingOnesAreNone) {
  EXPECT_FALSE(find_memory_cgroup("4:memory:/a\n0::/\n", "4:memory:/a\n0::/\n", kHybrid));
  EXPECT_FALSE(find_memory_cgroup("0::/a\n", "0::/a\n", kUnified));
  EXPECT_FALSE(find_memory_cgroup("0::/\n", "0::/a\n", kUnified));
  EXPECT_FALSE(find_memory_cgroup("", "", kUnified));
  EXPECT_FALSE(find_memory_cgroup("0::/b\n", "0::/a\n", ""));
  EXPECT_FALSE(find_memory_cgroup("garbage", "4", "x y z - cgroup\n"));
  // A mount of a part of the hierarchy, as in a container.
  const auto inside =
      find_memory_cgroup("0::/docker/1/engine\n", "0::/docker/1\n",
                         "29 23 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  ASSERT_TRUE(inside);
  EXPECT_EQ(inside->dir, "/sys/fs/cgroup/engine");
}

class MemoryCgroupFiles : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib-cgroup-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    loop_ = std::move(*os::EventLoop::create());
    watch_ = std::move(*os::FileWatch::create(*loop_));
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ + "/" + name) << text;
  }
  std::string dir_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<os::FileWatch> watch_;
};

// The files of version 2 are files to inotify and to read: plain ones show what is made of them.
TEST_F(MemoryCgroupFiles, OfVersion2TellUseKillsAndEvents) {
  write("memory.current", "104857600\n");
  write("memory.stat", "anon 1\nfile 50000000\nactive_file 1\ninactive_file 4857600\n");
  write("memory.events", "low 0\nhigh 3\nmax 0\noom 0\noom_kill 0\noom_group_kill 7\n");
  const MemoryCgroup group = {dir_, 2};
  EXPECT_EQ(memory_in_use(os::real_files(), group), 100'000'000u);
  EXPECT_EQ(oom_kills(os::real_files(), group), 0u);
  std::uint64_t kills = 0;
  auto events = MemoryEvents::watch(*loop_, *watch_, group, 0, [&] {
    kills = oom_kills(os::real_files(), group);
    if (kills > 0) loop_->stop();
  });
  ASSERT_TRUE(events);
  loop_->run_after(1ms, [&] { write("memory.events", "max 1\noom 1\noom_kill 2\n"); });
  loop_->run_after(20s, [&] { loop_->stop(); });
  ASSERT_TRUE(loop_->run());
  EXPECT_EQ(kills, 2u);
  EXPECT_FALSE(memory_in_use(os::real_files(), {dir_ + "/nowhere", 2}));
  EXPECT_FALSE(MemoryEvents::watch(*loop_, *watch_, {dir_ + "/nowhere", 2}, 0, [] {}));
}

// A real group of version 1 below this process's own, where the machine allows it.
class RealMemoryCgroup : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    const auto ours = os::read_file(os::real_files(), "/proc/self/cgroup");
    const auto mounts = os::read_file(os::real_files(), "/proc/self/mountinfo");
    ASSERT_TRUE(ours && mounts);
    // As if we were elsewhere: then our own is found.
    const auto own = find_memory_cgroup(*ours, "", *mounts);
    if (own && own->version == 1) {
      group_ = {own->dir + "/defib-test-" + std::to_string(::getpid()), 1};
      if (::mkdir(group_.dir.c_str(), 0755) != 0) group_.dir.clear();
    }
    if (group_.dir.empty()) GTEST_SKIP() << "no memory cgroup of version 1 can be made here";
  }
  void TearDown() override {
    SupervisorTest::TearDown();
    if (!group_.dir.empty()) {
      EXPECT_EQ(::rmdir(group_.dir.c_str()), 0);
    }
  }
  // The victim in the group.
  ServiceSpec inside(const std::string& arguments) const {
    ServiceSpec spec = victim({});
    spec.argv = {"/bin/sh", "-c",
                 "echo $$ > " + group_.dir + "/cgroup.procs && exec " + program("process_victim") +
                     " " + arguments};
    return spec;
  }
  MemoryCgroup group_;
};

TEST_F(RealMemoryCgroup, AServicesOwnGroupIsMeasuredAndItsThresholdIsAnEvent) {
  ServiceSpec spec = inside("eat 60");
  spec.max_memory_bytes = 30u << 20;
  spec.sample_interval = 50ms;
  start(spec);
  run_until([&] { return !seen_->limits.empty() && seen_->limits.back().source == "cgroup"; });
  EXPECT_GT(seen_->limits.back().value, seen_->limits.back().limit);
  EXPECT_EQ(status().memory_source, "cgroup");
  EXPECT_EQ(status().state, ServiceState::kDegraded);
}

TEST_F(RealMemoryCgroup, CrossingTheThresholdIsToldWithoutASample) {
  std::ofstream(group_.dir + "/memory.limit_in_bytes") << (200u << 20);
  auto watch = std::move(*os::FileWatch::create(*loop_));
  int told = 0;
  auto events = MemoryEvents::watch(*loop_, *watch, group_, 30u << 20, [&] {
    ++told;
    loop_->stop();
  });
  ASSERT_TRUE(events) << events.error().to_text();
  const pid_t child = ::fork();
  if (child == 0) {
    std::ofstream(group_.dir + "/cgroup.procs") << ::getpid();
    const std::size_t size = 60u << 20;
    void* memory =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, size);
    ::pause();
    ::_exit(0);
  }
  const auto limit = loop_->run_after(20s, [&] { loop_->stop(); });
  ASSERT_TRUE(loop_->run());
  loop_->cancel(limit);
  EXPECT_EQ(told, 1);
  EXPECT_GE(*memory_in_use(os::real_files(), group_), 28u << 20);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_F(RealMemoryCgroup, AKillByTheKernelForLackOfMemoryIsTold) {
  std::ofstream(group_.dir + "/memory.limit_in_bytes") << (20u << 20);
  ServiceSpec spec = inside("eat-slowly 60");
  spec.max_memory_bytes = 500u << 20;
  spec.sample_interval = 20ms;
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return !seen_->exits.empty(); });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(seen_->oom_kills, 1u);
}

}  // namespace
}  // namespace defib::process
