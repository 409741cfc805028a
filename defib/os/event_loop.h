// EventLoop: one thread, epoll, timers on one timerfd. Handlers run on the thread in run().
//
// Invariants: a removed watch or cancelled timer never fires again, also when it was removed by a
// handler of the same round; a handler may add, remove and stop freely.
// Thread rule: all functions on the loop's thread, except post() and stop(), which any thread may
// call.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::os {

class EventLoop {
 public:
  using FdHandler = std::function<void(std::uint32_t epoll_events)>;
  using Handler = std::function<void()>;
  using TimerId = std::uint64_t;  // 0 is never a timer

  static Result<std::unique_ptr<EventLoop>> create(const Clock& clock = real_clock());
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // `events` as for epoll_ctl(2): EPOLLIN, EPOLLOUT ... One watch a descriptor.
  Result<> watch(int fd, std::uint32_t events, FdHandler handler);
  Result<> modify(int fd, std::uint32_t events);
  // Nothing happens where `fd` is not watched. Call before closing it.
  void unwatch(int fd);

  TimerId run_at(std::int64_t mono_ns, Handler handler);
  TimerId run_after(Duration delay, Handler handler);
  TimerId run_every(Duration period, Handler handler);
  void cancel(TimerId timer);

  // Runs `handler` on the loop's thread soon.
  void post(Handler handler);

  // Blocks the signals in this thread and delivers them to the handler. Call before starting
  // threads.
  Result<> watch_signals(const std::vector<int>& signals, std::function<void(int signal)> handler);

  // Until stop().
  Result<> run();
  void stop();
  const Clock& clock() const { return clock_; }

 private:
  struct Timer;
  explicit EventLoop(const Clock& clock) : clock_(clock) {}
  Result<> start();
  void run_due_timers();
  void run_posted();
  void arm();

  struct Watch {
    std::uint64_t generation;
    std::shared_ptr<FdHandler> handler;
  };
  const Clock& clock_;
  Fd epoll_, timer_fd_, wake_fd_, signal_fd_;
  std::unordered_map<int, Watch> watches_;
  std::uint64_t next_generation_ = 1;
  std::vector<std::shared_ptr<Timer>> heap_;
  std::unordered_map<TimerId, std::shared_ptr<Timer>> timers_;
  TimerId next_timer_ = 1;
  std::int64_t armed_for_ = 0;
  std::mutex posted_mutex_;  // guards posted_
  std::vector<Handler> posted_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace defib::os
