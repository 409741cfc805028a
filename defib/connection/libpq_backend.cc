#include "defib/connection/libpq_backend.h"

#include <fmt/core.h>
#include <libpq-fe.h>

#include <atomic>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include "defib/connection/failure.h"
#include "defib/connection/socket.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxPrepared = 256;

struct FreeResult {
  void operator()(PGresult* result) const { ::PQclear(result); }
};
using ResultPtr = std::unique_ptr<PGresult, FreeResult>;
struct CloseConnection {
  void operator()(PGconn* connection) const { ::PQfinish(connection); }
};
using ConnectionPtr = std::unique_ptr<PGconn, CloseConnection>;

void ignore_notice(void*, const PGresult*) {}

std::string field_of(const PGresult* result, int code) {
  const char* text = ::PQresultErrorField(result, code);
  return text == nullptr ? std::string() : std::string(text);
}

// "FATAL:  28P01: password authentication failed ...\nLOCATION: ..." as verbose messages have it.
Diagnostic from_verbose(std::string_view text) {
  Diagnostic record;
  record.message = text.substr(0, text.find("\nLOCATION"));
  for (const std::string_view mark : {"FATAL:  ", "ERROR:  "}) {
    const std::size_t at = text.find(mark);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = text.substr(at + mark.size());
    if (rest.size() > 6 && rest[5] == ':') record.sqlstate = rest.substr(0, 5);
  }
  return record;
}

// Numbers of pg_type.dat, which are part of the protocol.
enum TypeId : Oid {
  kBool = 16,
  kBytea = 17,
  kInt8 = 20,
  kInt2 = 21,
  kInt4 = 23,
  kOid = 26,
  kFloat4 = 700,
  kFloat8 = 701,
};

template <typename T>
Value parsed(std::string_view text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::string(text);  // NaN and the like
  return number;
}

Value value_of(const PGresult* result, int row, int column) {
  if (::PQgetisnull(result, row, column) != 0) return {};
  const std::string_view text(::PQgetvalue(result, row, column),
                              static_cast<std::size_t>(::PQgetlength(result, row, column)));
  switch (::PQftype(result, column)) {
    case kBool:
      return text == "t";
    case kInt2:
    case kInt4:
    case kInt8:
    case kOid:
      return parsed<std::int64_t>(text);
    case kFloat4:
    case kFloat8:
      return parsed<double>(text);
    case kBytea: {
      std::size_t size = 0;
      unsigned char* bytes =
          ::PQunescapeBytea(reinterpret_cast<const unsigned char*>(text.data()), &size);
      Blob blob{std::string(reinterpret_cast<const char*>(bytes), size)};
      ::PQfreemem(bytes);
      return blob;
    }
    default:
      return std::string(text);
  }
}

Rows rows_of(const PGresult* result) {
  Rows out;
  const int columns = ::PQnfields(result);
  for (int c = 0; c < columns; ++c) out.columns.emplace_back(::PQfname(result, c));
  const int rows = ::PQntuples(result);
  out.rows.reserve(static_cast<std::size_t>(rows));
  for (int r = 0; r < rows; ++r) {
    std::vector<Value>& row = out.rows.emplace_back();
    row.reserve(static_cast<std::size_t>(columns));
    for (int c = 0; c < columns; ++c) row.push_back(value_of(result, r, c));
  }
  const std::string_view affected = ::PQcmdTuples(const_cast<PGresult*>(result));
  if (!affected.empty()) {
    std::from_chars(affected.data(), affected.data() + affected.size(), out.affected);
  }
  return out;
}

// Parameters as libpq takes them; bytes in binary, the rest as text whose type the server infers.
struct Parameters {
  std::vector<std::string> texts;
  std::vector<const char*> values;
  std::vector<int> lengths, formats;
  std::vector<Oid> types;

  explicit Parameters(const std::vector<Value>& from) {
    texts.reserve(from.size());
    for (const Value& value : from) {
      const bool blob = std::holds_alternative<Blob>(value);
      texts.push_back(to_text(value));
      values.push_back(is_null(value) ? nullptr : texts.back().data());
      lengths.push_back(static_cast<int>(texts.back().size()));
      formats.push_back(blob ? 1 : 0);
      types.push_back(blob ? static_cast<Oid>(kBytea) : 0);
    }
  }
  int count() const { return static_cast<int>(values.size()); }
};

