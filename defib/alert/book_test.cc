#include "defib/alert/book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "defib/os/random.h"

namespace defib::alert {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kMinute = 60 * kSecond;
constexpr std::int64_t kStart = 1'700'000'000 * kSecond;

// A book with a clock, and receivers that take everything.
class BookTest : public ::testing::Test {
 protected:
  BookTest() {
    Receiver one;
    one.name = "one";
    receivers_ = {one};
    book_.set_receivers(receivers_);
  }
  void configure(std::vector<Receiver> receivers) {
    receivers_ = std::move(receivers);
    book_.set_receivers(receivers_);
  }
  Event event(EventType type, const std::string& service, const std::string& cause) {
    Event made;
    made.type = type;
    made.id = std::to_string(++events_);
    made.service = service;
    made.cause = cause;
    made.message = "m";
    made.wall_ns = now_;
    made.incident = "i";
    return made;
  }
  void fire(const std::string& service = "engine", const std::string& cause = "abort",
            Severity severity = Severity::kWarning) {
    Event made = event(EventType::kFiring, service, cause);
    made.severity = severity;
    book_.apply(made, now_);
  }
  void resolve(const std::string& service = "engine") {
    book_.apply(event(EventType::kResolved, service, "resolved"), now_);
  }
  void ack() {
    Event made = event(EventType::kAcknowledged, "engine", "abort");
    made.alert = book_.alerts().front().id;
    made.by = "alice";
    book_.apply(made, now_);
  }
  // Everything that is due now is delivered; also over a kill between any two steps.
  std::vector<Message> deliver() {
    std::vector<Message> all;
    for (const Receiver& receiver : receivers_) {
      for (;;) {
        const auto taken = book_.take(receiver, 1, now_);
        if (taken.empty()) break;
        reload();
        EXPECT_EQ(book_.take(receiver, 1, now_).at(0).id, taken[0].id);
        book_.finish(taken[0], {true, false, {}}, now_);
        reload();
        all.push_back(taken[0]);
      }
    }
    return all;
  }
  // Lets time pass up to `until`, delivering whenever something is due.
  std::vector<Message> deliver_until(std::int64_t until) {
    std::vector<Message> all = deliver();
    for (;;) {
      std::int64_t due = INT64_MAX;
      for (const Receiver& one : receivers_) due = std::min(due, book_.next_due(one, now_));
      if (due > until) break;
      EXPECT_GT(due, now_) << "due, and nothing was taken";
      now_ = std::max(now_, due);
      for (Message& one : deliver()) all.push_back(std::move(one));
    }
    now_ = until;
    return all;
  }
  void reload() {
    book_ = Book::from_json(*wire::Json::parse(book_.to_json().dump()));
    book_.set_receivers(receivers_);
  }
  std::vector<Receiver> receivers_;
  Book book_;
  std::int64_t now_ = kStart;
  int events_ = 0;
};

TEST_F(BookTest, TheFirstOccurrenceIsToldAtOnceAndItsEndToo) {
  fire();
  auto told = deliver();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].kind, MessageKind::kFiring);
  now_ += 2 * kSecond;
  resolve();
  told = deliver();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].kind, MessageKind::kResolved);
  EXPECT_EQ(told[0].ended_ns, now_);
  EXPECT_EQ(book_.next_due(receivers_[0], now_), INT64_MAX);
}

TEST_F(BookTest, AnEventThatIsToldTwiceCountsOnce) {
  const Event once = event(EventType::kFiring, "engine", "abort");
  book_.apply(once, now_);
  book_.apply(once, now_);
  reload();
  book_.apply(once, now_);
  EXPECT_EQ(book_.alerts().at(0).count, 1U);
}

TEST_F(BookTest, EqualFailuresWithinTheWindowBecomeOneMessageWithTheirCount) {
  fire();
  deliver();
  for (int i = 0; i < 10; ++i) {
    now_ += kSecond;
    fire();
  }
  EXPECT_TRUE(deliver().empty());
  const auto told = deliver_until(kStart + 5 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].count, 10U);
  EXPECT_EQ(told[0].total, 11U);
}

