#include "defib/recovery/procedure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <stdexcept>
#include <thread>

namespace defib::recovery {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

Result<> ok(StageContext&) {
  return {};
}

// Notes what ran, and gives stages and rollbacks that do it.
struct Notes {
  std::vector<std::string> lines;
  auto run(std::string name) {
    return [this, name = std::move(name)](StageContext&) -> Result<> {
      lines.push_back(name);
      return {};
    };
  }
  auto undo(std::string name) {
    return [this, name = std::move(name)]() -> Result<> {
      lines.push_back("undo " + name);
      return {};
    };
  }
};

TEST(Procedure, StagesRunInOrderOfAdditionExceptWhereTheyNeedOthers) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("order");
  procedure.add("c").after("a").run(notes.run("c"));
  procedure.add("b").run(notes.run("b"));
  procedure.add("a").run(notes.run("a"));
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_TRUE(result.success());
  EXPECT_THAT(notes.lines, ElementsAre("b", "a", "c"));
  EXPECT_EQ(result.stages[0].name, "c");
  EXPECT_EQ(result.find("b")->outcome, StageOutcome::kCompleted);
  EXPECT_EQ(result.find("z"), nullptr);
}

TEST(Procedure, AFailedCriticalStageEndsItWithItsOwnErrorAndUndoesInReverse) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("restore");
  procedure.add("lock").run(notes.run("lock")).rollback(notes.undo("lock"));
  procedure.add("note").run(notes.run("note"));
  procedure.add("load").after("lock").run(notes.run("load")).rollback(notes.undo("load"));
  procedure.add("check").run(
      [](StageContext&) -> Result<> { return Error(Code::kWalCorrupted, "record 7 is damaged"); });
  procedure.add("never").run(notes.run("never"));
  const ProcedureResult result = procedure.execute(clock);
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kWalCorrupted);
  EXPECT_EQ(result.error->cause(), nullptr);
  EXPECT_EQ(result.failed_stage, "check");
  EXPECT_THAT(notes.lines, ElementsAre("lock", "note", "load", "undo load", "undo lock"));
  EXPECT_EQ(result.find("lock")->outcome, StageOutcome::kRolledBack);
  EXPECT_EQ(result.find("note")->outcome, StageOutcome::kCompleted);
  EXPECT_EQ(result.find("check")->outcome, StageOutcome::kFailed);
  EXPECT_EQ(result.find("never")->outcome, StageOutcome::kNotRun);
}

TEST(Procedure, AStageThatNeedsAFailedOneIsNotRunAndNamesIt) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("cache").critical(false).run(
      [](StageContext&) -> Result<> { return Error(Code::kUnavailable, "cache is away"); });
  procedure.add("warm").critical(false).after("cache").run(notes.run("warm"));
  procedure.add("report").critical(false).after("warm").run(notes.run("report"));
  procedure.add("serve").run(notes.run("serve"));
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_TRUE(result.success());
  EXPECT_THAT(notes.lines, ElementsAre("serve"));
  const Error& warm = *result.find("warm")->error;
  EXPECT_EQ(warm.code(), Code::kStageDependencyFailed);
  EXPECT_EQ(warm.field("dependency"), "cache");
  EXPECT_THAT(warm.field("dependency_error"), HasSubstr("cache is away"));
  const Error& report = *result.find("report")->error;
  EXPECT_EQ(report.field("dependency"), "warm");
  EXPECT_EQ(report.root().code(), Code::kUnavailable);
}

TEST(Procedure, ACriticalStageThatNeedsAFailedOneFailsTheProcedure) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("a").run(notes.run("a")).rollback(notes.undo("a"));
  procedure.add("b").critical(false).run(
      [](StageContext&) -> Result<> { return Error(Code::kTimeout, "no answer"); });
  procedure.add("c").after("b").run(notes.run("c"));
  const ProcedureResult result = procedure.execute(clock);
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kStageDependencyFailed);
  EXPECT_EQ(result.failed_stage, "c");
  EXPECT_THAT(notes.lines, ElementsAre("a", "undo a"));
}

