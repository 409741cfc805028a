#include "defib/store/opening.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "defib/base/bytes.h"
#include "defib/os/random.h"
#include "defib/store/checkpoint.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

using recovery::StageContext;
using recovery::StageOutcome;

constexpr std::uint64_t kSmallestSegment = 8 << 10;
constexpr std::uint64_t kLargestSegment = 4ULL << 30;
constexpr std::uint64_t kSpareDisk = 2 << 20;
constexpr std::uint64_t kSpareMemory = 16 << 20;
// Above this, the trees that the checkpoint's checksums vouch for are not walked again.
constexpr std::uint64_t kFullCheckRecords = 1'000'000;
// Records in trees cost about this many times their size on disk.
constexpr std::uint64_t kMemoryFactor = 3;

Pulse pulse_of(StageContext& context, std::uint64_t total, std::string_view what) {
  return [&context, total, what = std::string(what)](std::uint64_t done) -> Result<> {
    if (context.should_stop()) return context.stop_error();
    context.progress(done, total, what);
    return {};
  };
}

std::string number(std::uint64_t value) {
  return fmt::format("{}", value);
}

Error insufficient(std::string_view resource, std::uint64_t required, std::uint64_t available) {
  return Error(Code::kInsufficientResources,
               fmt::format("recovery needs {} bytes of {}, {} are available", required, resource,
                           available))
      .with("resource", resource)
      .with("required", number(required))
      .with("available", number(available));
}

class Opening {
 public:
  Opening(std::string dir, const Options& options)
      : dir_(std::move(dir)),
        wal_dir_(os::join_path(dir_, kWalDir)),
        options_(options),
        files_(*options.files) {}
  ~Opening() { drop_trees(); }

  Result<Opened> run();

 private:
  void add_stages(recovery::Procedure& procedure);
  Result<> initialize(StageContext& context);
  Result<> acquire_lock(StageContext& context);
  Result<> validate_configuration(StageContext& context);
  Result<> check_resources(StageContext& context);
  Result<> discover_log(StageContext& context);
  Result<> validate_log(StageContext& context);
  Result<> recover_transactions(StageContext& context);
  Result<> reconstruct_indexes(StageContext& context);
  Result<> validate_consistency(StageContext& context);
  Result<> clean_up(StageContext& context);
  Result<> unlock_database(StageContext& context);
  Result<> finalize(StageContext& context);

  Result<> create_store();
  Result<> check_memory() const;
  Result<> check_clean_record() const;
  Result<> sync_found_files();
  Result<> cut_tail();
  Result<> remove_leftovers(StageContext& context);
  Result<> mark_recovery_needed(std::string_view reason);
  void drop_trees();
  Error classify(const recovery::ProcedureResult& result) const;

  std::string dir_;
  std::string wal_dir_;
  const Options& options_;
  os::Files& files_;

  bool needed_ = false;
  std::string needed_because_;
  Opened opened_;
  std::vector<std::string> segment_names_;
  std::string checkpoint_path_;  // empty: none
  std::optional<CheckpointHeader> checkpoint_;
  std::uint64_t checkpoint_size_ = 0;
  std::uint64_t log_size_ = 0;
  std::vector<Segment> segments_;
  std::vector<TransactionView> transactions_;
};