TEST_F(BookTest, AnotherCauseOrServiceIsAnotherAlert) {
  fire("engine", "abort");
  fire("engine", "deadlock");
  fire("gateway", "abort");
  EXPECT_EQ(deliver().size(), 3U);
}

// The storm that the facts page names: restarts every three seconds for over an hour.
TEST_F(BookTest, AStormOf1655RestartsIsAtMostTwentyMessages) {
  std::vector<Message> told;
  std::uint64_t occurrences = 0;
  bool last_is_end = false;
  const auto hear = [&](std::vector<Message> more) {
    for (const Message& one : more) {
      occurrences += one.count;
      last_is_end = one.kind == MessageKind::kResolved;
      told.push_back(one);
    }
  };
  for (int i = 0; i < 1655; ++i) {
    fire();
    hear(deliver_until(now_ + 2 * kSecond));
    resolve();
    hear(deliver_until(now_ + kSecond));
  }
  hear(deliver_until(now_ + 120 * kMinute));
  EXPECT_LE(told.size(), 20U);
  EXPECT_EQ(occurrences, 1655U);
  EXPECT_TRUE(last_is_end);
  std::set<std::string> ids;
  for (const Message& one : told) EXPECT_TRUE(ids.insert(one.id).second) << one.id;
}

TEST_F(BookTest, AnAcknowledgedAlertIsNotRepeatedNorEscalated) {
  Receiver repeats = receivers_[0];
  repeats.repeat_interval = std::chrono::minutes(1);
  Receiver boss;
  boss.name = "boss";
  boss.escalate_after = std::chrono::minutes(10);
  configure({repeats, boss});
  fire();
  EXPECT_EQ(deliver().size(), 1U);
  const auto told = deliver_until(now_ + 3 * kMinute);
  ASSERT_EQ(told.size(), 3U);
  EXPECT_EQ(told[0].kind, MessageKind::kRepeat);
  ack();
  EXPECT_TRUE(deliver_until(now_ + 60 * kMinute).empty());
  EXPECT_EQ(book_.alerts().at(0).acknowledged_by, "alice");
  resolve();
  const auto end = deliver();
  ASSERT_EQ(end.size(), 1U);  // who was told of its beginning is told of its end
  EXPECT_EQ(end[0].receiver, "one");
}

TEST_F(BookTest, AnAcknowledgementEndsWithWhatWasAcknowledged) {
  Receiver grave;
  grave.name = "grave";
  grave.min_severity = Severity::kCritical;
  Receiver repeats = receivers_[0];
  repeats.repeat_interval = std::chrono::minutes(30);
  configure({repeats, grave});
  fire();
  EXPECT_EQ(deliver().size(), 1U);
  ack();
  now_ += kMinute;
  resolve();
  EXPECT_EQ(deliver().size(), 1U);
  // Within the window of what was told last, so that it is the same alert.
  now_ += 3 * kMinute;
  fire("engine", "abort", Severity::kCritical);
  ASSERT_EQ(book_.alerts().size(), 1U);
  EXPECT_EQ(book_.alerts()[0].acknowledged_by, "");
  EXPECT_EQ(book_.alerts()[0].acknowledged_ns, 0);
  // Whoever never heard of it hears at once; whoever did, at the window's end, and then again.
  const auto at_once = deliver();
  ASSERT_EQ(at_once.size(), 1U);
  EXPECT_EQ(at_once[0].receiver, "grave");
  const auto told = deliver_until(now_ + 40 * kMinute);
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].receiver, "one");
  EXPECT_EQ(told[0].kind, MessageKind::kFiring);
  EXPECT_EQ(told[0].severity, Severity::kCritical);
  EXPECT_EQ(told[1].kind, MessageKind::kRepeat);
}

