// Engine: the store while it is open for writing.
//
// A commit passes four steps: numbered (under mutex_, in the order of commits), written to the log
// (by whichever committing thread leads; the others' transactions ride in its write), synced if it
// asks for kPower (one sync serves all that were written before it), and published to readers. A
// commit is visible once it, or one after it, is acknowledged.
//
// What a commit changes enters the active overlay only when it is published, so a commit that fails
// needs no undoing: it is dropped. Transactions that follow read the commits before them that are
// still on their way from their change sets. Published changes wait in small batches, because many
// together enter the overlay at a fraction of the cost; a thread beside the commits applies them,
// and whoever takes a view applies what is left. Who does so outside of mutex_ is the only one
// (applying_).
//
// A checkpoint freezes the overlay and ends the log's segment (the writer waits for no more than
// one sync), writes the frozen overlays as a run, names it in the manifest, and lets the log behind
// it go. When runs are many, they are merged with the base in the background; compact() merges
// everything. A merge only makes reading cheaper, so close() ends it instead of waiting for it.
//
// When a write finds the disk full, every commit that is not written yet fails with StoreFull, and
// so do transactions that had read them. Any other failure to write or sync poisons the store. A
// part of the files that cannot be read fails what needs it, and nothing else.
//
// Thread rule: as in store.h. Lock order: checkpoint_mutex_, then mutex_, then the log's own.

#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "defib/store/change_set.h"
#include "defib/store/checkpointer.h"
#include "defib/store/lock.h"
#include "defib/store/log_writer.h"
#include "defib/store/opening.h"
#include "defib/store/store.h"
#include "defib/store/view.h"

namespace defib::store {

class EngineTransaction;

class Engine final : public Store {
 public:
  Engine(std::string dir, const Options& options, Opened opened);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() override;

  Result<std::unique_ptr<Transaction>> begin() override;
  Result<std::unique_ptr<Snapshot>> snapshot() override;
  Result<> close() override;
  Result<> checkpoint() override;
  Result<> compact() override;
  Result<> sync() override;
  Result<VerifyReport> verify() override;
  Result<> stream(std::uint64_t from,
                  const std::function<bool(const CommittedTransaction&)>& sink) override;
  Statistics statistics() const override;
  const recovery::ProcedureResult& recovery_result() const override { return recovery_result_; }

  // Builds the declared indexes that are not complete in the store. Called once, after opening.
  Result<> build_indexes();

 private:
  friend class EngineTransaction;
  // Lets a task of the executor find the engine, or that it is gone.
  struct Gate {
    std::mutex mutex;  // held while a task works; guards engine
    Engine* engine = nullptr;
  };
  // A numbered commit on its way.
  struct Pending {
    std::uint64_t lsn = 0;
    ChangeSet changes;
    bool written = false;
    bool is_walked = false;  // by a cursor, perhaps for long: not to be used again
    std::optional<Error> error;
  };
  using PendingPtr = std::shared_ptr<Pending>;
  using Lock = std::unique_lock<std::mutex>;
  using Task = void (Engine::*)();
  // One of the executors' threads of tasks, each task at most once in it.
  struct Lane {
    Executor* executor = nullptr;
    std::shared_ptr<Gate> gate;
  };

  Result<> build_index(const IndexDefinition& index);
  Result<std::uint64_t> commit(EngineTransaction& transaction, Durability durability);
  void end_transaction(const Lock& lock);
  PendingPtr make_pending(const Lock& lock);
  void recycle(PendingPtr pending, const Lock& lock);
  Result<> wait_written(const PendingPtr& own, Lock& lock);
  void write_group(Lock& lock);
  void fail_unwritten(const Error& error, const Lock& lock);
  void publish_up_to(std::uint64_t lsn, const Lock& lock);
  // These may let mutex_ go for a moment.
  void apply_published(Lock& lock);
  void apply_if_due(Durability durability, Lock& lock);
  ViewPtr view(Lock& lock);
  std::vector<PendingPtr> take_unapplied(std::vector<OverlayChange>& changes, const Lock& lock);
  void background_apply();
  Result<> refuse_if_unusable() const;
  Error poisoned(const Error& cause) const;
  Error full(const Error& cause) const;
  Result<> start_writing(const Lock& lock);
  void note_failure(const Lock& lock);

  void schedule(const Lane& lane, Task task);
  void background_sync();
  void schedule_background_sync(const Lock& lock);
  void background_checkpoint();
  void schedule_checkpoint_if_due(const Lock& lock);
  void background_merge();
  std::uint64_t tail_bytes(const Lock& lock) const;
  // Of log that may stand behind the last checkpoint before the next one begins; 0: no limit.
  std::uint64_t tail_limit() const;
  os::Duration estimated_replay(std::uint64_t tail) const;
  bool is_behind(const Lock& lock) const;

  // Precondition of the following: checkpoint_mutex_ is held.
  Result<> write_new_checkpoint();
  Result<> merge_files(std::optional<CheckpointFailure> (Checkpointer::*merge)(const Pace&));
  Result<> finish_closing();
  Result<CheckpointStart> begin_checkpoint();
  void install_files(std::size_t frozen_written);
  // Paces what the background writes, keeps syncs coming meanwhile, and ends it when the store
  // goes.
  Pace make_pace();
  // The same for a merge, which close() does not wait for.
  Pace make_merge_pace();
  // StoreFull, or the poisoning failure that it is.
  Error storage_error(Error error);
  Error noted_storage_error(Error cause);
  Error checkpoint_error(CheckpointFailure failure);

