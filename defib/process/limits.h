// When a service is over a limit of its resources: pure judgements over samples.
//
// Invariants: a limit is told once, and again only after the use has been below kClearShare of it,
// so that a use that swings around the limit is one event; processor time counts over a window, so
// that a burst is none.

#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>

#include "defib/os/clock.h"
#include "defib/process/service_spec.h"

namespace defib::process {

enum class Resource : std::uint8_t { kMemory, kCpu, kDescriptors, kThreads };
inline constexpr std::size_t kResources = 4;
std::string_view to_string(Resource resource);  // "memory" "cpu" "descriptors" "threads"

// Mean use of processors over a window.
class CpuWindow {
 public:
  CpuWindow() = default;
  explicit CpuWindow(os::Duration window) : window_(window) {}
  // `cpu_ns` is the processor time used since the start; a smaller one than before (a process took
  // its count with it) adds nothing.
  void add(std::int64_t mono_ns, std::int64_t cpu_ns);
  // Processors used, as a number (1.5: one and a half), over the last whole window; nothing before
  // a window has passed.
  std::optional<double> mean() const;
  // Between the last two samples.
  std::optional<double> latest() const;
  void clear() { points_.clear(); }

 private:
  struct Point {
    std::int64_t mono_ns;
    std::int64_t cpu_ns;
  };
  static constexpr std::int64_t kPoints = 64;  // in a window; samples between them are not kept
  os::Duration window_ = std::chrono::seconds(60);
  std::deque<Point> points_;  // the first is at least a window old, once there is such a one
  Point last_ = {0, 0}, before_ = {0, 0};
};

enum class LimitVerdict : std::uint8_t { kNothing, kExceeded, kCleared };

// Which limits are exceeded now.
class LimitJudge {
 public:
  static constexpr double kClearShare = 0.95;
  // `limit` 0: none.
  LimitVerdict judge(Resource resource, double value, double limit);
  bool any_exceeded() const { return exceeded_ != std::array<bool, kResources>{}; }
  bool exceeded(Resource resource) const { return exceeded_[static_cast<std::size_t>(resource)]; }

 private:
  std::array<bool, kResources> exceeded_{};
};

// What the spec says about one resource; in bytes, percent of all allowed processors, and counts.
double limit_of(const ServiceSpec& spec, Resource resource, std::uint64_t descriptor_limit);
LimitAction action_of(const ServiceSpec& spec, Resource resource);
// Whether there is any limit, so that the service must be sampled.
bool has_limits(const ServiceSpec& spec);

}  // namespace defib::process
