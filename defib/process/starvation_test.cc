#include "defib/process/starvation.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>

namespace defib::process {
namespace {

using recovery::Verdict;
using std::chrono::milliseconds;

constexpr pid_t kPid = 100;
constexpr os::Duration kDeadline = milliseconds(100);

// --- The rules, over all of their input. ---

// What ought to be decided, written down a second time and differently.
Verdict expected(const StallFacts& facts) {
  if (facts.has_beaten || facts.ending) return Verdict::kRefuse;
  const bool by_others = facts.frozen || facts.tracer != 0 || facts.disk_wait >= facts.deadline;
  if (by_others) return Verdict::kMonitorOnly;
  if (facts.lock != LockFact::kCycle) {
    const bool starved = facts.available < facts.deadline - facts.deadline / 16;
    const bool doubtful = facts.supervisor_late > facts.deadline / 8;
    const bool perhaps_others =
        facts.depends_on_others && facts.runnable_per_cpu >= 2 && facts.silent < 2 * facts.deadline;
    const bool at_rest = facts.from_waits && facts.state == 'S' && facts.lock != LockFact::kHeld;
    if (starved || doubtful || perhaps_others || at_rest) return Verdict::kRefuse;
  }
  return Verdict::kAllow;
}

TEST(StallRules, EveryCombinationOfFactsIsDecidedAsWrittenDown) {
  int combinations = 0;
  int hangs = 0;
  const auto bit = [](unsigned bits, int which) { return (bits >> which & 1) != 0; };
  for (unsigned bits = 0; bits < 1u << 11; ++bits) {
    for (const char state : {'R', 'S', 'D', 'T', '-'}) {
      for (const LockFact lock :
           {LockFact::kNone, LockFact::kUnknownHolder, LockFact::kHeld, LockFact::kCycle}) {
        StallFacts facts;
        facts.deadline = kDeadline;
        facts.has_beaten = bit(bits, 0);
        facts.ending = bit(bits, 1);
        facts.frozen = bit(bits, 2);
        facts.tracer = bit(bits, 3) ? 7 : 0;
        facts.available = bit(bits, 4) ? kDeadline : kDeadline / 2;
        facts.supervisor_late = bit(bits, 5) ? kDeadline / 2 : os::Duration(0);
        facts.disk_wait = bit(bits, 6) ? kDeadline : os::Duration(0);
        facts.depends_on_others = bit(bits, 7);
        facts.runnable_per_cpu = bit(bits, 8) ? 25 : 0.5;
        facts.silent = bit(bits, 9) ? 2 * kDeadline : kDeadline;
        facts.from_waits = bit(bits, 10);
        facts.state = state;
        facts.lock = lock;
        const recovery::Decision decision = judge_stall(facts, {});
        ASSERT_EQ(decision.verdict, expected(facts)) << decision.explain();
        ++combinations;
        hangs += decision.verdict == Verdict::kAllow ? 1 : 0;
        // What must hold whatever the table says.
        const bool starved = facts.available < kDeadline * 15 / 16;
        if (starved && lock != LockFact::kCycle) {
          ASSERT_NE(decision.verdict, Verdict::kAllow) << "a starved service was taken for hung";
        }
        if (decision.verdict != Verdict::kAllow) {
          ASSERT_NE(decision.rule, "none");
          ASSERT_FALSE(decision.explain().empty());
        }
      }
    }
  }
  std::printf("%d combinations, %d of them a hang\n", combinations, hangs);
  EXPECT_EQ(combinations, 40'960);
  EXPECT_GT(hangs, 0);
}

TEST(StallRules, TheLimitsAreWhereTheyAreSaidToBe) {
  StallFacts facts;
  facts.deadline = milliseconds(160);
  facts.silent = milliseconds(160);
  facts.state = 'S';
  facts.available = milliseconds(150);
  EXPECT_EQ(judge_stall(facts, {}).verdict, Verdict::kAllow);
  facts.available = milliseconds(150) - os::Duration(1);
  EXPECT_EQ(judge_stall(facts, {}).rule, "kept_from_running");
  facts.available = milliseconds(160);
  facts.supervisor_late = milliseconds(20);
  EXPECT_EQ(judge_stall(facts, {}).verdict, Verdict::kAllow);
  facts.supervisor_late += os::Duration(1);
  EXPECT_EQ(judge_stall(facts, {}).rule, "supervisor_late");
}

TEST(StallRules, AVerdictSaysWhatItSawAndWhatWouldFlipIt) {
  StallFacts facts;
  facts.deadline = kDeadline;
  facts.silent = milliseconds(230);
  facts.available = milliseconds(12);
  facts.hindrance = Hindrance::kProcessor;
  facts.state = 'R';
  const recovery::Decision decision = judge_stall(facts, {{4711, 'R', milliseconds(3)}});
  EXPECT_EQ(decision.rule, "kept_from_running");
  const std::string text = decision.explain();
  EXPECT_NE(text.find("12.0 ms of 230 ms of silence (hindered by: processor)"), std::string::npos)
      << text;
  EXPECT_NE(text.find("81.8 ms more of silence in which it can run"), std::string::npos) << text;
  EXPECT_EQ(decision.evidence["threads"].items().at(0)["tid"].as_int(), 4711);
  // It can be held against its evidence again, away from here.
  EXPECT_TRUE(recovery::Decision::from_json(decision.to_json()));
}

TEST(StallRules, EachKindOfHangHasItsName) {
  const auto kind = [](char state, LockFact lock = LockFact::kNone) {
    StallFacts facts;
    facts.state = state;
    facts.lock = lock;
    return hang_kind(facts);
  };
  EXPECT_EQ(kind('R'), "busy_loop");
  EXPECT_EQ(kind('S'), "asleep");
  EXPECT_EQ(kind('S', LockFact::kCycle), "deadlock");
  EXPECT_EQ(kind('T'), "stopped");
  EXPECT_EQ(kind('-'), "thread_ended");
}

// --- The account, over time. ---

class FakeThreads : public ThreadView {
 public:
  std::map<pid_t, ThreadFacts> all;
  std::map<pid_t, LockWait> locks;
  std::map<pid_t, std::string> sleeping_in;
  Surroundings around;
  os::Duration own_delay{0};
  mutable std::function<void()> at_second_look;  // between two readings of a lock

  std::optional<ThreadFacts> thread(pid_t, pid_t tid) const override {
    const auto found = all.find(tid);
    return found != all.end() ? std::optional(found->second) : std::nullopt;
  }
  std::vector<ThreadFacts> threads(pid_t) const override {
    std::vector<ThreadFacts> list;
    for (const auto& [tid, facts] : all) list.push_back(facts);
    return list;
  }
  LockWait lock_wait(pid_t, pid_t tid) const override {
    const auto found = locks.find(tid);
    const LockWait wait = found != locks.end() ? found->second : LockWait{};
    if (wait.holder == kPid && at_second_look) std::exchange(at_second_look, nullptr)();
    return wait;
  }
  std::string waits_in(pid_t, pid_t tid) const override {
    const auto found = sleeping_in.find(tid);
    return found != sleeping_in.end() ? found->second : "";
  }
  Surroundings surroundings(pid_t) const override { return around; }
  os::Duration own_run_delay() const override { return own_delay; }
};

class Stall : public testing::Test {
 protected:
  Stall() {
    threads_.all[kPid] = {kPid, 'S', milliseconds(500), milliseconds(40), 100};
    threads_.sleeping_in[kPid] = "hrtimer_nanosleep";
    beat();
  }
  ThreadFacts& main() { return threads_.all[kPid]; }
  // A beat now, and the look that notices it at once.
  void beat() {
    last_beat_ = now_;
    watch_.note_beating(kPid, {{0, kPid, last_beat_}}, now_);
  }
  // Passes time, in which the thread runs and waits for a processor so long.
  void pass(os::Duration time, os::Duration runs = {}, os::Duration waits = {}) {
    now_ += time.count();
    main().cpu += runs;
    main().run_delay += waits;
    if (runs > os::Duration(0)) ++main().turns;
  }
  recovery::Decision look(os::Duration late = {}) {
    HeartbeatWatch::Silence silence;
    silence.tid = tid_;
    silence.last_beat_ns = last_beat_;
    silence.silent_for = os::Duration(now_ - last_beat_);
    silence.deadline = kDeadline;
    judgement_ = watch_.look(kPid, silence, late, now_);
    return judge_stall(judgement_.facts, judgement_.threads);
  }
  bool hangs() { return look().verdict == Verdict::kAllow; }
  // Looked at as often as is asked for.
  bool hangs_within(os::Duration time) {
    for (const std::int64_t end = now_ + time.count(); now_ < end;) {
      pass(wait());
      if (hangs()) return now_ <= end;
    }
    return false;
  }
  // Until the next look that was asked for.
  os::Duration wait() const { return os::Duration(judgement_.look_again_ns - now_); }
  void crowd() { threads_.around.runnable_per_cpu = 25; }

  FakeThreads threads_;
  StallWatch watch_{threads_};
  StallWatch::Judgement judgement_;
  std::int64_t now_ = 1'000'000'000;
  std::int64_t last_beat_ = 0;
  pid_t tid_ = kPid;
};

TEST_F(Stall, ASleeperWithoutABeatHangsAtItsDeadline) {
  pass(kDeadline);
  EXPECT_TRUE(hangs());
  EXPECT_EQ(hang_kind(judgement_.facts), "asleep");
}

TEST_F(Stall, AThreadThatWaitsForAProcessorIsNeverTakenForHung) {
  crowd();
  main().state = 'R';
  pass(kDeadline);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(hangs());
    pass(wait());
  }
  EXPECT_EQ(judgement_.facts.hindrance, Hindrance::kProcessor);
}

TEST_F(Stall, AStarvedThreadThatSleepsBetweenItsTurnsIsNotTakenForHung) {
  // Ten steps a beat: 1 ms of sleep, 95 ms of waiting, 1 ms of work; seen while it sleeps.
  crowd();
  for (int beats = 0; beats < 20; ++beats) {
    for (int step = 0; step < 10; ++step) {
      pass(milliseconds(97), milliseconds(1), milliseconds(95));
      if (now_ - last_beat_ >= kDeadline.count()) {
        ASSERT_FALSE(hangs()) << step;
      }
    }
    beat();
  }
}

TEST_F(Stall, ABusyLoopHangsWhenItHasUsedItsDeadlineOfProcessorTime) {
  crowd();
  main().state = 'R';
  os::Duration ran{0};
  do {
    pass(milliseconds(100), milliseconds(4), milliseconds(96));
    ran += milliseconds(4);
    ASSERT_LE(ran, kDeadline);
  } while (!hangs());
  EXPECT_GE(ran, kDeadline * 15 / 16);
  EXPECT_EQ(hang_kind(judgement_.facts), "busy_loop");
}

TEST_F(Stall, ABusyLoopOnAnIdleMachineHangsAtItsDeadline) {
  main().state = 'R';
  // The kernel accounts the time of a running thread at its ticks only.
  pass(kDeadline);
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, WhatItWaitedForAProcessorIsAddedToItsDeadline) {
  pass(kDeadline, milliseconds(5), milliseconds(60));
  EXPECT_FALSE(hangs());
  // Where much is left it is looked at in the middle too.
  EXPECT_EQ(wait(), milliseconds(30));
  pass(wait());
  EXPECT_FALSE(hangs());
  EXPECT_EQ(wait(), milliseconds(30));
  pass(wait());
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, WhatItRanBeforeItsLastBeatDoesNotCount) {
  crowd();
  main().state = 'R';
  // Noted here, it works for 90 ms, beats, and then gets no processor any more.
  pass(milliseconds(90), milliseconds(90));
  last_beat_ = now_;
  pass(kDeadline);
  EXPECT_FALSE(hangs());
  EXPECT_EQ(judgement_.facts.available.count(), 0);
}

TEST_F(Stall, TheOlderBaselineServesWhereTheNewerOneIsYoungerThanTheBeat) {
  // Looked at every 100 ms, it beats every 50: the look finds a beat that is 50 ms old.
  pass(milliseconds(50));
  last_beat_ = now_;
  pass(milliseconds(50));
  watch_.note_beating(kPid, {{0, kPid, last_beat_}}, now_);
  pass(milliseconds(50));
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, WithoutABaselineASilenceIsJudgedFromTheFirstLookOn) {
  watch_ = StallWatch(threads_);
  pass(10 * kDeadline);
  EXPECT_FALSE(hangs());
  EXPECT_TRUE(hangs_within(kDeadline));
}

class StallOnLocks : public Stall {
 protected:
  static constexpr pid_t kOther = 101;
  StallOnLocks() {
    threads_.all[kOther] = {kOther, 'S', milliseconds(10), milliseconds(5), 10};
    threads_.sleeping_in[kPid] = "futex_wait_queue";
    threads_.sleeping_in[kOther] = "futex_wait_queue";
    threads_.locks[kPid] = {LockWait::Kind::kHeld, kOther, 0x1000};
  }
  ThreadFacts& other() { return threads_.all[kOther]; }
  void close_cycle() { threads_.locks[kOther] = {LockWait::Kind::kHeld, kPid, 0x2000}; }
};

TEST_F(StallOnLocks, ACycleIsADeadlockAtTheFirstLookWhateverTheLoad) {
  crowd();
  close_cycle();
  threads_.all[102] = {102, 'R', milliseconds(10), milliseconds(900), 10};  // a hog in the service
  pass(kDeadline, milliseconds(1), milliseconds(90));
  EXPECT_TRUE(hangs());
  EXPECT_EQ(hang_kind(judgement_.facts), "deadlock");
}

TEST_F(StallOnLocks, AThreadThatWaitsForItsOwnLockIsADeadlock) {
  crowd();
  threads_.locks[kPid].holder = kPid;
  pass(kDeadline);
  EXPECT_TRUE(hangs());
  EXPECT_EQ(hang_kind(judgement_.facts), "deadlock");
}

TEST_F(StallOnLocks, ACycleOfWhichAThreadMovedMeanwhileIsNone) {
  crowd();
  close_cycle();
  threads_.at_second_look = [&] { ++other().turns; };
  pass(kDeadline);
  EXPECT_FALSE(hangs());
  EXPECT_NE(judgement_.facts.lock, LockFact::kCycle);
}

TEST_F(StallOnLocks, AWaitForAHolderThatIsStarvedIsNeverAHang) {
  crowd();
  other().state = 'R';
  pass(kDeadline);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(hangs());
    const os::Duration step = wait();
    pass(step);
    other().run_delay += step / 2;
  }
  EXPECT_EQ(judgement_.facts.hindrance, Hindrance::kHolder);
}

TEST_F(StallOnLocks, AHolderThatJustGotTheLockFromAStarvedOneDoesNotAnswerForIt) {
  constexpr pid_t kThird = 102;
  threads_.all[kThird] = other();
  threads_.all[kThird].tid = kThird;
  crowd();
  pass(kDeadline);
  EXPECT_FALSE(hangs());
  // It goes from hand to hand: whoever has it at a look has just slept, the others wait for a turn.
  pid_t holder = kOther;
  for (int i = 0; i < 100; ++i) {
    const os::Duration step = wait();
    pass(step);
    threads_.all[holder].run_delay += step;
    holder = holder == kOther ? kThird : kOther;
    threads_.locks[kPid].holder = holder;
    ASSERT_FALSE(hangs()) << i;
  }
}

TEST_F(StallOnLocks, ACrowdThatHasJustGoneIsRemembered) {
  threads_.around.load_per_cpu = 3;
  pass(kDeadline);
  EXPECT_FALSE(hangs());
  EXPECT_EQ(judgement_.facts.hindrance, Hindrance::kHolder);
  threads_.around.load_per_cpu = 0;
  threads_.around.cpu_pressure = 40;
  EXPECT_TRUE(hangs_within(
      kDeadline));  // from the first look on the holder was seen, and it was not starved
}

TEST_F(Stall, AThreadThatWokeWhenTheCrowdWasGoneIsNoBusyLoop) {
  threads_.around.cpu_pressure = 40;
  main().state = 'R';
  pass(kDeadline, milliseconds(1));
  EXPECT_FALSE(hangs());
}

TEST_F(StallOnLocks, AWaitForAHolderThatSleepsIsAHangWithinThreeDeadlines) {
  crowd();
  threads_.sleeping_in[kOther] = "do_poll";
  pass(kDeadline);
  while (!hangs()) {
    pass(wait());
    ASSERT_LE(now_ - last_beat_, 3 * kDeadline.count());
  }
}

TEST_F(StallOnLocks, AWaitThatNamesNoHolderIsHeldWhileAnotherThreadIsStarved) {
  threads_.locks[kPid] = {LockWait::Kind::kUnknownHolder, 0, 0x1000};
  crowd();
  other().state = 'R';
  pass(kDeadline);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(hangs());
    pass(wait());
  }
  EXPECT_EQ(judgement_.facts.hindrance, Hindrance::kOtherThreads);
  // The load goes, the wait does not.
  threads_.around.runnable_per_cpu = 0.5;
  int looks = 0;
  while (!hangs()) {
    pass(wait());
    ASSERT_LE(++looks, 3);
  }
}

