// The fault matrix: what each driver makes of each fault, what the caller is told, and how long it
// takes until work goes on. The table stands in docs/connection_faults.md; it is made anew by
//   DEFIB_REGENERATE=1 build/release/bin/connection_test --gtest_filter='FaultMatrix.*'
// Times are of that run; all else is compared at each run.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <functional>
#include <map>
#include <thread>

#include "defib/connection/testing/rig.h"
#include "defib/os/files.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::Driver;
using testing::FaultProxy;
using testing::Rig;

const std::string kPage = DEFIB_SOURCE_DIR "/docs/connection_faults.md";

constexpr std::int64_t kSlackNs = 20'000'000;

struct Seen {
  std::optional<Error> error;
  std::int64_t took_ns = 0;  // of the failing call
  os::Duration limit{0};     // its deadline, where it had to end by that
  bool session_survives = false;
};

bool is_late(const Seen& seen) {
  return seen.limit.count() > 0 && seen.took_ns > seen.limit.count() + kSlackNs;
}

struct Fault {
  std::string name;
  FailureClass expected;
  std::function<Seen(Rig&)> run;
  std::vector<Driver> drivers;
};

const std::vector<Driver> kAll = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb,
                                  Driver::kFreetds};
const std::vector<Driver> kReal = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb};
const std::vector<Driver> kWithSqlite = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb,
                                         Driver::kSqlite};

Deadline soon(os::Duration limit = 10s) {
  return Deadline::after(limit);
}

template <typename Call>
Seen timed(Call&& call, os::Duration limit = 0s) {
  Seen seen;
  const std::int64_t before = os::real_clock().mono_ns();
  auto result = call();
  seen.took_ns = os::real_clock().mono_ns() - before;
  if (!result) seen.error = result.error();
  seen.limit = limit;
  return seen;
}

std::unique_ptr<Session> must(Result<std::unique_ptr<Session>> session) {
  EXPECT_TRUE(session) << (session ? "" : session.error().to_text());
  return session ? std::move(*session) : nullptr;
}

// Ends the session on the server's side, and waits until that has arrived.
void end_on_server(Rig& rig, Session& session) {
  if (rig.is_freetds()) {
    rig.responder().close_all();
  } else {
    const auto ended = rig.kill(session.info());
    EXPECT_TRUE(ended) << ended.error().to_text();
  }
}

void await_death(Session& session) {
  const Deadline limit = soon(5s);
  while (session.look() != Liveness::kDead && !limit.passed()) os::real_clock().sleep_for(1ms);
}

Seen statement(Session& session, os::Duration limit = 10s, bool counts = false) {
  return timed([&] { return session.execute("SELECT 1", soon(limit)); }, counts ? limit : 0s);
}

std::string insert_one(int id) {
  return fmt::format("INSERT INTO t (id, n) VALUES ({}, 0)", id);
}

Seen connect_with(Rig& rig, FaultProxy::Mode mode, os::Duration limit) {
  EXPECT_TRUE(rig.proxy().set_mode(mode));
  Seen seen = timed([&] { return rig.connect(limit); }, limit);
  EXPECT_TRUE(rig.proxy().set_mode(FaultProxy::Mode::kPass));
  return seen;
}

Seen black_hole_statement(Rig& rig) {
  const auto session = must(rig.connect());
  EXPECT_TRUE(rig.proxy().set_mode(FaultProxy::Mode::kBlackHole));
  Seen seen = statement(*session, 300ms, true);
  EXPECT_TRUE(rig.proxy().set_mode(FaultProxy::Mode::kPass));
  return seen;
}

// A transaction with one write in it, on a session of its own.
std::unique_ptr<Session> with_write(Rig& rig) {
  auto session = must(rig.connect());
  EXPECT_TRUE(session->begin(Isolation::kDefault, false, soon()));
  const auto written = session->execute(Statement(insert_one(1)), soon());
  EXPECT_TRUE(written) << written.error().to_text();
  return session;
}