// 26000: the plan is gone. 0A000: its tables have changed, or the statement asks for what the
// server cannot do, prepared or not.
bool was_refused_as_prepared(const Error& error) {
  const std::string_view state = error.field("sqlstate");
  return state == "26000" || state == "0A000";
}

class LibpqSession : public Session {
 public:
  LibpqSession(ConnectionPtr connection, ConnectRequest request, const Classifier& classifier)
      : connection_(std::move(connection)),
        request_(std::move(request)),
        classifier_(classifier),
        duplicate_(duplicate(::PQsocket(connection_.get()))) {
    ::PQsetNoticeReceiver(connection_.get(), keep_farewell, this);
    info_.engine = Engine::kPostgresql;
    info_.backend = "libpq";
    info_.driver_kind = DriverKind::kLibpq;
    const int version = ::PQlibVersion();
    info_.driver = fmt::format("libpq {}.{}", version / 10000, version % 10000);
    info_.server = HostPort{request_.host, request_.port}.to_string();
    info_.can = {.reset = true,
                 .deadline = true,
                 .connect_deadline = true,
                 .xid_resolution = true,
                 .socket_liveness = true,
                 .kill_session = true};
  }
  ~LibpqSession() override {
    if (lost_) shut_down(duplicate_.get());
  }

  const SessionInfo& info() const override { return info_; }
  Phase phase() const override { return phase_.load(std::memory_order_relaxed); }
  bool lost() const override { return lost_; }
  bool overran() const override { return overran_; }
  bool dirty() const override { return dirty_; }
  // A transaction makes it dirty.
  bool is_pristine() const override { return !dirty_ && !lost_; }
  bool in_transaction() const override {
    const PGTransactionStatusType status = ::PQtransactionStatus(connection_.get());
    return status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
  }

  Result<> introduce(Deadline deadline);
  Result<Rows> execute(const Statement& statement, Deadline deadline) override;
  Result<> begin(Isolation isolation, bool read_only, Deadline deadline) override;
  Result<> commit(Deadline deadline) override;
  Result<> rollback(Deadline deadline) override;
  Result<> reset(Deadline deadline) override;
  Liveness look() const override;
  void abandon() override { shut_down(duplicate_.get()); }
  void* native_handle() override {
    dirty_ = true;
    return connection_.get();
  }
  std::string placeholder(int n) const override { return fmt::format("${}", n); }

 private:
  struct Call {
    Phase phase = Phase::kStatement;
    std::string what;
    bool in_transaction = false;
  };
  Result<ResultPtr> query(const char* sql, Call call, Deadline deadline);
  Result<ResultPtr> finish_call(const Call& call, Deadline deadline);
  Result<> check_usable(const Call& call, Deadline deadline);
  Result<> prepare(const Statement& statement, std::string& name, const Call& call,
                   Deadline deadline);
  Result<Rows> execute_once(const Statement& statement, Deadline deadline);
  bool has_stale_plan(const Error& error) const;
  void forget_plan(const std::string& sql, Deadline deadline);
  Error copy_refused(const Call& call);
  bool flush(Deadline deadline);
  Error failed(const Call& call, const PGresult* result, bool timed_out);
  void take_farewell();
  static void keep_farewell(void* session, const PGresult* notice);
  Error not_sent(const Call& call);

  ConnectionPtr connection_;
  ConnectRequest request_;
  const Classifier& classifier_;
  os::Fd duplicate_;
  SessionInfo info_;
  std::atomic<Phase> phase_{Phase::kIdle};
  Diagnostic farewell_;
  bool lost_ = false;
  bool overran_ = false;
  bool dirty_ = false;
  std::map<std::string, std::string, std::less<>> prepared_;  // text -> name
  // On the server; also those that are in prepared_ no more.
  std::size_t plans_ = 0;
  int next_name_ = 1;
  std::string raised_in_;  // the server's function that raised the last error
};

class LibpqBackend : public Backend {
 public:
  LibpqBackend(Dsn dsn, const Classifier& classifier)
      : dsn_(std::move(dsn)), classifier_(classifier) {}
  std::string name() const override { return "libpq"; }
  Result<std::unique_ptr<Session>> connect(const ConnectRequest& request,
                                           Deadline deadline) override;

 private:
  Result<std::unique_ptr<Session>> connect_to(const ConnectRequest& request,
                                              const std::string& address, Deadline deadline);

  Dsn dsn_;
  const Classifier& classifier_;
};