void Opening::add_stages(recovery::Procedure& procedure) {
  struct Row {
    std::string name;
    Result<> (Opening::*run)(StageContext&);
  };
  const Row rows[] = {
      {"initialization", &Opening::initialize},
      {"lock_acquisition", &Opening::acquire_lock},
      {"config_validation", &Opening::validate_configuration},
      {"resource_check", &Opening::check_resources},
      {"wal_discovery", &Opening::discover_log},
      {"wal_validation", &Opening::validate_log},
      {"transaction_recovery", &Opening::recover_transactions},
      {"index_reconstruction", &Opening::reconstruct_indexes},
      {"consistency_validation", &Opening::validate_consistency},
      {"resource_cleanup", &Opening::clean_up},
      {"database_unlock", &Opening::unlock_database},
      {"finalization", &Opening::finalize},
  };
  std::string previous;
  for (const Row& row : rows) {
    auto stage = procedure.add(row.name);
    stage.critical().timeout(options_.stage_timeout);
    stage.run([this, run = row.run](StageContext& context) { return (this->*run)(context); });
    if (!previous.empty()) stage.after(previous);
    previous = row.name;
    // The undo of each stage. Stages 5 to 9 hold memory only; cleanup keeps what it cuts.
    if (row.name == "lock_acquisition") {
      stage.rollback(
          [this]() -> Result<> {
            const Result<> recorded = needed_ ? opened_.lock->set_state("closed") : Result<>();
            opened_.lock.reset();
            return recorded;
          },
          "end this process; the kernel then releases the lock");
    } else if (row.name == "index_reconstruction") {
      stage.rollback([this]() -> Result<> {
        drop_trees();
        return {};
      });
    }
  }
}

Result<> Opening::initialize(StageContext& context) {
  if (!files_.is_dir(dir_)) {
    if (!options_.create) {
      return Error(Code::kNotAStore, fmt::format("there is no store in '{}'", dir_))
          .with("path", dir_);
    }
    DEFIB_TRY(files_.create_dirs(dir_));
    DEFIB_TRY(files_.sync_dir(os::parent_dir(dir_)));
  }
  context.metric("directory", dir_);
  return {};
}

Result<> Opening::acquire_lock(StageContext& context) {
  DEFIB_TRY_ASSIGN(StoreLock lock,
                   StoreLock::acquire(files_, dir_, *options_.clock, options_.lock_wait));
  opened_.lock = std::make_unique<StoreLock>(std::move(lock));
  // Only now nobody else changes the files: the plan is made under the lock.
  if (files_.exists(os::join_path(dir_, kIdentityFile))) {
    const auto indicators = read_indicators(files_, *options_.clock, dir_);
    needed_ = any_present(indicators);
    needed_because_ = names_of_present(indicators);
  }
  if (const auto& previous = opened_.lock->previous(); previous && previous->state != "closed") {
    context.metric("taken_over_from", fmt::format("pid {}", previous->pid));
  }
  if (!needed_) return {};
  context.metric("indicators", needed_because_);
  if (!options_.recover) {
    return Error(Code::kRecoveryNeeded,
                 fmt::format("'{}' was not closed cleanly ({})", dir_, needed_because_))
        .with("indicators", needed_because_)
        .suggest(fmt::format("run `defib store recover {}`", dir_));
  }
  return opened_.lock->set_state("recovering");
}

Result<> Opening::validate_configuration(StageContext& context) {
  const auto wrong = [](std::string_view setting, std::string issue, std::string_view fix) {
    return Error(Code::kRecoveryConfigurationError, fmt::format("{}: {}", setting, issue))
        .with("setting", setting)
        .with("issue", issue)
        .with("fix", fix);
  };
  if (options_.segment_size < kSmallestSegment || options_.segment_size > kLargestSegment) {
    return wrong("segment_size", fmt::format("{} bytes", options_.segment_size),
                 fmt::format("choose a size from {} to {}", kSmallestSegment, kLargestSegment));
  }
  if (options_.background_sync <= os::Duration::zero()) {
    return wrong("background_sync", "it is not positive", "choose a positive duration");
  }
  if (!files_.exists(os::join_path(dir_, kIdentityFile))) {
    DEFIB_TRY_ASSIGN(const bool unused, is_unused(files_, dir_));
    if (unused && options_.create) return create_store();
  }
  DEFIB_TRY_ASSIGN(opened_.identity, read_identity(files_, dir_));
  context.metric("format_version", number(opened_.identity.version));
  context.metric("uuid", opened_.identity.uuid);
  return {};
}

