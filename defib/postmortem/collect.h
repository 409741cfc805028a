// What capture.h and core.h have in common: which parts of a process's memory a Snapshot takes,
// whichever way that memory is read.
// Thread rule: pure but for the reader.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// What can be read of [address, address + size); short where memory ends.
using MemoryReader = std::function<std::string(std::uint64_t address, std::size_t size)>;
// Of a living process that we may trace.
std::string read_process_memory(pid_t pid, std::uint64_t address, std::size_t size);

// The top of the thread's stack. With the stack pointer in a guard page, as after an overflow, the
// stack begins at the next readable mapping.
void collect_stack(Snapshot& snapshot, const ThreadSnapshot& thread, std::size_t max_bytes,
                   const MemoryReader& read);

// The instruction at the crashed thread's program counter.
void collect_code(Snapshot& snapshot, const MemoryReader& read);

// The lock that each thread waits at.
void collect_locks(Snapshot& snapshot, const MemoryReader& read);

// The build id of an ELF file that is mapped at `base`; empty where it has none.
std::string build_id_in_memory(std::uint64_t base, const MemoryReader& read);

// Of an ELF file; empty where it has none, or is none.
std::string build_id_in_file(int fd);

// The system call that the thread is in, by its NT_PRSTATUS registers.
std::optional<SystemCall> system_call_in(std::string_view regset, const Registers& registers,
                                         const MemoryReader& read);

}  // namespace defib::postmortem
