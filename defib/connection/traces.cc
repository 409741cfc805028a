#include "defib/connection/traces.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace defib::connection {
namespace {

using Words = std::vector<std::string>;

// A literal, a quoted name or a comment without an end.
constexpr std::string_view kUnended = "'";
// A comment that the server executes (/*! ... */).
constexpr std::string_view kExecutedComment = "/*!";

bool is_mysql_like(Engine engine) {
  return engine == Engine::kMariadb || engine == Engine::kMysql;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Reads a text in one engine's dialect. With `escapes` a backslash inside a literal takes the next
// character with it, as MariaDB has it unless sql_mode says otherwise.
class Reader {
 public:
  Reader(Engine engine, std::string_view sql, bool escapes)
      : engine_(engine), sql_(sql), escapes_(escapes) {}

  // The words and marks in upper letters, without comments and literals.
  Words words() {
    while (at_ < sql_.size()) read_one();
    return std::move(words_);
  }

 private:
  bool is_word_char(char c) const {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
           c == '@' || (c == '#' && !is_mysql_like(engine_)) || c == '$' ||
           static_cast<unsigned char>(c) >= 0x80;
  }
  bool sees(std::string_view text) const { return sql_.substr(at_).starts_with(text); }
  void unended() {
    words_.emplace_back(kUnended);
    at_ = sql_.size();
  }
  void skip_behind(std::string_view end) {
    const std::size_t found = sql_.find(end, at_);
    if (found == std::string_view::npos) return unended();
    at_ = found + end.size();
  }
  void skip_line() { at_ = std::min(sql_.find('\n', at_), sql_.size()); }

  // MariaDB reads 1--1 as a subtraction.
  bool sees_line_comment() const {
    if (is_mysql_like(engine_) && sees("#")) return true;
    if (!sees("--")) return false;
    if (!is_mysql_like(engine_)) return true;
    return at_ + 2 >= sql_.size() || static_cast<unsigned char>(sql_[at_ + 2]) <= ' ';
  }
  bool is_name_quote(char c) const {
    if (c == '`') return engine_ != Engine::kPostgresql && engine_ != Engine::kMssql;
    return c == '[' && (engine_ == Engine::kMssql || engine_ == Engine::kSqlite);
  }

  void read_one() {
    const char c = sql_[at_];
    if (sees_line_comment()) return skip_line();
    if (sees("/*")) return read_comment();
    if (c == '*' && in_executed_ && sees("*/")) {
      in_executed_ = false;
      at_ += 2;
    } else if (c == '\'' || c == '"') {
      skip_literal(c, escapes_);
    } else if (is_name_quote(c)) {
      ++at_;
      skip_behind(c == '[' ? "]" : "`");
    } else if (c == '$' && engine_ == Engine::kPostgresql && skip_dollar_literal()) {
      return;
    } else if (is_word_char(c)) {
      read_word();
    } else {
      if (c == ';' || c == ':') words_.emplace_back(1, c);
      ++at_;
    }
  }

  void read_comment() {
    const bool executed = sees("/*!") || sees("/*M!");
    if (executed && engine_ != Engine::kPostgresql && engine_ != Engine::kMssql) {
      words_.emplace_back(kExecutedComment);
      at_ = sql_.find('!', at_) + 1;
      while (at_ < sql_.size() && is_digit(sql_[at_])) ++at_;
      in_executed_ = true;
      return;
    }
    at_ += 2;
    const bool nests = engine_ == Engine::kPostgresql || engine_ == Engine::kMssql;
    for (int depth = 1; depth > 0; at_ += 2) {
      while (at_ < sql_.size() && !sees("*/") && !(nests && sees("/*"))) ++at_;
      if (at_ >= sql_.size()) return unended();
      depth += sees("*/") ? -1 : 1;
    }
  }

  void skip_literal(char quote, bool escapes) {
    for (++at_; at_ < sql_.size(); ++at_) {
      if (sql_[at_] == '\\' && escapes) {
        ++at_;
      } else if (sql_[at_] == quote) {
        ++at_;
        return;
      }
    }
    unended();
  }

  // $$...$$ and $name$...$name$, but no $1.
  bool skip_dollar_literal() {
    std::size_t end = at_ + 1;
    while (end < sql_.size() && sql_[end] != '$' && is_word_char(sql_[end])) ++end;
    if (end >= sql_.size() || sql_[end] != '$' || is_digit(sql_[at_ + 1])) return false;
    const std::string_view mark = sql_.substr(at_, end + 1 - at_);
    at_ = end + 1;
    skip_behind(mark);
    return true;
  }

  void read_word() {
    std::string word;
    for (; at_ < sql_.size() && is_word_char(sql_[at_]); ++at_) {
      const char c = sql_[at_];
      word += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    }
    // PostgreSQL's E'...' has escapes whatever the server's settings.
    const bool escaped = word == "E" && engine_ == Engine::kPostgresql && sees("'");
    if (escaped) return skip_literal('\'', true);
    words_.push_back(std::move(word));
  }

  Engine engine_;
  std::string_view sql_;
  bool escapes_;
  std::size_t at_ = 0;
  bool in_executed_ = false;
  Words words_;
};

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

constexpr std::string_view kHarmlessFirst[] = {"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE",
                                               "WITH",   "VALUES", "TABLE",  "MERGE",  "EXPLAIN"};
// Anywhere in a statement, these change or keep something in the session.
constexpr std::string_view kTraces[] = {"TEMPORARY",    "TEMP",           "GET_LOCK",
                                        "RELEASE_LOCK", "LAST_INSERT_ID", "SQL_CALC_FOUND_ROWS",
                                        "INTO",         "LOAD_EXTENSION", "SET_CONFIG",
                                        "PREPARE",      "EXECUTE",        "EXEC",
                                        "CALL",         "LOCK",           "NEXTVAL",
                                        "SETVAL",       "SP_EXECUTESQL",  "/*!",
                                        "CURSOR",       "SESSION",        "PG_ADVISORY_LOCK",
                                        kUnended};
// SQL Server needs no semicolon: the next statement may begin at any word.
constexpr std::string_view kMssqlTraces[] = {"USE",        "CREATE",   "ALTER",   "DROP", "BEGIN",
                                             "SAVE",       "DECLARE",  "REVERT",  "DBCC", "SETUSER",
                                             "OPEN",       "GRANT",    "REVOKE",  "DENY", "COMMIT",
                                             "STATISTICS", "ROLLBACK", "TRUNCATE"};

template <typename List>
bool has(const List& list, std::string_view word) {
  return std::ranges::find(list, word) != std::end(list);
}

bool words_leave_traces(Engine engine, const Words& words) {
  bool first = true;
  bool inserts = false;
  bool updates = false;  // its SET is still to come
  for (const std::string& word : words) {
    if (word == ";") {
      first = true;
      continue;
    }
    if (word == "UPDATE") updates = true;
    if (first) {
      if (!has(kHarmlessFirst, word)) return true;
      inserts = word == "INSERT" || word == "REPLACE" || word == "MERGE";
      first = false;
      continue;
    }
    // SELECT a INTO @x and SELECT ... INTO #t leave traces, INSERT INTO t does not.
    if (word == "INTO" && inserts) {
      inserts = false;
      continue;
    }
    if (has(kTraces, word)) return true;
    if (word.starts_with('@') && !word.starts_with("@@")) return true;
    if (word.starts_with('#')) return true;
    if (word == ":" && engine != Engine::kPostgresql) return true;  // @x := 1
    if (engine != Engine::kMssql) continue;
    if (has(kMssqlTraces, word)) return true;
    if (word == "SET" && !std::exchange(updates, false)) return true;
  }
  return false;
}

constexpr std::string_view kEndsOne = "a statement inside a transaction may not begin or end one";
constexpr std::string_view kCommitsByItself =
    "MariaDB and MySQL commit what is open before they execute such a statement, so it may not "
    "stand inside a transaction: what came before could be neither rolled back nor repeated; "
    "execute it on its own, before or after";

// Where a statement begins at `at`.
bool ends_transaction(const auto& word, std::size_t at) {
  const std::string_view next = word(at + 1);
  if (is_one_of(word(at), {"COMMIT", "ABORT", "END", "BEGIN"})) return true;
  if (is_one_of(word(at), {"START", "PREPARE"}) && next == "TRANSACTION") return true;
  const bool to_savepoint =
      next == "TO" || (is_one_of(next, {"WORK", "TRANSACTION"}) && word(at + 2) == "TO");
  return word(at) == "ROLLBACK" && !to_savepoint;
}

// SQL Server, at a word in the middle: END is that of a CASE or of a block, and so is BEGIN.
bool ends_mssql_transaction(const auto& word, std::size_t at) {
  if (is_one_of(word(at), {"COMMIT", "ROLLBACK"})) return true;
  return word(at) == "BEGIN" && is_one_of(word(at + 1), {"TRAN", "TRANSACTION", "DISTRIBUTED"});
}

// Where a statement of MariaDB or MySQL begins at `at`; it ends at `end`.
bool commits_by_itself(const auto& word, std::size_t at, std::size_t end) {
  if (is_one_of(word(at), {"ALTER",    "BACKUP",    "CACHE",   "CHANGE",   "CHECK",    "FLUSH",
                           "GRANT",    "IMPORT",    "INSTALL", "LOCK",     "OPTIMIZE", "RENAME",
                           "REPAIR",   "RESET",     "REVOKE",  "SHUTDOWN", "START",    "STOP",
                           "TRUNCATE", "UNINSTALL", "UNLOCK",  "XA"})) {
    return true;
  }
  const std::string_view next = word(at + 1);
  if (word(at) == "CREATE" || word(at) == "DROP") {
    const bool replaces = next == "OR" && word(at + 2) == "REPLACE";
    return !is_one_of(replaces ? word(at + 3) : next, {"TEMPORARY", "PREPARE"});
  }
  if (word(at) == "LOAD") return next == "INDEX";
  if (word(at) == "ANALYZE") return is_one_of(next, {"TABLE", "LOCAL", "NO_WRITE_TO_BINLOG"});
  if (word(at) != "SET") return false;
  // SET STATEMENT x = 1 FOR another statement.
  for (std::size_t i = at + 1; i < end; ++i) {
    if (next == "STATEMENT" && word(i) == "FOR") return commits_by_itself(word, i + 1, end);
    if (is_one_of(word(i), {"AUTOCOMMIT", "@@AUTOCOMMIT", "PASSWORD"})) return true;
  }
  return false;
}

}  // namespace

bool leaves_traces(Engine engine, std::string_view sql) {
  const bool by_mode = is_mysql_like(engine) || engine == Engine::kUnknown;
  if (words_leave_traces(engine, Reader(engine, sql, by_mode).words())) return true;
  // The mode of the server is not known: what only one reading finds harmless is not.
  if (!by_mode || sql.find('\\') == std::string_view::npos) return false;
  return words_leave_traces(engine, Reader(engine, sql, false).words());
}

std::string_view refused_in_transaction(Engine engine, std::string_view sql) {
  Words words = Reader(engine, sql, is_mysql_like(engine)).words();
  std::erase(words, kExecutedComment);
  const auto word = [&](std::size_t i) -> std::string_view {
    return i < words.size() ? std::string_view(words[i]) : std::string_view();
  };
  bool first = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == ";") {
      first = true;
      continue;
    }
    if (engine == Engine::kMssql && ends_mssql_transaction(word, i)) return kEndsOne;
    if (!first) continue;
    first = false;
    if (ends_transaction(word, i)) return kEndsOne;
    const auto end = std::find(words.begin() + static_cast<std::ptrdiff_t>(i), words.end(), ";");
    if (is_mysql_like(engine) &&
        commits_by_itself(word, i, static_cast<std::size_t>(end - words.begin()))) {
      return kCommitsByItself;
    }
  }
  return {};
}

}  // namespace defib::connection
