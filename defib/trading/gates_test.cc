#include "defib/trading/gates.h"

#include <cstdlib>
#include <set>

#include "defib/os/random.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/ramp.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using namespace std::chrono_literals;
using recovery::Verdict;
using testing::HasSubstr;

GateEvidence sound() {
  GateEvidence evidence;
  evidence.limits_loaded = true;
  evidence.permissions_verified = true;
  evidence.checkpoint_usable = true;
  evidence.price_age_ns = 0;
  return evidence;
}

recovery::Decision ask(const GateEvidence& evidence, GateThresholds thresholds = {}) {
  return recovery::decide(gate_rules(thresholds), evidence.to_evidence(thresholds));
}

struct Trouble {
  std::string rule;
  Verdict verdict;
  std::function<void(GateEvidence&, GateThresholds&)> cause;
};

const std::vector<Trouble>& troubles() {
  static const std::vector<Trouble> kTroubles = {
      {"state_damage", Verdict::kRefuse, [](auto& e, auto&) { e.damage = "intent x"; }},
      {"duplicate_orders", Verdict::kRefuse, [](auto& e, auto&) { e.duplicate_orders = 1; }},
      {"limits_loaded", Verdict::kRefuse, [](auto& e, auto&) { e.limits_loaded = false; }},
      {"permissions", Verdict::kRefuse, [](auto& e, auto&) { e.permissions_verified = false; }},
      {"clock_skew", Verdict::kRefuse, [](auto& e, auto&) { e.clock_skew_ms = -1'001; }},
      {"kill_switch", Verdict::kRefuse, [](auto& e, auto&) { e.kill_switch = "all"; }},
      {"heap_corruption", Verdict::kRefuse,
       [](auto& e, auto&) { e.crash_cause = "heap_corruption"; }},
      {"unexplained", Verdict::kNeedApproval, [](auto& e, auto&) { e.unexplained = 1; }},
      {"checkpoint_verdict", Verdict::kNeedApproval,
       [](auto& e, auto&) { e.checkpoint_usable = false; }},
      {"repeated_crashes", Verdict::kNeedApproval, [](auto& e, auto&) { e.crashes = 4; }},
      {"unknown_cause", Verdict::kNeedApproval, [](auto& e, auto&) { e.crash_cause = "unknown"; }},
      {"exposure", Verdict::kNeedApproval,
       [](auto& e, auto&) { e.exposure.unknown = dec("1000000.00000001"); }},
      {"volatility", Verdict::kNeedApproval,
       [](auto& e, auto&) { e.volatility = dec("0.05000001"); }},
      {"stale_prices", Verdict::kNeedApproval, [](auto& e, auto&) { e.price_age_ns = -1; }},
      {"approval", Verdict::kNeedApproval, [](auto&, auto& t) { t.approval_always = true; }},
      {"start_mode", Verdict::kNeedApproval, [](auto& e, auto&) { e.start_in_monitoring = true; }},
      {"venue_status", Verdict::kMonitorOnly,
       [](auto& e, auto&) { e.venue_status = "cancel_only"; }},
      {"market_state", Verdict::kMonitorOnly,
       [](auto& e, auto&) { e.halted_symbols = {"BTCUSDT"}; }},
      {"checkpoint_age", Verdict::kWarn,
       [](auto& e, auto&) { e.checkpoint_age_ns = std::chrono::nanoseconds(5s).count() + 1; }},
  };
  return kTroubles;
}

struct Expected {
  Verdict verdict = Verdict::kAllow;
  std::string rule = "none";
};
Expected expected_of(unsigned mask) {
  Expected expected;
  for (std::size_t i = 0; i < troubles().size(); ++i) {
    if ((mask & 1u << i) == 0 || troubles()[i].verdict <= expected.verdict) continue;
    expected = {troubles()[i].verdict, troubles()[i].rule};
  }
  return expected;
}

// heap_corruption and unknown_cause are two values of one fact, and exclude each other.
bool possible(unsigned mask) {
  unsigned causes = 0;
  for (std::size_t i = 0; i < troubles().size(); ++i) {
    const bool is_cause =
        troubles()[i].rule == "heap_corruption" || troubles()[i].rule == "unknown_cause";
    if (is_cause && (mask & 1u << i) != 0) ++causes;
  }
  return causes < 2;
}

// Then the verdict of any combination follows from the findings, and all 2^19 of them can be
// enumerated.
TEST(Gates, ATroubleChangesItsOwnRuleAndNoOther) {
  const auto& all = troubles();
  ASSERT_EQ(gate_rules({}).size(), all.size());
  ASSERT_EQ(all.size(), static_cast<std::size_t>(kGates));
  const recovery::Decision calm = ask(sound());
  for (std::size_t i = 0; i < all.size(); ++i) {
    GateEvidence evidence = sound();
    GateThresholds thresholds;
    all[i].cause(evidence, thresholds);
    const recovery::Decision decision = ask(evidence, thresholds);
    for (std::size_t k = 0; k < all.size(); ++k) {
      ASSERT_EQ(decision.findings[k].rule, all[k].rule);
      ASSERT_EQ(decision.findings[k].verdict, k == i ? all[i].verdict : Verdict::kAllow)
          << all[i].rule << " moves " << all[k].rule;
      ASSERT_EQ(decision.findings[k].flips.empty(), k != i);
      ASSERT_FALSE(decision.findings[k].threshold.empty());
    }
  }
  EXPECT_EQ(calm.verdict, Verdict::kAllow);
}

// All 2^19 combinations of findings: the strictest trouble decides, the first among equals.
TEST(Gates, EveryCombinationIsDecidedByItsStrictestTrouble) {
  const auto& all = troubles();
  const std::vector<recovery::Finding> calm = ask(sound()).findings;
  std::vector<recovery::Finding> troubled;
  for (std::size_t i = 0; i < all.size(); ++i) {
    GateEvidence evidence = sound();
    GateThresholds thresholds;
    all[i].cause(evidence, thresholds);
    troubled.push_back(ask(evidence, thresholds).findings[i]);
  }
  // The rules say what they found before; only the deciding is under test here.
  std::vector<recovery::Rule> rules;
  unsigned mask = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    rules.push_back({all[i].rule, {}, [&, i](const recovery::Evidence&) {
                       return (mask & 1u << i) != 0 ? troubled[i] : calm[i];
                     }});
  }
  for (mask = 0; mask < 1u << all.size(); ++mask) {
    const recovery::Decision decision = recovery::decide(rules, recovery::Evidence());
    const Expected expected = expected_of(mask);
    ASSERT_EQ(decision.verdict, expected.verdict) << mask;
    ASSERT_EQ(decision.rule, expected.rule) << mask;
    ASSERT_EQ(gate_error(decision).has_value(), expected.verdict > Verdict::kWarn) << mask;
  }
}

// A sample of the same through the real evidence, each verdict reproduced from what would be saved.
TEST(Gates, EveryVerdictIsReproducedFromItsSavedEvidence) {
  const auto& all = troubles();
  os::Random random(5);
  std::vector<unsigned> masks = {0, (1u << all.size()) - 1};
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t k = i; k < all.size(); ++k) masks.push_back(1u << i | 1u << k);
  }
  for (int i = 0; i < 2'000; ++i)
    masks.push_back(static_cast<unsigned>(random.below(1u << all.size())));
  for (const unsigned mask : masks) {
    if (!possible(mask)) continue;
    GateEvidence evidence = sound();
    GateThresholds thresholds;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if ((mask & 1u << i) != 0) all[i].cause(evidence, thresholds);
    }
    const recovery::Decision decision = ask(evidence, thresholds);
    ASSERT_EQ(decision.rule, expected_of(mask).rule) << mask;
    const auto text = wire::Json::parse(decision.to_json().dump());
    const auto saved = recovery::Decision::from_json(*text);
    ASSERT_TRUE(saved) << saved.error().to_text();
    const auto again = reproduce(*saved);
    ASSERT_TRUE(again) << again.error().to_text();
    ASSERT_EQ(again->to_json().dump(), decision.to_json().dump());
  }
}

