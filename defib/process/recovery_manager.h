// RecoveryManager: what a service does about its own failures, in one object.
//
//   auto manager = process::RecoveryManager::create({.state_file = "system_state.json"});
//   (*manager)->add_recovery("reconnect", [&](const auto&) { return venue.reconnect(); }, 5s);
//   (*manager)->add_cleanup("cancel orders", [&](const auto&) { return venue.cancel_all(); }, 5s);
//   (*manager)->ready();
//   while (!(*manager)->shutdown_requested()) {
//     (*manager)->beat();
//     auto sent = (*manager)->exception_scope("order_execution", [&] { return execute(order); });
//     if (!sent) ...                 // recorded; the callbacks have run;
//     was_recovered(sent.error())
//   }
//   (*manager)->shutdown("signal");  // clean-up callbacks, last state
//
// It works the same under defib, under systemd and under nobody. It has no thread of its own unless
// asked for; a callback runs in a thread that is made for it (recovery_callbacks.h).
//
// Recoveries do not overlap. A failure that comes while one runs joins the next one, which begins
// after the failure; so many failing threads cost two recoveries, not one each.
// A callback must be safe to repeat, and must not wait for the thread whose failure it cures.
// Thread rule: every function from any thread.

#pragma once

#include <cxxabi.h>

#include <concepts>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/process/agent.h"
#include "defib/process/health_monitor.h"
#include "defib/process/recovery_callbacks.h"
#include "defib/wire/json.h"

namespace defib::process {

struct RecoveryOptions {
  std::string state_file = "system_state.json";  // empty: nothing is kept
  int max_restarts = 5;  // more unclean ends in a row than this: restart_report().limit_reached
  os::Duration restart_delay = std::chrono::seconds(30);  // restart_report().wait
  os::Duration health_check_interval = std::chrono::seconds(60);
  int max_recovery_attempts = 3;  // then no more by itself, until a forced recovery succeeds
  os::Duration callback_timeout = std::chrono::seconds(30);     // of callbacks without their own
  os::Duration attempt_delay = std::chrono::milliseconds(100);  // between two attempts
  os::Duration attempts_reset_after = std::chrono::minutes(5);  // without a failure: counted anew
  HealthOptions health{};            // its interval is health_check_interval
  bool monitor_thread = false;       // else the service calls health().check()
  bool handle_signals = true;        // SIGTERM and SIGINT (Shutdown)
  os::Files* files = nullptr;        // nullptr: the kernel's
  const os::Clock* clock = nullptr;  // nullptr: the real one
};
// ConfigBadValue names the field and what is allowed.
Result<> validate(const RecoveryOptions& options);

enum class Rethrow : std::uint8_t { kNo, kYes };

// One failure of an operation.
struct FailureRecord {
  std::uint64_t number = 0;  // in this process, from 1
  std::string operation;
  std::string what;
  std::string type;  // "std::runtime_error"; of an Error its kind
  std::int64_t at_wall_ns = 0;
  int tid = 0;
  std::string thread;       // its name
  std::uint64_t count = 0;  // failures of this operation so far, this one included
};
wire::Json to_json(const FailureRecord& record);

// What the state of the process before says of its end.
struct RestartReport {
  bool first_start = true;  // there was no state
  bool unclean = false;     // it did not stop on purpose
  int restart_count = 0;    // unclean ends in a row
  bool limit_reached = false;
  os::Duration wait{0};  // before working on; 0 under defib, which delays restarts itself
};

// Of an Error of exception_scope(): whether the recovery callbacks have all succeeded since.
bool was_recovered(const Error& error);

namespace internal {
template <typename T>
struct ScopeResult {
  using Type = Result<T>;
};
template <typename T>
struct ScopeResult<Result<T>> {
  using Type = Result<T>;
};
}  // namespace internal

class RecoveryManager {
 public:
  // Restores the state and saves it as unclean until shutdown(). What is wrong with the file or its
  // directory is reported, and the service goes on without.
  static Result<std::unique_ptr<RecoveryManager>> create(RecoveryOptions options,
                                                         Agent agent = Agent::attach_or_idle());
  // Without shutdown() before it the end is unclean. Waits kGrace for callbacks that overran.
  ~RecoveryManager();
  static constexpr os::Duration kGrace = std::chrono::seconds(1);