void LibpqSession::keep_farewell(void* session, const PGresult* notice) {
  if (field_of(notice, PG_DIAG_SEVERITY_NONLOCALIZED) != "FATAL") return;
  static_cast<LibpqSession*>(session)->farewell_ = {
      .sqlstate = field_of(notice, PG_DIAG_SQLSTATE),
      .native = 0,
      .message = field_of(notice, PG_DIAG_MESSAGE_PRIMARY)};
}

Error LibpqSession::failed(const Call& call, const PGresult* result, bool timed_out) {
  FailedCall failure;
  raised_in_.clear();
  if (result != nullptr) {
    raised_in_ = field_of(result, PG_DIAG_SOURCE_FUNCTION);
    Diagnostic record{.sqlstate = field_of(result, PG_DIAG_SQLSTATE),
                      .message = field_of(result, PG_DIAG_MESSAGE_PRIMARY)};
    if (record.message.empty()) record.message = ::PQresultErrorMessage(result);
    const std::string detail = field_of(result, PG_DIAG_MESSAGE_DETAIL);
    if (!detail.empty()) record.message += ": " + detail;
    failure.records.push_back(std::move(record));
  }
  const bool broken = ::PQstatus(connection_.get()) == CONNECTION_BAD;
  if (failure.records.empty() && !farewell_.sqlstate.empty()) {
    failure.records.push_back(farewell_);
  }
  if ((broken || lost_) && failure.records.empty()) {
    failure.records.push_back({.sqlstate = {}, .message = ::PQerrorMessage(connection_.get())});
  }
  if (broken || timed_out) lost_ = true;
  if (timed_out) overran_ = true;
  failure.failure = {.engine = Engine::kPostgresql,
                     .driver = DriverKind::kLibpq,
                     .phase = call.phase,
                     .records = {},
                     .connection_lost = lost_,
                     .timed_out = timed_out,
                     .in_transaction = call.in_transaction};
  failure.what = call.what;
  failure.backend = "libpq";
  failure.server = info_.server;
  failure.password = request_.password;
  phase_ = lost_ ? Phase::kClosed : Phase::kIdle;
  return make_error(std::move(failure), classifier_);
}

// The session had died before anything was sent on it: nothing was executed.
Error LibpqSession::not_sent(const Call& call) {
  Call idle = call;
  idle.phase = call.in_transaction ? Phase::kStatement : Phase::kIdle;
  lost_ = true;
  return failed(idle, nullptr, false);
}

// The server's last words: libpq takes what comes unasked for a notice, and only the second read
// meets the end.
void LibpqSession::take_farewell() {
  for (int i = 0; i < 3 && ::PQstatus(connection_.get()) != CONNECTION_BAD; ++i) {
    ::PQconsumeInput(connection_.get());
    if (::PQisBusy(connection_.get()) != 0) break;
    while (ResultPtr result{::PQgetResult(connection_.get())}) {
    }
  }
}

Result<> LibpqSession::check_usable(const Call& call, Deadline deadline) {
  if (!lost_ && look_at_socket(duplicate_.get()) == Liveness::kDead) {
    take_farewell();
    lost_ = true;
  }
  if (lost_ || ::PQstatus(connection_.get()) == CONNECTION_BAD) return not_sent(call);
  if (deadline.passed()) {
    return Error(Code::kDeadlineExceeded,
                 fmt::format("{}: the deadline had passed before anything was sent", call.what))
        .with("class", to_string(FailureClass::kStatementOnly))
        .with("phase", to_string(Phase::kIdle))
        .with("transient", "yes")
        .with("server", info_.server);
  }
  return {};
}

bool LibpqSession::flush(Deadline deadline) {
  while (true) {
    const int left = ::PQflush(connection_.get());
    if (left <= 0) return true;  // an error shows when the answer is read
    // A socket that can always be read never lets the wait see the deadline.
    if (deadline.passed()) return false;
    if (!wait_for_socket(::PQsocket(connection_.get()), true, true, deadline)) return false;
    ::PQconsumeInput(connection_.get());
  }
}

// A stream of COPY has to be read by other functions, and to its end: the session goes instead.
Error LibpqSession::copy_refused(const Call& call) {
  lost_ = true;
  phase_ = Phase::kClosed;
  shut_down(duplicate_.get());
  return Error(Code::kNotSupportedByDriver,
               fmt::format("{}: the server answers with a stream of COPY, which a session does not "
                           "read; the session was closed, and what the statement changes may have "
                           "been done",
                           call.what))
      .with("class", to_string(FailureClass::kNever))
      .with("phase", to_string(call.phase))
      .with("backend", "libpq")
      .with("server", info_.server)
      .with("transient", "no")
      .suggest("ask for the rows with SELECT, or run COPY with libpq on native_handle()");
}

