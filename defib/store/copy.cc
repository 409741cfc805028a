// Backups, restores and repairs: new stores from old ones.

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/store/lock.h"
#include "defib/store/maintenance.h"
#include "defib/store/new_store.h"
#include "defib/store/picture.h"
#include "defib/store/salvage.h"

namespace defib::store {
namespace {

constexpr std::size_t kCopyBatch = 4 << 20;        // bytes in one transaction of a repair
constexpr std::uint64_t kReleaseEvery = 64 << 20;  // bytes copied
constexpr std::uint64_t kSpareDisk = 4 << 20;
constexpr std::uint64_t kSmallFile = 1 << 16;
// Bounds the memory of a store that is being filled.
constexpr std::uint64_t kFillCheckpoint = 64 << 20;
// In a backup's directory: which store it is of.
constexpr std::string_view kOriginFile = "backup.origin";
constexpr std::string_view kOriginSchema = "defib.store_origin/1";
// A commit without a change that users see is restored as one that puts and erases this key.
constexpr std::string_view kFillerTable = "defib.restore";

struct Environment {
  os::Files& files;
  const os::Clock& clock;
  bool* made = nullptr;  // set once the copy begins to make files
};

Environment environment(const Options& options) {
  return {options.files != nullptr ? *options.files : os::real_files(),
          options.clock != nullptr ? *options.clock : os::real_clock()};
}

// One consistent state of a store that may be at work.
struct SourceState {
  Identity identity;
  ViewPtr view;
  std::uint64_t epoch = 0;
  // By which a restore knows this commit again in a log: the header checksum of the block that
  // holds it, and the one that the segment after it names as the last one before.
  std::optional<std::uint32_t> block_crc;
  std::optional<std::uint32_t> chain_crc;
};

// Of the block that holds the commit.
std::optional<std::uint32_t> block_crc_of(const std::vector<Segment>& segments, std::uint64_t lsn) {
  for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
    std::optional<std::uint32_t> found;
    for (const ScannedBlock& block : segment->blocks()) {
      if (block.header.first_lsn <= lsn && lsn < block.header.next_lsn()) {
        found = block.header.header_crc;
      }
    }
    if (found) return found;
  }
  return std::nullopt;
}

Result<SourceState> look_once(const Environment& env, const std::string& dir) {
  DEFIB_TRY_ASSIGN(Picture picture, take_picture(env.files, env.clock, dir));
  SourceState state;
  state.identity = picture.identity;
  if (picture.log) {
    state.epoch = std::max(picture.log->epoch, picture.pages.manifest.epoch);
    state.block_crc = block_crc_of(picture.segments, picture.log->last_lsn);
  }
  const Manifest& manifest = picture.pages.manifest;
  if (picture.log && picture.log->last_lsn == manifest.checkpoint_commit && manifest.chain_known) {
    state.chain_crc = manifest.chain_crc;
  }
  DEFIB_TRY_ASSIGN(state.view, build_view(env.files, dir, std::move(picture)));
  return state;
}

// Files in motion may look like damage; then it looks again.
Result<SourceState> look(const Environment& env, const std::string& dir) {
  return look_until(
      env.files, dir, env.clock, [&] { return look_once(env, dir); },
      [](const auto& state) { return state.has_value(); });
}

std::string origin_path(const std::string& dir) {
  return os::join_path(dir, kOriginFile);
}

// The nearest directory that is there already.
std::string existing_parent(os::Files& files, std::string path) {
  while (!files.exists(path)) {
    std::string parent = os::parent_dir(path);
    if (parent.empty() || parent == path) return "/";
    path = std::move(parent);
  }
  return path;
}

Result<> require_space(const Environment& env, const std::string& to, std::uint64_t bytes) {
  const auto available = env.files.free_space(existing_parent(env.files, to));
  const std::uint64_t required = bytes + kSpareDisk;
  if (!available || *available >= required) return {};
  return Error(Code::kInsufficientResources,
               fmt::format("the copy needs {} bytes in '{}', where {} are free", required, to,
                           *available))
      .with("resource", "disk space in " + to)
      .with("required", fmt::format("{}", required))
      .with("available", fmt::format("{}", *available))
      .suggest("free that space, or name a directory on another disk, and repeat");
}

class Backup {
 public:
  Backup(const Environment& env, const SourceState& source, std::string to)
      : env_(env), source_(source), to_(std::move(to)) {}