Result<> Opening::create_store() {
  DEFIB_TRY(files_.create_dirs(wal_dir_));
  DEFIB_TRY(files_.create_dirs(os::join_path(dir_, kQuarantineDir)));
  opened_.identity.uuid = os::random_hex(kUuidSize / 2);
  opened_.identity.created_wall_ns = options_.clock->wall_ns();
  // The identity makes it a store, so the folders are durable before it.
  DEFIB_TRY(files_.sync_dir(dir_));
  return os::write_file_atomically(files_, os::join_path(dir_, kIdentityFile),
                                   encode(opened_.identity));
}

Result<> Opening::check_resources(StageContext& context) {
  auto names = list_segments(files_, dir_);
  if (!names) {
    return Error(Code::kRecoveryDependencyError,
                 fmt::format("the log directory '{}' cannot be read", wal_dir_))
        .with("dependency", "write-ahead log")
        .with("issue", names.error().message())
        .because(names.error());
  }
  segment_names_ = *std::move(names);
  std::uint64_t last_segment = 0;
  for (const std::string& name : segment_names_) {
    DEFIB_TRY_ASSIGN(const auto file,
                     files_.open(os::join_path(wal_dir_, name), os::OpenMode::kRead));
    DEFIB_TRY_ASSIGN(last_segment, file->size());
    log_size_ += last_segment;
  }
  DEFIB_TRY_ASSIGN(const std::string newest, newest_checkpoint(files_, dir_));
  if (!newest.empty()) {
    checkpoint_path_ = os::join_path(dir_, newest);
    DEFIB_TRY_ASSIGN(const auto file, files_.open(checkpoint_path_, os::OpenMode::kRead));
    DEFIB_TRY_ASSIGN(checkpoint_size_, file->size());
  }
  DEFIB_TRY(check_memory());
  if (!needed_) return {};
  // The worst that recovery writes: a quarantine copy of the last segment, and a new segment.
  const std::uint64_t required = last_segment + kSpareDisk;
  DEFIB_TRY_ASSIGN(const std::uint64_t available, files_.free_space(dir_));
  context.metric("disk_required", number(required));
  context.metric("disk_available", number(available));
  if (available < required) {
    return insufficient("disk space in " + dir_, required, available);
  }
  return {};
}

Result<> Opening::check_memory() const {
  const auto text = os::read_file(files_, "/proc/meminfo", 1 << 16);
  if (!text) return {};  // Nothing is known about this machine's memory.
  constexpr std::string_view kKey = "MemAvailable:";
  const std::size_t at = text->find(kKey);
  if (at == std::string::npos) return {};
  const std::size_t digit = text->find_first_not_of(' ', at + kKey.size());
  std::uint64_t available_kib = 0;
  if (digit != std::string::npos) {
    std::from_chars(text->data() + digit, text->data() + text->size(), available_kib);
  }
  const std::uint64_t required = (checkpoint_size_ + log_size_) * kMemoryFactor + kSpareMemory;
  if (available_kib * 1024 >= required) return {};
  return insufficient("memory", required, available_kib * 1024);
}

Result<> Opening::discover_log(StageContext& context) {
  std::vector<std::string> strangers;
  DEFIB_TRY_ASSIGN(segment_names_, list_segments(files_, dir_, &strangers));
  for (const std::string& name : strangers) context.metric("stranger", name);
  if (!checkpoint_path_.empty()) {
    auto header = read_checkpoint_header(files_, checkpoint_path_, opened_.identity);
    if (!header) return checkpoint_unusable(std::move(header.error()));
    checkpoint_ = *std::move(header);
    opened_.checkpoint_lsn = checkpoint_->lsn;
  }
  context.metric("segments", number(segment_names_.size()));
  context.metric("checkpoint_commit", number(opened_.checkpoint_lsn));
  return needed_ ? sync_found_files() : Result<>();
}