// Reads all results of what was sent; the last one, or the first that is an error.
Result<ResultPtr> LibpqSession::finish_call(const Call& call, Deadline deadline) {
  PGconn* connection = connection_.get();
  if (!flush(deadline)) return failed(call, nullptr, true);
  ResultPtr last;
  bool is_error = false;
  while (true) {
    // The wait alone does not see the deadline while more and more arrives.
    if (deadline.passed()) return failed(call, nullptr, true);
    while (::PQisBusy(connection) != 0) {
      if (deadline.passed()) return failed(call, nullptr, true);
      if (!wait_for_socket(::PQsocket(connection), true, false, deadline)) {
        return failed(call, nullptr, true);
      }
      if (::PQconsumeInput(connection) == 0 && ::PQisBusy(connection) != 0) break;
    }
    ResultPtr result(::PQgetResult(connection));
    if (!result) break;
    const ExecStatusType status = ::PQresultStatus(result.get());
    if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) return copy_refused(call);
    if (status == PGRES_COPY_IN) ::PQputCopyEnd(connection, "COPY is not supported here");
    if (is_error) continue;
    is_error = status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE;
    last = std::move(result);
  }
  if (is_error || !last) return failed(call, last.get(), false);
  if (::PQstatus(connection) == CONNECTION_BAD) return failed(call, nullptr, false);
  phase_ = Phase::kIdle;
  return last;
}

Result<ResultPtr> LibpqSession::query(const char* sql, Call call, Deadline deadline) {
  call.in_transaction = in_transaction();
  DEFIB_TRY(check_usable(call, deadline));
  phase_ = call.phase;
  if (::PQsendQuery(connection_.get(), sql) == 0) return failed(call, nullptr, false);
  return finish_call(call, deadline);
}

Result<> LibpqSession::prepare(const Statement& statement, std::string& name, const Call& call,
                               Deadline deadline) {
  const auto known = prepared_.find(statement.sql);
  if (known != prepared_.end()) {
    name = known->second;
    return {};
  }
  if (plans_ >= kMaxPrepared) {
    DEFIB_TRY(query("DEALLOCATE ALL", {Phase::kStatement, "DEALLOCATE ALL"}, deadline));
    prepared_.clear();
    plans_ = 0;
  }
  name = fmt::format("defib_{}", next_name_++);
  const Parameters parameters(statement.parameters);
  if (::PQsendPrepare(connection_.get(), name.c_str(), statement.sql.c_str(), parameters.count(),
                      parameters.types.data()) == 0) {
    return failed(call, nullptr, false);
  }
  DEFIB_TRY(finish_call(call, deadline));
  prepared_.emplace(statement.sql, name);
  ++plans_;
  return {};
}

// The plan alone is to blame, and nothing was executed: the server looked at it before it began.
bool LibpqSession::has_stale_plan(const Error& error) const {
  return error.field("sqlstate") == "26000" || raised_in_ == "RevalidateCachedQuery";
}

void LibpqSession::forget_plan(const std::string& sql, Deadline deadline) {
  const auto plan = prepared_.extract(sql);
  // A failed transaction takes no order. The name stays until reset(), or until there are many.
  if (plan.empty() || lost_ || in_transaction()) return;
  const std::string order = "DEALLOCATE " + plan.mapped();
  if (query(order.c_str(), {Phase::kStatement, order}, deadline)) --plans_;
}

// A plan of an earlier call may have become stale: it is made anew, once.
Result<Rows> LibpqSession::execute(const Statement& statement, Deadline deadline) {
  const bool was_prepared = statement.prepared && prepared_.contains(statement.sql);
  Result<Rows> rows = execute_once(statement, deadline);
  if (rows || !statement.prepared || !was_refused_as_prepared(rows.error())) return rows;
  const bool again = was_prepared && has_stale_plan(rows.error());
  forget_plan(statement.sql, deadline);
  if (!again || lost_ || in_transaction()) return rows;
  rows = execute_once(statement, deadline);
  if (!rows && was_refused_as_prepared(rows.error())) forget_plan(statement.sql, deadline);
  return rows;
}

