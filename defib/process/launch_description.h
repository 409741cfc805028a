// The launch description: what a shim needs to start a service, made from its spec.
//
// Everything that can be found out without touching anything is found out here: the program and the
// interpreter of a script, the working directory, the user and the groups, the programs of hooks.
// What only the start itself can tell comes back from the shim as StartFailed (launch_report.h).

#pragma once

#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"
#include "defib/process/cgroup_places.h"
#include "defib/process/service_spec.h"
#include "defib/process/shim_link.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {

struct LaunchPlace {
  const Programs& programs;
  const std::string& state_dir;
  const std::string& service_dir;
  CgroupPlaces& cgroups;
};

// "ENGINE-0123abcd-": how the control groups of this service in this state directory begin, and no
// others.
std::string group_prefix(const std::string& name, const std::string& service_dir);

// As a sealed memfd (launch_format.h). ProgramNotFound, FileNotFound, ConfigBadValue or
// PermissionDenied name what is wrong with the spec on this machine.
Result<os::Fd> make_launch_description(const ServiceSpec& spec, const LaunchPlace& place);
// The same as bytes, for tests. The header's counts are filled in.
std::string encode_launch(const shim::LaunchHeader& header, const std::vector<std::string>& fixed,
                          const std::vector<std::string>& argv, const std::vector<std::string>& env,
                          const std::vector<std::vector<std::string>>& hooks);

// The program that a command means: an absolute path to something that can be executed. The error
// says what is wrong with it: not there, a directory, not executable, no interpreter.
Result<std::string> find_program(std::string_view what, const std::string& command,
                                 const std::string& directory, std::string_view path);

// What stands in the way of a start of this service on this machine, by the key of the spec: its
// user and groups, its working directory, the programs of its command and its hooks. All of it, as
// a start would find it; empty: nothing.
struct StartObstacle {
  std::string key;
  Error error;
};
std::vector<StartObstacle> start_obstacles(const ServiceSpec& spec);

// The graceful end that the spec describes, of this generation; 0: of all that is there.
shim::Stop graceful_stop(const ServiceSpec& spec, shim::StopReason reason,
                         std::uint64_t generation);

// Why the preloaded agent would not be loaded into this program: "static program", "setuid
// program", "program with file capabilities", "32-bit program", "not an ELF program". Empty where
// it would: a dynamically linked ELF file, or a script whose interpreter is one.
std::string preload_obstacle(const std::string& program);
// The same for the program of a service; empty also where there is no such program.
std::string preload_obstacle(const ServiceSpec& spec);
// Why it is not seized (capture = ptrace): "setuid program", "program with file capabilities",
// whose rights the kernel would withhold from it. Empty where it is, or where that is not asked
// for.
std::string trace_obstacle(const ServiceSpec& spec);

// Why a service runs with less than its spec asks for; nothing where it has all.
std::vector<Error> missing_cgroups(const ServiceSpec& spec, CgroupPlaces& places);

}  // namespace defib::process
