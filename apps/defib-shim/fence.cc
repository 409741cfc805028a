#include "fence.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr uint64_t kExiting = 0x4, kPostCoreDump = 0x8, kDumpsCore = 0x200;  // <linux/sched.h>
constexpr uint64_t kBeyondReturn = kExiting | kPostCoreDump | kDumpsCore;
constexpr uint64_t kKillPending = 1u << (9 - 1);

void thread_path(char* to, size_t capacity, pid_t pid, pid_t tid, const char* name) {
  to[0] = 0;
  append_text(to, capacity, "/proc/");
  append_number(to, capacity, static_cast<uint64_t>(pid));
  append_text(to, capacity, "/task/");
  if (tid == 0) return;
  append_number(to, capacity, static_cast<uint64_t>(tid));
  append_text(to, capacity, name);
}

bool is_beyond_return(const ProcStat& stat) {
  return (stat.flags & kBeyondReturn) != 0 || stat.state == 'Z' || stat.state == 'X';
}

// The kernel gives SIGKILL to each thread of a process that ends.
bool is_being_killed(pid_t pid, pid_t tid) {
  char path[64], text[2048];
  thread_path(path, sizeof path, pid, tid, "/status");
  if (read_small(path, text, sizeof text) <= 0) return true;  // It is gone.
  static constexpr char kKey[] = "\nSigPnd:\t";
  for (const char* at = text; (at = find_first(at, '\n')) != nullptr; ++at) {
    if (strncmp(at, kKey, sizeof kKey - 1) != 0) continue;
    uint64_t mask = 0;
    for (at += sizeof kKey - 1; *at != '\n' && *at != 0; ++at) {
      mask = mask * 16 + static_cast<uint64_t>(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    }
    return (mask & kKillPending) != 0;
  }
  return false;
}

// The list of robust locks is taken from a thread when it begins to exit. Asking for it touches no
// memory of the process, while reading stat or status holds a reference to all of it: the reader
// that happens to be the last holder would tear it down itself.
bool still_has_locks(pid_t tid) {
  void* head = nullptr;
  size_t size = 0;
  return syscall(SYS_get_robust_list, tid, &head, &size) == 0 && head != nullptr;
}

struct Pass {
  bool fenced = true;
  bool ending = true;
  bool exiting = true;
  int threads = 0;
  int chunks = 0;
};

// One walk over the threads; ends at the first that lives.
Pass walk(pid_t pid, bool quick) {
  Pass pass;
  char path[64];
  thread_path(path, sizeof path, pid, 0, "");
  const int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return pass;  // Gone.
  struct Entry {
    uint64_t inode;
    int64_t next;
    uint16_t size;
    unsigned char type;
    char name[];
  };
  alignas(8) static char buffer[4096];
  while (pass.ending) {
    const long size = syscall(SYS_getdents64, dir, buffer, sizeof buffer);
    if (size <= 0) break;
    ++pass.chunks;
    for (long at = 0; at < size && pass.ending;) {
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      at += entry->size;
      uint64_t tid = 0;
      if (parse_number(entry->name, &tid) == nullptr) continue;
      ++pass.threads;
      if (quick && still_has_locks(static_cast<pid_t>(tid))) {
        pass.fenced = false;
        close(dir);
        return pass;
      }
      thread_path(path, sizeof path, pid, static_cast<pid_t>(tid), "/stat");
      char text[1024];
      ProcStat stat;
      if (read_small(path, text, sizeof text) <= 0 || !parse_stat(text, &stat)) continue;  // Gone.
      const bool exits = (stat.flags & kExiting) != 0 || stat.state == 'Z' || stat.state == 'X';
      pass.exiting = pass.exiting && exits;
      if (is_beyond_return(stat)) continue;
      pass.fenced = false;
      pass.ending = is_being_killed(pid, static_cast<pid_t>(tid));
    }
  }
  close(dir);
  return pass;
}

}  // namespace

FenceLook look_at_threads(pid_t pid, uint64_t start_time, bool quick) {
  FenceLook look;
  if (quick && still_has_locks(pid)) {
    look.fence = Fence::kEnding;
    return look;
  }
  ProcStat main;
  if (!read_stat(pid, &main) || main.start_time != start_time) {
    look.fence = Fence::kFenced;
    return look;
  }
  look.exit_code = main.exit_code;
  if (!is_beyond_return(main)) {
    look.fence = is_being_killed(pid, pid) ? Fence::kEnding : Fence::kLives;
    return look;
  }
  // The main thread is beyond return. A directory that shrinks between two reads may hide a thread:
  // then two walks must agree.
  constexpr int kMaxWalks = 8;
  int before = -1;
  for (int i = 0; i < kMaxWalks; ++i) {
    const Pass pass = walk(pid, quick);
    if (!pass.fenced) {
      look.fence = pass.ending ? Fence::kEnding : Fence::kLives;
      return look;
    }
    if (pass.chunks <= 1 || pass.threads == before) {
      look.fence = Fence::kFenced;
      look.exiting = pass.exiting;
      return look;
    }
    before = pass.threads;
  }
  look.fence = Fence::kEnding;
  return look;
}

}  // namespace defib::process::shim
