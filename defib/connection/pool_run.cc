// Repeating: Pool::run, Pool::transaction, and finding out what became of a commit.

#include <fmt/core.h>

#include <algorithm>

#include "defib/connection/pool_core.h"
#include "defib/connection/traces.h"
#include "defib/obs/log.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;

constexpr os::Duration kRollbackTimeout = 2s;
constexpr os::Duration kLeastResolution = 100ms;

// Of the caller's time. Where none is left the session is closed, which rolls back, too.
Deadline rollback_deadline(Deadline deadline) {
  return deadline & Deadline::after(kRollbackTimeout);
}

Error partly_stored(const Error& error) {
  return Error(Code::kStatementOutcomeUnknown,
               "the work was not repeated: statements before the one that failed are stored, and "
               "the work is not idempotent; as a whole it is neither done nor undone")
      .with("class", to_string(FailureClass::kOutcomeUnknown))
      .with("transient", "no")
      .suggest("use transaction(), which undoes and repeats all of it, or finish the rest by hand")
      .because(error);
}

}  // namespace

// What a statement's end says about the server and the pool.
void PoolCore::note_result(const Error* error) {
  if (error == nullptr) return server_->gate.statement_succeeded();
  if (error->code() == Code::kDeadlineExceeded && error->field("phase") != "idle") {
    server_->gate.statement_timed_out(*error);
    if (server_->gate.state() == Gate::State::kOpen) openers_wake_.notify_all();
  }
  if (class_of(*error) == FailureClass::kWrongNode) drain();
  const std::lock_guard lock(mutex_);
  if (error->code() != Code::kStatementFailed) last_error_ = *error;
}

os::Duration PoolCore::default_timeout(const RetryPolicy& retry) const {
  return options_.acquire_timeout + options_.command_timeout * retry.attempts;
}

Error PoolCore::exhausted(const Error& last, int attempts, std::string_view why) const {
  metrics_.retries_exhausted.add();
  return Error(Code::kRetriesExhausted, fmt::format("failed after {} attempt{} ({})", attempts,
                                                    attempts == 1 ? "" : "s", why))
      .with("attempts", static_cast<std::int64_t>(attempts))
      .with("class", to_string(class_of(last)))
      .with("transient", last.is_transient() ? "yes" : "no")
      .because(last);
}

// Waits for the pause to pass, or for the server to be back, whichever is sooner.
Result<> PoolCore::pause_before_retry(const Error& error, const RetryAnswer& answer,
                                      Deadline deadline) {
  if (answer.drain) drain();
  const bool known_down = server_->gate.state() == Gate::State::kOpen;
  if (known_down) {
    if (!server_->gate.wait_until_closed(deadline)) return error;
    return {};
  }
  if (deadline.remaining() < answer.pause) return error;
  if (answer.pause.count() > 0) os::real_clock().sleep_for(answer.pause);
  return {};
}

// Decides, takes from the budget, and waits. Success: it may be tried again; else the error that
// ends it.
Result<> PoolCore::prepare_retry(const Error& error, const RetryQuestion& question,
                                 const RetryPolicy& policy, Deadline deadline) {
  RetryAnswer answer;
  {
    const std::lock_guard lock(random_mutex_);
    answer = decide(question, policy, random_);
  }
  if (!answer.again) {
    if (question.partly_done && !question.idempotent && error.is_transient()) {
      return partly_stored(error);
    }
    return question.attempt == 1 && answer.why != "no attempts are left"
               ? error
               : exhausted(error, question.attempt, answer.why);
  }
  if (!server_->budget.take()) {
    return Error(Code::kRetryBudgetExhausted,
                 fmt::format("not repeated: {} has failed more than a tenth of all requests",
                             dsn_.server_name()))
        .with("class", to_string(class_of(error)))
        .with("transient", "yes")
        .because(error);
  }
  if (!pause_before_retry(error, answer, deadline)) {
    return exhausted(error, question.attempt, "no time is left for another one");
  }
  metrics_.retries.add();
  return {};
}

