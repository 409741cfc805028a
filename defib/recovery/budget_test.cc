#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/os/random.h"
#include "defib/recovery/policy.h"
#include "defib/recovery/testcases/scratch.h"
#include "defib/recovery/testcases/seed.h"

namespace defib::recovery {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using testcases::DyingFiles;
using testcases::Gate;
using testcases::GatedFiles;
using testcases::Scratch;
using testing::HasSubstr;

class BudgetTest : public testing::Test {
 protected:
  Budget open() {
    auto budget = Budget::open(files_, clock_, options_);
    EXPECT_TRUE(budget) << budget.error().to_text();
    return std::move(*budget);
  }
  void spend(int times) {
    Budget budget = open();
    for (int i = 0; i < times; ++i) EXPECT_TRUE(budget.spend());
  }
  std::string content() { return *os::read_file(os::real_files(), options_.path); }
  void write(std::string_view text) {
    EXPECT_TRUE(os::write_file_atomically(files_, options_.path, text));
  }

  Scratch dir_;
  GatedFiles files_{[](std::string_view) { return Gate::kPass; }};  // the kernel's, without syncs
  os::FakeClock clock_;
  Budget::Options options_{.path = dir_ / "budget", .limit = 3, .window = hours(1)};
};

TEST_F(BudgetTest, AllowsTheLimitInTheWindowAndSaysWhenTheNextIsFree) {
  Budget budget = open();
  EXPECT_TRUE(budget.spend());
  clock_.advance(minutes(10));
  EXPECT_TRUE(budget.spend());
  EXPECT_TRUE(budget.spend());
  EXPECT_TRUE(budget.exhausted());
  clock_.advance(minutes(20));
  const auto refused = budget.spend();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBudgetExhausted);
  EXPECT_EQ(refused.error().field("used"), "3");
  EXPECT_EQ(refused.error().field("limit"), "3");
  EXPECT_EQ(refused.error().field("frees_in_seconds"), "1800");
  clock_.advance(minutes(30));
  EXPECT_EQ(budget.used(), 2);
  EXPECT_TRUE(budget.spend());
}

TEST_F(BudgetTest, FreesWhenEnoughOldOnesHaveLeftAfterTheLimitWasLowered) {
  spend(1);
  clock_.advance(minutes(10));
  spend(2);
  Budget budget = open();
  budget.set_limit(1, hours(1));
  // Three in the window, one allowed: the third oldest must leave too.
  EXPECT_EQ(budget.spend().error().field("frees_in_seconds"), "3600");
  budget.set_limit(0, hours(1));
  EXPECT_THAT(budget.spend().error().message(), HasSubstr("its limit is 0"));
  budget.set_limit(5, hours(1));
  EXPECT_TRUE(budget.spend());
  budget.set_limit(5, minutes(1));
  EXPECT_EQ(budget.used(), 3);
  clock_.advance(minutes(1));
  EXPECT_EQ(budget.used(), 0);
  budget.set_limit(5, hours(2));
  EXPECT_EQ(budget.used(), 4) << "a wider window shows the older events again";
}

TEST_F(BudgetTest, OutlivesTheProcess) {
  spend(3);
  Budget budget = open();
  EXPECT_EQ(budget.used(), 3);
  EXPECT_FALSE(budget.spend());
}

TEST_F(BudgetTest, OutlivesAReboot) {
  spend(3);
  clock_.reboot(minutes(5));
  EXPECT_EQ(open().used(), 3);
  clock_.advance(minutes(54));
  EXPECT_EQ(open().used(), 3);
  clock_.advance(minutes(1));
  EXPECT_EQ(open().used(), 0);
}

TEST_F(BudgetTest, WallClockStepsInOneBootNeitherForgetNorInvent) {
  spend(3);
  for (const auto step : {hours(24 * 365), hours(-24 * 365), hours(-24 * 365 * 20)}) {
    clock_.step_wall(step);
    EXPECT_EQ(open().used(), 3);
  }
  clock_.advance(hours(1) - seconds(1));
  EXPECT_EQ(open().used(), 3);
  clock_.advance(seconds(1));
  EXPECT_EQ(open().used(), 0);
}

TEST_F(BudgetTest, AWallClockBehindAfterARebootDoesNotKeepEventsForEver) {
  spend(3);
  clock_.reboot(minutes(5));
  clock_.step_wall(hours(-24 * 365 * 50));  // A machine without a battery wakes up in the past.
  EXPECT_EQ(open().used(), 3);
  // The time server steps it forward: no event leaves early, and none stays.
  clock_.step_wall(hours(24 * 365 * 50));
  EXPECT_EQ(open().used(), 3);
  // They are one second old already, as this boot is.
  clock_.advance(hours(1) - seconds(2));
  EXPECT_EQ(open().used(), 3);
  clock_.advance(seconds(1));
  EXPECT_EQ(open().used(), 0);
}

