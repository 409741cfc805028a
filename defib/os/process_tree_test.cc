#include "defib/os/process_tree.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "defib/os/file_watch.h"
#include "defib/os/process.h"

namespace defib::os {
namespace {

using namespace std::chrono_literals;

// A shell with so many sleeping children, in a group of its own.
class Family {
 public:
  explicit Family(const std::string& script) {
    SpawnOptions options;
    options.argv = {"/bin/sh", "-c", script};
    options.new_session = true;
    options.fds = {{1, 1}, {2, 2}};
    child_ = std::move(*spawn(options));
  }
  ~Family() {
    ::kill(-child_.pid(), SIGKILL);
    child_.wait();
  }
  pid_t pid() const { return child_.pid(); }

 private:
  Child child_;
};

// Waits for what another process does by itself.
bool wait_until(const std::function<bool()>& condition) {
  const std::int64_t deadline = real_clock().mono_ns() + Duration(20s).count();
  while (!condition() && real_clock().mono_ns() < deadline) ::usleep(1000);
  return condition();
}

TEST(ProcessTree, HoldsDescendantsOfEveryGeneration) {
  const Family family("sh -c 'sleep 987654321 & sleep 987654321 & wait' & wait");
  EXPECT_TRUE(wait_until([&] { return process_descendants(family.pid()).size() == 3; }));
  ProcessTree tree(family.pid());
  const auto usage = tree.sample(true);
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->processes, 4);
  EXPECT_EQ(usage->threads, 4);
  EXPECT_GT(usage->rss_bytes, 100'000u);
  EXPECT_GE(usage->descriptors, 2u);
  EXPECT_GT(usage->descriptor_limit, 0u);
  const std::uint64_t pss = tree.pss_bytes();
  EXPECT_GT(pss, 0u);
  EXPECT_LT(pss, usage->rss_bytes);  // four processes of two programs share their pages
  ProcessTree below(family.pid(), false);
  EXPECT_EQ(below.sample(false)->processes, 3);
}

TEST(ProcessTree, ANewChildIsSeenWithinAFewSamplesAndADeadRootEndsIt) {
  const Family family("read x <&9 2>/dev/null; sleep 987654321");
  ProcessTree tree(family.pid());
  EXPECT_TRUE(wait_until([&] {
    const auto usage = tree.sample(false);
    return usage && usage->processes == 2;
  }));
  ::kill(family.pid(), SIGKILL);
  EXPECT_TRUE(wait_until([&] { return !tree.sample(false); }));
}

TEST(ProcessTree, TimeOfChildrenThatEndedStaysCounted) {
  const Family family(
      "i=0; while [ $i -lt 5 ]; do sh -c 'j=0; while [ $j -lt 40000 ]; do j=$((j+1)); done'; "
      "i=$((i+1)); done; sleep 987654321");
  ProcessTree tree(family.pid());
  std::int64_t last = 0;
  EXPECT_TRUE(wait_until([&] {
    const auto usage = tree.sample(false);
    if (!usage) return false;
    last = std::max(last, usage->cpu_ns);
    return usage->processes == 2 && last >= 50'000'000;
  })) << last;
}

TEST(FileWatch, TellsNamesToThoseWhoAskedAndNoneToTheRemoved) {
  char name[] = "/tmp/defib-watch-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  auto loop = std::move(*EventLoop::create());
  auto watch = std::move(*FileWatch::create(*loop));
  std::vector<std::string> first, second;
  const auto one = watch->add(dir, IN_CLOSE_WRITE, [&](std::uint32_t, std::string_view entry) {
    first.emplace_back(entry);
  });
  const auto two =
      watch->add(dir, IN_CLOSE_WRITE | IN_DELETE, [&](std::uint32_t, std::string_view entry) {
        second.emplace_back(entry);
        if (entry == "last") loop->stop();
      });
  ASSERT_TRUE(one && two);
  EXPECT_FALSE(watch->add(dir + "/nowhere", IN_DELETE, [](std::uint32_t, std::string_view) {}));
  const auto limit = loop->run_after(20s, [&] { loop->stop(); });
  loop->run_after(1ms, [&] { std::ofstream(dir + "/a") << "x"; });
  loop->run_after(30ms, [&] {
    watch->remove(*one);  // the kernel's watch is still the other's
    std::filesystem::remove(dir + "/a");
    std::ofstream(dir + "/last") << "x";
  });
  ASSERT_TRUE(loop->run());
  loop->cancel(limit);
  EXPECT_EQ(first, (std::vector<std::string>{"a"}));
  EXPECT_EQ(second, (std::vector<std::string>{"a", "a", "last"}));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace defib::os
