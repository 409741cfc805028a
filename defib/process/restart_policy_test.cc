#include "defib/process/restart_policy.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>

#include "defib/os/sim_files.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;
using Verdict = RestartPlanner::Verdict;
using testing::ElementsAre;
using testing::HasSubstr;

shim::ExitSet set_of(const std::vector<std::string>& words) {
  const auto set = parse_exit_set(words);
  EXPECT_TRUE(set) << set.error().to_text();
  return set ? *set : shim::ExitSet{};
}

shim::ExitInfo end_of(int wait_status, shim::StopReason reason = shim::StopReason::kNone) {
  shim::ExitInfo end{};
  end.source = shim::StatusSource::kWait;
  end.wait_status = wait_status;
  end.reason = reason;
  return end;
}

TEST(ExitSet, CodesRangesAndSignalsByNameAreReadAndWritten) {
  EXPECT_THAT(exit_set_words(set_of({"3", "64-78", "SIGTERM", "INT", "255", "0", "1"})),
              ElementsAre("0", "1", "3", "64-78", "255", "SIGINT", "SIGTERM"));
  EXPECT_TRUE(exit_set_words({}).empty());
  for (const char* bad : {"256", "-1", "", "3-", "9-3", "SIGNOTHING", "1-300", "0x3", " 3"}) {
    const auto set = parse_exit_set({"1", bad});
    ASSERT_FALSE(set) << bad;
    EXPECT_EQ(set.error().field("value"), bad);
  }
}

TEST(ExitSet, ASignalAndAnExitCodeOfTheSameNumberAreTwoEnds) {
  const shim::ExitSet set = set_of({"15", "SIGKILL"});
  EXPECT_TRUE(shim::contains(set, 15 << 8));
  EXPECT_FALSE(shim::contains(set, 15));
  EXPECT_TRUE(shim::contains(set, 9));
  EXPECT_FALSE(shim::contains(set, 9 << 8));
  EXPECT_FALSE(shim::contains(set, 0x7f)) << "stopped is no end";
}

// All policies, all ends, against a second reading of the rule.
TEST(RestartRules, TheStrictestRuleCountsForEveryEndAndEveryCombination) {
  const shim::ExitSet some = set_of({"0", "3", "SIGTERM"});
  for (const auto policy :
       {RestartPolicy::kAlways, RestartPolicy::kOnFailure, RestartPolicy::kNever}) {
    for (int mask = 0; mask < 8; ++mask) {
      ServiceSpec spec;
      spec.restart = policy;
      if ((mask & 1) != 0) spec.success_exit_codes = some;
      if ((mask & 2) != 0) spec.restart_exit_codes = some;
      if ((mask & 4) != 0) spec.no_restart_exit_codes = some;
      for (int number = 0; number < 256 + 64; ++number) {
        const int status = number < 256 ? number << 8 : number - 255;
        const bool named = shim::contains(some, status);
        const bool clean = status == 0 || ((mask & 1) != 0 && named);
        bool expected =
            policy == RestartPolicy::kAlways || (policy == RestartPolicy::kOnFailure && !clean);
        if ((mask & 2) != 0 && named) expected = true;
        if ((mask & 4) != 0 && named) expected = false;
        ASSERT_EQ(wants_restart(spec, end_of(status)), expected)
            << to_string(policy) << " rules " << mask << " status " << status;
        const shim::Ticket ticket = {0, 1, shim_policy(policy), 0, 0, 0, restart_after(spec)};
        ASSERT_EQ(shim::calls_for_restart(ticket, end_of(status)), expected) << "the shim alone";
        ASSERT_FALSE(wants_restart(spec, end_of(status, shim::StopReason::kRequested)));
        ASSERT_EQ(wants_restart(spec, end_of(status, shim::StopReason::kHung)),
                  policy != RestartPolicy::kNever);
      }
    }
  }
}

