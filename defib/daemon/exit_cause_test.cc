#include "defib/daemon/exit_cause.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace defib::daemon {
namespace {

using process::StopReason;

os::ExitStatus exited(int code) {
  return {.known = true, .exited = true, .code = code, .signal = 0, .core_dumped = false};
}
os::ExitStatus killed(int signal) {
  return {.known = true, .exited = false, .code = 0, .signal = signal, .core_dumped = false};
}

TEST(ExitCause, EachFatalSignalHasItsCause) {
  const std::pair<int, const char*> cases[] = {{SIGSEGV, "segmentation_fault"},
                                               {SIGBUS, "bus_error"},
                                               {SIGILL, "illegal_instruction"},
                                               {SIGFPE, "arithmetic_fault"},
                                               {SIGABRT, "abort"},
                                               {SIGSYS, "bad_system_call"},
                                               {SIGXCPU, "resource_limit"},
                                               {SIGKILL, "killed_externally"},
                                               {SIGTERM, "killed_externally"}};
  for (const auto& [signal, cause] : cases) {
    const auto found = classify_exit(killed(signal), StopReason::kNone, {}, {});
    EXPECT_EQ(found.cause, cause);
    EXPECT_EQ(found.signal, os::signal_name(signal));
    EXPECT_FALSE(found.evidence.empty());
    EXPECT_GT(found.confidence, 0);
  }
}

TEST(ExitCause, AKillForTheMemoryLimitIsKnownByTheKernelsCount) {
  process::ExitReport report;
  report.status = killed(SIGKILL);
  report.oom_kills = 2;
  report.memory_limit_bytes = 1 << 20;
  const auto found = classify_memory_kill(report);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->cause, "out_of_memory");
  EXPECT_EQ(found->subtype, "memory_limit");
  EXPECT_NE(found->evidence.at(1).find("counts 2 processes killed"), std::string::npos);
  // A count alone does not explain another end, nor one that was asked for.
  report.status = killed(SIGSEGV);
  EXPECT_FALSE(classify_memory_kill(report));
  report.status = killed(SIGKILL);
  report.reason = StopReason::kHung;
  EXPECT_FALSE(classify_memory_kill(report));
  report.reason = StopReason::kNone;
  report.oom_kills = 0;
  EXPECT_FALSE(classify_memory_kill(report));
}

TEST(ExitCause, ExitCodesAreToldWithWhatTheyMeanByConvention) {
  EXPECT_EQ(classify_exit(exited(0), StopReason::kNone, {}, {}).cause, "clean_exit");
  const auto three = classify_exit(exited(3), StopReason::kNone, {}, {});
  EXPECT_EQ(three.cause, "exit_failure");
  EXPECT_EQ(three.subtype, "exit_code_3");
  EXPECT_EQ(three.evidence.size(), 1u);
  const auto shell = classify_exit(exited(139), StopReason::kNone, {}, {});
  EXPECT_NE(shell.evidence.back().find("SIGSEGV"), std::string::npos);
  EXPECT_EQ(classify_exit(exited(127), StopReason::kNone, {}, {}).evidence.size(), 2u);
}

TEST(ExitCause, APythonTracebackNamesTheExceptionAlsoWhenTheNextProcessHasWritten) {
  const char* output =
      "starting\nTraceback (most recent call last):\n  File \"x.py\", line 3, in <module>\n"
      "    main()\nValueError: no such symbol: X\nstarting\n";
  const auto found = classify_exit(exited(1), StopReason::kNone, {}, output);
  EXPECT_EQ(found.cause, "uncaught_exception");
  EXPECT_EQ(found.subtype, "ValueError");
  EXPECT_EQ(found.evidence.back(), "ValueError: no such symbol: X");
}

TEST(ExitCause, ACutTracebackIsNoException) {
  const auto found = classify_exit(exited(1), StopReason::kNone, {},
                                   "Traceback (most recent call last):\n  File \"x.py\"");
  EXPECT_EQ(found.cause, "exit_failure");
}

TEST(ExitCause, AbortsAreToldByTheirOutput) {
  const auto exception = classify_exit(
      killed(SIGABRT), StopReason::kNone, {},
      "terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad\n");
  EXPECT_EQ(exception.cause, "uncaught_exception");
  EXPECT_EQ(exception.subtype, "std::runtime_error");
  EXPECT_EQ(exception.signal, "SIGABRT");
  const auto assertion = classify_exit(killed(SIGABRT), StopReason::kNone, {},
                                       "x: x.c:1: main: Assertion `a == b' failed.\n");
  EXPECT_EQ(assertion.cause, "assertion_failure");
}

TEST(ExitCause, WhatTheSupervisorDidItselfComesFirst) {
  const std::pair<StopReason, const char*> cases[] = {
      {StopReason::kHung, "heartbeat_lost"},
      {StopReason::kUnhealthy, "health_check_failed"},
      {StopReason::kNotReady, "start_failed"}};
  for (const auto& [reason, cause] : cases) {
    EXPECT_EQ(classify_exit(killed(SIGKILL), reason, {}, {}).cause, cause);
  }
  EXPECT_EQ(classify_exit(killed(SIGTERM), StopReason::kLimit, "memory", {}).cause, "memory_limit");
  EXPECT_EQ(classify_exit(killed(SIGTERM), StopReason::kLimit, "cpu", {}).cause, "cpu_limit");
}

TEST(ExitCause, AnUnknownStatusStaysUnknown) {
  const auto found = classify_exit({}, StopReason::kNone, {}, {});
  EXPECT_EQ(found.cause, "unknown");
  EXPECT_EQ(found.confidence, 0);
}

TEST(ExitCause, TheDocumentHasEveryMember) {
  const auto json = Classification().to_json();
  for (const char* key :
       {"cause", "subtype", "signal", "fault_address", "evidence", "confidence"}) {
    EXPECT_TRUE(json.has(key)) << key;
  }
  EXPECT_TRUE(json["signal"].is_null());
  EXPECT_TRUE(json["evidence"].is_array());
}

}  // namespace
}  // namespace defib::daemon
