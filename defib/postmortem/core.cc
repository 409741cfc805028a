#include "defib/postmortem/core.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "defib/base/bytes.h"
#include "defib/postmortem/collect.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxSegments = 65'535;
constexpr std::uint64_t kMaxNoteBytes = 64 << 20;
constexpr std::size_t kMaxThreads = 4096;
constexpr std::size_t kMaxFiles = 4096;
constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kCrashedStackBytes = 256 * 1024;
constexpr std::size_t kMaxVdsoBytes = 64 * 1024;
// struct elf_prstatus: pr_info.si_signo, pr_cursig, pr_pid, pr_reg; the same on both machines.
constexpr std::size_t kPrstatusSignal = 0;
constexpr std::size_t kPrstatusCurrentSignal = 12;  // 16 bits
constexpr std::size_t kPrstatusPid = 32;
constexpr std::size_t kPrstatusRegisters = 112;
// struct elf_prpsinfo: pr_pid, pr_fname, pr_psargs.
constexpr std::size_t kPrpsinfoPid = 24;
constexpr std::size_t kPrpsinfoName = 40;
constexpr std::size_t kPrpsinfoArguments = 56;
constexpr std::size_t kPrpsinfoBytes = 136;
// siginfo_t.
constexpr std::size_t kSiginfoCode = 8;
constexpr std::size_t kSiginfoAddress = 16;  // or the sender's pid, then uid
constexpr std::size_t kSiginfoBytes = 24;

Error unreadable(std::string_view what) {
  return Error(Code::kCoreUnreadable, fmt::format("the core file {}", what));
}

Error no_core(std::string_view what) {
  return unreadable(what).suggest("give a core file or a PID; `file PATH` tells what this one is");
}

template <typename T>
T field(std::string_view bytes, std::size_t offset) {
  return offset + sizeof(T) <= bytes.size() ? load<T>(bytes.data() + offset) : T{};
}

std::string text_field(std::string_view bytes, std::size_t offset, std::size_t size) {
  if (offset + size > bytes.size()) return {};
  return std::string(bytes.data() + offset, strnlen(bytes.data() + offset, size));
}

class CoreReader {
 public:
  explicit CoreReader(os::File& file) : file_(file) {}
  Result<Snapshot> read(const CoreOptions& options);

 private:
  Result<> read_segments();
  Result<> read_notes();
  void take_note(std::uint32_t type, std::string_view value);
  void take_thread(std::string_view value);
  void take_signal(std::string_view value);
  void find_crashed();
  void take_files(std::string_view value);
  void take_auxv(std::string_view value);
  void make_maps();
  void make_modules(const CoreOptions& options);
  void open_module(Module& module, const CoreOptions& options);
  void note_what_is_missing();
  std::string memory_at(std::uint64_t address, std::size_t size);

  os::File& file_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<Mapping> files_;
  Machine machine_ = Machine::kUnknown;
  std::uint64_t vdso_ = 0;
  std::uint64_t entry_ = 0;
  // What the notes say of a thread.
  struct ThreadNotes {
    std::string regset;
    int kernel_signal = 0;   // a debugger leaves it out
    int current_signal = 0;  // what the process was dumped for; the same of all threads
    SignalInfo info;         // of the thread itself; signal 0: there is none
  };
  std::vector<ThreadNotes> notes_;  // one a thread
  Snapshot snapshot_;
};

Result<> CoreReader::read_segments() {
  char head[sizeof(Elf64_Ehdr)];
  DEFIB_TRY_ASSIGN(const std::size_t size, file_.read_at(0, head, sizeof head));
  if (size < sizeof head || std::memcmp(head, ELFMAG, SELFMAG) != 0) {
    return no_core("is not an ELF file");
  }
  const auto elf = load<Elf64_Ehdr>(head);
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_type != ET_CORE) {
    return no_core("is an ELF file, but not a 64-bit core");
  }
  machine_ = elf.e_machine == EM_X86_64    ? Machine::kX86_64
             : elf.e_machine == EM_AARCH64 ? Machine::kAArch64
                                           : Machine::kUnknown;
  if (machine_ == Machine::kUnknown) {
    return no_core(fmt::format("is of an unknown machine ({})", elf.e_machine));
  }
  if (elf.e_phentsize != sizeof(Elf64_Phdr)) return unreadable("has a strange segment table");
  std::size_t count = elf.e_phnum;
  if (count == PN_XNUM) {  // More than 16 bits hold: the number is in the first section header.
    char section[sizeof(Elf64_Shdr)];
    DEFIB_TRY_ASSIGN(const std::size_t got, file_.read_at(elf.e_shoff, section, sizeof section));
    if (got < sizeof section) return unreadable("is cut off");
    count = load<Elf64_Shdr>(section).sh_info;
  }
  count = std::min(count, kMaxSegments);
  std::string table(count * sizeof(Elf64_Phdr), '\0');
  DEFIB_TRY_ASSIGN(const std::size_t got, file_.read_at(elf.e_phoff, table.data(), table.size()));
  for (std::size_t i = 0; (i + 1) * sizeof(Elf64_Phdr) <= got; ++i) {
    segments_.push_back(load<Elf64_Phdr>(table.data() + i * sizeof(Elf64_Phdr)));
  }
  if (segments_.empty()) return unreadable("has no segments");
  return {};
}

