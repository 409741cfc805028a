// The native backend for PostgreSQL: libpq, non-blocking from the first byte, so that every
// deadline holds without a second thread.
//
// What it does that no ODBC driver can: an SQLSTATE also where connecting fails; the command tag of
// a COMMIT, which exposes one that was answered by rolling back; the server's last words on a
// session that it ended.
// Thread rule: as Backend.

#pragma once

#include <memory>

#include "defib/connection/backend.h"
#include "defib/connection/dsn.h"

namespace defib::connection {

// InvalidArgument where the name is not one for libpq. `classifier` outlives the backend.
Result<std::unique_ptr<Backend>> make_libpq_backend(Dsn dsn, const Classifier& classifier);

}  // namespace defib::connection