Result<Rows> LibpqSession::execute_once(const Statement& statement, Deadline deadline) {
  const Call call{.phase = Phase::kStatement,
                  .what = fmt::format("the statement '{}'", shown_sql(statement.sql)),
                  .in_transaction = in_transaction()};
  DEFIB_TRY(check_usable(call, deadline));
  phase_ = Phase::kStatement;
  dirty_ = true;
  const Parameters parameters(statement.parameters);
  int sent = 0;
  std::string name;
  if (statement.prepared) {
    DEFIB_TRY(prepare(statement, name, call, deadline));
    phase_ = Phase::kStatement;
    sent = ::PQsendQueryPrepared(connection_.get(), name.c_str(), parameters.count(),
                                 parameters.values.data(), parameters.lengths.data(),
                                 parameters.formats.data(), 0);
  } else if (parameters.count() == 0) {
    sent = ::PQsendQuery(connection_.get(), statement.sql.c_str());
  } else {
    sent = ::PQsendQueryParams(connection_.get(), statement.sql.c_str(), parameters.count(),
                               parameters.types.data(), parameters.values.data(),
                               parameters.lengths.data(), parameters.formats.data(), 0);
  }
  if (sent == 0) return failed(call, nullptr, false);
  DEFIB_TRY_ASSIGN(const ResultPtr result, finish_call(call, deadline));
  return rows_of(result.get());
}

Result<> LibpqSession::begin(Isolation isolation, bool read_only, Deadline deadline) {
  std::string sql = "BEGIN";
  if (isolation != Isolation::kDefault) {
    sql += fmt::format(" ISOLATION LEVEL {}", to_string(isolation));
  }
  if (read_only) sql += " READ ONLY";
  dirty_ = true;
  DEFIB_TRY(query(sql.c_str(), {Phase::kIdle, "beginning a transaction"}, deadline));
  return {};
}

Result<> LibpqSession::commit(Deadline deadline) {
  DEFIB_TRY_ASSIGN(const ResultPtr result,
                   query("COMMIT", {Phase::kCommit, "the commit"}, deadline));
  const std::string_view tag = ::PQcmdStatus(result.get());
  if (tag == "COMMIT") return {};
  return Error(Code::kCommitRolledBack,
               fmt::format("the server answered COMMIT with {}: nothing of the transaction is "
                           "stored",
                           tag))
      .with("class", to_string(FailureClass::kRetryNow))
      .with("phase", to_string(Phase::kCommit))
      .with("transient", "yes")
      .with("server", info_.server);
}

Result<> LibpqSession::rollback(Deadline deadline) {
  if (lost_ || !in_transaction()) return {};
  DEFIB_TRY(query("ROLLBACK", {Phase::kStatement, "rolling back"}, deadline));
  return {};
}

Result<> LibpqSession::reset(Deadline deadline) {
  DEFIB_TRY(rollback(deadline));
  if (!dirty_) return {};
  DEFIB_TRY(query("DISCARD ALL", {Phase::kIdle, "resetting the session"}, deadline));
  prepared_.clear();
  plans_ = 0;
  dirty_ = false;
  return {};
}

Liveness LibpqSession::look() const {
  if (lost_) return Liveness::kDead;
  const Liveness first = look_at_socket(duplicate_.get());
  if (first != Liveness::kSuspicious) return first;
  // A notice, a changed parameter, or a ticket of TLS: libpq knows them and takes them in.
  if (::PQconsumeInput(connection_.get()) == 0) return Liveness::kDead;
  if (::PQstatus(connection_.get()) == CONNECTION_BAD) return Liveness::kDead;
  return look_at_socket(duplicate_.get());
}

// What the session has to know of its server, in one round trip.
Result<> LibpqSession::introduce(Deadline deadline) {
  constexpr const char* kIntroduction =
      "SELECT pg_backend_pid(), (SELECT backend_start FROM pg_stat_activity WHERE pid = "
      "pg_backend_pid()), pg_is_in_recovery(), pg_postmaster_start_time() || '/' || coalesce("
      "(SELECT stats_reset::text FROM pg_stat_bgwriter), ''), current_setting('server_version')";
  DEFIB_TRY_ASSIGN(
      const ResultPtr result,
      query(kIntroduction, {Phase::kConnect, fmt::format("connecting to {}", info_.server)},
            deadline));
  const auto text = [&](int column) { return std::string(::PQgetvalue(result.get(), 0, column)); };
  info_.server_id = text(0);
  info_.server_since = text(1);
  info_.read_only = text(2) == "t";
  info_.incarnation = text(3);
  info_.server_version = text(4);
  return {};
}

