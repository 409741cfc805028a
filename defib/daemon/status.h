// What `defib status` shows: from a supervising process while there is one, from the files that the
// shim and the incidents left while there is none.

#pragma once

#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/process/supervisor.h"
#include "defib/wire/json.h"

namespace defib::daemon {

// One of "services" of defib.status/1.
wire::Json status_to_json(const process::ServiceStatus& status, std::string_view last_incident);

// What /metrics needs of one service, short: [name, state, pid or 0, restarts in the window,
// their limit, started (wall ns), memory (bytes; 0: not sampled), cpu (%), age of the heartbeat
// (ns, or -1), whether it is in the slow lane, events dropped].
inline constexpr std::size_t kMetricsCells = 11;
wire::Json metrics_row(const process::ServiceStatus& status);

// {"schema":"defib.status/1","services":[...]} of a whole state directory: asks every supervising
// process that answers, and reads the files for the services that have none ("supervised": false,
// "as_of": the time of what is told). NotFound where `state_dir` does not exist is no error: there
// are no services then. ServiceUnknown where `name` is given and unknown.
Result<wire::Json> collect_status(os::Files& files, const std::string& state_dir,
                                  const std::string& name);

// Whether a process of the service lives, by its files.
bool service_runs(os::Files& files, const std::string& state_dir, const std::string& name);

// The socket of the process that supervises the service, or of the daemon where it is not
// supervised by a `defib run`.
std::string control_socket_of(os::Files& files, const std::string& state_dir,
                              const std::string& service);

}  // namespace defib::daemon
