#include "defib/process/system_info.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "defib/process/manager_test_util.h"

namespace defib::process {
namespace {

// A /proc and a /sys of the test's own.
class FakeMachine {
 public:
  FakeMachine() {
    char pattern[] = "/tmp/system-info-test-XXXXXX";
    root_ = mkdtemp(pattern);
    write("/proc/self/statm", "1000 250 100 1 0 500 0\n");
    write("/proc/meminfo", "MemTotal:    1024000 kB\nMemFree: 1 kB\nMemAvailable:   512000 kB\n");
    write("/proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3 4\n");
    process(0);
    std::filesystem::create_directories(root_ + "/proc/self/fd");
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  // The process used so many ticks of user time; a name with spaces and brackets must not matter.
  void process(int ticks) {
    write("/proc/self/stat",
          "42 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 " + std::to_string(ticks) + " 0 0 0 20 0 7 0 0 0 0\n");
  }
  void unified(const std::string& group) {
    write("/proc/self/cgroup", "0::" + group + "\n");
    write("/proc/self/mountinfo",
          "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  }
  SystemSampler sampler(const os::Clock& clock) {
    SystemSampler::Options options;
    options.root = root_;
    return SystemSampler(options, os::real_files(), clock);
  }
  SystemSample sample() {
    const os::FakeClock clock;
    auto taken = sampler(clock).sample();
    EXPECT_TRUE(taken);
    return taken.value_or(SystemSample());
  }

 private:
  std::string root_;
};

TEST(SystemInfo, WithoutALimitTheMachineIsTheMeasure) {
  FakeMachine machine;
  const SystemSample sample = machine.sample();
  EXPECT_EQ(sample.rss_bytes, 250u * static_cast<unsigned>(sysconf(_SC_PAGESIZE)));
  EXPECT_FALSE(sample.memory_by_group);
  EXPECT_EQ(sample.limit_bytes, 1024000u * 1024);
  EXPECT_DOUBLE_EQ(sample.memory_percent, 50);
  EXPECT_DOUBLE_EQ(sample.machine_cpu_percent, 20);
  EXPECT_EQ(sample.threads, 7);
}

TEST(SystemInfo, TheTightestLimitOfAllAncestorsCounts) {
  FakeMachine machine;
  machine.unified("/slice/service");
  machine.write("/sys/fs/cgroup/slice/service/memory.max", "max\n");
  machine.write("/sys/fs/cgroup/slice/service/memory.current", "1000\n");
  machine.write("/sys/fs/cgroup/slice/memory.max", "104857600\n");
  machine.write("/sys/fs/cgroup/slice/memory.current", "100000000\n");
  machine.write("/sys/fs/cgroup/slice/memory.stat", "anon 1\ninactive_file 16113920\nfile 3\n");
  const SystemSample sample = machine.sample();
  EXPECT_TRUE(sample.memory_by_group);
  EXPECT_EQ(sample.limit_bytes, 104857600u);
  EXPECT_EQ(sample.used_bytes, 83886080u);  // page cache that goes without harm is left out
  EXPECT_DOUBLE_EQ(sample.memory_percent, 80);
}

TEST(SystemInfo, AContainerSeesItsGroupAsTheRoot) {
  FakeMachine machine;
  machine.unified("/");
  machine.write("/sys/fs/cgroup/memory.max", "1000000\n");
  machine.write("/sys/fs/cgroup/memory.current", "250000\n");
  EXPECT_DOUBLE_EQ(machine.sample().memory_percent, 25);
}

TEST(SystemInfo, VersionOneOfControlGroupsIsUnderstood) {
  FakeMachine machine;
  machine.write("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n");
  machine.write("/proc/self/mountinfo",
                "31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "32 1 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
  machine.write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "500\n");
  machine.write("/sys/fs/cgroup/memory/a/memory.stat",
                "cache 7\nhierarchical_memory_limit 1000\ntotal_inactive_file 100\n");
  machine.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "50000\n");
  machine.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  const SystemSample sample = machine.sample();
  EXPECT_DOUBLE_EQ(sample.memory_percent, 40);
  EXPECT_DOUBLE_EQ(sample.processors, 0.5);
}

TEST(SystemInfo, ProcessorUseIsThatSinceTheSampleBefore) {
  FakeMachine machine;
  machine.unified("/g");
  machine.write("/sys/fs/cgroup/g/cpu.max", "50000 100000\n");
  const os::FakeClock clock;
  SystemSampler sampler = machine.sampler(clock);
  ASSERT_TRUE(sampler.sample());
  clock.advance(std::chrono::seconds(2));
  machine.process(static_cast<int>(sysconf(_SC_CLK_TCK)) / 2);  // half a second of the one it has
  machine.write("/proc/stat", "cpu  150 0 150 900 0 0 0 0 0 0\n");
  const auto second = sampler.sample();
  ASSERT_TRUE(second);
  EXPECT_DOUBLE_EQ(second->cpu_percent, 50);
  EXPECT_DOUBLE_EQ(second->machine_cpu_percent, 50);
}

TEST(SystemInfo, MalformedFilesGiveZerosAndNoProcIsAnError) {
  FakeMachine machine;
  machine.write("/proc/stat", "cpu");
  machine.write("/proc/self/stat", "42 (x");
  machine.write("/proc/meminfo", "MemTotal:");
  machine.write("/proc/self/cgroup", "0\n:\n::\nnonsense");
  machine.write("/proc/self/mountinfo", " - \n - cgroup2\n");
  const SystemSample sample = machine.sample();
  EXPECT_EQ(sample.memory_percent, 0);
  EXPECT_EQ(sample.cpu_percent, 0);
  machine.write("/proc/self/statm", "");
  const os::FakeClock clock;
  const auto none = machine.sampler(clock).sample();
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kUnavailable);
}

TEST(SystemInfo, OfThisProcessIsPlausibleJson) {
  SystemSampler sampler;
  const auto sample = sampler.sample();
  ASSERT_TRUE(sample);
  const wire::Json info = to_json(*sample, "running", 12.3456);
  EXPECT_EQ(info["status"].as_string(), "running");
  EXPECT_DOUBLE_EQ(info["uptime"].as_double(), 12.35);
  EXPECT_GT(info["memory_usage_mb"].as_double(), 0.5);
  for (const char* name : {"memory_percent", "cpu_percent", "disk_percent"}) {
    EXPECT_TRUE(info.has(name)) << name;
    EXPECT_GE(info[name].as_double(), 0) << name;
    EXPECT_LE(info[name].as_double(), 100) << name;
  }
  EXPECT_GT(info["memory_percent"].as_double(), 0);
  EXPECT_GT(info["open_fds"].as_int(), 2);
}

}  // namespace
}  // namespace defib::process
