/* A program that knows nothing of defib, to be run with libdefib-agent.so preloaded:
 *
 *   preload_victim polls            poll() for a millisecond, for ever
 *   preload_victim poll-for-ever    one poll() without a timeout
 *   preload_victim epoll|select|accept   waits once by each of these, then computes without an end
 *   preload_victim compute          poll() ten times, then computes without an end
 *   preload_victim sleeps           poll() ten times, then sleeps without an end
 *   preload_victim threads          a second thread polls, the main thread sleeps
 *   preload_victim handler-after    its own SIGSEGV handler, as a virtual machine's: it repairs the
 *                                   fault and goes on, a hundred times; then exit code 7
 *   preload_victim handler-before   the same, installed before any library's constructor
 *   preload_victim handler-chained  its own handler repairs some faults and hands a real crash to
 * the handler before it preload_victim idle             sleeps; preload_victim count: exit code =
 * its number of threads preload_victim cost N           N polls of nothing; prints nanoseconds of
 * processor time each
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char* trap;
static volatile int repaired;
static int real_crash;
static volatile char* volatile nowhere = NULL;
static struct sigaction before;

static void repair(int number, siginfo_t* info, void* context) {
  if (info->si_addr == trap && !real_crash) {
    mprotect(trap, 4096, PROT_READ | PROT_WRITE);
    ++repaired;
    return;
  }
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(number, info, context);
  } else {
    signal(number, SIG_DFL);
  }
}

static void install(void) {
  static char stack_memory[65536];
  const stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = repair;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaltstack(&stack, NULL);
  sigaction(SIGSEGV, &action, &before);
}

/* Runs before the constructors of all libraries. */
static void install_early(int argc, char** argv, char** env) {
  (void)env;
  if (argc > 1 && strcmp(argv[1], "handler-before") == 0) install();
}
__attribute__((section(".preinit_array"), used)) static void (*const early)(int, char**,
                                                                            char**) = install_early;

static void fault_and_repair(void) {
  trap = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 100; ++i) {
    mprotect(trap, 4096, PROT_NONE);
    *(volatile char*)trap = 1;
  }
}

static void compute(void) {
  for (volatile unsigned long i = 0;; ++i) {
  }
}

static void* polls(void* unused) {
  while (1) poll(NULL, 0, 1);
  return unused;
}

static int threads(void) {
  int count = 0;
  DIR* tasks = opendir("/proc/self/task");
  for (struct dirent* entry; (entry = readdir(tasks)) != NULL;) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

static void accept_once(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr*)&address, size) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &size) != 0) {
    exit(90);
  }
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(client, (struct sockaddr*)&address, size) != 0) exit(91);
  if (accept(listener, NULL, NULL) < 0) exit(92);
}

static void cost(long count) {
  struct timespec start, end;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
  for (long i = 0; i < count; ++i) poll(NULL, 0, 0);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
  printf("%.1f\n",
         ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) /
             (double)count);
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "idle";
  struct timeval moment = {0, 1000};
  struct epoll_event event;
  pthread_t other;
  if (strcmp(mode, "polls") == 0) polls(NULL);
  if (strcmp(mode, "poll-for-ever") == 0) {
    poll(NULL, 0, 1);
    poll(NULL, 0, -1);
  }
  int computes = 1;
  if (strcmp(mode, "epoll") == 0) {
    epoll_wait(epoll_create1(0), &event, 1, 1);
  } else if (strcmp(mode, "select") == 0) {
    select(0, NULL, NULL, NULL, &moment);
  } else if (strcmp(mode, "accept") == 0) {
    accept_once();
  } else if (strcmp(mode, "compute") == 0 || strcmp(mode, "sleeps") == 0) {
    for (int i = 0; i < 10; ++i) poll(NULL, 0, 1);
    computes = mode[0] == 'c';
  } else {
    computes = 0;
  }
  if (computes) compute();
  if (strcmp(mode, "threads") == 0) pthread_create(&other, NULL, polls, NULL);
  if (strcmp(mode, "handler-after") == 0 || strcmp(mode, "handler-chained") == 0) install();
  if (strncmp(mode, "handler", 7) == 0) {
    fault_and_repair();
    if (strcmp(mode, "handler-chained") != 0) return repaired == 100 ? 7 : 93;
    real_crash = 1;
    *nowhere = 1;
  }
  if (strcmp(mode, "count") == 0) return threads();
  if (strcmp(mode, "cost") == 0) {
    cost(atol(argv[2]));
    return 0;
  }
  while (1) pause();
}
