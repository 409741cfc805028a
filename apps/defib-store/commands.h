// The verbs of defib-store: what each does once the command line is understood.
//
// Each returns the program's exit code: 0 done; 1 the thing asked about failed or is unhealthy;
// 2 wrong usage or input; 3 refused (locked, or recovery not allowed); 4 interrupted.

#pragma once

#include <chrono>
#include <string>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::store_program {

struct Arguments {
  std::string dir;
  bool json = false;
  std::string sync = "each";  // load: each, group or none
  std::uint64_t batch = 0;    // load: commands in a commit; 0: only at `commit`
  bool no_recover = false;    // dump, get
  std::string table;
  std::string key;
  std::string value;
  std::string part;  // inspect
  std::string to;    // backup, repair
  os::Duration stage_timeout = std::chrono::minutes(10);
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
int run_repair(const Arguments& arguments);

// Prints the error in the form that was asked for and returns the exit code that it deserves.
int report(const Error& error, bool json);

}  // namespace defib::store_program
