#include "defib/call/fault.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "defib/base/visible_text.h"

namespace defib::call {
namespace {

struct KindText {
  FaultKind kind;
  std::string_view name;
  std::string_view words;
};
constexpr KindText kKinds[] = {
    {FaultKind::kSegmentationFault, "segmentation_fault", "a segmentation fault"},
    {FaultKind::kNullDereference, "null_dereference", "a null pointer"},
    {FaultKind::kStackOverflow, "stack_overflow", "a stack overflow"},
    {FaultKind::kBusError, "bus_error", "a bus error"},
    {FaultKind::kIllegalInstruction, "illegal_instruction", "an illegal instruction"},
    {FaultKind::kArithmeticFault, "arithmetic_fault", "an arithmetic fault"},
    {FaultKind::kAssertionFailure, "assertion_failure", "a failed assertion"},
    {FaultKind::kUncaughtException, "uncaught_exception", "an uncaught C++ exception"},
    {FaultKind::kHeapCorruption, "heap_corruption", "a corrupted heap"},
    {FaultKind::kAbort, "abort", "a call of abort()"},
    {FaultKind::kBadSystemCall, "bad_system_call", "a system call that the isolation forbids"},
    {FaultKind::kTrap, "trap", "a trap instruction"},
    {FaultKind::kExit, "exit", "a call of exit()"},
    {FaultKind::kOutOfMemory, "out_of_memory", "want of memory"},
    {FaultKind::kCpuLimit, "cpu_limit", "its limit of processor time"},
    {FaultKind::kTimeLimit, "time_limit", "its time limit"},
    {FaultKind::kHang, "hang", "a hang"},
    {FaultKind::kProtocol, "broken_protocol", "impossible data in the shared memory"},
    {FaultKind::kKilled, "killed_externally", "a kill from outside"},
    {FaultKind::kZygoteLost, "zygote_lost", "the death of the zygote"},
};

const KindText& text_of(FaultKind kind) {
  return *std::find_if(std::begin(kKinds), std::end(kKinds),
                       [kind](const KindText& text) { return text.kind == kind; });
}

// What glibc's malloc and stack protector print before they abort.
bool tells_of_heap(std::string_view message) {
  constexpr std::string_view kTexts[] = {
      "malloc",          "free():",        "realloc",        "double free", "corrupted",
      "invalid pointer", "invalid size",   "smallbin",       "unsorted",    "unlink",
      "tcache",          "stack smashing", "buffer overflow"};
  return std::any_of(std::begin(kTexts), std::end(kTexts), [&](std::string_view text) {
    return message.find(text) != std::string_view::npos;
  });
}

FaultKind kind_of_abort(std::string_view message) {
  if (message.find("Assertion ") != std::string_view::npos) return FaultKind::kAssertionFailure;
  if (message.starts_with("uncaught exception") || message.starts_with("terminate without")) {
    return FaultKind::kUncaughtException;
  }
  return tells_of_heap(message) ? FaultKind::kHeapCorruption : FaultKind::kAbort;
}

FaultKind kind_of_segfault(const postmortem::CrashPage& page) {
  constexpr std::uint64_t kFirstPages = 64 * 1024;
  constexpr std::uint64_t kNearStack = 1 << 20;
  constexpr std::size_t kStackPointer =
#if defined(__aarch64__)
      31;
#else
      7;
#endif
  const std::uint64_t address = page.fault_address;
  const std::uint64_t sp = page.registers[kStackPointer];
  const bool mapped_rule = page.signal_code == SEGV_MAPERR || page.signal_code == SEGV_ACCERR;
  if (!mapped_rule) return FaultKind::kSegmentationFault;
  if (address < kFirstPages) return FaultKind::kNullDereference;
  // An overflow touches the guard page below the stack, at the stack pointer or a frame below it.
  const std::uint64_t distance = address > sp ? address - sp : sp - address;
  const bool near = distance < kNearStack && address <= sp + 256;
  return near ? FaultKind::kStackOverflow : FaultKind::kSegmentationFault;
}

// One printable line of what the worker wrote.
std::string clean(const char* text, std::size_t most) {
  return visible_text(std::string_view(text, strnlen(text, most)));
}

bool has_address(FaultKind kind) {
  return kind == FaultKind::kSegmentationFault || kind == FaultKind::kNullDereference ||
         kind == FaultKind::kStackOverflow || kind == FaultKind::kBusError;
}

constexpr std::string_view kUnusable =
    "This client instance is no longer usable. Please create a new client instance to continue.";

std::string during(const Fault& fault) {
  return fault.method.empty() ? "while no method ran" : "during " + fault.method;
}

std::string ended_by(const Fault& fault) {
  return fault.signal == 0 ? std::string(in_words(fault.kind))
                           : fmt::format("{} from outside", os::signal_name(fault.signal));
}

Error with_facts(Error error, const Fault& fault) {
  Error full = std::move(error).with("failure", to_string(fault.kind)).with("method", fault.method);
  if (!fault.arguments.empty()) full = std::move(full).with("arguments", fault.arguments);
  if (fault.signal != 0) full = std::move(full).with("signal", os::signal_name(fault.signal));
  if (has_address(fault.kind)) {
    full = std::move(full).with("fault_address", fmt::format("{:#x}", fault.address));
  }
  if (!fault.place.empty()) full = std::move(full).with("place", fault.place);
  if (!fault.message.empty()) full = std::move(full).with("text", fault.message);
  if (fault.kind == FaultKind::kExit) {
    full = std::move(full).with("exit_code", std::int64_t{fault.exit_code});
  }
  return full;
}

// "a null pointer at 0x0 in libprices.so+0x1139: text".
std::string reason(const Fault& fault) {
  std::string text(in_words(fault.kind));
  if (fault.signal != 0) text += fmt::format(" ({})", os::signal_name(fault.signal));
  if (has_address(fault.kind)) text += fmt::format(" at {:#x}", fault.address);
  if (!fault.place.empty()) text += fmt::format(" in {}", fault.place);
  if (fault.kind == FaultKind::kExit) text += fmt::format(" with code {}", fault.exit_code);
  if (!fault.message.empty()) text += ": " + fault.message;
  if (!fault.arguments.empty()) text += fmt::format("; arguments ({})", fault.arguments);
  return text;
}

}  // namespace

std::string_view to_string(FaultKind kind) {
  return text_of(kind).name;
}
std::string_view incident_cause(FaultKind kind) {
  switch (kind) {
    case FaultKind::kTrap:
      return "abort";
    case FaultKind::kExit:
      return "exit_failure";
    case FaultKind::kTimeLimit:
      return "busy_loop";
    case FaultKind::kHang:
      return "heartbeat_lost";
    case FaultKind::kProtocol:
      return "unknown";
    case FaultKind::kZygoteLost:
      return "killed_externally";
    default:
      return to_string(kind);
  }
}
std::string_view in_words(FaultKind kind) {
  return text_of(kind).words;
}

std::optional<CrashNote> read_crash(const postmortem::CrashPage& page) {
  CrashNote note{FaultKind::kProtocol, page.signal, page.fault_address,
                 page.registers[postmortem::kCrashPcRegister],
                 clean(page.message, sizeof page.message)};
  switch (page.signal) {
    case SIGSEGV:
      note.kind = kind_of_segfault(page);
      break;
    case SIGBUS:
      note.kind = FaultKind::kBusError;
      break;
    case SIGILL:
      note.kind = FaultKind::kIllegalInstruction;
      break;
    case SIGFPE:
      note.kind = FaultKind::kArithmeticFault;
      break;
    case SIGABRT:
      note.kind = kind_of_abort(note.message);
      break;
    case SIGSYS:
      note.kind = FaultKind::kBadSystemCall;
      break;
    case SIGTRAP:
      note.kind = FaultKind::kTrap;
      break;
    default:
      return std::nullopt;
  }
  return note;
}

void classify_end(Fault& fault, const WorkerEnd& end) {
  if (!end.status.known) {
    fault.kind = FaultKind::kZygoteLost;
    return;
  }
  if (end.status.exited) {
    fault.kind = FaultKind::kExit;
    fault.exit_code = end.status.code;
    return;
  }
  fault.signal = end.status.signal;
  if (end.status.signal == SIGXCPU) {
    fault.kind = FaultKind::kCpuLimit;
  } else {
    fault.kind = FaultKind::kKilled;
    fault.message = fmt::format(
        "the kernel's log tells whether it was for want of memory; its "
        "largest size was {} MB",
        end.max_rss_kb / 1024);
  }
}

Error crash_error(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kTimeLimit:
    case FaultKind::kHang: {
      const bool hung = fault.kind == FaultKind::kHang;
      return with_facts(Error(hung ? Code::kNativeHang : Code::kNativeTimeLimit,
                              fmt::format("Native library {} {}: {}. {}",
                                          hung ? "hung" : "overran its time limit", during(fault),
                                          fault.message, kUnusable)),
                        fault);
    }
    case FaultKind::kProtocol:
      return with_facts(
          Error(Code::kNativeProtocol, fmt::format("Native library broke the protocol {}: {}. {}",
                                                   during(fault), fault.message, kUnusable)),
          fault);
    case FaultKind::kExit:
      return with_facts(Error(Code::kNativeExit,
                              fmt::format("Native library ended its process with code {} {}. {}",
                                          fault.exit_code, during(fault), kUnusable)),
                        fault);
    case FaultKind::kOutOfMemory:
    case FaultKind::kCpuLimit:
      return with_facts(Error(Code::kNativeLimit, fmt::format("Native library reached {} {}. {}",
                                                              fault.kind == FaultKind::kCpuLimit
                                                                  ? "its limit of processor time"
                                                                  : "its limit of memory",
                                                              during(fault), kUnusable)),
                        fault);
    case FaultKind::kKilled:
    case FaultKind::kZygoteLost:
      return with_facts(
          Error(Code::kWorkerKilled, fmt::format("The worker was ended by {} {}. {}",
                                                 ended_by(fault), during(fault), kUnusable)),
          fault);
    default:
      break;
  }
  const std::string message =
      fmt::format("Native library crashed {}. {}", during(fault), kUnusable);
  return with_facts(
      Error(Code::kNativeCrash, message).because(Error(Code::kNativeCrash, reason(fault))), fault);
}

Error faulted_error(const Fault& fault, const Error& crash) {
  return Error(Code::kClientFaulted,
               fmt::format("The client has faulted due to a previous native crash and cannot be "
                           "reused: {} {}",
                           in_words(fault.kind), during(fault)))
      .with("failure", to_string(fault.kind))
      .with("method", fault.method)
      .because(crash);
}

}  // namespace defib::call
