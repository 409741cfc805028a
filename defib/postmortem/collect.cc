#include "defib/postmortem/collect.h"

#include <elf.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

// What a leaf function may keep below its stack pointer (System V ABI, 3.2.2).
constexpr std::uint64_t kRedZone = 128;
constexpr std::size_t kCodeBytes = 16;
// Enough for a pthread_mutex_t, and for a pthread_rwlock_t around its futex.
constexpr std::size_t kLockBytes = 80;
constexpr std::uint64_t kBeforeFutex = 16;
// An ELF header, its program headers and, as linkers place them, its notes.
constexpr std::size_t kHeaderBytes = 4096;
constexpr std::uint64_t kPageMask = ~std::uint64_t{4095};

}  // namespace

std::string read_process_memory(pid_t pid, std::uint64_t address, std::size_t size) {
  std::string bytes(size, '\0');
  const iovec to = {bytes.data(), size};
  void* const there = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
  const iovec from = {there, size};
  const ssize_t count = ::process_vm_readv(pid, &to, 1, &from, 1, 0);
  bytes.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return bytes;
}

void collect_stack(Snapshot& snapshot, const ThreadSnapshot& thread, std::size_t max_bytes,
                   const MemoryReader& read) {
  const std::uint64_t sp = thread.registers.sp();
  const auto mapping = std::ranges::find_if(
      snapshot.maps, [&](const Mapping& m) { return m.end > sp && m.readable; });
  if (mapping == snapshot.maps.end()) return;
  const std::uint64_t start = std::max(sp - std::min(sp, kRedZone), mapping->start);
  const std::size_t size = std::min<std::uint64_t>(mapping->end - start, max_bytes);
  snapshot.memory.add(start, read(start, size));
}

void collect_code(Snapshot& snapshot, const MemoryReader& read) {
  const ThreadSnapshot* thread = snapshot.crashed_thread();
  if (thread == nullptr) return;
  snapshot.code = read(thread->registers.pc(), kCodeBytes);
}

void collect_locks(Snapshot& snapshot, const MemoryReader& read) {
  for (const ThreadSnapshot& thread : snapshot.threads) {
    if (!thread.system_call || thread.system_call->number != SYS_futex) continue;
    // The futex of a read-write lock lies inside of it.
    const std::uint64_t futex = thread.system_call->arguments[0];
    std::string bytes = read(futex - kBeforeFutex, kLockBytes);
    const bool at_page_start = bytes.empty();
    if (at_page_start) bytes = read(futex, kLockBytes);
    snapshot.memory.add(at_page_start ? futex : futex - kBeforeFutex, std::move(bytes));
  }
}

std::string build_id_in_memory(std::uint64_t base, const MemoryReader& read) {
  const std::string head = read(base, kHeaderBytes);
  if (head.size() < sizeof(Elf64_Ehdr) || !head.starts_with(ELFMAG)) return {};
  const auto elf = load<Elf64_Ehdr>(head.data());
  const std::size_t table_end = elf.e_phoff + std::size_t{elf.e_phnum} * sizeof(Elf64_Phdr);
  if (elf.e_phoff > head.size() || table_end > head.size()) return {};
  const auto program = [&](std::size_t i) {
    return load<Elf64_Phdr>(head.data() + elf.e_phoff + i * sizeof(Elf64_Phdr));
  };
  std::uint64_t first_load = UINT64_MAX;
  for (std::size_t i = 0; i < elf.e_phnum; ++i) {
    if (program(i).p_type != PT_LOAD) continue;
    first_load = std::min<std::uint64_t>(first_load, program(i).p_vaddr & kPageMask);
  }
  for (std::size_t i = 0; i < elf.e_phnum; ++i) {
    const Elf64_Phdr note = program(i);
    if (note.p_type != PT_NOTE || note.p_filesz > kHeaderBytes) continue;
    std::string id = build_id_in_notes(read(base + (note.p_vaddr - first_load), note.p_filesz));
    if (!id.empty()) return id;
  }
  return {};
}

std::string build_id_in_file(int fd) {
  // In the file its notes lie where they do in memory, of all common linkers.
  return build_id_in_memory(0, [fd](std::uint64_t at, std::size_t size) {
    std::string bytes(size, '\0');
    const ssize_t got = ::pread(fd, bytes.data(), size, static_cast<off_t>(at));
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  });
}

std::optional<SystemCall> system_call_in(std::string_view regset, const Registers& registers,
                                         const MemoryReader& read) {
  const auto& r = registers.values;
  if (registers.machine == Machine::kX86_64) {
    constexpr std::size_t kOrigRax = 15;
    if (regset.size() < (kOrigRax + 1) * sizeof(std::int64_t)) return std::nullopt;
    const auto number = load<std::int64_t>(regset.data() + kOrigRax * sizeof(std::int64_t));
    if (number < 0) return std::nullopt;
    return SystemCall{number, {r[5], r[4], r[1], r[10]}};  // rdi rsi rdx r10
  }
  if (registers.machine == Machine::kAArch64) {
    // The kernel has set the program counter back to the `svc` instruction, and x0 with it.
    constexpr std::uint32_t kSvc = 0xd4000001;
    const std::string code = read(registers.pc(), sizeof kSvc);
    if (code.size() != sizeof kSvc || load<std::uint32_t>(code.data()) != kSvc) return std::nullopt;
    return SystemCall{static_cast<std::int64_t>(r[8]), {r[0], r[1], r[2], r[3]}};
  }
  return std::nullopt;
}

}  // namespace defib::postmortem
