#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "defib/os/clock.h"
#include "defib/os/event_loop.h"
#include "defib/os/files.h"
#include "defib/os/memory.h"
#include "defib/os/process.h"
#include "defib/os/random.h"
#include "defib/os/socket.h"

namespace defib::os {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::chrono_literals;

std::string make_temp_dir() {
  char path[] = "/tmp/defib-os-XXXXXX";
  return ::mkdtemp(path);
}

TEST(FilesTest, AtomicWriteReplacesTheWholeContent) {
  const std::string dir = make_temp_dir();
  const std::string path = join_path(dir, "a");
  ASSERT_TRUE(write_file_atomically(real_files(), path, "first, and long"));
  ASSERT_TRUE(write_file_atomically(real_files(), path, "second"));
  EXPECT_EQ(read_file(real_files(), path).value(), "second");
  EXPECT_THAT(real_files().list(dir).value(), ElementsAre("a"));
}

TEST(FilesTest, ErrorsHaveCodesOfTheirOwnAndNameThePath) {
  const auto missing = real_files().open("/nonexistent/x", OpenMode::kRead);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kFileNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("/nonexistent/x"));
  const std::string path = join_path(make_temp_dir(), "a");
  ASSERT_TRUE(real_files().open(path, OpenMode::kCreateNew));
  EXPECT_EQ(real_files().open(path, OpenMode::kCreateNew).error().code(), Code::kFileExists);
  EXPECT_EQ(read_file(real_files(), "/proc/self/maps", 10).error().code(), Code::kLimitExceeded);
}

TEST(FilesTest, LockIsHeldByOneOpenFileAndFreedByItsClose) {
  const std::string path = join_path(make_temp_dir(), "lock");
  auto first = real_files().open(path, OpenMode::kCreate).value();
  const auto second = real_files().open(path, OpenMode::kCreate).value();
  ASSERT_TRUE(first->try_lock());
  EXPECT_EQ(second->try_lock().error().code(), Code::kDatabaseLocked);
  first.reset();
  EXPECT_TRUE(second->try_lock());
}

TEST(ClockTest, TimesRoundTripAsText) {
  EXPECT_EQ(format_time(0), "1970-01-01T00:00:00.000000000Z");
  for (const std::int64_t time : {1'700'000'000'123'456'789, std::int64_t{5}, std::int64_t{-1}}) {
    EXPECT_EQ(parse_time(format_time(time)), time) << time;
  }
  EXPECT_EQ(parse_time("yesterday"), -1);
  EXPECT_EQ(parse_time("0023-11-20T13:05:58Z"), -1);
  EXPECT_EQ(parse_time("9999-11-20T13:05:58Z"), -1);
  EXPECT_EQ(parse_time("2026-11-20T13:05:58+01:00"), -1);
}

TEST(ClockTest, DurationsAreReadAsWritten) {
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("30"), 30s);
  EXPECT_EQ(parse_duration("1.5h"), 90min);
  for (const char* bad : {"", "-1s", "5 parsecs", "s", "1e30h", "1e3s", "0x10s", "1.2.3s"}) {
    EXPECT_LT(parse_duration(bad).count(), 0) << bad;
  }
  EXPECT_EQ(format_duration(1'240ms), "1.24 s");
  EXPECT_EQ(format_duration(812us), "812 us");
  EXPECT_EQ(format_duration(999'960us), "1.00 s");
}

TEST(ClockTest, FakeClockRebootsToAnotherBootId) {
  FakeClock clock;
  const std::string before = clock.boot_id();
  const std::int64_t wall = clock.wall_ns();
  clock.advance(5s);
  clock.reboot(1min);
  EXPECT_NE(clock.boot_id(), before);
  EXPECT_EQ(clock.wall_ns(), wall + Duration(65s).count());
}

TEST(RandomTest, SameSeedSameSequence) {
  Random a(7), b(7), c(8);
  EXPECT_EQ(a.next(), b.next());
  EXPECT_NE(a.next(), c.next());
  for (int i = 0; i < 1000; ++i) EXPECT_LT(a.below(10), 10u);
  EXPECT_EQ(random_hex(8).size(), 16u);
}

TEST(ProcessTest, RunsACommandAndReadsItsOutput) {
  const auto result = run_command({"sh", "-c", "echo out; echo err >&2; exit 3"}, 5000);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->text, "out\nerr\n");
  EXPECT_EQ(result->status.to_string(), "exit code 3");
}

TEST(ProcessTest, CommandThatHangsIsKilledAtTheDeadline) {
  const auto result = run_command({"sleep", "60"}, 50);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kTimeout);
}

TEST(ProcessTest, MissingProgramIsAnErrorOfTheStart) {
  EXPECT_EQ(run_command({"no-such-program"}, 1000).error().code(), Code::kProgramNotFound);
  EXPECT_EQ(run_command({"/etc/passwd"}, 1000).error().code(), Code::kProgramNotFound);
}

TEST(ProcessTest, DescriptorsArePassedByNumberAndOthersAreClosed) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);  // Not close-on-exec: must be closed in the child all the same.
  ASSERT_EQ(::dup2(fds[1], 150), 150);
  SpawnOptions options;
  options.argv = {"sh", "-c", "ls /proc/self/fd | tr '\\n' ' ' >&7"};
  options.fds = {{fds[1], 7}};
  Child child = spawn(options).value();
  EXPECT_TRUE(child.wait().success());
  char buffer[256] = {};
  ASSERT_GT(::read(fds[0], buffer, sizeof buffer - 1), 0);
  const std::string seen = buffer;
  EXPECT_THAT(seen, HasSubstr("7 "));
  EXPECT_THAT(seen, testing::Not(HasSubstr("150")));
  ::close(150);
  ::close(fds[0]), ::close(fds[1]);
}

