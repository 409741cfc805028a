#include "defib/store/executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

namespace defib::store {
namespace {

constexpr auto kMeanwhile = std::chrono::milliseconds(5);

// One call of parallel_for. Tasks hold it, for they may come by when the call is long over.
struct Loop {
  const std::function<void(std::size_t)>* work;  // of the caller: valid while an item is left
  std::size_t count;
  std::atomic<std::size_t> next = 0;  // not taken by anybody yet
  std::atomic<std::size_t> done = 0;
  std::mutex mutex;  // guards nothing: lets nobody miss that `ended` was told
  std::condition_variable ended;

  void take_part() {
    for (;;) {
      const std::size_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= count) return;
      (*work)(item);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 != count) continue;
      const std::lock_guard lock(mutex);
      ended.notify_all();
    }
  }
  void wait(const std::function<void()>& meanwhile) {
    const auto is_done = [this] { return done.load(std::memory_order_acquire) == count; };
    if (is_done()) return;
    std::unique_lock lock(mutex);
    while (!ended.wait_for(lock, kMeanwhile, is_done)) {
      if (!meanwhile) continue;
      lock.unlock();
      meanwhile();
      lock.lock();
    }
  }
};

class NoHelpers final : public Executor {
 public:
  void run(std::function<void()>) override {}
  unsigned concurrency() const override { return 0; }
};

}  // namespace

Executor& no_helpers() {
  static NoHelpers nobody;
  return nobody;
}

Threads::Threads(unsigned count) {
  threads_.reserve(count);
  for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
}

Threads::~Threads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Threads::run(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Threads::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (stopping_) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

void parallel_for(Executor& executor, std::size_t n, const std::function<void(std::size_t)>& work,
                  const std::function<void()>& meanwhile) {
  if (n == 0) return;
  if (n == 1) return work(0);
  const auto loop = std::make_shared<Loop>(&work, n);
  const std::size_t helpers = std::min<std::size_t>(executor.concurrency(), n - 1);
  for (std::size_t i = 0; i < helpers; ++i) executor.run([loop] { loop->take_part(); });
  loop->take_part();
  loop->wait(meanwhile);
}

}  // namespace defib::store
