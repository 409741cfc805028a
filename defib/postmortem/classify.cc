#include "defib/postmortem/classify.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "defib/postmortem/classify_log.h"
#include "defib/postmortem/classify_rules.h"
#include "defib/postmortem/terminate_text.h"

namespace defib::postmortem {

Classification verdict(Cause cause, std::string subtype, double confidence,
                       std::vector<std::string> evidence) {
  Classification result;
  result.cause = cause;
  result.subtype = std::move(subtype);
  result.confidence = confidence;
  result.evidence = std::move(evidence);
  return result;
}

namespace {

constexpr std::uint64_t kPage = 4096;
// The lowest addresses are never mapped (vm.mmap_min_addr): a member or an element of null.
constexpr std::uint64_t kNullWindow = 64 * 1024;
// How far from the stack pointer an overflowing frame may reach.
constexpr std::uint64_t kStackReach = 1 << 20;
// How near to its lowest end the stack pointer of an overflowing stack stands.
constexpr std::uint64_t kStackBottom = 64 * 1024;
constexpr std::size_t kEvidenceLines = 5;
// glibc's arenas other than the main one begin at multiples of this (HEAP_MAX_SIZE).
constexpr std::uint64_t kArenaAlignment = 64 << 20;

std::uint64_t distance(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : b - a;
}

bool is_canonical(std::uint64_t address) {
  const std::uint64_t top = address >> 47;
  return top == 0 || top == 0x1ffff;
}

// 0xdddddddddddddddd and the like: what allocators leave in freed memory where they are told to
// (jemalloc's junk, Python's and others' debugging allocators). Of a pointer that was read from
// there a small offset may have changed the low part.
bool is_poison(std::uint64_t value) {
  constexpr std::uint8_t kFills[] = {0x5a, 0x6b, 0xcd, 0xdb, 0xdd, 0xde, 0xdf, 0xef, 0xfd, 0xfe};
  if (value == 0xdeadbeefdeadbeef) return true;
  const std::uint64_t top = value >> 56;
  return value >> 16 == top * 0x010101010101 && std::ranges::find(kFills, top) != std::end(kFills);
}

// Eight printable characters: a text was written where a pointer lay.
std::string as_text(std::uint64_t value) {
  std::string text(sizeof value, '\0');
  std::memcpy(text.data(), &value, sizeof value);
  const bool printable = std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
  return printable ? text : std::string();
}

std::string_view access_word(CrashAccess access) {
  switch (access) {
    case CrashAccess::kRead:
      return "read";
    case CrashAccess::kWrite:
      return "write";
    case CrashAccess::kExecute:
      return "execution";
    case CrashAccess::kUnknown:
      break;
  }
  return "access";
}

std::string describe_mapping(const Mapping& mapping) {
  return fmt::format("{:#x}-{:#x} {}{}{} {}", mapping.start, mapping.end,
                     mapping.readable ? 'r' : '-', mapping.writable ? 'w' : '-',
                     mapping.executable ? 'x' : '-',
                     mapping.path.empty() ? "anonymous memory" : mapping.path);
}

// The last line that contains `part`, or empty.
std::string last_line_with(std::string_view text, std::string_view part) {
  const std::size_t at = text.rfind(part);
  if (at == std::string_view::npos) return {};
  const std::size_t newline = text.rfind('\n', at);
  const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
  return std::string(text.substr(start, text.find('\n', at) - start));
}

std::optional<std::uint64_t> hex_after(std::string_view line, std::string_view key) {
  const std::size_t at = line.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view digits = line.substr(at + key.size());
  if (digits.starts_with("0x")) digits.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end == digits.data()) return std::nullopt;
  return value;
}

std::optional<Classification> stack_overflow(const CrashFacts& facts) {
  if (!facts.registers || facts.signal.code == kFromKernel) return std::nullopt;
  const std::uint64_t address = facts.signal.fault_address;
  const std::uint64_t sp = facts.registers->sp();
  if (distance(address, sp) > kStackReach) return std::nullopt;
  const Mapping* at_fault = find_mapping(facts.maps, address);
  if (at_fault != nullptr && at_fault->writable) return std::nullopt;
  // The stack: the lowest writable memory above the fault and the stack pointer's page.
  const auto stack = std::ranges::find_if(
      facts.maps, [&](const Mapping& m) { return m.writable && m.end > std::max(address, sp); });
  if (stack == facts.maps.end() || !stack->path.empty()) {
    if (stack == facts.maps.end() || !stack->path.starts_with("[")) return std::nullopt;
  }
  if (stack->start > address + kStackReach || sp > stack->start + kStackBottom) return std::nullopt;
  return verdict(Cause::stack_overflow, "", 0.98,
                 {fmt::format("the fault at {:#x} is {} bytes from the stack pointer {:#x}",
                              address, distance(address, sp), sp),
                  fmt::format("the stack {} is used to its end", describe_mapping(*stack)),
                  at_fault != nullptr ? "the address lies in the stack's guard page"
                                      : "the address lies just below the stack"});
}

// glibc (2.32 and later) keeps freed blocks in lists whose links are mixed with the block's own
// page number; the last one's link is that number alone. Who follows a pointer in a freed block
// therefore often lands there.
std::optional<Classification> freed_block_mark(const CrashFacts& facts) {
  const std::uint64_t address = facts.signal.fault_address;
  for (const Mapping& mapping : facts.maps) {
    const bool arena = mapping.path.empty() && mapping.start % kArenaAlignment == 0;
    if (!mapping.writable || (mapping.path != "[heap]" && !arena)) continue;
    if (address < mapping.start >> 12 || address >= (mapping.end >> 12) + kPage) continue;
    return verdict(
        Cause::segmentation_fault, "use_after_free", 0.85,
        {fmt::format("{} of {:#x}, which is the mark that glibc leaves in a freed block",
                     access_word(facts.signal.access), address),
         fmt::format("it is the page number of the heap {}", describe_mapping(mapping))});
  }
  return std::nullopt;
}

Classification without_address(const CrashFacts& facts) {
  std::vector<std::string> suspects;
  std::string poisoned;
  if (facts.registers) {
    for (std::size_t i = 0; i < facts.registers->values.size(); ++i) {
      const std::uint64_t value = facts.registers->values[i];
      const std::string_view name = facts.registers->name(i);
      if (name.empty() || is_canonical(value)) continue;
      suspects.push_back(fmt::format("register {} holds {:#x}", name, value));
      if (const std::string text = as_text(value); !text.empty()) {
        suspects.back() +=
            fmt::format(", which is the text \"{}\": it lies where a pointer was", text);
      }
      if (is_poison(value)) poisoned = suspects.back();
    }
  }
  if (!poisoned.empty()) {
    return verdict(Cause::segmentation_fault, "use_after_free", 0.8,
                   {poisoned + ", a pattern that allocators write into freed memory",
                    "the kernel gave no address: it was not canonical"});
  }
  if (suspects.empty()) {
    return verdict(Cause::segmentation_fault, "general_protection", 0.7,
                   {"the kernel gave no address, and no register holds a non-canonical one: a "
                    "misaligned vector access or a privileged instruction"});
  }
  suspects.insert(suspects.begin(),
                  "the kernel gave no address: it was not canonical (no 48-bit address)");
  return verdict(Cause::segmentation_fault, "non_canonical", 0.95, std::move(suspects));
}

bool in_allocator(const CrashFacts& facts) {
  constexpr std::string_view kAllocator[] = {
      "malloc",        "_int_malloc",    "_int_free",
      "free",          "__libc_malloc",  "__libc_free",
      "calloc",        "__libc_calloc",  "realloc",
      "_int_realloc",  "__libc_realloc", "unlink_chunk",
      "_int_memalign", "sysmalloc",      "malloc_consolidate",
      "tcache_get",    "tcache_put",     "_int_free_merge_chunk",
      "cfree",         "systrim"};
  constexpr std::size_t kInnermost = 2;
  for (std::size_t i = 0; i < std::min(kInnermost, facts.top_functions.size()); ++i) {
    std::string_view name = facts.top_functions[i];
    name = name.substr(0, name.find_first_of(" .@("));
    if (std::ranges::find(kAllocator, name) != std::end(kAllocator)) return true;
  }
  return false;
}

Classification access_denied(const CrashFacts& facts, const Mapping& mapping) {
  const std::uint64_t address = facts.signal.fault_address;
  std::string subtype = "access_denied";
  if (!mapping.readable && !mapping.writable && !mapping.executable) {
    subtype = "no_access_page";
  } else if (facts.signal.access == CrashAccess::kExecute) {
    subtype = "execute_data";
  } else if (!mapping.writable) {
    subtype = "write_to_read_only";
  }
  return verdict(
      Cause::segmentation_fault, subtype, 0.95,
      {fmt::format("{} of {:#x} is not allowed there", access_word(facts.signal.access), address),
       "memory: " + describe_mapping(mapping)});
}

}  // namespace

