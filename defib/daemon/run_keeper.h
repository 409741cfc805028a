// RunKeeper: tells which runs of a service are good: those that live in health for healthy_after,
// and those that end well by themselves after some time. What they were started with is what later
// failures are compared with (postmortem/bundle_changes.h).
//
// Costs a timer a start, and nothing before the start is done. Thread rule: the loop's thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "defib/os/clock.h"
#include "defib/os/event_loop.h"

namespace defib::daemon {

class RunKeeper {
 public:
  // Where healthy_after is 0, and for ends.
  static constexpr os::Duration kShortest = std::chrono::seconds(2);
  // False while something is wrong with the service: it is asked again after the same time.
  using Healthy = std::function<bool(const std::string& service)>;
  using Good = std::function<void(const std::string& service, pid_t pid, std::uint64_t generation,
                                  bool live)>;
  RunKeeper(os::EventLoop& loop, Healthy healthy, Good good)
      : loop_(loop), healthy_(std::move(healthy)), good_(std::move(good)) {}
  ~RunKeeper();
  RunKeeper(const RunKeeper&) = delete;
  RunKeeper& operator=(const RunKeeper&) = delete;

  // Also of one that was taken over. A newer generation takes the place of the one before.
  void started(const std::string& service, pid_t pid, std::uint64_t generation,
               os::Duration healthy_after);
  void ended(const std::string& service, std::uint64_t generation, bool well);

 private:
  struct Run {
    pid_t pid = 0;
    std::uint64_t generation = 0;
    std::int64_t since_mono_ns = 0;
    os::Duration healthy_after{0};
    bool told = false;
    os::EventLoop::TimerId timer = 0;
  };
  void arm(const std::string& service, Run& run);

  os::EventLoop& loop_;
  Healthy healthy_;
  Good good_;
  std::map<std::string, Run> runs_;
};

}  // namespace defib::daemon
