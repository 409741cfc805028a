// Real crashes of the testcases, again and again: a bug has one signature over all its runs, and no
// two bugs share one.

#include "defib/postmortem/report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <set>

#include "defib/os/fd.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/crash_page.h"

namespace defib::postmortem {
namespace {

using ::testing::HasSubstr;

constexpr int kWaitMs = 20'000;
constexpr std::uint32_t kCaptureMs = 3000;

// Dies for real, and is captured meanwhile.
Report die(const std::string& victim) {
  const os::Fd page_fd(::memfd_create("page", MFD_CLOEXEC)), event(::eventfd(0, EFD_CLOEXEC)),
      log(::memfd_create("log", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(page_fd.get(), 4096), 0);
  void* memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd.get(), 0);
  auto& page = *static_cast<CrashPage*>(memory);
  page.capture_timeout_ms = kCaptureMs;
  os::SpawnOptions options;
  options.argv = {fmt::format("{}/victim_{}", DEFIB_VICTIM_DIR, victim)};
  options.fds = {{log.get(), 1}, {log.get(), 2}, {page_fd.get(), 3}, {event.get(), 4}};
  auto child = os::spawn(options);
  EXPECT_TRUE(child);
  pollfd waiting = {event.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, kWaitMs), 1) << victim;
  auto snapshot = capture_crash(child->pid(), page);
  EXPECT_TRUE(snapshot);
  child->wait();
  ::munmap(memory, 4096);
  return snapshot ? make_report(std::move(*snapshot), {}) : Report();
}

int runs() {
  const char* text = ::getenv("DEFIB_SIGNATURE_RUNS");
  return text == nullptr ? 4 : std::atoi(text);
}

// DEFIB_SIGNATURE_RUNS=50 is the long form.
TEST(RealSignature, IsOneForABugAndAnotherForEachOther) {
  const char* const kVictims[] = {
      "null_dereference",  "null_call",   "wild_pointer",        "non_canonical",
      "use_after_free",    "abort",       "stack_overflow",      "write_to_read_only",
      "assertion_failure", "double_free", "uncaught_exception",  "arithmetic_fault",
      "bus_error",         "stack_smash", "illegal_instruction", "heap_smash",
      "all_threads",       "inlined",     "bad_system_call",     "in_signal_handler"};
  std::map<std::string, std::map<std::string, int>> by_victim;  // signature, so often
  std::map<std::string, std::set<std::string>> victims_of;
  int same = 0, all = 0;
  for (const char* victim : kVictims) {
    std::string text;
    for (int run = 0; run < runs(); ++run) {
      const Report report = die(victim);
      EXPECT_FALSE(report.signature.id.empty()) << victim << to_text(report);
      ++by_victim[victim][report.signature.id];
      victims_of[report.signature.id].insert(victim);
      text = report.signature.text;
    }
    const auto& signatures = by_victim[victim];
    const auto most =
        std::ranges::max_element(signatures, {}, [](const auto& one) { return one.second; });
    same += most->second;
    all += runs();
    std::printf("%-20s %zu of %d  %s\n", victim, signatures.size(), runs(), text.c_str());
  }
  EXPECT_GE(same * 100, all * 99);
  for (const auto& [id, victims] : victims_of) {
    EXPECT_EQ(victims.size(), 1U) << id << " is shared by " << *victims.begin() << " and "
                                  << *victims.rbegin();
  }
}

// Looked at while it hangs, until it does.
Report hang(const std::string& victim, Cause cause) {
  const os::Fd log(::memfd_create("log", MFD_CLOEXEC));
  os::SpawnOptions options;
  options.argv = {fmt::format("{}/victim_{}", DEFIB_VICTIM_DIR, victim)};
  options.fds = {{log.get(), 1}, {log.get(), 2}};
  auto child = os::spawn(options);
  EXPECT_TRUE(child);
  Report report;
  CaptureOptions capture;
  capture.sample_window = std::chrono::milliseconds(cause == Cause::busy_loop ? 50 : 0);
  for (int look = 0; look < 400 && report.classification.cause != cause; ++look) {
    auto snapshot = capture_live(child->pid(), capture);
    if (snapshot) report = make_report(std::move(*snapshot), {});
  }
  static_cast<void>(child->signal(SIGKILL).has_value());
  child->wait();
  EXPECT_EQ(to_string(report.classification.cause), to_string(cause)) << to_text(report);
  return report;
}

TEST(RealSignature, OfAHangIsOneOverItsRuns) {
  std::set<std::string> deadlocks, loops;
  for (int run = 0; run < runs(); ++run) {
    deadlocks.insert(hang("deadlock", Cause::deadlock).signature.text);
    loops.insert(hang("busy_loop", Cause::busy_loop).signature.text);
  }
  ASSERT_EQ(deadlocks.size(), 1U);
  EXPECT_THAT(*deadlocks.begin(), HasSubstr("book_order"));
  EXPECT_THAT(*deadlocks.begin(), HasSubstr("transfer"));
  EXPECT_EQ(loops.size(), 1U) << *loops.begin() << *loops.rbegin();
}

// The same function, built with other options.
TEST(RealSignature, IsTheSameInAnotherBuild) {
  EXPECT_EQ(die("null_dereference").signature.id, die("null_dereference_o2").signature.id);
}

TEST(ReportText, ShowsTheSourceAndNoColoursUnlessAsked) {
  const Report report = die("wild_pointer");
  TextOptions options;
  options.sources = source_views(report);
  ASSERT_EQ(options.sources.size(), 1U);
  const SourceView& view = options.sources.front();
  EXPECT_THAT(view.file, HasSubstr("wild_pointer.cc"));
  EXPECT_EQ(view.lines.size(), 2U * kSourceContext + 1);
  EXPECT_THAT(view.lines.at(kSourceContext).text, HasSubstr("// fault"));
  const std::string plain = to_text(report, options);
  EXPECT_THAT(plain, HasSubstr("// fault"));
  EXPECT_EQ(plain.find('\x1b'), plain.npos);
  options.colours = true;
  EXPECT_THAT(to_text(report, options), HasSubstr("\x1b[31m"));
}

// The line that waits for a lock lies in the C++ library's headers, compiled into the program.
TEST(ReportText, TheSourceShownIsTheProgramsOwn) {
  const std::string own = DEFIB_VICTIM_SOURCE_DIR "/deadlock.cc";
  Frame lock, transfer;
  lock.module = transfer.module = "/opt/bank";
  lock.file = "/usr/include/stdio.h";
  transfer.file = own;
  lock.line = transfer.line = 3;
  Report report;
  report.guilty = {7};
  report.threads.resize(1);
  report.threads[0].tid = 7;
  report.threads[0].frames = {lock, transfer};
  ASSERT_TRUE(read_source(lock.file, lock.line, lock.module, "")) << "it could be shown";
  const auto views = source_views(report);
  ASSERT_EQ(views.size(), 1U);
  EXPECT_EQ(views[0].file, own);
  report.threads[0].frames.pop_back();
  ASSERT_EQ(source_views(report).size(), 1U) << "better than nothing";
}

// Of a report of megabytes a supervisor reads the beginning.
TEST(ReportJson, BeginsWithWhatASupervisorNeeds) {
  Report report;
  report.capture_error = Error(Code::kCaptureFailed, "late");
  report.threads.resize(1);
  report.threads[0].crashed = true;
  const std::string text = to_json_text(report);
  const std::size_t threads = text.find("\"threads\":");
  for (const char* name : {"crashed_mono_ns", "captured_in_ns", "capture_error"}) {
    EXPECT_LT(text.find(fmt::format("\"{}\":", name)), threads) << name;
  }
  for (const char* name : {"command_line", "modules", "gaps"}) {
    EXPECT_LT(threads, text.find(fmt::format("\"{}\":", name))) << name;
  }
  EXPECT_LT(text.find("\"crashed\":"), text.find("\"frames\":"));
}

TEST(ReportText, AThreadWithoutANameHasNoParentheses) {
  Report report;
  report.threads.resize(1);
  report.threads[0].tid = 7;
  report.threads[0].crashed = true;
  EXPECT_THAT(to_text(report), HasSubstr("thread 7, crashed\n"));
  report.threads[0].name = "engine";
  EXPECT_THAT(to_text(report), HasSubstr("thread 7 (engine), crashed\n"));
}

TEST(ReportText, NamesOfThreadsSteerNoTerminal) {
  Report report;
  ThreadStack stack;
  stack.name = "a\x1b]0;owned\x07";
  stack.crashed = true;
  Frame frame;
  frame.module = "/srv/\x1b[2J";
  frame.function = "f\x1b[1m()";
  frame.file = "/x\x1b[31m.cc";
  stack.frames.push_back(frame);
  report.threads.push_back(stack);
  report.classification.evidence = {"\x1b[2Jgone"};
  EXPECT_EQ(to_text(report).find('\x1b'), std::string::npos);
}

TEST(SourceLines, AreThoseOfTheFileOrNone) {
  char name[] = "/tmp/source-XXXXXX";
  const os::Fd fd(::mkstemp(name));
  std::ofstream(name) << "one\ntwo\nthree\n";
  const auto view = read_source(name, 2, name);
  ASSERT_TRUE(view);
  EXPECT_EQ(view->lines.size(), 3U);
  EXPECT_EQ(view->lines[1].text, "two");
  EXPECT_FALSE(read_source(name, 4, name));  // it is another file than that of the build
  EXPECT_FALSE(read_source(name, 0, name));
  EXPECT_FALSE(read_source("/dev/zero", 1, name));
  EXPECT_FALSE(read_source("/does/not/exist.cc", 1, name));
  ::unlink(name);
}

}  // namespace
}  // namespace defib::postmortem
