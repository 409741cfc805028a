#include "defib/trading/approval.h"

#include <fstream>
#include <functional>

#include "defib/trading/config.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using namespace std::chrono_literals;
using testing::HasSubstr;

Plan make_plan(int crashes = 4) {
  Plan plan;
  plan.venue = "binance";
  plan.owner = "tst";
  plan.symbols = {"BTCUSDT"};
  plan.asked_because = {"repeated_crashes"};
  plan.exposure_limit = dec("1000000");
  plan.exposure_at_most = dec("50000");
  plan.crashes = crashes;
  return plan;
}

class ApprovalTest : public testing::Test {
 protected:
  std::string reason(const Result<Approval>& result) {
    if (result) return "valid";
    EXPECT_EQ(result.error().code(), Code::kApprovalInvalid) << result.error().to_text();
    return std::string(result.error().field("reason"));
  }
  void write_approval(const std::string& hash, const std::string& text) {
    std::ofstream(dir_.path() + "/approvals/" + hash + ".json") << text;
  }
  TemporaryDir dir_;
  os::FakeClock clock_;
  std::unique_ptr<store::Store> store_ = open_store(dir_.path() + "/store");
  ApprovalDesk desk_{os::real_files(), clock_, dir_.path()};
};

TEST(PlanTest, CoversWhatAsksForNoMore) {
  Plan accepted = make_plan();
  accepted.discrepancies = {"D-1", "D-2"};
  EXPECT_TRUE(accepted.covers(accepted));
  Plan less = accepted;
  less.asked_because.clear();
  less.discrepancies = {"D-2"};
  less.exposure_at_most = {};
  less.crashes = 0;
  EXPECT_TRUE(accepted.covers(less));
  const std::vector<std::function<void(Plan&)>> more = {
      [](Plan& plan) { plan.asked_because.emplace_back("volatility"); },
      [](Plan& plan) { plan.discrepancies.emplace_back("D-3"); },
      [](Plan& plan) { plan.exposure_at_most += dec("1"); },
      [](Plan& plan) { ++plan.crashes; },
      [](Plan& plan) { plan.exposure_limit += dec("1"); },
      [](Plan& plan) { plan.venue = "kraken"; },
      [](Plan& plan) { plan.owner = "xyz"; },
      [](Plan& plan) { plan.symbols.emplace_back("ETHUSDT"); },
      [](Plan& plan) { plan.strategies.emplace_back("maker"); },
      [](Plan& plan) { plan.ramp.emplace_back("100% high"); }};
  for (std::size_t i = 0; i < more.size(); ++i) {
    Plan wanted = accepted;
    more[i](wanted);
    EXPECT_FALSE(accepted.covers(wanted)) << i;
  }
}

TEST_F(ApprovalTest, IsGoodForItsPlanOnce) {
  const std::string hash = desk_.publish(make_plan()).value();
  EXPECT_EQ(desk_.consume(*store_, make_plan()).error().code(), Code::kApprovalRequired);
  ASSERT_TRUE(desk_.approve("latest", "Ada Lovelace", 10min));
  const auto used = desk_.consume(*store_, make_plan());
  ASSERT_TRUE(used) << used.error().to_text();
  EXPECT_EQ(used->by, "Ada Lovelace");
  EXPECT_EQ(used->plan, hash);
  EXPECT_EQ(reason(desk_.consume(*store_, make_plan())), "used");
  EXPECT_EQ(reason(desk_.check(**store_->snapshot(), hash)), "used");
}

TEST_F(ApprovalTest, UseSurvivesAKillAndACopiedFile) {
  const std::string hash = desk_.publish(make_plan()).value();
  ASSERT_TRUE(desk_.approve(hash, "ada", 10min));
  const std::string copy =
      os::read_file(os::real_files(), dir_.path() + "/approvals/" + hash + ".json").value();
  ASSERT_TRUE(desk_.consume(*store_, make_plan()));
  store_.reset();  // killed
  store_ = open_store(dir_.path() + "/store");
  write_approval(hash, copy);
  EXPECT_EQ(reason(desk_.consume(*store_, make_plan())), "used");
  clock_.advance(1s);
  ASSERT_TRUE(desk_.approve(hash, "ada", 10min));  // a new approval of the same plan
  EXPECT_TRUE(desk_.consume(*store_, make_plan()));
}

