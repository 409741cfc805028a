#include "defib/store/engine.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/executor.h"
#include "defib/store/picture.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

constexpr std::size_t kGroupBytes = 4 << 20;  // of one write that several commits share
// Published changes that enter the overlay together: what a synced commit does by itself, what is
// worth waking a thread for, and what no commit waits for that thread with.
constexpr std::size_t kApplySynced = 64;
constexpr std::size_t kApplyTogether = 512;
constexpr std::size_t kApplyAtOnce = 2048;
constexpr std::size_t kKeptBytes = 4 << 20;  // of change sets whose memory is used again
constexpr os::Duration kBehindPause = std::chrono::milliseconds(1);
constexpr os::Duration kSleepSlice = std::chrono::milliseconds(5);  // how long close() may wait
constexpr std::uint64_t kPaceStep = 256 << 10;                      // bytes
// Until a replay was measured: a cautious guess for a machine of today.
constexpr std::uint64_t kAssumedReplayRate = 400 << 20;  // bytes a second

LogWriter::Start log_start(const std::string& dir, const Options& options, const Opened& opened,
                           Executor* executor) {
  return {.dir = dir,
          .identity = opened.identity,
          .epoch = std::max(opened.log.epoch, opened.manifest.epoch) + 1,
          .last_lsn = opened.log.last_lsn,
          .chain_crc = opened.log.chain_known ? opened.log.chain_crc : 0,
          .segment_size = options.segment_size,
          .executor = executor,
          .torn = opened.torn};
}

Error transaction_is_open() {
  return Error(Code::kTransactionConflict, "a transaction is still open");
}

Error is_closed() {
  return Error(Code::kInvalidArgument, "the store is closed");
}

}  // namespace

Engine::Engine(std::string dir, const Options& options, Opened opened)
    : dir_(std::move(dir)),
      options_(options),
      opened_clean_(opened.was_clean),
      files_(*options_.files),
      clock_(*options_.clock),
      own_executors_(std::move(opened.executors)),
      light_{options_.executor != nullptr ? options_.executor : own_executors_.light.get(),
             std::make_shared<Gate>()},
      heavy_{options_.executor != nullptr ? options_.executor : own_executors_.heavy.get(),
             std::make_shared<Gate>()},
      prompt_{options_.executor != nullptr ? options_.executor : own_executors_.prompt.get(),
              std::make_shared<Gate>()},
      identity_(opened.identity),
      unbroken_from_(opened.log.unbroken_from),
      lock_(std::move(opened.lock)),
      recovery_result_(std::move(opened.result)),
      log_(files_, clock_, log_start(dir_, options_, opened, light_.executor)),
      checkpointer_(files_, clock_,
                    {.dir = dir_,
                     .identity = opened.identity,
                     .manifest = opened.manifest,
                     .files = opened.files,
                     .mapped = opened.mapped}),
      mapped_(opened.mapped),
      last_numbered_(opened.log.last_lsn),
      published_(opened.log.last_lsn),
      names_(opened.names),
      active_(std::move(opened.overlay)),
      sorted_files_(std::move(opened.files)),
      checkpoint_lsn_(opened.manifest.checkpoint_commit),
      tail_at_open_(opened.tail_bytes),
      replay_rate_(opened.replay_rate) {
  light_.gate->engine = this;
  heavy_.gate->engine = this;
  prompt_.gate->engine = this;
  for (const IndexDefinition& index : options_.indexes) indexes_[index.table].push_back(&index);
}

// Without close() the files stay as they are: the next opening recovers, as after a crash.
Engine::~Engine() {
  {
    const Lock lock(mutex_);
    DEFIB_ASSERT_MESSAGE(!transaction_open_, "a transaction outlived its store");
    stopping_ = true;
  }
  for (const Lane& lane : {light_, heavy_, prompt_}) {
    const std::lock_guard lock(lane.gate->mutex);
    lane.gate->engine = nullptr;
  }
}

