// store_bench_rocksdb: RocksDB under the benchmark's tasks. No compression (the values are random),
// a Bloom filter, a block cache; all else as it comes, which is how it is mostly run. Recovery
// keeps what it replayed in memory (avoid_flush_during_recovery), its faster way.

#include <fmt/core.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>
#include <rocksdb/write_batch.h>

#include "benchmarks/store_engine.h"

namespace defib::bench {
namespace {

constexpr std::size_t kEndlessWriteBuffer = std::size_t{2} << 30;

rocksdb::Slice slice(std::string_view bytes) {
  return {bytes.data(), bytes.size()};
}
std::string_view view(const rocksdb::Slice& bytes) {
  return {bytes.data(), bytes.size()};
}
Error error_of(const rocksdb::Status& status) {
  return engine_error(status.ToString());
}

class RocksSession : public Session {
 public:
  RocksSession(rocksdb::DB& db, bool synced) : db_(db) { write_.sync = synced; }

  Result<> commit(std::span<const Record> records) override {
    batch_.Clear();
    for (const Record& record : records) {
      const rocksdb::Status put = batch_.Put(slice(record.key), slice(record.value));
      if (!put.ok()) return error_of(put);
    }
    const rocksdb::Status written = db_.Write(write_, &batch_);
    if (!written.ok()) return error_of(written);
    return {};
  }

  Result<std::optional<std::string_view>> get(std::string_view key) override {
    value_.Reset();
    const rocksdb::Status found = db_.Get({}, db_.DefaultColumnFamily(), slice(key), &value_);
    if (found.IsNotFound()) return std::optional<std::string_view>();
    if (!found.ok()) return error_of(found);
    return std::optional(view(value_));
  }

  Result<ScanTotals> scan() override {
    const std::unique_ptr<rocksdb::Iterator> iterator(db_.NewIterator({}));
    ScanTotals totals;
    for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
      totals.add(view(iterator->key()), view(iterator->value()));
    }
    if (!iterator->status().ok()) return error_of(iterator->status());
    return totals;
  }

 private:
  rocksdb::DB& db_;
  rocksdb::WriteOptions write_;
  rocksdb::WriteBatch batch_;
  rocksdb::PinnableSlice value_;
};

class RocksEngine : public Engine {
 public:
  RocksEngine(std::unique_ptr<rocksdb::DB> db, bool synced) : db_(std::move(db)), synced_(synced) {}

  Result<std::unique_ptr<Session>> session() override {
    return std::make_unique<RocksSession>(*db_, synced_);
  }
  Result<> rest() override {
    rocksdb::Status done = db_->Flush({});
    if (done.ok()) done = db_->CompactRange({}, nullptr, nullptr);
    if (!done.ok()) return error_of(done);
    return {};
  }
  Result<> close() override {
    const rocksdb::Status closed = db_->Close();
    if (!closed.ok()) return error_of(closed);
    return {};
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
  bool synced_;
};

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(options.cache);
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::Options theirs;
  theirs.create_if_missing = true;
  theirs.compression = rocksdb::kNoCompression;
  theirs.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  theirs.avoid_flush_during_recovery = true;
  theirs.write_buffer_size = options.all_in_log ? kEndlessWriteBuffer : options.write_buffer;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(theirs, dir, &db);
  if (!opened.ok()) return error_of(opened);
  return std::make_unique<RocksEngine>(std::unique_ptr<rocksdb::DB>(db), options.synced);
}

std::string engine_version() {
  return fmt::format("RocksDB {}.{}.{}", ROCKSDB_MAJOR, ROCKSDB_MINOR, ROCKSDB_PATCH);
}
std::uint64_t log_bytes(const std::string& dir) {
  return bytes_of_files(dir, ".log");
}
std::uint64_t resting_bytes(const std::string& dir) {
  return bytes_of_files(dir, ".sst");
}

}  // namespace defib::bench
