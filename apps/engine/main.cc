// engine: the reference trading engine. Thin: arguments, then defib::engine::Engine.

#include <fmt/core.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <string>

#include "defib/engine/engine.h"
#include "defib/os/files.h"
#include "defib/process/agent.h"
#include "defib/recovery/incident.h"

namespace {

using namespace defib;

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;
constexpr int kRefused = 3;

int report(const Error& error, bool json) {
  if (json) {
    fmt::print(
        "{}\n",
        wire::Json::object({{"schema", "defib.engine/1"}, {"error", wire::to_json(error)}}).dump());
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  const int number = error.number();
  if (number <= -40 && number >= -45) return kWrongUsage;
  switch (error.code()) {
    case Code::kDatabaseLocked:
    case Code::kApprovalRequired:
    case Code::kGateClosed:
    case Code::kLimitsNotLoaded:
    case Code::kTradingHalted:
      return kRefused;
    case Code::kInvalidArgument:
      return kWrongUsage;
    default:
      return kFailed;
  }
}

struct Arguments {
  std::string config;
  std::string state_dir;
  std::string fault;
  std::string fault_file;
  bool no_trading = false;
  bool json = false;
};

// The newest incident of this service, as the supervisor that started us keeps it.
trading::CrashCause crash_cause(const std::string& state_dir, const std::string& service) {
  trading::CrashCause found;
  found.state_dir = state_dir;
  const auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), state_dir);
  if (!log) return found;
  const auto incidents = log->list();
  if (!incidents) return found;
  for (const recovery::IncidentSummary& incident : *incidents) {
    if (incident.service != service) continue;
    found.incident = incident.id;
    if (!incident.cause.empty()) found.cause = incident.cause;
    break;
  }
  return found;
}

std::string environment(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

Result<int> run(const Arguments& arguments, process::Agent& agent) {
  DEFIB_TRY_ASSIGN(engine::EngineConfig config, engine::load_engine_config(arguments.config));
  config.state_dir = arguments.state_dir;
  config.fault_file = arguments.fault_file;
  config.start_in_monitoring = process::starts_in_monitoring();
  const std::string supervisor = environment("DEFIB_STATE_DIR");
  const std::string service = environment("DEFIB_SERVICE");
  if (agent.attached() && !supervisor.empty() && !service.empty()) {
    config.crash_cause = [=] { return crash_cause(supervisor, service); };
    config.incident_dir = supervisor;
  }
  if (!arguments.fault.empty()) {
    DEFIB_TRY_ASSIGN(config.fault, engine::parse_fault(arguments.fault));
  }
  DEFIB_TRY_ASSIGN(const process::Shutdown shutdown, process::Shutdown::watch());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<engine::Engine> engine,
                   engine::Engine::create(std::move(config), agent, os::real_clock()));
  if (arguments.no_trading) {
    DEFIB_TRY_ASSIGN(wire::Json checked, engine->check_only());
    checked.set("schema", "defib.engine/1");
    fmt::print("{}\n", checked.dump(arguments.json ? -1 : 2));
    return kDone;
  }
  DEFIB_TRY(engine->run(shutdown));
  return kDone;
}

}  // namespace

int main(int argc, char** argv) {
  // First of all, so that a crash of the start is captured too.
  process::Agent agent = process::Agent::attach_or_idle();
  Arguments arguments;
  CLI::App app{
      "The reference trading engine: strategies on defib's ledger, intents and recovery.\n"
      "Example: defib run --name engine -- engine --config defib.toml --state-dir state"};
  app.add_option("--config", arguments.config, "TOML file with [venue], [trading] and [engine]")
      ->required();
  app.add_option("--state-dir", arguments.state_dir, "where the store lies")->required();
  app.add_flag("--no-trading", arguments.no_trading,
               "run the recovery steps as a dry run, print their report, and end");
  app.add_option("--fault", arguments.fault, "fail on purpose: KIND@POINT[:N]");
  app.add_option("--fault-file", arguments.fault_file,
                 "look for a fault in this file while running");
  app.add_flag("--json", arguments.json, "for machines");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kWrongUsage;
  }
  const auto result = run(arguments, agent);
  return result ? *result : report(result.error(), arguments.json);
}
