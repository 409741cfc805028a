// Pool: sessions with one database, shared by threads, that come back by themselves.
//
//   DEFIB_TRY_ASSIGN(auto pool, Pool::open(dsn, std::move(backend), options));
//   pool->run([](Lease& db) { return db.execute("SELECT 1"); });              // repeated as needed
//   pool->transaction([&](Transaction& tx) -> Result<> {                      // all or nothing
//     DEFIB_TRY(tx.execute({"UPDATE accounts SET ...", {id, amount}}));
//     return {};
//   });
//
// Promises: acquire() returns by its deadline; no session that is known to be dead is handed out
// (one look at its socket, no round trip); what one borrower did to a session the next one does not
// see; a waiter older than `starvation_bound` gets the next session that is returned; a server that
// comes back is used again without a restart.
// Thread rule: Pool from any thread; a Lease and a Transaction on one thread at a time. The pool's
// background threads are its own; callbacks are called on them or on the caller's. A Lease must not
// outlive its Pool.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"
#include "defib/connection/metrics.h"
#include "defib/connection/resolution.h"
#include "defib/connection/retry.h"
#include "defib/connection/server_state.h"
#include "defib/recovery/probe.h"

namespace defib::connection {

struct Credentials {
  std::string user, password;
};

// What a commit that was in doubt turned out to be.
struct Settled {
  InDoubt record;
  CommitOutcome outcome = CommitOutcome::kUnknown;
};

struct PoolOptions {
  std::string name = "db";  // the label of its metrics
  int max_size = 16;        // 1 to kMaxSize
  int min_idle = 0;         // kept open in the background
  int parallel_connects = 4;
  os::Duration acquire_timeout = std::chrono::seconds(10);
  os::Duration connect_timeout = std::chrono::seconds(30);
  os::Duration command_timeout = std::chrono::seconds(60);
  os::Duration idle_timeout = std::chrono::seconds(300);   // of sessions beyond min_idle
  os::Duration max_lifetime = std::chrono::seconds(3600);  // of every session; 0: none
  double lifetime_spread = 0.1;  // it ends up to so much sooner, drawn for each session
  std::string health_query = "SELECT 1";
  os::Duration health_timeout = std::chrono::seconds(5);
  // Idle sessions are asked the health query so often, in the background; 0: only looked at.
  os::Duration check_every = std::chrono::seconds(30);
  // Whoever waits for longer gets the next session that is returned; 0: in the order of arrival,
  // which costs a switch of threads at each return.
  os::Duration starvation_bound = std::chrono::microseconds(100);
  os::Duration long_borrow = std::chrono::seconds(60);  // 0: not told
  os::Duration maintenance_every = std::chrono::milliseconds(500);
  bool look_at_checkout = true;
  // Each checkout and return reads the clock, for idle times, lifetimes and long borrows; without,
  // lifetimes are kept by the background thread alone, and the others not at all.
  bool timestamps = true;
  bool query_at_checkout = false;  // a round trip each, where a look is not enough
  RetryPolicy retry = {};
  int transaction_attempts = 3;
  GateOptions gate = {};
  CommitResolution commit_resolution = CommitResolution::kMemory;
  std::string commit_table = {};       // empty: no row; see resolution.h
  InDoubtLog* in_doubt_log = nullptr;  // for kDurable; outlives the pool
  std::function<void(const Settled&)> on_settled = {};
  // Asked before every connect; empty: those of the data source.
  std::function<Result<Credentials>()> credentials = {};
  obs::Registry* metrics = nullptr;
  const os::Clock* clock = nullptr;  // of ages; waits are real. Null: the real clock
  bool background = true;            // false: maintain() is the caller's to call

  static constexpr int kMaxSize = 1024;
  // Five repetitions from 5 s to 60 s, two redirects where the driver follows so many.
  static PoolOptions azure();
};

struct PoolState {
  int size = 0, idle = 0, busy = 0, waiting = 0, max = 0;
  bool paused = false, closed = false, breaker_open = false;
  std::optional<Error> last_error;
  std::string to_string() const;  // "3 of 16 sessions open, 0 idle, 3 busy, 2 waiting"
};

class PoolCore;

// A borrowed session. Given back by its destructor.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept
      : core_(std::exchange(other.core_, nullptr)),
        slot_(other.slot_),
        executed_(other.executed_),
        succeeded_(other.succeeded_),
        session_(other.session_),
        limit_(other.limit_),
        read_only_(other.read_only_) {}
  Lease& operator=(Lease&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(slot_, other.slot_);
    std::swap(session_, other.session_);
    std::swap(executed_, other.executed_);
    std::swap(succeeded_, other.succeeded_);
    std::swap(limit_, other.limit_);
    std::swap(read_only_, other.read_only_);
    return *this;
  }
  ~Lease() { release(); }

  bool valid() const { return core_ != nullptr; }
  Session& session() { return *session_; }
  Session* operator->() { return session_; }
  // With the pool's command_timeout unless a deadline is given, and within the time of the run() or
  // transaction() that it belongs to.
  Result<Rows> execute(const Statement& statement);
  Result<Rows> execute(const Statement& statement, Deadline deadline);
  void release() {
    if (core_ != nullptr) give_back(std::exchange(core_, nullptr), slot_, false, limit_);
  }
  // Closes it instead of giving it back.
  void discard() {
    if (core_ != nullptr) give_back(std::exchange(core_, nullptr), slot_, true, limit_);
  }

