#include "defib/connection/odbc_backend.h"

#include <fmt/core.h>
#include <sql.h>
#include <sqlext.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "defib/connection/connect_watch.h"
#include "defib/connection/failure.h"
#include "defib/connection/running.h"
#include "defib/connection/socket.h"
#include "defib/connection/traces.h"
#include "defib/connection/watchdog.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxPrepared = 256;
constexpr int kMaxRecords = 16;
constexpr os::Duration kCloseTimeout = 500ms;
constexpr SQLLEN kChunk = 8192;

bool ok(SQLRETURN code) {
  return SQL_SUCCEEDED(code) || code == SQL_NO_DATA;
}

SQLCHAR* chars(const std::string& text) {
  return reinterpret_cast<SQLCHAR*>(const_cast<char*>(text.c_str()));
}

// One environment a process. Never freed: sessions may outlive the end of main().
SQLHENV environment() {
  static const SQLHENV one = [] {
    SQLHENV handle = SQL_NULL_HENV;
    if (!ok(::SQLAllocHandle(SQL_HANDLE_ENV, SQL_NULL_HANDLE, &handle))) return handle;
    if (!ok(::SQLSetEnvAttr(handle, SQL_ATTR_ODBC_VERSION,
                            reinterpret_cast<SQLPOINTER>(SQL_OV_ODBC3_80), 0))) {
      ::SQLSetEnvAttr(handle, SQL_ATTR_ODBC_VERSION, reinterpret_cast<SQLPOINTER>(SQL_OV_ODBC3), 0);
    }
    return handle;
  }();
  return one;
}

std::vector<Diagnostic> records_of(SQLSMALLINT type, SQLHANDLE handle) {
  std::vector<Diagnostic> records;
  for (SQLSMALLINT i = 1; i <= kMaxRecords; ++i) {
    SQLCHAR state[6] = {}, text[2048] = {};
    SQLINTEGER native = 0;
    SQLSMALLINT size = 0;
    if (!SQL_SUCCEEDED(
            ::SQLGetDiagRec(type, handle, i, state, &native, text, sizeof text, &size))) {
      break;
    }
    records.push_back(
        {reinterpret_cast<const char*>(state), native, reinterpret_cast<const char*>(text)});
  }
  return records;
}

// {va}}lue}, as every driver manager and driver reads it.
std::string braced(const std::string& value) {
  if (value.find_first_of(";{}[](),?*=!@ ") == std::string::npos) return value;
  std::string out = "{";
  for (const char c : value) {
    out += c;
    if (c == '}') out += '}';
  }
  return out + "}";
}

// What an attempt that nobody waits for any more may still need.
struct Core {
  Dsn dsn;
  Classifier classifier;
  Watchdog watchdog;
  std::atomic<int> abandoned{0};
};

std::string connection_string(const Dsn& dsn, const ConnectRequest& request) {
  std::string out;
  const auto add = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) out += fmt::format("{}={};", key, braced(value));
  };
  if (!dsn.odbc_driver.empty()) out += fmt::format("Driver={{{}}};", dsn.odbc_driver);
  for (const auto& [key, value] : dsn.options) add(key, value);
  add("Server", request.host);
  if (request.port != 0) add("Port", std::to_string(request.port));
  add("Database", dsn.database);
  add("UID", request.user);
  add("PWD", request.password);
  if (dsn.driver == DriverKind::kPsqlodbc && dsn.option("BoolsAsChar").empty()) {
    out += "BoolsAsChar=0;";
  }
  return out;
}

class OdbcSession : public Session {
 public:
  OdbcSession(std::shared_ptr<Core> core, ConnectRequest request, std::shared_ptr<Route> route)
      : core_(std::move(core)), request_(std::move(request)), route_(std::move(route)) {
    info_.engine = core_->dsn.engine;
    info_.backend = "odbc";
    info_.driver_kind = core_->dsn.driver;
    info_.server = request_.host.empty() ? core_->dsn.server_name()
                                         : HostPort{request_.host, request_.port}.to_string();
  }
  ~OdbcSession() override;

  // On the attempt's own thread.
  Result<> open(Deadline deadline);
  // SQL Server may send a client on to another server, on any port.
  bool may_be_sent_on() const { return info_.engine == Engine::kMssql && !request_.host.empty(); }

