#include "defib/obs/counters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::obs {
namespace {

using testing::HasSubstr;
using testing::Not;

class Counters : public testing::Test {
 protected:
  Counters() {
    char pattern[] = "/tmp/defib-obs-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/counters";
  }
  ~Counters() override {
    remove(path_.c_str());
    remove((path_ + ".replaced").c_str());
    remove(directory_.c_str());
  }
  std::unique_ptr<Registry> open() {
    auto registry = Registry::open(path_);
    EXPECT_TRUE(registry.has_value()) << registry.error().to_line();
    return std::move(*registry);
  }
  // The text as another process would render it.
  std::string read() {
    const auto samples = read_metrics(path_);
    EXPECT_TRUE(samples.has_value()) << samples.error().to_line();
    return samples ? render_prometheus(*samples) : "";
  }
  void overwrite(std::size_t offset, std::string_view bytes) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  std::string directory_, path_;
};

TEST_F(Counters, OutliveAProcessThatIsKilledAndGoOnInTheNext) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    auto registry = Registry::open(path_);
    if (!registry) _exit(1);
    Counter counter = (*registry)->counter("restarts_total", "Restarts", {{"service", "engine"}});
    for (int i = 0; i < 12345; ++i) counter.add();
    (*registry)->gauge("state", "State").set(-7);
    (*registry)->histogram("took_seconds", "Time", Unit::kNanoseconds).record(1500);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THAT(read(), HasSubstr("restarts_total{service=\"engine\"} 12345\n")) << "while it lives";
  EXPECT_EQ(Registry::open(path_).error().code(), Code::kDatabaseLocked);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
  EXPECT_THAT(read(), HasSubstr("restarts_total{service=\"engine\"} 12345\n")) << "after its death";
  const auto registry = open();
  EXPECT_FALSE(registry->replaced().has_value());
  registry->counter("restarts_total", "Restarts", {{"service", "engine"}}).add();
  EXPECT_THAT(read(), HasSubstr("restarts_total{service=\"engine\"} 12346\n"));
  EXPECT_THAT(read(), HasSubstr("state -7\n"));
  EXPECT_THAT(read(), HasSubstr("took_seconds_count 1\n"));
}

