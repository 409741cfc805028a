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
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
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

// A secondary index: which keys a record of `table` is found by besides its own. Kept in the same
// transaction as the record. An index that is new, or whose version differs from the one in the
// store, is built when the store is opened; a program that writes to the table without declaring
// the index drops it with its first change, and the next one that declares it builds it again.
struct IndexDefinition {
  std::string name;
  std::string table;
  bool unique = false;        // commit() answers IndexViolation where two records have one key
  std::uint32_t version = 1;  // to be raised whenever `extract` begins to answer differently
  // Appends the secondary keys of a record: none, one or several. A pure function of the record.
  std::function<void(std::string_view key, std::string_view value, std::vector<std::string>& keys)>
      extract;
};

struct Options {
  os::Files* files = nullptr;             // null: the kernel's
  const os::Clock* clock = nullptr;       // null: the real clock
  Executor* executor = nullptr;           // null: three threads of the store's own
  bool create = true;                     // false: NotAStore where there is none
  bool recover = true;                    // false: RecoveryNeeded where recovery is needed
  std::uint32_t page_size = 16 << 10;     // of a store that is created: 4096 to 65536 bytes
  std::uint64_t segment_size = 64 << 20;  // of the log, bytes
  // How long recovery may take: a checkpoint starts when replaying the log behind the last one
  // would take half of it, at the rate that this store was last seen to replay. 0: no limit.
  os::Duration recovery_budget = std::chrono::milliseconds(1000);
  // A checkpoint starts when the log behind the last one exceeds this, bytes (which also bounds
  // the memory for changes that stand in the log alone); 0: only on request, whatever the budget.
  std::uint64_t checkpoint_after = 256 << 20;
  std::uint64_t checkpoint_rate = 200 << 20;  // bytes written a second; 0: as fast as it goes
  // Files are read through the page cache; this bounds what of it counts as this process's memory.
  std::uint64_t cache_size = 1 << 30;
  // Bytes of log, in whole segments, that are kept at least behind the checkpoint, for stream().
  std::uint64_t log_retention = 0;
  std::vector<IndexDefinition> indexes;
  os::Duration background_sync = std::chrono::milliseconds(100);
  os::Duration stage_timeout = std::chrono::minutes(10);  // of each stage of the recovery
  // Of the stages named here instead; -76 for a name that no stage has.
  std::map<std::string, os::Duration> stage_timeouts;
  os::Duration lock_wait = std::chrono::seconds(10);  // for a holder that is dying
  recovery::Procedure::Observer* observer = nullptr;  // of the recovery
  // Ends the opening within some 50 ms, from any thread: ProcedureAborted, whose fields `stage` and
  // `progress` say how far it was, and `files_changed` whether anything is other than it was found
  // ("no" before resource_cleanup). Another opening begins anew. Without effect once it is open.
  std::stop_token stop;
};

// Whether a recovery failed in a way that a human must act upon: a code of -70 to -83 of the class
// `critical`. is_retryable() and is_recoverable() of base answer for the other two classes; exactly
// one of the three holds for a failure, none for the status RecoveryProgress.
bool is_critical_recovery_failure(const Error& error);

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

// Reads one index in order of secondary key, then of the records' own key.
class IndexCursor {
 public:
  virtual ~IndexCursor() = default;
  virtual bool seek(std::string_view secondary) = 0;  // first entry with a key >= `secondary`
  virtual bool first() = 0;
  virtual bool last() = 0;
  virtual bool next() = 0;
  virtual bool prev() = 0;
  // Views that are valid until the cursor moves. Precondition: positioned on an entry.
  virtual std::string_view secondary() const = 0;
  virtual std::string_view key() const = 0;  // the record's own
  virtual Result<> status() const = 0;       // as Cursor's
};

class Snapshot {
 public:
  virtual ~Snapshot() = default;
  virtual Result<std::optional<std::string>> get(std::string_view table,
                                                 std::string_view key) const = 0;
  virtual Result<std::unique_ptr<Cursor>> scan(std::string_view table) const = 0;
  // NotFound where the store has no such index.
  virtual Result<std::unique_ptr<IndexCursor>> scan_index(std::string_view index) const = 0;
  // Keys of the records whose secondary key is this one, in order.
  Result<std::vector<std::string>> find_by(std::string_view index,
                                           std::string_view secondary) const;
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
  std::uint64_t checkpoint_bytes = 0;  // base and runs
  std::uint32_t runs = 0;
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

// Since the store was opened, unless said otherwise. Bytes.
struct Statistics {
  std::uint64_t commits = 0;
  std::uint64_t user_bytes = 0;  // keys and values committed
  std::uint64_t log_bytes = 0;   // blocks written to the log
  std::uint64_t checkpoints = 0;
  std::uint64_t checkpoint_bytes = 0;  // runs written
  std::uint64_t merges = 0;
  std::uint64_t merge_bytes = 0;              // bases written
  std::uint64_t tail_bytes = 0;               // of log that a recovery would replay now
  std::uint64_t memory_bytes = 0;             // of changes that stand in the log alone, now
  std::uint64_t mapped_bytes = 0;             // of base and runs that were touched lately, at most
  std::uint32_t runs = 0;                     // now
  os::Duration estimated_recovery{0};         // of that tail, now
  std::uint64_t replay_bytes_per_second = 0;  // as measured last
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
  // A checkpoint, and then base and runs merged into one new base that holds no erased record; what
  // it replaces is removed, and so is log that is not to be kept. Reads and writes everything once,
  // at `checkpoint_rate` and in bounded memory, and needs room for the new base beside the old one;
  // the writer goes on meanwhile. close() ends it with Cancelled, and nothing is lost. Nothing is
  // written where there is one base already.
  virtual Result<> compact() = 0;
  // Waits until every commit so far is on disk.
  virtual Result<> sync() = 0;
  virtual Result<VerifyReport> verify() = 0;
  // Committed transactions from number `from` (inclusive) in order and without a gap, as far as the
  // log reaches back; NotFound names the first one that it still has. WalCorrupted where a part of
  // it is gone, with first_lost_commit and last_lost_commit; what comes before was passed on.
  virtual Result<> stream(std::uint64_t from,
                          const std::function<bool(const CommittedTransaction&)>& sink) = 0;
  virtual Statistics statistics() const = 0;
  // What recovery did when this store was opened; empty stages where none was needed.
  virtual const recovery::ProcedureResult& recovery_result() const = 0;
};

// One put, committed.
Result<std::uint64_t> put(Store& store, std::string_view table, std::string_view key,
                          std::string_view value, Durability durability);

}  // namespace defib::store
