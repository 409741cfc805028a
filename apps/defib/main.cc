// defib: supervises services and shows what became of them. docs/cli.md is its contract.

#include <fmt/core.h>

#include <optional>

#include "apps/defib/command_line.h"
#include "apps/defib/commands.h"
#include "apps/defib/output.h"
#include "defib/os/clock.h"

namespace defib::cli {
namespace {

constexpr std::string_view kVersion = DEFIB_VERSION;

Result<int> execute(const CommandLine& line) {
  switch (line.verb) {
    case Verb::kRun:
      return run_command(line);
    case Verb::kDaemon:
      return daemon_command(line);
    case Verb::kStart:
    case Verb::kStop:
    case Verb::kRestart:
    case Verb::kReset:
    case Verb::kReload:
      return control_command(line);
    case Verb::kUpgrade:
      return upgrade_command(line);
    case Verb::kCheck:
      return check_command(line);
    case Verb::kStatus:
      return status_command(line);
    case Verb::kLogs:
      return logs_command(line);
    case Verb::kIncidents:
      return incidents_command(line);
    case Verb::kIncidentExport:
      return incident_export_command(line);
    case Verb::kIncidentShow:
      return incident_show_command(line);
    case Verb::kVerify:
      return verify_command(line);
    case Verb::kExplain:
      return explain_command(line);
    case Verb::kHelper:
      return helper_command(line);
    case Verb::kVersion:
      if (line.json) {
        print_json(wire::Json::object({{"schema", "defib.version/1"}, {"version", kVersion}}));
      } else {
        print(fmt::format("defib {}\n", kVersion));
      }
      return kDone;
  }
  return Error(Code::kInternal, "a command without an implementation");
}

// The parser's values are gone before a supervising command begins its long life.
std::optional<CommandLine> parse(int argc, char** argv, int& exit_code) {
  ParseOutcome outcome = parse_command_line(argc, argv);
  if (outcome.error) {
    if (!outcome.help.empty() && !outcome.json) print(outcome.help + "\n");
    exit_code = print_error(*outcome.error, outcome.json);
    return std::nullopt;
  }
  if (!outcome.command) print(outcome.help);
  return std::move(outcome.command);
}

int main(int argc, char** argv) {
  const std::int64_t started_mono_ns = os::real_clock().mono_ns();
  int exit_code = kDone;
  std::optional<CommandLine> line = parse(argc, argv, exit_code);
  if (!line) return exit_code;
  line->program = own_command(argc, argv);
  line->started_mono_ns = started_mono_ns;
  if (line->verb == Verb::kRun || line->verb == Verb::kDaemon) enter_guardian(*line);
  const Result<int> result = execute(*line);
  return result ? *result : print_error(result.error(), line->json);
}

}  // namespace
}  // namespace defib::cli

int main(int argc, char** argv) {
  return defib::cli::main(argc, argv);
}
