#include "defib/store/engine.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/checkpoint.h"
#include "defib/store/executor.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

constexpr std::size_t kGroupBytes = 4 << 20;  // of one block that several commits share
constexpr os::Duration kSleepSlice = std::chrono::milliseconds(5);  // how long close() may wait

LogWriter::Start log_start(const std::string& dir, const Options& options, const Opened& opened) {
  return {.dir = dir,
          .identity = opened.identity,
          .epoch = opened.log.epoch + 1,
          .last_lsn = opened.log.last_lsn,
          .chain_crc = opened.log.chain_known ? opened.log.chain_crc : 0,
          .segment_size = options.segment_size};
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
      own_executor_(options_.executor == nullptr ? std::make_unique<OneThread>() : nullptr),
      executor_(options_.executor != nullptr ? options_.executor : own_executor_.get()),
      identity_(opened.identity),
      lock_(std::move(opened.lock)),
      recovery_result_(std::move(opened.result)),
      versions_(std::make_shared<Versions>(std::move(opened.catalog))),
      log_(files_, clock_, log_start(dir_, options_, opened)),
      head_(versions_->published()),
      checkpoint_lsn_(opened.checkpoint_lsn),
      tail_at_open_(opened.tail_bytes) {
  gate_->engine = this;
}

// Without close() the files stay as they are: the next opening recovers, as after a crash.
Engine::~Engine() {
  {
    const Lock lock(mutex_);
    DEFIB_ASSERT_MESSAGE(!transaction_open_, "a transaction outlived its store");
    stopping_ = true;
  }
  {
    const std::lock_guard lock(gate_->mutex);
    gate_->engine = nullptr;
  }
  own_executor_.reset();
  for (auto pending = unpublished_.rbegin(); pending != unpublished_.rend(); ++pending) {
    (*pending)->delta.undo();
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
  if (error.code() == Code::kNoSpace) return full(error);
  return poisoned(log_.fail(std::move(error)));
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
      std::make_unique<EngineTransaction>(*this, *head_, generation_));
}

void Engine::end_transaction(const Lock&) {
  transaction_open_ = false;
  for (Delta& orphan : orphans_) orphan.undo();
  orphans_.clear();
  turn_.notify_one();
}

Result<std::unique_ptr<Snapshot>> Engine::snapshot() {
  {
    const Lock lock(mutex_);
    if (closed_) return is_closed();
  }
  return make_snapshot(versions_->view());
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
  const bool is_empty = transaction.encoder_.changes() == 0;
  if (allowed && !is_empty) allowed = start_writing(lock);
  if (!allowed || is_empty) {
    transaction.delta_.undo();
    const std::uint64_t last = versions_->published()->position;
    end_transaction(lock);
    if (!allowed) return Error(std::move(allowed.error()));
    return last;
  }
  const auto own = std::make_shared<Pending>();
  own->lsn = head_->position + 1;
  own->payload = transaction.encoder_.finish(own->lsn);
  transaction.catalog_.position = own->lsn;
  transaction.catalog_.drop_empty_tables();
  own->catalog = std::make_shared<Catalog>(std::move(transaction.catalog_));
  own->delta = std::exchange(transaction.delta_, {});
  head_ = own->catalog;
  unwritten_.push_back(own);
  unpublished_.push_back(own);
  end_transaction(lock);

  DEFIB_TRY(wait_written(own, lock));
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
  publish_up_to(own->lsn, lock);
  schedule_checkpoint_if_due(lock);
  return own->lsn;
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
  std::vector<PendingPtr> group;
  std::size_t bytes = 0;
  for (const PendingPtr& pending : unwritten_) {
    if (!group.empty() && bytes + pending->payload.size() > kGroupBytes) break;
    group.push_back(pending);
    bytes += pending->payload.size();
  }
  lock.unlock();
  std::vector<std::string_view> transactions;
  for (const PendingPtr& pending : group) transactions.push_back(pending->payload);
  Result<> written = log_.append(group.front()->lsn, transactions);
  lock.lock();
  writing_ = false;
  if (written) {
    for (const PendingPtr& pending : group) {
      pending->written = true;
      pending->payload = {};
      unwritten_.pop_front();
    }
  } else {
    const Error error = storage_error(std::move(written.error()));
    note_failure(lock);
    fail_unwritten(error, lock);
  }
  changed_.notify_all();
}

// The tables go back to the last commit that was written.
void Engine::fail_unwritten(const Error& error, const Lock&) {
  ++generation_;
  while (!unwritten_.empty()) {
    const PendingPtr pending = unwritten_.back();
    unwritten_.pop_back();
    DEFIB_ASSERT(unpublished_.back() == pending);
    unpublished_.pop_back();
    pending->error = error;
    orphans_.push_back(std::exchange(pending->delta, {}));
  }
  head_ = unpublished_.empty() ? versions_->published() : unpublished_.back()->catalog;
  if (transaction_open_) return;  // It may read what these commits made; it cannot commit any more.
  for (Delta& orphan : orphans_) orphan.undo();
  orphans_.clear();
}

void Engine::publish_up_to(std::uint64_t lsn, const Lock&) {
  while (!unpublished_.empty() && unpublished_.front()->lsn <= lsn) {
    Pending& pending = *unpublished_.front();
    versions_->publish(pending.catalog, std::exchange(pending.delta, {}));
    unpublished_.pop_front();
  }
}

void Engine::schedule(void (Engine::*task)()) {
  executor_->run([gate = gate_, task] {
    const std::lock_guard lock(gate->mutex);
    if (gate->engine != nullptr) (gate->engine->*task)();
  });
}

void Engine::schedule_background_sync(const Lock&) {
  if (sync_scheduled_ || stopping_) return;
  sync_scheduled_ = true;
  schedule(&Engine::background_sync);
}

void Engine::background_sync() {
  for (os::Duration slept{0}; slept < options_.background_sync; slept += kSleepSlice) {
    {
      const Lock lock(mutex_);
      if (stopping_) return;
    }
    clock_.sleep_for(std::min(kSleepSlice, options_.background_sync - slept));
  }
  const Result<> synced = log_.sync();
  const Lock lock(mutex_);
  if (!synced) note_failure(lock);
  sync_scheduled_ = false;
  if (synced && log_.durable_lsn() < log_.written_lsn()) schedule_background_sync(lock);
}

void Engine::schedule_checkpoint_if_due(const Lock&) {
  if (options_.checkpoint_after == 0 || checkpoint_scheduled_ || stopping_ || closed_) return;
  const std::uint64_t appended = log_.appended_bytes();
  const std::uint64_t tail = tail_at_open_ + appended - log_at_checkpoint_;
  if (tail < options_.checkpoint_after || appended < retry_checkpoint_at_) return;
  checkpoint_scheduled_ = true;
  schedule(&Engine::background_checkpoint);
}

void Engine::background_checkpoint() {
  // Its failure is no commit's failure: the log still holds everything. Poison shows at once, a
  // full disk lets it wait until as much was written again.
  const Result<> done = checkpoint();
  const Lock lock(mutex_);
  checkpoint_scheduled_ = false;
  if (!done) retry_checkpoint_at_ = log_.appended_bytes() + options_.checkpoint_after;
}

Result<> Engine::checkpoint() {
  const std::lock_guard lock(checkpoint_mutex_);
  {
    const Lock state(mutex_);
    DEFIB_TRY(refuse_if_unusable());
  }
  return write_new_checkpoint();
}

// Ends the log's segment, so that what the checkpoint covers can go as whole files. The answer has
// lsn 0 where there is nothing new.
Result<CheckpointHeader> Engine::begin_checkpoint() {
  CheckpointHeader header;
  Lock lock(mutex_);
  changed_.wait(lock, [this] { return !writing_; });
  if (log_.written_lsn() == checkpoint_lsn_) return header;
  DEFIB_TRY(start_writing(lock));
  writing_ = true;
  lock.unlock();
  Result<> rotated = log_.rotate();
  header.lsn = log_.written_lsn();
  header.chain_crc = log_.chain_crc();
  header.chain_known = true;
  const std::uint64_t appended = log_.appended_bytes();
  lock.lock();
  writing_ = false;
  changed_.notify_all();
  if (!rotated) {
    const Error error = storage_error(std::move(rotated.error()));
    note_failure(lock);
    return error;
  }
  publish_up_to(header.lsn, lock);  // All of it is durable now.
  tail_at_open_ = 0;
  log_at_checkpoint_ = appended;
  return header;
}

Result<> Engine::write_new_checkpoint() {
  DEFIB_TRY_ASSIGN(CheckpointHeader header, begin_checkpoint());
  if (header.lsn == 0) return {};
  const std::shared_ptr<const View> view = versions_->view();
  const std::uint64_t covered = view->catalog().position;
  const std::uint64_t boundary = header.lsn;
  if (covered !=
      header.lsn) {  // Commits came in between: their block's checksum is not known here.
    header.lsn = covered;
    header.chain_known = false;
  }
  header.uuid = identity_.uuid;
  header.epoch = log_.epoch();
  header.created_wall_ns = clock_.wall_ns();
  // Nothing may be in a checkpoint that a power failure could still take out of the log.
  Result<> done = log_.sync();
  if (done) {
    const auto between = [this] { (void)log_.sync(); };  // Its failure is found by the next commit.
    auto written = write_checkpoint(files_, dir_, header, view->catalog(), between);
    if (!written) done = Error(std::move(written.error()));
  }
  if (!done) {
    const Error error = storage_error(std::move(done.error()));
    const Lock lock(mutex_);
    note_failure(lock);
    return error;
  }
  {
    const Lock lock(mutex_);
    checkpoint_lsn_ = covered;
  }
  return remove_covered(boundary);
}

// Segments that begin at or before `boundary` end there: the log was rotated after it.
Result<> Engine::remove_covered(std::uint64_t boundary) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> checkpoints, list_checkpoints(files_, dir_));
  for (std::size_t i = 1; i < checkpoints.size(); ++i) {
    DEFIB_TRY(files_.remove(os::join_path(dir_, checkpoints[i])));
  }
  if (checkpoints.size() > 1) DEFIB_TRY(files_.sync_dir(dir_));
  const std::string wal = os::join_path(dir_, kWalDir);
  DEFIB_TRY_ASSIGN(const std::vector<std::string> segments, list_segments(files_, dir_));
  bool removed = false;
  for (const std::string& name : segments) {
    if (parse_segment_name(name)->first_lsn > boundary) break;
    DEFIB_TRY(files_.remove(os::join_path(wal, name)));
    removed = true;
  }
  return removed ? files_.sync_dir(wal) : Result<>();
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
  const std::lock_guard checkpoint_lock(checkpoint_mutex_);
  {
    const Lock lock(mutex_);
    if (closed_) return {};
    if (transaction_open_) {
      return Error(Code::kTransactionConflict, "a transaction is still open");
    }
    DEFIB_TRY(refuse_if_unusable());
    closed_ = true;
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
  Result<> done = remove_covered(checkpoint_lsn_ + 1);  // Empty segments too.
  if (done) done = lock_->set_state("closed");
  if (done) {
    const CleanRecord record{.uuid = identity_.uuid, .lsn = checkpoint_lsn_, .epoch = log_.epoch()};
    // The last write of all: from here on none of the five indicators holds.
    done = os::write_file_atomically(files_, os::join_path(dir_, kCleanMarker), encode(record));
  }
  if (!done) return storage_error(std::move(done.error()));
  return {};
}

