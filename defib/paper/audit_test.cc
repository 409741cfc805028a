#include "defib/paper/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/paper/ledger.h"
#include "defib/paper/testing.h"

namespace defib::paper {
namespace {

using testing::dec;
using ::testing::HasSubstr;
using testing::limit;
using testing::market;

class AuditTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/paper-audit-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/ledger.jsonl";
    core_.record(OrderRefused{"refused", Refusal::kRejected, -2010, "no", ""});
    core_.record(OrderRefused{"dropped", Refusal::kDropped, 0, "", "drop_request"});
    place(limit("resting", Side::kBuy, "50000", "0.1"));
    place(market("filled", Side::kBuy, "0.1"));
    NewOrder external = limit("web_3", Side::kBuy, "40000", "0.1");
    external.origin = Origin::kExternal;
    place(external);
    core_.cancel(1, "c");
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void place(const NewOrder& order) { ASSERT_TRUE(core_.place(order).has_value()); }
  AuditReport run(std::optional<std::string> intents) {
    if (!ledger_) {
      ledger_ = std::move(*Ledger::open(os::real_files(), path_, 1, core_.symbols(),
                                        [](const Event&) { return Result<>(); }));
    }
    EXPECT_TRUE(ledger_->append(core_.take_events()).has_value());
    std::optional<std::vector<Intent>> parsed;
    if (intents) parsed = *parse_intents(*intents);
    auto report = audit(os::real_files(), path_, parsed);
    EXPECT_TRUE(report.has_value()) << report.error().to_text();
    return *report;
  }
  static std::vector<std::string> offenders(const AuditReport& report, FindingKind kind) {
    std::vector<std::string> ids;
    for (const Finding& finding : report.findings) {
      if (finding.kind == kind) ids.push_back(finding.client_id);
    }
    return ids;
  }
  using Ids = std::vector<std::string>;

