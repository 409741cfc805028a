#include "defib/store/opening.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "defib/base/bytes.h"
#include "defib/os/notify.h"
#include "defib/os/random.h"
#include "defib/store/failure_note.h"
#include "defib/store/log_head.h"
#include "defib/store/picture.h"
#include "defib/store/quarantine.h"
#include "defib/store/replay.h"
#include "defib/store/resources.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

using recovery::StageContext;
using recovery::StageOutcome;

constexpr std::uint64_t kSmallestSegment = 8 << 10;
constexpr std::uint64_t kLargestSegment = 4ULL << 30;
// Above this, an overlay whose records came under checksums is not walked again.
constexpr std::uint64_t kFullCheckRecords = 100'000;
// Blocks of base and runs that a recovery reads for a sample.
constexpr int kSampledRecords = 64;
// Of a found file, written back between two looks at whether to stop.
constexpr std::uint64_t kWriteBackStep = 4 << 20;
// Below it, a measured rate says more of the clock than of the disk.
constexpr std::uint64_t kMeasurableBytes = 4 << 20;

// Tells a stage's progress, which never goes back and never beyond its end.
class StagePulse {
 public:
  StagePulse(StageContext& context, std::uint64_t total, std::string_view what)
      : context_(context), total_(total), what_(what) {
    if (total_ > 0) context_.progress(0, total_, what_);
  }
  Result<> operator()(std::uint64_t done) {
    if (context_.should_stop()) return context_.stop_error();
    done_ = std::max(done_, std::min(done, total_));
    if (total_ > 0) context_.progress(done_, total_, what_);
    return {};
  }
  Result<> finish() { return (*this)(total_); }
  // Precondition: this outlives it.
  Pulse pulse() {
    return [this](std::uint64_t done) { return (*this)(done); };
  }

 private:
  StageContext& context_;
  const std::uint64_t total_;
  const std::string what_;
  std::uint64_t done_ = 0;
};

// Not where somebody stopped it, or a limit did.
bool is_of_device(const Error& failure) {
  for (const Error* error = &failure; error != nullptr; error = error->cause()) {
    if (error->code() == Code::kSyncFailed || error->code() == Code::kIoError) return true;
  }
  return false;
}

Result<> go_on(const StageContext& context) {
  if (context.should_stop()) return context.stop_error();
  return {};
}

std::string number(std::uint64_t value) {
  return fmt::format("{}", value);
}

// As one of the store's errors.
Error dependency_failed(std::string_view stage, const Error& error) {
  return Error(Code::kRecoveryStageDependencyFailed, error.message())
      .with("stage", stage)
      .with("dependency", error.field("dependency"))
      .with("dependency_error", error.field("dependency_error"))
      .because(error);
}

// Tells a service manager that waits for this process that recovery goes on (sd_notify(3),
// EXTEND_TIMEOUT_USEC), for as long as it makes progress, and passes everything on.
class Announcer final : public recovery::Procedure::Observer {
 public:
  Announcer(const os::Clock& clock, Observer* next) : clock_(clock), next_(next) {}
  void procedure_started(const recovery::Procedure& procedure) override {
    extend("recovering the store");
    if (next_ != nullptr) next_->procedure_started(procedure);
  }
  void stage_started(const recovery::StageRecord& stage) override {
    if (next_ != nullptr) next_->stage_started(stage);
  }
  void stage_finished(const recovery::StageRecord& stage) override {
    extend("recovering the store: " + stage.name + " ended");
    if (next_ == nullptr) return;
    recovery::StageRecord told = stage;
    if (stage.error && stage.error->code() == Code::kStageDependencyFailed) {
      told.error = dependency_failed(stage.name, *stage.error);
    }
    next_->stage_finished(told);
  }
  void progressed(const recovery::Progress& progress) override {
    if (progress.total > 0 && (progress.stage != stage_ || progress.done > done_)) {
      extend(fmt::format("recovering the store: {}, {} % of its {}", progress.stage,
                         progress.done * 100 / progress.total, progress.what));
      stage_ = progress.stage;
      done_ = progress.done;
    }
    if (next_ != nullptr) next_->progressed(progress);
  }
  void rollback_finished(const recovery::StageRecord& stage) override {
    if (next_ != nullptr) next_->rollback_finished(stage);
  }
  void procedure_finished(const recovery::ProcedureResult& result) override {
    if (next_ != nullptr) next_->procedure_finished(result);
  }

