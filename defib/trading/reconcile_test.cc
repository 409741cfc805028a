#include "defib/trading/reconcile.h"

#include <set>

#include "defib/os/random.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using testing::ElementsAre;
using testing::HasSubstr;

using Kind = DiscrepancyKind;

// A ledger and a venue that agree: one open order, one position, nothing else.
struct World {
  LedgerState ledger;
  VenueSnapshot venue;

  World() {
    ledger.initialized = true;
    ledger.instruments["BTCUSDT"] = {"BTCUSDT", "BTC", "USDT", dec("0.01"), dec("0.00001")};
    venue.rules = {{"BTCUSDT", "BTC", "USDT", dec("0.01"), dec("0.00001"), dec("5"), true}};
    venue.symbols = {"BTCUSDT"};
    venue.stable = true;
    ledger.positions["BTCUSDT"] = {"BTCUSDT", dec("1"), dec("50000"), {}, dec("9"), 0};
    ledger.balances = {{"BTC", dec("10")}, {"USDT", dec("100000")}};
    add_order("tst0000100000001", "11", "0.5", "40000");
    set_balances("10", "100000");
  }
  void add_order(const std::string& id, const std::string& venue_id, std::string_view quantity,
                 std::string_view price) {
    TrackedOrder tracked;
    venue::Order& order = tracked.order;
    order.client_id = id;
    order.venue_id = venue_id;
    order.symbol = "BTCUSDT";
    order.status = venue::OrderStatus::kNew;
    order.quantity = dec(quantity);
    order.price = dec(price);
    ledger.orders[id] = tracked;
    venue.open_orders.push_back(order);
    Intent intent;
    intent.id = id;
    intent.symbol = "BTCUSDT";
    intent.quantity = order.quantity;
    intent.price = intent.reference_price = order.price;
    intent.state = IntentState::kAccepted;
    intent.venue_order_id = venue_id;
    ledger.intents[id] = intent;
  }
  void add_unknown(const std::string& id) {
    Intent intent;
    intent.id = id;
    intent.symbol = "BTCUSDT";
    intent.quantity = dec("0.1");
    intent.price = intent.reference_price = dec("39000");
    intent.timestamp_ms = 1'000;
    intent.fence_ms = 2'000;
    intent.state = IntentState::kUnknown;
    ledger.intents[id] = intent;
  }
  void set_balances(std::string_view btc, std::string_view usdt) {
    Decimal locked;
    for (const venue::Order& order : venue.open_orders) {
      locked += (order.quantity - order.filled) * order.price;
    }
    venue.balances = {{"BTC", dec(btc), {}}, {"USDT", dec(usdt) - locked, locked}};
  }
  venue::Fill fill(const std::string& id, const std::string& order, std::string_view quantity,
                   std::string_view price) const {
    return {id, order, "BTCUSDT", venue::Side::kBuy, dec(quantity), dec(price), {}, "USDT", 5'000};
  }
  // The venue fills the first order; the ledger does not know yet.
  void fill_first(std::string_view quantity) {
    venue::Order& order = venue.open_orders.front();
    order.filled += dec(quantity);
    order.filled_quote += dec(quantity) * order.price;
    order.status = venue::OrderStatus::kPartiallyFilled;
    venue.new_fills.push_back(fill("100", "11", quantity, "40000"));
    set_balances((dec("10") + dec(quantity)).to_string(),
                 (dec("100000") - dec(quantity) * dec("40000")).to_string());
  }
  std::vector<Discrepancy> run() const { return reconcile(ledger, venue, Tolerance()); }
  std::vector<Kind> kinds() const {
    std::vector<Kind> all;
    for (const Discrepancy& item : run()) all.push_back(item.kind);
    return all;
  }
  Discrepancy find(Kind kind) const {
    for (const Discrepancy& item : run()) {
      if (item.kind == kind) return item;
    }
    ADD_FAILURE() << "there is no " << to_string(kind);
    return {};
  }
};

TEST(Reconcile, WhatAgreesGivesNothing) {
  EXPECT_THAT(World().run(), ElementsAre());
}

TEST(Reconcile, FillsWhileAwayExplainEverythingThatTheyChange) {
  World world;
  world.fill_first("0.2");
  EXPECT_THAT(world.kinds(),
              ElementsAre(Kind::kOrderFilledDiffers, Kind::kOrderStatusDiffers, Kind::kExtraFill,
                          Kind::kBalanceDiffers, Kind::kBalanceDiffers, Kind::kPositionDiffers));
  for (const Discrepancy& item : world.run()) EXPECT_TRUE(item.explained) << item.explanation;
}

TEST(Reconcile, AFilledAmountThatNoTradeExplainsIsNotExplained) {
  World world;
  world.fill_first("0.2");
  world.venue.new_fills.clear();
  EXPECT_FALSE(world.find(Kind::kOrderFilledDiffers).explained);
  EXPECT_FALSE(world.find(Kind::kBalanceDiffers).explained);
  EXPECT_FALSE(world.find(Kind::kPositionDiffers).explained);
}

TEST(Reconcile, AnOrderThatEndedIsExplainedByItsOwnAnswer) {
  World world;
  venue::Order ended = world.venue.open_orders.front();
  ended.status = venue::OrderStatus::kCancelled;
  world.venue.open_orders.clear();
  world.venue.by_id["tst0000100000001"] = ended;
  world.set_balances("10", "100000");
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kOrderMissingAtVenue));
  EXPECT_TRUE(world.find(Kind::kOrderMissingAtVenue).explained);
}

