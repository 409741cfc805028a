#include "defib/postmortem/raw_copy_sigsafe.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace defib::postmortem::raw {
namespace {

// A process that starts threads while it is being stopped is caught in a few rounds.
constexpr int kMaxStopRounds = 16;
constexpr long kStopPollNs = 20'000;
constexpr int kQuickPolls = 20;  // a thread that sleeps or runs stops within microseconds
constexpr int64_t kReapTimeoutNs = 1'000'000'000;
constexpr size_t kRedZone = 128;  // below the stack pointer (System V ABI, 3.2.2)
constexpr size_t kLockBytes = 64;
constexpr size_t kCodeBytes = 192;  // half of them before the fault
constexpr size_t kPage = 4096;
constexpr size_t kMaxVdso = 64 * 1024;
constexpr size_t kMaxMaps = 16u << 20;
constexpr size_t kMaxFile = 256u << 10;
constexpr size_t kMaxInfo = 1024;
constexpr size_t kMaxPath = 4096;
constexpr size_t kMaxName = 64;
constexpr size_t kMaxLinked = 512;  // libraries in the link map

// DWARF numbers (crash_page.h) and places in NT_PRSTATUS.
#if defined(__x86_64__)
constexpr size_t kDwarfSp = 7, kSetSp = 19, kSetPc = 16, kSetCall = 15, kSetArgument = 14;
#elif defined(__aarch64__)
constexpr size_t kDwarfSp = 31, kSetSp = 31, kSetPc = 32, kSetCall = 8, kSetArgument = 0;
#else
#error "postmortem knows x86-64 and AArch64"
#endif
constexpr size_t kDwarfPc = 32;

class Text {
 public:
  Text& add(const char* text) {
    while (*text != 0 && size_ + 1 < sizeof text_) text_[size_++] = *text++;
    text_[size_] = 0;
    return *this;
  }
  Text& add(uint64_t number, unsigned base = 10) {
    char digits[24];
    size_t count = 0;
    do {
      const unsigned digit = static_cast<unsigned>(number % base);
      digits[count++] = static_cast<char>(digit < 10 ? '0' + digit : 'a' + digit - 10);
      number /= base;
    } while (number != 0);
    while (count > 0 && size_ + 1 < sizeof text_) text_[size_++] = digits[--count];
    text_[size_] = 0;
    return *this;
  }
  const char* get() const { return text_; }
  size_t size() const { return size_; }

 private:
  char text_[256] = {};
  size_t size_ = 0;
};

Text proc_path(pid_t pid, const char* rest) {
  Text path;
  path.add("/proc/").add(static_cast<uint64_t>(pid)).add("/").add(rest);
  return path;
}
Text task_path(pid_t pid, pid_t tid, const char* rest) {
  Text path = proc_path(pid, "task/");
  path.add(static_cast<uint64_t>(tid)).add("/").add(rest);
  return path;
}

long trace(long request, pid_t tid, long address, long data) {
  return syscall(SYS_ptrace, request, tid, address, data);
}
int open_file(const char* path, int flags = O_RDONLY | O_CLOEXEC) {
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, 0));
}
void close_file(int fd) {
  if (fd >= 0) syscall(SYS_close, fd);
}
ssize_t read_some(int fd, void* to, size_t size) {
  return syscall(SYS_read, fd, to, size);
}
pid_t wait_for(pid_t tid, int* status, int options) {
  return static_cast<pid_t>(syscall(SYS_wait4, tid, status, options, nullptr));
}
void sleep_ns(long ns) {
  const timespec pause = {0, ns};
  syscall(SYS_nanosleep, &pause, nullptr);
}
const char* reason(int error_number) {
  switch (error_number) {
    case EACCES:
    case EPERM: return "it is not permitted";
    case ENOENT:
    case ESRCH: return "it is gone";
    case EMFILE:
    case ENFILE: return "too many files are open";
    default: return "the kernel refused it";
  }
}

// The whole of a small file; the size, or -errno.
ssize_t read_whole(const char* path, char* to, size_t max, bool* cut = nullptr) {
  const int fd = open_file(path);
  if (fd < 0) return -errno;
  size_t size = 0;
  ssize_t got = 0;
  while (size < max && (got = read_some(fd, to + size, max - size)) > 0) {
    size += static_cast<size_t>(got);
  }
  const int failed = errno;
  if (cut != nullptr) *cut = got > 0;
  close_file(fd);
  return got < 0 && size == 0 ? -failed : static_cast<ssize_t>(size);
}