Seen cut_commit(Rig& rig, FaultProxy::Cut cut, os::Duration limit = 10s, bool counts = false) {
  const auto session = with_write(rig);
  rig.proxy().cut_commits(cut);
  return timed([&] { return session->commit(soon(limit)); }, counts ? limit : 0s);
}

// Another session holds row 7.
struct Holder {
  explicit Holder(Rig& rig) : session(must(rig.connect_directly())) {
    EXPECT_TRUE(session->execute(Statement(insert_one(7)), soon()));
    EXPECT_TRUE(session->begin(Isolation::kDefault, false, soon()));
    EXPECT_TRUE(session->execute("UPDATE t SET n = 1 WHERE id = 7", soon()));
  }
  std::unique_ptr<Session> session;
};

Seen lock_timeout(Rig& rig) {
  const Holder holder(rig);
  const auto session = must(rig.connect());
  EXPECT_TRUE(session->execute(
      rig.is_postgres() ? "SET lock_timeout = 200" : "SET innodb_lock_wait_timeout = 1", soon()));
  Seen seen = timed([&] { return session->execute("UPDATE t SET n = 2 WHERE id = 7", soon()); });
  seen.session_survives = !session->lost();
  EXPECT_TRUE(holder.session->rollback(soon()));
  return seen;
}

Seen deadlock(Rig& rig) {
  const Holder holder(rig);
  EXPECT_TRUE(rig.administer(Statement(insert_one(8))));
  const auto session = must(rig.connect());
  if (rig.is_postgres()) {
    EXPECT_TRUE(session->execute("SET deadlock_timeout = '100ms'", soon()));
  }
  EXPECT_TRUE(session->begin(Isolation::kDefault, false, soon()));
  EXPECT_TRUE(session->execute("UPDATE t SET n = 2 WHERE id = 8", soon()));
  if (rig.is_postgres()) {
    EXPECT_TRUE(holder.session->execute("SET deadlock_timeout = '10s'", soon()));
  } else {
    // InnoDB's victim is the one that has changed less.
    EXPECT_TRUE(holder.session->execute("UPDATE t SET n = 3 WHERE id = 7", soon()));
    for (int i = 100; i < 120; ++i) {
      EXPECT_TRUE(holder.session->execute(Statement(insert_one(i)), soon()));
    }
  }
  std::thread other(
      [&] { EXPECT_TRUE(holder.session->execute("UPDATE t SET n = 3 WHERE id = 8", soon())); });
  os::real_clock().sleep_for(100ms);
  Seen seen = timed([&] { return session->execute("UPDATE t SET n = 2 WHERE id = 7", soon()); });
  EXPECT_TRUE(session->rollback(soon()));
  other.join();
  seen.session_survives = !session->lost();
  EXPECT_TRUE(holder.session->rollback(soon()));
  return seen;
}

Seen failing_statement(Rig& rig, const std::string& sql, const std::string& before = {}) {
  const auto session = must(rig.connect());
  if (!before.empty()) {
    EXPECT_TRUE(session->execute(Statement(before), soon()));
  }
  Seen seen = timed([&] { return session->execute(Statement(sql), soon()); });
  seen.session_survives = !session->lost();
  return seen;
}

Seen killed_mid_statement(Rig& rig) {
  const auto session = must(rig.connect());
  if (rig.is_freetds()) {
    rig.responder().answer("slow", {.error = 0, .text = {}, .hang_up = true, .silent = false});
    return timed([&] { return session->execute("SELECT 'slow'", soon()); });
  }
  std::thread killer([&] {
    os::real_clock().sleep_for(150ms);
    end_on_server(rig, *session);
  });
  Seen seen = timed([&] { return session->execute(Statement(rig.slow_statement()), soon()); });
  killer.join();
  return seen;
}

