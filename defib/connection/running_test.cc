#include "defib/connection/running.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace defib::connection {
namespace {

TEST(Running, WhatIsBeingCancelledDoesNotEndMeanwhile) {
  Running<int> running;
  running.begin(7);
  std::atomic<bool> ends{false}, ended{false};
  std::jthread owner;
  running.cancel([&](int handle) {
    EXPECT_EQ(handle, 7);
    owner = std::jthread([&] {
      ends = true;
      running.end();
      ended = true;
    });
    while (!ends) std::this_thread::yield();
    // Long enough for an end() that does not wait; one that does is not held up by it.
    for (int i = 0; i < 100 && !ended; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_FALSE(ended) << "it may have been freed by now";
  });
  owner.join();
  EXPECT_TRUE(ended);
}

TEST(Running, NothingIsCancelledBeforeAndAfter) {
  Running<int> running;
  int cancelled = 0;
  const auto count = [&](int) { ++cancelled; };
  running.cancel(count);
  running.begin(1);
  running.cancel(count);
  running.end();
  running.cancel(count);
  EXPECT_EQ(cancelled, 1);
}

}  // namespace
}  // namespace defib::connection
