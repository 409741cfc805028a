// The lock with real processes: who holds a store, who is gone, and who is only going.
//
// The kernel keeps a killed process's lock until it has torn down its memory, which takes a quarter
// of a second for 4 GB; such a holder is waited for. A living one is never waited for and never
// robbed.

#include "defib/store/lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "defib/os/process.h"
#include "defib/store/format.h"
#include "defib/store/maintenance.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using std::chrono::milliseconds;
using testing_util::dump;
using testing_util::TemporaryDir;

double milliseconds_since(std::int64_t begin) {
  return static_cast<double>(os::real_clock().mono_ns() - begin) / 1e6;
}

// A process that holds the store in `dir`, with one commit in it, until it is killed.
class Holder {
 public:
  struct Settings {
    std::uint64_t memory = 0;       // bytes that it has touched
    bool main_thread_ends = false;  // another one goes on
  };
  Holder(const std::string& dir, Settings settings) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    pid_ = ::fork();
    if (pid_ == 0) live(dir, settings, ends[1]);
    ::close(ends[1]);
    char byte = 0;
    EXPECT_EQ(::read(ends[0], &byte, 1), 1);
    ::close(ends[0]);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() {
    if (pid_ > 0) kill_and_reap();
  }
  pid_t pid() const { return pid_; }
  void kill() { ASSERT_EQ(::kill(pid_, SIGKILL), 0); }
  void reap() {
    int status = 0;
    ASSERT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
  }
  void kill_and_reap() {
    kill();
    reap();
  }

 private:
  [[noreturn]] static void live(const std::string& dir, Settings settings, int ready) {
    // Never destroyed, also not when the thread that made it ends.
    auto* store = new Result<std::unique_ptr<Store>>(Store::open(dir, {}));
    if (!*store || !put(***store, "t", "k", "v", Durability::kPower)) ::_exit(3);
    if (settings.memory > 0) {
      void* memory = ::mmap(nullptr, settings.memory, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) ::_exit(4);
      ::madvise(memory, settings.memory, MADV_NOHUGEPAGE);  // Slow to tear down.
      for (std::uint64_t at = 0; at < settings.memory; at += 4096) {
        static_cast<volatile char*>(memory)[at] = 1;
      }
    }
    if (settings.main_thread_ends) {
      std::thread([ready] { say_and_wait(ready); }).detach();
      ::syscall(SYS_exit, 0);  // This thread alone, and without unwinding its stack.
    }
    say_and_wait(ready);
  }
  [[noreturn]] static void say_and_wait(int ready) {
    // The main thread, if it ends, has to be seen as ended before anybody looks.
    std::this_thread::sleep_for(milliseconds(20));
    if (::write(ready, "x", 1) != 1) ::_exit(5);
    for (;;) ::pause();
  }
  pid_t pid_ = -1;
};

class LockOfProcesses : public testing::Test {
 protected:
  std::string dir() const { return folder_.path() + "/store"; }
  Options with_wait(os::Duration wait) const {
    Options options;
    options.lock_wait = wait;
    return options;
  }
  TemporaryDir folder_;
};

TEST_F(LockOfProcesses, ADeadHoldersStoreIsTakenOverAtOnce) {
  double slowest_lock = 0;
  double slowest_open = 0;
  for (int round = 0; round < 10; ++round) {
    Holder holder(dir(), {});
    holder.kill_and_reap();
    {
      const std::int64_t begin = os::real_clock().mono_ns();
      const auto lock =
          StoreLock::acquire(os::real_files(), dir(), os::real_clock(), milliseconds(0));
      slowest_lock = std::max(slowest_lock, milliseconds_since(begin));
      ASSERT_TRUE(lock.has_value()) << lock.error().to_text();
      EXPECT_EQ(lock->previous()->state, "open");
    }
    const std::int64_t begin = os::real_clock().mono_ns();
    const auto store = Store::open(dir(), with_wait(milliseconds(0)));
    slowest_open = std::max(slowest_open, milliseconds_since(begin));
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    ASSERT_TRUE((*store)->close().has_value());
  }
  fmt::print("taken over within {:.2f} ms, recovered and open within {:.2f} ms\n", slowest_lock,
             slowest_open);
  EXPECT_LT(slowest_lock, 10);
}

