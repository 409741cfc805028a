#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "launch.h"

namespace defib::process::shim {
namespace {

constexpr size_t kMaxPath = 640;
constexpr int kTreePart = 0, kMemoryPart = 1, kPidsPart = 2, kFreezerPart = 3;

void join(char* to, size_t capacity, const char* directory, const char* name) {
  to[0] = 0;
  append_text(to, capacity, directory);
  append_text(to, capacity, "/");
  append_text(to, capacity, name);
}

int write_text(const char* directory, const char* file, const char* text) {
  char path[kMaxPath];
  join(path, sizeof path, directory, file);
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const ssize_t put = write(fd, text, strlen(text));
  const int failed = put < 0 ? errno : 0;
  close(fd);
  return failed;
}

int write_number(const char* directory, const char* file, uint64_t number) {
  char text[24] = {};
  append_number(text, sizeof text, number);
  return write_text(directory, file, text);
}

// The number after "KEY " at the beginning of a line; false where there is no such line.
bool find_field(const char* text, const char* key, uint64_t* value) {
  const size_t size = strlen(key);
  for (const char* line = text; line != nullptr && *line != 0;) {
    if (strncmp(line, key, size) == 0 && line[size] == ' ') {
      return parse_number(line + size + 1, value) != nullptr;
    }
    const char* end = find_first(line, '\n');
    line = end != nullptr ? end + 1 : nullptr;
  }
  return false;
}

bool read_field(const char* directory, const char* file, const char* key, uint64_t* value) {
  char path[kMaxPath];
  char text[1024];
  join(path, sizeof path, directory, file);
  return read_small(path, text, sizeof text) > 0 && find_field(text, key, value);
}

// "wanted" stands in the text of /proc/PID/cgroup as a whole part of a path.
bool is_member(const char* text, const char* wanted) {
  const size_t size = strlen(wanted);
  for (; *text != 0; ++text) {
    if (*text != '/' || strncmp(text + 1, wanted, size) != 0) continue;
    const char next = text[1 + size];
    if (next == '\n' || next == '/' || next == 0) return true;
  }
  return false;
}

const char* last_part(const char* path) {
  const char* slash = find_last(path, '/');
  return slash != nullptr ? slash + 1 : path;
}

// Kills a process that is in a group of this name, and no other that got its number.
void kill_member(pid_t pid, const char* group_name) {
  const int pidfd = pidfd_open(pid);
  if (pidfd < 0) return;
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(pid));
  append_text(path, sizeof path, "/cgroup");
  char text[4096];
  if (read_small(path, text, sizeof text) > 0 && is_member(text, group_name)) {
    pidfd_send(pidfd, SIGKILL);
  }
  close(pidfd);
}

// "PREFIX12" is 12; 0 where the name does not begin so.
uint64_t generation_of(const char* name, const char* prefix) {
  const size_t size = strlen(prefix);
  uint64_t generation = 0;
  if (strncmp(name, prefix, size) != 0) return 0;
  const char* end = parse_number(name + size, &generation);
  return end != nullptr && *end == 0 ? generation : 0;
}

struct DirectoryEntry {  // struct linux_dirent64
  uint64_t inode;
  int64_t next;
  uint16_t size;
  uint8_t type;
  char name[];
};

using Visit = void (*)(const char* parent, const char* name, void* context);
void for_each_entry(const char* directory, Visit visit, void* context) {
  const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  alignas(8) char buffer[4096];
  long size;
  while ((size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + at);
      visit(directory, entry->name, context);
      at += entry->size;
    }
  }
  close(fd);
}

// With the groups that a service made in its own, up to a depth that none needs.
int remove_directory(const char* path, int depth = 0) {
  constexpr int kMaxDepth = 4;
  if (syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) == 0) return 0;
  const int failed = errno;
  if (depth == kMaxDepth || failed == ENOENT) return failed;
  struct Context {
    int depth;
    int removed;
  } context = {depth, 0};
  for_each_entry(
      path,
      [](const char* parent, const char* name, void* given) {
        auto& below = *static_cast<Context*>(given);
        if (name[0] == '.' || find_first(name, '.') != nullptr) return;  // files have dots
        char child[kMaxPath];
        join(child, sizeof child, parent, name);
        below.removed += remove_directory(child, below.depth + 1) == 0 ? 1 : 0;
      },
      &context);
  if (context.removed == 0) return failed;
  return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) == 0 ? 0 : errno;
}

}  // namespace