Error Engine::poisoned(const Error& cause) const {
  return Error(Code::kStorePoisoned, fmt::format("'{}' refuses work after an input or output "
                                                 "error",
                                                 dir_))
      .with("path", dir_)
      .because(cause);
}

Error Engine::full(const Error& cause) const {
  return Error(Code::kStoreFull, fmt::format("there is no space left for commits in '{}'", dir_))
      .with("path", dir_)
      .because(cause);
}

Error Engine::storage_error(Error error) {
  if (error.code() == Code::kNoSpace && !log_.failure()) return full(error);
  return poisoned(log_.fail(std::move(error)));
}

Error Engine::noted_storage_error(Error cause) {
  const Error error = storage_error(std::move(cause));
  const Lock lock(mutex_);
  note_failure(lock);
  return error;
}

Result<> Engine::refuse_if_unusable() const {
  if (closed_) return is_closed();
  if (const auto failure = log_.failure()) return poisoned(*failure);
  return {};
}

// Leaves a sign for the next opening, whatever it is worth on a failing device.
void Engine::note_failure(const Lock&) {
  const auto failure = log_.failure();
  if (!failure || marked_failure_) return;
  marked_failure_ = true;
  (void)os::write_file_atomically(
      files_, os::join_path(dir_, kRecoveryMarker),
      fmt::format("{}\nat: {}\n", failure->to_line(), os::format_time(clock_.wall_ns())));
}

Result<std::unique_ptr<Transaction>> Engine::begin() {
  Lock lock(mutex_);
  turn_.wait(lock, [this] { return !transaction_open_; });
  if (Result<> usable = refuse_if_unusable(); !usable) {
    turn_.notify_one();  // The next one waiting is to hear it too.
    return Error(std::move(usable.error()));
  }
  transaction_open_ = true;
  return std::unique_ptr<Transaction>(
      std::make_unique<EngineTransaction>(*this, make_pending(lock), names_, generation_));
}

Engine::PendingPtr Engine::make_pending(const Lock&) {
  if (unused_.empty()) return std::make_shared<Pending>();
  PendingPtr pending = std::move(unused_.back());
  unused_.pop_back();
  unused_bytes_ -= pending->changes.memory();
  return pending;
}

// Whoever has had it lets it go under mutex_, and a cursor's reader is known by is_walked.
void Engine::recycle(PendingPtr pending, const Lock&) {
  const bool is_shared = pending->is_walked || pending.use_count() > 1;
  const std::size_t memory = pending->changes.memory();
  if (is_shared || unused_bytes_ + memory > kKeptBytes) return;
  unused_bytes_ += memory;
  pending->changes.clear();
  pending->written = false;
  pending->error.reset();
  unused_.push_back(std::move(pending));
}

void Engine::end_transaction(const Lock&) {
  transaction_open_ = false;
  turn_.notify_one();
}

Result<std::unique_ptr<Snapshot>> Engine::snapshot() {
  ViewPtr now;
  {
    Lock lock(mutex_);
    if (closed_) return is_closed();
    now = view(lock);
  }
  return make_snapshot(std::move(now));
}

// The state of the last published commit.
ViewPtr Engine::view(Lock& lock) {
  apply_published(lock);
  if (view_ != nullptr) return view_;
  auto made = std::make_shared<View>();
  made->position = published_;
  made->names = names_;
  made->overlays.push_back(active_->view());
  made->overlays.insert(made->overlays.end(), frozen_.begin(), frozen_.end());
  made->files = sorted_files_;
  view_ = std::move(made);
  return view_;
}

std::vector<Engine::PendingPtr> Engine::take_unapplied(std::vector<OverlayChange>& changes,
                                                       const Lock&) {
  changes.reserve(unapplied_changes_);
  for (const PendingPtr& pending : unapplied_) {
    for (std::size_t i = 0; i < pending->changes.size(); ++i)
      changes.push_back(pending->changes[i]);
  }
  unapplied_changes_ = 0;
  std::vector<PendingPtr> taken;
  taken.swap(unapplied_);
  unapplied_.reserve(kApplyTogether);
  return taken;
}

