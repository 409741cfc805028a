// What the commands do. Each returns the exit code, or the error that main() prints.

#pragma once

#include "apps/defib/command_line.h"
#include "defib/base/error.h"

namespace defib::cli {

// commands_supervise.cc
Result<int> run_command(const CommandLine& line);
Result<int> daemon_command(const CommandLine& line);
Result<int> control_command(const CommandLine& line);  // start stop restart reset reload
Result<int> check_command(const CommandLine& line);

// commands_survive.cc
Result<int> upgrade_command(const CommandLine& line);
// Executes the guardian in this process's place, which then starts `line` again under itself.
// Returns where there is none to be had, or none is wanted.
void enter_guardian(const CommandLine& line);
// This program's path, as it will be found on disk after an upgrade, and its arguments.
std::vector<std::string> own_command(int argc, char** argv);

// commands_view.cc
Result<int> status_command(const CommandLine& line);
Result<int> incidents_command(const CommandLine& line);
Result<int> incident_show_command(const CommandLine& line);
Result<int> verify_command(const CommandLine& line);
Result<int> explain_command(const CommandLine& line);

// commands_logs.cc
Result<int> logs_command(const CommandLine& line);

// commands_helper.cc: replaces this program by the helper that does the work. Returns only where
// that failed.
Result<int> helper_command(const CommandLine& line);
Result<int> incident_export_command(const CommandLine& line);
Error exec_helper(const std::string& program, std::vector<std::string> arguments,
                  const std::string& state_dir);

// --state-dir, or the default for this command; absolute.
std::string state_dir_of(const CommandLine& line);

}  // namespace defib::cli
