// A program that knows nothing of defib, linked statically:
//
//   plain crash ONCE MS     three threads; faults in fill_order() after MS ms, unless ONCE exists
//   plain signals FILE      counts SIGUSR1, and writes the count to FILE at SIGUSR2
//   plain handler ONCE MS   as crash, with a handler for the fault that ends it with code 9
//   plain blind ONCE MS     as crash, after it has unmapped what its crash handler writes to
//   plain exit CODE MS

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile sig_atomic_t handled;

static void count(int signal) {
  (void)signal;
  handled = handled + 1;
}
static void give_up(int signal) {
  (void)signal;
  _exit(9);
}
static void sleep_ms(const char* ms) {
  usleep((useconds_t)atoi(ms) * 1000);
}

static void* wait_for_fills(void* argument) {
  while (1) pause();
  return argument;
}

__attribute__((noinline)) static void fill_order(volatile int* quantity) {
  *quantity = 1;  // fault
}
__attribute__((noinline)) static void on_message(volatile int* quantity) {
  fill_order(quantity);
}

static void unmap_page(void) {
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[512];
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    unsigned long start, end;
    if (strstr(line, "memfd:defib") == NULL) continue;
    if (sscanf(line, "%lx-%lx", &start, &end) == 2) munmap((void*)start, end - start);
  }
  if (maps != NULL) fclose(maps);
}

static int crash(const char* mode, const char* once, const char* ms) {
  if (access(once, F_OK) == 0) {
    while (1) pause();
  }
  const int file = open(once, O_WRONLY | O_CREAT, 0600);
  if (file < 0) return 3;
  close(file);
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) {
    if (pthread_create(&threads[i], NULL, wait_for_fills, NULL) != 0) return 3;
  }
  if (strcmp(mode, "handler") == 0) signal(SIGSEGV, give_up);
  sleep_ms(ms);
  if (strcmp(mode, "blind") == 0) unmap_page();
  on_message(NULL);
  return 0;
}

static int count_signals(const char* path) {
  sigset_t last;
  sigemptyset(&last);
  sigaddset(&last, SIGUSR2);
  sigprocmask(SIG_BLOCK, &last, NULL);
  signal(SIGUSR1, count);
  puts("ready");
  fflush(stdout);
  int signal_number = 0;
  while (sigwait(&last, &signal_number) == 0) {
    FILE* file = fopen(path, "w");
    if (file == NULL) return 3;
    fprintf(file, "%d\n", (int)handled);
    fclose(file);
  }
  return 3;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  if (strcmp(argv[1], "signals") == 0) return count_signals(argv[2]);
  if (argc < 4) return 2;
  if (strcmp(argv[1], "exit") == 0) {
    sleep_ms(argv[3]);
    return atoi(argv[2]);
  }
  return crash(argv[1], argv[2], argv[3]);
}
