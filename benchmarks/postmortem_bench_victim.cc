// A service that crashes deep in the libraries that services use: nlohmann/json calls back into it,
// through std::function and std::regex, recursively.
//
//   postmortem_bench_victim FILE MB          appends main()'s monotonic time to FILE, touches MB
//                                            megabytes, then FILE.ready; crashes at SIGUSR1
//   postmortem_bench_victim work SECONDS     works, and prints how often it could in that time
//
// Eight threads, seven of which wait in the same depth: 76 frames each, 1315 in all with those that
// are inlined.

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kThreads = 8;
constexpr int kDepth = 9;

std::int64_t mono_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

void stamp(const std::string& path) {
  const std::int64_t now = mono_ns();
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(fd, &now, sizeof now) != sizeof now) _exit(1);
  close(fd);
}

using Step = std::function<void(const nlohmann::json&)>;

// Each level goes through a parser's callback and a std::function.
void descend(int depth, const Step& last) {
  static const std::regex kName("([a-z]+)-([0-9]+)");
  const std::string text = "{\"order\":\"limit-" + std::to_string(depth) + "\"}";
  const Step step = [depth, &last](const nlohmann::json& json) {
    std::smatch match;
    const std::string name = json["order"];
    if (!std::regex_match(name, match, kName)) return;
    if (depth == 0) return last(json);
    descend(depth - 1, last);
  };
  bool done = false;
  const auto parsed = nlohmann::json::parse(
      text, [&](int level, nlohmann::json::parse_event_t event, nlohmann::json& json) {
        if (event == nlohmann::json::parse_event_t::object_end && level == 0 && !done) {
          done = true;
          step(json);
        }
        return true;
      });
}

[[gnu::noinline]] void fill_order(volatile int* quantity) {
  *quantity = 1;
}

int work(double seconds) {
  const std::int64_t until = mono_ns() + static_cast<std::int64_t>(seconds * 1e9);
  std::uint64_t rounds = 0;
  while (mono_ns() < until) {
    descend(0, [](const nlohmann::json&) {});
    ++rounds;
  }
  std::printf("%llu\n", static_cast<unsigned long long>(rounds));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string file = argv[1];
  if (file == "work") return work(std::atof(argv[2]));
  stamp(file);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const std::size_t size = static_cast<std::size_t>(std::atoi(argv[2])) << 20;
  if (mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
           0) == MAP_FAILED) {
    return 1;
  }
  std::atomic<int> waiting{0};
  std::vector<std::jthread> threads;
  for (int i = 1; i < kThreads; ++i) {
    threads.emplace_back([&waiting] {
      descend(kDepth, [&waiting](const nlohmann::json&) {
        ++waiting;
        while (true) pause();
      });
    });
  }
  while (waiting < kThreads - 1) usleep(1000);
  stamp(file + ".ready");
  int signal = 0;
  sigwait(&signals, &signal);
  descend(kDepth, [](const nlohmann::json&) { fill_order(nullptr); });
  return 0;
}