TEST_F(BookTest, AnAcknowledgementIsNotOneOfWhatIsGraver) {
  fire();
  EXPECT_EQ(deliver().size(), 1U);
  ack();
  fire();
  EXPECT_TRUE(deliver_until(now_ + 60 * kMinute).empty());
  EXPECT_EQ(book_.alerts()[0].acknowledged_by, "alice");
  fire("engine", "abort", Severity::kCritical);
  EXPECT_EQ(book_.alerts()[0].acknowledged_by, "");
  EXPECT_EQ(deliver().size(), 1U);
  ack();
  fire();  // less grave than what was acknowledged
  EXPECT_EQ(book_.alerts()[0].acknowledged_by, "alice");
  EXPECT_TRUE(deliver_until(now_ + 60 * kMinute).empty());
}

// A notice is over at once: each further one is another.
TEST_F(BookTest, AnAcknowledgedNoticeIsNotTheNextOne) {
  const auto lose = [&] {
    Event lost = event(EventType::kFiring, "engine", "shim_lost");
    lost.notice = true;
    book_.apply(lost, now_);
  };
  lose();
  EXPECT_EQ(deliver().size(), 1U);
  ack();
  now_ += kMinute;
  lose();
  const auto told = deliver_until(now_ + 60 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].count, 1U);
}

TEST_F(BookTest, WhatNobodyAcknowledgesIsEscalated) {
  Receiver boss;
  boss.name = "boss";
  boss.escalate_after = std::chrono::minutes(10);
  configure({boss});
  fire();
  EXPECT_TRUE(deliver_until(now_ + 9 * kMinute).empty());
  const auto told = deliver_until(now_ + 2 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].kind, MessageKind::kFiring);
  // What is over in time is not.
  fire("gateway", "abort");
  now_ += kMinute;
  resolve("gateway");
  EXPECT_TRUE(deliver_until(now_ + 60 * kMinute).empty());
}

TEST_F(BookTest, ADeadReceiverLosesNothingAndRestsLongerAndLonger) {
  fire();
  std::string id;
  std::vector<std::int64_t> attempts;
  while (now_ < kStart + 30 * kMinute) {
    const auto taken = book_.take(receivers_[0], 1, now_);
    if (!taken.empty()) {
      attempts.push_back(now_);
      if (!id.empty()) {
        EXPECT_EQ(taken[0].id, id);
      }
      id = taken[0].id;
      book_.finish(taken[0], {false, false, "no connection"}, now_);
      reload();
    }
    const std::int64_t due = book_.next_due(receivers_[0], now_);
    ASSERT_NE(due, INT64_MAX);
    now_ = std::max(now_ + 1'000'000, due);
  }
  EXPECT_GE(attempts.size(), 6U);
  EXPECT_LE(attempts.size(), 60U);
  resolve();
  const auto told = deliver_until(now_ + 60 * kMinute);
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].id, id);
  EXPECT_EQ(told[1].kind, MessageKind::kResolved);
}

TEST_F(BookTest, ARefusedMessageIsGivenUpAndKeepsNobodyElseWaiting) {
  fire("engine", "abort");
  fire("gateway", "abort");
  int refused = 0;
  std::vector<std::string> delivered;
  while (now_ < kStart + 60 * kMinute) {
    for (const Message& one : book_.take(receivers_[0], 1, now_)) {
      const bool poison = one.service == "engine";
      if (poison) ++refused;
      book_.finish(one, {!poison, poison, "status 400"}, now_);
      if (!poison) delivered.push_back(one.service);
    }
    now_ += kSecond / 4;
  }
  EXPECT_EQ(refused, Book::kMaxRefusals);
  EXPECT_THAT(delivered, ::testing::ElementsAre("gateway"));
  EXPECT_EQ(book_.dropped(), 1U);
}

