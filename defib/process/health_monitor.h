// HealthMonitor: tells when memory, processors or disk run short, and when they are well again.
//
// A resource is alarmed when it reaches its threshold, and clear when it is `hysteresis` below it:
// each crossing is told once. check() is a pure step over one sample, for a service that has a loop
// of its own; start() makes a thread that steps every `interval`.
// Thread rule: check() and latest() from any thread; callbacks come in the thread that checks, one
// at a time. They may call every function but check() and the destructor.

#pragma once

#include <array>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "defib/base/error.h"
#include "defib/process/system_info.h"

namespace defib::process {

enum class Resource : std::uint8_t { kMemory, kCpu, kDisk };
inline constexpr int kResources = 3;
std::string_view to_string(Resource resource);  // "memory" "cpu" "disk"

struct HealthCrossing {
  Resource resource{};
  bool alarmed = false;  // false: it is well again
  double percent = 0;
  double threshold = 0;
};

struct HealthOptions {
  double memory_percent = 80;  // of the group's limit or of the machine; 0: not watched
  double cpu_percent = 90;     // of the service's processors, or of the machine's
  double disk_percent = 90;    // of the file system of `disk_path`
  double hysteresis = 5;       // so far below its threshold a resource is well again
  os::Duration interval = std::chrono::seconds(60);
  std::string disk_path = ".";
};
// ConfigBadValue names the field and what is allowed.
Result<> validate(const HealthOptions& options);

class HealthMonitor {
 public:
  using Sample = std::function<Result<SystemSample>()>;
  // `sample` empty: the running process by SystemSampler.
  static Result<std::unique_ptr<HealthMonitor>> create(HealthOptions options, Sample sample = {});
  ~HealthMonitor();
  HealthMonitor(const HealthMonitor&) = delete;
  HealthMonitor& operator=(const HealthMonitor&) = delete;

  // Called at each crossing. A callback that throws is logged, and the others go on.
  void on_crossing(std::function<void(const HealthCrossing&)> callback);
  // Takes a sample, tells the crossings, and returns it.
  Result<SystemSample> check();
  // The last sample, taken now where there is none.
  Result<SystemSample> latest();
  bool alarmed(Resource resource) const;
  bool healthy() const;

  // The thread of its own. Twice is once. SystemCallFailed where there can be none.
  Result<> start();
  // Waits for a check that is under way.
  void stop();

 private:
  HealthMonitor(HealthOptions options, Sample sample);
  std::vector<HealthCrossing> judge(const SystemSample& sample);

  const HealthOptions options_;
  mutable std::mutex mutex_;  // guards what follows
  std::optional<SystemSample> latest_;
  std::array<bool, kResources> alarmed_{};
  std::vector<std::shared_ptr<std::function<void(const HealthCrossing&)>>> callbacks_;
  std::mutex check_mutex_;  // held over a whole check, so that crossings come in order
  Sample sample_;           // guarded by check_mutex_
  std::condition_variable_any wake_;
  std::jthread thread_;
};

}  // namespace defib::process
