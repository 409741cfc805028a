// ServiceConfig: one service as the user describes it, by `defib run`'s options or by a table of
// defib.toml. Both have the same keys, defaults and bounds (docs/daemon.md).

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/daemon/sensor_config.h"
#include "defib/os/clock.h"
#include "defib/process/service_spec.h"

namespace defib::daemon {

// The probe of the keys health_*: its name is "health_url".
struct HealthCheck {
  std::string url;  // empty: none; else http://HOST[:PORT][/PATH]
  recovery::ProbePolicy policy;
  friend bool operator==(const HealthCheck&, const HealthCheck&) = default;
};

struct ServiceConfig {
  ServiceConfig();
  process::ServiceSpec spec;
  HealthCheck health;
  SensorConfig sensors;
  bool start = true;                  // with the daemon
  std::vector<std::string> after;     // these first, where they are to run too
  std::vector<std::string> required;  // these with it and first; it stops before them
  bool restart_with = false;          // restarted when one that it requires was
  friend bool operator==(const ServiceConfig&, const ServiceConfig&) = default;
};

// That of health_url, and those of [[service.X.probe]].
std::vector<ProbeConfig> all_probes(const ServiceConfig& config);

// One option of `defib run`: the configuration's key, and its value as text. InvalidArgument names
// the key and what is allowed.
Result<> set_option(ServiceConfig& config, std::string_view key, std::string_view text);

// The table [service.NAME] or one of [[service]]. Errors are kept by the section's document.
ServiceConfig read_service(conf::Section& section, std::string name);

// What spans several keys, and the pattern's and address's own syntax.
Result<> validate(const ServiceConfig& config);

// What changed takes effect only with the next start of the program.
bool needs_restart(const ServiceConfig& before, const ServiceConfig& after);

// What this machine lacks for a start, with what to do about it: {key, message} of each.
struct Missing {
  std::string key;
  std::string message;
};
std::vector<Missing> missing_files(const ServiceConfig& config);

// "engine" for "/opt/x/engine.sh"; empty where nothing of a name is left.
std::string name_of_command(std::string_view program);

}  // namespace defib::daemon