Result<VerifyReport> Engine::verify() {
  DEFIB_TRY(sync());
  DEFIB_TRY_ASSIGN(VerifyReport report, verify_files(dir_, options_));
  const std::shared_ptr<const View> view = versions_->view();
  for (const TableState& table : view->catalog().tables) {
    if (const Result<> sound = check(table.tree); !sound) {
      report.findings.push_back({"table " + escape(table.name), sound.error().message()});
    }
  }
  return report;
}

Result<> Engine::stream(std::uint64_t from,
                        const std::function<bool(const CommittedTransaction&)>& sink) {
  const std::uint64_t last = versions_->published()->position;
  if (from > last) return {};
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(files_, dir_));
  const std::uint64_t first = names.empty() ? last + 1 : parse_segment_name(names[0])->first_lsn;
  if (from < first) {
    return Error(Code::kNotFound, fmt::format("the log reaches back to commit {} only", first))
        .with("first", static_cast<std::int64_t>(first));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i + 1 < names.size() && parse_segment_name(names[i + 1])->first_lsn <= from) continue;
    auto segments = read_segments(files_, dir_, {names[i]}, identity_, nullptr);
    if (!segments && segments.error().code() == Code::kFileNotFound) {
      return stream(from, sink);  // A checkpoint let it go meanwhile; the answer is NotFound now.
    }
    if (!segments) return Error(std::move(segments.error()));
    LogAssessment log;
    log.live = {0};
    DEFIB_TRY_ASSIGN(const std::vector<TransactionView> transactions,
                     live_transactions(*segments, log, from - 1));
    for (const TransactionView& transaction : transactions) {
      if (transaction.number > last) return {};
      CommittedTransaction committed{.number = transaction.number, .changes = {}};
      for (const RecordView& change : transaction.changes) {
        committed.changes.push_back(
            {std::string(change.table), std::string(change.key),
             change.erased ? std::nullopt : std::optional<std::string>(change.value)});
      }
      if (!sink(committed)) return {};
      from = transaction.number + 1;
    }
  }
  return {};
}

