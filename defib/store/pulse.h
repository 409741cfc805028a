// Pulse: how long work tells that it goes on, and hears that it is to stop.
//
// Called about every MiB or every 10 ms, whichever comes first, with the bytes done so far; an
// Error ends the work with it. SharedPulse carries one into work that several threads share;
// share_work() does so for a loop, and keeps the pulse going while its caller waits for the others.
//
// Thread rule: a Pulse is called on the thread that was given it only; SharedPulse from any.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "defib/base/error.h"
#include "defib/store/executor.h"

namespace defib::store {

using Pulse = std::function<Result<>(std::uint64_t bytes_done)>;

inline constexpr std::uint64_t kPulseStep = 1 << 20;  // bytes between two calls, at most

class SharedPulse {
 public:
  // Made on the thread that may call `pulse`, which may be empty.
  explicit SharedPulse(const Pulse& pulse) : pulse_(pulse), owner_(std::this_thread::get_id()) {}

  // Counts `bytes` more; false where the work is to stop.
  bool add(std::uint64_t bytes) {
    const std::uint64_t done = done_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (pulse_ && std::this_thread::get_id() == owner_ && !stopped()) {
      if (Result<> goes_on = pulse_(done); !goes_on) {
        error_ = std::move(goes_on.error());  // The owner's alone until the work has ended.
        stop();
      }
    }
    return !stopped();
  }
  void stop() { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  // For the owner, when the work has ended: the error that the pulse answered.
  Result<> result() const {
    if (error_) return *error_;
    return {};
  }

 private:
  const Pulse& pulse_;
  std::thread::id owner_;
  std::atomic<std::uint64_t> done_ = 0;
  std::atomic<bool> stopped_ = false;
  std::optional<Error> error_;
};

// parallel_for() on the pulse's own thread.
inline void share_work(Executor& executor, SharedPulse& pulse, std::size_t n,
                       const std::function<void(std::size_t)>& work) {
  parallel_for(executor, n, work, [&pulse] { pulse.add(0); });
}

}  // namespace defib::store