void Engine::apply_published(Lock& lock) {
  applied_.wait(lock, [this] { return !applying_; });
  if (unapplied_.empty()) return;
  std::vector<OverlayChange> changes;
  auto batch = take_unapplied(changes, lock);
  active_->apply(changes);
  for (PendingPtr& pending : batch) recycle(std::move(pending), lock);
}

void Engine::background_apply() {
  Lock lock(mutex_);
  apply_scheduled_ = false;
  if (applying_ || unapplied_.empty()) return;
  std::vector<OverlayChange> changes;
  auto batch = take_unapplied(changes, lock);
  const std::shared_ptr<Overlay> active = active_;
  applying_ = true;
  lock.unlock();
  active->apply(changes);
  lock.lock();
  applying_ = false;
  applied_.notify_all();
  for (PendingPtr& pending : batch) recycle(std::move(pending), lock);
}

// Precondition: mutex_ is held. The clean mark goes before the first change to the log.
Result<> Engine::start_writing(const Lock& lock) {
  if (started_writing_) return {};
  const std::string mark = os::join_path(dir_, kCleanMarker);
  Result<> done;
  if (files_.exists(mark)) {
    done = files_.remove(mark);
    if (done) done = files_.sync_dir(dir_);
  }
  if (!done) {
    const Error error = storage_error(std::move(done.error()));
    note_failure(lock);
    return error;
  }
  started_writing_ = true;
  return {};
}

Result<std::uint64_t> Engine::commit(EngineTransaction& transaction, Durability durability) {
  Lock lock(mutex_);
  Result<> allowed = refuse_if_unusable();
  if (allowed && transaction.generation_ != generation_) {
    allowed = full(Error(Code::kNoSpace, "a commit that this one builds on could not be written"));
  }
  PendingPtr own = std::move(transaction.own_);
  const bool is_empty = own->changes.empty();
  if (allowed && !is_empty) allowed = start_writing(lock);
  if (!allowed || is_empty) {
    const std::uint64_t last = published_;
    recycle(std::move(own), lock);
    end_transaction(lock);
    if (!allowed) return Error(std::move(allowed.error()));
    return last;
  }
  const std::uint64_t lsn = ++last_numbered_;
  own->lsn = lsn;
  own->changes.finish(lsn);
  if (names_ != transaction.names_) names_ = transaction.names_;
  unwritten_.push_back(own);
  unpublished_.push_back(own);
  end_transaction(lock);

  DEFIB_TRY(wait_written(own, lock));
  own = nullptr;
  // Only now: where the write fails, the index is still there, and still not kept.
  for (const std::string& table : transaction.dropped_) undeclared_.erase(table);
  if (durability == Durability::kPower) {
    lock.unlock();
    const Result<> synced = log_.sync();
    lock.lock();
    if (!synced) {
      note_failure(lock);
      return poisoned(synced.error());
    }
  } else {
    schedule_background_sync(lock);
  }
  publish_up_to(lsn, lock);
  apply_if_due(durability, lock);
  schedule_checkpoint_if_due(lock);
  const bool behind = is_behind(lock);
  lock.unlock();
  if (behind) clock_.sleep_for(kBehindPause);
  return lsn;
}

Result<> Engine::wait_written(const PendingPtr& own, Lock& lock) {
  while (!own->written && !own->error) {
    if (writing_) {
      changed_.wait(lock);
    } else {
      write_group(lock);
    }
  }
  if (own->error) return *own->error;
  return {};
}

void Engine::write_group(Lock& lock) {
  writing_ = true;
  std::vector<std::string_view>& group = group_;
  group.clear();
  std::size_t bytes = 0;
  for (const PendingPtr& pending : unwritten_) {
    const std::string_view payload = pending->changes.payload();
    if (!group.empty() && bytes + payload.size() > kGroupBytes) break;
    group.push_back(payload);
    bytes += payload.size();
  }
  const std::uint64_t first_lsn = unwritten_.front()->lsn;
  lock.unlock();
  Result<> written = log_.append(first_lsn, group);
  lock.lock();
  writing_ = false;
  if (written) {
    for (std::size_t i = 0; i < group.size(); ++i) {
      unwritten_.front()->written = true;
      unwritten_.pop_front();
    }
    counts_.log_bytes = log_.appended_bytes();
  } else {
    const Error error = storage_error(std::move(written.error()));
    note_failure(lock);
    fail_unwritten(error, lock);
  }
  changed_.notify_all();
}

