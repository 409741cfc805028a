#include <set>

#include "defib/os/files.h"
#include "defib/recovery/incident.h"
#include "defib/trading/checklist.h"
#include "defib/trading/recovery_testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using namespace std::chrono_literals;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST_F(RecoveryTest, TheFirstStartTakesItsBaselineAndRampsToFull) {
  expect_recovers();
  EXPECT_EQ(run_->recovery->procedure().name(), "trading-recovery");
  EXPECT_THAT(run_->states, ElementsAre("recovering", "ramping"));
  EXPECT_EQ(engine_->gateway->permit().percent, 50);
  EXPECT_EQ(engine_->gateway->permit().max_risk, RiskLevel::kLow);
  live(6min);
  EXPECT_THAT(run_->states, ElementsAre("recovering", "ramping", "running"));
  EXPECT_EQ(engine_->gateway->permit().percent, 100);
  EXPECT_THAT(run_->names(), Contains("ramp_completed"));
  EXPECT_EQ(run_->last("trading_report")["source"]["source"].as_string(), "venue");
}

TEST_F(RecoveryTest, TheTenStepsRunInTheirOrder) {
  const auto result = recover();
  std::vector<std::string> names;
  for (const auto& stage : result.stages) {
    names.push_back(stage.name);
    EXPECT_EQ(stage.outcome, recovery::StageOutcome::kCompleted) << stage.name;
  }
  EXPECT_THAT(names, ElementsAre("analyze", "safety_checks", "load_state", "reconcile_positions",
                                 "recover_open_orders", "health_without_trading", "risk_checks",
                                 "market_check", "gradual_resume", "report_and_notify"));
}

TEST_F(RecoveryTest, ACrashWithOrdersFillsAndUnknownsComesBackExplained) {
  expect_recovers();
  live(6min);
  const Submitted open = engine_->submit(Engine::draft("0.1", "49000"));
  const Submitted filled = engine_->submit(Engine::draft("0.2", "49500"));
  venue_.next(Script::kAcceptAndLoseReply);
  const Submitted found = engine_->submit(Engine::draft("0.1", "48000"));
  venue_.next(Script::kLose);
  const Submitted lost = engine_->submit(Engine::draft("0.1", "47000"));
  venue_.fill(filled.client_id, "0.2");
  restart();
  expect_recovers();
  EXPECT_EQ(run_->recovery->report()["unexplained"].as_int(), 0);
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, dec("0.2"));
  EXPECT_TRUE(engine_->ledger->orders().contains(open.client_id));
  EXPECT_TRUE(engine_->ledger->orders().contains(found.client_id));
  // The lost one does not hold the gate; it counts as exposure until its fence has told.
  EXPECT_EQ(engine_->intents->unresolved().size(), 1u);
  EXPECT_EQ(engine_->gateway->exposure().unknown, dec("4700"));
  live(10s);
  EXPECT_TRUE(engine_->intents->unresolved().empty());
  EXPECT_EQ(engine_->intents->load(lost.client_id).value()->state, IntentState::kNeverAccepted);
  for (const Submitted& order : {open, filled, found, lost}) {
    EXPECT_EQ(venue_.placed(order.client_id), 1);
  }
  EXPECT_EQ(run_->last("trading_recovery_started")["previous_end"].as_string(), "crash");
}

TEST_F(RecoveryTest, WithoutLimitsNothingTradesAndNoApprovalHelps) {
  config_.limits.reset();
  const auto result = recover();
  EXPECT_TRUE(result.success());
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  const auto* stage = result.find("gradual_resume");
  ASSERT_TRUE(stage->error);
  EXPECT_EQ(stage->error->code(), Code::kLimitsNotLoaded);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_THAT(run_->states, ElementsAre("recovering", "stopped"));
}

TEST_F(RecoveryTest, AWrongKeyIsRefusedWithTheVenuesOwnError) {
  venue_.fail_test_order(Error(Code::kVenueAuthFailed, "no permission to trade"));
  const auto result = recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "permissions");
  EXPECT_EQ(result.find("gradual_resume")->error->root().code(), Code::kVenueAuthFailed);
}

