// Thousands of random procedures, each compared with a model that knows the rules of procedure.h
// and nothing of the implementation: it works on sets of names and predicts every call, every
// outcome and the result.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>

#include "defib/os/random.h"
#include "defib/recovery/procedure.h"
#include "defib/recovery/testcases/seed.h"

namespace defib::recovery {
namespace {

using testcases::first_seed;

constexpr os::Duration kLimit = std::chrono::seconds(10);

enum class Behaviour {
  kSucceed,
  kFail,
  kThrow,
  kSucceedLate,
  kFailLate,
  kThrowLate,
  kStopAtLimit,
  kAlreadyDone,
  kAskThrows
};
constexpr int kBehaviours = 9;
enum class Undo { kNone, kSucceed, kFail, kThrow };

struct Plan {
  std::string name;
  std::vector<std::string> needs;
  bool critical = true;
  Behaviour behaviour = Behaviour::kSucceed;
  Undo undo = Undo::kNone;
};

struct Scenario {
  std::vector<Plan> stages;  // in the order of addition
  std::string abort_in;      // the stage during whose run abort() is called; empty: none
  bool abort_first = false;  // before execute()
};

struct Prediction {
  std::vector<std::string> calls;  // "run x", "undo x"
  std::map<std::string, StageOutcome> outcomes;
  std::set<std::string> undone;
  std::optional<Code> code;  // of the result's error
  std::optional<Code> root;  // of the error behind RollbackFailed
};

// What one stage does, when it may run.
struct Single {
  StageOutcome outcome;
  std::optional<Code> code;
  bool has_effect = false;
  bool called = true;
};
Single predict_single(const Plan& plan, bool aborted) {
  switch (plan.behaviour) {
    case Behaviour::kAlreadyDone:
      return {StageOutcome::kSkippedDone, std::nullopt, true, false};
    case Behaviour::kAskThrows:
      return {StageOutcome::kFailed, Code::kCallbackThrew, false, false};
    case Behaviour::kSucceed:
      return {StageOutcome::kCompleted, std::nullopt, true};
    case Behaviour::kSucceedLate:
      return {StageOutcome::kTimedOut, Code::kStageTimedOut, true};
    case Behaviour::kFailLate:
    case Behaviour::kThrowLate:
    case Behaviour::kStopAtLimit:
      if (plan.behaviour == Behaviour::kStopAtLimit && aborted) {
        return {StageOutcome::kAborted, Code::kProcedureAborted};
      }
      return {StageOutcome::kTimedOut, Code::kStageTimedOut};
    case Behaviour::kFail:
    case Behaviour::kThrow:
      if (aborted) return {StageOutcome::kAborted, Code::kProcedureAborted};
      return {StageOutcome::kFailed,
              plan.behaviour == Behaviour::kFail ? Code::kIoError : Code::kCallbackThrew};
  }
  std::abort();
}

Prediction predict(const Scenario& scenario) {
  Prediction p;
  std::set<std::string> pending, good;
  std::vector<std::string> effects;
  std::map<std::string, const Plan*> by_name;
  for (const Plan& plan : scenario.stages) {
    pending.insert(plan.name);
    by_name[plan.name] = &plan;
    p.outcomes[plan.name] = StageOutcome::kNotRun;
  }
  bool aborted = scenario.abort_first;
  while (!pending.empty() && !p.code) {
    if (aborted) {
      p.code = Code::kProcedureAborted;
      break;
    }
    const Plan* next = nullptr;
    for (const Plan& plan : scenario.stages) {
      bool ready = pending.contains(plan.name);
      for (const std::string& need : plan.needs) ready = ready && !pending.contains(need);
      if (ready && next == nullptr) next = &plan;
    }
    pending.erase(next->name);
    Single single{StageOutcome::kDependencyFailed, Code::kStageDependencyFailed, false, false};
    if (std::ranges::all_of(next->needs, [&](const auto& need) { return good.contains(need); })) {
      const bool runs =
          next->behaviour != Behaviour::kAlreadyDone && next->behaviour != Behaviour::kAskThrows;
      if (runs && scenario.abort_in == next->name) aborted = true;
      single = predict_single(*next, aborted);
    }
    if (single.called) p.calls.push_back("run " + next->name);
    p.outcomes[next->name] = single.outcome;
    if (!single.code) good.insert(next->name);
    if (single.has_effect) effects.push_back(next->name);
    if (single.code && (next->critical || single.outcome == StageOutcome::kAborted)) {
      p.code = single.code;
    }
  }
  if (!p.code && aborted) p.code = Code::kProcedureAborted;
  if (!p.code) return p;
  p.root = p.code;
  std::ranges::reverse(effects);
  for (const std::string& name : effects) {
    const Undo undo = by_name[name]->undo;
    if (undo == Undo::kNone) continue;
    p.calls.push_back("undo " + name);
    StageOutcome& outcome = p.outcomes[name];
    if (undo == Undo::kSucceed) {
      p.undone.insert(name);
      if (outcome != StageOutcome::kTimedOut) outcome = StageOutcome::kRolledBack;
    } else {
      p.code = Code::kRollbackFailed;
      if (outcome != StageOutcome::kTimedOut) outcome = StageOutcome::kRollbackFailed;
    }
  }
  return p;
}

Scenario random_scenario(os::Random& random) {
  Scenario scenario;
  const auto count = static_cast<std::size_t>(1 + random.below(12));
  // Needs point along a random order, so that they point both ways in the order of addition.
  std::vector<std::size_t> rank(count);
  for (std::size_t i = 0; i < count; ++i) rank[i] = i;
  for (std::size_t i = count; i > 1; --i) std::swap(rank[i - 1], rank[random.below(i)]);
  const std::uint64_t density = random.below(60);
  const std::uint64_t failures = random.below(40);
  for (std::size_t i = 0; i < count; ++i) {
    Plan plan;
    plan.name = fmt::format("s{}", i);
    for (std::size_t j = 0; j < count; ++j) {
      if (rank[j] < rank[i] && random.below(100) < density) {
        plan.needs.push_back(fmt::format("s{}", j));
      }
    }
    plan.critical = random.below(3) != 0;
    if (random.below(100) < failures) {
      plan.behaviour = static_cast<Behaviour>(random.below(kBehaviours));
    }
    plan.undo = static_cast<Undo>(random.below(8) == 0 ? random.below(4) : random.below(2));
    scenario.stages.push_back(std::move(plan));
  }
  if (random.below(4) == 0) {
    scenario.abort_in = scenario.stages[random.below(count)].name;
  }
  scenario.abort_first = random.below(50) == 0;
  return scenario;
}

// A scenario as a real procedure.
class Rig {
 public:
  explicit Rig(const Scenario& scenario) : procedure_("random") {
    for (const Plan& plan : scenario.stages) add(plan, scenario.abort_in == plan.name);
    if (scenario.abort_first) procedure_.abort();
  }
  ProcedureResult execute() { return procedure_.execute(clock_); }
  const std::vector<std::string>& calls() const { return calls_; }