Result<> CoreReader::read_notes() {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNoteBytes) continue;
    DEFIB_TRY_ASSIGN(const std::uint64_t file_size, file_.size());
    if (segment.p_offset > file_size) return unreadable("is cut off before its notes");
    std::string notes(std::min(segment.p_filesz, file_size - segment.p_offset), '\0');
    DEFIB_TRY_ASSIGN(const std::size_t size,
                     file_.read_at(segment.p_offset, notes.data(), notes.size()));
    Reader in(std::string_view(notes).substr(0, size));
    while (in.remaining() >= sizeof(Elf64_Nhdr)) {
      const std::uint32_t name_size = in.u32();
      const std::uint32_t value_size = in.u32();
      const std::uint32_t type = in.u32();
      const auto padded = [](std::uint32_t bytes) { return (std::size_t{bytes} + 3) / 4 * 4; };
      const std::string_view name = in.bytes(padded(name_size));
      const std::string_view value = in.bytes(padded(value_size)).substr(0, value_size);
      if (!in.ok()) break;
      if (name.starts_with("CORE")) take_note(type, value);
    }
  }
  if (notes_.empty()) return unreadable("has no threads");
  return {};
}

void CoreReader::take_note(std::uint32_t type, std::string_view value) {
  switch (type) {
    case NT_PRSTATUS:
      return take_thread(value);
    case NT_PRPSINFO:
      if (value.size() < kPrpsinfoBytes) return;
      snapshot_.pid = field<std::int32_t>(value, kPrpsinfoPid);
      snapshot_.comm = text_field(value, kPrpsinfoName, 16);
      snapshot_.command_line = redact_command_line({text_field(value, kPrpsinfoArguments, 80)});
      return;
    case NT_SIGINFO:
      return take_signal(value);
    case NT_FILE:
      return take_files(value);
    case NT_AUXV:
      return take_auxv(value);
    default:
      return;
  }
}

void CoreReader::take_thread(std::string_view value) {
  if (value.size() < kPrstatusRegisters || snapshot_.threads.size() >= kMaxThreads) return;
  ThreadSnapshot thread;
  thread.tid = field<std::int32_t>(value, kPrstatusPid);
  const std::string_view regset = value.substr(kPrstatusRegisters);
  if (!registers_from_regset(machine_, regset, thread.registers)) return;
  snapshot_.threads.push_back(std::move(thread));
  notes_.push_back({std::string(regset),
                    field<std::int32_t>(value, kPrstatusSignal),
                    field<std::int16_t>(value, kPrstatusCurrentSignal),
                    {}});
}

// It belongs to the thread before it.
void CoreReader::take_signal(std::string_view value) {
  if (value.size() < kSiginfoBytes || notes_.empty()) return;
  SignalInfo& signal = notes_.back().info;
  signal.signal = field<std::int32_t>(value, 0);
  signal.code = field<std::int32_t>(value, kSiginfoCode);
  if (signal.has_address()) {
    signal.fault_address = field<std::uint64_t>(value, kSiginfoAddress);
  } else {
    signal.sender_pid = field<std::int32_t>(value, kSiginfoAddress);
    signal.sender_uid = field<std::int32_t>(value, kSiginfoAddress + 4);
  }
}