TEST(Procedure, AStageThatAsksIsToldToStopAtItsLimitAndItsErrorNamesTheProgress) {
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("scan").timeout(seconds(5)).run([&](StageContext& context) -> Result<> {
    for (std::uint64_t i = 0;; ++i) {
      if (context.should_stop()) return context.stop_error();
      context.progress(i, 100, "segments");
      clock.advance(seconds(1));
    }
  });
  const ProcedureResult result = procedure.execute(clock);
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kStageTimedOut);
  EXPECT_EQ(result.error->field("stage"), "scan");
  EXPECT_EQ(result.error->field("timeout_seconds"), "5");
  EXPECT_EQ(result.error->field("progress"), "4 of 100 (segments)");
  EXPECT_EQ(result.error->field("overrun_seconds"), "0");
  EXPECT_EQ(result.error->field("asked_whether_to_stop"), "yes");
  EXPECT_EQ(result.find("scan")->outcome, StageOutcome::kTimedOut);
}

TEST(Procedure, AStageThatNeverAsksIsReportedWithItsOvershoot) {
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("blind").timeout(seconds(5)).run([&](StageContext&) -> Result<> {
    clock.advance(milliseconds(7500));
    return {};
  });
  const ProcedureResult result = procedure.execute(clock);
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kStageTimedOut);
  EXPECT_EQ(result.error->field("overrun_seconds"), "2.5");
  EXPECT_EQ(result.error->field("asked_whether_to_stop"), "no");
  EXPECT_THAT(result.error->message(), HasSubstr("never asked whether it should stop"));
  EXPECT_EQ(result.find("blind")->duration, milliseconds(7500));
}

TEST(Procedure, AnOverdueStageIsVisibleInProgressWhileItRuns) {
  os::FakeClock clock;
  Procedure procedure("p");
  bool overdue = false;
  procedure.add("stuck").timeout(seconds(5)).run([&](StageContext&) -> Result<> {
    clock.advance(seconds(6));
    const Progress seen = procedure.progress();
    overdue = clock.mono_ns() - seen.stage_started_mono_ns > seen.time_limit.count();
    return {};
  });
  static_cast<void>(procedure.execute(clock));
  EXPECT_TRUE(overdue);
}

TEST(Procedure, AStageThatSucceedsTooLateIsUndoneButStaysTimedOut) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("early").run(notes.run("early")).rollback(notes.undo("early"));
  procedure.add("late")
      .timeout(seconds(1))
      .run([&](StageContext&) -> Result<> {
        clock.advance(seconds(1));
        return {};
      })
      .rollback(notes.undo("late"));
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_THAT(notes.lines, ElementsAre("early", "undo late", "undo early"));
  EXPECT_EQ(result.find("late")->outcome, StageOutcome::kTimedOut);
  EXPECT_TRUE(result.find("late")->rolled_back);
}

TEST(Procedure, ALateStagesOwnErrorIsKeptAsTheCause) {
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("late").timeout(seconds(1)).run([&](StageContext&) -> Result<> {
    clock.advance(seconds(2));
    return Error(Code::kIoError, "bad sector");
  });
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_EQ(result.error->code(), Code::kStageTimedOut);
  EXPECT_EQ(result.error->root().code(), Code::kIoError);
}

TEST(Procedure, AFailedRollbackDoesNotStopTheOthersAndNamesWhatToDoByHand) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("a").run(ok).rollback(notes.undo("a"));
  procedure.add("b").run(ok).rollback(
      [&]() -> Result<> { return Error(Code::kPermissionDenied, "read-only file system"); },
      "remove /srv/x/lock");
  procedure.add("c").run(ok).rollback(
      []() -> Result<> { throw std::runtime_error("no connection"); });
  procedure.add("d").run(
      [](StageContext&) -> Result<> { return Error(Code::kWalCorrupted, "record 7 is damaged"); });
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_THAT(notes.lines, ElementsAre("undo a"));
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kRollbackFailed);
  ASSERT_NE(result.error->cause(), nullptr);
  EXPECT_EQ(result.error->cause()->code(), Code::kWalCorrupted);
  EXPECT_EQ(result.failed_stage, "d");
  for (const char* part :
       {"b: remove /srv/x/lock", "read-only file system", "c: ", "no connection"}) {
    EXPECT_THAT(result.error->message(), HasSubstr(part));
    EXPECT_THAT(result.error->suggested_action(), HasSubstr(part));
  }
  EXPECT_EQ(result.find("b")->outcome, StageOutcome::kRollbackFailed);
  EXPECT_EQ(result.find("b")->rollback_error->code(), Code::kPermissionDenied);
  EXPECT_EQ(result.find("c")->rollback_error->code(), Code::kCallbackThrew);
  EXPECT_EQ(result.find("a")->outcome, StageOutcome::kRolledBack);
}

