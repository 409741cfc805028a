#include "defib/trading/intents.h"

#include <set>

#include "defib/trading/ids.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using testing::HasSubstr;

TEST(ClientIds, NeverRepeatOverRestartsHoweverABootEnded) {
  TemporaryDir dir;
  os::FakeClock clock;
  std::set<std::string> seen;
  for (int boot = 0; boot < 5; ++boot) {
    const auto store = open_store(dir.path());
    auto ids = IdSource::begin_boot(*store, clock, "abc");
    ASSERT_TRUE(ids) << ids.error().to_text();
    EXPECT_EQ(ids->epoch(), static_cast<std::uint64_t>(boot + 1));
    for (int i = 0; i < 100; ++i) {
      const std::string id = ids->next();
      EXPECT_TRUE(seen.insert(id).second) << id;
      EXPECT_EQ(id.size(), 16u);
      EXPECT_EQ(id.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz"), std::string::npos);
    }
    if (boot % 2 == 0) {  // else: killed
      ASSERT_TRUE(store->close());
    }
  }
}

TEST(ClientIds, AreReadBackExactly) {
  const ClientId id{"abc", 36 * 36 + 7, 123'456'789};
  const auto parsed = parse_client_id(format_client_id(id));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->owner, "abc");
  EXPECT_EQ(parsed->epoch, id.epoch);
  EXPECT_EQ(parsed->counter, id.counter);
  EXPECT_EQ(format_client_id({"zzz", kMaxEpoch, kMaxCounter}), "zzzzzzzzzzzzzzzz");
  for (const std::string_view foreign : {"", "web_1234", "ABC0000100000001", "abc000010000001"}) {
    EXPECT_FALSE(parse_client_id(foreign)) << foreign;
  }
}

TEST(ClientIds, AnOwnerIsThreeCharacters) {
  TemporaryDir dir;
  os::FakeClock clock;
  const auto store = open_store(dir.path());
  for (const std::string owner : {"", "ab", "abcd", "a-b", "ABC"}) {
    EXPECT_EQ(IdSource::begin_boot(*store, clock, owner).error().code(), Code::kInvalidArgument);
  }
}

TEST(ClientIds, ALostCounterIsFoundAgainInTheBootRecords) {
  TemporaryDir dir;
  os::FakeClock clock;
  const auto store = open_store(dir.path());
  ASSERT_TRUE(IdSource::begin_boot(*store, clock, "abc"));
  ASSERT_TRUE(IdSource::begin_boot(*store, clock, "abc"));
  auto transaction = std::move(*store->begin());
  ASSERT_TRUE(transaction->erase("trade.meta", "epoch"));
  ASSERT_TRUE(transaction->commit(store::Durability::kProcess));
  transaction.reset();
  EXPECT_EQ(IdSource::begin_boot(*store, clock, "abc")->epoch(), 3u);
}

class Crashes : public testing::Test {
 protected:
  void boot(bool clean) {
    if (current_ && ended_clean_) {
      ASSERT_TRUE(current_->end_boot_cleanly(*store_, clock_));
    }
    auto ids = IdSource::begin_boot(*store_, clock_, "abc");
    ASSERT_TRUE(ids);
    current_ = std::make_unique<IdSource>(std::move(*ids));
    ended_clean_ = clean;
  }
  int crashes() {
    const auto boots = read_boots(**store_->snapshot(), 64);
    EXPECT_TRUE(boots);
    return crashes_within(*boots, clock_, std::chrono::minutes(5));
  }
  TemporaryDir dir_;
  os::FakeClock clock_;
  std::unique_ptr<store::Store> store_ = open_store(dir_.path());
  std::unique_ptr<IdSource> current_;
  bool ended_clean_ = false;
};

TEST_F(Crashes, OnlyUncleanEndsWithinTheWindowCount) {
  boot(false);
  EXPECT_EQ(crashes(), 0);
  clock_.advance(std::chrono::minutes(1));
  boot(true);
  EXPECT_EQ(crashes(), 1);
  clock_.advance(std::chrono::minutes(1));
  boot(false);  // the one before ended cleanly
  EXPECT_EQ(crashes(), 1);
  clock_.advance(std::chrono::minutes(1));
  boot(false);
  EXPECT_EQ(crashes(), 2);
  clock_.advance(std::chrono::minutes(4));
  EXPECT_EQ(crashes(), 1);
}

TEST_F(Crashes, ASteppedClockHidesNoneWithinOneBoot) {
  boot(false);
  boot(false);
  clock_.step_wall(std::chrono::hours(48));
  boot(false);
  EXPECT_EQ(crashes(), 2);
  clock_.step_wall(-std::chrono::hours(96));
  EXPECT_EQ(crashes(), 2);
}

TEST_F(Crashes, OverAKernelBootTheWallClockDecides) {
  boot(false);
  boot(false);
  clock_.reboot(std::chrono::minutes(1));
  boot(false);
  EXPECT_EQ(crashes(), 2);
  clock_.reboot(std::chrono::minutes(10));
  boot(true);
  EXPECT_EQ(crashes(), 1);  // only the one that the reboot itself was
}