 private:
  void add(const Plan& plan, bool aborts) {
    Procedure::Builder builder = procedure_.add(plan.name);
    builder.critical(plan.critical).timeout(kLimit);
    for (const std::string& need : plan.needs) builder.after(need);
    builder.run([this, plan, aborts](StageContext& context) { return run(plan, aborts, context); });
    if (plan.behaviour == Behaviour::kAlreadyDone) builder.already_done([] { return true; });
    if (plan.behaviour == Behaviour::kAskThrows) {
      builder.already_done([]() -> bool { throw std::runtime_error("asked"); });
    }
    if (plan.undo != Undo::kNone) builder.rollback([this, plan] { return undo(plan); }, "by hand");
  }
  Result<> run(const Plan& plan, bool aborts, StageContext& context) {
    calls_.push_back("run " + plan.name);
    if (aborts) procedure_.abort();
    switch (plan.behaviour) {
      case Behaviour::kStopAtLimit:
        while (!context.should_stop()) clock_.advance(std::chrono::seconds(1));
        return context.stop_error();
      case Behaviour::kSucceedLate:
      case Behaviour::kFailLate:
      case Behaviour::kThrowLate:
        clock_.advance(kLimit + std::chrono::nanoseconds(7));
        break;
      default:
        clock_.advance(kLimit - std::chrono::nanoseconds(1));
    }
    if (plan.behaviour == Behaviour::kFail || plan.behaviour == Behaviour::kFailLate) {
      return Error(Code::kIoError, "planned");
    }
    if (plan.behaviour == Behaviour::kThrow || plan.behaviour == Behaviour::kThrowLate) {
      throw std::runtime_error("planned");
    }
    return {};
  }
  Result<> undo(const Plan& plan) {
    calls_.push_back("undo " + plan.name);
    if (plan.undo == Undo::kFail) return Error(Code::kIoError, "planned");
    if (plan.undo == Undo::kThrow) throw std::runtime_error("planned");
    return {};
  }
  os::FakeClock clock_;
  Procedure procedure_;
  std::vector<std::string> calls_;
};

void expect_as_predicted(const Scenario& scenario) {
  Rig rig(scenario);
  const ProcedureResult result = rig.execute();
  const Prediction expected = predict(scenario);
  EXPECT_EQ(rig.calls(), expected.calls);
  EXPECT_EQ(result.success(), !expected.code.has_value());
  if (result.error && expected.code) {
    EXPECT_EQ(result.error->code(), *expected.code);
    const Error& stage_error =
        *expected.code == Code::kRollbackFailed ? *result.error->cause() : *result.error;
    EXPECT_EQ(stage_error.code(), *expected.root);
  }
  for (const StageRecord& record : result.stages) {
    EXPECT_EQ(to_string(record.outcome), to_string(expected.outcomes.at(record.name)))
        << record.name;
    EXPECT_EQ(record.rolled_back, expected.undone.contains(record.name)) << record.name;
  }
}

TEST(ProcedureModel, TwentyThousandRandomProceduresEndExactlyAsTheModelPredicts) {
  const std::uint64_t first = first_seed();
  std::map<Code, int> seen;
  for (std::uint64_t seed = first; seed < first + 20'000; ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    os::Random random(seed);
    const Scenario scenario = random_scenario(random);
    expect_as_predicted(scenario);
    ++seen[predict(scenario).code.value_or(Code::kInternal)];
    if (HasFailure()) return;
  }
  // The scenarios are worth their time only if they reach every end.
  for (const Code code :
       {Code::kInternal, Code::kIoError, Code::kCallbackThrew, Code::kStageTimedOut,
        Code::kStageDependencyFailed, Code::kProcedureAborted, Code::kRollbackFailed}) {
    EXPECT_GT(seen[code], 50) << code_info(code).name;
  }
}

// The spec read as invariants over the calls alone, without the model.
TEST(ProcedureModel, WhatHasAnEffectIsUndoneOnceInReverseOrKept) {
  const std::uint64_t first = first_seed();
  for (std::uint64_t seed = first; seed < first + 5'000; ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    os::Random random(seed);
    const Scenario scenario = random_scenario(random);
    Rig rig(scenario);
    const ProcedureResult result = rig.execute();
    std::vector<std::string> ran, undone;
    for (const std::string& call : rig.calls()) {
      const bool is_run = call.starts_with("run ");
      EXPECT_TRUE(!is_run || undone.empty()) << "a stage ran after undoing began";
      (is_run ? ran : undone).push_back(call.substr(call.find(' ') + 1));
    }
    EXPECT_EQ(std::set(ran.begin(), ran.end()).size(), ran.size());
    EXPECT_EQ(std::set(undone.begin(), undone.end()).size(), undone.size());
    EXPECT_TRUE(!result.success() || undone.empty());
    const auto position = [&](const std::string& name) { return std::ranges::find(ran, name); };
    std::erase_if(undone, [&](const std::string& name) { return position(name) == ran.end(); });
    EXPECT_TRUE(std::ranges::is_sorted(undone, std::greater(), position));
    for (const Plan& plan : scenario.stages) {
      for (const std::string& need : plan.needs) {
        const auto own = position(plan.name);
        const auto other = position(need);
        EXPECT_TRUE(own == ran.end() || other == ran.end() || other < own);
      }
    }
    if (HasFailure()) return;
  }
}

// A circle exists exactly where depth-first search meets a stage that it is still inside of.
bool has_circle(const std::vector<std::vector<std::size_t>>& needs) {
  std::vector<int> colour(needs.size(), 0);
  const std::function<bool(std::size_t)> visit = [&](std::size_t node) {
    colour[node] = 1;
    for (const std::size_t next : needs[node]) {
      if (colour[next] == 1 || (colour[next] == 0 && visit(next))) return true;
    }
    colour[node] = 2;
    return false;
  };
  for (std::size_t i = 0; i < needs.size(); ++i) {
    if (colour[i] == 0 && visit(i)) return true;
  }
  return false;
}

TEST(ProcedureModel, ExactlyTheCircularProceduresAreRefusedAndTheNamedCircleExists) {
  const std::uint64_t first = first_seed();
  int circular = 0;
  for (std::uint64_t seed = first; seed < first + 5'000; ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    os::Random random(seed);
    const auto count = static_cast<std::size_t>(1 + random.below(9));
    std::vector<std::vector<std::size_t>> needs(count);
    Procedure procedure("random");
    for (std::size_t i = 0; i < count; ++i) {
      auto builder = procedure.add(fmt::format("s{}", i));
      builder.run([](StageContext&) -> Result<> { return {}; });
      for (std::size_t j = 0; j < count; ++j) {
        if (random.below(count * 2) != 0) continue;
        needs[i].push_back(j);
        builder.after(fmt::format("s{}", j));
      }
    }
    const Result<> valid = procedure.validate();
    ASSERT_EQ(valid.has_value(), !has_circle(needs));
    if (valid) continue;
    ++circular;
    // "...: s1 needs s2 needs s1": each step is a need.
    const std::string& message = valid.error().message();
    std::vector<std::size_t> circle;
    for (std::size_t at = message.find(": s"); (at = message.find('s', at)) != std::string::npos;
         ++at) {
      if (std::isdigit(static_cast<unsigned char>(message[at + 1])) != 0) {
        circle.push_back(static_cast<std::size_t>(message[at + 1] - '0'));
      }
    }
    ASSERT_GE(circle.size(), 2U) << message;
    EXPECT_EQ(circle.front(), circle.back()) << message;
    for (std::size_t i = 0; i + 1 < circle.size(); ++i) {
      EXPECT_NE(std::ranges::find(needs[circle[i]], circle[i + 1]), needs[circle[i]].end())
          << message;
    }
  }
  EXPECT_GT(circular, 500);
}

}  // namespace
}  // namespace defib::recovery
