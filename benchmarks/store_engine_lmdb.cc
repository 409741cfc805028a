// store_bench_lmdb: LMDB under the benchmark's tasks, with and without a writable mapping. It has
// no log: a synced commit is two syncs, and MDB_NOSYNC leaves a commit to the page cache.

#include <fmt/core.h>
#include <lmdb.h>

#include <filesystem>

#include "benchmarks/store_engine.h"

namespace defib::bench {
namespace {

constexpr std::size_t kMapSize = std::size_t{16} << 30;

MDB_val value_of(std::string_view bytes) {
  return {bytes.size(), const_cast<char*>(bytes.data())};
}
std::string_view view(const MDB_val& value) {
  return {static_cast<const char*>(value.mv_data), value.mv_size};
}
Result<> check(int code) {
  if (code != 0) return engine_error(mdb_strerror(code));
  return {};
}

class LmdbSession : public Session {
 public:
  LmdbSession(MDB_env* env, MDB_dbi table) : env_(env), table_(table) {}
  ~LmdbSession() override { end_reading(); }

  Result<> commit(std::span<const Record> records) override {
    end_reading();
    MDB_txn* transaction = nullptr;
    DEFIB_TRY(check(mdb_txn_begin(env_, nullptr, 0, &transaction)));
    for (const Record& record : records) {
      MDB_val key = value_of(record.key);
      MDB_val value = value_of(record.value);
      if (const int code = mdb_put(transaction, table_, &key, &value, 0); code != 0) {
        mdb_txn_abort(transaction);
        return check(code);
      }
    }
    return check(mdb_txn_commit(transaction));
  }

  Result<std::optional<std::string_view>> get(std::string_view key) override {
    DEFIB_TRY(need_reading());
    MDB_val wanted = value_of(key);
    MDB_val found;
    const int code = mdb_get(reading_, table_, &wanted, &found);
    if (code == MDB_NOTFOUND) return std::optional<std::string_view>();
    DEFIB_TRY(check(code));
    return std::optional(view(found));
  }

  Result<ScanTotals> scan() override {
    DEFIB_TRY(need_reading());
    MDB_cursor* cursor = nullptr;
    DEFIB_TRY(check(mdb_cursor_open(reading_, table_, &cursor)));
    ScanTotals totals;
    MDB_val key;
    MDB_val value;
    int code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
      totals.add(view(key), view(value));
    }
    mdb_cursor_close(cursor);
    if (code != MDB_NOTFOUND) DEFIB_TRY(check(code));
    return totals;
  }

 private:
  Result<> need_reading() {
    if (reading_ != nullptr) return {};
    return check(mdb_txn_begin(env_, nullptr, MDB_RDONLY, &reading_));
  }
  void end_reading() {
    if (reading_ != nullptr) mdb_txn_abort(reading_);
    reading_ = nullptr;
  }

  MDB_env* env_;
  MDB_dbi table_;
  MDB_txn* reading_ = nullptr;
};

class LmdbEngine : public Engine {
 public:
  ~LmdbEngine() override {
    if (env_ != nullptr) mdb_env_close(env_);
  }

  Result<> open(const std::string& dir, const EngineOptions& options) {
    std::filesystem::create_directories(dir);
    DEFIB_TRY(check(mdb_env_create(&env_)));
    DEFIB_TRY(check(mdb_env_set_mapsize(env_, kMapSize)));
    unsigned flags = options.synced ? 0 : MDB_NOSYNC;
    if (options.write_map) flags |= MDB_WRITEMAP;
    DEFIB_TRY(check(mdb_env_open(env_, dir.c_str(), flags, 0600)));
    MDB_txn* transaction = nullptr;
    DEFIB_TRY(check(mdb_txn_begin(env_, nullptr, 0, &transaction)));
    if (const int code = mdb_dbi_open(transaction, nullptr, 0, &table_); code != 0) {
      mdb_txn_abort(transaction);
      return check(code);
    }
    return check(mdb_txn_commit(transaction));
  }

  Result<std::unique_ptr<Session>> session() override {
    return std::make_unique<LmdbSession>(env_, table_);
  }
  Result<> rest() override { return check(mdb_env_sync(env_, 1)); }
  Result<> close() override {
    DEFIB_TRY(rest());
    mdb_env_close(env_);
    env_ = nullptr;
    return {};
  }

 private:
  MDB_env* env_ = nullptr;
  MDB_dbi table_ = 0;
};

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options) {
  auto engine = std::make_unique<LmdbEngine>();
  DEFIB_TRY(engine->open(dir, options));
  return engine;
}

std::string engine_version() {
  return fmt::format("LMDB {}.{}.{}", MDB_VERSION_MAJOR, MDB_VERSION_MINOR, MDB_VERSION_PATCH);
}
std::uint64_t log_bytes(const std::string&) {
  return 0;
}
std::uint64_t resting_bytes(const std::string& dir) {
  return bytes_of_files(dir, "data.mdb");
}

}  // namespace defib::bench