Classification segmentation_fault(const CrashFacts& facts) {
  const std::uint64_t address = facts.signal.fault_address;
  const bool jumped = facts.registers && facts.registers->pc() == address;
  if (facts.signal.code == kFromKernel || (facts.signal.code > 0 && !is_canonical(address))) {
    if (in_allocator(facts)) {
      return verdict(Cause::heap_corruption, "in_allocator", 0.75,
                     {fmt::format("the fault is in {}, which follows pointers kept in the heap",
                                  facts.top_functions.front()),
                      "the pointer was not canonical"});
    }
    return without_address(facts);
  }
  if (auto overflow = stack_overflow(facts)) return *overflow;
  if (address < kPage || (address < kNullWindow && !freed_block_mark(facts))) {
    std::vector<std::string> evidence = {
        jumped ? fmt::format("a call or jump to {:#x}", address)
               : fmt::format("{} of {:#x}", access_word(facts.signal.access), address)};
    evidence.push_back(address == 0 ? "the pointer was null"
                                    : fmt::format("a pointer was null; the object or index adds "
                                                  "{} bytes",
                                                  address));
    return verdict(Cause::null_dereference, jumped ? "null_call" : "", 0.99, std::move(evidence));
  }
  if (auto freed = freed_block_mark(facts)) return *freed;
  if (in_allocator(facts)) {
    return verdict(Cause::heap_corruption, "in_allocator", 0.75,
                   {fmt::format("the fault at {:#x} is in {}, which follows pointers kept in the "
                                "heap",
                                address, facts.top_functions.front())});
  }
  if (const Mapping* mapping = find_mapping(facts.maps, address); mapping != nullptr) {
    return access_denied(facts, *mapping);
  }
  return verdict(
      Cause::segmentation_fault, jumped ? "wild_jump" : "wild_pointer",
      facts.maps.empty() ? 0.7 : 0.9,
      {fmt::format("{} of {:#x}", jumped ? "a call or jump" : access_word(facts.signal.access),
                   address),
       "no memory is mapped there"});
}