TEST(Reconcile, AnOrderThatTheVenueDoesNotKnowIsNotExplainedUnlessItsTradesFillIt) {
  World world;
  world.venue.open_orders.clear();
  world.venue.by_id["tst0000100000001"] = std::nullopt;
  world.set_balances("10", "100000");
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kOrderMissingAtVenue));
  EXPECT_FALSE(world.find(Kind::kOrderMissingAtVenue).explained);
  world.venue.new_fills.push_back(world.fill("100", "11", "0.5", "40000"));
  world.set_balances("10.5", "80000");
  EXPECT_TRUE(world.find(Kind::kOrderMissingAtVenue).explained);
}

TEST(Reconcile, AnOrderThatOnlyLagsInTheListIsNoDifference) {
  World world;
  world.venue.by_id["tst0000100000001"] = world.venue.open_orders.front();
  const std::vector<venue::Balance> balances = world.venue.balances;
  world.venue.open_orders.clear();
  EXPECT_THAT(world.run(), ElementsAre());
}

TEST(Reconcile, AForeignOrderIsUnknownAndNotExplained) {
  World world;
  venue::Order foreign = world.venue.open_orders.front();
  foreign.client_id = "web_1";
  foreign.venue_id = "12";
  world.venue.open_orders.push_back(foreign);
  world.set_balances("10", "100000");
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kOrderUnknownAtLedger));
  EXPECT_FALSE(world.find(Kind::kOrderUnknownAtLedger).explained);
}

TEST(Reconcile, AStaleListIsOverruledByTheOrdersOwnAnswer) {
  World world;
  venue::Order stale = world.venue.open_orders.front();
  stale.client_id = "tst0000100000009";
  stale.venue_id = "12";
  world.venue.open_orders.push_back(stale);
  stale.status = venue::OrderStatus::kFilled;
  world.venue.by_id["tst0000100000009"] = stale;
  world.venue.stable = false;
  for (const Discrepancy& item : world.run()) {
    EXPECT_NE(item.kind, Kind::kOrderUnknownAtLedger);
  }
}

TEST(Reconcile, ChangedTermsAreEachTheirOwnDifference) {
  World world;
  venue::Order& order = world.venue.open_orders.front();
  order.side = venue::Side::kSell;
  order.quantity = dec("0.6");
  order.price = dec("41000");
  world.venue.stable = false;  // what is locked follows another price now
  std::vector<Kind> kinds = world.kinds();
  std::erase(kinds, Kind::kLockedDiffers);
  EXPECT_THAT(kinds, ElementsAre(Kind::kOrderSideDiffers, Kind::kOrderQuantityDiffers,
                                 Kind::kOrderPriceDiffers));
}

TEST(Reconcile, AnotherVenueOrderUnderTheSameIdIsADuplicate) {
  World world;
  venue::Order second = world.venue.open_orders.front();
  second.venue_id = "99";
  world.venue.open_orders.push_back(second);
  world.set_balances("10", "100000");
  EXPECT_THAT(world.find(Kind::kDuplicateOrder).venue, HasSubstr("11, 99"));
  EXPECT_EQ(summarize(world.run()).duplicates, 1u);
  world.venue.open_orders.erase(world.venue.open_orders.begin());
  EXPECT_EQ(world.find(Kind::kOrderIdDiffers).venue, "99");
}