Result<> PoolCore::run(const std::function<Result<>(Lease&)>& work, const RunOptions& options,
                       const std::source_location& where) {
  const RetryPolicy policy = options.retry.value_or(options_.retry);
  const Deadline deadline = Deadline::after(options.timeout.value_or(default_timeout(policy)));
  server_->budget.request();
  for (int attempt = 1;; ++attempt) {
    Result<> done;
    bool only_waited = false, partly_done = false;
    {
      Result<Lease> lease = acquire(deadline & Deadline::after(options_.acquire_timeout), where);
      if (lease) {
        lease->limit_ = deadline;
        const bool was_dirty = lease->session().dirty();
        done = work(*lease);
        // A session that was used without the lease has counted nothing.
        partly_done = lease->succeeded_ > 0 || (lease->executed_ == 0 && !was_dirty &&
                                                lease->valid() && lease->session().dirty());
      } else {
        done = lease.error();
        only_waited = lease.error().code() == Code::kBreakerOpen;
      }
    }
    if (done) return {};
    const Error& error = done.error();
    if (!has_class(error)) return error;  // the caller's own, or the pool's time-out
    // Waiting for a server that is known to be down burdens it with nothing and is no attempt.
    if (only_waited && !deadline.passed()) {
      --attempt;
      if (!server_->gate.wait_until_closed(deadline)) {
        return exhausted(error, std::max(1, attempt), "the server did not come back in time");
      }
      continue;
    }
    DEFIB_TRY(prepare_retry(error,
                            {.failure_class = class_of(error),
                             .attempt = attempt,
                             .idempotent = options.idempotent,
                             .partly_done = partly_done,
                             .minimum_pause_ms = minimum_pause_ms(error)},
                            policy, deadline));
  }
}

Result<Rows> Transaction::execute(const Statement& statement) {
  if (poison_) {
    return Error(Code::kTransactionPoisoned,
                 "the statement was not sent, because the transaction has failed already")
        .with("class", to_string(class_of(*poison_)))
        .with("transient", poison_->is_transient() ? "yes" : "no")
        .because(*poison_);
  }
  const std::string_view why = refused_in_transaction(lease_->info().engine, statement.sql);
  if (!why.empty()) {
    Error error(Code::kInvalidArgument, std::string(why));
    poison_ = error;
    (void)lease_->rollback(rollback_deadline(deadline_));
    return error;
  }
  Result<Rows> rows = lease_.execute(statement, deadline_ & Deadline::after(command_timeout_));
  if (!rows) {
    poison_ = rows.error();
    // At once: a deadlock's victim would keep its other locks.
    (void)lease_->rollback(rollback_deadline(deadline_));
  }
  return rows;
}

const SessionInfo& Transaction::info() const {
  return lease_->info();
}

// One attempt. An error's class says whether another one is safe.
Result<> PoolCore::one_transaction(const std::function<Result<>(Transaction&)>& work,
                                   const TransactionOptions& options, Deadline deadline,
                                   int attempt, const std::source_location& where) {
  DEFIB_TRY_ASSIGN(Lease lease,
                   acquire(deadline & Deadline::after(options_.acquire_timeout), where));
  lease.limit_ = deadline;
  lease.read_only_ = options.read_only;
  const Result<> begun = lease->begin(options.isolation, options.read_only,
                                      deadline & Deadline::after(options_.command_timeout));
  note_result(begun ? nullptr : &begun.error());
  DEFIB_TRY(begun);
  Transaction transaction(lease, deadline, options_.command_timeout, attempt);
  const Result<> done = work(transaction);
  if (!done || transaction.poisoned()) {
    (void)lease->rollback(rollback_deadline(deadline));
    if (transaction.poisoned()) {
      const Error& poison = *transaction.poison();
      if (!done && done.error().code() == poison.code()) return poison;
      return Error(Code::kTransactionPoisoned,
                   "the transaction was not committed, because an error inside it was passed over")
          .with("class", to_string(class_of(poison)))
          .with("transient", poison.is_transient() ? "yes" : "no")
          .because(poison);
    }
    return done.error();
  }
  return commit(lease, options, deadline, where);
}