  const SessionInfo& info() const override { return info_; }
  Phase phase() const override { return phase_.load(std::memory_order_relaxed); }
  bool lost() const override { return lost_; }
  bool overran() const override { return overran_; }
  bool in_transaction() const override { return in_transaction_; }
  bool dirty() const override { return dirty_; }
  // A transaction makes it dirty.
  bool is_pristine() const override { return !dirty_ && !lost_; }
  Result<Rows> execute(const Statement& statement, Deadline deadline) override;
  Result<> begin(Isolation isolation, bool read_only, Deadline deadline) override;
  Result<> commit(Deadline deadline) override;
  Result<> rollback(Deadline deadline) override;
  Result<> reset(Deadline deadline) override;
  Liveness look() const override;
  void abandon() override;
  void* native_handle() override {
    dirty_ = traces_ = true;
    return connection_;
  }
  std::string placeholder(int) const override { return "?"; }

 private:
  struct Call {
    Phase phase = Phase::kStatement;
    std::string what;
  };
  Error failed(const Call& call, SQLSMALLINT type, SQLHANDLE handle, bool struck);
  Error failed(const Call& call, std::vector<Diagnostic> records, bool struck);
  Result<> check_usable(const Call& call, Deadline deadline);
  Result<> end_transaction(SQLSMALLINT how, const Call& call, Deadline deadline);
  Result<SQLHSTMT> statement_for(const Statement& statement, const Call& call);
  Result<Rows> fetch(SQLHSTMT statement);
  SQLRETURN run(SQLHSTMT handle, const Statement& statement);
  bool driver_says_dead(Deadline deadline);
  void drop_prepared();
  Result<> introduce(Deadline deadline);
  Result<> check_redirect();
  Result<> simple(const std::string& sql, const Call& call, Deadline deadline);
  Watchdog::Strike strike();

  std::shared_ptr<Core> core_;
  ConnectRequest request_;
  std::shared_ptr<Route> route_;
  SQLHDBC connection_ = SQL_NULL_HDBC;
  Running<SQLHSTMT> running_;
  os::Fd socket_;  // a duplicate of the driver's own
  std::uint64_t inode_ = 0;
  bool connected_ = false;
  bool open_ = false;  // and introduced
  SessionInfo info_;
  std::atomic<Phase> phase_{Phase::kIdle};
  std::atomic<bool> lost_{false};
  bool overran_ = false;
  bool dirty_ = false;
  bool traces_ = false;
  bool in_transaction_ = false;
  bool transaction_failed_ = false;
  std::map<std::string, SQLHSTMT, std::less<>> prepared_;
};

OdbcSession::~OdbcSession() {
  if (connection_ == SQL_NULL_HDBC) return;
  if (lost_ && socket_.valid()) shut_down(socket_.get());
  {
    Watchdog::Guard guard(core_->watchdog, Deadline::after(kCloseTimeout), strike());
    drop_prepared();
    if (in_transaction_) ::SQLEndTran(SQL_HANDLE_DBC, connection_, SQL_ROLLBACK);
    if (connected_) ::SQLDisconnect(connection_);
  }
  ::SQLFreeHandle(SQL_HANDLE_DBC, connection_);
  if (inode_ != 0) SocketFinder::release(inode_);
}

Watchdog::Strike OdbcSession::strike() {
  return [this] { abandon(); };
}

void OdbcSession::abandon() {
  if (socket_.valid()) {
    shut_down(socket_.get());
  } else {
    running_.cancel([](SQLHSTMT running) { ::SQLCancel(running); });
  }
}

Liveness OdbcSession::look() const {
  if (lost_) return Liveness::kDead;
  return socket_.valid() ? look_at_socket(socket_.get()) : Liveness::kNoSocket;
}

// Truthful after an error, and only then. With MariaDB it is a ping, hence the watchdog.
bool OdbcSession::driver_says_dead(Deadline deadline) {
  if (socket_.valid() && look_at_socket(socket_.get()) == Liveness::kDead) return true;
  if (info_.engine == Engine::kSqlite) return false;
  Watchdog::Guard guard(core_->watchdog, deadline, strike());
  SQLUINTEGER dead = SQL_CD_FALSE;
  const SQLRETURN code =
      ::SQLGetConnectAttr(connection_, SQL_ATTR_CONNECTION_DEAD, &dead, sizeof dead, nullptr);
  return SQL_SUCCEEDED(code) && dead == SQL_CD_TRUE;
}

Error OdbcSession::failed(const Call& call, SQLSMALLINT type, SQLHANDLE handle, bool struck) {
  return failed(call, records_of(type, handle), struck);
}

