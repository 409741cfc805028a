#include "defib/recovery/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace defib::recovery {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

TEST(Backoff, WithoutJitterIsExactlyTheUpperEnd) {
  Backoff backoff({.base = milliseconds(100), .cap = seconds(1), .jitter = false}, os::Random(1));
  for (const int expected : {100, 200, 400, 800, 1000, 1000, 1000}) {
    EXPECT_EQ(backoff.next(), milliseconds(expected));
  }
  EXPECT_EQ(backoff.attempts(), 7);
  backoff.reset();
  EXPECT_EQ(backoff.next(), milliseconds(100));
}

// Uniform over the whole range: chi-squared over 20 bins. With 19 degrees of freedom a value above
// 50 has a probability below 1e-4; the seed is fixed, so the test is repeatable.
TEST(Backoff, ABaseOfZeroStaysZeroForEver) {
  Backoff backoff({.base = milliseconds(0), .cap = std::chrono::minutes(5)}, os::Random(1));
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(backoff.next().count(), 0) << i;
}

TEST(Backoff, FullJitterIsUniformFromTheFloorToTheUpperEnd) {
  constexpr int kBins = 20;
  constexpr int kDraws = 20'000;
  const BackoffOptions options{
      .base = milliseconds(100), .cap = seconds(30), .floor = milliseconds(20)};
  for (const int attempt : {0, 3, 12}) {
    const double upper = std::min(30.0, 0.1 * std::pow(2.0, attempt));
    std::array<int, kBins> bins{};
    for (int draw = 0; draw < kDraws; ++draw) {
      Backoff backoff(options, os::Random(static_cast<std::uint64_t>(draw + 1)));
      for (int i = 0; i < attempt; ++i) static_cast<void>(backoff.next());
      const double delay = std::chrono::duration<double>(backoff.next()).count();
      ASSERT_GE(delay, 0.02);
      ASSERT_LE(delay, upper);
      const double where = (delay - 0.02) / (upper - 0.02) * kBins;
      ++bins[static_cast<std::size_t>(std::min(where, kBins - 1.0))];
    }
    double chi_squared = 0;
    for (const int count : bins) {
      const double expected = static_cast<double>(kDraws) / kBins;
      chi_squared += (count - expected) * (count - expected) / expected;
    }
    EXPECT_LT(chi_squared, 50.0) << "attempt " << attempt;
  }
}

TEST(Backoff, ManyClientsDoNotRetryInStep) {
  // The point of full jitter: of 1000 clients that failed together, no 5 % slice of the time holds
  // more than a tenth.
  std::array<int, 20> slices{};
  for (std::uint64_t client = 0; client < 1000; ++client) {
    Backoff backoff({.base = seconds(1), .cap = seconds(60)}, os::Random(client));
    for (int i = 0; i < 4; ++i) static_cast<void>(backoff.next());
    const double at = std::chrono::duration<double>(backoff.next()).count() / 16.0;
    ++slices[static_cast<std::size_t>(std::min(at * 20, 19.0))];
  }
  EXPECT_LT(*std::ranges::max_element(slices), 100);
}

TEST(Backoff, TheFirstDelayCanBeZeroAndTheSeriesStartsAfterIt) {
  Backoff backoff({.base = milliseconds(100), .jitter = false, .first_immediate = true},
                  os::Random(1));
  EXPECT_EQ(backoff.next(), milliseconds(0));
  EXPECT_EQ(backoff.next(), milliseconds(100));
  EXPECT_EQ(backoff.next(), milliseconds(200));
}

TEST(Backoff, HealthForLongEnoughCountsFromTheStart) {
  Backoff backoff({.base = milliseconds(100), .jitter = false, .reset_after = seconds(10)},
                  os::Random(1));
  static_cast<void>(backoff.next());
  static_cast<void>(backoff.next());
  backoff.succeeded_for(milliseconds(9999));
  EXPECT_EQ(backoff.next(), milliseconds(400));
  backoff.succeeded_for(seconds(10));
  EXPECT_EQ(backoff.next(), milliseconds(100));
  Backoff never({.base = milliseconds(100), .jitter = false}, os::Random(1));
  static_cast<void>(never.next());
  never.succeeded_for(std::chrono::hours(1000));
  EXPECT_EQ(never.next(), milliseconds(200));
}