// The commits that were not written are dropped, as if they had never been.
void Engine::fail_unwritten(const Error& error, const Lock&) {
  ++generation_;
  while (!unwritten_.empty()) {
    const PendingPtr pending = unwritten_.back();
    unwritten_.pop_back();
    DEFIB_ASSERT(unpublished_.back() == pending);
    unpublished_.pop_back();
    pending->error = error;
    last_numbered_ = pending->lsn - 1;
  }
}

void Engine::publish_up_to(std::uint64_t lsn, const Lock&) {
  if (unpublished_.empty() || unpublished_.front()->lsn > lsn) return;
  while (!unpublished_.empty() && unpublished_.front()->lsn <= lsn) {
    const PendingPtr& pending = unpublished_.front();
    published_ = pending->lsn;
    ++counts_.commits;
    counts_.user_bytes += pending->changes.user_bytes();
    unapplied_changes_ += pending->changes.size();
    unapplied_.push_back(pending);
    unpublished_.pop_front();
  }
  log_.acknowledge(published_);
  view_ = nullptr;
}

// A sync costs more than a small batch here; without one, another thread is worth waking.
void Engine::apply_if_due(Durability durability, Lock& lock) {
  const std::size_t limit = durability == Durability::kPower ? kApplySynced : kApplyAtOnce;
  if (unapplied_changes_ >= limit) {
    apply_published(lock);
  } else if (unapplied_changes_ >= kApplyTogether && !apply_scheduled_) {
    apply_scheduled_ = true;
    schedule(prompt_, &Engine::background_apply);
  }
}

void Engine::schedule(const Lane& lane, Task task) {
  lane.executor->run([gate = lane.gate, task] {
    const std::lock_guard lock(gate->mutex);
    if (gate->engine != nullptr) (gate->engine->*task)();
  });
}

void Engine::schedule_background_sync(const Lock&) {
  if (sync_scheduled_ || stopping_) return;
  sync_scheduled_ = true;
  schedule(light_, &Engine::background_sync);
}

void Engine::background_sync() {
  for (os::Duration slept{0}; slept < options_.background_sync; slept += kSleepSlice) {
    if (stopping_) return;
    clock_.sleep_for(std::min(kSleepSlice, options_.background_sync - slept));
  }
  Result<> synced = log_.sync();
  Lock lock(mutex_);
  if (synced && !writing_ && unwritten_.empty() && log_.written_lsn() == last_numbered_) {
    // Nobody writes: an empty block tells a later recovery that all before it was synced.
    writing_ = true;
    lock.unlock();
    synced = log_.seal();
    lock.lock();
    writing_ = false;
    changed_.notify_all();
  }
  if (!synced) note_failure(lock);
  sync_scheduled_ = false;
  if (synced && log_.durable_lsn() < log_.written_lsn()) schedule_background_sync(lock);
}

std::uint64_t Engine::tail_bytes(const Lock&) const {
  return tail_at_open_ + log_.appended_bytes() - log_at_checkpoint_;
}

os::Duration Engine::estimated_replay(std::uint64_t tail) const {
  const std::uint64_t rate = replay_rate_ != 0 ? replay_rate_.load() : kAssumedReplayRate;
  return os::Duration(
      static_cast<std::int64_t>(static_cast<double>(tail) * 1e9 / static_cast<double>(rate)));
}