TEST_F(RecoveryTest, ATestOrderWhoseAnswerIsLostIsTriedAgain) {
  venue_.fail_test_order(Error(Code::kVenueUnreachable, "no complete answer came back"), 2);
  expect_recovers();
  venue_.fail_test_order(Error(Code::kVenueUnreachable, "no complete answer came back"), 3);
  restart();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "permissions");
}

TEST_F(RecoveryTest, AKillBetweenTheBaselineAndTheFirstDecisionAsksNoPerson) {
  ASSERT_TRUE(engine_->ledger->initialize(venue_, {"BTCUSDT", "ETHUSDT"}, clock_.wall_ns()));
  restart();
  expect_recovers();
  EXPECT_TRUE(run_->last("checkpoint_verdict")["usable"].as_bool());
}

TEST_F(RecoveryTest, AnOrderThatTheVenueDoesNotShowYetNeedsNoPerson) {
  engine_->ready(venue_, clock_);
  venue_.hidden_ms_ = 500;
  const std::string id = engine_->submit().client_id;
  restart();
  expect_recovers();
  EXPECT_EQ(engine_->ledger->orders().count(id), 1u);
  venue_.drop_order(id);  // it is not there at all
  clock_.advance(5s);
  restart();
  recover();
  EXPECT_EQ(rule(), "unexplained");
}

TEST_F(RecoveryTest, AClockTwoSecondsOffIsRefusedUntilItIsSet) {
  venue_.set_offset_ms(2'000);
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "clock_skew");
  EXPECT_THAT(run_->states, ElementsAre("recovering", "monitoring"));
  live(20s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  venue_.set_offset_ms(0);
  live(6s);
  EXPECT_TRUE(engine_->gateway->permit().open);
}

// The ledger was repaired; what stands beside it says that it was damaged.
TEST_F(RecoveryTest, DamageHoldsTheGateUntilTheManualProcedureWasWalked) {
  const Error error(Code::kWalCorrupted, "a block is damaged");
  EXPECT_TRUE(is_state_damage(error));
  EXPECT_FALSE(is_state_damage(Error(Code::kDatabaseLocked, "open elsewhere")));
  os::Files& files = os::real_files();
  EXPECT_FALSE(read_damage(files, store_dir()));
  const auto recorded = record_damage(files, clock_, store_dir(), dir_.path(), error);
  ASSERT_TRUE(recorded) << recorded.error().to_text();
  // Told again, it is the same.
  EXPECT_EQ(record_damage(files, clock_, store_dir(), dir_.path(), error)->incident,
            recorded->incident);
  damage_ = read_damage(files, store_dir());
  ASSERT_TRUE(damage_);
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "state_damage");
  EXPECT_THAT(explanation(), HasSubstr("WalCorrupted"));
  EXPECT_THAT(run_->states, ElementsAre("recovering", "monitoring"));
  live(60s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  auto checklist = Checklist::open(files, clock_, dir_.path(), recorded->incident);
  ASSERT_TRUE(checklist);
  for (const ChecklistItem& item : checklist_items()) {
    if (item.before_trading) {
      ASSERT_TRUE(checklist->answer(item.key, AnswerKind::kYes, "done", "ada"));
    }
  }
  live(6s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_TRUE(read_damage(files, store_dir())) << "until trading is full again";
  live(10min);
  EXPECT_EQ(run_->states.back(), "running");
  EXPECT_FALSE(read_damage(files, store_dir()));
  const auto log = recovery::IncidentLog::open(files, clock_, dir_.path());
  EXPECT_TRUE(log->verify(recorded->incident, {})) << "its incident is closed, and whole";
}

TEST_F(RecoveryTest, ARecordOfDamageThatCannotBeReadHoldsTheGateToo) {
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), store_dir() + ".damage.json", "{}"));
  damage_ = read_damage(os::real_files(), store_dir());
  ASSERT_TRUE(damage_);
  recover();
  EXPECT_EQ(rule(), "state_damage");
  EXPECT_THAT(explanation(), HasSubstr("cannot be read"));
}

TEST_F(RecoveryTest, AfterDamageAnEpochIsBeyondAllThatWereCounted) {
  const std::uint64_t counted = engine_->ids->epoch();
  const auto after =
      IdSource::begin_boot(*engine_->store, clock_, "tst", epoch_after_damage(clock_));
  ASSERT_TRUE(after);
  EXPECT_GT(after->epoch(), counted + 1'000'000);
  // From there they are counted on, also where the clock has been set back.
  EXPECT_EQ(IdSource::begin_boot(*engine_->store, clock_, "tst", 5)->epoch(), after->epoch() + 1);
}

