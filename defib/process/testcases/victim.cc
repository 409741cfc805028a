// A service to be supervised and hurt, one behaviour a word:
//
//   victim exit CODE            ends at once
//   victim signal NUMBER        dies by a signal of its own
//   victim null                 writes to address 0
//   victim run                  runs until killed
//   victim stubborn             runs, and ignores SIGTERM
//   victim graceful CODE        runs; at SIGTERM it ends with CODE
//   victim beat MS COUNT        beats every MS milliseconds in stage "main", then hangs after COUNT
//   victim notify               READY=1, STATUS=, X_DEFIB_STATE=; runs
//   victim watchdog             READY=1, WATCHDOG=1 five times, then silence
//   victim family               runs with a child in another session and one in its own
//   victim forking              starts a second process, names it by MAINPID=, ends itself
//   victim log LINES BYTES      writes numbered lines of so many bytes, ends with 0
//   victim chat                 writes a numbered line every millisecond until killed
//   victim eat MB               touches so much memory and runs
//   victim eat-slowly MB        the same, a megabyte every 20 ms
//   victim eat-then-free MB     gives it back at SIGUSR1
//   victim eat-together MB      with a child that shares all of it
//   victim eat-in-child MB      only a child touches it
//   victim spin THREADS [pinned]   so many threads never rest; pinned: on one processor
//   victim spin-for MS [pinned]    one thread, for so long
//   victim open N LIMIT         opens N descriptors, of LIMIT
//   victim threads N            has so many threads
//   victim crash-once FILE      dies by SIGKILL when FILE does not exist (and makes it); else runs
//   victim stamp FILE           appends its main()'s monotonic time to FILE; runs
//
// Every mode that runs holds a lock in $VICTIM_DIR (where set) as long as it lives: a second copy
// finds it taken and writes the file `duplicate`.

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

#include "defib/process/agent_page.h"
#include "defib/process/testcases/send_notify.h"

namespace {

std::int64_t mono_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

void sleep_ms(int ms) {
  usleep(static_cast<useconds_t>(ms) * 1000);
}

[[noreturn]] void run() {
  while (true) pause();
}

void write_line(int fd, const std::string& line) {
  const char* at = line.data();
  std::size_t left = line.size();
  while (left > 0) {
    const ssize_t put = write(fd, at, left);
    if (put < 0) _exit(99);
    at += put;
    left -= static_cast<std::size_t>(put);
  }
}

void claim_alone() {
  const char* dir = std::getenv("VICTIM_DIR");
  if (dir == nullptr) return;
  const std::string base = dir;
  const int fd = open((base + "/alive").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return;  // held until the end
  close(open((base + "/duplicate").c_str(), O_WRONLY | O_CREAT, 0600));
  _exit(98);
}

void beat_then_hang(int period_ms, int count) {
  using defib::process::AgentPage;
  const int fd = std::atoi(std::getenv("DEFIB_AGENT_FD"));
  void* memory =
      mmap(nullptr, defib::process::kAgentPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) _exit(96);
  auto* page = static_cast<AgentPage*>(memory);
  auto& stage = page->stages[0];
  std::memcpy(stage.name, "main", sizeof "main");
  stage.in_use = static_cast<std::uint32_t>(defib::process::StageUse::kWatched);
  for (int i = 0; i < count; ++i) {
    stage.beats.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t one = 1;
    if (i == 0 && write(page->event_fd, &one, sizeof one) != sizeof one) _exit(95);
    sleep_ms(period_ms);
  }
}

void start_family() {
  if (fork() == 0) run();
  if (fork() == 0) {
    setsid();
    run();
  }
}

[[noreturn]] void fork_and_leave() {
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    claim_alone();
    run();
  }
  send_notify("MAINPID=" + std::to_string(child) + "\nREADY=1");
  sleep_ms(50);
  _exit(0);
}

void log_lines(int lines, std::size_t bytes) {
  for (int i = 0; i < lines; ++i) {
    std::string line = "line " + std::to_string(i) + " ";
    if (line.size() < bytes) line.append(bytes - line.size() - 1, 'x');
    write_line(1, line + "\n");
  }
}

[[noreturn]] void chat() {
  const std::string generation = std::getenv("DEFIB_GENERATION");
  for (int i = 0;; ++i) {
    write_line(i % 3 == 0 ? 2 : 1, generation + " " + std::to_string(i) + "\n");
    sleep_ms(1);
  }
}

char* touch(std::size_t size) {
  auto* memory = static_cast<char*>(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) _exit(94);
  std::memset(memory, 1, size);
  return memory;
}

volatile sig_atomic_t freed = 0;

void eat(const std::string& mode, std::size_t megabytes) {
  const std::size_t size = megabytes << 20;
  if (mode == "eat-slowly") {
    for (std::size_t i = 0; i < megabytes; ++i) {
      std::memset(std::malloc(1 << 20), 1, 1 << 20);
      sleep_ms(20);
    }
  } else if (mode == "eat-then-free") {
    signal(SIGUSR1, [](int) { freed = 1; });
    char* memory = touch(size);
    while (freed == 0) sleep_ms(1);
    munmap(memory, size);
  } else if (mode == "eat-together") {
    const char* memory = touch(size);
    if (fork() == 0) {
      volatile char sum = 0;
      for (std::size_t i = 0; i < size; i += 4096) sum = static_cast<char>(sum + memory[i]);
      run();
    }
  } else if (mode == "eat-in-child" && fork() == 0) {
    touch(size);
    run();
  }
}

void pin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof set, &set);
}