Error OdbcSession::failed(const Call& call, std::vector<Diagnostic> records, bool struck) {
  FailedCall failure;
  failure.records = std::move(records);
  const bool connecting = call.phase == Phase::kConnect || !open_;
  // FreeTDS ends the session with its own timeout.
  const bool own_timeout = std::ranges::any_of(failure.records, [](const Diagnostic& record) {
    return record.sqlstate == "HYT00" || record.sqlstate == "HYT01";
  });
  const bool lost = struck || lost_ || connecting || own_timeout ||
                    driver_says_dead(Deadline::after(kCloseTimeout));
  if (lost && !connecting) lost_ = true;
  if (struck) overran_ = true;
  if (in_transaction_) transaction_failed_ = true;
  failure.failure = {.engine = info_.engine,
                     .driver = info_.driver_kind,
                     .phase = connecting ? Phase::kConnect : call.phase,
                     .records = {},
                     .connection_lost = lost,
                     .timed_out = struck || own_timeout,
                     .in_transaction = in_transaction_};
  failure.what = connecting ? fmt::format("connecting to {}", info_.server) : call.what;
  failure.backend = "odbc";
  failure.server = info_.server;
  if (connecting && may_be_sent_on()) failure.target = route_->target();
  failure.password = request_.password;
  phase_ = lost ? Phase::kClosed : Phase::kIdle;
  Error error = make_error(std::move(failure), core_->classifier);
  const FailureClass found = class_of(error);
  const bool dead_class = found == FailureClass::kOutcomeUnknown ||
                          found == FailureClass::kNewConnection ||
                          found == FailureClass::kCommitAmbiguous;
  if (dead_class && !connecting) lost_ = true;
  return error;
}

Result<> OdbcSession::check_usable(const Call& call, Deadline deadline) {
  if (look() == Liveness::kDead) {
    // Nothing was sent: not executed, whatever it is.
    lost_ = true;
    const Call idle{in_transaction_ ? Phase::kStatement : Phase::kIdle, call.what};
    return failed(idle, std::vector<Diagnostic>{{"08003", 0, "the server has closed the session"}},
                  false);
  }
  if (!deadline.passed()) return {};
  return Error(Code::kDeadlineExceeded,
               fmt::format("{}: the deadline had passed before anything was sent", call.what))
      .with("class", to_string(FailureClass::kStatementOnly))
      .with("phase", to_string(Phase::kIdle))
      .with("transient", "yes")
      .with("server", info_.server);
}

// Binds the values for one execution; they live in `statement`.
struct Binding {
  std::vector<SQLLEN> sizes;
  std::vector<unsigned char> bits;
};

SQLRETURN bind(SQLHSTMT handle, const Statement& statement, Binding& binding) {
  binding.sizes.resize(statement.parameters.size());
  binding.bits.resize(statement.parameters.size());
  for (std::size_t i = 0; i < statement.parameters.size(); ++i) {
    const Value& value = statement.parameters[i];
    SQLLEN& size = binding.sizes[i];
    SQLSMALLINT c_type = SQL_C_CHAR, sql_type = SQL_VARCHAR;
    SQLULEN column_size = 1;
    const void* data = nullptr;
    if (is_null(value)) {
      size = SQL_NULL_DATA;
    } else if (const auto* b = std::get_if<bool>(&value)) {
      binding.bits[i] = *b ? 1 : 0;
      c_type = SQL_C_BIT;
      sql_type = SQL_BIT;
      data = &binding.bits[i];
    } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
      c_type = SQL_C_SBIGINT;
      sql_type = SQL_BIGINT;
      data = number;
    } else if (const auto* real = std::get_if<double>(&value)) {
      c_type = SQL_C_DOUBLE;
      sql_type = SQL_DOUBLE;
      data = real;
    } else {
      const auto* blob = std::get_if<Blob>(&value);
      const std::string& bytes = blob ? blob->bytes : std::get<std::string>(value);
      if (blob != nullptr) {
        c_type = SQL_C_BINARY;
        sql_type = SQL_LONGVARBINARY;
      } else if (bytes.size() > 4000) {
        sql_type = SQL_LONGVARCHAR;
      }
      size = static_cast<SQLLEN>(bytes.size());
      column_size = std::max<SQLULEN>(1, bytes.size());
      data = bytes.data();
    }
    const SQLRETURN code = ::SQLBindParameter(
        handle, static_cast<SQLUSMALLINT>(i + 1), SQL_PARAM_INPUT, c_type, sql_type, column_size, 0,
        const_cast<void*>(data), std::max<SQLLEN>(0, size), &size);
    if (!ok(code)) return code;
  }
  return SQL_SUCCESS;
}