TEST(Procedure, WhatIsAlreadyDoneIsSkippedAndUndoneWithTheOthers) {
  os::FakeClock clock;
  Notes notes;
  bool fail = false;
  Procedure procedure("p");
  procedure.add("a")
      .run(notes.run("a"))
      .already_done([] { return true; })
      .rollback(notes.undo("a"));
  procedure.add("b").after("a").run([&](StageContext&) -> Result<> {
    if (fail) return Error(Code::kIoError, "gone");
    return {};
  });
  EXPECT_EQ(procedure.execute(clock).find("a")->outcome, StageOutcome::kSkippedDone);
  EXPECT_TRUE(notes.lines.empty());
  fail = true;
  EXPECT_EQ(procedure.execute(clock).find("a")->outcome, StageOutcome::kRolledBack);
  EXPECT_THAT(notes.lines, ElementsAre("undo a"));
}

TEST(Procedure, ExceptionsBecomeErrorsThatCarryTheirText) {
  os::FakeClock clock;
  for (const bool standard : {true, false}) {
    Procedure procedure("p");
    procedure.add("throws").run([&](StageContext&) -> Result<> {
      if (standard) throw std::runtime_error("index 9 of 3");
      throw 42;
    });
    const ProcedureResult result = procedure.execute(clock);
    ASSERT_FALSE(result.success());
    EXPECT_EQ(result.error->code(), Code::kCallbackThrew);
    EXPECT_EQ(result.error->field("stage"), "throws");
    EXPECT_THAT(result.error->message(), HasSubstr(standard ? "index 9 of 3" : "not a std::"));
  }
  Procedure procedure("p");
  procedure.add("asks").run(ok).already_done([]() -> bool { throw std::runtime_error("no dir"); });
  EXPECT_EQ(procedure.execute(clock).error->code(), Code::kCallbackThrew);
}

TEST(Procedure, AThrowingObserverEndsNothingAndIsReported) {
  struct Bad : Procedure::Observer {
    void stage_started(const StageRecord&) override { throw std::runtime_error("disk full"); }
  } bad;
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("a").run(ok);
  const ProcedureResult result = procedure.execute(clock, &bad);
  EXPECT_TRUE(result.success());
  ASSERT_TRUE(result.observer_error);
  EXPECT_THAT(result.observer_error->message(), HasSubstr("disk full"));
}

TEST(Procedure, TheObserverSeesEveryStageOnceWithItsOutcome) {
  struct Seen : Procedure::Observer {
    std::vector<std::string> lines;
    void procedure_started(const Procedure& p) override { lines.push_back("begin " + p.name()); }
    void stage_started(const StageRecord& r) override { lines.push_back("start " + r.name); }
    void stage_finished(const StageRecord& r) override {
      lines.push_back(r.name + " " + std::string(to_string(r.outcome)));
    }
    void progressed(const Progress& p) override {
      if (!p.rolling_back) lines.push_back("at " + std::to_string(p.done));
    }
    void rollback_finished(const StageRecord& r) override {
      lines.push_back(r.name + " " + std::string(to_string(r.outcome)));
    }
    void procedure_finished(const ProcedureResult& r) override {
      lines.push_back(r.success() ? "success" : "failure");
    }
  } seen;
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("done").run(ok).already_done([] { return true; });
  procedure.add("a")
      .run([](StageContext& context) -> Result<> {
        context.progress(3, 9, "rows");
        context.metric("rows", "9");
        return {};
      })
      .rollback([]() -> Result<> { return {}; });
  procedure.add("b").critical(false).run(
      [](StageContext&) -> Result<> { return Error(Code::kTimeout, "no"); });
  procedure.add("c").after("b").run(ok);
  const ProcedureResult result = procedure.execute(clock, &seen);
  EXPECT_THAT(seen.lines, ElementsAre("begin p", "done skipped_done", "start a", "at 3",
                                      "a completed", "start b", "b failed", "c dependency_failed",
                                      "a rolled_back", "failure"));
  EXPECT_THAT(result.find("a")->metrics, ElementsAre(testing::Pair("rows", "9")));
}