Seen in_responder(Rig& rig, std::int32_t number, const std::string& text) {
  rig.responder().answer("UPDATE", {number, text, false, false});
  return failing_statement(rig, "UPDATE t SET n = 1");
}

Seen at_login(Rig& rig, std::int32_t number, const std::string& text) {
  rig.responder().fail_logins(number, text);
  Seen seen = timed([&] { return rig.connect(); });
  rig.responder().fail_logins(0, "");
  return seen;
}

std::vector<Fault> connecting_faults() {
  using Mode = FaultProxy::Mode;
  return {
      {"connection refused", FailureClass::kNewConnection,
       [](Rig& rig) { return connect_with(rig, Mode::kRefuse, 5s); }, kAll},
      {"accepts and never speaks", FailureClass::kNewConnection,
       [](Rig& rig) { return connect_with(rig, Mode::kSilent, 500ms); }, kAll},
      {"black hole while logging in", FailureClass::kNewConnection,
       [](Rig& rig) { return connect_with(rig, Mode::kBlackHoleDown, 500ms); }, kAll},
      {"wrong password", FailureClass::kOperator,
       [](Rig& rig) { return timed([&] { return rig.connect_as(rig.dsn().user, "wrong"); }); },
       kReal},
      {"wrong user", FailureClass::kOperator,
       [](Rig& rig) { return timed([&] { return rig.connect_as("nobody9", "wrong"); }); }, kReal},
      {"login failed 18456",
       FailureClass::kOperator,
       [](Rig& rig) { return at_login(rig, 18456, "Login failed for user 'sa'."); },
       {Driver::kFreetds}},
      {"Azure: database not available 40613",
       FailureClass::kNewConnection,
       [](Rig& rig) { return at_login(rig, 40613, "Database is not currently available."); },
       {Driver::kFreetds}},
      {"Azure: paused 42108",
       FailureClass::kOperator,
       [](Rig& rig) { return at_login(rig, 42108, "The pool is paused."); },
       {Driver::kFreetds}},
  };
}

std::vector<Fault> session_faults() {
  return {
      {"ended by the server while idle", FailureClass::kNewConnection,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         end_on_server(rig, *session);
         await_death(*session);
         return statement(*session);
       },
       kAll},
      {"reset (RST) while idle", FailureClass::kNewConnection,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         rig.proxy().reset_all();
         await_death(*session);
         return statement(*session);
       },
       kAll},
      {"closed (FIN) while idle", FailureClass::kNewConnection,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         rig.proxy().close_all();
         await_death(*session);
         return statement(*session);
       },
       kAll},
      {"black hole, then a statement", FailureClass::kOutcomeUnknown, black_hole_statement, kAll},
      {"half-open, then a statement", FailureClass::kOutcomeUnknown,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         rig.proxy().half_open_all();
         return statement(*session, 300ms, true);
       },
       kAll},
      {"ended by the server in a statement", FailureClass::kOutcomeUnknown, killed_mid_statement,
       kAll},
      {"slow statement, deadline of 300 ms", FailureClass::kOutcomeUnknown,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         return timed(
             [&] { return session->execute(Statement(rig.slow_statement()), soon(300ms)); }, 300ms);
       },
       kWithSqlite},
      {"ended in a transaction, then a statement", FailureClass::kRetryNow,
       [](Rig& rig) {
         const auto session = with_write(rig);
         end_on_server(rig, *session);
         await_death(*session);
         return statement(*session);
       },
       kReal},
      {"ended in a transaction, then COMMIT", FailureClass::kRetryNow,
       [](Rig& rig) {
         const auto session = with_write(rig);
         end_on_server(rig, *session);
         await_death(*session);
         return timed([&] { return session->commit(soon()); });
       },
       kReal},
      {"request of COMMIT lost", FailureClass::kCommitAmbiguous,
       [](Rig& rig) { return cut_commit(rig, FaultProxy::Cut::kRequest); }, kReal},
      {"reply to COMMIT lost", FailureClass::kCommitAmbiguous,
       [](Rig& rig) { return cut_commit(rig, FaultProxy::Cut::kReply); }, kReal},
      {"black hole behind COMMIT", FailureClass::kCommitAmbiguous,
       [](Rig& rig) { return cut_commit(rig, FaultProxy::Cut::kReplyBlackHole, 300ms, true); },
       kReal},
      {"server hangs up on COMMIT",
       FailureClass::kCommitAmbiguous,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         EXPECT_TRUE(session->begin(Isolation::kDefault, false, soon()));
         EXPECT_TRUE(session->execute("UPDATE t SET n = 1", soon()));
         rig.responder().answer("COMMIT",
                                {.error = 0, .text = {}, .hang_up = true, .silent = false});
         return timed([&] { return session->commit(soon()); });
       },
       {Driver::kFreetds}},
  };
}

