#include "defib/daemon/core_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "defib/os/process.h"
#include "defib/wire/json.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

TEST(CorePlace, IsReadFromTheKernelsPattern) {
  const auto dir = [](const char* pattern) { return core_place(pattern, "/srv/engine").dir; };
  EXPECT_EQ(dir("core\n"), "/srv/engine");
  EXPECT_EQ(dir("core.%e.%p"), "/srv/engine");
  EXPECT_EQ(dir("cores/core.%p"), "/srv/engine/cores");
  EXPECT_EQ(dir("/var/crash/core.%e"), "/var/crash");
  EXPECT_EQ(dir("/core"), "/");
  EXPECT_EQ(dir("/var/%u/core"), "");  // another one for each process
  EXPECT_EQ(dir(""), "");
  EXPECT_EQ(dir("@/run/cores.sock"), "");
  EXPECT_EQ(dir("|/usr/share/apport/apport %p"), "");
  EXPECT_EQ(dir("|/usr/bin/defib-capture core-pipe --dir /var/cores %P %u %g"), "/var/cores");
  EXPECT_EQ(core_place("/x/core.%e.%p", "").prefix, "core.");
  EXPECT_EQ(core_place("%e.core", "/x").prefix, "");
  EXPECT_TRUE(core_place("|/x/defib-capture core-pipe --dir /y %P", "").pipe_of_ours);
  EXPECT_FALSE(core_place("|/x/apport --dir /y %P", "").pipe_of_ours);
}

class Cores : public testing::Test {
 protected:
  Cores() {
    char name[] = "/tmp/defib-cores-XXXXXX";
    dir_ = ::mkdtemp(name);
    loop_ = std::move(*os::EventLoop::create());
    files_ = std::move(*os::FileWatch::create(*loop_));
  }
  ~Cores() override { std::filesystem::remove_all(dir_); }

  void write(const std::string& name, std::size_t bytes) {
    std::ofstream(dir_ + "/" + name) << std::string(bytes, 'x');
  }
  bool exists(const std::string& name) { return std::filesystem::exists(dir_ + "/" + name); }
  // Whether the kernel writes cores beside the process here.
  static bool plain_cores() {
    std::ifstream in("/proc/sys/kernel/core_pattern");
    std::string pattern;
    std::getline(in, pattern);
    return !pattern.empty() && pattern.find('/') == std::string::npos && pattern[0] != '|' &&
           pattern[0] != '@';
  }
  // A process in `dir_` that waits for a line, then dies of a signal with a core.
  struct Victim {
    os::Child process;
    os::Fd tell;
  };
  Victim victim(const std::string& script = "ulimit -c unlimited; read x; kill -SEGV $$") {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    const os::Fd read_end(fds[0]);
    Victim made;
    made.tell = os::Fd(fds[1]);
    os::SpawnOptions options;
    options.argv = {"/bin/sh", "-c", script};
    options.working_directory = dir_;
    options.new_session = true;
    options.fds = {{read_end.get(), 0}, {1, 1}, {2, 2}};
    auto child = os::spawn(options);
    EXPECT_TRUE(child);
    made.process = std::move(*child);
    return made;
  }
  static void crash(Victim& victim) { EXPECT_EQ(::write(victim.tell.get(), "\n", 1), 1); }
  void run_until(const std::function<bool()>& condition) {
    const auto poll = loop_->run_every(1ms, [&] {
      if (condition()) loop_->stop();
    });
    const auto limit = loop_->run_after(20s, [&] { loop_->stop(); });
    EXPECT_TRUE(loop_->run());
    loop_->cancel(poll);
    loop_->cancel(limit);
    EXPECT_TRUE(condition());
  }
  std::unique_ptr<CoreWatch> watch(CoreLimits limits = {}) {
    CoreWatch::Options options;
    options.list_path = dir_ + "/cores.json";
    options.limits = limits;
    return std::make_unique<CoreWatch>(*loop_, *files_, os::real_files(), options,
                                       [this](const CoreReport& r) { seen_.push_back(r); });
  }

  std::string dir_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<os::FileWatch> files_;
  std::vector<CoreReport> seen_;
};

