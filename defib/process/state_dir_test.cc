#include "defib/process/state_dir.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "defib/process/restart_policy.h"

namespace defib::process {
namespace {

class StateDirTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib-state-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void write(const std::string& name, std::string_view text) {
    std::ofstream(dir_ + "/" + name) << text;
  }
  Result<StateDir> open() { return StateDir::open(os::real_files(), dir_); }
  std::vector<std::string> names() { return *os::real_files().list(dir_); }

  std::string dir_;
};

TEST_F(StateDirTest, ANewDirectoryIsMarkedAndClosedToOthers) {
  dir_ += "/new";
  ASSERT_TRUE(open());
  struct stat info{};
  ASSERT_EQ(::stat(dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(*os::read_file(os::real_files(), dir_ + "/defib.state"), kStateMark);
  EXPECT_TRUE(open());  // And is recognized.
}

TEST_F(StateDirTest, AForeignDirectoryIsRefusedUnchanged) {
  write("letters.txt", "dear");
  const auto before = names();
  const auto opened = open();
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Code::kStateDirectoryForeign);
  EXPECT_EQ(names(), before);
}

TEST_F(StateDirTest, ADamagedMarkIsRefused) {
  ASSERT_TRUE(open());
  write("defib.state", "defib-stat");
  EXPECT_EQ(open().error().code(), Code::kStateDirectoryForeign);
  write("defib.state", "defib-state 2\n");
  const auto newer = open();
  EXPECT_EQ(newer.error().code(), Code::kStateDirectoryForeign);
  EXPECT_NE(newer.error().message().find("another version"), std::string::npos);
}

TEST_F(StateDirTest, AStartThatWasCutBeforeItsMarkIsContinued) {
  write("defib.state.tmp", "defib-");
  EXPECT_TRUE(open());
}

TEST_F(StateDirTest, AFileInItsPlaceIsRefused) {
  write("file", "");
  const auto opened = StateDir::open(os::real_files(), dir_ + "/file");
  EXPECT_EQ(opened.error().code(), Code::kStateDirectoryForeign);
}

TEST_F(StateDirTest, TheLockOfANameIsHeldByOne) {
  const StateDir state = std::move(*open());
  EXPECT_EQ(state.service_holder("a"), 0);
  auto first = state.lock_service("a");
  ASSERT_TRUE(first);
  EXPECT_EQ(state.service_holder("a"), ::getpid());
  const auto second = state.lock_service("a");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kAlreadySupervised);
  EXPECT_EQ(second.error().field("holder"), std::to_string(::getpid()));
  EXPECT_TRUE(state.lock_service("b"));
  first->reset();
  EXPECT_TRUE(state.lock_service("a"));
}

shim::StatusRecord record(std::uint64_t sequence) {
  shim::StatusRecord record{};
  record.magic = shim::kStatusMagic;
  record.version = shim::kStatusVersion;
  record.sequence = sequence;
  record.crc = shim::status_checksum(record);
  return record;
}

std::string file_of(const shim::StatusRecord& first, const shim::StatusRecord& second) {
  std::string bytes(2 * shim::kStatusSlot, '\0');
  std::memcpy(bytes.data(), &first, sizeof first);
  std::memcpy(bytes.data() + shim::kStatusSlot, &second, sizeof second);
  return bytes;
}

TEST(StatusFile, TheNewerValidSlotCounts) {
  EXPECT_EQ(parse_status(file_of(record(4), record(3)))->sequence, 4u);
  EXPECT_EQ(parse_status(file_of(record(4), record(5)))->sequence, 5u);
}

TEST(StatusFile, ATornSlotIsNotBelieved) {
  const std::string whole = file_of(record(4), record(5));
  for (std::size_t at = 0; at < sizeof(shim::StatusRecord); ++at) {
    std::string torn = whole;
    torn[shim::kStatusSlot + at] = static_cast<char>(torn[shim::kStatusSlot + at] ^ 0x40);
    const auto found = parse_status(torn);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->sequence, 4u) << "byte " << at;
  }
  EXPECT_FALSE(parse_status(""));
  EXPECT_FALSE(parse_status(std::string(2 * shim::kStatusSlot, '\0')));
  EXPECT_EQ(parse_status(whole.substr(0, shim::kStatusSlot + 200))->sequence, 4u);
}

