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
Classification cause_of(os::ExitStatus status, std::string err = {}) {
  return classify_exit({.status = status, .pid = 4711, .err = std::move(err)});
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
    const auto found = cause_of(killed(signal));
    EXPECT_EQ(found.cause, cause);
    EXPECT_EQ(found.signal, os::signal_name(signal));
    EXPECT_FALSE(found.evidence.empty());
    EXPECT_GT(found.confidence, 0);
  }
}

TEST(ExitCause, AKillForTheMemoryLimitIsKnownByTheKernelsCount) {
  process::ExitReport report;
  report.pid = 4711;
  report.status = killed(SIGKILL);
  report.oom_kills = 2;
  report.memory_limit_bytes = 1 << 20;
  const auto found = classify_exit(exit_facts(report, {}));
  EXPECT_EQ(found.cause, "out_of_memory");
  EXPECT_EQ(found.subtype, "cgroup");
  EXPECT_NE(found.evidence.at(0).find("counts 2 processes killed"), std::string::npos);
  EXPECT_NE(found.evidence.back().find("1048576 bytes"), std::string::npos);
  // A count alone does not explain another end, nor one that was asked for.
  report.status = killed(SIGSEGV);
  EXPECT_EQ(classify_exit(exit_facts(report, {})).cause, "segmentation_fault");
  report.status = killed(SIGKILL);
  report.reason = StopReason::kHung;
  EXPECT_EQ(classify_exit(exit_facts(report, {})).cause, "heartbeat_lost");
  report.reason = StopReason::kRequested;
  EXPECT_EQ(classify_exit(exit_facts(report, {})).subtype, "by_supervisor");
  report.reason = StopReason::kNone;
  report.oom_kills = 0;
  EXPECT_EQ(classify_exit(exit_facts(report, {})).cause, "killed_externally");
}

TEST(ExitCause, TheKernelsLogDecidesWhoseTheKillForLackOfMemoryWas) {
  ExitFacts facts = {.status = killed(SIGKILL), .pid = 4711, .oom_kills = 1};
  facts.kernel.complete = true;
  EXPECT_EQ(classify_exit(facts).cause, "killed_externally") << "it was a child's";
  facts.kernel.lines = {"Memory cgroup out of memory: Killed process 4711 (x) total-vm:1kB"};
  EXPECT_EQ(classify_exit(facts).cause, "out_of_memory");
}

TEST(ExitCause, ExitCodesAreToldWithWhatTheyMeanByConvention) {
  EXPECT_EQ(cause_of(exited(0)).cause, "clean_exit");
  const auto three = cause_of(exited(3), "loading\ncannot read x\n");
  EXPECT_EQ(three.cause, "exit_failure");
  EXPECT_EQ(three.subtype, "exit_code_3");
  EXPECT_EQ(three.evidence.back(), "stderr: cannot read x");
  const auto shell = cause_of(exited(139));
  EXPECT_NE(shell.evidence.back().find("SIGSEGV"), std::string::npos);
  EXPECT_EQ(cause_of(exited(127)).subtype, "command_not_found");
}

TEST(ExitCause, TheOutputOfTheRunNamesAnException) {
  const auto found = cause_of(exited(1),
                              "Traceback (most recent call last):\n"
                              "  File \"x.py\", line 3, in <module>\n    main()\n"
                              "ValueError: no such symbol: X\n");
  EXPECT_EQ(found.cause, "uncaught_exception");
  EXPECT_EQ(found.subtype, "ValueError");
  EXPECT_EQ(found.evidence.front(), "ValueError: no such symbol: X");
}

TEST(ExitCause, WhatTheSupervisorDidItselfComesFirst) {
  const std::pair<StopReason, const char*> cases[] = {
      {StopReason::kHung, "heartbeat_lost"},
      {StopReason::kUnhealthy, "health_check_failed"},
      {StopReason::kNotReady, "start_failed"}};
  for (const auto& [reason, cause] : cases) {
    EXPECT_EQ(classify_exit({.status = killed(SIGKILL), .reason = reason}).cause, cause);
  }
  const auto limit = [](const char* what) {
    return classify_exit({.status = killed(SIGTERM), .reason = StopReason::kLimit, .limit = what});
  };
  EXPECT_EQ(limit("memory").cause, "memory_limit");
  EXPECT_EQ(limit("cpu").cause, "cpu_limit");
  EXPECT_EQ(limit("threads").subtype, "threads");
}

TEST(ExitCause, AnUnknownStatusStaysUnknown) {
  const auto found = classify_exit({});
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
