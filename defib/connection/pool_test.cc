// The pool's own logic, with a server that is none.

#include "defib/connection/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "defib/connection/testing/fake_backend.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::fake_error;
using testing::FakeServer;
using ::testing::HasSubstr;

class PoolTest : public ::testing::Test {
 protected:
  // A server name of its own for each test: breakers are shared by name.
  std::unique_ptr<Pool> open(PoolOptions options = {}) {
    static std::atomic<int> number{0};
    const std::string text = "postgresql://u:p@host" + std::to_string(++number) + "/db";
    auto pool = Pool::open(*Dsn::parse(text), testing::make_fake_backend(server_), options);
    EXPECT_TRUE(pool) << pool.error().to_text();
    return std::move(*pool);
  }
  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
};

TEST_F(PoolTest, ASessionIsUsedAgainAfterItsReturn) {
  auto pool = open();
  for (int i = 0; i < 10; ++i) {
    auto lease = pool->acquire();
    ASSERT_TRUE(lease) << lease.error().to_text();
    ASSERT_TRUE(lease->execute("SELECT 1"));
  }
  EXPECT_EQ(server_->connects, 1);
  EXPECT_EQ(server_->resets, 10);
}

TEST_F(PoolTest, AHealthyCheckoutMakesNoRoundTrip) {
  auto pool = open();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(pool->acquire());
  EXPECT_EQ(server_->statements, 0);
}

TEST_F(PoolTest, AnImpossibleOptionIsNamed) {
  PoolOptions options;
  options.max_size = 0;
  const auto pool =
      Pool::open(*Dsn::parse("postgresql://h/d"), testing::make_fake_backend(server_), options);
  ASSERT_FALSE(pool);
  EXPECT_EQ(pool.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(pool.error().message(), HasSubstr("max_size"));
}

TEST_F(PoolTest, AcquireReturnsByItsDeadlineAndSaysWhy) {
  PoolOptions options;
  options.max_size = 1;
  auto pool = open(options);
  auto held = pool->acquire();
  ASSERT_TRUE(held);
  os::Duration took{0};
  std::uint64_t tries = 0;
  // A loaded machine gets more than one chance to be in time.
  while (tries++ < 5) {
    const std::int64_t before = os::real_clock().mono_ns();
    const auto second = pool->acquire(Deadline::after(100ms));
    took = os::Duration(os::real_clock().mono_ns() - before);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Code::kPoolTimeout);
    EXPECT_THAT(second.error().message(), HasSubstr("1 of 1 sessions open, 0 idle, 1 busy"));
    EXPECT_TRUE(second.error().is_transient());
    EXPECT_GE(took, 100ms);
    if (took <= 120ms) break;
  }
  EXPECT_LE(took, 120ms);
  EXPECT_EQ(pool->metrics().exhausted.value(), tries);
}

TEST_F(PoolTest, AWaiterGetsWhatIsReturned) {
  PoolOptions options;
  options.max_size = 1;
  options.maintenance_every = 1h;  // which would wake it, too
  auto pool = open(options);
  auto held = pool->acquire();
  ASSERT_TRUE(held);
  std::thread other([&] {
    auto lease = pool->acquire(Deadline::after(10s));
    EXPECT_TRUE(lease);
  });
  while (pool->state().waiting == 0) std::this_thread::yield();
  held->release();
  other.join();
  EXPECT_EQ(server_->connects, 1);
}

// Whoever returns and takes again at once does not get past one who waits for longer than the
// bound.
TEST_F(PoolTest, AnOverdueWaiterGetsTheNextReturn) {
  PoolOptions options;
  options.max_size = 1;
  options.maintenance_every = 1h;
  auto pool = open(options);
  for (int round = 0; round < 50; ++round) {
    auto held = pool->acquire();
    ASSERT_TRUE(held);
    std::atomic<bool> served{false};
    std::thread other([&] {
      const auto lease = pool->acquire(Deadline::after(10s));
      EXPECT_TRUE(lease);
      served = true;
    });
    while (pool->state().waiting == 0) std::this_thread::yield();
    os::real_clock().sleep_for(options.starvation_bound);
    held->release();
    held = pool->acquire(Deadline::after(10s));
    EXPECT_TRUE(held);
    EXPECT_TRUE(served) << "in round " << round;
    held->release();
    other.join();
  }
}