TEST_F(ApprovalTest, ExpiresOnTime) {
  const std::string hash = desk_.publish(make_plan()).value();
  ASSERT_TRUE(desk_.approve(hash, "ada", 10min));
  clock_.advance(10min - 1ns);
  EXPECT_EQ(reason(desk_.check(**store_->snapshot(), hash)), "valid");
  clock_.advance(1ns);
  EXPECT_EQ(reason(desk_.consume(*store_, make_plan())), "expired");
}

TEST_F(ApprovalTest, AnotherPlanIsNotApproved) {
  const std::string hash = desk_.publish(make_plan()).value();
  ASSERT_TRUE(desk_.approve(hash, "ada", 10min));
  EXPECT_EQ(desk_.consume(*store_, make_plan(5)).error().code(), Code::kApprovalRequired);
  const std::string text =
      os::read_file(os::real_files(), dir_.path() + "/approvals/" + hash + ".json").value();
  write_approval(make_plan(5).hash(), text);
  EXPECT_EQ(reason(desk_.consume(*store_, make_plan(5))), "plan_mismatch");
}

TEST_F(ApprovalTest, NeedsAPersonAndASensibleTime) {
  const std::string hash = desk_.publish(make_plan()).value();
  for (const std::string by : {"", "   ", "a\nb"}) {
    EXPECT_EQ(reason(desk_.approve(hash, by, 10min)), "no_person");
  }
  EXPECT_EQ(reason(desk_.approve(hash, "ada", 0s)), "expired");
  EXPECT_EQ(reason(desk_.approve(hash, "ada", 25h)), "expired");
}

