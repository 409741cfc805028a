// Control groups as /proc tells of them, in version 1, version 2 and both.
//
// Thread rule: any thread.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace defib::os {

// One mounted hierarchy, by /proc/PID/mountinfo (proc(5)).
struct CgroupMount {
  std::string root;   // what of the hierarchy is mounted
  std::string point;  // where
  bool version2 = false;
  std::vector<std::string> controllers;  // of version 1
};
std::vector<CgroupMount> parse_cgroup_mounts(std::string_view mountinfo);
// The first of version 1 with that controller, or of version 2 where that is empty; else nullptr.
const CgroupMount* find_cgroup_mount(const std::vector<CgroupMount>& mounts,
                                     std::string_view controller);

// A process's group in the hierarchy of version 1 with that controller, or of version 2 where that
// is empty, by /proc/PID/cgroup: "/system.slice/x". Nothing where the file names none.
std::optional<std::string_view> cgroup_path(std::string_view cgroups, std::string_view controller);

}  // namespace defib::os