// It waited for the connect longer than a waiter shall, so that the connect hands it over.
TEST_F(PoolTest, ASessionThatIsHandedOverIsBusy) {
  PoolOptions options;
  options.starvation_bound = 0s;
  server_->connect_ns = 2'000'000;
  auto pool = open(options);
  const auto lease = pool->acquire();
  ASSERT_TRUE(lease);
  EXPECT_EQ(pool->state().busy, 1);
}

// Threads that come and go as fast as they can: a return that nobody is woken for would stop all.
TEST_F(PoolTest, NoReturnIsLostBetweenALookAndASleep) {
  PoolOptions options;
  options.max_size = 2;
  options.maintenance_every = 1h;
  options.starvation_bound = 1h;  // only by being woken
  auto pool = open(options);
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3000; ++i) failed += pool->acquire(Deadline::after(20s)) ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

// One deadline for all of it: a session that does not answer the health query costs no more.
TEST_F(PoolTest, AskingASessionEndsByTheCallersDeadline) {
  auto pool = open({.max_size = 1, .health_timeout = 30s, .query_at_checkout = true});
  ASSERT_TRUE(pool->warm_up(1, Deadline::after(5s)));
  std::atomic<std::int64_t> given_ns{0};
  server_->on_deadline = [&](Deadline deadline) { given_ns = deadline.remaining().count(); };
  EXPECT_TRUE(pool->acquire(Deadline::after(5s)));
  EXPECT_GT(given_ns, 0);
  EXPECT_LE(os::Duration(given_ns), 5s);
}

TEST_F(PoolTest, SessionsThatDiedWhileIdleAreNotHandedOut) {
  PoolOptions options;
  options.background = true;
  options.maintenance_every = 1h;
  auto pool = open(options);
  int dead = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(pool->acquire());
    ++server_->epoch;
    auto lease = pool->acquire();
    ASSERT_TRUE(lease) << lease.error().to_text();
    if (!lease->execute("SELECT 1")) ++dead;
  }
  EXPECT_EQ(dead, 0);
  EXPECT_GE(pool->metrics().closed_stale.value(), 1000u);  // the background looks, too
}

TEST_F(PoolTest, WhatCannotBeResetIsClosed) {
  server_->can_reset = false;
  auto pool = open();
  {
    auto lease = pool->acquire();
    ASSERT_TRUE(lease->execute("SET x = 1"));
  }
  ASSERT_TRUE(pool->acquire());
  EXPECT_EQ(server_->connects, 2);
  EXPECT_EQ(pool->metrics().closed_dirty.value(), 1u);
}

TEST_F(PoolTest, SessionsEndWithinTheirSpreadLifetime) {
  os::FakeClock clock;
  PoolOptions options;
  options.clock = &clock;
  options.max_size = 32;
  options.min_idle = 32;
  options.max_lifetime = 1000s;
  options.lifetime_spread = 0.2;
  options.maintenance_every = 1h;
  auto pool = open(options);
  ASSERT_TRUE(pool->warm_up(32, Deadline::after(10s)));
  clock.advance(799s);
  pool->maintain();
  EXPECT_EQ(pool->metrics().closed_lifetime.value(), 0u);
  clock.advance(101s);  // 900 s: about half of them
  pool->maintain();
  const std::uint64_t half = pool->metrics().closed_lifetime.value();
  EXPECT_GT(half, 3u);
  EXPECT_LT(half, 29u);
}

TEST_F(PoolTest, IdleSessionsBeyondTheMinimumAreClosed) {
  os::FakeClock clock;
  PoolOptions options;
  options.clock = &clock;
  options.min_idle = 2;
  options.check_every = 0s;
  options.maintenance_every = 1h;
  auto pool = open(options);
  ASSERT_TRUE(pool->warm_up(6, Deadline::after(10s)));
  clock.advance(301s);
  pool->maintain();
  EXPECT_EQ(pool->state().size, 2);
}

TEST_F(PoolTest, TheMinimumIsRefilledInParallel) {
  server_->connect_ns = std::chrono::nanoseconds(20ms).count();
  PoolOptions options;
  options.min_idle = 16;
  options.parallel_connects = 4;
  auto pool = open(options);
  ASSERT_TRUE(pool->warm_up(16, Deadline::after(10s)));
  EXPECT_EQ(server_->connects, 16);
  EXPECT_LE(server_->most_connecting, 4);
  EXPECT_GE(server_->most_connecting, 2);
}

