// The executors that a store makes for itself, and work that is shared with one.
//
// Thread rule: run() from any thread; destroying an executor waits for the running tasks and drops
// the rest.

#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "defib/store/store.h"

namespace defib::store {

// A fixed number of threads.
class Threads : public Executor {
 public:
  explicit Threads(unsigned count);
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() override;
  void run(std::function<void()> task) override;
  unsigned concurrency() const override { return static_cast<unsigned>(threads_.size()); }

 private:
  void work();

  std::mutex mutex_;  // guards all below but threads_
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // the store has at most one of each kind waiting
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// What a store works with where its caller gives it nothing.
class OneThread final : public Threads {
 public:
  OneThread() : Threads(1) {}
};

// For parallel_for() alone: nobody helps, whatever is handed in is dropped.
Executor& no_helpers();

// Calls work(0) to work(n - 1), each once, on the calling thread and on those of the executor that
// come by in time. The caller never waits for a task to begin, only for items that a task has
// begun: so it ends with a busy executor, with one that is stepped by hand, and when it is called
// from a task. `work` does not throw. Which thread takes which item is chance; items are handed out
// in ascending order. While the caller has nothing left to do but to wait for others, it calls
// `meanwhile` every few milliseconds, unless that is empty.
void parallel_for(Executor& executor, std::size_t n, const std::function<void(std::size_t)>& work,
                  const std::function<void()>& meanwhile = {});

}  // namespace defib::store
