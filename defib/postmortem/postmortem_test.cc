// Real programs, each with one fault (testcases/), die for real; the report must name the cause,
// the function, the file and the line.

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/crash_hook_sigsafe.h"
#include "defib/postmortem/hot_frames.h"
#include "defib/postmortem/report.h"
#include "defib/postmortem/testcases/run_victim.h"

namespace defib::postmortem {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr int kEventTimeoutMs = 20'000;
constexpr std::uint32_t kCaptureTimeoutMs = 3000;  // generous: the machine may be loaded

class Victim {
 public:
  explicit Victim(const std::string& name, std::vector<std::string> arguments = {}) {
    page_fd_ = os::Fd(::memfd_create("page", MFD_CLOEXEC));
    event_fd_ = os::Fd(::eventfd(0, EFD_CLOEXEC));
    log_fd_ = os::Fd(::memfd_create("log", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(page_fd_.get(), 4096), 0);
    memory_ = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd_.get(), 0);
    page().capture_timeout_ms = kCaptureTimeoutMs;
    int output[2];
    EXPECT_EQ(::pipe2(output, O_CLOEXEC), 0);
    output_ = os::Fd(output[0]);
    const os::Fd output_end(output[1]);
    os::SpawnOptions options;
    options.argv = {victim_path(name)};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.fds = {
        {output_end.get(), 1}, {log_fd_.get(), 2}, {page_fd_.get(), 3}, {event_fd_.get(), 4}};
    auto child = os::spawn(options);
    EXPECT_TRUE(child) << (child ? "" : child.error().to_text());
    if (child) child_ = std::move(*child);
  }
  ~Victim() {
    if (running_) {
      static_cast<void>(child_.signal(SIGKILL));
      child_.wait();
    }
    ::munmap(memory_, 4096);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  CrashPage& page() { return *static_cast<CrashPage*>(memory_); }
  pid_t pid() const { return child_.pid(); }
  os::Child& child() { return child_; }

  bool wait_for_crash() { return readable(event_fd_.get()); }
  bool wait_for_ready() {
    char text[6];
    return readable(output_.get()) && ::read(output_.get(), text, sizeof text) == sizeof text;
  }
  os::ExitStatus wait() {
    running_ = false;
    return child_.wait();
  }
  std::string log() {
    char text[4096];
    const ssize_t size = ::pread(log_fd_.get(), text, sizeof text, 0);
    return std::string(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  }

 private:
  static bool readable(int fd) {
    pollfd waiting = {fd, POLLIN, 0};
    return ::poll(&waiting, 1, kEventTimeoutMs) == 1 && (waiting.revents & POLLIN) != 0;
  }
  os::Fd page_fd_;
  os::Fd event_fd_;
  os::Fd log_fd_;
  os::Fd output_;
  void* memory_ = nullptr;
  os::Child child_;
  bool running_ = true;
};

// Lets the victim crash, captures it, sees it die, and makes the report.
struct Autopsy {
  Report report;
  os::ExitStatus status;
};
Autopsy autopsy(Victim& victim) {
  Autopsy result;
  EXPECT_TRUE(victim.wait_for_crash());
  auto snapshot = capture_crash(victim.pid(), victim.page());
  EXPECT_TRUE(snapshot) << (snapshot ? "" : snapshot.error().to_text());
  result.status = victim.wait();
  if (!snapshot) return result;
  CrashFacts more;
  more.stderr_tail = victim.log();
  result.report = make_report(std::move(*snapshot), std::move(more));
  return result;
}

const ThreadStack& crashed_stack(const Report& report) {
  static const ThreadStack kNone;
  for (const ThreadStack& stack : report.threads) {
    if (stack.crashed) return stack;
  }
  ADD_FAILURE() << "no thread is marked as crashed";
  return kNone;
}

bool has_frame(const ThreadStack& stack, const std::string& function, const std::string& source,
               int line) {
  return std::ranges::any_of(stack.frames, [&](const Frame& frame) {
    return frame.function.find(function) != std::string::npos &&
           frame.file.ends_with("/" + source + ".cc") && frame.line == line;
  });
}

struct Expectation {
  std::string victim;
  std::string source;
  std::string function;
  int signal;
  Cause cause;
  std::string subtype;
  std::size_t threads;
  std::vector<std::string> arguments = {};
};

std::ostream& operator<<(std::ostream& out, const Expectation& expected) {
  return out << expected.victim << (expected.arguments.empty() ? "" : "_thread");
}

class RealCrash : public ::testing::TestWithParam<Expectation> {};

TEST_P(RealCrash, IsNamedWithCauseFunctionFileAndLine) {
  const Expectation& expected = GetParam();
  Victim victim(expected.victim, expected.arguments);
  const auto [report, status] = autopsy(victim);
  SCOPED_TRACE(to_text(report));
  EXPECT_EQ(to_string(report.classification.cause), to_string(expected.cause));
  EXPECT_EQ(report.classification.subtype, expected.subtype);
  EXPECT_GE(report.classification.confidence, 0.7);
  EXPECT_FALSE(report.classification.evidence.empty());
  EXPECT_TRUE(has_frame(crashed_stack(report), expected.function, expected.source,
                        marked_line(expected.source)));
  EXPECT_EQ(report.threads.size(), expected.threads);
  // The hook hands the signal on: the parent sees the true one.
  EXPECT_EQ(status.signal, expected.signal) << status.to_string();
  for (const ThreadStack& stack : report.threads) EXPECT_FALSE(stack.frames.empty());
}

const Expectation kCrashes[] = {
    {"null_dereference", "null_dereference", "fill_order", SIGSEGV, Cause::null_dereference, "", 3},
    {"null_dereference_o2", "null_dereference", "fill_order", SIGSEGV, Cause::null_dereference, "",
     3},
    {"null_call", "null_call", "notify_listener", SIGSEGV, Cause::null_dereference, "null_call", 3},
    {"wild_pointer", "wild_pointer", "read_level", SIGSEGV, Cause::segmentation_fault,
     "wild_pointer", 3},
    {"non_canonical", "non_canonical", "read_quote", SIGSEGV, Cause::segmentation_fault,
     "non_canonical", 3},
    {"use_after_free", "use_after_free", "deliver_fill", SIGSEGV, Cause::segmentation_fault,
     "use_after_free", 1},
    {"write_to_read_only", "write_to_read_only", "patch_table", SIGSEGV, Cause::segmentation_fault,
     "write_to_read_only", 3},
    {"stack_overflow", "stack_overflow", "visit", SIGSEGV, Cause::stack_overflow, "", 3},
    {"stack_overflow",
     "stack_overflow",
     "visit",
     SIGSEGV,
     Cause::stack_overflow,
     "",
     4,
     {"thread"}},
    {"abort", "abort", "give_up", SIGABRT, Cause::abort, "", 3},
    {"assertion_failure", "assertion_failure", "settle", SIGABRT, Cause::assertion_failure, "", 3},
    {"uncaught_exception", "uncaught_exception", "look_up", SIGABRT, Cause::uncaught_exception,
     "(anonymous namespace)::UnknownSymbol", 3},
    {"double_free", "double_free", "release_twice", SIGABRT, Cause::heap_corruption, "double_free",
     3},
    {"heap_smash", "heap_smash", "overrun", SIGABRT, Cause::heap_corruption, "overwritten_heap", 3},
    {"stack_smash", "stack_smash", "parse_name", SIGABRT, Cause::abort, "stack_smashing", 3},
    {"arithmetic_fault", "arithmetic_fault", "average", SIGFPE, Cause::arithmetic_fault,
     "integer_division", 3},
    {"illegal_instruction", "illegal_instruction", "unreachable_state", SIGILL,
     Cause::illegal_instruction, "trap_instruction", 3},
    {"bus_error", "bus_error", "read_journal", SIGBUS, Cause::bus_error, "file_truncated", 3},
    {"bad_system_call", "bad_system_call", "ask_parent", SIGSYS, Cause::bad_system_call, "seccomp",
     3},
    {"inlined", "inlined", "set_quantity", SIGSEGV, Cause::null_dereference, "", 3},
};
INSTANTIATE_TEST_SUITE_P(Victims, RealCrash, ::testing::ValuesIn(kCrashes), [](const auto& test) {
  return test.param.victim + (test.param.arguments.empty() ? "" : "_in_thread");
});

TEST(Capture, InlinedCallsStandAtTheirCallSites) {
  Victim victim("inlined");
  const Report report = autopsy(victim).report;
  SCOPED_TRACE(to_text(report));
  const ThreadStack& stack = crashed_stack(report);
  EXPECT_TRUE(has_frame(stack, "clear_level", "inlined", marked_line("inlined", "// first call")));
  EXPECT_TRUE(
      has_frame(stack, "remove_order", "inlined", marked_line("inlined", "// second call")));
  ASSERT_GE(stack.frames.size(), 3U);
  EXPECT_TRUE(stack.frames[0].inlined);
  EXPECT_TRUE(stack.frames[1].inlined);
  EXPECT_FALSE(stack.frames[2].inlined);
  EXPECT_EQ(stack.frames[0].pc, stack.frames[2].pc);
}

TEST(Capture, StrippedProgramHasModuleAndOffsetOfEveryFrame) {
  Victim stripped("null_dereference_stripped");
  const Report without = autopsy(stripped).report;
  Victim whole("null_dereference");
  const Report with = autopsy(whole).report;
  SCOPED_TRACE(to_text(without));
  EXPECT_EQ(without.classification.cause, Cause::null_dereference);
  const Frame& bare = crashed_stack(without).frames.at(0);
  const Frame& named = crashed_stack(with).frames.at(0);
  EXPECT_EQ(bare.function, "");
  EXPECT_THAT(bare.module, HasSubstr("victim_null_dereference_stripped"));
  // The two programs are one code, so addr2line on the unstripped one explains the stripped one.
  EXPECT_EQ(bare.offset, named.offset);
  // Past the frames without names the C library's have theirs.
  EXPECT_TRUE(std::ranges::any_of(crashed_stack(without).frames, [](const Frame& frame) {
    return frame.function.find("libc_start") != std::string::npos;
  }));
}

TEST(Capture, OtherThreadsStandWhereTheyWait) {
  Victim victim("abort");
  const Report report = autopsy(victim).report;
  SCOPED_TRACE(to_text(report));
  int waiting = 0;
  for (const ThreadStack& stack : report.threads) {
    waiting += !stack.crashed && std::ranges::any_of(stack.frames, [](const Frame& frame) {
      return frame.function.find("wait_for_ever") != std::string::npos &&
             frame.file.ends_with("victim.h") && frame.line > 0;
    });
  }
  EXPECT_EQ(waiting, 2);
}

TEST(Capture, EightThreadsThatCrashAtOnceGiveOneWholeReport) {
  Victim victim("all_threads");
  const auto [report, status] = autopsy(victim);
  SCOPED_TRACE(to_text(report));
  EXPECT_EQ(report.classification.cause, Cause::null_dereference);
  EXPECT_TRUE(has_frame(crashed_stack(report), "crash_together", "all_threads",
                        marked_line("all_threads")));
  EXPECT_EQ(report.threads.size(), 9U);
  EXPECT_EQ(report.snapshot.signal.fault_address, 0U);
  EXPECT_EQ(status.signal, SIGSEGV);
}

TEST(Capture, HoldsTheProcessForLessTimeThanTheHookWaits) {
  // The best of a few: the machine may be busy with something else.
  std::int64_t best_ns = INT64_MAX;
  for (int i = 0; i < 5; ++i) {
    Victim victim("null_dereference");
    const Report report = autopsy(victim).report;
    best_ns = std::min(best_ns, report.snapshot.stopped_ns);
    EXPECT_EQ(victim.page().state.load(), static_cast<std::uint32_t>(CrashState::kCaptured));
    EXPECT_GT(victim.page().captured_mono_ns, victim.page().crashed_mono_ns);
  }
  EXPECT_GT(best_ns, 0);
  EXPECT_LT(best_ns, std::int64_t{kDefaultCaptureTimeoutMs} * 1'000'000);
}

TEST(Capture, OfAProcessThatIsGoneFailsWithWhatThePageStillTells) {
  Victim victim("null_dereference");
  victim.page().capture_timeout_ms = 0;
  ASSERT_TRUE(victim.wait_for_crash());
  victim.wait();
  EXPECT_EQ(victim.page().state.load(), static_cast<std::uint32_t>(CrashState::kGivenUp));
  const auto snapshot = capture_crash(victim.pid(), victim.page());
  ASSERT_FALSE(snapshot);
  EXPECT_EQ(snapshot.error().code(), Code::kCaptureFailed);
  EXPECT_THAT(snapshot.error().message(), HasSubstr("is gone"));
  EXPECT_EQ(snapshot.error().field("signal"), "11");
  EXPECT_EQ(snapshot.error().field("fault_address"), "0x8");
  const Report report = make_report(snapshot_from_page(victim.page()), {});
  EXPECT_EQ(report.classification.cause, Cause::null_dereference);
  EXPECT_EQ(report.threads.at(0).frames.at(0).pc, victim.page().registers[kCrashPcRegister]);
}

TEST(Capture, OfAProcessThatHasNotCrashedIsRefused) {
  Victim victim("waits");
  ASSERT_TRUE(victim.wait_for_ready());
  const auto snapshot = capture_crash(victim.pid(), victim.page());
  ASSERT_FALSE(snapshot);
  EXPECT_EQ(snapshot.error().code(), Code::kCaptureFailed);
}

TEST(Capture, NamesTheTracerThatHoldsTheProcess) {
  Victim victim("waits", {"alone"});
  ASSERT_TRUE(victim.wait_for_ready());
  int told[2];
  ASSERT_EQ(::pipe(told), 0);
  const pid_t tracer = ::fork();
  if (tracer == 0) {
    const bool seized = ::ptrace(PTRACE_SEIZE, victim.pid(), nullptr, nullptr) == 0;
    if (::write(told[1], seized ? "y" : "n", 1) == 1) ::pause();
    ::_exit(0);
  }
  char seized = 'n';
  ASSERT_EQ(::read(told[0], &seized, 1), 1);
  ASSERT_EQ(seized, 'y');
  const auto snapshot = capture_live(victim.pid());
  ::kill(tracer, SIGKILL);
  ::waitpid(tracer, nullptr, 0);
  ::close(told[0]);
  ::close(told[1]);
  ASSERT_FALSE(snapshot);
  EXPECT_EQ(snapshot.error().field("tracer"), std::to_string(tracer));
}

TEST(Hook, NamesTheProcessThatSentTheSignal) {
  Victim victim("waits");
  ASSERT_TRUE(victim.wait_for_ready());
  ASSERT_EQ(::kill(victim.pid(), SIGSEGV), 0);
  const auto [report, status] = autopsy(victim);
  SCOPED_TRACE(to_text(report));
  EXPECT_EQ(report.classification.cause, Cause::killed_externally);
  EXPECT_EQ(report.classification.subtype, "SIGSEGV");
  EXPECT_THAT(report.classification.evidence.at(0),
              HasSubstr(fmt::format("process {} of user {}", ::getpid(), ::getuid())));
  EXPECT_FALSE(report.classification.fault_address);
  EXPECT_EQ(status.signal, SIGSEGV);
}

TEST(Hook, WritesTypeAndTextOfAnUncaughtException) {
  Victim victim("uncaught_exception");
  const Report report = autopsy(victim).report;
  EXPECT_EQ(report.snapshot.message,
            "uncaught exception of type '(anonymous namespace)::UnknownSymbol': "
            "no such symbol: XYZ");
  // The terminate handler that was there before has still spoken.
  EXPECT_THAT(report.log_tail, HasSubstr("terminate called after throwing"));
}

TEST(Hook, RunsAnEarlierHandlerAfterTheCapture) {
  Victim victim("earlier_handler");
  const auto [report, status] = autopsy(victim);
  EXPECT_EQ(report.classification.cause, Cause::null_dereference);
  EXPECT_TRUE(status.exited);
  EXPECT_EQ(status.code, 9);
}

TEST(Hook, LeavesSignalsWithAHandlerAloneWhenAskedTo) {
  Victim victim("earlier_handler", {"leave"});
  const os::ExitStatus status = victim.wait();
  EXPECT_EQ(status.code, 9);
  EXPECT_EQ(victim.page().state.load(), static_cast<std::uint32_t>(CrashState::kNone));
}

TEST(Hook, ChildOfForkLeavesItsParentsPageAlone) {
  Victim victim("child_crash");
  const os::ExitStatus status = victim.wait();
  EXPECT_TRUE(status.exited);
  EXPECT_EQ(status.code, SIGSEGV);
  EXPECT_EQ(victim.page().state.load(), static_cast<std::uint32_t>(CrashState::kNone));
}

TEST(Hook, GivesUpWaitingWhenNobodyCaptures) {
  Victim victim("null_dereference");
  victim.page().capture_timeout_ms = 20;
  ASSERT_TRUE(victim.wait_for_crash());
  EXPECT_EQ(victim.wait().signal, SIGSEGV);
  EXPECT_EQ(victim.page().state.load(), static_cast<std::uint32_t>(CrashState::kGivenUp));
  EXPECT_EQ(victim.page().signal, SIGSEGV);
  EXPECT_EQ(victim.page().fault_address, 8U);
}

Report analyze_live(Victim& victim, std::chrono::milliseconds window) {
  CaptureOptions options;
  options.sample_window = window;
  auto snapshot = capture_live(victim.pid(), options);
  EXPECT_TRUE(snapshot) << (snapshot ? "" : snapshot.error().to_text());
  return snapshot ? make_report(std::move(*snapshot), {}) : Report();
}

TEST(Hang, DeadlockIsNamedWithItsCycle) {
  Victim victim("deadlock");
  ASSERT_TRUE(victim.wait_for_ready());
  Report report;
  // "ready" comes just before the thread goes for the second mutex.
  for (int i = 0; i < 200 && report.classification.cause != Cause::deadlock; ++i) {
    report = analyze_live(victim, {});
  }
  SCOPED_TRACE(to_text(report));
  ASSERT_EQ(report.classification.cause, Cause::deadlock);
  EXPECT_EQ(report.classification.subtype, "lock_cycle");
  const auto& evidence = report.classification.evidence;
  ASSERT_EQ(evidence.size(), 2U);
  EXPECT_THAT(evidence[0], HasSubstr("held by thread"));
  EXPECT_THAT(evidence[0] + evidence[1], HasSubstr("(booking)"));
  EXPECT_EQ(report.threads.size(), 2U);
  EXPECT_TRUE(has_frame(report.threads[0], "transfer", "deadlock",
                        marked_line("deadlock", "lock_guard second(orders);  // fault")));
  EXPECT_TRUE(has_frame(report.threads[1], "book_order", "deadlock",
                        marked_line("deadlock", "lock_guard second(accounts);  // fault")));
}

TEST(Hang, BusyLoopIsToldFromABlockedProcess) {
  Victim spinning("busy_loop");
  Victim blocked("waits");
  ASSERT_TRUE(spinning.wait_for_ready());
  ASSERT_TRUE(blocked.wait_for_ready());
  const Report busy = analyze_live(spinning, std::chrono::milliseconds(300));
  SCOPED_TRACE(to_text(busy));
  EXPECT_EQ(busy.classification.cause, Cause::busy_loop);
  EXPECT_THAT(busy.classification.evidence.at(0), HasSubstr("spin"));
  const Report idle = analyze_live(blocked, std::chrono::milliseconds(300));
  EXPECT_EQ(idle.classification.cause, Cause::unknown);
  EXPECT_EQ(idle.classification.subtype, "blocked");
}

TEST(Hang, ABusyThreadShowsItsHotFramesAndGoesOn) {
  Victim victim("busy_loop");
  ASSERT_TRUE(victim.wait_for_ready());
  CaptureOptions options;
  options.sample_window = std::chrono::milliseconds(100);
  const auto snapshot = capture_live(victim.pid(), options);
  ASSERT_TRUE(snapshot);
  HotOptions hot;
  hot.busy_share = 0.2;  // the machine may be busy with something else
  hot.samples = 5;
  const auto sampled = sample_hot_frames(*snapshot, hot);
  ASSERT_EQ(sampled.size(), 1U);
  EXPECT_EQ(sampled[0].tid, victim.pid());
  EXPECT_GT(sampled[0].samples, 0);
  ASSERT_FALSE(sampled[0].hot.empty());
  // The symbol table and the debug information do not agree where `volatile` stands.
  EXPECT_THAT(sampled[0].hot[0].place,
              AllOf(HasSubstr("(anonymous namespace)::spin("),
                    EndsWith(fmt::format(" at busy_loop.cc:{}", marked_line("busy_loop")))));
  EXPECT_FALSE(victim.child().try_wait());
  ASSERT_EQ(::kill(victim.pid(), SIGTERM), 0);
  EXPECT_EQ(victim.wait().signal, SIGTERM);
}

TEST(Hang, AnalysisLeavesTheProcessAsItWas) {
  Victim victim("waits");
  ASSERT_TRUE(victim.wait_for_ready());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(analyze_live(victim, {}).threads.size(), 3U);
  EXPECT_FALSE(victim.child().try_wait());
  ASSERT_EQ(::kill(victim.pid(), SIGTERM), 0);
  EXPECT_EQ(victim.wait().signal, SIGTERM);
}

// The kernel writes the core into the working directory.
class CoreFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern;
    std::ifstream("/proc/sys/kernel/core_pattern") >> pattern;
    if (pattern.starts_with('|') || pattern.find('/') != pattern.npos) {
      GTEST_SKIP() << "core_pattern sends cores elsewhere: " << pattern;
    }
    ASSERT_NE(::mkdtemp(dir_), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string core_of(const std::string& victim) {
    const auto output = os::run_command(
        {"/bin/sh", "-c", fmt::format("cd {} && ulimit -c unlimited && {}", dir_, victim)},
        kEventTimeoutMs);
    EXPECT_TRUE(output);
    for (const auto& entry : std::filesystem::directory_iterator(dir_)) return entry.path();
    return {};
  }
  char dir_[32] = "/tmp/defib-core-XXXXXX";
};

TEST_F(CoreFile, GivesTheSameReportAsACapture) {
  const std::string core = core_of(victim_path("wild_pointer"));
  ASSERT_NE(core, "");
  auto snapshot = read_core(core);
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  const Report report = make_report(std::move(*snapshot), {});
  SCOPED_TRACE(to_text(report));
  EXPECT_EQ(report.classification.cause, Cause::segmentation_fault);
  EXPECT_EQ(report.classification.subtype, "wild_pointer");
  EXPECT_EQ(report.classification.fault_address, 0x123456789008U);
  EXPECT_EQ(report.threads.size(), 3U);
  EXPECT_TRUE(
      has_frame(crashed_stack(report), "read_level", "wild_pointer", marked_line("wild_pointer")));
}

TEST_F(CoreFile, OfAStackOverflowIsRecognized) {
  const std::string core = core_of(victim_path("stack_overflow"));
  ASSERT_NE(core, "");
  auto snapshot = read_core(core);
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  const Report report = make_report(std::move(*snapshot), {});
  EXPECT_EQ(report.classification.cause, Cause::stack_overflow) << to_text(report);
  EXPECT_TRUE(crashed_stack(report).truncated);
}

TEST_F(CoreFile, GetsNoNamesFromAProgramThatIsNotItsOwn) {
  const std::string core = core_of(victim_path("wild_pointer"));
  ASSERT_NE(core, "");
  auto snapshot = read_core(core, {victim_path("non_canonical"), {}});
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  const Report report = make_report(std::move(*snapshot), {});
  SCOPED_TRACE(to_text(report));
  EXPECT_EQ(report.classification.subtype, "wild_pointer");
  EXPECT_EQ(crashed_stack(report).frames.at(0).function, "");
  EXPECT_EQ(crashed_stack(report).frames.at(0).file, "");
}

TEST_F(CoreFile, ThatIsNoCoreIsRefused) {
  EXPECT_EQ(read_core("/bin/sh").error().code(), Code::kCoreUnreadable);
  EXPECT_THAT(read_core("/bin/sh").error().message(), HasSubstr("not a 64-bit core"));
  EXPECT_EQ(read_core("/does/not/exist").error().code(), Code::kCoreUnreadable);
  EXPECT_EQ(read_core("/etc/passwd").error().code(), Code::kCoreUnreadable);
}

TEST(Exit, FailureCarriesTheLastLinesOfStderr) {
  Victim victim("exit_failure");
  CrashFacts facts;
  facts.status = victim.wait();
  facts.stderr_tail = victim.log();
  const Classification verdict = classify(facts);
  EXPECT_EQ(verdict.cause, Cause::exit_failure);
  EXPECT_THAT(verdict.evidence, ::testing::ElementsAre("exit code 3", "stderr: loading",
                                                       "stderr: cannot read the configuration"));
}

// The program itself, as the shim starts it.
TEST(Program, WritesAReportOfACrash) {
  Victim victim("uncaught_exception");
  ASSERT_TRUE(victim.wait_for_crash());
  char out[] = "/tmp/defib-report-XXXXXX";
  const os::Fd created(::mkstemp(out));
  const auto output = os::run_command(
      {DEFIB_CAPTURE_PROGRAM, "crash", "--pid", std::to_string(victim.pid()), "--page",
       fmt::format("/proc/{}/fd/3", victim.pid()), "--page-offset", "0", "--out", out},
      kEventTimeoutMs);
  EXPECT_EQ(victim.wait().signal, SIGABRT);
  ASSERT_TRUE(output) << output.error().to_text();
  EXPECT_TRUE(output->status.success()) << output->text;
  const auto text = os::read_file(os::real_files(), out);
  ::unlink(out);
  ASSERT_TRUE(text);
  const auto json = wire::Json::parse(*text);
  ASSERT_TRUE(json) << json.error().to_text();
  EXPECT_EQ((*json)["schema"].as_string(), "defib.crash/1");
  EXPECT_EQ((*json)["classification"]["cause"].as_string(), "uncaught_exception");
  EXPECT_EQ((*json)["classification"]["signal"].as_string(), "SIGABRT");
  EXPECT_EQ((*json)["threads"].size(), 3U);
  EXPECT_TRUE((*json)["threads"].items()[0]["crashed"].as_bool());
  EXPECT_GT((*json)["captured_in_ns"].as_int(), 0);
  EXPECT_GT((*json)["modules"].size(), 3U);
}

TEST(Program, AnalyzesALiveProcessAndRefusesAMissingOne) {
  Victim victim("waits");
  ASSERT_TRUE(victim.wait_for_ready());
  const auto output = os::run_command(
      {DEFIB_CAPTURE_PROGRAM, "analyze", std::to_string(victim.pid()), "--json"}, kEventTimeoutMs);
  ASSERT_TRUE(output);
  const auto json = wire::Json::parse(output->text);
  ASSERT_TRUE(json) << output->text;
  EXPECT_EQ((*json)["threads"].size(), 3U);
  const auto refused =
      os::run_command({DEFIB_CAPTURE_PROGRAM, "analyze", "999999999"}, kEventTimeoutMs);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status.code, 1);
  EXPECT_THAT(refused->text, HasSubstr("CaptureFailed"));
}

TEST(Program, ClassifiesADeathThatLeftNoReport) {
  const auto output = os::run_command(
      {DEFIB_CAPTURE_PROGRAM, "classify-exit", "--pid", "999999999", "--status", "9", "--json"},
      kEventTimeoutMs);
  ASSERT_TRUE(output);
  const auto json = wire::Json::parse(output->text);
  ASSERT_TRUE(json) << output->text;
  EXPECT_EQ((*json)["classification"]["cause"].as_string(), "killed_externally");
}

}  // namespace
}  // namespace defib::postmortem
