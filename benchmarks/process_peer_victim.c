// A service that any supervisor can keep: appends "NANOSECONDS PID" of its main() to the file named
// by its first argument, touches as many MB as the second says, and waits.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void stamp(const char* path) {
  struct timespec now;
  char line[64];
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int size = snprintf(line, sizeof line, "%lld %d\n", now.tv_sec * 1000000000LL + now.tv_nsec,
                            (int)getpid());
  const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, line, (size_t)size) != size) _exit(1);
  close(fd);
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  stamp(argv[1]);
  const size_t bytes = argc > 2 ? (size_t)atol(argv[2]) << 20 : 0;
  if (bytes > 0) {
    char* memory = malloc(bytes);
    if (memory == NULL) return 1;
    memset(memory, 1, bytes);
  }
  while (1) pause();
}
