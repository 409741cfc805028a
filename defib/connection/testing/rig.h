// Rig: one driver under test with its server, a proxy between them, and what the tests need to know
// about the two. The servers are started once a process, when they are first asked for.
//
// Thread rule: one thread at a time.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"
#include "defib/connection/pool.h"
#include "defib/connection/testing/fault_proxy.h"
#include "defib/connection/testing/servers.h"
#include "defib/connection/testing/tds_responder.h"

namespace defib::connection::testing {

Result<std::unique_ptr<Backend>> make_backend(const Dsn& dsn, const Classifier& classifier);
const Classifier& plain_classifier();

// Of this process; ended by end_servers(), which a test program calls last.
PostgresServer& postgres();
MariadbServer& mariadb();
void end_servers();

enum class Driver { kLibpq, kPsqlodbc, kMariadb, kSqlite, kFreetds };
std::string name_of(Driver driver);
inline constexpr Driver kNetworked[] = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb};

class Rig {
 public:
  static Result<std::unique_ptr<Rig>> make(Driver driver, const std::string& options = {});

  Driver driver() const { return driver_; }
  FaultProxy& proxy() { return *proxy_; }
  // Of FreeTDS alone.
  TdsResponder& responder() { return *responder_; }
  Backend& backend() { return *backend_; }
  const Dsn& dsn() const { return dsn_; }
  const Dsn& direct_dsn() const { return direct_; }  // past the proxy
  bool networked() const { return driver_ != Driver::kSqlite; }
  bool is_freetds() const { return driver_ == Driver::kFreetds; }
  bool is_postgres() const { return driver_ == Driver::kLibpq || driver_ == Driver::kPsqlodbc; }
  Result<std::unique_ptr<Session>> connect(os::Duration limit = std::chrono::seconds(10));
  Result<std::unique_ptr<Session>> connect_as(const std::string& user, const std::string& password,
                                              os::Duration limit = std::chrono::seconds(10));
  // Past the proxy.
  Result<std::unique_ptr<Session>> connect_directly();
  Result<std::unique_ptr<Pool>> pool(PoolOptions options = {});
  // On a session past the proxy.
  Result<Rows> administer(const Statement& statement);
  // Makes table `name` (id INT primary key, n INT), empty.
  Result<> make_table(const std::string& name);
  std::int64_t count(const std::string& table, const std::string& where = "1 = 1");
  // Ends the session on the server, as an administrator would.
  Result<> kill(const SessionInfo& info);
  // A statement that takes some seconds.
  std::string slow_statement() const;

 private:
  Rig() = default;
  Driver driver_ = Driver::kLibpq;
  std::unique_ptr<TempDir> dir_;
  std::unique_ptr<TdsResponder> responder_;
  std::unique_ptr<FaultProxy> proxy_;
  Dsn dsn_, direct_;
  std::unique_ptr<Backend> backend_, direct_backend_;
  std::unique_ptr<Session> admin_;
};

}  // namespace defib::connection::testing
