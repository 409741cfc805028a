// The classifier over all its rows and phases, and against the list that it was made from.

#include "defib/connection/classify.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/connection/dsn.h"
#include "defib/connection/failure.h"
#include "defib/connection/retry.h"
#include "defib/connection/traces.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

Failure failure_of(const ClassRow& row, Phase phase, std::vector<Diagnostic>& records) {
  records = {{"HY000", 0, "words"}};
  if (row.engine == Engine::kPostgresql) {
    records[0].sqlstate = row.code;
  } else {
    records[0].native = std::stol(std::string(row.code));
  }
  Failure failure;
  failure.engine = row.engine;
  failure.phase = phase;
  failure.records = records;
  return failure;
}

TEST(Classifier, EveryRowHasASourceAndIsFoundByItsEngineAndCode) {
  const Classifier classifier;
  EXPECT_GT(class_table().size(), 280u);
  for (const ClassRow& row : class_table()) {
    SCOPED_TRACE(fmt::format("{} {}", to_string(row.engine), row.code));
    EXPECT_FALSE(row.source.empty());
    std::vector<Diagnostic> records;
    const FailureClass found =
        classifier.classify(failure_of(row, Phase::kStatement, records)).failure_class;
    // What says that the session is gone is judged by the phase.
    const bool lost = row.failure_class == FailureClass::kNewConnection ||
                      row.failure_class == FailureClass::kOutcomeUnknown ||
                      row.failure_class == FailureClass::kCommitAmbiguous;
    EXPECT_EQ(found, lost ? FailureClass::kOutcomeUnknown : row.failure_class);
  }
}

TEST(Classifier, ThePhaseHasTheLastWordOnALoss) {
  const Classifier classifier;
  for (const ClassRow& row : class_table()) {
    if (row.failure_class != FailureClass::kOutcomeUnknown) continue;
    SCOPED_TRACE(fmt::format("{} {}", to_string(row.engine), row.code));
    std::vector<Diagnostic> records;
    const auto in = [&](Phase phase, bool transaction) {
      Failure failure = failure_of(row, phase, records);
      failure.connection_lost = true;
      failure.in_transaction = transaction;
      return classifier.classify(failure).failure_class;
    };
    EXPECT_EQ(in(Phase::kConnect, false), FailureClass::kNewConnection);
    EXPECT_EQ(in(Phase::kIdle, false), FailureClass::kNewConnection);
    EXPECT_EQ(in(Phase::kStatement, false), FailureClass::kOutcomeUnknown);
    EXPECT_EQ(in(Phase::kStatement, true), FailureClass::kRetryNow);
    EXPECT_EQ(in(Phase::kCommit, true), FailureClass::kCommitAmbiguous);
  }
}

TEST(Classifier, OneNumberMeansDifferentThingsInDifferentEngines) {
  const Classifier classifier;
  const auto of = [&](Engine engine, std::int64_t native) {
    const std::vector<Diagnostic> records = {{"HY000", native, ""}};
    Failure failure;
    failure.engine = engine;
    failure.records = records;
    return classifier.classify(failure).failure_class;
  };
  EXPECT_EQ(of(Engine::kMssql, 1205), FailureClass::kRetryNow);
  EXPECT_EQ(of(Engine::kMariadb, 1205), FailureClass::kStatementOnly);
  EXPECT_EQ(of(Engine::kMysql, 4031), FailureClass::kOutcomeUnknown);
  EXPECT_EQ(of(Engine::kMariadb, 4031), FailureClass::kNever);
  // Numbers that only a client raises mean nothing from a server.
  for (const int number : {20, 64, 121, 203, 233, 258, 997, 10053, 10054, 10060, 10061, 11001}) {
    EXPECT_EQ(of(Engine::kMssql, number), FailureClass::kNever) << number;
  }
}

TEST(Classifier, WhatFreeTdsSaysOfADeadSessionIsRecognised) {
  const Classifier classifier;
  const auto of = [&](Phase phase, std::vector<Diagnostic> records) {
    Failure failure;
    failure.engine = Engine::kMssql;
    failure.driver = DriverKind::kFreetds;
    failure.phase = phase;
    failure.records = records;
    return classifier.classify(failure).failure_class;
  };
  EXPECT_EQ(of(Phase::kIdle, {{"HY000", 0, "[FreeTDS][SQL Server]Unknown error"}}),
            FailureClass::kNewConnection);
  EXPECT_EQ(of(Phase::kStatement, {{"01000", 20017, "Unexpected EOF"}}),
            FailureClass::kOutcomeUnknown);
  EXPECT_EQ(of(Phase::kCommit, {}), FailureClass::kCommitAmbiguous);
  EXPECT_EQ(of(Phase::kConnect, {{"08S01", 20009, "Unable to connect"}}),
            FailureClass::kNewConnection);
}