// What is read below may lie in the page cache alone, written by a process that was killed. It
// must be durable before anybody sees it, for a power failure could still take it back.
Result<> Opening::sync_found_files() {
  // After an input or output error the page cache may hold what the device does not.
  const bool distrust_cache = files_.exists(os::join_path(dir_, kRecoveryMarker));
  std::vector<std::string> paths;
  for (const std::string& name : segment_names_) paths.push_back(os::join_path(wal_dir_, name));
  if (!checkpoint_path_.empty()) paths.push_back(checkpoint_path_);
  for (const std::string& path : paths) {
    DEFIB_TRY_ASSIGN(const auto file, files_.open(path, os::OpenMode::kWrite));
    DEFIB_TRY(file->sync());
    if (distrust_cache) DEFIB_TRY(file->drop_cache());
  }
  DEFIB_TRY(files_.sync_dir(wal_dir_));
  return files_.sync_dir(dir_);
}

Result<> Opening::validate_log(StageContext& context) {
  DEFIB_TRY_ASSIGN(segments_, read_segments(files_, dir_, segment_names_, opened_.identity,
                                            pulse_of(context, log_size_, "bytes of log checked")));
  LogContext log;
  log.identity = opened_.identity;
  log.base = log_base(checkpoint_);
  log.boot_id = options_.clock->boot_id();
  DEFIB_TRY_ASSIGN(opened_.log, assess_log(segments_, log));
  for (const std::string& note : opened_.log.notes) context.metric("loss_possible", note);
  context.metric("last_commit", number(opened_.log.last_lsn));
  context.metric("log_bytes", number(log_size_));
  return {};
}

Result<> Opening::recover_transactions(StageContext& context) {
  DEFIB_TRY_ASSIGN(transactions_,
                   live_transactions(segments_, opened_.log, opened_.checkpoint_lsn));
  std::uint64_t changes = 0;
  for (const TransactionView& transaction : transactions_) changes += transaction.changes.size();
  for (const std::size_t index : opened_.log.live) {
    const Segment& segment = segments_[index];
    opened_.tail_bytes += segment.stop.offset - kPageSize;
  }
  context.metric("transactions", number(transactions_.size()));
  context.metric("changes", number(changes));
  return {};
}

Result<> Opening::reconstruct_indexes(StageContext& context) {
  if (checkpoint_) {
    auto catalog = read_checkpoint(files_, checkpoint_path_, opened_.identity,
                                   pulse_of(context, checkpoint_size_, "bytes of checkpoint read"));
    if (!catalog) return checkpoint_unusable(std::move(catalog.error()));
    opened_.catalog = *std::move(catalog);
    context.metric("checkpoint_records", number(opened_.catalog.records()));
  }
  constexpr std::size_t kPulseEvery = 1024;
  const Pulse pulse = pulse_of(context, transactions_.size(), "transactions replayed");
  for (std::size_t i = 0; i < transactions_.size(); ++i) {
    apply(opened_.catalog, transactions_[i]);
    if (i % kPulseEvery == kPulseEvery - 1) DEFIB_TRY(pulse(i + 1));
  }
  opened_.catalog.drop_empty_tables();
  context.metric("records", number(opened_.catalog.records()));
  return {};
}

Result<> Opening::validate_consistency(StageContext& context) {
  const auto failed = [](std::string_view check, std::string details) {
    return Error(Code::kRecoveryVerificationFailed, details)
        .with("check_name", check)
        .with("details", details)
        .with("critical", "true");
  };
  const std::uint64_t expected = opened_.log.last_lsn - opened_.checkpoint_lsn;
  if (transactions_.size() != expected) {
    return failed("commit_continuity",
                  fmt::format("{} commits follow the checkpoint, {} were replayed", expected,
                              transactions_.size()));
  }
  if (opened_.catalog.position != opened_.log.last_lsn) {
    return failed("last_commit", fmt::format("replay ended at commit {}, the log ends at {}",
                                             opened_.catalog.position, opened_.log.last_lsn));
  }
  if (needed_ && opened_.catalog.records() <= kFullCheckRecords) {
    for (const TableState& table : opened_.catalog.tables) {
      if (context.should_stop()) return context.stop_error();
      if (auto sound = check(table.tree); !sound) {
        return failed("table_order",
                      fmt::format("table '{}': {}", escape(table.name), sound.error().message()));
      }
    }
  }
  return check_clean_record();
}

