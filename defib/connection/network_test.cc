// Certificates, redirects, failover, what bad names and missing things are told, and commits that
// are settled by the next start: against real servers.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "defib/bindings/in_doubt_store.h"
#include "defib/connection/check.h"
#include "defib/connection/odbc_backend.h"
#include "defib/connection/testing/fake_backend.h"
#include "defib/connection/testing/rig.h"
#include "defib/os/files.h"
#include "defib/os/socket.h"
#include "defib/store/store.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::Driver;
using testing::FaultProxy;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PostgresServer;
using testing::Rig;
using testing::TdsResponder;
using testing::TlsFiles;

Result<std::unique_ptr<Session>> connect(const std::string& text, os::Duration limit = 10s) {
  DEFIB_TRY_ASSIGN(const Dsn dsn, Dsn::parse(text));
  DEFIB_TRY_ASSIGN(const auto backend, testing::make_backend(dsn, testing::plain_classifier()));
  ConnectRequest request{"", 0, dsn.user, dsn.password};
  if (!dsn.hosts.empty()) {
    request.host = dsn.hosts[0].host;
    request.port = dsn.hosts[0].port;
  }
  return backend->connect(request, Deadline::after(limit));
}

class DriverTest : public ::testing::TestWithParam<Driver> {};

TEST_P(DriverTest, ValuesGoInAndComeOutTyped) {
  auto rig = Rig::make(GetParam());
  ASSERT_TRUE(rig) << rig.error().to_text();
  ASSERT_TRUE((*rig)->administer("DROP TABLE IF EXISTS typed"));
  const char* blob = (*rig)->is_postgres() ? "BYTEA" : "BLOB";
  ASSERT_TRUE((*rig)->administer(Statement(fmt::format(
      "CREATE TABLE typed (id BIGINT, name VARCHAR(9000), x DOUBLE PRECISION, bytes {}, absent "
      "VARCHAR(10))",
      blob))));
  auto session = (*rig)->connect();
  ASSERT_TRUE(session) << session.error().to_text();
  const std::string long_text(5000, 'x');
  const Session& s = **session;
  const Statement insert(
      fmt::format("INSERT INTO typed (id, name, x, bytes, absent) VALUES ({}, {}, {}, {}, {})",
                  s.placeholder(1), s.placeholder(2), s.placeholder(3), s.placeholder(4),
                  s.placeholder(5)),
      {std::int64_t{1} << 40, long_text, 1.5, Blob{std::string("\0\1\377", 3)}, std::monostate{}},
      true);
  const auto inserted = (*session)->execute(insert, Deadline::after(5s));
  ASSERT_TRUE(inserted) << inserted.error().to_text();
  EXPECT_EQ(inserted->affected, 1);
  const auto rows =
      (*session)->execute("SELECT id, name, x, bytes, absent FROM typed", Deadline::after(5s));
  ASSERT_TRUE(rows) << rows.error().to_text();
  ASSERT_EQ(rows->rows.size(), 1u);
  const std::vector<Value>& row = rows->rows[0];
  EXPECT_EQ(row[0], Value(std::int64_t{1} << 40));
  EXPECT_EQ(to_text(row[1]), long_text);
  EXPECT_EQ(row[2], Value(1.5));
  EXPECT_EQ(row[3], Value(Blob{std::string("\0\1\377", 3)}));
  EXPECT_TRUE(is_null(row[4]));
}

TEST_P(DriverTest, TheCheckPasses) {
  auto rig = Rig::make(GetParam());
  ASSERT_TRUE(rig) << rig.error().to_text();
  auto backend = testing::make_backend((*rig)->direct_dsn(), testing::plain_classifier());
  ASSERT_TRUE(backend);
  const auto report = check_database(**backend, (*rig)->direct_dsn(), true, 10s);
  ASSERT_TRUE(report) << report.error().to_text();
  for (const CheckStep& step : report->steps) {
    EXPECT_TRUE(step.passed) << step.name << ": " << (step.error ? step.error->to_text() : "");
  }
  EXPECT_EQ(report->steps.size(), 6u);
  EXPECT_THAT(report->data_source, Not(HasSubstr("pass word")));
}

