#include "defib/daemon/service_log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <string>
#include <thread>

#include "defib/os/clock.h"
#include "defib/os/process.h"

namespace defib::daemon {
namespace {

class ServiceLog : public ::testing::Test {
 protected:
  ServiceLog() {
    char name[] = "/tmp/service-log-XXXXXX";
    dir_ = mkdtemp(name);
    EXPECT_TRUE(os::real_files().create_dirs(dir_ + "/logs"));
  }
  ~ServiceLog() override { (void)os::run_command({"rm", "-r", dir_}, 5000); }
  void write(const std::string& file, std::string_view text) {
    std::ofstream(dir_ + "/logs/" + file, std::ios::app | std::ios::binary) << text;
  }
  std::string read(const LogSelection& selection, std::uint64_t max_bytes = 1 << 20) {
    const auto log = read_service_log(os::real_files(), dir_, selection, max_bytes);
    return log ? log->text : log.error().to_text();
  }
  std::string dir_;
};

TEST_F(ServiceLog, RotatedFilesComeBeforeTheCurrentOne) {
  write("current", "c\n");
  write("current.1", "b\n");
  write("current.2", "a\n");
  EXPECT_EQ(read({}), "a\nb\nc\n");
  EXPECT_EQ(read({.last_lines = 2}), "b\nc\n");
  EXPECT_EQ(read({.last_lines = 9}), "a\nb\nc\n");
  EXPECT_EQ(read({}, 3), "c\n");  // the bound cuts "b\n", of which nothing is shown
}

TEST_F(ServiceLog, ALastLineWithoutAnEndIsALine) {
  write("current", "a\nb");
  EXPECT_EQ(read({.last_lines = 1}), "b");
}

TEST_F(ServiceLog, LinesAreChosenByTheTimesThatTheyTell) {
  write("current",
        "2026-11-20T13:00:00Z one\n  more of one\n2026-11-20 13:00:10,5 two\n"
        "time=2026-11-20T13:00:20.25Z level=info three\n[2026-11-20T14:00:30+01:00] four\n");
  const auto at = [](const char* text) { return os::parse_time(text); };
  EXPECT_EQ(read({.from_wall_ns = at("2026-11-20T13:00:20.000000000Z")}),
            "time=2026-11-20T13:00:20.25Z level=info three\n[2026-11-20T14:00:30+01:00] four\n");
  EXPECT_EQ(read({.from_wall_ns = 1, .to_wall_ns = at("2026-11-20T13:00:05.000000000Z")}),
            "2026-11-20T13:00:00Z one\n  more of one\n");
}

TEST_F(ServiceLog, ALogWithoutTimesIsShownWholeAndSaysSo) {
  write("current", "one\ntwo\n");
  const auto log = read_service_log(os::real_files(), dir_, {.from_wall_ns = 1});
  ASSERT_TRUE(log);
  EXPECT_TRUE(log->without_times);
  EXPECT_EQ(log->text, "one\ntwo\n");
}

TEST_F(ServiceLog, TimesAreUnderstoodInTheirCommonForms) {
  const auto whole = os::parse_time("2026-11-20T13:05:58.000000000Z");
  EXPECT_EQ(time_of_line("2026-11-20T13:05:58Z x"), whole);
  EXPECT_EQ(time_of_line("2026-11-20 13:05:58 x"), whole);
  EXPECT_EQ(time_of_line("2026-11-20T15:05:58+02:00 x"), whole);
  EXPECT_EQ(time_of_line("2026-11-20T11:35:58.000-0130 x"), whole);
  EXPECT_EQ(time_of_line("2026-11-20T13:05:58.123456789123Z"), whole + 123456789);
  for (const char* line : {"", "x", "2026-11-20", "12:00:00 x"}) {
    EXPECT_FALSE(time_of_line(line)) << line;
  }
}

TEST_F(ServiceLog, FollowingGoesOnOverARotation) {
  write("current", "old\n");
  std::string seen;
  bool rotated = false;
  const auto followed = follow_service_log(
      dir_, 4, [&](std::string_view bytes) { seen += bytes; },
      [&] {
        if (seen.empty()) {
          write("current", "new\n");
        } else if (!rotated) {
          rotated = true;
          EXPECT_TRUE(os::real_files().rename(dir_ + "/logs/current", dir_ + "/logs/current.1"));
          write("current", "after\n");
        }
        return seen == "new\nafter\n";
      });
  EXPECT_TRUE(followed);
  EXPECT_EQ(seen, "new\nafter\n");
}

}  // namespace
}  // namespace defib::daemon