Result<> Opening::check_clean_record() const {
  const auto bytes = os::read_file(files_, os::join_path(dir_, kCleanMarker), 1 << 16);
  std::string problem;
  const auto record = bytes ? decode_clean_record(*bytes, problem) : std::nullopt;
  if (!record || record->uuid != opened_.identity.uuid) return {};
  if (record->lsn == opened_.log.last_lsn) return {};
  const std::string found = fmt::format(
      "the store was closed cleanly after commit {}, but its "
      "files end with commit {}",
      record->lsn, opened_.log.last_lsn);
  return Error(Code::kInconsistentState, found)
      .with("description", found)
      .with("diagnostics", fmt::format("checkpoint: commit {}, log segments: {}",
                                       opened_.checkpoint_lsn, segment_names_.size()))
      .with("recovery_suggestions",
            "restore the missing checkpoint or segment file, or accept the older state by removing "
            ".clean_shutdown");
}

Result<> Opening::clean_up(StageContext& context) {
  segments_.clear();
  transactions_.clear();
  if (opened_.log.cut) {
    DEFIB_TRY(mark_recovery_needed("a recovery is cutting the log's torn tail"));
    DEFIB_TRY(cut_tail());
    context.metric("cut_bytes", number(opened_.log.cut->bytes));
  }
  return remove_leftovers(context);
}

Result<> Opening::mark_recovery_needed(std::string_view reason) {
  return os::write_file_atomically(
      files_, os::join_path(dir_, kRecoveryMarker),
      fmt::format("{}\nat: {}\n", reason, os::format_time(options_.clock->wall_ns())));
}

// The copy is durable before the original goes.
Result<> Opening::cut_tail() {
  const LogCut& cut = *opened_.log.cut;
  const std::string path = os::join_path(wal_dir_, cut.segment);
  DEFIB_TRY_ASSIGN(std::string bytes, read_whole(files_, path, nullptr));
  bytes.erase(0, std::min<std::size_t>(cut.offset, bytes.size()));
  const std::size_t last = bytes.find_last_not_of('\0');
  bytes.resize(last == std::string::npos ? 0 : last + 1);
  if (!bytes.empty()) {
    const std::string folder = os::join_path(dir_, kQuarantineDir);
    DEFIB_TRY(files_.create_dirs(folder));
    DEFIB_TRY(files_.sync_dir(dir_));
    DEFIB_TRY(os::write_file_atomically(
        files_, os::join_path(folder, fmt::format("{}-at-{}.bin", cut.segment, cut.offset)),
        bytes));
  }
  DEFIB_TRY_ASSIGN(const auto file, files_.open(path, os::OpenMode::kWrite));
  // Shorter, then longer again: the end mark of zeros belongs to every complete log.
  DEFIB_TRY(file->truncate(cut.offset));
  DEFIB_TRY(file->truncate(align_up(cut.offset + kBlockHeaderSize, kPageSize)));
  return file->sync();
}

Result<> Opening::remove_leftovers(StageContext& context) {
  std::vector<std::string> paths;
  for (const std::string& name : opened_.log.obsolete) {
    paths.push_back(os::join_path(wal_dir_, name));
  }
  const bool any_segments = !paths.empty();
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_.list(dir_));
  for (const std::string& name : names) {
    const std::string path = os::join_path(dir_, name);
    const bool old = parse_checkpoint_name(name) && path != checkpoint_path_;
    if (old || name.ends_with(".tmp")) paths.push_back(path);
  }
  for (const std::string& path : paths) {
    DEFIB_TRY(files_.remove(path));
    context.metric("removed", path.substr(path.rfind('/') + 1));
  }
  if (any_segments) DEFIB_TRY(files_.sync_dir(wal_dir_));
  return paths.empty() ? Result<>() : files_.sync_dir(dir_);
}