TEST(RestartRules, ImpossibleCombinationsAreNamed) {
  ServiceSpec spec;
  spec.name = "x";
  spec.argv = {"x"};
  const auto error = [&](auto change) {
    ServiceSpec changed = spec;
    change(changed);
    const auto valid = validate(changed);
    return valid ? std::string() : valid.error().message();
  };
  EXPECT_EQ(error([](ServiceSpec&) {}), "");
  EXPECT_THAT(error([](ServiceSpec& s) {
                s.restart_exit_codes = set_of({"1-9"});
                s.no_restart_exit_codes = set_of({"9", "SIGHUP"});
              }),
              HasSubstr("restart_exit_codes and no_restart_exit_codes both name 9"));
  EXPECT_THAT(error([](ServiceSpec& s) {
                s.restart_exit_codes = set_of({"SIGTERM"});
                s.success_exit_codes = set_of({"SIGTERM"});
              }),
              HasSubstr("both name SIGTERM"));
  EXPECT_THAT(error([](ServiceSpec& s) { s.same_crash_limit = 1; }), HasSubstr("same_crash_limit"));
  EXPECT_THAT(error([](ServiceSpec& s) { s.max_downtime = 2h; }), HasSubstr("restart_window"));
  EXPECT_THAT(error([](ServiceSpec& s) { s.slow_lane_interval = 0s; }), HasSubstr("1s or more"));
  EXPECT_THAT(error([](ServiceSpec& s) { s.monitoring_after = 11; }),
              HasSubstr("max_restarts, which is 10"));
}

struct CrashedAt : postmortem::CrashPage {
  CrashedAt(int number, std::uint64_t pc, std::uint64_t address) : postmortem::CrashPage{} {
    state = 1;
    signal = number;
    signal_code = 1;
    registers[postmortem::kCrashPcRegister] = pc;
    fault_address = address;
  }
};

TEST(Fingerprint, ACrashIsKnownByItsPlaceWhereverTheLoaderPutTheProgram) {
  const os::ExitStatus segv = os::exit_status_from_wait(SIGSEGV);
  const auto print = [&](const postmortem::CrashPage& page) {
    return crash_print(segv, shim::StopReason::kNone, 100, &page);
  };
  const CrashPrint one = print(CrashedAt(SIGSEGV, 0x55550000a2a4, 0));
  EXPECT_TRUE(one.counts() && one.has_place());
  EXPECT_EQ(one.to_string(), "SIGSEGV at pc ..2a4, address 0x0");
  EXPECT_TRUE(same_crash(one, print(CrashedAt(SIGSEGV, 0x7fff1230a2a4, 0))));
  EXPECT_FALSE(same_crash(one, print(CrashedAt(SIGSEGV, 0x55550000a2a8, 0))));
  EXPECT_FALSE(same_crash(one, print(CrashedAt(SIGSEGV, 0x55550000a2a4, 8))));
  EXPECT_FALSE(same_crash(one, crash_print(segv, shim::StopReason::kNone, 100, nullptr)));
}

TEST(Fingerprint, WhatSaysNothingAboutTheProgramIsNoCrashOfIts) {
  const auto counts = [](int status, shim::StopReason reason,
                         const postmortem::CrashPage* page = nullptr) {
    return crash_print(os::exit_status_from_wait(status), reason, 100, page).counts();
  };
  EXPECT_FALSE(counts(SIGKILL, shim::StopReason::kNone));
  EXPECT_FALSE(counts(SIGTERM, shim::StopReason::kNone));
  EXPECT_FALSE(counts(SIGSEGV, shim::StopReason::kHung));
  EXPECT_FALSE(counts(0, shim::StopReason::kNone));
  EXPECT_FALSE(crash_print({}, shim::StopReason::kNone, 100, nullptr).counts());
  EXPECT_TRUE(counts(3 << 8, shim::StopReason::kNone));
  CrashedAt sent(SIGSEGV, 1, 0);
  sent.signal_code = 0;
  sent.sender_pid = 77;
  EXPECT_FALSE(counts(SIGSEGV, shim::StopReason::kNone, &sent)) << "sent by another process";
  sent.sender_pid = 100;
  EXPECT_TRUE(counts(SIGSEGV, shim::StopReason::kNone, &sent)) << "raised by itself";
}

