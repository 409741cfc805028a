// defib.toml: what `defib daemon` (and `defib run -c`) reads. docs/daemon.md has every key.
//
//   [defib]
//   state_dir = "/var/lib/defib"
//   log_level = "info"
//   [service.engine]
//   command = ["./engine", "--live"]
//
// Strict: nothing is used of a file with any mistake.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "defib/alert/receiver.h"
#include "defib/base/error.h"
#include "defib/daemon/dependencies.h"
#include "defib/daemon/http_helper.h"
#include "defib/daemon/service_config.h"
#include "defib/postmortem/bundle_retention.h"

namespace defib::daemon {

struct Config {
  std::string state_dir;  // empty: by --state-dir and the environment
  std::string log_level;  // empty: by LOG_LEVEL
  std::string log_file;   // empty: stderr
  std::vector<ServiceConfig> services;
  std::vector<alert::Receiver> receivers;  // [alert.NAME]
  std::optional<HttpSettings> http;        // [http]
  postmortem::BundleRules bundles;         // [bundle]
  // What does not exist of services that may go on without: one line each.
  std::vector<std::string> warnings;
};

// What is looked at beyond the file itself.
struct ConfigChecks {
  bool files = false;  // programs and working directories must exist
  // A service that runs already goes on though its program is being replaced: a warning. Empty:
  // none does. `config` holds what stands outside of the services.
  std::function<bool(const Config& config, const std::string& service)> runs;
};

// The first mistake, with all others as its causes; each names file, line and column.
Result<Config> load_config(const std::string& path, const ConfigChecks& checks = {});
Result<Config> parse_config(std::string_view text, std::string name = "defib.toml",
                            const ConfigChecks& checks = {});

// `services` as a graph. Precondition: they come from one configuration.
Dependencies dependencies_of(const std::vector<ServiceConfig>& services);

}  // namespace defib::daemon