TEST_F(BookTest, TheRateOfAReceiverAndOfAServiceIsBounded) {
  Receiver slow = receivers_[0];
  slow.max_per_minute = 6;
  slow.max_per_service = 2;
  slow.fold_window = std::chrono::nanoseconds(0);
  configure({slow});
  for (int i = 0; i < 20; ++i) fire("engine", "cause" + std::to_string(i));
  for (int i = 0; i < 20; ++i) fire("s" + std::to_string(i), "abort");
  const auto first = deliver();
  std::map<std::string, int> by_service;
  for (const Message& one : first) ++by_service[one.service];
  EXPECT_EQ(first.size(), 6U);
  EXPECT_EQ(by_service["engine"], 2);
  const auto rest = deliver_until(now_ + 20 * kMinute);
  EXPECT_EQ(first.size() + rest.size(), 40U);
  const auto within_minute = [&](std::int64_t from) {
    return std::ranges::count_if(rest, [&](const Message& one) {
      return one.created_ns >= from && one.created_ns < from + kMinute;
    });
  };
  for (int minute = 0; minute < 10; ++minute) {
    EXPECT_LE(within_minute(kStart + minute * kMinute), 7) << minute;
  }
}

TEST_F(BookTest, ANoticeHasNoEnd) {
  Event lost = event(EventType::kFiring, "engine", "shim_lost");
  lost.notice = true;
  book_.apply(lost, now_);
  ASSERT_EQ(deliver().size(), 1U);
  EXPECT_TRUE(deliver_until(now_ + 60 * kMinute).empty());
  book_.prune(now_);
  EXPECT_TRUE(book_.alerts().empty());
}

TEST_F(BookTest, ATestGoesToOneReceiverAndIsTriedOnce) {
  Receiver two;
  two.name = "two";
  two.min_severity = Severity::kCritical;
  configure({receivers_[0], two});
  Event test = event(EventType::kTest, "defib", "test");
  test.receiver = "two";
  test.severity = Severity::kInfo;
  book_.apply(test, now_);
  EXPECT_TRUE(book_.take(receivers_[0], 1, now_).empty());
  const auto taken = book_.take(two, 1, now_);
  ASSERT_EQ(taken.size(), 1U);
  EXPECT_EQ(taken[0].id, alert_id_of(test) + "-1");
  EXPECT_EQ(taken[0].kind, MessageKind::kTest);
  book_.finish(taken[0], {false, false, "no"}, now_);
  EXPECT_EQ(book_.finished().back().outcome, "given_up");
  EXPECT_EQ(book_.next_due(two, now_), INT64_MAX);
}

TEST_F(BookTest, EverythingIsBounded) {
  for (int i = 0; i < 3000; ++i) fire("s" + std::to_string(i), "abort");
  EXPECT_LE(book_.alerts().size(), Book::kMaxAlerts);
  EXPECT_GT(book_.dropped(), 0U);
  EXPECT_LT(book_.to_json().dump().size(), 1U << 20);
}

// The clock goes back by eight hours. Every wait is at most as long as it would have been had what
// came before it happened at the step.
constexpr std::int64_t kStep = 8 * 60 * kMinute;

TEST_F(BookTest, AClockThatIsSetBackHoldsUpNoFoldedMessageAndNoEnd) {
  fire();
  deliver();
  fire();
  now_ -= kStep;
  auto told = deliver_until(now_ + 5 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].count, 1U);
  now_ += kStep;
  resolve();
  now_ -= kStep;
  told = deliver();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].kind, MessageKind::kResolved);
  EXPECT_LE(told[0].ended_ns, now_);
  // And it is over, so that the next is another alert, which is told at once.
  const std::string id = book_.alerts()[0].id;
  now_ += 10 * kMinute + kSecond;
  fire();
  told = deliver();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_NE(told[0].alert, id);
}

TEST_F(BookTest, AClockThatIsSetBackHoldsUpNoFirstMessage) {
  Receiver boss;
  boss.name = "boss";
  boss.escalate_after = std::chrono::minutes(10);
  configure({receivers_[0], boss});
  fire();
  now_ -= kStep;
  EXPECT_EQ(deliver().size(), 1U);
  EXPECT_LE(book_.alerts()[0].first_ns, now_);
  EXPECT_LE(book_.alerts()[0].last_ns, now_);
  const auto told = deliver_until(now_ + 10 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].receiver, "boss");
}

TEST_F(BookTest, AClockThatIsSetBackHoldsUpNoRepeat) {
  receivers_[0].repeat_interval = std::chrono::minutes(20);
  configure(receivers_);
  fire();
  deliver();
  now_ -= kStep;
  EXPECT_EQ(deliver_until(now_ + 19 * kMinute).size(), 0U);
  EXPECT_EQ(deliver_until(now_ + kMinute).size(), 1U);
}

