// ProcessTree: what a process and all its descendants use, read cheaply again and again.
//
// /proc/PID/stat is read through descriptors that stay open (one read a process and sample; a
// descriptor of a process that ended reads nothing, so a reused pid is never mistaken for it). Who
// belongs to the tree is looked up anew each kLookEvery samples only.
// Thread rule: one thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "defib/os/fd.h"

namespace defib::os {

// So many processes are told at most.
inline constexpr std::size_t kMaxTree = 4096;
// The children of the calling thread.
std::vector<pid_t> own_children();
// All descendants of a process, parents before children.
std::vector<pid_t> process_descendants(pid_t root);

struct TreeUsage {
  int processes = 0;
  int threads = 0;
  std::uint64_t rss_bytes = 0;  // the sum: what processes share is counted for each
  std::int64_t cpu_ns = 0;      // of all, and of their children that ended
  // Of the process that is nearest to its own limit, where asked for.
  std::uint64_t descriptors = 0;
  std::uint64_t descriptor_limit = 0;  // RLIMIT_NOFILE, soft
  pid_t descriptors_of = 0;
};

class ProcessTree {
 public:
  static constexpr int kLookEvery = 4;

  ProcessTree() = default;
  // Without its root: the descendants alone.
  explicit ProcessTree(pid_t root, bool with_root = true) : root_(root), with_root_(with_root) {}
  pid_t root() const { return root_; }

  // Nothing where the root has ended (or, without it, where there is no descendant).
  std::optional<TreeUsage> sample(bool with_descriptors);
  // The proportional set size of the members of the last sample; 0 where it cannot be read. Slow:
  // the kernel walks the page tables (milliseconds for gigabytes).
  std::uint64_t pss_bytes() const;

 private:
  struct Member {
    pid_t pid = 0;
    Fd stat;  // invalid beyond kKeptOpen members: opened for each sample
  };
  void look();

  pid_t root_ = 0;
  bool with_root_ = true;
  int samples_ = 0;
  std::vector<Member> members_;  // the root first, where it belongs
};

// The open descriptors of a process, by its directory `fd` in /proc, which `path` names from `at`
// on (openat(2)); no more than `most`. Allocates nothing.
std::uint64_t count_descriptors(int at, const char* path, std::uint64_t most);

// How many processors the process may run on (its affinity); at least 1.
int allowed_processors(pid_t pid);

}  // namespace defib::os