// Reads one column of the present row, however long it is.
Result<Value> read_column(SQLHSTMT handle, SQLUSMALLINT column, SQLSMALLINT type) {
  SQLLEN size = 0;
  switch (type) {
    case SQL_BIT: {
      unsigned char bit = 0;
      if (!ok(::SQLGetData(handle, column, SQL_C_BIT, &bit, sizeof bit, &size))) break;
      return size == SQL_NULL_DATA ? Value() : Value(bit != 0);
    }
    case SQL_TINYINT:
    case SQL_SMALLINT:
    case SQL_INTEGER:
    case SQL_BIGINT: {
      SQLBIGINT number = 0;
      if (!ok(::SQLGetData(handle, column, SQL_C_SBIGINT, &number, sizeof number, &size))) break;
      return size == SQL_NULL_DATA ? Value() : Value(static_cast<std::int64_t>(number));
    }
    case SQL_REAL:
    case SQL_FLOAT:
    case SQL_DOUBLE: {
      double number = 0;
      if (!ok(::SQLGetData(handle, column, SQL_C_DOUBLE, &number, sizeof number, &size))) break;
      return size == SQL_NULL_DATA ? Value() : Value(number);
    }
    default: {
      const bool binary = type == SQL_BINARY || type == SQL_VARBINARY || type == SQL_LONGVARBINARY;
      std::string bytes;
      char chunk[kChunk];
      while (true) {
        const SQLRETURN code = ::SQLGetData(handle, column, binary ? SQL_C_BINARY : SQL_C_CHAR,
                                            chunk, sizeof chunk, &size);
        if (code == SQL_NO_DATA) break;
        if (!SQL_SUCCEEDED(code)) return Error(Code::kInternal, "SQLGetData");
        if (size == SQL_NULL_DATA) return Value();
        const SQLLEN room = static_cast<SQLLEN>(sizeof chunk) - (binary ? 0 : 1);
        const SQLLEN got = size == SQL_NO_TOTAL ? room : std::min(size, room);
        bytes.append(chunk, static_cast<std::size_t>(got));
        if (code == SQL_SUCCESS) break;
      }
      return binary ? Value(Blob{std::move(bytes)}) : Value(std::move(bytes));
    }
  }
  return Error(Code::kInternal, "SQLGetData");
}

Result<Rows> OdbcSession::fetch(SQLHSTMT handle) {
  Rows out;
  SQLSMALLINT columns = 0;
  ::SQLNumResultCols(handle, &columns);
  SQLLEN affected = -1;
  if (ok(::SQLRowCount(handle, &affected))) out.affected = affected;
  std::vector<SQLSMALLINT> types;
  for (SQLSMALLINT i = 1; i <= columns; ++i) {
    SQLCHAR name[256] = {};
    SQLSMALLINT length = 0, type = 0, digits = 0, nullable = 0;
    SQLULEN size = 0;
    ::SQLDescribeCol(handle, static_cast<SQLUSMALLINT>(i), name, sizeof name, &length, &type, &size,
                     &digits, &nullable);
    out.columns.emplace_back(reinterpret_cast<const char*>(name));
    types.push_back(type);
  }
  while (columns > 0) {
    const SQLRETURN code = ::SQLFetch(handle);
    if (code == SQL_NO_DATA) break;
    if (!SQL_SUCCEEDED(code)) return Error(Code::kInternal, "SQLFetch");
    std::vector<Value>& row = out.rows.emplace_back();
    for (SQLSMALLINT i = 1; i <= columns; ++i) {
      DEFIB_TRY_ASSIGN(Value value, read_column(handle, static_cast<SQLUSMALLINT>(i),
                                                types[static_cast<std::size_t>(i - 1)]));
      row.push_back(std::move(value));
    }
  }
  return out;
}

void OdbcSession::drop_prepared() {
  for (const auto& [sql, handle] : prepared_) ::SQLFreeHandle(SQL_HANDLE_STMT, handle);
  prepared_.clear();
}

Result<SQLHSTMT> OdbcSession::statement_for(const Statement& statement, const Call& call) {
  const auto known = prepared_.find(statement.sql);
  if (statement.prepared && known != prepared_.end()) return known->second;
  SQLHSTMT handle = SQL_NULL_HSTMT;
  if (!ok(::SQLAllocHandle(SQL_HANDLE_STMT, connection_, &handle))) {
    return failed(call, SQL_HANDLE_DBC, connection_, false);
  }
  if (statement.prepared) {
    if (prepared_.size() >= kMaxPrepared) drop_prepared();
    if (!ok(::SQLPrepare(handle, chars(statement.sql), SQL_NTS))) {
      std::vector<Diagnostic> records = records_of(SQL_HANDLE_STMT, handle);
      ::SQLFreeHandle(SQL_HANDLE_STMT, handle);
      return failed(call, std::move(records), false);
    }
    prepared_.emplace(statement.sql, handle);
  }
  return handle;
}

SQLRETURN OdbcSession::run(SQLHSTMT handle, const Statement& statement) {
  return statement.prepared ? ::SQLExecute(handle)
                            : ::SQLExecDirect(handle, chars(statement.sql), SQL_NTS);
}