TEST_F(BookTest, AClockThatIsSetBackLetsNobodyRestForLonger) {
  fire();
  auto taken = book_.take(receivers_[0], 1, now_);
  ASSERT_EQ(taken.size(), 1U);
  book_.finish(taken[0], {false, false, "no connection"}, now_);
  now_ -= kStep;
  auto told = deliver_until(now_ + 5 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].id, taken[0].id);
  EXPECT_EQ(told[0].first_ns, taken[0].first_ns) << "an id never stands for two texts";
  // The same after a refusal, which holds up this message alone.
  fire("gateway");
  taken = book_.take(receivers_[0], 1, now_);
  ASSERT_EQ(taken.size(), 1U);
  book_.finish(taken[0], {false, true, "status 400"}, now_);
  now_ -= kStep;
  told = deliver_until(now_ + 5 * kMinute);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].id, taken[0].id);
}

TEST_F(BookTest, AClockThatIsSetBackGivesTokensBackInTime) {
  receivers_[0].max_per_minute = 2;
  configure(receivers_);
  for (int i = 0; i < 4; ++i) fire("s" + std::to_string(i));
  EXPECT_EQ(deliver().size(), 2U);
  now_ -= kStep;
  EXPECT_EQ(deliver_until(now_ + kMinute + kSecond).size(), 2U);
}

// A receiver that fails at random, a sender that is killed at random, and a clock that steps: each
// occurrence reaches the receiver, and an id is never given to two texts.
TEST_F(BookTest, NothingIsLostUnderFailuresKillsAndClockSteps) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    os::Random random(seed);
    book_ = Book();
    book_.set_receivers(receivers_);
    now_ = kStart;
    std::map<std::string, std::string> texts;
    std::map<std::string, std::uint64_t> counts;  // by message
    std::uint64_t fired = 0;
    wire::Json kept = book_.to_json();
    std::vector<Event> queue;  // since the book was kept
    const auto restore = [&] {
      book_ = Book::from_json(kept);
      book_.set_receivers(receivers_);
      for (const Event& one : queue) book_.apply(one, now_);
    };
    const auto keep = [&] {
      kept = book_.to_json();
      queue.clear();
    };
    for (int step = 0; step < 400 || book_.waiting("one") > 0; ++step) {
      // Twenty seconds each: what is not told within a day after the last event is held up.
      ASSERT_LT(step, 400 + 4'320);
      if (step < 400 && random.below(3) == 0) {
        const bool ends = random.below(4) == 0;
        queue.push_back(event(ends ? EventType::kResolved : EventType::kFiring,
                              "s" + std::to_string(random.below(3)), ends ? "resolved" : "abort"));
        book_.apply(queue.back(), now_);
        fired += ends ? 0 : 1;
      }
      if (random.below(20) == 0) restore();
      for (const Message& one : book_.take(receivers_[0], 1, now_)) {
        keep();
        // It arrives, and the sender may be killed before it knows.
        const bool arrives = random.below(2) == 0;
        if (arrives) {
          const std::string text = std::to_string(one.count) + std::string(to_string(one.kind));
          EXPECT_EQ(texts.emplace(one.id, text).first->second, text);
          counts[one.id] = one.count;
        }
        if (random.below(5) == 0) {
          restore();
          break;
        }
        book_.finish(one, {arrives && random.below(4) != 0, false, "x"}, now_);
        if (random.below(5) != 0) keep();
      }
      now_ += static_cast<std::int64_t>(random.below(40)) * kSecond;
      if (random.below(100) == 0) now_ -= random.below(2) == 0 ? 3 * kMinute : kStep;
      if (random.below(200) == 0) now_ += kStep;
    }
    std::uint64_t heard = 0;
    for (const auto& [id, count] : counts) heard += count;
    EXPECT_EQ(heard, fired);
  }
}

}  // namespace
}  // namespace defib::alert