  const std::string dir_;
  const Options options_;
  const bool opened_clean_;
  os::Files& files_;
  const os::Clock& clock_;
  OwnExecutors own_executors_;
  Lane light_;   // syncs and segments: short tasks
  Lane heavy_;   // checkpoints and merges
  Lane prompt_;  // published changes on their way into the overlay
  const Identity identity_;
  const std::uint64_t unbroken_from_;  // the log that was found has every commit from here on
  std::unique_ptr<StoreLock> lock_;
  recovery::ProcedureResult recovery_result_;
  LogWriter log_;
  std::map<std::string, std::vector<const IndexDefinition*>, std::less<>> indexes_;  // by table

  std::mutex checkpoint_mutex_;  // one checkpoint or merge at a time, and close() after it
  Checkpointer checkpointer_;    // guarded by it
  const std::shared_ptr<MappedMemory> mapped_;

  mutable std::mutex mutex_;         // guards all below
  std::condition_variable changed_;  // a write ended
  std::condition_variable turn_;     // a transaction ended
  std::condition_variable applied_;  // applying_ ended
  bool transaction_open_ = false;
  bool writing_ = false;                 // a thread leads a write to the log
  std::vector<std::string_view> group_;  // of that thread: what it writes
  bool started_writing_ = false;         // the clean mark is gone
  bool closed_ = false;
  bool marked_failure_ = false;
  bool sync_scheduled_ = false;
  bool checkpoint_scheduled_ = false;
  bool merge_scheduled_ = false;
  bool apply_scheduled_ = false;
  bool applying_ = false;  // a thread changes the overlay outside of mutex_
  std::atomic<bool> stopping_ = false;
  std::atomic<int> waiting_to_close_ = 0;
  std::deque<PendingPtr> unwritten_;    // numbered, in order
  std::deque<PendingPtr> unpublished_;  // written or not, in order
  std::vector<PendingPtr> unapplied_;   // published, not in the overlay yet
  std::size_t unapplied_changes_ = 0;
  std::vector<PendingPtr> unused_;  // empty ones, whose memory the next transactions use
  std::size_t unused_bytes_ = 0;
  std::uint64_t last_numbered_;
  std::uint64_t published_;
  std::uint64_t generation_ = 0;  // how often numbered commits were dropped
  std::shared_ptr<const TableNames> names_;
  std::shared_ptr<Overlay> active_;
  std::vector<std::shared_ptr<const OverlayView>> frozen_;       // newest first
  std::vector<std::shared_ptr<const SortedFile>> sorted_files_;  // newest first
  ViewPtr view_;                                                 // null: to be made anew
  std::map<std::string, std::vector<std::string>, std::less<>> undeclared_;  // table -> indexes
  std::atomic<bool> any_undeclared_ = false;  // may be asked without mutex_
  std::uint64_t checkpoint_lsn_;
  std::uint64_t log_at_checkpoint_ = 0;  // log_.appended_bytes() when the last one began
  std::uint64_t log_at_freeze_ = 0;      // ... when the present one did
  std::uint64_t tail_at_open_;           // bytes of log behind the checkpoint, before this opening
  std::uint64_t frozen_tail_ = 0;        // of tail_at_open_, what the present one covers
  std::uint64_t retry_checkpoint_at_ = 0;  // appended bytes before a failed one is tried again
  std::atomic<std::uint64_t> replay_rate_;
  Statistics counts_;
};

class EngineTransaction final : public Transaction {
 public:
  EngineTransaction(Engine& engine, std::shared_ptr<Engine::Pending> own,
                    std::shared_ptr<const TableNames> names, std::uint64_t generation);
  ~EngineTransaction() override { rollback(); }
  Result<std::optional<std::string>> get(std::string_view table, std::string_view key) override;
  Result<std::unique_ptr<Cursor>> scan(std::string_view table) override;
  Result<> put(std::string_view table, std::string_view key, std::string_view value) override;
  Result<> erase(std::string_view table, std::string_view key) override;
  Result<std::uint64_t> commit(Durability durability) override;
  void rollback() override;

 private:
  friend class Engine;
  // It has ended: nothing more is taken, and its cursors stop.
  void end();
  Result<> check(std::string_view table, std::string_view key, std::string_view value) const;
  TableId id_of(std::string_view table);
  Result<std::optional<std::string>> read(TableId table, std::string_view key);
  // Without looking after indexes.
  void put_plain(std::string_view table, std::string_view key, std::string_view value);
  void erase_plain(std::string_view table, std::string_view key);
  bool has_indexes(std::string_view table) const;
  Result<> update_indexes(std::string_view table, std::string_view key,
                          const std::optional<std::string>& before,
                          const std::optional<std::string_view>& after);
  Result<> check_unique(const IndexDefinition& index, std::string_view secondary,
                        std::string_view key);

  Engine& engine_;
  bool is_open_ = true;
  std::shared_ptr<bool> cursors_are_valid_;  // what cursors ask; null: there are none
  std::uint64_t generation_;
  std::shared_ptr<const TableNames> names_;
  std::string last_name_;  // of the table last asked for, whose number is last_id_
  TableId last_id_ = 0;
  Engine::PendingPtr own_;            // what it changes; null once it has ended
  std::vector<std::string> dropped_;  // tables whose undeclared indexes this transaction drops
};

}  // namespace defib::store
