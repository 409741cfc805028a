// Victim: system call.

#include <sys/ptrace.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)
