#include "defib/connection/testing/rig.h"

#include <fmt/core.h>
#include <stdio.h>
#include <stdlib.h>

#include "defib/connection/libpq_backend.h"
#include "defib/connection/odbc_backend.h"

namespace defib::connection::testing {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<PostgresServer>& postgres_slot() {
  static auto& slot = *new std::unique_ptr<PostgresServer>;
  return slot;
}
std::unique_ptr<MariadbServer>& mariadb_slot() {
  static auto& slot = *new std::unique_ptr<MariadbServer>;
  return slot;
}

template <typename Server>
Server& started(std::unique_ptr<Server>& slot) {
  if (!slot) {
    auto server = Server::start({.tls = true});
    if (!server) {
      fmt::print(stderr, "{}\n", server.error().to_text());
      ::abort();  // nothing can be tested
    }
    slot = std::move(*server);
    ::atexit(end_servers);
  }
  return *slot;
}

}  // namespace

const Classifier& plain_classifier() {
  static const Classifier& one = *new Classifier;
  return one;
}

Result<std::unique_ptr<Backend>> make_backend(const Dsn& dsn, const Classifier& classifier) {
  if (dsn.kind == Dsn::Kind::kLibpq) return make_libpq_backend(dsn, classifier);
  return make_odbc_backend(dsn, classifier);
}

PostgresServer& postgres() {
  return started(postgres_slot());
}
MariadbServer& mariadb() {
  return started(mariadb_slot());
}
void end_servers() {
  postgres_slot().reset();
  mariadb_slot().reset();
}

std::string name_of(Driver driver) {
  switch (driver) {
    case Driver::kLibpq:
      return "libpq";
    case Driver::kPsqlodbc:
      return "psqlodbc";
    case Driver::kMariadb:
      return "mariadb";
    case Driver::kFreetds:
      return "freetds";
    default:
      return "sqlite";
  }
}

Result<std::unique_ptr<Rig>> Rig::make(Driver driver, const std::string& options) {
  std::unique_ptr<Rig> rig(new Rig);
  rig->driver_ = driver;
  std::string through, direct;
  if (driver == Driver::kSqlite) {
    rig->dir_ = std::make_unique<TempDir>();
    through = direct = fmt::format("sqlite:{}/db?Timeout=100", rig->dir_->path());
  } else {
    if (driver == Driver::kFreetds) {
      DEFIB_TRY_ASSIGN(rig->responder_, TdsResponder::start());
    }
    const std::uint16_t port = driver == Driver::kFreetds   ? rig->responder_->port()
                               : driver == Driver::kMariadb ? mariadb().port()
                                                            : postgres().port();
    DEFIB_TRY_ASSIGN(rig->proxy_, FaultProxy::start(port));
    const auto text = [&](std::uint16_t to) {
      if (driver == Driver::kFreetds) {
        return fmt::format("mssql://sa:pw@127.0.0.1:{}/db?TDS_Version=7.4{}{}", to,
                           options.empty() ? "" : "&", options);
      }
      if (driver == Driver::kMariadb) return mariadb().dsn(to, options);
      // The proxy reads what passes.
      if (driver == Driver::kPsqlodbc) return postgres().odbc_dsn(to, "SSLmode=disable;" + options);
      return postgres().dsn(to, "sslmode=disable" + (options.empty() ? "" : "&" + options));
    };
    through = text(rig->proxy_->port());
    direct = text(port);
  }
  DEFIB_TRY_ASSIGN(rig->dsn_, Dsn::parse(through));
  DEFIB_TRY_ASSIGN(rig->direct_, Dsn::parse(direct));
  DEFIB_TRY_ASSIGN(rig->backend_, make_backend(rig->dsn_, plain_classifier()));
  DEFIB_TRY_ASSIGN(rig->direct_backend_, make_backend(rig->direct_, plain_classifier()));
  return rig;
}

Result<std::unique_ptr<Session>> Rig::connect(os::Duration limit) {
  return connect_as(dsn_.user, dsn_.password, limit);
}

Result<std::unique_ptr<Session>> Rig::connect_as(const std::string& user,
                                                 const std::string& password, os::Duration limit) {
  ConnectRequest request{"", 0, user, password};
  if (!dsn_.hosts.empty()) {
    request.host = dsn_.hosts[0].host;
    request.port = dsn_.hosts[0].port;
  }
  return backend_->connect(request, Deadline::after(limit));
}

Result<std::unique_ptr<Session>> Rig::connect_directly() {
  ConnectRequest request{"", 0, direct_.user, direct_.password};
  if (!direct_.hosts.empty()) {
    request.host = direct_.hosts[0].host;
    request.port = direct_.hosts[0].port;
  }
  return direct_backend_->connect(request, Deadline::after(20s));
}

Result<std::unique_ptr<Pool>> Rig::pool(PoolOptions options) {
  DEFIB_TRY_ASSIGN(auto backend, make_backend(dsn_, plain_classifier()));
  return Pool::open(dsn_, std::move(backend), std::move(options));
}

Result<Rows> Rig::administer(const Statement& statement) {
  if (!admin_ || admin_->look() == Liveness::kDead) {
    DEFIB_TRY_ASSIGN(admin_, connect_directly());
  }
  return admin_->execute(statement, Deadline::after(20s));
}

Result<> Rig::make_table(const std::string& name) {
  DEFIB_TRY(administer(Statement("DROP TABLE IF EXISTS " + name)));
  DEFIB_TRY(administer(Statement(
      fmt::format("CREATE TABLE {} (id INTEGER NOT NULL PRIMARY KEY, n INTEGER)", name))));
  return {};
}

std::int64_t Rig::count(const std::string& table, const std::string& where) {
  const auto rows =
      administer(Statement(fmt::format("SELECT COUNT(*) FROM {} WHERE {}", table, where)));
  if (!rows) return -1;
  return rows->scalar_int().value_or(-1);
}

Result<> Rig::kill(const SessionInfo& info) {
  DEFIB_TRY(administer(Statement(statement_that_ends(info))));
  return {};
}

std::string Rig::slow_statement() const {
  switch (driver_) {
    case Driver::kMariadb:
      return "SELECT SLEEP(8)";
    case Driver::kSqlite:
      return "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 80000000) "
             "SELECT COUNT(*) FROM c";
    default:
      return "SELECT pg_sleep(8)";
  }
}

}  // namespace defib::connection::testing