// The kernel writes the thread that caused the dump first, with the only siginfo. A debugger has a
// siginfo of each, which of the others is the stop that it caused itself, and it also dumps
// processes that it has merely stopped.
void CoreReader::find_crashed() {
  const auto is_of_the_dump = [](const ThreadNotes& notes) {
    return notes.info.signal != 0 &&
           notes.info.signal ==
               (notes.kernel_signal != 0 ? notes.kernel_signal : notes.current_signal);
  };
  const auto found = std::ranges::find_if(notes_, is_of_the_dump);
  const std::ptrdiff_t index = found == notes_.end() ? 0 : found - notes_.begin();
  const ThreadNotes& notes = notes_[static_cast<std::size_t>(index)];
  const bool by_debugger = notes.kernel_signal == 0;
  const int signal = by_debugger ? notes.current_signal : notes.kernel_signal;
  if (signal == 0) return;
  if (by_debugger && (signal == SIGSTOP || signal == SIGTRAP || signal == SIGINT)) return;
  snapshot_.signal = notes.info;
  snapshot_.signal.signal = signal;
  const auto to_front = [index](auto& list) {
    std::rotate(list.begin(), list.begin() + index, list.begin() + index + 1);
  };
  to_front(snapshot_.threads);
  to_front(notes_);
  snapshot_.threads.front().crashed = true;
}

// u64 count, u64 page size, count times {start, end, offset in pages}, then the names.
void CoreReader::take_files(std::string_view value) {
  Reader in(value);
  const std::uint64_t count = in.u64();
  const std::uint64_t page = in.u64();
  if (count > kMaxFiles) return;
  for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
    Mapping mapping;
    mapping.start = in.u64();
    mapping.end = in.u64();
    mapping.offset = in.u64() * page;
    files_.push_back(std::move(mapping));
  }
  std::string_view names = in.bytes(in.remaining());
  for (Mapping& mapping : files_) {
    const std::size_t end = std::min(names.find('\0'), names.size());
    mapping.path = names.substr(0, end);
    names.remove_prefix(std::min(end + 1, names.size()));
  }
}

void CoreReader::take_auxv(std::string_view value) {
  Reader in(value);
  while (in.remaining() >= 16) {
    const std::uint64_t type = in.u64();
    const std::uint64_t number = in.u64();
    if (type == AT_SYSINFO_EHDR) vdso_ = number;
    if (type == AT_ENTRY) entry_ = number;
  }
}

void CoreReader::make_maps() {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_LOAD) continue;
    Mapping mapping;
    mapping.start = segment.p_vaddr;
    mapping.end = segment.p_vaddr + segment.p_memsz;
    if (mapping.end < mapping.start) continue;
    mapping.readable = (segment.p_flags & PF_R) != 0;
    mapping.writable = (segment.p_flags & PF_W) != 0;
    mapping.executable = (segment.p_flags & PF_X) != 0;
    const auto file =
        std::ranges::find_if(files_, [&](const Mapping& f) { return f.contains(mapping.start); });
    if (file != files_.end()) mapping.path = file->path;
    snapshot_.maps.push_back(std::move(mapping));
  }
  std::ranges::sort(snapshot_.maps, {}, &Mapping::start);
}

std::string CoreReader::memory_at(std::uint64_t address, std::size_t size) {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
    const std::uint64_t offset = address - segment.p_vaddr;
    if (offset >= segment.p_filesz) continue;
    std::string bytes(std::min<std::uint64_t>(size, segment.p_filesz - offset), '\0');
    const auto got = file_.read_at(segment.p_offset + offset, bytes.data(), bytes.size());
    bytes.resize(got ? *got : 0);
    return bytes;
  }
  return {};
}