 private:
  // At most once a second; each message is good for thirty.
  void extend(const std::string& status) {
    const std::int64_t now = clock_.mono_ns();
    if (told_ != 0 && now - told_ < 1'000'000'000) return;
    told_ = now;
    constexpr std::string_view kThirtySeconds = "30000000";
    (void)os::notify::send_field("EXTEND_TIMEOUT_USEC", kThirtySeconds.data(),
                                 kThirtySeconds.size());
    (void)os::notify::send_field("STATUS", status.data(), status.size());
  }
  const os::Clock& clock_;
  Observer* next_;
  std::int64_t told_ = 0;
  std::string stage_;
  std::uint64_t done_ = 0;
};

class Opening {
 public:
  Opening(std::string dir, const Options& options)
      : dir_(std::move(dir)),
        wal_dir_(os::join_path(dir_, kWalDir)),
        options_(options),
        files_(*options.files) {}

  Result<Opened> run();

 private:
  Result<> check_timeouts(const recovery::Procedure& procedure) const;
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
  Result<> check_clean_record() const;
  Result<> check_sample(StageContext& context) const;
  Result<> sync_found_files(StageContext& context);
  Result<> check_overlay(StageContext& context) const;
  Result<> note_failure(Result<> done) const;
  void note_failures(const recovery::ProcedureResult& result) const;
  Result<> cut_tail(StageContext& context);
  Result<> settle_log_head();
  Result<> remove_leftovers(StageContext& context);
  Result<> mark_recovery_needed(std::string_view reason);
  Executor& executor() {
    return options_.executor != nullptr ? *options_.executor : *opened_.executors.heavy;
  }
  Error classify(const recovery::ProcedureResult& result) const;
  Error stopped(const recovery::ProcedureResult& result) const;

  std::string dir_;
  std::string wal_dir_;
  const Options& options_;
  os::Files& files_;