INSTANTIATE_TEST_SUITE_P(Drivers, DriverTest,
                         ::testing::Values(Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb,
                                           Driver::kSqlite),
                         [](const auto& driver) { return testing::name_of(driver.param); });

// Several connects at a time: each session finds its own socket.
TEST(Sockets, SessionsThatConnectInParallelFindTheirOwn) {
  for (const Driver driver : {Driver::kPsqlodbc, Driver::kMariadb}) {
    auto rig = Rig::make(driver);
    ASSERT_TRUE(rig) << rig.error().to_text();
    PoolOptions options;
    options.max_size = options.min_idle = 12;
    options.parallel_connects = 6;
    auto pool = (*rig)->pool(options);
    ASSERT_TRUE((*pool)->warm_up(12, Deadline::after(30s)));
    std::vector<Lease> leases;
    for (int i = 0; i < 12; ++i) {
      auto lease = (*pool)->acquire();
      ASSERT_TRUE(lease);
      EXPECT_TRUE(lease->session().info().can.socket_liveness);
      leases.push_back(std::move(*lease));
    }
    // Ending one is seen by that one alone.
    for (int i = 0; i < 12; ++i) {
      Session& victim = leases[static_cast<std::size_t>(i)].session();
      ASSERT_TRUE((*rig)->kill(victim.info()));
      const Deadline limit = Deadline::after(5s);
      while (victim.look() == Liveness::kAlive && !limit.passed()) {
        os::real_clock().sleep_for(1ms);
      }
      EXPECT_NE(victim.look(), Liveness::kAlive);
      for (int j = i + 1; j < 12; ++j) {
        EXPECT_EQ(leases[static_cast<std::size_t>(j)].session().look(), Liveness::kAlive);
      }
    }
  }
}

TEST(BadInput, EachThingThatIsWrongHasAnErrorOfItsOwn) {
  const std::uint16_t port = testing::postgres().port();
  const auto free_port = os::free_port();
  ASSERT_TRUE(free_port);
  const auto url = [&](const std::string& who, std::uint16_t at, const std::string& database) {
    return fmt::format("postgresql://{}@127.0.0.1:{}/{}", who, at, database);
  };
  const std::string good = std::string(PostgresServer::kUser) + ":pass%20word%3B1";
  struct {
    std::string dsn;
    Code code;
    std::string words;
  } const cases[] = {
      {url("tester:wrong", port, "postgres"), Code::kLoginFailed, "password authentication failed"},
      {url(good, port, "nowhere"), Code::kDatabaseUnknown, "does not exist"},
      {url(good, *free_port, "postgres"), Code::kHostUnreachable, "refused"},
      {"postgresql://u@no-such-host.invalid/d", Code::kHostUnreachable, "no-such-host.invalid"},
      {"odbc:Driver={No Such Driver};Server=127.0.0.1", Code::kDriverMissing, "No Such Driver"},
      {fmt::format("odbc:Driver={{PostgreSQL Unicode}};Server=127.0.0.1;Port={};Database=postgres;"
                   "UID=tester;PWD=wrong",
                   port),
       Code::kLoginFailed, "password authentication failed"},
      {fmt::format("odbc:Driver={{MariaDB Unicode}};Server=127.0.0.1;Port={};UID=x;PWD=wrong-one",
                   testing::mariadb().port()),
       Code::kLoginFailed, "Access denied"},
      {fmt::format("odbc:Driver={{MariaDB Unicode}};Server=127.0.0.1;Port={};UID={};PWD={{pass "
                   "word;1}};Database=nowhere",
                   testing::mariadb().port(), testing::MariadbServer::kUser),
       Code::kDatabaseUnknown, "nowhere"},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one.dsn);
    const auto session = connect(one.dsn);
    ASSERT_FALSE(session);
    EXPECT_EQ(session.error().kind(), code_info(one.code).name) << session.error().to_text();
    EXPECT_THAT(session.error().to_text(), HasSubstr(one.words));
    EXPECT_THAT(session.error().to_text(), Not(HasSubstr("pass word")));
    EXPECT_THAT(session.error().to_text(), Not(HasSubstr("wrong-one")));
    EXPECT_FALSE(session.error().suggested_action().empty());
  }
}

