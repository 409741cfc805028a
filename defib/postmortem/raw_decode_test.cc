#include "defib/postmortem/raw_decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "defib/base/bytes.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/minicore.h"
#include "defib/postmortem/raw_copy_sigsafe.h"

namespace defib::postmortem {
namespace {

using testing::Contains;
using testing::HasSubstr;

// A process that sleeps, copied.
class RawSnapshot : public testing::Test {
 protected:
  RawSnapshot() {
    child_ = ::fork();
    if (child_ == 0) {
      while (true) ::pause();
    }
    EXPECT_EQ(buffer_.open(), 0);
  }
  ~RawSnapshot() override {
    buffer_.close(true);
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  bool copy(std::int64_t deadline_ns = INT64_MAX) {
    raw::Capture capture;
    capture.pid = child_;
    capture.stop_deadline_ns = raw::mono_ns() + 5'000'000'000;
    capture.copy.deadline_ns = deadline_ns;
    capture.copy.link_map = true;
    return raw::capture(buffer_, capture);
  }
  std::string bytes() { return std::string(buffer_.bytes(), buffer_.size()); }

  pid_t child_ = -1;
  raw::Buffer buffer_;
};

TEST_F(RawSnapshot, BecomesASnapshot) {
  ASSERT_TRUE(copy());
  Snapshot snapshot;
  ASSERT_TRUE(decode_snapshot(bytes(), RawFiles::kTake, snapshot));
  EXPECT_EQ(snapshot.pid, child_);
  ASSERT_EQ(snapshot.threads.size(), 1U);
  EXPECT_EQ(snapshot.threads[0].tid, child_);
  EXPECT_GT(snapshot.modules.size(), 2U);
  EXPECT_FALSE(snapshot.auxv.empty());
  EXPECT_THAT(snapshot.gaps, testing::IsEmpty());
  for (const Module& module : snapshot.modules) {
    EXPECT_TRUE(module.file.valid() || !module.image.empty()) << module.path;
  }
  EXPECT_TRUE(snapshot.memory.read_u64(snapshot.threads[0].registers.sp()));
}

TEST_F(RawSnapshot, ThatHadNoTimeSaysWhatIsMissing) {
  ASSERT_TRUE(copy(0));
  Snapshot snapshot;
  ASSERT_TRUE(decode_snapshot(bytes(), RawFiles::kTake, snapshot));
  EXPECT_EQ(snapshot.threads.size(), 1U);
  EXPECT_THAT(snapshot.gaps, Contains(HasSubstr("modules")));
  EXPECT_TRUE(snapshot.modules.empty());
}

TEST_F(RawSnapshot, OfAProcessThatIsGoneSaysSo) {
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  EXPECT_FALSE(copy());
  Snapshot snapshot;
  const auto decoded = decode_snapshot(bytes(), RawFiles::kTake, snapshot);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code(), Code::kCaptureFailed);
  EXPECT_THAT(decoded.error().message(), HasSubstr("is gone"));
}

// Cut or changed anywhere, it gives less, and never anything else.
TEST_F(RawSnapshot, ThatIsDamagedGivesLess) {
  ASSERT_TRUE(copy());
  const std::string whole = bytes();
  for (std::size_t size = 0; size < whole.size(); size += 1 + whole.size() / 400) {
    Snapshot snapshot;
    ProcessFacts facts;
    const std::string_view part = std::string_view(whole).substr(0, size);
    decode_facts(part, facts);
    const auto decoded = decode_snapshot(part, RawFiles::kLeave, snapshot);
    EXPECT_EQ(decoded.has_value(), size >= sizeof(raw::Header));
  }
  for (std::size_t at = sizeof(raw::Header); at + 8 < whole.size(); at += 1 + whole.size() / 800) {
    std::string changed = whole;
    store_value(changed.data() + at, UINT64_MAX);
    Snapshot snapshot;
    ProcessFacts facts;
    decode_facts(changed, facts);
    EXPECT_TRUE(decode_snapshot(changed, RawFiles::kLeave, snapshot));
  }
}

TEST(RawSnapshots, OfAnotherVersionAreRefused) {
  raw::Header header{};
  header.magic = raw::kMagic;
  header.version = raw::kVersion + 1;
  Snapshot snapshot;
  const auto decoded = decode_snapshot({reinterpret_cast<const char*>(&header), sizeof header},
                                       RawFiles::kLeave, snapshot);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code(), Code::kInvalidArgument);
}

TEST_F(RawSnapshot, BecomesACoreOfItsThreadsAndStacks) {
  ASSERT_TRUE(copy());
  Snapshot snapshot;
  ASSERT_TRUE(decode_snapshot(bytes(), RawFiles::kTake, snapshot));
  const std::string path = testing::TempDir() + "defib-minicore-test";
  ASSERT_TRUE(write_minicore(snapshot, path));
  const auto core = read_core(path);
  ::unlink(path.c_str());
  ASSERT_TRUE(core) << core.error().to_text();
  ASSERT_EQ(core->threads.size(), 1U);
  EXPECT_EQ(core->threads[0].registers.values, snapshot.threads[0].registers.values);
  EXPECT_EQ(core->pid, snapshot.pid);
  const std::uint64_t sp = snapshot.threads[0].registers.sp();
  EXPECT_EQ(core->memory.read_u64(sp), snapshot.memory.read_u64(sp));
  EXPECT_LE(make_minicore(snapshot, 4096).size(), 16384U);
}

}  // namespace
}  // namespace defib::postmortem
