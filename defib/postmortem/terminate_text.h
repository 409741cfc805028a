// The text of an uncaught exception, for the CrashPage.
//
// std::terminate() ends in abort(), by which time the exception's type and text are hard to find
// from outside. The handler installed here writes them into CrashPage.message, then calls the
// terminate handler that was there before:
//
//   uncaught exception of type 'std::runtime_error': no such symbol
//   uncaught exception of type 'int'
//   terminate without an active exception
//
// It runs in normal context, not in a signal handler, and may allocate. It reaches the C++ runtime
// only through pointers, so that the preloaded agent can serve the program's runtime without
// linking one of its own.

#pragma once

#include <cstddef>
#include <typeinfo>

#include "defib/postmortem/crash_page.h"

namespace defib::postmortem {

inline constexpr char kUncaughtPrefix[] = "uncaught exception of type '";
inline constexpr char kTerminateText[] = "terminate without an active exception";

// For a program that contains this code: uses the C++ runtime that it is linked with.
bool install_terminate_text(CrashPage* page);

// For the preloaded agent: finds the program's runtime by dlsym(3). False where the program has
// none, or has it linked in statically; the classifier then reads the text from stderr.
bool install_terminate_text_for_program(CrashPage* page);

// The parts of a C++ runtime (Itanium ABI) that the handler needs.
struct CxxRuntime {
  // std::exception_ptr, which is one pointer; never released, since the process is about to end.
  struct HeldException {
    void* object;
    HeldException(const HeldException& other);  // not trivial: returned like an exception_ptr
    ~HeldException();
  };
  using TerminateHandler = void (*)();
  TerminateHandler (*set_terminate)(TerminateHandler) = nullptr;
  HeldException (*current_exception)() = nullptr;
  std::type_info* (*current_exception_type)() = nullptr;
  char* (*demangle)(const char* name, char* buffer, std::size_t* size, int* status) = nullptr;
  const std::type_info* std_exception = nullptr;  // typeid(std::exception)
};
bool install_terminate_text(CrashPage* page, const CxxRuntime& runtime);

}  // namespace defib::postmortem