TEST(Reconcile, AnUnknownIntentIsFoundOrWaitsForItsFence) {
  World world;
  world.add_unknown("tst0000100000002");
  world.venue.by_id["tst0000100000002"] = std::nullopt;
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kIntentUnresolved));
  EXPECT_TRUE(world.find(Kind::kIntentUnresolved).explained);
  venue::Order found = world.venue.open_orders.front();
  found.client_id = "tst0000100000002";
  found.venue_id = "12";
  found.quantity = dec("0.1");
  found.price = dec("39000");
  world.venue.by_id["tst0000100000002"] = found;
  world.venue.open_orders.push_back(found);
  world.set_balances("10", "100000");
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kIntentFound));
}

TEST(Reconcile, ATradeOfAnUnknownOrderIsExplainedOnlyByAnIntentThatItFits) {
  World world;
  world.venue.new_fills.push_back(world.fill("100", "77", "0.1", "38999"));
  world.set_balances("10.1", "96100.1");
  EXPECT_FALSE(world.find(Kind::kFillOfUnknownOrder).explained);
  world.add_unknown("tst0000100000002");
  world.venue.by_id["tst0000100000002"] = std::nullopt;
  EXPECT_TRUE(world.find(Kind::kFillOfUnknownOrder).explained);
  world.venue.new_fills[0].price = dec("39000.01");  // worse than its limit
  EXPECT_FALSE(world.find(Kind::kFillOfUnknownOrder).explained);
  world.venue.new_fills[0].price = dec("39000");
  world.venue.new_fills[0].quantity = dec("0.11");
  EXPECT_FALSE(world.find(Kind::kFillOfUnknownOrder).explained);
  world.venue.fill_owners["BTCUSDT:77"] = "tst0000100000000";  // an order that ended long ago
  EXPECT_TRUE(world.find(Kind::kExtraFill).explained);
}

TEST(Reconcile, BookedTradesThatTheVenueDoesNotListOrListsOtherwiseAreNotExplained) {
  World world;
  const venue::Fill fill = world.fill("50", "11", "0.1", "40000");
  world.ledger.recent_fills[fill_key("BTCUSDT", "50")] = fill;
  EXPECT_FALSE(world.find(Kind::kFillAtLedgerOnly).explained);
  venue::Fill other = fill;
  other.price = dec("40001");
  world.venue.new_fills = {other};
  EXPECT_FALSE(world.find(Kind::kFillDiffers).explained);
  world.venue.new_fills = {fill};
  EXPECT_THAT(world.run(), ElementsAre());
}

TEST(Reconcile, MoreFilledThanOrderedIsNotExplained) {
  World world;
  world.fill_first("0.6");
  EXPECT_FALSE(world.find(Kind::kOrderOverfilled).explained);
}

TEST(Reconcile, ADepositIsADifferenceOfBalanceAndPosition) {
  World world;
  world.set_balances("11", "100000");
  EXPECT_THAT(world.kinds(), ElementsAre(Kind::kBalanceDiffers, Kind::kPositionDiffers));
  EXPECT_EQ(summarize(world.run()).unexplained, 2u);
}

TEST(Reconcile, AnOrderThatWasJustAcceptedMayBeHiddenForALag) {
  World world;
  const std::string id = "tst0000100000001";
  world.ledger.orders[id].order.created_ms = 100'000;
  world.ledger.intents[id].state = IntentState::kAccepted;
  world.venue.open_orders.clear();  // and its money stays locked
  world.venue.by_id[id] = std::nullopt;
  world.venue.visibility_lag_ms = 500;
  world.venue.server_ms = 101'400;
  EXPECT_EQ(summarize(world.run()).unexplained, 0u);
  EXPECT_EQ(world.find(Kind::kOrderMissingAtVenue).correction, "");
  world.venue.server_ms = 101'600;
  EXPECT_EQ(summarize(world.run()).unexplained, 2u);
  EXPECT_EQ(world.find(Kind::kOrderMissingAtVenue).correction, "forget it");
}

// Whether a venue holds money for an order that goes to the market at its trigger differs.
TEST(Reconcile, AStopOrderWithoutALimitMayLockItsMoneyOrNot) {
  World world;
  world.add_order("tst0000100000002", "12", "0.1", "60000");
  world.venue.open_orders.back().market_at_trigger = true;
  EXPECT_THAT(world.kinds(), ElementsAre());
  world.set_balances("10", "100000");  // both lock
  EXPECT_TRUE(world.find(Kind::kLockedDiffers).explained);
}

