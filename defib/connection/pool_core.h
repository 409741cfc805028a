// The pool's inside. pool.cc hands sessions out and takes them back, pool_background.cc opens,
// checks and closes them, pool_run.cc repeats work.
//
// A slot's state is one atomic word. Only who has moved it away from kIdle (or kEmpty) may touch
// the slot's session; moving it back to kIdle hands everything over. A checkout is one
// compare-and-swap on the slot that this thread used last, a return is one plain store; neither
// takes a lock unless somebody waits.
//   kEmpty -> kOpening -> kIdle <-> kBusy;  kIdle -> kChecking -> kIdle;  any but kOpening ->
//   kEmpty

#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <thread>
#include <vector>

#include "defib/connection/pool.h"

namespace defib::connection {

class PoolCore {
 public:
  PoolCore(Dsn dsn, std::unique_ptr<Backend> backend, PoolOptions options);
  ~PoolCore();

  // `to_be_asked`: a session that try_acquire() took, and which the health query decides on.
  Result<Lease> acquire(Deadline deadline, const std::source_location& where, int to_be_asked = -1);
  // The next free session; an invalid lease where there is none at once.
  Lease try_acquire(const std::source_location& where, int& to_be_asked);
  void give_back(int index, bool discard, Deadline limit);
  void note_result(const Error* error);

  Result<> run(const std::function<Result<>(Lease&)>& work, const RunOptions& options,
               const std::source_location& where);
  Result<> transaction(const std::function<Result<>(Transaction&)>& work,
                       const TransactionOptions& options, const std::source_location& where);
  Result<std::vector<Settled>> settle(Deadline deadline);

  Result<> warm_up(int count, Deadline deadline);
  void pause();
  void resume();
  void drain();
  void close();
  PoolState state() const;
  void maintain();
  void start();

  const PoolOptions& options() const { return options_; }
  const os::Clock& clock() const { return *clock_; }
  PoolMetrics& metrics() { return metrics_; }
  ServerState& server() { return *server_; }

 private:
  enum SlotState : std::uint32_t { kEmpty, kOpening, kIdle, kBusy, kChecking };
  enum class Why { kStale, kIdle, kLifetime, kDirty, kFailed, kClosed };
  struct alignas(64) Slot {
    std::atomic<std::uint32_t> state{kEmpty};
    std::uint32_t generation = 0;
    std::unique_ptr<Session> session;
    std::int64_t expires_ns = 0;
    std::int64_t last_used_ns = 0;
    std::int64_t checked_ns = 0;
    // Read by the background thread while it is borrowed.
    std::atomic<std::int64_t> borrowed_ns{0};
    std::atomic<const char*> file{nullptr};
    std::atomic<std::uint32_t> line{0};
    std::atomic<std::uint64_t> checkouts{0};
    std::atomic<std::int64_t> told_ns{0};  // of the long borrow that was told
  };
  struct Waiter {
    std::condition_variable ready;
    int slot = -1;  // given to it
    bool notified = false;
    std::optional<Error> failed;
    std::int64_t since_ns = 0;
  };