bool Cgroup::make_one(const char* parent, const char* name, char* path, int* enter_fd,
                      int* error) const {
  if (strlen(parent) + strlen(name) + 2 > kPath) {
    *error = ENAMETOOLONG;
    return false;
  }
  join(path, kPath, parent, name);
  int made = mkdir(path, 0755);
  if (made != 0 && errno == ENOENT) {
    // Another supervisor left, and took the empty directory of all groups with it.
    mkdir(parent, 0755);
    made = mkdir(path, 0755);
  }
  if (made != 0 && errno != EEXIST) {
    *error = errno;
  } else {
    char procs[kMaxPath];
    join(procs, sizeof procs, path, "cgroup.procs");
    *enter_fd = open(procs, O_WRONLY | O_CLOEXEC);
    if (*enter_fd >= 0) return true;
    *error = errno;
    remove_directory(path);
  }
  path[0] = 0;
  return false;
}

void Cgroup::make(const Launch& launch, uint64_t generation, int* refused) {
  forget();
  for (uint32_t i = 0; i < kStartStages; ++i) refused[i] = 0;
  if (launch.text(LaunchText::kGroup)[0] == 0) return;
  char name[160] = {};
  append_text(name, sizeof name, launch.text(LaunchText::kGroup));
  append_number(name, sizeof name, generation);
  const LaunchHeader& header = launch.header();
  int* const group_error = &refused[static_cast<int>(StartStage::kControlGroup)];
  int* const memory_error = &refused[static_cast<int>(StartStage::kMemoryLimit)];
  int* const pids_error = &refused[static_cast<int>(StartStage::kProcessLimit)];

  const char* parent = launch.text(LaunchText::kTreeDir);
  if (parent[0] != 0 && make_one(parent, name, tree_, &enter_fds_[kTreePart], group_error)) {
    tree_fd_ = open(tree_, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char path[kMaxPath];
    join(path, sizeof path, tree_, "cgroup.events");
    events_fd_ = open(path, O_RDONLY | O_CLOEXEC);
  }
  memory_in_tree_ = tree_[0] != 0 && launch.sets(kMemoryInTree);
  pids_in_tree_ = tree_[0] != 0 && launch.sets(kPidsInTree);
  if (header.memory_limit_bytes != 0) {
    parent = launch.text(LaunchText::kMemoryDir);
    if (memory_in_tree_) {
      *memory_error = write_number(tree_, "memory.max", header.memory_limit_bytes);
      write_text(tree_, "memory.oom.group", "1");
    } else if (parent[0] != 0 &&
               make_one(parent, name, memory_, &enter_fds_[kMemoryPart], memory_error)) {
      *memory_error = write_number(memory_, "memory.limit_in_bytes", header.memory_limit_bytes);
    }
  }
  parent = launch.text(LaunchText::kPidsDir);
  if (parent[0] != 0 && !pids_in_tree_ && (header.max_processes != 0 || tree_[0] == 0)) {
    make_one(parent, name, pids_, &enter_fds_[kPidsPart],
             header.max_processes != 0 ? pids_error : group_error);
  }
  if (header.max_processes != 0 && (pids_in_tree_ || pids_[0] != 0)) {
    *pids_error = write_number(pids_in_tree_ ? tree_ : pids_, "pids.max", header.max_processes);
  }
  // The last resort to end everything at once.
  parent = launch.text(LaunchText::kFreezerDir);
  if (parent[0] != 0 && tree_[0] == 0 && pids_[0] == 0) {
    make_one(parent, name, freezer_, &enter_fds_[kFreezerPart], group_error);
  }
}

void Cgroup::adopt(const Launch& launch, pid_t pid) {
  const char* prefix = launch.text(LaunchText::kGroup);
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(pid));
  append_text(path, sizeof path, "/cgroup");
  char text[4096];
  if (exists() || prefix[0] == 0 || read_small(path, text, sizeof text) <= 0) return;
  const struct {
    LaunchText parent;
    char* path;
  } parts[] = {{LaunchText::kTreeDir, tree_},
               {LaunchText::kMemoryDir, memory_},
               {LaunchText::kPidsDir, pids_},
               {LaunchText::kFreezerDir, freezer_}};
  for (const char* line = text; line != nullptr && *line != 0;) {
    // "4:memory:/path/NAME-HASH-GENERATION"
    const char* end = find_first(line, '\n');
    const size_t size = end != nullptr ? static_cast<size_t>(end - line) : strlen(line);
    char one[kMaxPath] = {};
    if (size < sizeof one) memcpy(one, line, size);
    const char* name = last_part(one);
    const char* at = find_first(one, ':');
    line = end != nullptr ? end + 1 : nullptr;
    if (at == nullptr || generation_of(name, prefix) == 0) continue;
    const char* const controllers = at + 1;
    const int part = controllers[0] == ':'                     ? kTreePart
                     : strncmp(controllers, "memory", 6) == 0  ? kMemoryPart
                     : strncmp(controllers, "pids", 4) == 0    ? kPidsPart
                     : strncmp(controllers, "freezer", 7) == 0 ? kFreezerPart
                                                               : -1;
    if (part < 0 || launch.text(parts[part].parent)[0] == 0) continue;
    join(parts[part].path, kPath, launch.text(parts[part].parent), name);
    // The supervisor may live elsewhere by now, with another place for groups.
    struct stat info;
    const int fd = open(parts[part].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) parts[part].path[0] = 0;
    if (fd >= 0) close(fd);
  }
  memory_in_tree_ = tree_[0] != 0 && launch.sets(kMemoryInTree);
  pids_in_tree_ = tree_[0] != 0 && launch.sets(kPidsInTree);
}