bool parse_number(const char* text, int64_t* value) {
  if (*text < '0' || *text > '9') return false;
  *value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) {
    if (*value > INT32_MAX) return false;
    *value = *value * 10 + (*text - '0');
  }
  return *text == 0;
}

// Calls `use` with each name in the directory that is a number; ends where it returns false.
template <typename Use>
bool for_each_number(const char* path, Use use) {
  struct Entry {  // struct linux_dirent64
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
  };
  const int fd = open_file(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  alignas(8) char entries[4096];
  bool more = true;
  while (more) {
    const long size = syscall(SYS_getdents64, fd, entries, sizeof entries);
    if (size <= 0) break;
    for (long at = 0; at < size && more;) {
      const Entry* entry = reinterpret_cast<const Entry*>(entries + at);
      at += entry->size;
      int64_t number = 0;
      if (parse_number(entry->name, &number)) more = use(static_cast<int>(number));
    }
  }
  close_file(fd);
  return true;
}

struct Map {
  uint64_t start, end;
  bool readable, executable, deleted;
  const char* path;
  size_t path_size;
};

uint64_t parse_hex(const char*& at, const char* end) {
  uint64_t value = 0;
  for (; at < end; ++at) {
    const unsigned digit = *at >= '0' && *at <= '9'   ? static_cast<unsigned>(*at - '0')
                           : *at >= 'a' && *at <= 'f' ? static_cast<unsigned>(*at - 'a' + 10)
                                                      : 16u;
    if (digit == 16) break;
    value = value << 4 | digit;
  }
  return value;
}

// The next line of /proc/PID/maps; false at its end.
bool next_map(const char*& at, const char* end, Map* map) {
  while (at < end) {
    const char* line = at;
    const char* stop = at;
    while (stop < end && *stop != '\n') ++stop;
    at = stop < end ? stop + 1 : end;
    map->start = parse_hex(line, stop);
    if (line >= stop || *line++ != '-') continue;
    map->end = parse_hex(line, stop);
    if (stop - line < 6) continue;
    map->readable = line[1] == 'r';
    map->executable = line[3] == 'x';
    ++line;
    for (int word = 0; word < 4; ++word) {  // permissions, offset, device, inode
      while (line < stop && *line != ' ') ++line;
      while (line < stop && *line == ' ') ++line;
    }
    map->path = line;
    map->path_size = static_cast<size_t>(stop - line);
    constexpr char kDeleted[] = " (deleted)";
    constexpr size_t kSize = sizeof kDeleted - 1;
    map->deleted = map->path_size > kSize && memcmp(stop - kSize, kDeleted, kSize) == 0;
    if (map->deleted) map->path_size -= kSize;
    return true;
  }
  return false;
}

class Copier {
 public:
  Copier(Buffer& buffer, pid_t pid, const CopyOptions& options)
      : buffer_(buffer), pid_(pid), options_(options) {}
  void threads(const Stopped& stopped);
  void maps();
  void stacks();
  void modules();
  void link_map();
  void names(const Stopped& stopped);
  bool late(const char* what) {
    if (mono_ns() < options_.deadline_ns) return false;
    buffer_.gap(Kind::kGap, what, -1, "there was no time left");
    return true;
  }

 private:
  void memory(Kind kind, uint64_t address, size_t size);
  void stack(uint64_t sp, size_t max);
  void module_file(const Map& map);
  uint64_t word_at(uint64_t address) {
    uint64_t value = 0;
    return read_memory(pid_, address, &value, sizeof value) == sizeof value ? value : 0;
  }

  Buffer& buffer_;
  pid_t pid_;
  const CopyOptions& options_;
  const char* maps_ = nullptr;
  const char* maps_end_ = nullptr;
};

void Copier::memory(Kind kind, uint64_t address, size_t size) {
  char* to = buffer_.begin(kind, 0, address, size);
  if (to != nullptr) buffer_.finish(read_memory(pid_, address, to, size));
}

void Copier::threads(const Stopped& stopped) {
  for (size_t i = 0; i < stopped.count(); ++i) {
    char* to = buffer_.begin(Kind::kThread, stopped.tid(i), 0, 1024);
    if (to == nullptr) return;
    iovec set = {to, 1024};
    const bool read = trace(PTRACE_GETREGSET, stopped.tid(i), NT_PRSTATUS,
                            reinterpret_cast<long>(&set)) == 0;
    buffer_.finish(read ? set.iov_len : 0);
    if (!read) buffer_.gap(Kind::kGap, "the registers of thread", stopped.tid(i), "it is gone");
  }
}

void Copier::maps() {
  char* to = buffer_.begin(Kind::kFile, static_cast<int32_t>(File::kMaps), 0, kMaxMaps);
  if (to == nullptr) return;
  bool cut = false;
  const ssize_t size = read_whole(proc_path(pid_, "maps").get(), to, kMaxMaps, &cut);
  buffer_.finish(size > 0 ? static_cast<size_t>(size) : 0);
  if (size <= 0) return buffer_.gap(Kind::kGap, "the mappings", -1, "they could not be read");
  if (cut) buffer_.gap(Kind::kGap, "the mappings", -1, "cut: there are too many");
  maps_ = to;
  maps_end_ = to + size;
}

// With the stack pointer in a guard page, as after an overflow, the stack begins at the next
// mapping that can be read.
void Copier::stack(uint64_t sp, size_t max) {
  const char* at = maps_;
  Map map;
  while (next_map(at, maps_end_, &map)) {
    if (map.end <= sp || !map.readable) continue;
    const uint64_t below = sp > kRedZone ? sp - kRedZone : 0;
    const uint64_t start = below > map.start ? below : map.start;
    const uint64_t size = map.end - start;
    return memory(Kind::kMemory, start, size < max ? static_cast<size_t>(size) : max);
  }
}

void Copier::stacks() {
  const pid_t crashed = buffer_.header().crashed_tid;
  if (crashed != 0 && options_.crashed_registers != nullptr) {
    stack(options_.crashed_registers[kDwarfSp], options_.crashed_stack_bytes);
  }
  // The records of the threads lie first of all; the buffer grows behind them.
  const size_t records_end = buffer_.size();
  for (size_t at = sizeof(Header); at + sizeof(Record) <= records_end;) {
    Record record;
    memcpy(&record, buffer_.bytes() + at, sizeof record);
    const char* set = buffer_.bytes() + at + sizeof record;
    at += sizeof record + (record.size + 7) / 8 * 8;
    if (record.kind != Kind::kThread || record.size < (kSetSp + 1) * 8) continue;
    const bool is_crashed = record.number == crashed;
    if (is_crashed && options_.crashed_registers != nullptr) continue;
    if (!is_crashed && late("the stacks of some threads")) return;
    uint64_t sp, call, argument;
    memcpy(&sp, set + kSetSp * 8, 8);
    memcpy(&call, set + kSetCall * 8, 8);
    memcpy(&argument, set + kSetArgument * 8, 8);
    stack(sp, is_crashed ? options_.crashed_stack_bytes : options_.stack_bytes);
    if (call == SYS_futex && argument != 0) memory(Kind::kMemory, argument, kLockBytes);
  }
}

// A file that was removed or replaced is opened now, through the mapping itself.
void Copier::module_file(const Map& map) {
  Text path = proc_path(pid_, "map_files/");
  path.add(map.start, 16).add("-").add(map.end, 16);
  const int fd = open_file(path.get(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (fd >= 0) buffer_.add(Kind::kModuleFile, fd, map.start, nullptr, 0);
}

// The first page of each file of which a part is executable, all in one call.
void Copier::modules() {
  Header& header = buffer_.header();
  header.exe_fd = open_file(proc_path(pid_, "exe").get(), O_RDONLY | O_NONBLOCK);
  header.root_fd = open_file(proc_path(pid_, "root").get(), O_PATH | O_DIRECTORY);
  constexpr size_t kBatch = 64;
  iovec to[kBatch], from[kBatch];
  size_t count = 0, total = 0;
  const auto flush = [&] {
    if (count == 0) return;
    const long got = syscall(SYS_process_vm_readv, pid_, to, count, from, count, 0);
    if (got != static_cast<long>(count * kPage)) {
      for (size_t i = 0; i < count; ++i) {
        const auto address = reinterpret_cast<uint64_t>(from[i].iov_base);
        if (read_memory(pid_, address, to[i].iov_base, kPage) < kPage) {
          memset(to[i].iov_base, 0, kPage);
        }
      }
    }
    count = 0;
  };
  const char* at = maps_;
  Map map, first = {};
  bool found = false;  // `first` is a file of which nothing executable was seen yet
  while (next_map(at, maps_end_, &map) && total < kMaxModules) {
    constexpr char kVdso[] = "[vdso]";
    if (map.path_size == sizeof kVdso - 1 && memcmp(map.path, kVdso, sizeof kVdso - 1) == 0) {
      if (map.end - map.start <= kMaxVdso) {
        memory(Kind::kModule, map.start, static_cast<size_t>(map.end - map.start));
      }
      continue;
    }
    if (map.path_size == 0 || map.path[0] != '/') continue;
    const bool same = first.path != nullptr && first.path_size == map.path_size &&
                      memcmp(first.path, map.path, map.path_size) == 0;
    if (!same) {
      first = map;
      found = true;
    }
    if (!found || !map.executable || !first.readable) continue;
    found = false;
    ++total;
    char* page = buffer_.begin(Kind::kModule, 0, first.start, kPage);
    if (page == nullptr) break;
    buffer_.finish(kPage);
    to[count] = {page, kPage};
    from[count] = {reinterpret_cast<void*>(first.start), kPage};
    if (first.deleted) module_file(first);
    if (++count == kBatch) flush();
  }
  flush();
  if (total == kMaxModules) buffer_.gap(Kind::kGap, "some modules", -1, "there are too many");
}

// What a debugger finds the libraries by: the program's headers and dynamic section, the dynamic
// linker's list, and the names in it (glibc's link.h). Every step may meet anything.
void Copier::link_map() {
  alignas(8) char auxv[1024];
  const ssize_t size = read_whole(proc_path(pid_, "auxv").get(), auxv, sizeof auxv);
  if (size <= 0) return;
  buffer_.add(Kind::kFile, static_cast<int32_t>(File::kAuxv), 0, auxv, static_cast<size_t>(size));
  uint64_t headers = 0, count = 0;
  for (ssize_t at = 0; at + 16 <= size; at += 16) {
    uint64_t pair[2];
    memcpy(pair, auxv + at, sizeof pair);
    if (pair[0] == AT_PHDR) headers = pair[1];
    if (pair[0] == AT_PHNUM) count = pair[1];
  }
  constexpr size_t kMaxHeaders = 64;
  if (headers == 0 || count > kMaxHeaders) return;
  memory(Kind::kMemory, headers & ~uint64_t{kPage - 1}, kPage);
  Elf64_Phdr table[kMaxHeaders];
  if (read_memory(pid_, headers, table, count * sizeof(Elf64_Phdr)) == 0) return;
  uint64_t bias = 0, dynamic = 0, dynamic_size = 0;
  for (size_t i = 0; i < count; ++i) {
    if (table[i].p_type == PT_PHDR) bias = headers - table[i].p_vaddr;
    if (table[i].p_type == PT_DYNAMIC) {
      dynamic = table[i].p_vaddr;
      dynamic_size = table[i].p_memsz;
    }
  }
  constexpr uint64_t kMaxDynamic = 8192;
  if (dynamic == 0 || dynamic_size > kMaxDynamic) return;
  dynamic += bias;
  memory(Kind::kMemory, dynamic, static_cast<size_t>(dynamic_size));
  uint64_t debug = 0;
  for (uint64_t at = 0; at + 16 <= dynamic_size && debug == 0; at += 16) {
    uint64_t entry[2] = {};
    if (read_memory(pid_, dynamic + at, entry, sizeof entry) != sizeof entry) return;
    if (entry[0] == DT_DEBUG) debug = entry[1];
    if (entry[0] == DT_NULL) break;
  }
  if (debug == 0) return;
  memory(Kind::kMemory, debug, 40);        // struct r_debug
  uint64_t node = word_at(debug + 8);      // r_map
  for (size_t i = 0; i < kMaxLinked && node != 0; ++i) {
    uint64_t link[5] = {};  // l_addr, l_name, l_ld, l_next, l_prev
    if (read_memory(pid_, node, link, sizeof link) != sizeof link) return;
    buffer_.add(Kind::kMemory, 0, node, link, sizeof link);
    // As far as the page goes, where the name lies at the end of memory.
    const uint64_t left = kPage - (link[1] & (kPage - 1));
    memory(Kind::kMemory, link[1], left < 256 ? static_cast<size_t>(left) : 256);
    node = link[3];
  }
}

void Copier::names(const Stopped& stopped) {
  for (size_t i = 0; i < stopped.count(); ++i) {
    if (late("the names of some threads")) return;
    char name[kMaxName];
    const ssize_t size =
        read_whole(task_path(pid_, stopped.tid(i), "comm").get(), name, sizeof name);
    if (size > 0) {
      buffer_.add(Kind::kThreadName, stopped.tid(i), 0, name, static_cast<size_t>(size));
    }
  }
}

// The thread's number as we see it, which in another pid namespace is not the one that it sees.
pid_t find_crashed(pid_t pid, const Stopped& stopped, pid_t reported) {
  if (reported == 0 || stopped.holds(reported)) return reported;
  for (size_t i = 0; i < stopped.count(); ++i) {
    if (status_number(pid, stopped.tid(i), "NSpid") == reported) return stopped.tid(i);
  }
  return 0;
}

void copy_link(Buffer& buffer, pid_t pid, const char* name, File which) {
  char target[kMaxPath];
  const long size = syscall(SYS_readlinkat, AT_FDCWD, proc_path(pid, name).get(), target,
                            sizeof target);
  if (size > 0) {
    buffer.add(Kind::kFile, static_cast<int32_t>(which), 0, target, static_cast<size_t>(size));
  }
}

void copy_file(Buffer& buffer, pid_t pid, const char* name, File which, size_t max, int64_t until) {
  if (mono_ns() >= until) {
    return buffer.gap(Kind::kFactsGap, name, -1, "there was no time left");
  }
  char* to = buffer.begin(Kind::kFile, static_cast<int32_t>(which), 0, max);
  if (to == nullptr) return;
  bool cut = false;
  const ssize_t size = read_whole(proc_path(pid, name).get(), to, max, &cut);
  buffer.finish(size > 0 ? static_cast<size_t>(size) : 0);
  if (size < 0) return buffer.gap(Kind::kFactsGap, name, -1, reason(static_cast<int>(-size)));
  if (cut) buffer.gap(Kind::kFactsGap, name, -1, "cut: it is too long");
}

int socket_option(int fd, int level, int name) {
  int value = 0;
  unsigned size = sizeof value;
  return syscall(SYS_getsockopt, fd, level, name, &value, &size) == 0 ? value : -1;
}

// The process's own socket, held for a moment: while it is held, its port stays taken.
bool copy_socket(Buffer& buffer, int pidfd, int number) {
  constexpr int kSolSocket = 1, kType = 3, kAcceptConn = 30, kDomain = 39, kTcp = 6, kTcpInfo = 11;
  constexpr int kUnix = 1, kStream = 1;
  constexpr unsigned long kInQueue = 0x541B, kOutQueue = 0x5411;
  const long fd_or = syscall(SYS_pidfd_getfd, pidfd, number, 0);
  if (fd_or < 0) return false;
  const int fd = static_cast<int>(fd_or);
  Socket socket = {};
  socket.fd = number;
  socket.domain = socket_option(fd, kSolSocket, kDomain);
  socket.type = socket_option(fd, kSolSocket, kType);
  unsigned size = sizeof socket.local;
  if (syscall(SYS_getsockname, fd, socket.local, &size) == 0) socket.local_size = size;
  size = sizeof socket.remote;
  socket.connected = syscall(SYS_getpeername, fd, socket.remote, &size) == 0;
  if (socket.connected != 0) socket.remote_size = size;
  socket.tcp_state = -1;
  if (socket.type == kStream && socket.domain != kUnix) {
    unsigned char state = 0;  // the first field of struct tcp_info
    size = sizeof state;
    if (syscall(SYS_getsockopt, fd, kTcp, kTcpInfo, &state, &size) == 0) socket.tcp_state = state;
  }
  if (socket.tcp_state < 0) {
    socket.accepts = socket_option(fd, kSolSocket, kAcceptConn) == 1;
  }
  if (syscall(SYS_ioctl, fd, kInQueue, &socket.receive_queue) != 0) socket.receive_queue = 0;
  if (syscall(SYS_ioctl, fd, kOutQueue, &socket.send_queue) != 0) socket.send_queue = 0;
  close_file(fd);
  buffer.add(Kind::kSocket, number, 0, &socket, sizeof socket);
  return true;
}

// True where one of them is a socket that could not be asked.
bool copy_descriptors(Buffer& buffer, pid_t pid, int64_t until) {
  static int numbers[kMaxDescriptors];
  size_t count = 0;
  bool too_many = false;
  const bool listed = for_each_number(proc_path(pid, "fd").get(), [&](int number) {
    too_many = count == kMaxDescriptors;
    if (!too_many) numbers[count++] = number;
    return !too_many;
  });
  if (!listed) return buffer.gap(Kind::kFactsGap, "descriptors", -1, reason(errno)), false;
  if (too_many) {
    buffer.gap(Kind::kFactsGap, "descriptors: cut: more than", kMaxDescriptors, "there are more");
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  bool unasked = false;
  for (size_t i = 0; i < count; ++i) {
    if (mono_ns() >= until) {
      Text what;
      what.add("descriptors: cut: no time left after ").add(i).add(" of");
      buffer.gap(Kind::kFactsGap, what.get(), static_cast<int64_t>(count), "");
      break;
    }
    Text link = proc_path(pid, "fd/"), info = proc_path(pid, "fdinfo/");
    link.add(static_cast<uint64_t>(numbers[i]));
    info.add(static_cast<uint64_t>(numbers[i]));
    char* target = buffer.begin(Kind::kDescriptor, numbers[i], 0, kMaxPath);
    if (target == nullptr) break;
    const long size = syscall(SYS_readlinkat, AT_FDCWD, link.get(), target, kMaxPath);
    buffer.finish(size > 0 ? static_cast<size_t>(size) : 0);
    constexpr char kSocketLink[] = "socket:[";
    constexpr long kSocketSize = sizeof kSocketLink - 1;
    char text[kMaxInfo];
    const ssize_t got = read_whole(info.get(), text, sizeof text);
    if (got > 0) {
      buffer.add(Kind::kDescriptorInfo, numbers[i], 0, text, static_cast<size_t>(got));
    }
    if (size > kSocketSize && memcmp(target, kSocketLink, kSocketSize) == 0) {
      if (!copy_socket(buffer, pidfd, numbers[i])) unasked = true;
    }
  }
  close_file(pidfd);
  return unasked;
}

void copy_code(Buffer& buffer, pid_t pid, uint64_t pc) {
  char* to = buffer.begin(Kind::kCode, 0, 0, kCodeBytes);
  if (to == nullptr) return;
  uint64_t start = pc > kCodeBytes / 2 ? pc - kCodeBytes / 2 : 0;
  size_t size = read_memory(pid, start, to, kCodeBytes);
  if (size == 0) {
    // There may be nothing before the page of the fault.
    const uint64_t page = pc & ~uint64_t{kPage - 1};
    start = page > start ? page : start;
    size = read_memory(pid, start, to, kCodeBytes);
  }
  Record* record = reinterpret_cast<Record*>(to - sizeof(Record));
  record->address = start;
  buffer.finish(size);
}

}  // namespace

int64_t mono_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

size_t read_memory(pid_t pid, uint64_t address, void* to, size_t size) {
  const iovec local = {to, size};
  const iovec remote = {reinterpret_cast<void*>(address), size};
  const long got = syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0);
  return got > 0 ? static_cast<size_t>(got) : 0;
}

void for_each_thread(pid_t pid, void (*use)(void* context, pid_t tid), void* context) {
  for_each_number(proc_path(pid, "task").get(), [use, context](int tid) {
    use(context, tid);
    return true;
  });
}

pid_t status_number(pid_t pid, pid_t tid, const char* key) {
  char text[4096];
  const ssize_t size = read_whole(task_path(pid, tid, "status").get(), text, sizeof text - 1);
  if (size <= 0) return 0;
  text[size] = 0;
  const size_t key_size = strlen(key);
  for (const char* line = text; *line != 0;) {
    const char* end = line + strcspn(line, "\n");
    if (strncmp(line, key, key_size) == 0 && line[key_size] == ':') {
      pid_t value = 0;
      bool in_number = false;
      for (const char* at = line + key_size + 1; at < end; ++at) {
        const bool digit = *at >= '0' && *at <= '9';
        if (digit) value = in_number ? value * 10 + (*at - '0') : *at - '0';
        in_number = digit;
      }
      return value;
    }
    line = *end != 0 ? end + 1 : end;
  }
  return 0;
}

int Buffer::open() {
  fd_ = static_cast<int>(syscall(SYS_memfd_create, "defib-snapshot", 1 /* MFD_CLOEXEC */));
  if (fd_ < 0) return -errno;
  void* memory = MAP_FAILED;
  if (syscall(SYS_ftruncate, fd_, kMaxBytes) == 0) {
    memory = mmap(nullptr, kMaxBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_, 0);
  }
  if (memory == MAP_FAILED) {
    const int failed = -errno;
    close_file(fd_);
    fd_ = -1;
    return failed;
  }
  memory_ = static_cast<char*>(memory);
  size_ = sizeof(Header);
  header() = Header{};
  header().magic = kMagic;
  header().version = kVersion;
  header().root_fd = header().exe_fd = -1;
  header().size = size_;
  return 0;
}

void Buffer::close(bool and_file) {
  if (memory_ != nullptr) {
    munmap(memory_, kMaxBytes);
    memory_ = nullptr;
    if (!and_file) syscall(SYS_ftruncate, fd_, size_);
  }
  if (and_file) {
    close_file(fd_);
    fd_ = -1;
  }
}

char* Buffer::begin(Kind kind, int32_t number, uint64_t address, size_t max) {
  if (size_ + sizeof(Record) + max + 8 > kMaxBytes) return nullptr;
  const Record record = {kind, number, address, 0, 0};
  memcpy(memory_ + size_, &record, sizeof record);
  return memory_ + size_ + sizeof record;
}

void Buffer::finish(size_t used) {
  auto* record = reinterpret_cast<Record*>(memory_ + size_);
  record->size = static_cast<uint32_t>(used);
  size_ += sizeof(Record) + (used + 7) / 8 * 8;
  header().size = size_;
}

void Buffer::add(Kind kind, int32_t number, uint64_t address, const void* from, size_t size) {
  char* to = begin(kind, number, address, size);
  if (to == nullptr) return;
  if (size > 0) memcpy(to, from, size);
  finish(size);
}

void Buffer::gap(Kind kind, const char* what, int64_t number, const char* why) {
  Text text;
  text.add(what);
  if (number >= 0) text.add(" ").add(static_cast<uint64_t>(number));
  if (*why != 0) text.add(": ").add(why);
  add(kind, 0, 0, text.get(), text.size());
}

int Stopped::open(pid_t pid) {
  pid_ = pid;
  void* memory = mmap(nullptr, kMaxThreads * sizeof(Thread), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  threads_ = static_cast<Thread*>(memory);
  own_child_ = status_number(pid, pid, "PPid") == static_cast<pid_t>(syscall(SYS_getpid));
  return 0;
}

void Stopped::close() {
  release(0);
  if (threads_ != nullptr) munmap(threads_, kMaxThreads * sizeof(Thread));
  threads_ = nullptr;
}

Stopped::Thread* Stopped::find(pid_t tid) const {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].tid == tid) return &threads_[i];
  }
  return nullptr;
}