  Result<CopyReport> run(bool with_origin) {
    std::uint64_t size = 0;
    for (const auto& file : source_.view->files) size += file->info().size;
    DEFIB_TRY(require_space(env_, to_, size));
    const NewStore::Settings settings{
        .dir = to_,
        .identity = NewStore::new_identity(env_.clock, source_.identity.page_size),
        .commit = source_.view->position,
        .epoch = source_.epoch,
        .made = env_.made};
    DEFIB_TRY_ASSIGN(NewStore store, NewStore::create(env_.files, env_.clock, settings));
    DEFIB_TRY(copy_tables(store));
    if (with_origin) DEFIB_TRY(write_origin());
    DEFIB_TRY(store.publish(true));
    report_.records = store.records();
    report_.commit = source_.view->position;
    return std::move(report_);
  }

 private:
  Result<> copy_tables(NewStore& store) {
    std::vector<ManifestTable> tables;
    for (const auto& [id, name] : source_.view->names->all()) {
      if (is_internal(name)) continue;
      tables.push_back({id, name});
      const auto cursor = make_view_cursor(source_.view, id);
      for (bool more = cursor->first(); more; more = cursor->next()) {
        DEFIB_TRY(store.add(id, cursor->key(), cursor->value()));
        note_copied(cursor->key().size() + cursor->value().size());
      }
      DEFIB_TRY(cursor->status());
    }
    return store.finish(std::move(tables), source_.view->names->next());
  }

  // What was read stays in memory until somebody gives it back.
  void note_copied(std::uint64_t bytes) {
    report_.bytes += bytes;
    unreleased_ += bytes;
    if (unreleased_ < kReleaseEvery) return;
    unreleased_ = 0;
    for (const auto& file : source_.view->files) file->release_memory();
  }

  Result<> write_origin() {
    wire::Json origin = wire::Json::object({{"schema", kOriginSchema},
                                            {"store", source_.identity.uuid},
                                            {"commit", source_.view->position},
                                            {"at", os::format_time(env_.clock.wall_ns())}});
    if (source_.block_crc) origin.set("block_checksum", *source_.block_crc);
    if (source_.chain_crc) origin.set("chain_checksum", *source_.chain_crc);
    return os::write_file_atomically(env_.files, origin_path(to_), origin.dump() + "\n");
  }

  const Environment& env_;
  const SourceState& source_;
  std::string to_;
  CopyReport report_;
  std::uint64_t unreleased_ = 0;
};

// Options of a store that is filled: memory and log stay small, nothing is paced.
Options filling(const Environment& env, const Options& from) {
  Options options;
  options.segment_size = 1 << 20;  // a large one would be zeroed for a handful of commits
  options.files = &env.files;
  options.clock = &env.clock;
  options.executor = from.executor;
  options.checkpoint_after = kFillCheckpoint;
  options.recovery_budget = os::Duration::zero();
  options.checkpoint_rate = 0;
  options.cache_size = kFillCheckpoint;
  return options;
}

// Which store a backup is of, and as of which commit.
struct Origin {
  std::string uuid;
  std::uint64_t commit = 0;
  std::optional<std::uint32_t> block_crc = {};  // as in SourceState
  std::optional<std::uint32_t> chain_crc = {};
};

Result<Origin> read_origin(os::Files& files, const std::string& backup) {
  const std::string path = origin_path(backup);
  const auto text = files.exists(path)
                        ? os::read_file(files, path, kSmallFile)
                        : Result<std::string>(Error(Code::kFileNotFound, "there is no such file"));
  const auto json = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
  if (!json || (*json)["schema"].as_string() != kOriginSchema ||
      (*json)["store"].as_string().size() != kUuidSize) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' does not say which store it is a backup of", backup))
        .with("path", path)
        .because(json ? Error(Code::kMalformed, "it is not what a backup writes") : json.error())
        .suggest("restore it without --log, or name a directory that `defib store backup` made");
  }
  Origin origin{.uuid = std::string((*json)["store"].as_string()),
                .commit = (*json)["commit"].as_uint()};
  const auto checksum = [&](std::string_view name) {
    return json->has(name) ? std::optional(static_cast<std::uint32_t>((*json)[name].as_uint()))
                           : std::nullopt;
  };
  origin.block_crc = checksum("block_checksum");
  origin.chain_crc = checksum("chain_checksum");
  return origin;
}

