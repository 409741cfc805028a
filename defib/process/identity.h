// Identity: whom a service runs as, resolved from names to numbers by the supervisor. The shim has
// no user database.

#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/process/service_spec.h"

namespace defib::process {

struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  // USER, LOGNAME, HOME and SHELL of the user, where it has an entry.
  std::vector<std::pair<std::string, std::string>> environment;
};

// Nothing where the spec names neither user nor groups. ConfigBadValue names what is unknown;
// PermissionDenied where this process may not start others as that user.
Result<std::optional<Identity>> resolve_identity(const ServiceSpec& spec);

}  // namespace defib::process