bool Stopped::holds(pid_t tid) const {
  const Thread* thread = find(tid);
  return thread != nullptr && thread->state == Thread::kStopped;
}

pid_t Stopped::tid(size_t index) const {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].state == Thread::kStopped && index-- == 0) return threads_[i].tid;
  }
  return 0;
}

// True where there were threads that we did not hold yet.
bool Stopped::seize_new_threads() {
  bool found = false;
  for_each_number(proc_path(pid_, "task").get(), [&](int tid) {
    if (find(tid) != nullptr) return true;
    if (count_ == kMaxThreads) return false;
    Thread& thread = threads_[count_++];
    thread = {tid, 0, Thread::kWaiting};
    // One that we have seized before, as its tracer for life, cannot be seized again.
    if (trace(PTRACE_SEIZE, tid, 0, 0) != 0) error_number_ = errno;
    if (trace(PTRACE_INTERRUPT, tid, 0, 0) != 0) {
      // A thread that ends just now, or a main thread that has ended, is no failure of ours.
      thread.state = Thread::kLost;
      return true;
    }
    found = true;
    return true;
  });
  return found;
}

void Stopped::await(Buffer& buffer, Thread& thread, int64_t deadline_ns) {
  for (int poll = 0;; ++poll) {
    int status = 0;
    const pid_t changed = wait_for(thread.tid, &status, __WALL | WNOHANG);
    if (changed == thread.tid && WIFSTOPPED(status)) {
      // A stop without an event is a signal on its way to the thread: it must not be lost.
      if (status >> 16 == 0) thread.signal = WSTOPSIG(status);
      thread.state = Thread::kStopped;
      ++stopped_;
      return;
    }
    if (changed == thread.tid || (changed < 0 && errno != EINTR)) {
      thread.state = Thread::kLost;
      return;
    }
    if (mono_ns() >= deadline_ns) {
      thread.state = Thread::kLost;
      error_number_ = ETIMEDOUT;
      return buffer.gap(Kind::kGap, "thread", thread.tid, "it did not stop in time");
    }
    if (poll < kQuickPolls) {
      syscall(SYS_sched_yield);
    } else {
      sleep_ns(kStopPollNs);
    }
  }
}

