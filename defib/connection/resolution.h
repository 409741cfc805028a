// Commit resolution: what became of a COMMIT whose answer was lost. It is found out, never guessed.
//
// PostgreSQL: the transaction's number is read before COMMIT; afterwards another session first ends
// the old one on the server and then asks pg_xact_status(). A number means something only as long
// as the server has not recovered from a crash since: a number that never reached the log is given
// out again. So "committed" counts only on a server of the same incarnation (SessionInfo), and
// "aborted" and "in the future" always.
// Only a server that takes writes knows: a standby that lags behind has not seen the commit yet.
// Any engine: a row with a random token is inserted in the same transaction (the commit table). The
// resolver inserts the same token in a transaction of its own: where that is a duplicate, the old
// one was committed; where it succeeds, the old one can never be (its own insert came first and is
// gone), and the row is removed again. The insert waits while the old transaction is still open.
// Thread rule: pure functions of a session.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"

namespace defib::connection {

enum class CommitResolution { kOff, kMemory, kDurable };
enum class CommitOutcome { kCommitted, kRolledBack, kUnknown };
std::string_view to_string(CommitOutcome outcome);  // "committed", "rolled_back", "unknown"

// What has to be known to find out; in durable mode it is written before COMMIT.
struct InDoubt {
  std::string id;     // random, of this commit
  std::string label;  // the caller's words for it, such as an order's number
  std::string server, database;
  Engine engine = Engine::kUnknown;
  std::string session_id, session_since, incarnation;
  std::string xid;           // empty: the engine has none, or nothing was written
  std::string commit_table;  // empty: no row was written
  std::int64_t wall_ns = 0;

  std::string encode() const;  // JSON
  static Result<InDoubt> decode(std::string_view text);
};

// Where records of commits in doubt are kept durably. Bound to a store by defib::bindings.
class InDoubtLog {
 public:
  virtual ~InDoubtLog() = default;
  // Durable when it returns.
  virtual Result<> put(const std::string& id, const std::string& record) = 0;
  // May become durable later: a record that comes back is resolved once more, to the same end.
  virtual Result<> erase(const std::string& id) = 0;
  virtual Result<std::vector<std::pair<std::string, std::string>>> all() = 0;
};

// Fills in what the session knows of its transaction, and inserts the row where `table` is not
// empty. To be called after the last statement, before COMMIT.
Result<InDoubt> prepare_commit(Session& session, const std::string& table, std::string label,
                               std::int64_t wall_ns, Deadline deadline);

// What follows from the record alone: kRolledBack where nothing was written, kUnknown where it
// names nothing that a server could be asked for.
std::optional<CommitOutcome> known_unasked(const InDoubt& record);

// On another session. An error says that the session or the time failed: try again on another one.
// WrongNode where it is a standby.
Result<CommitOutcome> resolve_commit(Session& session, const InDoubt& record, Deadline deadline);

// Makes the commit table where it is not there: (token, at).
Result<> make_commit_table(Session& session, const std::string& table, Deadline deadline);
// Removes rows older than `age`; the number of them.
Result<std::int64_t> prune_commit_table(Session& session, const std::string& table,
                                        os::Duration age, std::int64_t wall_ns, Deadline deadline);

// "defib_commits", "schema.name": letters, digits, _ and one point.
bool is_table_name(std::string_view name);

}  // namespace defib::connection