void Cgroup::enter(bool in_tree, volatile int* refused) const {
  constexpr StartStage kStages[] = {StartStage::kControlGroup, StartStage::kMemoryLimit,
                                    StartStage::kProcessLimit, StartStage::kControlGroup};
  for (int part = in_tree ? 1 : 0; part < 4; ++part) {
    if (enter_fds_[part] < 0) continue;
    if (write(enter_fds_[part], "0", 1) < 0) refused[static_cast<int>(kStages[part])] = errno;
  }
}

void Cgroup::close_start() {
  for (int& fd : enter_fds_) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  if (tree_fd_ >= 0) close(tree_fd_);
  tree_fd_ = -1;
}

// One pass over a group's processes.
void Cgroup::kill_listed(const char* group) const {
  char path[kMaxPath];
  join(path, sizeof path, group, "cgroup.procs");
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  // A number may be cut by the end of one read: it is completed by the next.
  static char text[4096];
  size_t kept = 0;
  ssize_t size;
  while ((size = read(fd, text + kept, sizeof text - 1 - kept)) > 0) {
    text[kept + static_cast<size_t>(size)] = 0;
    const char* at = text;
    while (const char* end = find_first(at, '\n')) {
      uint64_t pid = 0;
      if (parse_number(at, &pid) != nullptr) {
        kill_member(static_cast<pid_t>(pid), last_part(group));
      }
      at = end + 1;
    }
    kept = strlen(at);
    memmove(text, at, kept);
  }
  close(fd);
}

bool Cgroup::tree_populated(bool* populated) const {
  uint64_t value = 0;
  char text[256];
  const ssize_t size = events_fd_ >= 0 ? pread(events_fd_, text, sizeof text - 1, 0) : 0;
  if (size > 0) text[size] = 0;
  if (size > 0 ? !find_field(text, "populated", &value)
               : !read_field(tree_, "cgroup.events", "populated", &value)) {
    return false;
  }
  *populated = value != 0;
  return true;
}

bool Cgroup::populated() const {
  const char* const group = tree_[0] != 0 ? tree_ : pids_[0] != 0 ? pids_ : freezer_;
  if (group[0] == 0) return false;
  bool known = false;
  if (tree_[0] != 0 && tree_populated(&known)) return known;
  char path[kMaxPath];
  char text[32];
  join(path, sizeof path, group, "cgroup.procs");
  return read_small(path, text, sizeof text) > 0;
}

