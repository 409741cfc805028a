// What an operator does with a store's directory from outside: looking into its files, copying it
// while it works, going back to an earlier commit, saving what is left of a damaged store, and
// bringing one of an older format up to date.
//
// Nothing here writes to the store that it reads, but for migrate(). Secondary indexes are not
// copied: they are built when a program that declares them opens the copy.
//
// Thread rule: functions; beside a live writer only inspect_store(), plan_recovery() and back_up(),
// and restore() where that writer's log is its source.

#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/store.h"
#include "defib/wire/json.h"

namespace defib::store {

// `part`: wal, pages, dwb, files, tables or checkpoint; empty: all of them. An object with a member
// for each part, which holds a "problem" where it cannot be read.
Result<wire::Json> inspect_store(const std::string& dir, std::string_view part, Options options);

// Each entry of each complete index against the table: that its record is there, and that it is the
// only one where the index is unique. Needs files that can be read as a whole
// (Store::verify_files).
Result<std::vector<FindingDetail>> verify_indexes(const std::string& dir, Options options);

// Something of a damaged store that is not in the copy, or may not be as it was last.
enum class LossKind {
  kRecords,   // of a table and key range: what stood there is gone, unless something newer has it
  kVersions,  // of a table and key range: newer changes are gone, an older state may show
  kTransactions,  // whole commits
  kTail,          // bytes at the end of the log, which may have been commits
  kTableNames,    // records are there under a made-up table name
  kFile,          // a whole file, and with it what no other file says
  kDescription,   // nothing but the proof that nothing else is missing
};
std::string_view to_string(LossKind kind);

struct Loss {
  LossKind kind = LossKind::kRecords;
  std::string table = {};          // empty: all
  std::string after_key = {};      // exclusive; empty: from the start
  std::string before_key = {};     // exclusive; empty: to the end
  std::uint64_t first_commit = 0;  // 0: none
  std::uint64_t last_commit = 0;   // 0 with a first_commit: up to the end, which nobody knows
  std::uint64_t bytes = 0;         // of the damaged place; 0: not known
  std::string where = {};          // file, or file and offset
  std::string text = {};           // the whole in one line, for people
};
std::ostream& operator<<(std::ostream& out, const Loss& loss);

struct CopyReport {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;           // of keys and values
  std::uint64_t commit = 0;          // number of the last commit that the copy holds
  std::uint64_t replayed = 0;        // of a restore: commits taken from the log
  std::vector<Loss> losses;          // empty: the copy is the store
  std::vector<std::string> remarks;  // what else an operator should know
};

// A new store in `to` with the state of one commit of `dir`, which may be in use, also by another
// process. `to` must not exist yet or be empty (AlreadyExists). Commits keep their numbers, so the
// copy can be a restore's beginning. Everything is read under its checksums: Corrupted where a part
// of the store is damaged.
Result<CopyReport> back_up(const std::string& dir, const std::string& to, Options options);

struct RestoreSettings {
  std::string log_of;                      // the store whose log is to be replayed; empty: none
  std::optional<std::uint64_t> to_commit;  // the last one to be replayed; none: all there are
};
// A new store in `to` from a backup and, after it, the committed transactions of a store's log, in
// order and without a hole: at the first one that is damaged or missing it stops, and says what it
// knows to follow. That store may be damaged, in use, or gone but for its wal directory.
// NotFound: the log does not reach back to the backup, or not on to `to_commit`; InconsistentState:
// it is not the continuation of this backup.
Result<CopyReport> restore(const std::string& backup, const std::string& to,
                           const RestoreSettings& settings, Options options);

// A new store in `to` with everything of `dir` that is readable: every record under a sound
// checksum of base and runs, and after it every whole transaction of the log. `dir` is not
// changed. DatabaseLocked while a process has it open. Also for stores of format version 1.
Result<CopyReport> repair(const std::string& dir, const std::string& to, Options options);

struct MigrationReport {
  std::uint32_t from_version = 0;
  std::uint32_t to_version = 0;  // the same: there was nothing to do
  std::uint64_t records = 0;     // rewritten
  std::uint64_t commit = 0;      // of the checkpoint that they were in
};
// Brings a store of an older format version up to date, in place: its records are written anew, the
// log stays as it is. Killed or failed at any point it leaves the store of the old version or of
// the new one, and can be run again. DatabaseLocked while a process has it open; RecoveryImpossible
// where its records cannot be read.
Result<MigrationReport> migrate(const std::string& dir, Options options);

}  // namespace defib::store