namespace {

// std::bad_alloc is the allocator's refusal; an impossible length (std::bad_array_new_length) is
// not.
Classification exception(std::string type, double confidence, std::vector<std::string> evidence) {
  if (type != "std::bad_alloc") {
    return verdict(Cause::uncaught_exception, std::move(type), confidence, std::move(evidence));
  }
  evidence.emplace_back(
      "the allocator refused the memory: the process asked for more than it may "
      "have, or than there is");
  return verdict(Cause::out_of_memory, "allocator", confidence, std::move(evidence));
}

// The exception as libstdc++'s own terminate handler prints it.
std::optional<Classification> exception_in_stderr(std::string_view text) {
  constexpr std::string_view kThrown = "terminate called after throwing an instance of '";
  const std::size_t at = text.rfind(kThrown);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = text.substr(at + kThrown.size());
  const std::size_t end = rest.find("'\n");
  const std::string type(rest.substr(0, end == std::string_view::npos ? rest.find('\'') : end));
  std::vector<std::string> evidence = {last_line_with(text, kThrown)};
  constexpr std::string_view kWhat = "what():  ";
  if (const std::size_t what = rest.find(kWhat); what != std::string_view::npos) {
    rest.remove_prefix(what);
    evidence.push_back(std::string(rest.substr(0, rest.find('\n'))));
  }
  return exception(type, 0.9, std::move(evidence));
}

bool is_assertion(std::string_view text) {
  const auto has = [&](std::string_view part) { return text.find(part) != text.npos; };
  return (has("Assertion ") && has("failed")) || has("assertion failed") ||
         has("Unexpected error: ") /* assert_perror(3) */ || has("Check failed: ");
}

// What glibc's allocator says when it finds its lists damaged (malloc/malloc.c).
std::optional<std::string> heap_corruption_subtype(std::string_view text) {
  constexpr std::pair<std::string_view, std::string_view> kTexts[] = {
      // The chunk behind it lies beyond the heap: its size was overwritten.
      {"double free or corruption (out)", "overwritten_heap"},
      {"double free", "double_free"},
      {"free(): invalid pointer", "invalid_free"},
      {"munmap_chunk(): invalid pointer", "invalid_free"},
      {"realloc(): invalid pointer", "invalid_free"},
      {"free(): invalid size", "overwritten_heap"},
      {"free(): invalid next size", "overwritten_heap"},
      {"free(): corrupted unsorted chunks", "overwritten_heap"},
      {"corrupted size vs. prev_size", "overwritten_heap"},
      {"corrupted double-linked list", "overwritten_heap"},
      {"unaligned tcache chunk", "overwritten_heap"},
      {"unaligned fastbin chunk", "overwritten_heap"},
      {"too many chunks detected in tcache", "overwritten_heap"},
      {"invalid fastbin entry", "overwritten_heap"},
      {"malloc(): ", "overwritten_heap"},
      {"malloc_consolidate(): ", "overwritten_heap"},
      {"realloc(): invalid", "overwritten_heap"},
      {"break adjusted to free malloc space", "overwritten_heap"}};
  for (const auto& [part, subtype] : kTexts) {
    if (text.find(part) != text.npos) return std::string(subtype);
  }
  return std::nullopt;
}

// The rules over one text: the crash page's message, or a line of stderr.
std::optional<Classification> abort_by_text(const std::string& text, double confidence) {
  const std::string_view view = text;
  if (view.starts_with(kUncaughtPrefix)) {
    const std::string_view rest = view.substr(sizeof kUncaughtPrefix - 1);
    const std::size_t end = std::min(rest.find("': "), rest.rfind('\''));
    return exception(std::string(rest.substr(0, end)), confidence, {text});
  }
  if (is_assertion(view)) return verdict(Cause::assertion_failure, "", confidence, {text});
  if (auto subtype = heap_corruption_subtype(view)) {
    return verdict(Cause::heap_corruption, *subtype, confidence, {text});
  }
  constexpr std::pair<std::string_view, std::string_view> kAborts[] = {
      {"stack smashing detected", "stack_smashing"},
      {"buffer overflow detected", "buffer_overflow"},
      {"pure virtual method called", "pure_virtual_call"},
      {"The futex facility returned an unexpected error code", "futex_error"}};
  for (const auto& [part, subtype] : kAborts) {
    if (view.find(part) != view.npos) {
      return verdict(Cause::abort, std::string(subtype), confidence, {text});
    }
  }
  return std::nullopt;
}

Classification aborted(const CrashFacts& facts) {
  if (auto told = abort_by_text(facts.message, 1.0)) return *told;
  // A pure virtual call ends in std::terminate(); only stderr tells the difference.
  const std::string pure = last_line_with(facts.stderr_tail, "pure virtual method called");
  if (!pure.empty()) return *abort_by_text(pure, 0.9);
  if (facts.message == kTerminateText) {
    return verdict(Cause::uncaught_exception, "no_active_exception", 1.0,
                   {facts.message,
                    "std::terminate() was called: for example a joinable "
                    "std::thread was destroyed"});
  }
  if (!facts.message.empty()) return verdict(Cause::abort, "", 1.0, {facts.message});
  if (auto thrown = exception_in_stderr(facts.stderr_tail)) return *thrown;
  if (auto told = told_by_output(facts, {.signal = SIGABRT})) return *told;
  const std::vector<std::string> lines = last_lines(facts.stderr_tail, kEvidenceLines);
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (auto told = abort_by_text(*line, 0.9)) return *told;
    if (line->find("terminate called without an active exception") != line->npos) {
      return verdict(Cause::uncaught_exception, "no_active_exception", 0.9, {*line});
    }
  }
  std::vector<std::string> evidence = {"abort() without a message"};
  evidence.insert(evidence.end(), lines.begin(), lines.end());
  return verdict(Cause::abort, "", 0.95, std::move(evidence));
}

