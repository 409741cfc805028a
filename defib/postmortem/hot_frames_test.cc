#include "defib/postmortem/hot_frames.h"

#include <gtest/gtest.h>

namespace defib::postmortem {
namespace {

Frame frame(const std::string& function, int line, const std::string& module = "/opt/engine",
            const std::string& file = "/src/book.cc") {
  Frame one;
  one.function = function;
  one.module = module;
  one.file = file;
  one.line = line;
  return one;
}
ThreadStack stack(std::vector<Frame> frames) {
  ThreadStack one;
  one.frames = std::move(frames);
  return one;
}

TEST(HotFrames, AreTheFunctionsOnMostStacksTheInnermostFirst) {
  const auto hot =
      hot_frames_of({stack({frame("mix()", 2), frame("reprice()", 9), frame("main", 30)}),
                     stack({frame("reprice()", 10), frame("main", 30)}),
                     stack({frame("mix()", 3), frame("reprice()", 9), frame("main", 30)}),
                     stack({frame("mix()", 3), frame("reprice()", 9), frame("main", 30)})});
  ASSERT_EQ(hot.size(), 3U);
  EXPECT_EQ(hot[0].place, "reprice() at book.cc:9") << "at the line where it most often stands";
  EXPECT_EQ(hot[0].share, 1.0);
  EXPECT_EQ(hot[1].place, "main at book.cc:30");
  EXPECT_EQ(hot[2].place, "mix() at book.cc:3");
  EXPECT_EQ(hot[2].share, 0.75);
}

TEST(HotFrames, LeaveOutTheSystemWhereThereIsCodeOfTheProgram) {
  const auto hot = hot_frames_of(
      {stack({frame("memcpy", 0, "/lib/libc.so.6"),
              frame("std::copy()", 7, "/opt/engine", "/usr/include/c++/12/bits/stl_algo.h"),
              frame("settle()", 4)})});
  ASSERT_EQ(hot.size(), 1U);
  EXPECT_EQ(hot[0].place, "settle() at book.cc:4");
  EXPECT_EQ(hot_frames_of({stack({frame("memcpy", 0, "/lib/libc.so.6")})}).size(), 1U);
}

TEST(HotFrames, CountAFunctionThatCallsItselfOnceASample) {
  const auto hot = hot_frames_of({stack({frame("visit()", 3), frame("visit()", 3)})});
  ASSERT_EQ(hot.size(), 1U);
  EXPECT_EQ(hot[0].share, 1.0);
  EXPECT_TRUE(hot_frames_of({}).empty());
}

}  // namespace
}  // namespace defib::postmortem