  bool needed_ = false;
  bool created_ = false;  // there was no store
  std::string needed_because_;
  Opened opened_;
  std::vector<std::string> segment_names_;
  bool distrusts_cache_ = false;
  LogContext log_context_;
  PageFilePicture pages_;
  std::uint64_t log_size_ = 0;
  ResourceNeeds needs_;
  std::vector<Segment> segments_;
  SegmentHeader newest_segment_;  // that is there
  Replayed replayed_;
  std::int64_t replay_ns_ = 0;  // spent on reading and replaying the log
};

void Opening::add_stages(recovery::Procedure& procedure) {
  struct Row {
    const char* name;
    const char* needs;
    bool is_critical;
    Result<> (Opening::*run)(StageContext&);
  };
  // Leftovers and the marker do not keep a sound store from its users: what could not be removed is
  // reported, and the next opening tries again.
  static constexpr Row rows[] = {
      {"initialization", nullptr, true, &Opening::initialize},
      {"lock_acquisition", "initialization", true, &Opening::acquire_lock},
      {"config_validation", "lock_acquisition", true, &Opening::validate_configuration},
      {"resource_check", "config_validation", true, &Opening::check_resources},
      {"wal_discovery", "resource_check", true, &Opening::discover_log},
      {"wal_validation", "wal_discovery", true, &Opening::validate_log},
      {"transaction_recovery", "wal_validation", true, &Opening::recover_transactions},
      {"index_reconstruction", "transaction_recovery", true, &Opening::reconstruct_indexes},
      {"consistency_validation", "index_reconstruction", true, &Opening::validate_consistency},
      {"resource_cleanup", "consistency_validation", false, &Opening::clean_up},
      {"database_unlock", "consistency_validation", true, &Opening::unlock_database},
      {"finalization", "resource_cleanup", false, &Opening::finalize},
  };
  for (const Row& row : rows) {
    auto stage = procedure.add(row.name);
    const auto own_limit = options_.stage_timeouts.find(row.name);
    const bool has_own = own_limit != options_.stage_timeouts.end();
    stage.critical(row.is_critical).timeout(has_own ? own_limit->second : options_.stage_timeout);
    stage.run([this, run = row.run](StageContext& context) { return (this->*run)(context); });
    if (row.needs != nullptr) stage.after(row.needs);
    // The undo of each stage. Stages 5 to 9 hold memory only; cleanup keeps what it cuts.
    if (std::string_view(row.name) == "lock_acquisition") {
      stage.rollback(
          [this]() -> Result<> {
            const Result<> recorded = needed_ ? opened_.lock->set_state("closed") : Result<>();
            opened_.lock.reset();
            return recorded;
          },
          "end this process; the kernel then releases the lock");
    }
  }
}

Result<> Opening::initialize(StageContext& context) {
  DEFIB_TRY(check_is_no_file(files_, dir_));
  if (!files_.is_dir(dir_)) {
    if (!options_.create) {
      const auto identity = read_identity(files_, dir_);
      if (!identity) return identity.error();
    }
    DEFIB_TRY(files_.create_dirs(dir_));
    DEFIB_TRY(files_.sync_dir(os::parent_dir(dir_)));
  }
  // Not even a lock is left in a directory that is somebody else's.
  if (!files_.exists(os::join_path(dir_, kIdentityFile))) {
    const auto unused = is_unused(files_, dir_);
    if (!options_.create || !unused || !*unused) {
      const auto identity = read_identity(files_, dir_);
      if (!identity) return identity.error();  // It may have been made just now.
    }
  }
  context.metric("directory", dir_);
  if (options_.executor == nullptr) {
    opened_.executors.light = std::make_unique<Threads>(1);
    opened_.executors.heavy = std::make_unique<Threads>(1);
    opened_.executors.prompt = std::make_unique<Threads>(1);
  }
  return check_file_system(files_, dir_);
}

Result<> Opening::acquire_lock(StageContext& context) {
  DEFIB_TRY_ASSIGN(StoreLock lock,
                   StoreLock::acquire(files_, dir_, *options_.clock, options_.lock_wait,
                                      [&] { return context.should_stop(); }));
  opened_.lock = std::make_unique<StoreLock>(std::move(lock));
  // Only now nobody else changes the files: the plan is made under the lock.
  if (files_.exists(os::join_path(dir_, kIdentityFile))) {
    // What is not of this program's kind gets no mark from it; the next stage says why.
    if (!read_identity(files_, dir_)) return {};
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
        .with("fix", fix)
        .suggest(fmt::format("{}, and open the store again", fix));
  };
  if (options_.segment_size < kSmallestSegment || options_.segment_size > kLargestSegment) {
    return wrong("segment_size", fmt::format("{} bytes", options_.segment_size),
                 fmt::format("choose a size from {} to {}", kSmallestSegment, kLargestSegment));
  }
  if (!std::has_single_bit(options_.page_size) || options_.page_size < kSmallestPage ||
      options_.page_size > kLargestPage) {
    return wrong("page_size", fmt::format("{} bytes", options_.page_size),
                 fmt::format("choose a power of two from {} to {}", kSmallestPage, kLargestPage));
  }
  if (options_.background_sync <= os::Duration::zero()) {
    return wrong("background_sync", "it is not positive", "choose a positive duration");
  }
  if (!files_.exists(os::join_path(dir_, kIdentityFile))) {
    DEFIB_TRY_ASSIGN(const bool unused, is_unused(files_, dir_));
    if (unused && options_.create) {
      created_ = true;
      return create_store();
    }
  }
  DEFIB_TRY_ASSIGN(opened_.identity, read_identity(files_, dir_));
  distrusts_cache_ = distrusts_cache(files_, *options_.clock, dir_, opened_.identity.uuid);
  context.metric("format_version", number(opened_.identity.version));
  context.metric("uuid", opened_.identity.uuid);
  return {};
}

Result<> Opening::create_store() {
  DEFIB_TRY(files_.create_dirs(wal_dir_));
  DEFIB_TRY(files_.create_dirs(os::join_path(dir_, kDataDir)));
  DEFIB_TRY(files_.create_dirs(os::join_path(dir_, kQuarantineDir)));
  // Again, where an attempt before this one made the directory and failed here.
  DEFIB_TRY(files_.sync_dir(os::parent_dir(dir_)));
  opened_.identity.page_size = options_.page_size;
  opened_.identity.uuid = os::random_hex(kUuidSize / 2);
  opened_.identity.created_wall_ns = options_.clock->wall_ns();
  // What a creation that was killed left is of a store that never was.
  for (const std::string_view name : {kPageFile, kDwbFile}) {
    const std::string path = os::join_path(dir_, name);
    if (files_.exists(path)) DEFIB_TRY(files_.remove(path));
  }
  DEFIB_TRY(PageFile::create(files_, dir_, opened_.identity.uuid, opened_.identity.page_size, {}));
  DEFIB_TRY(write_log_head(files_, dir_, no_segment(opened_.identity.uuid)));
  // The identity makes it a store, so all else is durable before it.
  DEFIB_TRY(files_.sync_dir(dir_));
  return os::write_file_atomically(files_, os::join_path(dir_, kIdentityFile),
                                   encode(opened_.identity));
}

Result<> Opening::check_resources(StageContext& context) {
  auto names = list_segments(files_, dir_);
  if (!names) return missing_log(dir_, names.error());
  segment_names_ = *std::move(names);
  std::uint64_t last_segment = 0;
  for (const std::string& name : segment_names_) {
    DEFIB_TRY(go_on(context));
    DEFIB_TRY_ASSIGN(const auto file,
                     files_.open(os::join_path(wal_dir_, name), os::OpenMode::kRead));
    DEFIB_TRY_ASSIGN(last_segment, file->size());
    log_size_ += last_segment;
  }
  needs_ = resource_needs(files_, dir_,
                          {.log_bytes = log_size_,
                           .last_segment_bytes = last_segment,
                           .segments = segment_names_.size(),
                           .segment_size = options_.segment_size,
                           .is_needed = needed_});
  context.metric("memory_required", number(needs_.memory.required));
  context.metric("disk_required", number(needs_.disk.required));
  context.metric("disk_available", number(needs_.disk.available));
  context.metric("descriptors_required", number(needs_.descriptors.required));
  return store::check_resources(needs_, dir_);
}

Result<> Opening::discover_log(StageContext& context) {
  std::vector<std::string> strangers;
  DEFIB_TRY_ASSIGN(segment_names_, list_segments(files_, dir_, &strangers));
  for (const std::string& name : strangers) context.metric("stranger", name);
  if (needed_) DEFIB_TRY(note_failure(sync_found_files(context)));
  log_context_ = log_context(files_, *options_.clock, dir_, opened_.identity);
  DEFIB_TRY_ASSIGN(pages_, read_page_file(files_, dir_, opened_.identity.uuid));
  for (const std::string& note : pages_.notes) context.metric("pages", note);
  opened_.manifest = pages_.manifest;
  context.metric("segments", number(segment_names_.size()));
  context.metric("dwb", std::string(to_string(pages_.dwb)));
  context.metric("checkpoint_commit", number(opened_.manifest.checkpoint_commit));
  return {};
}

// What is read below may lie in the page cache alone, written by a process that was killed. It
// must be durable before anybody sees it, for a power failure could still take it back. After a
// failed write or sync it may be nowhere else, for ever: then everything is read from the device,
// also what counts as written long ago.
Result<> Opening::sync_found_files(StageContext& context) {
  std::vector<std::string> paths;
  paths.reserve(segment_names_.size() + 2);
  for (const std::string& name : segment_names_) paths.push_back(os::join_path(wal_dir_, name));
  for (const std::string_view name : {kPageFile, kDwbFile}) {
    const std::string path = os::join_path(dir_, name);
    if (files_.exists(path)) paths.push_back(path);
  }
  if (distrusts_cache_) {
    for (const std::string_view name : {kLogHeadFile, kCleanMarker, kIdentityFile}) {
      const std::string path = os::join_path(dir_, name);
      if (files_.exists(path)) paths.push_back(path);
    }
    const std::string data = os::join_path(dir_, kDataDir);
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_.list(data));
    for (const std::string& name : names) {
      if (parse_sorted_file_name(name)) paths.push_back(os::join_path(data, name));
    }
  }
  StagePulse pulse(context, log_size_, "bytes of log made durable");
  std::uint64_t done = 0;
  for (const std::string& path : paths) {
    DEFIB_TRY_ASSIGN(const auto file, files_.open(path, os::OpenMode::kWrite));
    DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
    for (std::uint64_t at = 0; at < size; at += kWriteBackStep) {
      DEFIB_TRY(pulse(done + at));
      DEFIB_TRY(file->write_back(at, std::min(kWriteBackStep, size - at)));
    }
    done += size;
    DEFIB_TRY(file->sync());
    if (distrusts_cache_) DEFIB_TRY(file->drop_cache());
  }
  if (distrusts_cache_) {
    DEFIB_TRY_ASSIGN(opened_.identity, read_identity(files_, dir_));
  }
  DEFIB_TRY(pulse.finish());
  DEFIB_TRY(files_.sync_dir(wal_dir_));
  DEFIB_TRY(files_.sync_dir(os::join_path(dir_, kDataDir)));
  return files_.sync_dir(dir_);
}

