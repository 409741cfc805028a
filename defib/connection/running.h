// Running: the statement that a session executes, for who cancels it from another thread.
//
// Invariant: after end() nobody cancels it, nor is about to: it may be freed.
// Thread rule: any thread.

#pragma once

#include <mutex>
#include <optional>
#include <utility>

namespace defib::connection {

template <typename Handle>
class Running {
 public:
  void begin(Handle handle) {
    const std::lock_guard lock(mutex_);
    handle_ = handle;
  }
  void end() {
    const std::lock_guard lock(mutex_);
    handle_.reset();
  }
  // Calls cancel(handle) where one runs. It must not wait for the statement.
  template <typename Cancel>
  void cancel(Cancel&& cancel) {
    const std::lock_guard lock(mutex_);
    if (handle_) std::forward<Cancel>(cancel)(*handle_);
  }

 private:
  std::mutex mutex_;
  std::optional<Handle> handle_;  // guarded by mutex_
};

}  // namespace defib::connection