// A certificate exchanged while the pool runs: sessions are opened with it. One that nobody trusts
// is a matter for a person, and the error names it; when it is mended the pool goes on by itself.
void exchange_certificates(Pool& pool, const std::string& question, const std::string& authority,
                           const std::string& dir, const TlsFiles& first,
                           const std::function<Result<>(const TlsFiles&)>& use) {
  const auto ask = [&] {
    RunOptions limit;
    limit.timeout = 10s;
    return pool.run([&](Lease& db) { return db.execute(Statement(question)); }, limit);
  };
  auto rows = ask();
  ASSERT_TRUE(rows) << rows.error().to_text();
  EXPECT_GT(to_text(rows->rows.at(0).back()).size(), 1u) << "not over TLS";
  const auto second = testing::make_certificate(dir, "second", authority);
  ASSERT_TRUE(second) << second.error().to_text();
  const auto exchanged = use(*second);
  ASSERT_TRUE(exchanged) << exchanged.error().to_text();
  const std::uint64_t created = pool.metrics().created.value();
  pool.drain();
  rows = ask();
  ASSERT_TRUE(rows) << rows.error().to_text();
  EXPECT_GT(pool.metrics().created.value(), created);
  const auto foreign = testing::make_certificate(dir, "foreign");
  ASSERT_TRUE(foreign);
  ASSERT_TRUE(use(*foreign));
  // A server reads its certificate again when it comes to it.
  const Deadline limit = Deadline::after(10s);
  do {
    pool.drain();
    rows = ask();
  } while (rows && !limit.passed());
  ASSERT_FALSE(rows);
  const Error& root = rows.error().root();
  EXPECT_EQ(root.code(), Code::kCertificateRejected) << rows.error().to_text();
  EXPECT_EQ(class_of(root), FailureClass::kOperator);
  EXPECT_THAT(root.to_text(), HasSubstr("certificate"));
  EXPECT_FALSE(root.suggested_action().empty());
  ASSERT_TRUE(use(first));
  const Deadline mended = Deadline::after(10s);
  do rows = ask();
  while (!rows && !mended.passed());
  EXPECT_TRUE(rows) << rows.error().to_text();
}

TEST(Tls, PostgresCertificatesAreExchangedWhileThePoolRuns) {
  auto server = PostgresServer::start({.tls = true});
  ASSERT_TRUE(server) << server.error().to_text();
  const std::string base = (*server)->dir() + "/first";
  const auto dsn =
      Dsn::parse((*server)->dsn(0, "sslmode=verify-full&sslrootcert=" + base + "-ca.crt"));
  ASSERT_TRUE(dsn);
  auto backend = testing::make_backend(*dsn, testing::plain_classifier());
  auto pool = Pool::open(*dsn, std::move(*backend), {.max_size = 2});
  ASSERT_TRUE(pool);
  exchange_certificates(**pool, "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
                        base + "-ca", (*server)->dir(),
                        {base + "-ca.crt", base + ".crt", base + ".key"},
                        [&](const TlsFiles& files) -> Result<> {
                          DEFIB_TRY((*server)->use_certificate(files));
                          return (*server)->reload();
                        });
}

TEST(Tls, MariadbCertificatesAreExchangedWhileThePoolRuns) {
  testing::MariadbServer& server = testing::mariadb();
  const TlsFiles first = server.first_certificate();
  const auto dsn = Dsn::parse(server.dsn(0, "ForceTLS=1;SSLVERIFY=1;SSLCA=" + first.authority));
  ASSERT_TRUE(dsn) << dsn.error().to_text();
  auto backend = testing::make_backend(*dsn, testing::plain_classifier());
  auto pool = Pool::open(*dsn, std::move(*backend), {.max_size = 2});
  ASSERT_TRUE(pool);
  const testing::TempDir dir;
  exchange_certificates(**pool, "SHOW STATUS LIKE 'Ssl_cipher'",
                        first.authority.substr(0, first.authority.rfind('.')), dir.path(), first,
                        [&](const TlsFiles& files) { return server.use_certificate(files); });
}