TEST(Classifier, AnOperatorsRowReplacesTheBuiltInOne) {
  Classifier classifier;
  ASSERT_TRUE(classifier.add_lines("# ours\npostgresql\t55006\tNO\n\nmssql 50001 RB # own\n"));
  const std::vector<Diagnostic> records = {{"55006", 0, ""}};
  Failure failure;
  failure.engine = Engine::kPostgresql;
  failure.records = records;
  EXPECT_EQ(classifier.classify(failure).failure_class, FailureClass::kNever);
  const auto bad = classifier.add_lines("postgresql 55006\n");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code(), Code::kMalformed);
  EXPECT_EQ(bad.error().field("line"), "1");
  EXPECT_FALSE(classifier.add(Engine::kMssql, "drop table", FailureClass::kNever));
}

// Over every class, attempt and kind of work: what may double a write is never repeated.
TEST(Retry, OnlyWhatIsSafeIsRepeated) {
  os::Random random(1);
  for (int c = 0; c < kFailureClasses; ++c) {
    for (const bool idempotent : {false, true}) {
      for (int attempt = 1; attempt <= 5; ++attempt) {
        const auto failure_class = static_cast<FailureClass>(c);
        const RetryAnswer answer =
            decide({.failure_class = failure_class, .attempt = attempt, .idempotent = idempotent},
                   RetryPolicy(), random);
        const bool never = failure_class == FailureClass::kCommitAmbiguous ||
                           failure_class == FailureClass::kOperator ||
                           failure_class == FailureClass::kNever;
        const bool doubt = failure_class == FailureClass::kOutcomeUnknown && !idempotent;
        EXPECT_EQ(answer.again, !never && !doubt && attempt < 4)
            << to_string(failure_class) << idempotent << attempt;
        EXPECT_EQ(answer.drain, failure_class == FailureClass::kWrongNode);
      }
    }
  }
}

TEST(Retry, WorkThatIsStoredInPartIsRepeatedOnlyIfIdempotent) {
  os::Random random(1);
  for (int c = 0; c < kFailureClasses; ++c) {
    RetryQuestion question{.failure_class = static_cast<FailureClass>(c), .partly_done = true};
    EXPECT_FALSE(decide(question, RetryPolicy(), random).again) << c;
    question.idempotent = true;
    const bool again = decide(question, RetryPolicy(), random).again;
    question.partly_done = false;
    EXPECT_EQ(decide(question, RetryPolicy(), random).again, again) << c;
  }
}

// Of failed connects: who does not answer counts against the server, who refuses does not.
TEST(Classifier, ARefusalIsNotSilence) {
  const auto is_silent = [](Code code, FailureClass found, std::string_view engine,
                            std::string_view driver, std::string_view state, int native,
                            std::string_view records) {
    Error error = Error(code, "x").with("class", to_string(found)).with("engine", engine);
    error = std::move(error).with("driver", driver).with("sqlstate", state);
    if (native != 0) error = std::move(error).with("native", std::int64_t{native});
    return server_is_silent(std::move(error).with("records", records));
  };
  constexpr auto kNew = FailureClass::kNewConnection;
  constexpr auto kFailed = Code::kConnectionFailed;
  const std::string_view pg = "postgresql", maria = "mariadb", odbc = "psqlodbc";
  EXPECT_TRUE(is_silent(Code::kHostUnreachable, kNew, pg, "libpq", "", 0, ""));
  EXPECT_TRUE(is_silent(Code::kDeadlineExceeded, kNew, pg, "libpq", "", 0, ""));
  EXPECT_TRUE(is_silent(kFailed, kNew, pg, "libpq", "", 0, "server closed the connection"));
  EXPECT_TRUE(is_silent(kFailed, kNew, pg, "libpq", "57P03", 0, "starting up"));
  EXPECT_FALSE(is_silent(kFailed, kNew, pg, "libpq", "53300", 0, "too many clients"));
  EXPECT_FALSE(is_silent(kFailed, kNew, pg, odbc, "08001", 101, "FATAL:  too many clients"));
  EXPECT_TRUE(is_silent(kFailed, kNew, pg, odbc, "08001", 101, "server closed the connection"));
  EXPECT_TRUE(is_silent(kFailed, kNew, pg, odbc, "08001", 101,
                        "FATAL:  the database system is starting up"));
  EXPECT_FALSE(is_silent(kFailed, kNew, maria, "mariadb", "08004", 1040, ""));
  EXPECT_FALSE(is_silent(kFailed, kNew, maria, "mariadb", "42000", 1203, ""));
  EXPECT_TRUE(is_silent(kFailed, kNew, maria, "mariadb", "HY000", 2013, ""));
  EXPECT_TRUE(is_silent(kFailed, kNew, "mssql", "freetds", "08S01", 20009, ""));
  EXPECT_FALSE(is_silent(Code::kServerBusy, FailureClass::kRetryAfterBackoff, "mssql", "freetds",
                         "HY000", 40501, ""));
  EXPECT_FALSE(is_silent(Code::kLoginFailed, FailureClass::kOperator, pg, "libpq", "28P01", 0, ""));
  EXPECT_FALSE(is_silent(Code::kWrongNode, FailureClass::kWrongNode, pg, "libpq", "", 0, ""));
  EXPECT_FALSE(server_is_silent(Error(Code::kUnavailable, "no credentials")));
}

