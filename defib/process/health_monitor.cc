#include "defib/process/health_monitor.h"

#include <fmt/core.h>

#include <algorithm>
#include <exception>
#include <system_error>

#include "defib/obs/log.h"
#include "defib/process/quiet_thread.h"

namespace defib::process {
namespace {

constexpr std::string_view kComponent = "health";

Error bad_value(std::string_view field, std::string_view rule) {
  return Error(Code::kConfigBadValue, fmt::format("{} must be {}", field, rule))
      .with("field", field);
}

void call(const std::function<void(const HealthCrossing&)>& callback,
          const HealthCrossing& crossing) {
  std::string what;
  try {
    return callback(crossing);
  } catch (const std::exception& thrown) {
    what = thrown.what();
  } catch (...) {
    what = "an exception of an unknown type";
  }
  obs::log(obs::Level::kError, kComponent, "a health callback threw",
           {{"resource", to_string(crossing.resource)}, {"what", what}});
}

}  // namespace

std::string_view to_string(Resource resource) {
  constexpr std::array<std::string_view, kResources> kNames = {"memory", "cpu", "disk"};
  return kNames[static_cast<std::size_t>(resource)];
}

Result<> validate(const HealthOptions& options) {
  const auto percent_fits = [](double percent) { return percent >= 0 && percent <= 100; };
  if (!percent_fits(options.memory_percent)) return bad_value("memory_percent", "from 0 to 100");
  if (!percent_fits(options.cpu_percent)) return bad_value("cpu_percent", "from 0 to 100");
  if (!percent_fits(options.disk_percent)) return bad_value("disk_percent", "from 0 to 100");
  if (!percent_fits(options.hysteresis)) return bad_value("hysteresis", "from 0 to 100");
  if (options.interval < std::chrono::milliseconds(10))
    return bad_value("interval", "10ms or more");
  return {};
}

HealthMonitor::HealthMonitor(HealthOptions options, Sample sample)
    : options_(std::move(options)), sample_(std::move(sample)) {}

HealthMonitor::~HealthMonitor() {
  stop();
}

Result<std::unique_ptr<HealthMonitor>> HealthMonitor::create(HealthOptions options, Sample sample) {
  DEFIB_TRY(validate(options));
  if (!sample) {
    SystemSampler::Options where;
    where.disk_path = options.disk_path;
    sample = [sampler = std::make_shared<SystemSampler>(where)] { return sampler->sample(); };
  }
  return std::unique_ptr<HealthMonitor>(new HealthMonitor(std::move(options), std::move(sample)));
}

void HealthMonitor::on_crossing(std::function<void(const HealthCrossing&)> callback) {
  const std::lock_guard lock(mutex_);
  callbacks_.push_back(
      std::make_shared<std::function<void(const HealthCrossing&)>>(std::move(callback)));
}

std::vector<HealthCrossing> HealthMonitor::judge(const SystemSample& sample) {
  const std::array<std::pair<double, double>, kResources> values = {{
      {sample.memory_percent, options_.memory_percent},
      {std::max(sample.cpu_percent, sample.machine_cpu_percent), options_.cpu_percent},
      {sample.disk_percent, options_.disk_percent},
  }};
  std::vector<HealthCrossing> crossings;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto [percent, threshold] = values[i];
    if (threshold <= 0) continue;
    const bool now = alarmed_[i] ? percent > threshold - options_.hysteresis : percent >= threshold;
    if (now == alarmed_[i]) continue;
    alarmed_[i] = now;
    crossings.push_back({static_cast<Resource>(i), now, percent, threshold});
  }
  return crossings;
}

Result<SystemSample> HealthMonitor::check() {
  const std::lock_guard in_order(check_mutex_);
  auto sample = sample_();
  if (!sample) return sample;
  std::vector<HealthCrossing> crossings;
  decltype(callbacks_) callbacks;
  {
    const std::lock_guard lock(mutex_);
    latest_ = *sample;
    crossings = judge(*sample);
    if (!crossings.empty()) callbacks = callbacks_;
  }
  for (const HealthCrossing& crossing : crossings) {
    for (const auto& callback : callbacks) call(*callback, crossing);
  }
  return sample;
}

Result<SystemSample> HealthMonitor::latest() {
  {
    const std::lock_guard lock(mutex_);
    if (latest_) return *latest_;
  }
  return check();
}

bool HealthMonitor::alarmed(Resource resource) const {
  const std::lock_guard lock(mutex_);
  return alarmed_[static_cast<std::size_t>(resource)];
}

bool HealthMonitor::healthy() const {
  const std::lock_guard lock(mutex_);
  return std::ranges::none_of(alarmed_, [](bool alarmed) { return alarmed; });
}

Result<> HealthMonitor::start() {
  const std::lock_guard lock(mutex_);
  if (thread_.joinable()) return {};
  try {
    thread_ = start_quiet_thread<std::jthread>([this](const std::stop_token& token) {
      while (!token.stop_requested()) {
        if (auto checked = check(); !checked) {
          obs::log(obs::Level::kWarning, kComponent, "the health check could not be made",
                   {{"error", checked.error()}});
        }
        std::unique_lock waiting(mutex_);
        wake_.wait_for(waiting, token, options_.interval, [] { return false; });
      }
    });
  } catch (const std::system_error& failed) {
    return Error(Code::kSystemCallFailed,
                 fmt::format("the health monitor has no thread: {}", failed.what()))
        .suggest("raise the limit of threads, or call check() from the service's own loop");
  }
  return {};
}

void HealthMonitor::stop() {
  std::jthread thread;
  {
    const std::lock_guard lock(mutex_);
    if (thread_.get_id() == std::this_thread::get_id()) {
      thread_.request_stop();  // Asked for by a callback: it ends after it.
      return;
    }
    thread = std::move(thread_);
  }
  // Its destructor asks for the stop and joins.
}

}  // namespace defib::process