TEST(Gates, AChangedVerdictOrEvidenceIsNotReproduced) {
  GateEvidence evidence = sound();
  evidence.crashes = 9;
  recovery::Decision decision = ask(evidence);
  decision.findings[9].verdict = Verdict::kAllow;  // somebody made it milder
  decision.verdict = Verdict::kAllow;
  decision.rule = "none";
  EXPECT_EQ(reproduce(decision).error().code(), Code::kVerdictNotReproduced);
  recovery::Decision without;
  without.evidence.set("crashes", 1);
  EXPECT_EQ(reproduce(without).error().code(), Code::kVerdictNotReproduced);
}

TEST(Gates, AVerdictIsConfigurableButNoRefusalBecomesMilder) {
  GateThresholds thresholds;
  thresholds.verdicts["volatility"] = Verdict::kMonitorOnly;
  GateEvidence evidence = sound();
  evidence.volatility = dec("0.06");
  EXPECT_EQ(ask(evidence, thresholds).verdict, Verdict::kMonitorOnly);
  EXPECT_EQ(reproduce(ask(evidence, thresholds))->verdict, Verdict::kMonitorOnly);
  EXPECT_TRUE(check_gate_verdict("volatility", Verdict::kRefuse));
  EXPECT_FALSE(check_gate_verdict("limits_loaded", Verdict::kWarn));
  EXPECT_FALSE(check_gate_verdict("nonsense", Verdict::kWarn));
}

