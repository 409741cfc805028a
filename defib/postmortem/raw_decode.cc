#include "defib/postmortem/raw_decode.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/module_file.h"
#include "defib/postmortem/raw_copy_sigsafe.h"

namespace defib::postmortem {
namespace {

using raw::File;
using raw::Kind;

constexpr std::size_t kCodeAtFault = 16;
constexpr std::string_view kDeleted = " (deleted)";

struct RawRecord {
  raw::Record head;
  std::string_view bytes;
};

std::vector<RawRecord> records_of(std::string_view bytes) {
  std::vector<RawRecord> records;
  std::size_t at = sizeof(raw::Header);
  while (at + sizeof(raw::Record) <= bytes.size()) {
    RawRecord record{load<raw::Record>(bytes.data() + at), {}};
    at += sizeof(raw::Record);
    if (record.head.size > bytes.size() - at) break;
    record.bytes = bytes.substr(at, record.head.size);
    at += (std::size_t{record.head.size} + 7) / 8 * 8;
    records.push_back(record);
    if (at > bytes.size()) break;
  }
  return records;
}

std::string_view trimmed(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

Error attach_error(const raw::Header& header) {
  const pid_t pid = header.pid;
  if (header.failed == raw::Step::kMemory) {
    return Error(Code::kCaptureFailed, "there was no memory for the capture")
        .because(os::system_error("mmap", {}, header.error_number));
  }
  if (header.error_number == ESRCH) {
    return Error(Code::kCaptureFailed, fmt::format("process {} is gone", pid)).with("pid", pid);
  }
  if (header.error_number == ETIMEDOUT) {
    return Error(Code::kCaptureFailed, fmt::format("process {} did not stop in time", pid))
        .with("pid", pid)
        .suggest("give the capture more time: capture_timeout");
  }
  if (header.tracer != 0) {
    return Error(Code::kCaptureFailed,
                 fmt::format("process {} is being traced by process {}", pid, header.tracer))
        .with("pid", pid)
        .with("tracer", header.tracer)
        .suggest("detach the debugger or tracer that holds the process");
  }
  return Error(Code::kCaptureFailed, fmt::format("may not attach to process {}", pid))
      .with("pid", pid)
      .because(os::system_error("ptrace(PTRACE_SEIZE)", {}, header.error_number))
      .suggest(
          "run as the same user or as root; in a container add the capability SYS_PTRACE; see "
          "/proc/sys/kernel/yama/ptrace_scope");
}

class SnapshotDecoder {
 public:
  SnapshotDecoder(const raw::Header& header, RawFiles files, Snapshot& snapshot)
      : header_(header), files_(files), snapshot_(snapshot) {
    root_ = take(header.root_fd);
    exe_ = take(header.exe_fd);
  }
  void decode(const std::vector<RawRecord>& records);

 private:
  os::Fd take(int fd) const {
    if (files_ == RawFiles::kLeave || fd < 0) return {};
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return os::Fd(fd);
  }
  MemoryReader reader() const {
    return [this](std::uint64_t address, std::size_t size) {
      std::string bytes(size, '\0');
      return snapshot_.memory.read(address, bytes.data(), size) ? bytes : std::string();
    };
  }
  void thread(const RawRecord& record);
  void module(const RawRecord& record);
  void file(const RawRecord& record);
  void modules_without_pages();
  bool is_still_there(const Mapping& mapping) const;
  os::Fd open_module(const Mapping& mapping);

  const raw::Header& header_;
  RawFiles files_;
  Snapshot& snapshot_;
  os::Fd root_, exe_;
  std::map<std::uint64_t, os::Fd> nameless_;  // by the address at which the file is mapped
  std::map<std::string, std::size_t> modules_;
  std::set<std::string> copied_;  // paths of files whose first page was copied, modules or not
  std::optional<ThreadSnapshot> crashed_;
};

void SnapshotDecoder::thread(const RawRecord& record) {
  ThreadSnapshot thread;
  thread.tid = record.head.number;
  if (!registers_from_regset(kOwnMachine, record.bytes, thread.registers)) return;
  thread.system_call = system_call_in(record.bytes, thread.registers, reader());
  if (thread.tid != header_.crashed_tid || !crashed_) {
    snapshot_.threads.push_back(std::move(thread));
    return;
  }
  // Not as it is now, in the crash hook, but as it was at the fault.
  thread.crashed = true;
  thread.registers = crashed_->registers;
  thread.system_call.reset();
  snapshot_.threads.insert(snapshot_.threads.begin(), std::move(thread));
  crashed_.reset();
}

// The file that is mapped, even where another one has taken its name since.
os::Fd SnapshotDecoder::open_module(const Mapping& mapping) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (files_ == RawFiles::kLeave) return {};
  if (mapping.path == snapshot_.exe && exe_.valid()) {
    return os::Fd(::fcntl(exe_.get(), F_DUPFD_CLOEXEC, 0));
  }
  if (const auto found = nameless_.find(mapping.start); found != nameless_.end()) {
    return std::move(found->second);
  }
  if (mapping.deleted) return {};
  // Through the process's own root, which may be a container's.
  os::Fd fd(root_.valid() ? ::openat(root_.get(), mapping.path.c_str() + 1, kFlags) : -1);
  return fd.valid() ? std::move(fd) : os::Fd(::open(mapping.path.c_str(), kFlags));
}

void SnapshotDecoder::module(const RawRecord& record) {
  const Mapping* mapping = find_mapping(snapshot_.maps, record.head.address);
  if (mapping == nullptr) return;
  if (mapping->path == "[vdso]") {
    snapshot_.modules.push_back(
        {mapping->start, mapping->end, mapping->path, {}, {}, std::string(record.bytes)});
    return;
  }
  copied_.insert(mapping->path);
  // Data files are mapped too; only what has an ELF header in memory is a module.
  if (!record.bytes.starts_with(ELFMAG) || modules_.contains(mapping->path)) return;
  Module module{mapping->start, mapping->end, mapping->path, {}, {}, {}};
  module.build_id = build_id_in_memory(0, [&](std::uint64_t at, std::size_t size) {
    return std::string(record.bytes.substr(std::min<std::uint64_t>(at, record.bytes.size()), size));
  });
  module.file = open_module(*mapping);
  if (!module.file.valid() && files_ == RawFiles::kTake) {
    snapshot_.gaps.push_back(
        fmt::format("{}: not readable, so its frames have no names", mapping->path));
  }
  modules_.emplace(mapping->path, snapshot_.modules.size());
  snapshot_.modules.push_back(std::move(module));
}

// Whether the name is that of the mapped file, and of no device, which is not opened on a guess.
bool SnapshotDecoder::is_still_there(const Mapping& mapping) const {
  struct stat status;
  const int found = root_.valid() ? ::fstatat(root_.get(), mapping.path.c_str() + 1, &status, 0)
                                  : ::stat(mapping.path.c_str(), &status);
  return found == 0 && S_ISREG(status.st_mode) && status.st_dev == mapping.device &&
         status.st_ino == mapping.inode;
}

// Of a copy that was ended before it came to them: each file of which a part is executable, and the
// file that is there now where it has the same device and inode.
void SnapshotDecoder::modules_without_pages() {
  std::map<std::string_view, const Mapping*> first;
  std::size_t count = 0, named = 0;
  for (const Mapping& mapping : snapshot_.maps) {
    if (!mapping.path.starts_with('/') || copied_.contains(mapping.path)) continue;
    const Mapping& start = *first.try_emplace(mapping.path, &mapping).first->second;
    if (!mapping.executable || modules_.contains(mapping.path)) continue;
    if (++count > raw::kMaxModules) break;
    Module module{start.start, mapping.end, mapping.path, {}, {}, {}};
    if (is_still_there(start)) module.file = open_module(start);
    if (module.file.valid()) {
      module.build_id = build_id_in_file(module.file.get());
      ++named;
    }
    modules_.emplace(mapping.path, snapshot_.modules.size());
    snapshot_.modules.push_back(std::move(module));
  }
  if (count == 0) return;
  snapshot_.gaps.push_back(fmt::format(
      "the first pages of {} modules: the copy ended before them; {} have names, from files with "
      "the same device and inode",
      count, named));
}

void SnapshotDecoder::file(const RawRecord& record) {
  switch (static_cast<File>(record.head.number)) {
    case File::kMaps:
      snapshot_.maps_text = record.bytes;
      snapshot_.maps = parse_maps(record.bytes);
      break;
    case File::kComm:
      snapshot_.comm = trimmed(record.bytes);
      break;
    case File::kExe:
      snapshot_.exe = record.bytes;
      if (snapshot_.exe.ends_with(kDeleted)) {
        snapshot_.exe.resize(snapshot_.exe.size() - kDeleted.size());
      }
      break;
    case File::kArguments:
      snapshot_.command_line = redact_command_line(parse_arguments(record.bytes));
      break;
    case File::kAuxv:
      snapshot_.auxv = record.bytes;
      break;
    default:
      break;
  }
}

void SnapshotDecoder::decode(const std::vector<RawRecord>& records) {
  if (!snapshot_.threads.empty()) {
    crashed_ = std::move(snapshot_.threads.front());
    snapshot_.threads.clear();
  }
  // First what the others are understood by.
  for (const RawRecord& record : records) {
    if (record.head.kind == Kind::kFile) file(record);
    if (record.head.kind == Kind::kMemory) {
      snapshot_.memory.add(record.head.address, std::string(record.bytes));
    }
    if (record.head.kind == Kind::kModuleFile) {
      nameless_[record.head.address] = take(record.head.number);
    }
    if (record.head.kind == Kind::kGap) snapshot_.gaps.emplace_back(record.bytes);
  }
  const std::uint64_t pc = crashed_ ? crashed_->registers.pc() : 0;
  for (const RawRecord& record : records) {
    if (record.head.kind == Kind::kThread) thread(record);
    if (record.head.kind == Kind::kModule) module(record);
    if (record.head.kind == Kind::kCode && pc >= record.head.address) {
      const std::uint64_t before = pc - record.head.address;
      if (before < record.bytes.size()) {
        snapshot_.code = record.bytes.substr(before, kCodeAtFault);
      }
    }
  }
  modules_without_pages();
  for (const Mapping& mapping : snapshot_.maps) {
    const auto found = modules_.find(mapping.path);
    if (found == modules_.end()) continue;
    Module& module = snapshot_.modules[found->second];
    module.end = std::max(module.end, mapping.end);
  }
  for (const RawRecord& record : records) {
    if (record.head.kind != Kind::kThreadName) continue;
    const auto named =
        std::ranges::find(snapshot_.threads, record.head.number, &ThreadSnapshot::tid);
    if (named != snapshot_.threads.end()) named->name = trimmed(record.bytes);
  }
  if (!crashed_) return;
  snapshot_.gaps.push_back(fmt::format("the crashed thread {} was not found", crashed_->tid));
  snapshot_.threads.insert(snapshot_.threads.begin(), std::move(*crashed_));
}

}  // namespace

Result<> decode_snapshot(std::string_view bytes, RawFiles files, Snapshot& snapshot) {
  const auto header =
      bytes.size() >= sizeof(raw::Header) ? load<raw::Header>(bytes.data()) : raw::Header{};
  if (header.magic != raw::kMagic || header.version != raw::kVersion) {
    return Error(Code::kInvalidArgument, "this is no raw snapshot of this version");
  }
  snapshot.pid = header.pid;
  if (header.failed != raw::Step::kNone) return attach_error(header);
  // Copied, and let go.
  snapshot.captured_mono_ns = header.released_mono_ns;
  const bool ordered =
      header.started_mono_ns >= 0 && header.released_mono_ns >= header.started_mono_ns;
  if (header.released_mono_ns == 0) {
    snapshot.gaps.emplace_back(
        "the copy is not whole: what makes it was ended (out of time, killed, or no memory)");
  }
  snapshot.stopped_ns = ordered ? header.released_mono_ns - header.started_mono_ns : 0;
  SnapshotDecoder(header, files, snapshot).decode(records_of(bytes));
  return {};
}

void decode_facts(std::string_view bytes, ProcessFacts& facts) {
  for (const RawRecord& record : records_of(bytes)) {
    const auto fd = record.head.number;
    switch (record.head.kind) {
      case Kind::kFile:
        switch (static_cast<File>(record.head.number)) {
          case File::kComm:
            facts.comm = trimmed(record.bytes);
            break;
          case File::kExe:
            facts.exe = record.bytes;
            break;
          case File::kArguments:
            facts.command_line = record.bytes;
            break;
          case File::kEnvironment:
            facts.environment = record.bytes;
            break;
          case File::kLimits:
            facts.limits = record.bytes;
            break;
          case File::kStatus:
            facts.status = record.bytes;
            break;
          case File::kCgroup:
            facts.cgroup = record.bytes;
            break;
          case File::kWorkingDirectory:
            facts.cwd = record.bytes;
            break;
          case File::kRoot:
            facts.root = record.bytes;
            break;
          default:
            break;
        }
        break;
      case Kind::kCode:
        facts.code_address = record.head.address;
        facts.code = record.bytes;
        break;
      case Kind::kDescriptor:
        facts.descriptors.push_back({fd, std::string(record.bytes), {}, {}});
        break;
      case Kind::kDescriptorInfo:
        if (!facts.descriptors.empty() && facts.descriptors.back().fd == fd) {
          facts.descriptors.back().info = record.bytes;
        }
        break;
      case Kind::kSocket:
        if (record.bytes.size() == sizeof(raw::Socket) && !facts.descriptors.empty() &&
            facts.descriptors.back().fd == fd) {
          facts.descriptors.back().socket = socket_row(load<raw::Socket>(record.bytes.data()));
        }
        break;
      case Kind::kFactsGap:
        facts.gaps.emplace_back(record.bytes);
        break;
      default:
        break;
    }
  }
}

}  // namespace defib::postmortem