// Replays a log onto a store that ends with the commit before.
class LogReplay {
 public:
  LogReplay(const Environment& env, const RestoreSettings& settings, Origin origin,
            std::uint64_t position, CopyReport& report)
      : env_(env),
        settings_(settings),
        origin_(std::move(origin)),
        identity_{.uuid = origin_.uuid},
        last_(settings.to_commit.value_or(UINT64_MAX)),
        report_(report) {
    report_.commit = position;
  }

  // Finds what there is before anything is written.
  Result<> check() {
    if (report_.commit != origin_.commit) {
      return Error(Code::kInconsistentState,
                   fmt::format("the backup ends with commit {}, but was made of commit {}: it has "
                               "been written to since",
                               report_.commit, origin_.commit))
          .suggest("restore it without --log, or use a backup that was not opened for writing");
    }
    DEFIB_TRY_ASSIGN(names_, list_segments(env_.files, settings_.log_of));
    if (names_.empty()) return require_reached();
    const std::uint64_t first = parse_segment_name(names_[0])->first_lsn;
    if (first <= report_.commit + 1) return {};
    return Error(
               Code::kNotFound,
               fmt::format("the log of '{}' reaches back to commit {}, the backup ends with "
                           "commit {}: commits {} to {} are in neither",
                           settings_.log_of, first, report_.commit, report_.commit + 1, first - 1))
        .with("first", static_cast<std::int64_t>(first))
        .suggest("take a newer backup, or restore without --log");
  }

  Result<> run(Store& store) {
    for (std::size_t i = 0; i < names_.size() && !ended_; ++i) {
      const bool is_behind =
          i + 1 < names_.size() && parse_segment_name(names_[i + 1])->first_lsn <= report_.commit;
      if (is_behind) continue;
      DEFIB_TRY(replay_segment(store, i));
    }
    return require_reached();
  }

 private:
  Result<> require_reached() const {
    if (!settings_.to_commit || report_.commit >= last_) return {};
    return Error(Code::kNotFound, fmt::format("the log of '{}' can be followed up to commit {} "
                                              "only, not to commit {}{}{}",
                                              settings_.log_of, report_.commit, last_,
                                              stopped_by_.empty() ? "" : ": ", stopped_by_))
        .with("last", static_cast<std::int64_t>(report_.commit))
        .suggest(fmt::format("restore with `--to-commit {}`", report_.commit));
  }

  Result<> replay_segment(Store& store, std::size_t index) {
    const std::string& name = names_[index];
    auto scanned = scan_segments(env_.files, settings_.log_of, {name}, identity_, {}, nullptr);
    if (!scanned) {
      stop(name, 0, scanned.error().message());
      return {};
    }
    const Segment& segment = scanned->front();
    if (!segment.header) {
      // Empty ones are begun and never written to.
      if (segment.holds_blocks || index + 1 < names_.size()) stop(name, 0, segment.header_problem);
      return {};
    }
    if (segment.header->first_lsn > report_.commit + 1) {
      stop(name, 0, fmt::format("it begins with commit {}", segment.header->first_lsn));
      return {};
    }
    if (segment.header->first_lsn == report_.commit + 1 && report_.replayed == 0) {
      DEFIB_TRY(check_history(segment.header->previous_crc, origin_.chain_crc));
    }
    for (const ScannedBlock& block : segment.blocks()) {
      if (block.header.first_lsn <= origin_.commit && origin_.commit < block.header.next_lsn()) {
        DEFIB_TRY(check_history(block.header.header_crc, origin_.block_crc));
      }
      if (block.header.next_lsn() <= report_.commit + 1) continue;
      DEFIB_TRY(replay_block(store, segment, block));
      if (ended_) return {};
    }
    if (segment.stop.kind == StopKind::kBadBlock) {
      stop(name, segment.stop.offset, segment.stop.problem);
    }
    return {};
  }

