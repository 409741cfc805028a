#include "defib/postmortem/minicore.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
// struct elf_prstatus: signal, pid and registers are at the same places on both machines.
constexpr std::size_t kPrstatusSignal = 12;
constexpr std::size_t kPrstatusPid = 32;
constexpr std::size_t kPrstatusRegisters = 112;
constexpr std::size_t kPrpsinfoBytes = 136;
constexpr std::size_t kPrpsinfoPid = 24;
constexpr std::size_t kPrpsinfoName = 40;
constexpr std::size_t kPrpsinfoArguments = 56;
constexpr std::size_t kSiginfoBytes = 128;
constexpr std::size_t kSiginfoAddress = 16;

#if defined(__x86_64__)
constexpr std::uint16_t kElfMachine = EM_X86_64;
constexpr std::size_t kRegisterWords = 27;
// The places of the DWARF registers in struct user_regs_struct.
constexpr std::size_t kPlaces[] = {10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0};
constexpr std::size_t kPcPlace = 16, kOrigRax = 15, kCs = 17, kFlags = 18, kSs = 20;
#else
constexpr std::uint16_t kElfMachine = EM_AARCH64;
constexpr std::size_t kRegisterWords = 34;
#endif

std::string register_set(const Registers& registers) {
  std::uint64_t words[kRegisterWords] = {};
#if defined(__x86_64__)
  for (std::size_t i = 0; i < std::size(kPlaces); ++i) words[kPlaces[i]] = registers.values[i];
  words[kPcPlace] = registers.pc();
  // What the snapshot does not have: as in any program of user space, in no system call.
  words[kOrigRax] = UINT64_MAX;
  words[kCs] = 0x33;
  words[kSs] = 0x2b;
  words[kFlags] = 0x202;
#else
  std::ranges::copy(registers.values, words);
#endif
  return {reinterpret_cast<const char*>(words), sizeof words};
}

void put_text(std::string& to, std::size_t at, std::size_t size, std::string_view text) {
  text = text.substr(0, size - 1);
  to.replace(at, text.size(), text);
}

void add_note(std::string& notes, std::uint32_t type, std::string_view bytes) {
  Writer out(notes);
  out.u32(5);  // with its zero byte
  out.u32(static_cast<std::uint32_t>(bytes.size()));
  out.u32(type);
  out.bytes(std::string_view("CORE\0\0\0\0", 8));
  out.bytes(bytes);
  notes.append((4 - bytes.size() % 4) % 4, '\0');
}

void add_thread(std::string& notes, const ThreadSnapshot& thread, int signal) {
  const std::string registers = register_set(thread.registers);
  std::string status(kPrstatusRegisters, '\0');
  store_value(status.data(), static_cast<std::int32_t>(signal));
  store_value(status.data() + kPrstatusSignal, static_cast<std::int16_t>(signal));
  store_value(status.data() + kPrstatusPid, static_cast<std::int32_t>(thread.tid));
  status += registers;
  status.append(8, '\0');  // pr_fpvalid, padded
  add_note(notes, NT_PRSTATUS, status);
}

std::string process_info(const Snapshot& snapshot) {
  std::string info(kPrpsinfoBytes, '\0');
  info[1] = 'R';
  store_value(info.data() + kPrpsinfoPid, static_cast<std::int32_t>(snapshot.pid));
  put_text(info, kPrpsinfoName, 16, snapshot.comm);
  std::string arguments;
  for (const std::string& one : snapshot.command_line) {
    arguments += (arguments.empty() ? "" : " ") + one;
  }
  put_text(info, kPrpsinfoArguments, 80, arguments);
  return info;
}

std::string signal_info(const SignalInfo& signal) {
  std::string info(kSiginfoBytes, '\0');
  store_value(info.data(), static_cast<std::int32_t>(signal.signal));
  store_value(info.data() + 8, static_cast<std::int32_t>(signal.code));
  if (signal.has_address()) {
    store_value(info.data() + kSiginfoAddress, signal.fault_address);
  } else {
    store_value(info.data() + kSiginfoAddress, static_cast<std::int32_t>(signal.sender_pid));
  }
  return info;
}