TEST(Retry, ThePauseIsUniformBelowItsStepAndNeverBelowWhatTheCodeDemands) {
  os::Random random(7);
  RetryPolicy policy;
  policy.attempts = 100;
  int below_half = 0;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    const RetryAnswer answer =
        decide({.failure_class = FailureClass::kRetryAfterBackoff, .attempt = 3}, policy, random);
    EXPECT_LE(answer.pause, 400ms);
    below_half += answer.pause < 200ms;
  }
  EXPECT_NEAR(below_half, kDraws / 2.0, 150);
  const RetryAnswer long_one =
      decide({.failure_class = FailureClass::kRetryAfterBackoff, .attempt = 30}, policy, random);
  EXPECT_LE(long_one.pause, 30s);
  const RetryAnswer throttled = decide(
      {.failure_class = FailureClass::kRetryAfterBackoff, .attempt = 1, .minimum_pause_ms = 10'000},
      policy, random);
  EXPECT_GE(throttled.pause, 10s);
}

TEST(Retry, AClassMayHaveAPaceOfItsOwn) {
  os::Random random(3);
  RetryPolicy policy;
  policy.per_class[FailureClass::kRetryAfterBackoff] = {
      .attempts = 2, .initial = 7s, .maximum = 8s, .multiplier = 4, .jitter = false};
  const auto ask = [&](FailureClass failure_class, int attempt) {
    return decide({.failure_class = failure_class, .attempt = attempt}, policy, random);
  };
  EXPECT_EQ(ask(FailureClass::kRetryAfterBackoff, 1).pause, 7s);
  EXPECT_FALSE(ask(FailureClass::kRetryAfterBackoff, 2).again);
  EXPECT_TRUE(ask(FailureClass::kNewConnection, 2).again);
  EXPECT_LE(ask(FailureClass::kNewConnection, 1).pause, 100ms);
}

TEST(Failure, PasswordsAreTakenOutOfTheDriversWords) {
  FailedCall call;
  call.failure.engine = Engine::kPostgresql;
  call.failure.phase = Phase::kConnect;
  call.records = {{"28P01", 0, "login with s3cr3t! failed (s3cr3t!)"}};
  call.what = "connecting to db";
  call.password = "s3cr3t!";
  const Error error = make_error(call, Classifier());
  EXPECT_THAT(error.to_text(), Not(HasSubstr("s3cr3t!")));
  for (const Error::Field& field : error.fields()) {
    EXPECT_THAT(field.value, Not(HasSubstr("s3cr3t!"))) << field.key;
  }
  EXPECT_EQ(error.code(), Code::kLoginFailed);
  EXPECT_EQ(without_password("a cat and a dog", "a"), "*** cat and *** dog");
  EXPECT_EQ(shown_sql("SELECT 'secret' FROM t"), "SELECT ? FROM t");
}

