#include "defib/process/run_output.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "defib/process/log_index_format.h"

namespace defib::process {
namespace {

struct Piece {
  std::int64_t mono_ns;
  int stream;
  std::string text;
};

class RunOutputTest : public ::testing::Test {
 protected:
  RunOutputTest() {
    char name[] = "/tmp/run-output-XXXXXX";
    dir_ = mkdtemp(name);
    std::filesystem::create_directory(dir_ + "/logs");
  }
  ~RunOutputTest() override { std::filesystem::remove_all(dir_); }

  // `damaged`: the number of a record that is not whole; -1: none.
  void write(const std::string& file, const std::vector<Piece>& pieces, int damaged = -1) {
    const std::string path = dir_ + "/logs/" + file;
    std::string log;
    std::vector<shim::LogIndexRecord> records;
    for (const Piece& piece : pieces) {
      shim::LogIndexRecord record = {log.size(),
                                     0,
                                     piece.mono_ns,
                                     0,
                                     static_cast<std::uint16_t>(piece.stream),
                                     shim::LogRecordKind::kData,
                                     0};
      record.crc = shim::index_checksum(record);
      if (static_cast<int>(records.size()) == damaged) ++record.crc;
      records.push_back(record);
      log += piece.text;
    }
    std::ofstream(path) << log;
    struct stat status{};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    shim::LogIndexHeader header{};
    header.magic = shim::kLogIndexMagic;
    header.version = shim::kLogIndexVersion;
    header.inode = status.st_ino;
    header.crc = shim::index_checksum(header);
    std::ofstream index(path + shim::kLogIndexSuffix, std::ios::binary);
    index.write(reinterpret_cast<const char*>(&header), sizeof header);
    for (const auto& record : records) {
      index.write(reinterpret_cast<const char*>(&record), sizeof record);
    }
  }
  RunOutput read(const RunWindow& window) const { return read_run_output(dir_, window); }

  std::string dir_;
};

const std::vector<Piece> kThreeRuns = {{100, 2, "Traceback of the first run\n"},
                                       {200, 1, "second starts\n"},
                                       {210, 2, "error: no venue\n"},
                                       {220, 1, "second ends\n"},
                                       {300, 2, "third starts\n"}};

TEST_F(RunOutputTest, IsOfOneRunAloneAndByStream) {
  write("current", kThreeRuns);
  const RunOutput output = read({.from_mono_ns = 150, .until_mono_ns = 290});
  EXPECT_EQ(output.out, "second starts\nsecond ends\n");
  EXPECT_EQ(output.err, "error: no venue\n");
  EXPECT_EQ(read({.from_mono_ns = 290}).err, "third starts\n");
  EXPECT_EQ(read({.from_mono_ns = 400}).err, "");
}

TEST_F(RunOutputTest, GoesOnInTheFileBefore) {
  write("current.1", {{100, 2, "first\n"}, {200, 2, "second\n"}});
  write("current", {{210, 2, "goes on\n"}});
  EXPECT_EQ(read({.from_mono_ns = 150}).err, "second\ngoes on\n");
  write("current", {});
  EXPECT_EQ(read({.from_mono_ns = 150}).err, "second\n");
}

TEST_F(RunOutputTest, IsCutAtALinesStart) {
  write("current", {{100, 1, "0123456789\nabcdefghij\nxyz\n"}});
  EXPECT_EQ(read({.max_bytes = 17}).out, "abcdefghij\nxyz\n") << "of \"9\\nabcdefghij\\nxyz\\n\"";
  EXPECT_EQ(read({.max_bytes = 100}).out, "0123456789\nabcdefghij\nxyz\n");
}

TEST_F(RunOutputTest, OfAnEarlierBootIsNone) {
  write("current", {{9000, 2, "before the machine was started anew\n"}, {200, 2, "now\n"}});
  EXPECT_EQ(read({.from_mono_ns = 100}).err, "now\n");
}

TEST_F(RunOutputTest, OfUnknownOriginIsNone) {
  EXPECT_EQ(read({}).err, "") << "no log";
  write("current", kThreeRuns, 3);
  EXPECT_EQ(read({}).err, "third starts\n") << "behind a damaged record";
  std::filesystem::remove(dir_ + "/logs/current.idx");
  EXPECT_EQ(read({}).err, "") << "no index";
}

}  // namespace
}  // namespace defib::process
