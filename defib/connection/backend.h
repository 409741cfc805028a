// Backend and Session: the one seam between what knows a driver and what does not.
//
// A Backend opens sessions to one server through one driver (libpq, or ODBC with PostgreSQL,
// MariaDB, FreeTDS, SQLite). The pool, the retry engine, transactions and commit resolution know
// only these two classes.
//
// Errors: every failure of a session is an Error with the fields `class` (classify.h), `phase`,
// `backend`, `driver`, `sqlstate` and `native` (of the first record that has them), `transient`,
// and `records` (all diagnostic records in the driver's own words). Passwords are never in it.
// Deadlines: every call returns by its deadline plus 20 ms, also when the network swallows
// everything; a session whose call overran is lost() and cannot be used again.
// Thread rule: a Backend from any thread; a Session on one thread at a time, abandon() from any.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/classify.h"
#include "defib/connection/deadline.h"
#include "defib/connection/value.h"

namespace defib::connection {

// What a look at the session's socket says, without a round trip.
enum class Liveness {
  kAlive,       // nothing speaks against it
  kDead,        // the other side has closed or reset it
  kSuspicious,  // something came that nobody asked for: a health query has to decide
  kNoSocket,    // an embedded engine, or a socket that could not be found
};

struct Capabilities {
  bool reset = false;             // the whole session can be reset, not only rolled back
  bool deadline = false;          // a call in a black hole ends
  bool connect_deadline = false;  // the attempt itself can be interrupted, too
  bool xid_resolution = false;    // pg_xact_status()
  bool socket_liveness = false;
  bool kill_session = false;   // another session can end this one on the server
  int redirects_followed = 0;  // by the driver; 0: it knows none
};

// What is known about a session from its start.
struct SessionInfo {
  Engine engine = Engine::kUnknown;
  std::string backend;  // "libpq", "odbc"
  std::string driver;   // "libpq 15.18", "psqlodbcw.so 13.02"
  DriverKind driver_kind = DriverKind::kUnknown;
  std::string server;          // "127.0.0.1:5432", as it was connected to
  std::string redirected_to;   // where that server has sent the driver on to; empty: nowhere
  std::string server_version;  // in the server's words
  std::string server_id;       // the session's number on the server: backend pid, connection id
  std::string server_since;    // when that session began, which tells it from a later one
  // PostgreSQL: when the server started and when its statistics began. Both unequal says that the
  // server may have recovered from a crash in between, and transaction numbers may mean others.
  std::string incarnation;
  bool read_only = false;  // a standby, or a server that takes no writes
  Capabilities can;
};

enum class Isolation { kDefault, kReadCommitted, kRepeatableRead, kSerializable };
std::string_view to_string(Isolation isolation);  // "READ COMMITTED"; empty for kDefault

struct ConnectRequest {
  std::string host;  // empty: an embedded engine
  std::uint16_t port = 0;
  std::string user;
  std::string password;
};

// What another session of the same server has to execute to end this one, so that what nobody waits
// for any more does not go on and hold locks; empty where the engine has no such thing.
std::string statement_that_ends(const SessionInfo& info);

class Session {
 public:
  virtual ~Session() = default;
  virtual const SessionInfo& info() const = 0;
  virtual Phase phase() const = 0;
  // The driver can do nothing more with it.
  virtual bool lost() const = 0;
  // A call on it overran, so the server may still work on it (see statement_that_ends).
  virtual bool overran() const = 0;
  virtual bool in_transaction() const = 0;
  // Something was executed since it was opened or reset.
  virtual bool dirty() const = 0;
  // Neither lost nor dirty, so that it can be handed on as it is. One call instead of three.
  virtual bool is_pristine() const { return !lost() && !dirty() && !in_transaction(); }

  virtual Result<Rows> execute(const Statement& statement, Deadline deadline) = 0;
  virtual Result<> begin(Isolation isolation, bool read_only, Deadline deadline) = 0;
  // CommitRolledBack where the server answered by rolling back; class CA where nothing is known.
  virtual Result<> commit(Deadline deadline) = 0;
  virtual Result<> rollback(Deadline deadline) = 0;
  // Rolls back what is open and resets the session the cheapest sound way, then re-applies the
  // session's options. NotSupportedByDriver where it is dirty and cannot be reset: close it.
  virtual Result<> reset(Deadline deadline) = 0;
  // 0.2 us: one poll(2) of the socket.
  virtual Liveness look() const = 0;
  // From any thread, at any time: ends the call that hangs in it.
  virtual void abandon() = 0;
  // PGconn* or SQLHDBC, lent for a call into the user's own library. Whoever uses it must leave it
  // idle; the session counts as dirty from then on.
  virtual void* native_handle() = 0;
  // The placeholder of the n-th parameter, from 1.
  virtual std::string placeholder(int n) const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  // ConnectionFailed, LoginFailed, HostUnreachable, CertificateRejected, DatabaseUnknown,
  // DriverMissing, OptionUnknown, DeadlineExceeded, RedirectRefused or ServerBusy.
  virtual Result<std::unique_ptr<Session>> connect(const ConnectRequest& request,
                                                   Deadline deadline) = 0;
  // Attempts and sessions whose callers have returned, and which the driver still holds.
  virtual int abandoned() const { return 0; }
};

}  // namespace defib::connection