// A file of the machine that the core is of.
os::Fd open_file(const std::string& path, const std::string& sysroot) {
  // The path is the core's word: it must not block on a pipe, nor take a terminal.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (sysroot.empty()) return os::Fd(::open(path.c_str(), kFlags));
  const os::Fd root(::open(sysroot.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return {};
  open_how how{};
  how.flags = kFlags;
  how.resolve = RESOLVE_IN_ROOT;
  return os::Fd(
      static_cast<int>(::syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof how)));
}

void CoreReader::open_module(Module& module, const CoreOptions& options) {
  const bool is_program = entry_ >= module.start && entry_ < module.end;
  if (is_program) snapshot_.exe = module.path;
  const bool replaced = is_program && !options.exe.empty();
  if (replaced) module.path = options.exe;
  module.file = open_file(module.path, replaced ? std::string() : options.sysroot);
  const std::string where =
      options.sysroot.empty() || replaced ? "" : fmt::format(" under {}", options.sysroot);
  if (!module.file.valid()) {
    snapshot_.gaps.push_back(
        fmt::format("{}: not readable{}, so its frames have no names", module.path, where));
    return;
  }
  const std::string found = build_id_in_file(module.file.get());
  if (module.build_id.empty() || module.build_id == found) return;
  module.file.reset();
  snapshot_.gaps.push_back(fmt::format(
      "{}: the file{} is another build ({}; the core has {}), so its frames have no names",
      module.path, where, found.empty() ? "no build id" : found, module.build_id));
}

void CoreReader::make_modules(const CoreOptions& options) {
  const MemoryReader read = [this](std::uint64_t address, std::size_t size) {
    return memory_at(address, size);
  };
  std::map<std::string, std::size_t> index;
  for (const Mapping& mapping : files_) {
    const auto [at, is_new] = index.try_emplace(mapping.path, snapshot_.modules.size());
    if (is_new) {
      snapshot_.modules.push_back({mapping.start, mapping.end, mapping.path, {}, {}, {}});
    } else {
      snapshot_.modules[at->second].end = mapping.end;
    }
  }
  for (Module& module : snapshot_.modules) {
    module.build_id = build_id_in_memory(module.start, read);
    open_module(module, options);
  }
  const auto vdso = std::ranges::find(snapshot_.maps, vdso_, &Mapping::start);
  if (vdso_ == 0 || vdso == snapshot_.maps.end()) return;
  if (vdso->end - vdso->start > kMaxVdsoBytes) return;
  Module module{vdso->start, vdso->end, "[vdso]", {}, {}, {}};
  module.image = memory_at(vdso->start, vdso->end - vdso->start);
  if (!module.image.empty()) snapshot_.modules.push_back(std::move(module));
}

// A core that was cut short (a full disk, a limit, a kill while it was written) still has its
// notes, which the kernel writes first.
void CoreReader::note_what_is_missing() {
  std::uint64_t end = 0;
  std::size_t without = 0;
  for (const Elf64_Phdr& segment : segments_) {
    const std::uint64_t last = segment.p_offset + segment.p_filesz;
    if (last >= segment.p_offset) end = std::max(end, last);
    without += segment.p_type == PT_LOAD && segment.p_filesz == 0 && segment.p_memsz > 0 ? 1 : 0;
  }
  const auto size = file_.size();
  if (size && *size < end) {
    snapshot_.gaps.push_back(
        fmt::format("the core file is cut off: {} of {} bytes are there, so stacks may be missing",
                    *size, end));
  }
  if (files_.empty()) {
    snapshot_.gaps.emplace_back(
        "the core does not name the files that were mapped (NT_FILE), so there are no names");
  }
  if (machine_ != kOwnMachine) {
    snapshot_.gaps.push_back(
        fmt::format("the core is of another machine ({}): its files are needed for names, and "
                    "their directory can be given with --sysroot",
                    machine_ == Machine::kAArch64 ? "AArch64" : "x86-64"));
  }
  if (without > 0 && without == segments_.size() - 1) {
    snapshot_.gaps.emplace_back(
        "the core holds no memory at all (coredump_filter, or a limit), so only registers are "
        "known");
  }
}

Result<Snapshot> CoreReader::read(const CoreOptions& options) {
  DEFIB_TRY(read_segments());
  DEFIB_TRY(read_notes());
  find_crashed();
  note_what_is_missing();
  make_maps();
  make_modules(options);
  const MemoryReader read = [this](std::uint64_t address, std::size_t size) {
    return memory_at(address, size);
  };
  for (std::size_t i = 0; i < snapshot_.threads.size(); ++i) {
    ThreadSnapshot& thread = snapshot_.threads[i];
    if (!thread.crashed) {
      thread.system_call = system_call_in(notes_[i].regset, thread.registers, read);
    }
    collect_stack(snapshot_, thread, thread.crashed ? kCrashedStackBytes : kStackBytes, read);
  }
  collect_code(snapshot_, read);
  collect_locks(snapshot_, read);
  return std::move(snapshot_);
}

}  // namespace

Result<Snapshot> read_core(os::File& file, const CoreOptions& options) {
  return CoreReader(file).read(options);
}

namespace {

// What cannot be used is named, whatever is wrong with it.
Error unusable(const std::string& path, const Error& why) {
  return Error(Code::kCoreUnreadable, fmt::format("{}: {}", path, why.message()))
      .with("path", path)
      .suggest(why.suggested_action());
}

}  // namespace

Result<Snapshot> read_core(const std::string& path, const CoreOptions& options) {
  // Opening a pipe would wait for its writer.
  struct stat status;
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    return unusable(path, no_core("is not a regular file"));
  }
  auto file = os::real_files().open(path, os::OpenMode::kRead);
  if (!file) {
    return Error(Code::kCoreUnreadable, fmt::format("cannot open the core file {}", path))
        .with("path", path)
        .because(std::move(file.error()))
        .suggest("give the path of a core file, or a PID");
  }
  auto snapshot = read_core(**file, options);
  if (!snapshot) return unusable(path, snapshot.error());
  return snapshot;
}

}  // namespace defib::postmortem