TEST(StatusFile, AWholeRecordOfAnotherVersionIsToldFromADamagedOne) {
  shim::StatusRecord newer = record(5);
  newer.version = shim::kStatusVersion + 1;
  std::uint32_t version = shim::kStatusVersion;
  // Its checksum is wrong: a flipped bit.
  EXPECT_EQ(parse_status(file_of(record(4), newer), &version)->sequence, 4u);
  EXPECT_EQ(version, shim::kStatusVersion);
  newer.crc = shim::status_checksum(newer);
  EXPECT_TRUE(parse_status(file_of(record(4), newer), &version));
  EXPECT_EQ(version, shim::kStatusVersion + 1);
  // An older one that was left in the other slot does not matter.
  version = shim::kStatusVersion;
  EXPECT_EQ(parse_status(file_of(record(6), newer), &version)->sequence, 6u);
  EXPECT_EQ(version, shim::kStatusVersion);
}

TEST(StatusFile, TheShimsChecksumIsCrc32c) {
  EXPECT_EQ(shim::checksum("123456789", 9), 0xE3069283u);
}

TEST(Ticket, RestartsFollowThePolicy) {
  using shim::StopReason;
  const auto exit = [](int status, StopReason reason, bool known = true) {
    shim::ExitInfo info{};
    info.wait_status = status;
    info.reason = reason;
    info.source = known ? shim::StatusSource::kWait : shim::StatusSource::kUnknown;
    return info;
  };
  const auto ticket = [](RestartPolicy policy) {
    ServiceSpec spec;
    spec.restart = policy;
    return shim::Ticket{0, 1, shim_policy(policy), 0, 0, 0, restart_after(spec)};
  };
  const shim::Ticket always = ticket(RestartPolicy::kAlways);
  const shim::Ticket on_failure = ticket(RestartPolicy::kOnFailure);
  const shim::Ticket never = ticket(RestartPolicy::kNever);
  const auto clean = exit(0, StopReason::kNone);
  const auto failed = exit(256, StopReason::kNone);
  const auto unknown = exit(0, StopReason::kNone, false);
  const auto requested = exit(9, StopReason::kRequested);
  const auto hung = exit(0, StopReason::kHung);
  for (const auto& end : {clean, failed, unknown, hung}) {
    EXPECT_TRUE(calls_for_restart(always, end));
    EXPECT_FALSE(calls_for_restart(never, end));
  }
  EXPECT_FALSE(calls_for_restart(on_failure, clean));
  EXPECT_TRUE(calls_for_restart(on_failure, failed));
  EXPECT_TRUE(calls_for_restart(on_failure, unknown));
  EXPECT_TRUE(calls_for_restart(on_failure, hung));
  for (const auto& any : {always, on_failure, never}) {
    EXPECT_FALSE(calls_for_restart(any, requested));
  }
}

TEST(Ticket, AHeldEndIsLeftToTheSupervisorAndNoOther) {
  ServiceSpec spec;
  shim::Ticket ticket = {0, 1, shim_policy(spec.restart), 1, 11, 0, restart_after(spec)};
  shim::ExitInfo end{};
  end.source = shim::StatusSource::kWait;
  end.wait_status = 11;
  EXPECT_FALSE(calls_for_restart(ticket, end));
  end.wait_status = 11 | 0x80;
  EXPECT_FALSE(calls_for_restart(ticket, end)) << "a core makes no other end of it";
  end.wait_status = 11 << 8;
  EXPECT_TRUE(calls_for_restart(ticket, end)) << "exit code 11 is not signal 11";
  end.wait_status = 11;
  end.reason = shim::StopReason::kHung;
  EXPECT_TRUE(calls_for_restart(ticket, end)) << "killed by us, whatever the status";
  end.reason = shim::StopReason::kNone;
  end.source = shim::StatusSource::kUnknown;
  EXPECT_TRUE(calls_for_restart(ticket, end));
}

}  // namespace
}  // namespace defib::process
