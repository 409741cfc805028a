// What the tests of names, files and lines have in common.

#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "defib/os/process.h"
#include "defib/postmortem/debug_files.h"
#include "defib/postmortem/testcases/run_victim.h"
#include "defib/postmortem/unwind.h"

namespace defib::postmortem {

inline constexpr int kToolTimeoutMs = 60'000;

inline const ThreadStack& crashed_stack(const std::vector<ThreadStack>& stacks) {
  static const ThreadStack kNone;
  const auto found = std::ranges::find_if(stacks, &ThreadStack::crashed);
  if (found == stacks.end()) ADD_FAILURE() << "no thread is marked as crashed";
  return found == stacks.end() ? kNone : *found;
}

// All that two reports of one program have in common, wherever it was loaded.
inline std::string text_of(const std::vector<ThreadStack>& stacks) {
  std::string text;
  for (const ThreadStack& stack : stacks) {
    text += fmt::format("thread {}{}\n", stack.crashed, stack.error);
    for (const Frame& frame : stack.frames) {
      text += fmt::format("  {} {:#x} {} {} {} {} {}\n", to_string(frame.kind), frame.offset,
                          frame.function, frame.file, frame.line, frame.inlined, frame.build_id);
    }
  }
  return text;
}
class InDirectory : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(dir_), nullptr); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string at(const std::string& name) const { return fmt::format("{}/{}", dir_, name); }
  static void tool(const std::vector<std::string>& arguments) {
    const auto output = os::run_command(arguments, kToolTimeoutMs);
    ASSERT_TRUE(output) << output.error().to_text();
    ASSERT_TRUE(output->status.success()) << output->text;
  }
  // A copy of a victim without its debug information, which lies in `debug`.
  std::string split(const std::string& victim, const std::string& debug) {
    const std::string program = at("program");
    std::filesystem::create_directories(std::filesystem::path(debug).parent_path());
    std::filesystem::copy_file(victim_path(victim), program);
    tool({"objcopy", "--only-keep-debug", program, debug});
    tool({"strip", program});
    return program;
  }
  static std::string id_of(const std::string& path) {
    const os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return build_id_of(fd.get());
  }
  static Unwound unwound(const std::string& program, const SymbolOptions& options = {}) {
    RunningVictim victim(program);
    const auto snapshot = victim.capture();
    EXPECT_TRUE(snapshot);
    return snapshot ? unwind(*snapshot, options) : Unwound();
  }
  static void expect_named(const Unwound& unwound) {
    const Frame& frame = crashed_stack(unwound.stacks).frames.at(0);
    EXPECT_THAT(frame.function, ::testing::HasSubstr("fill_order")) << text_of(unwound.stacks);
    EXPECT_THAT(frame.file, ::testing::HasSubstr("null_dereference.cc"));
    EXPECT_EQ(frame.line, marked_line("null_dereference"));
  }
  static void expect_nameless(const Unwound& unwound) {
    const Frame& frame = crashed_stack(unwound.stacks).frames.at(0);
    EXPECT_EQ(frame.function, "") << text_of(unwound.stacks);
    EXPECT_EQ(frame.file, "");
    EXPECT_THAT(frame.module, ::testing::HasSubstr("program"));
    EXPECT_GT(frame.offset, 0U);
  }

  char dir_[32] = "/tmp/defib-symbols-XXXXXX";
};

}  // namespace defib::postmortem
