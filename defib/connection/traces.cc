#include "defib/connection/traces.h"

#include <algorithm>
#include <string>
#include <vector>

namespace defib::connection {
namespace {

bool is_word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '@' || c == '#' || c == '$' || static_cast<unsigned char>(c) >= 0x80;
}

// The words and marks of a text in upper letters, without comments and literals. A comment that the
// server executes (/*! ... */) becomes the word "/*!".
std::vector<std::string> words_of(std::string_view sql) {
  std::vector<std::string> words;
  std::size_t i = 0;
  const auto skip_to = [&](std::string_view end) {
    const std::size_t at = sql.find(end, i);
    i = at == std::string_view::npos ? sql.size() : at + end.size();
  };
  while (i < sql.size()) {
    const char c = sql[i];
    if (sql.substr(i).starts_with("--")) {
      skip_to("\n");
    } else if (sql.substr(i).starts_with("/*")) {
      if (sql.substr(i).starts_with("/*!") || sql.substr(i).starts_with("/*M!")) {
        words.emplace_back("/*!");
      }
      i += 2;
      skip_to("*/");
    } else if (c == '\'' || c == '"' || c == '`') {
      // A backslash may or may not escape; either reading ends at some quote, and what remains
      // unbalanced is read as words.
      ++i;
      skip_to(std::string_view(&c, 1));
    } else if (is_word_char(c)) {
      std::string word;
      for (; i < sql.size() && is_word_char(sql[i]); ++i) {
        word += sql[i] >= 'a' && sql[i] <= 'z' ? static_cast<char>(sql[i] - 'a' + 'A') : sql[i];
      }
      words.push_back(std::move(word));
    } else {
      if (c == ';' || c == ':') words.emplace_back(1, c);
      ++i;
    }
  }
  return words;
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
                                        "CURSOR",       "SESSION",        "PG_ADVISORY_LOCK"};

}  // namespace

bool leaves_traces(Engine engine, std::string_view sql) {
  const std::vector<std::string> words = words_of(sql);
  bool first = true;
  bool inserts = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == ";") {
      first = true;
      continue;
    }
    if (first) {
      if (std::ranges::find(kHarmlessFirst, word) == std::end(kHarmlessFirst)) return true;
      inserts = word == "INSERT" || word == "REPLACE" || word == "MERGE";
      first = false;
      continue;
    }
    // SELECT a INTO @x and SELECT ... INTO #t leave traces, INSERT INTO t does not.
    if (word == "INTO" && inserts) {
      inserts = false;
      continue;
    }
    if (std::ranges::find(kTraces, word) != std::end(kTraces)) return true;
    if (word.starts_with('@') && !word.starts_with("@@")) return true;
    if (word.starts_with('#')) return true;
    if (word == ":" && engine != Engine::kPostgresql) return true;  // @x := 1
  }
  return false;
}

bool controls_transaction(std::string_view sql) {
  const std::vector<std::string> words = words_of(sql);
  bool first = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == ";") {
      first = true;
      continue;
    }
    if (!first) continue;
    first = false;
    const std::string next = i + 1 < words.size() ? words[i + 1] : std::string();
    const std::string after = i + 2 < words.size() ? words[i + 2] : std::string();
    if (words[i] == "COMMIT" || words[i] == "ABORT" || words[i] == "END" || words[i] == "BEGIN") {
      return true;
    }
    if (words[i] == "START" && next == "TRANSACTION") return true;
    if (words[i] == "PREPARE" && next == "TRANSACTION") return true;
    const bool to_savepoint =
        next == "TO" || ((next == "WORK" || next == "TRANSACTION") && after == "TO");
    if (words[i] == "ROLLBACK" && !to_savepoint) return true;
  }
  return false;
}

}  // namespace defib::connection
