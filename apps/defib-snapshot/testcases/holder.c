// In the place of defib-snapshot: stops the process that it is to copy, and lets it go no more.
//
//   holder crash --pid PID ...

#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (strcmp(argv[i], "--pid") != 0) continue;
    const pid_t pid = (pid_t)atoi(argv[i + 1]);
    ptrace(PTRACE_SEIZE, pid, 0, 0);
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
  }
  while (1) pause();
}
