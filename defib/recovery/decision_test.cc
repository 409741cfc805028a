#include "defib/recovery/decision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace defib::recovery {
namespace {

using testing::HasSubstr;
using wire::Json;

constexpr std::array kAll = {Verdict::kAllow, Verdict::kWarn, Verdict::kMonitorOnly,
                             Verdict::kNeedApproval, Verdict::kRefuse};

Rule constant(std::string name, Verdict verdict) {
  return {.name = std::move(name),

          .decide = [verdict](const Evidence&) { return Finding{.verdict = verdict}; }};
}

// Refuses above three crashes; what the tests reproduce offline.
std::vector<Rule> crash_rules() {
  return {{.name = "repeated_crashes",
           .needs = {"crashes", "window_s"},
           .decide =
               [](const Evidence& evidence) {
                 const std::int64_t crashes = evidence["crashes"].as_int();
                 return Finding{.verdict = crashes > 3 ? Verdict::kRefuse : Verdict::kAllow,
                                .input = std::to_string(crashes) + " crashes",
                                .threshold = "more than 3",
                                .flips = "wait, or approve with `defib approve`"};
               }},
          {.name = "drawdown", .needs = {"loss"}, .decide = [](const Evidence& evidence) {
             const bool deep = evidence["loss"].as_double() > 0.1;
             return Finding{.verdict = deep ? Verdict::kNeedApproval : Verdict::kAllow,
                            .input = "loss",
                            .threshold = "0.1"};
           }}};
}

Evidence crash_evidence(std::int64_t crashes, double loss) {
  Evidence evidence;
  evidence.set("crashes", crashes).set("window_s", 300).set("loss", loss);
  return evidence;
}

TEST(Decision, StrictestVerdictWinsAndTheFirstAmongEqualsOverAllTriples) {
  for (const Verdict a : kAll) {
    for (const Verdict b : kAll) {
      for (const Verdict c : kAll) {
        const Decision decision =
            decide({constant("a", a), constant("b", b), constant("c", c)}, Evidence());
        const Verdict expected = std::max({a, b, c});
        EXPECT_EQ(decision.verdict, expected);
        const std::string rule = expected == Verdict::kAllow ? "none"
                                 : a == expected             ? "a"
                                 : b == expected             ? "b"
                                                             : "c";
        EXPECT_EQ(decision.rule, rule);
        ASSERT_EQ(decision.findings.size(), 3U);
        EXPECT_EQ(decision.findings[1].verdict, b);
      }
    }
  }
}

TEST(Decision, EveryMissingFactRefusesByNameWhateverTheOthersSay) {
  const std::vector<std::string> names = {"crashes", "window_s", "loss"};
  for (unsigned present = 0; present < 8; ++present) {
    Evidence evidence;
    for (unsigned i = 0; i < 3; ++i) {
      if ((present >> i & 1) != 0) evidence.set(names[i], 0);
    }
    const Decision decision = decide(crash_rules(), evidence);
    if (present == 7) {
      EXPECT_EQ(decision.verdict, Verdict::kAllow);
      continue;
    }
    EXPECT_EQ(decision.verdict, Verdict::kRefuse);
    unsigned first_missing = 0;
    while ((present >> first_missing & 1) != 0) ++first_missing;
    EXPECT_THAT(decision.explain(), HasSubstr("the fact " + names[first_missing] + " is missing"));
  }
}

TEST(Decision, NullAndNumbersThatAreNotFiniteCountAsMissing) {
  const double nan = std::nan("");
  const double infinite = std::numeric_limits<double>::infinity();
  for (const Json& value : {Json(), Json(nan), Json(infinite),
                            Json::array({Json(1), Json::object({{"x", Json(nan)}})})}) {
    Evidence evidence = crash_evidence(0, 0);
    evidence.set("loss", value);
    EXPECT_FALSE(evidence.has("loss"));
    const Decision decision = decide(crash_rules(), evidence);
    EXPECT_EQ(decision.verdict, Verdict::kRefuse);
    EXPECT_EQ(decision.rule, "drawdown");
  }
}

TEST(Decision, ARuleThatThrowsRefusesWithTheText) {
  const Rule rule{.name = "broken", .decide = [](const Evidence&) -> Finding {
                    throw std::runtime_error("no such index");
                  }};
  const Decision decision = decide({constant("fine", Verdict::kWarn), rule}, Evidence());
  EXPECT_EQ(decision.verdict, Verdict::kRefuse);
  EXPECT_EQ(decision.rule, "broken");
  EXPECT_THAT(decision.explain(), HasSubstr("no such index"));
  EXPECT_EQ(decide({{.name = "empty", .decide = {}}}, Evidence()).verdict, Verdict::kRefuse);
}

TEST(Decision, NoRulesAtAllRefuse) {
  const Decision decision = decide({}, crash_evidence(0, 0));
  EXPECT_EQ(decision.verdict, Verdict::kRefuse);
  EXPECT_EQ(decision.rule, "no_rules");
}

TEST(Decision, ExplainShowsRuleInputThresholdAndWhatFlipsIt) {
  const std::string text = decide(crash_rules(), crash_evidence(4, 0)).explain();
  for (const char* part : {"refuse", "repeated_crashes", "4 crashes", "more than 3",
                           "approve with `defib approve`", "other rules", "drawdown: allow"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(decide(crash_rules(), crash_evidence(0, 0)).explain(),
              HasSubstr("all 2 rules allow"));
}

TEST(Decision, JsonRoundTripReproducesTheVerdictOffline) {
  for (std::int64_t crashes = 0; crashes < 8; ++crashes) {
    for (const double loss : {0.0, 0.1, 0.1000001, 3.0, 1e300}) {
      const Decision online = decide(crash_rules(), crash_evidence(crashes, loss));
      const std::string stored = online.to_json().dump(2);
      const auto json = Json::parse(stored);
      ASSERT_TRUE(json);
      const auto read = Decision::from_json(*json);
      ASSERT_TRUE(read) << read.error().to_text();
      EXPECT_EQ(read->to_json().dump(), online.to_json().dump());
      EXPECT_EQ(read->explain(), online.explain());
      // Decided anew from the stored evidence alone, with the same rules.
      const Decision offline = decide(crash_rules(), Evidence::from_json((*json)["evidence"]));
      EXPECT_EQ(offline.to_json().dump(), online.to_json().dump());
    }
  }
}

TEST(Decision, ADecisionThatContradictsItselfIsRefused) {
  const Decision decision = decide(crash_rules(), crash_evidence(4, 0));
  const auto expect_refused = [](Json json, std::string_view member) {
    const auto read = Decision::from_json(json);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().field("member"), member) << read.error().to_text();
  };
  expect_refused(decision.to_json().set("verdict", "allow"), "verdict");
  expect_refused(decision.to_json().set("rule", "drawdown"), "rule");
  Json evidence = decision.evidence.to_json();
  evidence.set("crashes", 0);
  expect_refused(decision.to_json().set("evidence", evidence), "id");
  EXPECT_FALSE(Decision::from_json(Json::object()));
  EXPECT_FALSE(Decision::from_json(decision.to_json().set("schema", "defib.decision/2")));
}

TEST(Decision, EvidenceKeepsItsOrderAndItsHashIsTheId) {
  Evidence a, b;
  a.set("x", 1).set("y", 2);
  b.set("y", 2).set("x", 1);
  EXPECT_EQ(a.to_json().dump(), R"({"x":1,"y":2})");
  EXPECT_NE(decide({}, a).id, decide({}, b).id);
  EXPECT_EQ(decide({}, a).id, decide(crash_rules(), a).id);
  EXPECT_EQ(decide({}, a).id.size(), std::string("decision-").size() + 12);
}

TEST(Verdict, NamesRoundTrip) {
  for (const Verdict verdict : kAll) EXPECT_EQ(verdict_from_string(to_string(verdict)), verdict);
  EXPECT_FALSE(verdict_from_string("perhaps"));
}

}  // namespace
}  // namespace defib::recovery