TEST_F(RecoveryTest, AnUnreachableVenueEndsTheProcedureAndLeavesTradingShut) {
  venue_.fail_reads(Error(Code::kVenueUnreachable, "down"));
  const auto result = recover();
  ASSERT_FALSE(result.success());
  EXPECT_EQ(result.error->code(), Code::kVenueUnreachable);
  EXPECT_FALSE(engine_->gateway->permit().open);
  venue_.fail_reads(std::nullopt);
  expect_recovers();  // run again: it converges
}

TEST_F(RecoveryTest, WaitingLongEnoughOpensTheCrashLoopGateByItself) {
  for (int i = 0; i < 5; ++i) restart();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval);
  live(5min + 10s);
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kOpen) << explanation();
  EXPECT_TRUE(engine_->gateway->permit().open);
}

TEST_F(RecoveryTest, AForeignTradeIsBookedAtOnceAndStillHoldsTheGateAfterAKill) {
  expect_recovers();
  venue_.place_external("web1", "0.1", "50000");
  venue_.fill("web1", "0.1");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "unexplained");
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, dec("0.1"));
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "unexplained") << "booked by now, but nobody has accepted it";
  approve();
  live(1s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  restart_after_clean_end();
  expect_recovers();
}

TEST_F(RecoveryTest, TwoOrdersForOneIdRefuseEverything) {
  expect_recovers();
  venue_.next(Script::kAcceptAndLoseReply);
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.place_external(order.client_id, "0.1", "49000");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "duplicate_orders");
  EXPECT_FALSE(engine_->gateway->permit().open);
}

TEST_F(RecoveryTest, AHaltedMarketIsMonitoredUntilItOpens) {
  venue_.halt("ETHUSDT");
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kMonitorOnly);
  EXPECT_THAT(run_->states, ElementsAre("recovering", "monitoring"));
  live(20s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  venue_.halt("ETHUSDT", false);
  live(6s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_THAT(run_->states, ElementsAre("recovering", "monitoring", "ramping"));
}

TEST_F(RecoveryTest, AMarketThatMovedWhileTheEngineWasDeadNeedsAPersonAlsoAfterAnotherKill) {
  expect_recovers();
  live(1min);
  restart_after_clean_end();
  venue_.set_quote("BTCUSDT", "52600", "52602");
  recover();
  EXPECT_EQ(rule(), "volatility");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "volatility");
}

TEST_F(RecoveryTest, AMissingPriceNeedsAPerson) {
  venue_.set_quote("ETHUSDT", "0", "0");
  recover();
  EXPECT_EQ(rule(), "stale_prices");
}

TEST_F(RecoveryTest, AFailingHealthCheckStopsEverythingInAnyStep) {
  for (const os::Duration after : {10s, 95s, 200s, 330s}) {
    TemporaryDir dir;
    ScriptedVenue venue(clock_);
    const auto engine = Engine::start(dir.path() + "/store", clock_, venue);
    Recovery run(*engine, venue, clock_, dir.path(), config_);
    ASSERT_TRUE(run.recovery->procedure().execute(clock_).success());
    engine->submit(Engine::draft("0.1", "49000"));
    const std::int64_t end = clock_.mono_ns() + after.count();
    while (clock_.mono_ns() < end) {
      clock_.advance(1s);
      ASSERT_TRUE(run.recovery->poll());
    }
    EXPECT_EQ(venue.open_count(), 1);
    run.health = {false, "drawdown", "too deep"};
    clock_.advance(5s);
    ASSERT_TRUE(run.recovery->poll());
    EXPECT_EQ(venue.open_count(), 0);
    EXPECT_FALSE(engine->gateway->permit().open);
    EXPECT_EQ(run.states.back(), "stopped");
    EXPECT_TRUE(run.last("emergency_stop")["verified"].as_bool());
    EXPECT_EQ(run.last("emergency_stop")["check"].as_string(), "drawdown");
    clock_.advance(10min);
    ASSERT_TRUE(run.recovery->poll());
    EXPECT_FALSE(engine->gateway->permit().open) << "only a new recovery leaves an emergency";
  }
}