Classification bus_error(const CrashFacts& facts) {
  const std::uint64_t address = facts.signal.fault_address;
  std::vector<std::string> evidence = {
      fmt::format("{} of {:#x}", access_word(facts.signal.access), address)};
  const Mapping* mapping = find_mapping(facts.maps, address);
  if (mapping != nullptr) evidence.push_back("memory: " + describe_mapping(*mapping));
  switch (facts.signal.code) {
    case BUS_ADRALN:
      return verdict(Cause::bus_error, "misaligned", 0.95, std::move(evidence));
    case BUS_ADRERR:
      if (mapping != nullptr && mapping->path.starts_with('/')) {
        evidence.push_back(
            "a mapped file has no byte there: it was truncated, or its disk is full or failing");
        return verdict(Cause::bus_error, "file_truncated", 0.9, std::move(evidence));
      }
      return verdict(Cause::bus_error, "no_backing", 0.8, std::move(evidence));
    case BUS_MCEERR_AR:
    case BUS_MCEERR_AO:
      evidence.push_back("the hardware reported a memory error");
      return verdict(Cause::bus_error, "hardware_memory_error", 0.95, std::move(evidence));
    default:
      return verdict(Cause::bus_error, "", 0.8, std::move(evidence));
  }
}

Classification arithmetic_fault(const CrashFacts& facts) {
  constexpr std::pair<int, std::string_view> kCodes[] = {
      {FPE_INTDIV, "integer_division"}, {FPE_INTOVF, "integer_overflow"},
      {FPE_FLTDIV, "float_division"},   {FPE_FLTOVF, "float_overflow"},
      {FPE_FLTUND, "float_underflow"},  {FPE_FLTRES, "float_inexact"},
      {FPE_FLTINV, "float_invalid"},    {FPE_FLTSUB, "subscript_range"}};
  for (const auto& [code, subtype] : kCodes) {
    if (facts.signal.code != code) continue;
    std::string text = code == FPE_INTDIV
                           ? "an integer division by zero, or of the smallest number by -1"
                           : fmt::format("the processor reports {}", subtype);
    return verdict(Cause::arithmetic_fault, std::string(subtype), 1.0,
                   {fmt::format("{} at {:#x}", text, facts.signal.fault_address)});
  }
  return verdict(Cause::arithmetic_fault, "", 0.9, {"the kernel gave no code"});
}