Result<> Opening::validate_log(StageContext& context) {
  const std::int64_t begin = options_.clock->mono_ns();
  StagePulse pulse(context, log_size_, "bytes of log read and checked");
  DEFIB_TRY_ASSIGN(segments_,
                   scan_segments(files_, dir_, segment_names_, opened_.identity,
                                 {.mode = ReadMode::kMap, .executor = &executor()}, pulse.pulse()));
  DEFIB_TRY(pulse.finish());
  log_context_.base = log_base(opened_.manifest);
  DEFIB_TRY_ASSIGN(opened_.log, assess_log(segments_, log_context_));
  for (const Segment& segment : segments_) {
    if (segment.header && segment.stop.kind == StopKind::kBadBlock) {
      opened_.torn.push_back({segment.name, segment.stop.offset});
    }
  }
  replay_ns_ = options_.clock->mono_ns() - begin;
  for (const std::string& note : opened_.log.notes) context.metric("loss_possible", note);
  newest_segment_ = opened_.log.live.empty() ? no_segment(opened_.identity.uuid)
                                             : *segments_[opened_.log.live.back()].header;
  context.metric("last_commit", number(opened_.log.last_lsn));
  context.metric("log_bytes", number(log_size_));
  return {};
}

Result<> Opening::recover_transactions(StageContext& context) {
  const std::int64_t begin = options_.clock->mono_ns();
  for (const std::size_t index : opened_.log.live) {
    const Segment& segment = segments_[index];
    opened_.tail_bytes +=
        segment.stop.offset - std::min<std::uint64_t>(segment.stop.offset, kPageSize);
    opened_.mapped_segments.push_back(segment.name);
  }
  DEFIB_TRY_ASSIGN(TableNames names, table_names(opened_.manifest));
  StagePulse pulse(context, opened_.tail_bytes, "bytes of log replayed");
  DEFIB_TRY_ASSIGN(replayed_,
                   replay_log(std::move(segments_), opened_.log, opened_.manifest.checkpoint_commit,
                              names, executor(), pulse.pulse()));
  DEFIB_TRY(pulse.finish());
  segments_.clear();
  opened_.names = std::make_shared<const TableNames>(std::move(names));
  opened_.overlay = replayed_.overlay;
  replay_ns_ += options_.clock->mono_ns() - begin;
  opened_.replay_rate = opened_.manifest.replay_bytes_per_second;
  if (replayed_.bytes >= kMeasurableBytes && replay_ns_ > 0) {
    opened_.replay_rate = static_cast<std::uint64_t>(static_cast<double>(replayed_.bytes) * 1e9 /
                                                     static_cast<double>(replay_ns_));
  }
  context.metric("transactions", number(replayed_.transactions));
  context.metric("changes", number(replayed_.changes));
  return {};
}