std::uint64_t Engine::tail_limit() const {
  if (options_.checkpoint_after == 0) return 0;
  if (options_.recovery_budget <= os::Duration::zero()) return options_.checkpoint_after;
  const std::uint64_t rate = replay_rate_ != 0 ? replay_rate_.load() : kAssumedReplayRate;
  const double budget = static_cast<double>(options_.recovery_budget.count()) / 1e9;
  const auto allowed = static_cast<std::uint64_t>(budget / 2 * static_cast<double>(rate));
  return std::clamp<std::uint64_t>(allowed, 1, options_.checkpoint_after);
}

void Engine::schedule_checkpoint_if_due(const Lock& lock) {
  const std::uint64_t limit = tail_limit();
  if (limit == 0 || checkpoint_scheduled_ || stopping_ || closed_) return;
  if (tail_bytes(lock) < limit || log_.appended_bytes() < retry_checkpoint_at_) return;
  checkpoint_scheduled_ = true;
  schedule(heavy_, &Engine::background_checkpoint);
}

// The log behind the checkpoint that is being written must not outgrow what recovery may take: the
// committing threads then wait a moment each, which lets the checkpoint catch up.
bool Engine::is_behind(const Lock& lock) const {
  return checkpoint_scheduled_ && tail_limit() != 0 && tail_bytes(lock) >= tail_limit() / 4 * 7;
}

void Engine::background_checkpoint() {
  // Its failure is no commit's failure: the log still holds everything. Poison shows at once, a
  // full disk lets it wait until as much was written again.
  const Result<> done = checkpoint();
  const Lock lock(mutex_);
  checkpoint_scheduled_ = false;
  if (!done)
    retry_checkpoint_at_ = log_.appended_bytes() + std::max<std::uint64_t>(tail_limit(), 1);
}

void Engine::background_merge() {
  const std::lock_guard lock(checkpoint_mutex_);
  {
    const Lock state(mutex_);
    merge_scheduled_ = false;
    if (!refuse_if_unusable() || stopping_) return;
  }
  // Its failure is nobody's: what was to be merged is still there. Poison shows at once.
  (void)merge_files(&Checkpointer::merge);
}

// The replaced files go only when the manifest that names the new one is durable.
Result<> Engine::merge_files(std::optional<CheckpointFailure> (Checkpointer::*merge)(const Pace&)) {
  const std::uint64_t before = checkpointer_.bytes_written();
  if (auto failed = (checkpointer_.*merge)(make_merge_pace())) {
    return checkpoint_error(std::move(*failed));
  }
  install_files(0);
  if (Result<> removed = checkpointer_.remove_replaced(); !removed) {
    return noted_storage_error(std::move(removed.error()));
  }
  const std::uint64_t written = checkpointer_.bytes_written() - before;
  const Lock lock(mutex_);
  if (written > 0) ++counts_.merges;
  counts_.merge_bytes += written;
  return {};
}

Result<> Engine::compact() {
  const std::lock_guard lock(checkpoint_mutex_);
  {
    const Lock state(mutex_);
    DEFIB_TRY(refuse_if_unusable());
  }
  DEFIB_TRY(write_new_checkpoint());
  if (checkpointer_.files().size() > 1) {
    {
      const Lock state(mutex_);
      DEFIB_TRY(start_writing(state));
    }
    DEFIB_TRY(merge_files(&Checkpointer::merge_all));
  }
  // Without a new checkpoint nobody has looked for log that may go since the store was opened.
  if (Result<> gone = log_.retire(checkpoint_lsn_, options_.log_retention); !gone) {
    return noted_storage_error(std::move(gone.error()));
  }
  return {};
}

Result<> Engine::checkpoint() {
  const std::lock_guard lock(checkpoint_mutex_);
  {
    const Lock state(mutex_);
    DEFIB_TRY(refuse_if_unusable());
  }
  return write_new_checkpoint();
}

