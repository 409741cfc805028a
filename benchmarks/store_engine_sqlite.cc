// store_bench_sqlite: SQLite in WAL mode under the benchmark's tasks, one table without rowid,
// prepared statements, a connection for each thread. Writers take turns through a mutex, which
// suits it better than its busy handler.

#include <fmt/core.h>
#include <sqlite3.h>

#include <filesystem>
#include <mutex>

#include "benchmarks/store_engine.h"

namespace defib::bench {
namespace {

class Connection {
 public:
  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    for (sqlite3_stmt* statement : {put_, get_, scan_}) sqlite3_finalize(statement);
    sqlite3_close(db_);
  }

  Result<> open(const std::string& path, const EngineOptions& options) {
    if (sqlite3_open(path.c_str(), &db_) != SQLITE_OK) return error();
    DEFIB_TRY(run("PRAGMA journal_mode=WAL"));
    DEFIB_TRY(run(options.synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF"));
    if (options.all_in_log) DEFIB_TRY(run("PRAGMA wal_autocheckpoint=0"));
    DEFIB_TRY(run(fmt::format("PRAGMA cache_size=-{}", options.cache / 1024).c_str()));
    DEFIB_TRY(run(fmt::format("PRAGMA mmap_size={}", options.cache).c_str()));
    DEFIB_TRY(run("CREATE TABLE IF NOT EXISTS t(k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID"));
    DEFIB_TRY(prepare("INSERT OR REPLACE INTO t(k, v) VALUES(?, ?)", &put_));
    DEFIB_TRY(prepare("SELECT v FROM t WHERE k = ?", &get_));
    return prepare("SELECT k, v FROM t ORDER BY k", &scan_);
  }

  Result<> run(const char* sql) {
    if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return error();
    return {};
  }

  Result<> put(const Record& record) {
    bind(put_, 1, record.key);
    bind(put_, 2, record.value);
    const int code = sqlite3_step(put_);
    sqlite3_reset(put_);
    if (code != SQLITE_DONE) return error();
    return {};
  }

  Result<std::optional<std::string_view>> get(std::string_view key) {
    sqlite3_reset(get_);
    bind(get_, 1, key);
    const int code = sqlite3_step(get_);
    if (code == SQLITE_DONE) return std::optional<std::string_view>();
    if (code != SQLITE_ROW) return error();
    return std::optional(column(get_, 0));
  }

  Result<ScanTotals> scan() {
    sqlite3_reset(get_);
    ScanTotals totals;
    int code = sqlite3_step(scan_);
    for (; code == SQLITE_ROW; code = sqlite3_step(scan_)) {
      totals.add(column(scan_, 0), column(scan_, 1));
    }
    sqlite3_reset(scan_);
    if (code != SQLITE_DONE) return error();
    return totals;
  }

  // Ends what get() left open: a reader would keep the log from being emptied.
  void end_reading() { sqlite3_reset(get_); }

 private:
  Result<> prepare(const char* sql, sqlite3_stmt** statement) {
    if (sqlite3_prepare_v2(db_, sql, -1, statement, nullptr) != SQLITE_OK) return error();
    return {};
  }
  static void bind(sqlite3_stmt* statement, int at, std::string_view bytes) {
    sqlite3_bind_blob(statement, at, bytes.data(), static_cast<int>(bytes.size()), SQLITE_STATIC);
  }
  static std::string_view column(sqlite3_stmt* statement, int at) {
    const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, at));
    return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement, at))};
  }
  Error error() const { return engine_error(sqlite3_errmsg(db_)); }

  sqlite3* db_ = nullptr;
  sqlite3_stmt* put_ = nullptr;
  sqlite3_stmt* get_ = nullptr;
  sqlite3_stmt* scan_ = nullptr;
};

class SqliteSession : public Session {
 public:
  explicit SqliteSession(std::mutex& writing) : writing_(writing) {}
  Connection& connection() { return connection_; }

  Result<> commit(std::span<const Record> records) override {
    const std::lock_guard lock(writing_);
    connection_.end_reading();
    if (records.size() == 1) return connection_.put(records.front());
    DEFIB_TRY(connection_.run("BEGIN IMMEDIATE"));
    for (const Record& record : records) DEFIB_TRY(connection_.put(record));
    return connection_.run("COMMIT");
  }
  Result<std::optional<std::string_view>> get(std::string_view key) override {
    return connection_.get(key);
  }
  Result<ScanTotals> scan() override { return connection_.scan(); }

 private:
  std::mutex& writing_;
  Connection connection_;
};

class SqliteEngine : public Engine {
 public:
  SqliteEngine(std::string path, const EngineOptions& options)
      : path_(std::move(path)), options_(options) {}

  Result<> open() {
    // Held until close, so that the end of a session is not the end of the last connection, at
    // which SQLite empties the log.
    connection_ = std::make_unique<Connection>();
    return connection_->open(path_, options_);
  }
  Result<std::unique_ptr<Session>> session() override {
    auto session = std::make_unique<SqliteSession>(writing_);
    DEFIB_TRY(session->connection().open(path_, options_));
    return session;
  }
  Result<> rest() override { return connection_->run("PRAGMA wal_checkpoint(TRUNCATE)"); }
  Result<> close() override {
    connection_.reset();
    return {};
  }

 private:
  std::string path_;
  EngineOptions options_;
  std::mutex writing_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options) {
  std::filesystem::create_directories(dir);
  auto engine = std::make_unique<SqliteEngine>(dir + "/db", options);
  DEFIB_TRY(engine->open());
  return engine;
}

std::string engine_version() {
  return std::string("SQLite ") + sqlite3_libversion();
}
std::uint64_t log_bytes(const std::string& dir) {
  return bytes_of_files(dir, "-wal");
}
std::uint64_t resting_bytes(const std::string& dir) {
  return bytes_of_files(dir, "db");
}

}  // namespace defib::bench
