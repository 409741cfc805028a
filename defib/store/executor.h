// OneThread: the executor that a store makes for itself where its caller gives none.
//
// Thread rule: run() from any thread; destroying it waits for the running task and drops the rest.

#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "defib/store/store.h"

namespace defib::store {

class OneThread final : public Executor {
 public:
  OneThread();
  ~OneThread() override;
  void run(std::function<void()> task) override;

 private:
  void work();

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // the store has at most one of each kind waiting
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace defib::store
