// The program's own code in a process of its own.

#include "defib/call/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "defib/call/recovering.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call {
namespace {

using ::testing::HasSubstr;

// Before gtest starts anything: the zygote is a fork of the program with one thread.
const bool kZygote = start_zygote().has_value();

int global = 1;

double price(const std::string& symbol, int days) {
  if (symbol == "crash") *reinterpret_cast<volatile int*>(16) = 1;
  if (symbol == "throw") throw std::invalid_argument("days: " + std::to_string(days));
  if (symbol == "loop") {
    std::atomic<int> turns{0};
    for (;;) ++turns;
  }
  return days * 1.5;
}
void change_global() {
  global = 99;
}
int read_global() {
  return global;
}
int own_pid() {
  return getpid();
}

TEST(RunFunction, GivesTheFunctionsValue) {
  ASSERT_TRUE(kZygote);
  EXPECT_EQ(run<&price>("ESM4", 30).value(), 45.0);
  EXPECT_NE(run<&own_pid>().value(), getpid());
  EXPECT_TRUE(run<&change_global>());
  EXPECT_EQ(global, 1);
}

TEST(RunFunction, SeesTheProgramAsItWasWhenTheZygoteWasForked) {
  global = 5;
  EXPECT_EQ(run<&read_global>().value(), 1);
  global = 1;
}

TEST(RunFunction, ACrashIsAnErrorThatNamesTheFunction) {
  const auto value = run<&price>("crash", 1);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code(), Code::kNativeCrash);
  EXPECT_THAT(value.error().message(), HasSubstr("price"));
  EXPECT_EQ(value.error().field("arguments"), "\"crash\", 1");
}

TEST(RunFunction, WhatItThrowsAndItsTimeLimitAreErrors) {
  EXPECT_THAT(run<&price>("throw", 3).error().message(), HasSubstr("days: 3"));
  ClientOptions options;
  options.call_timeout = Milliseconds(100);
  options.backtrace = false;
  EXPECT_EQ(run_with<&price>(options, "loop", 3).error().code(), Code::kNativeTimeLimit);
}

TEST(RunCallable, SeesEverythingAndChangesNothing) {
  std::vector<std::string> names{"a", "b"};
  const auto value = run([&] {
    names.push_back("c");
    return names;
  });
  ASSERT_TRUE(value) << value.error().to_text();
  EXPECT_EQ(value->size(), 3U);
  EXPECT_EQ(names.size(), 2U);
  EXPECT_TRUE(run([] {}));
}

TEST(RunCallable, ACrashIsAnErrorAndTheProgramGoesOn) {
  const auto value = run([]() -> int { return *reinterpret_cast<volatile int*>(24); });
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code(), Code::kNativeCrash) << value.error().to_text();
  EXPECT_EQ(value.error().field("failure"), "null_dereference");
}

TEST(RunCallable, ALockThatAnotherThreadHoldsEndsAtTheTimeLimit) {
  std::mutex mutex;
  const std::lock_guard held(mutex);
  std::thread([&] {
    ClientOptions options;
    options.call_timeout = Milliseconds(100);
    options.backtrace = false;
    const auto value = run([&] { mutex.lock(); }, options);
    ASSERT_FALSE(value);
    EXPECT_EQ(value.error().code(), Code::kNativeHang) << value.error().to_text();
  }).join();
}

// Ended ones count until they are reaped.
std::size_t own_children() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "stat");
    std::string text;
    std::getline(file, text);
    const std::size_t behind_name = text.rfind(") ");
    if (behind_name == std::string::npos) continue;
    // " S 4711 ...": the state and the parent.
    if (atoi(text.c_str() + behind_name + 3) == getpid()) ++count;
  }
  return count;
}

TEST(RunCallable, AChildThatCannotBeWatchedIsNotLeftBehind) {
  ASSERT_TRUE(run([] {}));
  while (Host::watcher().value()->workers() > 0) std::this_thread::yield();
  const std::size_t before = own_children();
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit low = {256, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<os::Fd> taken;
  for (os::Fd fd(dup(0)); fd.valid(); fd = os::Fd(dup(0))) taken.push_back(std::move(fd));
  // For the channel and its eventfd, and none for the child's pidfd.
  if (taken.size() > 2) taken.resize(taken.size() - 2);
  const auto value = run([] {});
  taken.clear();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_FALSE(value);
  EXPECT_THAT(value.error().to_text(), HasSubstr("pidfd"));
  EXPECT_EQ(own_children(), before);
}

TEST(RunCallable, ManyThreadsRunAtOnce) {
  std::vector<std::jthread> threads;
  std::atomic<int> total{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 20; ++k) total += run([=] { return i * 100 + k; }).value_or(-100'000);
    });
  }
  threads.clear();
  EXPECT_EQ(total, 4 * 190 + 20 * 600);
}

}  // namespace
}  // namespace defib::call
