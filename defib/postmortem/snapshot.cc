#include "defib/postmortem/snapshot.h"

#include <elf.h>
#include <signal.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

#include "defib/base/bytes.h"
#include "defib/postmortem/redact.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxMappings = 100'000;

bool take_hex(std::string_view& text, char end, std::uint64_t& value) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || stop == text.data() + text.size() || *stop != end) return false;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()) + 1);
  return true;
}

std::string_view take_word(std::string_view& text) {
  const std::size_t start = std::min(text.find_first_not_of(' '), text.size());
  text.remove_prefix(start);
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

bool parse_mapping(std::string_view line, Mapping& out) {
  if (!take_hex(line, '-', out.start) || !take_hex(line, ' ', out.end)) return false;
  const std::string_view permissions = take_word(line);
  if (permissions.size() < 4 || out.end < out.start) return false;
  out.readable = permissions[0] == 'r';
  out.writable = permissions[1] == 'w';
  out.executable = permissions[2] == 'x';
  std::string_view offset = take_word(line);
  if (std::from_chars(offset.data(), offset.data() + offset.size(), out.offset, 16).ec !=
      std::errc()) {
    return false;
  }
  const std::string_view device = take_word(line), inode = take_word(line);
  unsigned major = 0, minor = 0;
  const std::size_t colon = std::min(device.find(':'), device.size());
  std::from_chars(device.data(), device.data() + colon, major, 16);
  if (colon < device.size()) {
    std::from_chars(device.data() + colon + 1, device.data() + device.size(), minor, 16);
  }
  out.device = makedev(major, minor);
  std::from_chars(inode.data(), inode.data() + inode.size(), out.inode);
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  constexpr std::string_view kDeleted = " (deleted)";
  if (line.ends_with(kDeleted)) {
    out.deleted = true;
    line.remove_suffix(kDeleted.size());
  }
  out.path = line;
  return true;
}

}  // namespace

std::string_view Registers::name(std::size_t index) const {
  constexpr std::string_view kX86[] = {"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  constexpr std::string_view kArm[] = {"x0",  "x1",  "x2",  "x3",  "x4",  "x5",  "x6",  "x7",
                                       "x8",  "x9",  "x10", "x11", "x12", "x13", "x14", "x15",
                                       "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23",
                                       "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp"};
  if (machine == Machine::kX86_64) {
    if (index == kCrashPcRegister) return "rip";
    return index < std::size(kX86) ? kX86[index] : std::string_view();
  }
  if (machine == Machine::kAArch64) {
    if (index == kCrashPcRegister) return "pc";
    return index < std::size(kArm) ? kArm[index] : std::string_view();
  }
  return {};
}

bool registers_from_regset(Machine machine, std::string_view regset, Registers& out) {
  out.machine = machine;
  const auto word = [&](std::size_t index) {
    return load<std::uint64_t>(regset.data() + index * sizeof(std::uint64_t));
  };
  if (machine == Machine::kX86_64) {
    // struct user_regs_struct: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax
    // rip cs eflags rsp ...
    constexpr std::uint8_t kOrder[] = {10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0};
    constexpr std::size_t kRip = 16;
    if (regset.size() < 20 * sizeof(std::uint64_t)) return false;
    for (std::size_t i = 0; i < std::size(kOrder); ++i) out.values[i] = word(kOrder[i]);
    out.set_pc(word(kRip));
    return true;
  }
  if (machine == Machine::kAArch64) {
    // struct user_pt_regs: x0..x30 sp pc pstate.
    if (regset.size() < 33 * sizeof(std::uint64_t)) return false;
    for (std::size_t i = 0; i < 33; ++i) out.values[i] = word(i);
    return true;
  }
  return false;
}

std::vector<Mapping> parse_maps(std::string_view text) {
  std::vector<Mapping> maps;
  while (!text.empty() && maps.size() < kMaxMappings) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    Mapping mapping;
    if (parse_mapping(text.substr(0, end), mapping)) maps.push_back(std::move(mapping));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return maps;
}