TEST(Procedure, AContradictoryOneIsRefusedBeforeAnythingRuns) {
  os::FakeClock clock;
  Notes notes;
  const auto expect_invalid = [&](Procedure& procedure, std::string_view message) {
    const ProcedureResult result = procedure.execute(clock);
    ASSERT_FALSE(result.success());
    EXPECT_EQ(result.error->code(), Code::kProcedureInvalid);
    EXPECT_THAT(result.error->message(), HasSubstr(std::string(message)));
    EXPECT_TRUE(notes.lines.empty());
  };
  Procedure unknown("p");
  unknown.add("a").after("z").run(notes.run("a"));
  expect_invalid(unknown, "stage a needs z, which does not exist");
  Procedure twice("p");
  twice.add("a").run(notes.run("a"));
  twice.add("a").run(notes.run("a"));
  expect_invalid(twice, "two stages are called a");
  Procedure circle("p");
  circle.add("x").run(notes.run("x"));
  circle.add("a").after("c").run(notes.run("a"));
  circle.add("b").after("a").run(notes.run("b"));
  circle.add("c").after("x").after("b").run(notes.run("c"));
  circle.add("d").after("c").run(notes.run("d"));
  expect_invalid(circle, "c needs b needs a needs c");
  Procedure self("p");
  self.add("a").after("a").run(notes.run("a"));
  expect_invalid(self, "a needs a");
  Procedure nothing("p");
  nothing.add("a");
  expect_invalid(nothing, "nothing to run");
  Procedure limit("p");
  limit.add("a").timeout(seconds(0)).run(notes.run("a"));
  expect_invalid(limit, "not positive");
  Procedure nameless("p");
  nameless.add("").run(notes.run("a"));
  expect_invalid(nameless, "no name");
}

TEST(Procedure, AnEmptyOneSucceeds) {
  os::FakeClock clock;
  EXPECT_TRUE(Procedure("p").execute(clock).success());
}

TEST(Procedure, AbortBeforeExecuteRunsNothingAndIsUsedUp) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("a").run(notes.run("a"));
  procedure.abort();
  EXPECT_EQ(procedure.execute(clock).error->code(), Code::kProcedureAborted);
  EXPECT_TRUE(notes.lines.empty());
  EXPECT_TRUE(procedure.execute(clock).success());
}

TEST(Procedure, AnAbortEndsALimitlessStageThatAsksAndUndoesWhatWasDone) {
  Notes notes;
  std::latch running(1);
  Procedure procedure("p");
  procedure.add("a").run(notes.run("a")).rollback(notes.undo("a"));
  procedure.add("b").timeout(std::chrono::hours(1)).run([&](StageContext& context) -> Result<> {
    running.count_down();
    while (!context.should_stop()) std::this_thread::yield();
    return context.stop_error();
  });
  procedure.add("c").run(notes.run("c"));
  std::jthread aborter([&] {
    running.wait();
    procedure.abort();
  });
  const ProcedureResult result = procedure.execute(os::real_clock());
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kProcedureAborted);
  EXPECT_EQ(result.find("b")->outcome, StageOutcome::kAborted);
  EXPECT_TRUE(result.failed_stage.empty());
  EXPECT_THAT(notes.lines, ElementsAre("a", "undo a"));
}

TEST(Procedure, AnAbortSaysAtWhichStageItCameAndHowFarThatWas) {
  os::FakeClock clock;
  Procedure inside("p");
  inside.add("a").run([](StageContext&) -> Result<> { return {}; });
  inside.add("b").run([&](StageContext& context) -> Result<> {
    context.progress(3, 8, "loaves");
    inside.abort();
    return context.should_stop() ? Result<>(context.stop_error()) : Result<>();
  });
  const ProcedureResult in_b = inside.execute(clock);
  EXPECT_EQ(in_b.error->code(), Code::kProcedureAborted);
  EXPECT_EQ(in_b.error->field("stage"), "b");
  EXPECT_EQ(in_b.error->field("progress"), "3 of 8 (loaves)");

  Procedure between("p");
  between.add("a").run([&](StageContext&) -> Result<> {
    between.abort();
    return {};
  });
  between.add("b").run([](StageContext&) -> Result<> { return {}; });
  const ProcedureResult before_b = between.execute(clock);
  EXPECT_EQ(before_b.error->field("stage"), "b");
  EXPECT_EQ(before_b.error->field("progress"), "it had not begun");
  EXPECT_EQ(before_b.find("b")->outcome, StageOutcome::kNotRun);
}

