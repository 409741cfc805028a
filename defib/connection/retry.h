// Retry: whether a failure is worth another attempt, after which pause, on which session. Pure; the
// loops are Pool::run and Pool::transaction.
//
// Thread rule: pure functions.

#pragma once

#include <map>
#include <string_view>

#include "defib/connection/classify.h"
#include "defib/os/clock.h"
#include "defib/os/random.h"

namespace defib::connection {

// How often and after which pauses.
struct RetryPace {
  int attempts = 4;
  os::Duration initial = std::chrono::milliseconds(100);
  os::Duration maximum = std::chrono::seconds(30);
  double multiplier = 2.0;
  bool jitter = true;
};

struct RetryPolicy {
  int attempts = 4;  // the first one and three repetitions
  os::Duration initial = std::chrono::milliseconds(100);
  os::Duration maximum = std::chrono::seconds(30);
  double multiplier = 2.0;
  bool jitter = true;  // full: uniform between zero and the step
  // Of R0 (deadlocks and serialization failures), which clear by themselves at once.
  os::Duration initial_conflict = std::chrono::milliseconds(5);
  // Classes that have a pace of their own.
  std::map<FailureClass, RetryPace> per_class = {};
};

struct RetryQuestion {
  FailureClass failure_class = FailureClass::kNever;
  int attempt = 1;          // the one that failed, from 1
  bool idempotent = false;  // executing it twice does what executing it once does
  // Statements of this attempt have succeeded, each stored by itself: only what failed was undone.
  bool partly_done = false;
  std::int64_t minimum_pause_ms = 0;  // see minimum_pause_ms()
};

struct RetryAnswer {
  bool again = false;
  os::Duration pause{0};
  bool drain = false;    // the pool's sessions lead to the wrong server
  std::string_view why;  // of `again` being false
};

RetryAnswer decide(const RetryQuestion& question, const RetryPolicy& policy, os::Random& random);

}  // namespace defib::connection