Result<Rows> OdbcSession::execute(const Statement& statement, Deadline deadline) {
  const Call call{Phase::kStatement, fmt::format("the statement '{}'", shown_sql(statement.sql))};
  DEFIB_TRY(check_usable(call, deadline));
  phase_ = Phase::kStatement;
  dirty_ = true;
  if (!traces_) traces_ = leaves_traces(info_.engine, statement.sql);
  Watchdog::Guard guard(core_->watchdog, deadline, strike());
  Result<SQLHSTMT> handle = statement_for(statement, call);
  if (!handle) {
    if (!guard.end()) return std::move(handle.error());
    return failed(call, std::vector<Diagnostic>{}, true);
  }
  running_.begin(*handle);
  Binding binding;
  SQLRETURN code = bind(*handle, statement, binding);
  if (ok(code)) code = run(*handle, statement);
  Result<Rows> rows = Rows();
  if (ok(code)) {
    rows = fetch(*handle);
    // Errors behind the first result, as SQL Server sends them.
    if (rows) {
      SQLRETURN more = SQL_NO_DATA;
      while ((more = ::SQLMoreResults(*handle)) == SQL_SUCCESS || more == SQL_SUCCESS_WITH_INFO) {
      }
      if (more == SQL_ERROR) rows = Error(Code::kInternal, "SQLMoreResults");
    }
  } else {
    rows = Error(Code::kInternal, "SQLExecute");
  }
  std::vector<Diagnostic> records;
  if (!rows) records = records_of(SQL_HANDLE_STMT, *handle);
  running_.end();
  const bool keep = statement.prepared && rows;
  if (keep) {
    ::SQLFreeStmt(*handle, SQL_CLOSE);
    ::SQLFreeStmt(*handle, SQL_RESET_PARAMS);
  } else {
    if (statement.prepared) prepared_.erase(statement.sql);
    ::SQLFreeHandle(SQL_HANDLE_STMT, *handle);
  }
  const bool struck = guard.end();
  if (!rows || struck) return failed(call, std::move(records), struck);
  phase_ = Phase::kIdle;
  return rows;
}

Result<> OdbcSession::simple(const std::string& sql, const Call& call, Deadline deadline) {
  DEFIB_TRY(check_usable(call, deadline));
  phase_ = call.phase;
  SQLHSTMT handle = SQL_NULL_HSTMT;
  Watchdog::Guard guard(core_->watchdog, deadline, strike());
  SQLRETURN code = ::SQLAllocHandle(SQL_HANDLE_STMT, connection_, &handle);
  if (ok(code)) {
    code = ::SQLExecDirect(handle, chars(sql), SQL_NTS);
  }
  std::vector<Diagnostic> records;
  if (!ok(code)) records = records_of(SQL_HANDLE_STMT, handle);
  ::SQLFreeHandle(SQL_HANDLE_STMT, handle);
  const bool struck = guard.end();
  if (!ok(code) || struck) return failed(call, std::move(records), struck);
  phase_ = Phase::kIdle;
  return {};
}

Result<> OdbcSession::begin(Isolation isolation, bool read_only, Deadline deadline) {
  const Call call{Phase::kIdle, "beginning a transaction"};
  DEFIB_TRY(check_usable(call, deadline));
  dirty_ = true;
  if (isolation != Isolation::kDefault && info_.engine != Engine::kSqlite) {
    // For the next transaction alone in MariaDB; for the session in SQL Server, where reset()
    // takes it back.
    if (info_.engine != Engine::kPostgresql) {
      DEFIB_TRY(simple(fmt::format("SET TRANSACTION ISOLATION LEVEL {}", to_string(isolation)),
                       call, deadline));
    }
  }
  Watchdog::Guard guard(core_->watchdog, deadline, strike());
  const SQLRETURN code =
      ::SQLSetConnectAttr(connection_, SQL_ATTR_AUTOCOMMIT,
                          reinterpret_cast<SQLPOINTER>(SQL_AUTOCOMMIT_OFF), SQL_IS_UINTEGER);
  const bool struck = guard.end();
  if (!ok(code) || struck) return failed(call, SQL_HANDLE_DBC, connection_, struck);
  in_transaction_ = true;
  transaction_failed_ = false;
  if (info_.engine != Engine::kPostgresql) return {};
  std::string sql = "SET TRANSACTION";
  if (isolation != Isolation::kDefault)
    sql += fmt::format(" ISOLATION LEVEL {}", to_string(isolation));
  if (read_only) sql += " READ ONLY";
  if (sql == "SET TRANSACTION") return {};
  return simple(sql, call, deadline);
}