TEST(Backoff, ThousandsOfAttemptsStayAtTheCap) {
  Backoff backoff({.base = milliseconds(100), .cap = seconds(30), .jitter = false}, os::Random(1));
  os::Duration last{0};
  for (int i = 0; i < 5000; ++i) {
    const os::Duration delay = backoff.next();
    ASSERT_GE(delay, last);
    last = delay;
  }
  EXPECT_EQ(last, seconds(30));
}

TEST(Backoff, AFloorAboveTheGrowingEndIsTheDelay) {
  Backoff backoff({.base = milliseconds(1), .cap = milliseconds(2), .floor = milliseconds(50)},
                  os::Random(1));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(backoff.next(), milliseconds(50));
}

class BreakerTest : public testing::Test {
 protected:
  void fail(int times) {
    for (int i = 0; i < times; ++i) breaker_.failed(Error(Code::kTimeout, "no answer"));
  }
  os::FakeClock clock_;
  CircuitBreaker breaker_{{.failures = 3, .open_for = seconds(10)}, clock_};
};

TEST_F(BreakerTest, OpensAfterSoManyFailuresInARowAndSaysWhy) {
  fail(2);
  EXPECT_TRUE(breaker_.allow());
  breaker_.succeeded();
  fail(2);
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kClosed);
  fail(1);
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kOpen);
  clock_.advance(seconds(4));
  const auto refused = breaker_.allow();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBreakerOpen);
  EXPECT_EQ(refused.error().root().code(), Code::kTimeout);
  EXPECT_EQ(refused.error().field("retry_in_ms"), "6000");
}

TEST_F(BreakerTest, LetsExactlyOneThroughWhenItsTimeIsOver) {
  fail(3);
  clock_.advance(seconds(10) - std::chrono::nanoseconds(1));
  EXPECT_FALSE(breaker_.allow());
  clock_.advance(std::chrono::nanoseconds(1));
  EXPECT_TRUE(breaker_.allow());
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kHalfOpen);
  EXPECT_FALSE(breaker_.allow());
  breaker_.succeeded();
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kClosed);
  EXPECT_TRUE(breaker_.allow());
  EXPECT_TRUE(breaker_.allow());
  fail(2);
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kClosed) << "counts anew after a success";
}

TEST_F(BreakerTest, OneFailureOfTheProbeOpensItForAWholeTimeAgain) {
  fail(3);
  clock_.advance(seconds(10));
  EXPECT_TRUE(breaker_.allow());
  fail(1);
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kOpen);
  clock_.advance(seconds(9));
  EXPECT_FALSE(breaker_.allow());
  clock_.advance(seconds(1));
  EXPECT_TRUE(breaker_.allow());
}

TEST_F(BreakerTest, ResultsOfCallsFromBeforeDoNotCountWhileItIsOpen) {
  fail(3);
  clock_.advance(seconds(5));
  fail(1);
  breaker_.succeeded();
  EXPECT_EQ(breaker_.state(), CircuitBreaker::State::kOpen);
  clock_.advance(seconds(5));
  EXPECT_TRUE(breaker_.allow()) << "a straggler prolonged the open time";
}

TEST_F(BreakerTest, AProbeThatNeverReportsDoesNotBlockForEver) {
  fail(3);
  clock_.advance(seconds(10));
  EXPECT_TRUE(breaker_.allow());
  clock_.advance(seconds(9));
  EXPECT_FALSE(breaker_.allow());
  clock_.advance(seconds(1));
  EXPECT_TRUE(breaker_.allow());
}

}  // namespace
}  // namespace defib::recovery