TEST_F(StallOnLocks, AWaitThatNamesNoHolderIsAHangWhenNobodyIsStarved) {
  threads_.locks[kPid] = {LockWait::Kind::kUnknownHolder, 0, 0x1000};
  pass(kDeadline);
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, AWaitForAnotherProcessGetsASecondDeadlineInACrowd) {
  threads_.sleeping_in[kPid] = "unix_stream_read_generic";
  crowd();
  pass(kDeadline);
  EXPECT_EQ(look().rule, "crowded");
  while (!hangs()) pass(wait());
  EXPECT_GE(now_ - last_beat_, 2 * kDeadline.count());
  EXPECT_LE(now_ - last_beat_, 3 * kDeadline.count());
}

TEST_F(Stall, AFrozenServiceIsToldAndItsFrozenTimeDoesNotCount) {
  threads_.around.frozen = true;
  pass(kDeadline);
  for (int i = 0; i < 10; ++i) {
    const recovery::Decision decision = look();
    ASSERT_EQ(decision.rule, "frozen") << decision.explain();
    pass(wait());
  }
  threads_.around.frozen = false;  // within the last window
  EXPECT_FALSE(hangs());
  pass(kDeadline);
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, AWaitForADiskIsAnAlertAndNoKill) {
  main().state = 'D';
  pass(kDeadline);
  for (int i = 0; i < 100; ++i) {
    ASSERT_FALSE(hangs());
    pass(wait());
  }
  EXPECT_EQ(look().rule, "waits_for_disk");
  // Back from the disk, it has its whole deadline.
  main().state = 'S';
  ++main().turns;
  EXPECT_FALSE(hangs());
  pass(kDeadline);
  EXPECT_TRUE(hangs());
}