// A budget that is used up says nothing of the state. Who is told to stop is stopped all the same,
// and a venue that cannot be watched for long is left.
TEST_F(RecoveryTest, AVenueThatSaysSlowerStopsNothingByItselfAndPassesNothing) {
  const Error slower(Code::kVenueRateLimited, "the budget of requests is used up");
  expect_recovers();
  live(5s);
  ASSERT_EQ(run_->last("ramp_step")["step"].as_int(), 1);
  const std::size_t entered = run_->states.size();
  venue_.fail_reads(slower);
  live(50s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->states.size(), entered);
  venue_.fail_reads({});
  live(30s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("ramp_step")["step"].as_int(), 1)
      << "the time without checks does not count";

  venue_.fail_reads(slower);
  live(80s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "venue");
}

TEST_F(RecoveryTest, ALossIsSeenWhileTheVenueSaysSlower) {
  expect_recovers();
  live(5s);
  venue_.fail_reads(Error(Code::kVenueRateLimited, "the budget of requests is used up"));
  live(10s);
  EXPECT_TRUE(engine_->gateway->permit().open);
  run_->health = {false, "drawdown", "too deep"};
  live(5s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "drawdown");
}

TEST_F(RecoveryTest, ADryRunChangesNothing) {
  expect_recovers();
  venue_.next(Script::kLose);
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.deposit("BTC", "1");
  restart();
  const auto before = engine_->store->snapshot().value()->position();
  recover(true);
  EXPECT_EQ(engine_->store->snapshot().value()->position(), before);
  EXPECT_EQ(run_->recovery->report()["unexplained"].as_int(), 2);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/plans"));
}

TEST_F(RecoveryTest, ADamagedCheckpointNeedsNoPersonWhenTheVenueConfirmsTheLedger) {
  expect_recovers();
  auto transaction = std::move(*engine_->store->begin());
  ASSERT_TRUE(transaction->put("trade.checkpoint", "latest", "{\"version\":1}"));
  ASSERT_TRUE(transaction->commit(store::Durability::kProcess));
  transaction.reset();
  restart_after_clean_end();
  expect_recovers();
  EXPECT_EQ(run_->last("state_source")["source"].as_string(), "venue");
  EXPECT_EQ(run_->last("checkpoint_verdict")["worst"].as_string(), "critical");
}

TEST_F(RecoveryTest, AnAlteredPositionIsDerivedAnewAndNeedsAPerson) {
  expect_recovers();
  live(6min);
  const Submitted order = engine_->submit(Engine::draft("0.2", "49500"));
  venue_.fill(order.client_id, "0.2");
  ASSERT_TRUE(engine_->ledger->sync_fills(venue_, "BTCUSDT", 1));
  LedgerUpdate update(*engine_->ledger);
  Position wrong = engine_->ledger->positions().at("BTCUSDT");
  wrong.quantity = dec("7");
  update.set_position(wrong);
  ASSERT_TRUE(update.commit(1));
  restart_after_clean_end();
  recover();
  EXPECT_EQ(rule(), "checkpoint_verdict");
  EXPECT_EQ(engine_->ledger->positions().at("BTCUSDT").quantity, dec("0.2"));
}