TEST(Gates, ManualWorkOpensWhatOnlyItCanOpen) {
  GateEvidence evidence = sound();
  evidence.crash_cause = "heap_corruption";
  evidence.damage = "the intent log";
  EXPECT_EQ(ask(evidence).rule, "state_damage");
  evidence.manual_done = true;
  EXPECT_EQ(ask(evidence).verdict, Verdict::kAllow);
}

TEST(Gates, AnUnknownCauseHoldsOnlyWhereACauseIsAskedFor) {
  GateEvidence evidence = sound();
  evidence.crash_cause = "unknown";
  GateThresholds thresholds;
  EXPECT_EQ(ask(evidence, thresholds).rule, "unknown_cause");
  thresholds.require_cause = false;
  EXPECT_EQ(ask(evidence, thresholds).verdict, Verdict::kAllow);
}

TEST(Gates, AnAmountWithoutARateNeedsAPerson) {
  GateEvidence evidence = sound();
  evidence.currency = "USD";
  evidence.unpriced = {"EUR"};
  EXPECT_EQ(ask(evidence).rule, "exposure");
  EXPECT_THAT(ask(evidence).explain(), HasSubstr("no rate into USD"));
}

TEST(Gates, TheTreeIsDataThatAPersonCanRead) {
  const wire::Json tree = describe_gates({});
  ASSERT_EQ(tree.size(), static_cast<std::size_t>(kGates));
  for (const wire::Json& gate : tree.items()) {
    EXPECT_FALSE(gate["flips"].as_string().empty()) << gate.dump();
    EXPECT_FALSE(gate["threshold"].as_string().empty()) << gate.dump();
  }
  EXPECT_EQ(tree.items()[0]["gate"].as_string(), "state_damage");
}

TEST(Gates, TheThresholdItselfIsAllowed) {
  GateEvidence evidence = sound();
  evidence.crashes = 3;
  evidence.exposure.positions = dec("600000");
  evidence.exposure.open_orders = dec("300000");
  evidence.exposure.unknown = dec("100000");
  evidence.volatility = dec("0.05");
  evidence.price_age_ns = std::chrono::nanoseconds(10s).count();
  evidence.clock_skew_ms = 1'000;
  evidence.checkpoint_age_ns = std::chrono::nanoseconds(5s).count();
  EXPECT_EQ(ask(evidence).verdict, Verdict::kAllow) << ask(evidence).explain();
}

TEST(Gates, UnknownIntentsAloneHoldNothing) {
  GateEvidence evidence = sound();
  evidence.unknown_intents = 1'000;
  EXPECT_EQ(ask(evidence).verdict, Verdict::kAllow);
}

TEST(Gates, AStateFromTheVenueNeedsNoUsableCheckpoint) {
  GateEvidence evidence = sound();
  evidence.checkpoint_usable = false;
  evidence.state_source = StateSource::kVenue;
  EXPECT_EQ(ask(evidence).verdict, Verdict::kAllow);
}

