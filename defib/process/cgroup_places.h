// CgroupPlaces: where control groups can be made for services, on version 2, version 1 and both.
//
// Below the supervisor's own group a directory `defib` is made in each hierarchy that is needed;
// the shim makes one group a start in there. What is impossible is told once, with the file and
// what to do about it; services then run without. Only the supervisor's own group is ever changed:
// on version 2 its controllers are handed down, for which the supervisor moves into a group below
// it where it is alone in its own. Thread rule: the loop's thread.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/cgroup.h"

namespace defib::process {

// The directories below which groups are made; empty: none there.
struct Cgroups {
  std::string tree_dir;    // version 2
  std::string memory_dir;  // version 1, as the following
  std::string pids_dir;
  std::string freezer_dir;
  bool memory_in_tree = false;  // version 2 has the controller, handed down to the tree
  bool pids_in_tree = false;
  // Why there is none; nothing where there is.
  std::optional<Error> tree_missing;
  std::optional<Error> memory_missing;
  std::optional<Error> pids_missing;
};

// The directory of the process's own group in that hierarchy by /proc/self/cgroup; empty where it
// is not visible.
std::string own_cgroup_dir(const os::CgroupMount& mount, std::string_view own_cgroups);

class CgroupPlaces {
 public:
  // `proc` is where mountinfo and cgroup of the own process are read: "/proc/self".
  explicit CgroupPlaces(std::string proc = "/proc/self") : proc_(std::move(proc)) {}
  // What there is for a service, with or without these limits. Made at the first call.
  const Cgroups& find(bool memory, bool pids);
  // Removes the empty groups whose names begin so: those of a service whose shim was killed before
  // it could do it.
  void remove_groups(const std::string& prefix) const;
  // Removes the directories `defib` that hold no group any more.
  void remove_empty() const;

 private:
  void look();
  void enable_controllers();
  std::string prepare(const std::string& own, std::optional<Error>* missing);

  std::string proc_;
  bool looked_ = false;
  bool enabled_ = false;
  std::string own_tree_;
  std::string own_memory_, own_pids_;
  Cgroups cgroups_;
};

}  // namespace defib::process
