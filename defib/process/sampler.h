// Sampler: one timer for all services whose use is sampled.
//
// Whoever registers is called once an interval; calls of one interval fall on the same instant
// whenever they were registered, so that a hundred services wake the supervisor once. While nobody
// is registered there is no timer.
// Thread rule: the loop's thread.

#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "defib/os/event_loop.h"

namespace defib::process {

class Sampler {
 public:
  using Id = std::uint64_t;  // 0 is never one
  explicit Sampler(os::EventLoop& loop) : loop_(loop) {}
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // `handler` may add and remove freely.
  Id add(os::Duration interval, std::function<void()> handler);
  void remove(Id id);
  // How often the timer has fired.
  std::uint64_t wake_ups() const { return wake_ups_; }

 private:
  struct Entry {
    os::Duration interval;
    std::int64_t due_mono_ns;
    std::function<void()> handler;
  };
  void arm();
  void wake();

  os::EventLoop& loop_;
  std::map<Id, Entry> entries_;
  Id next_ = 1;
  os::EventLoop::TimerId timer_ = 0;
  std::int64_t armed_for_ = 0;
  std::uint64_t wake_ups_ = 0;
};

}  // namespace defib::process