TEST_F(BudgetTest, AWallClockBehindForGoodFreesAfterAWindowOfUptime) {
  spend(3);
  clock_.reboot(minutes(5));
  clock_.step_wall(hours(-24 * 365));
  clock_.advance(hours(1));  // Opened late: the boot itself proves the events' age.
  EXPECT_EQ(open().used(), 0);
}

TEST_F(BudgetTest, AFutureEventOfAnotherBootCounts) {
  clock_.step_wall(hours(24 * 30));
  spend(3);
  clock_.step_wall(hours(-24 * 30));
  clock_.reboot(minutes(5));
  EXPECT_EQ(open().used(), 3);
}

TEST_F(BudgetTest, ATicketIsSpentWithoutTheDiskAndSettledLater) {
  int operations = 0;
  GatedFiles files([&](std::string_view) {
    ++operations;
    return Gate::kPass;
  });
  auto budget = *Budget::open(files, clock_, options_);
  EXPECT_TRUE(budget.prepare());
  EXPECT_TRUE(budget.prepared());
  EXPECT_EQ(budget.used(), 0);
  operations = 0;
  EXPECT_TRUE(budget.prepare()) << "a second time has no effect";
  budget.use_prepared();
  EXPECT_EQ(operations, 0);
  EXPECT_EQ(budget.used(), 1);
  EXPECT_FALSE(budget.prepared());
  EXPECT_TRUE(budget.settle());
  EXPECT_GT(operations, 0);
  operations = 0;
  EXPECT_TRUE(budget.settle());
  EXPECT_EQ(operations, 0);
  const Budget again = open();
  EXPECT_EQ(again.used(), 1);
  EXPECT_FALSE(again.presumed_spent());
}

TEST_F(BudgetTest, ATicketWithoutAStampCountsAsSpentWhenOpenedAndMayBeGivenBack) {
  {
    Budget budget = open();
    EXPECT_TRUE(budget.prepare());
    budget.use_prepared();  // and killed before settle()
  }
  {
    Budget budget = open();
    EXPECT_EQ(budget.used(), 1);
    EXPECT_TRUE(budget.presumed_spent());
  }
  {
    Budget budget = open();
    EXPECT_EQ(budget.used(), 1) << "it was counted twice";
    EXPECT_FALSE(budget.presumed_spent());
    EXPECT_TRUE(budget.prepare());
  }
  {
    Budget budget = open();
    EXPECT_EQ(budget.used(), 2);
    EXPECT_TRUE(budget.spend());
    EXPECT_TRUE(budget.give_back());  // The service turned out to be the same process.
    EXPECT_EQ(budget.used(), 2);
  }
  Budget budget = open();
  EXPECT_EQ(budget.used(), 2);
  EXPECT_TRUE(budget.prepare());
  EXPECT_TRUE(budget.give_back());
  EXPECT_FALSE(budget.prepared());
  EXPECT_TRUE(budget.give_back()) << "nothing to give back is no error";
  EXPECT_EQ(open().used(), 2);
}

TEST_F(BudgetTest, ATicketThatIsKnownToBeSpentIsNotGivenBackWithALaterOne) {
  EXPECT_TRUE(open().prepare());
  Budget budget = open();
  ASSERT_TRUE(budget.presumed_spent());
  clock_.advance(minutes(5));
  budget.confirm_spent();
  clock_.advance(minutes(58));
  EXPECT_EQ(budget.used(), 1) << "it was spent when that was told, not when the file was opened";
  EXPECT_TRUE(budget.prepare());
  EXPECT_TRUE(budget.give_back());
  EXPECT_EQ(budget.used(), 1);
  EXPECT_EQ(open().used(), 1);
}

TEST_F(BudgetTest, ATicketThatMayStillBeUsedStaysOutOverSeveralOpenings) {
  EXPECT_TRUE(open().prepare());
  for (int i = 0; i < 3; ++i) {
    Budget budget = open();
    EXPECT_TRUE(budget.presumed_spent());
    EXPECT_TRUE(budget.keep_out());
    EXPECT_TRUE(budget.prepared());
    EXPECT_EQ(budget.used(), 0);
    clock_.advance(minutes(10));
  }
  EXPECT_EQ(open().used(), 1);
}

