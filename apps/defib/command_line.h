// The command line of `defib` as plain values. The only file that knows the parser's library is
// command_line.cc; what a command does is in commands_*.cc.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"

namespace defib::cli {

enum class Verb {
  kRun,
  kDaemon,
  kStart,
  kStop,
  kRestart,
  kReset,
  kReload,
  kUpgrade,
  kCheck,
  kStatus,
  kLogs,
  kIncidents,
  kIncidentShow,
  kIncidentExport,
  kVerify,
  kExplain,
  kHelper,  // a helper program takes over: analyze, store, recover ...
  kVersion,
};

// What `run` was told on the command line; empty means: the configuration's value, or the default.
// Texts are checked where the service is described (daemon/service_options.h), so that a mistake
// on the command line and one in the configuration file read alike.
struct RunFlags {
  std::string name;
  std::string working_directory;
  std::vector<std::pair<std::string, std::string>> settings;  // configuration key, value as text
  std::vector<std::string> env;                               // KEY=VALUE
  bool quiet = false;
  std::vector<std::string> command;  // after "--"
};

struct CommandLine {
  Verb verb = Verb::kVersion;
  bool json = false;
  std::string state_dir;             // empty: by the environment
  std::string config;                // -c FILE; empty: none given
  bool no_guardian = false;          // run daemon
  bool check = false;                // run daemon: only look whether it would start
  std::string log_level;             // empty: LOG_LEVEL, else "info"
  std::vector<std::string> program;  // this program's path and arguments
  std::int64_t started_mono_ns = 0;  // of its main()
  RunFlags run;
  std::string name;            // start stop restart reset status logs
  std::string subject;         // incident id, code or verdict
  bool group = false;          // incidents
  bool restart = false;        // reload
  bool watch = false;          // status
  bool follow = false;         // logs
  std::string since;           // logs: RFC 3339 or a duration back from now
  std::string until;           // logs: the same
  std::string stream;          // logs: stdout or stderr; empty: both
  bool timestamps = false;     // logs
  bool no_timestamps = false;  // logs
  std::string around;          // logs: RFC 3339
  std::string window;          // logs: a duration around --around
  int lines = 0;               // logs: 0 means all
  std::string head;            // verify
  std::string from;            // explain: a decision's or an incident's file
  std::string out;             // incident export
  std::string verb_name;       // kHelper: "store"
  std::vector<std::string> helper_arguments;
};

// The values, or what to print and how to exit: help texts exit 0, mistakes are WrongUsage.
struct ParseOutcome {
  std::optional<CommandLine> command;
  std::string help;  // to print on stdout; empty where there is none
  std::optional<Error> error;
  bool json = false;  // --json was somewhere on the line, for the form of the error
};
ParseOutcome parse_command_line(int argc, char** argv);

}  // namespace defib::cli