Result<> OdbcSession::end_transaction(SQLSMALLINT how, const Call& call, Deadline deadline) {
  phase_ = call.phase;
  Watchdog::Guard guard(core_->watchdog, deadline, strike());
  const SQLRETURN code = ::SQLEndTran(SQL_HANDLE_DBC, connection_, how);
  std::vector<Diagnostic> records;
  if (!ok(code)) records = records_of(SQL_HANDLE_DBC, connection_);
  const bool struck = guard.end();
  if (struck || !ok(code)) return failed(call, std::move(records), struck);
  Watchdog::Guard second(core_->watchdog, deadline, strike());
  const SQLRETURN on =
      ::SQLSetConnectAttr(connection_, SQL_ATTR_AUTOCOMMIT,
                          reinterpret_cast<SQLPOINTER>(SQL_AUTOCOMMIT_ON), SQL_IS_UINTEGER);
  in_transaction_ = false;
  // The transaction has ended as it was asked to; only the session is of no more use.
  if (second.end() || !ok(on)) lost_ = true;
  phase_ = lost_ ? Phase::kClosed : Phase::kIdle;
  return {};
}

Result<> OdbcSession::commit(Deadline deadline) {
  const Call call{Phase::kCommit, "the commit"};
  DEFIB_TRY(check_usable(call, deadline));
  if (transaction_failed_) {
    // Every driver would answer SUCCESS, and store half of it or nothing.
    DEFIB_TRY(rollback(deadline));
    return Error(Code::kCommitRolledBack,
                 "a statement of the transaction had failed, so it was rolled back instead")
        .with("class", to_string(FailureClass::kRetryNow))
        .with("phase", to_string(Phase::kCommit))
        .with("transient", "yes")
        .with("server", info_.server);
  }
  return end_transaction(SQL_COMMIT, call, deadline);
}

Result<> OdbcSession::rollback(Deadline deadline) {
  if (lost_ || !in_transaction_) return {};
  const Call call{Phase::kStatement, "rolling back"};
  DEFIB_TRY(check_usable(call, deadline));
  return end_transaction(SQL_ROLLBACK, call, deadline);
}

Result<> OdbcSession::reset(Deadline deadline) {
  DEFIB_TRY(rollback(deadline));
  if (!dirty_) return {};
  const Call call{Phase::kIdle, "resetting the session"};
  if (info_.engine == Engine::kPostgresql) {
    DEFIB_TRY(check_usable(call, deadline));
    Watchdog::Guard guard(core_->watchdog, deadline, strike());
    drop_prepared();  // a round trip each
    if (guard.end()) return failed(call, std::vector<Diagnostic>{}, true);
    // What psqlodbc sets when it connects, and relies on.
    for (const char* sql : {"DISCARD ALL",
                            "SET DateStyle = 'ISO'; SET extra_float_digits = 2; SET "
                            "client_encoding = 'UTF8'"}) {
      DEFIB_TRY(simple(sql, call, deadline));
    }
  } else if (info_.driver_kind == DriverKind::kMsodbcsql) {
    ::SQLSetConnectAttr(connection_, SQL_ATTR_RESET_CONNECTION,
                        reinterpret_cast<SQLPOINTER>(SQL_RESET_CONNECTION_YES), SQL_IS_UINTEGER);
  } else if (traces_) {
    return Error(Code::kNotSupportedByDriver,
                 fmt::format("{} cannot reset a session, and this one may hold traces of its "
                             "borrower",
                             to_string(info_.driver_kind)))
        .with("driver", to_string(info_.driver_kind))
        .with("class", to_string(FailureClass::kNewConnection));
  }
  if (info_.engine == Engine::kMssql) {
    DEFIB_TRY(simple("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", call, deadline));
  }
  dirty_ = traces_ = false;
  return {};
}

// What the session has to know of its server.
Result<> OdbcSession::introduce(Deadline deadline) {
  const char* sql = nullptr;
  switch (info_.engine) {
    case Engine::kPostgresql:
      sql =
          "SELECT pg_backend_pid(), (SELECT backend_start::text FROM pg_stat_activity WHERE pid ="
          " pg_backend_pid()), CASE WHEN pg_is_in_recovery() THEN 1 ELSE 0 END, "
          "current_setting('server_version'), pg_postmaster_start_time()::text || '/' || "
          "coalesce((SELECT stats_reset::text FROM pg_stat_bgwriter), '')";
      break;
    case Engine::kMariadb:
    case Engine::kMysql:
      sql = "SELECT CONNECTION_ID(), '', @@global.read_only, VERSION(), ''";
      break;
    case Engine::kMssql:
      sql =
          "SELECT @@SPID, '', CASE WHEN DATABASEPROPERTYEX(DB_NAME(), 'Updateability') = "
          "'READ_ONLY' THEN 1 ELSE 0 END, @@VERSION, ''";
      break;
    case Engine::kSqlite:
      sql = "SELECT 0, '', 0, sqlite_version(), ''";
      break;
    default:
      return {};
  }
  DEFIB_TRY_ASSIGN(const Rows rows, execute(sql, deadline));
  if (rows.rows.empty() || rows.rows.front().size() < 5) return {};
  const std::vector<Value>& row = rows.rows.front();
  info_.server_id = to_text(row[0]);
  info_.server_since = to_text(row[1]);
  info_.read_only = to_text(row[2]) == "1";
  info_.server_version = to_text(row[3]);
  info_.incarnation = to_text(row[4]);
  const bool is_mariadb = info_.server_version.find("MariaDB") != std::string::npos;
  if (info_.engine == Engine::kMysql && is_mariadb) info_.engine = Engine::kMariadb;
  dirty_ = traces_ = false;
  return {};
}

