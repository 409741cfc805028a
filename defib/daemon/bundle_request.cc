#include "defib/daemon/bundle_request.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

#include "defib/os/files.h"

namespace defib::daemon {

std::string BundleRequest::incidents_dir() const {
  return os::join_path(state_dir, "incidents");
}

std::string BundleRequest::directory() const {
  return fmt::format("{}/{}.bundle/{}", incidents_dir(), incident, failure);
}

std::string BundleRequest::service_dir() const {
  return fmt::format("{}/services/{}", state_dir, service);
}

wire::Json to_json(const BundleRequest& request) {
  wire::Json command = wire::Json::array(), environment = wire::Json::array();
  for (const std::string& argument : request.command) command.push(argument);
  for (const auto& [name, value] : request.environment) {
    environment.push(wire::Json::array({name, value}));
  }
  return wire::Json::object({{"state_dir", request.state_dir},
                             {"incident", request.incident},
                             {"failure", request.failure},
                             {"service", request.service},
                             {"cause", request.cause},
                             {"pid", request.pid},
                             {"generation", request.generation},
                             {"live", request.live},
                             {"report", request.report},
                             {"evidence", request.evidence},
                             {"failed_mono_ns", request.failed_mono_ns},
                             {"command", std::move(command)},
                             {"environment", std::move(environment)},
                             {"clear_environment", request.clear_environment},
                             {"machine_samples", request.machine_samples},
                             {"supervisor", request.supervisor},
                             {"max_age_ns", request.rules.max_age.count()},
                             {"max_count", request.rules.max_count},
                             {"max_total_bytes", request.rules.max_total_bytes}});
}

std::vector<std::pair<std::string, std::string>> started_environment(
    const std::vector<std::pair<std::string, std::string>>& added, bool clear) {
  std::vector<std::pair<std::string, std::string>> environment;
  for (char** entry = environ; !clear && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals == text.npos) continue;
    environment.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  for (const auto& [name, value] : added) {
    std::erase_if(environment, [&](const auto& one) { return one.first == name; });
    environment.emplace_back(name, value);
  }
  return environment;
}

Result<BundleRequest> bundle_request_from(const wire::Json& json) {
  BundleRequest request;
  DEFIB_TRY_ASSIGN(request.state_dir, json.require_string("state_dir"));
  DEFIB_TRY_ASSIGN(request.incident, json.require_string("incident"));
  DEFIB_TRY_ASSIGN(request.service, json.require_string("service"));
  request.failure = static_cast<int>(json["failure"].as_int(1));
  request.cause = json["cause"].as_string();
  request.pid = static_cast<pid_t>(json["pid"].as_int());
  request.generation = json["generation"].as_uint();
  request.live = json["live"].as_bool();
  request.report = json["report"].as_string();
  request.evidence = json["evidence"].as_string();
  request.failed_mono_ns = json["failed_mono_ns"].as_int();
  for (const wire::Json& argument : json["command"].items()) {
    request.command.emplace_back(argument.as_string());
  }
  for (const wire::Json& pair : json["environment"].items()) {
    if (pair.size() != 2) continue;
    request.environment.emplace_back(pair.items()[0].as_string(), pair.items()[1].as_string());
  }
  request.clear_environment = json["clear_environment"].as_bool();
  request.machine_samples = json["machine_samples"].as_string();
  request.supervisor = static_cast<pid_t>(json["supervisor"].as_int());
  request.rules.max_age = os::Duration(json["max_age_ns"].as_int());
  request.rules.max_count = json["max_count"].as_uint();
  request.rules.max_total_bytes = json["max_total_bytes"].as_uint();
  return request;
}

}  // namespace defib::daemon
