#include "defib/alert/queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace defib::alert {
namespace {

Event event(const std::string& id) {
  Event one;
  one.id = id;
  one.service = "engine";
  one.cause = "segmentation_fault";
  one.message = "it ended \"badly\"\nwith two lines";
  one.wall_ns = 1'700'000'000'000'000'000;
  return one;
}

class QueueTest : public ::testing::Test {
 protected:
  QueueTest() {
    char name[] = "/tmp/alert-queue-XXXXXX";
    dir_ = mkdtemp(name);
    path_ = dir_ + "/alerts/queue";
  }
  ~QueueTest() override { std::filesystem::remove_all(dir_); }
  std::vector<std::string> ids(const Queue::Batch& batch) {
    std::vector<std::string> result;
    for (const Event& one : batch.events) result.push_back(one.id);
    return result;
  }
  void append_bytes(std::string_view bytes) {
    std::ofstream(path_, std::ios::app | std::ios::binary) << bytes;
  }
  std::string dir_, path_;
};

TEST_F(QueueTest, WhatIsAppendedIsReadOnceAndInOrder) {
  Queue queue(os::real_files(), path_);
  EXPECT_FALSE(queue.has_records());
  ASSERT_TRUE(queue.append({event("a"), event("b")}));
  EXPECT_TRUE(queue.has_records());
  auto batch = queue.read({});
  ASSERT_TRUE(batch);
  EXPECT_THAT(ids(*batch), ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(batch->events[0].message, event("a").message);
  ASSERT_TRUE(queue.append({event("c")}));
  auto more = queue.read(batch->end);
  ASSERT_TRUE(more);
  EXPECT_THAT(ids(*more), ::testing::ElementsAre("c"));
}

TEST_F(QueueTest, IsEmptiedOnlyWhereAllWasRead) {
  Queue queue(os::real_files(), path_);
  ASSERT_TRUE(queue.append({event("a")}));
  const auto batch = queue.read({});
  ASSERT_TRUE(queue.append({event("b")}));
  EXPECT_FALSE(*queue.empty_if_read(batch->end));
  const auto rest = queue.read(batch->end);
  EXPECT_THAT(ids(*rest), ::testing::ElementsAre("b"));
  EXPECT_TRUE(*queue.empty_if_read(rest->end));
  EXPECT_FALSE(queue.has_records());
  // The old position is of another generation and hides nothing.
  ASSERT_TRUE(queue.append({event("c")}));
  EXPECT_THAT(ids(*queue.read(rest->end)), ::testing::ElementsAre("c"));
}

TEST_F(QueueTest, ATornRecordCostsItselfAndNothingBehindIt) {
  Queue queue(os::real_files(), path_);
  ASSERT_TRUE(queue.append({event("a")}));
  const std::string whole = "\n" + encode_line(event("torn").to_json()) + "\n";
  // Cut after every byte.
  for (std::size_t cut = 1; cut < whole.size() - 1; ++cut) {
    Queue own(os::real_files(), path_);
    append_bytes(std::string_view(whole).substr(0, cut));
    ASSERT_TRUE(own.append({event("b")}));
    const auto batch = own.read({});
    ASSERT_TRUE(batch);
    EXPECT_THAT(ids(*batch), ::testing::ElementsAre("a", "b")) << "cut at " << cut;
    EXPECT_EQ(batch->damaged, cut == 1 ? 0U : 1U);
    ASSERT_TRUE(*own.empty_if_read(batch->end));
    ASSERT_TRUE(own.append({event("a")}));
  }
}

TEST_F(QueueTest, ATornRecordAtTheEndDoesNotKeepTheQueueFull) {
  Queue queue(os::real_files(), path_);
  ASSERT_TRUE(queue.append({event("a")}));
  append_bytes("\n12345678 {\"type\":");
  const auto batch = queue.read({});
  EXPECT_THAT(ids(*batch), ::testing::ElementsAre("a"));
  EXPECT_TRUE(*queue.empty_if_read(batch->end));
  EXPECT_FALSE(queue.has_records());
}

TEST_F(QueueTest, EveryFlippedBitIsToldAndHurtsNobodyElse) {
  Queue queue(os::real_files(), path_);
  ASSERT_TRUE(queue.append({event("a"), event("b"), event("c")}));
  std::string good;
  {
    std::ifstream in(path_, std::ios::binary);
    good.assign(std::istreambuf_iterator<char>(in), {});
  }
  const std::size_t header = good.find('\n');
  int lost_two = 0;
  for (std::size_t at = header + 1; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bad;
    const auto batch = queue.read({});
    ASSERT_TRUE(batch);
    for (const Event& one : batch->events) EXPECT_EQ(one.message, event("a").message);
    // Records stand between two line ends, so that the loss of one joins no records.
    if (batch->events.size() < 2) ++lost_two;
  }
  EXPECT_EQ(lost_two, 0);
}

TEST_F(QueueTest, IsBounded) {
  Queue queue(os::real_files(), path_);
  std::vector<Event> many(500, event("x"));
  for (Event& one : many) one.message = std::string(2000, 'm');
  Result<> appended;
  int batches = 0;
  while ((appended = queue.append(many)) && batches < 100) ++batches;
  ASSERT_FALSE(appended);
  EXPECT_EQ(appended.error().code(), Code::kLimitExceeded);
  EXPECT_LE(std::filesystem::file_size(path_), kMaxQueueBytes);
  EXPECT_GT(std::filesystem::file_size(path_), kMaxQueueBytes / 2);
}

TEST_F(QueueTest, WritersOfSeveralProcessesDoNotMix) {
  constexpr int kWriters = 4, kEach = 100;
  Queue queue(os::real_files(), path_);
  ASSERT_TRUE(queue.append({event("first")}));
  std::vector<pid_t> children;
  for (int writer = 0; writer < kWriters; ++writer) {
    const pid_t pid = fork();
    if (pid == 0) {
      Queue own(os::real_files(), path_);
      for (int i = 0; i < kEach;) {
        const auto done = own.append({event(std::to_string(writer * kEach + i))});
        if (done) ++i;
      }
      _exit(0);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  const auto batch = queue.read({});
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->damaged, 0U);
  std::vector<std::string> all = ids(*batch);
  std::ranges::sort(all);
  EXPECT_EQ(std::unique(all.begin(), all.end()), all.end());
  EXPECT_EQ(all.size(), std::size_t{kWriters * kEach + 1});
}

TEST_F(QueueTest, AKilledWriterLeavesWholeRecordsOrOneTornOne) {
  Queue queue(os::real_files(), path_);
  int told = 0;
  for (int round = 0; round < 20; ++round) {
    const pid_t pid = fork();
    if (pid == 0) {
      Queue own(os::real_files(), path_);
      for (int i = 0;; ++i) static_cast<void>(own.append({event(std::to_string(i))}));
    }
    while (!queue.has_records()) usleep(100);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    ASSERT_TRUE(queue.append({event("after")}));
    const auto batch = queue.read({});
    ASSERT_TRUE(batch);
    ASSERT_FALSE(batch->events.empty());
    EXPECT_EQ(batch->events.back().id, "after");
    EXPECT_LE(batch->damaged, 1U);
    told += static_cast<int>(batch->events.size());
    EXPECT_TRUE(*queue.empty_if_read(batch->end));
  }
  EXPECT_GT(told, 20);
}

}  // namespace
}  // namespace defib::alert
