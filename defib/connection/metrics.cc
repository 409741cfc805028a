#include "defib/connection/metrics.h"

namespace defib::connection {

PoolMetrics::PoolMetrics(obs::Registry* registry, const std::string& pool)
    : own(registry == nullptr ? obs::Registry::in_memory() : nullptr),
      make{registry == nullptr ? own.get() : registry, {{"pool", pool}}},
      created(make.counter("pool_connections_created", "sessions that were opened")),
      closed_stale(make.counter("pool_connections_closed_stale",
                                "sessions found dead when they were looked at")),
      closed_idle(
          make.counter("pool_connections_closed_idle", "sessions closed because nobody used them")),
      closed_lifetime(make.counter("pool_connections_closed_lifetime",
                                   "sessions closed at the end of their lifetime")),
      closed_dirty(make.counter("pool_connections_closed_dirty",
                                "sessions closed because they could not be reset")),
      closed_failed(
          make.counter("pool_connections_closed_failed", "sessions that came back broken")),
      health_check_failures(
          make.counter("pool_health_check_failures", "health queries that failed")),
      retries(make.counter("query_retries_total",
                           "repetitions of statements and "
                           "transactions")),
      retries_exhausted(
          make.counter("query_retries_exhausted", "calls that failed after their last attempt")),
      exhausted(make.counter("pool_exhausted_total", "calls that got no session in time")),
      connection_failures(
          make.counter("pool_connection_failures_total", "sessions that could not be opened")),
      checkouts(make.counter("pool_checkouts_total", "sessions that were handed out")),
      resets(make.counter("pool_resets_total", "sessions that were reset on return")),
      reset_failures(make.counter("pool_reset_failures_total", "resets that failed")),
      long_borrows(
          make.counter("pool_long_borrows_total", "sessions kept longer than long_borrow")),
      breaker_opened(make.counter("pool_breaker_opened_total", "times that the breaker opened")),
      commits_ambiguous(
          make.counter("commits_ambiguous_total", "commits whose outcome had to be found out")),
      commits_resolved(
          make.counter("commits_resolved_total", "commits whose outcome was found out")),
      commits_unresolved(
          make.counter("commits_unresolved_total", "commits whose outcome could not be found out")),
      transactions_replayed(make.counter("transactions_replayed_total",
                                         "transactions that were repeated as a whole")),
      size(make.gauge("pool_connections", "sessions that are open")),
      idle(make.gauge("pool_connections_idle", "sessions that nobody uses")),
      waiting(make.gauge("pool_waiting", "threads that wait for a session")),
      abandoned(make.gauge("pool_abandoned",
                           "attempts that hang in the driver after their "
                           "callers returned")),
      consecutive_failures(make.gauge("pool_connection_failures_in_row",
                                      "failures to open a session since the last success")),
      wait(make.histogram("pool_wait_seconds", "waits for a session, where there was one")),
      connect(make.histogram("pool_connect_seconds", "time to open a session")),
      resolve(make.histogram("commit_resolution_seconds",
                             "time to find out what became of a commit")) {}

}  // namespace defib::connection