TEST(Fingerprint, AnAbortIsKnownByItsMessageAndAStackOutdoesThePlace) {
  CrashedAt page(SIGABRT, 0x1000, 0);
  const auto print = [&] {
    return crash_print(os::exit_status_from_wait(SIGABRT), shim::StopReason::kNone, 100, &page);
  };
  EXPECT_FALSE(print().has_place()) << "all aborts are at one place of the C library";
  std::snprintf(page.message, sizeof page.message, "x.cc:7: Assertion `a > 0' failed\nmore");
  EXPECT_EQ(print().to_string(), "SIGABRT at x.cc:7: Assertion `a > 0' failed");
  CrashPrint one = print(), other = print();
  EXPECT_TRUE(same_crash(one, other));
  one.stack = "engine+0x10";
  EXPECT_TRUE(same_crash(one, other)) << "the other's capture is not there";
  other.stack = "engine+0x20";
  EXPECT_FALSE(same_crash(one, other));
}

TEST(Fingerprint, AStackIsTheTopFramesOfTheThreadThatCrashed) {
  constexpr std::string_view kReport = R"({"threads":[
    {"crashed":false,"frames":[{"module":"/lib/other.so","offset":"0x1"}]},
    {"crashed":true,"frames":[
      {"module":"/opt/engine","offset":"0x12a4","inlined":true},
      {"module":"/opt/engine","offset":"0x12a4"},{"module":"","offset":"0x5"},
      {"module":"/lib/libc.so.6","offset":"0x20"},{"module":"/opt/engine","offset":"0x9"},
      {"module":"/opt/engine","offset":"0xdd"}]}]})";
  EXPECT_EQ(stack_print(kReport), "engine+0x12a4 libc.so.6+0x20 engine+0x9");
  EXPECT_EQ(stack_print("{}"), "");
  EXPECT_EQ(stack_print(""), "");
}

class Planner : public testing::Test {
 protected:
  Planner() {
    spec_.name = "x";
    spec_.argv = {"x"};
    spec_.restart_delay = 30s;
    EXPECT_TRUE(files_.create_dirs("d"));
    clock_.advance(24h);
  }
  RestartPlanner open() { return RestartPlanner::open(files_, clock_, "d", spec_, os::Random(1)); }
  CrashPrint crash(std::string place) {
    CrashPrint print;
    print.status = "SIGSEGV";
    print.place = std::move(place);
    print.wait_status = SIGSEGV;
    return print;
  }
  // A life of a second, an end, and what follows. The next generation runs then, or never.
  RestartPlanner::Decision round(RestartPlanner& planner, const CrashPrint& print) {
    const auto permit = planner.permit(generation_);
    clock_.advance(1s);
    planner.failed(generation_, clock_.mono_ns(), print);
    const bool held = permit && permit->held_status == print.wait_status;
    if (permit && !held) {
      planner.used();
      clock_.advance(permit->delay);
      planner.started(clock_.mono_ns(), false);
      ++generation_;
      return {Verdict::kStart, permit->delay, std::nullopt};
    }
    const auto decision = planner.decide(generation_);
    if (decision.verdict != Verdict::kStart) return decision;
    clock_.advance(decision.delay);
    EXPECT_EQ(planner.start_now(generation_).verdict, Verdict::kStart);
    planner.started(clock_.mono_ns(), false);
    ++generation_;
    return decision;
  }

  os::SimFiles files_;
  os::FakeClock clock_;
  ServiceSpec spec_;
  std::uint64_t generation_ = 1;
};

TEST_F(Planner, TheFirstRestartIsAtOnceTheNextWaitALittleMoreThanTheDelayAndNeverMoreThanTheCap) {
  spec_.max_restarts = 100;
  RestartPlanner planner = open();
  EXPECT_EQ(round(planner, {}).delay, 0s);
  bool jitter = false;
  for (const auto base : {30s, 60s, 120s, 240s}) {
    const os::Duration delay = round(planner, {}).delay;
    EXPECT_GE(delay, base);
    EXPECT_LE(delay, base + base / 10);
    jitter = jitter || delay != base;
  }
  EXPECT_TRUE(jitter);
  for (int i = 0; i < 20; ++i) {
    const os::Duration delay = round(planner, {}).delay;
    EXPECT_LE(delay, 5min);
    EXPECT_GE(delay, 5min / 1.11);
  }
  planner.healthy();
  EXPECT_EQ(round(planner, {}).delay, 0s);
}