TEST_F(PoolTest, TheBreakerFailsFastWithTheRootCauseAndCloses) {
  server_->up = false;
  auto pool = open();
  EXPECT_FALSE(pool->acquire(Deadline::after(2s)));
  const std::int64_t before = os::real_clock().mono_ns();
  const auto refused = pool->acquire(Deadline::after(2s));
  const os::Duration took(os::real_clock().mono_ns() - before);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBreakerOpen) << refused.error().to_text();
  EXPECT_EQ(refused.error().root().message(), "connection refused");
  EXPECT_TRUE(refused.error().is_transient());
  EXPECT_LE(took, 5ms);
  server_->up = true;
  EXPECT_TRUE(pool->server().gate.wait_until_closed(Deadline::after(1s)));
  EXPECT_TRUE(pool->acquire(Deadline::after(1s)));
  EXPECT_EQ(pool->server().gate.opened(), 1);
}

TEST_F(PoolTest, AFailureThatAPersonMustCureIsToldAtOnce) {
  server_->connect_error =
      fake_error(Code::kLoginFailed, FailureClass::kOperator, "wrong password");
  auto pool = open();
  const std::int64_t before = os::real_clock().mono_ns();
  const auto refused = pool->acquire(Deadline::after(5s));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kConnectionFailed) << refused.error().to_text();
  EXPECT_EQ(refused.error().root().code(), Code::kLoginFailed);
  EXPECT_FALSE(refused.error().is_transient());
  EXPECT_LE(os::Duration(os::real_clock().mono_ns() - before), 1s);
}

// The server lets nobody else in, which says nothing against the sessions that are open.
TEST_F(PoolTest, ARefusedConnectStopsNoSessionThatIsOpen) {
  const Error refusals[] = {
      fake_error(Code::kConnectionFailed, FailureClass::kNewConnection, "too many clients")
          .with("sqlstate", "53300"),
      fake_error(Code::kLoginFailed, FailureClass::kOperator, "wrong password")};
  for (const Error& refusal : refusals) {
    server_ = std::make_shared<FakeServer>();
    server_->on_connect = [&](int number) -> Result<> {
      if (number > 2) return refusal;
      return {};
    };
    auto pool = open();
    {
      const auto first = pool->acquire(), second = pool->acquire();
      ASSERT_TRUE(first && second);
      const Deadline limit = Deadline::after(10s);
      // More often than the breaker bears from a server that does not answer.
      while (server_->connects < 2 + 5 && !limit.passed()) {
        const auto third = pool->acquire(Deadline::after(50ms));
        ASSERT_FALSE(third);
        EXPECT_EQ(third.error().code(), Code::kPoolTimeout) << third.error().to_text();
        EXPECT_EQ(third.error().root().message(), refusal.message());
      }
    }
    const auto again = pool->acquire(Deadline::after(5s));
    EXPECT_TRUE(again) << again.error().to_text();
    EXPECT_EQ(pool->server().gate.opened(), 0);
  }
}

TEST_F(PoolTest, ARefusedConnectIsRepeatedLessAndLessOften) {
  server_->on_connect = [](int number) -> Result<> {
    if (number == 1) return {};
    return fake_error(Code::kConnectionFailed, FailureClass::kNewConnection, "too many clients")
        .with("sqlstate", "53300");
  };
  auto pool = open();
  const auto held = pool->acquire();
  ASSERT_TRUE(held);
  EXPECT_FALSE(pool->acquire(Deadline::after(1s)));
  EXPECT_LT(server_->connects, 60);  // every 10 ms by each of four openers: 400
  EXPECT_EQ(server_->most_connecting, 1);
}

TEST_F(PoolTest, AnotherPoolsWrongPasswordStopsNobody) {
  const Dsn dsn = *Dsn::parse("postgresql://u:p@shared-by-two/db");
  const auto wrong = std::make_shared<FakeServer>();
  wrong->connect_error = fake_error(Code::kLoginFailed, FailureClass::kOperator, "wrong password");
  auto locked_out = Pool::open(dsn, testing::make_fake_backend(wrong), {});
  auto pool = Pool::open(dsn, testing::make_fake_backend(server_), {});
  ASSERT_TRUE(locked_out && pool);
  while (wrong->connects < 5) {
    const auto refused = (*locked_out)->acquire(Deadline::after(5s));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().root().code(), Code::kLoginFailed) << refused.error().to_text();
  }
  const auto lease = (*pool)->acquire(Deadline::after(5s));
  EXPECT_TRUE(lease) << lease.error().to_text();
  EXPECT_EQ((*pool)->server().gate.opened(), 0);
}