TEST_F(LockOfProcesses, ALivingHolderIsRefusedAtOnceOnEveryPath) {
  Holder holder(dir(), {});
  const std::string who = fmt::format("pid {} (", holder.pid());
  const auto refused = [&](const char* path, const Error& error, double took) {
    EXPECT_EQ(error.code(), Code::kDatabaseLocked) << path << ": " << error.to_text();
    EXPECT_TRUE(error.field("lock_holder").starts_with(who)) << path << ": " << error.to_text();
    EXPECT_NE(error.field("lock_holder").find(" since 20"), std::string_view::npos) << path;
    EXPECT_EQ(error.field("pid"), std::to_string(holder.pid())) << path;
    EXPECT_LT(took, 1000) << path;  // lock_wait is 10 s.
  };
  std::int64_t begin = os::real_clock().mono_ns();
  refused("open", Store::open(dir(), {}).error(), milliseconds_since(begin));
  begin = os::real_clock().mono_ns();
  refused("repair", repair(dir(), folder_.path() + "/new", {}).error(), milliseconds_since(begin));
  begin = os::real_clock().mono_ns();
  refused("migrate", migrate(dir(), {}).error(), milliseconds_since(begin));
  EXPECT_EQ(::kill(holder.pid(), 0), 0);
  EXPECT_FALSE(os::real_files().exists(folder_.path() + "/new"));
}

TEST_F(LockOfProcesses, ADyingHolderIsWaitedFor) {
  constexpr std::uint64_t kMemory = 3ULL << 30;
  Holder holder(dir(), {.memory = kMemory});
  holder.kill();
  const std::int64_t begin = os::real_clock().mono_ns();
  const auto store = Store::open(dir(), {});
  const double took = milliseconds_since(begin);
  ASSERT_TRUE(store.has_value()) << store.error().to_text();
  EXPECT_EQ(dump(**store).size(), 1U);
  fmt::print("{} GiB torn down and the store open after {:.0f} ms\n", kMemory >> 30, took);
  // Else nothing had to be waited for, and this test would show nothing.
  EXPECT_GT(took, 20);
  EXPECT_LT(took, 10'000);
}

TEST_F(LockOfProcesses, AKilledHolderIsNeverTakenForALivingOne) {
  constexpr int kRounds = 150;
  ASSERT_TRUE(os::real_files().create_dirs(dir()).has_value());
  double slowest = 0;
  for (int round = 0; round < kRounds; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      auto lock = StoreLock::acquire(os::real_files(), dir(), os::real_clock(), milliseconds(0));
      if (!lock || !lock->set_state("open")) ::_exit(3);
      // Threads that are busy, so that each has to be stopped before the lock goes.
      for (int i = 0; i < 3; ++i) {
        std::thread([] {
          std::atomic<std::uint64_t> turns = 0;
          for (;;) turns.fetch_add(1);
        }).detach();
      }
      if (::write(ends[1], "x", 1) != 1) ::_exit(4);
      for (;;) ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(ends[0], &byte, 1), 1);
    ::close(ends[0]);
    ::close(ends[1]);
    ::kill(pid, SIGKILL);
    const std::int64_t begin = os::real_clock().mono_ns();
    const auto lock =
        StoreLock::acquire(os::real_files(), dir(), os::real_clock(), Options().lock_wait);
    slowest = std::max(slowest, milliseconds_since(begin));
    ASSERT_TRUE(lock.has_value()) << "round " << round << ": " << lock.error().to_text();
    ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
  }
  fmt::print("{} killed holders with busy threads, the lock was free within {:.1f} ms\n", kRounds,
             slowest);
}

