#include "defib/postmortem/raw_copy_sigsafe.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "defib/postmortem/raw_copy_proc_sigsafe.h"

namespace defib::postmortem::raw {
namespace {

constexpr size_t kRedZone = 128;  // below the stack pointer (System V ABI, 3.2.2)
constexpr size_t kLockBytes = 80;
constexpr uint64_t kBeforeFutex = 16;  // of a read-write lock the head lies before its futexes
constexpr size_t kCodeBytes = 192;     // half of them before the fault
constexpr size_t kPage = 4096;
constexpr size_t kMaxVdso = 64 * 1024;
constexpr size_t kMaxMaps = 16u << 20;
constexpr size_t kMaxRanges =
    128 * 1024;                     // the kernel allows 65,530 mappings, unless told otherwise
constexpr size_t kMaxLinked = 512;  // libraries in the link map

// DWARF numbers (crash_page.h) and places in NT_PRSTATUS.
#if defined(__x86_64__)
constexpr size_t kDwarfSp = 7, kSetSp = 19, kSetCall = 15, kSetArgument = 14;
#elif defined(__aarch64__)
constexpr size_t kDwarfSp = 31, kSetSp = 31, kSetCall = 8, kSetArgument = 0;
#else
#error "postmortem knows x86-64 and AArch64"
#endif
constexpr size_t kDwarfPc = 32;

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
    if (line >= stop || *line != '-') continue;
    ++line;
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
  ~Copier() {
    if (ranges_ != nullptr) munmap(ranges_, kMaxRanges * sizeof(Range));
  }
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;
  void threads(const Stopped& stopped);
  void maps();
  void crashed_stack();
  void other_stacks();
  void modules();
  void link_map();
  void names(const Stopped& stopped);
  bool late(const char* what) {
    if (mono_ns() < options_.deadline_ns) return false;
    buffer_.gap(Kind::kGap, what, -1, "there was no time left");
    return true;
  }

 private:
  struct Range {
    uint64_t start, end;
  };
  void memory(Kind kind, uint64_t address, size_t size);
  void stack(uint64_t sp, size_t max);
  void lock(uint64_t futex);
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
  Range* ranges_ = nullptr;  // what can be read, ascending
  size_t range_count_ = 0;
  size_t records_end_ = 0;  // of the threads
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
    const bool read =
        trace(PTRACE_GETREGSET, stopped.tid(i), NT_PRSTATUS, reinterpret_cast<long>(&set)) == 0;
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
  // In a table, so that the stack of each of many threads is found at once.
  void* table = mmap(nullptr, kMaxRanges * sizeof(Range), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (table == MAP_FAILED) return buffer_.gap(Kind::kGap, "the stacks", -1, "no memory");
  ranges_ = static_cast<Range*>(table);
  const char* at = maps_;
  Map map;
  while (range_count_ < kMaxRanges && next_map(at, maps_end_, &map)) {
    if (map.readable) ranges_[range_count_++] = {map.start, map.end};
  }
}

// With the stack pointer in a guard page, as after an overflow, the stack begins at the next
// mapping that can be read.
void Copier::stack(uint64_t sp, size_t max) {
  size_t low = 0, high = range_count_;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (ranges_[middle].end <= sp) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == range_count_) return;
  const Range& range = ranges_[low];
  const uint64_t below = sp > kRedZone ? sp - kRedZone : 0;
  const uint64_t start = below > range.start ? below : range.start;
  const uint64_t size = range.end - start;
  memory(Kind::kMemory, start, size < max ? static_cast<size_t>(size) : max);
}

// At the beginning of what is mapped there is nothing before it.
void Copier::lock(uint64_t futex) {
  const uint64_t start = futex - kBeforeFutex;
  char* to = buffer_.begin(Kind::kMemory, 0, start, kLockBytes);
  if (to == nullptr) return;
  const size_t size = read_memory(pid_, start, to, kLockBytes);
  if (size == 0) return memory(Kind::kMemory, futex, kLockBytes);
  buffer_.finish(size);
}

void Copier::crashed_stack() {
  records_end_ = buffer_.size();
  if (buffer_.header().crashed_tid == 0 || options_.crashed_registers == nullptr) return;
  stack(options_.crashed_registers[kDwarfSp], options_.crashed_stack_bytes);
}

void Copier::other_stacks() {
  const pid_t crashed = buffer_.header().crashed_tid;
  // The records of the threads lie first of all; the buffer grows behind them.
  for (size_t at = sizeof(Header); at + sizeof(Record) <= records_end_;) {
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
    if (call == SYS_futex && argument > kBeforeFutex) lock(argument);
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
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the other process.
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
  memory(Kind::kMemory, debug, 40);    // struct r_debug
  uint64_t node = word_at(debug + 8);  // r_map
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

}  // namespace

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

int64_t mono_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

size_t read_memory(pid_t pid, uint64_t address, void* to, size_t size) {
  const iovec local = {to, size};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the other process.
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

void copy_stopped(Buffer& buffer, pid_t pid, const Stopped& stopped, const CopyOptions& options) {
  buffer.header().crashed_tid = find_crashed(pid, stopped, options.crashed_tid);
  Copier copier(buffer, pid, options);
  // Without these there is no stack with names, and they take microseconds: never too late.
  copier.threads(stopped);
  copier.maps();
  copier.crashed_stack();
  if (options.crashed_registers != nullptr) {
    copy_code(buffer, pid, options.crashed_registers[kDwarfPc]);
  }
  copier.modules();
  copier.other_stacks();
  if (copier.late("the names of the threads, and of the program")) return;
  if (options.link_map && !copier.late("the list of the libraries")) copier.link_map();
  copier.names(stopped);
  copy_identity(buffer, pid, options.deadline_ns);
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
