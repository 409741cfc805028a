#include "defib/daemon/run_keeper.h"

#include <algorithm>

namespace defib::daemon {

RunKeeper::~RunKeeper() {
  for (auto& [service, run] : runs_) {
    if (run.timer != 0) loop_.cancel(run.timer);
  }
}

void RunKeeper::started(const std::string& service, pid_t pid, std::uint64_t generation,
                        os::Duration healthy_after) {
  Run& run = runs_[service];
  if (run.timer != 0) loop_.cancel(run.timer);
  run = Run{pid,
            generation,
            loop_.clock().mono_ns(),
            healthy_after.count() > 0 ? healthy_after : kShortest,
            false,
            0};
  arm(service, run);
}

void RunKeeper::arm(const std::string& service, Run& run) {
  run.timer = loop_.run_after(run.healthy_after, [this, service, &run] {
    run.timer = 0;
    if (!healthy_(service)) return arm(service, run);
    run.told = true;
    good_(service, run.pid, run.generation, true);
  });
}

void RunKeeper::ended(const std::string& service, std::uint64_t generation, bool well) {
  const auto found = runs_.find(service);
  if (found == runs_.end() || found->second.generation != generation) return;
  const Run run = found->second;
  if (run.timer != 0) loop_.cancel(run.timer);
  runs_.erase(found);
  const bool long_enough = loop_.clock().mono_ns() - run.since_mono_ns >= kShortest.count();
  if (well && long_enough && !run.told) good_(service, run.pid, run.generation, false);
}

}  // namespace defib::daemon