TEST(Failure, WhatMayStandInALiteralIsNotShown) {
  const std::pair<const char*, const char*> shown[] = {
      {R"(ALTER USER u IDENTIFIED BY "pw")", "ALTER USER u IDENTIFIED BY ?"},
      {"ALTER ROLE u PASSWORD $$pw$$ VALID UNTIL 'x'", "ALTER ROLE u PASSWORD ? VALID UNTIL ?"},
      {"ALTER ROLE u PASSWORD $a$p$$w$a$", "ALTER ROLE u PASSWORD ?"},
      {R"(SELECT 'it\'s', 'pw')", "SELECT ?..."},
      {"SELECT 'it''s pw', 1", "SELECT ?, 1"},
      {"SELECT 'it\"s', 1, \"a'pw\"", "SELECT ?, 1, ?"},
      {"/* it's */ SELECT 'pw'", "?..."},
      {"-- it's\nSELECT 'pw'", "?..."},
      {"SELECT 1 # it's\n, 'pw'", "SELECT 1 ?..."},
      {"SELECT `it's`, 'pw'", "SELECT ?..."},
      {"SELECT [it's], 'pw'", "SELECT ?..."},
      {"SELECT ARRAY['pw', 'pw'], $1, $2", "SELECT ARRAY[?, ?], $1, $2"},
      {"SELECT `a`, [b] -- all\nFROM t", "SELECT `a`, [b] -- all FROM t"},
      {"SELECT 'pw", "SELECT ?..."},
      {"SELECT $$pw", "SELECT ?..."},
  };
  for (const auto& [sql, text] : shown) EXPECT_EQ(shown_sql(sql), text) << sql;
}