// The driver follows by itself, and does not tell: the socket's other side does.
Result<> OdbcSession::check_redirect() {
  const HostPort peer = peer_of(socket_.get());
  if (!may_be_sent_on() || route_->is_gateway(peer)) return {};
  info_.redirected_to = peer.to_string();
  if (core_->dsn.redirects_allowed() > 0) return {};
  return Error(Code::kRedirectRefused,
               fmt::format("{} sends its clients on to {}, and max_redirects=0 forbids to follow",
                           info_.server, info_.redirected_to))
      .with("class", to_string(FailureClass::kOperator))
      .with("phase", to_string(Phase::kConnect))
      .with("backend", "odbc")
      .with("driver", to_string(info_.driver_kind))
      .with("server", info_.server)
      .with("target", info_.redirected_to)
      .with("transient", "no");
}

Result<> OdbcSession::open(Deadline deadline) {
  const Call call{Phase::kConnect, fmt::format("connecting to {}", info_.server)};
  if (!ok(::SQLAllocHandle(SQL_HANDLE_DBC, environment(), &connection_))) {
    return failed(call, SQL_HANDLE_ENV, environment(), false);
  }
  const std::int64_t left = std::max<std::int64_t>(0, deadline.remaining().count());
  const auto seconds =
      deadline.is_never() ? SQLULEN{60} : static_cast<SQLULEN>(left / 1'000'000'000 + 1);
  // ODBC passes an attribute that is a number where others are addresses.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  ::SQLSetConnectAttr(connection_, SQL_ATTR_LOGIN_TIMEOUT, reinterpret_cast<SQLPOINTER>(seconds),
                      SQL_IS_UINTEGER);
  const std::string text = connection_string(core_->dsn, request_);
  if (may_be_sent_on()) {
    DEFIB_TRY_ASSIGN(auto addresses, resolve(request_.host, deadline));
    route_->set_addresses(std::move(addresses));
  }
  SocketFinder finder;
  const SQLRETURN code = ::SQLDriverConnect(connection_, nullptr, chars(text), SQL_NTS, nullptr, 0,
                                            nullptr, SQL_DRIVER_NOPROMPT);
  if (!ok(code)) return failed(call, SQL_HANDLE_DBC, connection_, false);
  connected_ = true;
  SQLCHAR name[128] = {}, version[64] = {};
  SQLSMALLINT size = 0;
  ::SQLGetInfo(connection_, SQL_DRIVER_NAME, name, sizeof name, &size);
  ::SQLGetInfo(connection_, SQL_DRIVER_VER, version, sizeof version, &size);
  info_.driver = fmt::format("{} {}", reinterpret_cast<const char*>(name),
                             reinterpret_cast<const char*>(version));
  if (request_.port != 0) {
    const int fd = finder.find(route_->port(), [&](const std::string& padding) {
      SQLHSTMT handle = SQL_NULL_HSTMT;
      if (!ok(::SQLAllocHandle(SQL_HANDLE_STMT, connection_, &handle))) return false;
      const std::string sql = "SELECT 1 /* " + padding + " */";
      const bool spoken = ok(::SQLExecDirect(handle, chars(sql), SQL_NTS));
      ::SQLFreeHandle(SQL_HANDLE_STMT, handle);
      return spoken;
    });
    inode_ = finder.claimed_inode();
    if (fd >= 0) {
      socket_ = duplicate(fd);
      bound_partition(socket_.get());
      DEFIB_TRY(check_redirect());
    }
  }
  const bool has_socket = socket_.valid();
  info_.can = {
      .reset = info_.engine == Engine::kPostgresql || info_.driver_kind == DriverKind::kMsodbcsql,
      .deadline = has_socket || info_.engine == Engine::kSqlite,
      .connect_deadline = route_->watched(),
      .xid_resolution = info_.engine == Engine::kPostgresql,
      .socket_liveness = has_socket,
      .kill_session = info_.engine != Engine::kSqlite,
      .redirects_followed = info_.driver_kind == DriverKind::kFreetds ? 1 : 0};
  DEFIB_TRY(introduce(deadline));
  open_ = true;
  return {};
}

