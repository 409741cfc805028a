// The Host's starts and stops in order: what waits for whom, and what follows when it is ready.
//
// Only starts by request are ordered. A restart after a crash waits for nobody: the shim does it.

#include <fmt/format.h>

#include <algorithm>

#include "defib/daemon/host.h"
#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

using process::ServiceState;

constexpr std::string_view kComponent = "daemon";

}  // namespace

// Made when it is next asked for: a hundred services that are taken over one after the other need
// it once.
const Dependencies& Host::order() const {
  if (order_) return *order_;
  std::vector<Dependencies::Node> nodes;
  for (const auto& [name, service] : services_) {
    const ServiceConfig& config = service.config;
    nodes.push_back({name, config.after, config.required, config.restart_with});
  }
  // Services that are on their way out may close a circle with what the configuration says now.
  if (!Dependencies::find_cycle(nodes).empty()) {
    std::erase_if(
        nodes, [this](const Dependencies::Node& node) { return services_.at(node.name).leaving; });
  }
  return order_.emplace(std::move(nodes));
}

void Host::want_start(const std::string& name) {
  for (const std::string& one : order().with_required(name)) {
    const auto status = supervisor_->known_status(one);
    // One that failed waits for a human, not for those that require it.
    const bool rests = status && status->pid == 0 && status->state == ServiceState::kStopped;
    if (one == name || rests) to_start_.insert(one);
  }
  schedule_order();
}

void Host::want_stop(const std::string& name) {
  for (const std::string& one : order().with_requiring(name)) {
    to_start_.erase(one);
    // What rests already is asked all the same: it may be backing off, or about to start.
    to_stop_.emplace(one, false);
  }
  schedule_order();
}

// After the event that is being told, once for all of them.
void Host::schedule_order() {
  if (std::exchange(order_posted_, true)) return;
  loop_.post([this, alive = std::weak_ptr<int>(alive_)] {
    if (alive.expired()) return;
    order_posted_ = false;
    follow_order();
  });
}

void Host::follow_order() {
  stop_in_order();
  if (shutdown_done_ && to_stop_.empty()) {
    return supervisor_->shutdown(std::exchange(shutdown_done_, nullptr));
  }
  start_in_order();
}

bool Host::is_at_rest(const std::string& name) const {
  const auto status = supervisor_->known_status(name);
  return !status || (status->pid == 0 && (status->state == ServiceState::kStopped ||
                                          status->state == ServiceState::kFailed));
}

bool Host::is_ready(const std::string& name) const {
  const auto status = supervisor_->known_status(name);
  return status && status->pid != 0 && status->state != ServiceState::kStarting &&
         status->state != ServiceState::kStopping;
}

void Host::stop_in_order() {
  const std::vector<std::string>& names = order().order();
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const auto found = to_stop_.find(*name);
    if (found == to_stop_.end()) continue;
    const std::vector<std::string> behind = order().behind(*name);
    const bool free = std::ranges::none_of(
        behind, [this](const std::string& one) { return to_stop_.contains(one); });
    if (!free) continue;
    if (!std::exchange(found->second, true)) {
      if (const auto stopped = supervisor_->stop(*name); !stopped) {
        obs::log(obs::Level::kError, kComponent, "a service cannot be stopped",
                 {{"service", *name}, {"error", stopped.error()}});
      }
    }
    if (is_at_rest(*name)) to_stop_.erase(found);
  }
  std::erase_if(to_stop_, [this](const auto& one) { return !services_.contains(one.first); });
}

std::string Host::blocked(const std::string& name, bool& for_good) const {
  for (const std::string& other : order().before(name)) {
    if (is_ready(other) || !services_.contains(other)) continue;
    const bool required = order().requires_directly(name, other);
    const auto status = supervisor_->known_status(other);
    const bool rests = is_at_rest(other) && !to_start_.contains(other);
    if (rests && !required) continue;  // Order alone waits for nobody who does not come.
    const bool failed = status && status->state == ServiceState::kFailed;
    if (required && (failed || rests)) for_good = true;
    std::string text = fmt::format("the service '{}' {} '{}', which is {}", name,
                                   required ? "requires" : "comes after", other,
                                   status ? to_string(status->state) : "unknown");
    if (for_good && status && status->last_error) {
      text += fmt::format(" ({})", status->last_error->message());
    }
    return text;
  }
  return {};
}

void Host::start_in_order() {
  if (to_start_.empty()) return;
  for (const std::string& name : order().order()) {
    if (!to_start_.contains(name) || to_stop_.contains(name)) continue;
    const auto status = supervisor_->known_status(name);
    const bool there = status && status->pid != 0;
    bool for_good = false;
    const std::string why = there ? std::string() : blocked(name, for_good);
    Service& service = services_.at(name);
    if (!why.empty()) {
      if (for_good && service.blocked_told != why) {
        obs::log(obs::Level::kError, kComponent, "a service waits for one that does not come",
                 {{"service", name}, {"why", why}});
        service.blocked_told = why;
      }
      continue;
    }
    service.blocked_told.clear();
    to_start_.erase(name);
    static_cast<void>(supervisor_->start(name));  // start_failed() is told of a failure
  }
}

// Those that want it are restarted when what they require was.
void Host::note_ready(const std::string& name) {
  const auto found = services_.find(name);
  const auto status = supervisor_->known_status(name);
  if (found == services_.end() || !status || !is_ready(name)) return;
  const std::uint64_t before = std::exchange(found->second.ready_generation, status->generation);
  if (before == 0 || before == status->generation) return;
  for (const std::string& other : order().restarted_with(name)) {
    const auto running = supervisor_->known_status(other);
    if (!running || running->pid == 0 || to_stop_.contains(other)) continue;
    obs::log(obs::Level::kInfo, kComponent, "restarted with the service that it requires",
             {{"service", other}, {"requires", name}});
    if (const auto restarted = supervisor_->restart(other); !restarted) {
      obs::log(obs::Level::kError, kComponent, "a service cannot be restarted",
               {{"service", other}, {"error", restarted.error()}});
    }
  }
}

}  // namespace defib::daemon