// Nobody answers to connects any more: what is open is used until statements say otherwise.
TEST_F(PoolTest, WhileNoConnectIsAnsweredOpenSessionsAreUsed) {
  server_->on_connect = [](int number) -> Result<> {
    if (number == 1) return {};
    return fake_error(Code::kHostUnreachable, FailureClass::kNewConnection, "unreachable");
  };
  auto pool = open();
  auto held = pool->acquire();
  ASSERT_TRUE(held);
  const Deadline limit = Deadline::after(10s);
  while (pool->server().gate.state() == Gate::State::kClosed && !limit.passed()) {
    EXPECT_FALSE(pool->acquire(Deadline::after(50ms)));
  }
  ASSERT_EQ(pool->server().gate.state(), Gate::State::kOpen);
  EXPECT_EQ(pool->acquire().error().code(), Code::kBreakerOpen);
  held->release();
  for (const bool with_deadline : {false, true}) {
    const auto again = with_deadline ? pool->acquire(Deadline::after(5s)) : pool->acquire();
    EXPECT_TRUE(again) << again.error().to_text();
  }
  const Error timeout =
      fake_error(Code::kDeadlineExceeded, FailureClass::kOutcomeUnknown, "no answer");
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> { return timeout; };
  for (int i = 0; i < 3; ++i) {
    auto lease = pool->acquire();
    ASSERT_TRUE(lease) << lease.error().to_text();
    EXPECT_FALSE(lease->execute("SELECT 1"));
  }
  const auto refused = pool->acquire();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBreakerOpen) << refused.error().to_text();
}

TEST_F(PoolTest, AProbeOfAFullPoolDoesNotCloseTheBreakerUnasked) {
  PoolOptions options;
  options.max_size = 1;
  auto pool = open(options);
  auto held = pool->acquire();
  ASSERT_TRUE(held);
  server_->up = false;
  const Error timeout =
      fake_error(Code::kDeadlineExceeded, FailureClass::kOutcomeUnknown, "no answer");
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> { return timeout; };
  for (int i = 0; i < 3; ++i) (void)held->execute("SELECT 1");
  EXPECT_EQ(pool->server().gate.state(), Gate::State::kOpen);
  EXPECT_FALSE(pool->server().gate.wait_until_closed(Deadline::after(400ms)));
  EXPECT_GE(pool->server().gate.probes(), 2);
}

TEST_F(PoolTest, RunWaitsForAServerThatComesBack) {
  server_->up = false;
  auto pool = open();
  std::thread later([&] {
    os::real_clock().sleep_for(300ms);
    server_->up = true;
  });
  const auto rows = pool->run([](Lease& db) { return db.execute("SELECT 1"); });
  later.join();
  ASSERT_TRUE(rows) << rows.error().to_text();
  EXPECT_EQ(rows->scalar(), "1");
}

// An opener that has not yet noted that it is done must not hide the room for another session.
TEST_F(PoolTest, WhoWaitsGetsASessionHoweverFastTheOneBeforeWasClosed) {
  server_->can_reset = false;
  PoolOptions options;
  options.max_size = 1;
  options.maintenance_every = 1h;
  auto pool = open(options);
  for (int i = 0; i < 2000; ++i) {
    auto lease = pool->acquire(Deadline::after(5s));
    ASSERT_TRUE(lease) << i << ": " << lease.error().to_text();
    ASSERT_TRUE(lease->execute("SELECT 1"));
  }
  EXPECT_EQ(server_->connects, 2000);
}

TEST_F(PoolTest, ConsecutiveTimeoutsOpenTheBreakerToo) {
  auto pool = open();
  server_->on_execute = [](const Statement&, int) -> Result<Rows> {
    return fake_error(Code::kDeadlineExceeded, FailureClass::kOutcomeUnknown, "no answer");
  };
  for (int i = 0; i < 3; ++i) {
    auto lease = pool->acquire();
    ASSERT_TRUE(lease);
    EXPECT_FALSE(lease->execute("SELECT 1"));
  }
  const auto refused = pool->acquire();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBreakerOpen);
}

