#include "defib/daemon/log_watch.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

LogPattern pattern(std::string match, int count = 1, os::Duration window = 1min) {
  LogPattern made;
  made.match = std::move(match);
  made.count = count;
  made.window = window;
  return made;
}

// A watch on a clock of the test's, and what acted.
struct Watched {
  explicit Watched(std::vector<LogPattern> patterns, const os::Clock* other = nullptr) {
    auto made = LogWatch::create(other != nullptr ? *other : clock, std::move(patterns),
                                 [this](const LogMatch& match) {
                                   lines.push_back(match.line);
                                   counts.push_back(match.lines);
                                   streams.push_back(match.stream);
                                 });
    EXPECT_TRUE(made) << made.error().to_text();
    if (made) watch = std::move(*made);
  }
  os::FakeClock clock;
  std::unique_ptr<LogWatch> watch;
  std::vector<std::string> lines;
  std::vector<int> counts;
  std::vector<int> streams;
};

TEST(LogWatch, ALineIsFoundHoweverItArrives) {
  const std::string text = "one\nFATAL: disk\r\nthree FATAL\n";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    Watched seen({pattern("^FATAL|three")});
    for (std::size_t at = 0; at < text.size(); at += piece) {
      seen.watch->push(1, std::string_view(text).substr(at, piece));
    }
    ASSERT_EQ(seen.lines.size(), 2u) << piece;
    EXPECT_EQ(seen.lines[0], "FATAL: disk\r");
    EXPECT_EQ(seen.watch->lost_bytes(), 0u);
  }
}

TEST(LogWatch, StreamsAreTwoTextsAndAPatternMayAskForOne) {
  LogPattern only_stderr = pattern("ab");
  only_stderr.on_stdout = false;
  Watched seen({only_stderr});
  seen.watch->push(1, "a");
  seen.watch->push(2, "b\n");  // not "ab"
  seen.watch->push(1, "b\n");  // "ab", but on stdout
  EXPECT_TRUE(seen.lines.empty());
  seen.watch->push(2, "xaby\n");
  EXPECT_EQ(seen.streams, (std::vector<int>{2}));
}

TEST(LogWatch, EachPatternCountsForItself) {
  Watched seen({pattern("a"), pattern("b", 2)});
  seen.watch->push(1, "ab\nab\n");
  EXPECT_EQ(seen.counts, (std::vector<int>{1, 1, 2}));
}

TEST(LogWatch, ARateActsAtItsCountWithinTheWindowAndThenCountsAnew) {
  Watched seen({pattern("x", 3, 10s)});
  const auto line = [&](os::Duration later) {
    seen.clock.advance(later);
    seen.watch->push(1, "x\n");
  };
  line(0s);
  line(6s);
  line(6s);  // the first is 12 s ago
  EXPECT_TRUE(seen.lines.empty());
  line(1s);  // 6, 12 and 13
  EXPECT_EQ(seen.counts, (std::vector<int>{3}));
  line(0s);
  line(0s);
  EXPECT_EQ(seen.counts.size(), 1u);
  line(0s);
  EXPECT_EQ(seen.counts.size(), 2u);
}

TEST(LogWatch, AnEndlessLineIsCutAndTheNextOneIsWhole) {
  Watched seen({pattern("needle")});
  const std::string piece(8192, 'x');
  for (int i = 0; i < 20; ++i) seen.watch->push(1, piece);
  seen.watch->push(1, "needle\nneedle\n");
  EXPECT_EQ(seen.lines.size(), 1u);  // The first one lies behind the bound of its line.
  EXPECT_EQ(seen.lines[0], "needle");
  EXPECT_EQ(seen.watch->lost_bytes(), 20 * 8192 + 6 - LogWatch::kMaxLine);
}

TEST(LogWatch, ALineOfExactlyTheBoundIsLookedAtToItsEnd) {
  for (const bool split : {false, true}) {
    Watched seen({pattern("needle$")});
    std::string line(LogWatch::kMaxLine - 6, 'x');
    line += "needle\n";
    seen.watch->push(1, std::string_view(line).substr(0, split ? 100 : line.size()));
    if (split) seen.watch->push(1, std::string_view(line).substr(100));
    EXPECT_EQ(seen.lines.size(), 1u);
    EXPECT_EQ(seen.watch->lost_bytes(), 0u);
    EXPECT_EQ(seen.lines[0].size(), LogWatch::kShownLine);
  }
}

TEST(LogWatch, AnyBytesAreText) {
  Watched seen({pattern("FATAL.*é"), pattern("zero")});
  seen.watch->push(1, std::string_view("\xff\xfe FATAL \x80\xc3 \xc3\xa9 \xc3\n", 16));
  seen.watch->push(1, std::string_view("\0\0zero\0\n", 8));
  EXPECT_EQ(seen.lines.size(), 2u);
}

