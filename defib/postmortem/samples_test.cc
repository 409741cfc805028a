#include "defib/postmortem/samples.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

class Samples : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib_samples_XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    path_ = dir_ + "/ring";
  }
  void TearDown() override {
    ::unlink(path_.c_str());
    ::rmdir(dir_.c_str());
  }
  void add(SampleRing& ring, std::int64_t at) {
    std::array<std::uint64_t, kServiceNumbers> numbers;
    numbers.fill(static_cast<std::uint64_t>(at));
    ASSERT_TRUE(ring.add(at, at + 1, numbers));
  }
  SampleRing open() {
    auto ring = SampleRing::open(path_, SampleKind::kService);
    EXPECT_TRUE(ring);
    return std::move(*ring);
  }
  std::string dir_, path_;
};

TEST_F(Samples, KeepTheNewestInAFileOfFixedSize) {
  {
    SampleRing ring = open();
    add(ring, 1);
    add(ring, 2);
  }
  const auto size = os::read_file(os::real_files(), path_)->size();
  SampleRing ring = open();  // as after a kill
  add(ring, 3);
  ASSERT_EQ(read_ring(path_, SampleKind::kService)->size(), 3U)
      << "it goes on behind what is there";
  for (std::int64_t at = 4; at <= kRingRecords + 10; ++at) add(ring, at);
  const auto samples = read_ring(path_, SampleKind::kService);
  ASSERT_TRUE(samples);
  ASSERT_EQ(samples->size(), kRingRecords);
  EXPECT_EQ(samples->front().mono_ns, 11);
  EXPECT_EQ(samples->back().mono_ns, kRingRecords + 10);
  EXPECT_EQ(samples->back().wall_ns, kRingRecords + 11);
  EXPECT_EQ(samples->back().numbers,
            std::vector<std::uint64_t>(kServiceNumbers, kRingRecords + 10));
  EXPECT_EQ(os::read_file(os::real_files(), path_)->size(), size);
}

TEST_F(Samples, SkipARecordThatIsTornAndBeginAnewWhereTheHeaderIs) {
  {
    SampleRing ring = open();
    for (std::int64_t at = 1; at <= 3; ++at) add(ring, at);
  }
  std::string bytes = *os::read_file(os::real_files(), path_);
  std::string torn = bytes;
  torn[64 + 2 * (32 + 8 * kServiceNumbers) + 40] ^= 1;
  const auto samples = parse_ring(torn, SampleKind::kService);
  ASSERT_TRUE(samples);
  ASSERT_EQ(samples->size(), 2U);
  EXPECT_EQ(samples->back().mono_ns, 3);
  EXPECT_FALSE(parse_ring(bytes, SampleKind::kMachine)) << "of another kind";
  EXPECT_FALSE(parse_ring(std::string_view(bytes).substr(0, 63), SampleKind::kService));
  bytes[9] ^= 1;
  EXPECT_EQ(parse_ring(bytes, SampleKind::kService).error().code(), Code::kInvalidArgument);
  const os::Fd file(::open(path_.c_str(), O_WRONLY));
  ASSERT_EQ(::pwrite(file.get(), bytes.data(), 64, 0), 64);
  SampleRing ring = open();
  add(ring, 7);
  ASSERT_EQ(read_ring(path_, SampleKind::kService)->size(), 1U);
}

TEST_F(Samples, OfAProcessTellWhatItUses) {
  std::array<std::uint64_t, kServiceNumbers> numbers;
  ASSERT_TRUE(sample_process(::getpid(), 7, numbers));
  EXPECT_EQ(numbers[0], static_cast<std::uint64_t>(::getpid()));
  EXPECT_EQ(numbers[1], 7U);
  EXPECT_GT(numbers[3], 1U << 20) << "resident bytes";
  EXPECT_GE(numbers[4], numbers[3]) << "virtual bytes";
  EXPECT_GE(numbers[6], 1U) << "threads";
  EXPECT_EQ(numbers[14], static_cast<std::uint64_t>('R'));
  const std::uint64_t descriptors = numbers[7];
  const int more = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(sample_process(::getpid(), 7, numbers));
  EXPECT_EQ(numbers[7], descriptors + 1);
  ::close(more);
  EXPECT_GT(numbers[15], 0U) << "the limit of descriptors";
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(sample_process(child, 1, numbers)) << "a zombie uses nothing";
  ::waitpid(child, nullptr, 0);
}

TEST_F(Samples, OfTheMachineAgreeWithItself) {
  std::array<std::uint64_t, kMachineNumbers> numbers;
  MachineSampler sampler("/tmp");
  sampler.sample(numbers);
  EXPECT_GT(numbers[5], numbers[6]) << "memory, and what is available of it";
  EXPECT_GT(numbers[13], 0U) << "idle ticks";
  EXPECT_GT(numbers[20], 0U) << "size of the disk";
  EXPECT_GT(numbers[4], 1U) << "processes";
  EXPECT_GT(numbers[30], 0U) << "context switches";
  const std::uint64_t before = numbers[30];
  ::usleep(1000);
  sampler.sample(numbers);
  EXPECT_GT(numbers[30], before) << "read anew from the open files";
}

}  // namespace
}  // namespace defib::postmortem