  static constexpr std::string_view kHonest =
      "resting accepted\nfilled\taccepted\nrefused, rejected\ndropped never_accepted\n"
      "# never sent\nunsent never_accepted\n";
  std::string directory_;
  std::string path_;
  Core core_ = testing::make_core();
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(AuditTest, ProvesAnHonestTrader) {
  const AuditReport report = run(std::string(kHonest));
  EXPECT_TRUE(report.ok()) << report.to_text();
  EXPECT_EQ(report.intents, 5U);
  EXPECT_EQ(report.accepted, 2U);
  EXPECT_EQ(report.rejected, 1U);
  EXPECT_EQ(report.never_accepted, 2U);
  EXPECT_EQ(report.external_orders, 1U);
  EXPECT_EQ(report.digest, core_.digest());
  EXPECT_THAT(report.to_text(), HasSubstr("2 accepted + 1 rejected + 2 never accepted = 5 of 5"));
  EXPECT_TRUE(report.to_json()["ok"].as_bool());
}

TEST_F(AuditTest, WithoutIntentsChecksTheLedgerAlone) {
  EXPECT_TRUE(run(std::nullopt).ok());
}

TEST_F(AuditTest, FindsALostOrderWhateverTheTraderBelieves) {
  for (const std::string belief : {"rejected", "never_accepted"}) {
    const AuditReport report = run("filled accepted\nresting " + belief);
    EXPECT_FALSE(report.ok());
    EXPECT_EQ(report.lost, 1U);
    EXPECT_EQ(offenders(report, FindingKind::kLost), Ids{"resting"});
  }
  const AuditReport without = run("filled accepted");
  EXPECT_FALSE(without.ok());
  EXPECT_EQ(offenders(without, FindingKind::kLost), Ids{"resting"});
}

TEST_F(AuditTest, FindsADuplicatedOrder) {
  place(market("filled", Side::kBuy, "0.1"));
  const AuditReport report = run(std::string(kHonest));
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(report.duplicated, 1U);
  EXPECT_EQ(offenders(report, FindingKind::kDuplicated), Ids{"filled"});
}

TEST_F(AuditTest, FindsPhantomsUnresolvedUnprovedAndRepeatedIntents) {
  const AuditReport report =
      run("resting accepted\nfilled accepted\nghost accepted\nlimbo unknown\nsaid rejected\n"
          "dropped rejected\nfilled accepted\n");
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(offenders(report, FindingKind::kPhantom), Ids{"ghost"});
  EXPECT_EQ(offenders(report, FindingKind::kUnresolved), Ids{"limbo"});
  EXPECT_EQ(offenders(report, FindingKind::kUnprovedRejection), (Ids{"said", "dropped"}));
  EXPECT_EQ(offenders(report, FindingKind::kRepeatedIntent), Ids{"filled"});
  EXPECT_EQ(report.to_json()["findings"].size(), 5U);
}

TEST_F(AuditTest, FindsAnOrderThatIsNotWhatWasIntended) {
  const Order& order = *core_.find_order("resting");
  const std::string symbol = core_.symbols()[order.symbol].name;
  const auto terms = [&](std::string_view side, Decimal quantity, Decimal price, Decimal filled) {
    return "filled accepted\nrefused rejected\nresting accepted " + symbol + " " +
           std::string(side) + " " + quantity.to_string() + " " + price.to_string() + " " +
           filled.to_string() + "\n";
  };
  const bool buys = order.side == Side::kBuy;
  const std::string_view side = buys ? "buy" : "sell";
  const AuditReport honest = run(terms(side, order.quantity, order.price, order.executed));
  EXPECT_TRUE(honest.ok()) << honest.to_text();
  const Decimal bit = Decimal::from_units(1);
  for (const std::string& wrong :
       {terms(buys ? "sell" : "buy", order.quantity, order.price, order.executed),
        terms(side, order.quantity + bit, order.price, order.executed),
        terms(side, order.quantity, order.price + bit, order.executed),
        terms(side, order.quantity, order.price, order.executed + bit)}) {
    const AuditReport report = run(wrong);
    EXPECT_FALSE(report.ok());
    EXPECT_EQ(report.misattributed, 1U);
    EXPECT_EQ(offenders(report, FindingKind::kMisattributed), Ids{"resting"});
  }
}

TEST_F(AuditTest, ExternalOrdersAreNobodysIntent) {
  const AuditReport report = run(std::string(kHonest) + "web_3 accepted\n");
  EXPECT_EQ(offenders(report, FindingKind::kPhantom), Ids{"web_3"});
}

TEST_F(AuditTest, ReportsALedgerThatContradictsItself) {
  run(std::nullopt);
  const Event invented{core_.last_seq() + 1, core_.now(),
                       OrderClosed{99, OrderStatus::kCancelled, ""}};
  ASSERT_TRUE(ledger_->append({invented}).has_value());
  const auto report = audit(os::real_files(), path_, std::nullopt);
  ASSERT_TRUE(report.has_value());
  EXPECT_FALSE(report->ok());
  EXPECT_EQ(report->findings.at(0).kind, FindingKind::kLedgerBroken);
}

TEST(Intents, MalformedLinesAreNamed) {
  EXPECT_EQ(parse_intents("a accepted\nb perhaps\n").error().field("line"), "2");
  EXPECT_EQ(parse_intents("a\n").error().field("line"), "1");
  EXPECT_EQ(parse_intents(" accepted\n").error().field("line"), "1");
  EXPECT_EQ(parse_intents("a accepted\r\n\n").value().size(), 1U);
  EXPECT_EQ(parse_intents("a accepted BTCUSDT buy 1 2\n").error().field("line"), "1");
  EXPECT_EQ(parse_intents("a accepted BTCUSDT hold 1 2 0\n").error().field("line"), "1");
  EXPECT_EQ(parse_intents("a accepted BTCUSDT buy 1 x 0\n").error().field("line"), "1");
  EXPECT_TRUE(parse_intents("a accepted BTCUSDT sell 1 2 0\n").value()[0].terms.has_value());
}

}  // namespace
}  // namespace defib::paper