// --- The table
// ------------------------------------------------------------------------------------

TEST(IntentTable, EveryPairIsDecidedAsWritten) {
  using S = IntentState;
  using E = IntentEvent;
  const std::map<std::pair<S, E>, S> expected = {
      {{S::kDurable, E::kSending}, S::kSent},
      {{S::kDurable, E::kNothingSent}, S::kNotSent},
      {{S::kDurable, E::kRestarted}, S::kUnknown},
      {{S::kSent, E::kAcknowledged}, S::kAccepted},
      {{S::kSent, E::kRefused}, S::kRejected},
      {{S::kSent, E::kNothingSent}, S::kNotSent},
      {{S::kSent, E::kOutcomeLost}, S::kUnknown},
      {{S::kSent, E::kRestarted}, S::kUnknown},
      {{S::kSent, E::kFilled}, S::kFilled},
      {{S::kSent, E::kCancelled}, S::kCancelled},
      {{S::kSent, E::kExpired}, S::kExpired},
      {{S::kAccepted, E::kAcknowledged}, S::kAccepted},
      {{S::kAccepted, E::kRestarted}, S::kAccepted},
      {{S::kAccepted, E::kFilled}, S::kFilled},
      {{S::kAccepted, E::kCancelled}, S::kCancelled},
      {{S::kAccepted, E::kExpired}, S::kExpired},
      {{S::kUnknown, E::kAcknowledged}, S::kAccepted},
      {{S::kUnknown, E::kRefused}, S::kRejected},
      {{S::kUnknown, E::kOutcomeLost}, S::kUnknown},
      {{S::kUnknown, E::kRestarted}, S::kUnknown},
      {{S::kUnknown, E::kFilled}, S::kFilled},
      {{S::kUnknown, E::kCancelled}, S::kCancelled},
      {{S::kUnknown, E::kExpired}, S::kExpired},
      {{S::kUnknown, E::kProvedAbsent}, S::kNeverAccepted},
      {{S::kRejected, E::kRefused}, S::kRejected},
      {{S::kRejected, E::kRestarted}, S::kRejected},
      {{S::kNotSent, E::kNothingSent}, S::kNotSent},
      {{S::kNotSent, E::kRestarted}, S::kNotSent},
      {{S::kFilled, E::kAcknowledged}, S::kFilled},
      {{S::kFilled, E::kRestarted}, S::kFilled},
      {{S::kFilled, E::kFilled}, S::kFilled},
      {{S::kFilled, E::kCancelled}, S::kFilled},
      {{S::kFilled, E::kExpired}, S::kFilled},
      {{S::kCancelled, E::kAcknowledged}, S::kCancelled},
      {{S::kCancelled, E::kRestarted}, S::kCancelled},
      {{S::kCancelled, E::kFilled}, S::kFilled},
      {{S::kCancelled, E::kCancelled}, S::kCancelled},
      {{S::kCancelled, E::kExpired}, S::kCancelled},
      {{S::kExpired, E::kAcknowledged}, S::kExpired},
      {{S::kExpired, E::kRestarted}, S::kExpired},
      {{S::kExpired, E::kFilled}, S::kFilled},
      {{S::kExpired, E::kCancelled}, S::kExpired},
      {{S::kExpired, E::kExpired}, S::kExpired},
      {{S::kNeverAccepted, E::kRestarted}, S::kNeverAccepted},
      {{S::kNeverAccepted, E::kProvedAbsent}, S::kNeverAccepted},
  };
  for (int s = 0; s < kIntentStates; ++s) {
    for (int e = 0; e < kIntentEvents; ++e) {
      const auto state = static_cast<S>(s);
      const auto event = static_cast<E>(e);
      const auto wanted = expected.find({state, event});
      const auto got = next_state(state, event);
      EXPECT_EQ(got.has_value(), wanted != expected.end())
          << to_string(state) << " + " << to_string(event);
      if (got && wanted != expected.end()) {
        EXPECT_EQ(*got, wanted->second) << to_string(state) << " + " << to_string(event);
      }
    }
  }
}

TEST(IntentTable, NoEventEverLeavesATerminalStateForAnOpenOne) {
  for (int s = 0; s < kIntentStates; ++s) {
    const auto state = static_cast<IntentState>(s);
    if (!is_terminal(state)) continue;
    EXPECT_FALSE(is_unresolved(state));
    for (int e = 0; e < kIntentEvents; ++e) {
      const auto next = next_state(state, static_cast<IntentEvent>(e));
      EXPECT_TRUE(!next || is_terminal(*next)) << to_string(state);
    }
  }
}

TEST(IntentTable, OnlyTheFenceProvesThatNothingWasAccepted) {
  for (int s = 0; s < kIntentStates; ++s) {
    for (int e = 0; e < kIntentEvents; ++e) {
      const auto next = next_state(static_cast<IntentState>(s), static_cast<IntentEvent>(e));
      if (next != IntentState::kNeverAccepted ||
          static_cast<IntentState>(s) == IntentState::kNeverAccepted) {
        continue;
      }
      EXPECT_EQ(static_cast<IntentState>(s), IntentState::kUnknown);
      EXPECT_EQ(static_cast<IntentEvent>(e), IntentEvent::kProvedAbsent);
    }
  }
}