Result<std::unique_ptr<Session>> LibpqBackend::connect_to(const ConnectRequest& request,
                                                          const std::string& address,
                                                          Deadline deadline) {
  std::vector<std::pair<std::string, std::string>> values = {
      {"host", request.host},       {"port", std::to_string(request.port)},
      {"user", request.user},       {"password", request.password},
      {"dbname", dsn_.database},    {"client_encoding", "UTF8"},
      {"hostaddr", address},        {"fallback_application_name", "defib"},
      {"tcp_user_timeout", "60000"}};
  values.insert(values.end(), dsn_.options.begin(), dsn_.options.end());
  std::vector<const char*> names, texts;
  for (const auto& [name, value] : values) {
    if (value.empty()) continue;
    names.push_back(name.c_str());
    texts.push_back(value.c_str());
  }
  names.push_back(nullptr);
  texts.push_back(nullptr);
  ConnectionPtr connection(::PQconnectStartParams(names.data(), texts.data(), 0));
  const std::string server = HostPort{request.host, request.port}.to_string();
  const auto failed = [&](bool timed_out) {
    FailedCall call;
    const std::string_view words = connection ? ::PQerrorMessage(connection.get()) : "no memory";
    if (!words.empty()) call.records.push_back(from_verbose(words));
    call.failure = {.engine = Engine::kPostgresql,
                    .driver = DriverKind::kLibpq,
                    .phase = Phase::kConnect,
                    .records = {},
                    .connection_lost = true,
                    .timed_out = timed_out};
    call.what = fmt::format("connecting to {}", server);
    call.backend = "libpq";
    call.server = server;
    call.password = request.password;
    return make_error(std::move(call), classifier_);
  };
  if (!connection) return failed(false);
  ::PQsetErrorVerbosity(connection.get(), PQERRORS_VERBOSE);
  ::PQsetNoticeReceiver(connection.get(), ignore_notice, nullptr);
  PostgresPollingStatusType wants = PGRES_POLLING_WRITING;
  while (::PQstatus(connection.get()) != CONNECTION_BAD && wants != PGRES_POLLING_OK) {
    if (!wait_for_socket(::PQsocket(connection.get()), wants == PGRES_POLLING_READING,
                         wants == PGRES_POLLING_WRITING, deadline)) {
      return failed(true);
    }
    wants = ::PQconnectPoll(connection.get());
    if (wants == PGRES_POLLING_FAILED) return failed(false);
  }
  if (::PQstatus(connection.get()) != CONNECTION_OK) return failed(false);
  ::PQsetErrorVerbosity(connection.get(), PQERRORS_DEFAULT);
  ::PQsetnonblocking(connection.get(), 1);
  auto session = std::make_unique<LibpqSession>(std::move(connection), request, classifier_);
  DEFIB_TRY(session->introduce(deadline));
  return std::unique_ptr<Session>(std::move(session));
}

Result<std::unique_ptr<Session>> LibpqBackend::connect(const ConnectRequest& request,
                                                       Deadline deadline) {
  std::vector<std::string> addresses = {""};  // a directory of sockets
  if (!request.host.starts_with('/')) {
    DEFIB_TRY_ASSIGN(addresses, resolve(request.host, deadline));
  }
  std::optional<Error> last;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    // Each address gets its share of the time that is left.
    const auto share = deadline.is_never()
                           ? os::Duration(Deadline::kNever)
                           : deadline.remaining() / static_cast<std::int64_t>(addresses.size() - i);
    auto session = connect_to(request, addresses[i], deadline & Deadline::after(share));
    if (session) return session;
    last = std::move(session.error());
    if (class_of(*last) == FailureClass::kOperator) break;
  }
  if (last) return *last;
  return Error(Code::kHostUnreachable, fmt::format("the host '{}' has no address", request.host))
      .with("class", "NC")
      .with("phase", "connect")
      .with("transient", "yes");
}

}  // namespace

Result<std::unique_ptr<Backend>> make_libpq_backend(Dsn dsn, const Classifier& classifier) {
  if (dsn.kind != Dsn::Kind::kLibpq || dsn.hosts.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("{} is not for libpq", dsn.redacted()));
  }
  return std::unique_ptr<Backend>(std::make_unique<LibpqBackend>(std::move(dsn), classifier));
}

}  // namespace defib::connection