// One attempt to connect, shared by who waits for it and the thread that does it.
struct Attempt {
  std::shared_ptr<Route> route;
  std::mutex mutex;
  std::condition_variable done;
  bool abandoned = false;                                   // guarded by mutex
  std::optional<Result<std::unique_ptr<Session>>> outcome;  // guarded by mutex
};

void run_attempt(const std::shared_ptr<Core>& core, const std::shared_ptr<Attempt>& attempt,
                 const ConnectRequest& request, Deadline deadline) {
  auto session = std::make_unique<OdbcSession>(core, request, attempt->route);
  Result<> opened;
  const auto open = [&](bool watched) {
    if (watched) attempt->route->set_watched();
    opened = session->open(deadline);
  };
  if (request.port != 0) {
    watch_connects(open, [&](int fd, const HostPort& address) {
      return attempt->route->goes_to(fd, address);
    });
  } else {
    open(false);
  }
  attempt->route->arrived();
  bool abandoned = false;
  {
    const std::lock_guard lock(attempt->mutex);
    abandoned = attempt->abandoned;
    if (!abandoned) {
      if (opened) {
        attempt->outcome.emplace(std::unique_ptr<Session>(std::move(session)));
      } else {
        attempt->outcome.emplace(opened.error());
      }
    }
  }
  attempt->done.notify_one();
  session.reset();
  if (abandoned) --core->abandoned;
}

class OdbcBackend : public Backend {
 public:
  OdbcBackend(Dsn dsn, const Classifier& classifier) : core_(std::make_shared<Core>()) {
    core_->dsn = std::move(dsn);
    core_->classifier = classifier;
  }
  std::string name() const override { return "odbc"; }
  int abandoned() const override { return core_->abandoned.load(); }

  Result<std::unique_ptr<Session>> connect(const ConnectRequest& request,
                                           Deadline deadline) override {
    const std::string server = request.host.empty()
                                   ? core_->dsn.server_name()
                                   : HostPort{request.host, request.port}.to_string();
    const auto route = std::make_shared<Route>(HostPort{request.host, request.port});
    const auto overrun = [&](const std::string& why) {
      FailedCall call;
      if (core_->dsn.engine == Engine::kMssql) call.target = route->target();
      call.failure = {.engine = core_->dsn.engine,
                      .driver = core_->dsn.driver,
                      .phase = Phase::kConnect,
                      .records = {},
                      .connection_lost = true,
                      .timed_out = true};
      call.what = fmt::format("connecting to {} {}", server, why);
      call.backend = "odbc";
      call.server = server;
      return make_error(std::move(call), core_->classifier);
    };
    if (core_->abandoned >= kMaxAbandoned) {
      return overrun(fmt::format("was not begun, because {} attempts hang in the driver already",
                                 core_->abandoned.load()));
    }
    auto attempt = std::make_shared<Attempt>();
    attempt->route = route;
    std::thread([core = core_, attempt, request, deadline] {
      run_attempt(core, attempt, request, deadline);
    }).detach();
    std::unique_lock lock(attempt->mutex);
    const auto is_done = [&] { return attempt->outcome.has_value(); };
    if (deadline.is_never()) {
      attempt->done.wait(lock, is_done);
    } else if (!attempt->done.wait_for(lock, std::max(os::Duration(0), deadline.remaining()),
                                       is_done)) {
      attempt->abandoned = true;
      ++core_->abandoned;
      lock.unlock();
      route->cut();
      return overrun(route->watched()
                         ? "(the driver's attempt was cut)"
                         : "(the driver's attempt goes on until its own login timeout)");
    }
    return std::move(*attempt->outcome);
  }

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_odbc_backend(Dsn dsn, const Classifier& classifier) {
  if (dsn.kind != Dsn::Kind::kOdbc) {
    return Error(Code::kInvalidArgument, fmt::format("{} is not for ODBC", dsn.redacted()));
  }
  return std::unique_ptr<Backend>(std::make_unique<OdbcBackend>(std::move(dsn), classifier));
}

std::vector<std::string> odbc_drivers() {
  std::vector<std::string> names;
  SQLCHAR name[256] = {}, attributes[1024] = {};
  SQLSMALLINT name_size = 0, attributes_size = 0;
  SQLUSMALLINT direction = SQL_FETCH_FIRST;
  while (SQL_SUCCEEDED(::SQLDrivers(environment(), direction, name, sizeof name, &name_size,
                                    attributes, sizeof attributes, &attributes_size))) {
    names.emplace_back(reinterpret_cast<const char*>(name));
    direction = SQL_FETCH_NEXT;
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace defib::connection