EngineTransaction::EngineTransaction(Engine& engine, const Catalog& base, std::uint64_t generation)
    : engine_(engine),
      generation_(generation),
      catalog_(base),
      writer_(engine.edit_version_++, &delta_) {}

Result<> EngineTransaction::check_open() const {
  if (*is_open_) return {};
  return Error(Code::kInvalidArgument, "the transaction has ended");
}

Result<> EngineTransaction::check_sizes(std::string_view table, std::string_view key,
                                        std::string_view value) const {
  const auto too_large = [](std::string_view what, std::size_t size, std::size_t limit) {
    return Error(Code::kKeyOrValueTooLarge,
                 fmt::format("a {} of {} bytes; the limit is {}", what, size, limit))
        .with("limit", static_cast<std::int64_t>(limit));
  };
  if (table.empty()) return Error(Code::kInvalidArgument, "a table's name is empty");
  if (table.size() > kMaxTableName) return too_large("table name", table.size(), kMaxTableName);
  if (key.size() > kMaxKeySize) return too_large("key", key.size(), kMaxKeySize);
  if (value.size() > kMaxValueSize) return too_large("value", value.size(), kMaxValueSize);
  constexpr std::size_t kOverhead = 64;
  if (encoder_.size() + table.size() + key.size() + value.size() + kOverhead >
      kMaxTransactionSize) {
    return Error(Code::kLimitExceeded,
                 fmt::format("a transaction larger than {} bytes", kMaxTransactionSize))
        .with("limit", static_cast<std::int64_t>(kMaxTransactionSize));
  }
  return {};
}

