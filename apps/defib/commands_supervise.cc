#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "apps/defib/commands.h"
#include "apps/defib/output.h"
#include "defib/daemon/config.h"
#include "defib/daemon/control.h"
#include "defib/daemon/status.h"
#include "defib/daemon/supervise.h"
#include "defib/obs/log.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/process/guardian.h"
#include "defib/process/launch_description.h"
#include "defib/process/shim_link.h"
#include "defib/process/state_dir.h"

namespace defib::cli {
namespace {

constexpr os::Duration kControlTime = std::chrono::minutes(3);

std::string absolute(const std::string& path) {
  if (path.starts_with('/')) return path;
  char* directory = getcwd(nullptr, 0);
  const std::string result = directory != nullptr ? os::join_path(directory, path) : path;
  free(directory);
  return result;
}

// The command line's level, else LOG_LEVEL's, else the file's, else `fallback`.
Result<> set_log_level(const std::string& flag, const std::string& in_file,
                       std::string_view fallback) {
  const char* environment = getenv("LOG_LEVEL");
  std::string word = flag;
  if (word.empty() && environment != nullptr) word = environment;
  if (word.empty()) word = in_file.empty() ? std::string(fallback) : in_file;
  obs::Level level;
  if (!obs::parse_level(word, level)) {
    return Error(Code::kInvalidArgument, fmt::format("'{}' is no log level", word))
        .with("value", word)
        .suggest("use debug, info, warning, error or off");
  }
  obs::set_log_level(level);
  return {};
}

// With -c: the service of that name in the file, or its only one.
Result<daemon::ServiceConfig> service_from_file(const CommandLine& line,
                                                std::vector<alert::Receiver>& receivers) {
  DEFIB_TRY_ASSIGN(daemon::Config config, daemon::load_config(line.config));
  receivers = std::move(config.receivers);
  if (line.run.name.empty() && config.services.size() == 1) return config.services.front();
  for (daemon::ServiceConfig& service : config.services) {
    if (service.spec.name == line.run.name) return std::move(service);
  }
  return Error(Code::kConfigMissing,
               line.run.name.empty()
                   ? fmt::format("{} describes {} services; --name says which one to run",
                                 line.config, config.services.size())
                   : fmt::format("{} has no service '{}'", line.config, line.run.name))
      .with("file", line.config);
}

// The message speaks of the option as it was written.
Error as_option_error(const Error& error) {
  std::string_view key = error.field("key");
  if (key.empty()) key = error.field("field");
  if (key.empty() || error.code() == Code::kConfigMissing) return error;
  std::string flag(key);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return Error(Code::kWrongUsage, fmt::format("--{}: {}", flag, error.message()))
      .suggest(error.suggested_action());
}

Result<daemon::ServiceConfig> describe_service(const CommandLine& line,
                                               std::vector<alert::Receiver>& receivers) {
  daemon::ServiceConfig service;
  if (!line.config.empty()) {
    DEFIB_TRY_ASSIGN(service, service_from_file(line, receivers));
  }
  process::ServiceSpec& spec = service.spec;
  if (!line.run.command.empty()) spec.argv = line.run.command;
  if (!line.run.name.empty()) spec.name = line.run.name;
  if (spec.name.empty()) spec.name = daemon::name_of_command(spec.argv.front());
  if (!line.run.working_directory.empty()) spec.working_directory = line.run.working_directory;
  for (const std::string& entry : line.run.env) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Error(Code::kWrongUsage, fmt::format("--env: '{}' is not KEY=VALUE", entry));
    }
    spec.env.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  for (const auto& [key, value] : line.run.settings) {
    if (auto set = daemon::set_option(service, key, value); !set) {
      std::string flag = key;
      std::replace(flag.begin(), flag.end(), '_', '-');
      return Error(Code::kWrongUsage, fmt::format("--{}: {}", flag, set.error().message()))
          .suggest(set.error().suggested_action());
    }
  }
  if (const auto valid = daemon::validate(service); !valid) return as_option_error(valid.error());
  return service;
}

// `--check`: as far as one can say without doing it.
Result<int> would_start() {
  DEFIB_TRY(process::find_programs({}));
  print(fmt::format("defib {}: would start\n", DEFIB_VERSION));
  return kDone;
}

Result<> call(const std::string& socket, const char* op, const std::string& name) {
  const auto answer =
      daemon::call_control(socket, wire::Json::object({{"op", op}, {"name", name}}), kControlTime);
  if (!answer) return answer.error();
  return {};
}

void print_done(const CommandLine& line, std::string_view what, const std::string& name) {
  if (line.json) {
    print_json(wire::Json::object(
        {{"schema", "defib.control/1"}, {"ok", true}, {"name", name}, {"did", what}}));
  } else {
    print(fmt::format("{}: {}\n", name, what));
  }
}

Result<int> stop_all(const CommandLine& line) {
  const std::string state_dir = state_dir_of(line);
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(const wire::Json status, daemon::collect_status(files, state_dir, ""));
  wire::Json stopped = wire::Json::array();
  for (const wire::Json& service : status["services"].items()) {
    if (!service["supervised"].as_bool() || service["pid"].is_null()) continue;
    const std::string name(service["name"].as_string());
    DEFIB_TRY(call(daemon::control_socket_of(files, state_dir, name), "stop", name));
    stopped.push(name);
    if (!line.json) print(fmt::format("{}: stopped\n", name));
  }
  if (line.json) {
    print_json(wire::Json::object(
        {{"schema", "defib.control/1"}, {"ok", true}, {"stopped", std::move(stopped)}}));
  }
  return kDone;
}

Result<int> reload(const CommandLine& line) {
  const std::string socket = os::join_path(state_dir_of(line), std::string(daemon::kControlSocket));
  DEFIB_TRY_ASSIGN(
      wire::Json answer,
      daemon::call_control(
          socket, wire::Json::object({{"op", "reload"}, {"restart", line.restart}}), kControlTime));
  if (line.json) {
    answer.set("schema", "defib.control/1");
    print_json(answer);
    return kDone;
  }
  const auto names = [&](const char* list, const wire::Json& name) {
    return std::ranges::find(answer[list].items(), name) != answer[list].items().end();
  };
  for (const char* what : {"added", "removed", "restarted"}) {
    for (const wire::Json& name : answer[what].items()) {
      print(fmt::format("{}: {}\n", name.as_string(), what));
    }
  }
  for (const wire::Json& name : answer["changed"].items()) {
    if (names("restarted", name)) continue;
    print(fmt::format("{}: changed{}\n", name.as_string(),
                      names("needs_restart", name) ? ": needs restart" : ""));
  }
  for (const wire::Json& name : answer["needs_restart"].items()) {
    if (!names("changed", name)) print(fmt::format("{}: needs restart\n", name.as_string()));
  }
  for (const wire::Json& warning : answer["warnings"].items()) {
    print(fmt::format("warning: {}\n", warning.as_string()));
  }
  for (const wire::Json& failed : answer["failed"].items()) {
    print(fmt::format("{}: not changed: {}\n", failed["name"].as_string(),
                      failed["error"]["message"].as_string()));
  }
  if (answer["failed"].size() > 0) return kFailed;
  return kDone;
}

// As the daemon of that configuration has it.
std::string state_dir_by(const CommandLine& line, const daemon::Config& config) {
  const bool named = line.state_dir.empty() && !config.state_dir.empty();
  if (named) return absolute(config.state_dir);
  CommandLine as_daemon = line;
  as_daemon.verb = Verb::kDaemon;
  return state_dir_of(as_daemon);
}

}  // namespace