Classification illegal_instruction(const CrashFacts& facts) {
  const std::uint64_t pc = facts.signal.fault_address;
  // x86: ud2 (0f 0b); AArch64: brk #1000, which compilers use for __builtin_trap().
  if (facts.code.starts_with("\x0f\x0b") || facts.code.starts_with(std::string("\0\0\0\0", 4))) {
    return verdict(Cause::illegal_instruction, "trap_instruction", 0.95,
                   {fmt::format("at {:#x} stands the instruction by which a compiler marks a place "
                                "that must not be reached (__builtin_trap, unreachable code)",
                                pc)});
  }
  return verdict(Cause::illegal_instruction, "bad_opcode", 0.9,
                 {fmt::format("the processor does not know the instruction at {:#x}: code for "
                              "another processor, or a jump into data",
                              pc)});
}

Classification sent_by_other(const CrashFacts& facts) {
  return verdict(
      Cause::killed_externally, os::signal_name(facts.signal.signal), 1.0,
      {fmt::format("{} was sent by process {} of user {}", os::signal_name(facts.signal.signal),
                   facts.signal.sender_pid, facts.signal.sender_uid)});
}

Classification by_signal(const CrashFacts& facts) {
  const bool sent = facts.signal.code <= 0;
  const bool by_itself = facts.signal.sender_pid == facts.pid;
  if (sent && !by_itself) return sent_by_other(facts);
  // A handler of the program's own has reported a fault, and raised its signal again.
  if (sent && facts.signal.signal != SIGABRT) {
    if (auto told = told_by_output(facts, {.signal = facts.signal.signal})) return *told;
  }
  Classification result;
  switch (facts.signal.signal) {
    case SIGSEGV:
      result = sent ? verdict(Cause::segmentation_fault, "raised_by_itself", 0.9, {})
                    : segmentation_fault(facts);
      break;
    case SIGABRT:
      return aborted(facts);
    case SIGBUS:
      result = sent ? verdict(Cause::bus_error, "raised_by_itself", 0.9, {}) : bus_error(facts);
      break;
    case SIGFPE:
      result = sent ? verdict(Cause::arithmetic_fault, "raised_by_itself", 0.9, {})
                    : arithmetic_fault(facts);
      break;
    case SIGILL:
      result = sent ? verdict(Cause::illegal_instruction, "raised_by_itself", 0.9, {})
                    : illegal_instruction(facts);
      break;
    case SIGTRAP:
      result = verdict(Cause::illegal_instruction, "breakpoint", 0.9,
                       {"a breakpoint instruction was reached without a debugger"});
      break;
    case SIGSYS:
      result = verdict(Cause::bad_system_call, "seccomp", 0.95,
                       {"a system call was refused by a seccomp filter"});
      break;
    default:
      result = verdict(Cause::unknown, os::signal_name(facts.signal.signal), 0.5, {});
  }
  if (sent) {
    result.evidence.push_back(
        fmt::format("the process sent itself {}", os::signal_name(facts.signal.signal)));
  }
  return result;
}