Result<std::optional<std::string>> EngineTransaction::get(std::string_view table,
                                                          std::string_view key) {
  DEFIB_TRY(check_open());
  const Tree* tree = catalog_.find(table);
  const Record* record = tree != nullptr ? find(*tree, key) : nullptr;
  if (record == nullptr) return std::optional<std::string>();
  return std::optional<std::string>(record->value());
}

Result<std::unique_ptr<Cursor>> EngineTransaction::scan(std::string_view table) {
  DEFIB_TRY(check_open());
  // What the cursor walks stays as it is: later changes copy.
  writer_.set_version(engine_.edit_version_++);
  return make_cursor(catalog_.find(table), nullptr, is_open_);
}

Result<> EngineTransaction::put(std::string_view table, std::string_view key,
                                std::string_view value) {
  DEFIB_TRY(check_open());
  DEFIB_TRY(check_sizes(table, key, value));
  writer_.put(catalog_.find_or_add(table), key, value);
  encoder_.put(table, key, value);
  return {};
}

Result<> EngineTransaction::erase(std::string_view table, std::string_view key) {
  DEFIB_TRY(check_open());
  DEFIB_TRY(check_sizes(table, key, {}));
  const Tree* tree = catalog_.find(table);
  if (tree == nullptr || find(*tree, key) == nullptr) return {};
  writer_.erase(catalog_.find_or_add(table), key);
  encoder_.erase(table, key);
  return {};
}

Result<std::uint64_t> EngineTransaction::commit(Durability durability) {
  DEFIB_TRY(check_open());
  *is_open_ = false;
  return engine_.commit(*this, durability);
}

void EngineTransaction::rollback() {
  if (!*is_open_) return;
  *is_open_ = false;
  delta_.undo();
  const Engine::Lock lock(engine_.mutex_);
  engine_.end_transaction(lock);
}

Result<std::unique_ptr<Store>> Store::open(const std::string& dir, Options options) {
  if (options.files == nullptr) options.files = &os::real_files();
  if (options.clock == nullptr) options.clock = &os::real_clock();
  DEFIB_TRY_ASSIGN(Opened opened, open_files(dir, options));
  return std::unique_ptr<Store>(std::make_unique<Engine>(dir, options, std::move(opened)));
}

Result<std::uint64_t> put(Store& store, std::string_view table, std::string_view key,
                          std::string_view value, Durability durability) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<Transaction> transaction, store.begin());
  DEFIB_TRY(transaction->put(table, key, value));
  return transaction->commit(durability);
}

}  // namespace defib::store
