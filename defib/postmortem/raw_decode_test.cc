#include "defib/postmortem/raw_decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <cstring>
#include <thread>

#include "defib/base/bytes.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/locks.h"
#include "defib/postmortem/minicore.h"
#include "defib/postmortem/raw_copy_sigsafe.h"
#include "defib/postmortem/unwind.h"

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
  EXPECT_THAT(snapshot.gaps, Contains(HasSubstr("the names of the threads")));
  EXPECT_GT(snapshot.modules.size(), 2U);
}

// As after the copier's death: the mappings are there, and nothing behind them.
TEST_F(RawSnapshot, ThatEndsBehindTheMappingsHasModulesAndNames) {
  ASSERT_TRUE(copy());
  Snapshot whole;
  ASSERT_TRUE(decode_snapshot(bytes(), RawFiles::kLeave, whole));
  std::string part = bytes();
  auto header = load<raw::Header>(part.data());
  header.released_mono_ns = 0;
  header.exe_fd = header.root_fd = -1;
  std::memcpy(part.data(), &header, sizeof header);
  std::size_t at = sizeof header;
  for (bool maps = false; !maps;) {
    ASSERT_LE(at + sizeof(raw::Record), part.size());
    const auto record = load<raw::Record>(part.data() + at);
    maps = record.kind == raw::Kind::kFile &&
           record.number == static_cast<std::int32_t>(raw::File::kMaps);
    at += sizeof record + (record.size + 7) / 8 * 8;
  }
  part.resize(at);
  Snapshot snapshot;
  ASSERT_TRUE(decode_snapshot(part, RawFiles::kTake, snapshot));
  EXPECT_THAT(snapshot.gaps, Contains(HasSubstr("is not whole")));
  EXPECT_THAT(snapshot.gaps, Contains(HasSubstr("the first pages of")));
  EXPECT_EQ(snapshot.modules.size() + 1, whole.modules.size());  // but for the vDSO
  for (const Module& module : snapshot.modules) {
    const auto known = std::ranges::find(whole.modules, module.path, &Module::path);
    ASSERT_NE(known, whole.modules.end()) << module.path;
    EXPECT_EQ(module.start, known->start) << module.path;
    EXPECT_EQ(module.end, known->end) << module.path;
    EXPECT_EQ(module.build_id, known->build_id) << module.path;
    EXPECT_TRUE(module.file.valid()) << module.path;
  }
  const Unwound unwound = unwind(snapshot);
  ASSERT_FALSE(unwound.stacks.at(0).frames.empty());
  EXPECT_NE(unwound.stacks[0].frames[0].function, "") << unwound.stacks[0].frames[0].module;
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

pthread_rwlock_t ledger = PTHREAD_RWLOCK_INITIALIZER, book = PTHREAD_RWLOCK_INITIALIZER;

[[noreturn]] void deadlock_writers() {
  std::barrier both(2);
  ::pthread_rwlock_wrlock(&ledger);
  std::thread other([&] {
    ::pthread_rwlock_wrlock(&book);
    both.arrive_and_wait();
    ::pthread_rwlock_wrlock(&ledger);
  });
  both.arrive_and_wait();
  ::pthread_rwlock_wrlock(&book);
  ::_exit(1);
}

// Their heads lie before the futexes that are waited at, and on no stack.
TEST(LiveLocks, OfWritersAreACycleToo) {
  const pid_t child = ::fork();
  if (child == 0) deadlock_writers();
  std::vector<LockWait> cycle;
  for (int i = 0; i < 500 && cycle.empty(); ++i) {
    const auto snapshot = capture_live(child, {});
    ASSERT_TRUE(snapshot) << snapshot.error().to_text();
    cycle = find_lock_cycle(find_lock_waits(*snapshot));
    ::usleep(10'000);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ASSERT_EQ(cycle.size(), 2U);
  EXPECT_EQ(cycle[0].kind, WaitKind::kWriter);
  EXPECT_EQ(cycle[1].kind, WaitKind::kWriter);
  EXPECT_EQ(cycle[0].owner, cycle[1].waiter);
}

TEST_F(RawSnapshot, BecomesACoreOfItsThreadsAndStacks) {
  ASSERT_TRUE(copy());
  Snapshot snapshot;
  ASSERT_TRUE(decode_snapshot(bytes(), RawFiles::kTake, snapshot));
  // Each register has a value of its own, so that none can stand for another.
  Registers& registers = snapshot.threads[0].registers;
  for (std::size_t i = 0; i < registers.values.size(); ++i) {
    if (i != registers.sp_index() && !registers.name(i).empty() && i != kCrashPcRegister) {
      registers.values[i] = 0x1000 + i;
    }
  }
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
