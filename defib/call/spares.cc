#include "defib/call/spares.h"

namespace defib::call {

SpareSessions::SpareSessions(std::string plugin, ClientOptions options, std::size_t count)
    : plugin_(std::move(plugin)),
      options_(std::move(options)),
      count_(count),
      thread_([this](const std::stop_token& stop) { refill(stop); }) {}

SpareSessions::~SpareSessions() {
  thread_.request_stop();
}

Result<std::shared_ptr<Session>> SpareSessions::take() {
  {
    const std::lock_guard lock(mutex_);
    failures_ = 0;
    changed_.notify_all();
    while (!ready_.empty()) {
      std::shared_ptr<Session> spare = std::move(ready_.front());
      ready_.pop_front();
      if (!spare->fault()) return spare;
    }
  }
  return Session::start(plugin_, options_);
}

bool SpareSessions::wait_until_full(Milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout,
                    [this] { return ready_.size() >= count_ || failures_ >= kMostFailures; });
  return ready_.size() >= count_;
}

void SpareSessions::refill(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const bool wanted = changed_.wait(
        lock, stop, [this] { return ready_.size() < count_ && failures_ < kMostFailures; });
    if (!wanted) return;
    lock.unlock();
    auto made = Session::start(plugin_, options_);
    lock.lock();
    if (made) {
      ready_.push_back(std::move(*made));
    } else {
      ++failures_;
    }
    changed_.notify_all();
  }
}

}  // namespace defib::call