bool Stopped::stop(Buffer& buffer, int64_t deadline_ns, pid_t held, int held_signal) {
  error_number_ = ESRCH;
  if (held != 0) {
    threads_[count_++] = {held, held_signal, Thread::kStopped};
    ++stopped_;
  }
  for (int round = 0; round < kMaxStopRounds; ++round) {
    const size_t known = count_;
    if (!seize_new_threads()) break;
    for (size_t i = known; i < count_; ++i) {
      if (threads_[i].state == Thread::kWaiting) await(buffer, threads_[i], deadline_ns);
    }
  }
  return stopped_ > 0;
}

void Stopped::release_one(const Thread& thread) {
  if (trace(PTRACE_DETACH, thread.tid, 0, thread.signal) == 0) return;
  // It was killed meanwhile. A dead thread stays until its tracer has taken note, and the whole
  // process with it. Only of a process that is our own child the end is not ours to take here.
  if (thread.tid == pid_ && own_child_) return;
  const int64_t deadline = mono_ns() + kReapTimeoutNs;
  int status = 0;
  while (wait_for(thread.tid, &status, __WALL | WNOHANG) == 0 && mono_ns() < deadline) {
    sleep_ns(kStopPollNs);
  }
}

void Stopped::release(pid_t last) {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].state == Thread::kStopped && threads_[i].tid != last) release_one(threads_[i]);
  }
  if (const Thread* thread = find(last); thread != nullptr && thread->state == Thread::kStopped) {
    release_one(*thread);
  }
  count_ = stopped_ = 0;
}