Result<> PoolCore::commit(Lease& lease, const TransactionOptions& options, Deadline deadline,
                          const std::source_location&) {
  const bool resolves = options_.commit_resolution != CommitResolution::kOff && !options.read_only;
  // Half of the time that is left is kept for finding out.
  const auto half = [&] {
    return deadline & Deadline::after(std::min<os::Duration>(
                          options_.command_timeout,
                          std::max<os::Duration>(os::Duration(0), deadline.remaining() / 2)));
  };
  InDoubt record;
  if (resolves) {
    Result<InDoubt> prepared = prepare_commit(lease.session(), options_.commit_table, options.label,
                                              os::real_clock().wall_ns(), half());
    if (!prepared) {
      note_result(&prepared.error());
      (void)lease->rollback(rollback_deadline(deadline));
      return prepared.error();
    }
    record = std::move(*prepared);
    record.database = dsn_.database;
  }
  const bool nothing_written =
      resolves && lease.session().info().can.xid_resolution && record.xid.empty();
  const bool durable =
      resolves && options_.commit_resolution == CommitResolution::kDurable && !nothing_written;
  if (durable) {
    const Result<> written = options_.in_doubt_log->put(record.id, record.encode());
    if (!written) {
      (void)lease->rollback(rollback_deadline(deadline));
      return Error(Code::kUnavailable,
                   "the transaction was rolled back, because its in-doubt record could not be "
                   "written")
          .because(written.error());
    }
  }
  Result<> committed = lease->commit(half());
  note_result(committed ? nullptr : &committed.error());
  if (committed || class_of(committed.error()) != FailureClass::kCommitAmbiguous) {
    if (durable) (void)options_.in_doubt_log->erase(record.id);
    return committed;
  }
  metrics_.commits_ambiguous.add();
  lease.discard();
  if (!resolves) {
    metrics_.commits_unresolved.add();
    return committed.error();
  }
  const Result<> settled = settle_commit(record, committed.error(), deadline);
  const bool known = settled || settled.error().code() != Code::kCommitUnknown;
  if (durable && known) (void)options_.in_doubt_log->erase(record.id);
  return settled;
}

// Asks other sessions until one knows, on the primary alone, and first where the commit was sent.
// Many commits may be in doubt where a server has died: they ask for the breaker's permission, as
// those do who open sessions for the pool.
Result<CommitOutcome> PoolCore::find_out(const InDoubt& record, Deadline deadline) {
  if (const auto known = known_unasked(record)) return *known;
  std::optional<Error> last;
  os::Duration pause = 2ms;
  while (!deadline.passed()) {
    os::Duration wait{0};
    if (server_->gate.may_connect(options_.parallel_connects, wait)) {
      auto session = connect_and_tell(deadline, Target::kPrimary, record.server);
      if (session) {
        auto outcome = resolve_commit(**session, record, deadline);
        if (outcome) return outcome;
        last = outcome.error();
      } else {
        last = session.error();
      }
      wait = pause;
      pause = std::min<os::Duration>(pause * 2, 50ms);
    } else if (server_->gate.state() == Gate::State::kOpen) {
      server_->gate.wait_until_closed(deadline & Deadline::after(wait));
      continue;
    } else {
      wait = 1ms;  // others connect at present
    }
    if (deadline.remaining() > wait) os::real_clock().sleep_for(wait);
  }
  Error error(Code::kDeadlineExceeded, "no session could find it out by the deadline");
  if (!last) last = server_->gate.last_error();
  if (last) error = std::move(error).because(*last);
  return error;
}

Result<> PoolCore::settle_commit(const InDoubt& record, const Error& error, Deadline deadline) {
  const std::int64_t started = os::real_clock().mono_ns();
  const Deadline limit =
      deadline.remaining() < kLeastResolution ? Deadline::after(kLeastResolution) : deadline;
  const auto outcome = find_out(record, limit);
  metrics_.resolve.record(os::Duration(os::real_clock().mono_ns() - started));
  if (outcome && *outcome == CommitOutcome::kCommitted) {
    metrics_.commits_resolved.add();
    return {};
  }
  if (outcome && *outcome == CommitOutcome::kRolledBack) {
    metrics_.commits_resolved.add();
    return Error(Code::kCommitRolledBack,
                 "the answer to the commit was lost, and the server says that it was rolled back")
        .with("class", to_string(FailureClass::kRetryNow))
        .with("phase", to_string(Phase::kCommit))
        .with("transient", "yes")
        .because(error);
  }
  metrics_.commits_unresolved.add();
  Error unknown =
      Error(Code::kCommitUnknown,
            "the answer to the commit was lost, and what became of it cannot be found out")
          .with("class", to_string(FailureClass::kCommitAmbiguous))
          .with("transient", "no")
          .with("in_doubt", record.id);
  if (!record.label.empty()) unknown = std::move(unknown).with("label", record.label);
  if (options_.commit_table.empty()) {
    unknown = std::move(unknown).suggest(
        "look for the transaction's rows by hand; with the option commit_table the pool can tell "
        "by itself, also after a crash of the server");
  }
  return std::move(unknown).because(outcome ? error : outcome.error());
}