  // The block that holds the backup's last commit is the same one, or it is another history.
  Result<> check_history(std::uint32_t checksum, std::optional<std::uint32_t> expected) const {
    if (!expected || checksum == 0 || checksum == *expected) return {};
    const std::string found =
        fmt::format("commit {} in the log of '{}' is not the one that the backup ends with",
                    origin_.commit, settings_.log_of);
    return Error(Code::kInconsistentState, found)
        .with("description", found)
        .with("diagnostics",
              fmt::format("block checksum {:08x}, in the backup {:08x}", checksum, *expected))
        .with("recovery_suggestions", "use an earlier backup of this store")
        .suggest(
            "use an earlier backup: this one holds a commit that was never acknowledged and that "
            "the store lost in a crash, or it is of another copy of the store");
  }

  Result<> replay_block(Store& store, const Segment& segment, const ScannedBlock& block) {
    std::string problem;
    const auto transactions = decode_transactions(segment.payload(block), block.header.first_lsn,
                                                  block.header.count, problem);
    if (!transactions) {
      stop(segment.name, block.offset, problem);
      return {};
    }
    for (const TransactionView& transaction : *transactions) {
      if (transaction.number <= report_.commit) continue;
      if (transaction.number > last_) {
        ended_ = true;
        return {};
      }
      if (transaction.number != report_.commit + 1) {
        stop(segment.name, block.offset, fmt::format("commit {} comes next", transaction.number));
        return {};
      }
      DEFIB_TRY(apply(store, transaction));
    }
    return {};
  }

  Result<> apply(Store& store, const TransactionView& transaction) {
    DEFIB_TRY_ASSIGN(const auto target, store.begin());
    bool is_empty = true;
    for (const RecordView& change : transaction.changes) {
      if (is_internal(change.table)) continue;
      is_empty = false;
      DEFIB_TRY(change.erased ? target->erase(change.table, change.key)
                              : target->put(change.table, change.key, change.value));
      if (!change.erased) report_.bytes += change.key.size() + change.value.size();
    }
    if (is_empty) {
      DEFIB_TRY(target->put(kFillerTable, "", ""));
      DEFIB_TRY(target->erase(kFillerTable, ""));
    }
    DEFIB_TRY_ASSIGN(const std::uint64_t number, target->commit(Durability::kProcess));
    if (number != transaction.number) {
      return Error(Code::kInconsistentState,
                   fmt::format("commit {} of the log changes nothing in the restored store: it is "
                               "not the continuation of this backup",
                               transaction.number))
          .with("description", "backup and log do not belong together");
    }
    report_.commit = number;
    ++report_.replayed;
    return {};
  }

  void stop(const std::string& name, std::uint64_t offset, const std::string& why) {
    ended_ = true;
    stopped_by_ = fmt::format("{} at offset {}: {}", name, offset, why);
    if (report_.commit >= last_) return;
    report_.losses.push_back({.kind = LossKind::kTransactions,
                              .first_commit = report_.commit + 1,
                              .where = fmt::format("{} at offset {}", name, offset),
                              .text = fmt::format("commits after {}, if there were any: {}",
                                                  report_.commit, stopped_by_)});
  }

  const Environment& env_;
  const RestoreSettings& settings_;
  const Origin origin_;
  const Identity identity_;
  const std::uint64_t last_;
  CopyReport& report_;
  std::vector<std::string> names_;
  bool ended_ = false;
  std::string stopped_by_;  // damage; empty: the log simply ended
};

// Puts what is salvaged into a new store, in batches.
class Refill {
 public:
  explicit Refill(Store& store) : store_(store) {}