void copy_stopped(Buffer& buffer, pid_t pid, const Stopped& stopped, const CopyOptions& options) {
  buffer.header().crashed_tid = find_crashed(pid, stopped, options.crashed_tid);
  Copier copier(buffer, pid, options);
  copier.threads(stopped);
  copier.maps();
  copier.stacks();
  if (options.crashed_registers != nullptr) {
    copy_code(buffer, pid, options.crashed_registers[kDwarfPc]);
  }
  if (copier.late("modules, and the names of the threads")) return;
  copier.modules();
  if (options.link_map && !copier.late("the list of the libraries")) copier.link_map();
  copier.names(stopped);
  copy_identity(buffer, pid, options.deadline_ns);
}

void copy_identity(Buffer& buffer, pid_t pid, int64_t until) {
  char name[kMaxName];
  const ssize_t size = read_whole(proc_path(pid, "comm").get(), name, sizeof name);
  if (size > 0) {
    buffer.add(Kind::kFile, static_cast<int32_t>(File::kComm), 0, name, static_cast<size_t>(size));
  }
  copy_link(buffer, pid, "exe", File::kExe);
  copy_file(buffer, pid, "cmdline", File::kArguments, kMaxFile, until);
}

bool copy_facts(Buffer& buffer, pid_t pid, uint64_t pc, int64_t until) {
  // What is short and always wanted first.
  copy_link(buffer, pid, "cwd", File::kWorkingDirectory);
  copy_link(buffer, pid, "root", File::kRoot);
  copy_file(buffer, pid, "environ", File::kEnvironment, kMaxFile, until);
  copy_file(buffer, pid, "limits", File::kLimits, kMaxFile, until);
  copy_file(buffer, pid, "status", File::kStatus, kMaxFile, until);
  copy_file(buffer, pid, "cgroup", File::kCgroup, kMaxFile, until);
  if (pc != 0) copy_code(buffer, pid, pc);
  return copy_descriptors(buffer, pid, until);
}