TEST(Reconcile, MoreLockedThanListedOrdersLockMeansThatOneIsHidden) {
  World world;
  world.venue.balances[1] = {"USDT", dec("79000"), dec("21000")};
  EXPECT_FALSE(world.find(Kind::kLockedDiffers).explained);
  world.add_unknown("tst0000100000002");  // it would lock 3,900
  world.venue.by_id["tst0000100000002"] = std::nullopt;
  EXPECT_TRUE(world.find(Kind::kLockedDiffers).explained);
  world.venue.balances[1] = {"USDT", dec("60000"), dec("40000")};
  EXPECT_FALSE(world.find(Kind::kLockedDiffers).explained);
  world.venue.stable = false;
  EXPECT_TRUE(world.find(Kind::kLockedDiffers).explained);
}

TEST(Reconcile, AChangedRuleIsExplainedAndAMissingSymbolIsNot) {
  World world;
  world.venue.rules[0].tick = dec("0.1");
  EXPECT_TRUE(world.find(Kind::kInstrumentDiffers).explained);
  world.venue.rules[0].symbol = "OTHER";
  EXPECT_FALSE(world.find(Kind::kInstrumentDiffers).explained);
}

TEST(Reconcile, ToleranceIsTheLotWhereThatIsCoarser) {
  World world;
  world.set_balances("10.0001", "100000");
  EXPECT_THAT(world.run(), ElementsAre());
  world.set_balances("10.00010001", "100000");
  EXPECT_EQ(world.run().size(), 2u);
  world.ledger.instruments["BTCUSDT"].lot = dec("1");
  world.venue.rules[0].lot = dec("1");
  EXPECT_THAT(world.run(), ElementsAre());
  world.set_balances("9", "100000");
  EXPECT_THAT(world.run(), ElementsAre());
  world.set_balances("8.99", "100000");
  EXPECT_EQ(world.run().size(), 2u);
}

TEST(Reconcile, EveryKindHasItsOwnName) {
  std::set<std::string_view> names;
  for (int i = 0; i < kDiscrepancyKinds; ++i) names.insert(to_string(static_cast<Kind>(i)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kDiscrepancyKinds));
}

// --- Properties, over random worlds of a real ledger and a scripted venue
// -------------------------

class ReconcileProperty : public testing::TestWithParam<int> {};

std::vector<Discrepancy> compare(Engine& engine, ScriptedVenue& venue, VenueSnapshot& snapshot) {
  const auto stored = std::move(*engine.store->snapshot());
  auto read =
      read_venue(venue, engine.ledger->state(), *stored, {.symbols = {"BTCUSDT", "ETHUSDT"}});
  EXPECT_TRUE(read) << read.error().to_text();
  snapshot = std::move(*read);
  return reconcile(engine.ledger->state(), snapshot, Tolerance());
}

// Random trading, lost replies, fills, cancels, foreign orders and deposits.
void disturb(os::Random& random, Engine& engine, ScriptedVenue& venue, os::FakeClock& clock,
             bool foreign) {
  std::vector<std::string> ids;
  for (int step = 0; step < 30; ++step) {
    clock.advance(std::chrono::milliseconds(random.below(400)));
    const std::uint64_t what = random.below(foreign ? 10 : 8);
    if (what < 4) {
      const Script scripts[] = {Script::kAccept, Script::kAccept, Script::kAcceptAndLoseReply,
                                Script::kLose};
      venue.next(scripts[random.below(4)]);
      const auto side = random.below(2) == 0 ? venue::Side::kBuy : venue::Side::kSell;
      ids.push_back(engine.submit(Engine::draft("0.1", "49500", side)).client_id);
    } else if (what < 6 && !ids.empty()) {
      const std::string& id = ids[random.below(ids.size())];
      const auto order = venue.order("BTCUSDT", id);
      if (order && !venue::is_terminal(order->status)) {
        venue.fill(id,
                   random.below(2) == 0 ? "0.01" : (order->quantity - order->filled).to_string());
      }
    } else if (what == 6 && !ids.empty()) {
      static_cast<void>(venue.cancel("BTCUSDT", ids[random.below(ids.size())]));
    } else if (what == 7) {
      EXPECT_TRUE(engine.ledger->sync_fills(venue, "BTCUSDT", clock.wall_ns()));
    } else if (what == 8) {
      venue.place_external("web" + std::to_string(step), "0.1", "48000");
      if (random.below(2) == 0) venue.fill("web" + std::to_string(step), "0.05");
    } else if (what == 9) {
      venue.deposit("BTC", "0.5");
    }
  }
}