TEST(Gates, AMissingFactRefuses) {
  const recovery::Evidence whole = sound().to_evidence({});
  recovery::Evidence evidence;
  for (const auto& [name, value] : whole.to_json().members()) {
    if (name != "exposure") evidence.set(name, value);
  }
  const recovery::Decision decision = recovery::decide(gate_rules({}), evidence);
  EXPECT_EQ(decision.verdict, Verdict::kRefuse);
  EXPECT_EQ(decision.rule, "exposure");
}

TEST(Gates, TheErrorSaysWhatWouldFlipIt) {
  GateEvidence evidence = sound();
  evidence.crashes = 9;
  const Error error = gate_error(ask(evidence)).value();
  EXPECT_EQ(error.code(), Code::kApprovalRequired);
  EXPECT_THAT(error.message(), HasSubstr("9 crashes"));
  EXPECT_THAT(error.suggested_action(), HasSubstr("defib approve"));
  evidence.limits_loaded = false;
  EXPECT_EQ(gate_error(ask(evidence))->code(), Code::kLimitsNotLoaded);
  evidence.duplicate_orders = 1;
  EXPECT_EQ(gate_error(ask(evidence))->code(), Code::kDuplicateOrder);
  GateEvidence halted = sound();
  halted.halted_symbols = {"X"};
  EXPECT_EQ(gate_error(ask(halted))->code(), Code::kTradingHalted);
  GateEvidence skewed = sound();
  skewed.clock_skew_ms = 5'000;
  EXPECT_EQ(gate_error(ask(skewed))->code(), Code::kGateClosed);
}

TEST(Gates, VolatilityIsTheGreatestMoveSinceTheLastMarkWithinTheWindow) {
  const std::map<std::string, Decimal> before = {{"A", dec("100")}, {"B", dec("100")}};
  const std::map<std::string, Decimal> now = {{"A", dec("103")}, {"B", dec("94")}, {"C", dec("1")}};
  const Volatility volatility = volatility_of(before, 0, now, 15min);
  EXPECT_EQ(volatility.value, dec("0.06"));
  EXPECT_EQ(volatility.symbol, "B");
  const auto window = std::chrono::nanoseconds(15min).count();
  EXPECT_EQ(volatility_of(before, window, now, 15min).value, dec("0.06"));
  EXPECT_EQ(volatility_of(before, window + 1, now, 15min).value, Decimal());
  EXPECT_EQ(volatility_of(before, -1, now, 15min).value, Decimal());
}

TEST(Decisions, AreFoundAgainByIdRuleOrAsTheLatestAndKeptToABound) {
  TemporaryDir dir;
  const auto store = open_store(dir.path());
  std::string first_id;
  for (int i = 0; i < 210; ++i) {
    GateEvidence evidence = sound();
    evidence.crashes = 4 + i;
    const recovery::Decision decision = ask(evidence);
    if (i == 0) first_id = decision.id;
    ASSERT_TRUE(record_decision(*store, decision, i + 1, store::Durability::kProcess));
  }
  const auto snapshot = std::move(*store->snapshot());
  EXPECT_EQ(find_decision(*snapshot, "latest")->evidence["crashes"].as_int(), 213);
  EXPECT_EQ(find_decision(*snapshot, "repeated_crashes")->evidence["crashes"].as_int(), 213);
  EXPECT_EQ(find_decision(*snapshot, first_id).error().code(), Code::kNotFound);
  const std::string latest = find_decision(*snapshot, "latest")->id;
  EXPECT_EQ(find_decision(*snapshot, latest.substr(0, 15))->id, latest);
}

// --- The checkpoint
// -------------------------------------------------------------------------------

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    state_.initialized = true;
    state_.instruments["BTCUSDT"] = {"BTCUSDT", "BTC", "USDT", dec("0.01"), dec("0.00001")};
    state_.positions["BTCUSDT"] = {"BTCUSDT", dec("2"), dec("100000"), dec("5"), dec("8"), 7};
    state_.balances = {{"BTC", dec("10")}, {"USDT", dec("1000")}};
    state_.cursors["BTCUSDT"] = "500";
  }
  CheckpointVerdict judge(std::function<void(Checkpoint&)> change = {},
                          CheckpointRules rules = {}) const {
    Checkpoint checkpoint = make_checkpoint(state_, {{"BTCUSDT", dec("50000")}}, 3, kNow);
    if (change) change(checkpoint);
    return validate_checkpoint(checkpoint.to_json().dump(), state_, fills_, rules, kNow);
  }
  static std::string rules_of(const CheckpointVerdict& verdict) {
    std::string text;
    for (const CheckpointFinding& finding : verdict.findings) {
      text +=
          (text.empty() ? "" : " ") + finding.rule + ":" + std::string(to_string(finding.severity));
    }
    return text;
  }
  static constexpr std::int64_t kNow = 1'700'000'000'000'000'000;
  static constexpr std::int64_t kSecond = 1'000'000'000;
  LedgerState state_;
  std::vector<venue::Fill> fills_;
};