bool Cgroup::kill_all() {
  if (!holds_all()) return false;
  if (!populated()) return true;
  if (tree_[0] != 0 && write_text(tree_, "cgroup.kill", "1") == 0) return true;  // Linux 5.14
  // Nobody may be added while they are counted off: by a limit of none, or by standing still.
  constexpr int kPasses = 16;
  const bool limited = pids_[0] != 0 && write_text(pids_, "pids.max", "0") == 0;
  const bool frozen = tree_[0] != 0      ? write_text(tree_, "cgroup.freeze", "1") == 0
                      : freezer_[0] != 0 ? write_text(freezer_, "freezer.state", "FROZEN") == 0
                                         : false;
  const char* const group = tree_[0] != 0 ? tree_ : pids_[0] != 0 ? pids_ : freezer_;
  for (int pass = 0; pass < kPasses && populated(); ++pass) {
    kill_listed(group);
    if (frozen && freezer_[0] != 0 && tree_[0] == 0) {
      write_text(freezer_, "freezer.state", "THAWED");  // Version 1 dies only when it moves.
    }
    if (!limited && !frozen) usleep(1000);
  }
  if (frozen && tree_[0] != 0) write_text(tree_, "cgroup.freeze", "0");
  return true;
}

uint32_t Cgroup::oom_kills() const {
  uint64_t count = 0;
  if (memory_in_tree_) {
    read_field(tree_, "memory.events", "oom_kill", &count);
  } else if (memory_[0] != 0) {
    read_field(memory_, "memory.oom_control", "oom_kill", &count);
  }
  return static_cast<uint32_t>(count);
}