TEST_F(LockOfProcesses, AHolderThatDoesNotFinishDyingIsWaitedForNoLongerThanIsAllowed) {
  // Its first thread has ended, which looks like the end of the process, while another goes on.
  Holder holder(dir(), {.main_thread_ends = true});
  const auto record = read_lock_record(os::real_files(), dir());
  ASSERT_TRUE(record.has_value());
  ASSERT_EQ(holder_state(*record, os::real_clock()), HolderState::kDying);
  const std::int64_t begin = os::real_clock().mono_ns();
  const auto store = Store::open(dir(), with_wait(milliseconds(300)));
  const double took = milliseconds_since(begin);
  ASSERT_FALSE(store.has_value());
  EXPECT_EQ(store.error().code(), Code::kDatabaseLocked);
  EXPECT_NE(store.error().message().find("does not finish dying"), std::string::npos);
  EXPECT_GE(took, 300);
  EXPECT_LT(took, 600);
  EXPECT_EQ(Options().lock_wait, std::chrono::seconds(10));
}

TEST_F(LockOfProcesses, AnotherProcessUnderTheSameNumberIsNotTheHolder) {
  Holder holder(dir(), {});
  holder.kill_and_reap();
  auto record = read_lock_record(os::real_files(), dir());
  ASSERT_TRUE(record.has_value());
  // This process, as one that started at another time: its number has been used before.
  record->pid = ::getpid();
  record->start_time = *os::process_start_time(::getpid()) - 1;
  record->state = "recovering";
  {
    const auto file = *os::real_files().open(dir() + "/LOCK", os::OpenMode::kWrite);
    ASSERT_TRUE(file->write_at(0, encode(*record)).has_value());
  }
  EXPECT_EQ(holder_state(*record, os::real_clock()), HolderState::kDead);
  const auto status = *Store::status(dir(), {});
  EXPECT_EQ(status.lock_holder, "");
  const auto stale = std::ranges::find(status.indicators, "stale_recovery_lock", &Indicator::name);
  EXPECT_TRUE(stale->present);
  const std::int64_t begin = os::real_clock().mono_ns();
  EXPECT_TRUE(Store::open(dir(), with_wait(milliseconds(0))).has_value());
  EXPECT_LT(milliseconds_since(begin), 1000);
  // With the time at which it did start, it is the holder.
  record->start_time = *os::process_start_time(::getpid());
  EXPECT_EQ(holder_state(*record, os::real_clock()), HolderState::kAlive);
}

TEST_F(LockOfProcesses, AChildThatInheritedTheLockIsNamedAsWhatItIs) {
  // The lock is the open file's, and a child that was forked without exec has it too.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t parent = ::fork();
  if (parent == 0) {
    auto store = Store::open(dir(), {});
    if (!store) ::_exit(3);
    const pid_t child = ::fork();
    if (child != 0) {
      if (::write(ends[1], &child, sizeof child) != sizeof child) ::_exit(4);
      ::_exit(0);
    }
    for (;;) ::pause();
  }
  pid_t child = -1;
  ASSERT_EQ(::read(ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  int status = 0;
  ASSERT_EQ(::waitpid(parent, &status, 0), parent);
  const auto refused = Store::open(dir(), with_wait(milliseconds(0)));
  ::kill(child, SIGKILL);
  ::close(ends[0]);
  ::close(ends[1]);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kDatabaseLocked);
  EXPECT_NE(refused.error().message().find("and is gone, was pid " + std::to_string(parent)),
            std::string::npos)
      << refused.error().to_text();
  EXPECT_NE(refused.error().suggested_action().find("find /proc -lname " + dir() + "/LOCK"),
            std::string::npos);
  EXPECT_TRUE(Store::open(dir(), {}).has_value());
}

}  // namespace
}  // namespace defib::store