bool capture(Buffer& buffer, const Capture& wanted) {
  Header& header = buffer.header();
  header.pid = wanted.pid;
  header.started_mono_ns = mono_ns();
  Stopped stopped;
  const int failed = stopped.open(wanted.pid);
  if (failed != 0) {
    header.failed = Step::kMemory;
    header.error_number = -failed;
  } else if (!stopped.stop(buffer, wanted.stop_deadline_ns, wanted.held, wanted.held_signal)) {
    header.failed = Step::kAttach;
    header.error_number = stopped.error_number();
    header.tracer = status_number(wanted.pid, wanted.pid, "TracerPid");
  } else {
    copy_stopped(buffer, wanted.pid, stopped, wanted.copy);
    if (wanted.copy.facts_deadline_ns != 0 &&
        copy_facts(buffer, wanted.pid, 0, wanted.copy.facts_deadline_ns)) {
      // Nobody waits for the kernel to write its tables of all sockets.
      buffer.gap(Kind::kFactsGap, "sockets", -1,
                 "some could not be asked, which takes the right to trace the process");
    }
  }
  header.captured_mono_ns = mono_ns();
  if (wanted.captured != nullptr) wanted.captured(wanted.context, header.captured_mono_ns);
  stopped.release(header.crashed_tid);
  header.released_mono_ns = mono_ns();
  stopped.close();
  return header.failed == Step::kNone;
}

}  // namespace defib::postmortem::raw
