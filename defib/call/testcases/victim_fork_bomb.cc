// Victim: fork bomb.

#include <unistd.h>

#include <stdexcept>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  for (;;) {
    const pid_t pid = fork();
    if (pid < 0) throw std::runtime_error("fork was refused");
    if (pid == 0) pause();
  }
}

}  // namespace

DEFIB_VICTIM(break_it)