// Base and runs open as they are, and with them the indexes, which are tables like all others; an
// index that is not complete is built by the store as soon as it is open.
Result<> Opening::reconstruct_indexes(StageContext& context) {
  const auto& named = opened_.manifest.files;
  StagePulse pulse(context, named.size(), "files of base and runs opened");
  opened_.mapped = std::make_shared<MappedMemory>(options_.cache_size);
  DEFIB_TRY_ASSIGN(opened_.files,
                   open_sorted_files(files_, dir_, opened_.manifest, opened_.identity,
                                     pulse.pulse(), opened_.mapped));
  DEFIB_TRY(pulse.finish());
  std::uint64_t records = opened_.overlay->records();
  for (const auto& file : opened_.files) records += file->info().records;
  context.metric("files", number(opened_.files.size()));
  context.metric("records", number(records));
  return {};
}

Result<> Opening::validate_consistency(StageContext& context) {
  const auto failed = [](std::string_view check, const std::string& details) {
    return Error(Code::kRecoveryVerificationFailed, details)
        .with("check_name", check)
        .with("details", details)
        .with("critical", "true");
  };
  const std::uint64_t expected = opened_.log.last_lsn - opened_.manifest.checkpoint_commit;
  if (replayed_.transactions != expected) {
    return failed("commit_continuity",
                  fmt::format("{} commits follow the checkpoint, {} were replayed", expected,
                              replayed_.transactions));
  }
  if (replayed_.last_commit != opened_.log.last_lsn) {
    return failed("last_commit", fmt::format("replay ended at commit {}, the log ends at {}",
                                             replayed_.last_commit, opened_.log.last_lsn));
  }
  if (needed_) DEFIB_TRY(check_overlay(context));
  DEFIB_TRY(check_clean_record());
  return needed_ ? check_sample(context) : Result<>();
}

