// Snapshot: a copy of what is needed to explain a process, taken in a moment: registers, stacks,
// maps, and the open files of its modules. It outlives the process.
//
// The same form is filled from a live process (capture.h) and from a core file (core.h), so that
// there is one unwinder and one classifier.
// Invariant: everything in it came from a process that may be corrupted; readers trust nothing.
// Thread rule: immutable once filled.

#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/fd.h"
#include "defib/postmortem/crash_page.h"

namespace defib::postmortem {

enum class Machine : std::uint8_t { kUnknown, kX86_64, kAArch64 };

// The machine that this program was built for: the only one whose live processes it can meet.
#if defined(__x86_64__)
inline constexpr Machine kOwnMachine = Machine::kX86_64;
#elif defined(__aarch64__)
inline constexpr Machine kOwnMachine = Machine::kAArch64;
#else
#error "postmortem knows x86-64 and AArch64"
#endif

// General registers in DWARF numbering (crash_page.h), the last being the program counter.
struct Registers {
  Machine machine = kOwnMachine;
  std::array<std::uint64_t, kCrashRegisters> values{};
  std::uint64_t pc() const { return values[kCrashPcRegister]; }
  void set_pc(std::uint64_t pc) { values[kCrashPcRegister] = pc; }
  std::uint64_t sp() const { return values[sp_index()]; }
  std::uint64_t frame_pointer() const { return values[machine == Machine::kAArch64 ? 29 : 6]; }
  std::size_t sp_index() const { return machine == Machine::kAArch64 ? 31 : 7; }
  // "rax", "x17", "rip"; empty where the machine has no such register.
  std::string_view name(std::size_t index) const;
};

// From the kernel's NT_PRSTATUS register set (struct user_regs_struct, user_pt_regs).
// False where it is too short for the machine.
bool registers_from_regset(Machine machine, std::string_view regset, Registers& out);

struct Mapping {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t offset = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  std::string path;      // "[stack]", "[heap]", "/usr/lib/x.so", or empty; without " (deleted)"
  bool deleted = false;  // the file was removed or replaced since it was mapped
  dev_t device = 0;      // of the file, with its inode; 0: not known
  std::uint64_t inode = 0;
  bool contains(std::uint64_t address) const { return address >= start && address < end; }
};

// Parses /proc/PID/maps; lines that it does not understand are left out.
std::vector<Mapping> parse_maps(std::string_view text);
// The mapping that contains the address, or nullptr. `maps` ascending, as the kernel writes them.
const Mapping* find_mapping(const std::vector<Mapping>& maps, std::uint64_t address);

// One ELF file of the process.
struct Module {
  std::uint64_t start = 0;  // lowest address that it is mapped at
  std::uint64_t end = 0;
  std::string path;
  std::string build_id;  // hexadecimal, as it lies in the process's memory; may be empty
  os::Fd file;           // opened while the process lived; may be invalid
  std::string image;     // the ELF file itself where there is no file: the vDSO
};

// The system call that a thread waits in.
struct SystemCall {
  std::int64_t number = -1;
  std::array<std::uint64_t, 4> arguments{};
};

struct ThreadSnapshot {
  pid_t tid = 0;
  std::string name;
  char state = '?';  // as in /proc: R running, S sleeping, D waiting for a device, ...
  bool crashed = false;
  Registers registers;
  std::optional<SystemCall> system_call;
  // Of the sampling window before the snapshot, where there was one: the share of it that the
  // thread was running or waiting for a processor; negative: not sampled.
  double busy_share = -1;
};

// Copied memory, by address.
class Memory {
 public:
  // Ranges may overlap; an earlier one wins.
  void add(std::uint64_t address, std::string bytes);
  bool read(std::uint64_t address, void* to, std::size_t size) const;
  std::optional<std::uint64_t> read_u64(std::uint64_t address) const;
  std::size_t size_bytes() const;
  struct Range {
    std::uint64_t address;
    std::string bytes;
  };
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

struct SignalInfo {
  int signal = 0;  // 0: no signal
  int code = 0;    // si_code
  int sender_pid = 0;
  int sender_uid = -1;
  std::uint64_t fault_address = 0;
  CrashAccess access = CrashAccess::kUnknown;
  // True for the kernel's codes that come with an address.
  bool has_address() const;
};

struct Snapshot {
  pid_t pid = 0;
  std::string comm;
  std::string exe;
  std::vector<std::string> command_line;  // redacted
  SignalInfo signal;
  std::string message;  // from the crash page
  std::vector<Mapping> maps;
  std::string maps_text;  // as the kernel wrote them; empty: from a core file
  std::vector<Module> modules;
  std::vector<ThreadSnapshot> threads;  // the crashed one first
  Memory memory;
  std::string auxv;                   // /proc/PID/auxv, where it was asked for
  std::string code;                   // bytes at the crashed thread's program counter
  std::int64_t crashed_mono_ns = 0;   // 0: not known
  std::int64_t captured_mono_ns = 0;  // when the copy was complete; 0: from a core file
  std::int64_t stopped_ns = 0;        // how long the process stood still for it
  std::vector<std::string> gaps;      // what could not be had, and why

  const ThreadSnapshot* crashed_thread() const;
};

// Fills signal, message, time and the crashed thread's registers: all that is known where the
// process itself cannot be read.
Snapshot snapshot_from_page(const CrashPage& page);

// "--password=x", "TOKEN=x", "--api-key x", "user:x@host": the secret becomes "[redacted]".
std::vector<std::string> redact_command_line(const std::vector<std::string>& arguments);

// The build id in an ELF file's note segment, in hexadecimal; empty where there is none.
std::string build_id_in_notes(std::string_view notes);

}  // namespace defib::postmortem