TEST_F(BudgetTest, AnEventThatHappenedIsRecordedBeyondTheLimitToo) {
  spend(3);
  Budget budget = open();
  budget.record();
  EXPECT_EQ(budget.used(), 4);
  EXPECT_TRUE(budget.settle());
  EXPECT_EQ(open().used(), 4);
  EXPECT_EQ(budget.frees_in(), hours(1));
}

TEST_F(BudgetTest, ATicketWithoutTheDiskCountsAndIsWrittenWithTheNextChange) {
  bool broken = true;
  GatedFiles files([&](std::string_view) { return broken ? Gate::kFail : Gate::kPass; });
  auto budget = *Budget::open(files, clock_, options_);
  EXPECT_FALSE(budget.prepare());
  budget.prepare_unsaved();
  budget.use_prepared();
  EXPECT_FALSE(budget.settle());
  EXPECT_EQ(budget.used(), 1);
  broken = false;
  EXPECT_TRUE(budget.settle());
  EXPECT_EQ(open().used(), 1);
}

TEST_F(BudgetTest, NoTicketBeyondTheLimit) {
  spend(3);
  Budget budget = open();
  EXPECT_EQ(budget.prepare().error().code(), Code::kBudgetExhausted);
  EXPECT_FALSE(budget.prepared());
}

TEST_F(BudgetTest, UsingATicketThatIsNotThereIsABug) {
  Budget budget = open();
  EXPECT_DEATH(budget.use_prepared(), "no ticket was prepared");
}

TEST_F(BudgetTest, ResetForgetsEverything) {
  spend(3);
  Budget budget = open();
  EXPECT_TRUE(budget.reset());
  EXPECT_EQ(budget.used(), 0);
  EXPECT_EQ(open().used(), 0);
}

TEST_F(BudgetTest, EveryDamagedByteAndEveryCutIsCorruptedAndNothingIsChanged) {
  spend(2);
  EXPECT_TRUE(open().prepare());
  const std::string whole = content();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
    write(damaged);
    const auto opened = Budget::open(files_, clock_, options_);
    ASSERT_FALSE(opened) << "byte " << i;
    EXPECT_EQ(opened.error().code(), Code::kCorrupted);
    EXPECT_EQ(content(), damaged);
  }
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write(std::string_view(whole).substr(0, size));
    EXPECT_FALSE(Budget::open(files_, clock_, options_)) << "cut to " << size;
  }
  write(whole + "x");
  EXPECT_FALSE(Budget::open(files_, clock_, options_));
}

TEST_F(BudgetTest, ImpossibleOptionsAreRefused) {
  options_.limit = -1;
  EXPECT_EQ(Budget::open(files_, clock_, options_).error().code(), Code::kInvalidArgument);
  options_.limit = 1;
  options_.window = seconds(0);
  EXPECT_FALSE(Budget::open(files_, clock_, options_));
}

TEST_F(BudgetTest, AFailedWriteIsNotAnAllowedEvent) {
  bool broken = false;
  GatedFiles files([&](std::string_view) { return broken ? Gate::kFail : Gate::kPass; });
  auto budget = *Budget::open(files, clock_, options_);
  EXPECT_TRUE(budget.spend());
  broken = true;
  EXPECT_FALSE(budget.spend());
  EXPECT_EQ(budget.used(), 1);
  EXPECT_FALSE(budget.prepare());
  EXPECT_FALSE(budget.prepared());
  broken = false;
  EXPECT_TRUE(budget.settle());
  EXPECT_EQ(open().used(), 1);
}

TEST_F(BudgetTest, TheFileStaysSmallAndTheCountExactOverManyEvents) {
  options_.limit = 1200;
  {
    Budget budget = open();
    for (int i = 0; i < 1200; ++i) ASSERT_TRUE(budget.spend());
    EXPECT_FALSE(budget.spend());
    EXPECT_EQ(budget.used(), 1200) << "events in the window are never dropped";
    clock_.advance(hours(2));
    EXPECT_TRUE(budget.spend());
  }
  EXPECT_LT(content().size(), std::size_t{80} * 1024);
  EXPECT_EQ(open().used(), 1);
}

// What must hold whatever is killed when: an event that was allowed is never forgotten, and none is
// counted that was not at least asked for.
struct Model {
  int allowed = 0;  // spend() returned success, or a ticket was used
  int asked = 0;    // allowed, or asked for when the kill came
};