Result<> Opening::check_overlay(StageContext& context) const {
  const std::uint64_t records = opened_.overlay->records();
  if (records > kFullCheckRecords) return {};
  StagePulse pulse(context, records, "records in memory checked");
  Result<> sound = opened_.overlay->check(pulse.pulse());
  if (sound) return pulse.finish();
  if (context.should_stop()) return sound;
  const std::string details = sound.error().message();
  return Error(Code::kRecoveryVerificationFailed, details)
      .with("check_name", "table_order")
      .with("details", details)
      .with("critical", "true");
}

// Some records of each declared index: whether the index and its table agree.
Result<> Opening::check_sample(StageContext& context) const {
  const auto view = std::make_shared<View>();
  view->names = opened_.names;
  view->overlays.push_back(opened_.overlay->view());
  view->files = opened_.files;
  const std::unique_ptr<Snapshot> snapshot = make_snapshot(view);
  std::uint64_t compared = 0;
  for (const IndexDefinition& index : options_.indexes) {
    const auto stored = snapshot->get(kIndexesTable, index.name);
    const auto record = stored && *stored ? decode_index_record(**stored) : std::nullopt;
    if (!record || record->version != index.version || record->table != index.table) continue;
    DEFIB_TRY_ASSIGN(const auto rows, snapshot->scan(index.table));
    DEFIB_TRY_ASSIGN(const auto entries, snapshot->scan(index_table_name(index.name)));
    int sampled = 0;
    for (bool more = rows->first(); more && sampled < kSampledRecords; more = rows->next()) {
      if (context.should_stop()) return context.stop_error();
      ++sampled;
      ++compared;
      DEFIB_TRY_ASSIGN(const auto keys, extract_keys(index, rows->key(), rows->value()));
      for (const std::string& secondary : keys) {
        const std::string entry = encode_index_entry(secondary, rows->key());
        if (entries->seek(entry) && entries->key() == entry) continue;
        const std::string details =
            fmt::format("index '{}' has no entry for record '{}' of table '{}'", index.name,
                        escape(rows->key()), escape(index.table));
        return Error(Code::kRecoveryVerificationFailed, details)
            .with("check_name", "index_sample")
            .with("details", details)
            .with("critical", "true")
            .suggest(
                "raise the index's version if its extractor has changed; the index is then "
                "built anew, as it is in the copy that `defib store repair DIR --to NEWDIR` makes");
      }
    }
  }
  context.metric("index_records_compared", number(compared));
  return {};
}

Result<> Opening::check_clean_record() const {
  const auto record = read_clean_record(files_, dir_, opened_.identity.uuid);
  if (!record) return {};
  const std::uint64_t sequence = opened_.manifest.sequence;
  if (record->lsn == opened_.log.last_lsn && record->manifest_sequence <= sequence) return {};
  const std::string found = fmt::format(
      "the store was closed cleanly after commit {}, but its "
      "files end with commit {}",
      record->lsn, opened_.log.last_lsn);
  return Error(Code::kInconsistentState, found)
      .with("description", found)
      .with("diagnostics", fmt::format("checkpoint: commit {}, log segments: {}",
                                       opened_.manifest.checkpoint_commit, segment_names_.size()))
      .with("recovery_suggestions",
            "restore the missing checkpoint or segment file, or accept the older state by removing "
            ".clean_shutdown");
}

