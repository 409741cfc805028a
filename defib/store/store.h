// Store: an embedded, transactional, ordered key-value store with named tables.
//
// One writer at a time, any number of readers beside it; a reader sees the state of one commit for
// its whole life. A commit is atomic over all its tables. Opening runs the staged recovery as far
// as it is needed. An I/O error while writing or syncing poisons the store: every later write
// answers StorePoisoned with that error as its cause, until it is closed and opened again.
//
// Thread rule: Store and Snapshot from any thread; a Transaction and a Cursor on one thread at a
// time. begin() waits for the transaction before it to end.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/procedure.h"

namespace defib::store {

inline constexpr std::size_t kMaxKeySize = 4096;
inline constexpr std::size_t kMaxValueSize = 16 << 20;
inline constexpr std::size_t kMaxTableName = 128;

// What an acknowledged commit survives.
enum class Durability {
  kProcess,  // kill -9 of this process; on disk within `background_sync`
  kPower,    // power loss: synced before commit() returns, shared by waiting commits
};

// Runs a task on a thread of its own; the default is one background thread from `os`. A simulator
// passes an executor that it steps itself.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(std::function<void()> task) = 0;
  // How many tasks may run at once, beside the threads that hand them in.
  virtual unsigned concurrency() const { return 1; }
};

struct Options {
  os::Files* files = nullptr;             // null: the kernel's
  const os::Clock* clock = nullptr;       // null: the real clock
  Executor* executor = nullptr;           // null: one thread of the store's own
  bool create = true;                     // false: NotAStore where there is none
  bool recover = true;                    // false: RecoveryNeeded where recovery is needed
  std::uint64_t segment_size = 64 << 20;  // of the log, bytes
  // A checkpoint starts when the log behind the last one exceeds this, bytes; 0: only on request.
  std::uint64_t checkpoint_after = 64 << 20;
  os::Duration background_sync = std::chrono::milliseconds(100);
  os::Duration stage_timeout = std::chrono::minutes(10);
  os::Duration lock_wait = std::chrono::seconds(10);  // for a holder that is dying
  recovery::Procedure::Observer* observer = nullptr;  // of the recovery
};

// Reads one table in key order, either way. Valid while its snapshot or transaction is.
class Cursor {
 public:
  virtual ~Cursor() = default;
  // All position the cursor and say whether there is a record.
  virtual bool seek(std::string_view key) = 0;           // first record with key >= `key`
  virtual bool seek_for_prev(std::string_view key) = 0;  // last record with key <= `key`
  virtual bool first() = 0;
  virtual bool last() = 0;
  virtual bool next() = 0;
  virtual bool prev() = 0;
  // Views that are valid until the cursor moves. Precondition: positioned on a record.
  virtual std::string_view key() const = 0;
  virtual std::string_view value() const = 0;
  // Why the last move answered false: success where the table simply ended there, Corrupted where
  // a part of it cannot be read. Ask after every loop: a damaged table must not look like a short
  // one.
  virtual Result<> status() const { return {}; }
};

class Snapshot {
 public:
  virtual ~Snapshot() = default;
  virtual Result<std::optional<std::string>> get(std::string_view table,
                                                 std::string_view key) const = 0;
  virtual Result<std::unique_ptr<Cursor>> scan(std::string_view table) const = 0;
  // Names of tables with at least one record, sorted.
  virtual std::vector<std::string> tables() const = 0;
  // The number of the last commit that it shows.
  virtual std::uint64_t position() const = 0;
};

class Transaction {
 public:
  virtual ~Transaction() = default;  // rolls back what was not committed
  // Reads see the transaction's own writes.
  virtual Result<std::optional<std::string>> get(std::string_view table, std::string_view key) = 0;
  virtual Result<std::unique_ptr<Cursor>> scan(std::string_view table) = 0;
  // KeyOrValueTooLarge names the limit.
  virtual Result<> put(std::string_view table, std::string_view key, std::string_view value) = 0;
  // No error where the key is absent.
  virtual Result<> erase(std::string_view table, std::string_view key) = 0;
  // The commit's number. With kPower it returns when the sync that covers it has succeeded.
  // After an error the transaction is rolled back, and whether it will be there after the next
  // recovery is open only where the error says so (StorePoisoned).
  virtual Result<std::uint64_t> commit(Durability durability) = 0;
  virtual void rollback() = 0;
};

// One of the five signs that recovery is needed, with what was seen.
struct Indicator {
  std::string name;  // recovery_marker no_clean_shutdown dwb_armed stale_recovery_lock log_tail
  bool present = false;
  std::string evidence;
};

struct Status {
  std::string path;
  std::uint32_t format_version = 0;
  std::uint32_t page_size = 0;
  std::string uuid;
  std::vector<Indicator> indicators;
  bool recovery_needed = false;
  std::uint64_t last_commit = 0;        // number of the last commit that the log shows
  std::uint64_t checkpoint_commit = 0;  // number of the last commit in the checkpoint
  std::uint64_t log_bytes = 0;
  std::uint64_t checkpoint_bytes = 0;
  std::string lock_holder;  // empty: nobody; "pid 123 (engine), since 2026-..."
};

struct FindingDetail {
  std::string where;  // file and offset, or table and key
  std::string problem;
};
struct VerifyReport {
  std::uint64_t log_records = 0;
  std::uint64_t checkpoint_records = 0;
  std::vector<FindingDetail> findings;  // empty: sound
};

struct Change {
  std::string table;
  std::string key;
  std::optional<std::string> value;  // none: erased
};
struct CommittedTransaction {
  std::uint64_t number = 0;
  std::vector<Change> changes;
};

class Store {
 public:
  // Creates or opens and, where needed, recovers. Codes -70..-83 and -84..-90.
  static Result<std::unique_ptr<Store>> open(const std::string& dir, Options options);
  // Read-only, without the lock, beside a live writer: the last consistent state in the files.
  // Never writes; RecoveryNeeded is no obstacle, the log is replayed in memory.
  static Result<std::unique_ptr<Snapshot>> open_read_only(const std::string& dir, Options options);
  // Read-only, also beside a live writer.
  static Result<Status> status(const std::string& dir, Options options);
  static Result<VerifyReport> verify_files(const std::string& dir, Options options);

  virtual ~Store() = default;  // closes without the clean mark if close() was not called
  virtual Result<std::unique_ptr<Transaction>> begin() = 0;
  virtual Result<std::unique_ptr<Snapshot>> snapshot() = 0;
  // Makes everything durable, writes a checkpoint, and leaves none of the five indicators.
  virtual Result<> close() = 0;
  // Writes the current state beside the log and lets the log behind it go. The writer goes on.
  virtual Result<> checkpoint() = 0;
  // Waits until every commit so far is on disk.
  virtual Result<> sync() = 0;
  virtual Result<VerifyReport> verify() = 0;
  // Committed transactions from number `from` (inclusive) in order, as far as the log reaches back;
  // NotFound names the first one that it still has.
  virtual Result<> stream(std::uint64_t from,
                          const std::function<bool(const CommittedTransaction&)>& sink) = 0;
  // What recovery did when this store was opened; empty stages where none was needed.
  virtual const recovery::ProcedureResult& recovery_result() const = 0;
};

// One put, committed.
Result<std::uint64_t> put(Store& store, std::string_view table, std::string_view key,
                          std::string_view value, Durability durability);

}  // namespace defib::store