TEST_F(Cores, TheListIsBoundedInNumberAndBytesAndRemovesTheOldest) {
  CoreList list(os::real_files(), dir_ + "/cores.json");
  CoreLimits limits;
  limits.max_files = 2;
  for (const char* name : {"core.1", "core.2", "core.3"}) {
    write(name, 8192);
    const auto removed = list.add(dir_ + "/" + name, limits);
    ASSERT_TRUE(removed);
    EXPECT_EQ(removed->size(), std::string(name) == "core.3" ? 1u : 0u);
  }
  EXPECT_FALSE(exists("core.1"));
  EXPECT_TRUE(exists("core.2"));
  limits.max_bytes = 12'000;  // not even the two of 8 KiB
  write("core.4", 8192);
  ASSERT_TRUE(list.add(dir_ + "/core.4", limits));
  EXPECT_FALSE(exists("core.2"));
  EXPECT_FALSE(exists("core.3"));
  EXPECT_TRUE(exists("core.4"));
  write("core.5", 20'000);
  const auto too_large = list.add(dir_ + "/core.5", limits);
  ASSERT_TRUE(too_large);
  EXPECT_EQ(too_large->size(), 2u);
  EXPECT_FALSE(exists("core.5"));
  EXPECT_TRUE(list.entries().empty());
}

TEST_F(Cores, AFileThatTookTheNameOfACoreIsNotRemoved) {
  CoreList list(os::real_files(), dir_ + "/cores.json");
  CoreLimits limits;
  limits.max_files = 1;
  write("core.1", 100);
  ASSERT_TRUE(list.add(dir_ + "/core.1", limits));
  std::filesystem::rename(dir_ + "/core.1", dir_ + "/elsewhere");
  write("core.1", 5);  // somebody's own
  write("core.2", 100);
  ASSERT_TRUE(list.add(dir_ + "/core.2", limits));
  EXPECT_TRUE(exists("core.1"));
  EXPECT_TRUE(exists("elsewhere"));
}

TEST_F(Cores, WhatIsNoCoreIsToldSo) {
  write("core.1", 4096);
  EXPECT_FALSE(identify_core(dir_ + "/core.1"));
  EXPECT_FALSE(identify_core(dir_ + "/nowhere"));
  EXPECT_FALSE(identify_core("/bin/sh"));
  EXPECT_FALSE(identify_core(dir_));
}

TEST_F(Cores, ARealCoreIsNoticedByInotifyAndNamedByItsNotes) {
  if (!plain_cores()) GTEST_SKIP() << "the kernel writes no core beside the process here";
  Victim ours = victim();
  Victim other = victim();
  auto cores = watch();
  // The shell raises its own limit: by then it is watched.
  run_until([&] {
    cores->started(ours.process.pid());
    return cores->watching();
  });
  crash(other);  // in the same directory, but not ours
  EXPECT_TRUE(other.process.wait().core_dumped);
  crash(ours);
  run_until([&] { return !seen_.empty(); });
  EXPECT_TRUE(ours.process.wait().core_dumped);
  EXPECT_EQ(seen_.size(), 1u);
  EXPECT_EQ(seen_.at(0).identity.pid, ours.process.pid());
  EXPECT_EQ(seen_.at(0).identity.signal, SIGSEGV);
  EXPECT_EQ(seen_.at(0).identity.program, "sh");
  EXPECT_GT(seen_.at(0).bytes, 4096u);
  EXPECT_TRUE(std::filesystem::exists(seen_.at(0).path));
}

// Of a worker of the service, which the service outlives.
TEST_F(Cores, ACoreOfAChildIsTheServicesByItsSession) {
  if (!plain_cores()) GTEST_SKIP() << "the kernel writes no core beside the process here";
  Victim ours = victim("ulimit -c unlimited; read x; sh -c 'kill -ABRT $$'; sleep 0.01; read x");
  auto cores = watch();
  run_until([&] {
    cores->started(ours.process.pid());
    return cores->watching();
  });
  crash(ours);
  run_until([&] { return !seen_.empty(); });
  EXPECT_NE(seen_.at(0).identity.pid, ours.process.pid());
  EXPECT_EQ(seen_.at(0).identity.session, ours.process.pid());
  crash(ours);
  ours.process.wait();
}

// The limit is raised behind our back: nothing is watched, and the end tells.
TEST_F(Cores, AnEndWithACoreIsLookedIntoWhereNothingWasWatched) {
  if (!plain_cores()) GTEST_SKIP() << "the kernel writes no core beside the process here";
  Victim ours = victim("ulimit -S -c 0; read x; ulimit -c unlimited; kill -SEGV $$");
  auto cores = watch();
  const std::string status = "/proc/" + std::to_string(ours.process.pid()) + "/limits";
  run_until([&] {
    std::ifstream in(status);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    return text.find("Max core file size        0 ") != std::string::npos;
  });
  cores->started(ours.process.pid());
  EXPECT_FALSE(cores->watching());
  crash(ours);
  const os::ExitStatus ended = ours.process.wait();
  ASSERT_TRUE(ended.core_dumped);
  EXPECT_TRUE(seen_.empty());
  cores->ended(ours.process.pid(), true);
  ASSERT_EQ(seen_.size(), 1u);
  cores->ended(ours.process.pid(), true);
  EXPECT_EQ(seen_.size(), 1u);  // told once
}

// The same file as the kernel would have written, with its blocks of zeros as holes.
TEST_F(Cores, TheCorePipeKeepsACoreAndItsDirectoryBounded) {
  if (!plain_cores()) GTEST_SKIP() << "the kernel writes no core beside the process here";
  Victim ours = victim();
  const pid_t pid = ours.process.pid();
  crash(ours);
  ASSERT_TRUE(ours.process.wait().core_dumped);
  std::string core;
  for (const auto& entry : std::filesystem::directory_iterator(dir_)) core = entry.path().string();
  const std::string kept = dir_ + "/kept";
  ASSERT_EQ(::mkdir(kept.c_str(), 0755), 0);
  const auto receive = [&](const std::string& options) {
    return os::run_command(
        {"/bin/sh", "-c",
         os::join_path(os::own_program_dir(), "defib-capture") + " core-pipe --dir " + kept + " " +
             options + " " + std::to_string(pid) + " 0 0 < " + core},
        20'000);
  };
  const auto cores = [&] {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(kept)) {
      found.push_back(entry.path().string());
    }
    return found;
  };
  const auto done = receive("");
  ASSERT_TRUE(done && done->status.success()) << done->text;
  ASSERT_EQ(cores().size(), 1u);
  const auto compared = os::run_command({"cmp", core, cores()[0]}, 20'000);
  EXPECT_TRUE(compared && compared->status.success());
  EXPECT_EQ(identify_core(cores()[0])->pid, pid);
  struct stat status;
  ASSERT_EQ(::stat(cores()[0].c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_LE(status.st_blocks * 512, status.st_size);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(receive("--max-files 3")->status.success());
  EXPECT_EQ(cores().size(), 3u);
  ASSERT_TRUE(receive("--max-files 1 --max-mb 0")->status.exited);
  EXPECT_EQ(receive("--max-mb 0")->status.code, 1);  // nothing may be kept: nothing is left
  for (const std::string& path : cores()) EXPECT_EQ(path.find("partial"), std::string::npos);
}

}  // namespace
}  // namespace defib::daemon
