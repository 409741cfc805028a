// Engine: the store while it is open for writing.
//
// A commit passes four steps: numbered (under mutex_, in the order of commits), written to the log
// (by whichever committing thread leads; the others' transactions ride in its block), synced if it
// asks for kPower (one sync serves all that were written before it), and published to readers. A
// commit is visible once it, or one after it, is acknowledged.
//
// When a write finds the disk full, every commit that is not written yet fails with StoreFull and
// the tables go back to the last written one: transactions that had built on it fail when they
// commit. Any other failure poisons the store.
//
// Thread rule: as in store.h. Lock order: checkpoint_mutex_, then mutex_, then the log's own.

#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "defib/store/lock.h"
#include "defib/store/log_writer.h"
#include "defib/store/opening.h"
#include "defib/store/store.h"
#include "defib/store/versions.h"

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
  Result<> sync() override;
  Result<VerifyReport> verify() override;
  Result<> stream(std::uint64_t from,
                  const std::function<bool(const CommittedTransaction&)>& sink) override;
  const recovery::ProcedureResult& recovery_result() const override { return recovery_result_; }

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
    std::string payload;
    CatalogPtr catalog;
    Delta delta;
    bool written = false;
    std::optional<Error> error;
  };
  using PendingPtr = std::shared_ptr<Pending>;
  using Lock = std::unique_lock<std::mutex>;

  Result<std::uint64_t> commit(EngineTransaction& transaction, Durability durability);
  void end_transaction(const Lock& lock);
  Result<> wait_written(const PendingPtr& own, Lock& lock);
  void write_group(Lock& lock);
  void fail_unwritten(const Error& error, const Lock& lock);
  void publish_up_to(std::uint64_t lsn, const Lock& lock);
  Result<> refuse_if_unusable() const;
  Error poisoned(const Error& cause) const;
  Error full(const Error& cause) const;
  Result<> start_writing(const Lock& lock);
  void note_failure(const Lock& lock);

  void schedule(void (Engine::*task)());
  void background_sync();
  void schedule_background_sync(const Lock& lock);
  void background_checkpoint();
  void schedule_checkpoint_if_due(const Lock& lock);

  // Precondition of both: checkpoint_mutex_ is held.
  Result<> write_new_checkpoint();
  Result<> finish_closing();
  Result<CheckpointHeader> begin_checkpoint();
  Result<> remove_covered(std::uint64_t boundary);
  // StoreFull, or the poisoning failure that it is.
  Error storage_error(Error error);

  const std::string dir_;
  const Options options_;
  const bool opened_clean_;
  os::Files& files_;
  const os::Clock& clock_;
  std::unique_ptr<Executor> own_executor_;
  Executor* executor_;
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  const Identity identity_;
  std::unique_ptr<StoreLock> lock_;
  recovery::ProcedureResult recovery_result_;
  std::shared_ptr<Versions> versions_;
  LogWriter log_;
  std::atomic<std::uint64_t> edit_version_ = 1;  // of trees; never used twice

  std::mutex checkpoint_mutex_;  // one checkpoint at a time, and close() after it

  mutable std::mutex mutex_;         // guards all below
  std::condition_variable changed_;  // a write ended
  std::condition_variable turn_;     // a transaction ended
  bool transaction_open_ = false;
  bool writing_ = false;          // a thread leads a write to the log
  bool started_writing_ = false;  // the clean mark is gone
  bool closed_ = false;
  bool stopping_ = false;
  bool marked_failure_ = false;
  bool sync_scheduled_ = false;
  bool checkpoint_scheduled_ = false;
  std::deque<PendingPtr> unwritten_;    // numbered, in order
  std::deque<PendingPtr> unpublished_;  // written or not, in order
  CatalogPtr head_;                     // after the last numbered commit
  std::uint64_t generation_ = 0;        // how often head_ went back
  std::vector<Delta> orphans_;  // of failed commits, which an open transaction may still read
  std::uint64_t checkpoint_lsn_;
  std::uint64_t log_at_checkpoint_ = 0;  // log_.appended_bytes() when the last one began
  std::uint64_t tail_at_open_;           // bytes of log behind the checkpoint, before this opening
  std::uint64_t retry_checkpoint_at_ = 0;  // appended bytes before a failed one is tried again
};

class EngineTransaction final : public Transaction {
 public:
  EngineTransaction(Engine& engine, const Catalog& base, std::uint64_t generation);
  ~EngineTransaction() override { rollback(); }
  Result<std::optional<std::string>> get(std::string_view table, std::string_view key) override;
  Result<std::unique_ptr<Cursor>> scan(std::string_view table) override;
  Result<> put(std::string_view table, std::string_view key, std::string_view value) override;
  Result<> erase(std::string_view table, std::string_view key) override;
  Result<std::uint64_t> commit(Durability durability) override;
  void rollback() override;

 private:
  friend class Engine;
  Result<> check_open() const;
  Result<> check_sizes(std::string_view table, std::string_view key, std::string_view value) const;
  Engine& engine_;
  std::shared_ptr<bool> is_open_ = std::make_shared<bool>(true);
  std::uint64_t generation_;
  Catalog catalog_;
  Delta delta_;
  TreeWriter writer_;
  TransactionEncoder encoder_;
};

}  // namespace defib::store
