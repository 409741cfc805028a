// ServerState: what all pools of one process know together of one server: whether it is worth
// asking (the breaker), how fast sessions may be opened again (slow start), and how many
// repetitions it may still be burdened with (the budget).
//
// The breaker opens on `failures` connects or statements in a row that the server did not answer,
// so that a server that is sick but alive opens it, too. A connect that the server has answered
// with a refusal counts for nothing: it serves, and others may well be let in. While it is open one
// probe at a time goes out, at moments drawn by full jitter, so that it never outlasts the server's
// recovery by more than probe_max. After a probe's success 1, 2, 4 ... sessions are opened at a
// time. Thread rule: any thread.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/connection/deadline.h"
#include "defib/recovery/policy.h"

namespace defib::connection {

struct GateOptions {
  int failures = 3;  // in a row
  os::Duration probe_first = std::chrono::milliseconds(5);
  os::Duration probe_max = std::chrono::milliseconds(80);
  // Healthy for so long, the pauses between probes start from probe_first again.
  os::Duration stable_after = std::chrono::seconds(10);
  int retry_reserve = 10;  // repetitions beyond a tenth of the requests, see RetryBudget
};

class Gate {
 public:
  Gate(GateOptions options, const os::Clock& clock, std::uint64_t seed);

  enum class State { kClosed, kOpen };
  State state() const { return state_.load(std::memory_order_relaxed); }
  // Success where it is closed; BreakerOpen with the root cause where it is open.
  Result<> allow() const;
  // Statements opened it, or have timed out since: a session that is open is no better than a new
  // one. Where connects alone opened it, one that looks alive may still be used.
  bool suspects_sessions() const { return suspects_sessions_.load(std::memory_order_relaxed); }

  // Permission to open one session: at most `parallel` at a time, fewer during the slow start, one
  // while it is open. Every permission ends with connected(), connect_failed(), connect_refused()
  // or not_tried().
  // Where there is none, `retry_in` says when to ask again at the latest.
  bool may_connect(int parallel, os::Duration& retry_in);
  void connected();
  void connect_failed(const Error& error);  // no answer, see server_is_silent()
  void connect_refused();                   // an answer
  void not_tried();

  // Statements: a success forgets the time-outs before it.
  void statement_succeeded() {
    if (timeouts_.load(std::memory_order_relaxed) != 0) timeouts_ = 0;
  }
  void statement_timed_out(const Error& error);

  // Until it is closed, or the deadline. True where it is closed.
  bool wait_until_closed(Deadline deadline);
  std::optional<Error> last_error() const;
  // How often it has opened, and how many probes went out while it was open.
  std::int64_t opened() const { return opened_.load(); }
  std::int64_t probes() const { return probes_.load(); }

 private:
  void open_it(const Error& error);
  void close_it();

  GateOptions options_;
  const os::Clock* clock_;
  mutable std::mutex mutex_;
  std::condition_variable closed_;
  std::atomic<State> state_{State::kClosed};
  std::atomic<bool> suspects_sessions_{false};
  std::atomic<int> timeouts_{0};
  recovery::Backoff backoff_;         // guarded by mutex_
  int failures_ = 0;                  // guarded by mutex_
  int connecting_ = 0;                // guarded by mutex_
  int slow_start_ = 0;                // guarded by mutex_; 0: no limit
  std::int64_t next_probe_ns_ = 0;    // guarded by mutex_
  std::int64_t closed_since_ns_ = 0;  // guarded by mutex_
  std::optional<Error> last_;         // guarded by mutex_
  std::atomic<std::int64_t> opened_{0}, probes_{0};
};

// A token bucket: every request adds a tenth of a token, every repetition takes one, so that a
// server that fails everything gets at most a tenth more requests, plus `reserve`.
class RetryBudget {
 public:
  explicit RetryBudget(int reserve = 10) : reserve_(reserve * kToken), tokens_(reserve_) {}
  void request();
  // False where none is left.
  bool take();

 private:
  static constexpr std::int64_t kToken = 1000;
  static constexpr std::int64_t kPerRequest = kToken / 10;
  std::int64_t reserve_;
  std::atomic<std::int64_t> tokens_;
};

struct ServerState {
  ServerState(GateOptions options, const os::Clock& clock, std::uint64_t seed)
      : gate(options, clock, seed), budget(options.retry_reserve) {}
  Gate gate;
  RetryBudget budget;
};

// The one of that name in this process, made where it is not there; it lives as long as anybody
// uses it.
std::shared_ptr<ServerState> server_state(const std::string& name, GateOptions options,
                                          const os::Clock& clock);

}  // namespace defib::connection
