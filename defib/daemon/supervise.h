// The two supervising programs: `defib run` and `defib daemon`. Both block until they are done, and
// continue what a supervisor before them did where the guardian says so (process/guardian.h).

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/config.h"

namespace defib::daemon {

struct RunOptions {
  std::string state_dir;
  ServiceConfig service;
  std::vector<alert::Receiver> receivers;  // of the configuration, where there is one
  bool quiet = false;                      // keep the output in the log alone
  // This program's path and arguments, for an upgrade in place; empty: there is none.
  std::vector<std::string> command;
  std::int64_t started_mono_ns = 0;  // of this program's main()
};
// Supervises one service in the foreground until it is stopped (by SIGTERM, SIGINT, `defib stop`),
// ends cleanly by its policy, or fails for good. The exit code of docs/cli.md: 0 or 1.
// AlreadySupervised where another process has the name.
Result<int> run_in_foreground(const RunOptions& options);

struct DaemonOptions {
  std::string state_dir;
  std::string config_path;  // read again by SIGHUP and `defib reload`
  Config config;
  std::vector<std::string> command;  // this and the next as in RunOptions
  std::int64_t started_mono_ns = 0;
};
// Until SIGTERM or SIGINT, which stop all services gracefully.
Result<int> run_daemon(DaemonOptions options);

}  // namespace defib::daemon