TEST_F(PoolTest, WhatMayHaveBeenExecutedIsRepeatedOnlyIfIdempotent) {
  auto pool = open();
  int calls = 0;
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> {
    ++calls;
    return fake_error(Code::kStatementOutcomeUnknown, FailureClass::kOutcomeUnknown, "broke");
  };
  RunOptions once;
  once.idempotent = false;
  const auto first =
      pool->run([](Lease& db) { return db.execute("UPDATE t SET n = n + 1"); }, once);
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().code(), Code::kStatementOutcomeUnknown);
  EXPECT_EQ(calls, 1);
  RunOptions again;
  again.retry = RetryPolicy{.attempts = 3, .initial = 1ms};
  const auto second = pool->run([](Lease& db) { return db.execute("SELECT 1"); }, again);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kRetriesExhausted) << second.error().to_text();
  EXPECT_EQ(second.error().kind(), "RetriesExhausted");
  EXPECT_EQ(second.error().field("attempts"), "3");
  EXPECT_EQ(second.error().root().message(), "broke");
  EXPECT_TRUE(second.error().is_transient());
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(pool->metrics().retries.value(), 2u);
  EXPECT_EQ(pool->metrics().retries_exhausted.value(), 1u);
}

// The first statement is stored by itself: repeating the whole would store it twice.
TEST_F(PoolTest, WorkThatIsStoredInPartIsNotRepeated) {
  auto pool = open();
  int audits = 0, updates = 0;
  server_->on_execute = [&](const Statement& statement, int) -> Result<Rows> {
    if (statement.sql == "audit") return ++audits, Rows();
    if (++updates > 1) return Rows();
    return fake_error(Code::kStatementFailed, FailureClass::kRetryNow, "deadlock detected");
  };
  RunOptions once;
  once.idempotent = false;
  const auto both = [](Lease& db) -> Result<> {
    DEFIB_TRY(db.execute("audit"));
    DEFIB_TRY(db.execute("update"));
    return {};
  };
  const auto past_the_lease = [](Lease& db) -> Result<> {
    DEFIB_TRY(db->execute("audit", Deadline::after(5s)));
    DEFIB_TRY(db->execute("update", Deadline::after(5s)));
    return {};
  };
  for (const bool counted : {true, false}) {
    audits = updates = 0;
    const auto done = counted ? pool->run(both, once) : pool->run(past_the_lease, once);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Code::kStatementOutcomeUnknown) << done.error().to_text();
    EXPECT_THAT(done.error().message(), HasSubstr("was not repeated"));
    EXPECT_EQ(done.error().root().message(), "deadlock detected");
    EXPECT_FALSE(done.error().is_transient());
    EXPECT_EQ(audits, 1);
  }
  updates = 0;  // nothing before it: repeated
  EXPECT_TRUE(pool->run([](Lease& db) { return db.execute("update"); }, once));
  EXPECT_EQ(updates, 2);
  audits = updates = 0;  // idempotent: repeated
  EXPECT_TRUE(pool->run(both));
  EXPECT_EQ(audits, 2);
}

// The time that a call has covers the return of its session.
TEST_F(PoolTest, ASessionIsReturnedWithinItsCallsTime) {
  auto pool = open({.max_size = 1, .health_timeout = 30s});
  std::vector<os::Duration> given;
  server_->on_reset = [&](Deadline deadline) { given.push_back(deadline.remaining()); };
  RunOptions options;
  options.timeout = 5s;
  ASSERT_TRUE(pool->run([](Lease& db) { return db.execute("SELECT 1"); }, options));
  TransactionOptions limits;
  limits.timeout = 5s;
  ASSERT_TRUE(pool->transaction(
      [](Transaction& tx) -> Result<> {
        DEFIB_TRY(tx.execute("SELECT 1"));
        return {};
      },
      limits));
  ASSERT_EQ(given.size(), 2u);
  EXPECT_LE(given[0], 5s);
  EXPECT_LE(given[1], 5s);
  // None is left: closed without a word.
  options.timeout = 100ms;
  ASSERT_TRUE(pool->run(
      [](Lease& db) {
        auto rows = db.execute("SELECT 1");
        os::real_clock().sleep_for(101ms);
        return rows;
      },
      options));
  EXPECT_EQ(given.size(), 2u);
  EXPECT_EQ(pool->metrics().closed_dirty.value(), 1u);
  EXPECT_TRUE(pool->acquire());
}

