#include "defib/daemon/status.h"

#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "defib/daemon/control.h"
#include "defib/os/process.h"
#include "defib/process/state_dir.h"
#include "defib/recovery/incident.h"

namespace defib::daemon {
namespace {

constexpr os::Duration kAnswerTime = std::chrono::seconds(5);
constexpr double kMegabyte = 1 << 20;

double rounded(double value, double steps) {
  return std::round(value * steps) / steps;
}

std::string services_dir(const std::string& state_dir) {
  return os::join_path(state_dir, "services");
}

std::string service_dir(const std::string& state_dir, std::string_view name) {
  return os::join_path(services_dir(state_dir), name);
}

// The services of one supervising process; empty where none answers there.
std::vector<wire::Json> ask(os::Files& files, const std::string& socket) {
  if (!files.exists(socket)) return {};
  const auto answer = call_control(socket, wire::Json::object({{"op", "status"}}), kAnswerTime);
  if (!answer) return {};
  return (*answer)["services"].items();
}

std::int64_t modified_wall_ns(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return 0;
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

bool still_runs(const process::shim::StatusRecord& record) {
  const auto* active = find_instance(record, process::shim::InstanceRole::kActive);
  if (active == nullptr || os::real_clock().boot_id() != record.boot_id) return false;
  const auto start = os::process_start_time(active->pid);
  return start && *start == active->start_time;
}

// The last known state, in the words of the contract.
std::string_view last_state(const process::shim::StatusRecord& record, bool runs) {
  using process::shim::Phase;
  if (runs) {
    const std::string_view word =
        find_instance(record, process::shim::InstanceRole::kActive)->state_word;
    return word.empty() ? "running" : word;
  }
  const process::shim::ExitInfo* last = last_service_exit(record);
  if (record.phase == Phase::kNone || last == nullptr) return "stopped";
  const bool clean =
      last->wait_status == 0 && last->source != process::shim::StatusSource::kUnknown;
  const bool asked = last->reason == process::shim::StopReason::kRequested;
  return clean || asked ? "stopped" : "failed";
}

wire::Json status_from_files(os::Files& files, const std::string& state_dir,
                             const std::string& name, const std::string& last_incident) {
  const std::string dir = service_dir(state_dir, name);
  process::shim::StatusRecord record = {};
  if (auto read = process::read_status(files, dir); read && *read) record = **read;
  const bool runs = still_runs(record);
  process::ServiceStatus status;
  status.name = name;
  status.restart_count = record.restarts;
  const auto* active = find_instance(record, process::shim::InstanceRole::kActive);
  status.generation = active != nullptr ? active->generation : record.generation;
  status.epoch = record.epoch;
  const auto shim_start = os::process_start_time(record.shim_pid);
  if (shim_start && os::real_clock().boot_id() == record.boot_id) status.shim_pid = record.shim_pid;
  if (runs) {
    status.pid = active->pid;
    status.started_wall_ns = active->started_wall_ns;
    status.uptime = os::Duration(os::real_clock().mono_ns() - active->started_mono_ns);
    if (const auto usage = os::process_usage(active->pid)) status.memory_bytes = usage->rss_bytes;
    if (const auto* standby = find_instance(record, process::shim::InstanceRole::kStandby)) {
      status.standby_pid = standby->pid;
      status.standby_generation = standby->generation;
      status.standby_ready = (standby->ready & process::shim::kSaidReady) != 0;
    }
  }
  process::add_log_counters(dir, status);
  wire::Json json = status_to_json(status, last_incident);
  json.set("state", last_state(record, runs));
  json.set("supervised", false);
  if (auto spec_text = os::read_file(files, os::join_path(dir, "spec.json"))) {
    if (auto spec = wire::Json::parse(*spec_text))
      json.set("max_restarts", (*spec)["max_restarts"]);
  }
  const std::int64_t as_of =
      modified_wall_ns(os::join_path(dir, std::string(process::shim::kStatusName)));
  json.set("as_of", as_of != 0 ? wire::Json(os::format_time(as_of)) : wire::Json());
  return json;
}

std::map<std::string, std::string> newest_incidents(os::Files& files,
                                                    const std::string& state_dir) {
  std::map<std::string, std::string> newest;
  auto log = recovery::IncidentLog::open(files, os::real_clock(), state_dir);
  if (!log) return newest;
  if (const auto all = log->list()) {
    for (const recovery::IncidentSummary& one : *all) newest.emplace(one.service, one.id);
  }
  return newest;
}

// What happens next by itself (or, for "reset", by a human), and when.
wire::Json next_action(const process::ServiceStatus& status) {
  if (status.next_action.empty()) return {};
  wire::Json json = wire::Json::object({{"what", status.next_action}});
  if (status.next_action_mono_ns != 0) {
    const os::Clock& clock = os::real_clock();
    const std::int64_t left = status.next_action_mono_ns - clock.mono_ns();
    json.set("at", os::format_time(clock.wall_ns() + left));
    json.set("mono_ns", status.next_action_mono_ns);
    json.set("in_seconds", rounded(static_cast<double>(left) / 1e9, 1000));
  }
  return json;
}

}  // namespace

wire::Json status_to_json(const process::ServiceStatus& status, std::string_view last_incident) {
  const bool runs = status.pid != 0;
  const auto or_null = [](bool known, wire::Json value) {
    return known ? std::move(value) : wire::Json();
  };
  wire::Json json = wire::Json::object(
      {{"name", status.name},
       {"state", process::to_string(status.state)},
       {"pid", or_null(runs, status.pid)},
       {"started_at", or_null(runs, os::format_time(status.started_wall_ns))},
       {"uptime_seconds",
        or_null(runs, rounded(std::chrono::duration<double>(status.uptime).count(), 1000))},
       {"restart_count", status.restart_count},
       {"max_restarts", status.max_restarts},
       {"recovery_attempts", status.restarts_in_window},
       {"last_error", status.last_error ? wire::Json(status.last_error->to_line()) : wire::Json()},
       {"memory_mb",
        or_null(runs, rounded(static_cast<double>(status.memory_bytes) / kMegabyte, 100))},
       {"memory_source", or_null(runs, status.memory_source)},
       {"cpu_percent", or_null(runs, rounded(status.cpu_percent, 100))},
       {"processes", or_null(runs, status.processes)},
       {"threads", or_null(runs, status.threads)},
       {"heartbeat_age_ms", status.heartbeat_age
                                ? wire::Json(status.heartbeat_age->count() / 1'000'000)
                                : wire::Json()},
       {"heartbeat", or_null(runs, to_string(status.heartbeat))},
       {"heartbeat_stage", or_null(!status.heartbeat_stage.empty(), status.heartbeat_stage)},
       {"agent", or_null(runs, status.agent)},
       {"last_incident", last_incident.empty() ? wire::Json() : wire::Json(last_incident)},
       {"supervised", true},
       {"shim_pid", or_null(status.shim_pid != 0, status.shim_pid)},
       {"generation", status.generation},
       {"ready", status.ready},
       {"epoch", status.epoch},
       {"standby", status.standby_pid != 0
                       ? wire::Json::object({{"pid", status.standby_pid},
                                             {"generation", status.standby_generation},
                                             {"ready", status.standby_ready}})
                       : wire::Json()},
       {"standby_error",
        status.standby_error ? wire::Json(status.standby_error->to_line()) : wire::Json()},
       {"status_text", status.status_text},
       {"reloading", status.reloading},
       {"reported_error", or_null(!status.reported_error.empty(), status.reported_error)},
       {"reported_exit_status",
        status.reported_exit_status ? wire::Json(*status.reported_exit_status) : wire::Json()},
       {"unknown_notifications", status.unknown_notifications},
       {"reason", or_null(!status.reason.empty(), status.reason)},
       {"next_action", next_action(status)},
       {"next_start_mono_ns", or_null(status.next_start_mono_ns != 0, status.next_start_mono_ns)},
       {"slow_lane", status.slow_lane},
       {"fingerprint", or_null(!status.fingerprint.empty(), status.fingerprint)},
       {"equal_crashes", status.equal_crashes},
       {"downtime_seconds", rounded(std::chrono::duration<double>(status.downtime).count(), 1000)},
       {"last_exit",
        status.last_exit ? wire::Json(status.last_exit->status.to_string()) : wire::Json()},
       {"log_bytes_dropped", status.log_bytes_dropped},
       {"log_dropped_by_rate", status.log_dropped_by_rate},
       {"journal_sent", status.journal_sent},
       {"journal_dropped", status.journal_dropped},
       {"events_dropped", status.events_dropped}});
  return json;
}

wire::Json metrics_row(const process::ServiceStatus& status) {
  return wire::Json::array({status.name, process::to_string(status.state), status.pid,
                            status.restarts_in_window, status.max_restarts, status.started_wall_ns,
                            status.memory_bytes, status.cpu_percent,
                            status.heartbeat_age ? status.heartbeat_age->count() : -1,
                            status.slow_lane, status.events_dropped});
}

bool service_runs(os::Files& files, const std::string& state_dir, const std::string& name) {
  const auto read = process::read_status(files, service_dir(state_dir, name));
  return read && *read && still_runs(**read);
}

Result<wire::Json> collect_status(os::Files& files, const std::string& state_dir,
                                  const std::string& name) {
  std::map<std::string, wire::Json> found;
  for (const wire::Json& one : ask(files, os::join_path(state_dir, kControlSocket))) {
    found.emplace(std::string(one["name"].as_string()), one);
  }
  std::map<std::string, std::string> incidents;
  bool incidents_read = false;
  if (files.exists(services_dir(state_dir))) {
    DEFIB_TRY_ASSIGN(const auto names, files.list(services_dir(state_dir)));
    for (const std::string& service : names) {
      if (found.contains(service) || (!name.empty() && service != name)) continue;
      const std::string socket = os::join_path(service_dir(state_dir, service), kControlSocket);
      for (const wire::Json& one : ask(files, socket)) found.emplace(service, one);
      if (found.contains(service)) continue;
      if (!incidents_read) incidents = newest_incidents(files, state_dir);
      incidents_read = true;
      found.emplace(service, status_from_files(files, state_dir, service, incidents[service]));
    }
  }
  wire::Json services = wire::Json::array();
  for (auto& [service, json] : found) {
    if (name.empty() || service == name) services.push(std::move(json));
  }
  if (!name.empty() && services.size() == 0) {
    return Error(Code::kServiceUnknown, fmt::format("there is no service '{}'", name))
        .with("service", name)
        .with("state_dir", state_dir);
  }
  return wire::Json::object({{"schema", "defib.status/1"}, {"services", std::move(services)}});
}

std::string control_socket_of(os::Files& files, const std::string& state_dir,
                              const std::string& service) {
  std::string own = os::join_path(service_dir(state_dir, service), kControlSocket);
  if (!service.empty() && files.exists(own)) return own;
  return os::join_path(state_dir, kControlSocket);
}

}  // namespace defib::daemon
