#include "defib/daemon/service_log.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <thread>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::daemon {
namespace {

class ServiceLogTest : public ::testing::Test {
 protected:
  ServiceLogTest() {
    char name[] = "/tmp/service-log-XXXXXX";
    dir_ = mkdtemp(name);
    EXPECT_TRUE(os::real_files().create_dirs(dir_ + "/logs"));
  }
  ~ServiceLogTest() override { (void)os::run_command({"rm", "-r", dir_}, 5000); }
  void write(const std::string& file, std::string_view text) {
    std::ofstream(dir_ + "/logs/" + file, std::ios::app | std::ios::binary) << text;
  }
  // A log with its index, as the shim writes them: records are {offset, seconds, stream}.
  struct Record {
    std::uint64_t offset;
    std::int64_t second;
    std::uint16_t stream;
    process::shim::LogRecordKind kind = process::shim::LogRecordKind::kData;
    std::uint64_t value = 0;
  };
  void index(const std::string& file, const std::vector<Record>& records) {
    struct stat info{};
    ASSERT_EQ(stat((dir_ + "/logs/" + file).c_str(), &info), 0);
    process::shim::LogIndexHeader header{};
    header.magic = process::shim::kLogIndexMagic;
    header.version = process::shim::kLogIndexVersion;
    header.inode = info.st_ino;
    header.crc = index_checksum(header);
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    for (const Record& one : records) {
      process::shim::LogIndexRecord record{
          one.offset, one.second * kSecond, 0, one.value, one.stream, one.kind, 0};
      record.crc = index_checksum(record);
      bytes.append(reinterpret_cast<const char*>(&record), sizeof record);
    }
    std::ofstream(dir_ + "/logs/" + file + ".idx", std::ios::binary | std::ios::trunc) << bytes;
  }
  static std::string show(const LogLine& line) {
    if (line.dropped > 0) return fmt::format("({} dropped)\n", line.dropped);
    return std::string(line.text) + (line.ended ? "\n" : "");
  }
  std::string read(const LogSelection& selection) {
    std::string text;
    daemon::ServiceLog log(dir_);
    const auto done = log.read(selection, false, [&](const LogLine& line) { text += show(line); });
    return done ? text : done.error().to_text();
  }
  static constexpr std::int64_t kSecond = 1'000'000'000;
  std::string dir_;
};

TEST_F(ServiceLogTest, RotatedFilesComeBeforeTheCurrentOne) {
  write("current", "c\n");
  write("current.1", "b\n");
  write("current.2", "a\n");
  EXPECT_EQ(read({}), "a\nb\nc\n");
  EXPECT_EQ(read({.last_lines = 2}), "b\nc\n");
  EXPECT_EQ(read({.last_lines = 9}), "a\nb\nc\n");
}

TEST_F(ServiceLogTest, ALastLineWithoutAnEndIsALine) {
  write("current", "a\nb");
  EXPECT_EQ(read({.last_lines = 1}), "b");
}

TEST_F(ServiceLogTest, LinesAreChosenByTheTimesThatTheyTell) {
  write("current",
        "2026-11-20T13:00:00Z one\n  more of one\n2026-11-20 13:00:10,5 two\n"
        "time=2026-11-20T13:00:20.25Z level=info three\n[2026-11-20T14:00:30+01:00] four\n");
  const auto at = [](const char* text) { return os::parse_time(text); };
  EXPECT_EQ(read({.from_wall_ns = at("2026-11-20T13:00:20.000000000Z")}),
            "time=2026-11-20T13:00:20.25Z level=info three\n[2026-11-20T14:00:30+01:00] four\n");
  EXPECT_EQ(read({.from_wall_ns = 1, .to_wall_ns = at("2026-11-20T13:00:05.000000000Z")}),
            "2026-11-20T13:00:00Z one\n  more of one\n");
}

TEST_F(ServiceLogTest, LinesWithoutAnIndexHaveTheTimeOfTheirFile) {
  write("current", "one\ntwo\n");
  const std::int64_t now = os::real_clock().wall_ns();
  std::vector<std::int64_t> times;
  daemon::ServiceLog log(dir_);
  ASSERT_TRUE(log.read({}, false, [&](const LogLine& line) {
    EXPECT_EQ(line.time, LogLine::Time::kFile);
    EXPECT_EQ(line.stream, 0);
    times.push_back(line.wall_ns);
  }));
  ASSERT_EQ(times.size(), 2u);
  EXPECT_NEAR(static_cast<double>(times[0]), static_cast<double>(now), 60e9);
  EXPECT_EQ(read({.from_wall_ns = now + 3600 * kSecond}), "");
}

TEST_F(ServiceLogTest, TheIndexTellsTimeAndStreamAndLinesComeOutWhole) {
  // stdout's line is cut in two by one of stderr.
  write("current", "out-beg err\nin\nnext\n");
  index("current", {{0, 10, 1}, {8, 20, 2}, {12, 30, 1}});
  EXPECT_EQ(read({}), "err\nout-beg in\nnext\n");
  EXPECT_EQ(read({.stream = 2}), "err\n");
  EXPECT_EQ(read({.to_wall_ns = 10 * kSecond}), "out-beg in\n");
  EXPECT_EQ(read({.from_wall_ns = 15 * kSecond, .to_wall_ns = 25 * kSecond}), "err\n");
  EXPECT_EQ(read({.from_wall_ns = 30 * kSecond}), "next\n");
}

TEST_F(ServiceLogTest, ALineThatARotationCutIsOneLine) {
  write("current.1", "a\nbeg");
  write("current", "in\nc\n");
  index("current.1", {{0, 10, 1}});
  index("current", {{0, 20, 1}});
  EXPECT_EQ(read({}), "a\nbegin\nc\n");
  EXPECT_EQ(read({.to_wall_ns = 15 * kSecond}), "a\nbegin\n");
}

TEST_F(ServiceLogTest, WhatWasDroppedIsToldWhereItIsMissing) {
  using process::shim::LogRecordKind;
  write("current", "a\nb\n");
  index("current", {{0, 10, 1},
                    {2, 11, 1, LogRecordKind::kDroppedByRate, 77},
                    {2, 12, 1},
                    {4, 13, 2, LogRecordKind::kDroppedByDisk, 5}});
  EXPECT_EQ(read({}), "a\n(77 dropped)\nb\n(5 dropped)\n");
  EXPECT_EQ(read({.stream = 1}), "a\n(77 dropped)\nb\n");
}

TEST_F(ServiceLogTest, ADamagedIndexLosesNoByte) {
  write("current", "a\nb\nc\n");
  const std::vector<Record> records = {{0, 10, 1}, {2, 20, 1}, {4, 30, 1}};
  index("current", records);
  std::string whole;
  {
    std::ifstream in(dir_ + "/logs/current.idx", std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  const auto put = [&](const std::string& bytes) {
    std::ofstream(dir_ + "/logs/current.idx", std::ios::binary | std::ios::trunc) << bytes;
  };
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put(whole.substr(0, size));
    ASSERT_EQ(read({}), "a\nb\nc\n") << "cut at " << size;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x41);
    put(flipped);
    ASSERT_EQ(read({}), "a\nb\nc\n") << "flipped at " << at;
  }
  // An index of another file is none.
  write("other", "x");
  index("other", records);
  ASSERT_TRUE(os::real_files().rename(dir_ + "/logs/other.idx", dir_ + "/logs/current.idx"));
  EXPECT_EQ(read({}), "a\nb\nc\n");
}

TEST_F(ServiceLogTest, AnIndexThatARotationHasNotMovedYetIsFound) {
  write("current.1", "a\n");
  index("current.1", {{0, 10, 2}});
  ASSERT_TRUE(os::real_files().rename(dir_ + "/logs/current.1.idx", dir_ + "/logs/current.idx"));
  write("current", "b\n");
  EXPECT_EQ(read({.stream = 2}), "a\n");
  EXPECT_EQ(read({}), "a\nb\n");
}

TEST_F(ServiceLogTest, TimesAreUnderstoodInTheirCommonForms) {
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

TEST_F(ServiceLogTest, FollowingGoesOnOverRotationsThatWentOnMeanwhile) {
  write("current", "old\n");
  std::string seen;
  int step = 0;
  daemon::ServiceLog log(dir_);
  const auto take = [&](const LogLine& line) { seen += show(line); };
  ASSERT_TRUE(log.read({}, true, take));
  const auto rotate = [&](const std::string& from, const std::string& to) {
    EXPECT_TRUE(os::real_files().rename(dir_ + "/logs/" + from, dir_ + "/logs/" + to));
  };
  const auto followed = log.follow({}, take, [&] {
    switch (step++) {
      case 0:
        write("current", "new\nbeg");
        return false;
      case 1:
        // Two rotations before the reader looks again.
        write("current", "in\nlast\n");
        rotate("current", "current.1");
        write("current", "second\n");
        rotate("current.1", "current.2");
        rotate("current", "current.1");
        write("current", "third\n");
        return false;
      default:
        return seen.ends_with("third\n") || step > 100;
    }
  });
  EXPECT_TRUE(followed);
  EXPECT_EQ(seen, "old\nnew\nbegin\nlast\nsecond\nthird\n");
}

}  // namespace
}  // namespace defib::daemon