TEST_F(PoolTest, AStatementOfACallEndsWithTheCall) {
  auto pool = open();
  os::Duration given{0};
  server_->on_deadline = [&](Deadline deadline) { given = deadline.remaining(); };
  RunOptions options;
  options.timeout = 5s;
  ASSERT_TRUE(pool->run([](Lease& db) { return db.execute("SELECT 1"); }, options));
  EXPECT_GT(given, 0s);
  EXPECT_LE(given, 5s);
}

TEST_F(PoolTest, TheRetryBudgetBoundsWhatAFailingServerGets) {
  auto pool = open();
  std::atomic<int> calls{0};
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> {
    ++calls;
    return fake_error(Code::kServerBusy, FailureClass::kRetryAfterBackoff, "busy");
  };
  RunOptions options;
  options.retry = RetryPolicy{.attempts = 4, .initial = 10us, .maximum = 10us};
  constexpr int kRequests = 2000;
  int refused = 0;
  for (int i = 0; i < kRequests; ++i) {
    const auto rows = pool->run([](Lease& db) { return db.execute("SELECT 1"); }, options);
    ASSERT_FALSE(rows);
    refused += rows.error().code() == Code::kRetryBudgetExhausted;
  }
  EXPECT_LE(calls, kRequests * 11 / 10 + 10);
  EXPECT_GT(calls, kRequests);
  EXPECT_GT(refused, kRequests / 2);
}