Result<> PoolCore::transaction(const std::function<Result<>(Transaction&)>& work,
                               const TransactionOptions& options,
                               const std::source_location& where) {
  RetryPolicy policy = options_.retry;
  policy.attempts = options.attempts.value_or(options_.transaction_attempts);
  const Deadline deadline = Deadline::after(options.timeout.value_or(default_timeout(policy)));
  server_->budget.request();
  for (int attempt = 1;; ++attempt) {
    const Result<> done = one_transaction(work, options, deadline, attempt, where);
    if (done) return {};
    const Error& error = done.error();
    if (!has_class(error)) return error;
    if (error.code() == Code::kBreakerOpen && !deadline.passed()) {
      --attempt;
      if (!server_->gate.wait_until_closed(deadline)) {
        return exhausted(error, std::max(1, attempt), "the server did not come back in time");
      }
      continue;
    }
    DEFIB_TRY(prepare_retry(error,
                            {.failure_class = class_of(error),
                             .attempt = attempt,
                             .idempotent = false,
                             .minimum_pause_ms = minimum_pause_ms(error)},
                            policy, deadline));
    metrics_.transactions_replayed.add();
  }
}

// Several pools may share a log, and another server's transaction numbers mean others.
bool PoolCore::is_ours(const InDoubt& record) const {
  if (!record.database.empty() && record.database != dsn_.database) return false;
  const auto is_it = [&](const HostPort& host) { return host.to_string() == record.server; };
  return std::ranges::any_of(dsn_.hosts, is_it) || record.server == dsn_.server_name();
}

Result<> PoolCore::settle_one(const std::string& id, const std::string& text, Deadline deadline,
                              std::vector<Settled>& settled) {
  DEFIB_TRY_ASSIGN(InDoubt record, InDoubt::decode(text));
  if (!is_ours(record)) {
    obs::log(obs::Level::kWarning, "connection",
             "a commit in doubt is left to the pool of its own server",
             {{"pool", options_.name}, {"server", record.server}, {"in_doubt", record.id}});
    return {};
  }
  DEFIB_TRY_ASSIGN(const CommitOutcome outcome, find_out(record, deadline));
  Settled one{std::move(record), outcome};
  if (options_.on_settled) options_.on_settled(one);
  settled.push_back(std::move(one));
  if (outcome != CommitOutcome::kUnknown) DEFIB_TRY(options_.in_doubt_log->erase(id));
  return {};
}

// Each has its share of the time that is left, so that one that cannot be settled stops no other.
Result<std::vector<Settled>> PoolCore::settle(Deadline deadline) {
  std::vector<Settled> settled;
  if (options_.in_doubt_log == nullptr) return settled;
  DEFIB_TRY_ASSIGN(const auto records, options_.in_doubt_log->all());
  std::optional<Error> first;
  std::size_t failed = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto& [id, text] = records[i];
    const auto share = deadline.remaining() / static_cast<std::int64_t>(records.size() - i);
    const Result<> done = settle_one(id, text, deadline & Deadline::after(share), settled);
    if (done) continue;
    ++failed;
    obs::log(obs::Level::kWarning, "connection", "a commit in doubt could not be settled",
             {{"pool", options_.name}, {"in_doubt", id}, {"why", done.error().message()}});
    if (!first) first = done.error();
  }
  if (!first) return settled;
  return Error(first->code(),
               fmt::format("{} of {} commits in doubt could not be settled and stay in the log",
                           failed, records.size()))
      .with("failed", static_cast<std::int64_t>(failed))
      .with("transient", first->is_transient() ? "yes" : "no")
      .suggest("settle them again when what the cause says is mended; the others are settled")
      .because(*first);
}

}  // namespace defib::connection