std::string oom_line(const CrashFacts& facts) {
  for (const std::string& line : facts.kernel_lines) {
    const bool killed = line.find(fmt::format("Killed process {} ", facts.pid)) != line.npos;
    const bool chosen = line.find("oom-kill:") != line.npos &&
                        (line.ends_with(fmt::format("pid={}", facts.pid)) ||
                         line.find(fmt::format("pid={},", facts.pid)) != line.npos);
    if (killed || chosen) return line;
  }
  return {};
}

// The kernel counts this limit by timer ticks, which run ahead of what a process used where it
// shares its processor (878 ms were measured of a limit of 1 s).
std::int64_t cpu_slack(const CrashFacts& facts) {
  constexpr std::int64_t kShare = 8;
  constexpr std::int64_t kLeastNs = 100'000'000;
  return facts.cpu_limit_ns / kShare + kLeastNs;
}

Classification killed(const CrashFacts& facts) {
  if (const std::string line = oom_line(facts); !line.empty()) {
    const bool cgroup =
        line.find("emory cgroup") != line.npos || line.find("CONSTRAINT_MEMCG") != line.npos;
    return verdict(Cause::out_of_memory, cgroup ? "cgroup" : "system", 1.0, {"kernel: " + line});
  }
  if (facts.own_signal == SIGKILL) {
    return verdict(Cause::killed_externally, "by_supervisor", 1.0,
                   {"the supervisor itself sent SIGKILL"});
  }
  if (facts.new_oom_kills.value_or(0) > 0 && !facts.kernel_log_complete) {
    std::vector<std::string> evidence = {
        fmt::format("the kernel counts {} process{} killed in its control group (oom_kill)",
                    *facts.new_oom_kills, *facts.new_oom_kills == 1 ? "" : "es"),
        "the kernel's log cannot tell which"};
    if (facts.memory_limit_bytes != 0) {
      evidence.push_back(
          fmt::format("the group's limit is {} bytes of memory", facts.memory_limit_bytes));
    }
    return verdict(Cause::out_of_memory, "cgroup", 0.8, std::move(evidence));
  }
  if (facts.cpu_limit_ns > 0 && facts.cpu_ns >= facts.cpu_limit_ns - cpu_slack(facts)) {
    return verdict(
        Cause::resource_limit, "cpu_time", facts.cpu_ns >= facts.cpu_limit_ns ? 0.95 : 0.8,
        {fmt::format("it used {:.2f} s of processor time, and its hard limit (RLIMIT_CPU) "
                     "is {} s: the kernel ends a process there with SIGKILL",
                     static_cast<double>(facts.cpu_ns) / 1e9, facts.cpu_limit_ns / 1'000'000'000)});
  }
  std::vector<std::string> evidence = {
      "SIGKILL, and neither the kernel's log nor the cgroup's counter tells of a lack of memory of "
      "this process, so another process sent it (the kernel does not keep the sender)"};
  if (facts.new_oom_kills.value_or(0) > 0) {
    evidence.push_back(fmt::format(
        "in its control group the kernel killed {} for lack of memory, but not this process: the "
        "log names its victims",
        *facts.new_oom_kills));
  }
  return verdict(Cause::killed_externally, "SIGKILL", facts.kernel_log_complete ? 0.9 : 0.8,
                 std::move(evidence));
}

// The kernel's line on a fault: "x[12]: segfault at 8 ip 0x1 sp 0x2 error 4 in ...", or
// "traps: x[12] general protection fault ip:1 sp:2 error:0".
bool facts_from_kernel_line(CrashFacts& facts) {
  for (const std::string& line : facts.kernel_lines) {
    if (line.find(fmt::format("[{}]", facts.pid)) == line.npos) continue;
    const auto address = hex_after(line, "segfault at ");
    const bool protection = line.find("general protection fault") != line.npos;
    if (!address && !protection) continue;
    facts.signal.signal = SIGSEGV;
    facts.signal.code = protection ? kFromKernel : SEGV_MAPERR;
    facts.signal.fault_address = address.value_or(0);
    const auto error = hex_after(line, "error ");
    if (error && address) {
      facts.signal.access = (*error & 16) != 0  ? CrashAccess::kExecute
                            : (*error & 2) != 0 ? CrashAccess::kWrite
                                                : CrashAccess::kRead;
    }
    return true;
  }
  return false;
}

Classification by_status_signal(const CrashFacts& facts) {
  const int signal = facts.status.signal;
  const std::string name = os::signal_name(signal);
  if (signal == SIGKILL) return killed(facts);
  if (facts.own_signal != 0 && facts.own_signal == signal) {
    return verdict(Cause::killed_externally, "by_supervisor", 1.0,
                   {"the supervisor itself sent " + name});
  }
  constexpr std::pair<int, Cause> kFaults[] = {
      {SIGBUS, Cause::bus_error},        {SIGILL, Cause::illegal_instruction},
      {SIGFPE, Cause::arithmetic_fault}, {SIGTRAP, Cause::illegal_instruction},
      {SIGSYS, Cause::bad_system_call},  {SIGSEGV, Cause::segmentation_fault}};
  for (const auto& [number, cause] : kFaults) {
    if (number != signal) continue;
    CrashFacts more = facts;
    if (signal == SIGSEGV && facts_from_kernel_line(more)) {
      Classification result = segmentation_fault(more);
      result.fault_address = more.signal.fault_address;
      result.confidence *= 0.9;
      result.evidence.push_back("kernel: " + more.kernel_lines.front());
      return result;
    }
    if (auto told = told_by_output(facts, {.signal = signal})) return *told;
    return verdict(cause, "", 0.7,
                   {"the process ended by " + name,
                    "no crash report was made, so the address is "
                    "not known"});
  }
  switch (signal) {
    case SIGABRT: {
      Classification result = aborted(facts);
      result.confidence = std::min(result.confidence, 0.9);
      return result;
    }
    case SIGXCPU:
      return verdict(Cause::resource_limit, "cpu_time", 0.95, {"the limit RLIMIT_CPU was reached"});
    case SIGXFSZ:
      return verdict(Cause::resource_limit, "file_size", 0.95,
                     {"the limit RLIMIT_FSIZE was reached"});
    case SIGPIPE:
      return verdict(Cause::exit_failure, "broken_pipe", 0.9,
                     {"SIGPIPE: it wrote to a pipe or socket whose reader is gone"});
    default:
      return verdict(Cause::killed_externally, name, 0.85,
                     {"the process ended by " + name + ", which faults do not cause"});
  }
}

Classification by_exit_code(const CrashFacts& facts) {
  const int code = facts.status.code;
  if (code == 0) return verdict(Cause::clean_exit, "", 1.0, {"exit code 0"});
  if (auto told = told_by_output(facts, {.exit_code = code})) {
    told->evidence.push_back(fmt::format("exit code {}", code));
    return *told;
  }
  constexpr int kNotExecutable = 126;
  constexpr int kNotFound = 127;
  std::vector<std::string> evidence = {fmt::format("exit code {}", code)};
  const bool silent = facts.stderr_tail.find_first_not_of(" \n") == std::string::npos;
  for (std::string& line :
       last_lines(silent ? facts.stdout_tail : facts.stderr_tail, kEvidenceLines)) {
    evidence.push_back((silent ? "stdout: " : "stderr: ") + line);
  }
  std::string subtype = fmt::format("exit_code_{}", code);
  if (code == kNotExecutable) subtype = "not_executable";
  if (code == kNotFound) {
    const bool loader =
        facts.stderr_tail.find("error while loading shared libraries: ") != std::string::npos;
    subtype = loader ? "missing_library" : "command_not_found";
  }
  if (code > 128 && code < 128 + 65) {
    evidence.push_back(
        fmt::format("a shell reports the end by {} with this code", os::signal_name(code - 128)));
  }
  return verdict(Cause::exit_failure, std::move(subtype), 1.0, std::move(evidence));
}

}  // namespace

std::string_view to_string(Cause cause) {
  switch (cause) {
#define DEFIB_CAUSE(name) \
  case Cause::name:       \
    return #name;
    DEFIB_CAUSES(DEFIB_CAUSE)
#undef DEFIB_CAUSE
  }
  return "unknown";
}

Classification classify(const CrashFacts& facts) {
  if (facts.alive) return hang(facts);
  Classification result;
  if (facts.signal.signal != 0) {
    result = by_signal(facts);
    result.signal = facts.signal.signal;
    if (facts.signal.has_address()) result.fault_address = facts.signal.fault_address;
  } else if (!facts.status.known) {
    result = verdict(Cause::unknown, "", 0, {"neither a crash report nor an exit status is known"});
  } else if (facts.status.exited) {
    result = by_exit_code(facts);
  } else {
    result = by_status_signal(facts);
    result.signal = facts.status.signal;
  }
  return result;
}

}  // namespace defib::postmortem