std::vector<Fault> statement_faults() {
  return {
      {"deadlock", FailureClass::kRetryNow, deadlock, kReal},
      {"lock timeout", FailureClass::kStatementOnly, lock_timeout, kReal},
      {"duplicate key", FailureClass::kNever,
       [](Rig& rig) { return failing_statement(rig, insert_one(1), insert_one(1)); }, kWithSqlite},
      {"syntax error", FailureClass::kNever,
       [](Rig& rig) { return failing_statement(rig, "SELECT FROM WHERE"); }, kWithSqlite},
      {"write in a read-only transaction", FailureClass::kWrongNode,
       [](Rig& rig) {
         const auto session = must(rig.connect());
         EXPECT_TRUE(session->execute(rig.is_postgres() ? "SET default_transaction_read_only = on"
                                                        : "SET SESSION TRANSACTION READ ONLY",
                                      soon()));
         Seen seen = timed([&] { return session->execute(Statement(insert_one(1)), soon()); });
         seen.session_survives = !session->lost();
         return seen;
       },
       kReal},
      {"server's own statement timeout", FailureClass::kStatementOnly,
       [](Rig& rig) {
         return failing_statement(
             rig,
             rig.is_postgres() ? rig.slow_statement()
                               : "SELECT COUNT(*) FROM information_schema.COLUMNS a, "
                                 "information_schema.COLUMNS b, information_schema.COLUMNS c",
             rig.is_postgres() ? "SET statement_timeout = 200" : "SET max_statement_time = 0.2");
       },
       kReal},
      {"deadlock 1205",
       FailureClass::kRetryNow,
       [](Rig& rig) { return in_responder(rig, 1205, "chosen as the deadlock victim"); },
       {Driver::kFreetds}},
      {"lock timeout 1222",
       FailureClass::kStatementOnly,
       [](Rig& rig) { return in_responder(rig, 1222, "Lock request time out period exceeded."); },
       {Driver::kFreetds}},
      {"duplicate key 2627",
       FailureClass::kNever,
       [](Rig& rig) { return in_responder(rig, 2627, "Violation of PRIMARY KEY constraint."); },
       {Driver::kFreetds}},
      {"Azure: busy 40501",
       FailureClass::kRetryAfterBackoff,
       [](Rig& rig) { return in_responder(rig, 40501, "The service is currently busy."); },
       {Driver::kFreetds}},
      {"Azure: failed over 40197",
       FailureClass::kOutcomeUnknown,
       [](Rig& rig) { return in_responder(rig, 40197, "The service has encountered an error."); },
       {Driver::kFreetds}},
      {"replica is read-only 3906",
       FailureClass::kWrongNode,
       [](Rig& rig) { return in_responder(rig, 3906, "the database is read-only"); },
       {Driver::kFreetds}},
      {"client's own number 233 from a server",
       FailureClass::kNever,
       [](Rig& rig) { return in_responder(rig, 233, "The column cannot be null."); },
       {Driver::kFreetds}},
  };
}