TEST(Tls, MariadbIsVerifiedAndAnUntrustedCertificateIsNamed) {
  const std::string dir = testing::mariadb().dir();
  const auto trusted =
      connect(testing::mariadb().dsn(0, "ForceTLS=1;SSLVERIFY=1;SSLCA=" + dir + "/first-ca.crt"));
  ASSERT_TRUE(trusted) << trusted.error().to_text();
  const auto rows = (*trusted)->execute("SHOW STATUS LIKE 'Ssl_cipher'", Deadline::after(5s));
  ASSERT_TRUE(rows) << rows.error().to_text();
  EXPECT_FALSE(to_text(rows->rows.at(0).at(1)).empty());
  const testing::TempDir elsewhere;
  const auto foreign = testing::make_certificate(elsewhere.path(), "foreign");
  ASSERT_TRUE(foreign);
  const auto refused =
      connect(testing::mariadb().dsn(0, "ForceTLS=1;SSLVERIFY=1;SSLCA=" + foreign->authority));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kCertificateRejected) << refused.error().to_text();
  EXPECT_EQ(class_of(refused.error()), FailureClass::kOperator) << refused.error().to_text();
}

class Redirects : public ::testing::Test {
 protected:
  void SetUp() override {
    for (auto& responder : responders_) {
      auto started = TdsResponder::start();
      ASSERT_TRUE(started);
      responder = std::move(*started);
    }
    gateway().route_to(second().port());
  }
  TdsResponder& gateway() { return *responders_[0]; }
  TdsResponder& second() { return *responders_[1]; }
  TdsResponder& third() { return *responders_[2]; }
  std::string dsn(const std::string& options = {}) {
    return fmt::format("mssql://sa:pw@127.0.0.1:{}/db?TDS_Version=7.4{}", gateway().port(),
                       options);
  }
  static std::string address(const TdsResponder& responder) {
    return fmt::format("127.0.0.1:{}", responder.port());
  }
  std::unique_ptr<TdsResponder> responders_[3];
};

TEST_F(Redirects, FreeTdsFollowsOneAndTheSessionKnowsWhereTo) {
  const auto session = connect(dsn());
  ASSERT_TRUE(session) << session.error().to_text();
  EXPECT_EQ(second().logins(), 1);
  ASSERT_TRUE(second().last_login());
  EXPECT_EQ(second().last_login()->password, "pw");
  const SessionInfo& info = (*session)->info();
  EXPECT_EQ(info.can.redirects_followed, 1);
  EXPECT_EQ(info.server, address(gateway()));
  EXPECT_EQ(info.redirected_to, address(second()));
  // The socket that is watched is the second one.
  EXPECT_TRUE(info.can.socket_liveness);
  EXPECT_EQ((*session)->look(), Liveness::kAlive);
  second().close_all();
  const Deadline limit = Deadline::after(5s);
  while ((*session)->look() != Liveness::kDead && !limit.passed()) os::real_clock().sleep_for(1ms);
  EXPECT_EQ((*session)->look(), Liveness::kDead);
}