const Mapping* find_mapping(const std::vector<Mapping>& maps, std::uint64_t address) {
  const auto after = std::ranges::upper_bound(maps, address, {}, &Mapping::start);
  if (after == maps.begin()) return nullptr;
  const Mapping& candidate = *(after - 1);
  return candidate.contains(address) ? &candidate : nullptr;
}

void Memory::add(std::uint64_t address, std::string bytes) {
  if (!bytes.empty()) ranges_.push_back({address, std::move(bytes)});
}

bool Memory::read(std::uint64_t address, void* to, std::size_t size) const {
  for (const Range& range : ranges_) {
    if (address < range.address) continue;
    const std::uint64_t offset = address - range.address;
    if (offset > range.bytes.size() || size > range.bytes.size() - offset) continue;
    std::memcpy(to, range.bytes.data() + offset, size);
    return true;
  }
  return false;
}

std::optional<std::uint64_t> Memory::read_u64(std::uint64_t address) const {
  std::uint64_t value = 0;
  if (!read(address, &value, sizeof value)) return std::nullopt;
  return value;
}

std::size_t Memory::size_bytes() const {
  std::size_t total = 0;
  for (const Range& range : ranges_) total += range.bytes.size();
  return total;
}

bool SignalInfo::has_address() const {
  if (code <= 0) return false;
  return signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE ||
         signal == SIGTRAP || signal == SIGSYS;
}

const ThreadSnapshot* Snapshot::crashed_thread() const {
  const auto found = std::ranges::find_if(threads, &ThreadSnapshot::crashed);
  return found == threads.end() ? nullptr : &*found;
}

Snapshot snapshot_from_page(const CrashPage& page) {
  Snapshot snapshot;
  snapshot.pid = page.pid;
  snapshot.signal.signal = page.signal;
  snapshot.signal.code = page.signal_code;
  snapshot.signal.sender_pid = page.sender_pid;
  snapshot.signal.sender_uid = page.signal_code <= 0 ? page.sender_uid : -1;
  snapshot.signal.fault_address = page.fault_address;
  if (page.access <= static_cast<std::uint32_t>(CrashAccess::kExecute)) {
    snapshot.signal.access = static_cast<CrashAccess>(page.access);
  }
  // The writer may be corrupted: the text ends where the field ends.
  snapshot.message.assign(page.message, strnlen(page.message, sizeof page.message));
  snapshot.crashed_mono_ns = page.crashed_mono_ns;
  ThreadSnapshot thread;
  thread.tid = page.tid;
  thread.crashed = true;
  thread.registers.machine = page.machine == EM_X86_64    ? Machine::kX86_64
                             : page.machine == EM_AARCH64 ? Machine::kAArch64
                                                          : Machine::kUnknown;
  std::ranges::copy(page.registers, thread.registers.values.begin());
  snapshot.threads.push_back(std::move(thread));
  return snapshot;
}

std::vector<std::string> redact_command_line(const std::vector<std::string>& arguments) {
  return Redactor().command_line(arguments);
}

std::string build_id_in_notes(std::string_view notes) {
  Reader in(notes);
  while (in.remaining() >= sizeof(Elf64_Nhdr)) {
    const std::uint32_t name_size = in.u32();
    const std::uint32_t value_size = in.u32();
    const std::uint32_t type = in.u32();
    const auto padded = [](std::uint32_t size) { return (std::size_t{size} + 3) / 4 * 4; };
    const std::string_view name = in.bytes(padded(name_size)).substr(0, name_size);
    const std::string_view value = in.bytes(padded(value_size)).substr(0, value_size);
    if (!in.ok()) return {};
    if (type == NT_GNU_BUILD_ID && name == std::string_view("GNU\0", 4)) {
      return to_hex(as_bytes(value));
    }
  }
  return {};
}

}  // namespace defib::postmortem
