// What only a debugger can read: arguments and local variables, through gdb where it is installed.
// Thread rule: one thread.

#pragma once

#include <sys/types.h>

#include <string>

#include "defib/base/error.h"

namespace defib {

struct DebuggerTarget {
  pid_t pid = 0;     // a live process, or
  std::string core;  // a core file
  std::string exe;   // its program; empty: as the core names it
  std::string sysroot;
};

inline constexpr int kDebuggerTimeoutS = 30;

// gdb's backtraces of all threads with arguments and locals, secrets redacted. The process is let
// go on every path, also where gdb had to be killed. Unavailable where gdb is not installed or
// failed, Timeout.
Result<std::string> full_backtrace(const DebuggerTarget& target, int timeout_ms);

}  // namespace defib