TEST_F(CheckpointTest, ASoundOneHasNoFindingsAndIsReadBackExactly) {
  const CheckpointVerdict verdict = judge();
  EXPECT_EQ(rules_of(verdict), "");
  ASSERT_TRUE(verdict.usable());
  EXPECT_EQ(verdict.checkpoint->positions, state_.positions);
  EXPECT_EQ(verdict.checkpoint->balances, state_.balances);
}

TEST_F(CheckpointTest, EachRuleFindsItsOwnFault) {
  using C = Checkpoint;
  EXPECT_EQ(rules_of(judge([](C& c) { c.wall_ns = kNow + kSecond; })), "");
  EXPECT_EQ(rules_of(judge([](C& c) { c.wall_ns = kNow + kSecond + 1; })),
            "timestamp_future:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.wall_ns = kNow - 3'600 * kSecond; })), "");
  EXPECT_EQ(rules_of(judge([](C& c) { c.wall_ns = kNow - 3'601 * kSecond; })), "age:warning");
  EXPECT_EQ(rules_of(judge([](C& c) { c.version = 3; })), "version:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.balances["USDT"] = dec("-1"); })), "balance:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.marks["BTCUSDT"] = dec("0"); })), "price:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.positions["BTCUSDT"].cost = dec("-5"); })),
            "price:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.marks["BTCUSDT"] = dec("600000000"); })),
            "notional:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.cursors["BTCUSDT"] = "501"; })),
            "cursor_regressed:critical");
  EXPECT_EQ(rules_of(judge([](C& c) { c.positions["BTCUSDT"].quantity = dec("1.9"); })),
            "ledger_follows:critical");
  EXPECT_EQ(rules_of(judge([](C& c) {
              c.positions["BTCUSDT"].quantity = dec("1000001");
              c.positions["BTCUSDT"].cost = dec("1000001");
              c.marks["BTCUSDT"] = dec("1");
            })),
            "quantity:critical ledger_follows:critical");
}

TEST_F(CheckpointTest, TheThresholdsAreConfigurable) {
  CheckpointRules rules;
  rules.margin_account = true;
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.balances["USDT"] = dec("-1"); }, rules)),
            "balance:warning");
  rules.max_quantity_by_symbol["BTCUSDT"] = dec("1");
  EXPECT_EQ(rules_of(judge({}, rules)), "quantity:critical");
  rules = {};
  rules.prices_may_be_negative = true;
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.positions["BTCUSDT"].cost = dec("-5"); }, rules)),
            "");
}

TEST_F(CheckpointTest, AnyChangedByteOfTheTextIsFound) {
  const std::string text = make_checkpoint(state_, {}, 3, kNow).to_json().dump();
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] ^= 1;
    const CheckpointVerdict verdict = validate_checkpoint(changed, state_, fills_, {}, kNow);
    ASSERT_FALSE(verdict.usable()) << i << " " << changed;
    ASSERT_TRUE(verdict.error());
    EXPECT_EQ(verdict.error()->code(), Code::kCheckpointInvalid);
  }
  EXPECT_FALSE(validate_checkpoint(text.substr(0, text.size() - 1), state_, {}, {}, kNow).usable());
}

TEST_F(CheckpointTest, AnAbsentOneIsAWarningUnlessEverythingIsNew) {
  EXPECT_EQ(rules_of(validate_checkpoint(std::nullopt, state_, {}, {}, kNow)), "exists:warning");
  EXPECT_EQ(rules_of(validate_checkpoint(std::nullopt, LedgerState(), {}, {}, kNow)),
            "exists:info");
}

