#include "defib/trading/kill_switch.h"

#include <sys/stat.h>
#include <unistd.h>

#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using namespace std::chrono_literals;
using testing::HasSubstr;

class KillSwitchTest : public testing::Test {
 protected:
  KillSwitch make() { return {os::real_files(), clock_, dir_.path()}; }
  std::string file() const { return dir_.path() + "/kill/engaged.json"; }

  TemporaryDir dir_;
  os::FakeClock clock_;
  ScriptedVenue venue_{clock_};
};

TEST_F(KillSwitchTest, EngagesByScopeAndOutlivesTheProcess) {
  EXPECT_FALSE(make().stops("binance", "maker"));
  ASSERT_TRUE(make().engage("strategy:maker", "ada", "odd prices"));
  EXPECT_TRUE(make().stops("binance", "maker"));
  EXPECT_FALSE(make().stops("binance", "trend"));
  EXPECT_FALSE(make().stops("binance", ""));
  ASSERT_TRUE(make().engage("venue:kraken", "ada", "venue is odd"));
  EXPECT_TRUE(make().stops("kraken", "trend"));
  EXPECT_FALSE(make().stops("binance", "trend"));
  ASSERT_TRUE(make().engage("all", "bob", "stop"));
  EXPECT_EQ(make().stops("binance", "trend")->by, "bob");
  EXPECT_EQ(make().read()->size(), 3u);
}

TEST_F(KillSwitchTest, OnlyAPersonWithAReasonEngagesOrReleases) {
  EXPECT_EQ(make().engage("everything", "ada", "x").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(make().engage("venue:", "ada", "x").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(make().engage("all", " ", "x").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(make().engage("all", "ada", "").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(make().release("all", "ada", "x").error().code(), Code::kNotFound);
  ASSERT_TRUE(make().engage("all", "ada", "x"));
  ASSERT_TRUE(make().engage("all", "bob", "again"));
  EXPECT_EQ(make().read()->front().by, "ada");
  ASSERT_TRUE(make().release("all", "ada", "over"));
  EXPECT_FALSE(make().stops("binance", "maker"));
}

TEST_F(KillSwitchTest, WhatCannotBeReadStopsEverything) {
  ASSERT_TRUE(make().engage("strategy:maker", "ada", "x"));
  for (const char* text :
       {"", "{", "{}", R"({"schema":"defib.kill/1","engaged":[{"scope":"?"}]})"}) {
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), file(), text));
    EXPECT_EQ(make().read().error().code(), Code::kCorrupted) << text;
    EXPECT_EQ(make().stops("binance", "trend")->scope, "all") << text;
  }
  ASSERT_TRUE(make().engage("venue:kraken", "ada", "x"));
  EXPECT_EQ(make().stops("binance", "trend")->scope, "all");
}

TEST_F(KillSwitchTest, OneThatMayNotBeLookedAtStopsEverything) {
  GuardedFiles files(file());
  KillSwitch guarded(files, clock_, dir_.path());
  ASSERT_FALSE(guarded.read());
  EXPECT_EQ(guarded.read().error().code(), Code::kPermissionDenied);
  ASSERT_TRUE(guarded.stops("binance", "trend"));
  EXPECT_EQ(guarded.stops("binance", "trend")->scope, "all");
}

// An operator as root engages what the engine of another user must read.
TEST_F(KillSwitchTest, WhatRootEngagesIsTheEnginesToRead) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  constexpr ::uid_t kTrader = 65'534;
  const auto owner = [](const std::string& path) {
    struct stat info{};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return info.st_uid;
  };
  ASSERT_EQ(::chown(dir_.path().c_str(), kTrader, kTrader), 0);
  ASSERT_TRUE(make().engage("all", "ada", "odd"));
  EXPECT_EQ(owner(dir_.path() + "/kill"), kTrader);
  EXPECT_EQ(owner(file()), kTrader);
  ASSERT_TRUE(make().release("all", "ada", "over"));
  EXPECT_EQ(owner(file()), kTrader);
}

TEST_F(KillSwitchTest, ARunningEngineSendsNothingMore) {
  auto engine = Engine::start(dir_.path() + "/store", clock_, venue_);
  KillSwitch own = make();
  OrderGateway::Parts parts;
  parts.venue = &venue_;
  parts.ledger = engine->ledger.get();
  parts.ids = engine->ids.get();
  parts.clock = &clock_;
  parts.limits = Limits();
  parts.kill_switch = &own;
  engine->gateway = std::make_unique<OrderGateway>(std::move(parts));
  engine->ready(venue_, clock_);
  engine->submit();
  ASSERT_TRUE(make().engage("strategy:test", "ada", "odd"));  // from another process
  clock_.advance(1ms);
  const auto refused = engine->gateway->submit(Engine::draft());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kKillSwitchEngaged);
  EXPECT_THAT(refused.error().message(), HasSubstr("ada: odd"));
  OrderDraft other = Engine::draft();
  other.strategy = "another";
  EXPECT_TRUE(engine->gateway->submit(other));
  ASSERT_TRUE(make().engage("all", "ada", "odd"));
  clock_.advance(1ms);
  EXPECT_FALSE(engine->gateway->submit(other));
  EXPECT_EQ(engine->gateway->sent(), 2u);
}

