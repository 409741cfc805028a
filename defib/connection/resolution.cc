#include "defib/connection/resolution.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/os/random.h"
#include "defib/wire/json.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using wire::Json;

constexpr os::Duration kLook = 2ms;

std::string insert_token(const Session& session, const std::string& table) {
  return fmt::format("INSERT INTO {} (token, at) VALUES ({}, {})", table, session.placeholder(1),
                     session.placeholder(2));
}

bool is_duplicate(const Error& error) {
  const std::string_view state = error.field("sqlstate"), native = error.field("native");
  return state.starts_with("23") || native == "1062" || native == "2627" || native == "2601" ||
         (error.field("engine") == "sqlite" && native == "19") ||
         error.message().find("UNIQUE constraint failed") != std::string::npos;
}

// Until the old session's work is over on the server, so that its transaction cannot end in a way
// that was not seen.
Result<> end_old_session(Session& session, const InDoubt& record, Deadline deadline) {
  SessionInfo old;
  old.engine = record.engine;
  old.server_id = record.session_id;
  old.server_since = record.session_since;
  const std::string ending = statement_that_ends(old);
  if (ending.empty()) return {};
  // Elsewhere the same number is another session's; PostgreSQL is asked with its start, too.
  if (old.server_since.empty() && session.info().server != record.server) return {};
  const auto ended = session.execute(Statement(ending), deadline);
  // An error means that it has gone, or that it may not be ended; then it is waited for.
  if (!ended && session.lost()) return Error(ended.error());
  return {};
}

Result<CommitOutcome> by_token(Session& session, const InDoubt& record, Deadline deadline) {
  while (true) {
    const auto inserted = session.execute(Statement(insert_token(session, record.commit_table),
                                                    {record.id, record.wall_ns / 1'000'000'000}),
                                          deadline);
    if (inserted) {
      const auto removed =
          session.execute(Statement(fmt::format("DELETE FROM {} WHERE token = {}",
                                                record.commit_table, session.placeholder(1)),
                                    {record.id}),
                          deadline);
      if (!removed) return Error(removed.error());
      return CommitOutcome::kRolledBack;
    }
    const Error& error = inserted.error();
    if (is_duplicate(error)) return CommitOutcome::kCommitted;
    const FailureClass found = class_of(error);
    const bool waits = found == FailureClass::kStatementOnly || found == FailureClass::kRetryNow ||
                       found == FailureClass::kRetryAfterBackoff;
    if (session.lost() || !waits || deadline.passed()) return Error(error);
    os::real_clock().sleep_for(kLook);
  }
}

Result<CommitOutcome> by_number(Session& session, const InDoubt& record, Deadline deadline) {
  while (true) {
    const auto status = session.execute(
        Statement(fmt::format("SELECT pg_xact_status('{}'::xid8)", record.xid)), deadline);
    if (!status) {
      // "transaction ID ... is in the future": it never reached the server's log.
      if (status.error().field("sqlstate") == "22023") return CommitOutcome::kRolledBack;
      return Error(status.error());
    }
    const std::string text = status->scalar();
    if (text == "aborted") return CommitOutcome::kRolledBack;
    if (text == "committed") {
      const bool same = session.info().incarnation == record.incarnation;
      return same ? CommitOutcome::kCommitted : CommitOutcome::kUnknown;
    }
    if (text != "in progress") return CommitOutcome::kUnknown;  // too old to be known
    if (deadline.passed()) {
      return Error(Code::kDeadlineExceeded, "the old transaction is still in progress");
    }
    os::real_clock().sleep_for(kLook);
  }
}

}  // namespace

std::string_view to_string(CommitOutcome outcome) {
  switch (outcome) {
    case CommitOutcome::kCommitted:
      return "committed";
    case CommitOutcome::kRolledBack:
      return "rolled_back";
    default:
      return "unknown";
  }
}

bool is_table_name(std::string_view name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
  };
  return !name.empty() && name.size() <= 128 && std::ranges::all_of(name, good) &&
         std::ranges::count(name, '.') <= 1 && name.front() != '.' && name.back() != '.';
}

std::string InDoubt::encode() const {
  return Json::object({{"schema", "defib.in_doubt/1"},
                       {"id", id},
                       {"label", label},
                       {"server", server},
                       {"database", database},
                       {"engine", to_string(engine)},
                       {"session_id", session_id},
                       {"session_since", session_since},
                       {"incarnation", incarnation},
                       {"xid", xid},
                       {"commit_table", commit_table},
                       {"wall_ns", wall_ns}})
      .dump();
}