TEST_P(ReconcileProperty, WhatTheEngineDidItselfIsAlwaysExplained) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  os::Random random(static_cast<std::uint64_t>(GetParam()));
  auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  disturb(random, *engine, venue, clock, false);
  engine.reset();  // killed
  engine = Engine::start(dir.path(), clock, venue);
  ASSERT_TRUE(engine->intents->mark_unknown_after_restart(1));
  VenueSnapshot snapshot;
  for (const Discrepancy& item : compare(*engine, venue, snapshot)) {
    EXPECT_TRUE(item.explained) << item.to_json().dump();
  }
}

TEST_P(ReconcileProperty, OnceAppliedOnlyUnresolvedIntentsRemain) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  os::Random random(static_cast<std::uint64_t>(GetParam()) + 1'000);
  const auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  disturb(random, *engine, venue, clock, true);
  clock.advance(std::chrono::seconds(10));  // what is not shown now is not there
  VenueSnapshot snapshot;
  const std::vector<Discrepancy> found = compare(*engine, venue, snapshot);
  const auto applied = apply_reconciliation(
      *engine->ledger, snapshot, found, {.reason = "a test", .by = "ada", .unexplained = true}, 1);
  ASSERT_TRUE(applied) << applied.error().to_text();
  for (const Discrepancy& item : reconcile(engine->ledger->state(), snapshot, Tolerance())) {
    EXPECT_EQ(item.kind, Kind::kIntentUnresolved) << item.to_json().dump();
  }
  // And the ledger holds what the venue holds.
  for (const std::string asset : {"BTC", "USDT"}) {
    EXPECT_EQ(engine->ledger->balances().at(asset), venue.total(asset));
  }
  // Every correction left a line with its reason.
  const auto journal = read_journal(**engine->store->snapshot(), 1'000).value();
  EXPECT_EQ(journal.size(), static_cast<std::size_t>(*applied));
  for (const wire::Json& line : journal) EXPECT_EQ(line["reason"].as_string(), "a test");
}

TEST_P(ReconcileProperty, TheResultDoesNotDependOnTheOrderOfTheVenuesLists) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  os::Random random(static_cast<std::uint64_t>(GetParam()) + 2'000);
  const auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  disturb(random, *engine, venue, clock, true);
  VenueSnapshot snapshot;
  const auto dump = [&](const std::vector<Discrepancy>& list) {
    std::string text;
    for (const Discrepancy& item : list) text += item.to_json().dump() + "\n";
    return text;
  };
  const std::string first = dump(compare(*engine, venue, snapshot));
  std::reverse(snapshot.open_orders.begin(), snapshot.open_orders.end());
  std::reverse(snapshot.balances.begin(), snapshot.balances.end());
  std::reverse(snapshot.rules.begin(), snapshot.rules.end());
  EXPECT_EQ(dump(reconcile(engine->ledger->state(), snapshot, Tolerance())), first);
}

TEST_P(ReconcileProperty, WithoutAPersonForeignThingsStayOpenFindings) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  const auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  venue.place_external("web", "0.2", "48000");
  venue.fill("web", "0.1");
  venue.deposit("USDT", "100");
  VenueSnapshot snapshot;
  const std::vector<Discrepancy> found = compare(*engine, venue, snapshot);
  ASSERT_TRUE(apply_reconciliation(*engine->ledger, snapshot, found,
                                   {.reason = "recovery", .by = "recovery"}, 1));
  EXPECT_EQ(engine->ledger->orders().count("web"), 1u) << "it is exposure, whoever placed it";
  EXPECT_EQ(engine->ledger->positions().at("BTCUSDT").quantity, dec("0.1"));
  const auto findings = read_open_findings(**engine->store->snapshot()).value();
  EXPECT_GE(findings.size(), 1u);
  // The deposit is not taken over without a person.
  EXPECT_NE(engine->ledger->balances().at("USDT"), venue.total("USDT"));
}

INSTANTIATE_TEST_SUITE_P(Seeds, ReconcileProperty, testing::Range(0, 25));

