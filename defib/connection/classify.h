// Classify: what a failure means for whoever wants to try again.
//
// The same number means different things in different places: 1205 is a deadlock in SQL Server and
// a lock timeout in MariaDB, and after a broken COMMIT the number says nothing at all. So the class
// comes from engine, driver, code and phase together; the phase has the last word.
//
// Sources of the built-in table: errcodes.txt (PostgreSQL 16), mysqld_error.h and errmsg.h (MariaDB
// 10.11), EF Core's SqlServerTransientExceptionDetector, Microsoft.Data.SqlClient, Microsoft Learn
// ("Troubleshoot transient connection errors"), and what was measured with the drivers of Debian
// 12. The classes are ours.
// Thread rule: a Classifier is immutable once it is shared.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "defib/base/error.h"

namespace defib::connection {

enum class Engine : std::uint8_t { kUnknown, kPostgresql, kMariadb, kMysql, kMssql, kSqlite };
enum class DriverKind : std::uint8_t {
  kUnknown,
  kLibpq,
  kPsqlodbc,
  kMariadbOdbc,
  kFreetds,
  kSqliteOdbc,
  kMsodbcsql,
};
enum class Phase : std::uint8_t { kConnect, kIdle, kStatement, kCommit, kClosed };

enum class FailureClass : std::uint8_t {
  kRetryNow,           // R0: the transaction is certainly rolled back; repeat the whole of it now
  kRetryAfterBackoff,  // RB: the same, after a pause
  kStatementOnly,      // RS: only the statement failed; roll back, then repeat the whole
  kNewConnection,      // NC: nothing was executed; another session
  kOutcomeUnknown,     // NI: another session; repeat only what is idempotent
  kCommitAmbiguous,    // CA: find out, never repeat blindly
  kWrongNode,          // WF: find the primary anew
  kOperator,           // AD: a person must act
  kNever,              // NO: repeating changes nothing
};
inline constexpr int kFailureClasses = 9;

std::string_view to_string(Engine engine);               // "postgresql"
std::string_view to_string(DriverKind driver);           // "psqlodbc"
std::string_view to_string(Phase phase);                 // "commit"
std::string_view to_string(FailureClass failure_class);  // "R0"
std::optional<Engine> parse_engine(std::string_view text);
std::optional<FailureClass> parse_class(std::string_view text);

// One diagnostic record as the driver gave it.
struct Diagnostic {
  std::string sqlstate;
  std::int64_t native = 0;
  std::string message;
};

struct Failure {
  Engine engine = Engine::kUnknown;
  DriverKind driver = DriverKind::kUnknown;
  Phase phase = Phase::kStatement;
  std::span<const Diagnostic> records;
  bool connection_lost = false;  // after the error the driver or the socket says so
  bool timed_out = false;        // our own deadline ended it
  bool in_transaction = false;   // an explicit one was open, so a loss rolled it back
};

struct ClassRow {
  Engine engine;
  std::string_view code;  // an SQLSTATE or a native number
  FailureClass failure_class;
  std::string_view source;  // who says that the code is transient, or "ours"
};
// The built-in table.
std::span<const ClassRow> class_table();

class Classifier {
 public:
  Classifier();

  struct Verdict {
    FailureClass failure_class = FailureClass::kNever;
    std::string why;  // "postgresql 40P01", "lost in phase commit"
  };
  Verdict classify(const Failure& failure) const;

  // A row of the operator's: replaces the built-in one. InvalidArgument where a code is malformed.
  Result<> add(Engine engine, std::string_view code, FailureClass failure_class);
  // Lines of engine, code and class, separated by tabs or blanks; # begins a comment. Malformed
  // names the line.
  Result<> add_lines(std::string_view text);

 private:
  std::optional<FailureClass> find(Engine engine, std::string_view code) const;
  std::optional<Verdict> by_record(const Failure& failure, const Diagnostic& record) const;

  std::map<std::pair<Engine, std::string>, FailureClass, std::less<>> rows_;
};

// The class in an Error's field; that of the nearest cause that has one; kNever without any.
FailureClass class_of(const Error& error);
bool has_class(const Error& error);
// A pause that the class's code demands at least, in ms: 10,000 for SQL Server's 40501 and other
// throttling; 0 for most.
std::int64_t minimum_pause_ms(const Error& error);
// Whether a connect failed because the server does not serve: no answer, or one that says that it
// starts or stops. A wrong password, the wrong node, or a limit of sessions that is reached says
// nothing against the server, nor against the sessions that are open.
bool server_is_silent(const Error& error);

}  // namespace defib::connection