std::string state_dir_of(const CommandLine& line) {
  if (!line.state_dir.empty()) return absolute(line.state_dir);
  const bool root = geteuid() == 0;
  const bool environment = getenv("DEFIB_STATE_DIR") != nullptr;
  if (line.verb == Verb::kDaemon) return absolute(process::default_state_dir(root));
  std::string own = absolute(process::default_state_dir(false));
  if (!root || environment || line.verb == Verb::kRun) return own;
  // Root asks about root's daemon, unless there is something of its own.
  const std::string system_wide = process::default_state_dir(true);
  os::Files& files = os::real_files();
  return !files.exists(own) && files.exists(system_wide) ? system_wide : own;
}

Result<int> run_command(const CommandLine& line) {
  // Messages of the supervisor stand between the command's own lines, so few are the default.
  DEFIB_TRY(set_log_level(line.log_level, "", "warning"));
  daemon::RunOptions options;
  DEFIB_TRY_ASSIGN(options.service, describe_service(line, options.receivers));
  options.state_dir = state_dir_of(line);
  options.quiet = line.run.quiet;
  options.command = line.program;
  options.started_mono_ns = line.started_mono_ns;
  // Before anything is touched. Of one that runs already, or is resumed, the program may be being
  // replaced.
  const bool fresh =
      !process::is_resumed() &&
      !daemon::service_runs(os::real_files(), options.state_dir, options.service.spec.name);
  if (fresh) {
    const auto obstacles = process::start_obstacles(options.service.spec);
    if (!obstacles.empty()) return obstacles.front().error;
  }
  if (line.check) return would_start();
  return daemon::run_in_foreground(options);
}