 private:
  friend class PoolCore;
  friend class Pool;
  Lease(PoolCore* core, int slot, Session* session) : core_(core), slot_(slot), session_(session) {}
  static void give_back(PoolCore* core, int slot, bool discard, Deadline limit);
  PoolCore* core_ = nullptr;
  int slot_ = -1;
  int executed_ = 0, succeeded_ = 0;  // statements
  Session* session_ = nullptr;
  Deadline limit_;          // of the call that it belongs to, its return included
  bool read_only_ = false;  // the transaction was asked to be
};

// One transaction. Any error in it poisons it: it is rolled back at once, and commit refuses.
class Transaction {
 public:
  Result<Rows> execute(const Statement& statement);
  bool poisoned() const { return poison_.has_value(); }
  const std::optional<Error>& poison() const { return poison_; }
  const SessionInfo& info() const;
  // Which attempt of Pool::transaction this is, from 1.
  int attempt() const { return attempt_; }

 private:
  friend class PoolCore;
  Transaction(Lease& lease, Deadline deadline, os::Duration command_timeout, int attempt)
      : lease_(lease), deadline_(deadline), command_timeout_(command_timeout), attempt_(attempt) {}
  Lease& lease_;
  Deadline deadline_;
  os::Duration command_timeout_;
  int attempt_;
  std::optional<Error> poison_;
};

struct RunOptions {
  // run() is for such work. False: an outcome that is unknown is final, and so is a failure after a
  // statement of the same attempt that has succeeded, for that one is stored already.
  bool idempotent = true;
  std::optional<os::Duration> timeout =
      {};  // of all attempts together; default: retries' worth of time
  std::optional<RetryPolicy> retry = {};
};

struct TransactionOptions {
  Isolation isolation = Isolation::kDefault;
  bool read_only = false;
  std::optional<os::Duration> timeout = {};  // of all attempts and the resolution together
  std::optional<int> attempts = {};
  std::string label = {};  // stands in the in-doubt record
};

class Pool {
 public:
  // InvalidArgument names the option that is impossible. Opens no session by itself, except those
  // of min_idle in the background.
  static Result<std::unique_ptr<Pool>> open(Dsn dsn, std::unique_ptr<Backend> backend,
                                            PoolOptions options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // PoolTimeout, ConnectionFailed, BreakerOpen or PoolClosed, each with the pool's state in the
  // message and the last root cause as its cause.
  Result<Lease> acquire(std::source_location where = std::source_location::current());
  Result<Lease> acquire(Deadline deadline,
                        std::source_location where = std::source_location::current());

  // Calls work(Lease&) -> Result<T>, and again as its failure's class allows. RetriesExhausted has
  // the attempts and the last cause. StatementOutcomeUnknown: it is not idempotent, and a part of
  // it may be stored.
  template <typename Work>
  auto run(Work&& work, const RunOptions& options = {},
           std::source_location where = std::source_location::current())
      -> std::invoke_result_t<Work&, Lease&> {
    using Out = std::invoke_result_t<Work&, Lease&>;
    std::optional<Out> out;
    Result<> done = run_erased(
        [&](Lease& lease) -> Result<> {
          out.emplace(work(lease));
          if (*out) return {};
          return out->error();
        },
        options, where);
    if (!done) return std::move(done.error());
    return std::move(*out);
  }

  // Calls work(Transaction&) -> Result<T> and commits; repeats the whole where that is certain to
  // be safe. Success means committed. CommitUnknown means that it could not be found out.
  template <typename Work>
  auto transaction(Work&& work, const TransactionOptions& options = {},
                   std::source_location where = std::source_location::current())
      -> std::invoke_result_t<Work&, Transaction&> {
    using Out = std::invoke_result_t<Work&, Transaction&>;
    std::optional<Out> out;
    Result<> done = transaction_erased(
        [&](Transaction& tx) -> Result<> {
          out.emplace(work(tx));
          if (*out) return {};
          return out->error();
        },
        options, where);
    if (!done) return std::move(done.error());
    return std::move(*out);
  }

  // Opens sessions in parallel until `count` are open; success when they are.
  Result<> warm_up(int count, Deadline deadline);
  void pause();  // acquire() waits
  void resume();
  // Replaces every session: idle ones now, borrowed ones when they come back.
  void drain();
  void close();  // idempotent; borrowed sessions are closed when they come back
  PoolState state() const;
  const PoolMetrics& metrics() const;
  ServerState& server();
  // The commits that are still in doubt in the log, resolved one by one, each with its share of the
  // time. Where some could not be, the rest is settled all the same (on_settled tells), and the
  // first one's error is the cause of what is returned.
  Result<std::vector<Settled>> settle_in_doubt(Deadline deadline);
  // What the background thread does at each step.
  void maintain();
  // Borrows a session and asks it the health query.
  Result<> check(Deadline deadline);

 private:
  explicit Pool(std::unique_ptr<PoolCore> core);
  Result<> run_erased(const std::function<Result<>(Lease&)>& work, const RunOptions& options,
                      std::source_location where);
  Result<> transaction_erased(const std::function<Result<>(Transaction&)>& work,
                              const TransactionOptions& options, std::source_location where);
  std::unique_ptr<PoolCore> core_;
};

// The pool as a health check: borrows a session and asks the health query.
std::unique_ptr<recovery::Probe> pool_probe(Pool& pool, std::string name);

}  // namespace defib::connection