TEST_F(KillSwitchTest, AKillIsVerifiedByReadingAfterTheLastFence) {
  auto engine = Engine::start(dir_.path() + "/store", clock_, venue_);
  engine->ready(venue_, clock_);
  for (int i = 0; i < 3; ++i) engine->submit();
  venue_.next(Script::kAcceptLate);  // under way: accepted just before its fence
  engine->submit();
  const std::int64_t begun = clock_.mono_ns();
  const KillOutcome outcome = kill_venue(venue_, clock_, {.symbols = {"BTCUSDT", "ETHUSDT"}});
  EXPECT_TRUE(outcome.verified);
  EXPECT_TRUE(outcome.still_open.empty());
  EXPECT_GE(clock_.mono_ns() - begun, 1'500'000'000);  // window and lag
  EXPECT_TRUE(venue_.open_orders("")->empty());
  EXPECT_FALSE(kill_error({outcome}));
}

TEST_F(KillSwitchTest, OneStrategysOrdersAreCancelledAndNobodyElses) {
  auto engine = Engine::start(dir_.path() + "/store", clock_, venue_);
  engine->ready(venue_, clock_);
  const Submitted mine = engine->submit();
  const Submitted other = engine->submit();
  const KillOutcome outcome =
      kill_venue(venue_, clock_,
                 {.symbols = {"BTCUSDT"}, .client_ids = {mine.client_id}, .only_listed = true});
  EXPECT_TRUE(outcome.verified);
  EXPECT_EQ(outcome.cancelled, 1u);
  const auto left = venue_.open_orders("");
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ(left->front().client_id, other.client_id);
}

TEST_F(KillSwitchTest, ACancelThatFailsIsNeverCalledVerified) {
  auto engine = Engine::start(dir_.path() + "/store", clock_, venue_);
  engine->ready(venue_, clock_);
  engine->submit();
  venue_.fail_cancels(Error(Code::kVenueOutcomeUnknown, "timed out"));
  const KillOutcome outcome = kill_venue(venue_, clock_, {.symbols = {"BTCUSDT"}});
  EXPECT_FALSE(outcome.verified);
  EXPECT_EQ(outcome.still_open.size(), 1u);
  EXPECT_EQ(kill_error({outcome})->code(), Code::kKillNotVerified);
  venue_.fail_cancels(std::nullopt);
  venue_.fail_reads(Error(Code::kVenueUnreachable, "down"));
  EXPECT_FALSE(kill_venue(venue_, clock_, {.symbols = {"BTCUSDT"}}).verified);
}

TEST_F(KillSwitchTest, AKillWaitsForAVenueThatSaysSlower) {
  auto engine = Engine::start(dir_.path() + "/store", clock_, venue_);
  engine->ready(venue_, clock_);
  engine->submit();
  const Error slower = Error(Code::kVenueRateLimited, "asked to be left alone")
                           .with("retry_after_ms", std::int64_t{60'000});
  venue_.fail_everything_until(slower, clock_.mono_ns() + 60'000'000'000);
  const KillOutcome outcome = kill_venue(venue_, clock_, {.symbols = {"BTCUSDT"}});
  EXPECT_TRUE(outcome.verified);
  EXPECT_EQ(venue_.open_count(), 0);
  EXPECT_EQ(outcome.rounds, 2);
}

// --- The sent-versus-parent counter

class ParentTest : public KillSwitchTest {
 protected:
  void SetUp() override { start(); }
  void start() {
    engine_.reset();
    engine_ = Engine::start(dir_.path() + "/store", clock_, venue_);
    engine_->ready(venue_, clock_);
  }
  Result<Submitted> child(std::string_view quantity) {
    OrderDraft draft = Engine::draft(quantity);
    draft.parent = "parent-1";
    draft.parent_quantity = dec("1");
    return engine_->gateway->submit(draft);
  }
  std::unique_ptr<Engine> engine_;
};

TEST_F(ParentTest, NoMoreIsSentThanTheParentWantsAlsoOverRestarts) {
  ASSERT_TRUE(child("0.4"));
  ASSERT_TRUE(child("0.4"));
  const auto refused = child("0.3");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kRunawaySender);
  EXPECT_EQ(refused.error().field("parent"), "parent-1");
  start();
  EXPECT_EQ(child("0.3").error().code(), Code::kRunawaySender);
  EXPECT_TRUE(child("0.2"));
  EXPECT_EQ(engine_->gateway->sent_for("parent-1")->orders, 3);
}

TEST_F(ParentTest, WhatWasCancelledUnfilledMayBeSentAgain) {
  const auto first = child("1");
  ASSERT_TRUE(first);
  EXPECT_FALSE(child("0.1"));
  ASSERT_TRUE(engine_->gateway->cancel(first->client_id));
  EXPECT_TRUE(child("1"));
}

TEST_F(ParentTest, ALostOutcomeCountsInFull) {
  venue_.next(Script::kLose);
  ASSERT_TRUE(child("0.8"));
  EXPECT_EQ(child("0.3").error().code(), Code::kRunawaySender);
}

TEST_F(ParentTest, ARejectedOneCountsNothingButItsTry) {
  venue_.next(Script::kReject);
  ASSERT_TRUE(child("1"));
  EXPECT_TRUE(child("1"));
  EXPECT_EQ(engine_->gateway->sent_for("parent-1")->orders, 2);
}

TEST_F(ParentTest, ASenderThatRepeatsItselfIsStoppedByTheNumberOfOrders) {
  OrderGateway::Parts parts;
  parts.venue = &venue_;
  parts.ledger = engine_->ledger.get();
  parts.ids = engine_->ids.get();
  parts.clock = &clock_;
  parts.limits = Limits();
  parts.limits->max_orders_per_parent = 5;
  engine_->gateway = std::make_unique<OrderGateway>(std::move(parts));
  engine_->ready(venue_, clock_);
  OrderDraft draft = Engine::draft("0.001");
  draft.parent = "loop";
  int sent = 0;
  while (sent < 100 && engine_->gateway->submit(draft)) ++sent;
  EXPECT_EQ(sent, 5);
}

}  // namespace
}  // namespace defib::trading
