// The machine around a failure: load, memory, disk, network, processes, the kernel's messages.
// Thread rule: pure functions but for /proc.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/samples.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

// "defib.system/1": as it is now. `disk_path`: whose file system is looked at.
wire::Json system_json(const std::string& disk_path);

struct ProcessList {
  wire::Json document;  // "defib.processes/1"
  std::string cut;      // empty: all are in it
};
// Parents, names, states, memory and processor time of all processes; no arguments. Those of
// `roots` and their descendants come first, the others by their memory, 2000 together.
ProcessList processes_json(const std::vector<pid_t>& roots);

// {"names":[...],"samples":[{"at","mono_ns","numbers":[...]}]}
wire::Json samples_json(const std::vector<Sample>& samples, SampleKind kind,
                        std::int64_t from_wall_ns);

}  // namespace defib::postmortem