// Ends the log's segment, so that what the checkpoint covers can go as whole files, and freezes the
// overlay at the same commit.
Result<CheckpointStart> Engine::begin_checkpoint() {
  CheckpointStart start;
  // Most of what is to be synced before the segment ends is synced while others still write.
  if (Result<> synced = log_.sync(); !synced) return noted_storage_error(std::move(synced.error()));
  Lock lock(mutex_);
  changed_.wait(lock, [this] { return !writing_; });
  if (log_.written_lsn() == checkpoint_lsn_) return start;
  DEFIB_TRY(start_writing(lock));
  writing_ = true;
  lock.unlock();
  Result<> rotated = log_.rotate();
  start.boundary = log_.written_lsn();
  start.chain_crc = log_.chain_crc();
  start.epoch = log_.epoch();
  lock.lock();
  if (!rotated) {
    writing_ = false;
    changed_.notify_all();
    const Error error = storage_error(std::move(rotated.error()));
    note_failure(lock);
    return error;
  }
  publish_up_to(start.boundary, lock);  // All of it is durable now.
  apply_published(lock);
  frozen_.insert(frozen_.begin(), active_->view());
  active_ = Overlay::make();
  view_ = nullptr;
  writing_ = false;  // Not before: no later commit may get into what is frozen.
  changed_.notify_all();
  start.frozen = frozen_;
  start.names = names_;
  frozen_tail_ = tail_at_open_;
  log_at_freeze_ = log_.appended_bytes();
  return start;
}

Pace Engine::make_pace() {
  struct State {
    std::uint64_t bytes = 0;
    std::int64_t started = 0;
    std::int64_t synced = 0;
  };
  const auto state = std::make_shared<State>();
  state->started = state->synced = clock_.mono_ns();
  return [this, state](std::uint64_t bytes) -> Result<> {
    if (stopping_) return Error(Code::kCancelled, "the store is being closed");
    state->bytes += bytes;
    // Executors of one thread: what that thread would do stays done.
    if (clock_.mono_ns() - state->synced >= options_.background_sync.count()) {
      (void)log_.sync();  // Its failure is found by the next commit.
      state->synced = clock_.mono_ns();
    }
    if (options_.checkpoint_rate == 0 || state->bytes < kPaceStep) return {};
    {
      const Lock lock(mutex_);
      const std::uint64_t limit = tail_limit();
      if (limit != 0 && tail_bytes(lock) > limit / 2 * 3) return {};  // No time to lose.
    }
    const double due =
        static_cast<double>(state->bytes) * 1e9 / static_cast<double>(options_.checkpoint_rate);
    const os::Duration ahead(static_cast<std::int64_t>(due) - (clock_.mono_ns() - state->started));
    if (ahead > os::Duration::zero()) clock_.sleep_for(std::min(ahead, 4 * kSleepSlice));
    return {};
  };
}

Pace Engine::make_merge_pace() {
  return [this, pace = make_pace()](std::uint64_t bytes) -> Result<> {
    if (waiting_to_close_ == 0) return pace(bytes);
    return Error(Code::kCancelled, fmt::format("'{}' is being closed: the merge of its files was "
                                               "given up, and nothing is lost",
                                               dir_))
        .with("path", dir_)
        .suggest("compact it again after the next opening");
  };
}

Error Engine::checkpoint_error(CheckpointFailure failure) {
  const Code code = failure.error.code();
  if (failure.is_reading || code == Code::kCancelled) return std::move(failure.error);
  return noted_storage_error(std::move(failure.error));
}

// What the checkpointer has now is what readers get; the oldest `frozen_written` frozen overlays
// are in it.
void Engine::install_files(std::size_t frozen_written) {
  const Lock lock(mutex_);
  sorted_files_ = checkpointer_.files();
  frozen_.resize(frozen_.size() - frozen_written);
  view_ = nullptr;
}

