// The barest supervisor there can be: waits for its child and spawns it again, for ever.

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  while (1) {
    pid_t child;
    siginfo_t info;
    if (posix_spawn(&child, argv[1], NULL, NULL, argv + 1, environ) != 0) return 1;
    if (waitid(P_PID, (id_t)child, &info, WEXITED) != 0) return 1;
  }
}
