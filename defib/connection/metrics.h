// The pool's metrics; docs/connection.md lists them. Counting happens where something happened, a
// checkout itself counts in its slot and is summed up by the background thread.
//
// Thread rule: any thread.

#pragma once

#include <memory>
#include <string>

#include "defib/obs/counters.h"

namespace defib::connection {

struct PoolMetrics {
  // `registry` may be null: then they count in memory of their own.
  PoolMetrics(obs::Registry* registry, const std::string& pool);

  struct Maker {
    obs::Registry* registry;
    obs::Labels labels;
    obs::Counter counter(std::string_view name, std::string_view help) const {
      return registry->counter(name, help, labels);
    }
    obs::Gauge gauge(std::string_view name, std::string_view help) const {
      return registry->gauge(name, help, labels);
    }
    obs::Histogram histogram(std::string_view name, std::string_view help) const {
      return registry->histogram(name, help, obs::Unit::kNanoseconds, labels);
    }
  };

  std::unique_ptr<obs::Registry> own;
  Maker make;
  obs::Counter created, closed_stale, closed_idle, closed_lifetime, closed_dirty, closed_failed;
  obs::Counter health_check_failures, retries, retries_exhausted, exhausted, connection_failures;
  obs::Counter checkouts, resets, reset_failures, long_borrows, breaker_opened;
  obs::Counter commits_ambiguous, commits_resolved, commits_unresolved, transactions_replayed;
  obs::Gauge size, idle, waiting, abandoned, consecutive_failures;
  obs::Histogram wait, connect, resolve;
};

}  // namespace defib::connection
