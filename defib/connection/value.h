// Value and Rows: what goes into a statement and what comes out of it.
//
// Exact numbers (NUMERIC, DECIMAL) and times travel as text, because no type of ours is as exact.
// Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace defib::connection {

// Bytes that are no text: bytea, BLOB, VARBINARY.
struct Blob {
  std::string bytes;
  friend bool operator==(const Blob&, const Blob&) = default;
};

// std::monostate is NULL.
using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string, Blob>;

inline bool is_null(const Value& value) {
  return std::holds_alternative<std::monostate>(value);
}
// The value as text: NULL is empty, true is "true".
std::string to_text(const Value& value);

struct Rows {
  std::vector<std::string> columns;
  std::vector<std::vector<Value>> rows;
  // Rows that were inserted, updated or deleted; -1 where the database does not tell.
  std::int64_t affected = -1;

  bool empty() const { return rows.empty(); }
  // The first column of the first row as text; empty where there is none or it is NULL.
  std::string scalar() const {
    return rows.empty() || rows.front().empty() ? std::string() : to_text(rows.front().front());
  }
  std::optional<std::int64_t> scalar_int() const;
};

// A statement with its parameters. Placeholders are the database's own: $1 with libpq, ? over ODBC.
struct Statement {
  std::string sql;
  std::vector<Value> parameters = {};
  // Prepared once a session and then executed by its handle. A session that is new, was reset or
  // says that it does not know the handle prepares it anew by itself.
  bool prepared = false;

  Statement(std::string text, std::vector<Value> values = {}, bool keep_prepared = false)
      : sql(std::move(text)), parameters(std::move(values)), prepared(keep_prepared) {}
  Statement(const char* text) : sql(text) {}
};

}  // namespace defib::connection