Result<> Engine::write_new_checkpoint() {
  DEFIB_TRY_ASSIGN(const CheckpointStart start, begin_checkpoint());
  if (start.boundary == 0) return {};
  const std::uint64_t before = checkpointer_.bytes_written();
  if (auto failed = checkpointer_.write_run(start, replay_rate_, make_pace())) {
    return checkpoint_error(std::move(*failed));
  }
  install_files(start.frozen.size());
  {
    const Lock lock(mutex_);
    checkpoint_lsn_ = start.boundary;
    tail_at_open_ -= frozen_tail_;
    frozen_tail_ = 0;
    log_at_checkpoint_ = log_at_freeze_;
    ++counts_.checkpoints;
    counts_.checkpoint_bytes += checkpointer_.bytes_written() - before;
    if (!merge_scheduled_ && checkpointer_.merge_is_due() && !closed_) {
      merge_scheduled_ = true;
      schedule(heavy_, &Engine::background_merge);
    }
  }
  if (Result<> gone = log_.retire(start.boundary, options_.log_retention); !gone) {
    return noted_storage_error(std::move(gone.error()));
  }
  return {};
}

Result<> Engine::sync() {
  {
    const Lock lock(mutex_);
    DEFIB_TRY(refuse_if_unusable());
  }
  if (auto synced = log_.sync(); !synced) {
    const Lock lock(mutex_);
    note_failure(lock);
    return poisoned(synced.error());
  }
  return {};
}

Result<> Engine::close() {
  {
    const Lock lock(mutex_);
    if (transaction_open_) return transaction_is_open();
  }
  ++waiting_to_close_;
  const std::lock_guard checkpoint_lock(checkpoint_mutex_);
  --waiting_to_close_;
  {
    Lock lock(mutex_);
    if (closed_) return {};
    if (transaction_open_) return transaction_is_open();
    DEFIB_TRY(refuse_if_unusable());
    closed_ = true;
    // Commits that have their number are written before the checkpoint, and not behind it.
    changed_.wait(lock, [this] { return !writing_ && unwritten_.empty(); });
  }
  Result<> done = finish_closing();
  const Lock lock(mutex_);
  if (!done) {
    closed_ = false;
    return done;
  }
  stopping_ = true;
  lock_.reset();
  return {};
}

Result<> Engine::finish_closing() {
  if (opened_clean_ && !started_writing_) return lock_->set_state("closed");
  DEFIB_TRY(write_new_checkpoint());
  Result<> done = log_.retire(checkpoint_lsn_, options_.log_retention);
  log_.discard_spares();
  if (done) done = checkpointer_.settle();
  if (done) done = lock_->set_state("closed");
  if (done) {
    const CleanRecord record{.uuid = identity_.uuid,
                             .lsn = checkpoint_lsn_,
                             .epoch = log_.epoch(),
                             .manifest_sequence = checkpointer_.manifest().sequence};
    // The last write of all: from here on none of the five indicators holds.
    done = os::write_file_atomically(files_, os::join_path(dir_, kCleanMarker), encode(record));
  }
  if (!done) return noted_storage_error(std::move(done.error()));
  remove_ack_word(files_, identity_.uuid);
  return {};
}

Result<VerifyReport> Engine::verify() {
  DEFIB_TRY(sync());
  DEFIB_TRY_ASSIGN(VerifyReport report, verify_files(dir_, options_));
  Lock lock(mutex_);
  apply_published(lock);
  if (const Result<> sound = active_->check(); !sound) {
    report.findings.push_back({"memory", sound.error().message()});
  }
  return report;
}

Result<> Engine::stream(std::uint64_t from,
                        const std::function<bool(const CommittedTransaction&)>& sink) {
  std::uint64_t last = 0;
  {
    const Lock lock(mutex_);
    last = published_;
  }
  const auto held = log_.hold_segments();
  return stream_log(files_, dir_, identity_, unbroken_from_, from, last, sink);
}

Statistics Engine::statistics() const {
  const Lock lock(mutex_);
  Statistics now = counts_;
  now.log_bytes = log_.appended_bytes();
  now.tail_bytes = tail_bytes(lock);
  now.memory_bytes = active_->memory();
  now.mapped_bytes = mapped_->bytes();
  now.runs = static_cast<std::uint32_t>(sorted_files_.empty() ? 0 : sorted_files_.size() - 1);
  now.replay_bytes_per_second = replay_rate_;
  now.estimated_recovery = estimated_replay(now.tail_bytes);
  return now;
}

}  // namespace defib::store