TEST_F(Planner, TheThirdEqualCrashWaitsForAHuman) {
  RestartPlanner planner = open();
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart);
  EXPECT_FALSE(planner.permit(generation_)->held_status);
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart);
  EXPECT_EQ(planner.permit(generation_)->held_status, SIGSEGV) << "the shim must not go on alone";
  const auto decision = round(planner, crash("a"));
  EXPECT_EQ(decision.verdict, Verdict::kGiveUp);
  EXPECT_EQ(decision.why->code(), Code::kCrashLoop);
  EXPECT_THAT(decision.why->message(), HasSubstr("3 times in a row in the same way: SIGSEGV at a"));
  EXPECT_THAT(decision.why->suggested_action(), HasSubstr("defib reset x"));
  planner.reset();
  EXPECT_EQ(planner.equal_crashes(), 0);
  EXPECT_EQ(planner.used_in_window(), 0);
}

TEST_F(Planner, AnotherCrashInBetweenBreaksTheRow) {
  RestartPlanner planner = open();
  for (const char* place : {"a", "a", "b", "b", "a", "a", "b"}) {
    EXPECT_EQ(round(planner, crash(place)).verdict, Verdict::kStart) << place;
  }
}

TEST_F(Planner, AKillFromOutsideNeitherBreaksTheRowNorMakesOne) {
  RestartPlanner planner = open();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(round(planner, {}).verdict, Verdict::kStart);
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart);
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart);
  EXPECT_EQ(round(planner, {}).verdict, Verdict::kStart);
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kGiveUp);
}

TEST_F(Planner, EqualCrashesAWindowApartAreNoLoop) {
  RestartPlanner planner = open();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart);
    clock_.advance(1h);
  }
}

TEST_F(Planner, AnExitCodeAloneStopsNoServiceButSlowsItDown) {
  CrashPrint code;
  code.status = "exit code 3";
  code.wait_status = 3 << 8;
  {
    RestartPlanner planner = open();
    for (int i = 0; i < 10; ++i) EXPECT_EQ(round(planner, code).verdict, Verdict::kStart) << i;
    const auto decision = round(planner, code);
    EXPECT_EQ(decision.verdict, Verdict::kGiveUp);
    EXPECT_EQ(decision.why->cause()->code(), Code::kBudgetExhausted);
    planner.reset();
    ++generation_;
  }
  spec_.on_crash_loop = CrashLoopAction::kSlow;
  RestartPlanner planner = open();
  EXPECT_EQ(round(planner, code).verdict, Verdict::kStart);
  EXPECT_EQ(round(planner, code).verdict, Verdict::kStart);
  const auto decision = round(planner, code);
  EXPECT_EQ(decision.verdict, Verdict::kSlow);
  EXPECT_EQ(decision.delay, 5min);
  clock_.advance(decision.delay);
  EXPECT_EQ(planner.start_now(generation_).verdict, Verdict::kStart);
}

TEST_F(Planner, TheSlowLaneWaitsUntilTheWindowHasRoom) {
  spec_.on_crash_loop = CrashLoopAction::kSlow;
  spec_.max_restarts = 2;
  RestartPlanner planner = open();
  round(planner, {});
  round(planner, {});
  const auto decision = round(planner, {});
  ASSERT_EQ(decision.verdict, Verdict::kSlow);
  EXPECT_GT(decision.delay, 50min);
  clock_.advance(decision.delay - 1s);
  EXPECT_EQ(planner.start_now(generation_).verdict, Verdict::kSlow) << "too early";
  clock_.advance(1s);
  EXPECT_EQ(planner.start_now(generation_).verdict, Verdict::kStart);
  planner.started(clock_.mono_ns(), false);
  spec_.max_restarts = 0;
  RestartPlanner never = open();
  EXPECT_EQ(never.decide(99).verdict, Verdict::kGiveUp) << "no room will ever be there";
}

TEST_F(Planner, ACaptureThatShowsAnotherStackTakesTheVerdictBack) {
  RestartPlanner planner = open();
  round(planner, crash("a"));
  planner.captured("m+1");
  round(planner, crash("a"));
  planner.captured("m+1");
  clock_.advance(1s);
  planner.failed(generation_, clock_.mono_ns(), crash("a"));
  EXPECT_TRUE(planner.capture_decides());
  planner.captured("m+2");
  EXPECT_FALSE(planner.capture_decides());
  EXPECT_EQ(planner.decide(generation_).verdict, Verdict::kStart);
}