TEST_F(BudgetTest, AKillAtEveryFileOperationNeitherForgetsNorInventsAnEvent) {
  for (const bool half : {false, true}) {
    bool died = true;
    for (int passes = 0; died; ++passes) {
      static_cast<void>(os::real_files().remove(options_.path).has_value());
      Model model;
      {
        DyingFiles disk(passes, half);
        auto opened = Budget::open(disk.files, clock_, options_);
        ASSERT_TRUE(opened);
        Budget& budget = *opened;
        const auto one = [&](auto&& step) {
          if (disk.died()) return;
          ++model.asked;
          if (step()) ++model.allowed;
        };
        one([&] { return budget.spend().has_value(); });
        one([&] {
          if (!budget.prepare()) return false;
          budget.use_prepared();
          return true;
        });
        static_cast<void>(budget.settle().has_value());
        one([&] { return budget.spend().has_value(); });
        died = disk.died();
      }
      const int used = open().used();
      EXPECT_GE(used, model.allowed) << "killed at operation " << passes << ": forgotten";
      EXPECT_LE(used, model.asked) << "killed at operation " << passes << ": invented";
      EXPECT_EQ(open().used(), used) << "opening again changed the count";
      ASSERT_LT(passes, 100);
    }
  }
}

TEST_F(BudgetTest, AStepOfTheWallClockIsSettledBeforeTheReboot) {
  clock_.step_wall(hours(-24 * 365 * 50));  // Booted without a battery,
  Budget budget = open();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.spend());
  clock_.step_wall(hours(24 * 365 * 50));  // then stepped by the time server.
  EXPECT_TRUE(budget.settle());
  clock_.reboot(minutes(5));
  EXPECT_EQ(open().used(), 3);
  clock_.advance(minutes(55));
  EXPECT_EQ(open().used(), 0);
}

// Random lives of a budget against the true time, which no clock of the machine shows: the count is
// exact at every moment.
TEST_F(BudgetTest, OverRandomRebootsStepsAndKillsTheCountIsExact) {
  const std::uint64_t first = testcases::first_seed();
  for (std::uint64_t seed = first; seed < first + 120; ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    static_cast<void>(os::real_files().remove(options_.path).has_value());
    os::Random random(seed);
    os::FakeClock clock;
    std::int64_t now = 0;              // true seconds
    std::vector<std::int64_t> events;  // true times
    bool ticket = false, unsettled = false;
    auto budget = Budget::open(files_, clock, options_);
    const auto reopen = [&] {
      if (unsettled) events.pop_back();
      // A ticket that nobody stamped is taken for spent now.
      if (ticket || unsettled) events.push_back(now);
      ticket = unsettled = false;
      budget = Budget::open(files_, clock, options_);
    };
    for (int step = 0; step < 60; ++step) {
      const auto amount = static_cast<std::int64_t>(2 + random.below(1200));
      const auto used = std::ranges::count_if(
          events, [&](std::int64_t at) { return seconds(now - at) < options_.window; });
      ASSERT_EQ(budget->used(), used) << "step " << step;
      switch (random.below(8)) {
        case 0:
        case 1:
          clock.advance(seconds(amount));
          now += amount;
          break;
        case 2:
          clock.step_wall(seconds(amount * (random.below(2) == 0 ? -100'000 : 100'000)));
          ASSERT_TRUE(budget->settle());
          unsettled = false;
          break;
        case 3:
          clock.reboot(seconds(amount));
          now += amount;
          reopen();
          break;
        case 4:
          reopen();
          break;
        case 5:
        case 6:
          ASSERT_EQ(budget->spend().has_value(), used < options_.limit);
          if (used < options_.limit) {
            events.push_back(now);
            unsettled = false;
          }
          break;
        case 7:
          if (ticket) {
            budget->use_prepared();
            events.push_back(now);
            ticket = false;
            unsettled = true;
          } else {
            ASSERT_EQ(budget->prepare().has_value(), used < options_.limit);
            if (used < options_.limit) {
              ticket = true;
              unsettled = false;
            }
          }
      }
    }
  }
}

TEST_F(BudgetTest, AKillDuringTheFirstOpenAfterARebootKeepsTheCount) {
  options_.limit = 5;
  spend(3);
  EXPECT_TRUE(open().prepare());
  const std::string before = content();
  bool died = true;
  for (int passes = 0; died; ++passes) {
    write(before);
    os::FakeClock clock(clock_.mono_ns(), clock_.wall_ns());
    clock.reboot(minutes(5));
    {
      DyingFiles disk(passes);
      const auto budget = Budget::open(disk.files, clock, options_);
      ASSERT_TRUE(budget);
      EXPECT_EQ(budget->used(), 4);
      died = disk.died();
    }
    const auto after = Budget::open(files_, clock, options_);
    ASSERT_TRUE(after);
    EXPECT_EQ(after->used(), 4);
  }
}

}  // namespace
}  // namespace defib::recovery
