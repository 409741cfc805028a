#include "defib/trading/gateway.h"

#include "defib/trading/fence.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using testing::ElementsAre;
using testing::HasSubstr;

class GatewayTest : public testing::Test {
 protected:
  void SetUp() override {
    restart();
    engine_->ready(venue_, clock_);
  }
  void restart() {
    engine_.reset();
    engine_ = Engine::start(dir_.path(), clock_, venue_,
                            [this](std::string_view point) { at(std::string(point)); });
  }
  virtual void at(const std::string& point) { points_.push_back(point); }
  // A gateway over the same parts with other limits.
  OrderGateway limited(std::optional<Limits> limits) {
    OrderGateway::Parts parts;
    parts.venue = &venue_;
    parts.ledger = engine_->ledger.get();
    parts.ids = engine_->ids.get();
    parts.clock = &clock_;
    parts.limits = std::move(limits);
    OrderGateway gateway(std::move(parts));
    gateway.set_permit({true, 100, RiskLevel::kHigh, "test"});
    gateway.set_mark("BTCUSDT", dec("50000"));
    return gateway;
  }
  static std::string breached(const Result<>& checked) {
    if (checked) return "nothing";
    EXPECT_EQ(checked.error().code(), Code::kLimitBreached) << checked.error().to_text();
    return std::string(checked.error().field("limit"));
  }
  ResolveProgress resolve() {
    FenceResolver resolver(*engine_->ledger, venue_, clock_, {});
    auto progress = resolver.run_until(clock_.mono_ns() + 60'000'000'000);
    EXPECT_TRUE(progress) << progress.error().to_text();
    return progress ? *progress : ResolveProgress();
  }
  IntentState state_of(const std::string& id) {
    const auto intent = engine_->intents->load(id);
    EXPECT_TRUE(intent && *intent);
    return (*intent)->state;
  }

  TemporaryDir dir_;
  os::FakeClock clock_;
  ScriptedVenue venue_{clock_};
  std::unique_ptr<Engine> engine_;
  std::vector<std::string> points_;
};

TEST_F(GatewayTest, TheIntentIsDurableBeforeTheRequestLeaves) {
  std::optional<IntentState> on_disk;
  venue_.on_request = [&](std::string_view what) {
    if (what != "place") return;
    const auto snapshot = std::move(*engine_->store->snapshot());
    const auto intents = read_open_intents(*snapshot);
    ASSERT_TRUE(intents && intents->size() == 1);
    on_disk = intents->begin()->second.state;
  };
  const Submitted submitted = engine_->submit();
  EXPECT_EQ(on_disk, IntentState::kDurable);
  EXPECT_EQ(submitted.state, IntentState::kAccepted);
  EXPECT_THAT(points_,
              ElementsAre("before_intent", "intent_durable", "reply_seen", "outcome_recorded"));
}

TEST_F(GatewayTest, EveryOutcomeIsRecordedAsWhatItProves) {
  const std::vector<std::pair<Script, IntentState>> expected = {
      {Script::kAccept, IntentState::kAccepted},
      {Script::kAcceptAndLoseReply, IntentState::kUnknown},
      {Script::kLose, IntentState::kUnknown},
      {Script::kReject, IntentState::kRejected},
      {Script::kUnreachable, IntentState::kNotSent},
      {Script::kRateLimit, IntentState::kRejected},
      {Script::kSayDuplicateAndHold, IntentState::kAccepted},
  };
  for (const auto& [script, state] : expected) {
    venue_.next(script);
    const Submitted submitted = engine_->submit();
    EXPECT_EQ(submitted.state, state) << static_cast<int>(script);
    EXPECT_EQ(submitted.error.has_value(), script != Script::kAccept);
    EXPECT_EQ(state_of(submitted.client_id), state);
    EXPECT_EQ(venue_.placed(submitted.client_id), 1);
  }
}

TEST_F(GatewayTest, TheFenceLiesOnTheVenuesClock) {
  venue_.set_offset_ms(90'000);
  ASSERT_TRUE(engine_->gateway->sync_clock());
  venue_.next(Script::kLose);
  const Submitted lost = engine_->submit();
  EXPECT_EQ(engine_->intents->find(lost.client_id)->fence_ms, venue_.now_ms() + 1'000);
}

TEST_F(GatewayTest, WithoutLimitsOrPermitNothingLeaves) {
  OrderGateway unlimited = limited(std::nullopt);
  EXPECT_EQ(unlimited.submit(Engine::draft()).error().code(), Code::kLimitsNotLoaded);
  engine_->gateway->set_permit(TradingPermit());
  EXPECT_EQ(engine_->gateway->submit(Engine::draft()).error().code(), Code::kTradingHalted);
  engine_->gateway->set_permit({true, 50, RiskLevel::kLow, "step 1"});
  OrderDraft risky = Engine::draft();
  risky.risk = RiskLevel::kMedium;
  EXPECT_EQ(engine_->gateway->submit(risky).error().code(), Code::kTradingHalted);
  EXPECT_TRUE(venue_.requests().empty());
  EXPECT_TRUE(engine_->intents->open_intents().empty());
}

TEST_F(GatewayTest, EachLimitStopsTheOrderThatBreaksIt) {
  const auto with = [&](auto change) {
    Limits limits;
    limits.max_order_notional = limits.max_position_notional = limits.max_exposure =
        Decimal::from_integer(1'000'000);
    change(limits);
    return breached(limited(limits).check(Engine::draft("0.1", "50000")));
  };
  EXPECT_EQ(with([](Limits&) {}), "nothing");
  EXPECT_EQ(with([](Limits& l) { l.max_order_notional = dec("4999"); }), "max_order_notional");
  EXPECT_EQ(with([](Limits& l) { l.max_position_notional = dec("4999"); }),
            "max_position_notional");
  EXPECT_EQ(with([](Limits& l) { l.max_exposure = dec("4999"); }), "max_exposure");
  EXPECT_EQ(with([](Limits& l) { l.max_orders_per_second = 0; }), "max_orders_per_second");
  EXPECT_EQ(with([](Limits& l) { l.max_open_orders = 0; }), "max_open_orders");
  EXPECT_EQ(with([](Limits& l) { l.max_unknown_intents = 0; }), "max_unknown_intents");
}

TEST_F(GatewayTest, TheExactLimitIsAllowedAndOneUnitMoreIsNot) {
  Limits limits;
  limits.max_order_notional = dec("5000");
  EXPECT_EQ(breached(limited(limits).check(Engine::draft("0.1", "50000"))), "nothing");
  EXPECT_EQ(breached(limited(limits).check(Engine::draft("0.1", "50000.01"))),
            "max_order_notional");
}

TEST_F(GatewayTest, TheRampsPercentScalesTheLimits) {
  Limits limits;
  limits.max_order_notional = dec("10000");
  OrderGateway gateway = limited(limits);
  gateway.set_permit({true, 50, RiskLevel::kHigh, "half"});
  EXPECT_EQ(breached(gateway.check(Engine::draft("0.1", "50000"))), "nothing");
  EXPECT_EQ(breached(gateway.check(Engine::draft("0.11", "50000"))), "max_order_notional");
}

TEST_F(GatewayTest, UnknownIntentsCountUntilTheyAreSettled) {
  Limits limits;
  limits.max_exposure = dec("9000");
  venue_.next(Script::kLose);
  engine_->submit(Engine::draft("0.1", "49000"));
  EXPECT_EQ(breached(limited(limits).check(Engine::draft("0.1", "49000"))), "max_exposure");
  EXPECT_EQ(resolve().settled.size(), 1u);
  EXPECT_EQ(breached(limited(limits).check(Engine::draft("0.1", "49000"))), "nothing");
}

TEST_F(GatewayTest, AnOrderThatReducesThePositionIsNotHeldBackByExposure) {
  const Submitted bought = engine_->submit(Engine::draft("0.2", "50000"));
  venue_.fill(bought.client_id, "0.2");
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, "BTCUSDT", 1));
  Limits limits;
  limits.max_exposure = dec("1");
  limits.max_position_notional = dec("1");
  OrderGateway gateway = limited(limits);
  EXPECT_EQ(breached(gateway.check(Engine::draft("0.2", "50000", venue::Side::kSell))), "nothing");
  EXPECT_EQ(breached(gateway.check(Engine::draft("0.3", "50000", venue::Side::kSell))),
            "max_position_notional");
  EXPECT_EQ(breached(gateway.check(Engine::draft("0.1", "50000"))), "max_position_notional");
}

TEST_F(GatewayTest, PricesFarFromTheMarkAndOffTheGridAreRefused) {
  EXPECT_EQ(breached(engine_->gateway->check(Engine::draft("0.1", "45000"))), "nothing");
  EXPECT_EQ(breached(engine_->gateway->check(Engine::draft("0.1", "44999.99"))), "price_collar");
  EXPECT_EQ(breached(engine_->gateway->check(Engine::draft("0.1", "55000.01"))), "price_collar");
  for (const auto& [quantity, price] : std::vector<std::pair<std::string, std::string>>{
           {"0.000001", "49000"}, {"0.1", "49000.001"}, {"0", "49000"}, {"0.1", "0"}}) {
    EXPECT_EQ(engine_->gateway->check(Engine::draft(quantity, price)).error().code(),
              Code::kInvalidArgument);
  }
  OrderDraft foreign = Engine::draft();
  foreign.symbol = "DOGEUSDT";
  EXPECT_EQ(engine_->gateway->check(foreign).error().code(), Code::kNotFound);
}

TEST_F(GatewayTest, ACancelWhoseOutcomeIsLostIsSettledByReading) {
  const Submitted order = engine_->submit();
  venue_.fail_cancels(Error(Code::kVenueOutcomeUnknown, "lost"));
  EXPECT_EQ(engine_->gateway->cancel(order.client_id).error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(engine_->ledger->orders().size(), 1u);
  venue_.fail_cancels(std::nullopt);
  ASSERT_TRUE(engine_->gateway->cancel(order.client_id));
  EXPECT_TRUE(engine_->ledger->orders().empty());
  EXPECT_EQ(state_of(order.client_id), IntentState::kCancelled);
  EXPECT_EQ(engine_->gateway->cancel(order.client_id).error().code(), Code::kOrderNotFound);
}

TEST_F(GatewayTest, ACancelOfAFilledOrderLearnsOfTheFill) {
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.fill(order.client_id, "0.1");
  const auto cancelled = engine_->gateway->cancel(order.client_id);
  ASSERT_TRUE(cancelled);
  EXPECT_EQ(cancelled->status, venue::OrderStatus::kFilled);
  EXPECT_EQ(state_of(order.client_id), IntentState::kFilled);
}

TEST_F(GatewayTest, OrdersAreFollowedByListAndById) {
  const Submitted stays = engine_->submit();
  const Submitted ends = engine_->submit();
  ASSERT_TRUE(venue_.cancel("BTCUSDT", ends.client_id));
  venue_.place_external("web1", "0.3", "48000");
  EXPECT_EQ(engine_->gateway->sync_orders("BTCUSDT").value(), 2);
  EXPECT_TRUE(engine_->ledger->orders().contains(stays.client_id));
  EXPECT_FALSE(engine_->ledger->orders().contains(ends.client_id));
  EXPECT_TRUE(engine_->ledger->orders().at("web1").external);
  EXPECT_EQ(state_of(ends.client_id), IntentState::kCancelled);
}

// The engine reads one symbol after the other, and a silent one must not make each reading longer.
TEST_F(GatewayTest, WhereOneHistoryTellsOfAllSymbolsEachReadingSettlesAll) {
  venue_.read_fills_by_time(true);
  const auto since = [&] { return engine_->ledger->view().since.at("ETHUSDT"); };
  const std::int64_t begun = since();
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  Decimal filled;
  for (const char* symbol : {"ETHUSDT", "BTCUSDT", "ETHUSDT", "BTCUSDT"}) {
    clock_.advance(std::chrono::seconds(30));
    venue_.fill(order.client_id, "0.01");
    filled += dec("0.01");
    ASSERT_TRUE(engine_->gateway->sync_orders(symbol));
    EXPECT_EQ(engine_->ledger->orders().at(order.client_id).booked, filled);
  }
  const std::int64_t traded = since();
  EXPECT_GT(traded, begun + 60'000);
  // Where nothing trades, what the health checks read of the venue's time is enough.
  clock_.advance(std::chrono::minutes(5));
  ASSERT_TRUE(engine_->gateway->sync_orders("ETHUSDT"));
  EXPECT_EQ(since(), traded);
  ASSERT_TRUE(engine_->gateway->sync_clock());
  const std::int64_t read_ms = venue_.now_ms();
  clock_.advance(std::chrono::seconds(5));
  ASSERT_TRUE(engine_->gateway->sync_orders("BTCUSDT"));
  EXPECT_EQ(since(), shown_before(venue_, read_ms));
}

TEST_F(GatewayTest, AFreshOrderThatIsNotVisibleYetIsNotForgotten) {
  venue_.hidden_ms_ = 400;
  const Submitted order = engine_->submit();
  EXPECT_EQ(engine_->gateway->sync_orders("BTCUSDT").value(), 0);
  EXPECT_TRUE(engine_->ledger->orders().contains(order.client_id));
}

// --- Emergency
// ------------------------------------------------------------------------------------

TEST_F(GatewayTest, AnEmergencyCancelsEverythingAndReadsBack) {
  engine_->submit();
  engine_->submit();
  const EmergencyReport report =
      emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT", "ETHUSDT"}, "test");
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(venue_.open_count(), 0);
  EXPECT_TRUE(engine_->ledger->orders().empty());
  EXPECT_EQ(engine_->gateway->submit(Engine::draft()).error().code(), Code::kTradingHalted);
}

TEST_F(GatewayTest, AnEmergencyWaitsForRequestsThatAreStillUnderWay) {
  venue_.next(Script::kAcceptLate);
  engine_->submit();
  const EmergencyReport report =
      emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"}, "test");
  EXPECT_TRUE(report.verified);
  EXPECT_GT(report.rounds, 1);
  EXPECT_EQ(venue_.open_count(), 0);
}

TEST_F(GatewayTest, AnEmergencyThatCannotVerifySaysSo) {
  engine_->submit();
  venue_.fail_cancels(Error(Code::kVenueOutcomeUnknown, "lost"));
  const EmergencyReport report =
      emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"}, "test");
  EXPECT_FALSE(report.verified);
  EXPECT_GT(report.rounds, 3);
  EXPECT_EQ(report.still_open.size(), 1u);
  EXPECT_EQ(report.errors.size(), static_cast<std::size_t>(report.rounds));
  const std::int64_t begun = clock_.mono_ns();
  const EmergencyReport once = emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"},
                                              "test", {.at_most = os::Duration(0)});
  EXPECT_EQ(once.rounds, 1);
  EXPECT_EQ(clock_.mono_ns(), begun);
  EXPECT_GT(once.next.count(), 0);
}

// What names its time is asked again then, however short the pause would be.
TEST_F(GatewayTest, AnEmergencyWaitsForAVenueThatSaysSlower) {
  engine_->submit();
  const Error slower = Error(Code::kVenueRateLimited, "asked to be left alone")
                           .with("retry_after_ms", std::int64_t{5'000})
                           .with("nothing_sent", "true");
  venue_.fail_everything_until(slower, clock_.mono_ns() + 5'000'000'000);
  const EmergencyReport report =
      emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"}, "test");
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(venue_.open_count(), 0);
  EXPECT_EQ(report.rounds, 2);
}

// A cancel may cost what the reading behind it waits for.
TEST_F(GatewayTest, AnEmergencyThatHasCancelledOnlyReadsUntilItIsAnswered) {
  engine_->submit();
  const Error slower = Error(Code::kVenueRateLimited, "the budget is used up")
                           .with("retry_after_ms", std::int64_t{1'000});
  venue_.fail_reads(slower, "open_orders");
  const EmergencyReport first = emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"},
                                               "test", {.at_most = os::Duration(0)});
  EXPECT_FALSE(first.verified);
  EXPECT_TRUE(first.owes_reading);
  EXPECT_EQ(first.next, std::chrono::seconds(1));
  EXPECT_EQ(venue_.cancels(), 1);
  const std::int64_t answers_at = clock_.mono_ns() + 3'000'000'000;
  venue_.on_request = [&](std::string_view) {
    if (clock_.mono_ns() >= answers_at) venue_.fail_reads({});
  };
  const EmergencyReport report = emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"},
                                                "test", {.owes_reading = true});
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(report.rounds, 4);
  EXPECT_EQ(venue_.cancels(), 1);
}

TEST_F(GatewayTest, AnEmergencyIsNotVerifiedWhileAnAcceptedOrderMayBeHidden) {
  venue_.hidden_ms_ = 400;
  engine_->submit();
  const EmergencyReport report =
      emergency_stop(*engine_->gateway, venue_, clock_, {"BTCUSDT"}, "test");
  EXPECT_TRUE(report.verified);
  clock_.advance(std::chrono::seconds(1));
  EXPECT_EQ(venue_.open_count(), 0);
  EXPECT_TRUE(engine_->ledger->orders().empty());
}

// What is met while orders are read stops the sending, whoever read them.
TEST_F(GatewayTest, TwoOrdersForOneIdStopTheSending) {
  const Submitted order = engine_->submit();
  venue_.fill(order.client_id, "0.1");
  ASSERT_TRUE(engine_->gateway->sync_orders("BTCUSDT"));
  EXPECT_FALSE(engine_->gateway->hard_stop());
  venue_.place_external(order.client_id, "0.1", "49000");
  EXPECT_EQ(engine_->gateway->sync_orders("BTCUSDT").error().code(), Code::kDuplicateOrder);
  EXPECT_TRUE(engine_->gateway->hard_stop());
  const auto refused = engine_->gateway->submit(Engine::draft());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kDuplicateOrder);
  EXPECT_EQ(engine_->gateway->sent(), 1u);
}

// --- Death at each failure point
// ------------------------------------------------------------------

struct Died {};

class DeathTest : public GatewayTest, public testing::WithParamInterface<std::string> {
 protected:
  void at(const std::string& point) override {
    if (armed_ && point == GetParam()) throw Died();
  }
  bool armed_ = false;
};

TEST_P(DeathTest, TheFateIsSettledAndNothingIsSentTwice) {
  // "request_sent" is the adapter's point: the order is at the venue and its reply is unread.
  const bool at_adapter = GetParam() == "request_sent";
  venue_.on_request = [&](std::string_view what) {
    if (at_adapter && armed_ && what == "place") venue_.next(Script::kAcceptAndLoseReply);
  };
  armed_ = true;
  try {
    const auto submitted = engine_->gateway->submit(Engine::draft("0.1", "49000"));
    if (at_adapter) throw Died();
    FAIL() << "it lived";
  } catch (const Died&) {
  }
  armed_ = false;
  restart();
  ASSERT_TRUE(engine_->intents->mark_unknown_after_restart(clock_.wall_ns()));
  resolve();
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, "BTCUSDT", 1));
  EXPECT_TRUE(engine_->intents->unresolved().empty());
  const bool reached = GetParam() != "before_intent" && GetParam() != "intent_durable";
  EXPECT_EQ(venue_.requests().size(), reached ? 1u : 0u);
  EXPECT_EQ(venue_.open_count(), reached ? 1 : 0);
  EXPECT_EQ(engine_->ledger->orders().size(), reached ? 1u : 0u);
  if (GetParam() == "intent_durable") {
    const auto snapshot = std::move(*engine_->store->snapshot());
    const auto cursor = std::move(*snapshot->scan("trade.intent"));
    ASSERT_TRUE(cursor->first());
    EXPECT_EQ(state_of(std::string(cursor->key())), IntentState::kNeverAccepted);
  }
}

INSTANTIATE_TEST_SUITE_P(Points, DeathTest,
                         testing::Values("before_intent", "intent_durable", "request_sent",
                                         "reply_seen", "outcome_recorded"),
                         [](const auto& point) { return point.param; });

// --- The fence
// ------------------------------------------------------------------------------------

class FenceTest : public GatewayTest {
 protected:
  std::string lose(Script script) {
    venue_.next(script);
    return engine_->submit(Engine::draft("0.1", "49000")).client_id;
  }
  ResolveProgress poll(FenceResolver& resolver) {
    auto progress = resolver.poll();
    EXPECT_TRUE(progress) << progress.error().to_text();
    return progress ? *progress : ResolveProgress();
  }
  FenceResolver make() { return {*engine_->ledger, venue_, clock_, {}}; }
};

TEST_F(FenceTest, WithoutUnknownIntentsTheVenueIsNotAsked) {
  FenceResolver resolver = make();
  const int before = venue_.reads();
  const ResolveProgress progress = poll(resolver);
  EXPECT_EQ(progress.remaining, 0);
  EXPECT_EQ(progress.next_mono_ns, 0);
  EXPECT_EQ(venue_.reads(), before);
}

TEST_F(FenceTest, BeforeTheFenceNothingIsProved) {
  const std::string id = lose(Script::kLose);
  FenceResolver resolver = make();
  for (int i = 0; i < 10; ++i) {
    const ResolveProgress progress = poll(resolver);
    EXPECT_EQ(progress.remaining, 1);
    EXPECT_GT(progress.next_mono_ns, clock_.mono_ns());
    clock_.advance(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(state_of(id), IntentState::kUnknown);
}

TEST_F(FenceTest, AbsentInTwoReadsSpacedBeyondTheLagIsProvedNeverAccepted) {
  const std::string id = lose(Script::kLose);
  FenceResolver resolver = make();
  clock_.advance(std::chrono::milliseconds(1'100));
  EXPECT_TRUE(poll(resolver).settled.empty());
  clock_.advance(std::chrono::milliseconds(500));
  EXPECT_TRUE(poll(resolver).settled.empty()) << "the lag and its margin have not passed";
  clock_.advance(std::chrono::milliseconds(51));
  const ResolveProgress progress = poll(resolver);
  ASSERT_EQ(progress.settled.size(), 1u);
  EXPECT_EQ(progress.settled[0].state, IntentState::kNeverAccepted);
  EXPECT_THAT(progress.settled[0].explanation, HasSubstr("never accepted"));
  EXPECT_EQ(state_of(id), IntentState::kNeverAccepted);
  EXPECT_EQ(venue_.placed(id), 1);
}

TEST_F(FenceTest, AnOrderAcceptedAtTheFenceAndVisibleLateIsFound) {
  const std::string id = lose(Script::kAcceptLate);
  venue_.hidden_ms_ = 500;  // the whole lag that the venue admits
  const ResolveProgress progress = resolve();
  ASSERT_EQ(progress.settled.size(), 1u);
  EXPECT_EQ(progress.settled[0].state, IntentState::kAccepted);
  EXPECT_EQ(engine_->ledger->orders().count(id), 1u);
  EXPECT_EQ(venue_.orders_of(id), 1);
}

TEST_F(FenceTest, AnOrderThatWasFilledMeanwhileIsAdoptedAsFilled) {
  const std::string id = lose(Script::kAcceptAndLoseReply);
  venue_.fill(id, "0.1");
  const ResolveProgress progress = resolve();
  ASSERT_EQ(progress.settled.size(), 1u);
  EXPECT_EQ(progress.settled[0].state, IntentState::kFilled);
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, dec("0.1"));
  EXPECT_TRUE(engine_->ledger->orders().empty());
}

TEST_F(FenceTest, TwoOrdersForOneIntentAreAHardStop) {
  const std::string id = lose(Script::kAcceptAndLoseReply);
  venue_.place_external(id, "0.1", "49000");
  clock_.advance(std::chrono::seconds(5));
  FenceResolver resolver = make();
  const auto progress = resolver.poll();
  ASSERT_FALSE(progress);
  EXPECT_EQ(progress.error().code(), Code::kDuplicateOrder);
  EXPECT_EQ(progress.error().field("client_id"), id);
}

TEST_F(FenceTest, ATradeThatCouldBeItsOwnBlocksTheProof) {
  const std::string id = lose(Script::kLose);
  venue_.add_fill({"2000", "777", "BTCUSDT", venue::Side::kBuy, dec("0.05"), dec("48999"),
                   Decimal(), "USDT", venue_.now_ms() + 10});
  const ResolveProgress progress = resolve();
  EXPECT_EQ(progress.remaining, 1);
  ASSERT_EQ(progress.blocked.size(), 1u);
  EXPECT_THAT(progress.blocked[0].explanation, HasSubstr("2000"));
  EXPECT_EQ(state_of(id), IntentState::kUnknown);
}

TEST_F(FenceTest, ATradeOfAnotherUnknownOrderBlocksNothingOnceThatOrderIsFound) {
  const std::string lost = lose(Script::kLose);
  const std::string filled = lose(Script::kAcceptAndLoseReply);
  venue_.fill(filled, "0.1");
  clock_.advance(std::chrono::milliseconds(1'100));
  FenceResolver resolver = make();
  const ResolveProgress first = poll(resolver);
  ASSERT_EQ(first.settled.size(), 1u);
  EXPECT_EQ(first.settled[0].intent_id, filled);
  EXPECT_TRUE(first.blocked.empty());
  clock_.advance(std::chrono::milliseconds(551));
  ASSERT_EQ(poll(resolver).settled.size(), 1u);
  EXPECT_EQ(state_of(lost), IntentState::kNeverAccepted);
}

TEST_F(FenceTest, ATradeOfAnOrderThatIsFoundBeforeItsFenceHoldsNothingUp) {
  const std::string lost = lose(Script::kLose);
  clock_.advance(std::chrono::milliseconds(800));
  const std::string filled = lose(Script::kAcceptAndLoseReply);  // its fence lies later
  venue_.fill(filled, "0.1");
  clock_.advance(std::chrono::milliseconds(300));
  FenceResolver resolver = make();
  const ResolveProgress first = poll(resolver);
  ASSERT_EQ(first.settled.size(), 1u);
  EXPECT_EQ(first.settled[0].intent_id, filled);
  EXPECT_TRUE(first.blocked.empty());
  clock_.advance(std::chrono::milliseconds(551));
  EXPECT_EQ(poll(resolver).remaining, 0);
  EXPECT_EQ(state_of(lost), IntentState::kNeverAccepted);
}

TEST_F(FenceTest, ABlockedProofGoesOnAsSoonAsTheTradeHasAnOwner) {
  const std::string lost = lose(Script::kLose);
  clock_.advance(std::chrono::milliseconds(300));
  venue_.hidden_ms_ = 900;
  const std::string filled = lose(Script::kAcceptAndLoseReply);  // its fence lies later
  venue_.fill(filled, "0.1");
  const std::int64_t last_fence_ms = venue_.now_ms() + venue_.recv_window_ms();
  clock_.advance(std::chrono::milliseconds(800));
  FenceResolver resolver = make();
  EXPECT_EQ(poll(resolver).blocked.size(), 1u);
  const auto settled = resolver.run_until(clock_.mono_ns() + 60'000'000'000);
  ASSERT_TRUE(settled);
  EXPECT_EQ(settled->settled.size(), 2u);
  EXPECT_EQ(state_of(lost), IntentState::kNeverAccepted);
  EXPECT_LE(venue_.now_ms(), last_fence_ms + 2'000);
}

TEST_F(FenceTest, AnErrorOfTheVenueProvesNothing) {
  const std::string id = lose(Script::kLose);
  clock_.advance(std::chrono::seconds(5));
  FenceResolver resolver = make();
  venue_.fail_reads(Error(Code::kVenueUnreachable, "down"));
  EXPECT_FALSE(resolver.poll());
  EXPECT_FALSE(resolver.poll());
  EXPECT_EQ(state_of(id), IntentState::kUnknown);
  venue_.fail_reads(std::nullopt);
  EXPECT_EQ(resolve().remaining, 0);
}

TEST_F(FenceTest, AKillBetweenTheReadsStartsTheProofAnew) {
  const std::string id = lose(Script::kLose);
  clock_.advance(std::chrono::seconds(5));
  {
    FenceResolver resolver = make();
    poll(resolver);
  }
  restart();
  FenceResolver resolver = make();
  EXPECT_TRUE(poll(resolver).settled.empty());
  EXPECT_EQ(resolve().settled.size(), 1u);
  EXPECT_EQ(state_of(id), IntentState::kNeverAccepted);
}

}  // namespace
}  // namespace defib::trading
