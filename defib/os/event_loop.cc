#include "defib/os/event_loop.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "defib/base/assert.h"

namespace defib::os {

struct EventLoop::Timer {
  TimerId id;
  std::int64_t due;
  std::int64_t period;  // 0: once
  Handler handler;
  bool cancelled = false;
};

namespace {

// The earliest first.
constexpr auto kLater = [](const auto& a, const auto& b) { return a->due > b->due; };

void drain(int fd) {
  std::uint64_t count = 0;
  while (::read(fd, &count, sizeof count) > 0) {
  }
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create(const Clock& clock) {
  std::unique_ptr<EventLoop> loop(new EventLoop(clock));
  DEFIB_TRY(loop->start());
  return loop;
}

EventLoop::~EventLoop() = default;

Result<> EventLoop::start() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return system_error("epoll_create1");
  timer_fd_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer_fd_.valid()) return system_error("timerfd_create");
  wake_fd_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd_.valid()) return system_error("eventfd");
  DEFIB_TRY(watch(timer_fd_.get(), EPOLLIN, [this](std::uint32_t) {
    drain(timer_fd_.get());
    armed_for_ = 0;
  }));
  return watch(wake_fd_.get(), EPOLLIN, [this](std::uint32_t) {
    drain(wake_fd_.get());
    run_posted();
  });
}

Result<> EventLoop::watch(int fd, std::uint32_t events, FdHandler handler) {
  DEFIB_ASSERT(!watches_.contains(fd));
  epoll_event event{};
  event.events = events;
  // The generation tells an event of an old watch from one of a new watch with the same number.
  const std::uint64_t generation = next_generation_++;
  event.data.u64 = (generation << 32) | static_cast<std::uint32_t>(fd);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return system_error("epoll_ctl");
  watches_[fd] = {generation, std::make_shared<FdHandler>(std::move(handler))};
  return {};
}

Result<> EventLoop::modify(int fd, std::uint32_t events) {
  const auto found = watches_.find(fd);
  DEFIB_ASSERT(found != watches_.end());
  epoll_event event{};
  event.events = events;
  event.data.u64 = (found->second.generation << 32) | static_cast<std::uint32_t>(fd);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) return system_error("epoll_ctl");
  return {};
}

void EventLoop::unwatch(int fd) {
  if (watches_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::run_at(std::int64_t mono_ns, Handler handler) {
  auto timer = std::make_shared<Timer>(Timer{next_timer_++, mono_ns, 0, std::move(handler)});
  timers_[timer->id] = timer;
  heap_.push_back(timer);
  std::ranges::push_heap(heap_, kLater);
  return timer->id;
}

EventLoop::TimerId EventLoop::run_after(Duration delay, Handler handler) {
  return run_at(clock_.mono_ns() + delay.count(), std::move(handler));
}

EventLoop::TimerId EventLoop::run_every(Duration period, Handler handler) {
  DEFIB_ASSERT(period.count() > 0);
  const TimerId id = run_after(period, std::move(handler));
  timers_[id]->period = period.count();
  return id;
}

void EventLoop::cancel(TimerId timer) {
  const auto found = timers_.find(timer);
  if (found == timers_.end()) return;
  found->second->cancelled = true;
  timers_.erase(found);
  // The heap drops it when its time comes; where most wait for that, all at once.
  constexpr std::size_t kFew = 32;
  if (heap_.size() <= kFew + 2 * timers_.size()) return;
  std::erase_if(heap_, [](const auto& one) { return one->cancelled; });
  std::ranges::make_heap(heap_, kLater);
}

void EventLoop::post(Handler handler) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(handler));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_fd_.get(), &one, sizeof one);
}

void EventLoop::run_posted() {
  std::vector<Handler> handlers;
  {
    const std::lock_guard lock(posted_mutex_);
    handlers.swap(posted_);
  }
  for (Handler& handler : handlers) handler();
}

Result<> EventLoop::watch_signals(const std::vector<int>& signals,
                                  std::function<void(int)> handler) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal_fd_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd_.valid()) return system_error("signalfd");
  return watch(signal_fd_.get(), EPOLLIN, [this, handler = std::move(handler)](std::uint32_t) {
    signalfd_siginfo info{};
    while (::read(signal_fd_.get(), &info, sizeof info) == sizeof info) {
      handler(static_cast<int>(info.ssi_signo));
    }
  });
}

void EventLoop::run_due_timers() {
  const std::int64_t now = clock_.mono_ns();
  while (!heap_.empty() && (heap_.front()->cancelled || heap_.front()->due <= now)) {
    std::ranges::pop_heap(heap_, kLater);
    const std::shared_ptr<Timer> timer = std::move(heap_.back());
    heap_.pop_back();
    if (timer->cancelled) continue;
    if (timer->period > 0) {
      // Missed periods are skipped, not caught up.
      timer->due += timer->period;
      if (timer->due <= now) timer->due = now + timer->period;
      heap_.push_back(timer);
      std::ranges::push_heap(heap_, kLater);
    } else {
      timers_.erase(timer->id);
    }
    timer->handler();
  }
}

void EventLoop::arm() {
  while (!heap_.empty() && heap_.front()->cancelled) {
    std::ranges::pop_heap(heap_, kLater);
    heap_.pop_back();
  }
  if (heap_.empty() || heap_.front()->due == armed_for_) return;
  armed_for_ = heap_.front()->due;
  const std::int64_t at = std::max<std::int64_t>(armed_for_, 1);
  itimerspec when{};
  when.it_value = {at / 1'000'000'000, at % 1'000'000'000};
  ::timerfd_settime(timer_fd_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

Result<> EventLoop::run() {
  std::array<epoll_event, 64> events;
  while (!stopping_) {
    arm();
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return system_error("epoll_wait");
    for (int i = 0; i < count && !stopping_; ++i) {
      const int fd = static_cast<int>(events[i].data.u64 & 0xffffffff);
      const auto found = watches_.find(fd);
      if (found == watches_.end() ||
          (found->second.generation & 0xffffffff) != events[i].data.u64 >> 32) {
        continue;
      }
      const std::shared_ptr<FdHandler> handler = found->second.handler;  // It may unwatch itself.
      (*handler)(events[i].events);
    }
    if (!stopping_) run_due_timers();
  }
  stopping_ = false;
  return {};
}

void EventLoop::stop() {
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_fd_.get(), &one, sizeof one);
}

}  // namespace defib::os
