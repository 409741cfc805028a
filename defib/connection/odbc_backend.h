// The backend over ODBC: unixODBC's driver manager, without any library in between, so that no
// diagnostic record is lost; psqlodbc, MariaDB Connector/ODBC, FreeTDS, SQLite's driver, and
// Microsoft's where it is installed.
//
// ODBC calls block, and most drivers know no deadline that holds. So every call runs under a
// watchdog, which shuts the driver's own socket down at the deadline. Connecting runs on a thread
// of its own, whose socket is shut down where it overruns, and which is left behind until the
// driver has seen that, at most kMaxAbandoned at a time. unixODBC's own pooling is not used. Thread
// rule: as Backend. One environment handle a process, never freed.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"

namespace defib::connection {

// Attempts of one backend whose callers have gone; while so many hang, no other is begun.
inline constexpr int kMaxAbandoned = 16;

// InvalidArgument where the name is not one for ODBC. The classifier is copied.
Result<std::unique_ptr<Backend>> make_odbc_backend(Dsn dsn, const Classifier& classifier);

// The drivers that unixODBC knows, by name.
std::vector<std::string> odbc_drivers();

}  // namespace defib::connection
