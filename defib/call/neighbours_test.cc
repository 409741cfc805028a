// Clients beside one that crashes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <thread>

#include "defib/call/client.h"
#include "defib/call/dynamic.h"
#include "defib/call/testcases/victims_api.h"
#include "defib/os/clock.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::VictimApi;
using wire::Json;

// The same plugin as the stream's, and another one: neither may touch it.
TEST(Neighbours, AStreamLosesNothingWhileOtherClientsCrashAgainAndAgain) {
  constexpr int kCrashes = 60;
  auto live = Client<EchoApi>::create(DEFIB_PLUGINS "/echo.so");
  ASSERT_TRUE(live) << live.error().to_text();
  auto ticks = live->open<EchoApi::Ticks>(0, std::numeric_limits<std::int64_t>::max() / 8, 1);
  ASSERT_TRUE(ticks) << ticks.error().to_text();
  std::atomic<bool> stop{false};
  std::atomic<std::int64_t> received{0};
  std::atomic<std::int64_t> wrong{0};
  std::string error;
  std::thread reader([&] {
    while (!stop) {
      const auto tick = ticks->next();
      if (!tick || !*tick) {
        error = tick ? "the stream ended" : tick.error().to_text();
        return;
      }
      const bool right = (*tick)->number == received && (*tick)->check == received * 7 + 1;
      if (!right) ++wrong;
      ++received;
    }
  });
  constexpr std::int64_t kTimeLimitNs = 120'000'000'000;
  const std::int64_t deadline = os::real_clock().mono_ns() + kTimeLimitNs;
  const ClientOptions options{.backtrace = false};
  for (int i = 0; i < kCrashes; ++i) {
    if (i % 2 == 0) {
      auto victim = Client<VictimApi>::create(DEFIB_PLUGINS "/victim_null_read.so", options);
      ASSERT_TRUE(victim) << victim.error().to_text();
      EXPECT_EQ(victim->call<VictimApi::Break>("x", 1).error().code(), Code::kNativeCrash);
    } else {
      auto victim = Client<EchoApi>::create(DEFIB_PLUGINS "/echo.so", options);
      ASSERT_TRUE(victim) << victim.error().to_text();
      EXPECT_EQ(victim->call<EchoApi::Log>(Secret{"crash"}, "x").error().code(),
                Code::kNativeCrash);
    }
    // It gets on after every single crash.
    const std::int64_t at_crash = received;
    while (received == at_crash && os::real_clock().mono_ns() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_GT(received, at_crash);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(error, "");
  EXPECT_EQ(wrong, 0);
  EXPECT_FALSE(live->fault());
  EXPECT_EQ(live->call<EchoApi::Double>(2).value(), 4);
}

TEST(Neighbours, ConcurrentCallsGetTheirOwnCrashOrTheirOwnValue) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 12;
  std::atomic<int> values{0};
  std::atomic<int> crashes{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < kRounds; ++round) {
        auto client =
            DynamicClient::create(DEFIB_PLUGINS "/victim_null_read.so", {.backtrace = false});
        if (!client) continue;
        const bool breaks = (thread + round) % 3 == 0;
        const std::string own = std::to_string(thread) + ":" + std::to_string(round);
        const auto value = breaks ? client->call("break", Json::array({own, round}))
                                  : client->call("add", Json::array({thread, round}));
        if (!breaks && value && value->as_int() == thread + round) ++values;
        const std::string shown = "\"" + own + "\", " + std::to_string(round);
        if (breaks && !value && value.error().code() == Code::kNativeCrash &&
            value.error().field("arguments") == shown) {
          ++crashes;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(values + crashes, kThreads * kRounds);
  EXPECT_EQ(crashes, kThreads * kRounds / 3);
}

}  // namespace
}  // namespace defib::call
