// The verbs of defib-store: what each does once the command line is understood.
//
// Each returns the program's exit code: 0 done; 1 the thing asked about failed or is unhealthy;
// 2 wrong usage or input; 3 refused (locked, or recovery not allowed); 4 interrupted.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/wire/json.h"

namespace defib::store_program {

struct Arguments {
  std::string verb;  // "load"
  std::string dir;
  bool json = false;
  std::string sync = "each";   // load: each, group or none
  std::uint64_t batch = 0;     // load: commands in a commit; 0: only at `commit`
  std::uint64_t keep_log = 0;  // load: bytes of log kept behind the checkpoint
  bool no_recover = false;     // dump, get
  std::string table;
  std::string key;
  std::string value;
  std::string part;                        // inspect
  std::string to;                          // backup, restore, repair
  std::string log;                         // restore: the store whose log is replayed; empty: none
  bool is_restore = false;                 // `dir` is a backup
  std::optional<std::uint64_t> to_commit;  // restore
  os::Duration stage_timeout = std::chrono::minutes(10);  // recover
  std::map<std::string, os::Duration> stage_timeouts;     // recover: of single stages
  bool dry_run = false;                                   // recover
  bool progress = false;                                  // recover: also where it is no terminal
};

int run_load(const Arguments& arguments);
int run_dump(const Arguments& arguments);
int run_get(const Arguments& arguments);
int run_put(const Arguments& arguments);
int run_del(const Arguments& arguments);
int run_status(const Arguments& arguments);
int run_recover(const Arguments& arguments);
int run_verify(const Arguments& arguments);
int run_inspect(const Arguments& arguments);
int run_backup(const Arguments& arguments);
int run_restore(const Arguments& arguments);
int run_repair(const Arguments& arguments);
int run_migrate(const Arguments& arguments);
int run_compact(const Arguments& arguments);

// report.cc
int exit_code(const Error& error);
// The error as this program shows it: what it suggests names the store at hand, so that it can be
// run as it stands.
Error for_user(const Error& error, const Arguments& arguments);
// An error's JSON with "commands": what would cure it, each as a list of words.
wire::Json error_json(const Error& error, const Arguments& arguments);
// Prints the error in the form that was asked for and returns the exit code that it deserves.
int report(const Error& error, const Arguments& arguments);
int finish(const Result<>& done, const Arguments& arguments);
// One line.
void print(const wire::Json& json);

}  // namespace defib::store_program
