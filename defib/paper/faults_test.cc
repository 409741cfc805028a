#include "defib/paper/faults.h"

#include <gtest/gtest.h>

namespace defib::paper {
namespace {

FaultPlan plan_of(std::string_view lines, std::uint64_t seed = 1) {
  FaultPlan plan(seed);
  auto rules = parse_fault_rules(lines);
  EXPECT_TRUE(rules.has_value()) << rules.error().to_text();
  for (FaultRule& rule : *rules) plan.add(std::move(rule));
  return plan;
}

// Which of `count` requests fire, as "..x..".
std::string pattern(FaultPlan& plan, int count, std::string_view method = "POST",
                    std::string_view path = "/a") {
  std::string result;
  for (int i = 0; i < count; ++i) result += plan.match(method, path).empty() ? '.' : 'x';
  return result;
}

TEST(FaultPlan, SelectsByNumberPeriodAndBound) {
  FaultPlan nth = plan_of(R"({"kind":"ban","nth":3})");
  EXPECT_EQ(pattern(nth, 6), "..x...");
  FaultPlan every = plan_of(R"({"kind":"ban","every":2,"times":2})");
  EXPECT_EQ(pattern(every, 8), ".x.x....");
  FaultPlan always = plan_of(R"({"kind":"ban"})");
  EXPECT_EQ(pattern(always, 3), "xxx");
}

TEST(FaultPlan, ChanceFollowsTheSeed) {
  const std::string_view rule = R"({"kind":"ban","probability":0.3})";
  FaultPlan one = plan_of(rule, 5);
  FaultPlan same = plan_of(rule, 5);
  FaultPlan other = plan_of(rule, 6);
  const std::string fired = pattern(one, 400);
  EXPECT_EQ(fired, pattern(same, 400));
  EXPECT_NE(fired, pattern(other, 400));
  const auto count = std::count(fired.begin(), fired.end(), 'x');
  EXPECT_GT(count, 80);
  EXPECT_LT(count, 160);
}

TEST(FaultPlan, MatchesMethodAndPathAndCountsThemOnly) {
  FaultPlan plan = plan_of(R"({"kind":"ban","method":"POST","path":"/a","nth":2})");
  EXPECT_EQ(pattern(plan, 2, "GET"), "..");
  EXPECT_EQ(pattern(plan, 2, "POST", "/b"), "..");
  EXPECT_EQ(pattern(plan, 2), ".x");
}

TEST(FaultPlan, SeveralRulesMayFireAtOnce) {
  FaultPlan plan = plan_of("{\"kind\":\"delay_reply\",\"delay_ms\":5}\n{\"kind\":\"drop_reply\"}");
  EXPECT_EQ(plan.match("GET", "/x").size(), 2U);
}

TEST(FaultRules, WrongRulesAreNamedByLineAndMember) {
  const auto member = [](std::string_view line) {
    const auto rules = parse_fault_rules(line);
    EXPECT_FALSE(rules.has_value());
    EXPECT_EQ(rules.error().field("line"), "1");
    return std::string(rules.error().root().field("member"));
  };
  EXPECT_EQ(member(R"({"kind":"explode"})"), "kind");
  EXPECT_EQ(member(R"({"nth":1})"), "kind");
  EXPECT_EQ(member(R"({"kind":"ban","colour":1})"), "colour");
  EXPECT_EQ(member(R"({"kind":"ban","nth":0})"), "nth");
  EXPECT_EQ(member(R"({"kind":"ban","nth":1,"every":2})"), "nth");
  EXPECT_EQ(member(R"({"kind":"ban","probability":1.5})"), "probability");
  EXPECT_EQ(member(R"({"kind":"server_error","status":200})"), "status");
  EXPECT_EQ(member(R"({"kind":"halt"})"), "symbol");
  EXPECT_EQ(member(R"({"kind":"external_order","symbol":"BTCUSDT"})"), "quantity");
  EXPECT_EQ(member(R"({"kind":"external_order","symbol":"BTCUSDT","quantity":1})"), "quantity");
  EXPECT_EQ(member(R"({"kind":"delay_reply","delay_ms":"5"})"), "delay_ms");
  EXPECT_FALSE(parse_fault_rules("not json").has_value());
  EXPECT_EQ(parse_fault_rules("# none\n\n").value().size(), 0U);
}

}  // namespace
}  // namespace defib::paper