struct Outcome {
  std::map<std::string, Position> positions;
  std::map<std::string, Decimal> balances;
  std::set<std::string> orders;
  GateOutcome gate{};
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// Killed at every event that the recovery tells, it converges to what an undisturbed run ends with.
TEST(RecoveryKill, AtAnyPointItConvergesAndNothingIsSent) {
  const auto run_once = [](int kill_at, int& events_seen) {
    TemporaryDir dir;
    os::FakeClock clock;
    ScriptedVenue venue(clock);
    TradingConfig config = make_config();
    config.gates.max_crashes = 100;
    auto engine = Engine::start(dir.path() + "/store", clock, venue);
    {
      Recovery first(*engine, venue, clock, dir.path(), config);
      EXPECT_TRUE(first.recovery->procedure().execute(clock).success());
      engine->submit(Engine::draft("0.1", "49000"));
      const Submitted filled = engine->submit(Engine::draft("0.2", "49500"));
      venue.next(Script::kAcceptAndLoseReply);
      engine->submit(Engine::draft("0.1", "48000"));
      venue.next(Script::kLose);
      engine->submit(Engine::draft("0.1", "47000"));
      venue.fill(filled.client_id, "0.15");
    }
    const std::size_t sent = venue.requests().size();
    int left = kill_at;
    Outcome outcome;
    for (int attempt = 0; attempt < 3; ++attempt) {
      engine.reset();
      engine = Engine::start(dir.path() + "/store", clock, venue);
      struct Killed {};
      bool killed = false;
      const auto kill = [&](const std::string&) {
        ++events_seen;
        if (--left == 0) {
          killed = true;
          throw Killed();
        }
      };
      Recovery again(*engine, venue, clock, dir.path(), config, false, kill);
      try {
        const auto result = again.recovery->procedure().execute(clock);
        if (killed) continue;
        EXPECT_TRUE(result.success());
        clock.advance(3s);
        EXPECT_TRUE(again.recovery->poll());
        clock.advance(3s);
        EXPECT_TRUE(again.recovery->poll());
      } catch (const Killed&) {
        continue;
      }
      outcome.gate = again.recovery->outcome();
      break;
    }
    EXPECT_EQ(venue.requests().size(), sent);
    EXPECT_TRUE(engine->intents->unresolved().empty());
    outcome.positions = engine->ledger->positions();
    outcome.balances = engine->ledger->balances();
    for (const auto& [key, order] : engine->ledger->orders()) outcome.orders.insert(key);
    return outcome;
  };
  int events = 0;
  const Outcome undisturbed = run_once(0, events);
  EXPECT_EQ(undisturbed.orders.size(), 3u);
  EXPECT_EQ(undisturbed.gate, GateOutcome::kOpen);
  ASSERT_GT(events, 8);
  for (int kill_at = 1; kill_at <= events; ++kill_at) {
    int seen = 0;
    EXPECT_EQ(run_once(kill_at, seen), undisturbed) << "killed at event " << kill_at;
  }
}

TEST_F(RecoveryTest, NothingTradesBeforeTheComprehensiveCheckAndItsFailureStopsEverything) {
  config_.ramp.check_after = 5s;
  expect_recovers();
  EXPECT_FALSE(engine_->gateway->permit().open);
  live(4s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  live(2s);
  EXPECT_EQ(engine_->gateway->permit().percent, 50);
  EXPECT_THAT(run_->names(), Contains("ramp_proof"));
  restart_after_clean_end();
  expect_recovers();
  venue_.fail_test_order(Error(Code::kVenueAuthFailed, "the key was withdrawn"));
  live(6s);
  EXPECT_FALSE(engine_->gateway->permit().open);
  EXPECT_EQ(run_->states.back(), "stopped");
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "test_order");
  EXPECT_TRUE(run_->last("emergency_stop")["verified"].as_bool());
}

TEST_F(RecoveryTest, AnUnknownCauseHoldsTheGateUntilTheIncidentNamesOne) {
  restart();
  Recovery::cause = {"unknown", "", ""};
  recover();
  EXPECT_EQ(rule(), "unknown_cause");
  EXPECT_FALSE(engine_->gateway->permit().open);
  Recovery::cause = {"segmentation_fault", "", ""};
  live(1s);
  EXPECT_EQ(engine_->gateway->permit().percent, 50) << explanation();
}

TEST_F(RecoveryTest, HeapCorruptionIsDealtWithByHandAlone) {
  expect_recovers();  // so that there is a checkpoint
  restart();
  auto log = recovery::IncidentLog::open(os::real_files(), clock_, dir_.path());
  auto incident = log->create("engine", wire::Json::object({{"cause", "heap_corruption"}}));
  ASSERT_TRUE(incident);
  const std::string id = incident->id();
  ASSERT_TRUE(incident->close("failed"));
  Recovery::cause = {"heap_corruption", id, ""};
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kRefused);
  EXPECT_EQ(rule(), "heap_corruption");
  restart();
  clock_.advance(1s);
  for (const ChecklistItem& item : checklist_items()) {
    auto checklist = Checklist::open(os::real_files(), clock_, dir_.path(), id);
    ASSERT_TRUE(checklist);
    ASSERT_TRUE(checklist->answer(item.key, AnswerKind::kYes, "done", "ada"));
  }
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kOpen) << explanation();
}

