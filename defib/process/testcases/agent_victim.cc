// A service with the agent, to be killed in the middle of what it does:
//
//   agent_victim run MB             touches so much memory, says READY=1, runs
//   agent_victim stamp MB FILE      the same; appends its main()'s monotonic time to FILE first
//   agent_victim quit MB CODE       the same; at SIGUSR1 it ends with CODE
//   agent_victim crash MB           the same; at SIGUSR1 it dies by SIGSEGV, with a core file
//   agent_victim say MB WORD        the same; at SIGUSR1 it says that its state is WORD, and writes
//                                   "said" to $VICTIM_DIR/said
//   agent_victim exec MB            the same; at SIGUSR1 it executes itself anew, as `run`
//   agent_victim main-ends MB       the same; at SIGUSR1 its main thread ends, and another runs on
//   agent_victim late MB            attaches on a thread that ends at once; runs
//   agent_victim alone MB FILE      a service with a standby: waits to be active, then holds FILE's
//                                   proof of being alone (Proof below). SIGUSR1 as in main-ends
//   agent_victim serve              answers each connection to its sockets with its pid and a
//                                   newline; what it was passed it writes to $VICTIM_DIR/sockets
//   agent_victim store NAME         stores a pipe with a byte in it, if it was passed none of that
//                                   name; says what it found by STATUS=

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "defib/process/agent_c.h"
#include "defib/process/testcases/proof.h"
#include "defib/process/testcases/send_notify.h"

namespace {

using defib::process::Proof;

std::int64_t mono_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

std::atomic<bool> asked{false};

[[noreturn]] void* run_on(void*) {
  while (true) pause();
}

void start_thread(void* (*function)(void*), void* argument) {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, function, argument) != 0) _exit(90);
  pthread_detach(thread);
}

void touch_memory(int megabytes) {
  const std::size_t size = static_cast<std::size_t>(megabytes) << 20;
  if (size == 0) return;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) _exit(91);
}

// The others must be seen to live, also when the main thread has ended.
struct Claim {
  Proof* proof;
  std::uint64_t mine;
};

[[noreturn]] void* look_around(void* argument) {
  const Claim claim = *static_cast<Claim*>(argument);
  while (true) {
    if (claim.proof->owner.load() != claim.mine) {
      claim.proof->violations.fetch_add(1);
      _exit(92);
    }
    usleep(50);
  }
}

void hold_alone(const char* path) {
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (ftruncate(fd, sizeof(Proof)) != 0) _exit(93);
  void* memory = mmap(nullptr, sizeof(Proof), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) _exit(93);
  static Claim claim;
  claim.proof = static_cast<Proof*>(memory);
  defib_ready();
  if (defib_wait_active(-1) != 1) _exit(94);
  const std::int64_t active_ns = mono_ns();
  const std::uint64_t epoch = defib_epoch();
  claim.mine = Proof::owner_of(epoch, getpid());
  const std::uint64_t before = claim.proof->owner.exchange(claim.mine);
  if (Proof::epoch_of(before) >= epoch) claim.proof->violations.fetch_add(1);
  claim.proof->active_ns.store(active_ns);
  claim.proof->activations.fetch_add(1);
  start_thread(look_around, &claim);
  start_thread(look_around, &claim);
}

void write_file(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(89);
  close(fd);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

[[noreturn]] void serve() {
  const bool mine = variable("LISTEN_PID") == std::to_string(getpid());
  const int count = std::atoi(variable("LISTEN_FDS").c_str());
  write_file(variable("VICTIM_DIR") + "/sockets", std::string(mine ? "mine " : "not mine ") +
                                                      std::to_string(count) + " " +
                                                      variable("LISTEN_FDNAMES") + "\n");
  defib_ready();
  pollfd fds[8] = {};
  for (int i = 0; i < count; ++i) fds[i] = {3 + i, POLLIN, 0};
  while (true) {
    poll(fds, static_cast<nfds_t>(count), -1);
    for (int i = 0; i < count; ++i) {
      if ((fds[i].revents & POLLIN) == 0) continue;
      const int connection = accept4(fds[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
      const std::string answer = std::to_string(getpid()) + "\n";
      if (write(connection, answer.data(), answer.size()) < 0) _exit(88);
      close(connection);
    }
  }
}

void store(const std::string& name) {
  const int count = std::atoi(variable("LISTEN_FDS").c_str());
  if (count > 0 && variable("LISTEN_FDNAMES") == name) {
    char byte = 0;
    const bool same = read(3, &byte, 1) == 1;
    defib_status(same ? (std::string("found ") + byte).c_str() : "found nothing in it");
    send_notify("FDSTOREREMOVE=1\nFDNAME=" + name, 3);
  } else {
    int fds[2];
    if (pipe(fds) != 0 || write(fds[1], "x", 1) != 1) _exit(86);
    send_notify("FDSTORE=1\nFDNAME=" + name, fds[0]);
    defib_status(count > 0 ? "found another" : "found none");
  }
}

void write_core() {
  rlimit limit = {};
  getrlimit(RLIMIT_CORE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_CORE, &limit);
  *static_cast<volatile int*>(nullptr) = 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t started = mono_ns();
  const std::string mode = argc > 1 ? argv[1] : "run";
  const int megabytes = argc > 2 ? std::atoi(argv[2]) : 0;
  if (mode == "stamp") write_file(argv[3], std::to_string(started) + "\n");
  signal(SIGUSR1, [](int) { asked = true; });
  // Where nothing asks for it, SIGUSR1 only waits in the mask until sigsuspend().
  sigset_t usr1, before;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  sigprocmask(SIG_BLOCK, &usr1, &before);
  sigdelset(&before, SIGUSR1);
  if (mode == "late") {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          defib_attach();
          return nullptr;
        },
        nullptr);
    pthread_join(thread, nullptr);
  } else {
    defib_attach();
  }
  if (mode == "serve") serve();
  touch_memory(megabytes);
  if (mode == "store") store(argv[2]);
  if (mode == "alone") {
    hold_alone(argv[3]);
  } else {
    defib_ready();
  }
  while (!asked) sigsuspend(&before);
  if (mode == "quit") _exit(std::atoi(argv[3]));
  if (mode == "crash") write_core();
  if (mode == "say") {
    defib_state(argv[3]);
    const std::string path = std::string(std::getenv("VICTIM_DIR")) + "/said";
    std::FILE* file = std::fopen(path.c_str(), "w");
    std::fputs("said", file);
    std::fclose(file);
  }
  if (mode == "exec") {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    execl(argv[0], argv[0], "run", argv[2], nullptr);
  }
  if (mode == "main-ends" || mode == "alone") {
    if (mode == "main-ends") start_thread(run_on, nullptr);
    pthread_exit(nullptr);
  }
  run_on(nullptr);
}