TEST(Procedure, ProgressTellsPercentAndTheTimeThatIsLeft) {
  using std::chrono::seconds;
  os::FakeClock clock;
  struct Watcher : Procedure::Observer {
    void progressed(const Progress& progress) override { told.push_back(progress); }
    std::vector<Progress> told;
  } watcher;
  Procedure procedure("p");
  procedure.add("a").run([&](StageContext& context) -> Result<> {
    context.progress(0, 200, "bytes");
    clock.advance(seconds(3));
    context.progress(50, 200, "bytes");
    clock.advance(seconds(3));
    context.progress(200, 200, "bytes");
    context.progress(7, 0, "bytes");
    return {};
  });
  ASSERT_TRUE(procedure.execute(clock, &watcher).success());
  ASSERT_EQ(watcher.told.size(), 4U);
  EXPECT_EQ(watcher.told[0].percent(), 0);
  EXPECT_EQ(watcher.told[0].time_left(), std::nullopt);
  EXPECT_EQ(watcher.told[1].percent(), 25);
  EXPECT_EQ(watcher.told[1].time_left(), os::Duration(seconds(9)));
  EXPECT_EQ(watcher.told[2].percent(), 100);
  EXPECT_EQ(watcher.told[2].time_left(), os::Duration::zero());
  EXPECT_EQ(watcher.told[3].percent(), 0) << "of no known total";
  EXPECT_EQ(watcher.told[3].time_left(), std::nullopt);
  EXPECT_TRUE(procedure.has_stage("a"));
  EXPECT_FALSE(procedure.has_stage("b"));
}

TEST(Procedure, AnAbortedStagesOwnErrorIsKeptAsTheCause) {
  os::FakeClock clock;
  Procedure procedure("p");
  procedure.add("a").critical(false).run([&](StageContext&) -> Result<> {
    procedure.abort();
    return Error(Code::kIoError, "bad sector");
  });
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_EQ(result.error->code(), Code::kProcedureAborted);
  EXPECT_EQ(result.error->root().code(), Code::kIoError);
}

TEST(Procedure, AStageThatCompletesDespiteTheAbortIsUndone) {
  os::FakeClock clock;
  Notes notes;
  Procedure procedure("p");
  procedure.add("a")
      .run([&](StageContext&) -> Result<> {
        procedure.abort();
        return {};
      })
      .rollback(notes.undo("a"));
  const ProcedureResult result = procedure.execute(clock);
  EXPECT_EQ(result.error->code(), Code::kProcedureAborted);
  EXPECT_EQ(result.find("a")->outcome, StageOutcome::kRolledBack);
}

TEST(Procedure, ProgressIsSeenWholeFromOtherThreads) {
  std::latch watched(1);
  std::atomic<bool> ended = false;
  Procedure procedure("p");
  procedure.add("count").run([&](StageContext& context) -> Result<> {
    for (std::uint64_t i = 1; i <= 1000 || !watched.try_wait(); ++i) {
      context.progress(i, i * 2, std::to_string(i));
    }
    return {};
  });
  std::jthread watcher([&] {
    std::uint64_t last = 0;
    int distinct = 0;
    while (!ended && distinct < 10) {
      const Progress seen = procedure.progress();
      if (seen.done == 0) continue;
      EXPECT_EQ(seen.stage, "count");
      EXPECT_EQ(seen.total, seen.done * 2);
      EXPECT_EQ(seen.what, std::to_string(seen.done));
      EXPECT_GE(seen.done, last);
      if (seen.done > last) ++distinct;
      last = seen.done;
    }
    watched.count_down();
  });
  EXPECT_TRUE(procedure.execute(os::real_clock()).success());
  ended = true;
}

TEST(Procedure, ALimitHoldsByTheRealClock) {
  Procedure procedure("p");
  procedure.add("spin").timeout(milliseconds(20)).run([](StageContext& context) -> Result<> {
    while (!context.should_stop()) std::this_thread::yield();
    return context.stop_error();
  });
  const ProcedureResult result = procedure.execute(os::real_clock());
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kStageTimedOut);
  EXPECT_GE(result.find("spin")->duration, milliseconds(20));
}

}  // namespace
}  // namespace defib::recovery