Result<int> daemon_command(const CommandLine& line) {
  daemon::DaemonOptions options;
  options.config_path = absolute(line.config.empty() ? "defib.toml" : line.config);
  const daemon::ConfigChecks checks = {
      true, [&](const daemon::Config& config, const std::string& name) {
        return daemon::service_runs(os::real_files(), state_dir_by(line, config), name);
      }};
  DEFIB_TRY_ASSIGN(options.config, daemon::load_config(options.config_path, checks));
  DEFIB_TRY(set_log_level(line.log_level, options.config.log_level, "info"));
  options.state_dir = state_dir_by(line, options.config);
  options.command = line.program;
  options.started_mono_ns = line.started_mono_ns;
  if (line.check) return would_start();
  if (!options.config.log_file.empty()) {
    obs::LogFile file;
    file.path = options.config.log_file;
    DEFIB_TRY(obs::set_log_file(file));
  }
  for (const std::string& warning : options.config.warnings) {
    obs::log(obs::Level::kWarning, "daemon", warning);
  }
  return daemon::run_daemon(std::move(options));
}

Result<int> check_command(const CommandLine& line) {
  const std::string path = line.config.empty() ? "defib.toml" : line.config;
  DEFIB_TRY_ASSIGN(const daemon::Config config,
                   daemon::load_config(path, {.files = true, .runs = {}}));
  const std::vector<std::string> order = daemon::dependencies_of(config.services).order();
  if (line.json) {
    wire::Json services = wire::Json::array();
    for (const std::string& name : order) services.push(name);
    print_json(wire::Json::object({{"schema", "defib.check/1"},
                                   {"ok", true},
                                   {"file", path},
                                   {"state_dir", state_dir_by(line, config)},
                                   {"start_order", std::move(services)}}));
    return kDone;
  }
  print(fmt::format("{} is valid: {} services, started in this order: {}\n", path, order.size(),
                    fmt::join(order, ", ")));
  return kDone;
}

Result<int> control_command(const CommandLine& line) {
  if (line.verb == Verb::kReload) return reload(line);
  if (line.verb == Verb::kStop && line.name.empty()) return stop_all(line);
  struct Operation {
    Verb verb;
    const char* op;
    std::string_view done;
  };
  constexpr Operation kOperations[] = {{Verb::kStart, "start", "started"},
                                       {Verb::kStop, "stop", "stopped"},
                                       {Verb::kRestart, "restart", "restarted"},
                                       {Verb::kReset, "reset", "reset and started"}};
  const Operation& operation = *std::ranges::find(kOperations, line.verb, &Operation::verb);
  const std::string state_dir = state_dir_of(line);
  DEFIB_TRY(call(daemon::control_socket_of(os::real_files(), state_dir, line.name), operation.op,
                 line.name));
  print_done(line, operation.done, line.name);
  return kDone;
}

}  // namespace defib::cli
