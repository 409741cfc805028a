#include "defib/connection/watchdog.h"

#include <algorithm>
#include <utility>

namespace defib::connection {

Watchdog::Watchdog() : thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::int64_t next = Deadline::kNever;
    const std::int64_t now = os::real_clock().mono_ns();
    for (auto& [id, entry] : entries_) {
      if (entry.struck) continue;
      if (entry.deadline_ns <= now) {
        entry.struck = true;
        entry.strike();
      } else {
        next = std::min(next, entry.deadline_ns);
      }
    }
    wakes_at_ = next;
    if (next == Deadline::kNever) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, os::Duration(next - os::real_clock().mono_ns()));
    }
  }
}

Watchdog::Guard::Guard(Watchdog& watchdog, Deadline deadline, Strike strike) : watchdog_(watchdog) {
  if (deadline.is_never()) return;
  bool sooner = false;
  {
    const std::lock_guard lock(watchdog.mutex_);
    id_ = watchdog.next_id_++;
    watchdog.entries_.emplace(id_, Entry{deadline.mono_ns(), std::move(strike), false});
    sooner = deadline.mono_ns() < watchdog.wakes_at_;
    if (sooner) watchdog.wakes_at_ = deadline.mono_ns();
  }
  if (sooner) watchdog.changed_.notify_one();
}

bool Watchdog::Guard::end() {
  if (id_ == 0) return struck_;
  const std::lock_guard lock(watchdog_.mutex_);
  const auto entry = watchdog_.entries_.find(std::exchange(id_, 0));
  struck_ = entry->second.struck;
  watchdog_.entries_.erase(entry);
  return struck_;
}

Watchdog::Guard::~Guard() {
  end();
}

}  // namespace defib::connection
