// A service that beats, and then stops beating in one of the ways there are:
//
//   hanging KIND DEADLINE_MS PERIOD_MS COUNT END [HOGS]
//
// KIND     stamped, counting or notify: how stage "main" beats
// COUNT    beats before the end; 0: for ever
// END      sleep      it sleeps without an end
//          spin       it computes without an end
//          deadlock   two mutexes, two threads, the wrong order
//          selflock   one mutex, twice
//          condition  it waits for a condition that nobody meets
//          stop       SIGSTOP to itself
//          thread     the beating thread ends, another one lives on
//          works      no end: before each beat it computes for 6 ms
//          holder     no end: before each beat it waits for a lock that a computing thread holds
// HOGS     so many threads of its own compute all the time
//
//   hanging hog                 computes until killed
//   hanging waits MS POLLS END  (preloaded) poll() so often for MS each, then END
//
// With HANG_FILE in the environment it appends the monotonic time of its last beat to it.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "defib/os/notify.h"
#include "defib/process/agent.h"

namespace {

using namespace defib::process;

void sleep_ms(int ms) {
  const timespec time = {ms / 1000, ms % 1000 * 1'000'000L};
  nanosleep(&time, nullptr);
}

[[noreturn]] void compute() {
  volatile unsigned long work = 0;
  while (true) work = work + 1;
}

void compute_for(int ms) {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  const std::int64_t end = used.tv_sec * 1'000'000'000LL + used.tv_nsec + ms * 1'000'000LL;
  do {
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  } while (used.tv_sec * 1'000'000'000LL + used.tv_nsec < end);
}

void note_last_beat() {
  const char* file = getenv("HANG_FILE");
  if (file == nullptr) return;
  const std::int64_t now = agent_core::now_mono_ns();
  const int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(fd, &now, sizeof now) != sizeof now) _exit(96);
  close(fd);
}

void deadlock() {
  static std::mutex first, second;
  first.lock();
  std::thread([] {
    const std::lock_guard theirs(second);
    const std::lock_guard ours(first);
  }).detach();
  while (second.try_lock()) {
    second.unlock();
    sleep_ms(1);
  }
  second.lock();
}

// The holder lets go for a moment only, and computes for 6 ms while it holds.
constexpr int kWorkMs = 6;
std::mutex held;
void hold_often() {
  while (true) {
    {
      const std::lock_guard lock(held);
      compute_for(kWorkMs);
    }
    sleep_ms(1);
  }
}

void end(std::string_view how) {
  if (how == "spin") compute();
  if (how == "deadlock") deadlock();
  if (how == "selflock") {
    static std::mutex mutex;
    mutex.lock();
    mutex.lock();  // NOLINT: that is the point
  }
  if (how == "condition") {
    std::mutex mutex;
    std::condition_variable never;
    std::unique_lock lock(mutex);
    never.wait(lock, [] { return false; });
  }
  if (how == "stop") raise(SIGSTOP);
  if (how == "thread") return;
  while (true) sleep_ms(1'000'000);
}

struct Options {
  std::string_view kind;
  int deadline_ms, period_ms, count;
  std::string_view end;
};

void beat_then_end(const Options& options) {
  Agent agent = Agent::attach_or_idle();
  Heartbeat stage = agent.stage("main", std::chrono::milliseconds(options.deadline_ms));
  if (options.end == "holder") std::thread(hold_often).detach();
  for (int i = 0; options.count == 0 || i < options.count; ++i) {
    if (options.end == "holder") const std::lock_guard lock(held);
    if (options.end == "works") compute_for(kWorkMs);
    if (i + 1 == options.count) note_last_beat();
    if (options.kind == "stamped") {
      stage.beat_stamped();
    } else if (options.kind == "counting") {
      stage.beat();
    } else {
      defib::os::notify::send_field("WATCHDOG", "1", 1);
    }
    if (i + 1 != options.count) sleep_ms(options.period_ms);
  }
  end(options.end);
  // The stage stays claimed.
  new Heartbeat(std::move(stage));
}

int wait_then_end(int ms, int polls, std::string_view how) {
  for (int i = 0; polls == 0 || i < polls; ++i) poll(nullptr, 0, ms);
  note_last_beat();
  end(how);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int index) { return argc > index ? std::atoi(argv[index]) : 0; };
  const std::string_view kind = argc > 1 ? argv[1] : "";
  if (kind == "hog") {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    compute();
  }
  if (kind == "waits" && argc > 4) return wait_then_end(number(2), number(3), argv[4]);
  if (argc < 6) return 2;
  for (int i = 0; i < number(6); ++i) std::thread(compute).detach();
  const Options options = {kind, number(2), number(3), number(4), argv[5]};
  if (options.end == "thread") {
    std::thread(beat_then_end, options).join();
    while (true) pause();
  }
  beat_then_end(options);
  return 0;
}