TEST_F(Planner, TimeLostInTheWindowIsABudgetToo) {
  spec_.max_downtime = 60s;
  RestartPlanner planner = open();
  EXPECT_EQ(round(planner, {}).delay, 0s);
  EXPECT_GE(round(planner, {}).delay, 30s);  // 30 s lost
  EXPECT_GE(round(planner, {}).delay, 60s);  // 90 s lost
  const auto decision = round(planner, {});
  EXPECT_EQ(decision.verdict, Verdict::kGiveUp);
  EXPECT_THAT(decision.why->message(), HasSubstr("max_downtime"));
  RestartPlanner later = open();
  EXPECT_GE(later.downtime(), 90s) << "it outlives the supervisor";
  clock_.reboot(30min);
  EXPECT_GE(open().downtime(), 90s) << "and the machine's boot";
  clock_.advance(1h);
  EXPECT_EQ(open().downtime(), 0s);
}

TEST_F(Planner, FromTheNthRestartInTheWindowOnItStartsInMonitoring) {
  spec_.monitoring_after = 2;
  RestartPlanner planner = open();
  EXPECT_FALSE(planner.permit(1)->monitoring);
  round(planner, {});
  EXPECT_TRUE(planner.permit(2)->monitoring);
  clock_.advance(2h);
  EXPECT_FALSE(planner.monitors_next()) << "the window has moved on";
  spec_.monitoring_after = 0;
  spec_.start_in_monitoring = true;
  planner.configure(spec_);
  EXPECT_TRUE(planner.permit(2)->monitoring);
}

TEST_F(Planner, WhatIsKnownOutlivesTheSupervisorRebootsAndClockSteps) {
  {
    RestartPlanner planner = open();
    round(planner, crash("a"));
  }
  clock_.step_wall(24h * 365);
  {
    RestartPlanner planner = open();
    EXPECT_EQ(planner.equal_crashes(), 1);
    round(planner, crash("a"));
  }
  clock_.step_wall(-2 * 24h * 365);
  clock_.reboot(10s);
  RestartPlanner planner = open();
  EXPECT_EQ(planner.used_in_window(), 2);
  EXPECT_EQ(planner.permit(generation_)->held_status, SIGSEGV);
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kGiveUp);
  const auto pending = open().pending(generation_);
  ASSERT_TRUE(pending);
  EXPECT_EQ(pending->verdict, Verdict::kGiveUp);
  EXPECT_THAT(pending->why->message(), HasSubstr("same way"));
  EXPECT_FALSE(open().pending(generation_ + 1)) << "of another process";
}

TEST_F(Planner, AnEndThatIsToldTwiceCountsOnce) {
  RestartPlanner planner = open();
  planner.failed(5, clock_.mono_ns(), crash("a"));
  RestartPlanner next = open();
  next.failed(5, clock_.mono_ns(), crash("a"));
  EXPECT_EQ(next.equal_crashes(), 1);
  next.failed(6, clock_.mono_ns(), crash("a"));
  EXPECT_EQ(next.equal_crashes(), 2);
}

TEST_F(Planner, ADelayThatAnEarlierSupervisorBeganIsWaitedToItsEnd) {
  spec_.on_crash_loop = CrashLoopAction::kSlow;
  spec_.same_crash_limit = 2;
  RestartPlanner planner = open();
  round(planner, crash("a"));
  ASSERT_EQ(round(planner, crash("a")).verdict, Verdict::kSlow);
  clock_.advance(2min);
  EXPECT_EQ(open().pending(generation_)->delay, 3min);
  clock_.step_wall(-24h);
  EXPECT_EQ(open().pending(generation_)->delay, 3min);
  clock_.advance(10min);
  EXPECT_EQ(open().pending(generation_)->delay, 0s);
}