// Until a statement succeeds again: on the same session, or on another one.
std::int64_t recovery_ns(Rig& rig) {
  if (rig.is_freetds()) rig.responder().forget_answers();
  if (rig.networked()) rig.proxy().cut_commits(FaultProxy::Cut::kNone);
  const std::int64_t before = os::real_clock().mono_ns();
  auto session = rig.connect();
  EXPECT_TRUE(session) << session.error().to_text();
  if (session) {
    EXPECT_TRUE((*session)->execute("SELECT 1", soon()));
  }
  return os::real_clock().mono_ns() - before;
}

std::string code_seen(const Error& error) {
  std::string out(error.field("sqlstate"));
  if (!error.field("native").empty()) out += fmt::format("/{}", error.field("native"));
  return out.empty() ? "-" : out;
}

TEST(FaultMatrix, EachFaultHasItsClassWithEachDriver) {
  const bool regenerate = ::getenv("DEFIB_REGENERATE") != nullptr;
  std::vector<Fault> faults = connecting_faults();
  for (const auto& more : {session_faults(), statement_faults()}) {
    faults.insert(faults.end(), more.begin(), more.end());
  }
  std::string table;
  std::vector<std::string> rows;
  std::map<Driver, std::unique_ptr<Rig>> rigs;
  for (const Fault& fault : faults) {
    for (const Driver driver : fault.drivers) {
      SCOPED_TRACE(fault.name + ", " + testing::name_of(driver));
      std::unique_ptr<Rig>& rig = rigs[driver];
      if (!rig) {
        auto made = Rig::make(driver);
        ASSERT_TRUE(made) << made.error().to_text();
        rig = std::move(*made);
      }
      if (driver != Driver::kFreetds) {
        const auto made = rig->make_table("t");
        ASSERT_TRUE(made) << made.error().to_text();
      }
      Seen seen = fault.run(*rig);
      // A loaded machine gets another chance to be in time.
      for (int again = 0; again < 3 && is_late(seen); ++again) {
        if (driver == Driver::kFreetds) {
          rig->responder().forget_answers();
        } else {
          ASSERT_TRUE(rig->make_table("t"));
        }
        seen = fault.run(*rig);
      }
      ASSERT_TRUE(seen.error) << "no error";
      const Error& error = *seen.error;
      EXPECT_EQ(to_string(class_of(error)), to_string(fault.expected)) << error.to_text();
      EXPECT_FALSE(is_late(seen)) << "its deadline did not hold: " << seen.took_ns;
      const std::int64_t back = seen.session_survives ? 0 : recovery_ns(*rig);
      const std::string row =
          fmt::format("| {} | {} | {} | {} | {} |", fault.name, testing::name_of(driver),
                      to_string(class_of(error)), error.kind(), code_seen(error));
      rows.push_back(row);
      table += fmt::format(
          "{} {} | {} |\n", row, os::format_duration(os::Duration(seen.took_ns)),
          seen.session_survives ? "same session" : os::format_duration(os::Duration(back)));
    }
  }
  const std::string intro =
      "# Faults and what becomes of them\n\nMade by the tests (`faults_test.cc`), against real "
      "servers through a proxy that breaks connections;\nFreeTDS against a responder. The classes "
      "are those of [connection](connection.md). `took`: until the\ncaller had the error; "
      "`back`: from then to the next success on another session. Times are of one\nrun on a "
      "shared machine of two processors.\n\n| fault | driver | class | error | "
      "SQLSTATE/number | took | back |\n|---|---|---|---|---|---|---|\n";
  if (regenerate) {
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), kPage, intro + table));
    return;
  }
  const auto page = os::read_file(os::real_files(), kPage);
  ASSERT_TRUE(page) << page.error().to_text();
  for (const std::string& row : rows) {
    EXPECT_NE(page->find(row), std::string::npos) << "docs/connection_faults.md lacks: " << row;
  }
}

}  // namespace
}  // namespace defib::connection
