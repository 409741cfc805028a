#include <errno.h>
#include <fmt/core.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>

#include "apps/defib/commands.h"
#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::cli {
namespace {

struct Helper {
  std::string_view verb;
  const char* program;
  bool takes_verb;           // it has several commands, of which this is one
  bool asks_daemon = false;  // it looks into a supervisor's state directory
};
constexpr std::array kHelpers = {
    Helper{"analyze", "defib-capture", true},
    Helper{"symbolize", "defib-capture", true},
    Helper{"store", "defib-store", false},
    Helper{"recover", "defib-trade", true},
    Helper{"reconcile", "defib-trade", true},
    Helper{"approve", "defib-trade", true},
    Helper{"checklist", "defib-trade", true},
    Helper{"alert", "defib-alert", false, true},
    Helper{"export", "defib-bundle", true, true},
    Helper{"report", "defib-report", false, true},
    Helper{"dbn", "defib-dbn", false},
    Helper{"db", "defib-db", false},
    Helper{"kill", "defib-trade", true},
    Helper{"call", "defib-call", false},
};

}  // namespace

Error exec_helper(const std::string& program, std::vector<std::string> arguments,
                  const std::string& state_dir) {
  if (!state_dir.empty()) setenv("DEFIB_STATE_DIR", state_dir.c_str(), 1);
  const std::string beside = os::join_path(os::own_program_dir(), program);
  std::vector<char*> argv;
  std::string name = program;
  argv.push_back(name.data());
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(beside.c_str(), argv.data());
  if (errno == ENOENT) execvp(program.c_str(), argv.data());
  if (errno == ENOENT) {
    return Error(Code::kProgramNotFound,
                 fmt::format("the program {} is not installed, which this command needs", program))
        .with("program", program)
        .suggest(fmt::format("install {} beside defib, or in PATH", program));
  }
  return os::system_error("exec", beside);
}

Result<int> helper_command(const CommandLine& line) {
  for (const Helper& helper : kHelpers) {
    if (helper.verb != line.verb_name) continue;
    std::vector<std::string> arguments = line.helper_arguments;
    if (helper.takes_verb) arguments.insert(arguments.begin(), line.verb_name);
    if (line.json) arguments.emplace_back("--json");
    return exec_helper(
        helper.program, std::move(arguments),
        line.state_dir.empty() && !helper.asks_daemon ? std::string() : state_dir_of(line));
  }
  return Error(Code::kInternal, fmt::format("no program is known for '{}'", line.verb_name));
}

Result<int> incident_export_command(const CommandLine& line) {
  std::vector<std::string> arguments = {"export", line.subject};
  if (!line.out.empty()) arguments.insert(arguments.end(), {"--out", line.out});
  if (line.json) arguments.emplace_back("--json");
  return exec_helper("defib-bundle", std::move(arguments), state_dir_of(line));
}

}  // namespace defib::cli
