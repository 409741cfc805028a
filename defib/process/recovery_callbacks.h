// Callbacks with a time limit, for RecoveryManager: each call has a thread of its own.
//
// A callback that overruns its limit is asked to stop and left behind: its thread is not killed (it
// may hold a lock or be half-way through a change), it goes on with its own copy of everything that
// it needs from here, and may end whenever it likes, also after the list is gone. As long as it
// runs it is not called a second time. At most kMaxOverruns are left behind at once; then none is
// called. Thread rule: any thread; two runs of one list at a time are the caller's to prevent.

#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::process {

// What a callback is told.
struct CallbackContext {
  std::stop_token stop;  // stop_requested() when its time is over, or the service shuts down
  std::string reason;    // why it is called
  int attempt = 0;       // of a recovery, from 1
};
using RecoveryCallback = std::function<Result<>(const CallbackContext&)>;

struct CallbackFailure {
  std::string name;
  Error error;  // Timeout, CallbackThrew, or what the callback returned
};

class CallbackList {
 public:
  static constexpr int kMaxOverruns = 16;

  // `owner` tells the threads of one manager's callbacks from others (in_callback_of()).
  explicit CallbackList(const void* owner) : owner_(owner) {}

  void add(std::string name, RecoveryCallback callback, os::Duration timeout);
  bool empty() const;

  struct Run {
    std::string reason;
    int attempt = 0;
    bool reverse = false;
    bool skip_succeeded = false;        // those that have succeeded once are not called again
    std::function<bool()> interrupted;  // asked between two callbacks; empty: never
    std::function<void(const CallbackFailure&)> failed;  // told at once
  };
  // Calls all, whatever fails, and returns the first failure's error. Cancelled where interrupted.
  Result<> run(const Run& run);
  // Asks the callback that is running for run(), and those left behind, to stop.
  void request_stop();
  // Those left behind that still run.
  int overruns() const;
  // Waits until none is; false where the time is over first.
  bool wait_for_overruns(os::Duration time) const;

 private:
  struct Call;
  struct Entry {
    std::string name;
    std::shared_ptr<RecoveryCallback> callback;
    os::Duration timeout;
    std::shared_ptr<Call> call;  // the last one
    bool succeeded = false;
  };
  Result<> call(const std::shared_ptr<Entry>& entry, const Run& run);

  const void* owner_;
  mutable std::mutex mutex_;  // guards the list and what its entries hold
  std::vector<std::shared_ptr<Entry>> entries_;
};

// True in a thread that runs a callback of that owner.
bool in_callback_of(const void* owner);

// The text and type of an exception, with the chain of std::nested_exception.
struct ExceptionText {
  std::string what;
  std::string type;  // "std::runtime_error"
};
ExceptionText describe(const std::exception_ptr& thrown);

}  // namespace defib::process