TEST_F(Redirects, WhereNoneIsAllowedTheErrorNamesTheTarget) {
  const auto refused = connect(dsn("&max_redirects=0"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kRedirectRefused) << refused.error().to_text();
  EXPECT_EQ(refused.error().field("target"), address(second()));
  EXPECT_THAT(refused.error().message(), HasSubstr(address(second())));
  EXPECT_EQ(class_of(refused.error()), FailureClass::kOperator);
  gateway().route_to(0);
  EXPECT_TRUE(connect(dsn("&max_redirects=0")));
}

TEST_F(Redirects, ASecondOneIsRefusedAndTheErrorNamesTheFirstTarget) {
  second().route_to(third().port());
  const auto refused = connect(dsn("&profile=azure"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(third().logins(), 0);
  EXPECT_EQ(refused.error().code(), Code::kRedirectRefused) << refused.error().to_text();
  EXPECT_EQ(refused.error().field("target"), address(second())) << refused.error().to_text();
  EXPECT_EQ(refused.error().field("server"), address(gateway()));
}

TEST_F(Redirects, ATargetThatCannotBeReachedIsNamed) {
  const auto nobody = os::free_port();
  ASSERT_TRUE(nobody);
  gateway().route_to(*nobody);
  const auto refused = connect(dsn());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kHostUnreachable) << refused.error().to_text();
  EXPECT_EQ(refused.error().field("target"), fmt::format("127.0.0.1:{}", *nobody));
}

// The responder is sound enough for FreeTDS's own program.
TEST(Responder, FreeTdssOwnProgramTalksToIt) {
  auto responder = TdsResponder::start();
  ASSERT_TRUE(responder);
  (*responder)->answer("FAIL", {50001, "as it was asked to", false, false});
  const std::string command = fmt::format(
      "printf 'SELECT 1\\ngo\\nFAIL\\ngo\\nexit\\n' | TDSVER=7.4 tsql -H 127.0.0.1 -p {} "
      "-U sa -P pw 2>&1",
      (*responder)->port());
  const auto output = os::run_command({"sh", "-c", command}, 20'000);
  ASSERT_TRUE(output) << output.error().to_text();
  EXPECT_THAT(output->text, HasSubstr("(1 row affected)"));
  EXPECT_THAT(output->text, HasSubstr("as it was asked to"));
  EXPECT_EQ((*responder)->logins(), 1);
}

// A primary behind a proxy and a standby: each is found by what it is; when the primary has gone
// and the standby is promoted, the pool goes there.
TEST(Failover, ThePrimaryIsFoundAndFollowed) {
  auto rig = Rig::make(Driver::kLibpq);
  auto standby = PostgresServer::start({.standby = true});
  ASSERT_TRUE(rig && standby) << standby.error().to_text();
  const auto open = [&](const char* target) {
    const auto dsn = Dsn::parse(
        fmt::format("postgresql://{}:pass%20word%3B1@127.0.0.1:{},127.0.0.1:{}/postgres?target={}"
                    "&sslmode=disable",
                    PostgresServer::kUser, (*standby)->port(), (*rig)->proxy().port(), target));
    EXPECT_TRUE(dsn) << dsn.error().to_text();
    auto backend = testing::make_backend(*dsn, testing::plain_classifier());
    return std::move(*Pool::open(*dsn, std::move(*backend), {.max_size = 2}));
  };
  const auto ask = [](Pool& pool, const char* question) {
    RunOptions limit;
    limit.timeout = 20s;
    const auto rows = pool.run([&](Lease& db) { return db.execute(Statement(question)); }, limit);
    EXPECT_TRUE(rows) << rows.error().to_text();
    return rows ? rows->scalar() : "";
  };
  const auto primary = open("primary");
  const auto reader = open("standby");
  EXPECT_EQ(ask(*primary, "SELECT inet_server_port()"), std::to_string(testing::postgres().port()));
  EXPECT_EQ(ask(*reader, "SELECT inet_server_port()"), std::to_string((*standby)->port()));
  ASSERT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kRefuse));
  (*rig)->proxy().reset_all();
  EXPECT_EQ(ask(*reader, "SELECT pg_promote()"), "true");
  EXPECT_EQ(ask(*primary, "SELECT inet_server_port()"), std::to_string((*standby)->port()));
  EXPECT_EQ(ask(*primary, "SELECT pg_is_in_recovery()"), "false");
}

TEST(Failover, AServerOfTheWrongKindIsPassedOver) {
  auto server = std::make_shared<testing::FakeServer>();
  server->read_only = true;
  const auto dsn = Dsn::parse("postgresql://wrongkind1,wrongkind2/db?target=primary");
  ASSERT_TRUE(dsn);
  auto pool = Pool::open(*dsn, testing::make_fake_backend(server), {.max_size = 2});
  const auto refused = (*pool)->acquire(Deadline::after(300ms));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().root().code(), Code::kWrongNode) << refused.error().to_text();
  server->read_only = false;
  EXPECT_TRUE((*pool)->server().gate.wait_until_closed(Deadline::after(2s)));
  EXPECT_TRUE((*pool)->acquire(Deadline::after(2s)));
}

