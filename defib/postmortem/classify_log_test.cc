// What runtimes and servers write at their end, as they wrote it, one row a case; and the same
// texts where they decide nothing.

#include "defib/postmortem/classify_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

namespace defib::postmortem {
namespace {

struct Row {
  std::string name;
  int code;    // of its exit; 0: it ended by the signal
  int signal;  // 0: it ended by the code
  std::string text;
  Cause cause;
  std::string subtype;
  std::string evidence = {};  // the first line begins so
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name;
}

CrashFacts facts_of(int code, int signal, std::string err, std::string out = {}) {
  CrashFacts facts;
  facts.pid = 4711;
  facts.status = {
      .known = true, .exited = signal == 0, .code = code, .signal = signal, .core_dumped = false};
  facts.stderr_tail = std::move(err);
  facts.stdout_tail = std::move(out);
  return facts;
}

const std::string kTraceback =
    "loading\nTraceback (most recent call last):\n"
    "  File \"/srv/engine.py\", line 9, in <module>\n    main()\n"
    "  File \"/srv/engine.py\", line 4, in main\n    raise ValueError(\"no such symbol: X\")\n"
    "    ^^^^^\n"
    "ValueError: no such symbol: X\n";
const std::string kNode =
    "/srv/engine.js:1\nfunction f(){ throw new TypeError('bad'); }\n              ^\n\n"
    "TypeError: bad\n    at Timeout.f [as _onTimeout] (/srv/engine.js:1:21)\n"
    "    at listOnTimeout (node:internal/timers:581:17)\n\nNode.js v20.20.2\n";
const std::string kGoroutine =
    "\ngoroutine 1 [running]:\nmain.settle(...)\n\t/srv/bank.go:4 +0x1d\nmain.main()\n"
    "\t/srv/bank.go:9 +0x2\n";
const std::string kGoFault =
    "panic: runtime error: invalid memory address or nil pointer dereference\n"
    "[signal SIGSEGV: segmentation violation code=0x1 addr=0x18 pc=0x457c62]\n" +
    kGoroutine;
const std::string kRedis =
    "12:M 1 Jan 2026 === REDIS BUG REPORT START: Cut & paste starting from here ===\n"
    "12:M 1 Jan 2026 # Redis 7.0.15 crashed by signal: 11, si_code: 2\n"
    "12:M 1 Jan 2026 # Accessing address: 0x7f3b30df8000\n"
    "12:M 1 Jan 2026 # Crashed running the instruction at: 0x55d\n";

std::vector<Row> rows() {
  return {
      {"python", 1, 0, kTraceback, Cause::uncaught_exception, "ValueError",
       "ValueError: no such symbol: X"},
      {"python_text_of_two_lines", 1, 0, kTraceback + "of account 7\n", Cause::uncaught_exception,
       "ValueError"},
      {"python_chained", 1, 0,
       kTraceback + "\nDuring handling of the above exception, another exception occurred:\n\n"
                    "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n"
                    "orders.BookCrossed: bid 3 > ask 2\n",
       Cause::uncaught_exception, "orders.BookCrossed"},
      {"python_without_text", 1, 0,
       "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\nAssertionError\n",
       Cause::uncaught_exception, "AssertionError"},
      {"python_memory", 1, 0,
       "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\nMemoryError\n",
       Cause::out_of_memory, "allocator", "MemoryError"},
      {"python_logged_and_gone_on", 5, 0, kTraceback + "error: disk full\n", Cause::exit_failure,
       "exit_code_5"},
      {"python_logged_long_ago", 1, 0,
       kTraceback +
           [] {
             std::string lines;
             for (int i = 0; i < 20; ++i) lines += "working\n";
             return lines;
           }(),
       Cause::exit_failure, "exit_code_1"},
      {"python_cut", 1, 0, "Traceback (most recent call last):\n  File \"x.py\"",
       Cause::exit_failure, "exit_code_1"},
      {"python_fatal", 0, SIGABRT, "Fatal Python error: init_sys_streams: can't initialize\n",
       Cause::abort, "fatal_python_error"},
      {"python_fault_handler", 0, SIGSEGV,
       "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
       "  File \"x.py\", line 3 in f\n",
       Cause::segmentation_fault, ""},
      {"node", 1, 0, kNode, Cause::uncaught_exception, "TypeError", "TypeError: bad"},
      {"node_text", 1, 0,
       "/x.js:1\nthrow 'closed'\n^\nclosed\n(Use `node --trace-uncaught ...` to show where)\n\n"
       "Node.js v20.20.2\n",
       Cause::uncaught_exception, "closed"},
      {"node_rejection", 1, 0,
       "node:internal/process/promises:389\n      new UnhandledPromiseRejection(reason);\n      "
       "^\n\n"
       "UnhandledPromiseRejection: This error originated ... reason \"x\".\n    at throwIt (x:1:7) "
       "{\n"
       "  code: 'ERR_UNHANDLED_REJECTION'\n}\n\nNode.js v20.20.2\n",
       Cause::uncaught_exception, "UnhandledPromiseRejection"},
      {"node_gone_on", 1, 0, kNode + "restarting\nerror: no venue\n", Cause::exit_failure,
       "exit_code_1"},
      {"node_heap", 0, SIGABRT,
       "\n<--- JS stacktrace --->\n\nFATAL ERROR: Reached heap limit Allocation failed - "
       "JavaScript "
       "heap out of memory\n 1: 0xb78db3 node::OOMErrorHandler [node]\n",
       Cause::out_of_memory, "allocator"},
      {"go_panic", 2, 0, "panic: the book is crossed\n" + kGoroutine, Cause::uncaught_exception,
       "panic", "panic: the book is crossed"},
      {"go_panic_with_core", 0, SIGABRT, "panic: the book is crossed\n" + kGoroutine,
       Cause::uncaught_exception, "panic"},
      {"go_nil", 2, 0, kGoFault, Cause::null_dereference, ""},
      {"go_asleep", 2, 0,
       "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\n"
       "main.main()\n\t/x.go:2 +0x2c\n",
       Cause::deadlock, "all_goroutines_asleep"},
      {"go_stack", 2, 0,
       "runtime: goroutine stack exceeds 1000000000-byte limit\nfatal error: stack overflow\n\n"
       "runtime stack:\nruntime.throw()\n\t/go/panic.go:1 +0x5\n" +
           kGoroutine,
       Cause::stack_overflow, ""},
      {"go_memory", 2, 0, "fatal error: runtime: out of memory\n\nruntime stack:\n" + kGoroutine,
       Cause::out_of_memory, "allocator"},
      {"go_maps", 2, 0, "fatal error: concurrent map writes\n" + kGoroutine, Cause::abort,
       "go_fatal_error"},
      {"go_quit", 2, 0, "SIGQUIT: quit\nPC=0x46 m=0 sigcode=0\n" + kGoroutine,
       Cause::killed_externally, "SIGQUIT", "SIGQUIT: quit"},
      {"go_recovered", 2, 0, "recovered: survived\nerror: no venue\n", Cause::exit_failure,
       "exit_code_2"},
      {"rust", 101, 0, "\nthread 'main' (12) panicked at x.rs:1:77:\nindex out of bounds: 6\n",
       Cause::uncaught_exception, "panic", "thread 'main' (12) panicked at x.rs:1:77:"},
      {"rust_before_1_73", 101, 0, "thread 'main' panicked at 'boom', src/main.rs:2:5\nnote: x\n",
       Cause::uncaught_exception, "panic"},
      {"rust_that_aborts", 0, SIGABRT, "thread 'main' panicked at src/main.rs:2:5:\nboom\n",
       Cause::uncaught_exception, "panic"},
      {"rust_twice", 0, SIGABRT,
       "thread 'main' panicked at b.rs:2:22:\nfirst\nthread 'main' panicked at b.rs:1:49:\nsecond\n"
       "thread caused non-unwinding panic. aborting.\n",
       Cause::abort, "double_panic"},
      {"rust_stack", 0, SIGABRT,
       "\nthread 'main' (1) has overflowed its stack\nfatal runtime error: stack overflow\n",
       Cause::stack_overflow, ""},
      {"rust_memory", 0, SIGABRT, "memory allocation of 70368744177664 bytes failed\n",
       Cause::out_of_memory, "allocator"},
      {"rust_caught", 4, 0, "thread 'main' panicked at x.rs:1:77:\nindex\nerror: no venue\n",
       Cause::exit_failure, "exit_code_4"},
      {"redis", 0, SIGSEGV, kRedis, Cause::segmentation_fault, "wild_pointer"},
      {"redis_sent", 0, SIGSEGV,
       "=== REDIS BUG REPORT START: x ===\nRedis 7.0.15 crashed by signal: 11, si_code: 0\n"
       "Killed by PID: 77, UID: 1000\n",
       Cause::killed_externally, "SIGSEGV", "SIGSEGV was sent by process 77 of user 1000"},
      {"redis_assertion", 0, SIGSEGV,
       "=== REDIS BUG REPORT START: x ===\n=== ASSERTION FAILED CLIENT CONTEXT ===\nargv: x\n"
       "=== ASSERTION FAILED ===\n7:M # ==> debug.c:9 'a' is not true\n",
       Cause::assertion_failure, "", "7:M # ==> debug.c:9 'a'"},
      {"redis_memory", 0, SIGABRT,
       "Out Of Memory allocating 18446744073709551615 bytes!\n=== REDIS BUG REPORT START: x ===\n"
       "Guru Meditation: Redis aborting for OUT OF MEMORY.\n",
       Cause::out_of_memory, "allocator"},
      {"postgres", 1, 0,
       "LOG:  server process (PID 71) was terminated by signal 11: Segmentation fault\n"
       "LOG:  shutting down because restart_after_crash is off\n",
       Cause::segmentation_fault, "child_process"},
      {"postgres_killed_child", 1, 0,
       "LOG:  server process (PID 71) was terminated by signal 9: Killed\n",
       Cause::killed_externally, "child_process"},
      {"nginx_config", 1, 0, "nginx: [emerg] unknown directive \"x\" in nginx.conf:3\n",
       Cause::exit_failure, "exit_code_1"},
  };
}

class Outputs : public ::testing::TestWithParam<Row> {};

TEST_P(Outputs, GiveTheVerdictOfTheTable) {
  const Row& row = GetParam();
  for (const bool on_stderr : {true, false}) {
    SCOPED_TRACE(on_stderr ? "stderr" : "stdout");
    const Classification found = classify(on_stderr ? facts_of(row.code, row.signal, row.text)
                                                    : facts_of(row.code, row.signal, {}, row.text));
    EXPECT_EQ(to_string(found.cause), to_string(row.cause));
    EXPECT_EQ(found.subtype, row.subtype);
    ASSERT_FALSE(found.evidence.empty());
    EXPECT_TRUE(found.evidence.front().starts_with(row.evidence)) << found.evidence.front();
    for (const std::string& line : found.evidence) EXPECT_EQ(line.find('\n'), line.npos) << line;
  }
}
constexpr auto kName = [](const auto& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Texts, Outputs, ::testing::ValuesIn(rows()), kName);

TEST(Output, IsWeakerThanTheCrashPage) {
  for (const Row& row : rows()) {
    CrashFacts facts = facts_of(0, SIGSEGV, row.text, row.text);
    facts.signal.signal = SIGSEGV;
    facts.signal.code = SEGV_MAPERR;
    EXPECT_EQ(to_string(classify(facts).cause), "null_dereference") << row.name;
    facts = facts_of(0, SIGABRT, row.text, row.text);
    facts.signal.signal = SIGABRT;
    facts.signal.code = SI_TKILL;
    facts.signal.sender_pid = facts.pid;
    facts.message = "engine: book.cc:41: settle: Assertion `x' failed.";
    EXPECT_EQ(to_string(classify(facts).cause), "assertion_failure") << row.name;
  }
}

TEST(Output, IsWeakerThanTheKernelsWord) {
  for (const Row& row : rows()) {
    CrashFacts facts = facts_of(0, SIGKILL, row.text, row.text);
    EXPECT_EQ(to_string(classify(facts).cause), "killed_externally") << row.name;
    facts.kernel_lines = {"Out of memory: Killed process 4711 (engine)"};
    EXPECT_EQ(to_string(classify(facts).cause), "out_of_memory") << row.name;
    facts = facts_of(0, SIGSEGV, row.text, row.text);
    facts.kernel_lines = {"engine[4711]: segfault at 8 ip 0055 sp 007f error 6 in engine[55+1]"};
    EXPECT_EQ(to_string(classify(facts).cause), "null_dereference") << row.name;
  }
}

TEST(Output, TellsOfAFaultWhoseHandlerRaisedItAgain) {
  CrashFacts facts = facts_of(0, SIGSEGV, "Fatal Python error: Segmentation fault\n");
  facts.signal.signal = SIGSEGV;
  facts.signal.code = SI_TKILL;
  facts.signal.sender_pid = facts.pid;
  EXPECT_EQ(classify(facts).subtype, "");
  EXPECT_EQ(classify(facts).evidence.front(), "Fatal Python error: Segmentation fault");
  facts.stderr_tail.clear();
  EXPECT_EQ(classify(facts).subtype, "raised_by_itself");
}

TEST(Output, OfACleanExitDecidesNothing) {
  for (const Row& row : rows()) {
    EXPECT_EQ(to_string(classify(facts_of(0, 0, row.text)).cause), "clean_exit") << row.name;
  }
}

TEST(Output, WhateverItIsGivesAVerdict) {
  // Every text cut at every place, under every ending.
  for (const Row& row : rows()) {
    for (std::size_t size = 0; size <= row.text.size(); ++size) {
      const Classification found =
          classify(facts_of(row.code, row.signal, row.text.substr(0, size)));
      EXPECT_NE(found.cause, Cause::unknown);
      EXPECT_LE(found.confidence, 1.0);
      EXPECT_FALSE(found.evidence.empty());
    }
  }
}

TEST(LastLines, AreTheOnesThatAreNotEmpty) {
  EXPECT_THAT(last_lines("a\n\nb\nc\n\n", 2), ::testing::ElementsAre("b", "c"));
  EXPECT_THAT(last_lines("", 2), ::testing::IsEmpty());
}

}  // namespace
}  // namespace defib::postmortem