TEST(LogWatch, ALastLineWithoutAnEndCountsWhenTheProcessEnded) {
  Watched seen({pattern("dying")});
  seen.watch->push(2, "I am dying");
  EXPECT_TRUE(seen.lines.empty());
  seen.watch->flush();
  EXPECT_EQ(seen.lines.size(), 1u);
  seen.watch->flush();
  EXPECT_EQ(seen.lines.size(), 1u);
}

TEST(LogWatch, AHoleInTheFeedJoinsNoLines) {
  Watched seen({pattern("^disk is full$"), pattern("ok")});
  seen.watch->push(1, "disk is ");
  seen.watch->push(1, "full\nok\n", 4096);  // so many bytes lie between
  ASSERT_EQ(seen.lines.size(), 1u);
  EXPECT_EQ(seen.lines[0], "ok");
  EXPECT_EQ(seen.watch->lost_bytes(), 4096 + 8 + 4);
}

// Each look at it takes a millisecond: matching seems slow.
class SlowClock final : public os::FakeClock {
 public:
  std::int64_t mono_ns() const override {
    advance(1ms);
    return os::FakeClock::mono_ns();
  }
};

TEST(LogWatch, MatchingGetsItsShareOfTimeAndTheRestIsCounted) {
  const SlowClock clock;
  Watched seen({pattern("x")}, &clock);
  const std::int64_t begun = clock.FakeClock::mono_ns();
  const std::string chunk = "x\n";
  constexpr int kChunks = 20'000;
  std::uint64_t bytes = 0;
  for (int i = 0; i < kChunks; ++i) {
    seen.watch->push(1, chunk);
    bytes += chunk.size();
  }
  const double passed = static_cast<double>(clock.FakeClock::mono_ns() - begun);
  const double looked = static_cast<double>(seen.lines.size()) * 2e6;  // two readings each
  EXPECT_GT(seen.watch->lost_bytes(), 0u);
  EXPECT_EQ(seen.lines.size() * chunk.size() + seen.watch->lost_bytes(), bytes);
  EXPECT_LT(looked / passed, 0.35);
  EXPECT_GT(looked / passed, 0.10);
}

TEST(LogWatch, AFloodOfAHundredMegabytesIsLookedAtOrCountedInTime) {
  Watched seen({pattern("(a|b)*a(a|b){12}$"), pattern("needle")}, &os::real_clock());
  std::string chunk;
  while (chunk.size() < 8000) chunk += "abbabbaabbab xyz abab\n";
  const std::int64_t begun = os::real_clock().mono_ns();
  for (int i = 0; i < 12'500; ++i) seen.watch->push(1, chunk);
  // Looking at all of it takes many seconds; a fifth of the time is all it gets.
  EXPECT_LT(os::real_clock().mono_ns() - begun, os::Duration(5s).count());
}

TEST(LogWatch, PatternsThatAreWrongOrBombsAreRefused) {
  for (const char* bad :
       {"(", "[a", "a{2,1}", "*a", "(a{1,100}){1,100}", "((a{1,99}){1,99}){1,99}",
        "([[:alnum:]]{1,30}x){1,30}y{1,900}z{1,900}", "\\1", "(a|b)*\\2", "(?=x)"}) {
    const auto made = LogWatch::create(os::real_clock(), {pattern(bad)}, [](const LogMatch&) {});
    EXPECT_FALSE(made) << bad;
    if (made) continue;
    EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
    EXPECT_NE(made.error().message().find(bad), std::string::npos);
  }
  const std::string long_one(2000, 'x');
  EXPECT_FALSE(LogWatch::create(os::real_clock(), {pattern(long_one)}, [](const LogMatch&) {}));
  for (const char* good :
       {"FATAL|panic", "[[:digit:]]+ errors", "^x{1,100}$", "\\bOOM\\b", "\\d+"}) {
    EXPECT_TRUE(LogWatch::create(os::real_clock(), {pattern(good)}, [](const LogMatch&) {}))
        << good;
  }
}

// A pattern for which a backtracking matcher needs longer than the age of the universe.
TEST(LogWatch, APatternThatBombsBacktrackersIsMatchedInLinearTime) {
  Watched seen({pattern("^(a+)+$"), pattern("(x+x+)+y")}, &os::real_clock());
  const std::int64_t begun = os::real_clock().mono_ns();
  seen.watch->push(1, std::string(60'000, 'a') + "!\n");
  seen.watch->push(1, std::string(60'000, 'x') + "\n");
  EXPECT_LT(os::real_clock().mono_ns() - begun, os::Duration(2s).count());
  EXPECT_TRUE(seen.lines.empty());
}

}  // namespace
}  // namespace defib::daemon