// The commit's answer is lost, and its server cannot be reached: the standby, which has never heard
// of the transaction, must not decide. With the primary back the answer is found.
TEST(Failover, ACommitInDoubtIsNotAskedOfAStandby) {
  auto rig = Rig::make(Driver::kLibpq);
  auto standby = PostgresServer::start({.standby = true});
  ASSERT_TRUE(rig && standby) << standby.error().to_text();
  ASSERT_TRUE((*rig)->administer("DROP TABLE IF EXISTS ledger"));
  ASSERT_TRUE((*rig)->administer("CREATE TABLE ledger (id INTEGER)"));
  // Numbers that lie in the future for the standby.
  for (int i = 0; i < 500; ++i) ASSERT_TRUE((*rig)->administer("SELECT pg_current_xact_id()"));
  const auto dsn = Dsn::parse(fmt::format(
      "postgresql://{}:pass%20word%3B1@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable",
      PostgresServer::kUser, (*rig)->proxy().port(), (*standby)->port()));
  ASSERT_TRUE(dsn) << dsn.error().to_text();
  auto backend = testing::make_backend(*dsn, testing::plain_classifier());
  auto pool = Pool::open(*dsn, std::move(*backend), {.max_size = 2});
  ASSERT_TRUE(pool);
  std::atomic<bool> finished{false};
  std::thread reopen([&] {
    const Deadline limit = Deadline::after(5s);
    const obs::Counter& asked = (*pool)->metrics().connection_failures;
    while (asked.value() == 0 && !finished && !limit.passed()) os::real_clock().sleep_for(1ms);
    EXPECT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kPass));
  });
  int attempts = 0;
  TransactionOptions limits;
  limits.timeout = 20s;
  const auto done = (*pool)->transaction(
      [&](Transaction& tx) -> Result<> {
        ++attempts;
        DEFIB_TRY(tx.execute("INSERT INTO ledger (id) VALUES (1)"));
        (*rig)->proxy().cut_commits(FaultProxy::Cut::kReply);
        return (*rig)->proxy().set_mode(FaultProxy::Mode::kRefuse);
      },
      limits);
  finished = true;
  reopen.join();
  EXPECT_TRUE(done) << done.error().to_text();
  EXPECT_EQ(attempts, 1);
  EXPECT_EQ((*rig)->count("ledger"), 1);
  EXPECT_EQ((*rig)->proxy().cuts_done(), 1);
  EXPECT_EQ((*pool)->metrics().commits_resolved.value(), 1u);
}

PoolOptions durable(InDoubtLog& log) {
  PoolOptions options;
  options.commit_resolution = CommitResolution::kDurable;
  options.in_doubt_log = &log;
  return options;
}

