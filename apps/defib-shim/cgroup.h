// Cgroup: the control groups of one start, made anew for each, so that two generations share
// neither a memory limit nor a counter, and so that the end of one is the end of all of it.
//
// The supervisor says where groups can be made (LaunchText::kTreeDir and the following); each is a
// directory NAME-HASH-GENERATION there. Version 2 has one for everything; of version 1 those
// hierarchies are used that are needed. Where none can be made the service runs without: the caller
// is told which part failed, and ends the service by group and descendants.
//
// Invariant: a process is killed by its number only after its group was read from /proc through a
// pidfd that was open before, so a number that was given anew meets nobody else.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "defib/process/launch_format.h"

namespace defib::process::shim {

class Launch;

class Cgroup {
 public:
  // Makes the groups for this start. `refused` (by StartStage) gets what could not be had.
  void make(const Launch& launch, uint64_t generation, int* refused);
  // Finds the groups of a process that another shim started.
  void adopt(const Launch& launch, pid_t pid);
  bool exists() const { return tree_[0] != 0 || memory_[0] != 0 || pids_[0] != 0; }
  // A group whose end is the end of every process in it.
  bool holds_all() const { return tree_[0] != 0 || pids_[0] != 0 || freezer_[0] != 0; }

  // To start a process in the tree's group by clone3; -1: none.
  int tree_fd() const { return tree_fd_; }
  // In the child: enters what it was not started in. `refused` as above.
  void enter(bool in_tree, volatile int* refused) const;
  // What only the start needs.
  void close_start();

  // Kills all processes in the groups. True where none is left but those that are dying.
  bool kill_all();
  bool populated() const;
  // Processes that the kernel killed for the memory limit; 0 where nobody counts.
  uint32_t oom_kills() const;
  // Readable when that number may have grown; -1: none. Ours to close.
  int watch_memory();
  void drain_memory() const;
  // Forgets the groups, and removes those that are empty. False where one is not yet.
  bool forget();
  // Forgets the groups, and leaves their removal, which takes time, to sweep().
  void leave();

  // Kills what is left in groups of this service of generations before `first_kept`, and removes
  // them. For groups whose shim was killed. False where one is not empty yet.
  static bool sweep(const Launch& launch, uint64_t first_kept);
  // Whether any group of this service is there.
  static bool any_left(const Launch& launch);

 private:
  static constexpr size_t kPath = 512;
  void kill_listed(const char* group) const;
  bool tree_populated(bool* populated) const;
  bool make_one(const char* parent, const char* name, char* path, int* enter_fd, int* error) const;

  char tree_[kPath] = {};    // version 2
  char memory_[kPath] = {};  // of version 1, as the following
  char pids_[kPath] = {};
  char freezer_[kPath] = {};
  bool memory_in_tree_ = false;
  bool pids_in_tree_ = false;
  int tree_fd_ = -1;
  int events_fd_ = -1;  // tree_'s cgroup.events, open from the start on; -1: it is opened each time
  int enter_fds_[4] = {-1, -1, -1, -1};
  int memory_event_fd_ = -1;
  bool memory_is_eventfd_ = false;
};

// Every process that descends from this one, except the trees below those in `spared`: stopped
// first, until no further one turns up, then killed. For what no control group holds.
void kill_descendants(pid_t ancestor, const pid_t* spared, size_t spared_count);

}  // namespace defib::process::shim