  SalvageSink sink() {
    return {.put = [this](std::string_view table, std::string_view key,
                          std::string_view value) -> Result<> {
              DEFIB_TRY(begin());
              DEFIB_TRY(transaction_->put(table, key, value));
              return flush_if(table.size() + key.size() + value.size());
            },
            .erase = [this](std::string_view table, std::string_view key) -> Result<> {
              DEFIB_TRY(begin());
              DEFIB_TRY(transaction_->erase(table, key));
              return flush_if(table.size() + key.size());
            }};
  }
  Result<> flush() {
    if (transaction_ == nullptr) return {};
    DEFIB_TRY(transaction_->commit(Durability::kProcess));
    transaction_.reset();
    batch_ = 0;
    return {};
  }

 private:
  Result<> begin() {
    if (transaction_ != nullptr) return {};
    DEFIB_TRY_ASSIGN(transaction_, store_.begin());
    return {};
  }
  Result<> flush_if(std::size_t bytes) {
    batch_ += bytes;
    return batch_ >= kCopyBatch ? flush() : Result<>();
  }

  Store& store_;
  std::unique_ptr<Transaction> transaction_;
  std::size_t batch_ = 0;
};

// Reads a copy back as a whole, which checks it too.
Result<> count(const Environment& env, const std::string& dir, CopyReport& report) {
  DEFIB_TRY_ASSIGN(const SourceState copy, look(env, dir));
  report.records = report.bytes = 0;
  std::uint64_t released = 0;
  for (const auto& [id, name] : copy.view->names->all()) {
    if (is_internal(name)) continue;
    const auto cursor = make_view_cursor(copy.view, id);
    for (bool more = cursor->first(); more; more = cursor->next()) {
      ++report.records;
      report.bytes += cursor->key().size() + cursor->value().size();
      if (report.bytes - released < kReleaseEvery) continue;
      released = report.bytes;
      for (const auto& file : copy.view->files) file->release_memory();
    }
    DEFIB_TRY(cursor->status());
  }
  return {};
}

// The kernel's lock, without a word written: none where it cannot be had because the directory
// cannot be written to, and then only the record says who works there.
Result<std::optional<StoreLock>> keep_writers_out(const Environment& env, const std::string& dir,
                                                  os::Duration wait) {
  const std::string path = os::join_path(dir, kLockFile);
  if (!env.files.exists(path)) return std::optional<StoreLock>();
  auto lock = StoreLock::acquire(env.files, dir, env.clock, wait);
  if (lock) return std::optional<StoreLock>(*std::move(lock));
  if (lock.error().code() == Code::kDatabaseLocked) return lock.error();
  const auto record = read_lock_record(env.files, dir);
  if (living_holder(record, env.clock).empty()) return std::optional<StoreLock>();
  return locked_error(path, record, holder_state(*record, env.clock));
}

// Numbers of commits are never used for anything else: the new store's begin after those of the
// old one that anybody may have seen.
Result<> found_store(const Environment& env, const std::string& to, std::uint64_t commit) {
  DEFIB_TRY_ASSIGN(
      NewStore store,
      NewStore::create(env.files, env.clock,
                       {.dir = to,
                        .identity = NewStore::new_identity(env.clock, Options().page_size),
                        .commit = commit,
                        .made = env.made}));
  DEFIB_TRY(store.finish({}, 1));
  return store.publish(true);
}

// Takes away what a copy that failed has made. The identity first: whatever else stays, it is no
// store that somebody could take for a whole one.
void remove_copy(os::Files& files, const std::string& to, bool was_there) {
  const std::string identity = os::join_path(to, kIdentityFile);
  if (files.exists(identity) && files.remove(identity)) (void)files.sync_dir(to);
  const auto clear = [&files](const std::string& folder) {
    const auto names = files.list(folder);
    if (!names) return;
    for (const std::string& name : *names) (void)files.remove(os::join_path(folder, name));
  };
  for (const std::string_view folder : {kWalDir, kDataDir, kQuarantineDir}) {
    const std::string path = os::join_path(to, folder);
    if (files.is_dir(path)) clear(path);
  }
  clear(to);  // The folders as well, which are empty now.
  if (!was_there) (void)files.remove(to);
}