TEST_F(CheckpointTest, TheLedgerFollowsFromItAndTheTradesSince) {
  fills_ = {{"501", "9", "BTCUSDT", venue::Side::kBuy, dec("1"), dec("40000"), {}, "USDT", 1}};
  EXPECT_EQ(rules_of(judge()), "ledger_follows:critical");
  Checkpoint checkpoint = make_checkpoint(state_, {}, 3, kNow);
  LedgerState later = state_;
  later.positions["BTCUSDT"].quantity = dec("3");
  EXPECT_EQ(rules_of(validate_checkpoint(checkpoint.to_json().dump(), later, fills_, {}, kNow)),
            "");
}

TEST_F(CheckpointTest, TheSourceIsChosenByWhatFailed) {
  const RebuildCost cost;
  EXPECT_EQ(choose_source(judge(), state_, cost).source, StateSource::kLedger);
  EXPECT_EQ(choose_source(judge(), LedgerState(), cost).source, StateSource::kVenue);
  EXPECT_EQ(choose_source(judge([](Checkpoint& c) { c.version = 9; }), state_, cost).source,
            StateSource::kVenue);
  EXPECT_EQ(choose_source(judge([](Checkpoint& c) { c.positions["BTCUSDT"].quantity = dec("1"); }),
                          state_, cost)
                .source,
            StateSource::kCheckpoint);
}

TEST_F(CheckpointTest, AVersionOneIsMigratedAndAnotherVenuesIsRefused) {
  Checkpoint old = make_checkpoint(state_, {}, 3, kNow);
  old.version = 1;
  const CheckpointVerdict migrated =
      validate_checkpoint(old.to_json().dump(), state_, {}, {}, kNow);
  EXPECT_EQ(rules_of(migrated), "version:info");
  ASSERT_TRUE(migrated.usable());
  EXPECT_EQ(migrated.checkpoint->version, kCheckpointVersion);
  CheckpointRules rules;
  rules.venue = "kraken";
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.venue = "kraken"; }, rules)), "");
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.venue = "binance"; }, rules)), "venue:critical");
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.version = 0; })), "version:critical");
}

TEST_F(CheckpointTest, ASeverityIsConfigurableExceptOfWhatCannotBeRead) {
  CheckpointRules rules;
  rules.severity = {
      {"price", Severity::kWarning}, {"age", Severity::kCritical}, {"checksum", Severity::kInfo}};
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.marks["BTCUSDT"] = dec("0"); }, rules)),
            "price:warning");
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.wall_ns = kNow - 3'601 * kSecond; }, rules)),
            "age:critical");
  EXPECT_EQ(rules_of(validate_checkpoint("{}{", state_, {}, rules, kNow)), "checksum:critical");
  rules.negative_prices_for = {"BTCUSDT"};
  EXPECT_EQ(rules_of(judge([](Checkpoint& c) { c.positions["BTCUSDT"].cost = dec("-5"); }, rules)),
            "");
  EXPECT_TRUE(severity_is_configurable("quantity"));
  EXPECT_FALSE(severity_is_configurable("checksum"));
  EXPECT_FALSE(severity_is_configurable("nonsense"));
}