TEST(ProcessTest, SignalsAreToldApartFromExits) {
  SpawnOptions options;
  options.argv = {"sleep", "60"};
  Child child = spawn(options).value();
  EXPECT_FALSE(child.try_wait());
  const std::uint64_t started = process_start_time(child.pid()).value();
  EXPECT_GT(started, 0u);
  EXPECT_GT(process_usage(child.pid(), true)->pss_bytes, 0u);
  ASSERT_TRUE(child.signal(SIGKILL));
  EXPECT_EQ(child.wait().to_string(), "signal 9 (SIGKILL)");
  EXPECT_EQ(child.signal(SIGKILL).error().code(), Code::kProcessGone);
}

TEST(MemoryTest, StartupMemoryIsReleasedAndTheProgramGoesOn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
#endif
  constexpr std::size_t kHeap = 8 << 20;
  // Freed below the end of the heap, where it stays until it is asked back.
  std::vector<std::unique_ptr<char[]>> parts;
  for (std::size_t size = 0; size < kHeap; size += 4096) {
    parts.push_back(std::make_unique<char[]>(4096));
    *static_cast<volatile char*>(parts.back().get()) = 1;
  }
  const std::unique_ptr<char[]> last = std::move(parts.back());
  parts.clear();
  const std::uint64_t before = process_usage(::getpid())->rss_bytes;
  release_startup_memory();
  const std::uint64_t after = process_usage(::getpid())->rss_bytes;
  EXPECT_LT(after + kHeap / 2, before);
  EXPECT_EQ(format_duration(std::chrono::milliseconds(250)), "250 ms");  // Text comes back.
}

TEST(EventLoopTest, TimersFireInOrderAndCancelledOnesNever) {
  auto loop = EventLoop::create().value();
  std::vector<int> fired;
  loop->run_after(20ms, [&] { fired.push_back(2); });
  const auto cancelled = loop->run_after(5ms, [&] { fired.push_back(9); });
  loop->run_after(1ms, [&] {
    fired.push_back(1);
    loop->cancel(cancelled);
  });
  loop->run_after(30ms, [&] { loop->stop(); });
  ASSERT_TRUE(loop->run());
  EXPECT_THAT(fired, ElementsAre(1, 2));
}

TEST(EventLoopTest, CancelledTimersAreNotKeptUntilTheirTime) {
  const auto loop = std::move(*EventLoop::create());
  const auto held = std::make_shared<int>(0);
  constexpr int kTimers = 10'000;
  for (int i = 0; i < kTimers; ++i) loop->cancel(loop->run_after(1h, [held] { ++*held; }));
  EXPECT_LT(held.use_count(), 100);
  bool fired = false;
  loop->run_after(1ms, [&] {
    fired = true;
    loop->stop();
  });
  ASSERT_TRUE(loop->run());
  EXPECT_TRUE(fired);
}

TEST(EventLoopTest, RepeatsAndStopsFromAnotherThread) {
  auto loop = EventLoop::create().value();
  int count = 0;
  std::jthread other;
  loop->run_every(1ms, [&] {
    if (++count == 3) other = std::jthread([&] { loop->post([&] { loop->stop(); }); });
  });
  ASSERT_TRUE(loop->run());
  EXPECT_GE(count, 3);
}

TEST(EventLoopTest, WatchRemovedByAHandlerOfTheSameRoundDoesNotFire) {
  auto loop = EventLoop::create().value();
  int a[2], b[2];
  ASSERT_EQ(::pipe(a), 0);
  ASSERT_EQ(::pipe(b), 0);
  int fired = 0;
  ASSERT_TRUE(loop->watch(a[0], EPOLLIN, [&](std::uint32_t) {
    ++fired;
    loop->unwatch(a[0]);
    loop->unwatch(b[0]);
  }));
  ASSERT_TRUE(loop->watch(b[0], EPOLLIN, [&](std::uint32_t) {
    ++fired;
    loop->unwatch(a[0]);
    loop->unwatch(b[0]);
  }));
  ASSERT_EQ(::write(a[1], "x", 1), 1);
  ASSERT_EQ(::write(b[1], "x", 1), 1);
  loop->run_after(20ms, [&] { loop->stop(); });
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(fired, 1);
}

TEST(SocketTest, LongPathsAndStaleSocketsWork) {
  std::string dir = make_temp_dir();
  for (int i = 0; i < 8; ++i) dir = join_path(dir, "a-rather-long-directory-name");
  ASSERT_TRUE(real_files().create_dirs(dir));
  const std::string path = join_path(dir, "s");
  {
    ASSERT_TRUE(listen_unix(path, SocketKind::kStream));
  }  // Left behind by a dead process.
  const Fd listener = listen_unix(path, SocketKind::kStream).value();
  EXPECT_FALSE(listen_unix(path, SocketKind::kStream));
  const Fd client = connect_unix(path, SocketKind::kStream).value();
  while (true) {
    if (const auto server = accept_connection(listener.get())) {
      EXPECT_EQ(peer_uid(server->get()).value(), ::geteuid());
      break;
    }
  }
  EXPECT_EQ(connect_unix(path + "-none", SocketKind::kStream).error().code(), Code::kFileNotFound);
}

}  // namespace
}  // namespace defib::os
