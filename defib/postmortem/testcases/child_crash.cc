// A child made by fork() crashes; its parent's page must stay untouched. The parent exits with the
// number of the signal that ended the child.

#include <sys/wait.h>

#include "defib/postmortem/testcases/victim.h"

int main() {
  victim::start(false);
  const pid_t child = fork();
  if (child == 0) {
    *victim::opaque<volatile int*>(nullptr) = 7;
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return 1;
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