  // Checkout.
  enum class Vetted { kGood, kRetired, kToBeAsked };
  int try_take();
  Vetted look_at(int index);
  bool ask(int index, Deadline deadline);
  Lease lend(int index, const std::source_location& where);
  Result<int> wait_for_slot(Deadline deadline);
  Error no_session(Code code, std::string_view what) const;
  // Return.
  void hand_on(int index);
  void free_slot(int index);
  bool hand_to_front(int index);
  void wake_for_idle();
  void wake_front();           // mutex_ is held
  void wake_front_for_idle();  // likewise
  void retire(int index, Why why);
  bool reset_session(Slot& slot, Deadline limit);
  void fail_waiters(const Error& error);  // mutex_ is held
  void update_front();                    // mutex_ is held
  // Background.
  void run_opener();
  void run_maintenance();
  void want_more(int count);
  void want_for_waiters();  // mutex_ is held
  bool open_one();
  void opened(int index, std::unique_ptr<Session> session, std::uint32_t generation);
  void refused(const Error& error);
  os::Duration opening_pause(bool probing);  // mutex_ is held
  // `server`: which of the hosts is tried first; empty: the one that answered last.
  Result<std::unique_ptr<Session>> connect_somewhere(Deadline deadline, Target target,
                                                     std::string_view server);
  Result<std::unique_ptr<Session>> connect_to(const HostPort& host, Deadline deadline);
  Result<std::unique_ptr<Session>> connect_and_tell(Deadline deadline, Target target,
                                                    std::string_view server);
  void look_over(int index, std::int64_t now);
  void refill();
  void empty_trash();
  void tell_long_borrow(Slot& slot, std::int64_t now);
  int count(std::uint32_t state) const;
  int open_count() const;
  bool health_query(Session& session, Deadline deadline);
  // Work.
  Result<> one_transaction(const std::function<Result<>(Transaction&)>& work,
                           const TransactionOptions& options, Deadline deadline, int attempt,
                           const std::source_location& where);
  Result<> commit(Lease& lease, const TransactionOptions& options, Deadline deadline,
                  const std::source_location& where);
  Result<> settle_commit(const InDoubt& record, const Error& error, Deadline deadline);
  Result<CommitOutcome> find_out(const InDoubt& record, Deadline deadline);
  Result<> settle_one(const std::string& id, const std::string& text, Deadline deadline,
                      std::vector<Settled>& settled);
  bool is_ours(const InDoubt& record) const;
  Result<> prepare_retry(const Error& error, const RetryQuestion& question,
                         const RetryPolicy& policy, Deadline deadline);
  Result<> pause_before_retry(const Error& error, const RetryAnswer& answer, Deadline deadline);
  Error exhausted(const Error& last, int attempts, std::string_view why) const;
  os::Duration default_timeout(const RetryPolicy& retry) const;

  Dsn dsn_;
  std::unique_ptr<Backend> backend_;
  PoolOptions options_;
  const os::Clock* clock_;
  mutable PoolMetrics metrics_;
  std::shared_ptr<ServerState> server_;
  std::vector<Slot> slots_;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> closed_{false}, paused_{false};
  std::atomic<int> waiters_count_{0};
  std::atomic<std::int64_t> front_since_ns_{0};  // 0: nobody waits
  std::atomic<bool> front_notified_{false};
  std::atomic<int> failures_in_row_{0};

  mutable std::mutex mutex_;
  std::condition_variable openers_wake_, maintenance_wake_, changed_;
  std::list<Waiter*> waiters_;       // guarded by mutex_, oldest first
  int wanted_ = 0;                   // guarded by mutex_; sessions to be opened
  int opening_ = 0;                  // guarded by mutex_
  std::size_t first_host_ = 0;       // guarded by mutex_; where the last connect succeeded
  std::optional<Error> last_error_;  // guarded by mutex_
  // Between connects that the server has refused, since the last one that succeeded.
  recovery::Backoff opening_pauses_;  // guarded by mutex_
  std::int64_t next_open_ns_ = 0;     // guarded by mutex_
  struct Trash {
    std::unique_ptr<Session> session;
    std::string ending;  // to be executed on another session
    std::string server;  // of that server alone: elsewhere the number is another session's
  };
  std::vector<Trash> trash_;      // guarded by mutex_
  std::uint64_t counted_ = 0;     // guarded by mutex_; checkouts that the metric has
  std::int64_t opened_seen_ = 0;  // guarded by mutex_
  bool kicked_ = false;           // guarded by mutex_
  bool stopping_ = false;         // guarded by mutex_
  std::mutex random_mutex_;
  os::Random random_;                 // guarded by random_mutex_
  std::vector<std::thread> openers_;  // started with the pool
  std::thread maintenance_;
};

}  // namespace defib::connection