TEST(Failure, AThrottledServersPauseIsKept) {
  FailedCall call;
  call.failure.engine = Engine::kMssql;
  call.records = {{"HY000", 40501, "The service is currently busy."}};
  call.what = "a statement";
  const Error error = make_error(call, Classifier());
  EXPECT_EQ(error.code(), Code::kServerBusy);
  EXPECT_EQ(minimum_pause_ms(error), 10'000);
  EXPECT_TRUE(error.is_transient());
}

TEST(Traces, WhatTheNextBorrowerCouldSeeIsRecognised) {
  for (const char* harmless :
       {"SELECT 1", "insert into t values ('SET x')", "UPDATE t SET n = 1 WHERE id = 2",
        "select @@version", "DELETE FROM t; SELECT 2", "-- USE x\nSELECT 1"}) {
    EXPECT_FALSE(leaves_traces(Engine::kMariadb, harmless)) << harmless;
  }
  for (const char* traces :
       {"SET x = 1", "use other", "CREATE TEMPORARY TABLE t (x INT)", "SELECT GET_LOCK('a', 1)",
        "SELECT @x := 1", "SELECT 1 INTO @x", "SELECT * INTO #t FROM x", "CALL f()",
        "/*!40101 SET NAMES utf8 */ SELECT 1", "SELECT 1; SET x = 2", "PREPARE p FROM 'x'"}) {
    EXPECT_TRUE(leaves_traces(Engine::kMariadb, traces)) << traces;
  }
}

TEST(Traces, LiteralsAndCommentsAreReadAsTheEngineReadsThem) {
  const auto leaves = [](std::string_view sql) { return leaves_traces(Engine::kMariadb, sql); };
  EXPECT_TRUE(leaves(R"(SELECT 'it\'s', GET_LOCK("x", 1))"));
  EXPECT_TRUE(leaves(R"(SELECT 'a\' AND GET_LOCK('x', 1) = 1 OR ' ')"));
  EXPECT_TRUE(leaves(R"(SELECT 'no end)"));
  EXPECT_TRUE(leaves("SELECT 1 /* no end"));
  EXPECT_FALSE(leaves(R"(INSERT INTO t VALUES ('C:\\dir', 'a\nb'))"));
  EXPECT_TRUE(leaves("SELECT 1--GET_LOCK('x', 1)"));
  EXPECT_FALSE(leaves("SELECT 1 -- GET_LOCK('x', 1)"));
  EXPECT_FALSE(leaves("SELECT 1 # it's GET_LOCK('x', 1)"));
  EXPECT_TRUE(leaves("SELECT 1 # it's\n, GET_LOCK('x', 1)"));
  const auto refused = [](Engine engine, std::string_view sql) {
    return !refused_in_transaction(engine, sql).empty();
  };
  EXPECT_FALSE(refused(Engine::kMariadb, R"(INSERT INTO t VALUES ('it\'s; COMMIT'))"));
  EXPECT_TRUE(refused(Engine::kMariadb, R"(INSERT INTO t VALUES ('\''); COMMIT)"));
  EXPECT_TRUE(refused(Engine::kPostgresql, R"(SELECT '\'; COMMIT; SELECT '\')"));
  EXPECT_FALSE(refused(Engine::kPostgresql, R"(SELECT E'\'; COMMIT; SELECT \'')"));
  EXPECT_FALSE(refused(Engine::kPostgresql, "SELECT $$; COMMIT; '$$, $1, $a$; END; $$ $a$"));
  EXPECT_TRUE(refused(Engine::kPostgresql, "SELECT $$'$$; COMMIT; SELECT $$'$$"));
  EXPECT_TRUE(refused(Engine::kPostgresql, "/* /* nested */ ' */ COMMIT"));
  EXPECT_TRUE(refused(Engine::kMariadb, "/*!50000 COMMIT */"));
  EXPECT_TRUE(refused(Engine::kMssql, "SELECT [it's] FROM t COMMIT"));
}

TEST(Traces, ForSqlServerAStatementMayBeginAtAnyWord) {
  const auto leaves = [](std::string_view sql) { return leaves_traces(Engine::kMssql, sql); };
  for (const char* traces :
       {"SELECT 1 USE other", "SELECT 1 SET LANGUAGE French", "UPDATE t SET a = 1 SET NOCOUNT ON",
        "UPDATE t SET a = 1 COMMIT", "SELECT 1 DECLARE c CURSOR FOR SELECT 2",
        "SELECT 1 BEGIN TRAN", "UPDATE STATISTICS t SET LANGUAGE French", "SELECT 1 REVERT"}) {
    EXPECT_TRUE(leaves(traces)) << traces;
  }
  for (const char* harmless :
       {"UPDATE t SET a = 1 WHERE b = 'USE x'", "SELECT CASE WHEN a = 1 THEN 2 END FROM t",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1;",
        "SELECT a FROM t ORDER BY a OFFSET 1 ROWS FETCH NEXT 5 ROWS ONLY"}) {
    EXPECT_FALSE(leaves(harmless)) << harmless;
  }
  for (const char* ends : {"UPDATE t SET a = 1 COMMIT", "SELECT 1 ROLLBACK TRAN",
                           "SELECT 1 BEGIN "
                           "TRANSACTION"}) {
    EXPECT_FALSE(refused_in_transaction(Engine::kMssql, ends).empty()) << ends;
  }
  for (const char* stays : {"SELECT CASE a WHEN 1 THEN 2 END FROM t", "SAVE TRAN a",
                            "SELECT [commit] FROM t", "CREATE TABLE t (a INT)"}) {
    EXPECT_TRUE(refused_in_transaction(Engine::kMssql, stays).empty()) << stays;
  }
}

TEST(Traces, WhatMariadbCommitsByItselfIsRefusedInATransaction) {
  for (const char* commits : {"CREATE TABLE t (x INT)",
                              "create or replace view v as select 1",
                              "ALTER TABLE t ADD y INT",
                              "DROP TABLE t",
                              "TRUNCATE t",
                              "RENAME TABLE t TO u",
                              "GRANT SELECT ON t TO u",
                              "REVOKE SELECT ON t FROM u",
                              "LOCK TABLES t READ",
                              "UNLOCK TABLES",
                              "SET autocommit = 1",
                              "SET @a = 1, @@session.autocommit = 1",
                              "SET PASSWORD = 'x'",
                              "ANALYZE TABLE t",
                              "SET STATEMENT max_statement_time = 1 FOR DROP TABLE t",
                              "SELECT 1; DROP TABLE t",
                              "/*!40101 CREATE TABLE t (x INT) */",
                              "FLUSH TABLES",
                              "OPTIMIZE TABLE t",
                              "START SLAVE",
                              "LOAD INDEX INTO CACHE t",
                              "XA END 'x'",
                              "INSTALL SONAME 'x'"}) {
    EXPECT_THAT(std::string(refused_in_transaction(Engine::kMariadb, commits)),
                HasSubstr("commit what is open"))
        << commits;
    EXPECT_FALSE(refused_in_transaction(Engine::kMysql, commits).empty()) << commits;
  }
  for (const char* stays :
       {"CREATE TEMPORARY TABLE t (x INT)", "DROP TEMPORARY TABLE t", "SET @a = 1",
        "CREATE OR REPLACE TEMPORARY TABLE t (x INT)", "ANALYZE SELECT 1", "DROP PREPARE p",
        "INSERT INTO t VALUES ('CREATE TABLE')", "SET names = 1; UPDATE t SET autocommit = 1",
        "LOAD DATA INFILE 'x' INTO TABLE t", "SELECT 1 FROM t LOCK IN SHARE MODE",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1"}) {
    EXPECT_EQ(refused_in_transaction(Engine::kMariadb, stays), "") << stays;
  }
  for (const Engine engine : {Engine::kPostgresql, Engine::kMssql, Engine::kSqlite}) {
    EXPECT_EQ(refused_in_transaction(engine, "CREATE TABLE t (x INT)"), "");
  }
}

TEST(Traces, WhatEndsATransactionIsRecognised) {
  for (const char* ends : {"COMMIT", " /* x */ commit work", "ROLLBACK", "END", "begin",
                           "SELECT 1; COMMIT", "START TRANSACTION", "PREPARE TRANSACTION 'x'"}) {
    EXPECT_FALSE(refused_in_transaction(Engine::kPostgresql, ends).empty()) << ends;
  }
  for (const char* harmless :
       {"SELECT 'COMMIT'", "ROLLBACK TO SAVEPOINT a", "SAVEPOINT a", "UPDATE t SET begin = 1"}) {
    EXPECT_TRUE(refused_in_transaction(Engine::kPostgresql, harmless).empty()) << harmless;
  }
}

TEST(DsnTest, FormsAndTheirParts) {
  const auto url = Dsn::parse(
      "postgresql://al%40ice:p%2fw@db1:5433,[::1]/orders?target=primary&sslmode=require");
  ASSERT_TRUE(url) << url.error().to_text();
  EXPECT_EQ(url->user, "al@ice");
  EXPECT_EQ(url->password, "p/w");
  EXPECT_EQ(url->hosts, (std::vector<HostPort>{{"db1", 5433}, {"::1", 5432}}));
  EXPECT_EQ(url->database, "orders");
  EXPECT_EQ(url->target, Target::kPrimary);
  EXPECT_EQ(url->option("sslmode"), "require");
  EXPECT_THAT(url->redacted(), Not(HasSubstr("p/w")));
  const auto odbc =
      Dsn::parse("Driver={FreeTDS};Server=h;Port=1433;UID=sa;PWD={a;b}}c};Database=d");
  ASSERT_TRUE(odbc) << odbc.error().to_text();
  EXPECT_EQ(odbc->password, "a;b}c");
  EXPECT_EQ(odbc->driver, DriverKind::kFreetds);
  EXPECT_EQ(odbc->engine, Engine::kMssql);
  const auto sqlite = Dsn::parse("sqlite:/tmp/x.db?Timeout=100");
  ASSERT_TRUE(sqlite);
  EXPECT_EQ(sqlite->database, "/tmp/x.db");
}

TEST(DsnTest, WhatIsMalformedIsNamedByItsPlace) {
  for (const char* bad : {"", "nonsense", "oracle://h/d", "postgresql://", "postgresql://h:0/d",
                          "postgresql://h:99999/d", "postgresql://h:x/d", "postgresql://[::1/d",
                          "postgresql://a%zz@h/d", "Driver={x", "Server=h", "Driver={x}y;",
                          "postgresql://h/d?target=elsewhere", "postgresql://h/d?connect_timeout=x",
                          "odbc:Driver={FreeTDS};Server=h;Port=x"}) {
    const auto dsn = Dsn::parse(bad);
    ASSERT_FALSE(dsn) << bad;
    EXPECT_EQ(dsn.error().code(), Code::kDsnInvalid) << bad << ": " << dsn.error().to_text();
  }
}

TEST(DsnTest, AnUnknownOptionNamesTheNearest) {
  for (const auto& [text, nearest] :
       {std::pair{"postgresql://h/d?sslmod=require", "sslmode"},
        std::pair{"postgresql://h/d?conect_timeout=5s", "connect_timeout"},
        std::pair{"Driver={MariaDB Unicode};Server=h;ForceTSL=1", "forcetls"}}) {
    const auto dsn = Dsn::parse(text);
    ASSERT_FALSE(dsn) << text;
    EXPECT_EQ(dsn.error().code(), Code::kOptionUnknown);
    EXPECT_EQ(dsn.error().field("nearest"), nearest);
  }
}

}  // namespace
}  // namespace defib::connection