Result<> Opening::clean_up(StageContext& context) {
  if (needed_) {
    DEFIB_TRY(restore_pages(files_, dir_, opened_.identity.uuid));
    context.metric("pages_restored", number(pages_.to_restore.size()));
  }
  if (opened_.log.cut) {
    DEFIB_TRY(mark_recovery_needed("a recovery is cutting the log's torn tail"));
    DEFIB_TRY(cut_tail(context));
    context.metric("cut_bytes", number(opened_.log.cut->bytes));
  }
  if (needed_ && !log_context_.newest_unknown.empty()) DEFIB_TRY(settle_log_head());
  return remove_leftovers(context);
}

Result<> Opening::mark_recovery_needed(std::string_view reason) {
  return os::write_file_atomically(
      files_, os::join_path(dir_, kRecoveryMarker),
      fmt::format("{}\nat: {}\n", reason, os::format_time(options_.clock->wall_ns())));
}

// The copy is durable before the original goes.
Result<> Opening::cut_tail(StageContext& context) {
  const LogCut& cut = *opened_.log.cut;
  const std::string path = os::join_path(wal_dir_, cut.segment);
  DEFIB_TRY(quarantine_tail(files_, dir_, {cut.segment, cut.offset},
                            [&context] { return go_on(context); }));
  DEFIB_TRY_ASSIGN(const auto file, files_.open(path, os::OpenMode::kWrite));
  // Shorter, then longer again: the end mark of zeros belongs to every complete log.
  DEFIB_TRY(file->truncate(cut.offset));
  DEFIB_TRY(file->truncate(align_up(cut.offset + kBlockHeaderSize, kPageSize)));
  DEFIB_TRY(file->sync());
  std::erase_if(opened_.torn, [&](const TornTail& tail) { return tail.segment == cut.segment; });
  return {};
}

// What is there now is what there is: the loss was reported once.
Result<> Opening::settle_log_head() {
  return write_log_head(files_, dir_, newest_segment_);
}

Result<> Opening::remove_leftovers(StageContext& context) {
  std::vector<std::string> from_log;
  // Where some of the log is to be kept, the writer lets go what is too much.
  for (const std::string& name : opened_.log.obsolete) {
    if (options_.log_retention == 0) from_log.push_back(os::join_path(wal_dir_, name));
  }
  std::vector<std::string> from_data;
  const std::string data = os::join_path(dir_, kDataDir);
  DEFIB_TRY_ASSIGN(const std::vector<std::string> data_names, files_.list(data));
  for (const std::string& name : data_names) {
    const auto is_it = [&](const SortedFileInfo& info) { return sorted_file_name(info) == name; };
    if (std::ranges::any_of(opened_.manifest.files, is_it)) continue;
    if (parse_sorted_file_name(name)) from_data.push_back(os::join_path(data, name));
  }
  std::vector<std::string> from_store;
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_.list(dir_));
  for (const std::string& name : names) {
    if (name.ends_with(".tmp")) from_store.push_back(os::join_path(dir_, name));
  }
  const std::pair<const std::vector<std::string>&, const std::string&> places[] = {
      {from_log, wal_dir_}, {from_data, data}, {from_store, dir_}};
  for (const auto& [paths, folder] : places) {
    for (const std::string& path : paths) {
      DEFIB_TRY(go_on(context));
      const std::string name = path.substr(path.rfind('/') + 1);
      DEFIB_TRY(quarantine_tails_of(files_, dir_, name, opened_.torn));
      DEFIB_TRY(files_.remove(path));
      context.metric("removed", name);
    }
    if (!paths.empty()) DEFIB_TRY(files_.sync_dir(folder));
  }
  return {};
}

// The recovery lock becomes the store's lock: the same lock under another name, without a gap.
Result<> Opening::unlock_database(StageContext&) {
  return opened_.lock->set_state("open");
}

Result<> Opening::finalize(StageContext&) {
  const std::string marker = os::join_path(dir_, kRecoveryMarker);
  if (files_.exists(marker)) {
    DEFIB_TRY(files_.remove(marker));
    DEFIB_TRY(files_.sync_dir(dir_));
  }
  if (distrusts_cache_) {
    FailureNote(files_, opened_.identity.uuid, options_.clock->boot_id()).clear();
  }
  return {};
}

// What this opening read may be in the page cache alone from now on, and the next one must not
// believe it.
Result<> Opening::note_failure(Result<> done) const {
  if (!done && is_of_device(done.error())) {
    FailureNote(files_, opened_.identity.uuid, options_.clock->boot_id()).note();
  }
  return done;
}

