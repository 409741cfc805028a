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
#include <unistd.h>

#include <fstream>
#include <string>

#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/report.h"

namespace defib::postmortem {
namespace {

using ::testing::HasSubstr;

constexpr int kEventTimeoutMs = 20'000;
constexpr std::uint32_t kCaptureTimeoutMs = 3000;  // generous: the machine may be loaded

std::string victim_path(const std::string& name) {
  return fmt::format("{}/victim_{}", DEFIB_VICTIM_DIR, name);
}

// The number of the line that carries the mark, counted from 1.
int marked_line(const std::string& source, const std::string& mark = "// fault") {
  std::ifstream in(fmt::format("{}/{}.cc", DEFIB_VICTIM_SOURCE_DIR, source));
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find(mark) != line.npos) return number;
  }
  return -1;
}

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

}  // namespace
}  // namespace defib::postmortem