void start_threads(int count, void (*body)()) {
  for (int i = 0; i < count; ++i) std::thread(body).detach();
}

void spin_for(std::int64_t nanoseconds) {
  const std::int64_t until = mono_ns() + nanoseconds;
  while (mono_ns() < until) {
  }
}

void open_descriptors(int count, int limit) {
  const rlimit bound = {static_cast<rlim_t>(limit), static_cast<rlim_t>(limit)};
  setrlimit(RLIMIT_NOFILE, &bound);
  for (int i = 0; i < count; ++i) {
    if (open("/dev/null", O_RDONLY) < 0) _exit(93);
  }
}

void append_stamp(const char* file) {
  const int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  write_line(fd, std::to_string(mono_ns()) + "\n");
  close(fd);
}

void exit_with_code(int code) {
  _exit(code);
}
int graceful_code = 0;

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "run";
  const auto number = [&](int index) { return argc > index ? std::atoi(argv[index]) : 0; };
  if (mode == "exit") return number(2);
  if (mode == "forking") fork_and_leave();
  if (mode == "stamp") append_stamp(argv[2]);
  claim_alone();
  if (mode == "signal") {
    raise(number(2));
  } else if (mode == "null") {
    *static_cast<volatile int*>(nullptr) = 1;
  } else if (mode == "stubborn") {
    signal(SIGTERM, SIG_IGN);
  } else if (mode == "graceful") {
    graceful_code = number(2);
    signal(SIGTERM, [](int) { exit_with_code(graceful_code); });
  } else if (mode == "beat") {
    beat_then_hang(number(2), number(3));
  } else if (mode == "notify") {
    send_notify("STATUS=warming up");
    send_notify("X_DEFIB_STATE=recovering\nX_DEFIB_EVENT={\"step\":1}");
    send_notify("READY=1\nX_DEFIB_STATE=running");
  } else if (mode == "watchdog") {
    send_notify("READY=1");
    for (int i = 0; i < 5; ++i) {
      send_notify("WATCHDOG=1");
      sleep_ms(20);
    }
  } else if (mode == "family") {
    start_family();
  } else if (mode == "log") {
    log_lines(number(2), static_cast<std::size_t>(number(3)));
    return 0;
  } else if (mode == "chat") {
    chat();
  } else if (mode.starts_with("eat-")) {
    eat(mode, static_cast<std::size_t>(number(2)));
  } else if (mode == "spin") {
    if (argc > 3) pin();
    start_threads(number(2), [] { spin_for(1LL << 62); });
  } else if (mode == "spin-for") {
    if (argc > 3) pin();
    spin_for(number(2) * 1'000'000LL);
  } else if (mode == "open") {
    open_descriptors(number(2), number(3));
  } else if (mode == "threads") {
    start_threads(number(2) - 1, [] { run(); });
  } else if (mode == "eat") {
    const std::size_t size = static_cast<std::size_t>(number(2)) << 20;
    auto* memory = static_cast<volatile char*>(std::malloc(size));
    for (std::size_t i = 0; i < size; i += 4096) memory[i] = 1;
  } else if (mode == "crash-once" && access(argv[2], F_OK) != 0) {
    close(open(argv[2], O_WRONLY | O_CREAT, 0600));
    raise(SIGKILL);
  }
  run();
}