TEST(InDoubt, ARecordOfADeadClientIsSettledByTheNextStart) {
  auto rig = Rig::make(Driver::kLibpq);
  ASSERT_TRUE(rig);
  ASSERT_TRUE((*rig)->make_table("t"));
  const testing::TempDir dir;
  auto store = store::Store::open(os::join_path(dir.path(), "store"), store::Options());
  ASSERT_TRUE(store) << store.error().to_text();
  const auto log = bindings::in_doubt_in_store(**store);
  // Two clients that die after their record is durable: one before COMMIT, one after.
  for (const bool sent : {false, true}) {
    auto session = (*rig)->connect();
    ASSERT_TRUE(session);
    ASSERT_TRUE((*session)->begin(Isolation::kDefault, false, Deadline::after(5s)));
    ASSERT_TRUE((*session)->execute(
        Statement(fmt::format("INSERT INTO t (id, n) VALUES ({}, 0)", sent ? 1 : 2)),
        Deadline::after(5s)));
    const auto record =
        prepare_commit(**session, "", sent ? "sent" : "unsent", 1, Deadline::after(5s));
    ASSERT_TRUE(record) << record.error().to_text();
    EXPECT_FALSE(record->xid.empty());
    ASSERT_TRUE(log->put(record->id, record->encode()));
    if (sent) {
      ASSERT_TRUE((*session)->commit(Deadline::after(5s)));
    }
    (*session)->abandon();
  }
  auto pool = (*rig)->pool(durable(*log));
  ASSERT_TRUE(pool);
  const auto settled = (*pool)->settle_in_doubt(Deadline::after(10s));
  ASSERT_TRUE(settled) << settled.error().to_text();
  ASSERT_EQ(settled->size(), 2u);
  for (const Settled& one : *settled) {
    EXPECT_EQ(to_string(one.outcome), one.record.label == "sent" ? "committed" : "rolled_back");
  }
  EXPECT_EQ((*rig)->count("t"), 1);
  const auto left = log->all();
  ASSERT_TRUE(left);
  EXPECT_TRUE(left->empty());
}

// A log that two pools share: another server's numbers mean others, so its records are left alone.
TEST(InDoubt, ARecordOfAnotherServersIsLeftToItsPool) {
  auto rig = Rig::make(Driver::kLibpq);
  ASSERT_TRUE(rig);
  const testing::TempDir dir;
  auto store = store::Store::open(os::join_path(dir.path(), "store"), store::Options());
  ASSERT_TRUE(store) << store.error().to_text();
  const auto log = bindings::in_doubt_in_store(**store);
  InDoubt record;
  record.id = "elsewhere";
  record.engine = Engine::kPostgresql;
  record.xid = "3";  // a number that every PostgreSQL knows as committed
  record.server = "db9:5432";
  ASSERT_TRUE(log->put(record.id, record.encode()));
  record.id = "other-database";
  record.server = (*rig)->dsn().hosts[0].to_string();
  record.database = "another";
  ASSERT_TRUE(log->put(record.id, record.encode()));
  auto pool = (*rig)->pool(durable(*log));
  ASSERT_TRUE(pool);
  const auto settled = (*pool)->settle_in_doubt(Deadline::after(10s));
  ASSERT_TRUE(settled) << settled.error().to_text();
  EXPECT_TRUE(settled->empty());
  const auto left = log->all();
  ASSERT_TRUE(left);
  EXPECT_EQ(left->size(), 2u);
}

// A transaction number means nothing after the server has recovered from a crash.
TEST(InDoubt, ANumberIsNotBelievedAfterACrashOfTheServer) {
  auto rig = Rig::make(Driver::kLibpq);
  ASSERT_TRUE(rig);
  auto session = (*rig)->connect();
  ASSERT_TRUE(session);
  ASSERT_TRUE((*rig)->make_table("t"));
  ASSERT_TRUE((*session)->begin(Isolation::kDefault, false, Deadline::after(5s)));
  ASSERT_TRUE((*session)->execute("INSERT INTO t (id, n) VALUES (1, 0)", Deadline::after(5s)));
  auto record = prepare_commit(**session, "", "", 1, Deadline::after(5s));
  ASSERT_TRUE(record);
  ASSERT_TRUE((*session)->commit(Deadline::after(5s)));
  auto other = (*rig)->connect();
  ASSERT_TRUE(other);
  auto outcome = resolve_commit(**other, *record, Deadline::after(5s));
  ASSERT_TRUE(outcome);
  EXPECT_EQ(*outcome, CommitOutcome::kCommitted);
  record->incarnation = "another";
  outcome = resolve_commit(**other, *record, Deadline::after(5s));
  ASSERT_TRUE(outcome);
  EXPECT_EQ(*outcome, CommitOutcome::kUnknown);
}