// All of a copy, or nothing of it. What another has made there meanwhile stays.
template <typename Copy>
Result<CopyReport> into_new_directory(Environment env, const std::string& to, const Copy& copy) {
  DEFIB_TRY(require_new_directory(env.files, to));
  const bool was_there = env.files.exists(to);
  bool made = false;
  env.made = &made;
  Result<CopyReport> report = copy(env);
  if (!report && made) remove_copy(env.files, to, was_there);
  return report;
}

}  // namespace

Result<CopyReport> back_up(const std::string& dir, const std::string& to, Options options) {
  const auto copy = [&](const Environment& env) -> Result<CopyReport> {
    DEFIB_TRY_ASSIGN(const SourceState source, look(env, dir));
    return Backup(env, source, to).run(true);
  };
  return into_new_directory(environment(options), to, copy);
}

namespace {

Result<CopyReport> restore_into(const Environment& env, const std::string& backup,
                                const std::string& to, const RestoreSettings& settings,
                                const Options& options) {
  DEFIB_TRY_ASSIGN(const SourceState source, look(env, backup));
  const std::uint64_t position = source.view->position;
  if (settings.to_commit && *settings.to_commit < position) {
    return Error(Code::kNotFound,
                 fmt::format("the backup holds commit {} already; commit {} lies before it",
                             position, *settings.to_commit))
        .with("first", static_cast<std::int64_t>(position))
        .suggest("use an earlier backup");
  }
  CopyReport replayed;
  std::optional<LogReplay> replay;
  if (!settings.log_of.empty()) {
    DEFIB_TRY_ASSIGN(Origin origin, read_origin(env.files, backup));
    replay.emplace(env, settings, std::move(origin), position, replayed);
    DEFIB_TRY(replay->check());
  } else if (settings.to_commit && *settings.to_commit > position) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the backup ends with commit {}; going on to commit {} needs --log",
                             position, *settings.to_commit));
  }
  DEFIB_TRY_ASSIGN(CopyReport report, Backup(env, source, to).run(false));
  if (!replay) return report;
  DEFIB_TRY_ASSIGN(const auto store, Store::open(to, filling(env, options)));
  DEFIB_TRY(replay->run(*store));
  DEFIB_TRY(store->close());
  DEFIB_TRY(count(env, to, report));
  report.commit = replayed.commit;
  report.replayed = replayed.replayed;
  report.losses = std::move(replayed.losses);
  return report;
}

}  // namespace

Result<CopyReport> restore(const std::string& backup, const std::string& to,
                           const RestoreSettings& settings, Options options) {
  return into_new_directory(environment(options), to, [&](const Environment& env) {
    return restore_into(env, backup, to, settings, options);
  });
}

namespace {

Result<CopyReport> repair_into(const Environment& env, const std::string& dir,
                               const std::string& to, const Options& options) {
  DEFIB_TRY_ASSIGN(const std::optional<StoreLock> lock,
                   keep_writers_out(env, dir, options.lock_wait));
  // What there is first, so that nothing is made where there is nothing to save.
  const SalvageSink nowhere{
      .put = [](std::string_view, std::string_view, std::string_view) { return Result<>(); },
      .erase = [](std::string_view, std::string_view) { return Result<>(); }};
  DEFIB_TRY_ASSIGN(const Salvaged found, salvage_store(env.files, dir, nowhere));
  DEFIB_TRY(found_store(env, to, found.commit));
  DEFIB_TRY_ASSIGN(const auto store, Store::open(to, filling(env, options)));
  CopyReport report;
  {
    Refill refill(*store);
    DEFIB_TRY_ASSIGN(Salvaged salvaged, salvage_store(env.files, dir, refill.sink()));
    DEFIB_TRY(refill.flush());
    report.commit = salvaged.commit;
    report.losses = std::move(salvaged.losses);
    report.remarks = std::move(salvaged.remarks);
  }
  DEFIB_TRY(store->close());
  DEFIB_TRY(count(env, to, report));
  return report;
}

}  // namespace

Result<CopyReport> repair(const std::string& dir, const std::string& to, Options options) {
  return into_new_directory(environment(options), to, [&](const Environment& env) {
    return repair_into(env, dir, to, options);
  });
}

}  // namespace defib::store