Result<InDoubt> InDoubt::decode(std::string_view text) {
  DEFIB_TRY_ASSIGN(const Json json, Json::parse(text));
  const auto bad = [](std::string_view what) {
    return Error(Code::kCorrupted, fmt::format("a record of a commit in doubt has a bad {}", what));
  };
  InDoubt record;
  DEFIB_TRY_ASSIGN(record.id, json.require_string("id"));
  record.label = json["label"].as_string();
  record.server = json["server"].as_string();
  record.database = json["database"].as_string();
  const auto engine = parse_engine(json["engine"].as_string());
  if (!engine) return bad("engine");
  record.engine = *engine;
  record.session_id = json["session_id"].as_string();
  record.session_since = json["session_since"].as_string();
  record.incarnation = json["incarnation"].as_string();
  record.xid = json["xid"].as_string();
  record.commit_table = json["commit_table"].as_string();
  record.wall_ns = json["wall_ns"].as_int();
  const bool is_number = record.xid.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number) return bad("transaction number");
  if (!record.commit_table.empty() && !is_table_name(record.commit_table)) return bad("table name");
  return record;
}

Result<InDoubt> prepare_commit(Session& session, const std::string& table, std::string label,
                               std::int64_t wall_ns, Deadline deadline) {
  const SessionInfo& info = session.info();
  InDoubt record;
  record.id = os::random_hex(16);
  record.label = std::move(label);
  record.server = info.server;
  record.engine = info.engine;
  record.session_id = info.server_id;
  record.session_since = info.server_since;
  record.incarnation = info.incarnation;
  record.wall_ns = wall_ns;
  if (info.can.xid_resolution) {
    DEFIB_TRY_ASSIGN(const Rows rows,
                     session.execute("SELECT pg_current_xact_id_if_assigned()::text", deadline));
    record.xid = rows.scalar();
    if (record.xid.empty()) return record;  // nothing was written
  }
  if (table.empty()) return record;
  DEFIB_TRY(session.execute(
      Statement(insert_token(session, table), {record.id, wall_ns / 1'000'000'000}), deadline));
  record.commit_table = table;
  return record;
}

std::optional<CommitOutcome> known_unasked(const InDoubt& record) {
  if (!record.xid.empty() || !record.commit_table.empty()) return {};
  return record.engine == Engine::kPostgresql ? CommitOutcome::kRolledBack
                                              : CommitOutcome::kUnknown;
}

Result<CommitOutcome> resolve_commit(Session& session, const InDoubt& record, Deadline deadline) {
  if (const auto known = known_unasked(record)) return *known;
  if (session.info().read_only) {
    return Error(Code::kWrongNode,
                 fmt::format("{} is a standby and may not have seen the commit yet, so it is not "
                             "asked what became of it",
                             session.info().server))
        .with("class", to_string(FailureClass::kWrongNode))
        .with("server", session.info().server)
        .with("transient", "yes");
  }
  const bool has_number = session.info().can.xid_resolution && !record.xid.empty();
  if (!has_number && record.commit_table.empty()) return CommitOutcome::kUnknown;
  DEFIB_TRY(end_old_session(session, record, deadline));
  if (has_number) {
    DEFIB_TRY_ASSIGN(const CommitOutcome outcome, by_number(session, record, deadline));
    if (outcome != CommitOutcome::kUnknown || record.commit_table.empty()) return outcome;
  }
  return by_token(session, record, deadline);
}

Result<> make_commit_table(Session& session, const std::string& table, Deadline deadline) {
  if (!is_table_name(table)) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is no name for a table", table));
  }
  const std::string columns = "(token VARCHAR(64) NOT NULL PRIMARY KEY, at BIGINT NOT NULL)";
  const std::string sql =
      session.info().engine == Engine::kMssql
          ? fmt::format("IF OBJECT_ID('{0}') IS NULL CREATE TABLE {0} {1}", table, columns)
          : fmt::format("CREATE TABLE IF NOT EXISTS {} {}{}", table, columns,
                        session.info().engine == Engine::kMariadb ? " ENGINE=InnoDB" : "");
  DEFIB_TRY(session.execute(Statement(sql), deadline));
  return {};
}

Result<std::int64_t> prune_commit_table(Session& session, const std::string& table,
                                        os::Duration age, std::int64_t wall_ns, Deadline deadline) {
  const std::int64_t before = (wall_ns - age.count()) / 1'000'000'000;
  DEFIB_TRY_ASSIGN(const Rows rows,
                   session.execute(Statement(fmt::format("DELETE FROM {} WHERE at < {}", table,
                                                         session.placeholder(1)),
                                             {before}),
                                   deadline));
  return rows.affected;
}

}  // namespace defib::connection