int Cgroup::watch_memory() {
  if (memory_event_fd_ >= 0) close(memory_event_fd_);
  memory_event_fd_ = -1;
  char path[kMaxPath];
  if (memory_in_tree_) {
    join(path, sizeof path, tree_, "memory.events");
    memory_event_fd_ = open(path, O_RDONLY | O_CLOEXEC);
    memory_is_eventfd_ = false;
    drain_memory();  // Only what was read once tells of changes.
    return memory_event_fd_;
  }
  if (memory_[0] == 0) return -1;
  join(path, sizeof path, memory_, "memory.oom_control");
  const int control = open(path, O_RDONLY | O_CLOEXEC);
  const int event = static_cast<int>(syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
  char text[48] = {};
  append_number(text, sizeof text, static_cast<uint64_t>(event));
  append_text(text, sizeof text, " ");
  append_number(text, sizeof text, static_cast<uint64_t>(control));
  const bool asked =
      control >= 0 && event >= 0 && write_text(memory_, "cgroup.event_control", text) == 0;
  if (control >= 0) close(control);
  if (!asked) {
    if (event >= 0) close(event);
    return -1;
  }
  memory_event_fd_ = event;
  memory_is_eventfd_ = true;
  return event;
}

void Cgroup::drain_memory() const {
  if (memory_event_fd_ < 0) return;
  char text[1024];
  const size_t size = memory_is_eventfd_ ? 8 : sizeof text;
  [[maybe_unused]] const ssize_t got = memory_is_eventfd_ ? read(memory_event_fd_, text, size)
                                                          : pread(memory_event_fd_, text, size, 0);
}

bool Cgroup::forget() {
  bool removed = true;
  for (char* path : {tree_, memory_, pids_, freezer_}) {
    if (path[0] == 0) continue;
    const int failed = remove_directory(path);  // Where one still dies, sweep() comes for it.
    removed = removed && (failed == 0 || failed == ENOENT);
  }
  leave();
  return removed;
}

void Cgroup::leave() {
  close_start();
  for (int* fd : {&memory_event_fd_, &events_fd_}) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
  for (char* path : {tree_, memory_, pids_, freezer_}) path[0] = 0;
  memory_in_tree_ = pids_in_tree_ = false;
}

bool Cgroup::sweep(const Launch& launch, uint64_t first_kept) {
  struct Context {
    const char* prefix;
    uint64_t first_kept;
    LaunchText part;
    bool removed;
  } context = {launch.text(LaunchText::kGroup), first_kept, LaunchText::kTreeDir, true};
  if (context.prefix[0] == 0) return true;
  for (const LaunchText part : {LaunchText::kTreeDir, LaunchText::kPidsDir, LaunchText::kFreezerDir,
                                LaunchText::kMemoryDir}) {
    context.part = part;
    if (launch.text(part)[0] == 0) continue;
    for_each_entry(
        launch.text(part),
        [](const char* parent, const char* name, void* given) {
          auto& wanted = *static_cast<Context*>(given);
          const uint64_t generation = generation_of(name, wanted.prefix);
          if (generation == 0 || generation >= wanted.first_kept) return;
          static Cgroup left;
          char* const path = wanted.part == LaunchText::kTreeDir      ? left.tree_
                             : wanted.part == LaunchText::kPidsDir    ? left.pids_
                             : wanted.part == LaunchText::kFreezerDir ? left.freezer_
                                                                      : left.memory_;
          join(path, kPath, parent, name);
          left.kill_all();
          wanted.removed = left.forget() && wanted.removed;
        },
        &context);
  }
  return context.removed;
}

bool Cgroup::any_left(const Launch& launch) {
  struct Context {
    const char* prefix;
    bool found;
  } context = {launch.text(LaunchText::kGroup), false};
  for (const LaunchText part : {LaunchText::kTreeDir, LaunchText::kPidsDir, LaunchText::kFreezerDir,
                                LaunchText::kMemoryDir}) {
    if (context.prefix[0] == 0 || launch.text(part)[0] == 0) continue;
    for_each_entry(
        launch.text(part),
        [](const char*, const char* name, void* given) {
          auto& wanted = *static_cast<Context*>(given);
          wanted.found = wanted.found || generation_of(name, wanted.prefix) != 0;
        },
        &context);
  }
  return context.found;
}

namespace {

constexpr size_t kMaxKnown = 16384;

// Appends the children of `parent` to the list; false where there is no room.
bool add_children(pid_t parent, pid_t* known, size_t* count) {
  char path[64] = "/proc/";
  append_number(path, sizeof path, static_cast<uint64_t>(parent));
  append_text(path, sizeof path, "/task");
  struct Context {
    pid_t* known;
    size_t* count;
    bool full;
  } context = {known, count, false};
  for_each_entry(
      path,
      [](const char* directory, const char* name, void* given) {
        if (name[0] == '.') return;
        auto& found = *static_cast<Context*>(given);
        char children[kMaxPath];
        join(children, sizeof children, directory, name);
        append_text(children, sizeof children, "/children");
        static char text[65536];
        if (read_small(children, text, sizeof text) <= 0) return;
        const char* at = text;
        uint64_t number = 0;
        while ((at = parse_number(at, &number)) != nullptr) {
          if (*found.count == kMaxKnown) {
            found.full = true;
            return;
          }
          found.known[(*found.count)++] = static_cast<pid_t>(number);
          while (*at == ' ') ++at;
        }
      },
      &context);
  return !context.full;
}

bool is_spared(pid_t pid, const pid_t* spared, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (spared[i] == pid) return true;
  }
  return false;
}

}  // namespace

void kill_descendants(pid_t ancestor, const pid_t* spared, size_t spared_count) {
  static pid_t known[kMaxKnown];  // untouched pages cost nothing
  constexpr int kRounds = 64;
  size_t count = 0;
  uint64_t sum_before = 0;
  for (int round = 0; round < kRounds; ++round) {
    uint64_t sum = 0;
    count = 0;
    add_children(ancestor, known, &count);
    for (size_t i = 0; i < count; ++i) {
      if (is_spared(known[i], spared, spared_count)) continue;
      // One that stands still starts no further ones, and keeps its place in the limit.
      kill(known[i], SIGSTOP);
      sum = sum * 31 + static_cast<uint64_t>(known[i]);
      if (!add_children(known[i], known, &count)) break;
    }
    if (sum == sum_before) break;  // The same as when all of them were told to stop.
    sum_before = sum;
  }
  for (size_t i = 0; i < count; ++i) {
    if (!is_spared(known[i], spared, spared_count)) kill(known[i], SIGKILL);
  }
}

}  // namespace defib::process::shim
