#include "defib/process/limits.h"

#include <algorithm>

namespace defib::process {

std::string_view to_string(Resource resource) {
  constexpr std::string_view kWords[kResources] = {"memory", "cpu", "descriptors", "threads"};
  return kWords[static_cast<std::size_t>(resource)];
}

void CpuWindow::add(std::int64_t mono_ns, std::int64_t cpu_ns) {
  if (!points_.empty() && mono_ns <= last_.mono_ns) return;
  before_ = last_;
  last_ = {mono_ns, points_.empty() ? cpu_ns : std::max(cpu_ns, last_.cpu_ns)};
  const std::int64_t step = window_.count() / kPoints;
  if (points_.empty() || mono_ns - points_.back().mono_ns >= step) points_.push_back(last_);
  // One point that is a window old is kept: it is where the window begins.
  while (points_.size() > 1 && mono_ns - points_[1].mono_ns >= window_.count()) {
    points_.pop_front();
  }
}

std::optional<double> CpuWindow::mean() const {
  if (points_.empty()) return std::nullopt;
  const Point& from = points_.front();
  const std::int64_t passed = last_.mono_ns - from.mono_ns;
  if (passed < window_.count() || passed == 0) return std::nullopt;
  return static_cast<double>(last_.cpu_ns - from.cpu_ns) / static_cast<double>(passed);
}

std::optional<double> CpuWindow::latest() const {
  if (before_.mono_ns == 0) return std::nullopt;
  return static_cast<double>(last_.cpu_ns - before_.cpu_ns) /
         static_cast<double>(last_.mono_ns - before_.mono_ns);
}

LimitVerdict LimitJudge::judge(Resource resource, double value, double limit) {
  bool& exceeded = exceeded_[static_cast<std::size_t>(resource)];
  if (!exceeded && limit > 0 && value > limit) {
    exceeded = true;
    return LimitVerdict::kExceeded;
  }
  if (exceeded && (limit <= 0 || value < limit * kClearShare)) {
    exceeded = false;
    return LimitVerdict::kCleared;
  }
  return LimitVerdict::kNothing;
}

double limit_of(const ServiceSpec& spec, Resource resource, std::uint64_t descriptor_limit) {
  switch (resource) {
    case Resource::kMemory:
      return static_cast<double>(spec.max_memory_bytes);
    case Resource::kCpu:
      return spec.max_cpu_percent;
    case Resource::kDescriptors: {
      const double by_percent =
          static_cast<double>(descriptor_limit) * spec.max_descriptors_percent / 100;
      return spec.max_descriptors > 0 ? static_cast<double>(spec.max_descriptors) : by_percent;
    }
    case Resource::kThreads:
      return spec.max_threads;
  }
  return 0;
}

LimitAction action_of(const ServiceSpec& spec, Resource resource) {
  const std::optional<LimitAction>* const own[kResources] = {
      &spec.on_memory, &spec.on_cpu, &spec.on_descriptors, &spec.on_threads};
  return own[static_cast<std::size_t>(resource)]->value_or(spec.on_limit);
}

bool has_limits(const ServiceSpec& spec) {
  return spec.max_memory_bytes > 0 || spec.memory_limit_bytes > 0 || spec.max_cpu_percent > 0 ||
         spec.max_descriptors > 0 || spec.max_descriptors_percent > 0 || spec.max_threads > 0;
}

}  // namespace defib::process