TEST_F(Stall, AStoppedProcessHangsAlsoInACrowd) {
  crowd();
  main().state = 'T';
  pass(kDeadline);
  EXPECT_TRUE(hangs());
  EXPECT_EQ(hang_kind(judgement_.facts), "stopped");
}

TEST_F(Stall, ADebuggedServiceIsNotKilled) {
  threads_.around.tracer = 4242;
  main().state = 't';
  pass(kDeadline);
  EXPECT_EQ(look().verdict, Verdict::kMonitorOnly);
}

TEST_F(Stall, ALookThatCameTooLateForNoReasonIsNoEvidence) {
  // The whole machine stood still, say.
  pass(20 * kDeadline);
  EXPECT_FALSE(look(19 * kDeadline).verdict == Verdict::kAllow);
  EXPECT_TRUE(hangs_within(kDeadline));
}

TEST_F(Stall, LatenessThatIsOurOwnWaitForAProcessorIsExplained) {
  EXPECT_EQ(watch_.unexplained_lateness(now_, now_ + 30'000'000), milliseconds(30));
  threads_.own_delay += milliseconds(28);
  EXPECT_EQ(watch_.unexplained_lateness(now_, now_ + 30'000'000), milliseconds(2));
  EXPECT_EQ(watch_.unexplained_lateness(now_ + 5, now_), os::Duration(0));
}

TEST_F(Stall, AThreadThatEndedWithoutABeatIsAHang) {
  threads_.all[101] = {101, 'S', milliseconds(1), milliseconds(0), 1};
  threads_.all.erase(kPid);
  now_ += kDeadline.count();
  EXPECT_TRUE(hangs());
  EXPECT_EQ(hang_kind(judgement_.facts), "thread_ended");
}

TEST_F(Stall, OfAnUnknownThreadTheMostHinderedOneIsTaken) {
  tid_ = 0;
  pass(kDeadline);
  EXPECT_TRUE(hangs());
  watch_ = StallWatch(threads_);
  crowd();
  main().state = 'R';
  pass(kDeadline);
  for (int i = 0; i < 100; ++i) {
    ASSERT_FALSE(hangs());
    pass(wait());
  }
}

}  // namespace
}  // namespace defib::process