void Opening::note_failures(const recovery::ProcedureResult& result) const {
  if (opened_.identity.uuid.empty()) return;
  for (const recovery::StageRecord& stage : result.stages) {
    if (!stage.error || !is_of_device(*stage.error)) continue;
    FailureNote(files_, opened_.identity.uuid, options_.clock->boot_id()).note();
    return;
  }
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
  // The kernel refuses a mapping where the process's address space is limited.
  if (error.root().field("errno") == std::to_string(ENOMEM)) {
    return memory_was_refused(needs_, dir_).because(error);
  }
  switch (error.code()) {
    case Code::kProcedureAborted:
      return stopped(result);
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
      return dependency_failed(failed, error);
    case Code::kPermissionDenied:
      return permission_error(error);
    case Code::kNoSpace:
      return disk_is_full(files_, dir_, needs_).because(error);
    case Code::kTooManyDescriptors:
      return too_few_descriptors(needs_, dir_).because(error);
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

// Where it stopped, what it left, and that another opening is all that it takes.
Error Opening::stopped(const recovery::ProcedureResult& result) const {
  const Error& error = *result.error;
  const bool is_clean = result.find("resource_cleanup")->outcome == StageOutcome::kNotRun;
  const bool unchanged = is_clean && !created_;
  const std::string_view left =
      created_    ? "the store that it was creating is not complete"
      : unchanged ? "no file has changed but the lock's own record"
                  : "what it had begun to clean up, the next opening goes on with";
  const std::string_view stage = error.field("stage");
  const std::string_view progress = error.field("progress");
  return Error(Code::kProcedureAborted,
               fmt::format("opening '{}' was stopped on request at stage {} ({}); {}", dir_, stage,
                           progress, left))
      .with("stage", stage)
      .with("progress", progress)
      .with("files_changed", unchanged ? "no" : "yes")
      .with("path", dir_)
      .suggest(needed_ ? fmt::format("open it again when there is time, or run `defib store "
                                     "recover {}`; recovery then begins anew",
                                     dir_)
                       : "open it again when there is time")
      .because(error);
}

Result<> Opening::check_timeouts(const recovery::Procedure& procedure) const {
  const auto wrong = [](const std::string& setting, std::string issue, std::string_view fix) {
    return Error(Code::kRecoveryConfigurationError, fmt::format("{}: {}", setting, issue))
        .with("setting", setting)
        .with("issue", issue)
        .with("fix", fix);
  };
  if (options_.stage_timeout <= os::Duration::zero()) {
    return wrong("stage_timeout", "it is not positive", "choose a positive duration");
  }
  for (const auto& [name, limit] : options_.stage_timeouts) {
    const std::string setting = fmt::format("stage_timeouts[\"{}\"]", name);
    if (!procedure.has_stage(name)) {
      return wrong(setting, "there is no such stage", "choose one of the twelve stages' names");
    }
    if (limit <= os::Duration::zero()) {
      return wrong(setting, "it is not positive", "choose a positive duration");
    }
  }
  return {};
}

Result<Opened> Opening::run() {
  recovery::Procedure procedure("store recovery");
  add_stages(procedure);
  DEFIB_TRY(check_timeouts(procedure));
  const std::stop_callback stop(options_.stop, [&procedure] { procedure.abort(); });
  // A store without any sign of trouble opens unobserved; there is nothing to tell.
  const bool announce = files_.exists(os::join_path(dir_, kIdentityFile)) &&
                        any_present(read_indicators(files_, *options_.clock, dir_));
  Announcer announcer(*options_.clock, options_.observer);
  recovery::ProcedureResult result =
      procedure.execute(*options_.clock, announce ? &announcer : nullptr);
  note_failures(result);
  if (result.error) return classify(result);
  for (recovery::StageRecord& stage : result.stages) {
    const bool blocked = stage.error && stage.error->code() == Code::kStageDependencyFailed;
    if (blocked) stage.error = dependency_failed(stage.name, *stage.error);
  }
  opened_.was_clean = !needed_;
  if (needed_) opened_.result = std::move(result);
  return Result<Opened>(std::move(opened_));
}

}  // namespace

Result<Opened> open_files(const std::string& dir, const Options& options) {
  return Opening(dir, options).run();
}

}  // namespace defib::store