// --- The log
// --------------------------------------------------------------------------------------

Intent sample_intent(const std::string& id = "tst0000100000001") {
  Intent intent;
  intent.id = id;
  intent.venue = "scripted";
  intent.symbol = "BTCUSDT";
  intent.quantity = dec("0.25");
  intent.price = dec("40000");
  intent.reference_price = dec("40000");
  intent.payload = "symbol=BTCUSDT&side=BUY";
  intent.timestamp_ms = 1'700'000'000'000;
  intent.fence_ms = intent.timestamp_ms + 1'000;
  intent.strategy = "maker";
  intent.risk = RiskLevel::kMedium;
  intent.parent = "parent-1";
  return intent;
}

TEST(IntentRecord, RoundTripsAndRefusesEveryCut) {
  const Intent intent = sample_intent();
  const std::string record = encode_intent(intent);
  const auto read = decode_intent(intent.id, record);
  ASSERT_TRUE(read) << read.error().to_text();
  EXPECT_EQ(encode_intent(*read), record);
  EXPECT_EQ(read->strategy, "maker");
  EXPECT_EQ(read->notional(), dec("10000"));
  for (std::size_t size = 0; size < record.size(); ++size) {
    const auto cut = decode_intent(intent.id, record.substr(0, size));
    ASSERT_FALSE(cut) << size;
    EXPECT_EQ(cut.error().code(), Code::kLedgerDamaged);
  }
  EXPECT_FALSE(decode_intent(intent.id, record + "x"));
}

class IntentLogTest : public testing::Test {
 protected:
  void reopen() {
    log_.reset();
    store_.reset();  // killed: no close()
    store_ = open_store(dir_.path());
    auto opened = IntentLog::open(*store_, store::Durability::kProcess);
    ASSERT_TRUE(opened) << opened.error().to_text();
    log_ = std::move(*opened);
  }
  void SetUp() override { reopen(); }
  TemporaryDir dir_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<IntentLog> log_;
};

TEST_F(IntentLogTest, AnIntentThatWasDurableIsUnknownAfterAKill) {
  ASSERT_TRUE(log_->append(sample_intent("tst0000100000001")));
  ASSERT_TRUE(log_->append(sample_intent("tst0000100000002")));
  ASSERT_TRUE(log_->mark_sent("tst0000100000002"));
  reopen();
  EXPECT_EQ(log_->unresolved().size(), 2u);
  EXPECT_EQ(log_->mark_unknown_after_restart(1).value(), 2);
  reopen();
  EXPECT_EQ(log_->find("tst0000100000001")->state, IntentState::kUnknown);
  EXPECT_EQ(log_->find("tst0000100000002")->state, IntentState::kUnknown);
  EXPECT_EQ(log_->mark_unknown_after_restart(1).value(), 0);
}

TEST_F(IntentLogTest, AnIdIsTakenOnce) {
  ASSERT_TRUE(log_->append(sample_intent()));
  EXPECT_EQ(log_->append(sample_intent()).error().code(), Code::kAlreadyExists);
  // Also after a restart, and where a greater one stands behind it.
  ASSERT_TRUE(log_->append(sample_intent("tst0000100000009")));
  reopen();
  EXPECT_EQ(log_->append(sample_intent()).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(log_->append(sample_intent("tst0000100000009")).error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(log_->append(sample_intent("tst0000100000005")));
  EXPECT_EQ(log_->append(sample_intent("tst0000100000005")).error().code(), Code::kAlreadyExists);
}

TEST_F(IntentLogTest, AnImpossibleChangeIsDamageAndNamesBothSides) {
  ASSERT_TRUE(log_->append(sample_intent()));
  const auto next = log_->advanced("tst0000100000001", IntentEvent::kProvedAbsent, "", 1);
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().code(), Code::kLedgerDamaged);
  EXPECT_EQ(next.error().field("state"), "durable");
  EXPECT_EQ(next.error().field("event"), "proved_absent");
  EXPECT_EQ(log_->advanced("none", IntentEvent::kSending, "", 1).error().code(), Code::kNotFound);
}

TEST_F(IntentLogTest, AListedIntentWithoutARecordIsDamage) {
  ASSERT_TRUE(log_->append(sample_intent()));
  auto transaction = std::move(*store_->begin());
  ASSERT_TRUE(transaction->erase("trade.intent", "tst0000100000001"));
  ASSERT_TRUE(transaction->commit(store::Durability::kProcess));
  transaction.reset();
  const auto opened = IntentLog::open(*store_, store::Durability::kProcess);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Code::kLedgerDamaged);
  EXPECT_THAT(opened.error().message(), HasSubstr("tst0000100000001"));
}

}  // namespace
}  // namespace defib::trading