TEST_F(PoolTest, AnErrorThatWasPassedOverForbidsTheCommit) {
  auto pool = open();
  int commits = 0;
  server_->on_commit = [&](int) -> Result<> {
    ++commits;
    return {};
  };
  server_->on_execute = [](const Statement& statement, int) -> Result<Rows> {
    if (statement.sql == "bad") {
      return fake_error(Code::kStatementFailed, FailureClass::kNever, "duplicate key");
    }
    return Rows();
  };
  const auto done = pool->transaction([](Transaction& tx) -> Result<> {
    (void)tx.execute("INSERT 1");
    (void)tx.execute("bad");
    const auto after = tx.execute("INSERT 2");
    EXPECT_FALSE(after);
    EXPECT_EQ(after.error().code(), Code::kTransactionPoisoned);
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kTransactionPoisoned);
  EXPECT_EQ(done.error().root().message(), "duplicate key");
  EXPECT_EQ(commits, 0);
}

TEST_F(PoolTest, ATransactionMayNotEndItself) {
  auto pool = open();
  const auto done = pool->transaction([](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute("/* now */ commit"));
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kInvalidArgument);
}

TEST_F(PoolTest, AConflictReplaysTheWholeTransaction) {
  auto pool = open();
  int executed = 0;
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> {
    if (++executed == 2) {
      return fake_error(Code::kStatementFailed, FailureClass::kRetryNow, "deadlock detected");
    }
    return Rows();
  };
  std::vector<int> attempts;
  const auto done = pool->transaction([&](Transaction& tx) -> Result<> {
    attempts.push_back(tx.attempt());
    DEFIB_TRY(tx.execute("a"));
    DEFIB_TRY(tx.execute("b"));
    return {};
  });
  EXPECT_TRUE(done) << done.error().to_text();
  EXPECT_EQ(attempts, (std::vector<int>{1, 2}));
  EXPECT_EQ(executed, 4);
}

TEST_F(PoolTest, AnAmbiguousCommitIsNeverRepeatedBlindly) {
  auto pool = open();
  int commits = 0;
  server_->on_commit = [&](int) -> Result<> {
    ++commits;
    return fake_error(Code::kCommitUnknown, FailureClass::kCommitAmbiguous, "lost");
  };
  const auto done = pool->transaction([](Transaction& tx) -> Result<> {
    DEFIB_TRY(tx.execute("a"));
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kCommitUnknown);
  EXPECT_FALSE(done.error().is_transient());
  EXPECT_EQ(commits, 1);
}

TEST_F(PoolTest, ALongBorrowIsToldOnceWithItsPlace) {
  os::FakeClock clock;
  PoolOptions options;
  options.clock = &clock;
  options.maintenance_every = 1h;
  auto pool = open(options);
  auto lease = pool->acquire();
  ASSERT_TRUE(lease);
  ::testing::internal::CaptureStderr();  // the pool's own thread may be the one who tells it
  clock.advance(61s);
  pool->maintain();
  pool->maintain();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("pool_test.cc:"));
  EXPECT_EQ(pool->metrics().long_borrows.value(), 1u);
}

TEST_F(PoolTest, PauseHoldsAndResumeLetsGo) {
  auto pool = open();
  ASSERT_TRUE(pool->acquire());
  pool->pause();
  EXPECT_FALSE(pool->acquire(Deadline::after(50ms)));
  std::thread other([&] { EXPECT_TRUE(pool->acquire(Deadline::after(10s))); });
  while (pool->state().waiting == 0) std::this_thread::yield();
  pool->resume();
  other.join();
}

TEST_F(PoolTest, AClosedPoolSaysSoToWhoWaits) {
  PoolOptions options;
  options.max_size = 1;
  auto pool = open(options);
  auto held = pool->acquire();
  ASSERT_TRUE(held);
  std::thread other([&] {
    const auto lease = pool->acquire(Deadline::after(10s));
    ASSERT_FALSE(lease);
    EXPECT_EQ(lease.error().code(), Code::kPoolClosed);
  });
  while (pool->state().waiting == 0) std::this_thread::yield();
  pool->close();
  other.join();
  EXPECT_EQ(pool->acquire().error().code(), Code::kPoolClosed);
}

TEST_F(PoolTest, AWrongNodeDrainsThePool) {
  auto pool = open();
  server_->on_execute = [&](const Statement&, int session) -> Result<Rows> {
    if (session == 1) return fake_error(Code::kWrongNode, FailureClass::kWrongNode, "read-only");
    return Rows{.columns = {"n"}, .rows = {{std::int64_t{session}}}};
  };
  const auto rows = pool->run([](Lease& db) { return db.execute("INSERT"); });
  ASSERT_TRUE(rows) << rows.error().to_text();
  EXPECT_EQ(rows->scalar_int(), 2);
}

// It was opened with the old addresses and credentials, like those that were open already.
TEST_F(PoolTest, ASessionThatIsBeingOpenedDuringADrainIsReplaced) {
  std::unique_ptr<Pool> pool;
  server_->on_connect = [&](int number) -> Result<> {
    if (number == 1) pool->drain();
    return {};
  };
  pool = open();
  EXPECT_TRUE(pool->acquire(Deadline::after(5s)));
  EXPECT_EQ(server_->connects, 2);
}

// What a transaction that was asked to be read only refuses, every server would refuse.
TEST_F(PoolTest, AWriteInAReadOnlyTransactionIsTheCallersOwnError) {
  auto pool = open();
  int executed = 0;
  server_->on_execute = [&](const Statement&, int) -> Result<Rows> {
    ++executed;
    return fake_error(Code::kWrongNode, FailureClass::kWrongNode, "read-only transaction")
        .with("sqlstate", "25006");
  };
  TransactionOptions options;
  options.read_only = true;
  const auto done = pool->transaction(
      [](Transaction& tx) -> Result<> {
        DEFIB_TRY(tx.execute("INSERT"));
        return {};
      },
      options);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), Code::kStatementFailed) << done.error().to_text();
  EXPECT_EQ(class_of(done.error()), FailureClass::kNever);
  EXPECT_EQ(executed, 1);
  EXPECT_TRUE(pool->acquire());
  EXPECT_EQ(server_->connects, 1);  // it was not drained
}

class ListedInDoubt : public InDoubtLog {
 public:
  Result<> put(const std::string& id, const std::string& record) override {
    records_.emplace_back(id, record);
    return {};
  }
  Result<> erase(const std::string& id) override {
    std::erase_if(records_, [&](const auto& record) { return record.first == id; });
    return {};
  }
  Result<std::vector<std::pair<std::string, std::string>>> all() override { return records_; }

 private:
  std::vector<std::pair<std::string, std::string>> records_;
};