TEST_F(RecoveryTest, AnEngagedKillSwitchHoldsTheGateAndStopsARunningRamp) {
  expect_recovers();
  engine_->submit(Engine::draft());
  ASSERT_TRUE(run_->kill_switch.engage("all", "ada", "odd"));
  live(6s);
  EXPECT_EQ(run_->states.back(), "stopped");
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "kill_switch");
  EXPECT_TRUE(venue_.open_orders("")->empty());
  restart();
  recover();
  EXPECT_EQ(rule(), "kill_switch");
  ASSERT_TRUE(run_->kill_switch.release("all", "ada", "over"));
  restart();
  expect_recovers();
}

TEST_F(RecoveryTest, InApplyModeTheVenueWinsAndTheJournalSaysSo) {
  expect_recovers();
  config_.reconcile_mode = ReconcileMode::kApply;
  venue_.deposit("BTC", "1");
  restart_after_clean_end();
  expect_recovers();
  EXPECT_EQ(engine_->ledger->balances().at("BTC"), dec("11"));
  const auto journal = read_journal(**engine_->store->snapshot(), 10).value();
  ASSERT_FALSE(journal.empty());
  EXPECT_THAT(std::string(journal.back()["reason"].as_string()), HasSubstr("mode = apply"));
}

TEST_F(RecoveryTest, InStrictModeEvenWhatIsExplainedNeedsAPerson) {
  config_.reconcile_mode = ReconcileMode::kStrict;
  expect_recovers();
  live(6min);
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.fill(order.client_id, "0.1");
  restart_after_clean_end();
  recover();
  EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kNeedsApproval) << explanation();
  EXPECT_EQ(rule(), "unexplained");
}

TEST_F(RecoveryTest, WhatNothingExplainsWhileRampingStopsEverything) {
  config_.reconcile_every = 5s;
  expect_recovers();
  live(10s);
  EXPECT_EQ(run_->states.back(), "ramping");
  venue_.deposit("BTC", "1");  // somebody else trades on the account
  live(30s);
  EXPECT_EQ(run_->states.back(), "stopped");
  EXPECT_EQ(run_->last("emergency_stop")["check"].as_string(), "reconciliation");
}

TEST_F(RecoveryTest, WhatNothingExplainsIsSeenWhileTheAccountGoesOnTrading) {
  config_.reconcile_every = 5s;
  expect_recovers();
  live(10s);
  const Submitted order = engine_->submit(Engine::draft("0.1", "49000"));
  venue_.deposit("BTC", "1");
  for (int i = 0; i < 6 && run_->states.back() == "ramping"; ++i) {
    venue_.fill(order.client_id, "0.01");
    ASSERT_TRUE(engine_->gateway->sync_orders("BTCUSDT"));
    live(5s);
  }
  EXPECT_EQ(run_->states.back(), "stopped");
}

TEST_F(RecoveryTest, AUsersStepsStandBetweenTheTenAndTheirFailureIsTheirOwn) {
  expect_recovers();  // so that there is a checkpoint
  restart_after_clean_end();
  ExecStep step;
  step.name = "risk_desk";
  step.before = "gradual_resume";
  step.command = {"/bin/sh", "-c", "echo not released; exit 3"};
  step.meaning = "the desk has not released the book";
  config_.runbook.steps = {step};
  config_.runbook.builtin = {{.name = "safety_checks", .retries = 2, .retry_delay = 0s}};
  const auto failed = recover();
  ASSERT_FALSE(failed.success());
  EXPECT_EQ(failed.error->code(), Code::kRunbookStepFailed);
  EXPECT_THAT(failed.error->message(), HasSubstr("the desk has not released the book"));
  EXPECT_FALSE(engine_->gateway->permit().open);
  config_.runbook.steps[0].command = {"/bin/true"};
  restart_after_clean_end();
  expect_recovers();
  config_.runbook.steps[0].command = {"/bin/false"};
  config_.runbook.steps[0].stop_on_failure = false;
  restart_after_clean_end();
  expect_recovers();
}

}  // namespace
}  // namespace defib::trading
