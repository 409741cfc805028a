// Bundler: has the bundle of each failure made (docs/formats/bundle.md), by defib-bundle, beside
// the supervisor: nothing of it is done here but starting that program. So is what a good run was
// started with, which later failures are compared with.
//
// Two at a time; further failures wait, a bounded number of them. A collector that overruns its
// time is killed. A minute later each bundle is made complete; one whose supervisor ended before is
// completed when it is exported.
// Thread rule: the loop's thread.

#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "defib/daemon/bundle_request.h"
#include "defib/daemon/helper_process.h"
#include "defib/daemon/incident_recorder.h"
#include "defib/daemon/service_config.h"
#include "defib/os/event_loop.h"

namespace defib::daemon {

class Bundler {
 public:
  static constexpr std::size_t kAtATime = 2;
  static constexpr std::size_t kMaxWaiting = 256;
  static constexpr os::Duration kTimeout = std::chrono::seconds(30);

  // `done`: a bundle is there, or why not.
  using Done = std::function<void(const BundleRequest& request, const Result<>& made)>;
  Bundler(os::EventLoop& loop, std::string state_dir, std::string machine_samples, Done done);
  // Collectors go on; as many as may run are started of those that wait.
  ~Bundler();
  Bundler(const Bundler&) = delete;
  Bundler& operator=(const Bundler&) = delete;

  // `max_count` 0: no bundles are made.
  void set_rules(const postmortem::BundleRules& rules) { rules_ = rules; }
  // Of every news: failures are bundled. `pid` and `generation` of the process that runs now.
  void hear(const IncidentNews& news, const ServiceConfig& config, pid_t pid,
            std::uint64_t generation);
  // The process of that generation is good: it lives, or has ended well.
  void good(const ServiceConfig& config, pid_t pid, std::uint64_t generation, bool live);
  std::uint64_t refused() const { return refused_; }

 private:
  enum class Work : std::uint8_t { kCollect, kComplete, kNote };
  struct Job {
    BundleRequest request;
    Work work = Work::kCollect;
  };
  struct Slot {
    std::unique_ptr<HelperProcess> helper;
    os::EventLoop::TimerId timer = 0;
  };
  struct Incident {
    int failures = 0;
    std::uint64_t generation = 0;  // of the last one that was bundled
    bool captured = false;         // and that left a report
  };
  struct Later {
    std::int64_t due_mono_ns;
    Job job;
  };
  BundleRequest request_of(const ServiceConfig& config) const;
  int next_number(const IncidentNews& news);
  void push(Job job);
  void start_more();
  bool start(Slot& slot, const Job& job);
  void complete_later(const BundleRequest& request);
  void arm();

  os::EventLoop& loop_;
  std::string state_dir_, machine_samples_;
  Done done_;
  postmortem::BundleRules rules_;
  std::array<Slot, kAtATime> slots_;
  std::deque<Job> waiting_;
  std::deque<Later> later_;  // in the order of their time
  os::EventLoop::TimerId later_timer_ = 0, start_timer_ = 0;
  std::map<std::string, Incident> incidents_;  // those that are open
  std::uint64_t refused_ = 0;
};

}  // namespace defib::daemon