// NT_FILE: count, page size, (start, end, offset in pages)..., then the names.
std::string mapped_files(const Snapshot& snapshot) {
  std::string ranges, names;
  std::uint64_t count = 0;
  Writer out(ranges);
  for (const Mapping& mapping : snapshot.maps) {
    if (!mapping.path.starts_with('/')) continue;
    ++count;
    out.u64(mapping.start);
    out.u64(mapping.end);
    out.u64(mapping.offset / kPageBytes);
    names += mapping.path;
    names += '\0';
  }
  std::string note;
  Writer head(note);
  head.u64(count);
  head.u64(kPageBytes);
  return note + ranges + names;
}

std::string notes_of(const Snapshot& snapshot) {
  std::string notes;
  const ThreadSnapshot* crashed = snapshot.crashed_thread();
  const ThreadSnapshot& first = crashed != nullptr ? *crashed : snapshot.threads.front();
  add_thread(notes, first, snapshot.signal.signal);
  add_note(notes, NT_PRPSINFO, process_info(snapshot));
  add_note(notes, NT_SIGINFO, signal_info(snapshot.signal));
  if (!snapshot.auxv.empty()) add_note(notes, NT_AUXV, snapshot.auxv);
  add_note(notes, NT_FILE, mapped_files(snapshot));
  for (const ThreadSnapshot& thread : snapshot.threads) {
    if (&thread != &first) add_thread(notes, thread, snapshot.signal.signal);
  }
  return notes;
}

}  // namespace

std::string make_minicore(const Snapshot& snapshot, std::size_t max_bytes) {
  if (snapshot.threads.empty()) return {};
  const std::string notes = notes_of(snapshot);
  std::vector<std::pair<std::uint64_t, std::string_view>> memory;
  std::size_t total = notes.size();
  const auto keep = [&](std::uint64_t address, std::string_view bytes) {
    // Program headers are counted in 16 bits.
    if (total + bytes.size() > max_bytes || memory.size() >= PN_XNUM - 2) return;
    total += bytes.size() + sizeof(Elf64_Phdr);
    memory.emplace_back(address, bytes);
  };
  for (const Memory::Range& range : snapshot.memory.ranges()) keep(range.address, range.bytes);
  for (const Module& module : snapshot.modules) {
    if (!module.image.empty()) keep(module.start, module.image);
  }

  Elf64_Ehdr head{};
  std::copy_n(ELFMAG, SELFMAG, head.e_ident);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_ident[EI_VERSION] = EV_CURRENT;
  head.e_type = ET_CORE;
  head.e_machine = kElfMachine;
  head.e_version = EV_CURRENT;
  head.e_phoff = sizeof head;
  head.e_ehsize = sizeof head;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = static_cast<Elf64_Half>(memory.size() + 1);
  std::string file(reinterpret_cast<const char*>(&head), sizeof head);
  std::uint64_t offset = sizeof head + (memory.size() + 1) * sizeof(Elf64_Phdr);
  const auto add_segment = [&](std::uint32_t type, std::uint64_t address, std::size_t size) {
    Elf64_Phdr segment{};
    segment.p_type = type;
    segment.p_flags = type == PT_LOAD ? PF_R | PF_W : PF_R;
    segment.p_offset = offset;
    segment.p_vaddr = address;
    segment.p_filesz = size;
    segment.p_memsz = type == PT_LOAD ? size : 0;
    segment.p_align = type == PT_LOAD ? 1 : 4;
    file.append(reinterpret_cast<const char*>(&segment), sizeof segment);
    offset += size;
  };
  add_segment(PT_NOTE, 0, notes.size());
  for (const auto& [address, bytes] : memory) add_segment(PT_LOAD, address, bytes.size());
  file += notes;
  for (const auto& [address, bytes] : memory) file += bytes;
  return file;
}

Result<> write_minicore(const Snapshot& snapshot, const std::string& path) {
  const std::string core = make_minicore(snapshot);
  if (core.empty()) return Error(Code::kInvalidArgument, "there are no threads for a core");
  const std::string temporary = path + ".tmp";
  const os::Fd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return os::system_error("open", temporary);
  const bool written =
      ::write(file.get(), core.data(), core.size()) == static_cast<ssize_t>(core.size());
  if (written && ::rename(temporary.c_str(), path.c_str()) == 0) return {};
  Error error = os::system_error(written ? "rename" : "write", temporary);
  ::unlink(temporary.c_str());
  return error;
}

}  // namespace defib::postmortem
