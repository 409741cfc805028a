// store_bench_leveldb: LevelDB under the benchmark's tasks. No compression (the values are random),
// a Bloom filter, a block cache, and a write buffer as large as RocksDB's; all else as it comes.
// Recovery keeps its log (reuse_logs), its faster way.

#include <fmt/core.h>
#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/filter_policy.h>
#include <leveldb/options.h>
#include <leveldb/write_batch.h>

#include "benchmarks/store_engine.h"

namespace defib::bench {
namespace {

constexpr std::size_t kLargestWriteBuffer = 1 << 30;  // that LevelDB accepts

leveldb::Slice slice(std::string_view bytes) {
  return {bytes.data(), bytes.size()};
}
std::string_view view(const leveldb::Slice& bytes) {
  return {bytes.data(), bytes.size()};
}
Error error_of(const leveldb::Status& status) {
  return engine_error(status.ToString());
}

class LevelSession : public Session {
 public:
  LevelSession(leveldb::DB& db, bool synced) : db_(db) { write_.sync = synced; }

  Result<> commit(std::span<const Record> records) override {
    batch_.Clear();
    for (const Record& record : records) batch_.Put(slice(record.key), slice(record.value));
    const leveldb::Status written = db_.Write(write_, &batch_);
    if (!written.ok()) return error_of(written);
    return {};
  }

  Result<std::optional<std::string_view>> get(std::string_view key) override {
    const leveldb::Status found = db_.Get({}, slice(key), &value_);
    if (found.IsNotFound()) return std::optional<std::string_view>();
    if (!found.ok()) return error_of(found);
    return std::optional<std::string_view>(value_);
  }

  Result<ScanTotals> scan() override {
    const std::unique_ptr<leveldb::Iterator> iterator(db_.NewIterator({}));
    ScanTotals totals;
    for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
      totals.add(view(iterator->key()), view(iterator->value()));
    }
    if (!iterator->status().ok()) return error_of(iterator->status());
    return totals;
  }

 private:
  leveldb::DB& db_;
  leveldb::WriteOptions write_;
  leveldb::WriteBatch batch_;
  std::string value_;
};

class LevelEngine : public Engine {
 public:
  LevelEngine(const std::string& dir, const EngineOptions& options)
      : cache_(leveldb::NewLRUCache(options.cache)),
        filter_(leveldb::NewBloomFilterPolicy(10)),
        synced_(options.synced) {
    leveldb::Options theirs;
    theirs.create_if_missing = true;
    theirs.compression = leveldb::kNoCompression;
    theirs.block_cache = cache_.get();
    theirs.filter_policy = filter_.get();
    theirs.reuse_logs = true;
    theirs.write_buffer_size = options.all_in_log ? kLargestWriteBuffer : options.write_buffer;
    leveldb::DB* db = nullptr;
    opened_ = leveldb::DB::Open(theirs, dir, &db);
    db_.reset(db);
  }

  const leveldb::Status& opened() const { return opened_; }
  Result<std::unique_ptr<Session>> session() override {
    return std::make_unique<LevelSession>(*db_, synced_);
  }
  Result<> rest() override {
    db_->CompactRange(nullptr, nullptr);
    return {};
  }
  Result<> close() override {
    db_.reset();
    return {};
  }

 private:
  std::unique_ptr<leveldb::Cache> cache_;  // must outlive the database
  std::unique_ptr<const leveldb::FilterPolicy> filter_;
  std::unique_ptr<leveldb::DB> db_;
  leveldb::Status opened_;
  bool synced_;
};

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options) {
  auto engine = std::make_unique<LevelEngine>(dir, options);
  if (!engine->opened().ok()) return error_of(engine->opened());
  return engine;
}

std::string engine_version() {
  return fmt::format("LevelDB {}.{}", leveldb::kMajorVersion, leveldb::kMinorVersion);
}
std::uint64_t log_bytes(const std::string& dir) {
  return bytes_of_files(dir, ".log");
}
std::uint64_t resting_bytes(const std::string& dir) {
  return bytes_of_files(dir, ".ldb");
}

}  // namespace defib::bench