TEST_F(Planner, ADelayedRestartIsWaitedForByTheNextSupervisorToo) {
  spec_.same_crash_limit = 0;
  spec_.restart_delay = 10s;
  RestartPlanner planner = open();
  round(planner, crash("a"));
  planner.failed(generation_, clock_.mono_ns(), crash("a"));
  const RestartPlanner::Decision decided = planner.decide(generation_);
  ASSERT_EQ(decided.verdict, Verdict::kStart);
  ASSERT_GT(decided.delay, 8s);
  clock_.advance(3s);
  const auto found = open().pending(generation_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->verdict, Verdict::kStart);
  EXPECT_EQ(found->delay, decided.delay - 3s);
}

TEST_F(Planner, AFullDiskDelaysNoRestartAndTheLimitHoldsInMemory) {
  spec_.max_restarts = 3;
  spec_.same_crash_limit = 0;
  RestartPlanner planner = open();
  files_.set_fault([](std::size_t, std::string_view) {
    return std::optional<Error>(Error(Code::kNoSpace, "no space (injected)"));
  });
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kStart) << i;
    const auto trouble = planner.trouble();
    ASSERT_EQ(trouble.has_value(), i == 0) << "somebody must be told, and once is enough";
    if (i == 0) {
      EXPECT_EQ(trouble->root().code(), Code::kNoSpace) << trouble->to_text();
    }
  }
  EXPECT_EQ(round(planner, crash("a")).verdict, Verdict::kGiveUp);
  files_.set_fault(nullptr);
  planner.settle();
  EXPECT_EQ(open().used_in_window(), 3) << "written as soon as there is room";
}

TEST_F(Planner, DamagedFilesAreSetAsideAndTheServiceGoesOn) {
  {
    RestartPlanner planner = open();
    round(planner, crash("a"));
  }
  for (const char* name : {"d/budget", "d/crashes"}) {
    const std::string whole = files_.content(name);
    for (const std::string& damaged : {whole.substr(0, whole.size() / 2), std::string("?")}) {
      ASSERT_TRUE(os::write_file_atomically(files_, name, damaged));
      RestartPlanner planner = open();
      EXPECT_TRUE(planner.trouble()) << name;
      EXPECT_TRUE(planner.permit(generation_)) << name;
      EXPECT_EQ(files_.content(std::string(name) + ".damaged"), damaged);
      planner.unused();
      ASSERT_TRUE(os::write_file_atomically(files_, name, whole));
      EXPECT_FALSE(open().trouble());
    }
  }
}

TEST_F(Planner, ImpossibleNumbersInAWholeFileAreBounded) {
  spec_.max_downtime = 1h;
  constexpr std::string_view kMoment =
      R"({"boot_id":"b","mono_ns":-9223372036854775808,"wall_ns":9223372036854775807})";
  const std::string lost = fmt::format(R"({{"end":{},"time_ns":9223372036854775807}})", kMoment);
  const std::string decided = fmt::format(
      R"({{"verdict":"start","generation":1,"at":{},"delay_ns":9223372036854775807}})", kMoment);
  ASSERT_TRUE(files_.create_dirs("d"));
  ASSERT_TRUE(os::write_file_atomically(
      files_, "d/crashes",
      fmt::format(R"({{"schema":"defib.crashes/1","in_a_row":9223372036854775807,)"
                  R"("lost":[{},{},{}],"decided":{}}})",
                  lost, lost, lost, decided)));
  RestartPlanner planner = open();
  EXPECT_FALSE(planner.trouble());
  // A sum that overflowed would be less than nothing.
  EXPECT_GE(planner.downtime(), 0s);
  const auto pending = planner.pending(1);
  ASSERT_TRUE(pending);
  EXPECT_GT(pending->delay, 0s);
  EXPECT_LE(pending->delay, 366 * 24h);
}

TEST_F(Planner, AStartByRequestBeginsAnewButDoesNotRefillTheBudget) {
  spec_.max_restarts = 4;
  RestartPlanner planner = open();
  round(planner, crash("a"));
  round(planner, crash("a"));
  ASSERT_EQ(round(planner, crash("a")).verdict, Verdict::kGiveUp);
  planner.started(clock_.mono_ns(), true);
  ++generation_;
  EXPECT_FALSE(planner.pending(generation_ - 1));
  EXPECT_EQ(round(planner, crash("a")).delay, 0s);
  EXPECT_EQ(planner.used_in_window(), 3);
}

}  // namespace
}  // namespace defib::process