// The recovery lock becomes the store's lock: the same lock under another name, without a gap.
Result<> Opening::unlock_database(StageContext&) {
  return opened_.lock->set_state("open");
}

Result<> Opening::finalize(StageContext&) {
  const std::string marker = os::join_path(dir_, kRecoveryMarker);
  if (!files_.exists(marker)) return {};
  DEFIB_TRY(files_.remove(marker));
  return files_.sync_dir(dir_);
}

void Opening::drop_trees() {
  for (TableState& table : opened_.catalog.tables) destroy(table.tree);
  opened_.catalog = {};
}

// What the caller is told: the stage's own error where it is one of the store's, else that recovery
// stopped there and why.
Error Opening::classify(const recovery::ProcedureResult& result) const {
  const Error& error = *result.error;
  std::string completed;
  std::string failed = "none";
  const recovery::StageRecord* stage = nullptr;
  for (const recovery::StageRecord& record : result.stages) {
    if (record.error && stage == nullptr) stage = &record;
    if (record.outcome == StageOutcome::kCompleted || record.outcome == StageOutcome::kRolledBack) {
      completed += (completed.empty() ? "" : ", ") + record.name;
    }
  }
  if (stage != nullptr) failed = stage->name;
  const int code = error.number();
  if (code <= -70 && code >= -91) return error;
  switch (error.code()) {
    case Code::kProcedureAborted:
      return error;
    case Code::kStageTimedOut:
      return Error(Code::kRecoveryTimeout, error.message())
          .with("stage", failed)
          .with("timeout_seconds", error.field("timeout_seconds"))
          .with("progress", error.field("progress"))
          .because(error);
    case Code::kRollbackFailed:
      return Error(Code::kRecoveryRollbackFailed, error.message())
          .with("stage", failed)
          .with("reason", error.cause() != nullptr ? error.cause()->message() : error.message())
          .with("manual_intervention_needed", error.field("manual_intervention_needed"))
          .because(error);
    case Code::kStageDependencyFailed:
      return Error(Code::kRecoveryStageDependencyFailed, error.message())
          .with("stage", failed)
          .with("dependency", error.field("dependency"))
          .with("dependency_error", error.field("dependency_error"))
          .because(error);
    case Code::kPermissionDenied:
      return Error(Code::kRecoveryPermissionError,
                   fmt::format("'{}' is not accessible", error.field("path")))
          .with("path", error.field("path"))
          .with("required_permissions", "read and write for the user who runs this program")
          .because(error);
    case Code::kNoSpace:
      return Error(Code::kInsufficientResources, "the disk is full: recovery cannot write")
          .with("resource", "disk space in " + dir_)
          .with("required", number(kSpareDisk))
          .with("available", number(files_.free_space(dir_).value_or(0)))
          .because(error);
    default:
      return Error(Code::kPartialRecoveryFailure,
                   fmt::format("recovery stopped in stage {}", failed))
          .with("completed_stages", completed)
          .with("failed_stage", failed)
          .with("cause", error.to_line())
          .with("rollback_available", "true")
          .because(error);
  }
}

Result<Opened> Opening::run() {
  recovery::Procedure procedure("store recovery");
  add_stages(procedure);
  // A store without any sign of trouble opens unobserved; there is nothing to tell.
  const bool announce = files_.exists(os::join_path(dir_, kIdentityFile)) &&
                        any_present(read_indicators(files_, *options_.clock, dir_));
  recovery::ProcedureResult result =
      procedure.execute(*options_.clock, announce ? options_.observer : nullptr);
  if (result.error) return classify(result);
  opened_.was_clean = !needed_;
  if (needed_) opened_.result = std::move(result);
  Opened opened = std::move(opened_);
  opened_.catalog = {};
  return opened;
}

}  // namespace

Result<Opened> open_files(const std::string& dir, const Options& options) {
  return Opening(dir, options).run();
}

}  // namespace defib::store