TEST(InDoubt, RecordsAreReadAsTheyWereWritten) {
  InDoubt record;
  record.id = "ab12";
  record.label = "order \"7\"";
  record.engine = Engine::kMariadb;
  record.commit_table = "defib_commits";
  record.wall_ns = 42;
  const auto again = InDoubt::decode(record.encode());
  ASSERT_TRUE(again) << again.error().to_text();
  EXPECT_EQ(again->encode(), record.encode());
  for (const char* bad : {"", "{}", R"({"id":"a","engine":"x"})",
                          R"({"id":"a","engine":"postgresql","xid":"1; DROP"})",
                          R"({"id":"a","engine":"mariadb","commit_table":"a b"})"}) {
    EXPECT_FALSE(InDoubt::decode(bad)) << bad;
  }
}

TEST(PoolProbe, IsHealthyAsLongAsTheDatabaseAnswers) {
  auto rig = Rig::make(Driver::kLibpq);
  ASSERT_TRUE(rig);
  auto pool = (*rig)->pool({});
  const auto probe = pool_probe(**pool, "orders");
  EXPECT_TRUE(probe->check(5s).healthy);
  ASSERT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kBlackHole));
  os::Duration took{0};
  // A loaded machine gets more than one chance to be in time.
  for (int i = 0; i < 5; ++i) {
    const std::int64_t before = os::real_clock().mono_ns();
    const auto result = probe->check(200ms);
    took = os::Duration(os::real_clock().mono_ns() - before);
    EXPECT_FALSE(result.healthy);
    EXPECT_TRUE(result.error.has_value());
    if (took <= 220ms) break;
  }
  EXPECT_LE(took, 220ms);
}

// The work is done and then the network swallows everything: the session's return waits no longer
// than the call may take.
TEST(Return, EndsWithItsCallInABlackHole) {
  for (const Driver driver : {Driver::kLibpq, Driver::kPsqlodbc}) {
    SCOPED_TRACE(testing::name_of(driver));
    auto rig = Rig::make(driver);
    ASSERT_TRUE(rig) << rig.error().to_text();
    auto pool = (*rig)->pool({.max_size = 1});
    ASSERT_TRUE(pool);
    os::Duration took{0};
    // A loaded machine gets more than one chance to be in time.
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kPass));
      ASSERT_TRUE((*pool)->run([](Lease& db) { return db.execute("SELECT 1"); }));
      RunOptions options;
      options.timeout = 200ms;
      const std::int64_t before = os::real_clock().mono_ns();
      const auto done = (*pool)->run(
          [&](Lease& db) {
            auto rows = db.execute(Statement("SELECT 2", {}, true));
            EXPECT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kBlackHole));
            return rows;
          },
          options);
      took = os::Duration(os::real_clock().mono_ns() - before);
      if (done && took <= 220ms) break;
    }
    EXPECT_LE(took, 220ms);
  }
}

// The caller returns in time; what it leaves behind in the driver is counted, and ends by itself.
TEST(Abandoned, AttemptsAreCountedAndReaped) {
  for (const Driver driver : {Driver::kPsqlodbc, Driver::kMariadb, Driver::kFreetds}) {
    SCOPED_TRACE(testing::name_of(driver));
    auto rig = Rig::make(driver);
    ASSERT_TRUE(rig) << rig.error().to_text();
    for (const auto mode : {FaultProxy::Mode::kSilent, FaultProxy::Mode::kBlackHoleDown}) {
      ASSERT_TRUE((*rig)->proxy().set_mode(mode));
      const auto refused = (*rig)->connect(200ms);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code(), Code::kDeadlineExceeded) << refused.error().to_text();
      const Deadline limit = Deadline::after(15s);
      while ((*rig)->backend().abandoned() > 0 && !limit.passed()) os::real_clock().sleep_for(5ms);
      EXPECT_EQ((*rig)->backend().abandoned(), 0);
    }
    ASSERT_TRUE((*rig)->proxy().set_mode(FaultProxy::Mode::kPass));
    EXPECT_TRUE((*rig)->connect());
  }
}

TEST(OdbcDrivers, AreListed) {
  const std::vector<std::string> names = odbc_drivers();
  EXPECT_THAT(names, ::testing::Contains("FreeTDS"));
}

}  // namespace
}  // namespace defib::connection