TEST(ReconcileApply, NeedsAReasonAndAPersonAndNoDuplicates) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  const auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  const auto apply = [&](const std::vector<Discrepancy>& list, ApplyOptions options) {
    const auto applied = apply_reconciliation(*engine->ledger, {}, list, options, 1);
    return applied ? Code{} : applied.error().code();
  };
  EXPECT_EQ(apply({}, {.reason = "", .by = "ada"}), Code::kInvalidArgument);
  EXPECT_EQ(apply({}, {.reason = "x", .by = ""}), Code::kInvalidArgument);
  Discrepancy duplicate;
  duplicate.kind = Kind::kDuplicateOrder;
  EXPECT_EQ(apply({duplicate}, {.reason = "x", .by = "ada"}), Code::kDuplicateOrder);
}

TEST(ReconcileModes, StrictForgivesNothingButWhatOnlyAFenceCanTell) {
  World world;
  world.add_unknown("tst0000100000009");
  // One trade more, which the order explains.
  world.venue.new_fills = {
      {"501", "11", "BTCUSDT", venue::Side::kBuy, dec("0.1"), dec("40000"), {}, "USDT", 1}};
  world.venue.open_orders[0].filled = dec("0.1");
  world.venue.open_orders[0].status = venue::OrderStatus::kPartiallyFilled;
  world.set_balances("10.1", "96000");
  for (const Discrepancy& item : reconcile(world.ledger, world.venue, {})) {
    EXPECT_TRUE(item.explained) << item.to_json().dump();
  }
  Tolerance strict;
  strict.strict = true;
  std::size_t held = 0;
  for (const Discrepancy& item : reconcile(world.ledger, world.venue, strict)) {
    EXPECT_EQ(item.explained, item.kind == Kind::kIntentUnresolved) << item.to_json().dump();
    held += item.explained ? 0 : 1;
  }
  EXPECT_GT(held, 0u);
}

TEST(ReconcileModes, AToleranceIsTheSymbolsOwnAndNeverBelowItsLot) {
  World world;
  world.set_balances("10.0005", "100000");
  EXPECT_FALSE(reconcile(world.ledger, world.venue, {}).empty());
  Tolerance wide;
  wide.by_symbol["BTCUSDT"] = dec("0.001");
  EXPECT_TRUE(reconcile(world.ledger, world.venue, wide).empty());
  Tolerance narrow;
  narrow.by_symbol["BTCUSDT"] = Decimal();
  world.set_balances("10.00001", "100000");
  EXPECT_TRUE(reconcile(world.ledger, world.venue, narrow).empty());
  narrow.strict = true;
  EXPECT_FALSE(reconcile(world.ledger, world.venue, narrow).empty());
}

// Margin and futures: the venue states positions, and they count.
TEST(ReconcileStated, PositionsThatTheVenueStatesAreComparedAsTheyAre) {
  World world;
  const auto kinds = [&] {
    std::set<std::string> found;
    for (const Discrepancy& item : reconcile(world.ledger, world.venue, {})) {
      found.insert(std::string(to_string(item.kind)));
    }
    return found;
  };
  world.venue.positions = std::vector<venue::PositionReport>{{"BTCUSDT", "BOTH", dec("1"), {}}};
  EXPECT_TRUE(kinds().empty());
  (*world.venue.positions)[0].quantity = dec("1.5");
  EXPECT_THAT(kinds(), ElementsAre("position_differs"));
  (*world.venue.positions)[0].quantity = dec("-1");
  EXPECT_THAT(kinds(), ElementsAre("position_side_differs"));
  world.venue.positions->clear();
  EXPECT_THAT(kinds(), ElementsAre("position_missing_at_venue"));
  world.venue.positions = std::vector<venue::PositionReport>{{"BTCUSDT", "LONG", dec("2"), {}},
                                                             {"BTCUSDT", "SHORT", dec("-1"), {}},
                                                             {"ETHUSDT", "BOTH", dec("3"), {}}};
  EXPECT_THAT(kinds(), ElementsAre("position_unknown_at_ledger"));
}

TEST(ReconcileStated, ADebtThatWasNotThereBeforeIsToldApart) {
  World world;
  world.venue.balances.push_back({"EUR", dec("-5"), {}});
  std::set<std::string> found;
  for (const Discrepancy& item : reconcile(world.ledger, world.venue, {})) {
    found.insert(std::string(to_string(item.kind)));
    EXPECT_FALSE(item.explained);
  }
  EXPECT_THAT(found, ElementsAre("balance_differs", "balance_negative"));
}

