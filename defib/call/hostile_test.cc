// A worker that writes over everything it shares with the host.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "defib/call/client.h"
#include "defib/call/recovering.h"
#include "defib/call/testcases/hostile_api.h"
#include "defib/os/random.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::HostileApi;
using testcases::Tick;
using Clock = std::chrono::steady_clock;

const std::string kPlugins = DEFIB_PLUGINS "/";

int count_from(const char* variable, int otherwise) {
  const char* given = getenv(variable);
  return given == nullptr ? otherwise : atoi(given);
}

std::uint64_t seed_of_run() {
  const char* given = getenv("DEFIB_SEED");
  const std::uint64_t seed =
      given == nullptr ? os::random_seed() % 1'000'000 : static_cast<std::uint64_t>(atoll(given));
  printf("  DEFIB_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// Whatever a reader gets from a broken worker, it gets an end: so many steps at most, and each in
// time.
template <typename R>
void drain(R& reader, int most) {
  for (int i = 0; i < most; ++i) {
    const auto record = reader.next(Milliseconds(20));
    if (!record || !*record) return;
  }
}

void use_while_it_scribbles(const std::string& plugin, const ClientOptions& options,
                            std::uint64_t seed, int changes) {
  auto client = Client<HostileApi>::create(plugin, options);
  ASSERT_TRUE(client) << client.error().to_text();
  auto ticks = client->open<HostileApi::Ticks>(100'000);
  auto lines = client->open<HostileApi::Lines>(100'000);
  [[maybe_unused]] const auto scribbled = client->call<HostileApi::Scribble>(seed, changes, 5);
  for (int i = 0; i < 3; ++i) {
    if (!client->call<HostileApi::Text>(100)) break;
  }
  if (ticks) {
    drain(*ticks, 2000);
    if (const auto some = ticks->peek(Milliseconds(5)); some) {
      // Any bits are a value: reading them is all that can be done wrong.
      std::int64_t sum = 0;
      for (const Tick& tick : *some) sum += tick.number & 1;
      EXPECT_LE(sum, static_cast<std::int64_t>(some->size()));
    }
  }
  if (lines) drain(*lines, 2000);
  [[maybe_unused]] const auto last = client->open<HostileApi::Ticks>(10);
}

TEST(HostileRing, AnImpossiblePositionBreaksIt) {
  RingHeader header{};
  const std::byte bytes[16] = {};
  RingReader reader(header, bytes, sizeof bytes);
  header.head = 4;
  EXPECT_TRUE(reader.look());
  EXPECT_EQ(reader.ready(), 4u);
  header.head = 3;
  EXPECT_FALSE(reader.look()) << "it went back";
  header.head = 17;
  EXPECT_FALSE(reader.look()) << "more than there is room for";
  header.head = 16;
  EXPECT_TRUE(reader.look());
}

TEST(HostileReply, OneThatIsLongerThanAReplyCanBeIsBroken) {
  ClientOptions options;
  options.backtrace = false;
  options.max_reply = 4096;
  for (const std::uint64_t size : {std::uint64_t{4097}, ~std::uint64_t{0}}) {
    auto client = Client<HostileApi>::create(kPlugins + "victim_hostile.so", options).value();
    const auto answer = client.call<HostileApi::Boast>(size);
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), Code::kNativeProtocol);
    EXPECT_THAT(answer.error().message(), testing::HasSubstr("of at most 4096"));
  }
}

// The reader sleeps, and is woken by the crash alone.
TEST(HostileStream, WhatWasPublishedBeforeTheCrashIsRead) {
  constexpr int kUnseen = 3;
  ClientOptions options;
  options.backtrace = false;
  auto client = Client<HostileApi>::create(kPlugins + "victim_hostile.so", options).value();
  auto records = client.open<HostileApi::Silent>(kUnseen).value();
  for (int i = 0; i < 1 + kUnseen; ++i) {
    const auto record = records.next();
    ASSERT_TRUE(record) << i << " " << record.error().to_text();
    ASSERT_TRUE(*record);
  }
  EXPECT_EQ(records.next().error().field("failure"), "abort");
}

// 1,000,000 in the long form (DEFIB_CALL_CHANGES), which may be run in pieces, each with a
// DEFIB_SEED of its own. Those that are counted come before the replies; the threads of the workers
// make many more.
TEST(HostileMemory, NeitherCrashesNorHangsTheHostNorTouchesAnotherClient) {
  const int total = count_from("DEFIB_CALL_CHANGES", 20'000);
  constexpr int kMostAtOnce = 400;
  os::Random random(seed_of_run());
  ClientOptions options;
  options.call_timeout = Milliseconds(100);
  options.backtrace = false;
  options.stream_bytes = 64 * 1024;
  options.max_reply = options.max_request = 64 * 1024;
  options.host = Host::start().value();
  ClientOptions patient = options;
  patient.call_timeout = Milliseconds(30'000);
  auto neighbour = Client<EchoApi>::create(kPlugins + "echo.so", patient).value();
  auto stream = neighbour.open<EchoApi::Ticks>(0, 1'000'000'000, 1).value();
  std::int64_t expected = 0;
  const std::string plugin = kPlugins + "victim_hostile.so";
  Clock::duration longest{0};
  int rounds = 0;
  for (int done = 0; done < total; ++rounds) {
    const auto started = Clock::now();
    // Few of them leave more of the protocol to be misled.
    const int changes = 1 + static_cast<int>(random.below(1 + random.below(kMostAtOnce)));
    use_while_it_scribbles(plugin, options, random.next(), changes);
    done += changes;
    longest = std::max(longest, Clock::now() - started);
    for (int i = 0; i < 100; ++i) {
      const auto tick = stream.next();
      ASSERT_TRUE(tick) << tick.error().to_text();
      ASSERT_EQ((*tick)->number, expected++);
    }
    ASSERT_EQ(neighbour.call<EchoApi::Double>(2).value_or(0), 4);
  }
  printf("  %d changes in %d rounds, longest %lld ms\n", total, rounds,
         static_cast<long long>(std::chrono::duration_cast<Milliseconds>(longest).count()));
  // A round has some ten operations of 100 ms at most, and one wait for a worker's end.
  EXPECT_LT(longest, std::chrono::seconds(8));
}

// 10,000 kills in the long form (DEFIB_CALL_KILLS).
TEST(StreamKill, WhateverTheInstantNothingIsLostTornOrDoubled) {
  const int kills = count_from("DEFIB_CALL_KILLS", 60);
  os::Random random(seed_of_run());
  ClientOptions options;
  options.backtrace = false;
  options.stream_bytes = 16 * 1024;
  options.host = Host::start().value();
  RecoveryOptions recovery;
  recovery.attempts = 1000;
  recovery.breaker.failures = 1'000'000;
  Recovering<EchoApi> echo(kPlugins + "echo.so", options, recovery);
  std::atomic<pid_t> worker{-1};
  std::atomic<int> left{kills};
  std::jthread killer([&](const std::stop_token& stop) {
    while (!stop.stop_requested() && left > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(3000)));
      const pid_t pid = worker.exchange(-1);
      if (pid <= 0) continue;
      kill(pid, SIGKILL);
      --left;
    }
  });
  std::int64_t next = 0;
  const auto followed = echo.follow<EchoApi::Ticks>(
      [&](Client<EchoApi>& client, const std::optional<Tick>& last) {
        // Known a moment after the worker is ready.
        pid_t pid = -1;
        while (!client.fault() && (pid = client.worker_pid()) < 0) std::this_thread::yield();
        worker = pid;
        const std::int64_t from = last ? last->number + 1 : 0;
        return client.open<EchoApi::Ticks>(from, std::int64_t{1} << 50,
                                           1 + static_cast<int>(from % 40));
      },
      [&](const Tick& tick) {
        EXPECT_EQ(tick.number, next) << "lost or doubled";
        EXPECT_EQ(tick.check, tick.number * 7 + 1) << "torn";
        next = tick.number + 1;
        return left > 0 && !::testing::Test::HasFailure();
      });
  EXPECT_TRUE(followed) << followed.error().to_text();
  printf("  %d kills, %lld records\n", kills, static_cast<long long>(next));
  EXPECT_GE(echo.counts().crashes, static_cast<std::uint64_t>(kills) - 1);
}

}  // namespace
}  // namespace defib::call