TEST_F(ApprovalTest, AForgedFileIsJudgedByTheSameRules) {
  const std::string hash = desk_.publish(make_plan()).value();
  const auto forged = [&](std::string by, std::int64_t at, std::int64_t expires) {
    Approval approval;
    approval.plan = hash;
    approval.by = std::move(by);
    approval.at_wall_ns = at;
    approval.expires_wall_ns = expires;
    write_approval(hash, approval.to_json().dump());
    return reason(desk_.check(**store_->snapshot(), hash));
  };
  const std::int64_t now = clock_.wall_ns();
  const std::int64_t hour = std::chrono::nanoseconds(1h).count();
  EXPECT_EQ(forged("ada", now, now + hour), "valid");
  EXPECT_EQ(forged("", now, now + hour), "no_person");
  EXPECT_EQ(forged("ada", now + 2'000'000'000, now + hour), "from_future");
  EXPECT_EQ(forged("ada", now - hour, now + 24 * hour), "expired");
  write_approval(hash, "{}");
  EXPECT_EQ(reason(desk_.check(**store_->snapshot(), hash)), "unreadable");
  write_approval(hash, "yes");
  EXPECT_EQ(reason(desk_.check(**store_->snapshot(), hash)), "unreadable");
}

TEST_F(ApprovalTest, AChangedPlanFileIsNotApproved) {
  const std::string hash = desk_.publish(make_plan()).value();
  const std::string path = dir_.path() + "/plans/" + hash + ".json";
  std::string text = os::read_file(os::real_files(), path).value();
  text.replace(text.find("BTCUSDT"), 7, "ETHUSDT");
  std::ofstream(path) << text;
  EXPECT_EQ(reason(desk_.approve(hash, "ada", 10min)), "plan_mismatch");
}

TEST_F(ApprovalTest, PlansAreFoundByUniquePrefix) {
  EXPECT_EQ(desk_.find("latest").error().code(), Code::kNotFound);
  const std::string first = desk_.publish(make_plan(4)).value();
  const std::string second = desk_.publish(make_plan(5)).value();
  EXPECT_EQ(desk_.find("latest").value(), second);
  EXPECT_EQ(desk_.find(first.substr(0, 12)).value(), first);
  EXPECT_EQ(desk_.find(first.substr(0, 5)).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(desk_.find("../../etc/passwd").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(desk_.find("ffffffffffff").error().code(), Code::kNotFound);
}

TEST(PlanHash, ChangesWithEverythingThatAPersonIsShown) {
  const std::string hash = make_plan().hash();
  const std::vector<std::function<void(Plan&)>> changes = {
      [](Plan& p) { p.venue = "x"; },
      [](Plan& p) { p.owner = "x"; },
      [](Plan& p) { p.symbols.push_back("x"); },
      [](Plan& p) { p.strategies.push_back("x"); },
      [](Plan& p) { p.asked_because.push_back("x"); },
      [](Plan& p) { p.discrepancies.push_back("x"); },
      [](Plan& p) { p.exposure_at_most = dec("100000"); },
      [](Plan& p) { p.exposure_limit = dec("1"); },
      [](Plan& p) { p.crashes = 5; },
      [](Plan& p) { p.ramp.push_back("x"); }};
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Plan plan = make_plan();
    changes[i](plan);
    EXPECT_NE(plan.hash(), hash) << i;
  }
  EXPECT_EQ(make_plan().hash(), hash);
}

TEST(PlanHash, ASmallMoveOfThePriceDoesNotMakeAnotherPlan) {
  const Decimal limit = dec("1000000");
  EXPECT_EQ(round_exposure_up(dec("120000"), limit), dec("150000"));
  EXPECT_EQ(round_exposure_up(dec("120001"), limit), dec("150000"));
  EXPECT_EQ(round_exposure_up(dec("150000"), limit), dec("150000"));
  EXPECT_EQ(round_exposure_up(Decimal(), limit), Decimal());
}

// --- Configuration
// --------------------------------------------------------------------------------

class ConfigTest : public testing::Test {
 protected:
  Result<TradingConfig> load(const std::string& text) {
    const std::string path = dir_.path() + "/defib.toml";
    std::ofstream(path) << text;
    return load_trading_config(path);
  }
  TemporaryDir dir_;
};

constexpr std::string_view kSmall = "[venue]\nsymbols = [\"BTCUSDT\"]\n[trading]\n";

TEST_F(ConfigTest, WithoutALimitsTableThereAreNoLimits) {
  const auto config = load(std::string(kSmall));
  ASSERT_TRUE(config) << config.error().to_text();
  EXPECT_FALSE(config->limits);
  EXPECT_EQ(config->gates.max_exposure, dec("1000000"));
  EXPECT_EQ(config->gates.max_crashes, 3);
  EXPECT_EQ(config->ramp.steps.size(), 3u);
}

TEST_F(ConfigTest, EverythingCanBeSet) {
  const auto config = load(R"(
[service.engine]
command = ["engine"]
[venue]
url = "http://127.0.0.1:1"
recv_window_ms = 500
symbols = ["BTCUSDT"]
[trading]
owner = "xyz"
durability = "power"
tolerance = "0.001"
[trading.limits]
max_exposure = "5000"
price_collar = 0
[trading.gates]
max_crashes = 5
max_volatility = "0.1"
approval_always = true
max_quantity_by_symbol = {BTCUSDT = "12"}
[trading.ramp]
settle = "1s"
[[trading.ramp.steps]]
percent = 25
max_risk = "low"
[[trading.ramp.steps]]
percent = 100
max_risk = "high"
)");
  ASSERT_TRUE(config) << config.error().to_text();
  EXPECT_EQ(config->limits->max_exposure, dec("5000"));
  EXPECT_EQ(config->intent_durability, store::Durability::kPower);
  EXPECT_EQ(config->checkpoint.max_quantity_by_symbol.at("BTCUSDT"), dec("12"));
  EXPECT_EQ(config->ramp.steps.at(0).percent, 25);
  EXPECT_TRUE(config->gates.approval_always);
}

TEST_F(ConfigTest, MistakesAreNamed) {
  const auto code = [&](const std::string& more) {
    return load(std::string(kSmall) + more).error();
  };
  EXPECT_EQ(code("owner = \"ABC\"\n").code(), Code::kConfigBadValue);
  EXPECT_EQ(code("onwer = \"abc\"\n").code(), Code::kConfigUnknownKey);
  EXPECT_EQ(code("[trading.limits]\nmax_exposure = -1\n").code(), Code::kConfigBadValue);
  EXPECT_EQ(load("[trading]\n").error().code(), Code::kConfigBadValue);
}

}  // namespace
}  // namespace defib::trading