TEST(ReconcileAccounts, AreInTheOrderOfTheirNamesWithIdsOfTheirOwn) {
  World world;
  world.venue.open_orders[0].quantity = dec("0.7");
  const std::vector<Discrepancy> equal = reconcile(world.ledger, world.venue, {});
  const auto found = reconcile_accounts({{"kraken", equal}, {"coinbase", {}}, {"binance", equal}});
  ASSERT_EQ(found.size(), 2 * equal.size());
  ASSERT_GE(found.size(), 2u);
  std::set<std::string> ids;
  for (const AccountFinding& finding : found) ids.insert(finding.discrepancy.id);
  EXPECT_EQ(ids.size(), found.size());
  EXPECT_EQ(found.front().account, "binance");
  EXPECT_EQ(found.back().account, "kraken");
  const auto alone = reconcile_accounts({{"kraken", equal}});
  EXPECT_EQ(found.back().discrepancy.id, alone.back().discrepancy.id);
}

TEST(ReconcileBesideAnEngine, ADuplicateIsNeverAMovement) {
  for (const DiscrepancyKind kind :
       {DiscrepancyKind::kDuplicateOrder, DiscrepancyKind::kOrderIdDiffers}) {
    std::vector<Discrepancy> found(1);
    found[0].kind = kind;
    explain_movements(found, {});
    EXPECT_FALSE(found[0].explained);
  }
}

TEST(ReconcileBesideAnEngine, WhatStandsInTwoReadingsIsTrueAndWhatStandsInOneIsAMovement) {
  World world;
  world.venue.balances.push_back({"EUR", dec("5"), {}});
  const std::vector<Discrepancy> first = reconcile(world.ledger, world.venue, {});
  world.venue.balances.back().free = dec("6");  // it goes on moving, and stays wrong
  world.venue.balances.push_back({"CHF", dec("5"), {}});
  std::vector<Discrepancy> found = reconcile(world.ledger, world.venue, {});
  ASSERT_EQ(summarize(found).unexplained, 2u);
  explain_movements(found, first);
  ASSERT_EQ(summarize(found).unexplained, 1u);
  for (const Discrepancy& item : found) EXPECT_EQ(item.explained, item.subject == "CHF");
  // A reading that explains it does not make it stand.
  std::vector<Discrepancy> explained = first;
  for (Discrepancy& item : explained) item.explained = true;
  found = reconcile(world.ledger, world.venue, {});
  explain_movements(found, explained);
  EXPECT_EQ(summarize(found).unexplained, 0u);
}

TEST(Exposure, IsInOneCurrencyAndNamesWhatHasNoRate) {
  World world;
  const std::map<std::string, Decimal> marks = {{"BTCUSDT", dec("50000")}};
  EXPECT_EQ(exposure_of(world.ledger, marks).total(), dec("70000"));
  Valuation valuation{"EUR", {{"USDT", dec("0.9")}}};
  EXPECT_EQ(exposure_of(world.ledger, marks, valuation).total(), dec("63000"));
  EXPECT_TRUE(exposure_of(world.ledger, marks, valuation).unpriced.empty());
  valuation.rates.clear();
  const Exposure without = exposure_of(world.ledger, marks, valuation);
  EXPECT_THAT(without.unpriced, ElementsAre("USDT"));
  EXPECT_EQ(without.total(), dec("70000"));
}

TEST(ReadVenue, AMarketThatMovesWhileItIsReadIsReadAgain) {
  TemporaryDir dir;
  os::FakeClock clock;
  ScriptedVenue venue(clock);
  const auto engine = Engine::start(dir.path(), clock, venue);
  engine->ready(venue, clock);
  const Submitted order = engine->submit(Engine::draft("0.5", "49000"));
  int moves = 2;
  venue.on_request = [&](std::string_view what) {
    if (what == "balances" && moves > 0) {
      --moves;
      venue.fill(order.client_id, "0.1");
    }
  };
  VenueSnapshot snapshot;
  for (const Discrepancy& item : compare(*engine, venue, snapshot)) {
    EXPECT_TRUE(item.explained) << item.to_json().dump();
  }
  EXPECT_TRUE(snapshot.stable);
  EXPECT_EQ(snapshot.readings, 3);
}

}  // namespace
}  // namespace defib::trading
