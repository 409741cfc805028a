"""Bugs of the connection level: pool, classes, transactions, commits in doubt, deadlines."""

POOL = "defib/connection/pool.cc"
BACKGROUND = "defib/connection/pool_background.cc"
RUN = "defib/connection/pool_run.cc"
CLASSIFY = "defib/connection/classify.cc"
RETRY = "defib/connection/retry.cc"
STATE = "defib/connection/server_state.cc"
RESOLUTION = "defib/connection/resolution.cc"
LIBPQ = "defib/connection/libpq_backend.cc"
ODBC = "defib/connection/odbc_backend.cc"
FAILURE = "defib/connection/failure.cc"
SOCKET = "defib/connection/socket.cc"
WATCHDOG = "defib/connection/watchdog.cc"
TRACES = "defib/connection/traces.cc"
WATCH = "defib/connection/connect_watch.h"
RUNNING = "defib/connection/running.h"

BUGS = [
    ("a lost commit is taken for one that was rolled back", "Classifier.ThePhase*", [
        (CLASSIFY, "      return FailureClass::kCommitAmbiguous;\n    case",
         "      return FailureClass::kRetryNow;\n    case")]),
    ("what may have been executed is repeated", "Retry.OnlyWhatIsSafe*:PoolTest.WhatMayHave*", [
        (RETRY, "{FailureClass::kOutcomeUnknown, false, true,",
         "{FailureClass::kOutcomeUnknown, true, false,")]),
    ("a commit whose outcome is unknown is repeated", "Retry.OnlyWhatIsSafe*", [
        (RETRY, "{FailureClass::kCommitAmbiguous, false,", "{FailureClass::kCommitAmbiguous, true,")]),
    ("there is no jitter", "Retry.ThePauseIsUniform*", [
        (RETRY, "pace.jitter ? upper * random.unit() : upper", "pace.jitter ? upper : upper * random.unit()")]),
    ("dead sessions are handed out", "PoolTest.SessionsThatDied*", [
        (POOL, "  if (seen == Liveness::kDead) {\n    retire(index, Why::kStale);\n"
               "    return Vetted::kRetired;\n  }\n", "")]),
    ("sessions are not reset on return", "PoolTest.ASessionIsUsed*:PoolTest.WhatCannotBeReset*", [
        (POOL, "    if (!reset_session(slot, limit)) {\n",
         "    if (session.lost() && !reset_session(slot, limit)) {\n")]),
    ("a return wakes nobody", "PoolTest.AWaiterGets*", [
        (POOL, "  if (waiters_count_.load(std::memory_order_relaxed) > 0) wake_for_idle();\n", ""),
        (POOL, "  if (since == 0 || now", "  if (since >= 0 || now")]),
    ("what is handed over is not busy", "PoolTest.ASessionThatIsHandedOver*", [
        (POOL, "  slots_[static_cast<std::size_t>(index)].state.store(kBusy, "
               "std::memory_order_release);\n", "")]),
    ("an overdue waiter is passed by", "PoolTest.AnOverdueWaiter*", [
        (POOL, "  if (since == 0 || now", "  if (since >= 0 || now")]),
    ("a suspicious session is asked without the caller's deadline", "PoolTest.AskingASession*", [
        (POOL, "health_query(session, deadline & Deadline::after(options_.health_timeout))",
         "health_query(session, Deadline::after(deadline.is_never() ? options_.health_timeout : "
         "options_.health_timeout))")]),
    ("lifetimes end all at once", "PoolTest.SessionsEndWithin*", [
        (BACKGROUND, "options_.lifetime_spread * random_.unit()", "0 * random_.unit()")]),
    ("the breaker never opens", "PoolTest.TheBreaker*:PoolTest.ConsecutiveTimeouts*", [
        (STATE, "  state_ = State::kOpen;\n", "")]),
    ("time-outs of statements do not count", "PoolTest.ConsecutiveTimeouts*", [
        (RUN, "    server_->gate.statement_timed_out(*error);\n", "")]),
    ("there is no budget of retries", "PoolTest.TheRetryBudget*", [
        (STATE, "  while (now >= kToken) {\n", "  while (now >= kToken || now < kToken) {\n")]),
    ("an error in a transaction does not poison it", "PoolTest.AnErrorThatWasPassedOver*", [
        (RUN, "  if (!rows) {\n    poison_ = rows.error();\n", "  if (!rows && poison_) {\n")]),
    ("a transaction may end itself", "PoolTest.ATransactionMayNot*", [
        (RUN, "  if (!why.empty()) {\n    Error error(Code::kInvalidArgument,",
         "  if (!why.empty() && statement.sql.empty()) {\n    Error error(Code::kInvalidArgument,")]),
    ("what MariaDB commits by itself stands in a transaction",
     "Traces.WhatMariadbCommits*:Drivers/TransactionTest.NothingIsStoredWhere*", [
        (TRACES, "      return kCommitsByItself;\n", "      return {};\n")]),
    ("an escaped quote ends a literal", "Traces.LiteralsAndComments*", [
        (TRACES, "    if (sql_[at_] == '\\\\' && escapes) {", "    if (sql_[at_] == '\\0' && escapes) {")]),
    ("a literal without an end is harmless", "Traces.LiteralsAndComments*", [
        (TRACES, "kUnended};\n", "};\n")]),
    ("SQL Server is taken to need semicolons", "Traces.ForSqlServer*", [
        (TRACES, "    if (has(kMssqlTraces, word)) return true;\n", ""),
        (TRACES, "  if (is_one_of(word(at), {\"COMMIT\", \"ROLLBACK\"})) return true;\n", "")]),
    ("any SET of SQL Server is that of an UPDATE", "Traces.ForSqlServer*", [
        (TRACES, "    if (word == \"SET\" && !std::exchange(updates, false)) return true;\n", "")]),
    ("a statement that the server cannot do is repeated for ever",
     "LibpqTest.APreparedStatement*:LibpqTest.AStalePlan*", [
        (LIBPQ, "  if (!again || lost_ || in_transaction()) return rows;\n"
                "  rows = execute_once(statement, deadline);\n",
         "  if (lost_ || in_transaction()) return rows;\n"
         "  rows = execute(statement, deadline);\n")]),
    ("plans that are forgotten stay on the server", "LibpqTest.APreparedStatement*:LibpqTest.AStalePlan*", [
        (LIBPQ, "  if (query(order.c_str(), {Phase::kStatement, order}, deadline)) --plans_;\n", "")]),
    ("a stream of COPY is read for ever", "LibpqTest.ACopyToTheClient*", [
        (LIBPQ, "status == PGRES_COPY_OUT || ", "")]),
    ("a flood of rows has no deadline", "LibpqTest.AFloodOfRows*", [
        (LIBPQ, "    while (::PQisBusy(connection) != 0) {\n"
                "      if (deadline.passed()) return failed(call, nullptr, true);\n",
         "    while (::PQisBusy(connection) != 0) {\n")]),
    ("quoted text is shown", "Failure.WhatMayStand*", [
        (FAILURE, "  if (text.front() == '\\'' || text.front() == '\"') return",
         "  if (text.front() == '\\'') return")]),
    ("a quote in a comment turns literals inside out", "Failure.WhatMayStand*", [
        (FAILURE, "    if (begins_with_quotes_inside(rest)) return out + \"?...\";\n", "")]),
    ("a statement ends while it is cancelled", "Running.WhatIsBeingCancelled*", [
        (RUNNING, "  void end() {\n    const std::lock_guard lock(mutex_);\n", "  void end() {\n")]),
    ("a driver's commit after an error is believed",
     "Drivers/TransactionTest.ABareCommit*", [
        (ODBC, "  if (transaction_failed_) {\n", "  if (transaction_failed_ && lost_) {\n")]),
    ("a deadlock's victim keeps its locks", "Drivers/TransactionTest.ADeadlocks*", [
        (RUN, "    // At once: a deadlock's victim would keep its other locks.\n"
              "    (void)lease_->rollback(rollback_deadline(deadline_));\n", "")]),
    ("a number is believed after a crash", "InDoubt.ANumberIsNot*", [
        (RESOLUTION, "      return same ? CommitOutcome::kCommitted : CommitOutcome::kUnknown;\n",
         "      return same ? CommitOutcome::kCommitted : CommitOutcome::kCommitted;\n")]),
    ("a commit in doubt counts as rolled back", "Drivers/CutTest.LostRequests*", [
        (RESOLUTION, "    if (is_duplicate(error)) return CommitOutcome::kCommitted;\n",
         "    if (is_duplicate(error)) return CommitOutcome::kRolledBack;\n")]),
    ("a stranger's session is ended", "PoolTest.NoSessionOfAnother*", [
        (RESOLUTION, "  if (old.server_since.empty() && session.info().server != record.server) return {};\n",
         "")]),
    ("a standby is asked what became of a commit", "PoolTest.ACommitInDoubt*", [
        (RESOLUTION, "  if (session.info().read_only) {\n",
         "  if (session.info().read_only && record.id == record.server + record.label + \"-\") {\n")]),
    ("a commit in doubt is resolved on any node", "Failover.ACommitInDoubt*", [
        (RUN, "connect_and_tell(deadline, Target::kPrimary, record.server)",
         "connect_and_tell(deadline, dsn_.target, record.server)"),
        (RESOLUTION, "  if (session.info().read_only) {\n",
         "  if (session.info().read_only && record.id == record.server + record.label + \"-\") {\n")]),
    ("a refused connect counts as silence", "PoolTest.ARefusedConnect*:PoolTest.AnotherPools*", [
        (BACKGROUND, "  if (server_is_silent(session.error())) {\n", "  if (!session) {\n")]),
    ("refused connects are repeated without a pause", "PoolTest.ARefusedConnectIs*", [
        (BACKGROUND, "  if (probing || opening_pauses_.attempts() == 0) return {};\n",
         "  if (probing || opening_pauses_.attempts() >= 0) return {};\n")]),
    ("open sessions lie idle while no connect is answered", "PoolTest.WhileNoConnect*", [
        (POOL, "    if (!paused_ && !server_->gate.suspects_sessions()) {\n",
         "    if (!paused_ && !gate_open) {\n"),
        (POOL, "    int index = may ? try_take() : -1;\n",
         "    int index = may && server_->gate.state() == Gate::State::kClosed ? try_take() : -1;\n")]),
    ("open sessions are used although statements time out", "PoolTest.WhileNoConnect*", [
        (STATE, "  suspects_sessions_ = true;\n  if (state_ == State::kOpen) return;\n",
         "  if (state_ == State::kOpen) return;\n  suspects_sessions_ = true;\n")]),
    ("work that is stored in part is repeated", "PoolTest.WorkThatIs*:Retry.WorkThatIs*", [
        (RETRY, "  if (question.partly_done && !question.idempotent) {\n",
         "  if (question.partly_done && !question.idempotent && question.attempt == 0) {\n")]),
    ("what was stored past the lease is not seen", "PoolTest.WorkThatIs*", [
        (RUN, "(lease->executed_ == 0 && !was_dirty &&", "(lease->executed_ < 0 && !was_dirty &&")]),
    ("a session's return has a time of its own", "PoolTest.ASessionIsReturned*", [
        (POOL, "  const Deadline deadline = limit & Deadline::after(options_.health_timeout);\n",
         "  const Deadline deadline = limit.passed() ? limit : "
         "Deadline::after(options_.health_timeout);\n")]),
    ("a session is reset when its call's time is over", "PoolTest.ASessionIsReturned*", [
        (POOL, "  if (deadline.passed()) return false;\n", "")]),
    ("a statement outlasts its call", "PoolTest.AStatementOfACall*", [
        (POOL, "session_->execute(statement, deadline & limit_)",
         "session_->execute(statement, deadline)")]),
    ("prepared statements are dropped without a limit", "Return.EndsWithItsCall*", [
        (ODBC, "    Watchdog::Guard guard(core_->watchdog, deadline, strike());\n    drop_prepared();",
         "    Watchdog::Guard guard(core_->watchdog, Deadline::after(2s), strike());\n"
         "    drop_prepared();")]),
    ("one commit that cannot be settled uses all of the time", "PoolTest.OneCommitThat*", [
        (RUN, "settle_one(id, text, deadline & Deadline::after(share), settled)",
         "settle_one(id, text, share.count() > 0 ? deadline : Deadline::after(share), settled)")]),
    ("a write in a read-only transaction drains the pool", "PoolTest.AWriteInAReadOnly*", [
        (POOL, "  if (!rows && read_only_ && is_refused_write",
         "  if (!rows && !read_only_ && is_refused_write")]),
    ("a session that is being opened escapes a drain", "PoolTest.ASessionThatIsBeingOpened*", [
        (BACKGROUND, "  slot.generation = generation;\n",
         "  slot.generation = std::max(generation, generation_.load());\n")]),
    ("the watchdog sleeps", "Drivers/DriverTest.TheCheckPasses*", [
        (WATCHDOG, "        entry.strike();\n", "")]),
    ("a statement waits without a limit", "LibpqTest.ABlackHole*", [
        (LIBPQ, "      if (!wait_for_socket(::PQsocket(connection), true, false, deadline)) {\n",
         "      if (!wait_for_socket(::PQsocket(connection), true, false, Deadline::after(5s))) {\n")]),
    ("passwords are shown", "Failure.Passwords*", [
        (FAILURE, "    if (password.size() > 3 || alone) {\n", "    if (password.empty() && alone) {\n")]),
    ("a lock of the session is no trace", "Traces.WhatTheNext*", [
        (TRACES, '"GET_LOCK",', '"GET_LOKK",')]),
    ("another server's commit in doubt is settled", "InDoubt.ARecordOfAnother*", [
        (RUN, "  if (!is_ours(record)) {\n", "  if (!is_ours(record) && record.id.empty()) {\n")]),
    ("any socket that sends is the session's own", "Sockets.*", [
        (SOCKET, "bytes_sent(candidate.fd) >= candidate.sent + kHeard;",
         "bytes_sent(candidate.fd) >= candidate.sent;")]),
    ("a redirect that is forbidden is followed", "Redirects.WhereNone*", [
        (ODBC, "  if (core_->dsn.redirects_allowed() > 0) return {};\n",
         "  if (core_->dsn.redirects_allowed() >= 0) return {};\n")]),
    ("the target of a redirect is not told", "Redirects.ASecondOne*", [
        (WATCH, "    if (!is_it(address)) target_ = address.to_string();\n",
         "    if (!is_it(address)) target_.clear();\n")]),
    ("an abandoned attempt is never reaped", "Abandoned.*", [
        (WATCH, "    if (socket_.valid()) shut_down(socket_.get());\n  }\n  void set_watched",
         "  }\n  void set_watched")]),
    ("a hang-up is not seen", "Drivers/DriverTest.TheCheckPasses*", [
        (SOCKET, "  if ((poll.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0) return "
                 "Liveness::kDead;\n", "")]),
]