// Binance by the minute, Kraken by a counter that decays: the figures of the venues' documents.
TEST(RebuildCost, FollowsFromTheVenuesOwnPrices) {
  venue::RebuildModel binance;
  binance.limit = {.capacity = 6'000, .window = 1min, .reserved_percent = 0};
  binance.fixed = 40;
  binance.orders_cost = 80;
  binance.fills_cost = 20;
  const RebuildCost small = estimate_rebuild(binance, {.symbols = 100}, 50ms);
  EXPECT_EQ(small.weight, 2'120);
  EXPECT_EQ(small.requests, 104);
  EXPECT_EQ(small.estimate, 50ms * 104);
  EXPECT_GE(estimate_rebuild(binance, {.symbols = 1, .fills = 1'000'000}, 50ms).estimate, 3min);
  venue::RebuildModel kraken;
  kraken.limit = {.capacity = 15, .refill_per_1000s = 330, .reserved_percent = 0};
  kraken.fixed = 2;
  kraken.orders_cost = 1;
  kraken.fills_page = 50;
  kraken.fills_cost = 2;
  kraken.filtered = false;
  const RebuildCost starter = estimate_rebuild(kraken, {.symbols = 1, .fills = 10'000}, 100ms);
  EXPECT_GT(starter.estimate, 19min);
  EXPECT_LT(starter.estimate, 21min);
  const RebuildCost three = estimate_rebuild(kraken, {.symbols = 3, .fills = 10'000}, 100ms);
  EXPECT_EQ(three.estimate, starter.estimate);  // one walk tells of all
}

// Over 100,000 mutations here, 1,000,000 with DEFIB_LONG: whatever is changed, cut, doubled or put
// together from two, nothing dies, and nothing but the original text is accepted.
TEST_F(CheckpointTest, NoMutationIsEverAcceptedAndNoneKillsAnything) {
  const std::string text =
      make_checkpoint(state_, {{"BTCUSDT", dec("50000")}}, 3, kNow, "binance").to_json().dump();
  const std::string other = make_checkpoint(state_, {}, 4, kNow - 1).to_json().dump();
  const int rounds = std::getenv("DEFIB_LONG") != nullptr ? 1'000'000 : 20'000;
  os::Random random(11);
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string changed = text;
    const std::uint64_t times = 1 + random.below(3);
    for (std::uint64_t time = 0; time < times; ++time) {
      const std::size_t at = changed.empty() ? 0 : random.below(changed.size());
      switch (random.below(6)) {
        case 0:
          if (!changed.empty()) changed[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          changed.resize(at);
          break;
        case 2:
          changed.insert(at, changed.substr(at, random.below(40)));
          break;
        case 3:
          changed.erase(at, random.below(40));
          break;
        case 4:
          if (!changed.empty()) changed[at] ^= static_cast<char>(1u << random.below(8));
          break;
        default:
          changed = changed.substr(0, at) + other.substr(std::min(at, other.size()));
      }
    }
    if (changed == text || changed == other) continue;
    const CheckpointVerdict verdict = validate_checkpoint(changed, state_, fills_, {}, kNow);
    ASSERT_FALSE(verdict.usable()) << round << " " << changed;
    ++refused;
  }
  EXPECT_GT(refused, rounds * 9 / 10);
}

// --- The ramp
// -------------------------------------------------------------------------------------

constexpr std::int64_t seconds(std::int64_t count) {
  return count * 1'000'000'000;
}
const HealthResult kHealthy{true, {}, {}};
RampOptions at_once() {
  RampOptions options;
  options.check_after = 0s;
  return options;
}

TEST(Ramp, NothingTradesBeforeTheComprehensiveCheckFiveSecondsLater) {
  Ramp ramp({});
  EXPECT_EQ(ramp.begin(0), RampChange::kProofStarted);
  EXPECT_EQ(ramp.phase(), RampPhase::kProving);
  EXPECT_FALSE(ramp.permit().open);
  EXPECT_EQ(ramp.next_ns(), seconds(5));
  EXPECT_EQ(ramp.advance(seconds(4), kHealthy), RampChange::kNone);
  EXPECT_EQ(ramp.advance(seconds(5), std::nullopt), RampChange::kNone);
  EXPECT_FALSE(ramp.permit().open);
  EXPECT_EQ(ramp.advance(seconds(6), kHealthy), RampChange::kStepStarted);
  EXPECT_EQ(ramp.permit().percent, 50);
  Ramp failing({});
  failing.begin(0);
  EXPECT_EQ(failing.advance(seconds(5), HealthResult{false, "test_order", "refused"}),
            RampChange::kEmergency);
  EXPECT_FALSE(failing.permit().open);
}

// Checks exactly when they are due; returns when the ramp was full.
std::int64_t run_healthy(Ramp& ramp, std::int64_t from) {
  std::int64_t now = from;
  ramp.begin(now);
  while (ramp.phase() != RampPhase::kFull && now < from + seconds(3'600)) {
    now = std::max(now + 1, ramp.next_ns());
    const bool due = now >= ramp.check_due_ns();
    ramp.advance(now, due ? std::optional(kHealthy) : std::nullopt);
  }
  return now;
}

TEST(Ramp, GoesFromHalfToThreeQuartersToFullInThreeTimesNinetySeconds) {
  Ramp ramp(at_once());
  EXPECT_FALSE(ramp.permit().open);
  EXPECT_EQ(ramp.begin(0), RampChange::kStepStarted);
  EXPECT_EQ(ramp.permit().percent, 50);
  EXPECT_EQ(ramp.permit().max_risk, RiskLevel::kLow);
  std::vector<std::pair<std::int64_t, int>> steps;
  int percent = 50;
  for (std::int64_t now = seconds(5); now <= seconds(300); now += seconds(5)) {
    ramp.advance(now, kHealthy);
    if (ramp.permit().percent != percent) steps.emplace_back(now, percent = ramp.permit().percent);
  }
  EXPECT_THAT(steps,
              testing::ElementsAre(std::pair(seconds(90), 75), std::pair(seconds(180), 100)));
  EXPECT_EQ(ramp.phase(), RampPhase::kFull);
  EXPECT_EQ(ramp.permit().max_risk, RiskLevel::kHigh);
}

TEST(Ramp, AFailingCheckAtAnyTimeIsFinal) {
  for (std::int64_t fail_at = 5; fail_at <= 400; fail_at += 5) {
    Ramp ramp(at_once());
    ramp.begin(0);
    for (std::int64_t now = 5; now < fail_at; now += 5) ramp.advance(seconds(now), kHealthy);
    EXPECT_EQ(ramp.advance(seconds(fail_at), HealthResult{false, "venue", "gone"}),
              RampChange::kEmergency);
    EXPECT_FALSE(ramp.permit().open);
    EXPECT_EQ(ramp.next_ns(), 0);
    for (std::int64_t now = fail_at + 5; now < fail_at + 600; now += 5) {
      EXPECT_EQ(ramp.advance(seconds(now), kHealthy), RampChange::kNone);
    }
    EXPECT_EQ(ramp.begin(seconds(10'000)), RampChange::kNone);
    EXPECT_FALSE(ramp.permit().open);
    EXPECT_THAT(ramp.permit().reason, HasSubstr("venue: gone"));
  }
}

TEST(Ramp, SilenceIsNotHealth) {
  Ramp ramp(at_once());
  ramp.begin(0);
  for (std::int64_t now = 1; now < 3'600; ++now) ramp.advance(seconds(now), std::nullopt);
  EXPECT_EQ(ramp.permit().percent, 50);
  // One passing check after a long silence does not end the period either.
  ramp.advance(seconds(3'600), kHealthy);
  EXPECT_EQ(ramp.permit().percent, 50);
}

TEST(Ramp, TimesAndStepsAreConfigurable) {
  RampOptions options = at_once();
  options.settle = 0s;
  options.watch = 10ms;
  options.check_every = 5ms;
  options.steps = {{10, RiskLevel::kLow}, {100, RiskLevel::kHigh}};
  Ramp ramp(options);
  const std::int64_t took = run_healthy(ramp, 0);
  EXPECT_EQ(ramp.phase(), RampPhase::kFull);
  EXPECT_LE(took, 60'000'000);
}

// In any sequence of calls the permit never grows without a whole watch period of checks.
TEST(RampProperty, NoStepIsShorterThanSettleAndWatch) {
  os::Random random(7);
  for (int run = 0; run < 300; ++run) {
    Ramp ramp(at_once());
    std::int64_t now = 0;
    std::int64_t step_since = 0;
    int percent = 0;
    ramp.begin(now);
    percent = ramp.permit().percent;
    for (int call = 0; call < 400 && ramp.phase() != RampPhase::kEmergency; ++call) {
      now += static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(seconds(12))));
      const std::uint64_t kind = random.below(100);
      std::optional<HealthResult> health;
      if (kind < 70) health = kHealthy;
      if (kind == 99) health = HealthResult{false, "x", "y"};
      ramp.advance(now, health);
      const int next = ramp.permit().percent;
      if (health && !health->healthy) {
        ASSERT_EQ(next, 0);
      } else if (next != percent) {
        ASSERT_GT(next, percent);
        ASSERT_GE(now - step_since, seconds(90));
        step_since = now;
        percent = next;
      }
    }
  }
}

}  // namespace
}  // namespace defib::trading
