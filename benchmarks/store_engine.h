// Engine: what the store's benchmark asks of ours and of each peer, every one through the interface
// that suits it best.
//
// Each engine is a program of its own (store_bench_defib, store_bench_rocksdb, ...): the tasks of
// store_tasks.h over the one adapter that is linked in. A measurement is a fresh process.
//
// Thread rule: an Engine from any thread; a Session on the thread that took it.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::bench {

struct Record {
  std::string_view key;
  std::string_view value;
};

struct EngineOptions {
  bool synced = false;                    // each commit survives power loss; else kill -9
  bool all_in_log = false;                // nothing leaves the log by itself
  bool write_map = false;                 // LMDB: through a writable mapping
  std::uint64_t cache = 256 << 20;        // bytes for reading
  std::uint64_t write_buffer = 64 << 20;  // bytes of changes in memory before they move on
  std::uint64_t segment_size = 0;         // of the log, bytes; ours alone; 0: its default
  os::Duration recovery_budget{0};        // ours alone; 0: its default
};

// What a scan saw: it touches both ends of each record.
struct ScanTotals {
  std::uint64_t records = 0;
  std::uint64_t checksum = 0;
  void add(std::string_view key, std::string_view value) {
    ++records;
    if (!key.empty()) checksum += static_cast<unsigned char>(key.front());
    if (!value.empty()) checksum += static_cast<unsigned char>(value.back());
  }
};

class Session {
 public:
  virtual ~Session() = default;
  // One transaction.
  virtual Result<> commit(std::span<const Record> records) = 0;
  // The bytes are valid until the next call.
  virtual Result<std::optional<std::string_view>> get(std::string_view key) = 0;
  // Everything, in order of keys.
  virtual Result<ScanTotals> scan() = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual Result<std::unique_ptr<Session>> session() = 0;
  // Brings everything out of the log into the form in which it rests: checkpoint, flush,
  // compaction.
  virtual Result<> rest() = 0;
  // Sessions must be gone.
  virtual Result<> close() = 0;
  // What opening said is or may be lost; empty: nothing.
  virtual std::string reported_loss() const { return {}; }
};

// The one adapter of a program.
Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options);
// "RocksDB 7.8.3"
std::string engine_version();
// Bytes of log in a store's directory, closed or open.
std::uint64_t log_bytes(const std::string& dir);
// Bytes in which the data rests; all of the directory but the log.
std::uint64_t resting_bytes(const std::string& dir);

// What the files in `dir` (not below it) hold whose names end in `suffix`.
std::uint64_t bytes_of_files(const std::string& dir, std::string_view suffix);
Error engine_error(std::string message);

}  // namespace defib::bench