TEST_F(PoolTest, OneCommitThatCannotBeSettledStopsNoOther) {
  ListedInDoubt log;
  ASSERT_TRUE(log.put("torn", "{"));
  for (const char* id : {"stuck", "fine"}) {
    InDoubt record;
    record.id = id;
    record.engine = Engine::kMariadb;
    record.server = "settled-by-share:5432";
    record.commit_table = "defib_commits";
    ASSERT_TRUE(log.put(id, record.encode()));
  }
  server_->on_execute = [](const Statement& statement, int) -> Result<Rows> {
    if (to_text(statement.parameters.front()) == "stuck") {
      return fake_error(Code::kStatementFailed, FailureClass::kNever, "no such table");
    }
    return Rows();
  };
  std::vector<std::string> told;
  PoolOptions options;
  options.in_doubt_log = &log;
  options.on_settled = [&](const Settled& one) { told.push_back(one.record.id); };
  auto pool = Pool::open(*Dsn::parse("postgresql://settled-by-share/db"),
                         testing::make_fake_backend(server_), options);
  ASSERT_TRUE(pool);
  const auto settled = (*pool)->settle_in_doubt(Deadline::after(600ms));
  ASSERT_FALSE(settled);
  EXPECT_THAT(settled.error().message(), HasSubstr("2 of 3 commits"));
  EXPECT_EQ(told, (std::vector<std::string>{"fine"}));
  EXPECT_EQ(log.all()->size(), 2u);
}

// A standby that lags behind has not seen what was committed: it is not asked.
TEST_F(PoolTest, ACommitInDoubtIsNotAskedOfAStandby) {
  server_->read_only = true;
  const auto backend = testing::make_fake_backend(server_);
  const auto standby = backend->connect({}, Deadline());
  ASSERT_TRUE(standby);
  InDoubt record;
  record.engine = Engine::kPostgresql;
  record.xid = "7";
  record.commit_table = "defib_commits";
  const auto outcome = resolve_commit(**standby, record, Deadline::after(5s));
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code(), Code::kWrongNode) << outcome.error().to_text();
  EXPECT_EQ(server_->statements, 0);
}

// What a number of a session means is known to its own server alone.
TEST_F(PoolTest, NoSessionOfAnotherServersIsEnded) {
  std::vector<std::string> executed;
  server_->on_execute = [&](const Statement& statement, int) -> Result<Rows> {
    executed.push_back(statement.sql.substr(0, 4));
    return Rows();
  };
  const auto session = testing::make_fake_backend(server_)->connect({}, Deadline());
  ASSERT_TRUE(session);
  InDoubt record;
  record.engine = Engine::kMariadb;
  record.session_id = "7";
  record.commit_table = "defib_commits";
  record.server = (*session)->info().server;
  ASSERT_TRUE(resolve_commit(**session, record, Deadline::after(5s)));
  EXPECT_EQ(executed, (std::vector<std::string>{"KILL", "INSE", "DELE"}));
  executed.clear();
  record.server = "another:3306";
  ASSERT_TRUE(resolve_commit(**session, record, Deadline::after(5s)));
  EXPECT_EQ(executed, (std::vector<std::string>{"INSE", "DELE"}));
}

TEST_F(PoolTest, CredentialsAreAskedForEachConnect) {
  std::atomic<int> asked{0};
  PoolOptions options;
  options.credentials = [&]() -> Result<Credentials> {
    ++asked;
    return Credentials{"u", "token"};
  };
  auto pool = open(options);
  ASSERT_TRUE(pool->warm_up(3, Deadline::after(5s)));
  EXPECT_EQ(asked, 3);
}

TEST_F(PoolTest, ManyThreadsShareFewSessionsAndNobodyStarves) {
  PoolOptions options;
  options.max_size = 4;
  auto pool = open(options);
  std::vector<std::thread> threads;
  std::atomic<std::int64_t> worst{0}, done{0};
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const std::int64_t before = os::real_clock().mono_ns();
        auto lease = pool->acquire(Deadline::after(20s));
        ASSERT_TRUE(lease) << lease.error().to_text();
        const std::int64_t took = os::real_clock().mono_ns() - before;
        std::int64_t seen = worst;
        while (took > seen && !worst.compare_exchange_weak(seen, took)) {
        }
        ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, 16 * 500);
  EXPECT_LE(server_->connects, 4);
  EXPECT_LT(worst, std::chrono::nanoseconds(1s).count());
}

}  // namespace
}  // namespace defib::connection
