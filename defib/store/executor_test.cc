// parallel_for: every item once, and no waiting for an executor that has other things to do.

#include "defib/store/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace defib::store {
namespace {

// Keeps its tasks until it is told to run them.
class Postponing final : public Executor {
 public:
  void run(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  unsigned concurrency() const override { return 4; }
  std::size_t run_all() {
    const std::size_t count = tasks_.size();
    for (auto& task : tasks_) task();
    tasks_.clear();
    return count;
  }

 private:
  std::deque<std::function<void()>> tasks_;
};

TEST(ParallelFor, EveryItemIsWorkedOnExactlyOnce) {
  Threads threads(4);
  for (const std::size_t count : {0, 1, 2, 3, 100, 10'000}) {
    std::vector<std::atomic<int>> seen(count);
    parallel_for(threads, count, [&](std::size_t item) { ++seen[item]; });
    for (const auto& times : seen) ASSERT_EQ(times.load(), 1);
  }
}

TEST(ParallelFor, ACallerThatWaitsForOthersGoesOnHearingOfIt) {
  Threads threads(1);
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> other_has_begun = false;
  std::mutex mutex;  // guards calls
  std::condition_variable called;
  int calls = 0;
  parallel_for(
      threads, 2,
      [&](std::size_t) {
        if (std::this_thread::get_id() == caller) return other_has_begun.wait(false);
        other_has_begun = true;
        other_has_begun.notify_all();
        // As if it read from a slow disk: it ends when the caller was called thrice.
        std::unique_lock lock(mutex);
        called.wait_for(lock, std::chrono::seconds(10), [&] { return calls >= 3; });
      },
      [&] {
        EXPECT_EQ(std::this_thread::get_id(), caller);
        const std::lock_guard lock(mutex);
        ++calls;
        called.notify_all();
      });
  EXPECT_GE(calls, 3);
}

TEST(ParallelFor, TheCallerDoesAllOfItWhereTheExecutorDoesNotRun) {
  Postponing executor;
  int sum = 0;  // Not atomic: nobody else works.
  parallel_for(executor, 100, [&](std::size_t item) { sum += static_cast<int>(item); });
  EXPECT_EQ(sum, 4950);
  // Late tasks find nothing left, although what they were to call is gone.
  EXPECT_EQ(executor.run_all(), 4U);
  EXPECT_EQ(sum, 4950);
}

TEST(ParallelFor, ItEndsWhenItIsCalledFromATaskOfItsOwnExecutor) {
  OneThread thread;
  std::atomic<int> sum = 0;
  std::atomic<bool> finished = false;
  thread.run([&] {
    parallel_for(thread, 50, [&](std::size_t) { ++sum; });
    finished = true;
    finished.notify_all();
  });
  finished.wait(false);
  EXPECT_EQ(sum.load(), 50);
}

TEST(ParallelFor, TheExecutorsThreadsHelp) {
  Threads threads(1);
  // The item that is taken first waits for the other one: one thread alone would never end.
  std::atomic<int> begun = 0;
  parallel_for(threads, 2, [&](std::size_t) {
    ++begun;
    begun.notify_all();
    for (int seen = begun; seen < 2; seen = begun) begun.wait(seen);
  });
  EXPECT_EQ(begun.load(), 2);
}

TEST(ParallelFor, WhatItemsWroteIsVisibleToTheCaller) {
  Threads threads(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int> values(64);
    parallel_for(threads, values.size(), [&](std::size_t item) { values[item] = 1; });
    for (const int value : values) ASSERT_EQ(value, 1);
  }
}

}  // namespace
}  // namespace defib::store