  // Runs `function` and returns what it returns (a T as Result<T>). An exception, or an Error as
  // its result, is recorded, the recovery callbacks are run, and an Error that tells of both comes
  // back: CallbackThrew for an exception, else of the code of its cause, with the fields
  // "operation", "failure", "recovered". A failure that an inner scope has handled is passed on as
  // it is.
  template <typename Function>
  auto exception_scope(std::string_view operation, Function&& function,
                       Rethrow rethrow = Rethrow::kNo) ->
      typename internal::ScopeResult<std::remove_cvref_t<std::invoke_result_t<Function>>>::Type {
    using Returned = std::remove_cvref_t<std::invoke_result_t<Function>>;
    using Outcome = typename internal::ScopeResult<Returned>::Type;
    const Scope scope;
    try {
      if constexpr (std::is_void_v<Returned>) {
        std::forward<Function>(function)();
        return Outcome();
      } else {
        Outcome outcome = std::forward<Function>(function)();
        if (!outcome) return failed(operation, outcome.error());
        return outcome;
      }
    } catch (abi::__forced_unwind&) {
      throw;  // pthread_exit and thread cancellation are no failures
    } catch (...) {
      Error error = failed(operation, std::current_exception());
      if (rethrow == Rethrow::kYes) throw;
      return error;
    }
  }

  // Run in the order of registration. `callback` takes a const CallbackContext& or nothing, and
  // returns a Result<> or nothing. A zero timeout: options.callback_timeout.
  template <typename Function>
  void add_recovery(std::string name, Function callback, os::Duration timeout = {}) {
    add(Kind::kRecovery, std::move(name), wrap(std::move(callback)), timeout);
  }
  // Run in the reverse order, at shutdown() and by run_cleanup().
  template <typename Function>
  void add_cleanup(std::string name, Function callback, os::Duration timeout = {}) {
    add(Kind::kCleanup, std::move(name), wrap(std::move(callback)), timeout);
  }

  // A recovery without a failure, also after the attempts are used up. StageFailed where not every
  // callback succeeds, NotFound where there is none, Unavailable inside of a callback.
  Result<> force_recovery(std::string_view reason);
  // Runs those clean-up callbacks that have not succeeded yet; all of them with `again`. The first
  // failure's error.
  Result<> run_cleanup(bool again = false);
  // Ends a running recovery after its present callback, cleans up, saves the state as stopped on
  // purpose. The first failure's error; what can be done is done. Once; later calls answer the
  // same.
  Result<> shutdown(std::string_view reason);

  // SIGTERM or SIGINT came, or request_shutdown() was called.
  bool shutdown_requested() const;
  bool wait_for_shutdown(os::Duration time) const;
  void request_shutdown();

  // Up and running, to the supervisor too.
  void ready();
  // One word: "starting" "running" "recovering" "degraded" "stopping" "stopped" or the service's
  // own.
  void set_status(std::string_view status);
  std::string status() const;
  void set_active_connections(std::int64_t count);
  void set_active_positions(std::int64_t count);
  // A field of the service's own in the persisted state. InvalidArgument for the manager's names.
  Result<> set(std::string_view name, wire::Json value);
  wire::Json get(std::string_view name) const;

  // The heartbeat of the main loop, by one thread; under systemd it sends WATCHDOG=1 in time.
  void beat();
  // Healthy within `deadline`; hung after it.
  Heartbeat stage(std::string_view name, os::Duration deadline = std::chrono::seconds(10));

  // Writes the state now. It is written by itself at the start, at failures and recoveries, at
  // health crossings and at the end.
  Result<> save();
  // What save() writes, and what was found at the start (null: nothing).
  wire::Json state() const;
  const wire::Json& restored() const;
  const RestartReport& restart_report() const;
  wire::Json system_info();
  HealthMonitor& health();
  // The last kKeptFailures, oldest first, and the number of all.
  static constexpr std::size_t kKeptFailures = 32;
  std::vector<FailureRecord> failures() const;
  std::uint64_t failure_count() const;
  int recovery_attempts() const;
  // Callbacks that overran and still run.
  int overruns() const;
  bool wait_for_overruns(os::Duration time) const;
  Agent& agent();

 private:
  struct Core;
  enum class Kind : std::uint8_t { kRecovery, kCleanup };
  // Counts the scopes of this thread, to know what an inner one has handled.
  struct Scope {
    Scope();
    ~Scope();
  };

  explicit RecoveryManager(std::unique_ptr<Core> core);
  Error failed(std::string_view operation, const Error& error);
  Error failed(std::string_view operation, std::exception_ptr thrown);
  void add(Kind kind, std::string name, RecoveryCallback callback, os::Duration timeout);

  template <typename Function>
  static RecoveryCallback wrap(Function callback) {
    return [held = std::move(callback)](const CallbackContext& context) mutable -> Result<> {
      const auto call = [&]() -> decltype(auto) {
        if constexpr (std::invocable<Function&, const CallbackContext&>) {
          return held(context);
        } else {
          return held();
        }
      };
      if constexpr (std::is_void_v<decltype(call())>) {
        call();
        return {};
      } else {
        return call();
      }
    };
  }

  std::unique_ptr<Core> core_;
};

}  // namespace defib::process