TEST_F(Counters, NoIncrementOfManyThreadsIsLost) {
  const auto registry = open();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&registry] {
        Counter counter = registry->counter("a_total", "A");
        Histogram histogram = registry->histogram("h", "H", Unit::kNone);
        for (int i = 0; i < 10'000; ++i) {
          counter.add();
          histogram.record(static_cast<std::uint64_t>(i));
        }
      });
    }
    threads.emplace_back([this] {
      for (int i = 0; i < 20; ++i) read();
    });
  }
  EXPECT_EQ(registry->counter("a_total", "A").value(), 40'000U);
  EXPECT_EQ(registry->histogram("h", "H", Unit::kNone).count(), 40'000U);
}

TEST_F(Counters, ThePrometheusTextIsAsTheFormatWantsIt) {
  const auto registry = Registry::in_memory();
  registry->counter("requests_total", "All \\ requests\nso far", {{"path", "a\"b\\c\nd"}}).add(3);
  registry->gauge("depth", "Depth").set(-2);
  registry->counter("requests_total", "All", {{"path", "/"}}).add(5);
  EXPECT_EQ(registry->render_prometheus(),
            "# HELP defib_metrics_refused_total Registrations of metrics that did not fit\n"
            "# TYPE defib_metrics_refused_total counter\n"
            "defib_metrics_refused_total 0\n"
            "# HELP depth Depth\n"
            "# TYPE depth gauge\n"
            "depth -2\n"
            "# HELP requests_total All\n"
            "# TYPE requests_total counter\n"
            "requests_total{path=\"/\"} 5\n"
            "requests_total{path=\"a\\\"b\\\\c\\nd\"} 3\n");
}

TEST_F(Counters, AHistogramsBucketsAreCumulativeAndEndWithAll) {
  const auto registry = Registry::in_memory();
  Histogram histogram =
      registry->histogram("took_seconds", "Time", Unit::kNanoseconds, {{"stage", "x"}});
  histogram.record(std::chrono::nanoseconds(5));
  histogram.record(std::chrono::nanoseconds(1000));
  histogram.record(std::chrono::nanoseconds(1023));
  histogram.record(std::chrono::nanoseconds(1024));
  histogram.record(std::chrono::hours(1));
  const std::string text = registry->render_prometheus();
  EXPECT_THAT(text, HasSubstr("# TYPE took_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"7e-09\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"5.11e-07\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"1.023e-06\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"2.047e-06\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"1099.511627775\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_bucket{stage=\"x\",le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_count{stage=\"x\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("took_seconds_sum{stage=\"x\"} 3600.000003052\n"));
}

TEST(Histogram, EveryValueLiesInItsBucketAndTheErrorIsBounded) {
  std::uint64_t last_end = 0;
  for (int bucket = 0; bucket < Histogram::kBuckets; ++bucket) {
    const std::uint64_t end = Histogram::upper_end(bucket);
    EXPECT_EQ(Histogram::bucket_of(end), bucket);
    if (bucket > 0) {
      EXPECT_EQ(Histogram::bucket_of(last_end + 1), bucket) << "buckets follow without a gap";
      if (bucket < Histogram::kBuckets - 1) {
        EXPECT_LE(end - last_end - 1, (last_end + 1) / 8) << "at most 12.5 % wide";
      }
    }
    last_end = end;
  }
  EXPECT_EQ(last_end, UINT64_MAX);
}

TEST(Histogram, QuantilesAreNeverTooSmallAndAtMostAnEighthTooLarge) {
  const auto registry = Registry::in_memory();
  Histogram histogram = registry->histogram("h", "H", Unit::kNone);
  EXPECT_EQ(histogram.quantile(0.5), 0U);
  os::Random random(11);
  std::vector<std::uint64_t> values;
  for (int i = 0; i < 10'000; ++i) {
    values.push_back(random.below(1ULL << (1 + random.below(38))));
    histogram.record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::max(1.0, std::ceil(q * 10'000)));
    const std::uint64_t exact = values[rank - 1];
    EXPECT_GE(histogram.quantile(q), exact) << q;
    EXPECT_LE(histogram.quantile(q), exact + exact / 8) << q;
  }
}

TEST_F(Counters, WhatDoesNotFitIsRefusedAndCountedAndItsHandleIsUsable) {
  const auto registry = Registry::in_memory({.max_metrics = 3, .max_slots = Histogram::kSlots + 4});
  Counter first = registry->counter("a_total", "A");
  registry->gauge("a_total", "another kind").set(1);                  // refused: 1
  registry->counter(std::string(96, 'n'), "long name").add();         // 2
  registry->counter("b", "B", {{"l", std::string(200, 'v')}}).add();  // 3
  registry->histogram("h", "no slots", Unit::kNone).record(5);        // 4
  registry->counter("c", "C").add();
  registry->counter("d", "D").add();
  registry->counter("e", "too many").add();  // 5
  EXPECT_EQ(first.value(), 0U);
  const std::string text = registry->render_prometheus();
  EXPECT_THAT(text, HasSubstr("defib_metrics_refused_total 5\n"));
  EXPECT_THAT(text, Not(HasSubstr("too many")));
}

TEST_F(Counters, ADamagedFileIsKeptAndReplaced) {
  struct Damage {
    std::size_t offset;
    std::string bytes;
  };
  for (const Damage& damage : {Damage{0, "X"}, Damage{8, std::string(1, 9)},
                               Damage{12, std::string(1, 1)}, Damage{4096 + 20, "X"}}) {
    remove(path_.c_str());
    {
      const auto registry = open();
      registry->counter("before_total", "Before").add();
    }
    overwrite(damage.offset, damage.bytes);
    if (damage.offset < 4096) {
      EXPECT_EQ(read_metrics(path_).error().code(), Code::kCorrupted);
    } else {
      EXPECT_THAT(read(), Not(HasSubstr("before_total"))) << "a damaged entry is not shown";
    }
    const auto registry = open();
    ASSERT_TRUE(registry->replaced().has_value()) << damage.offset;
    EXPECT_THAT(registry->replaced()->message(), HasSubstr(".replaced"));
    EXPECT_TRUE(os::real_files().exists(path_ + ".replaced"));
    EXPECT_THAT(read(), Not(HasSubstr("before_total")));
    registry->counter("after_total", "After").add();
    EXPECT_THAT(read(), HasSubstr("after_total 1\n"));
  }
}

TEST_F(Counters, AFileOfAnotherSizeOrACutOneIsReplaced) {
  std::ofstream(path_) << "too short";
  EXPECT_EQ(read_metrics(path_).error().code(), Code::kCorrupted);
  EXPECT_TRUE(open()->replaced().has_value());
  const auto larger = Registry::open(path_, {.max_metrics = 600, .max_slots = 20000});
  ASSERT_TRUE(larger.has_value());
  EXPECT_TRUE((*larger)->replaced().has_value());
  EXPECT_EQ(read_metrics(directory_ + "/missing").error().code(), Code::kFileNotFound);
}

TEST_F(Counters, ARegistrationThatWasCutByACrashLeavesNoTrace) {
  {
    const auto registry = open();
    registry->counter("whole_total", "Whole").add(5);
    registry->counter("cut_total", "Cut").add(9);
  }
  // The state word of the second entry had not been written yet.
  overwrite(4096 + 448, std::string(4, '\0'));
  const auto registry = open();
  EXPECT_FALSE(registry->replaced().has_value());
  EXPECT_THAT(read(), Not(HasSubstr("cut_total")));
  registry->counter("next_total", "Next");
  EXPECT_THAT(read(), HasSubstr("next_total 0\n")) << "its slot starts from nothing";
  EXPECT_THAT(read(), HasSubstr("whole_total 5\n"));
}

TEST(CountersDeathTest, AMalformedNameIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto registry = Registry::in_memory();
  EXPECT_DEATH(registry->counter("1st", "x"), "name is malformed");
  EXPECT_DEATH(registry->counter("ok", "x", {{"a-b", "c"}}), "label's name is malformed");
}

}  // namespace
}  // namespace defib::obs
