// What `defib db check` finds out about a database and its driver.
//
// Thread rule: one thread at a time.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"

namespace defib::connection {

struct CheckStep {
  std::string name;    // "reset"
  std::string detail;  // "a setting of the session was gone after it"
  bool passed = false;
  bool skipped = false;  // the driver or the engine has no such thing
  os::Duration took{0};
  std::optional<Error> error;
};

struct CheckReport {
  SessionInfo info;
  std::string data_source;  // redacted
  os::Duration connect{0};
  os::Duration query_p50{0}, query_max{0};  // of the health query, 50 times
  os::Duration look_p50{0};                 // of a look at the socket
  std::vector<CheckStep> steps;             // of the self-test; empty where it was not asked for
  bool passed() const;
};

// The hosts in order until one answers; its Error where none does. The self-test changes nothing in
// the database: it uses settings and temporary tables of its own sessions, one of which it ends.
Result<CheckReport> check_database(Backend& backend, const Dsn& dsn, bool self_test,
                                   os::Duration timeout);

}  // namespace defib::connection
